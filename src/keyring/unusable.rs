//! Errors of the server's key files that name the setting and the command that helps.

use std::path::Path;

use rustls::pki_types::CertificateDer;

use crate::keyring::{Config, KeyringError, contents};
use crate::x509::certificate::Certificate;
use crate::x509::der::tag;

impl KeyringError {
    /// Names the setting of a file that cannot be read or used.
    pub(super) fn of_setting(self, key: &'static str) -> Self {
        match self {
            Self::Read(_) | Self::Contents { .. } => Self::Setting { key, error: Box::new(self) },
            other => other,
        }
    }
}

/// The error of a file without a private key in PEM that can be read.
pub(super) fn no_private_key(path: &Path, bytes: &[u8], cause: &str) -> KeyringError {
    let file = path.display();
    let is_encrypted = |text: &str| text.contains("ENCRYPTED");
    let why = if bytes.first() == Some(&tag::SEQUENCE) {
        format!("the file is DER; convert it: openssl pkey -in {file} -out key.pem")
    } else if std::str::from_utf8(bytes).is_ok_and(is_encrypted) {
        format!(
            "the key is encrypted, which is not supported; decrypt it: openssl pkey -in {file} -out \
             key.pem"
        )
    } else {
        format!("the file contains no private key: {cause}")
    };
    contents(path, why)
}

/// The error of a key and a chain that do not belong together.
pub(super) fn mismatch(
    config: &Config,
    chain: &[CertificateDer<'_>],
    cause: &rustls::Error,
) -> KeyringError {
    let (certificate, key) = (&config.certificate, &config.key);
    let first = chain.first().and_then(|der| Certificate::from_der(der).ok());
    let authority = first.filter(|first| first.basic_constraints.as_ref().is_some_and(|c| c.ca));
    match authority {
        Some(authority) => {
            let why = format!(
                "the first certificate is `{}`, an authority; the server's own must come first",
                authority.subject
            );
            contents(certificate, why).of_setting("tls.certificate")
        }
        None => {
            let file = certificate.display();
            let why = match cause {
                rustls::Error::InconsistentKeys(_) => {
                    format!("does not belong to the first certificate of {file}")
                }
                cause => format!("not usable with {file}: {cause}"),
            };
            contents(key, why).of_setting("tls.key")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_command_that_converts_a_key() {
        let text = |bytes: &[u8]| no_private_key(Path::new("k"), bytes, "no PEM").to_string();
        let der = "k: the file is DER; convert it: openssl pkey -in k -out key.pem";
        assert_eq!(text(b"\x30\x82\x01"), der);
        let encrypted = text(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n");
        assert!(encrypted.contains("decrypt it: openssl pkey -in k -out key.pem"), "{encrypted}");
        assert_eq!(text(b"x"), "k: the file contains no private key: no PEM");
    }
}
