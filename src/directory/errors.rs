//! What the directory answers instead of what was asked: Graph's statuses, codes and sentences.

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::store::StoreError;
use crate::x509::time::Timestamp;

/// A request that is not done, in Graph's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A path that leads nowhere: 400, as Graph has it, not 404.
    Segment(String),
    /// A body that is not the JSON it should be.
    Payload(String),
    /// A property with a value it may not have.
    Property {
        /// Its name.
        property: &'static str,
        /// The type it belongs to.
        resource: &'static str,
        /// Where it stands in the body.
        target: String,
        /// The rule.
        why: String,
    },
    /// A property that the type does not have.
    UnknownProperty {
        /// Its name.
        property: String,
        /// The type.
        resource: &'static str,
    },
    /// A query option that is not supported or not well-formed.
    Query(String),
    /// An id that is no GUID.
    Identifier(String),
    /// No bearer token.
    Anonymous,
    /// A bearer token that is not accepted.
    Token(&'static str),
    /// A token that does not carry the permission.
    Forbidden,
    /// No object of that id.
    NotFound(String),
    /// Not with this method; the ones that are.
    Method(&'static str),
    /// The object has changed since it was read (`If-Match`).
    Precondition,
    /// More objects, or more in one, than there may be.
    Quota(String),
    /// A rule between objects forbids it.
    Conflict(String),
    /// A body that is too long; the limit in bytes.
    TooLong(usize),
    /// A body that did not come in time.
    Slow,
    /// A reader that takes no JSON.
    Unacceptable,
    /// A body in a coding that is not read.
    Coding(String),
    /// What has changed since then is not known any longer: everything is to be read again, from here.
    SyncState(String),
    /// The store does not answer; another try may be answered.
    Unavailable(String),
}

impl Fault {
    /// The status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Segment(_)
            | Self::Payload(_)
            | Self::Property { .. }
            | Self::UnknownProperty { .. }
            | Self::Query(_)
            | Self::Identifier(_)
            | Self::Conflict(_) => StatusCode::BAD_REQUEST,
            Self::Anonymous | Self::Token(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden | Self::Quota(_) => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Precondition => StatusCode::PRECONDITION_FAILED,
            Self::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Unacceptable => StatusCode::NOT_ACCEPTABLE,
            Self::Coding(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::SyncState(_) => StatusCode::GONE,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Segment(_) | Self::Payload(_) | Self::UnknownProperty { .. } => "BadRequest",
            Self::Property { .. } | Self::Identifier(_) | Self::Conflict(_) => "Request_BadRequest",
            Self::Query(_) => "Request_UnsupportedQuery",
            Self::Anonymous | Self::Token(_) => "InvalidAuthenticationToken",
            Self::Forbidden => "Authorization_RequestDenied",
            Self::NotFound(_) => "Request_ResourceNotFound",
            Self::Method(_) => "Request_BadRequest",
            Self::Precondition => "Request_PreconditionFailed",
            Self::Quota(_) => "Directory_QuotaExceeded",
            Self::TooLong(_) => "RequestEntityTooLarge",
            Self::Slow => "RequestTimeout",
            Self::Unacceptable => "NotAcceptable",
            Self::Coding(_) => "UnsupportedMediaType",
            Self::SyncState(_) => "syncStateNotFound",
            Self::Unavailable(_) => "ServiceUnavailable",
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Segment(segment) => format!("Resource not found for the segment '{segment}'."),
            Self::Payload(_) => "Unable to read JSON request payload. Please ensure Content-Type \
                                 header is set and payload is of valid JSON format."
                .into(),
            Self::Property { property, resource, .. } => {
                format!(
                    "Invalid value specified for property '{property}' of resource '{resource}'."
                )
            }
            Self::UnknownProperty { property, resource } => format!(
                "The property '{property}' does not exist on type 'microsoft.graph.{resource}'. Make \
                 sure to only use property names that are defined by the type."
            ),
            Self::Identifier(id) => format!("Invalid object identifier '{id}'."),
            Self::Anonymous => "Access token is empty.".into(),
            Self::Token(why) => (*why).into(),
            Self::Forbidden => "Insufficient privileges to complete the operation.".into(),
            Self::NotFound(id) => format!(
                "Resource '{id}' does not exist or one of its queried reference-property objects are \
                 not present."
            ),
            Self::Method(_) => {
                "Specified HTTP method is not allowed for the request target.".into()
            }
            Self::Precondition => {
                "The object has changed since it was read. Read it again and apply \
                                   the change to what it is now."
                    .into()
            }
            Self::TooLong(limit) => format!("The request body is longer than {limit} bytes."),
            Self::Slow => "The request body did not come in time.".into(),
            Self::Unacceptable => {
                "The Accept header takes no application/json, in which everything is answered."
                    .into()
            }
            Self::Coding(coding) => {
                format!("A request body with '{coding}' is not read; send JSON, plain or gzip.")
            }
            Self::SyncState(_) => {
                "The sync state is not found. The token has expired or is of another \
                                   directory; begin again without one."
                    .into()
            }
            Self::Unavailable(_) => "The service is temporarily unavailable. Try again.".into(),
            Self::Query(why) | Self::Quota(why) | Self::Conflict(why) => why.clone(),
        }
    }

    /// What is added to Graph's sentence for the person who must mend the request.
    fn detail(&self) -> Option<(&str, &str)> {
        match self {
            Self::Payload(why) => Some(("", why)),
            Self::Property { target, why, .. } => Some((target, why)),
            _ => None,
        }
    }

    /// The body of the answer.
    pub fn body(&self, request_id: &str, client_request_id: &str, now: Timestamp) -> Value {
        let date = now.to_string();
        let mut error = json!({
            "code": self.code(),
            "message": self.message(),
            "innerError": {
                // Graph leaves the zone out.
                "date": date.trim_end_matches('Z'),
                "request-id": request_id,
                "client-request-id": client_request_id,
            },
        });
        if let Some((target, why)) = self.detail() {
            error["details"] = json!([{"code": "InvalidValue", "target": target, "message": why}]);
        }
        json!({ "error": error })
    }
}

/// A store's refusal, where `id` was meant.
pub fn store_fault(error: StoreError, id: &str) -> Fault {
    match error {
        StoreError::Missing => Fault::NotFound(id.into()),
        StoreError::Changed { .. } => Fault::Precondition,
        StoreError::Full(most) => Fault::Quota(format!(
            "The directory object quota limit has been exceeded: at most {most} objects of this type."
        )),
        StoreError::Referenced(by) => {
            Fault::Conflict(format!("The object is in use by '{by}' and cannot be deleted."))
        }
        StoreError::Exists => {
            Fault::Conflict("Another object with the same value already exists.".into())
        }
        StoreError::HistoryExpired(_) => Fault::SyncState(id.into()),
        StoreError::Unavailable(why) => Fault::Unavailable(why),
    }
}
