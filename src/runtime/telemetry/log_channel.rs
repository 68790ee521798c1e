//! Requests with log records that wait for the collector.

use std::fmt;
use std::sync::Arc;

use hyper::header::CONTENT_TYPE;
use hyper::{HeaderMap, Request, StatusCode};
use opentelemetry_http::{Bytes, HttpClient};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;
use tokio::runtime::Handle;

/// The collector answered with a status that is not a success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the collector answered {0}")]
pub struct NotAccepted(pub StatusCode);

/// Error of [`LogChannel::send`].
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The collector answered with this status.
    #[error(transparent)]
    NotAccepted(NotAccepted),
    /// There was no answer.
    #[error("{0}")]
    Unreachable(String),
}

/// Sends log records from a thread that may wait.
#[derive(Clone)]
pub struct LogChannel {
    client: Arc<dyn HttpClient>,
    endpoint: String,
    headers: HeaderMap,
    resource: Resource,
    runtime: Handle,
}

impl LogChannel {
    pub(super) fn new(
        client: Arc<dyn HttpClient>,
        endpoint: String,
        headers: HeaderMap,
        resource: Resource,
    ) -> Self {
        Self { client, endpoint, headers, resource, runtime: Handle::current() }
    }

    /// Describes this process.
    pub fn resource(&self) -> &Resource {
        &self.resource
    }

    /// Sends an encoded request, and waits for the answer.  Returns the number of records that the
    /// collector rejects although it accepts the request (OTLP "partial success").
    ///
    /// # Errors
    /// The collector did not accept the request.
    pub fn send(&self, body: Vec<u8>) -> Result<u64, SendError> {
        let request = Request::post(&self.endpoint).header(CONTENT_TYPE, "application/x-protobuf");
        let mut request = request
            .body(Bytes::from(body))
            .map_err(|error| SendError::Unreachable(error.to_string()))?;
        request.headers_mut().extend(self.headers.clone());
        match self.runtime.block_on(self.client.send_bytes(request)) {
            Ok(response) => Ok(rejected(response.body())),
            Err(error) => Err(match error.downcast_ref::<NotAccepted>() {
                Some(status) => SendError::NotAccepted(*status),
                None => SendError::Unreachable(error.to_string()),
            }),
        }
    }
}

/// Reads the number of rejected records.  A collector may send a success without a body, or with another one.
fn rejected(body: &[u8]) -> u64 {
    let response = ExportLogsServiceResponse::decode(body).unwrap_or_default();
    let rejected = response.partial_success.map_or(0, |partial| partial.rejected_log_records);
    u64::try_from(rejected).unwrap_or(0)
}

impl fmt::Debug for LogChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogChannel")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsPartialSuccess;

    #[test]
    fn reads_the_number_of_rejected_records() {
        let answer = |rejected_log_records| {
            let partial =
                ExportLogsPartialSuccess { rejected_log_records, error_message: String::new() };
            ExportLogsServiceResponse { partial_success: Some(partial) }.encode_to_vec()
        };
        assert_eq!(rejected(&answer(3)), 3);
        for body in [answer(0), answer(-1), Vec::new(), b"<html>".to_vec()] {
            assert_eq!(rejected(&body), 0, "{body:?}");
        }
    }
}
