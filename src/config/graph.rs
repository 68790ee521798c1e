//! `[[graph]]` and `[[configuration]]`: the directories that trust is synced from.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use url::Url;

use crate::config::credential::{self, Environment};
use crate::config::section::Section;
use crate::config::values::{secure_url, text};
use crate::graph::auth::Cloud;
use crate::sync::{Config, RegisteredOnly, StartWithout, TooOld};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// Values of `devices`: true if a configuration admits registered devices only.
const DEVICES: [(&str, bool); 2] = [("any", false), ("registered", true)];

/// Reads every `[[graph]]`.  Returns `None` only after a problem was noted.
pub(super) fn read(
    top: &mut Section<'_>,
    folder: &Path,
    data_dir: Option<&Path>,
    environment: Environment<'_>,
) -> Option<Vec<Config>> {
    let several = top.array_len("graph") > 1;
    let mut sources =
        top.sections("graph", |section| source(section, several, folder, data_dir, environment));
    let mut names: Vec<_> = sources.iter().flatten().map(|s| s.source.to_string()).collect();
    names.sort_unstable();
    for duplicate in names.windows(2).filter(|pair| pair[0] == pair[1]) {
        let allowed = "the names of directories must differ";
        top.problem("graph", Some(format!("`{}`", duplicate[0])), allowed);
    }
    configurations(top, &mut sources);
    sources.into_iter().collect()
}

/// Reads every `[[configuration]]`: the settings of single configurations of a directory.
fn configurations(top: &mut Section<'_>, sources: &mut [Option<Config>]) {
    let mut seen = HashSet::new();
    top.sections("configuration", |section| {
        let id = section.require("id", "the configuration's id, as `trust show` prints it", text);
        let registered = section.choice("devices", &DEVICES);
        let Some(id) = id else { return };
        if !seen.insert(id.clone()) {
            let allowed = "another [[configuration]] has this id";
            section.problem("id", Some(format!("`{id}`")), allowed);
            return;
        }
        // If a directory has a problem, the configuration may belong to it.
        let all_read = sources.iter().all(Option::is_some);
        let contains = |source: &&mut Config| {
            !source.prefix_ids
                || id.strip_prefix(&*source.source).is_some_and(|rest| rest.starts_with('/'))
        };
        match (sources.iter_mut().flatten().find(contains), registered) {
            (Some(source), Some(registered)) => {
                source.devices.by_configuration.insert(id.as_str().into(), registered);
            }
            (None, _) if all_read => {
                let allowed = "no [[graph]] can contain it: with several, it begins with the name of \
                               one and `/`";
                section.problem("id", Some(format!("`{id}`")), allowed);
            }
            _ => {}
        }
    });
}

fn source(
    section: &mut Section<'_>,
    several: bool,
    folder: &Path,
    data_dir: Option<&Path>,
    environment: Environment<'_>,
) -> Option<Config> {
    let name = section.take("name", "letters, digits, `-` and `_`, at most 64", |value| {
        let fits = |s: &String| {
            s.len() <= 64 && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        };
        text(value).filter(fits)
    });
    if several && name.is_none() {
        section.problem("name", None, "missing: with several directories, each needs a name");
    }
    let name = name.unwrap_or_else(|| "directory".to_owned());
    let base = base(section);
    let credential = section.section("credential", |section| {
        credential::read(section, folder, base.as_ref(), environment)
    });
    let every = section.duration("every", SECOND..=DAY);
    let full_every = section.duration("full_every", Duration::from_secs(60)..=30 * DAY);
    let wait = section.duration("wait", SECOND..=Duration::from_secs(600));
    let max_removal = section.take("max_removal", "a number from 0.0 to 1.0", |value| {
        let part = value.as_float().or(value.as_integer().map(|n| n as f64))?;
        (0.0..=1.0).contains(&part).then_some(part)
    });
    let guard = section.flag("guard").unwrap_or(true);
    let guard_ambiguity = section.flag("guard_ambiguity").unwrap_or(false);
    let max_age = section.duration("max_age", SECOND..=365 * DAY);
    let choices = [("continue", TooOld::Continue), ("refuse", TooOld::Refuse)];
    let too_old = section.choice("too_old", &choices);
    let choices = [("refuse", StartWithout::Refuse), ("continue", StartWithout::Continue)];
    let start_without = section.choice("start_without", &choices);
    let guard_window = section.duration("guard_window", SECOND..=30 * DAY);
    let registered = section.choice("devices", &DEVICES).unwrap_or(false);
    let max_devices = section.size("max_devices", 1..=100_000_000);
    let ca_bundle = section.file_contents("ca_bundle", folder);

    // All keys are read.  A missing part was reported.
    let defaults = Config::new(&name, base?, credential?);
    Some(Config {
        prefix_ids: several,
        every: every.unwrap_or(defaults.every),
        full_every: full_every.unwrap_or(defaults.full_every),
        wait,
        max_removal: max_removal.unwrap_or(defaults.max_removal),
        guard,
        guard_ambiguity,
        max_age: max_age.unwrap_or(defaults.max_age),
        too_old: too_old.unwrap_or_default(),
        start_without: start_without.unwrap_or_default(),
        guard_window: guard_window.unwrap_or(defaults.guard_window),
        ca_bundle,
        state_file: data_dir.map(|dir| dir.join(format!("trust-{name}.state"))),
        devices: RegisteredOnly { registered, ..RegisteredOnly::default() },
        max_devices: max_devices.unwrap_or(defaults.max_devices),
        devices_file: data_dir.map(|dir| dir.join(format!("devices-{name}.state"))),
        ..defaults
    })
}

