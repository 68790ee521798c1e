//! The one reader of certificate files: PEM with every label in use, and a single DER certificate.
//!
//! Sections with other labels (keys, parameters) and text between sections are ignored.  A file
//! without a certificate is never an empty chain: it is an error that names what the file contains.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::x509::der::{Reader, tag};

/// Labels of one certificate (RFC 7468 section 5.1 and appendix A).
const LABELS: &[&str] = &["CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE"];
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Sections that a message names.
const NAMED_SECTIONS: usize = 4;
/// Characters of a label that a message names.
const NAMED_CHARACTERS: usize = 40;

/// A file from which no certificates can be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFileError {
    /// The file has no bytes other than white space.
    #[error("the file is empty; it must contain a certificate in PEM or DER")]
    Empty,
    /// UTF-16, as some tools on Windows write it.
    #[error("the file is UTF-16 text; save it as UTF-8 or ASCII")]
    Utf16,
    /// A PKCS#7 bundle.
    #[error(
        "the file is a PKCS#7 bundle; convert it with `openssl pkcs7 -print_certs` (add \
         `-inform DER` for a binary file)"
    )]
    Pkcs7,
    /// PEM sections, but none is a certificate.
    #[error("the file contains no certificate, but {0}")]
    Other(String),
    /// Neither PEM nor a DER certificate.
    #[error("not an X.509 certificate: the file is neither PEM nor DER of a certificate")]
    Unknown,
    /// A section that cannot be decoded.
    #[error("not valid PEM: line {line}: {why}")]
    Section {
        /// Number of the line, from 1.
        line: usize,
        /// The problem.
        why: &'static str,
    },
}

/// Returns the DER of every certificate of a file, in the order of the file; at least one.
///
/// # Errors
/// The file contains no certificate, or a section of a certificate cannot be decoded.
pub fn certificates(file: &[u8]) -> Result<Vec<Vec<u8>>, CertificateFileError> {
    let file = file.strip_prefix(BYTE_ORDER_MARK).unwrap_or(file);
    if file.starts_with(b"\xff\xfe") || file.starts_with(b"\xfe\xff") {
        return Err(CertificateFileError::Utf16);
    }
    if file.trim_ascii().is_empty() {
        return Err(CertificateFileError::Empty);
    }
    if file.first() == Some(&tag::SEQUENCE) {
        return binary(file).map(|der| vec![der]);
    }
    sections(file)
}

/// Accepts the DER of a certificate: a SEQUENCE that begins with a SEQUENCE.  The X.509 parser
/// checks the rest.
fn binary(file: &[u8]) -> Result<Vec<u8>, CertificateFileError> {
    // The outer element may be truncated; only its header and the next tag are needed here.
    let header = match file.get(1) {
        Some(&length) if length & 0x80 == 0 => 2,
        Some(&length) => 2 + usize::from(length & 0x7f),
        None => return Err(CertificateFileError::Unknown),
    };
    match file.get(header) {
        Some(&tag::SEQUENCE) => Ok(file.to_vec()),
        Some(&tag::OID) => Err(CertificateFileError::Pkcs7),
        Some(&tag::INTEGER) => Err(CertificateFileError::Other(
            "binary data that begins with a version, such as a private key or PKCS#12".into(),
        )),
        _ => Err(CertificateFileError::Unknown),
    }
}

/// Section that is being read.
struct Section {
    label: String,
    base64: Option<Vec<u8>>,
}

fn sections(file: &[u8]) -> Result<Vec<Vec<u8>>, CertificateFileError> {
    let fail = |line: usize, why| CertificateFileError::Section { line: line + 1, why };
    let (mut found, mut others) = (Vec::new(), Vec::new());
    let mut open: Option<Section> = None;
    let mut last = 0;
    // A line ends with LF, CR LF or CR (RFC 7468 section 3).  CR LF gives one more empty line here.
    for (number, line) in lines(file) {
        last = number;
        let line = line.trim_ascii();
        if let Some(rest) = line.strip_prefix(b"-----BEGIN") {
            if open.is_some() {
                return Err(fail(number, "a section begins before the END line of the one before"));
            }
            let label = rest.strip_prefix(b" ").and_then(|label| label.strip_suffix(b"-----"));
            let label = label.and_then(|label| str::from_utf8(label).ok());
            let label = label.ok_or_else(|| fail(number, "the BEGIN line is not complete"))?;
            let base64 = LABELS.contains(&label).then(Vec::new);
            open = Some(Section { label: label.to_owned(), base64 });
        } else if let Some(rest) = line.strip_prefix(b"-----END ") {
            let Some(section) = open.take() else {
                return Err(fail(number, "an END line without a BEGIN line"));
            };
            if rest.strip_suffix(b"-----") != Some(section.label.as_bytes()) {
                return Err(fail(number, "the END line does not match the BEGIN line"));
            }
            match section.base64 {
                Some(text) => {
                    let der = STANDARD.decode(text);
                    let der = der.map_err(|_| fail(number, "the section above is not base64"))?;
                    found.push(without_trust(&section.label, der));
                }
                None => others.push(section.label),
            }
        } else if let Some(Section { base64: Some(text), .. }) = &mut open {
            text.extend(line.iter().filter(|byte| !byte.is_ascii_whitespace()));
        }
    }
    if open.is_some() {
        return Err(fail(last, "the last section has no END line"));
    }
    if !found.is_empty() {
        return Ok(found);
    }
    if others.iter().any(|label| matches!(&**label, "PKCS7" | "CMS" | "PKCS #7 SIGNED DATA")) {
        return Err(CertificateFileError::Pkcs7);
    }
    if others.is_empty() {
        return Err(CertificateFileError::Unknown);
    }
    let name = |label: &String| -> String {
        label.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(NAMED_CHARACTERS).collect()
    };
    let names: Vec<_> = others.iter().take(NAMED_SECTIONS).map(name).collect();
    Err(CertificateFileError::Other(names.join(", ")))
}

