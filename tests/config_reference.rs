//! The reference of configuration keys and the reader of the configuration have the same keys.

use std::collections::BTreeSet;

use anchorgate::config::reference;

/// Has an item in every array of tables.  Its values need not be valid.
const EVERY_TABLE: &str = r#"
    [[client]]
    [[client.resources]]
    [[client]]
    application_configuration = ""
    [[graph]]
    [[configuration]]
    [[revocation.authority]]
    [[directory.tokens]]
    [[directory.issuers]]
    [[oauth.resources]]
    [[admin.tokens]]
    [admin]
    token_sha256 = ""
"#;

/// Keys that the reader asks for, without those of tables.  An array of tables without an item in
/// [`EVERY_TABLE`] stays, and is missing from the reference.
fn keys_of_the_reader() -> BTreeSet<String> {
    let asked = reference::keys_asked_for(EVERY_TABLE.parse().expect("TOML"));
    let is_table = |key: &str| asked.iter().any(|other| other.starts_with(&format!("{key}.")));
    asked.iter().filter(|key| !is_table(key)).cloned().collect()
}

#[test]
fn every_key_is_in_the_reference() {
    let documented: BTreeSet<_> = reference::entries().map(|entry| entry.key.to_owned()).collect();
    let read = keys_of_the_reader();
    let missing: Vec<_> = read.difference(&documented).collect();
    assert!(missing.is_empty(), "not in deploy/configuration.md: {missing:#?}");
    let unknown: Vec<_> = documented.difference(&read).collect();
    assert!(unknown.is_empty(), "in deploy/configuration.md, but not read: {unknown:#?}");
}

#[test]
fn a_row_of_the_reference_is_complete_and_unique() {
    let mut keys = BTreeSet::new();
    for entry in reference::entries() {
        for cell in [entry.kind, entry.default, entry.meaning] {
            assert!(!cell.trim().is_empty(), "{entry:?}");
        }
        assert!(!entry.meaning.contains('|'), "a cell has no `|`: {entry:?}");
        assert!(keys.insert(entry.key), "{} has two rows", entry.key);
    }
    // Lines that look like rows are rows.
    let rows = reference::TEXT.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, keys.len());
}

#[test]
fn a_table_is_found_with_all_of_its_keys() {
    let keys: Vec<_> = reference::find("log").iter().map(|entry| entry.key).collect();
    assert_eq!(keys, ["log.filter", "log.format", "log.audit_when_full"]);
    assert_eq!(reference::find("graph.every").len(), 1);
    assert_eq!(reference::find("grap"), []);
}
