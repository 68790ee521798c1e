//! Which clients there are, and what each may have.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::token::application::{Application, AuthMethod};
use crate::token::grants::is_scope_token;
use crate::token::terms::{MAX_LIFETIME, Resource, Terms, is_resource};
use crate::trust::configurations::ConfigurationId;
use crate::trust::judge::devices::Verified;
use crate::trust::subject::SubjectId;

/// The subjects that a client covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subjects {
    /// Every one of its configurations.
    All,
    /// These.
    Only(HashSet<SubjectId>),
}

/// An OAuth client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// `client_id`.
    pub id: String,
    /// The configurations whose devices may be this client.
    pub configurations: Vec<ConfigurationId>,
    /// Which of their devices.
    pub subjects: Subjects,
    /// What they may have.
    pub terms: Terms,
}

impl Client {
    /// True when the bearer of that certificate may be this client.
    pub fn covers(&self, verified: &Verified) -> bool {
        self.configurations.contains(verified.configuration())
            && match &self.subjects {
                Subjects::All => true,
                Subjects::Only(subjects) => subjects.contains(verified.subject()),
            }
    }
}

/// A rule of the policy that a setting breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {why}")]
pub struct Problem {
    /// The part of the policy, such as ``client `meter` ``.
    pub place: String,
    /// The value and what is allowed.
    pub why: String,
}

/// All clients, checked.
#[derive(Debug, Clone)]
pub struct TokenPolicy {
    issuer: Arc<str>,
    clients: HashMap<String, Client>,
    applications: HashMap<String, Application>,
    own: Option<Terms>,
    own_of: HashMap<ConfigurationId, Terms>,
    client_id_required: bool,
}

impl TokenPolicy {
    /// A policy under which every device is its own client: its subject ID is its `client_id`.
    ///
    /// # Errors
    /// Every rule that is broken.
    pub fn new(issuer: &str, own: Option<Terms>) -> Result<Self, Vec<Problem>> {
        let mut problems = check_issuer(issuer);
        if let Some(terms) = &own {
            problems.extend(check_terms("the devices' own clients", terms));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self {
            issuer: issuer.into(),
            clients: HashMap::new(),
            applications: HashMap::new(),
            own,
            own_of: HashMap::new(),
            client_id_required: true,
        })
    }

    /// Adds clients of a configured `client_id`.
    ///
    /// # Errors
    /// Every rule that is broken.
    pub fn with_clients(mut self, clients: Vec<Client>) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        for client in clients {
            problems.extend(check_client(&client));
            let id = client.id.clone();
            let is_application = self.applications.contains_key(&id);
            if self.clients.insert(id.clone(), client).is_some() || is_application {
                problems.push(several(&id));
            }
        }
        if problems.is_empty() { Ok(self) } else { Err(problems) }
    }

    /// Adds clients that are applications.
    ///
    /// # Errors
    /// Every rule that is broken.
    pub fn with_applications(mut self, all: Vec<Application>) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        for application in all {
            problems.extend(check_application(&application));
            let id = application.id.clone();
            let is_client = self.clients.contains_key(&id);
            if self.applications.insert(id.clone(), application).is_some() || is_client {
                problems.push(several(&id));
            }
        }
        if problems.is_empty() { Ok(self) } else { Err(problems) }
    }

    /// Gives the devices of one configuration other terms for their own clients.
    ///
    /// # Errors
    /// Every rule that is broken.
    pub fn with_own_terms(
        mut self,
        configuration: ConfigurationId,
        terms: Terms,
    ) -> Result<Self, Vec<Problem>> {
        let problems = check_terms(&format!("configuration `{configuration}`"), &terms);
        self.own_of.insert(configuration, terms);
        if problems.is_empty() { Ok(self) } else { Err(problems) }
    }

    /// Lets a request leave `client_id` out: it is then the device's own.  RFC 8705 section 2 has
    /// clients send it, so this is for those that cannot.
    #[must_use]
    pub fn with_optional_client_id(mut self) -> Self {
        self.client_id_required = false;
        self
    }

    /// `iss`.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// True when a request without `client_id` is refused.
    pub fn client_id_required(&self) -> bool {
        self.client_id_required
    }

    /// The application of that `client_id`.
    pub fn application(&self, id: &str) -> Option<&Application> {
        self.applications.get(id)
    }

    /// Every application.
    pub fn applications(&self) -> impl Iterator<Item = &Application> {
        self.applications.values()
    }

    /// The applications that authenticate by assertions.
    pub fn asserting(&self) -> impl Iterator<Item = &Application> {
        self.applications().filter(|a| a.method == AuthMethod::PrivateKeyJwt)
    }

    /// True when there are clients that need no client certificate on their connection.
    pub fn serves_without_certificate(&self) -> bool {
        self.asserting().any(|a| !a.bound)
    }

    /// The configured client of devices with that `client_id`.
    pub fn client(&self, id: &str) -> Option<&Client> {
        self.clients.get(id)
    }

    /// What a device of that configuration may have as its own client.
    pub fn own_terms(&self, configuration: &ConfigurationId) -> Option<&Terms> {
        self.own_of.get(configuration).or(self.own.as_ref())
    }

    /// Every scope that a client can have, sorted, each once.
    pub fn scopes(&self) -> Vec<&str> {
        let terms = self.clients.values().map(|c| &c.terms);
        let terms = terms.chain(&self.own).chain(self.own_of.values());
        let terms = terms.chain(self.applications.values().map(|a| &a.terms));
        let mut scopes: Vec<&str> =
            terms.flat_map(|t| &t.resources).flat_map(|r| &r.scopes).map(String::as_str).collect();
        scopes.sort_unstable();
        scopes.dedup();
        scopes
    }
}

