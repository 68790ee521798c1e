//! Certificates of authorities in an administrator's files.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use url::Url;

use crate::directory::validate::certificates::{
    MAX_CERTIFICATE_BYTES, OwnSignature, check_authority, names_itself, own_signature,
};
use crate::graph::wire;
use crate::runtime::files::read_bounded;
use crate::x509::certificate::{Certificate, Fingerprint};
use crate::x509::pem;
use crate::x509::time::Timestamp;

/// Limit in bytes on a file: a certificate in PEM, with the text that tools write before it.
const MAX_FILE: u64 = 256 * 1024;

/// An authority in the form of the command line: FILE[,crl=URL[,delta=URL]].
#[derive(Debug, Clone)]
pub(super) struct AuthorityFile {
    pub(super) path: PathBuf,
    crl: Option<Url>,
    delta: Option<Url>,
}

impl FromStr for AuthorityFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let path = PathBuf::from(parts.next().unwrap_or_default());
        let mut file = Self { path, crl: None, delta: None };
        for part in parts {
            let (name, value) = part.split_once('=').ok_or("expected crl=URL or delta=URL")?;
            let url = Url::parse(value).map_err(|error| format!("`{value}`: {error}"))?;
            if !matches!(url.scheme(), "http" | "https") {
                return Err(format!("`{value}` is neither http nor https"));
            }
            match name {
                "crl" => file.crl = Some(url),
                "delta" => file.delta = Some(url),
                _ => return Err(format!("`{name}` is neither crl nor delta")),
            }
        }
        match file {
            Self { crl: None, delta: Some(_), .. } => Err("delta=URL requires crl=URL".into()),
            file => Ok(file),
        }
    }
}

impl AuthorityFile {
    /// Checks the certificate and returns an element of `certificateAuthorities`.
    pub(super) fn element(&self, now: Timestamp) -> anyhow::Result<Value> {
        let (certificate, is_root) = usable(&self.path, now)?;
        Ok(json!({
            "@odata.type": "microsoft.graph.certificateAuthority",
            "certificate": STANDARD.encode(certificate.der()),
            "certificateRevocationListUrl": self.crl.as_ref().map(Url::as_str),
            "deltaCertificateRevocationListUrl": self.delta.as_ref().map(Url::as_str),
            "isRootAuthority": is_root,
        }))
    }
}

/// The SHA-256 of an element's certificate, if the element has a valid one.
pub(super) fn fingerprint(element: &Value) -> Option<Fingerprint> {
    Some(Fingerprint::of(&wire::binary(element["certificate"].as_str()?)?))
}

/// The fingerprint in an argument, or that of the certificate in the file that it names.
pub(super) fn named(authority: &str) -> anyhow::Result<Fingerprint> {
    let digits: String = authority.chars().filter(|c| *c != ':').collect();
    if digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[i * 2..i * 2 + 2], 16)?;
        }
        return Ok(Fingerprint(bytes));
    }
    Ok(read_certificate(Path::new(authority))?.fingerprint)
}

/// Reads a certificate that the judge can use, and returns whether it is a root.
pub(super) fn usable(path: &Path, now: Timestamp) -> anyhow::Result<(Certificate, bool)> {
    let certificate = read_certificate(path)?;
    let signature = own_signature(&certificate);
    let is_root = signature != OwnSignature::Absent;
    ensure!(
        is_root || !certificate.is_self_issued() || !names_itself(&certificate),
        "{}: `{}` names its own key as the issuer's, but has no valid signature of that key, so it \
         can be neither a root nor an intermediate",
        path.display(),
        certificate.subject
    );
    if let Err(why) = check_authority(&certificate, is_root, now) {
        bail!("{}: `{}`: {why}", path.display(), certificate.subject);
    }
    if signature == OwnSignature::Unverifiable {
        eprintln!(
            "warning: {}: the root's own signature uses an algorithm that is not accepted and was \
             not verified; compare its SHA-256 fingerprint, {}, with the one its operator publishes",
            path.display(),
            certificate.fingerprint
        );
    }
    Ok((certificate, is_root))
}

