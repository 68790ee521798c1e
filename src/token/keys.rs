//! Keys that sign tokens, and the key set that is published for verifiers.
//!
//! # Design notes
//! A private key is parsed once and its JOSE header is encoded once, so a token costs one
//! signature. The caller of [`SigningKey::sign`] passes the source of random bits for ECDSA nonces
//! and PSS salts. The keyring generates new keys.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use aws_lc_rs::rand::SecureRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;

use crate::token::claims::Claims;
use crate::x509::der::{self, tag};

/// Signature algorithm of tokens (RFC 7518 section 3.1, RFC 8037 section 3.1).  A key is used with
/// one algorithm only (RFC 8725 section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    #[default]
    Es256,
    /// Ed25519.
    EdDsa,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// RSASSA-PKCS1-v1_5 with SHA-256, for verifiers that support nothing else.
    Rs256,
}

impl Algorithm {
    /// All algorithms.
    pub const ALL: [Self; 4] = [Self::Es256, Self::EdDsa, Self::Ps256, Self::Rs256];

    /// Returns the value of `alg`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
            Self::Ps256 => "PS256",
            Self::Rs256 => "RS256",
        }
    }

    /// Returns the algorithm with this `alg`.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == name)
    }
}

/// Error of reading a key, building a key set or signing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The bytes are not a private key for the algorithm.
    #[error("not a PKCS#8 private key for {}: {why}", algorithm.as_str())]
    Key {
        /// Algorithm that the key was read for.
        algorithm: Algorithm,
        /// Error of the crypto library.
        why: String,
    },
    /// A set contains the same key more than once.
    #[error("the signing keys contain the key {0} more than once")]
    Duplicate(String),
    /// No key signs with the algorithm.
    #[error("no key signs with {0}")]
    Missing(&'static str),
    /// The crypto library cannot sign.
    #[error("cannot sign with the key {0}")]
    Sign(String),
}

/// A key pair of one algorithm.
pub struct SigningKey {
    pair: Pair,
    jwk: Jwk,
    /// `base64url(header).`, the same for all tokens of the key.
    header: String,
}

enum Pair {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair, &'static signature::RsaSignatureEncoding),
}

impl SigningKey {
    /// Parses a PKCS#8 private key (RFC 5958): P-256, Ed25519, or RSA with 2048 to 8192 bits.
    ///
    /// # Errors
    /// [`KeyError::Key`] if `der` is anything else.
    pub fn from_pkcs8(algorithm: Algorithm, der: &[u8]) -> Result<Self, KeyError> {
        let bad = |why: &dyn fmt::Display| KeyError::Key { algorithm, why: why.to_string() };
        let pair = match algorithm {
            Algorithm::Es256 => {
                EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, der)
                    .map(Pair::Ecdsa)
            }
            Algorithm::EdDsa => Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map(Pair::Ed25519),
            Algorithm::Ps256 => {
                RsaKeyPair::from_pkcs8(der).map(|key| Pair::Rsa(key, &signature::RSA_PSS_SHA256))
            }
            Algorithm::Rs256 => {
                RsaKeyPair::from_pkcs8(der).map(|key| Pair::Rsa(key, &signature::RSA_PKCS1_SHA256))
            }
        }
        .map_err(|error| bad(&error))?;
        let material = match &pair {
            Pair::Ecdsa(key) => KeyMaterial::ec(key.public_key().as_ref()),
            Pair::Ed25519(key) => Some(KeyMaterial::okp(key.public_key().as_ref())),
            Pair::Rsa(key, _) => KeyMaterial::rsa(key.public_key()),
        };
        let material = material.ok_or_else(|| bad(&"the public key cannot be parsed"))?;
        let jwk =
            Jwk { kid: material.thumbprint(), r#use: "sig", alg: algorithm.as_str(), material };
        let header = Header { alg: jwk.alg, typ: TOKEN_TYPE, kid: &jwk.kid };
        let header = serde_json::to_vec(&header).map_err(|error| bad(&error))?;
        let header = format!("{}.", URL_SAFE_NO_PAD.encode(header));
        Ok(Self { pair, jwk, header })
    }

