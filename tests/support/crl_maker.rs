//! Builds authorities, certificates and revocation lists byte by byte, including invalid ones.

use std::sync::Arc;

use anchorgate::x509::certificate::Certificate;
use anchorgate::x509::time::Timestamp;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};

/// 2026-01-01T00:00:00Z, the time of all tests.
pub const NOW: Timestamp = Timestamp(1_767_225_600);
pub const HOUR: i64 = 3600;

pub const COMMON_NAME: &[u8] = &[0x55, 4, 3];
const ECDSA_SHA256: &[u8] = &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const ED25519: &[u8] = &[0x06, 3, 0x2b, 0x65, 0x70];
const P256: &[u8] =
    &[0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];

/// One DER element.
pub fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut out = header(tag, value.len());
    out.extend_from_slice(value);
    out
}

fn header(tag: u8, length: usize) -> Vec<u8> {
    let bytes: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|&b| b == 0).collect();
    match length {
        0..=0x7f => vec![tag, length as u8],
        _ => [&[tag, 0x80 | bytes.len() as u8], &bytes[..]].concat(),
    }
}

pub fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

/// A name of one RDN, CN=`text`.
pub fn name(text: &str) -> Vec<u8> {
    sequence(&[&tlv(0x31, &attribute(text))])
}

/// The contents of an RDN, CN=`text`.
pub fn attribute(text: &str) -> Vec<u8> {
    sequence(&[&tlv(0x06, COMMON_NAME), &tlv(0x0c, text.as_bytes())])
}

/// INTEGER of a number that is not negative, from its big-endian bytes.
pub fn unsigned(digits: &[u8]) -> Vec<u8> {
    let digits: Vec<u8> = digits.iter().copied().skip_while(|&b| b == 0).collect();
    match digits.first() {
        None => tlv(0x02, &[0]),
        Some(first) if first & 0x80 != 0 => tlv(0x02, &[&[0], &digits[..]].concat()),
        Some(_) => tlv(0x02, &digits),
    }
}

pub fn number(value: u64) -> Vec<u8> {
    unsigned(&value.to_be_bytes())
}

/// UTCTime before 2050, else GeneralizedTime.
pub fn time(at: Timestamp) -> Vec<u8> {
    let digits: String = at.to_string().chars().filter(char::is_ascii_digit).collect();
    match at.0 {
        ..2_524_608_000 => tlv(0x17, format!("{}Z", &digits[2..]).as_bytes()),
        _ => tlv(0x18, format!("{digits}Z").as_bytes()),
    }
}

pub fn extension(oid: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let flag = if critical { vec![1, 1, 0xff] } else { Vec::new() };
    sequence(&[&tlv(0x06, oid), &flag, &tlv(0x04, value)])
}

/// The key of an authority.
enum Key {
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Key {
    fn spki(&self) -> Vec<u8> {
        match self {
            Self::P256(key) => {
                let point = [&[0], key.public_key().as_ref()].concat();
                sequence(&[&tlv(0x30, P256), &tlv(0x03, &point)])
            }
            Self::Ed25519(key) => {
                let point = [&[0], key.public_key().as_ref()].concat();
                sequence(&[&tlv(0x30, ED25519), &tlv(0x03, &point)])
            }
        }
    }

    fn algorithm(&self) -> Vec<u8> {
        tlv(0x30, if matches!(self, Self::P256(_)) { ECDSA_SHA256 } else { ED25519 })
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::P256(key) => {
                key.sign(&SystemRandom::new(), message).expect("a signature").as_ref().to_vec()
            }
            Self::Ed25519(key) => key.sign(message).as_ref().to_vec(),
        }
    }

    fn wrap(&self, tbs: &[u8]) -> Vec<u8> {
        let signature = tlv(0x03, &[&[0], &self.sign(tbs)[..]].concat());
        let length = tbs.len() + self.algorithm().len() + signature.len();
        let mut out = header(0x30, length);
        out.reserve_exact(length);
        out.extend_from_slice(tbs);
        out.extend_from_slice(&self.algorithm());
        out.extend_from_slice(&signature);
        out
    }
}

/// An authority: a key and its certificate.
pub struct Ca {
    pub name: Vec<u8>,
    key: Key,
    pub certificate: Arc<Certificate>,
}

/// keyCertSign and cRLSign.
pub const KEY_USAGE_CA: &[u8] = &[0x03, 2, 1, 0x06];
/// cRLSign alone.
pub const KEY_USAGE_LISTS: &[u8] = &[0x03, 2, 1, 0x02];
/// keyCertSign alone.
pub const KEY_USAGE_CERTS: &[u8] = &[0x03, 2, 2, 0x04];

