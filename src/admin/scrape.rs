//! The format of the metrics: OpenMetrics for scrapers that accept it, else the classic text format.

use hyper::HeaderMap;
use hyper::header::ACCEPT;

/// Media type of OpenMetrics text.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Media type of the classic text format.
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A format of the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The text format 0.0.4 of Prometheus.
    Classic,
}

impl Format {
    /// Returns the format that the `Accept` fields of a request prefer.
    pub(super) fn accepted(headers: &HeaderMap) -> Self {
        let fields = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let ranges: Vec<(&str, f32)> =
            fields.flat_map(|field| field.split(',')).map(range).collect();
        let quality = |kinds: &[&str]| {
            let all = ranges.iter().filter(|(kind, _)| kinds.contains(kind));
            all.map(|(_, quality)| *quality).fold(0.0, f32::max)
        };
        let classic = quality(&["text/plain", "text/*", "*/*"]);
        match quality(&["application/openmetrics-text"]) {
            wanted if wanted > 0.0 && wanted >= classic => Self::OpenMetrics,
            _ => Self::Classic,
        }
    }

    /// Returns the media type.
    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => OPEN_METRICS,
            Self::Classic => CLASSIC,
        }
    }

    /// Converts OpenMetrics text to this format.
    pub(super) fn convert(self, text: String) -> String {
        match self {
            Self::OpenMetrics => text,
            Self::Classic => classic(&text),
        }
    }
}

/// Returns the media type of a range, and its quality.  Another version than 1.0.0 has quality 0.
fn range(range: &str) -> (&str, f32) {
    let mut parts = range.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default();
    let mut quality = 1.0;
    for part in parts {
        match part.split_once('=') {
            Some(("q", value)) => {
                quality = value.parse::<f32>().map_or(quality, |q| q.min(quality));
            }
            Some(("version", version))
                if kind == "application/openmetrics-text"
                    && !matches!(version, "1.0.0" | "0.0.1") =>
            {
                quality = 0.0;
            }
            _ => {}
        }
    }
    (kind, quality)
}

/// Converts OpenMetrics text to the classic format.  There the family of a counter has the suffix of its
/// samples, and neither units nor an end exist.
fn classic(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut help = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "unknown"));
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            let help = help.split_once(' ').map_or("", |(_, help)| help);
            for part in
                ["# HELP ", name, suffix, " ", help, "\n# TYPE ", name, suffix, " ", kind, "\n"]
            {
                out.push_str(part);
            }
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest;
        } else if !line.starts_with('#') {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::registry::{Registry, Unit};

    use super::*;

    fn accepted(fields: &[&'static str]) -> Format {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(ACCEPT, hyper::header::HeaderValue::from_static(field));
        }
        Format::accepted(&headers)
    }

    #[test]
    fn the_format_is_the_one_that_the_scraper_prefers() {
        use Format::{Classic, OpenMetrics};
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,\
             application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let classic_first = "text/plain;version=0.0.4;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1";
        for (fields, format) in [
            (&[][..], Classic),
            (&["*/*"], Classic),
            (&["text/plain"], Classic),
            (&[prometheus], OpenMetrics),
            (&[classic_first], Classic),
            (&["application/openmetrics-text; version=1.0.0"], OpenMetrics),
            (&["application/openmetrics-text"], OpenMetrics),
            (&["application/openmetrics-text; version=2.0.0", "text/plain"], Classic),
            (&["application/openmetrics-text;q=0"], Classic),
            (&["text/plain;q=0.1", "application/openmetrics-text;q=0.2"], OpenMetrics),
            (&[";;=,q=q,application/openmetrics-text;q=x"], OpenMetrics),
        ] {
            assert_eq!(accepted(fields), format, "{fields:?}");
        }
    }

    #[test]
    fn classic_text_names_counters_as_their_samples() {
        let mut registry = Registry::with_prefix("a");
        registry.register("requests", "Requests", Counter::<u64>::default());
        registry.register_with_unit("size", "Size", Unit::Bytes, Gauge::<i64>::default());
        let mut text = String::new();
        encode(&mut text, &registry).expect("encoded");
        let expected = "# HELP a_requests_total Requests.\n# TYPE a_requests_total counter\na_requests_total 0\n\
             # HELP a_size_bytes Size.\n# TYPE a_size_bytes gauge\na_size_bytes 0\n";
        assert_eq!(Format::Classic.convert(text.clone()), expected);
        assert_eq!(Format::OpenMetrics.convert(text.clone()), text);
    }
}
