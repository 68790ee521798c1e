//! Reads a TOML table key by key and collects every problem instead of stopping at the first.
//!
//! # Why
//! A serde mirror of the file would stop at its first fault.  An operator who gets one fault at a time
//! starts the gateway ten times; here `check-config` names them all, each with its key, the value found
//! and what is allowed.

use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use toml::{Table, Value};
use url::Url;

use crate::runtime::log::Secret;

/// One fault of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, dotted from the top.
    pub key: String,
    /// The value found, if there is one.
    pub value: Option<String>,
    /// What is allowed there.
    pub allowed: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}: {value} is not allowed; {}", self.key, self.allowed),
            None => write!(f, "{}: {}", self.key, self.allowed),
        }
    }
}

/// The problems of one file, shared by all its sections.
pub type Problems = Rc<RefCell<Vec<Problem>>>;

/// One table of the file.  Keys that nobody asked for are problems when it is dropped.
pub struct Section {
    path: String,
    table: Table,
    asked: Vec<&'static str>,
    problems: Problems,
}

impl Section {
    /// The top of a file.
    pub fn top(table: Table, problems: &Problems) -> Self {
        Self { path: String::new(), table, asked: Vec::new(), problems: Rc::clone(problems) }
    }

    /// The dotted path of `key` in this section.
    pub fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Notes a problem of `key`.
    pub fn problem(&self, key: &str, value: Option<String>, allowed: impl Into<String>) {
        let problem = Problem { key: self.key(key), value, allowed: allowed.into() };
        self.problems.borrow_mut().push(problem);
    }

    /// The table under `key`, empty where there is none.
    pub fn section(&mut self, key: &'static str) -> Self {
        let table = self.take(key, "a table", |value| value.as_table().cloned());
        self.below(key, table.unwrap_or_default())
    }

    /// True when `key` is present.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// The tables of the array under `key`.
    pub fn sections(&mut self, key: &'static str) -> Vec<Self> {
        let allowed = "an array of tables, each headed by double square brackets";
        let tables = self.take(key, allowed, |value| {
            value
                .as_array()?
                .iter()
                .map(|item| item.as_table().cloned())
                .collect::<Option<Vec<_>>>()
        });
        let tables = tables.unwrap_or_default();
        let number = |(i, table)| self.below(&format!("{key}[{i}]"), table);
        tables.into_iter().enumerate().map(number).collect()
    }

    fn below(&self, key: &str, table: Table) -> Self {
        Self { path: self.key(key), table, asked: Vec::new(), problems: Rc::clone(&self.problems) }
    }

    /// The value of `key` as `read` understands it; a value that it does not is a problem.
    pub fn take<T>(
        &mut self,
        key: &'static str,
        allowed: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        self.asked.push(key);
        let value = self.table.remove(key)?;
        let read = read(&value);
        if read.is_none() {
            self.problem(key, Some(shown(&value)), format!("it must be {allowed}"));
        }
        read
    }

    /// Like [`Section::take`], for a value that is not to be told back.
    pub fn take_secret<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        self.asked.push(key);
        let read = read(&self.table.remove(key)?);
        if read.is_none() {
            self.problem(key, None, "it must be a text that is not empty");
        }
        read
    }

    /// A secret by value or by file, which is relative to `folder`; never told back.
    pub fn secret(
        &mut self,
        key: &'static str,
        file_key: &'static str,
        folder: &Path,
    ) -> Option<Secret> {
        let value = self.take_secret(key, |value| text(value).map(Secret::new));
        let file = self.file(file_key);
        match (value, file) {
            (Some(_), Some(_)) => {
                self.problem(file_key, None, format!("`{key}` is there too; one of them"));
                None
            }
            (value, None) => value,
            (None, Some(file)) => {
                let bytes = self.read(file_key, &folder.join(file))?;
                let text = String::from_utf8(bytes).unwrap_or_default();
                let text = text.trim();
                if text.is_empty() {
                    self.problem(file_key, None, "the file holds no text");
                    return None;
                }
                Some(Secret::new(text))
            }
        }
    }

    /// The bytes of the file that `key` names.
    pub fn read(&self, key: &str, path: &Path) -> Option<Vec<u8>> {
        file(path)
            .map_err(|error| {
                let shown = Some(format!("`{}`", path.display()));
                self.problem(key, shown, format!("it must be a file that can be read: {error}"));
            })
            .ok()
    }

    /// Like [`Section::take`], for a key that must be there.
    pub fn require<T>(
        &mut self,
        key: &'static str,
        allowed: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        if !self.table.contains_key(key) {
            self.asked.push(key);
            self.problem(key, None, format!("missing; it must be {allowed}"));
            return None;
        }
        self.take(key, allowed, read)
    }

    /// A text that is not empty.
    pub fn text(&mut self, key: &'static str) -> Option<String> {
        self.take(key, "a text that is not empty", text)
    }

    /// A list of texts.
    pub fn texts(&mut self, key: &'static str) -> Option<Vec<String>> {
        self.take(key, "a list of texts that are not empty", |value| {
            value.as_array()?.iter().map(text).collect()
        })
    }

    /// `true` or `false`.
    pub fn flag(&mut self, key: &'static str) -> Option<bool> {
        self.take(key, "true or false", Value::as_bool)
    }

    /// A whole number within `range`.
    pub fn number(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let allowed = format!("a whole number from {} to {}", range.start(), range.end());
        self.take(key, &allowed, |value| {
            u64::try_from(value.as_integer()?).ok().filter(|n| range.contains(n))
        })
    }

    /// A duration such as `30s`, `5m`, `2h` or `7d`, within `range`.
    pub fn duration(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let allowed = format!(
            "a duration such as 500ms, 30s, 5m, 2h or 7d, from {} to {}",
            Spelled(*range.start()),
            Spelled(*range.end())
        );
        self.take(key, &allowed, |value| {
            duration(value.as_str()?).filter(|duration| range.contains(duration))
        })
    }

    /// An address to listen on.
    pub fn address(&mut self, key: &'static str) -> Option<SocketAddr> {
        self.take(key, "an address with a port, such as 127.0.0.1:9090 or [::]:8443", |value| {
            value.as_str()?.parse().ok()
        })
    }

    /// A file or directory.
    pub fn file(&mut self, key: &'static str) -> Option<PathBuf> {
        self.take(key, "a path", |value| text(value).map(PathBuf::from))
    }

    /// An absolute http or https URL.
    pub fn url(&mut self, key: &'static str) -> Option<Url> {
        self.take(key, "an absolute http or https URL", url)
    }

    /// One of several words.
    pub fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let words: Vec<_> = choices.iter().map(|(word, _)| format!("{word:?}")).collect();
        self.take(key, &format!("one of {}", words.join(", ")), |value| {
            let word = value.as_str()?;
            choices.iter().find(|(choice, _)| *choice == word).map(|(_, value)| *value)
        })
    }
}

