//! `[[client]]` with `application_configuration`: applications, and what is followed for their sake.

use std::path::Path;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::config::oauth::{fields, subjects, terms};
use crate::config::read::{Section, text};
use crate::domain::token::application::{Application, AuthMethod, Names};
use crate::domain::token::policy::{Terms, TokenPolicy};
use crate::domain::trust::anchors::ConfigurationId;
use crate::domain::verify::UnverifiedChain;
use crate::graph::{Collection, Config};

/// Reads one client.  `None` after a problem was noted.
pub fn read(section: &mut Section, own: Option<&Terms>, folder: &Path) -> Option<Application> {
    let id = section.require("id", "the client_id", text);
    let configuration = section.require(
        "application_configuration",
        "the id of one certificateBasedApplicationConfiguration",
        text,
    );
    if section.has("configurations") {
        drop(section.texts("configurations"));
        let allowed = "an application is assigned to its application_configuration, and to no \
                       configuration of devices";
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
            section.problem("subjects", None, "missing; `subject_field` says where they are");
            None
        }
        (Some(_), None) => {
            section.problem("subject_field", None, "missing; `subjects` are read by its rules");
            None
        }
        (Some(texts), Some(field)) => {
            subjects(section, field, &texts).map(|subjects| Some(Names { field, subjects }))
        }
    };
    let certificates = certificates(section, folder);
    let bound = section.flag("tls_client_certificate_bound_access_tokens").unwrap_or(true);
    let terms = terms(section, own);
    if terms.is_none() {
        section.problem("audience", None, "missing, and [oauth] has none to take over");
    }
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

/// The certificates of the files that `certificates` names, each file's first one with those that
/// judge it.
fn certificates(section: &mut Section, folder: &Path) -> Option<Vec<UnverifiedChain>> {
    let mut all = Vec::new();
    let mut good = true;
    for file in section.texts("certificates").unwrap_or_default() {
        let Some(pem) = section.read("certificates", &folder.join(&file)) else {
            good = false;
            continue;
        };
        let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
        let chain = chain
            .map_err(|error| format!("no PEM: {error}"))
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

/// What has to be followed beside `sources` for the applications of `policy`: the application
/// configurations of those directories that have one of theirs.  No other directory is asked, since
/// that needs a permission of its own.
pub fn sources(top: &Section, policy: &TokenPolicy, sources: &[Config]) -> Vec<Config> {
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
                "there is no [[graph]] that could have it"
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
                collection: Collection::Applications,
                state_file: state_file.map(|file| file.with_extension("applications.state")),
                ..source.clone()
            });
        }
    }
    followed
}
