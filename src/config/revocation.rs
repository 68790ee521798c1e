//! `[revocation]`: fetching of revocation lists, and the rules that they must meet.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::config::section::Section;
use crate::config::values::{ShortDuration, hex, text};
use crate::crl;
use crate::trust::revocation::{AuthorityPolicy, CrlMode, ListPolicy, Selector};
use crate::x509::certificate::Fingerprint;
use crate::x509::name::parse::from_rfc4514;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// Limit on `[[revocation.authority]]` entries.
const MAX_AUTHORITIES: usize = 1_000;
/// Limit in bytes on a subject key identifier.
const MAX_KEY_ID: usize = 64;

/// Settings of `[revocation]`.
pub(super) struct Revocation {
    /// Fetching of lists.
    pub(super) crl: crl::Config,
    /// Rules for lists.
    pub(super) lists: ListPolicy,
    /// Authorities without a CRL address need a list too.
    pub(super) require_crl: bool,
}

/// Reads the section.
pub(super) fn read(top: &mut Section<'_>, folder: &Path, data_dir: Option<&Path>) -> Revocation {
    top.section("revocation", |section| {
        let lists = lists(section);
        Revocation {
            require_crl: section.flag("require_crl").unwrap_or(false),
            crl: crl::Config { policy: lists.clone(), ..fetching(section, folder, data_dir) },
            lists,
        }
    })
}

fn lists(section: &mut Section<'_>) -> ListPolicy {
    let grace = section.duration("grace", Duration::ZERO..=30 * DAY).unwrap_or_default();
    let mut authorities: Vec<AuthorityPolicy> = Vec::new();
    section.sections("authority", |entry| {
        let policy = authority(entry);
        if policy.selector == Selector::default() {
            entry.problem("key_id", None, "missing: set `key_id`, `subject` or `sha256`");
        } else if authorities.iter().any(|other| other.selector == policy.selector) {
            entry.problem("key_id", None, "an earlier entry selects the same authority");
        }
        authorities.push(policy);
    });
    if authorities.len() > MAX_AUTHORITIES {
        let found = Some(authorities.len().to_string());
        section.problem("authority", found, format!("at most {MAX_AUTHORITIES} entries"));
    }
    ListPolicy {
        grace,
        require_delta: section.flag("require_delta").unwrap_or(false),
        without_next_update: section.flag("without_next_update").unwrap_or(false),
        authorities,
    }
}

fn authority(section: &mut Section<'_>) -> AuthorityPolicy {
    let key_id = section.take("key_id", "a subject key identifier in hexadecimal", |value| {
        hex(value.as_str()?).filter(|id| (1..=MAX_KEY_ID).contains(&id.len())).map(Vec::into)
    });
    let subject = section.take("subject", "a subject as RFC 4514 text: CN=…,O=…", |value| {
        from_rfc4514(&text(value)?).ok()
    });
    let sha256 = section.take("sha256", "the SHA-256 of a certificate in hexadecimal", |value| {
        Some(Fingerprint(hex(value.as_str()?)?.try_into().ok()?))
    });
    let modes = CrlMode::ALL.map(|mode| (mode.as_str(), mode));
    AuthorityPolicy {
        selector: Selector { key_id, subject, sha256 },
        mode: section.choice("mode", &modes),
        grace: section.duration("grace", Duration::ZERO..=30 * DAY),
        require_delta: section.flag("require_delta"),
        without_next_update: section.flag("without_next_update"),
    }
}

