//! Settings of the export, from the variables of the OpenTelemetry specification.
//!
//! The SDK reads further ones itself: `OTEL_TRACES_SAMPLER`, `OTEL_BSP_*`, `OTEL_BLRP_*`,
//! `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_EXPORTER_OTLP_HEADERS` and `…_TIMEOUT` of traces and logs.

use std::fmt;
use std::time::Duration;

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use url::Url;

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const INTERVAL: &str = "OTEL_METRIC_EXPORT_INTERVAL";

/// One kind of telemetry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Spans.
    Traces,
    /// The metrics of `/metrics`.
    Metrics,
    /// Log and audit records.
    Logs,
}

impl Signal {
    /// All signals.
    pub const ALL: [Self; 3] = [Self::Traces, Self::Metrics, Self::Logs];

    /// Returns the name in paths and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }
}

/// A variable has a value that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {why}")]
pub struct SettingError {
    variable: String,
    why: String,
}

/// Settings of the export.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    endpoints: [Option<String>; 3],
    /// Headers of requests with metrics, which may be secret.
    pub metric_headers: HeaderMap,
    /// Headers of requests with audit records, which may be secret.
    pub log_headers: HeaderMap,
    /// Interval of metrics.
    pub metric_interval: Duration,
    /// The variables name the service.
    pub names_service: bool,
    /// File with the certification authorities of the collector.
    pub certificate: Option<String>,
}

/// Headers can contain a token.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

impl Settings {
    /// Reads the variables through `variable`.  Returns `None` if nothing is exported.
    ///
    /// # Errors
    /// A variable is not valid, or asks for what is not supported: another protocol than
    /// `http/protobuf`, or compression.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, SettingError> {
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        if set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let mut endpoints = [None, None, None];
        for (endpoint, signal) in endpoints.iter_mut().zip(Signal::ALL) {
            *endpoint = read_endpoint(signal, &set)?;
        }
        if endpoints.iter().all(Option::is_none) {
            return Ok(None);
        }
        let headers = |signal: &str| {
            let own = format!("OTEL_EXPORTER_OTLP_{signal}_HEADERS");
            let general = "OTEL_EXPORTER_OTLP_HEADERS";
            match (set(&own), set(general)) {
                (Some(value), _) => read_headers(&own, &value),
                (None, Some(value)) => read_headers(general, &value),
                (None, None) => Ok(HeaderMap::new()),
            }
        };
        let metric_interval = match set(INTERVAL) {
            None => Duration::from_secs(60),
            Some(value) => match value.trim().parse() {
                Ok(milliseconds @ 1_000..=86_400_000) => Duration::from_millis(milliseconds),
                _ => {
                    let why =
                        format!("`{value}` is not a number of milliseconds from 1000 to 86400000");
                    return Err(SettingError { variable: INTERVAL.to_owned(), why });
                }
            },
        };
        let names_service = set("OTEL_SERVICE_NAME").is_some()
            || set("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|list| list.contains("service.name="));
        Ok(Some(Self {
            endpoints,
            metric_headers: headers("METRICS")?,
            log_headers: headers("LOGS")?,
            metric_interval,
            names_service,
            certificate: set("OTEL_EXPORTER_OTLP_CERTIFICATE"),
        }))
    }

    /// Returns the URL that `signal` is sent to, or `None` if it is not exported.
    pub fn endpoint(&self, signal: Signal) -> Option<&str> {
        let index = Signal::ALL.iter().position(|one| *one == signal)?;
        self.endpoints[index].as_deref()
    }
}

fn read_endpoint(
    signal: Signal,
    set: &impl Fn(&str) -> Option<String>,
) -> Result<Option<String>, SettingError> {
    let upper = signal.as_str().to_ascii_uppercase();
    let exporter = format!("OTEL_{upper}_EXPORTER");
    match set(&exporter).as_deref() {
        None | Some("otlp") => {}
        Some("none") => return Ok(None),
        Some(other) => {
            let why = format!("`{other}` is not supported; use `otlp` or `none`");
            return Err(SettingError { variable: exporter, why });
        }
    }
    let own = format!("OTEL_EXPORTER_OTLP_{upper}_ENDPOINT");
    let (variable, url) = match (set(&own), set(ENDPOINT)) {
        (Some(url), _) => (own, url),
        // The path of the general endpoint is a base.
        (None, Some(base)) => {
            let url = format!("{}/v1/{}", base.trim_end_matches('/'), signal.as_str());
            (ENDPOINT.to_owned(), url)
        }
        (None, None) => return Ok(None),
    };
    let is_http = |url: &Url| matches!(url.scheme(), "http" | "https");
    if !Url::parse(&url).is_ok_and(|url| is_http(&url)) {
        let why = "not a URL with http or https".to_owned();
        return Err(SettingError { variable, why });
    }
    for (name, supported) in [("PROTOCOL", "http/protobuf"), ("COMPRESSION", "none")] {
        for variable in
            [format!("OTEL_EXPORTER_OTLP_{upper}_{name}"), format!("OTEL_EXPORTER_OTLP_{name}")]
        {
            let Some(value) = set(&variable) else { continue };
            if value != supported {
                let why = format!("`{value}` is not supported; use `{supported}`");
                return Err(SettingError { variable, why });
            }
            break;
        }
    }
    Ok(Some(url))
}

