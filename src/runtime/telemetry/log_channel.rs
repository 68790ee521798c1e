//! Requests with log records that wait for the collector.

use std::fmt;
use std::sync::Arc;

use hyper::header::CONTENT_TYPE;
use hyper::{HeaderMap, Request};
use opentelemetry_http::{Bytes, HttpClient};
use opentelemetry_proto::tonic::resource::v1::Resource;
use tokio::runtime::Handle;

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

    /// Sends an encoded request, and waits until the collector has accepted it.
    ///
    /// # Errors
    /// The collector did not accept the request.
    pub fn send(&self, body: Vec<u8>) -> Result<(), String> {
        let request = Request::post(&self.endpoint).header(CONTENT_TYPE, "application/x-protobuf");
        let mut request = request.body(Bytes::from(body)).map_err(|error| error.to_string())?;
        request.headers_mut().extend(self.headers.clone());
        let sent = self.runtime.block_on(self.client.send_bytes(request));
        sent.map(drop).map_err(|error| error.to_string())
    }
}

impl fmt::Debug for LogChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogChannel")
    }
}