/// RFC 8414 section 2: https, without query or fragment; a trailing `/` would be doubled in URLs.
fn check_issuer(issuer: &str) -> Vec<Problem> {
    let good = url::Url::parse(issuer).is_ok_and(|url| {
        url.scheme() == "https"
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
            // Compared by code point everywhere, so it has to be written as the parser prints it.
            && (url.as_str() == issuer || url.as_str().strip_suffix('/') == Some(issuer))
    });
    if good && !issuer.ends_with('/') {
        return Vec::new();
    }
    let why = format!(
        "`{issuer}` is no https URL in its normal form without query, fragment and final `/`"
    );
    vec![Problem { place: "issuer".to_owned(), why }]
}

fn several(id: &str) -> Problem {
    let why = "there are several of this client_id".to_owned();
    Problem { place: format!("client `{id}`"), why }
}

/// What any client must be.
fn check_named(place: &str, id: &str, terms: &Terms) -> Vec<Problem> {
    let mut problems = check_terms(place, terms);
    // RFC 6749 appendix A.1.
    if id.is_empty() || !id.bytes().all(|b| (0x20..=0x7e).contains(&b)) {
        let why = "a client_id is 1 or more printable ASCII characters".to_owned();
        problems.push(Problem { place: place.to_owned(), why });
    }
    problems
}

fn check_application(application: &Application) -> Vec<Problem> {
    let place = format!("client `{}`", application.id);
    let mut problems = check_named(&place, &application.id, &application.terms);
    let mut problem = |why: &str| {
        problems.push(Problem { place: place.clone(), why: why.to_owned() });
    };
    match &application.names {
        Some(names) if names.subjects.is_empty() => problem("has no subject"),
        None if application.certificates.is_empty() => {
            problem("has neither subjects nor certificates: it would be all its authority signed");
        }
        _ => {}
    }
    if application.method == AuthMethod::TlsClientAuth && !application.bound {
        problem("tokens of tls_client_auth are always bound to the certificate");
    }
    problems
}

fn check_client(client: &Client) -> Vec<Problem> {
    let place = format!("client `{}`", client.id);
    let mut problems = check_named(&place, &client.id, &client.terms);
    let mut problem = |why: String| problems.push(Problem { place: place.clone(), why });
    if client.configurations.is_empty() {
        problem("covers no configuration".to_owned());
    }
    if matches!(&client.subjects, Subjects::Only(subjects) if subjects.is_empty()) {
        problem("covers no subject".to_owned());
    }
    problems
}

