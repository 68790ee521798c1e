//! Spans, and the context that connects those of several processes (W3C Trace Context).

use hyper::HeaderMap;
use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// Target of the spans that are exported.  Their level is TRACE, so that they do not appear in the log.
pub const TARGET: &str = "anchorgate::span";

/// Makes `span` a child of the span that the headers of a request name, if they name one.
pub fn continue_from(span: &Span, headers: &HeaderMap) {
    if span.is_disabled() || !headers.contains_key("traceparent") {
        return;
    }
    let context = TraceContextPropagator::new()
        .extract_with_context(&Context::new(), &HeaderExtractor(headers));
    // A span has a parent already only if it was entered.
    let _ = span.set_parent(context);
}

/// Returns the headers that tell a server about the current span; none if spans are off.
pub fn context_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    let span = Span::current();
    if !span.is_disabled() {
        let context = span.context();
        TraceContextPropagator::new().inject_context(&context, &mut HeaderInjector(&mut headers));
    }
    headers
}
