//! The clients and their terms.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::token::application::{Application, AuthMethod};
use crate::token::assertion::Profile;
use crate::token::grants::is_scope_token;
use crate::token::keys::Algorithm;
use crate::token::tenants::Tenants;
use crate::token::terms::{MAX_LIFETIME, Resource, Terms, is_resource};
use crate::trust::configurations::ConfigurationId;
use crate::trust::judge::devices::Verified;
use crate::trust::subject::{SubjectField, SubjectId};

/// Subjects that a client covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subjects {
    /// All subjects of its configurations.
    All,
    /// The listed subjects only.
    Only(HashSet<SubjectId>),
}

/// An OAuth client of devices with a configured `client_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// `client_id`.
    pub id: String,
    /// Configurations whose devices may use the client.
    pub configurations: Vec<ConfigurationId>,
    /// Devices of these configurations that may use the client.
    pub subjects: Subjects,
    /// Resources and token lifetime.
    pub terms: Terms,
}

impl Client {
    /// Returns true if the verified device may use the client.
    pub fn covers(&self, verified: &Verified) -> bool {
        self.configurations.contains(verified.configuration())
            && match &self.subjects {
                Subjects::All => true,
                Subjects::Only(subjects) => subjects.contains(verified.subject()),
            }
    }
}

/// A setting that breaks a rule of the policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {why}")]
pub struct Problem {
    /// Part of the policy, such as ``client `meter` ``.
    pub place: String,
    /// The value and the allowed values.
    pub why: String,
}

/// The issuer and all clients.  Every rule is checked when a part is added.  The default policy has
/// no client and issues nothing.
#[derive(Debug, Clone, Default)]
pub struct TokenPolicy {
    issuer: Arc<str>,
    clients: HashMap<String, Client>,
    applications: HashMap<String, Application>,
    own: Option<Terms>,
    client_id_required: bool,
    profile: Profile,
    /// Subject IDs that a configured `client_id` spells, in any field.
    reserved: HashSet<SubjectId>,
    tenants: Tenants,
}

impl TokenPolicy {
    /// Creates a policy without configured clients.  With `own`, every device is its own client:
    /// its `client_id` is its subject ID.
    ///
    /// # Errors
    /// All problems of the added part.
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
            client_id_required: true,
            profile: Profile::default(),
            reserved: HashSet::new(),
            tenants: Tenants::default(),
        })
    }

    /// Adds clients of devices.
    ///
    /// # Errors
    /// All problems of the added part.
    pub(crate) fn with_clients(mut self, clients: Vec<Client>) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        for client in clients {
            problems.extend(check_client(&client));
            let id = client.id.clone();
            self.reserve(&id);
            let is_application = self.applications.contains_key(&id);
            if self.clients.insert(id.clone(), client).is_some() || is_application {
                problems.push(duplicate(&id));
            }
        }
        if problems.is_empty() { Ok(self) } else { Err(problems) }
    }

    /// Adds applications.
    ///
    /// # Errors
    /// All problems of the added part.
    pub fn with_applications(mut self, all: Vec<Application>) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        for application in all {
            problems.extend(check_application(&application));
            let id = application.id.clone();
            self.reserve(&id);
            let is_client = self.clients.contains_key(&id);
            if self.applications.insert(id.clone(), application).is_some() || is_client {
                problems.push(duplicate(&id));
            }
        }
        if problems.is_empty() { Ok(self) } else { Err(problems) }
    }

    /// Keeps devices from using a configured `client_id` as their own, in any spelling.
    fn reserve(&mut self, id: &str) {
        let spelled =
            SubjectField::ALL.into_iter().filter_map(|field| SubjectId::parse(field, id).ok());
        self.reserved.extend(spelled);
    }

    /// Returns true if a device with this subject ID may be its own client: no configured
    /// `client_id` spells the same subject ID.
    pub(crate) fn may_be_own_client(&self, subject: &SubjectId) -> bool {
        !self.reserved.contains(subject)
            && !self.clients.contains_key(subject.as_str())
            && !self.applications.contains_key(subject.as_str())
    }

    /// Makes `client_id` optional: a request without it uses the device's own client.  RFC 8705
    /// section 2 requires clients to send it, so this is for clients that cannot.
    #[must_use]
    pub(crate) fn with_optional_client_id(mut self) -> Self {
        self.client_id_required = false;
        self
    }

    /// Restricts assertions to those of a profile.
    #[must_use]
    pub(crate) fn with_profile(mut self, profile: Profile) -> Self {
        self.profile = profile;
        self
    }

    /// Returns the profile of assertions.
    pub(crate) fn profile(&self) -> Profile {
        self.profile
    }

    /// Sets the trust domains that a request can select.
    #[must_use]
    pub(crate) fn with_tenants(self, tenants: Tenants) -> Self {
        Self { tenants, ..self }
    }

    /// Returns the trust domains that a request can select.
    pub fn tenants(&self) -> &Tenants {
        &self.tenants
    }

    /// Returns the value of `iss`.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Returns true if a request without `client_id` is refused.
    pub(crate) fn client_id_required(&self) -> bool {
        self.client_id_required
    }

    /// Returns the application with this `client_id`.
    pub fn application(&self, id: &str) -> Option<&Application> {
        self.applications.get(id)
    }

    /// Returns all applications.
    pub fn applications(&self) -> impl Iterator<Item = &Application> {
        self.applications.values()
    }

    /// Returns the applications that authenticate with assertions.
    pub(crate) fn assertion_clients(&self) -> impl Iterator<Item = &Application> {
        self.applications().filter(|a| a.method == AuthMethod::PrivateKeyJwt)
    }

    /// Returns true if there are clients whose connections need no client certificate.
    pub(crate) fn serves_without_certificate(&self) -> bool {
        self.assertion_clients().any(|a| !a.bound)
    }

    /// Returns the client of devices with this configured `client_id`.
    pub fn client(&self, id: &str) -> Option<&Client> {
        self.clients.get(id)
    }

    /// Returns the terms of devices that are their own clients.
    pub(crate) fn own_terms(&self) -> Option<&Terms> {
        self.own.as_ref()
    }

    /// Returns the terms of every client.
    fn every_terms(&self) -> impl Iterator<Item = &Terms> {
        let terms = self.clients.values().map(|c| &c.terms);
        let terms = terms.chain(&self.own);
        terms.chain(self.applications.values().map(|a| &a.terms))
    }

    /// Returns the longest life of a token of any client.
    pub(crate) fn longest_life(&self) -> Duration {
        self.every_terms().map(|terms| terms.lifetime).max().unwrap_or_default()
    }

    /// Returns the signature algorithms that clients have of their own, each once.
    pub(crate) fn signing_algorithms(&self) -> BTreeSet<Algorithm> {
        self.every_terms().filter_map(|terms| terms.signing_algorithm).collect()
    }

    /// Returns every scope of any client, sorted, each once.
    pub fn scopes(&self) -> Vec<&str> {
        let resources = self.every_terms().flat_map(|terms| &terms.resources);
        let mut scopes: Vec<&str> = resources.flat_map(|r| &r.scopes).map(String::as_str).collect();
        scopes.sort_unstable();
        scopes.dedup();
        scopes
    }
}

