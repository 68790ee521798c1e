//! The revocation lists, each with a bar that shows how fresh it is.

use serde_json::Value;

use crate::admin::page::html::{BAD, CODE, GOOD, H3, Html, NOTE, P, Span, WARN, items, text};
use crate::x509::time::Timestamp;

/// Lists that the page shows.
const SHOWN: usize = 100;
/// Part of its life in percent below which the rest of a list is marked.
const SHORT: u64 = 25;

/// The state of a list at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Freshness {
    /// No list is in force.
    Missing,
    /// The list has no nextUpdate.
    Endless,
    /// Percent of its life and seconds that are left.
    Fresh(u64, u64),
    /// Seconds since nextUpdate.
    Stale(u64),
}

impl Freshness {
    fn of(list: &Value, now: Timestamp) -> Self {
        let time = |name: &str| list[name].as_str().and_then(Timestamp::parse_rfc3339);
        match (time("thisUpdate"), time("nextUpdate")) {
            (None, _) => Self::Missing,
            (_, None) => Self::Endless,
            (_, Some(next)) if next <= now => Self::Stale(now.since(next).as_secs()),
            (Some(this), Some(next)) => {
                let (left, life) = (next.since(now).as_secs(), next.since(this).as_secs().max(1));
                Self::Fresh((left.saturating_mul(100) / life).min(100), left)
            }
        }
    }

    /// Order on the page: what needs attention first.
    fn order(self) -> (u8, u64) {
        match self {
            Self::Missing => (0, 0),
            Self::Stale(since) => (1, u64::MAX - since),
            Self::Fresh(percent, _) => (2, percent),
            Self::Endless => (3, 0),
        }
    }
}

/// Appends the section of revocation lists.
pub(super) fn lists(html: &mut Html, lists: &Value, now: Timestamp) {
    let mut all: Vec<(Freshness, &Value)> =
        items(lists).iter().map(|one| (Freshness::of(&one["list"], now), one)).collect();
    all.sort_by_key(|(freshness, _)| freshness.order());
    html.section("lists", "Revocation lists");
    if all.is_empty() {
        html.element(P, "No authority names a revocation list.");
    }
    html.raw("<div class=\"cards\">");
    for (freshness, one) in all.iter().take(SHOWN) {
        html.raw("<article>").element(H3, text(&one["address"])).raw("<p>");
        mark(html, *freshness);
        if let Some(kind) = one["list"]["kind"].as_str() {
            html.raw(" ").element(CODE, kind);
        }
        html.raw("</p>");
        bar(html, *freshness);
        if let Some(error) = one["lastError"]["error"].as_str() {
            let at = text(&one["lastError"]["at"]);
            html.element(NOTE, format_args!("Last fetch failed at {at}: {error}"));
        }
        html.raw("<details><summary>Details</summary><dl>");
        let list = &one["list"];
        if list.is_object() {
            html.row("This update", text(&list["thisUpdate"]));
            html.row("Next update", text(&list["nextUpdate"]));
            html.row("Entries", &list["entries"]).row("Issuer", text(&list["issuer"]));
        }
        html.row("Fetched", text(&one["fetched"])).row("Next fetch", text(&one["nextFetch"]));
        html.raw("</dl></details></article>");
    }
    html.raw("</div>").more(all.len(), SHOWN, "anchorgate crl show").raw("</section>");
}

fn mark(html: &mut Html, freshness: Freshness) {
    match freshness {
        Freshness::Missing => html.element(BAD, "never loaded"),
        Freshness::Stale(since) => html.element(BAD, format_args!("stale since {}", Span(since))),
        Freshness::Fresh(..SHORT, left) => html.element(WARN, format_args!("{} left", Span(left))),
        Freshness::Fresh(_, left) => html.element(GOOD, format_args!("{} left", Span(left))),
        Freshness::Endless => html.element(GOOD, "without nextUpdate"),
    };
}

/// Appends the part of the list's life that is left, as a bar.
fn bar(html: &mut Html, freshness: Freshness) {
    let (class, percent) = match freshness {
        Freshness::Missing | Freshness::Stale(_) => ("bad", 0),
        Freshness::Fresh(percent, _) if percent < SHORT => ("warn", percent.max(1)),
        Freshness::Fresh(percent, _) => ("good", percent),
        Freshness::Endless => return,
    };
    html.raw("<svg class=\"freshness ").raw(class);
    html.raw("\" viewBox=\"0 0 100 4\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"");
    html.text(format_args!("{percent} % of its life is left"))
        .raw("\"><path class=\"rail\" d=\"M0 0H100V4H0z\"/>");
    html.raw("<path class=\"rest\" d=\"")
        .drawing(&format!("M0 0H{percent}V4H0z"))
        .raw("\"/></svg>");
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: Timestamp = Timestamp(1_800_000_000);

    fn list(age: i64, left: i64) -> Value {
        let at = |seconds: i64| Timestamp(NOW.0 + seconds).to_string();
        json!({ "kind": "complete", "thisUpdate": at(-age), "nextUpdate": at(left), "entries": 3 })
    }

    #[test]
    fn freshness_is_the_part_of_its_life_that_is_left() {
        for (list, expected) in [
            (list(0, 100), Freshness::Fresh(100, 100)),
            (list(90, 10), Freshness::Fresh(10, 10)),
            (list(100, 0), Freshness::Stale(0)),
            (list(100, -60), Freshness::Stale(60)),
            // A list of the future is not more than fresh.
            (list(-50, 100), Freshness::Fresh(100, 100)),
            (list(i64::from(i32::MAX), i64::from(i32::MAX)), Freshness::Fresh(50, 2_147_483_647)),
            (json!({ "thisUpdate": NOW.to_string() }), Freshness::Endless),
            (Value::Null, Freshness::Missing),
        ] {
            assert_eq!(Freshness::of(&list, NOW), expected, "{list}");
        }
    }

    #[test]
    fn lists_that_need_attention_are_first() {
        let one = |name: &str, list: Value| json!({ "address": name, "list": list });
        let all = json!([
            one("fresh", list(0, 100)),
            one("short", list(90, 10)),
            one("missing", Value::Null),
            one("stale", list(100, -60)),
        ]);
        let mut html = Html::default();
        lists(&mut html, &all, NOW);
        let html = html.into_string();
        let places = ["missing<", "stale<", "short<", "fresh<"]
            .map(|name| html.find(&format!("<h3>{name}")).expect(name));
        assert!(places.is_sorted(), "{html}");
        for bar in ["freshness bad", "freshness warn", "freshness good", "M0 0H10V4H0z"] {
            assert!(html.contains(bar), "{bar}: {html}");
        }
    }
}
