//! Differences between two configuration files, and the part of them that needs no restart.

use std::collections::BTreeMap;

use toml::{Table, Value};

use crate::config::named_files::NamedFile;
use crate::config::values::bounded;
use crate::runtime::reload::KeyChange;

/// Keys whose change needs no restart, each with everything below it.
/// `deploy/configuration.md` lists them for operators.
const WITHOUT_RESTART: [&str; 55] = [
    "admin.open_reads",
    "admin.token_sha256",
    "admin.tokens",
    "client",
    "configuration",
    "drain",
    "drain_delay",
    "graph",
    "log.filter",
    "oauth.audience",
    "oauth.default_scopes",
    "oauth.optional_client_id",
    "oauth.resources",
    "oauth.rotation.every",
    "oauth.rotation.publish_ahead",
    "oauth.rotation.retire_after",
    "oauth.scopes",
    "oauth.token_lifetime",
    "public.connections",
    "public.connections_per_address",
    "public.connections_per_device",
    "public.handshake",
    "public.handshake_queue",
    "public.handshakes",
    "public.handshakes_per_address",
    "public.header_bytes",
    "public.header_read",
    "public.idle",
    "public.proxy_protocol_from",
    "public.request",
    "rate_limits",
    "revocation.authority",
    "revocation.grace",
    "revocation.require_crl",
    "revocation.require_delta",
    "revocation.without_next_update",
    "tls.cipher_suites",
    "tls.groups",
    "tls.minimum_version",
    "tls.names",
    "tls.resumption",
    "tls.ticket_certificates",
    "token.connections",
    "token.connections_per_address",
    "token.connections_per_device",
    "token.handshake",
    "token.handshake_queue",
    "token.handshakes",
    "token.handshakes_per_address",
    "token.header_bytes",
    "token.header_read",
    "token.idle",
    "token.proxy_protocol_from",
    "token.request",
    "trust",
];

/// A table that only a restart adds or removes, although keys below it can change without one.
const SWITCH: &str = "oauth.rotation";

/// Further keys that name files whose new contents need no restart.
const FILES_WITHOUT_RESTART: [&str; 3] =
    ["directory.database_url_file", "directory.issuers.ca_bundle", "revocation.ca_bundle"];

/// Last parts of keys whose values are not shown.
const SECRET: [&str; 5] = ["client_secret", "database_url", "sha256", "token", "token_sha256"];

/// Returns every key whose value differs, sorted.
pub(super) fn changes(before: &Table, after: &Table) -> Vec<KeyChange> {
    let is_switched = is_switched(before, after);
    let (before, after) = (flat(before), flat(after));
    let keys: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let differs = keys.into_iter().filter(|key| before.get(*key) != after.get(*key));
    differs
        .map(|key| {
            let plain = without_items(key);
            let shown = |value: Option<&Value>| value.map(|value| shown(&plain, value));
            KeyChange {
                before: shown(before.get(key)),
                after: shown(after.get(key)),
                needs_restart: needs_restart(&plain)
                    || is_switched && is_at_or_below(&plain, SWITCH),
                key: key.clone(),
            }
        })
        .collect()
}

/// Returns every value by its key.  Secrets are not shown.
pub(super) fn redacted(table: &Table) -> BTreeMap<String, String> {
    let shown = |(key, value): (String, Value)| {
        let text = shown(&without_items(&key), &value);
        (key, text)
    };
    flat(table).into_iter().map(shown).collect()
}

/// Returns the keys that name a file as `before` does, where its content differs.  A file whose key
/// needs a restart keeps its entry of `before`, because its content of that time stays in use.
pub(super) fn file_changes(before: &[NamedFile], after: &mut [NamedFile]) -> Vec<KeyChange> {
    let mut changes = Vec::new();
    for new in after {
        let is_same = |old: &&NamedFile| old.key == new.key && old.path == new.path;
        let Some(old) = before.iter().find(is_same) else { continue };
        if old.content == new.content {
            continue;
        }
        let plain = without_items(&new.key);
        let needs_restart =
            needs_restart(&plain) && !FILES_WITHOUT_RESTART.contains(&plain.as_str());
        let shown = |what: &str| Some(format!("(content of {}, {what})", new.path.display()));
        let (before, after) = (shown("as it was"), shown("changed"));
        changes.push(KeyChange { key: new.key.clone(), before, after, needs_restart });
        if needs_restart {
            new.content = old.content;
        }
    }
    changes
}