impl Drop for Section {
    fn drop(&mut self) {
        let unknown: Vec<String> = self.table.keys().cloned().collect();
        for key in unknown {
            let known = self.asked.join(", ");
            self.problem(&key, None, format!("unknown key; known here are {known}"));
        }
    }
}

/// Bytes of a file that a setting names, and of the configuration file, that are read.
pub const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Reads a small file whole.
///
/// # Errors
/// The operating system's, or that it is longer than [`MAX_FILE`].
pub fn file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte past the limit tells "exactly full" from "too big", of devices and pipes too.
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("longer than {MAX_FILE} bytes")));
    }
    Ok(bytes)
}

/// A text that is not empty.
pub fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|s| !s.trim().is_empty()).map(str::to_owned)
}

/// An absolute http or https URL.
pub fn url(value: &Value) -> Option<Url> {
    let url = Url::parse(value.as_str()?).ok()?;
    (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(url)
}

fn duration(text: &str) -> Option<Duration> {
    let unit = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit);
    let number: u64 = number.parse().ok()?;
    let seconds = match unit {
        "ms" => return Some(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    number.checked_mul(seconds).map(Duration::from_secs)
}

/// A duration in the largest unit that says it exactly.
struct Spelled(Duration);

impl fmt::Display for Spelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.subsec_millis() != 0 {
            return write!(f, "{}ms", self.0.as_millis());
        }
        let seconds = self.0.as_secs();
        for (unit, size) in [("d", 86_400), ("h", 3_600), ("m", 60)] {
            if seconds >= size && seconds.is_multiple_of(size) {
                return write!(f, "{}{unit}", seconds / size);
            }
        }
        write!(f, "{seconds}s")
    }
}

/// A value as it is told back: short, on one line.
fn shown(value: &Value) -> String {
    const MOST: usize = 80;
    let text: String =
        value.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("`{}…`", &text[..end]),
        None => format!("`{text}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str, ask: impl FnOnce(&mut Section)) -> Vec<String> {
        let problems = Problems::default();
        let mut top = Section::top(text.parse().expect("TOML"), &problems);
        ask(&mut top);
        drop(top);
        problems.borrow().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let text = "every = 'soon'\nmost = 0\n[graph]\nurl = 'ftp://x'\nspelt = 1";
        let problems = read(text, |top| {
            let minutes = Duration::from_secs(60)..=Duration::from_secs(7200);
            assert_eq!(top.duration("every", minutes), None);
            assert_eq!(top.number("most", 1..=10), None);
            assert_eq!(top.section("graph").url("url"), None);
        });
        assert_eq!(
            problems,
            [
                "every: `\"soon\"` is not allowed; it must be a duration such as 500ms, 30s, 5m, 2h \
                 or 7d, from 1m to 2h",
                "most: `0` is not allowed; it must be a whole number from 1 to 10",
                "graph.url: `\"ftp://x\"` is not allowed; it must be an absolute http or https URL",
                "graph.spelt: unknown key; known here are url",
            ]
        );
    }

    #[test]
    fn a_required_key_that_is_missing_is_a_problem() {
        let problems = read("", |top| assert_eq!(top.require("issuer", "a URL", url), None));
        assert_eq!(problems, ["issuer: missing; it must be a URL"]);
    }

    #[test]
    fn a_file_without_end_is_read_to_the_limit_and_refused() {
        let error = file(Path::new("/dev/zero")).expect_err("endless").to_string();
        assert_eq!(error, "longer than 4194304 bytes");
    }

    #[test]
    fn arrays_of_tables_are_numbered() {
        let problems = read("[[client]]\nid = 'a'\n[[client]]\nid = 7", |top| {
            let ids: Vec<_> = top.sections("client").iter_mut().map(|s| s.text("id")).collect();
            assert_eq!(ids, [Some("a".to_owned()), None]);
        });
        assert_eq!(
            problems,
            ["client[1].id: `7` is not allowed; it must be a text that is not empty"]
        );
    }

    proptest! {
        #[test]
        fn durations_round_trip(seconds in 0u64..10_000_000) {
            let spelled = Spelled(Duration::from_secs(seconds)).to_string();
            prop_assert_eq!(duration(&spelled), Some(Duration::from_secs(seconds)));
        }

        #[test]
        fn no_duration_makes_it_panic(text in "\\PC{0,24}") {
            let _ = duration(&text);
        }
    }
}
