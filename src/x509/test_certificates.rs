//! Builder of certificates and lists for tests.  It encodes them byte by byte, so that they can
//! break any rule.

#![allow(dead_code, missing_docs)]

use std::sync::OnceLock;

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// ecdsa-with-SHA256
const ECDSA_SHA256: &[u8] = &[0x30, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
/// ecdsa-with-SHA1, which must not be accepted.
pub const ECDSA_SHA1: &[u8] = &[0x30, 9, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1];
/// id-ecPublicKey, secp256r1
const P256: &[u8] = &[
    0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1,
    7,
];

pub const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];
pub const KEY_USAGE: &[u8] = &[0x55, 0x1d, 15];
pub const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 37];
pub const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 17];
pub const NAME_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 30];
pub const CERTIFICATE_POLICIES: &[u8] = &[0x55, 0x1d, 32];
pub const POLICY_MAPPINGS: &[u8] = &[0x55, 0x1d, 33];
pub const POLICY_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 36];
pub const INHIBIT_ANY_POLICY: &[u8] = &[0x55, 0x1d, 54];
pub const SUBJECT_KEY_ID: &[u8] = &[0x55, 0x1d, 14];
pub const AUTHORITY_KEY_ID: &[u8] = &[0x55, 0x1d, 35];
pub const ANY_POLICY: &[u8] = &[0x55, 0x1d, 32, 0];
pub const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];
pub const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
pub const ANY_USAGE: &[u8] = &[0x55, 0x1d, 37, 0];
pub const CN: &[u8] = &[0x55, 4, 3];
pub const O: &[u8] = &[0x55, 4, 10];
pub(crate) const EMAIL: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1];

/// 2026-06-01T00:00:00Z: within the initial validity of [`Spec`].
pub const NOW: i64 = 1_780_272_000;

pub fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match value.len() {
        n @ 0..=0x7f => out.push(n as u8),
        n @ 0x80..=0xff => out.extend([0x81, n as u8]),
        n => out.extend([0x82, (n >> 8) as u8, n as u8]),
    }
    out.extend_from_slice(value);
    out
}

pub fn seq<B: AsRef<[u8]>>(parts: &[B]) -> Vec<u8> {
    tlv(0x30, &parts.iter().flat_map(|p| p.as_ref().to_vec()).collect::<Vec<u8>>())
}

pub fn oid(contents: &[u8]) -> Vec<u8> {
    tlv(6, contents)
}

pub fn uint(value: u32) -> Vec<u8> {
    tlv(2, &magnitude(value))
}

/// INTEGER contents.
pub(crate) fn magnitude(value: u32) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    let digits = &bytes[(value.leading_zeros() as usize / 8).min(3)..];
    if digits[0] & 0x80 != 0 { [&[0], digits].concat() } else { digits.to_vec() }
}

/// Encodes a Name with one attribute in each RDN: (type, string tag, text).
pub fn name(attributes: &[(&[u8], u8, &str)]) -> Vec<u8> {
    let rdns: Vec<Vec<u8>> = attributes
        .iter()
        .map(|(kind, tag, text)| tlv(0x31, &seq(&[oid(kind), tlv(*tag, text.as_bytes())])))
        .collect();
    seq(&rdns)
}

/// Encodes the name `CN=text`.
pub fn cn(text: &str) -> Vec<u8> {
    name(&[(CN, 0x0c, text)])
}

/// Encodes GeneralNames, each given by its context tag number and contents.
pub fn general_names(names: &[(u8, Vec<u8>)]) -> Vec<u8> {
    seq(&names.iter().map(general_name).collect::<Vec<_>>())
}

pub(crate) fn general_name((number, contents): &(u8, Vec<u8>)) -> Vec<u8> {
    let constructed = matches!(number, 0 | 3 | 4 | 5);
    tlv(if constructed { 0xa0 | number } else { 0x80 | number }, contents)
}

pub(crate) fn subtrees(names: &[(u8, Vec<u8>)]) -> Vec<u8> {
    names.iter().flat_map(|n| seq(&[general_name(n)])).collect()
}

pub fn name_constraints(permitted: &[(u8, Vec<u8>)], excluded: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut parts = Vec::new();
    if !permitted.is_empty() {
        parts.push(tlv(0xa0, &subtrees(permitted)));
    }
    if !excluded.is_empty() {
        parts.push(tlv(0xa1, &subtrees(excluded)));
    }
    seq(&parts)
}