/// `key` is without the names of array items.
fn needs_restart(key: &str) -> bool {
    !WITHOUT_RESTART.iter().any(|live| is_at_or_below(key, live))
}

/// True if the table [`SWITCH`] is added or removed.
fn is_switched(before: &Table, after: &Table) -> bool {
    get(before, SWITCH).is_some() != get(after, SWITCH).is_some()
}

/// Returns `before` with those values of `after` that need no restart.
pub(super) fn live_part(before: &Table, after: &Table) -> Table {
    let mut mixed = before.clone();
    let is_switched = is_switched(before, after);
    for key in WITHOUT_RESTART {
        if is_switched && is_at_or_below(key, SWITCH) {
            continue;
        }
        let value = get(after, key).cloned();
        put(&mut mixed, key, value);
    }
    mixed
}

fn is_at_or_below(key: &str, of: &str) -> bool {
    key.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The value for a message; a secret is not shown.
fn shown(key: &str, value: &Value) -> String {
    match value {
        _ if is_secret(key) => "(not shown)".to_owned(),
        Value::String(text) => bounded(text),
        value => bounded(&value.to_string()),
    }
}

/// Returns true if the value of a key is not shown.
pub(super) fn is_secret(key: &str) -> bool {
    SECRET.contains(&key.rsplit('.').next().unwrap_or(key))
}

/// The key without the names of array items.
fn without_items(key: &str) -> String {
    let (mut out, mut depth) = (String::new(), 0_u32);
    for c in key.chars() {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            c if depth == 0 => out.push(c),
            _ => {}
        }
    }
    out
}

/// Every value that is not a table, by its key.
fn flat(table: &Table) -> BTreeMap<String, Value> {
    fn add(out: &mut BTreeMap<String, Value>, path: &str, value: &Value) {
        let items = value.as_array().filter(|items| items.iter().any(Value::is_table));
        match (value, items) {
            (Value::Table(table), _) => {
                for (key, value) in table {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    add(out, &path, value);
                }
                // An empty table can have a meaning, as `[oauth.rotation]` has.
                if table.is_empty() && !path.is_empty() {
                    out.insert(path.to_owned(), value.clone());
                }
            }
            (_, Some(items)) => {
                for (number, item) in items.iter().enumerate() {
                    add(out, &format!("{path}[{}]", name_of(item, number)), item);
                }
            }
            _ => drop(out.insert(path.to_owned(), value.clone())),
        }
    }
    let mut out = BTreeMap::new();
    add(&mut out, "", &Value::Table(table.clone()));
    out
}

/// The name that identifies an item of an array of tables, or its number.
fn name_of(item: &Value, number: usize) -> String {
    let name = ["id", "name", "issuer"].into_iter().find_map(|key| item.get(key)?.as_str());
    match name {
        Some(name) => name.chars().filter(|c| !c.is_control() && *c != '[' && *c != ']').collect(),
        None => number.to_string(),
    }
}

fn get<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    let (first, rest) =
        key.split_once('.').map_or((key, None), |(first, rest)| (first, Some(rest)));
    let value = table.get(first)?;
    match rest {
        Some(rest) => get(value.as_table()?, rest),
        None => Some(value),
    }
}

