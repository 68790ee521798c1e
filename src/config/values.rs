//! Conversion of single TOML values.

use std::fmt;
use std::time::Duration;

use toml::Value;
use url::{Host, Url};

/// A text that is not empty.
pub(super) fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|s| !s.trim().is_empty()).map(str::to_owned)
}

/// An absolute http or https URL.
pub(super) fn url(value: &Value) -> Option<Url> {
    let url = Url::parse(value.as_str()?).ok()?;
    (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(url)
}

/// True for a text that is a URL except for its port.
pub(super) fn has_impossible_port(value: &Value) -> bool {
    value.as_str().map(Url::parse) == Some(Err(url::ParseError::InvalidPort))
}

/// An https URL, or an http URL on loopback: secrets and keys do not cross a network in the clear.
pub(super) fn secure_url(value: &Value) -> Option<Url> {
    url(value).filter(|url| url.scheme() == "https" || is_loopback(url))
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Hexadecimal digits, with or without `:` between the bytes.
pub(super) fn hex(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.replace(':', "");
    let byte = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
        pair.chars().all(|c| c.is_ascii_hexdigit()).then(|| u8::from_str_radix(pair, 16).ok())?
    };
    digits.as_bytes().chunks(2).map(byte).collect()
}

/// A whole number with the unit `ms`, `s`, `m`, `h` or `d`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let unit = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit);
    let number: u64 = number.parse().ok()?;
    let seconds = match unit {
        "ms" => return Some(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    number.checked_mul(seconds).map(Duration::from_secs)
}

/// Prints a duration in the largest unit that represents it exactly.
pub(super) struct ShortDuration(pub(super) Duration);

impl fmt::Display for ShortDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.subsec_millis() != 0 {
            return write!(f, "{}ms", self.0.as_millis());
        }
        let seconds = self.0.as_secs();
        for (unit, size) in [("d", 86_400), ("h", 3_600), ("m", 60)] {
            if seconds >= size && seconds.is_multiple_of(size) {
                return write!(f, "{}{unit}", seconds / size);
            }
        }
        write!(f, "{seconds}s")
    }
}

/// A value for a message, in backticks.
pub(super) fn excerpt(value: &Value) -> String {
    format!("`{}`", bounded(&value.to_string()))
}

/// The text, with at most 80 characters, on one line.
pub(super) fn bounded(text: &str) -> String {
    const MAX: usize = 80;
    let mut text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if let Some((end, _)) = text.char_indices().nth(MAX) {
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn durations_round_trip(seconds in 0u64..10_000_000) {
            let printed = ShortDuration(Duration::from_secs(seconds)).to_string();
            prop_assert_eq!(duration(&printed), Some(Duration::from_secs(seconds)));
        }

        #[test]
        fn hexadecimal_round_trips(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let text: String = bytes.iter().map(|b| format!("{b:02X}")).collect();
            prop_assert_eq!(hex(&text), Some(bytes));
        }

        #[test]
        fn no_text_causes_a_panic(text in "\\PC{0,24}") {
            let _ = (duration(&text), hex(&text));
        }
    }
}
