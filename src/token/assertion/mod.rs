//! Client assertions: JWTs by which an application shows that it holds the key of a certificate
//! (RFC 7521 section 4.2, RFC 7523 section 3, `private_key_jwt` of RFC 7591).
//!
//! # In what order
//! Anybody may send one, before any handshake has shown anything, so what costs nothing goes first:
//! [`Assertion::parse`] reads within limits, [`Assertion::check`] compares claims, then the certificate
//! is found, then one signature is verified, and only for who holds that key a path is searched.
//!
//! # Which certificate
//! The one that the header carries whole (`x5c`), or names by its SHA-256 (`x5t#S256`) among those that
//! the client is configured with; both must agree where both are there.  Keys by other ways (`jwk`,
//! `jku`, `x5u`, `kid`) and the SHA-1 of `x5t` decide nothing and are not looked at.

mod algorithm;
mod error;

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

use crate::trust::judge::devices::UnverifiedChain;
use crate::x509::certificate::{Certificate, Fingerprint};
use crate::x509::time::Timestamp;

pub use algorithm::AssertionAlgorithm;
pub use error::AssertionError;

/// Bytes of an assertion: ten certificates of 2 KiB, in base64 twice, and some.
pub const MAX_ASSERTION: usize = 40 * 1024;
/// Certificates in `x5c`.
pub const MAX_X5C: usize = 10;
/// Bytes of a `jti`.
pub const MAX_JTI: usize = 256;
/// Seconds from now until an assertion's `exp`: while it lives it has to be remembered.
pub const MAX_LIFETIME: i64 = 600;
/// Seconds that clocks may differ by.
pub const SKEW: i64 = 60;

/// A client assertion that could be read.  Nothing about it is trusted.
pub struct Assertion<'a> {
    algorithm: AssertionAlgorithm,
    x5c: Option<Vec<String>>,
    thumbprint: Option<Fingerprint>,
    claims: Claims,
    /// What is signed.
    message: &'a str,
    signature: Vec<u8>,
}

