//! `[revocation]`: how lists are fetched, and what is demanded of them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::config::read::{Section, file, text};
use crate::crl;
use crate::trust::revocation::{AuthorityPolicy, CrlMode, ListPolicy, Selector};
use crate::x509::certificate::Fingerprint;
use crate::x509::name::parse::from_rfc4514;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// Authorities that are told apart.
const MAX_AUTHORITIES: usize = 1_000;
/// Octets of a subject key identifier.
const MAX_KEY_ID: usize = 64;

/// What `[revocation]` says.
pub struct Revocation {
    /// How lists are fetched.
    pub crl: crl::Config,
    /// What is demanded of them.
    pub lists: ListPolicy,
    /// Authorities without an address need one too.
    pub require_crl: bool,
}

/// Reads the section.
pub fn read(top: &mut Section, folder: &Path, data_dir: Option<&Path>) -> Revocation {
    let mut section = top.section("revocation");
    let lists = lists(&mut section);
    Revocation {
        require_crl: section.flag("require_crl").unwrap_or(false),
        crl: crl::Config { policy: lists.clone(), ..fetching(&mut section, folder, data_dir) },
        lists,
    }
}

fn lists(section: &mut Section) -> ListPolicy {
    let grace = section.duration("grace", Duration::ZERO..=30 * DAY).unwrap_or_default();
    let mut authorities: Vec<AuthorityPolicy> = Vec::new();
    let mut entries = section.sections("authority");
    if entries.len() > MAX_AUTHORITIES {
        let (found, limit) = (Some(entries.len().to_string()), MAX_AUTHORITIES);
        section.problem("authority", found, format!("at most {limit} authorities are told apart"));
    }
    for entry in &mut entries {
        let policy = authority(entry);
        if policy.selector == Selector::default() {
            entry.problem("key_id", None, "missing, and so are subject and sha256: whose is it?");
        } else if authorities.iter().any(|other| other.selector == policy.selector) {
            entry.problem("key_id", None, "an entry above names the same authority");
        }
        authorities.push(policy);
    }
    ListPolicy {
        grace,
        require_delta: section.flag("require_delta").unwrap_or(false),
        without_next_update: section.flag("without_next_update").unwrap_or(false),
        authorities,
    }
}

fn authority(section: &mut Section) -> AuthorityPolicy {
    let key_id = section.take("key_id", "a subject key identifier in hexadecimal", |value| {
        hex(value.as_str()?).filter(|id| (1..=MAX_KEY_ID).contains(&id.len())).map(Vec::into)
    });
    let subject =
        section.take("subject", "a subject as RFC 4514 writes it: CN=…,O=…", |value| {
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

/// Hexadecimal digits, `:` between octets allowed.
pub fn hex(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.replace(':', "");
    let octet = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
        pair.chars().all(|c| c.is_ascii_hexdigit()).then(|| u8::from_str_radix(pair, 16).ok())?
    };
    digits.as_bytes().chunks(2).map(octet).collect()
}

fn fetching(section: &mut Section, folder: &Path, data_dir: Option<&Path>) -> crl::Config {
    let mut config = crl::Config {
        directory: Some(data_dir.unwrap_or(folder).join("crl")),
        ..crl::Config::default()
    };
    let timing = &mut config.timing;
    timing.min = section.duration("min_interval", SECOND..=DAY).unwrap_or(timing.min);
    timing.max = section.duration("max_interval", SECOND..=DAY).unwrap_or(timing.max);
    timing.file = section.duration("file_interval", SECOND..=HOUR).unwrap_or(timing.file);
    if timing.min > timing.max {
        section.problem(
            "min_interval",
            Some(format!("{:?}", timing.min)),
            format!("it must not be above max_interval, which is {:?}", timing.max),
        );
    }
    if section.flag("certificate_addresses") == Some(true) {
        config.sightings = Some(Arc::default());
    }
    if let Some(parallel) = section.number("parallel", 1..=256) {
        config.parallel = parallel as usize;
    }
    let transport = &mut config.transport;
    if let Some(bytes) = section.number("max_bytes", 1024..=4 * 1024 * 1024 * 1024) {
        transport.max_bytes = bytes;
    }
    transport.timeout = section.duration("timeout", SECOND..=HOUR).unwrap_or(transport.timeout);
    transport.public_only = section.flag("private_addresses") == Some(false);
    transport.files = section.flag("files").unwrap_or(false);
    transport.proxy = section.url("proxy");
    if let Some(path) = section.file("ca_bundle") {
        match file(&folder.join(&path)) {
            Ok(pem) => transport.roots_pem = Some(pem),
            Err(error) => {
                let why = format!("it must be a PEM file that can be read: {error}");
                section.problem("ca_bundle", Some(format!("`{}`", path.display())), why);
            }
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read::Problems;
    use proptest::prelude::*;

    fn read_text(text: &str) -> (Revocation, Vec<String>) {
        let problems = Problems::default();
        let mut top = Section::top(text.parse().expect("TOML"), &problems);
        let read = read(&mut top, Path::new("/etc"), None);
        drop(top);
        let told = problems.borrow().iter().map(ToString::to_string).collect();
        (read, told)
    }

    #[test]
    fn an_authority_is_named_and_told_apart() {
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
        assert_eq!(read.crl.policy.authorities.len(), 3, "who fetches knows it too");
    }

    #[test]
    fn an_entry_that_names_nobody_or_somebody_twice_is_a_problem() {
        let (_, problems) = read_text(
            "[[revocation.authority]]\nmode = 'off'\n\
             [[revocation.authority]]\nkey_id = '01'\n\
             [[revocation.authority]]\nkey_id = '01'\nmode = 'never'\n\
             [[revocation.authority]]\nkey_id = '0'\nsha256 = '01'\nsubject = 'nobody'",
        );
        for told in [
            "revocation.authority[0].key_id: missing",
            "revocation.authority[2].key_id: an entry above",
            "revocation.authority[2].mode: `\"never\"`",
            "revocation.authority[3].key_id: `\"0\"`",
            "revocation.authority[3].sha256: `\"01\"`",
            "revocation.authority[3].subject: `\"nobody\"`",
        ] {
            assert!(problems.iter().any(|p| p.starts_with(told)), "{told} is not in {problems:#?}");
        }
        let many = "[[revocation.authority]]\nkey_id = '01'\n".repeat(MAX_AUTHORITIES + 1);
        assert!(read_text(&many).1.iter().any(|p| p.contains("at most 1000")));
    }

    proptest! {
        #[test]
        fn hexadecimal_round_trips(octets in proptest::collection::vec(any::<u8>(), 0..40)) {
            let text: String = octets.iter().map(|b| format!("{b:02X}")).collect();
            prop_assert_eq!(hex(&text), Some(octets));
        }

        #[test]
        fn no_digits_make_it_panic(text in "\\PC{0,24}") {
            let _ = hex(&text);
        }
    }
}