/// Checks the rules of RFC 8414 section 2: https, without query and fragment.  A trailing `/` is
/// rejected because it would be doubled in derived URLs.
fn check_issuer(issuer: &str) -> Vec<Problem> {
    let good = url::Url::parse(issuer).is_ok_and(|url| {
        url.scheme() == "https"
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
            // Issuers are compared by code point, so the value must be in the parser's normal form.
            && (url.as_str() == issuer || url.as_str().strip_suffix('/') == Some(issuer))
    });
    if good && !issuer.ends_with('/') {
        return Vec::new();
    }
    let why = format!(
        "`{issuer}` is not an https URL in normal form without query, fragment and trailing `/`"
    );
    vec![Problem { place: "issuer".to_owned(), why }]
}

fn duplicate(id: &str) -> Problem {
    let why = "several clients have this client_id".to_owned();
    Problem { place: format!("client `{id}`"), why }
}

/// Checks the rules for clients of every kind.
fn check_common(place: &str, id: &str, terms: &Terms) -> Vec<Problem> {
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
    let mut problems = check_common(&place, &application.id, &application.terms);
    let mut problem = |why: &str| {
        problems.push(Problem { place: place.clone(), why: why.to_owned() });
    };
    match &application.names {
        Some(names) if names.subjects.is_empty() => problem("has no subject"),
        None if application.certificates.is_empty() => {
            problem(
                "has neither subjects nor certificates, so any certificate of its configuration \
                 would authenticate it",
            );
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
    let mut problems = check_common(&place, &client.id, &client.terms);
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
        problem("has no resource, so its tokens would have no audience".to_owned());
    }
    for (i, resource) in terms.resources.iter().enumerate() {
        let Resource { audience, scopes, default_scope } = resource;
        if terms.resources[..i].iter().any(|r| r.audience == *audience) {
            problem(format!("has the audience `{audience}` more than once"));
        }
        if !is_audience(audience) {
            problem(format!(
                "the audience `{audience}` is neither a name without `:` nor an absolute URI without \
                 fragment"
            ));
        }
        for scope in scopes.iter().filter(|scope| !is_scope_token(scope)) {
            problem(format!("`{scope}` is not a scope token (RFC 6749 section 3.3)"));
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
        Terms {
            resources: vec![resource],
            lifetime: Duration::from_secs(600),
            signing_algorithm: None,
        }
    }

    fn client(id: &str) -> Client {
        Client {
            id: id.to_owned(),
            configurations: vec!["c1".into()],
            subjects: Subjects::All,
            terms: terms(),
        }
    }

    /// 8414-4: the issuer is an https URL without query and fragment.
    #[test]
    fn accepts_only_an_https_issuer_in_normal_form() {
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
    fn reports_all_problems_at_once() {
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
    fn rejects_two_clients_with_one_client_id() {
        let policy = TokenPolicy::new("https://as.example", None).expect("a policy");
        let problems = policy.with_clients(vec![client("a"), client("b"), client("a")]);
        assert_eq!(problems.expect_err("refused").len(), 1);
    }
}
