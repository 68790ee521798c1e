//! `[[graph]]`: the directories that trust is synced from, and how the gateway authenticates to them.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use url::Url;

use crate::config::read::{Section, text, url};
use crate::graph::auth::{
    AssertionStyle, Credential, INSTANCE_METADATA, ManagedIdentity, TokenEndpoint,
};
use crate::runtime::log::Secret;
use crate::sync::{Admission, Config, TooOld};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// Microsoft's global directory.
const GLOBAL: &str = "https://graph.microsoft.com";
/// Where its tokens come from.
const LOGIN: &str = "https://login.microsoftonline.com";

/// The clouds that have names; only the first has `mutualTlsOauthConfigurations`.
const CLOUDS: [(&str, bool); 4] =
    [("global", true), ("usgov", false), ("dod", false), ("china", false)];

/// Which devices a configuration admits: only registered ones?
const DEVICES: [(&str, bool); 2] = [("any", false), ("registered", true)];

/// The environment: Azure's platforms hand credentials over in it.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads every `[[graph]]`.  `None` after a problem was noted.
pub fn read(
    top: &mut Section,
    folder: &Path,
    data_dir: Option<&Path>,
    environment: Environment<'_>,
) -> Option<Vec<Config>> {
    let mut sections = top.sections("graph");
    let several = sections.len() > 1;
    let mut sources: Vec<_> =
        sections.iter_mut().map(|s| source(s, several, folder, data_dir, environment)).collect();
    let mut names: Vec<_> = sources.iter().flatten().map(|s| s.source.to_string()).collect();
    names.sort_unstable();
    for twice in names.windows(2).filter(|pair| pair[0] == pair[1]) {
        let allowed = "the names of directories must differ";
        top.problem("graph", Some(format!("`{}`", twice[0])), allowed);
    }
    configurations(top, &mut sources);
    sources.into_iter().collect()
}

/// Reads every `[[configuration]]`: what is settled for one configuration of a directory.
fn configurations(top: &mut Section, sources: &mut [Option<Config>]) {
    let mut seen = HashSet::new();
    for mut section in top.sections("configuration") {
        let id = section.require("id", "the configuration's id, as `trust show` tells it", text);
        let registered = section.choice("devices", &DEVICES);
        let Some(id) = id else { continue };
        if !seen.insert(id.clone()) {
            section.problem("id", Some(format!("`{id}`")), "each configuration is settled once");
            continue;
        }
        // After a problem with a directory it cannot be said whose this is.
        let whole = sources.iter().all(Option::is_some);
        let of = |source: &&mut Config| {
            !source.prefix_ids
                || id.strip_prefix(&*source.source).is_some_and(|rest| rest.starts_with('/'))
        };
        match (sources.iter_mut().flatten().find(of), registered) {
            (Some(source), Some(registered)) => {
                source.devices.by_configuration.insert(id.as_str().into(), registered);
            }
            (None, _) if whole => {
                let allowed = "it must be of a directory that is named: with several, `name/id`";
                section.problem("id", Some(format!("`{id}`")), allowed);
            }
            _ => {}
        }
    }
}

