//! Error responses of the directory, with the statuses, codes and messages of Graph.

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::store::StoreError;
use crate::x509::time::Timestamp;

/// Reason why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Unknown segment in the path.  The status is 400, as in Graph, and not 404.
    Segment(String),
    /// The body is not the expected JSON.
    Payload(String),
    /// A property has an invalid value.
    Property {
        property: &'static str,
        /// Type that has the property.
        resource: &'static str,
        /// Path of the property in the body.
        target: String,
        /// Rule that the value violates.
        why: String,
    },
    /// The type does not have this property.
    UnknownProperty { property: String, resource: &'static str },
    /// A query option is not supported or not well-formed.
    Query(String),
    /// The id is not a GUID.
    Identifier(String),
    /// The request has no bearer token.
    Anonymous,
    /// The bearer token is not accepted.
    Token(&'static str),
    /// The token does not grant the permission.
    Forbidden,
    /// The object with this id does not exist.
    NotFound(String),
    /// The resource does not support the method; the allowed methods are given.
    MethodNotAllowed(&'static str),
    /// The object has changed since it was read (`If-Match`).
    Precondition,
    /// The directory, or an object, has the maximum number of elements.
    Quota(String),
    /// A rule between objects does not allow the operation.
    Conflict(String),
    /// The body is longer than the limit, which is given in bytes.
    BodyTooLong(usize),
    /// The body did not arrive in time.
    BodyTimeout,
    /// The client does not accept JSON.
    NotAcceptable,
    /// The content coding of the body is not supported.
    ContentCoding(String),
    /// The changes since the token are no longer available.  The URL to start again is given.
    SyncState(String),
    /// The database does not accept changes; the reason is given.
    ReadOnly(String),
    /// The store or an issuer is not available; the request can be retried.
    Unavailable(String),
}

impl Fault {
    pub(crate) fn status(&self) -> StatusCode {
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
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Precondition => StatusCode::PRECONDITION_FAILED,
            Self::BodyTooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            Self::ContentCoding(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::SyncState(_) => StatusCode::GONE,
            Self::Unavailable(_) | Self::ReadOnly(_) => StatusCode::SERVICE_UNAVAILABLE,
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
            Self::MethodNotAllowed(_) => "Request_BadRequest",
            Self::Precondition => "Request_PreconditionFailed",
            Self::Quota(_) => "Directory_QuotaExceeded",
            Self::BodyTooLong(_) => "RequestEntityTooLarge",
            Self::BodyTimeout => "RequestTimeout",
            Self::NotAcceptable => "NotAcceptable",
            Self::ContentCoding(_) => "UnsupportedMediaType",
            Self::SyncState(_) => "syncStateNotFound",
            Self::Unavailable(_) | Self::ReadOnly(_) => "ServiceUnavailable",
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
            Self::MethodNotAllowed(_) => {
                "Specified HTTP method is not allowed for the request target.".into()
            }
            Self::Precondition => {
                "The object has changed since it was read. Read it again and apply the change to the \
                 current version."
                    .into()
            }
            Self::BodyTooLong(limit) => format!("The request body is longer than {limit} bytes."),
            Self::BodyTimeout => "The request body did not arrive in time.".into(),
            Self::NotAcceptable => {
                "The Accept header does not include application/json, the only format of responses."
                    .into()
            }
            Self::ContentCoding(coding) => {
                format!("A request body with '{coding}' is not supported; send JSON, plain or gzip.")
            }
            Self::SyncState(_) => {
                "The sync state is not found. The token has expired or belongs to another directory; \
                 start again without a token."
                    .into()
            }
            Self::Unavailable(_) => "The service is temporarily unavailable. Try again.".into(),
            Self::Query(why) | Self::Quota(why) | Self::Conflict(why) | Self::ReadOnly(why) => {
                why.clone()
            },
        }
    }

    /// Detail in addition to Graph's message: the path of the invalid value, and the reason.
    fn detail(&self) -> Option<(&str, &str)> {
        match self {
            Self::Payload(why) => Some(("", why)),
            Self::Property { target, why, .. } => Some((target, why)),
            _ => None,
        }
    }

    /// Body of the error response.
    pub(crate) fn body(&self, request_id: &str, client_request_id: &str, now: Timestamp) -> Value {
        let date = now.to_string();
        let mut error = json!({
            "code": self.code(),
            "message": self.message(),
            "innerError": {
                // Graph omits the time zone.
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

/// Converts an error of the store for an operation on the object `id`.
pub(crate) fn store_fault(error: StoreError, id: &str) -> Fault {
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
        error @ StoreError::ReadOnly => Fault::ReadOnly(error.to_string()),
        StoreError::Refused(why) => Fault::Conflict(why),
        StoreError::Unavailable(why) => Fault::Unavailable(why),
    }
}
