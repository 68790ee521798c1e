//! Freshness of a response, as its server states it.

use std::time::Duration;

use reqwest::header::{self, HeaderMap};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::http::delta_seconds::{MAX_DELTA, delta_seconds};
use crate::http::outbound::header_text;

/// The remaining freshness lifetime (RFC 9111 section 4.2): max-age or Expires, minus Age.  It is at most
/// [`MAX_DELTA`].
pub(super) fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let mut lifetime = None;
    for directive in headers
        .get_all(header::CACHE_CONTROL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
    {
        match directive.trim().to_ascii_lowercase().split_once('=') {
            None if matches!(directive.trim(), "no-cache" | "no-store") => {
                return Some(Duration::ZERO);
            }
            Some(("max-age", value)) => lifetime = delta_seconds(value.trim_matches('"')),
            _ => {}
        }
    }
    let lifetime = lifetime.or_else(|| {
        let date = |name| OffsetDateTime::parse(&header_text(headers, &name)?, &Rfc2822).ok();
        let lifetime = date(header::EXPIRES)? - date(header::DATE)?;
        let seconds = u64::try_from(lifetime.whole_seconds()).unwrap_or(0);
        Some(Duration::from_secs(seconds).min(MAX_DELTA))
    })?;
    let age = header_text(headers, &header::AGE).and_then(|age| delta_seconds(&age));
    Some(lifetime.saturating_sub(age.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn age(pairs: &[(header::HeaderName, &str)]) -> Option<u64> {
        let pair = |(name, value): &(header::HeaderName, &str)| {
            (name.clone(), value.parse().expect("a header value"))
        };
        max_age(&pairs.iter().map(pair).collect()).map(|age| age.as_secs())
    }

    #[test]
    fn computes_the_freshness_lifetime() {
        assert_eq!(age(&[]), None);
        assert_eq!(age(&[(header::CACHE_CONTROL, "public, Max-Age=60")]), Some(60));
        assert_eq!(age(&[(header::CACHE_CONTROL, "max-age=60"), (header::AGE, "45")]), Some(15));
        assert_eq!(age(&[(header::CACHE_CONTROL, "max-age=60"), (header::AGE, "450")]), Some(0));
        assert_eq!(age(&[(header::CACHE_CONTROL, "no-cache, max-age=60")]), Some(0));
        assert_eq!(age(&[(header::CACHE_CONTROL, "max-age=soon")]), None);
        let date = (header::DATE, "Sat, 21 Nov 2026 08:00:00 GMT");
        assert_eq!(age(&[date, (header::EXPIRES, "Sat, 21 Nov 2026 09:00:00 GMT")]), Some(3600));
        let date = (header::DATE, "Sat, 21 Nov 2026 08:00:00 GMT");
        assert_eq!(age(&[date, (header::EXPIRES, "0")]), None);
    }

    #[test]
    fn bounds_what_a_server_states() {
        let limit = Some(MAX_DELTA.as_secs());
        for long in ["2147483649", "18446744073709551615", "99999999999999999999999"] {
            let stated = format!("max-age={long}");
            assert_eq!(age(&[(header::CACHE_CONTROL, &stated)]), limit, "{long}");
            let old = [(header::CACHE_CONTROL, "max-age=60"), (header::AGE, long)];
            assert_eq!(age(&old), Some(0), "{long}");
        }
        let date = |at| (header::DATE, at);
        let expires = |at| (header::EXPIRES, at);
        let (early, late) = ("Mon, 01 Jan 1900 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT");
        assert_eq!(age(&[date(early), expires(late)]), limit);
        assert_eq!(age(&[date(late), expires(early)]), Some(0));
        for wrong in ["-1", "+1", "1.5", "soon", ""] {
            let stated = format!("max-age={wrong}");
            assert_eq!(age(&[(header::CACHE_CONTROL, &stated)]), None, "{wrong}");
            let old = [(header::CACHE_CONTROL, "max-age=60"), (header::AGE, wrong)];
            assert_eq!(age(&old), Some(60), "{wrong}");
        }
    }
}
