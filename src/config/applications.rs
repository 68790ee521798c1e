//! `[[client]]` with `application_configuration`: applications, and the directories that are
//! followed for them.

use std::path::Path;

use crate::config::clients::{NO_FIELD, fields, required_terms, subjects};
use crate::config::section::Section;
use crate::config::values::text;
use crate::graph::Collection;
use crate::sync::Config;
use crate::token::application::{Application, AuthMethod, Names};
use crate::token::policy::TokenPolicy;
use crate::token::terms::Terms;
use crate::trust::configurations::ConfigurationId;
use crate::trust::judge::devices::UnverifiedChain;
use crate::x509::pem;

/// Reads one client.  Returns `None` only after a problem was noted.
pub(super) fn read(
    section: &mut Section<'_>,
    own: Option<&Terms>,
    folder: &Path,
) -> Option<Application> {
    let id = section.require("id", "the client_id", text);
    let configuration = section.require(
        "application_configuration",
        "the id of one certificateBasedApplicationConfiguration",
        text,
    );
    if section.has("configurations") {
        let _ = section.texts("configurations");
        let allowed = "an application is assigned to its application_configuration only, and not to \
                       configurations of devices";
        section.problem("configurations", None, allowed);
    }
    let methods = AuthMethod::ALL.map(|method| (method.as_str(), method));
    if !section.has("token_endpoint_auth_method") {
        let allowed = "missing; it must be one of \"tls_client_auth\", \"private_key_jwt\"";
        section.problem("token_endpoint_auth_method", None, allowed);
    }
    let method = section.choice("token_endpoint_auth_method", &methods);
    let field = section.choice("subject_field", &fields());
    let names = match (section.texts("subjects"), field) {
        (None, None) => Some(None),
        (None, Some(_)) => {
            section.problem("subjects", None, "missing: `subject_field` is set");
            None
        }
        (Some(_), None) => {
            section.problem("subject_field", None, NO_FIELD);
            None
        }
        (Some(texts), Some(field)) => {
            subjects(section, field, &texts).map(|subjects| Some(Names { field, subjects }))
        }
    };
    let certificates = certificates(section, folder);
    let bound = section.flag("tls_client_certificate_bound_access_tokens").unwrap_or(true);
    let terms = required_terms(section, own);
    Some(Application {
        id: id?,
        configuration: ConfigurationId::from(&configuration?[..]),
        method: method?,
        names: names?,
        certificates: certificates?,
        bound,
        terms: terms?,
    })
}

/// Reads the files of `certificates`.  Each has a leaf certificate first, then those needed to
/// judge it.
fn certificates(section: &mut Section<'_>, folder: &Path) -> Option<Vec<UnverifiedChain>> {
    let mut all = Vec::new();
    let mut good = true;
    for file in section.texts("certificates").unwrap_or_default() {
        let Some(pem) = section.read("certificates", &folder.join(&file)) else {
            good = false;
            continue;
        };
        let chain = pem::certificates(&pem)
            .map_err(|error| error.to_string())
            .and_then(|chain| UnverifiedChain::from_der(&chain).map_err(|r| r.to_string()));
        match chain {
            Ok(chain) => all.push(chain),
            Err(why) => {
                good = false;
                let allowed = format!("it must be PEM, the application's certificate first: {why}");
                section.problem("certificates", Some(format!("`{file}`")), allowed);
            }
        }
    }
    good.then_some(all)
}

