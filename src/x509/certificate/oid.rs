//! OBJECT IDENTIFIER contents that this crate uses.

pub(crate) const SUBJECT_KEY_IDENTIFIER: &[u8] = &[0x55, 0x1d, 14];
pub const KEY_USAGE: &[u8] = &[0x55, 0x1d, 15];
pub const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 17];
pub(crate) const ISSUER_ALT_NAME: &[u8] = &[0x55, 0x1d, 18];
pub const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];
pub(crate) const CRL_NUMBER: &[u8] = &[0x55, 0x1d, 20];
pub(crate) const REASON_CODE: &[u8] = &[0x55, 0x1d, 21];
pub(crate) const INVALIDITY_DATE: &[u8] = &[0x55, 0x1d, 24];
pub(crate) const DELTA_CRL_INDICATOR: &[u8] = &[0x55, 0x1d, 27];
pub(crate) const ISSUING_DISTRIBUTION_POINT: &[u8] = &[0x55, 0x1d, 28];
pub(crate) const CERTIFICATE_ISSUER: &[u8] = &[0x55, 0x1d, 29];
pub const NAME_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 30];
pub(crate) const CRL_DISTRIBUTION_POINTS: &[u8] = &[0x55, 0x1d, 31];
pub const CERTIFICATE_POLICIES: &[u8] = &[0x55, 0x1d, 32];
pub const ANY_POLICY: &[u8] = &[0x55, 0x1d, 32, 0];
pub const POLICY_MAPPINGS: &[u8] = &[0x55, 0x1d, 33];
pub(crate) const AUTHORITY_KEY_IDENTIFIER: &[u8] = &[0x55, 0x1d, 35];
pub const POLICY_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 36];
pub const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 37];
pub(crate) const FRESHEST_CRL: &[u8] = &[0x55, 0x1d, 46];
pub const INHIBIT_ANY_POLICY: &[u8] = &[0x55, 0x1d, 54];
pub(crate) const ANY_EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 37, 0];
pub const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];
pub(crate) const EMAIL_ADDRESS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1];