/// Encodes keyUsage from bit numbers.
/// cRLDistributionPoints: one point for each list of addresses.
pub(crate) fn distribution_points(of: &[&[&str]]) -> Vec<u8> {
    let point = |uris: &&[&str]| {
        let names: Vec<Vec<u8>> = uris.iter().map(|uri| tlv(0x86, uri.as_bytes())).collect();
        tlv(0x30, &tlv(0xa0, &tlv(0xa0, &names.concat())))
    };
    seq(&of.iter().map(point).collect::<Vec<_>>())
}

pub fn key_usage(bits: &[u8]) -> Vec<u8> {
    let (mut bytes, mut top) = ([0u8; 2], 0);
    for &bit in bits {
        bytes[bit as usize / 8] |= 0x80 >> (bit % 8);
        top = top.max(bit);
    }
    let used = top as usize / 8 + 1;
    tlv(3, &[&[7 - top % 8], &bytes[..used]].concat())
}

/// Returns the OID contents of policy `n` in a private arc.
pub fn policy(n: u8) -> Vec<u8> {
    vec![0x2b, 6, 1, 4, 1, 0x82, 0x37, 99, n]
}

pub fn policies(of: &[Vec<u8>]) -> Vec<u8> {
    seq(&of.iter().map(|p| seq(&[oid(p)])).collect::<Vec<_>>())
}

pub fn mappings(of: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    seq(&of.iter().map(|(a, b)| seq(&[oid(a), oid(b)])).collect::<Vec<_>>())
}

pub fn policy_constraints(explicit: Option<u32>, mapping: Option<u32>) -> Vec<u8> {
    let mut parts = Vec::new();
    if let Some(n) = explicit {
        parts.push(tlv(0x80, &magnitude(n)));
    }
    if let Some(n) = mapping {
        parts.push(tlv(0x81, &magnitude(n)));
    }
    seq(&parts)
}

/// A P-256 key pair.
pub struct Key {
    pair: EcdsaKeyPair,
    pub spki: Vec<u8>,
    pub id: Vec<u8>,
}

impl Key {
    pub fn generate() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).expect("a key");
        let point = pair.public_key().as_ref();
        let spki = seq(&[P256.to_vec(), tlv(3, &[&[0], point].concat())]);
        let id = digest::digest(&digest::SHA256, point).as_ref()[..20].to_vec();
        Self { pair, spki, id }
    }

    /// Returns one of a few keys that the whole process shares.  Tests need different keys, not new
    /// ones.
    pub fn number(n: usize) -> &'static Self {
        static KEYS: OnceLock<Vec<Key>> = OnceLock::new();
        &KEYS.get_or_init(|| (0..16).map(|_| Self::generate()).collect())[n]
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(&SystemRandom::new(), message).expect("a signature").as_ref().to_vec()
    }
}

/// Contents of a certificate.
#[derive(Clone)]
pub struct Spec {
    /// 1, 2 or 3.
    pub version: u8,
    /// INTEGER contents.
    pub serial: Vec<u8>,
    /// Name DER.
    pub issuer: Vec<u8>,
    pub subject: Vec<u8>,
    /// Text of a UTCTime, or of a GeneralizedTime if it is longer.
    pub not_before: String,
    pub not_after: String,
    /// OID contents, critical flag and DER of each extension.
    pub extensions: Vec<(Vec<u8>, bool, Vec<u8>)>,
    /// AlgorithmIdentifier in the certificate.  The signature is always ECDSA with SHA-256.
    pub algorithm: Vec<u8>,
}

impl Spec {
    /// Creates a certificate of version 3 without extensions, valid from 2025 through 2035.
    pub fn new(subject: Vec<u8>, issuer: Vec<u8>) -> Self {
        Self {
            version: 3,
            serial: vec![0x42],
            issuer,
            subject,
            not_before: "250101000000Z".into(),
            not_after: "351231235959Z".into(),
            extensions: Vec::new(),
            algorithm: ECDSA_SHA256.to_vec(),
        }
    }

    /// Creates a valid authority.
    pub fn authority(subject: Vec<u8>, issuer: Vec<u8>) -> Self {
        Self::new(subject, issuer).with(BASIC_CONSTRAINTS, true, seq(&[tlv(1, &[0xff])])).with(
            KEY_USAGE,
            true,
            key_usage(&[5, 6]),
        )
    }