/// The one certificate of a file.
fn read_certificate(path: &Path) -> anyhow::Result<Certificate> {
    let name = path.display();
    let found = pem::certificates(&read_bounded(path, MAX_FILE)?);
    let found = found.with_context(|| name.to_string())?;
    let [der] = &found[..] else {
        bail!("{name}: {} certificates; exactly one is required", found.len());
    };
    let length = der.len();
    ensure!(
        length <= MAX_CERTIFICATE_BYTES,
        "{name}: {length} bytes of DER; a directory accepts at most {MAX_CERTIFICATE_BYTES}"
    );
    Certificate::from_der(der).with_context(|| name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};

    const NOW: Timestamp = Timestamp(1_800_000_000);

    #[test]
    fn an_argument_contains_a_file_and_addresses() {
        let file: AuthorityFile =
            "a.pem,crl=http://x/a.crl,delta=https://x/d.crl".parse().expect("readable");
        assert_eq!(file.path, Path::new("a.pem"));
        assert_eq!(file.crl.map(|url| url.to_string()).as_deref(), Some("http://x/a.crl"));
        assert!(file.delta.is_some());
        for bad in ["a.pem,delta=http://x/", "a.pem,crl=ldap://x/", "a.pem,x=http://x/", "a.pem,y"]
        {
            assert!(bad.parse::<AuthorityFile>().is_err(), "{bad}");
        }
    }

    /// A certification authority: DER, PEM, and its key in PEM.
    fn authority(change: impl FnOnce(&mut CertificateParams)) -> (Vec<u8>, String, String) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let made = params.self_signed(&key).expect("a certificate");
        (made.der().to_vec(), made.pem(), key.serialize_pem())
    }

    #[test]
    fn reports_the_fault_of_a_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ca");
        let check = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("written");
            usable(&path, NOW).map(|(_, is_root)| is_root).map_err(|error| format!("{error:#}"))
        };
        let (der, pem, key) = authority(|_| {});
        assert_eq!(check(&der), Ok(true));
        assert_eq!(check(format!("subject=CN = root\n{pem}").as_bytes()), Ok(true));
        assert_eq!(
            check(format!("{key}{pem}").as_bytes()),
            Ok(true),
            "only the certificate is read"
        );
        assert_eq!(check(format!("\u{feff}{pem}").as_bytes()), Ok(true), "with a byte order mark");

        // ecdsa-with-SHA224 in place of ecdsa-with-SHA256: an algorithm that is not accepted.
        let mut weak = der.clone();
        let mut names = 0;
        for at in 0..weak.len() - 8 {
            if weak[at..at + 8] == [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2] {
                weak[at + 7] = 1;
                names += 1;
            }
        }
        assert_eq!(names, 2);
        assert_eq!(check(&weak), Ok(true), "path validation never verifies a root's own signature");

        let (leaf, _, _) = authority(|params| params.is_ca = IsCa::NoCa);
        let (old, _, _) = authority(|params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
        let (early, _, _) =
            authority(|params| params.not_before = rcgen::date_time_ymd(2090, 1, 1));
        let request = CertificateParams::default();
        let request = request.serialize_request(&KeyPair::generate().expect("a key"));
        let request = request.expect("a request").pem().expect("PEM");
        let mut signed = der.clone();
        *signed.last_mut().expect("bytes") ^= 1;
        let large = [&[0x30, 0x82, 0x20, 0, 0x30], &[0; MAX_CERTIFICATE_BYTES - 4][..]].concat();
        for (bytes, why) in [
            (key.as_bytes(), "contains no certificate, but PRIVATE KEY"),
            (request.as_bytes(), "no certificate, but CERTIFICATE REQUEST"),
            (format!("{pem}{pem}").as_bytes(), "2 certificates; exactly one is required"),
            (&pem.as_bytes()[..100], "PEM"),
            (b"-----BEGIN \n", "not valid PEM"),
            (b"see -----BEGIN there", "neither PEM nor DER"),
            (&[&der[..], b"\n"].concat(), "1 bytes left over"),
            (&der[..der.len() - 1], "not an X.509 certificate"),
            (b"", "the file is empty"),
            (b"MIIB", "not an X.509 certificate"),
            (&leaf, "`CN=root`: it is not a certification authority"),
            (&old, "`CN=root`: it expired at 2020-01-01"),
            (&early, "`CN=root`: it is not valid before 2090-01-01"),
            (&signed, "no valid signature of that key"),
            (&large, "8193 bytes of DER; a directory accepts at most 8192"),
            (&vec![b' '; MAX_FILE as usize + 1], "longer than 262144 bytes"),
        ] {
            let got = check(bytes).expect_err(why);
            assert!(got.contains(why) && got.contains("ca: "), "{got} does not contain `{why}`");
        }
        std::fs::remove_file(&path).expect("removed");
        assert!(usable(&path, NOW).is_err());
    }
}