/// Sets or removes the value of a key.  A table on the way is created only for a value.
fn put(table: &mut Table, key: &str, value: Option<Value>) {
    let Some((first, rest)) = key.split_once('.') else {
        match value {
            Some(value) => drop(table.insert(key.to_owned(), value)),
            None => drop(table.remove(key)),
        }
        return;
    };
    if value.is_none() && !table.contains_key(first) {
        return;
    }
    let below = table.entry(first.to_owned()).or_insert_with(|| Value::Table(Table::new()));
    if let Some(below) = below.as_table_mut() {
        put(below, rest, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::reference;

    fn table(text: &str) -> Table {
        text.parse().expect("TOML")
    }

    const BEFORE: &str = "data_dir = 'a'\n[log]\nfilter = 'info'\n[oauth]\naudience = 'x'\n\
        [[client]]\nid = 'a'\nscopes = ['r']\n[[client]]\nid = 'b'\n[[graph]]\nname = 'hub'\n\
        [graph.credential]\ntoken = 'one'\n";

    #[test]
    fn names_each_key_and_whether_it_needs_a_restart() {
        let after = BEFORE
            .replace("'info'", "'debug'")
            .replace("data_dir = 'a'", "data_dir = 'b'")
            .replace("['r']", "['r', 'w']")
            .replace("[[client]]\nid = 'b'\n", "[[client]]\nid = 'c'\n")
            .replace("'one'", "'two'");
        let found: Vec<_> = changes(&table(BEFORE), &table(&after))
            .into_iter()
            .map(|c| (c.key, c.before, c.after, c.needs_restart))
            .collect();
        let some = |text: &str| Some(text.to_owned());
        let expected = [
            ("client[a].scopes", some("[\"r\"]"), some("[\"r\", \"w\"]"), false),
            ("client[b].id", some("b"), None, false),
            ("client[c].id", None, some("c"), false),
            ("data_dir", some("a"), some("b"), true),
            ("graph[hub].credential.token", some("(not shown)"), some("(not shown)"), false),
            ("log.filter", some("info"), some("debug"), false),
        ];
        assert_eq!(found, expected.map(|(key, b, a, restart)| (key.to_owned(), b, a, restart)));
        assert_eq!(changes(&table(BEFORE), &table(BEFORE)), []);
    }

    #[test]
    fn the_live_part_keeps_what_needs_a_restart() {
        let after =
            "data_dir = 'b'\n[oauth]\nscopes = ['s']\nissuer = 'i'\n[trust]\nmax_path = 3\n";
        let mixed = live_part(&table(BEFORE), &table(after));
        let expected = "data_dir = 'a'\n[log]\n[oauth]\nscopes = ['s']\n[trust]\nmax_path = 3\n";
        assert_eq!(mixed, table(expected));
        assert!(changes(&mixed, &table(after)).iter().all(|change| change.needs_restart));
    }

    #[test]
    fn a_rotation_is_added_and_removed_by_a_restart() {
        let rotation = "[oauth.rotation]\nevery = '30 d'\n";
        let after = format!("{BEFORE}{rotation}");
        let [change] = &changes(&table(BEFORE), &table(&after))[..] else { panic!("one change") };
        assert_eq!((change.key.as_str(), change.needs_restart), ("oauth.rotation.every", true));
        assert_eq!(live_part(&table(BEFORE), &table(&after)), table(BEFORE));
        assert_eq!(live_part(&table(&after), &table(BEFORE)), table(&after));

        let other = after.replace("30 d", "20 d");
        let [change] = &changes(&table(&after), &table(&other))[..] else { panic!("one change") };
        assert!(!change.needs_restart);
        assert_eq!(live_part(&table(&after), &table(&other)), table(&other));
    }

    /// A key with a `_file` variant contains a secret.
    #[test]
    fn values_of_secrets_are_not_shown() {
        let keys: Vec<_> = reference::entries().map(|entry| entry.key).collect();
        for key in &keys {
            let has_file = keys.contains(&&*format!("{key}_file"));
            let is_hash = key.ends_with("sha256") && !key.starts_with("revocation");
            let is_shown = shown(key, &Value::from("canary")).contains("canary");
            assert!(!(has_file || is_hash) || !is_shown, "{key}");
        }
        assert!(shown("oauth.issuer", &Value::from("canary")).contains("canary"));
    }

    #[test]
    fn keys_that_need_no_restart_exist() {
        for live in WITHOUT_RESTART.iter().chain(&FILES_WITHOUT_RESTART) {
            assert!(reference::entries().any(|entry| is_at_or_below(entry.key, live)), "{live}");
        }
    }

    #[test]
    fn the_reference_lists_the_keys_that_need_no_restart() {
        let (_, rest) =
            reference::TEXT.split_once("## Changes without a restart").expect("a section");
        let section = rest.split("\n## ").next().unwrap_or(rest);
        for live in WITHOUT_RESTART.iter().chain(&FILES_WITHOUT_RESTART) {
            assert!(section.contains(&format!("`{live}`")), "{live} is not listed");
        }
    }
}
