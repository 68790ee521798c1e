//! Clients that are applications, how each shows that it is the one, and what it may have.
//!
//! # Why a name or a certificate must be configured
//! An application configuration trusts authorities, and an authority signs for many.  A client is one
//! application: without a rule of its own, whoever had a certificate of that authority could be each of
//! its clients.

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

/// How a client authenticates, by the names of RFC 7591 and RFC 8705 section 2.1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMethod {
    /// By the certificate of its connection (RFC 8705 section 2.1).
    TlsClientAuth,
    /// By an assertion that is signed with its certificate's key (RFC 7523 section 2.2).
    PrivateKeyJwt,
}

impl AuthMethod {
    /// Both methods.
    pub const ALL: [Self; 2] = [Self::TlsClientAuth, Self::PrivateKeyJwt];

    /// The value of `token_endpoint_auth_method`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TlsClientAuth => "tls_client_auth",
            Self::PrivateKeyJwt => "private_key_jwt",
        }
    }
}

/// The names that certificates of one application have (RFC 8705 section 2.1.2).
#[derive(Debug, Clone)]
pub struct Names {
    /// Where the name is found.
    pub field: SubjectField,
    /// What it may be.
    pub subjects: HashSet<SubjectId>,
}

/// A client that is an application.
#[derive(Debug, Clone)]
pub struct Application {
    /// `client_id`.
    pub id: String,
    /// The `certificateBasedApplicationConfiguration` that it is assigned to.
    pub configuration: ConfigurationId,
    /// How it authenticates; in no other way.
    pub method: AuthMethod,
    /// The names of its certificates; `None` where `certificates` say it alone.
    pub names: Option<Names>,
    /// The only certificates it has, each with what is needed to judge it; empty where `names` say it
    /// alone.
    pub certificates: Vec<UnverifiedChain>,
    /// Its tokens are always bound to its certificate, so that they are given over connections with it
    /// only (`tls_client_certificate_bound_access_tokens`, RFC 8705 section 3.4).
    pub bound: bool,
    /// What it may have.
    pub terms: Terms,
}

/// Proof that a request comes from one application.  Only [`Application`] makes it.
#[derive(Debug)]
pub struct Authenticated<'a> {
    pub(super) application: &'a Application,
    verified: VerifiedApplication,
    subject: Option<SubjectId>,
    /// The connection has shown the same certificate.
    pub(super) over_tls: bool,
}

impl Authenticated<'_> {
    /// The certificate, and the configuration that accepts it.
    pub fn verified(&self) -> &VerifiedApplication {
        &self.verified
    }

    /// The name in the certificate, where names identify.
    pub fn subject(&self) -> Option<&SubjectId> {
        self.subject.as_ref()
    }
}

/// An assertion whose claims are acceptable, and not known to be true.  Only [`Application::check`]
/// makes it.
#[derive(Debug)]
pub struct Checked<'a> {
    application: &'a Application,
    assertion: Assertion<'a>,
}

impl<'a> Checked<'a> {
    /// The assertion.
    pub fn assertion(&self) -> &Assertion<'a> {
        &self.assertion
    }

    /// The certificates that it is to be judged by, leaf first.
    ///
    /// # Errors
    /// There are none, or they cannot be read.
    pub fn chain(&self) -> Result<UnverifiedChain, AssertionError> {
        self.assertion.chain(&self.application.certificates)
    }

    /// The second half: the key of `chain`'s leaf has signed the assertion, and the chain is the
    /// application's and good.  `connection` is what the connection has shown, if it was asked.
    ///
    /// # Errors
    /// The signature, or the certificate, is not good; or it is another's.
    pub fn authenticate(
        &self,
        chain: &UnverifiedChain,
        connection: Option<&UnverifiedChain>,
        trust: &Snapshot,
        now: Timestamp,
    ) -> Result<Authenticated<'a>, AssertionError> {
        let Self { application, assertion } = self;
        let leaf = chain.leaf();
        if connection.is_some_and(|shown| shown.leaf().fingerprint != leaf.fingerprint) {
            return Err(AssertionError::OtherCertificate);
        }
        let subject = application.recognise(leaf)?;
        assertion.verify(leaf)?;
        let verified = judge_application(chain, &application.configuration, trust, now)?;
        Ok(Authenticated { application, verified, subject, over_tls: connection.is_some() })
    }
}

impl Application {
    /// Authenticates by the certificate of the connection.
    ///
    /// # Errors
    /// The certificate is refused under the client's configuration, or is another's.
    pub fn by_certificate(
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

    /// The first half of authentication by an assertion, which must name one of `audiences`: all that
    /// costs nothing.  Whether it was used before is for the caller to see to.
    ///
    /// # Errors
    /// The assertion is not acceptable.
    pub fn check<'a>(
        &'a self,
        assertion: Assertion<'a>,
        audiences: &[&str],
        now: Timestamp,
    ) -> Result<Checked<'a>, AssertionError> {
        if self.method != AuthMethod::PrivateKeyJwt {
            return Err(self.other_method().into());
        }
        if assertion.client_id() != self.id {
            return Err(AssertionError::Issuer);
        }
        assertion.check(audiences, now)?;
        Ok(Checked { application: self, assertion })
    }

    /// The name of a certificate that is this application's.  What is configured must all hold.
    fn recognise(&self, leaf: &Certificate) -> Result<Option<SubjectId>, Refusal> {
        let is_known = |chain: &UnverifiedChain| chain.leaf().fingerprint == leaf.fingerprint;
        let mismatch = |what: String| {
            let detail = format!("client `{}` is not the one that has {what}", self.id);
            Err(Refusal::new(Code::ClientMismatch, detail))
        };
        if !self.certificates.is_empty() && !self.certificates.iter().any(is_known) {
            return mismatch(format!("certificate {}", leaf.fingerprint));
        }
        match &self.names {
            None if self.certificates.is_empty() => mismatch("no name".to_owned()),
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
        let detail = format!("client `{}` authenticates by {}", self.id, self.method.as_str());
        Refusal::new(Code::ClientMismatch, detail)
    }
}

#[cfg(test)]
mod tests;