impl Ca {
    /// A self-signed root, CN=`text`, with a new P-256 key.
    pub fn root(text: &str) -> Self {
        Self::with_key_usage(text, KEY_USAGE_CA)
    }

    pub fn with_key_usage(text: &str, usage: &[u8]) -> Self {
        Self::make(text, Key::P256(new_p256()), usage)
    }

    pub fn ed25519(text: &str) -> Self {
        let key = Ed25519KeyPair::generate().expect("a key");
        Self::make(text, Key::Ed25519(key), KEY_USAGE_CA)
    }

    fn make(text: &str, key: Key, usage: &[u8]) -> Self {
        let name = name(text);
        let extensions = [
            extension(&[0x55, 0x1d, 19], true, &sequence(&[&[1, 1, 0xff]])),
            extension(&[0x55, 0x1d, 15], true, usage),
        ];
        let tbs = tbs_certificate(&key, &[1], &name, &name, &key.spki(), &extensions.concat());
        let der = key.wrap(&tbs);
        let certificate = Arc::new(Certificate::from_der(&der).expect("a root"));
        Self { name, key, certificate }
    }

    /// Issues a certificate for the authority's own key, with these extensions added.
    pub fn issue_to_itself(&self, extensions: &[Vec<u8>]) -> Arc<Certificate> {
        let extensions =
            [extension(&[0x55, 0x1d, 19], true, &sequence(&[&[1, 1, 0xff]])), extensions.concat()];
        let (name, spki, extensions) = (&self.name, self.key.spki(), extensions.concat());
        let tbs = tbs_certificate(&self.key, &[2], name, name, &spki, &extensions);
        Arc::new(Certificate::from_der(&self.key.wrap(&tbs)).expect("a certificate"))
    }

    /// A subordinate authority with a new key, CN=`text`.
    pub fn below(&self, text: &str, serial: u8, usage: &[u8]) -> Self {
        let (name, key) = (name(text), Key::P256(new_p256()));
        let extensions = [
            extension(&[0x55, 0x1d, 19], true, &sequence(&[&[1, 1, 0xff]])),
            extension(&[0x55, 0x1d, 15], true, usage),
        ];
        let (spki, extensions) = (key.spki(), extensions.concat());
        let tbs = tbs_certificate(&self.key, &[serial], &self.name, &name, &spki, &extensions);
        let certificate = Certificate::from_der(&self.key.wrap(&tbs)).expect("an authority");
        Self { name, key, certificate: Arc::new(certificate) }
    }

    /// Issues a certificate for a new key, with these extensions.
    pub fn issue(&self, subject: &str, serial: &[u8], extensions: &[Vec<u8>]) -> Arc<Certificate> {
        let spki = Key::P256(new_p256()).spki();
        let subject = name(subject);
        let extensions = extensions.concat();
        let tbs = tbs_certificate(&self.key, serial, &self.name, &subject, &spki, &extensions);
        Arc::new(Certificate::from_der(&self.key.wrap(&tbs)).expect("a certificate"))
    }

    /// A list signed by this authority, issued an hour ago and valid for another day.
    pub fn list(&self) -> List<'_> {
        List {
            signer: self,
            version: Some(1),
            issuer: self.name.clone(),
            this_update: Timestamp(NOW.0 - HOUR),
            next_update: Some(Timestamp(NOW.0 + 24 * HOUR)),
            entries: Vec::new(),
            extensions: Vec::new(),
        }
    }
}

fn new_p256() -> EcdsaKeyPair {
    EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).expect("a key")
}

fn tbs_certificate(
    signer: &Key,
    serial: &[u8],
    issuer: &[u8],
    subject: &[u8],
    spki: &[u8],
    extensions: &[u8],
) -> Vec<u8> {
    let validity =
        [time(Timestamp(NOW.0 - 365 * 24 * HOUR)), time(Timestamp(NOW.0 + 365 * 24 * HOUR))];
    let extensions =
        if extensions.is_empty() { Vec::new() } else { tlv(0xa3, &tlv(0x30, extensions)) };
    sequence(&[
        &tlv(0xa0, &number(2)),
        &unsigned(serial),
        &signer.algorithm(),
        issuer,
        &tlv(0x30, &validity.concat()),
        subject,
        spki,
        &extensions,
    ])
}

/// A revocation list before it is signed.
#[derive(Clone)]
pub struct List<'a> {
    pub signer: &'a Ca,
    /// The encoded version; a v1 list has no version field.
    pub version: Option<u8>,
    pub issuer: Vec<u8>,
    pub this_update: Timestamp,
    pub next_update: Option<Timestamp>,
    /// Encoded entries.
    pub entries: Vec<u8>,
    /// Encoded extensions.
    pub extensions: Vec<u8>,
}

