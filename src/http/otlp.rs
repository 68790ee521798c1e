//! The HTTP client of the export to an OpenTelemetry collector.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::{Request, Response};
use opentelemetry_http::{Bytes, HttpClient, HttpError};
use reqwest::Client;
use tokio::runtime::Handle;
use tracing::warn;

use crate::http::outbound::{ClientError, ClientSettings, explain, read_limited};
use crate::runtime::log_limit::LogLimit;
use crate::runtime::telemetry::settings::Signal;
use crate::runtime::telemetry::{self, NotAccepted};

/// Limit of a response.
const MAX_RESPONSE: usize = 64 * 1024;
/// Time limit of a request, the default of the specification.
const REQUEST: Duration = Duration::from_secs(10);
/// Shortest interval between two log lines about failures of a signal.
const FAILURES: Duration = Duration::from_secs(300);

/// Client for one signal.  Its requests run on the runtime that created it, because the SDK sends from
/// threads of its own.
pub(crate) struct Collector {
    client: Client,
    runtime: Handle,
    signal: Signal,
    failures: Arc<LogLimit>,
}

impl Collector {
    /// Creates a client for `signal` that sends through `client`.
    pub fn new(client: Client, signal: Signal) -> Self {
        let failures = Arc::new(LogLimit::new(FAILURES));
        Self { client, runtime: Handle::current(), signal, failures }
    }
}

/// Builds the client of all signals.
///
/// # Errors
/// `settings` has an authority that is not usable.
pub fn client(settings: &ClientSettings) -> Result<Client, ClientError> {
    ClientSettings { request: Some(REQUEST), ..settings.clone() }.client()
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Collector({})", self.signal.as_str())
    }
}

impl HttpClient for Collector {
    fn send_bytes<'this, 'future>(
        &'this self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'future>>
    where
        'this: 'future,
        Self: 'future,
    {
        let exchange = self.runtime.spawn(exchange(self.client.clone(), request));
        Box::pin(async move {
            let result = exchange.await.map_err(|_| HttpError::from("the process is stopping"));
            let result = result.and_then(|result| result);
            telemetry::count(self.signal, result.is_ok());
            if let Err(error) = &result
                && let Some(suppressed) = self.failures.permit()
            {
                let signal = self.signal.as_str();
                warn!(
                    signal,
                    suppressed,
                    "export to the OpenTelemetry collector failed: {error}. Audit records of \
                     `audit.sink = \"otlp\"` are sent again; anything else in the request is lost"
                );
            }
            result
        })
    }
}

async fn exchange(client: Client, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let request = reqwest::Request::try_from(request).map_err(|error| explain(&error))?;
    let response = client.execute(request).await.map_err(|error| explain(&error))?;
    let status = response.status();
    if !status.is_success() {
        return Err(NotAccepted(status).into());
    }
    let body = read_limited(response, MAX_RESPONSE).await.map_err(|error| error.to_string())?;
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    Ok(response)
}
