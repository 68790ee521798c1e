//! Reads a TOML table key by key and collects every problem instead of stopping at the first.
//!
//! # Design notes
//! A serde mirror of the file would stop at its first fault, and an operator would start the
//! gateway ten times to find ten faults.  Here `check-config` reports all of them, each with its
//! key, the value found and what is allowed.
//!
//! A table is read inside a closure ([`Section::section`], [`Section::sections`]), and
//! [`Section::finish`] runs after it.  A reader can return early and still have unknown keys
//! reported.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::{Table, Value};
use url::Url;

use crate::config::named_files::NamedFile;
use crate::config::problem::{Problem, UNKNOWN_KEY};
use crate::config::similar::closest;
use crate::config::values::{
    ShortDuration, duration, excerpt, has_impossible_port, hex, secure_url, text, url,
};
use crate::runtime::files::{ReadFileError, read_bounded};
use crate::runtime::log::Secret;
use crate::x509::certificate::Fingerprint;

/// Limit in bytes on the configuration file, and on each file that a setting names and that is read
/// together with it.
pub(super) const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Findings of reading one file, shared by all its sections.
#[derive(Default)]
pub(super) struct Report {
    problems: RefCell<Vec<Problem>>,
    keys: RefCell<BTreeSet<String>>,
    files: RefCell<Vec<NamedFile>>,
}

impl Report {
    /// Returns the files that were read, with the hash of what was read.
    pub(super) fn files(&self) -> Vec<NamedFile> {
        self.files.borrow().clone()
    }

    /// Returns the problems, and every key that a reader asked for.
    ///
    /// A key is dotted from the top, without the numbers of array items: `graph.credential.token`.
    pub(super) fn into_parts(self) -> (Vec<Problem>, BTreeSet<String>) {
        (self.problems.into_inner(), self.keys.into_inner())
    }
}

/// One table of the file.
pub(super) struct Section<'r> {
    /// Dotted path with the numbers of array items, for problems.
    path: String,
    /// Dotted path without these numbers.
    key_path: String,
    /// Keys that were not asked for yet.
    table: Table,
    asked: Vec<&'static str>,
    report: &'r Report,
}

impl<'r> Section<'r> {
    /// The top table of a file.
    pub(super) fn top(table: Table, report: &'r Report) -> Self {
        let (path, key_path) = (String::new(), String::new());
        Self { path, key_path, table, asked: Vec::new(), report }
    }

    fn below(&self, key: &str, number: Option<usize>, table: Table) -> Self {
        let path = dotted(&self.path, key);
        let path = number.map_or(path.clone(), |number| format!("{path}[{number}]"));
        let key_path = dotted(&self.key_path, key);
        Self { path, key_path, table, asked: Vec::new(), report: self.report }
    }

    /// Reports the keys that were not asked for.
    pub(super) fn finish(mut self) {
        let unknown = std::mem::take(&mut self.table);
        for key in unknown.keys() {
            let hint = match closest(key, self.asked.iter().copied()) {
                Some(known) => format!("did you mean `{known}`?"),
                None => format!("known keys here: {}", self.asked.join(", ")),
            };
            self.problem(key, None, format!("{UNKNOWN_KEY}; {hint}"));
        }
    }

    /// Adds a problem of `key`.
    pub(super) fn problem(&self, key: &str, value: Option<String>, allowed: impl Into<String>) {
        let problem = Problem { key: dotted(&self.path, key), value, requirement: allowed.into() };
        self.report.problems.borrow_mut().push(problem);
    }

    /// True when a problem of `key` was added.
    pub(super) fn has_problem(&self, key: &str) -> bool {
        let key = dotted(&self.path, key);
        self.report.problems.borrow().iter().any(|problem| problem.key == key)
    }

    /// True when `key` is present.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Number of items in the array under `key`; 0 for other values.
    pub(super) fn array_len(&self, key: &str) -> usize {
        self.table.get(key).and_then(Value::as_array).map_or(0, Vec::len)
    }