/// Reads `name=value` pairs whose values are percent-encoded.  An error does not show them.
fn read_headers(variable: &str, list: &str) -> Result<HeaderMap, SettingError> {
    let mut headers = HeaderMap::new();
    for pair in list.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let parsed = pair.split_once('=').and_then(|(name, value)| {
            let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
            let value = percent_decoded(value.trim())?;
            let mut value = HeaderValue::from_bytes(&value).ok()?;
            value.set_sensitive(true);
            Some((name, value))
        });
        let Some((name, value)) = parsed else {
            let why = "not a list of `name=value`, separated by commas".to_owned();
            return Err(SettingError { variable: variable.to_owned(), why });
        };
        headers.insert(name, value);
    }
    Ok(headers)
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                bytes.push(u8::try_from(digit(high)? * 16 + digit(low)?).ok()?);
                rest = after;
            }
            (b'%', _) => return None,
            (byte, after) => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Settings>, String> {
        let find = |name: &str| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        };
        Settings::read(find).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_exported_without_an_endpoint() {
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[(ENDPOINT, " ")]), Ok(None));
        assert_eq!(read(&[("OTEL_SERVICE_NAME", "x"), ("OTEL_TRACES_EXPORTER", "otlp")]), Ok(None));
        let all = [(ENDPOINT, "http://c:4318"), ("OTEL_SDK_DISABLED", "TRUE")];
        assert_eq!(read(&all), Ok(None));
        let none = ["OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_LOGS_EXPORTER"];
        let none = none.map(|name| (name, "none"));
        assert_eq!(read(&[&[(ENDPOINT, "http://c:4318")], &none[..]].concat()), Ok(None));
    }

    #[test]
    fn an_endpoint_is_a_base_and_one_of_a_signal_is_used_unchanged() {
        let settings = read(&[
            (ENDPOINT, "http://c:4318/base/"),
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "https://logs.example/in"),
            ("OTEL_METRICS_EXPORTER", "none"),
        ]);
        let settings = settings.expect("valid").expect("on");
        assert_eq!(settings.endpoint(Signal::Traces), Some("http://c:4318/base/v1/traces"));
        assert_eq!(settings.endpoint(Signal::Logs), Some("https://logs.example/in"));
        assert_eq!(settings.endpoint(Signal::Metrics), None);
        assert_eq!(settings.metric_interval, Duration::from_secs(60));
        assert!(!settings.names_service);
    }

    #[test]
    fn what_is_not_supported_is_an_error_that_names_the_variable() {
        for (name, value, why) in [
            (ENDPOINT, "c:4318", "OTEL_EXPORTER_OTLP_ENDPOINT: not a URL"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "use `http/protobuf`"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", "TRACES_PROTOCOL: `http/json`"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip", "COMPRESSION: `gzip` is not supported"),
            ("OTEL_LOGS_EXPORTER", "console", "OTEL_LOGS_EXPORTER: `console`"),
            (INTERVAL, "10", "from 1000 to 86400000"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization", "not a list of `name=value`"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=%4", "not a list of `name=value`"),
        ] {
            let error = read(&[(name, value), (ENDPOINT, "http://c:4318")]).expect_err(name);
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn headers_are_decoded_and_do_not_appear_in_debug_output() {
        let list = "authorization=Bearer%20s3cret, x-scope = a";
        let settings = read(&[(ENDPOINT, "http://c"), ("OTEL_EXPORTER_OTLP_HEADERS", list)]);
        let settings = settings.expect("valid").expect("on");
        assert_eq!(settings.metric_headers["authorization"], "Bearer s3cret");
        assert_eq!(settings.metric_headers["x-scope"], "a");
        assert!(!format!("{settings:?}").contains("s3cret"));
    }
}
