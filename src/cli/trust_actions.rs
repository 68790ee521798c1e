//! Output of `trust sync` and `trust approve` for people.

use std::borrow::Cow;

use serde_json::Value;

use crate::cli::terminal::text;
use crate::runtime::text::{MAX_CHARACTERS, clean};

/// Shows the result of polling each directory.
pub(super) fn show_sync(response: &Value) {
    let sources = response.as_object();
    if sources.is_none_or(serde_json::Map::is_empty) {
        println!("no directory is configured");
    }
    for (source, result) in sources.into_iter().flatten() {
        let source = clean(source, MAX_CHARACTERS);
        for line in configuration_lines(&source, result).into_iter().chain(device_lines(result)) {
            println!("{source}: {line}");
        }
    }
}

/// Shows the change that was approved.
pub(super) fn show_approval(response: &Value) {
    let devices = &response["devices"];
    match devices.is_object() {
        true => println!("approved: {}", of_devices(devices)),
        false => {
            texts(&response["lines"]).iter().for_each(|line| println!("{line}"));
            println!("approved: {}", counts(response));
        }
    }
}

fn configuration_lines(source: &str, result: &Value) -> Vec<String> {
    if result["error"].is_string() {
        return vec![format!("failed: {}", text(&result["error"]))];
    }
    let held = &result["held_back"];
    if held.is_object() {
        return vec![format!(
            "held back: {}; {}",
            would_be(&held["changes"]),
            approval(source, held)
        )];
    }
    let changes = &result["changes"];
    let lines = texts(&changes["lines"]);
    if lines.is_empty() {
        return vec!["no change".to_owned()];
    }
    lines.iter().map(ToString::to_string).chain([counts(changes)]).collect()
}

fn device_lines(result: &Value) -> Vec<String> {
    if result["devicesError"].is_string() {
        return vec![format!("devices failed: {}", text(&result["devicesError"]))];
    }
    let held = &result["devices_held_back"];
    if held.is_object() {
        let change = of_devices(&held["changes"]);
        return vec![format!(
            "devices held back: {change}; `trust show` has the command to approve"
        )];
    }
    let devices = &result["devices"];
    let is_changed = ["added", "removed", "enabled", "disabled", "moved"]
        .iter()
        .any(|number| devices[number].as_u64().is_some_and(|number| number > 0));
    is_changed.then(|| of_devices(devices)).into_iter().collect()
}

fn counts(changes: &Value) -> String {
    format!(
        "{} anchors added, {} of {} removed",
        changes["anchors_added"], changes["anchors_removed"], changes["anchors_before"]
    )
}

/// The reasons for which a change waits for approval.
fn would_be(changes: &Value) -> String {
    let number = |name: &str| changes[name].as_u64().filter(|number| *number > 0);
    let mut reasons = Vec::new();
    if let Some(removed) = number("anchors_removed") {
        reasons
            .push(format!("{removed} of {} anchors would be removed", changes["anchors_before"]));
    }
    if let Some(lost) = number("revocation_lost") {
        reasons.push(format!("revocation checking would be lost for {lost} authorities"));
    }
    if let Some(ambiguous) = number("newly_ambiguous") {
        reasons.push(format!("devices of {ambiguous} configurations would be ambiguous"));
    }
    match reasons[..] {
        [] => "it differs too much from earlier lists".to_owned(),
        _ => reasons.join(", "),
    }
}

fn of_devices(difference: &Value) -> String {
    format!(
        "{} devices added, {} of {} removed, {} enabled, {} disabled, {} moved",
        difference["added"],
        difference["removed"],
        difference["before"],
        difference["enabled"],
        difference["disabled"],
        difference["moved"]
    )
}

/// The command that approves a change.
pub(super) fn approval(source: &str, held: &Value) -> String {
    let digest = text(&held["digest"]);
    format!("approve it with: anchorgate trust approve --source {source} --digest {digest}")
}

/// A number of things.
pub(super) fn counted(number: &Value, thing: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{ending}")
}

/// The texts of an array.
pub(super) fn texts(value: &Value) -> Vec<Cow<'_, str>> {
    let texts = value.as_array().into_iter().flatten().filter_map(Value::as_str);
    texts.map(|text| clean(text, MAX_CHARACTERS)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_that_is_held_back_comes_with_the_command_that_approves_it() {
        let changes = json!({"lines": ["x"], "anchors_added": 0, "anchors_removed": 1,
            "anchors_before": 1, "revocation_lost": 0, "newly_ambiguous": 0});
        let held = json!({"held_back": {"digest": "83f2", "changes": changes}, "changes": changes});
        let expected = "held back: 1 of 1 anchors would be removed; approve it with: anchorgate \
                        trust approve --source hub --digest 83f2";
        assert_eq!(configuration_lines("hub", &held), [expected]);
        let applied = json!({ "changes": changes });
        assert_eq!(configuration_lines("hub", &applied), ["x", "0 anchors added, 1 of 1 removed"]);
        let same = json!({"changes": {"lines": []}, "devices": {"before": 5, "added": 0}});
        assert_eq!(configuration_lines("hub", &same), ["no change"]);
        assert!(device_lines(&same).is_empty());
        let devices = json!({"devices_held_back": {"digest": "9", "changes": {"before": 2,
            "removed": 2, "added": 0, "enabled": 0, "disabled": 0, "moved": 0}}});
        let line = &device_lines(&devices)[0];
        assert!(line.starts_with("devices held back: 0 devices added, 2 of 2 removed"), "{line}");
        assert_eq!(counted(&json!(1), "anchor") + &counted(&json!(0), " x"), "1 anchor0  xs");
        let failed = json!({"error": "no route", "devicesError": "no route"});
        assert_eq!(configuration_lines("hub", &failed), ["failed: no route"]);
        assert_eq!(device_lines(&failed), ["devices failed: no route"]);
    }
}
