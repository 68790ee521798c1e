//! Spans, and the context that connects those of several processes (W3C Trace Context).

use std::net::IpAddr;

use hyper::HeaderMap;
use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{SpanContext, TraceContextExt as _, TraceState};
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// Target of the spans that are exported.  Their level is TRACE, so that they do not appear in the log.
pub(crate) const TARGET: &str = "anchorgate::span";

/// Connects `span` with the span that the headers of a request from `peer` name, if they name one.
///
/// A proxy on this machine is trusted: `span` becomes a child, in the trace of the proxy.  Other peers
/// could join a trace that is not theirs, or have all their requests sampled: `span` begins a trace of its
/// own, with a link to the named span.
pub(crate) fn continue_from(span: &Span, headers: &HeaderMap, peer: IpAddr) {
    if span.is_disabled() || !headers.contains_key("traceparent") {
        return;
    }
    let context = TraceContextPropagator::new()
        .extract_with_context(&Context::new(), &HeaderExtractor(headers));
    if peer.to_canonical().is_loopback() {
        // A span has a parent already only if it was entered.
        let _ = span.set_parent(context);
        return;
    }
    let named = context.span().span_context().clone();
    // `tracestate` is foreign text of any content, and is not exported.
    let (trace, id, flags) = (named.trace_id(), named.span_id(), named.trace_flags());
    span.add_link(SpanContext::new(trace, id, flags, true, TraceState::default()));
}

/// Returns the headers that tell a server about the current span; none if spans are off.
pub(crate) fn context_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    let span = Span::current();
    if !span.is_disabled() {
        let context = span.context();
        TraceContextPropagator::new().inject_context(&context, &mut HeaderInjector(&mut headers));
    }
    headers
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    /// Returns the trace of a request from `peer`, and whether it is sampled where nothing is by default.
    fn trace_of(peer: &str) -> (String, bool) {
        let sampler = Sampler::ParentBased(Box::new(Sampler::AlwaysOff));
        let provider = SdkTracerProvider::builder().with_sampler(sampler).build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let mut headers = HeaderMap::new();
        let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
        headers.insert("traceparent", parent.parse().expect("a header value"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let span = tracing::info_span!("request");
            continue_from(&span, &headers, peer.parse().expect("an address"));
            let context = span.context();
            let of_span = context.span().span_context().clone();
            (of_span.trace_id().to_string(), of_span.is_sampled())
        })
    }

    #[test]
    fn a_stranger_neither_joins_a_trace_nor_forces_sampling() {
        for peer in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(trace_of(peer), (TRACE.to_owned(), true), "{peer}");
        }
        for peer in ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"] {
            let (trace, sampled) = trace_of(peer);
            assert_ne!(trace, TRACE, "{peer}");
            assert!(!sampled, "{peer}");
        }
    }
}
