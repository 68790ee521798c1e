//! Random values that are not keys: identifiers and jitter.

use std::fmt::Write as _;
use std::time::Duration;

/// Returns a random GUID (RFC 9562 section 5.4) in the format of Microsoft Graph.
pub fn guid() -> String {
    let mut bytes: [u8; 16] = bytes();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// True if `text` consists of 8-4-4-4-12 hexadecimal digits.
pub fn is_guid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

/// Returns a time between zero and `most` (full jitter), so that the retries of a fleet spread out.
pub fn jitter(most: Duration) -> Duration {
    let bits = u32::from_be_bytes(bytes());
    most.mul_f64(f64::from(bits) / f64::from(u32::MAX))
}

#[allow(clippy::expect_used, reason = "the message is a proof")]
fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes)
        .expect("proof: AWS-LC aborts the process if it has no random bytes");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guids_are_valid_and_distinct() {
        let (a, b) = (guid(), guid());
        assert!(is_guid(&a) && is_guid(&b) && a != b);
        assert_eq!(&a[14..15], "4");
        assert!(!is_guid("x") && !is_guid(&"a".repeat(36)));
    }

    #[test]
    fn jitter_stays_within_the_limit() {
        assert!((0..100).all(|_| jitter(Duration::from_secs(3)) <= Duration::from_secs(3)));
    }
}
