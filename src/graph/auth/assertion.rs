//! Client assertions: JWTs signed with the key of a certificate (RFC 7523 section 3).

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use crate::graph::auth::credential::{AssertionStyle, TokenEndpoint};
use crate::graph::auth::error::AuthError;
use crate::runtime::log::Secret;
use crate::runtime::random::guid;
use crate::x509::time::Timestamp;

/// Lifetime of an assertion, in seconds.
const LIFETIME: i64 = 600;

/// Creates a JWT that proves possession of the certificate's key.  `chain` and `key` are PEM.
pub(super) fn client_assertion(
    endpoint: &TokenEndpoint,
    chain: &[u8],
    key: &[u8],
    style: AssertionStyle,
    send_chain: bool,
    now: Timestamp,
) -> Result<Secret, AuthError> {
    let bad = |why: &str| AuthError::Credential(why.into());
    let certificates = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| bad("the certificate file is not valid PEM"))?;
    let leaf =
        certificates.first().ok_or_else(|| bad("the certificate file contains no certificate"))?;
    let key =
        PrivateKeyDer::from_pem_slice(key).map_err(|_| bad("the key file contains no PEM key"))?;
    let key = match &key {
        PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
        PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
        _ => return Err(bad("the key is not an RSA key, which client assertions require")),
    };
    let key = key.map_err(|e| bad(&format!("the RSA key is not usable: {e}")))?;
    let thumbprint = |algorithm| URL_SAFE_NO_PAD.encode(digest::digest(algorithm, leaf).as_ref());
    let mut header = match style {
        AssertionStyle::Ps256 => {
            json!({"alg": "PS256", "typ": "JWT", "x5t#S256": thumbprint(&digest::SHA256)})
        }
        AssertionStyle::Rs256 => {
            let x5t = thumbprint(&digest::SHA1_FOR_LEGACY_USE_ONLY);
            json!({"alg": "RS256", "typ": "JWT", "x5t": x5t})
        }
    };
    if send_chain {
        header["x5c"] = certificates.iter().map(|c| STANDARD.encode(c)).collect();
    }
    let payload = json!({
        "aud": endpoint.url.as_str(), "iss": endpoint.client_id, "sub": endpoint.client_id,
        "iat": now.0, "nbf": now.0, "exp": now.0 + LIFETIME, "jti": guid(),
    });
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let mut jwt = format!("{}.{}", part(&header), part(&payload));
    let mut signature = vec![0; key.public_modulus_len()];
    let padding: &dyn aws_lc_rs::signature::RsaEncoding = match style {
        AssertionStyle::Ps256 => &RSA_PSS_SHA256,
        AssertionStyle::Rs256 => &RSA_PKCS1_SHA256,
    };
    key.sign(padding, &SystemRandom::new(), jwt.as_bytes(), &mut signature)
        .map_err(|_| bad("the key cannot sign"))?;
    jwt.push('.');
    URL_SAFE_NO_PAD.encode_string(&signature, &mut jwt);
    Ok(Secret::new(jwt))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use aws_lc_rs::signature::{
        KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey,
    };

    use super::*;
    use crate::graph::auth::cloud::Cloud;

    fn endpoint() -> TokenEndpoint {
        Cloud::Global.endpoint("contoso.example", "app-1").expect("an endpoint")
    }

    #[test]
    fn signs_assertions_with_the_key_of_the_certificate() {
        let key = KeyPair::generate(KeySize::Rsa2048).expect("a key");
        let public = key.public_key().as_ref().to_vec();
        let pkcs8: aws_lc_rs::encoding::Pkcs8V1Der<'_> = key.as_der().expect("PKCS#8");
        let pem = |label: &str, der: &[u8]| {
            let body = STANDARD.encode(der);
            format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n").into_bytes()
        };
        let (chain, key) = (pem("CERTIFICATE", b"leaf"), pem("PRIVATE KEY", pkcs8.as_ref()));
        for style in [AssertionStyle::Ps256, AssertionStyle::Rs256] {
            let jwt = client_assertion(&endpoint(), &chain, &key, style, true, Timestamp(1000))
                .expect("an assertion");
            let parts: Vec<&str> = jwt.expose().split('.').collect();
            let json = |part: &str| -> Value {
                serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64"))
                    .expect("JSON")
            };
            let (header, payload) = (json(parts[0]), json(parts[1]));
            assert_eq!(header["x5c"], json!([STANDARD.encode(b"leaf")]));
            assert_eq!(
                (&payload["aud"], &payload["exp"]),
                (&json!(endpoint().url.as_str()), &json!(1600))
            );
            assert_eq!((&payload["iss"], &payload["sub"]), (&json!("app-1"), &json!("app-1")));
            let (algorithm, member, length) = match style {
                AssertionStyle::Ps256 => (&RSA_PSS_2048_8192_SHA256, "x5t#S256", 43),
                AssertionStyle::Rs256 => (&RSA_PKCS1_2048_8192_SHA256, "x5t", 27),
            };
            assert_eq!(header[member].as_str().map(str::len), Some(length));
            let signature = URL_SAFE_NO_PAD.decode(parts[2]).expect("base64");
            let signed = format!("{}.{}", parts[0], parts[1]);
            UnparsedPublicKey::new(algorithm, &public)
                .verify(signed.as_bytes(), &signature)
                .expect("a good signature");
        }
        for (chain, key) in [(&b""[..], &key[..]), (&chain, b"none"), (&chain, &chain)] {
            let style = AssertionStyle::Ps256;
            assert!(client_assertion(&endpoint(), chain, key, style, false, Timestamp(0)).is_err());
        }
    }
}