fn fetching(section: &mut Section<'_>, folder: &Path, data_dir: Option<&Path>) -> crl::Config {
    let mut config = crl::Config {
        directory: Some(data_dir.unwrap_or(folder).join("crl")),
        ..crl::Config::default()
    };
    let timing = &mut config.timing;
    timing.min = section.duration("min_interval", SECOND..=DAY).unwrap_or(timing.min);
    if let Some(max) = section.duration("max_interval", SECOND..=DAY) {
        (timing.max, timing.max_unconditional) = (max, max);
    }
    timing.file = section.duration("file_interval", SECOND..=HOUR).unwrap_or(timing.file);
    if timing.min > timing.max {
        let (min, max) = (ShortDuration(timing.min), ShortDuration(timing.max));
        let allowed = format!("it must not exceed max_interval, which is {max}");
        section.problem("min_interval", Some(format!("`{min}`")), allowed);
    }
    if section.flag("certificate_addresses") == Some(true) {
        config.address_record = Some(Arc::default());
    }
    config.parallel = section.size("parallel", 1..=256).unwrap_or(config.parallel);
    let transport = &mut config.transport;
    let max_bytes = section.number("max_bytes", 1024..=4 * 1024 * 1024 * 1024);
    transport.max_bytes = max_bytes.unwrap_or(transport.max_bytes);
    transport.timeout = section.duration("timeout", SECOND..=HOUR).unwrap_or(transport.timeout);
    transport.public_only = section.flag("private_addresses") == Some(false);
    transport.files = section.flag("files").unwrap_or(false);
    transport.proxy = section.url("proxy");
    transport.roots_pem = section.file_contents("ca_bundle", folder);
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::section;

    fn read_text(text: &str) -> (Revocation, Vec<String>) {
        section::read_text(text, |top| read(top, Path::new("/etc"), None))
    }

    #[test]
    fn reads_rules_for_single_authorities() {
        let (read, problems) = read_text(
            "[revocation]\ngrace = '1h'\n\
             [[revocation.authority]]\nkey_id = 'AB:cd01'\nmode = 'if-available'\ngrace = '2h'\n\
             [[revocation.authority]]\nsubject = 'CN=Old,O=Acme'\nmode = 'off'\n\
             [[revocation.authority]]\nsubject = 'CN=New'\nrequire_delta = true",
        );
        assert_eq!(problems, [] as [String; 0]);
        let [first, second, third] = &read.lists.authorities[..] else { panic!("three") };
        assert_eq!(first.selector.key_id.as_deref(), Some(&[0xab, 0xcd, 1][..]));
        assert_eq!(first.mode, Some(CrlMode::IfAvailable));
        assert_eq!(first.grace, Some(2 * HOUR));
        assert_eq!(second.selector.to_string(), "subject `CN=Old,O=Acme`");
        assert_eq!((second.mode, second.grace), (Some(CrlMode::Off), None));
        assert_eq!((third.mode, third.require_delta), (None, Some(true)));
        assert_eq!(read.crl.policy.authorities.len(), 3, "the CRL source has the rules too");
    }

    #[test]
    fn rejects_an_entry_without_selector_or_with_one_used_before() {
        let (_, problems) = read_text(
            "[[revocation.authority]]\nmode = 'off'\n\
             [[revocation.authority]]\nkey_id = '01'\n\
             [[revocation.authority]]\nkey_id = '01'\nmode = 'never'\n\
             [[revocation.authority]]\nkey_id = '0'\nsha256 = '01'\nsubject = 'no name'",
        );
        for expected in [
            "revocation.authority[0].key_id: missing",
            "revocation.authority[2].key_id: an earlier entry",
            "revocation.authority[2].mode: `\"never\"`",
            "revocation.authority[3].key_id: `\"0\"`",
            "revocation.authority[3].sha256: `\"01\"`",
            "revocation.authority[3].subject: `\"no name\"`",
        ] {
            assert!(
                problems.iter().any(|p| p.starts_with(expected)),
                "{expected} is not in {problems:#?}"
            );
        }
        let many = "[[revocation.authority]]\nkey_id = '01'\n".repeat(MAX_AUTHORITIES + 1);
        assert!(read_text(&many).1.iter().any(|p| p.contains("at most 1000")));
    }

    #[test]
    fn rejects_a_shortest_interval_above_the_longest() {
        let (_, problems) = read_text("[revocation]\nmin_interval = '2h'\nmax_interval = '1h'");
        assert_eq!(
            problems,
            [
                "revocation.min_interval: `2h` is not allowed; it must not exceed max_interval, which \
              is 1h"
            ]
        );
    }
}