    /// Reads the table under `key`, which is empty when it is absent.
    pub(super) fn section<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Section<'r>) -> T,
    ) -> T {
        let table = self.take(key, "a table", |value| value.as_table().cloned());
        let mut section = self.below(key, None, table.unwrap_or_default());
        let value = read(&mut section);
        section.finish();
        value
    }

    /// Reads each table of the array under `key`.
    pub(super) fn sections<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Section<'r>) -> T,
    ) -> Vec<T> {
        let allowed = "an array of tables, each headed by double square brackets";
        let tables = self.take(key, allowed, |value| {
            let items = value.as_array()?.iter();
            items.map(|item| item.as_table().cloned()).collect::<Option<Vec<_>>>()
        });
        let mut values = Vec::new();
        for (number, table) in tables.unwrap_or_default().into_iter().enumerate() {
            let mut section = self.below(key, Some(number), table);
            values.push(read(&mut section));
            section.finish();
        }
        values
    }

    /// Marks `key` as known and returns its value.
    fn ask(&mut self, key: &'static str) -> Option<Value> {
        self.asked.push(key);
        self.report.keys.borrow_mut().insert(dotted(&self.key_path, key));
        self.table.remove(key)
    }

    /// Reads `key` with `read`.  If `read` returns `None`, the value is a problem.
    pub(super) fn take<T>(
        &mut self,
        key: &'static str,
        allowed: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.ask(key)?;
        let read = read(&value);
        if read.is_none() {
            let requirement = match has_impossible_port(&value) {
                true => "the port must be a number from 0 to 65535".to_owned(),
                false => format!("it must be {allowed}"),
            };
            self.problem(key, Some(excerpt(&value)), requirement);
        }
        read
    }

    /// Like [`Section::take`], for a key that must be present.
    pub(super) fn require<T>(
        &mut self,
        key: &'static str,
        allowed: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        if !self.has(key) {
            self.ask(key);
            self.problem(key, None, format!("missing; it must be {allowed}"));
            return None;
        }
        self.take(key, allowed, read)
    }

    /// A secret from `key`, or from the file that `file_key` names.  A problem does not contain the
    /// value.
    pub(super) fn secret(
        &mut self,
        key: &'static str,
        file_key: &'static str,
        folder: &Path,
    ) -> Option<Secret> {
        let value = self.ask(key);
        let file = self.file(file_key);
        match (value, file) {
            (Some(_), Some(_)) => {
                self.problem(file_key, None, format!("set either `{key}` or `{file_key}`"));
                None
            }
            (Some(value), None) => {
                let secret = text(&value).map(Secret::new);
                if secret.is_none() {
                    self.problem(key, None, "it must be a text that is not empty");
                }
                secret
            }
            (None, file) => {
                let bytes = self.read(file_key, &folder.join(file?))?;
                let text = String::from_utf8(bytes).unwrap_or_default();
                let text = text.trim();
                if text.is_empty() {
                    self.problem(file_key, None, "the file does not contain a text");
                    return None;
                }
                Some(Secret::new(text))
            }
        }
    }

    /// Reads the file at `path`, which `key` names.
    pub(super) fn read(&self, key: &str, path: &Path) -> Option<Vec<u8>> {
        let unreadable = |error: ReadFileError| {
            let shown = Some(format!("`{}`", path.display()));
            self.problem(key, shown, format!("it must be a readable file: {}", error.cause));
        };
        let bytes = read_bounded(path, MAX_FILE).map_err(unreadable).ok()?;
        let (key, content) = (dotted(&self.path, key), Fingerprint::of(&bytes));
        self.report.files.borrow_mut().push(NamedFile { key, path: path.to_owned(), content });
        Some(bytes)
    }

    /// The contents of the file that `key` names relative to `folder`, and `None` without the key.
    pub(super) fn file_contents(&mut self, key: &'static str, folder: &Path) -> Option<Vec<u8>> {
        let file = self.file(key)?;
        self.read(key, &folder.join(file))
    }

    /// A text that is not empty.
    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        self.take(key, "a text that is not empty", text)
    }

    /// A list of texts.
    pub(super) fn texts(&mut self, key: &'static str) -> Option<Vec<String>> {
        self.take(key, "a list of texts that are not empty", |value| {
            value.as_array()?.iter().map(text).collect()
        })
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &'static str) -> Option<bool> {
        self.take(key, "true or false", Value::as_bool)
    }

    /// A whole number within `range`.
    pub(super) fn number(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let allowed = format!("a whole number from {} to {}", range.start(), range.end());
        self.take(key, &allowed, |value| {
            u64::try_from(value.as_integer()?).ok().filter(|n| range.contains(n))
        })
    }

    /// A whole number within `range`, as a size.
    pub(super) fn size(&mut self, key: &'static str, range: RangeInclusive<u32>) -> Option<usize> {
        let number = self.number(key, u64::from(*range.start())..=u64::from(*range.end()))?;
        usize::try_from(number).ok()
    }

    /// A duration such as `30s`, `5m`, `2h` or `7d`, within `range`.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let allowed = format!(
            "a duration such as 500ms, 30s, 5m, 2h or 7d, from {} to {}",
            ShortDuration(*range.start()),
            ShortDuration(*range.end())
        );
        self.take(key, &allowed, |value| {
            duration(value.as_str()?).filter(|duration| range.contains(duration))
        })
    }

    /// An address to listen on.
    pub(super) fn address(&mut self, key: &'static str) -> Option<SocketAddr> {
        self.take(key, "an address with a port, such as 127.0.0.1:9090 or [::]:8443", |value| {
            value.as_str()?.parse().ok()
        })
    }

    /// An address to listen on, or `off`.  Returns `Some(None)` for `off`.
    pub(super) fn address_or_off(&mut self, key: &'static str) -> Option<Option<SocketAddr>> {
        let allowed = "an address with a port, such as 0.0.0.0:8081, or off";
        self.take(key, allowed, |value| match value.as_str()? {
            "off" => Some(None),
            text => text.parse().ok().map(Some),
        })
    }

    /// A path of a file or directory.
    pub(super) fn file(&mut self, key: &'static str) -> Option<PathBuf> {
        self.take(key, "a path", |value| text(value).map(PathBuf::from))
    }

    /// An absolute http or https URL.
    pub(super) fn url(&mut self, key: &'static str) -> Option<Url> {
        self.take(key, "an absolute http or https URL", url)
    }

    /// An https URL, or an http URL on loopback.
    pub(super) fn secure_url(&mut self, key: &'static str) -> Option<Url> {
        self.take(key, "an https URL (http on loopback only)", secure_url)
    }

    /// One of several words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let words: Vec<_> = choices.iter().map(|(word, _)| format!("{word:?}")).collect();
        self.take(key, &format!("one of {}", words.join(", ")), |value| {
            let word = value.as_str()?;
            choices.iter().find(|(choice, _)| *choice == word).map(|(_, value)| *value)
        })
    }

    /// The SHA-256 of a bearer token, which must be present.
    pub(super) fn token_sha256(&mut self, key: &'static str) -> Option<[u8; 32]> {
        self.require(key, "the SHA-256 of a token, 64 hexadecimal digits", |value| {
            hex(value.as_str()?)?.try_into().ok()
        })
    }

    /// The `permissions` of a bearer token, which must be present: names out of `known`.
    pub(super) fn permissions<T>(
        &mut self,
        known: impl IntoIterator<Item = &'static str>,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<Vec<T>> {
        let known = known.into_iter().collect::<Vec<_>>().join(", ");
        self.require("permissions", &format!("a list of permissions out of {known}"), |value| {
            value.as_array()?.iter().map(|name| parse(name.as_str()?)).collect()
        })
    }
}