/// The lines of a text, with their numbers from 0.
fn lines(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    text.split(|&byte| byte == b'\n').enumerate().flat_map(|(number, line)| {
        line.split(|&byte| byte == b'\r').map(move |part| (number, part))
    })
}

/// Removes the trust settings that OpenSSL appends to a `TRUSTED CERTIFICATE`.
fn without_trust(label: &str, der: Vec<u8>) -> Vec<u8> {
    if label != "TRUSTED CERTIFICATE" {
        return der;
    }
    match Reader::new(&der).any() {
        Ok(certificate) => certificate.raw.to_vec(),
        Err(_) => der,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// DER that has the outline of a certificate.
    const DER: &[u8] = &[0x30, 3, 0x30, 1, 7];

    fn pem(label: &str, der: &[u8]) -> String {
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
    }

    #[test]
    fn reads_every_form_of_a_certificate_file() {
        let plain = pem("CERTIFICATE", DER);
        for (text, count) in [
            (plain.clone(), 1),
            (format!("{plain}{plain}"), 2),
            (format!("\u{feff}{plain}"), 1),
            (plain.replace('\n', "\r\n"), 1),
            (plain.replace('\n', "\r"), 1),
            (plain.trim_end().to_owned(), 1),
            (format!("subject=CN = root\n{plain}issuer=CN = root\n"), 1),
            (format!("{}{plain}", pem("PRIVATE KEY", b"key")), 1),
            (pem("X509 CERTIFICATE", DER), 1),
            (pem("TRUSTED CERTIFICATE", DER), 1),
            (pem("TRUSTED CERTIFICATE", &[DER, &[0x30, 0]].concat()), 1),
            (format!("{plain}{}", pem("PKCS7", b"bundle")), 1),
        ] {
            assert_eq!(certificates(text.as_bytes()), Ok(vec![DER.to_vec(); count]), "{text}");
        }
        assert_eq!(certificates(DER), Ok(vec![DER.to_vec()]));
        let long = [&[0x30, 0x82, 1, 0, 0x30], &[0; 255][..]].concat();
        assert_eq!(certificates(&long), Ok(vec![long.clone()]));
    }

    #[test]
    fn trust_settings_are_removed_only_from_their_own_label() {
        let both = [DER, &[0x30, 0]].concat();
        assert_eq!(certificates(pem("CERTIFICATE", &both).as_bytes()), Ok(vec![both]));
    }

    #[test]
    fn names_what_a_file_without_certificates_contains() {
        use CertificateFileError as E;
        let other = |text: &str| E::Other(text.into());
        let section = |line, why| E::Section { line, why };
        let plain = pem("CERTIFICATE", DER);
        for (bytes, error) in [
            (b"".to_vec(), E::Empty),
            (b" \r\n".to_vec(), E::Empty),
            ("\u{feff}".into(), E::Empty),
            (b"\xff\xfe-\0".to_vec(), E::Utf16),
            (b"\xfe\xff\0-".to_vec(), E::Utf16),
            (pem("PKCS7", b"bundle").into(), E::Pkcs7),
            (pem("CMS", b"bundle").into(), E::Pkcs7),
            (vec![0x30, 0x82, 1, 0, 6, 9], E::Pkcs7),
            (pem("PRIVATE KEY", b"key").into(), other("PRIVATE KEY")),
            (pem("A\u{1b}[2J", b"x").into(), other("A[2J")),
            (
                [pem("A", b"x"), pem("B", b"x"), pem("C", b"x"), pem("D", b"x"), pem("E", b"x")]
                    .concat()
                    .into(),
                other("A, B, C, D"),
            ),
            (
                vec![0x30, 3, 2, 1, 0],
                other("binary data that begins with a version, such as a private key or PKCS#12"),
            ),
            (b"MIIB".to_vec(), E::Unknown),
            (b"see -----BEGIN there".to_vec(), E::Unknown),
            (vec![0x30], E::Unknown),
            (vec![0x30, 0], E::Unknown),
            (b"-----BEGIN \n".to_vec(), section(1, "the BEGIN line is not complete")),
            (
                b"x\n-----END CERTIFICATE-----\n".to_vec(),
                section(2, "an END line without a BEGIN line"),
            ),
            (
                plain.replace("END C", "END X").into(),
                section(3, "the END line does not match the BEGIN line"),
            ),
            (plain.replace("MA", "M?").into(), section(3, "the section above is not base64")),
            (
                format!("{}\n{plain}", &plain[..30]).into(),
                section(3, "a section begins before the END line of the one before"),
            ),
            (plain.as_bytes()[..30].to_vec(), section(2, "the last section has no END line")),
        ] {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            assert_eq!(certificates(&bytes), Err(error), "{text}");
        }
    }
}
