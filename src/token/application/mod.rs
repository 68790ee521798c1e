//! Clients that are applications, and their authentication.
//!
//! # Design notes
//! A client needs a configured name or certificate.  An application configuration trusts
//! authorities that issue certificates to many applications.  Without a rule of its own, the holder
//! of any of these certificates could authenticate as each client of the configuration.

use std::collections::HashSet;

use crate::token::assertion::{Assertion, AssertionError};
use crate::token::terms::Terms;
use crate::trust::configurations::ConfigurationId;
use crate::trust::judge::applications::{VerifiedApplication, judge_application};
use crate::trust::judge::devices::UnverifiedChain;
use crate::trust::refusal::{Code, Refusal};
use crate::trust::snapshot::Snapshot;
use crate::trust::subject::{SubjectField, SubjectId};
use crate::x509::certificate::Certificate;
use crate::x509::time::Timestamp;

/// Authentication method of a client (RFC 7591, RFC 8705 section 2.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMethod {
    /// The certificate of the connection (RFC 8705 section 2.1).
    TlsClientAuth,
    /// An assertion that the certificate's key signed (RFC 7523 section 2.2).
    PrivateKeyJwt,
}

impl AuthMethod {
    /// Both methods.
    pub const ALL: [Self; 2] = [Self::TlsClientAuth, Self::PrivateKeyJwt];

    /// Returns the value of `token_endpoint_auth_method`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TlsClientAuth => "tls_client_auth",
            Self::PrivateKeyJwt => "private_key_jwt",
        }
    }
}

/// Names in the certificates of one application (RFC 8705 section 2.1.2).
#[derive(Debug, Clone)]
pub struct Names {
    /// Certificate field that contains the name.
    pub field: SubjectField,
    /// Accepted values of the field.
    pub subjects: HashSet<SubjectId>,
}

/// A client that is an application.
#[derive(Debug, Clone)]
pub struct Application {
    /// `client_id`.
    pub id: String,
    /// The `certificateBasedApplicationConfiguration` that it is assigned to.
    pub configuration: ConfigurationId,
    /// The only accepted authentication method.
    pub method: AuthMethod,
    /// Names of its certificates; `None` if `certificates` alone identify it.
    pub names: Option<Names>,
    /// Its certificates, each with its intermediates.  Empty if `names` alone identify it.
    pub certificates: Vec<UnverifiedChain>,
    /// Its tokens are always bound to its certificate, so they are issued only on connections that
    /// present it (`tls_client_certificate_bound_access_tokens`, RFC 8705 section 3.4).
    pub bound: bool,
    /// Resources and token lifetime.
    pub terms: Terms,
}

/// Proof that a request comes from one application.  Only [`Application`] and [`CheckedAssertion`]
/// create it.
#[derive(Debug)]
pub struct Authenticated<'a> {
    pub(super) application: &'a Application,
    verified: VerifiedApplication,
    subject: Option<SubjectId>,
    /// True if the connection presented the same certificate.
    pub(super) over_tls: bool,
}

impl Authenticated<'_> {
    /// Returns the certificate and the configuration that accepts it.
    pub fn verified(&self) -> &VerifiedApplication {
        &self.verified
    }

    /// Returns the application.
    pub fn application(&self) -> &Application {
        self.application
    }

    /// Returns the name in the certificate if names identify the application.
    pub fn subject(&self) -> Option<&SubjectId> {
        self.subject.as_ref()
    }
}

/// An assertion with acceptable claims whose signature is not verified.  Only
/// [`Application::check`] creates it.
#[derive(Debug)]
pub struct CheckedAssertion<'a> {
    application: &'a Application,
    assertion: Assertion<'a>,
}

