use super::*;
use std::collections::HashMap;

use serde_json::json;

use crate::runtime::activity::MINUTES;
use crate::runtime::text::is_hidden;

/// A text that would do harm wherever it is markup, and is very long.
fn hostile() -> String {
    let long = "y".repeat(10_000);
    format!("<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\u{202e}\u{0}\n&lt;{long}")
}

/// Replaces every text of `value`.
fn replace_texts(value: &mut Value, text: &str) {
    match value {
        Value::String(old) => *old = text.to_owned(),
        Value::Array(items) => items.iter_mut().for_each(|item| replace_texts(item, text)),
        Value::Object(members) => members.values_mut().for_each(|item| replace_texts(item, text)),
        _ => {}
    }
}

fn status() -> Value {
    let held = json!({ "since": "s", "digest": "d",
        "changes": { "lines": ["line"], "revocation_lost": 1 } });
    let authority = json!({ "subject": "CN=a", "fingerprint": "f", "root": true, "notAfter": "n",
        "crl": "http://a", "deltaCrl": "http://b", "revocation": { "mode": "require" } });
    let configuration = json!({ "id": "i", "displayName": "fleet", "subjectField": "san_dns",
        "devices": "any", "authorities": [authority] });
    json!({
        "version": "1", "missing": ["trust"], "started": "t",
        "trust": { "generation": 3, "configurations": [configuration],
            "skipped": [{ "id": "x", "why": "y" }],
            "applicationConfigurations": [configuration], "skippedApplications": [] },
        "sources": [{ "source": "s", "url": "https://g", "loaded": true, "last_error": "e",
            "held_back": held, "configurations": 1, "anchors": 1, "intermediates": 0,
            "last_success": "t", "next_poll": "t", "skipped": [{ "configuration": "c", "why": "w" }],
            "devices": { "last_error": "e", "held_back": held, "enabled": 1, "disabled": 0 } }],
        "revocation": [{ "address": "http://a", "fetched": "t", "nextFetch": "t",
            "lastError": { "at": "t", "error": "e" },
            "list": { "kind": "complete", "issuer": "CN=a", "entries": 1, "thisUpdate": "t",
                "nextUpdate": "t" } }],
        "signingKeys": [{ "kid": "k", "state": "signs", "algorithm": "ES256", "signsFrom": "t",
            "publishedUntil": "t" }],
        "configuration": { "lastError": "e", "restartNeeded": ["k"] },
    })
}

fn view(status: Value, text: &str) -> View {
    let text = || text.to_owned();
    let refused = Refused {
        at: Timestamp(1_800_000_000),
        event: "token",
        code: text(),
        detail: text(),
        subject: text(),
        client_id: text(),
        certificate: text(),
        address: text(),
    };
    let traffic = Traffic { issued: [1; MINUTES], refused: vec![(text(), [1; MINUTES])] };
    View {
        status,
        warnings: BTreeMap::from([("part", text())]),
        traffic,
        refusals: vec![refused],
        now: Timestamp(1_800_000_060),
        token: "form-token".to_owned(),
    }
}

/// The tags of a document, without attributes.
fn tags(html: &str) -> HashMap<&str, usize> {
    let mut count = HashMap::new();
    for tag in html.split('<').skip(1) {
        let end = tag.find([' ', '>']).expect("a tag");
        *count.entry(&tag[..end]).or_default() += 1;
    }
    count
}

#[test]
fn foreign_text_adds_no_markup_and_is_bounded() {
    let plain = overview(&view(status(), "text")).into_string();
    let mut attacked = status();
    replace_texts(&mut attacked, &hostile());
    let html = overview(&view(attacked, &hostile())).into_string();
    assert_eq!(tags(&html), tags(&plain), "{html}");
    assert!(!tags(&html).contains_key("script"));
    let quotes = |html: &str| html.matches('"').count();
    assert_eq!(quotes(&html), quotes(&plain), "no attribute ends early");
    assert!(!html.chars().any(is_hidden), "hidden characters are escaped");
    assert!(html.len() < 256 * 1024, "{} bytes", html.len());
    assert!(html.contains("&lt;script&gt;"), "the text is shown");
}

#[test]
fn every_element_that_starts_also_ends() {
    let answer = json!({ "decision": "reject", "reason": "policy", "detail": "d",
        "tried": [{ "decision": "accept", "path": ["CN=a"] }] });
    let decided = Explained::Decided { answer, generation: 1 };
    let rejected = Explained::Rejected(StatusCode::BAD_REQUEST, "why".into());
    for html in [
        overview(&view(status(), "text")),
        overview(&view(json!({}), "text")),
        explanation(&decided, "t"),
        explanation(&rejected, "t"),
    ] {
        let html = html.into_string();
        let mut open = Vec::new();
        for tag in html.split('<').skip(1) {
            let name = &tag[..tag.find([' ', '>', '/']).unwrap_or(0)];
            match tag.strip_prefix('/') {
                Some(end) => assert_eq!(open.pop(), end.split('>').next(), "{html}"),
                None if ["!DOCTYPE", "meta", "link", "input"].contains(&name) => {}
                None if tag.split('>').next().is_some_and(|tag| tag.ends_with('/')) => {}
                None => open.push(name),
            }
        }
        assert!(open.is_empty(), "{open:?} in {html}");
        // Each link inside the page has its target.
        for link in html.split("href=\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(html.contains(&format!("id=\"{link}\"")), "{link}");
        }
        assert!(!html.contains("style=\"") && !html.contains("http-equiv"), "{html}");
    }
}

/// Relative luminance of a colour such as `#0d1117` (WCAG 2.2).
fn luminance(colour: &str) -> f64 {
    let channel = |at: usize| {
        let value = u8::from_str_radix(&colour[at..at + 2], 16).expect("hexadecimal");
        let value = f64::from(value) / 255.0;
        if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
    };
    0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5)
}

#[test]
fn colours_have_the_contrast_of_level_aa_in_both_themes() {
    let theme = |css: &'static str| -> HashMap<&str, &str> {
        let css = css.split('}').next().expect("a rule");
        let colours = css.split([';', '{']).filter_map(|rule| rule.trim().split_once(": #"));
        colours
            .map(|(name, _)| {
                (name, &css[css.find(&format!("{name}: ")).expect("it") + name.len() + 2..][..7])
            })
            .collect()
    };
    let (light, dark) = STYLE.split_once("prefers-color-scheme: dark").expect("two themes");
    for colours in [theme(light), theme(dark)] {
        let contrast = |a: &str, b: &str| {
            let (a, b) = (luminance(colours[a]), luminance(colours[b]));
            (a.max(b) + 0.05) / (a.min(b) + 0.05)
        };
        for text in ["--text", "--muted", "--link"] {
            for ground in ["--page", "--card"] {
                assert!(contrast(text, ground) >= 4.5, "{text} on {ground}: {colours:?}");
            }
        }
        for kind in ["--good", "--warn", "--bad", "--button"] {
            let (text, ground) = (format!("{kind}-text"), format!("{kind}-page"));
            assert!(contrast(&text, &ground) >= 4.5, "{kind}: {colours:?}");
        }
        for graphic in ["--issued", "--refused", "--fresh", "--short"] {
            assert!(contrast(graphic, "--card") >= 3.0, "{graphic}: {colours:?}");
        }
    }
}