fn check_terms(place: &str, terms: &Terms) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut problem = |why: String| problems.push(Problem { place: place.to_owned(), why });
    if terms.lifetime < Duration::from_secs(1) || terms.lifetime > MAX_LIFETIME {
        problem(format!(
            "a token lifetime of {:?} is not within 1 s to {} s",
            terms.lifetime,
            MAX_LIFETIME.as_secs()
        ));
    }
    if terms.resources.is_empty() {
        problem("has no resource, so that its tokens would have no audience".to_owned());
    }
    for (i, resource) in terms.resources.iter().enumerate() {
        let Resource { audience, scopes, default_scope } = resource;
        if terms.resources[..i].iter().any(|r| r.audience == *audience) {
            problem(format!("has the audience `{audience}` twice"));
        }
        if !is_audience(audience) {
            problem(format!(
                "the audience `{audience}` is neither a name without `:` nor an absolute URI without fragment"
            ));
        }
        for scope in scopes.iter().filter(|scope| !is_scope_token(scope)) {
            problem(format!("`{scope}` is no scope token (RFC 6749 section 3.3)"));
        }
        for scope in default_scope.iter().filter(|scope| !scopes.contains(scope)) {
            problem(format!("the default scope `{scope}` is not among the scopes of `{audience}`"));
        }
    }
    problems
}

fn is_audience(text: &str) -> bool {
    let plain = !text.is_empty() && text.chars().all(|c| !c.is_control() && !c.is_whitespace());
    plain && (!text.contains(':') || is_resource(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms() -> Terms {
        let resource = Resource {
            audience: "https://api.example".to_owned(),
            scopes: vec!["read".to_owned(), "write".to_owned()],
            default_scope: vec!["read".to_owned()],
        };
        Terms { resources: vec![resource], lifetime: Duration::from_secs(600) }
    }

    fn client(id: &str) -> Client {
        Client {
            id: id.to_owned(),
            configurations: vec!["c1".into()],
            subjects: Subjects::All,
            terms: terms(),
        }
    }

    /// 8414-4: the issuer is https without query and fragment.
    #[test]
    fn an_issuer_is_a_normal_https_url() {
        for good in ["https://as.example", "https://as.example:8444", "https://as.example/tenant"] {
            assert!(TokenPolicy::new(good, None).is_ok(), "{good}");
        }
        for bad in [
            "",
            "as.example",
            "http://as.example",
            "https://as.example/",
            "https://as.example?x",
            "https://as.example#x",
            "https://AS.example",
            "https://u@as.example",
            "https://as.example:443",
            "https://as.example/a/",
        ] {
            let problems = TokenPolicy::new(bad, None).expect_err(bad);
            assert_eq!(problems[0].place, "issuer");
            assert!(problems[0].why.contains(bad));
        }
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let policy = TokenPolicy::new("https://as.example", Some(terms())).expect("a policy");
        let mut bad = client("");
        bad.configurations.clear();
        bad.subjects = Subjects::Only(HashSet::new());
        bad.terms.lifetime = MAX_LIFETIME + Duration::from_secs(1);
        bad.terms.resources[0].default_scope = vec!["admin".to_owned()];
        bad.terms.resources.push(Resource {
            audience: "https://api.example".to_owned(),
            scopes: vec!["a b".to_owned()],
            default_scope: Vec::new(),
        });
        bad.terms.resources.push(Resource {
            audience: "https://api.example#x".to_owned(),
            scopes: Vec::new(),
            default_scope: Vec::new(),
        });
        let problems = policy.with_clients(vec![bad]).expect_err("refused");
        assert_eq!(problems.len(), 8, "{problems:#?}");
    }

    #[test]
    fn a_client_id_names_one_client() {
        let policy = TokenPolicy::new("https://as.example", None).expect("a policy");
        let problems = policy.with_clients(vec![client("a"), client("b"), client("a")]);
        assert_eq!(problems.expect_err("refused").len(), 1);
    }

    #[test]
    fn a_configuration_may_have_its_own_terms() {
        let mut short = terms();
        short.lifetime = Duration::from_secs(60);
        let policy = TokenPolicy::new("https://as.example", Some(terms()))
            .and_then(|policy| policy.with_own_terms("c2".into(), short.clone()))
            .expect("a policy");
        assert_eq!(policy.own_terms(&"c1".into()), Some(&terms()));
        assert_eq!(policy.own_terms(&"c2".into()), Some(&short));
        assert_eq!(policy.scopes(), ["read", "write"]);
    }
}
