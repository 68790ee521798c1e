//! Charts of the last hour, and the newest refusals.

use std::fmt::Write as _;

use crate::admin::page::html::{CODE, Html, P, Span};
use crate::runtime::activity::{MINUTES, Refused, SUPPRESSED, Traffic};
use crate::trust::refusal::Code;
use crate::x509::time::Timestamp;

/// Codes with a chart of their own.
const CHARTS: usize = 12;
/// Height of a chart in its own units; each minute is 4 wide.
const HEIGHT: u64 = 32;

/// Appends the section with the charts.
pub(super) fn charts(html: &mut Html, traffic: &Traffic) {
    html.section("traffic", "Traffic of the last hour").raw("<div class=\"charts\">");
    chart(html, "Tokens issued", "issued", &traffic.issued);
    for (code, counts) in traffic.refused.iter().take(CHARTS) {
        chart(html, code, "refused", counts);
    }
    html.raw("</div>");
    if traffic.refused.is_empty() {
        html.element(P, "Nothing was refused.");
    }
    if let Some(more) = traffic.refused.len().checked_sub(CHARTS).filter(|more| *more > 0) {
        let rest = &traffic.refused[CHARTS..];
        let sum: u64 = rest.iter().flat_map(|(_, counts)| counts).sum();
        html.element(P, format_args!("{sum} refusals with {more} other codes."));
    }
    html.raw("<p class=\"note\">One bar is one minute, the newest on the right. Each chart has its own scale.");
    html.raw(" The numbers start with the process.</p></section>");
}

fn chart(html: &mut Html, title: &str, kind: &'static str, counts: &[u64; MINUTES]) {
    let (total, most) = (counts.iter().sum::<u64>(), counts.iter().copied().max().unwrap_or(0));
    html.raw("<figure class=\"").raw(kind).raw("\"><figcaption><span>").text(title);
    html.raw("</span> <strong>").text(total).raw("</strong></figcaption>");
    html.raw("<svg viewBox=\"0 0 240 33\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"");
    html.text(format_args!("{title}: {total} in the last hour, at most {most} in one minute"));
    html.raw("\"><path class=\"base\" d=\"M0 32.5H240\"/><path class=\"bars\" d=\"");
    html.drawing(&bars(counts, most)).raw("\"/></svg><span class=\"peak\">at most ");
    html.text(most).raw(" a minute</span></figure>");
}

/// The path of the bars.  A minute that is not empty is at least one unit high.
fn bars(counts: &[u64; MINUTES], most: u64) -> String {
    let mut out = String::new();
    for (n, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let scaled = u128::from(*count) * u128::from(HEIGHT) / u128::from(most.max(1));
        let height = scaled.max(1);
        // Writing to a String does not fail.
        let _ = write!(out, "M{} 32v-{height}h3v{height}z", n * 4);
    }
    out
}

/// Appends the section with the newest refusals.
pub(super) fn refusals(html: &mut Html, refusals: &[Refused], now: Timestamp) {
    html.section("refusals", "Recent refusals");
    if refusals.is_empty() {
        html.element(P, "Nothing was refused since the start of the process.").raw("</section>");
        return;
    }
    html.raw("<ol class=\"refusals\">");
    for refused in refusals {
        html.raw("<li><details><summary><code>").text(&refused.code).raw("</code> <span>");
        let client = [&refused.subject, &refused.client_id, &refused.address];
        html.text(client.into_iter().find(|name| !name.is_empty()).map_or("–", |name| name));
        html.raw("</span> <time datetime=\"").text(refused.at).raw("\">");
        html.text(Span(now.since(refused.at).as_secs())).raw(" ago</time></summary>");
        if let Some(meaning) = meaning(&refused.code) {
            html.element(P, meaning);
        }
        html.raw("<dl>");
        html.row("Detail", &refused.detail)
            .row("Time", refused.at)
            .row("Decided at", refused.event);
        for (term, value) in [
            ("Subject", &refused.subject),
            ("Client ID", &refused.client_id),
            ("Certificate (SHA-256)", &refused.certificate),
            ("Address", &refused.address),
        ] {
            if !value.is_empty() {
                html.row(term, value);
            }
        }
        html.raw("</dl></details></li>");
    }
    html.raw("</ol><p class=\"note\">Audit records have all refusals. ");
    html.element(CODE, SUPPRESSED);
    html.raw(" stands for further refusals of strangers, which are counted and not listed.</p></section>");
}

/// The explanation of a code of the judge.
pub(super) fn meaning(code: &str) -> Option<&'static str> {
    Code::find(code).map(Code::meaning)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(codes: usize) -> Traffic {
        let mut issued = [0; MINUTES];
        (issued[0], issued[59]) = (1, 4000);
        let refused = (0..codes).map(|n| (format!("code<{n}>"), [1; MINUTES])).collect();
        Traffic { issued, refused }
    }

    fn refused(code: &str, subject: &str) -> Refused {
        Refused {
            at: Timestamp(1_800_000_000),
            event: "handshake",
            code: code.to_owned(),
            detail: "the <reason>".to_owned(),
            subject: subject.to_owned(),
            client_id: String::new(),
            certificate: String::new(),
            address: "192.0.2.1".to_owned(),
        }
    }

    #[test]
    fn bars_are_scaled_and_never_invisible() {
        assert_eq!(bars(&[0; MINUTES], 0), "");
        assert_eq!(bars(&traffic(0).issued, 4000), "M0 32v-1h3v1zM236 32v-32h3v32z");
        let most = u64::MAX;
        assert_eq!(bars(&[most; MINUTES], most).matches("v-32h").count(), MINUTES);
    }

    #[test]
    fn a_chart_says_its_numbers_in_words() {
        let mut html = Html::default();
        charts(&mut html, &traffic(CHARTS + 2));
        let html = html.into_string();
        let label =
            "aria-label=\"Tokens issued: 4001 in the last hour, at most 4000 in one minute\"";
        assert!(html.contains(label), "{html}");
        assert_eq!(html.matches("<svg").count(), 1 + CHARTS);
        assert!(html.contains("120 refusals with 2 other codes"), "{html}");
        assert!(html.contains("code&lt;0&gt;") && !html.contains("code<"), "{html}");
    }

    #[test]
    fn a_refusal_is_explained_and_names_its_client() {
        let mut html = Html::default();
        let all = [refused("crl_stale", "CN=meter"), refused("invalid_scope", "")];
        refusals(&mut html, &all, Timestamp(1_800_000_090));
        let html = html.into_string();
        for expected in [
            Code::CrlStale.meaning(),
            "the &lt;reason&gt;",
            ">CN=meter<",
            ">192.0.2.1<",
            "1 min ago",
        ] {
            assert!(html.contains(expected), "{expected}: {html}");
        }
        let mut html = Html::default();
        refusals(&mut html, &[], Timestamp(0));
        assert!(html.into_string().contains("Nothing was refused"));
    }
}