    /// Returns the `alg` of the key.
    pub fn algorithm(&self) -> &'static str {
        self.jwk.alg
    }

    /// Returns the key ID, the JWK thumbprint (RFC 7638).
    pub fn kid(&self) -> &str {
        &self.jwk.kid
    }

    /// Signs a token (RFC 9068) with random bits from `random`.
    ///
    /// # Errors
    /// [`KeyError::Sign`] if the crypto library fails.  No claims make it fail.
    pub fn sign(
        &self,
        claims: &Claims,
        random: &dyn SecureRandom,
    ) -> Result<AccessToken, KeyError> {
        let failed = || KeyError::Sign(self.jwk.kid.clone());
        let payload = serde_json::to_vec(claims).map_err(|_| failed())?;
        let mut token = String::with_capacity(self.header.len() + payload.len() * 4 / 3 + 400);
        token.push_str(&self.header);
        URL_SAFE_NO_PAD.encode_string(&payload, &mut token);
        let mut rsa = Vec::new();
        let fixed;
        let signature = match &self.pair {
            Pair::Ecdsa(key) => {
                fixed = key.sign(random, token.as_bytes()).map_err(|_| failed())?;
                fixed.as_ref()
            }
            Pair::Ed25519(key) => {
                fixed = key.sign(token.as_bytes());
                fixed.as_ref()
            }
            Pair::Rsa(key, encoding) => {
                rsa.resize(key.public_modulus_len(), 0);
                key.sign(*encoding, random, token.as_bytes(), &mut rsa).map_err(|_| failed())?;
                &rsa[..]
            }
        };
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(AccessToken(token))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({} {})", self.jwk.alg, self.jwk.kid)
    }
}

/// `typ` of access tokens (RFC 9068 section 2.1).  No other JWT of this issuer uses it.
const TOKEN_TYPE: &str = "at+jwt";

#[derive(Serialize)]
struct Header<'a> {
    alg: &'a str,
    typ: &'a str,
    kid: &'a str,
}

/// A signed token.  Its `Debug` output does not contain it.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken(String);

impl AccessToken {
    /// Returns the token, for the response to the client only.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken(..)")
    }
}

/// A public key as a JWK (RFC 7517).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Jwk {
    #[serde(flatten)]
    material: KeyMaterial,
    r#use: &'static str,
    alg: &'static str,
    kid: String,
}

/// The members that RFC 7638 section 3.2 requires, in lexicographic order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum KeyMaterial {
    Ec { crv: &'static str, kty: &'static str, x: String, y: String },
    Okp { crv: &'static str, kty: &'static str, x: String },
    Rsa { e: String, kty: &'static str, n: String },
}

impl KeyMaterial {
    /// Reads an uncompressed P-256 point.
    fn ec(point: &[u8]) -> Option<Self> {
        let [4, coordinates @ ..] = point else { return None };
        let (x, y) = coordinates.split_at_checked(32).filter(|(_, y)| y.len() == 32)?;
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        Some(Self::Ec { crv: "P-256", kty: "EC", x, y })
    }

    fn okp(key: &[u8]) -> Self {
        Self::Okp { crv: "Ed25519", kty: "OKP", x: URL_SAFE_NO_PAD.encode(key) }
    }

    /// Reads an RSAPublicKey (RFC 8017 appendix A.1.1).
    fn rsa(key: &rsa::PublicKey) -> Option<Self> {
        let mut pair = der::single(key.as_ref(), tag::SEQUENCE).ok()?.reader();
        let mut integer = || {
            let value = pair.expect(tag::INTEGER).and_then(der::integer).ok()?;
            // Base64urlUInt has no sign byte (RFC 7518 section 2).
            Some(URL_SAFE_NO_PAD.encode(value.strip_prefix(&[0]).unwrap_or(value)))
        };
        let (n, e) = (integer()?, integer()?);
        Some(Self::Rsa { e, kty: "RSA", n })
    }

    /// Computes the JWK thumbprint (RFC 7638 section 3).
    fn thumbprint(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &json))
    }
}

/// The signing keys, and the other published keys: the next ones, and earlier ones whose tokens are
/// still valid.
#[derive(Debug, Clone)]
pub struct SigningKeys {
    current: Arc<SigningKey>,
    /// Keys that sign for clients with another algorithm, at most one of each.
    further: Vec<Arc<SigningKey>>,
    /// Every key.
    published: Vec<Arc<SigningKey>>,
    jwks: Arc<str>,
}

impl SigningKeys {
    /// Creates a set that signs with `current` and publishes all keys.
    ///
    /// # Errors
    /// [`KeyError::Duplicate`] if a key occurs twice, even with two algorithms (RFC 8725
    /// section 3.1).
    pub fn new(current: Arc<SigningKey>, others: &[Arc<SigningKey>]) -> Result<Self, KeyError> {
        Self::with_further(current, Vec::new(), others)
    }

