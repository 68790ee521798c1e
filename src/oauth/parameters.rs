//! Parameters of an `application/x-www-form-urlencoded` body, decoded on demand.
//!
//! # Design notes
//! Strangers send these bodies.  Splitting is linear in the length of the body and copies nothing; a value
//! is decoded only when it is read, and only if it can be within the reader's limit.

use std::borrow::Cow;
use std::collections::HashSet;

use crate::oauth::error::{OauthError, invalid};

/// Largest number of parameters in one request.
pub(super) const MAX_PARAMETERS: usize = 64;
/// Bytes that encode one byte: `%41`.
const LONGEST_ESCAPE: usize = 3;

/// Names, decoded, and values, encoded.
pub(super) struct Parameters<'a> {
    pairs: Vec<(Cow<'a, str>, &'a str)>,
}

impl<'a> Parameters<'a> {
    /// Splits a body.
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, OauthError> {
        let Ok(body) = std::str::from_utf8(body) else {
            return malformed();
        };
        let mut pairs: Vec<(Cow<'a, str>, &'a str)> = Vec::new();
        for pair in body.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // A parameter without a value counts as omitted (RFC 6749 section 3.2).
            if value.is_empty() {
                continue;
            }
            if pairs.len() == MAX_PARAMETERS {
                return invalid(format!("the body has more than {MAX_PARAMETERS} parameters"));
            }
            let Some(name) = decode(name) else { return malformed() };
            pairs.push((name, value));
        }
        // Only `resource` may occur several times (RFC 8707 section 2).
        let mut names = HashSet::with_capacity(pairs.len());
        if pairs.iter().any(|(name, _)| name != "resource" && !names.insert(name.as_ref())) {
            return invalid("a parameter occurs more than once");
        }
        Ok(Self { pairs })
    }

    /// Returns true if the parameter is present.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.pairs.iter().any(|(other, _)| other == name)
    }

    /// Returns the value of a parameter, of at most `limit` bytes.
    pub(super) fn get(&self, name: &str, limit: usize) -> Result<Option<Cow<'a, str>>, OauthError> {
        let Some(&(_, value)) = self.pairs.iter().find(|(other, _)| other == name) else {
            return Ok(None);
        };
        if value.len() > limit * LONGEST_ESCAPE {
            let why = format!("{name} has more than {limit} bytes, the limit");
            return invalid(why);
        }
        let Some(value) = decode(value) else { return malformed() };
        if value.len() > limit {
            let bytes = value.len();
            return invalid(format!("{name} has {bytes} bytes; at most {limit} are allowed"));
        }
        Ok(Some(value))
    }

    /// Decodes the parameters that are not among `read`, in their order.
    pub(super) fn others(
        &self,
        read: &[&str],
    ) -> impl Iterator<Item = Result<(&str, Cow<'a, str>), OauthError>> {
        let others = self.pairs.iter().filter(|(name, _)| !read.contains(&&**name));
        others.map(|(name, value)| match decode(value) {
            Some(value) => Ok((name.as_ref(), value)),
            None => malformed(),
        })
    }
}

fn malformed<T>() -> Result<T, OauthError> {
    invalid("the body is not form-encoded UTF-8")
}

/// Decodes form encoding strictly: `+` is a space, `%` needs two hex digits, and the result must be
/// UTF-8.
pub(super) fn decode(text: &str) -> Option<Cow<'_, str>> {
    let special = |byte: &u8| matches!(byte, b'+' | b'%');
    if !text.bytes().any(|byte| special(&byte)) {
        return Some(Cow::Borrowed(text));
    }
    let digit = |b: &u8| char::from(*b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        let plain = rest.iter().position(special).unwrap_or(rest.len());
        let (literal, encoded) = rest.split_at(plain);
        out.extend_from_slice(literal);
        rest = match encoded {
            [b'%', high, low, after @ ..] => {
                out.push((digit(high)? << 4) | digit(low)?);
                after
            }
            [b'+', after @ ..] => {
                out.push(b' ');
                after
            }
            // An escape that ends early.
            [_, ..] => return None,
            [] => &[],
        };
    }
    String::from_utf8(out).ok().map(Cow::Owned)
}
