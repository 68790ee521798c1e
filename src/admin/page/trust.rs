//! The trust in force: held-back changes, sources, configurations with their authorities, and keys.

use serde_json::Value;

use crate::admin::page::html::{
    BAD, CODE, GOOD, H3, Html, LI, NOTE, P, PRE, Span, WARN, items, shell_word, text,
};
use crate::x509::time::Timestamp;

/// Items of one kind that the page shows.
const SHOWN: usize = 100;
/// Time before its end from which a certificate is marked.
const EXPIRES_SOON: u64 = 30 * 86_400;

/// Appends the changes that wait for approval, each with the command that approves it.
pub(super) fn held_back(html: &mut Html, sources: &Value) {
    let mut all = Vec::new();
    for source in items(sources) {
        let devices = &source["devices"]["held_back"];
        for (kind, held) in [("configurations", &source["held_back"]), ("devices", devices)] {
            if held.is_object() {
                all.push((source, kind, held));
            }
        }
    }
    if all.is_empty() {
        return;
    }
    html.section("held-back", "Changes that wait for approval");
    for (source, kind, held) in all.iter().take(SHOWN) {
        let name = text(&source["source"]);
        html.raw("<article class=\"held\">");
        html.element(H3, format_args!("{name}: {kind}"));
        html.element(P, format_args!("Held back since {}.", text(&held["since"])));
        let lines = items(&held["changes"]["lines"]);
        if !lines.is_empty() {
            html.raw("<ul>");
            for line in lines.iter().take(SHOWN) {
                html.element(LI, text(line));
            }
            html.raw("</ul>").more(lines.len(), SHOWN, "anchorgate trust show");
        } else if let Value::Object(numbers) = &held["changes"] {
            html.raw("<dl>");
            for (name, number) in numbers {
                html.raw("<div><dt>").text(name).raw("</dt><dd>").text(number).raw("</dd></div>");
            }
            html.raw("</dl>");
        }
        if let Some(lost) = held["changes"]["revocation_lost"].as_u64().filter(|lost| *lost > 0) {
            let effect = format!("{lost} authorities would lose revocation checking");
            html.element(BAD, effect);
        }
        let (source, digest) = (shell_word(name), shell_word(text(&held["digest"])));
        html.element(P, "If the change is intended, approve it with:");
        html.element(
            PRE,
            format_args!("anchorgate trust approve --source {source} --digest {digest}"),
        );
        html.raw("</article>");
    }
    html.raw("</section>");
}

/// Appends the sources of trust.
pub(super) fn sources(html: &mut Html, sources: &Value) {
    let all = items(sources);
    html.section("sources", "Sources");
    if all.is_empty() {
        html.element(P, "No directory is followed.");
    }
    html.raw("<div class=\"cards\">");
    for source in all.iter().take(SHOWN) {
        html.raw("<article>").element(H3, text(&source["source"])).raw("<p>");
        let devices = &source["devices"];
        state_of(html, source);
        if devices.is_object() {
            html.raw(" devices: ");
            state_of(html, devices);
        }
        html.raw("</p>");
        for (what, error) in
            [("Last error", &source["last_error"]), ("Last error, devices", &devices["last_error"])]
        {
            if let Some(error) = error.as_str() {
                html.element(NOTE, format_args!("{what}: {error}"));
            }
        }
        html.raw("<dl>");
        html.row("URL", text(&source["url"]));
        html.row("Configurations", &source["configurations"]);
        html.row("Anchors", &source["anchors"]).row("Intermediates", &source["intermediates"]);
        html.row("Last confirmed", text(&source["last_success"]));
        html.row("Next poll", text(&source["next_poll"]));
        if devices.is_object() {
            html.row("Devices enabled", &devices["enabled"]);
            html.row("Devices disabled", &devices["disabled"]);
            html.row("Devices confirmed", text(&devices["last_success"]));
        }
        html.raw("</dl>");
        skipped(html, items(&source["skipped"]), "configuration");
        html.raw("</article>");
    }
    html.raw("</div>").more(all.len(), SHOWN, "anchorgate trust show").raw("</section>");
}

fn state_of(html: &mut Html, follower: &Value) {
    let is = |name: &str| follower[name] == true;
    match follower {
        _ if is("too_old") => html.element(BAD, "too old"),
        _ if !is("loaded") => html.element(BAD, "not loaded"),
        _ if follower["last_error"].is_string() => html.element(WARN, "last fetch failed"),
        _ if is("from_disk") => html.element(WARN, "from disk, not confirmed yet"),
        _ if follower["held_back"].is_object() => html.element(WARN, "a change is held back"),
        _ => html.element(GOOD, "in step"),
    };
}

fn skipped(html: &mut Html, all: &[Value], id: &str) {
    if all.is_empty() {
        return;
    }
    html.raw("<p>Not in force:</p><ul>");
    for skipped in all.iter().take(SHOWN) {
        html.element(LI, format_args!("{}: {}", text(&skipped[id]), text(&skipped["why"])));
    }
    html.raw("</ul>").more(all.len(), SHOWN, "anchorgate trust show");
}

/// Appends the configurations in force with their authorities.
pub(super) fn configurations(html: &mut Html, trust: &Value, now: Timestamp) {
    html.section("configurations", "Configurations in force");
    let kinds =
        [("configurations", "skipped"), ("applicationConfigurations", "skippedApplications")];
    if kinds.iter().all(|(all, _)| items(&trust[all]).is_empty()) {
        html.element(P, "No configuration is in force: every certificate is refused.");
    }
    for (all, left_out) in kinds {
        let all = items(&trust[all]);
        for configuration in all.iter().take(SHOWN) {
            one_configuration(html, configuration, now);
        }
        html.more(all.len(), SHOWN, "anchorgate trust show");
        skipped(html, items(&trust[left_out]), "id");
    }
    html.raw("</section>");
}

