//! Client assertions: JWTs with which an application proves possession of a certificate's key
//! (RFC 7521 section 4.2, RFC 7523 section 3, `private_key_jwt` of RFC 7591).
//!
//! # Design notes
//! Unauthenticated peers may send assertions, so the cheap checks come first.  [`Assertion::parse`]
//! reads within limits, and [`Assertion::check`] compares claims.  Then the certificate is found
//! and one signature is verified.  A path is searched only for a holder of the key.
//!
//! The certificate is the one in the header (`x5c`), or the configured certificate of the client
//! with the SHA-256 in the header (`x5t#S256`).  If both are present, they must agree.  Other
//! references to a key (`jwk`, `jku`, `x5u`, `kid`) and the SHA-1 of `x5t` are ignored.

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
use algorithm::VerifyError;
pub use error::AssertionError;

/// Bytes of an assertion: ten certificates of 2 KiB in base64 twice, and the claims.
pub(crate) const MAX_ASSERTION: usize = 40 * 1024;
/// Certificates in `x5c`.
pub(crate) const MAX_X5C: usize = 10;
/// Bytes of a `jti`.
pub(crate) const MAX_JTI: usize = 256;
/// Longest time from now until `exp`, in seconds.  A used assertion is remembered until it expires.
pub(crate) const MAX_LIFETIME: i64 = 600;
/// Allowed difference between clocks, in seconds.
pub(crate) const SKEW: i64 = 60;

/// Profile that assertions must satisfy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// RFC 7523 alone.
    #[default]
    Plain,
    /// FAPI 2.0 Security Profile, sections 5.3.2.1 and 5.4: fewer algorithms, and the issuer as the only
    /// audience.
    Fapi2,
}

/// A parsed client assertion.  Nothing about it is trusted.
pub struct Assertion<'a> {
    algorithm: AssertionAlgorithm,
    x5c: Option<Vec<String>>,
    thumbprint: Option<Fingerprint>,
    kid: Option<String>,
    claims: Claims,
    /// JWS signing input (RFC 7515 section 5.1).
    message: &'a str,
    signature: Vec<u8>,
}

impl<'a> Assertion<'a> {
    /// Parses a JWS in compact serialization (RFC 7515 section 3.1), within the limits.
    ///
    /// # Errors
    /// `text` is malformed, too long, or not a client assertion.
    pub fn parse(text: &'a str) -> Result<Self, AssertionError> {
        use AssertionError::{Malformed, TooLong};
        if text.len() > MAX_ASSERTION {
            return Err(TooLong { bytes: text.len() });
        }
        let not_compact = Malformed("not three parts separated by dots");
        let (message, signature) = text.rsplit_once('.').ok_or(not_compact.clone())?;
        let (header, payload) = message.split_once('.').ok_or(not_compact.clone())?;
        if payload.contains('.') {
            return Err(not_compact);
        }
        let bytes = |part: &str| {
            URL_SAFE_NO_PAD.decode(part).map_err(|_| Malformed("a part is not valid base64url"))
        };
        let header: Header = serde_json::from_slice(&bytes(header)?).map_err(|_| {
            Malformed("the header is not a JSON object, or a member has the wrong type")
        })?;
        if header.crit {
            return Err(AssertionError::Critical);
        }
        check_type(header.typ.as_deref())?;
        let algorithm =
            AssertionAlgorithm::parse(&header.alg).ok_or(AssertionError::Algorithm(header.alg))?;
        if let Some(certificates) = header.x5c.as_ref().map(Vec::len).filter(|n| *n > MAX_X5C) {
            return Err(AssertionError::ManyCertificates { certificates });
        }
        let thumbprint = header.x5t_s256.as_deref().map(|text| {
            // MSAL adds padding, contrary to RFC 7515 section 2.
            let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()?;
            bytes.try_into().ok().map(Fingerprint)
        });
        let claims = serde_json::from_slice(&bytes(payload)?).map_err(|_| {
            Malformed(
                "the claims are not a JSON object with iss, sub, aud, exp and jti of the right types",
            )
        })?;
        Ok(Self {
            algorithm,
            x5c: header.x5c,
            kid: header.kid,
            thumbprint: match thumbprint {
                Some(None) => return Err(Malformed("x5t#S256 is not a SHA-256 in base64url")),
                Some(known) => known,
                None => None,
            },
            claims,
            message,
            signature: bytes(signature)?,
        })
    }

    /// Returns the claimed `client_id`, which is not verified.
    pub fn client_id(&self) -> &str {
        &self.claims.sub
    }

    /// Returns the `jti`, which identifies the assertion so that a replay is detected.
    pub fn jti(&self) -> &str {
        &self.claims.jti
    }

    /// Returns the time from which the assertion is rejected: its `exp` and [`SKEW`].  A used
    /// assertion must be remembered until then.
    pub(crate) fn expiry(&self) -> Timestamp {
        Timestamp(self.claims.exp.0.saturating_add(SKEW))
    }