    /// Like [`SigningKeys::new`], with keys that sign for clients with another algorithm.
    ///
    /// # Errors
    /// As [`SigningKeys::new`].
    pub(crate) fn with_further(
        current: Arc<SigningKey>,
        further: Vec<Arc<SigningKey>>,
        others: &[Arc<SigningKey>],
    ) -> Result<Self, KeyError> {
        let keys: Vec<&Arc<SigningKey>> =
            std::iter::once(&current).chain(&further).chain(others).collect();
        for (i, key) in keys.iter().enumerate() {
            if keys[..i].iter().any(|earlier| earlier.kid() == key.kid()) {
                return Err(KeyError::Duplicate(key.kid().to_owned()));
            }
        }
        let set = Set { keys: keys.iter().map(|key| &key.jwk).collect() };
        let jwks =
            serde_json::to_string(&set).map_err(|_| KeyError::Sign(current.kid().to_owned()))?;
        let published = keys.into_iter().cloned().collect();
        Ok(Self { jwks: jwks.into(), published, current, further })
    }

    /// Creates a set that publishes no key, for a process that issues no tokens.
    pub(crate) fn unpublished(current: Arc<SigningKey>) -> Self {
        let (further, published) = (Vec::new(), Vec::new());
        Self { current, further, published, jwks: r#"{"keys":[]}"#.into() }
    }

    /// Returns the key that signs for clients without an algorithm of their own.
    pub fn current(&self) -> &SigningKey {
        &self.current
    }

    /// Returns the key that signs with `algorithm`, or [`SigningKeys::current`] for `None`.
    ///
    /// # Errors
    /// [`KeyError::Missing`] if no key signs with the algorithm.
    pub fn of(&self, algorithm: Option<Algorithm>) -> Result<&SigningKey, KeyError> {
        let Some(algorithm) = algorithm else { return Ok(&self.current) };
        std::iter::once(&self.current)
            .chain(&self.further)
            .find(|key| key.algorithm() == algorithm.as_str())
            .map(AsRef::as_ref)
            .ok_or(KeyError::Missing(algorithm.as_str()))
    }

    /// Returns each published key, for operators.
    pub fn list(&self) -> impl Iterator<Item = serde_json::Value> {
        let signs = |key: &SigningKey| {
            std::iter::once(&self.current).chain(&self.further).any(|k| k.kid() == key.kid())
        };
        self.published.iter().map(move |key| {
            let state = if signs(key) { "signs" } else { "published" };
            serde_json::json!({ "kid": key.kid(), "algorithm": key.algorithm(), "state": state })
        })
    }

    /// Returns the JWK set (RFC 7517 section 5), which contains public members only.
    pub fn jwks(&self) -> &Arc<str> {
        &self.jwks
    }
}

#[derive(Serialize)]
struct Set<'a> {
    keys: Vec<&'a Jwk>,
}

#[cfg(test)]
pub(crate) mod tests {
    use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
    use aws_lc_rs::rand::SystemRandom;
    use jsonwebtoken as jwt;
    use proptest::prelude::*;

    use super::*;
    use crate::token::claims::Confirmation;