fn one_configuration(html: &mut Html, configuration: &Value, now: Timestamp) {
    html.raw("<article>").element(H3, text(&configuration["displayName"])).raw("<dl>");
    html.row("ID", text(&configuration["id"]));
    match configuration["subjectField"].as_str() {
        Some(field) => {
            html.row("Names devices by", field).row("Admits", text(&configuration["devices"]))
        }
        None => html.row("For", "applications"),
    };
    html.raw("</dl><ul class=\"authorities\">");
    let authorities = items(&configuration["authorities"]);
    for authority in authorities.iter().take(SHOWN) {
        let kind = if authority["root"] == true { "anchor" } else { "intermediate" };
        html.raw("<li><details><summary><strong>")
            .text(kind)
            .raw("</strong> ")
            .text(text(&authority["subject"]));
        html.raw(" ");
        expiry(html, &authority["notAfter"], now);
        html.raw("</summary><dl>").row("Until", text(&authority["notAfter"]));
        html.row("SHA-256", text(&authority["fingerprint"]));
        html.row("Revocation lists", text(&authority["revocation"]["mode"]));
        for (term, url) in [("CRL", &authority["crl"]), ("Delta CRL", &authority["deltaCrl"])] {
            if let Some(url) = url.as_str() {
                html.row(term, url);
            }
        }
        html.raw("</dl></details></li>");
    }
    html.raw("</ul>").more(authorities.len(), SHOWN, "anchorgate trust show").raw("</article>");
}

/// Appends a mark for the end of a certificate's validity.
fn expiry(html: &mut Html, not_after: &Value, now: Timestamp) {
    let Some(end) = not_after.as_str().and_then(Timestamp::parse_rfc3339) else {
        return;
    };
    let left = end.since(now).as_secs();
    match left {
        0 => html.element(BAD, format_args!("expired {} ago", Span(now.since(end).as_secs()))),
        1..EXPIRES_SOON => html.element(WARN, format_args!("{} left", Span(left))),
        _ => html.element(GOOD, format_args!("{} left", Span(left))),
    };
}

/// Appends the signing keys.
pub(super) fn keys(html: &mut Html, keys: &Value) {
    let all = items(keys);
    html.section("keys", "Signing keys").raw("<div class=\"cards\">");
    for key in all.iter().take(SHOWN) {
        html.raw("<article><h3>").element(CODE, text(&key["kid"])).raw("</h3><dl>");
        for (term, name) in [
            ("State", "state"),
            ("Algorithm", "algorithm"),
            ("Signs from", "signsFrom"),
            ("Published until", "publishedUntil"),
        ] {
            if let Some(value) = key[name].as_str() {
                html.row(term, value);
            }
        }
        html.raw("</dl></article>");
    }
    html.raw("</div>").more(all.len(), SHOWN, "anchorgate keys list").raw("</section>");
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: Timestamp = Timestamp(1_800_000_000);

    fn rendered(render: impl FnOnce(&mut Html)) -> String {
        let mut html = Html::default();
        render(&mut html);
        html.into_string()
    }

    #[test]
    fn a_held_back_change_has_the_command_that_approves_it() {
        let held = |changes| json!({ "since": "S", "digest": "abc", "changes": changes });
        let sources = json!([
            { "source": "fleet one", "held_back": held(json!({
                "lines": ["anchor <CN=a> removed"], "revocation_lost": 2 })),
              "devices": { "held_back": held(json!({ "removed": 7 })) } },
            { "source": "quiet", "held_back": null },
        ]);
        let html = rendered(|html| held_back(html, &sources));
        let command = "anchorgate trust approve --source &#39;fleet one&#39; --digest abc<";
        assert_eq!(html.matches(command).count(), 2, "{html}");
        assert!(html.contains("anchor &lt;CN=a&gt; removed"), "{html}");
        assert!(html.contains("2 authorities would lose") && html.contains("<dd>7</dd>"), "{html}");
        assert!(!html.contains("quiet"), "{html}");
        assert_eq!(rendered(|html| held_back(html, &json!([]))), "");
    }

    #[test]
    fn an_anchor_is_marked_before_and_after_its_end() {
        let mark =
            |at: i64| rendered(|html| expiry(html, &json!(Timestamp(NOW.0 + at).to_string()), NOW));
        assert!(mark(400 * 86_400).contains("good\">1 y 35 d left"));
        assert!(mark(86_400).contains("warn\">1 d left"));
        assert!(mark(-120).contains("bad\">expired 2 min ago"));
    }

    #[test]
    fn the_state_of_a_source_is_one_mark() {
        let mark = |status: Value| rendered(|html| state_of(html, &status));
        assert!(mark(json!({})).contains("not loaded"));
        assert!(mark(json!({ "loaded": true })).contains("in step"));
        assert!(mark(json!({ "loaded": true, "too_old": true })).contains("bad\">too old"));
        assert!(mark(json!({ "loaded": true, "last_error": "x" })).contains("last fetch failed"));
    }

    #[test]
    fn a_large_list_is_cut_and_says_so() {
        let one = json!({ "displayName": "one", "authorities": [] });
        let trust = json!({ "configurations": vec![one; SHOWN + 5] });
        let html = rendered(|html| configurations(html, &trust, NOW));
        assert_eq!(html.matches("<article>").count(), SHOWN);
        assert!(html.contains("5 more are not shown here: <code>anchorgate trust show"), "{html}");
        let html = rendered(|html| configurations(html, &json!({}), NOW));
        assert!(html.contains("every certificate is refused"), "{html}");
    }
}
