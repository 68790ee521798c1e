//! A decision of the judge, as JSON and as text.

use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::runtime::text::Cleaned;
use crate::trust::configurations::Skipped;
use crate::trust::judge::devices::Verified;
use crate::trust::path::search::Attempt;
use crate::trust::refusal::{Code, Refusal};
use crate::x509::certificate::Certificate;
use crate::x509::crl::RevocationList;

/// A revocation list of the request.
pub enum List {
    /// The list was read, and its signature verified.
    Used(Arc<RevocationList>),
    /// The list was not usable, for this reason.
    Unusable(String),
}

/// A decision, with the paths and lists that led to it.
pub struct Answer {
    decision: Result<Verified, Refusal>,
    attempts: Vec<Attempt>,
    lists: Vec<List>,
    skipped: Vec<Skipped>,
}

impl Answer {
    /// The answer to one request.  If several configurations accept, the decision is a refusal,
    /// because no `client_id` selects one.
    pub fn new(
        decision: Result<Vec<Verified>, Refusal>,
        attempts: Vec<Attempt>,
        lists: Vec<List>,
        skipped: Vec<Skipped>,
    ) -> Self {
        let decision = decision.and_then(|mut verified| {
            if verified.len() == 1 {
                return Ok(verified.remove(0));
            }
            let ids: Vec<&str> = verified.iter().map(|v| v.configuration().as_str()).collect();
            let detail = format!("configurations {} accept the chain", ids.join(", "));
            Err(Refusal::new(Code::ConfigurationAmbiguous, detail))
        });
        Self { decision, attempts, lists, skipped }
    }

    /// A refusal before any path was tried.
    pub fn refused(refusal: Refusal, skipped: Vec<Skipped>) -> Self {
        Self::new(Err(refusal), Vec::new(), Vec::new(), skipped)
    }

    /// True when the chain is accepted.
    pub(crate) fn is_accept(&self) -> bool {
        self.decision.is_ok()
    }

    /// Returns one JSON object.  `id` is the id of a line of a batch.
    pub(crate) fn to_json(&self, id: Option<&Value>) -> Value {
        let mut out = Map::new();
        if let Some(id) = id {
            out.insert("id".into(), id.clone());
        }
        match &self.decision {
            Ok(verified) => {
                out.insert("decision".into(), json!("accept"));
                out.insert("configurationId".into(), json!(verified.configuration().as_str()));
                out.insert("subjectId".into(), json!(verified.subject().as_str()));
                let path: Vec<Value> = verified.path().iter().map(|c| certificate(c)).collect();
                out.insert("path".into(), Value::Array(path));
            }
            Err(refusal) => {
                out.insert("decision".into(), json!("reject"));
                out.insert("reason".into(), json!(refusal.code.as_str()));
                out.insert("detail".into(), json!(refusal.detail));
            }
        }
        out.insert("crls".into(), self.lists.iter().map(list).collect());
        if !self.attempts.is_empty() {
            out.insert("tried".into(), self.attempts.iter().map(attempt).collect());
        }
        if !self.skipped.is_empty() {
            let skipped =
                |s: &Skipped| json!({"configurationId": s.configuration.as_str(), "detail": s.why});
            out.insert("skipped".into(), self.skipped.iter().map(skipped).collect());
        }
        Value::Object(out)
    }

    /// Returns a text for people.
    pub(crate) fn to_text(&self) -> String {
        let mut out = String::new();
        // Writing to a String does not fail.
        let _ = match &self.decision {
            Ok(verified) => writeln!(
                out,
                "accept\n  subject ID     {}\n  configuration  {}",
                Cleaned(verified.subject().as_str()),
                Cleaned(verified.configuration().as_str())
            ),
            Err(refusal) => {
                writeln!(out, "reject\n  reason  {}\n  {}", refusal.code, Cleaned(&*refusal.detail))
            }
        };
        for (number, attempt) in self.attempts.iter().enumerate() {
            let _ = match &attempt.refusal {
                None => writeln!(out, "path {}: valid", number + 1),
                Some(refusal) => {
                    writeln!(
                        out,
                        "path {}: {}: {}",
                        number + 1,
                        refusal.code,
                        Cleaned(&*refusal.detail)
                    )
                }
            };
            for certificate in &attempt.path {
                let _ = writeln!(
                    out,
                    "    {}  (serial {}, until {})",
                    Cleaned(&certificate.subject),
                    certificate.serial_hex(),
                    certificate.not_after
                );
            }
        }
        for list in &self.lists {
            let _ = match list {
                List::Used(list) => writeln!(
                    out,
                    "list of {}: {} entries, issued {}",
                    Cleaned(&list.issuer),
                    list.entries(),
                    list.this_update
                ),
                List::Unusable(why) => writeln!(out, "list not used: {}", Cleaned(&**why)),
            };
        }
        for skipped in &self.skipped {
            let _ = writeln!(
                out,
                "skipped: {}: {}",
                Cleaned(skipped.configuration.as_str()),
                Cleaned(&*skipped.why)
            );
        }
        out
    }
}

fn certificate(certificate: &Certificate) -> Value {
    let mut out = json!({
        "subject": certificate.subject.to_string(),
        "issuer": certificate.issuer.to_string(),
        "serial": certificate.serial_hex(),
        "notBefore": certificate.not_before.to_string(),
        "notAfter": certificate.not_after.to_string(),
        "sha256": certificate.fingerprint.to_string(),
    });
    let tolerated = certificate.tolerated();
    if !tolerated.is_empty() {
        out["tolerated"] = json!(tolerated);
    }
    out
}

fn list(list: &List) -> Value {
    match list {
        List::Used(list) => json!({
            "issuer": list.issuer.to_string(),
            "delta": list.is_delta(),
            "thisUpdate": list.this_update.to_string(),
            "nextUpdate": list.next_update.map(|at| at.to_string()),
            "entries": list.entries(),
        }),
        List::Unusable(why) => json!({ "unusable": why }),
    }
}

fn attempt(attempt: &Attempt) -> Value {
    let path: Vec<String> = attempt.path.iter().map(|c| c.subject.to_string()).collect();
    let mut out = json!({"configurationId": attempt.configuration.as_str(), "path": path});
    match &attempt.refusal {
        None => out["decision"] = json!("accept"),
        Some(refusal) => {
            out["decision"] = json!("reject");
            out["reason"] = json!(refusal.code.as_str());
            out["detail"] = json!(refusal.detail);
        }
    }
    out
}