fn source(
    section: &mut Section,
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
        section.problem("name", None, "missing; with several directories each needs one");
    }
    let name = name.unwrap_or_else(|| "directory".to_owned());
    let base = base(section);
    let credential = {
        let mut section = section.section("credential");
        credential(&mut section, folder, base.as_ref(), environment)
    };
    let every = section.duration("every", SECOND..=DAY);
    let wait = section.duration("wait", SECOND..=Duration::from_secs(600));
    let part = "a part of the anchors, from 0.0 to 1.0";
    let max_removal = section.take("max_removal", part, |value| {
        let part = value.as_float().or(value.as_integer().map(|n| n as f64))?;
        (0.0..=1.0).contains(&part).then_some(part)
    });
    let unguarded = section.flag("guard") == Some(false);
    let max_age = section.duration("max_age", SECOND..=365 * DAY);
    let choices = [("continue", TooOld::Continue), ("refuse", TooOld::Refuse)];
    let too_old = section.choice("too_old", &choices);
    let registered = section.choice("devices", &DEVICES).unwrap_or(false);
    let max_devices = section.number("max_devices", 1..=100_000_000);
    let ca_bundle =
        section.file("ca_bundle").and_then(|file| section.read("ca_bundle", &folder.join(file)));

    // From here on nothing is asked of the section: what is missing was noted.
    let defaults = Config::new(&name, base?, credential?);
    Some(Config {
        prefix_ids: several,
        every: every.unwrap_or(defaults.every),
        wait,
        max_removal: max_removal.unwrap_or(defaults.max_removal),
        unguarded,
        max_age: max_age.unwrap_or(defaults.max_age),
        too_old: too_old.unwrap_or_default(),
        ca_bundle,
        state_file: data_dir.map(|dir| dir.join(format!("trust-{name}.state"))),
        devices: Admission { registered, ..Admission::default() },
        max_devices: max_devices.map_or(defaults.max_devices, |n| n as usize),
        devices_file: data_dir.map(|dir| dir.join(format!("devices-{name}.state"))),
        ..defaults
    })
}

/// The directory's root: by URL, or by the name of a cloud.
fn base(section: &mut Section) -> Option<Url> {
    let cloud = section.choice("cloud", &CLOUDS);
    let by_hand = section.take("url", "an absolute http or https URL without query", |value| {
        url(value).filter(|url| url.query().is_none() && url.fragment().is_none())
    });
    if cloud == Some(false) {
        section.problem(
            "cloud",
            None,
            "mutualTlsOauthConfigurations exist in the global cloud only; for another directory \
             name its `url`",
        );
        return None;
    }
    let mut url = match by_hand {
        Some(url) => url,
        None => Url::parse(GLOBAL).ok()?,
    };
    // People paste the service root with its version; the version is ours to add.
    let path = url.path().trim_end_matches('/').trim_end_matches("/beta").to_owned();
    url.set_path(&path);
    Some(url)
}

