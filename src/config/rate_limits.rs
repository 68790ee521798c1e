//! `[rate_limits]`: rate limits of token requests.

use std::time::Duration;

use crate::config::section::Section;
use crate::config::values::duration;
use crate::oauth::rates::{Rate, RateLimits};

/// Longest time in which a bucket is refilled.
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Reads the limits.
pub(super) fn read(top: &mut Section<'_>) -> RateLimits {
    top.section("rate_limits", |section| {
        let default = RateLimits::default();
        RateLimits {
            address: rate(section, "address"),
            subject: rate(section, "subject"),
            client: rate(section, "client"),
            configuration: rate(section, "configuration"),
            ipv6_prefix: section
                .size("ipv6_prefix", 32..=128)
                .and_then(|bits| u8::try_from(bits).ok())
                .unwrap_or(default.ipv6_prefix),
            entries: section.size("entries", 1_024..=16_777_216).unwrap_or(default.entries),
        }
    })
}

fn rate(section: &mut Section<'_>, key: &'static str) -> Option<Rate> {
    let allowed = "a number of requests and a time, such as 60/1m: from 1 to 1000000, and from 1s to \
                   24h";
    section.take(key, allowed, |value| {
        let (tokens, per) = value.as_str()?.split_once('/')?;
        let tokens = tokens.parse().ok().filter(|tokens| (1..=1_000_000).contains(tokens))?;
        let per = duration(per).filter(|per| (Duration::from_secs(1)..=DAY).contains(per))?;
        Some(Rate { tokens, per })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::section::read_text;

    #[test]
    fn reads_rates_and_limits_nothing_by_default() {
        let (limits, problems) = read_text("", read);
        assert!(problems.is_empty());
        assert_eq!((limits.address, limits.subject, limits.client), (None, None, None));
        let text = "[rate_limits]\nsubject = '6/1m'\naddress = '1000/1s'\nipv6_prefix = 56";
        let (limits, problems) = read_text(text, read);
        assert!(problems.is_empty(), "{problems:?}");
        let rate = |tokens, seconds| Some(Rate { tokens, per: Duration::from_secs(seconds) });
        assert_eq!((limits.subject, limits.address), (rate(6, 60), rate(1_000, 1)));
        assert_eq!(limits.ipv6_prefix, 56);
    }

    #[test]
    fn refuses_values_that_are_not_rates() {
        for wrong in ["'6'", "'0/1m'", "'-1/1m'", "'1/0s'", "'1/2d'", "'1000001/1s'", "6", "'/'"] {
            let (_, problems) = read_text(&format!("[rate_limits]\nclient = {wrong}"), read);
            assert_eq!(problems.len(), 1, "{wrong}: {problems:?}");
            assert!(problems[0].starts_with("rate_limits.client: "), "{problems:?}");
        }
    }
}