/// The root of the directory: `url`, or the Graph of `cloud`.
fn base(section: &mut Section<'_>) -> Option<Url> {
    let cloud = section.choice("cloud", &Cloud::ALL.map(|cloud| (cloud.as_str(), cloud)));
    let named =
        section.take("url", "an https URL without query (http on loopback only)", |value| {
            secure_url(value).filter(|url| url.query().is_none() && url.fragment().is_none())
        });
    if cloud.is_some_and(|cloud| !cloud.has_mutual_tls()) {
        let allowed = "mutualTlsOauthConfigurations exist in the global cloud only; for another \
                       directory set `url`";
        section.problem("cloud", None, allowed);
        return None;
    }
    let mut url = match named {
        Some(url) => url,
        None => Url::parse(Cloud::Global.graph()).ok()?,
    };
    // Documentation shows the root with its version, which the client appends itself.
    let path = url.path().trim_end_matches('/').trim_end_matches("/beta").to_owned();
    url.set_path(&path);
    Some(url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::section::read_text;

    fn sources(text: &str) -> Result<Vec<Config>, String> {
        let (sources, problems) =
            read_text(text, |top| read(top, Path::new("/etc/anchorgate"), None, &|_| None));
        sources.filter(|_| problems.is_empty()).ok_or_else(|| problems.join("; "))
    }

    #[test]
    fn registered_devices_are_required_by_directory_or_by_configuration() {
        let one = "[[graph]]\ncredential.token = 'x'\n";
        let configuration = |id: &str, devices: &str| {
            format!("[[configuration]]\nid = '{id}'\ndevices = '{devices}'\n")
        };
        let read = |text: &str| sources(text).map(|mut sources| sources.remove(0).devices);
        assert!(!read(one).expect("settings").needs_registry(), "any is the default");
        assert!(read(&format!("{one}devices = 'registered'\n")).expect("settings").registered);
        let named = read(&(one.to_owned() + &configuration("a", "registered"))).expect("settings");
        assert!(named.needs_registry() && named.by_configuration[&"a".into()]);

        let two = "[[graph]]\nname = 'p'\ncredential.token = 'x'\n\
                   [[graph]]\nname = 'q'\ncredential.token = 'x'\n";
        let text = two.to_owned() + &configuration("q/a", "registered");
        let both = sources(&text).expect("settings");
        let needs: Vec<_> = both.iter().map(|source| source.devices.needs_registry()).collect();
        assert_eq!(needs, [false, true]);

        for (wrong, expected) in [
            (one.to_owned() + "devices = 'some'\n", "one of \"any\", \"registered\""),
            (one.to_owned() + "max_devices = 0\n", "from 1 to 100000000"),
            (
                one.to_owned() + "[[configuration]]\ndevices = 'any'\n",
                "configuration[0].id: missing",
            ),
            (
                one.to_owned() + &configuration("a", "any") + &configuration("a", "registered"),
                "configuration[1].id: `a` is not allowed; another [[configuration]] has this id",
            ),
            (two.to_owned() + &configuration("a", "any"), "with several, it begins with the name"),
            (configuration("a", "any"), "no [[graph]] can contain it"),
        ] {
            let problems = sources(&wrong).expect_err("wrong");
            assert!(problems.contains(expected), "{problems} does not contain `{expected}`");
        }
    }

    #[test]
    fn several_directories_need_different_names() {
        let unnamed = "[[graph]]\ncredential.token = 'x'\n";
        let problems = sources(&unnamed.repeat(2)).expect_err("unnamed");
        assert!(problems.starts_with("graph[0].name: missing"), "{problems}");
        let named = format!("{unnamed}name = 'p'\n").repeat(2);
        let problems = sources(&named).expect_err("the same name");
        assert_eq!(problems, "graph: `p` is not allowed; the names of directories must differ");
    }

    #[test]
    fn a_cloud_without_configurations_is_rejected() {
        let text = "[[graph]]\ncloud = 'usgov'\ncredential.token = 'x'\n";
        let problems = sources(text).expect_err("another cloud");
        assert!(problems.starts_with("graph[0].cloud: "), "{problems}");
    }
}