impl<'a> CheckedAssertion<'a> {
    /// Returns the assertion.
    pub fn assertion(&self) -> &Assertion<'a> {
        &self.assertion
    }

    /// Returns the certificate chain of the assertion, leaf first.
    ///
    /// # Errors
    /// There is no certificate, or it cannot be parsed.
    pub fn chain(&self) -> Result<UnverifiedChain, AssertionError> {
        self.assertion.chain(&self.application.certificates)
    }

    /// Performs the expensive checks: the chain identifies the application, the key of its leaf
    /// signed the assertion, and the judge accepts it.  `connection` is the chain of the
    /// connection, if the listener requests one.
    ///
    /// # Errors
    /// The signature is not valid, the certificate is refused, or it identifies another client.
    pub fn authenticate(
        &self,
        chain: &UnverifiedChain,
        connection: Option<&UnverifiedChain>,
        trust: &Snapshot,
        now: Timestamp,
    ) -> Result<Authenticated<'a>, AssertionError> {
        let Self { application, assertion } = self;
        let leaf = chain.leaf();
        if connection.is_some_and(|other| other.leaf().fingerprint != leaf.fingerprint) {
            return Err(AssertionError::OtherCertificate);
        }
        let subject = application.recognise(leaf)?;
        assertion.verify(leaf)?;
        let verified = judge_application(chain, &application.configuration, trust, now)?;
        Ok(Authenticated { application, verified, subject, over_tls: connection.is_some() })
    }
}

impl Application {
    /// Authenticates the certificate of the connection.
    ///
    /// # Errors
    /// The certificate is refused under the client's configuration, or identifies another client.
    pub(crate) fn by_certificate(
        &self,
        chain: &UnverifiedChain,
        trust: &Snapshot,
        now: Timestamp,
    ) -> Result<Authenticated<'_>, Refusal> {
        if self.method != AuthMethod::TlsClientAuth {
            return Err(self.other_method());
        }
        let verified = judge_application(chain, &self.configuration, trust, now)?;
        let subject = self.recognise(chain.leaf())?;
        Ok(Authenticated { application: self, verified, subject, over_tls: true })
    }

    /// Performs the cheap checks of an assertion, which must name one of `audiences`.  The caller
    /// detects replays.
    ///
    /// # Errors
    /// The assertion is not acceptable.
    pub fn check<'a>(
        &'a self,
        assertion: Assertion<'a>,
        audiences: &[&str],
        now: Timestamp,
    ) -> Result<CheckedAssertion<'a>, AssertionError> {
        if self.method != AuthMethod::PrivateKeyJwt {
            return Err(self.other_method().into());
        }
        if assertion.client_id() != self.id {
            return Err(AssertionError::Issuer);
        }
        assertion.check(audiences, now)?;
        Ok(CheckedAssertion { application: self, assertion })
    }

    /// Checks that a certificate identifies this application, and returns its name if names are
    /// configured.  If names and certificates are configured, both must match.
    fn recognise(&self, leaf: &Certificate) -> Result<Option<SubjectId>, Refusal> {
        let is_known = |chain: &UnverifiedChain| chain.leaf().fingerprint == leaf.fingerprint;
        let mismatch = |what: String| {
            let detail = format!("client `{}` does not have {what}", self.id);
            Err(Refusal::new(Code::ClientMismatch, detail))
        };
        if !self.certificates.is_empty() && !self.certificates.iter().any(is_known) {
            return mismatch(format!("certificate {}", leaf.fingerprint));
        }
        match &self.names {
            None if self.certificates.is_empty() => {
                mismatch("a configured name or certificate".to_owned())
            }
            None => Ok(None),
            Some(names) => {
                let subject = SubjectId::of(leaf, names.field)?;
                if names.subjects.contains(&subject) {
                    return Ok(Some(subject));
                }
                mismatch(format!("the {} `{subject}`", names.field.general_name()))
            }
        }
    }

    fn other_method(&self) -> Refusal {
        let detail = format!("client `{}` authenticates with {}", self.id, self.method.as_str());
        Refusal::new(Code::ClientMismatch, detail)
    }
}

#[cfg(test)]
mod tests;
