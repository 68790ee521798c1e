//! The reference of configuration keys: `deploy/configuration.md`, which this part also prints.
//!
//! The document is the one table of keys.  `tests/config_reference.rs` compares it with the keys
//! that the reader asks for.

use std::collections::BTreeSet;
use std::path::Path;

use toml::Table;

use crate::config::parse::parse_recording;

/// The whole document, Markdown.
pub const TEXT: &str = include_str!("../../deploy/configuration.md");

/// One row of the document's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The key, dotted from the top: `graph.credential.tenant`.
    pub key: &'static str,
    /// Type of its value.
    pub kind: &'static str,
    /// Value when the key is absent.
    pub default: &'static str,
    /// Meaning.
    pub meaning: &'static str,
}

/// All rows, in the document's order.
pub fn entries() -> impl Iterator<Item = Entry> {
    TEXT.lines().filter_map(entry)
}

/// The row of one key, or of a table and everything in it.
pub fn find(key: &str) -> Vec<Entry> {
    let is_below = |of: &str| of.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'));
    entries().filter(|entry| entry.key == key || is_below(entry.key)).collect()
}

/// A line such as ``| `drain` | duration | `30s` | … |``.
fn entry(line: &'static str) -> Option<Entry> {
    let mut cells = line.strip_prefix("| `")?.strip_suffix(" |")?.splitn(4, " | ");
    let key = cells.next()?.strip_suffix('`')?;
    let (kind, default, meaning) = (cells.next()?, cells.next()?, cells.next()?);
    Some(Entry { key, kind, default, meaning })
}

/// Keys that the reader asks for when it reads `table`, whatever its problems.  It asks for the
/// keys of an array's tables only if the array has an item.
pub fn keys_asked_for(table: Table) -> BTreeSet<String> {
    parse_recording(table, Path::new("")).2
}