    /// Checks the claims (RFC 7523 section 3).
    ///
    /// `audiences` are the names of this server.  The assertion must name exactly one of them and
    /// no other server: each of several named servers could use the assertion at the others.
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
        if now >= self.expiry() {
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

    /// Checks the rules that a profile adds to [`Assertion::check`].
    ///
    /// # Errors
    /// The rule that the assertion breaks.
    pub(crate) fn check_profile(
        &self,
        profile: Profile,
        issuer: &str,
    ) -> Result<(), AssertionError> {
        if profile == Profile::Plain {
            return Ok(());
        }
        if !AssertionAlgorithm::of(profile).contains(&self.algorithm) {
            return Err(AssertionError::Profile("the algorithm PS256, ES256 or EdDSA"));
        }
        if !matches!(&self.claims.aud, Audience::One(one) if one == issuer) {
            return Err(AssertionError::Profile("the issuer as aud, a string and not a list"));
        }
        Ok(())
    }

    /// Returns the certificate chain, leaf first: the one in `x5c`, or the one of `known` that
    /// `x5t#S256` identifies.
    ///
    /// # Errors
    /// There is no certificate, it cannot be parsed, or `x5c` and `x5t#S256` disagree.
    pub fn chain(&self, known: &[UnverifiedChain]) -> Result<UnverifiedChain, AssertionError> {
        let chain = match (&self.x5c, self.thumbprint) {
            // Many libraries send `kid`, or nothing at all.
            (None, None) => {
                let named = match (&self.kid, known) {
                    (None, [only]) => Some(only),
                    (None, _) => return Err(AssertionError::NoCertificate),
                    (Some(kid), all) => all
                        .iter()
                        .find(|chain| is_thumbprint(kid, chain.leaf()))
                        .or(all.first().filter(|_| all.len() == 1)),
                };
                named.cloned().ok_or(AssertionError::UnknownThumbprint)?
            }
            (None, Some(thumbprint)) => {
                let named = known.iter().find(|chain| chain.leaf().fingerprint == thumbprint);
                named.cloned().ok_or(AssertionError::UnknownThumbprint)?
            }
            (Some(x5c), _) => {
                // MSAL keeps the line breaks of PEM.
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

    /// Verifies the signature with the key of `certificate`.
    ///
    /// # Errors
    /// The key does not fit the algorithm, or the signature is not valid.
    pub fn verify(&self, certificate: &Certificate) -> Result<(), AssertionError> {
        let algorithm = self.algorithm;
        algorithm.verify(certificate, self.message.as_bytes(), &self.signature).map_err(|error| {
            match error {
                VerifyError::KeyKind => AssertionError::KeyKind { algorithm },
                VerifyError::Signature => AssertionError::Signature,
            }
        })
    }
}

/// Anyone who has an unused assertion can use it, so the output does not contain it.
impl fmt::Debug for Assertion<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Assertion(..)")
    }
}

/// Returns true if `kid` is the SHA-256 of the certificate, in base64url or in hexadecimal.
fn is_thumbprint(kid: &str, certificate: &Certificate) -> bool {
    let print = certificate.fingerprint;
    URL_SAFE_NO_PAD.encode(print.0) == kid.trim_end_matches('=')
        || print.to_string().eq_ignore_ascii_case(kid)
}

/// Rejects JWTs of other types, independent of their signature (RFC 8725 section 3.11).
fn check_type(typ: Option<&str>) -> Result<(), AssertionError> {
    let Some(typ) = typ else { return Ok(()) };
    let lower = typ.to_ascii_lowercase();
    match lower.strip_prefix("application/").unwrap_or(&lower) {
        "jwt" | "client-authentication+jwt" => Ok(()),
        _ => Err(AssertionError::Type(typ.to_owned())),
    }
}

/// The header parameters in use.  A duplicate of one is malformed (RFC 7515 section 4).
#[derive(Deserialize)]
struct Header {
    alg: String,
    typ: Option<String>,
    x5c: Option<Vec<String>>,
    #[serde(rename = "x5t#S256")]
    x5t_s256: Option<String>,
    kid: Option<String>,
    /// True if `crit` is present.  No critical extension is supported (RFC 7515 section 4.1.11).
    #[serde(default, deserialize_with = "is_present")]
    crit: bool,
}

fn is_present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
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

/// Seconds since 1970 (RFC 7519 section 2), rounded down.
struct NumericDate(i64);

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(deserializer)?;
        // Far beyond any date, and exact both as an integer and as a float.
        const MOST: f64 = 1e15;
        let whole = number.as_i64().or_else(|| {
            let seconds = number.as_f64().filter(|s| s.abs() <= MOST)?;
            Some(seconds.floor() as i64)
        });
        whole
            .filter(|s| s.unsigned_abs() <= MOST as u64)
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("not a NumericDate"))
    }
}

#[cfg(test)]
pub(crate) mod tests;