impl<'a> Assertion<'a> {
    /// Reads a JWS in compact form (RFC 7515 section 3.1), within the limits.
    ///
    /// # Errors
    /// What is malformed, too long, or of another kind than a client assertion.
    pub fn parse(text: &'a str) -> Result<Self, AssertionError> {
        use AssertionError::{Malformed, TooLong};
        if text.len() > MAX_ASSERTION {
            return Err(TooLong { bytes: text.len() });
        }
        let not_compact = Malformed("it is not three parts with a dot between");
        let (message, signature) = text.rsplit_once('.').ok_or(not_compact.clone())?;
        let (header, payload) = message.split_once('.').ok_or(not_compact.clone())?;
        if payload.contains('.') {
            return Err(not_compact);
        }
        let bytes = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| Malformed("base64url"));
        let header: Header = serde_json::from_slice(&bytes(header)?)
            .map_err(|_| Malformed("its header is no JSON object with members of their kinds"))?;
        if header.crit {
            return Err(AssertionError::Critical);
        }
        check_type(header.typ.as_deref())?;
        let algorithm =
            AssertionAlgorithm::parse(&header.alg).ok_or(AssertionError::Algorithm(header.alg))?;
        if let Some(many) = header.x5c.as_ref().map(Vec::len).filter(|n| *n > MAX_X5C) {
            return Err(AssertionError::ManyCertificates { certificates: many });
        }
        let thumbprint = header.x5t_s256.as_deref().map(|text| {
            // MSAL pads it, against RFC 7515 section 2.
            let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()?;
            bytes.try_into().ok().map(Fingerprint)
        });
        let claims = serde_json::from_slice(&bytes(payload)?).map_err(|_| {
            Malformed(
                "its claims are no JSON object with iss, sub, aud, exp and jti of their kinds",
            )
        })?;
        Ok(Self {
            algorithm,
            x5c: header.x5c,
            thumbprint: match thumbprint {
                Some(None) => return Err(Malformed("x5t#S256 is no SHA-256 in base64url")),
                Some(known) => known,
                None => None,
            },
            claims,
            message,
            signature: bytes(signature)?,
        })
    }

    /// The client that it claims to be from; unverified.
    pub fn client_id(&self) -> &str {
        &self.claims.sub
    }

    /// What it must not be used twice by.
    pub fn jti(&self) -> &str {
        &self.claims.jti
    }

    /// From when on it is refused, differing clocks considered: until then it has to be remembered.
    pub fn until(&self) -> Timestamp {
        Timestamp(self.claims.exp.0.saturating_add(SKEW))
    }

    /// Compares what it claims with who we are and what time it is (RFC 7523 section 3).
    ///
    /// `audiences` are our own names, of which it must name one and nobody else: an assertion that is
    /// for several servers can be used at one by another of them.
    ///
    /// # Errors
    /// The claim that is not acceptable.
    pub fn check(&self, audiences: &[&str], now: Timestamp) -> Result<(), AssertionError> {
        let Claims { iss, sub, aud, exp, nbf, iat, jti } = &self.claims;
        if iss != sub {
            return Err(AssertionError::Issuer);
        }
        let known = |name: &String| audiences.contains(&&name[..]);
        if !matches!(aud, Audience::One(one) if known(one))
            && !matches!(aud, Audience::List(list) if matches!(&list[..], [one] if known(one)))
        {
            return Err(AssertionError::Audience);
        }
        if jti.is_empty() || jti.len() > MAX_JTI {
            return Err(AssertionError::Id { bytes: jti.len() });
        }
        let exp = exp.0;
        if now >= self.until() {
            return Err(AssertionError::Expired { exp: Timestamp(exp), now });
        }
        let early = |from: &Option<NumericDate>| {
            from.as_ref().is_some_and(|from| from.0 > now.0.saturating_add(SKEW))
        };
        if early(nbf) || early(iat) {
            return Err(AssertionError::NotYet { now });
        }
        if exp > now.0.saturating_add(MAX_LIFETIME + SKEW) {
            return Err(AssertionError::Lifetime { exp: Timestamp(exp) });
        }
        Ok(())
    }

    /// The certificates that it is to be judged by, leaf first: its own, or those of `known` that it
    /// names.
    ///
    /// # Errors
    /// There are none, they cannot be read, or the two ways of naming them disagree.
    pub fn chain(&self, known: &[UnverifiedChain]) -> Result<UnverifiedChain, AssertionError> {
        let chain = match (&self.x5c, self.thumbprint) {
            (None, None) => return Err(AssertionError::NoCertificate),
            (None, Some(thumbprint)) => {
                let named = known.iter().find(|chain| chain.leaf().fingerprint == thumbprint);
                named.cloned().ok_or(AssertionError::UnknownThumbprint)?
            }
            (Some(x5c), _) => {
                // MSAL leaves the line ends of PEM in it.
                let der = x5c.iter().map(|text| STANDARD.decode(text.replace(['\r', '\n'], "")));
                let der = der.collect::<Result<Vec<_>, _>>();
                let der = der.map_err(|_| AssertionError::Malformed("x5c is not base64"))?;
                UnverifiedChain::from_der(&der)?
            }
        };
        match self.thumbprint {
            Some(thumbprint) if thumbprint != chain.leaf().fingerprint => {
                Err(AssertionError::Thumbprint)
            }
            _ => Ok(chain),
        }
    }

    /// Verifies its signature with the key of `certificate`.
    ///
    /// # Errors
    /// A key of another kind than the algorithm's, or another key than signed.
    pub fn verify(&self, certificate: &Certificate) -> Result<(), AssertionError> {
        self.algorithm.verify(certificate, self.message.as_bytes(), &self.signature)
    }
}

/// It can be used by who has it, until it was used or has ended, so it prints nothing.
impl fmt::Debug for Assertion<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Assertion(..)")
    }
}

/// Another kind of JWT is no client assertion, whoever signed it (RFC 8725 section 3.11).
fn check_type(typ: Option<&str>) -> Result<(), AssertionError> {
    let Some(typ) = typ else { return Ok(()) };
    let lower = typ.to_ascii_lowercase();
    match lower.strip_prefix("application/").unwrap_or(&lower) {
        "jwt" | "client-authentication+jwt" => Ok(()),
        _ => Err(AssertionError::Type(typ.to_owned())),
    }
}

/// The header parameters that matter.  Any of them twice is malformed (RFC 7515 section 4).
#[derive(Deserialize)]
struct Header {
    alg: String,
    typ: Option<String>,
    x5c: Option<Vec<String>>,
    #[serde(rename = "x5t#S256")]
    x5t_s256: Option<String>,
    /// There: whatever it lists, we do not understand (RFC 7515 section 4.1.11).
    #[serde(default, deserialize_with = "is_there")]
    crit: bool,
}

fn is_there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    exp: NumericDate,
    nbf: Option<NumericDate>,
    iat: Option<NumericDate>,
    jti: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    List(Vec<String>),
}

/// Seconds since 1970 (RFC 7519 section 2), of which a fraction is dropped.
struct NumericDate(i64);

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(deserializer)?;
        // Far beyond any date, and exact in both kinds of number.
        const MOST: f64 = 1e15;
        let whole = number.as_i64().or_else(|| {
            let seconds = number.as_f64().filter(|s| s.abs() <= MOST)?;
            Some(seconds.floor() as i64)
        });
        whole
            .filter(|s| s.unsigned_abs() <= MOST as u64)
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("no date"))
    }
}

#[cfg(test)]
pub(crate) mod tests;