impl List<'_> {
    /// Adds an entry for a serial that is not negative.
    #[must_use]
    pub fn revoke(self, serial: &[u8], reason: Option<u8>) -> Self {
        let extensions = reason.map(|reason| extension(&[0x55, 0x1d, 21], false, &[10, 1, reason]));
        self.entry(serial, &extensions.unwrap_or_default())
    }

    /// Adds an entry with these extensions.
    #[must_use]
    pub fn entry(mut self, serial: &[u8], extensions: &[u8]) -> Self {
        let list = if extensions.is_empty() { Vec::new() } else { tlv(0x30, extensions) };
        let date = time(Timestamp(NOW.0 - 2 * HOUR));
        self.entries.extend(sequence(&[&unsigned(serial), &date, &list]));
        self
    }

    #[must_use]
    pub fn extension(mut self, oid: &[u8], critical: bool, value: &[u8]) -> Self {
        self.extensions.extend(extension(oid, critical, value));
        self
    }

    /// cRLNumber.
    #[must_use]
    pub fn number(self, value: u64) -> Self {
        self.extension(&[0x55, 0x1d, 20], false, &number(value))
    }

    /// deltaCRLIndicator: a delta to the complete list of that number.
    #[must_use]
    pub fn delta_to(self, base: u64) -> Self {
        self.extension(&[0x55, 0x1d, 27], true, &number(base))
    }

    /// issuingDistributionPoint with these encoded fields.
    #[must_use]
    pub fn scope(self, fields: &[u8]) -> Self {
        self.extension(&[0x55, 0x1d, 28], true, &tlv(0x30, fields))
    }

    #[must_use]
    pub fn this_update(mut self, at: Timestamp) -> Self {
        self.this_update = at;
        self
    }

    #[must_use]
    pub fn next_update(mut self, at: Option<Timestamp>) -> Self {
        self.next_update = at;
        self
    }

    /// The signed list.
    pub fn sign(&self) -> Vec<u8> {
        self.signer.key.wrap(&self.tbs())
    }

    /// The list, signed after `change` was applied to its TBS bytes.
    pub fn sign_changed(&self, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut tbs = self.tbs();
        change(&mut tbs);
        self.signer.key.wrap(&tbs)
    }

    fn tbs(&self) -> Vec<u8> {
        let entries =
            if self.entries.is_empty() { Vec::new() } else { header(0x30, self.entries.len()) };
        let extensions = match &self.extensions[..] {
            [] => Vec::new(),
            some => tlv(0xa0, &tlv(0x30, some)),
        };
        let head = [
            self.version.map(|v| tlv(0x02, &[v])).unwrap_or_default(),
            self.signer.key.algorithm(),
            self.issuer.clone(),
            time(self.this_update),
            self.next_update.map(time).unwrap_or_default(),
            entries,
        ]
        .concat();
        let length = head.len() + self.entries.len() + extensions.len();
        let mut tbs = header(0x30, length);
        tbs.reserve_exact(length);
        tbs.extend_from_slice(&head);
        tbs.extend_from_slice(&self.entries);
        tbs.extend_from_slice(&extensions);
        tbs
    }
}

/// The list as PEM.
pub fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let digits = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = digits
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).expect("ASCII"))
        .collect();
    format!("-----BEGIN X509 CRL-----\n{}\n-----END X509 CRL-----\n", lines.join("\n"))
}

/// The serial of entry `index` in [`many`]: 16 pseudo-random bytes, the first never zero.
pub fn serial(index: u64) -> [u8; 16] {
    let mut out = [0; 16];
    for (half, salt) in out.chunks_mut(8).zip([0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03u64]) {
        let mut x = index.wrapping_add(1).wrapping_mul(salt);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        half.copy_from_slice(&(x ^ (x >> 31)).to_be_bytes());
    }
    out[0] = out[0] & 0x7f | 0x40;
    out
}

/// Encoded entries of `count` serials from `first` on; every second entry has a reason.
pub fn many(first: u64, count: u64) -> Vec<u8> {
    let plain = sequence(&[&unsigned(&serial(0)), &time(NOW), &[]]);
    let reason = extension(&[0x55, 0x1d, 21], false, &[10, 1, 1]);
    let coded = sequence(&[&unsigned(&serial(0)), &time(NOW), &tlv(0x30, &reason)]);
    let mut out = Vec::with_capacity((plain.len() + coded.len()) * count.div_ceil(2) as usize);
    for index in first..first + count {
        let begin = out.len();
        out.extend_from_slice(if index % 2 == 0 { &coded } else { &plain });
        out[begin + 4..begin + 20].copy_from_slice(&serial(index));
    }
    out
}