    /// Creates a valid device certificate.
    pub fn device(subject: Vec<u8>, issuer: Vec<u8>) -> Self {
        Self::new(subject, issuer).with(KEY_USAGE, true, key_usage(&[0])).with(
            EXTENDED_KEY_USAGE,
            false,
            seq(&[oid(CLIENT_AUTH)]),
        )
    }

    /// Adds an extension and removes an earlier one with the same OID.
    #[must_use]
    pub fn with(mut self, kind: &[u8], critical: bool, der: Vec<u8>) -> Self {
        self = self.without(kind);
        self.extensions.push((kind.to_vec(), critical, der));
        self
    }

    #[must_use]
    pub fn without(mut self, kind: &[u8]) -> Self {
        self.extensions.retain(|(oid, _, _)| oid != kind);
        self
    }

    #[must_use]
    pub fn path_length(self, length: u32) -> Self {
        self.with(BASIC_CONSTRAINTS, true, seq(&[tlv(1, &[0xff]), uint(length)]))
    }

    #[must_use]
    pub fn key_ids(self, own: &Key, issuer: &Key) -> Self {
        self.with(SUBJECT_KEY_ID, false, tlv(4, &own.id)).with(
            AUTHORITY_KEY_ID,
            false,
            seq(&[tlv(0x80, &issuer.id)]),
        )
    }

    #[must_use]
    pub fn serial(mut self, contents: &[u8]) -> Self {
        self.serial = contents.to_vec();
        self
    }

    #[must_use]
    pub fn valid(mut self, not_before: &str, not_after: &str) -> Self {
        self.not_before = not_before.into();
        self.not_after = not_after.into();
        self
    }

    /// Encodes the certificate of `key`, signed by `signer`.
    pub fn sign(&self, key: &Key, signer: &Key) -> Vec<u8> {
        let time = |text: &str| tlv(if text.len() > 13 { 0x18 } else { 0x17 }, text.as_bytes());
        let mut parts = Vec::new();
        if self.version > 1 {
            parts.push(tlv(0xa0, &uint(u32::from(self.version) - 1)));
        }
        parts.push(tlv(2, &self.serial));
        parts.push(self.algorithm.clone());
        parts.push(self.issuer.clone());
        parts.push(seq(&[time(&self.not_before), time(&self.not_after)]));
        parts.push(self.subject.clone());
        parts.push(key.spki.clone());
        if !self.extensions.is_empty() {
            let extensions: Vec<Vec<u8>> = self
                .extensions
                .iter()
                .map(|(kind, critical, der)| {
                    let mut parts = vec![oid(kind)];
                    if *critical {
                        parts.push(tlv(1, &[0xff]));
                    }
                    parts.push(tlv(4, der));
                    seq(&parts)
                })
                .collect();
            parts.push(tlv(0xa3, &seq(&extensions)));
        }
        let tbs = seq(&parts);
        let signature = signer.sign(&tbs);
        seq(&[tbs, self.algorithm.clone(), tlv(3, &[&[0], &signature[..]].concat())])
    }
}

/// Encodes a complete list of `issuer` with number 7 and these serials (INTEGER contents) and
/// reason codes.
pub fn crl(
    issuer: &[u8],
    this_update: &str,
    next_update: &str,
    entries: &[(&[u8], Option<u8>)],
    signer: &Key,
) -> Vec<u8> {
    let time = |text: &str| tlv(0x17, text.as_bytes());
    let mut parts =
        vec![uint(1), ECDSA_SHA256.to_vec(), issuer.to_vec(), time(this_update), time(next_update)];
    let entries: Vec<Vec<u8>> = entries
        .iter()
        .map(|(serial, reason)| {
            let mut entry = vec![tlv(2, serial), time(this_update)];
            if let Some(reason) = reason {
                let code = seq(&[oid(&[0x55, 0x1d, 21]), tlv(4, &tlv(10, &[*reason]))]);
                entry.push(seq(&[code]));
            }
            seq(&entry)
        })
        .collect();
    if !entries.is_empty() {
        parts.push(seq(&entries));
    }
    let number = seq(&[oid(&[0x55, 0x1d, 20]), tlv(4, &uint(7))]);
    parts.push(tlv(0xa0, &seq(&[number])));
    let tbs = seq(&parts);
    let signature = signer.sign(&tbs);
    seq(&[tbs, ECDSA_SHA256.to_vec(), tlv(3, &[&[0], &signature[..]].concat())])
}

pub fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|l| std::str::from_utf8(l).expect("ASCII")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