    /// Generates a private key, as PKCS#8.
    pub(crate) fn pkcs8(algorithm: Algorithm) -> Vec<u8> {
        match algorithm {
            Algorithm::Es256 => EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING)
                .and_then(|key| key.to_pkcs8v1())
                .expect("a key")
                .as_ref()
                .to_vec(),
            Algorithm::EdDsa => Ed25519KeyPair::generate()
                .and_then(|key| key.to_pkcs8())
                .expect("a key")
                .as_ref()
                .to_vec(),
            Algorithm::Ps256 | Algorithm::Rs256 => {
                let key = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).expect("a key");
                AsDer::<Pkcs8V1Der<'_>>::as_der(&key).expect("DER").as_ref().to_vec()
            }
        }
    }

    pub(crate) fn signing_key(algorithm: Algorithm) -> Arc<SigningKey> {
        Arc::new(SigningKey::from_pkcs8(algorithm, &pkcs8(algorithm)).expect("a key"))
    }

    fn claims() -> Claims {
        Claims {
            iss: "https://as.example".into(),
            sub: "c1/dev1".to_owned(),
            aud: "https://api.example".to_owned(),
            client_id: "dev1".to_owned(),
            iat: 4_000_000_000,
            exp: 4_000_000_600,
            jti: "id".to_owned(),
            scope: None,
            cnf: Some(Confirmation { x5t_s256: "x".repeat(43) }),
        }
    }

    /// 9068-1, JWK-1 to JWK-3: another implementation verifies the tokens of every algorithm with
    /// the published keys.
    #[test]
    fn tokens_verify_with_the_published_keys() {
        let keys: Vec<_> = Algorithm::ALL.into_iter().map(signing_key).collect();
        for key in &keys {
            let others: Vec<_> = keys.iter().filter(|k| k.kid() != key.kid()).cloned().collect();
            let set = SigningKeys::new(Arc::clone(key), &others).expect("a set");
            let token = set.current().sign(&claims(), &SystemRandom::new()).expect("a token");
            let header = jwt::decode_header(token.expose()).expect("a header");
            assert_eq!(header.typ.as_deref(), Some("at+jwt"));
            assert_eq!(header.kid.as_deref(), Some(key.kid()));
            let published: jwt::jwk::JwkSet = serde_json::from_str(set.jwks()).expect("a JWK set");
            let jwk = published.find(key.kid()).expect("the key");
            let mut rules = jwt::Validation::new(key.algorithm().parse().expect("an algorithm"));
            rules.set_audience(&["https://api.example"]);
            rules.set_issuer(&["https://as.example"]);
            let verifier = jwt::DecodingKey::from_jwk(jwk).expect("a public key");
            let read =
                jwt::decode::<Claims>(token.expose(), &verifier, &rules).expect("a good token");
            assert_eq!(read.claims, claims());

            let mut forged = token.expose().to_owned();
            forged.replace_range(forged.len() / 2..=forged.len() / 2, "!");
            assert!(jwt::decode::<Claims>(&forged, &verifier, &rules).is_err());
        }
    }

    /// JWK-1: private members are never published.
    #[test]
    fn publishes_only_public_members() {
        let keys: Vec<_> = Algorithm::ALL.into_iter().map(signing_key).collect();
        let set = SigningKeys::new(Arc::clone(&keys[0]), &keys[1..]).expect("a set");
        let json: serde_json::Value = serde_json::from_str(set.jwks()).expect("JSON");
        let list = json["keys"].as_array().expect("keys");
        assert_eq!(list.len(), 4);
        for key in list {
            let members = key.as_object().expect("an object");
            for name in members.keys() {
                let public = ["kty", "crv", "x", "y", "n", "e", "use", "alg", "kid"];
                assert!(public.contains(&name.as_str()), "{name}");
            }
            assert_eq!(key["use"], "sig");
        }
    }

    /// JWK-4: the example of RFC 7638 section 3.1.
    #[test]
    fn kid_is_the_thumbprint_of_rfc_7638() {
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECP\
                 ebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY\
                 368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0f\
                 M4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
        let key = KeyMaterial::Rsa { e: "AQAB".to_owned(), kty: "RSA", n: n.to_owned() };
        assert_eq!(key.thumbprint(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }

    /// 8725-1, JWK-2: a key has one algorithm and occurs once in a set.
    #[test]
    fn rejects_a_set_that_contains_a_key_twice() {
        let der = pkcs8(Algorithm::Rs256);
        let [ps, rs] = [Algorithm::Ps256, Algorithm::Rs256]
            .map(|algorithm| Arc::new(SigningKey::from_pkcs8(algorithm, &der).expect("a key")));
        let duplicate = SigningKeys::new(Arc::clone(&ps), &[rs]).map(|_| ());
        assert_eq!(duplicate, Err(KeyError::Duplicate(ps.kid().to_owned())));
    }

    #[test]
    fn rejects_a_key_of_another_algorithm() {
        for algorithm in Algorithm::ALL {
            for other in Algorithm::ALL {
                let is_rsa = |a| matches!(a, Algorithm::Ps256 | Algorithm::Rs256);
                let fits = algorithm == other || (is_rsa(algorithm) && is_rsa(other));
                let key = SigningKey::from_pkcs8(algorithm, &pkcs8(other));
                assert_eq!(key.is_ok(), fits, "{algorithm:?} {other:?}");
            }
        }
    }

    #[test]
    fn debug_output_contains_no_secret() {
        let key = signing_key(Algorithm::Es256);
        let token = key.sign(&claims(), &SystemRandom::new()).expect("a token");
        assert_eq!(format!("{token:?}"), "AccessToken(..)");
        assert_eq!(format!("{key:?}"), format!("SigningKey(ES256 {})", key.kid()));
    }

    proptest! {
        #[test]
        fn rejects_arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            for algorithm in Algorithm::ALL {
                prop_assert!(SigningKey::from_pkcs8(algorithm, &bytes).is_err());
            }
        }
    }
}