/// `[graph.credential]`: exactly one way.
fn credential(
    section: &mut Section,
    folder: &Path,
    base: Option<&Url>,
    environment: Environment<'_>,
) -> Option<Credential> {
    let ways = [
        section.has("token") || section.has("token_file"),
        section.has("client_secret") || section.has("client_secret_file"),
        section.has("certificate"),
        section.has("federated_token_file") || section.has("workload_identity"),
        section.has("managed_identity"),
    ];
    let token = section.secret("token", "token_file", folder);
    let client_secret = section.secret("client_secret", "client_secret_file", folder);
    let certificate = section.file("certificate").map(|file| folder.join(file));
    let key = section.file("key").map(|file| folder.join(file));
    let federated = section.file("federated_token_file").map(|file| folder.join(file));
    let workload = section.flag("workload_identity").unwrap_or(false);
    let managed = section.choice("managed_identity", &[("system", false), ("user", true)]);
    let object_id = section.text("object_id");
    let resource_id = section.text("resource_id");
    let mutual_tls = section.flag("mutual_tls").unwrap_or(false);
    let styles = [("PS256", AssertionStyle::Ps256), ("RS256", AssertionStyle::Rs256)];
    let style = section.choice("assertion", &styles).unwrap_or_default();
    let send_chain = section.flag("send_chain").unwrap_or(false);
    let client_id = section.text("client_id");
    let tenant = section.text("tenant");
    let token_url = section.url("token_url");
    let scope = section.text("scope");
    let metadata_url = section.url("metadata_url");

    if ways.iter().filter(|way| **way).count() != 1 {
        section.problem(
            "token",
            None,
            "exactly one of token, token_file, client_secret, client_secret_file, certificate, \
             federated_token_file, workload_identity and managed_identity is needed",
        );
        return None;
    }
    if let Some(token) = token {
        return Some(Credential::Static(token));
    }
    let resource =
        base.map_or_else(|| GLOBAL.to_owned(), |base| base.origin().ascii_serialization());
    if let Some(of_a_user) = managed {
        let identity = match (of_a_user, client_id, object_id, resource_id) {
            (false, None, None, None) => ManagedIdentity::System,
            (true, Some(id), None, None) => ManagedIdentity::ClientId(id),
            (true, None, Some(id), None) => ManagedIdentity::ObjectId(id),
            (true, None, None, Some(id)) => ManagedIdentity::ResourceId(id),
            _ => {
                let allowed = "`user` needs exactly one of client_id, object_id and resource_id; \
                               `system` none";
                section.problem("managed_identity", None, allowed);
                return None;
            }
        };
        // How App Service says that it is the platform; a metadata service that is named goes first.
        let app_service = environment("IDENTITY_ENDPOINT").zip(environment("IDENTITY_HEADER"));
        return match (metadata_url, app_service) {
            (None, Some((endpoint, header))) => {
                let Ok(url) = Url::parse(&endpoint) else {
                    let shown = Some(format!("`{endpoint}`"));
                    section.problem("managed_identity", shown, "IDENTITY_ENDPOINT must be a URL");
                    return None;
                };
                let header = Secret::new(header);
                Some(Credential::AppService { url, header, resource, identity })
            }
            (named, _) => {
                let url = named.or_else(|| Url::parse(INSTANCE_METADATA).ok())?;
                Some(Credential::InstanceMetadata { url, resource, identity })
            }
        };
    }

    // What the webhook of workload identity puts into a pod; settings go first.
    let handed = |name: &str| workload.then(|| environment(name)).flatten();
    let federated =
        federated.or_else(|| handed("AZURE_FEDERATED_TOKEN_FILE").map(|file| folder.join(file)));
    let client_id = client_id.or_else(|| handed("AZURE_CLIENT_ID"));
    let tenant = tenant.or_else(|| handed("AZURE_TENANT_ID"));
    let login = handed("AZURE_AUTHORITY_HOST").unwrap_or_else(|| LOGIN.to_owned());
    if workload && federated.is_none() {
        let allowed = "AZURE_FEDERATED_TOKEN_FILE is not in the environment, and there is no \
                       federated_token_file";
        section.problem("workload_identity", None, allowed);
        return None;
    }
    let url = match (token_url, tenant) {
        (Some(url), _) => url,
        (None, Some(tenant)) => {
            let text = format!("{}/{tenant}/oauth2/v2.0/token", login.trim_end_matches('/'));
            let Ok(url) = Url::parse(&text) else {
                section.problem("tenant", Some(format!("`{text}`")), "it must make a URL");
                return None;
            };
            url
        }
        (None, None) => {
            section.problem("tenant", None, "missing, and so is token_url: where are tokens had?");
            return None;
        }
    };
    let Some(client_id) = client_id else {
        section.problem("client_id", None, "missing; tokens are asked for as somebody");
        return None;
    };
    let scope = scope.unwrap_or_else(|| format!("{resource}/.default"));
    let endpoint = TokenEndpoint { url, client_id, scope };
    match (client_secret, certificate, key, federated) {
        (Some(secret), ..) => Some(Credential::ClientSecret { endpoint, secret }),
        (_, Some(certificate), Some(key), _) if mutual_tls => {
            Some(Credential::MutualTls { endpoint, certificate, key })
        }
        (_, Some(certificate), Some(key), _) => {
            Some(Credential::ClientCertificate { endpoint, certificate, key, style, send_chain })
        }
        (_, Some(_), None, _) => {
            section.problem("key", None, "missing; it is the certificate's");
            None
        }
        (.., Some(token_file)) => Some(Credential::WorkloadIdentity { endpoint, token_file }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read::Problems;

    fn read_with(credential: &str, environment: Environment<'_>) -> Result<Credential, String> {
        let problems = Problems::default();
        let text = format!("[[graph]]\n[graph.credential]\n{credential}");
        let sources = {
            let mut top = Section::top(text.parse().expect("TOML"), &problems);
            read(&mut top, Path::new("/etc/anchorgate"), None, environment)
        };
        let told: Vec<_> = problems.borrow().iter().map(ToString::to_string).collect();
        match sources {
            Some(mut sources) if told.is_empty() => Ok(sources.remove(0).credential),
            _ => Err(told.join("; ")),
        }
    }

    #[test]
    fn a_pod_hands_its_workload_identity_over() {
        let pod = |name: &str| {
            let value = match name {
                "AZURE_FEDERATED_TOKEN_FILE" => "/var/run/secrets/azure/tokens/token",
                "AZURE_CLIENT_ID" => "the-client",
                "AZURE_TENANT_ID" => "the-tenant",
                "AZURE_AUTHORITY_HOST" => "https://login.example/",
                _ => return None,
            };
            Some(value.to_owned())
        };
        match read_with("workload_identity = true", &pod) {
            Ok(Credential::WorkloadIdentity { endpoint, token_file }) => {
                let url = "https://login.example/the-tenant/oauth2/v2.0/token";
                assert_eq!(endpoint.url.as_str(), url);
                assert_eq!(endpoint.client_id, "the-client");
                assert_eq!(endpoint.scope, "https://graph.microsoft.com/.default");
                assert_eq!(token_file, Path::new("/var/run/secrets/azure/tokens/token"));
            }
            other => panic!("{other:?}"),
        }
        let error = read_with("workload_identity = true", &|_| None).expect_err("nothing there");
        assert!(error.contains("AZURE_FEDERATED_TOKEN_FILE"), "{error}");
    }

    #[test]
    fn a_managed_identity_is_of_the_platform_that_is_there() {
        let nowhere = |_: &str| None;
        let app_service = |name: &str| match name {
            "IDENTITY_ENDPOINT" => Some("http://127.0.0.1:41000/msi/token".to_owned()),
            "IDENTITY_HEADER" => Some("a-secret".to_owned()),
            _ => None,
        };
        assert!(matches!(
            read_with("managed_identity = 'system'", &nowhere),
            Ok(Credential::InstanceMetadata { identity: ManagedIdentity::System, .. })
        ));
        assert!(matches!(
            read_with("managed_identity = 'user'\nobject_id = 'x'", &app_service),
            Ok(Credential::AppService { identity: ManagedIdentity::ObjectId(_), .. })
        ));
        for wrong in ["managed_identity = 'user'", "managed_identity = 'system'\nclient_id = 'x'"] {
            let error = read_with(wrong, &nowhere).expect_err("whose?");
            assert!(error.contains("exactly one of client_id"), "{error}");
        }
    }

    fn sources(text: &str) -> Result<Vec<Config>, String> {
        let problems = Problems::default();
        let sources = {
            let mut top = Section::top(text.parse().expect("TOML"), &problems);
            read(&mut top, Path::new("/etc/anchorgate"), None, &|_| None)
        };
        let told: Vec<_> = problems.borrow().iter().map(ToString::to_string).collect();
        sources.filter(|_| told.is_empty()).ok_or_else(|| told.join("; "))
    }

    #[test]
    fn registered_devices_are_demanded_by_directory_or_by_configuration() {
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

        for (wrong, told) in [
            (one.to_owned() + "devices = 'some'\n", "one of \"any\", \"registered\""),
            (one.to_owned() + "max_devices = 0\n", "from 1 to 100000000"),
            (
                one.to_owned() + "[[configuration]]\ndevices = 'any'\n",
                "configuration[0].id: missing",
            ),
            (
                one.to_owned() + &configuration("a", "any") + &configuration("a", "registered"),
                "configuration[1].id: `a` is not allowed; each configuration is settled once",
            ),
            (two.to_owned() + &configuration("a", "any"), "with several, `name/id`"),
            (configuration("a", "any"), "of a directory that is named"),
        ] {
            let problems = sources(&wrong).expect_err("wrong");
            assert!(problems.contains(told), "{problems} has no `{told}`");
        }
    }

    #[test]
    fn exactly_one_way_is_needed() {
        for wrong in ["", "token = 'a'\nmanaged_identity = 'system'"] {
            let error = read_with(wrong, &|_| None).expect_err("one way");
            assert!(error.contains("exactly one of token"), "{error}");
        }
    }
}