fn dotted(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Reads a TOML text with `read` and returns its value with the texts of all problems.
#[cfg(test)]
pub(super) fn read_text<T>(
    text: &str,
    read: impl FnOnce(&mut Section<'_>) -> T,
) -> (T, Vec<String>) {
    let report = Report::default();
    let mut top = Section::top(text.parse().expect("TOML"), &report);
    let value = read(&mut top);
    top.finish();
    let (problems, _) = report.into_parts();
    (value, problems.iter().map(ToString::to_string).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_every_problem_at_once() {
        let text = "every = 'soon'\nmost = 0\n[graph]\nurl = 'ftp://x'\nspelt = 1";
        let ((), problems) = read_text(text, |top| {
            let minutes = Duration::from_secs(60)..=Duration::from_secs(7200);
            assert_eq!(top.duration("every", minutes), None);
            assert_eq!(top.number("most", 1..=10), None);
            assert_eq!(top.section("graph", |graph| graph.secure_url("url")), None);
        });
        assert_eq!(
            problems,
            [
                "every: `\"soon\"` is not allowed; it must be a duration such as 500ms, 30s, 5m, 2h \
                 or 7d, from 1m to 2h",
                "most: `0` is not allowed; it must be a whole number from 1 to 10",
                "graph.url: `\"ftp://x\"` is not allowed; it must be an https URL (http on loopback only)",
                "graph.spelt: unknown key; known keys here: url",
            ]
        );
    }

    #[test]
    fn reports_a_required_key_that_is_missing() {
        let (value, problems) = read_text("", |top| top.require("issuer", "a URL", url));
        assert_eq!(value, None);
        assert_eq!(problems, ["issuer: missing; it must be a URL"]);
    }

    #[test]
    fn numbers_arrays_of_tables() {
        let (ids, problems) = read_text("[[client]]\nid = 'a'\n[[client]]\nid = 7", |top| {
            top.sections("client", |client| client.text("id"))
        });
        assert_eq!(ids, [Some("a".to_owned()), None]);
        assert_eq!(
            problems,
            ["client[1].id: `7` is not allowed; it must be a text that is not empty"]
        );
    }

    #[test]
    fn records_the_keys_that_are_asked_for() {
        let report = Report::default();
        let mut top = Section::top("[[client]]\n[[client]]".parse().expect("TOML"), &report);
        top.sections("client", |client| client.section("terms", |terms| terms.text("audience")));
        top.finish();
        let keys: Vec<_> = report.into_parts().1.into_iter().collect();
        assert_eq!(keys, ["client", "client.terms", "client.terms.audience"]);
    }
}
