//! The form that asks why a certificate is refused, and its result.

use serde_json::Value;

use crate::admin::page::html::{BAD, CODE, ERROR, GOOD, H3, Html, LI, P, items, text};
use crate::admin::page::traffic::meaning;

/// Paths that the page shows.
const SHOWN: usize = 50;

/// Appends the form.  `token` proves that a request comes from this page.
pub(super) fn form(html: &mut Html, token: &str) {
    html.section("explain", "Why is this certificate refused?");
    html.raw("<form method=\"post\" action=\"/explain\"><label for=\"chain\">Certificate of the client and its ");
    html.raw("intermediates, PEM, the client’s first</label><textarea id=\"chain\" name=\"chain\" rows=\"8\" ");
    html.raw("required spellcheck=\"false\" autocomplete=\"off\" autocapitalize=\"off\" aria-describedby=\"hint\" ");
    html.raw("placeholder=\"-----BEGIN CERTIFICATE-----\"></textarea><p class=\"note\" id=\"hint\">It is judged ");
    html.raw("under the trust in force, as in a handshake of a device. Nothing is stored. Do not paste a private ");
    html.raw("key.</p><input type=\"hidden\" name=\"token\" value=\"").text(token);
    html.raw("\"><button type=\"submit\">Explain</button></form></section>");
}

/// Appends a message about a form that was not accepted.
pub(super) fn rejected(html: &mut Html, why: &str) {
    html.section("result", "Result").element(ERROR, why).raw("</section>");
}

/// Appends a decision, as `/verify` returns it, and every path that was tried.
pub(super) fn result(html: &mut Html, answer: &Value, generation: u64) {
    html.section("result", "Result").raw("<div role=\"status\">");
    if answer["decision"] == "accept" {
        html.raw("<p>").element(GOOD, "accepted").raw("</p><dl>");
        html.row("Subject ID", text(&answer["subjectId"]));
        html.row("Configuration", text(&answer["configurationId"])).raw("</dl>");
    } else {
        let code = text(&answer["reason"]);
        html.raw("<p>").element(BAD, "refused").raw(" ").element(CODE, code).raw("</p>");
        if let Some(meaning) = meaning(code) {
            html.element(P, meaning);
        }
        html.element(P, text(&answer["detail"]));
    }
    html.raw("<p class=\"note\">Judged under generation ").text(generation).raw(".</p></div>");
    let tried = items(&answer["tried"]);
    if tried.is_empty() {
        html.element(P, "No path was tried.");
    }
    for (n, attempt) in tried.iter().take(SHOWN).enumerate() {
        path(html, n + 1, attempt);
    }
    html.more(tried.len(), SHOWN, "anchorgate explain").raw("</section>");
}

/// Appends one path, from the certificate of the client to the anchor.
fn path(html: &mut Html, number: usize, attempt: &Value) {
    html.raw("<article>").element(H3, format_args!("Path {number}")).raw("<p>");
    match attempt["decision"] == "accept" {
        true => html.element(GOOD, "accepted"),
        false => html.element(BAD, "refused").raw(" ").element(CODE, text(&attempt["reason"])),
    };
    html.raw("</p>");
    if let Some(detail) = attempt["detail"].as_str() {
        html.element(P, detail);
    }
    html.raw("<dl>").row("Configuration", text(&attempt["configurationId"])).raw("</dl>");
    html.raw("<ol class=\"path\">");
    for subject in items(&attempt["path"]) {
        html.element(LI, text(subject));
    }
    html.raw("</ol></article>");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::refusal::Code;
    use serde_json::json;

    #[test]
    fn a_refusal_shows_its_paths_and_its_meaning() {
        let tried = json!({ "decision": "reject", "reason": "crl_stale", "detail": "<since>",
            "configurationId": "fleet", "path": ["CN=device", "CN=<b>root</b>"] });
        let answer =
            json!({ "decision": "reject", "reason": "crl_stale", "detail": "d", "tried": [tried] });
        let mut html = Html::default();
        result(&mut html, &answer, 7);
        let html = html.into_string();
        for expected in [
            Code::CrlStale.meaning(),
            "generation 7",
            "&lt;since&gt;",
            "<li>CN=device</li><li>CN=&lt;b&gt;root&lt;/b&gt;</li>",
        ] {
            assert!(html.contains(expected), "{expected}: {html}");
        }
        assert!(!html.contains("accepted"), "{html}");
    }

    #[test]
    fn an_accepted_certificate_shows_its_subject() {
        let answer =
            json!({ "decision": "accept", "subjectId": "meter-1", "configurationId": "fleet" });
        let mut html = Html::default();
        result(&mut html, &answer, 1);
        let html = html.into_string();
        assert!(html.contains("accepted") && html.contains("<dd>meter-1</dd>"), "{html}");
    }
}
