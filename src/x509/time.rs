//! Timestamps with a resolution of one second, in the encodings of X.509 and RFC 3339.

use std::fmt;
use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::x509::der::{DerError, Element, tag};

/// Seconds since 1970-01-01T00:00:00Z; negative before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

/// Prints a time span in one unit, rounded down.
pub(crate) fn span(time: Duration) -> String {
    match time.as_secs() {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ ..7_200 => format!("{} min", seconds / 60),
        seconds @ ..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

impl Timestamp {
    /// Returns the time `duration` later, saturating.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)))
    }

    /// Returns the time since `earlier`, or zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Parses an RFC 3339 date and time such as `2026-11-21T08:00:00Z`.  Fractions of a second are
    /// dropped.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        OffsetDateTime::parse(text, &Rfc3339).ok().map(|t| Self(t.unix_timestamp()))
    }

    /// Parses the contents of a UTCTime or GeneralizedTime as profiled by RFC 5280 section 4.1.2.5:
    /// seconds present, no fractions, in UTC with a final `Z`.
    pub(crate) fn from_der(element: Element<'_>) -> Result<Self, DerError> {
        const BAD: DerError = DerError::Value("time is not YYMMDDHHMMSSZ or YYYYMMDDHHMMSSZ");
        let (century, digits) = match (element.tag, element.value.split_last()) {
            (tag::UTC_TIME, Some((b'Z', digits))) if digits.len() == 12 => (None, digits),
            (tag::GENERALIZED_TIME, Some((b'Z', digits))) if digits.len() == 14 => {
                (Some(pair(digits).ok_or(BAD)?), &digits[2..])
            }
            _ => return Err(BAD),
        };
        let mut fields = [0u8; 6];
        for (field, two) in fields.iter_mut().zip(digits.chunks(2)) {
            *field = pair(two).ok_or(BAD)?;
        }
        let [yy, month, day, hour, minute, second] = fields;
        // Two-digit years from 50 to 99 mean 1950 to 1999 (RFC 5280 section 4.1.2.5.1).
        let century = century.unwrap_or(if yy >= 50 { 19 } else { 20 });
        let year = i32::from(century) * 100 + i32::from(yy);
        let month = time::Month::try_from(month).map_err(|_| BAD)?;
        let date = time::Date::from_calendar_date(year, month, day).map_err(|_| BAD)?;
        let at = time::Time::from_hms(hour, minute, second).map_err(|_| BAD)?;
        Ok(Self(OffsetDateTime::new_utc(date, at).unix_timestamp()))
    }
}

fn pair(digits: &[u8]) -> Option<u8> {
    match digits {
        [a @ b'0'..=b'9', b @ b'0'..=b'9', ..] => Some((a - b'0') * 10 + (b - b'0')),
        _ => None,
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match OffsetDateTime::from_unix_timestamp(self.0).map(|t| t.format(&Rfc3339)) {
            Ok(Ok(text)) => f.write_str(&text),
            _ => write!(f, "{} s after 1970", self.0),
        }
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => Self(i64::try_from(after.as_secs()).unwrap_or(i64::MAX)),
            Err(before) => Self(-i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(tag: u8, text: &str) -> Result<Timestamp, DerError> {
        Timestamp::from_der(Element { tag, value: text.as_bytes(), raw: text.as_bytes() })
    }

    #[test]
    fn parses_utc_time_and_generalized_time() {
        let text = |t: Timestamp| t.to_string();
        assert_eq!(
            read(tag::UTC_TIME, "491231235959Z").map(text).as_deref(),
            Ok("2049-12-31T23:59:59Z")
        );
        assert_eq!(
            read(tag::UTC_TIME, "500101000000Z").map(text).as_deref(),
            Ok("1950-01-01T00:00:00Z")
        );
        assert_eq!(
            read(tag::GENERALIZED_TIME, "20500101000000Z").map(text).as_deref(),
            Ok("2050-01-01T00:00:00Z")
        );
    }

    #[test]
    fn rejects_other_time_formats() {
        for (tag, text) in [
            (tag::UTC_TIME, "4912312359Z"),
            (tag::UTC_TIME, "491231235959+0100"),
            (tag::UTC_TIME, "490231235959Z"),
            (tag::GENERALIZED_TIME, "20500101000000.5Z"),
            (tag::GENERALIZED_TIME, "20500101000060Z"),
            (tag::GENERALIZED_TIME, ""),
            (tag::OCTET_STRING, "20500101000000Z"),
        ] {
            assert!(read(tag, text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn rfc3339_round_trips(seconds in -2_000_000_000i64..20_000_000_000) {
            let t = Timestamp(seconds);
            prop_assert_eq!(Timestamp::parse_rfc3339(&t.to_string()), Some(t));
        }

        #[test]
        fn does_not_panic_on_any_time(text in "\\PC{0,20}", t in 0x15u8..0x1a) {
            let _ = read(t, &text);
        }
    }
}
