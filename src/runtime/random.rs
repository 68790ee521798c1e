//! Random values that are not keys: identifiers and jitter.

use std::cell::Cell;
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
pub(crate) fn is_guid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

thread_local! {
    /// State of a repeatable sequence; `None` for random values.
    static REPEATABLE: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Makes [`jitter`] return the same sequence on this thread after each call with `seed`, so that a
/// simulation can be repeated.
pub fn repeat_jitter(seed: u32) {
    REPEATABLE.set(Some(seed));
}

/// Returns a time between zero and `most` (full jitter), so that the retries of a fleet spread out.
pub fn jitter(most: Duration) -> Duration {
    // A linear congruential generator (Numerical Recipes); its high bits are good enough for pauses.
    let next = REPEATABLE.get().map(|n| n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    REPEATABLE.set(next);
    let bits = next.unwrap_or_else(|| u32::from_be_bytes(bytes()));
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
    fn jitter_repeats_with_a_seed() {
        let five = || [(); 5].map(|()| jitter(Duration::from_secs(3600)));
        let seeded = |seed| {
            repeat_jitter(seed);
            five()
        };
        let first = seeded(1);
        assert_eq!(first, seeded(1));
        assert_ne!(first, five());
        assert_ne!(first, seeded(2));
    }

    #[test]
    fn jitter_stays_within_the_limit() {
        assert!((0..100).all(|_| jitter(Duration::from_secs(3)) <= Duration::from_secs(3)));
    }
}