/// Settings for following the application configurations that the applications of `policy` need.
///
/// Only directories of `sources` that have one of these configurations are asked for them, because
/// reading them needs a permission of its own.
pub(super) fn sources(top: &Section<'_>, policy: &TokenPolicy, sources: &[Config]) -> Vec<Config> {
    let source_of = |application: &Application| {
        let id = application.configuration.as_str();
        sources.iter().find(|source| {
            let rest = id.strip_prefix(&*source.source).and_then(|rest| rest.strip_prefix('/'));
            if source.prefix_ids { rest.is_some_and(|rest| !rest.is_empty()) } else { true }
        })
    };
    let mut applications: Vec<_> = policy.applications().collect();
    applications.sort_by(|a, b| a.id.cmp(&b.id));
    let mut followed: Vec<Config> = Vec::new();
    for application in applications {
        let Some(source) = source_of(application) else {
            let allowed = if sources.is_empty() {
                "no [[graph]] is configured that could contain it"
            } else {
                "with several [[graph]] it begins with the name of one of them and `/`"
            };
            top.problem(
                &format!("client `{}`: application_configuration", application.id),
                Some(format!("`{}`", application.configuration)),
                allowed,
            );
            continue;
        };
        if followed.iter().all(|other| other.source != source.source) {
            let state_file = source.state_file.as_ref();
            followed.push(Config {
                collection: Collection::CertificateBasedApplication,
                state_file: state_file.map(|file| file.with_extension("applications.state")),
                ..source.clone()
            });
        }
    }
    followed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse::parse;

    const MINIMAL: &str = r#"
        data_dir = "state"
        [tls]
        certificate = "server.pem"
        key = "server.key"
        [oauth]
        issuer = "https://gw.example"
        token_url = "https://mtls.gw.example:8443"
        audience = "https://api.example"
    "#;
    const GRAPH: &str = "[[graph]]\nname = 'one'\n[graph.credential]\ntoken = 't'\n";
    const OTHER: &str = "[[graph]]\nname = 'two'\n[graph.credential]\ntoken = 't'\n";
    const SCRIPT: &str = r#"
        [[client]]
        id = "script"
        application_configuration = "c1"
        token_endpoint_auth_method = "private_key_jwt"
        tls_client_certificate_bound_access_tokens = false
        subject_field = "tls_client_auth_san_dns"
        subjects = ["script.example"]
        certificates = ["script.pem"]
    "#;

    /// Reads a configuration in a folder with `script.pem`, a certificate, and `none.pem`, which is
    /// not.
    fn read(text: &str) -> Result<crate::config::Config, Vec<String>> {
        let folder = tempfile::tempdir().expect("a folder");
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = rcgen::CertificateParams::default().self_signed(&key);
        let pem = certificate.expect("a certificate").pem();
        std::fs::write(folder.path().join("script.pem"), pem).expect("a file");
        std::fs::write(folder.path().join("none.pem"), "nothing").expect("a file");
        let table = text.parse().expect("TOML");
        parse(table, folder.path()).map_err(|all| all.iter().map(ToString::to_string).collect())
    }

    fn problems(text: &str) -> Vec<String> {
        read(text).map(drop).expect_err("refused")
    }

    #[test]
    fn reads_an_application_and_follows_its_directory() {
        let config = read(&format!("{MINIMAL}{GRAPH}{SCRIPT}")).unwrap_or_else(|p| panic!("{p:?}"));
        let script = config.policy.application("script").expect("there");
        assert_eq!(script.method, AuthMethod::PrivateKeyJwt);
        assert_eq!((script.configuration.as_str(), script.bound), ("c1", false));
        assert_eq!((script.certificates.len(), script.names.is_some()), (1, true));
        assert!(config.policy.serves_without_certificate());
        let followed: Vec<_> = config.graph.iter().map(|g| (&*g.source, g.collection)).collect();
        assert_eq!(
            followed,
            [("one", Collection::MutualTlsOauth), ("one", Collection::CertificateBasedApplication)]
        );
        let [devices, applications] = [0, 1].map(|n| config.graph[n].state_file.clone());
        assert_ne!(devices, applications);

        let bound = SCRIPT.replace("tls_client_certificate_bound_access_tokens = false", "");
        let config = read(&format!("{MINIMAL}{GRAPH}{bound}")).unwrap_or_else(|p| panic!("{p:?}"));
        assert!(!config.policy.serves_without_certificate(), "bound is the default");
    }

    /// Reading application configurations needs a permission of its own.
    #[test]
    fn follows_only_directories_with_a_needed_configuration() {
        let collections = |text: &str| {
            let config = read(text).unwrap_or_else(|problems| panic!("{problems:?}"));
            let of = config
                .graph
                .iter()
                .filter(|g| g.collection == Collection::CertificateBasedApplication);
            of.map(|g| g.source.to_string()).collect::<Vec<_>>()
        };
        assert!(collections(&format!("{MINIMAL}{GRAPH}")).is_empty());
        let of_two = SCRIPT.replace("c1", "two/c1");
        let both = format!("{MINIMAL}{GRAPH}{OTHER}{of_two}");
        assert_eq!(collections(&both), ["two"]);
        let again = of_two.replace("\"script\"", "\"again\"");
        assert_eq!(collections(&format!("{both}{again}")), ["two"]);
        for (text, expected) in [
            (format!("{MINIMAL}{SCRIPT}"), "no [[graph]] is configured"),
            (format!("{MINIMAL}{GRAPH}{OTHER}{SCRIPT}"), "begins with the name"),
            (format!("{both}{}", again.replace("two/c1", "three/c1")), "begins with the name"),
            (format!("{both}{}", again.replace("two/c1", "two/")), "begins with the name"),
        ] {
            let found = problems(&text);
            assert!(found.len() == 1 && found[0].contains(expected), "{found:?}");
        }
    }

    #[test]
    fn reports_every_problem_of_an_application() {
        let with = |from: &str, to: &str| format!("{MINIMAL}{GRAPH}{}", SCRIPT.replace(from, to));
        let names = "subjects = [\"script.example\"]\n        certificates = [\"script.pem\"]";
        let method = "token_endpoint_auth_method = \"private_key_jwt\"";
        for (from, to, expected) in [
            (method, "", "token_endpoint_auth_method: missing"),
            ("private_key_jwt", "client_secret_basic", "token_endpoint_auth_method: `"),
            ("private_key_jwt", "tls_client_auth", "always bound to the certificate"),
            ("\"c1\"", "7", "application_configuration: `7`"),
            ("\"script\"", "\"scr\\u00efpt\"", "printable ASCII"),
            (names, "", "subjects: missing"),
            (names, "subjects = []", "has no subject"),
            ("subject_field = \"tls_client_auth_san_dns\"", "", "subject_field: missing"),
            ("script.example\"", "*.example\"", "subjects: `*.example`"),
            ("script.pem", "absent.pem", "certificates: `"),
            ("script.pem", "none.pem", "the application's certificate first"),
            (
                method,
                "configurations = ['x']\ntoken_endpoint_auth_method = 'private_key_jwt'",
                "not to configurations of devices",
            ),
            (
                method,
                "spelt = 1\ntoken_endpoint_auth_method = 'private_key_jwt'",
                "spelt: unknown key",
            ),
        ] {
            let found = problems(&with(from, to));
            assert!(found.len() == 1 && found[0].contains(expected), "{from} -> {to}: {found:?}");
        }
        let unnamed = format!("subject_field = \"tls_client_auth_san_dns\"\n        {names}");
        let found = problems(&with(&unnamed, ""));
        assert!(
            found.len() == 1 && found[0].contains("neither subjects nor certificates"),
            "{found:?}"
        );
        let twice =
            format!("{MINIMAL}{GRAPH}{SCRIPT}[[client]]\nid = 'script'\nconfigurations = ['d']");
        assert!(problems(&twice)[0].contains("several clients have this client_id"));
        // Clients of devices do not have the keys of applications.
        let device = "[[client]]\nid = 'd'\nconfigurations = ['d']\ncertificates = ['script.pem']";
        let found = problems(&format!("{MINIMAL}{GRAPH}{device}"));
        assert!(found[0].contains("certificates: unknown key"), "{found:?}");
    }

    /// The commented example is valid except for the file that it names.
    #[test]
    fn accepts_the_example_of_an_application() {
        let example = include_str!("../../deploy/config.example.toml");
        let (_, from) = example.split_once("# [[client]]").expect("an example");
        let (lines, _) = from.split_once("\n\n").expect("an end");
        let client = lines.replace("\n# ", "\n");
        let found = problems(&format!("{MINIMAL}{GRAPH}[[client]]{client}"));
        assert!(found.len() == 1 && found[0].contains("certificates: `"), "{found:?}");
    }
}
