//! The configuration file, for reading it again while the gateway runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::Table;

use crate::config::named_files::{self, NamedFile};
use crate::config::{Config, LoadError, Problem, changes, overrides, parse, section};
use crate::runtime::files::read_bounded;
use crate::runtime::reload::KeyChange;
use crate::x509::certificate::Fingerprint;

/// A configuration file, and its values that are in force.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// Path of the file.
    pub path: PathBuf,
    /// The values, with those of the environment.
    table: Table,
    /// Files that the values in force were read from, with the hash of what was read.
    pub(super) files: Vec<NamedFile>,
    /// Hash of the contents of this file and of the named files, to detect a change.
    pub content: Option<Fingerprint>,
}

/// A newer file, compared with the values in force.
pub struct Candidate {
    /// The values in force, with those of the newer file that need no restart.
    pub config: Config,
    /// The keys that differ.
    pub changes: Vec<KeyChange>,
}

impl Origin {
    /// The file at `path`, without values.
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), ..Self::default() }
    }

    /// Reads the file.
    pub(super) fn load(&self) -> Result<Config, LoadError> {
        let text = self.read()?;
        let mut config = self.config(self.table_of(&text)?)?;
        let named = config.origin.files.iter().map(|file| Some(file.content));
        config.origin.content = Some(named_files::hash(&text, named));
        Ok(config)
    }

    /// Reads the file, and returns the settings also if some are not valid.
    pub(super) fn load_for_check(&self) -> (Option<Config>, Option<LoadError>) {
        let table = match self.read().and_then(|text| self.table_of(&text)) {
            Ok(table) => table,
            Err(error) => return (None, Some(error)),
        };
        let (config, problems, _) = parse::parse_recording(table, self.folder());
        let error = (!problems.is_empty()).then(|| self.problems(problems));
        (config, error)
    }

    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    fn problems(&self, mut problems: Vec<Problem>) -> LoadError {
        overrides::name_variables(&mut problems, variables().map(|(name, _)| name));
        LoadError::Problems(self.path.clone(), problems)
    }

    /// Returns the bytes of the file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&self) -> Result<Vec<u8>, LoadError> {
        read_bounded(&self.path, section::MAX_FILE).map_err(LoadError::File)
    }

    /// Hash of the contents of the file and of the files that its values in force name.  It is taken
    /// from bytes, so a link that is swapped and a time stamp that stays the same make no difference.
    /// `None` if the file cannot be read.
    pub(crate) fn current_content(&self) -> Option<Fingerprint> {
        let text = self.read().ok()?;
        let read = |file: &NamedFile| read_bounded(&file.path, section::MAX_FILE).ok();
        let named = self.files.iter().map(|file| read(file).map(|bytes| Fingerprint::of(&bytes)));
        Some(named_files::hash(&text, named))
    }

    /// Compares the text of a newer file with the values in force.
    ///
    /// # Errors
    /// The text is not TOML or has problems, alone or together with the values in force that only a
    /// restart changes.
    pub fn compare(&self, text: &[u8]) -> Result<Candidate, LoadError> {
        let after = self.table_of(text)?;
        self.config(after.clone())?;
        let mut changes = changes::changes(&self.table, &after);
        let live = changes::live_part(&self.table, &after);
        let mut config = self.config(live).map_err(|error| match error {
            LoadError::Problems(path, problems) => LoadError::NeedsRestart(path, problems),
            other => other,
        })?;
        changes.extend(changes::file_changes(&self.files, &mut config.origin.files));
        Ok(Candidate { config, changes })
    }

    /// Values of the directory with this name and hashes of the files they name, as text that is
    /// equal if nothing changed.
    pub fn source_text(&self, name: &str) -> String {
        let sources = self.table.get("graph").and_then(toml::Value::as_array);
        let sources = sources.map(Vec::as_slice).unwrap_or_default();
        let of = |source: &&toml::Value| {
            source.get("name").and_then(toml::Value::as_str).unwrap_or("directory") == name
        };
        let number = sources.iter().position(|source| of(&source));
        let prefix = number.map(|number| format!("graph[{number}]."));
        let is_own = |file: &&NamedFile| prefix.as_ref().is_some_and(|p| file.key.starts_with(p));
        let files: Vec<_> = self.files.iter().filter(is_own).map(|file| file.content).collect();
        let source = number.map(|number| sources[number].to_string());
        let single = self.table.get("configuration").map(ToString::to_string);
        format!("{source:?} {files:?} {single:?} {}", sources.len() > 1)
    }

    /// Every value of the file by its key, without secrets.
    pub(super) fn redacted(&self) -> Result<BTreeMap<String, String>, LoadError> {
        Ok(changes::redacted(&self.table_of(&self.read()?)?))
    }

    fn table_of(&self, text: &[u8]) -> Result<Table, LoadError> {
        let syntax = |why: String| LoadError::Syntax(self.path.clone(), why);
        let text = std::str::from_utf8(text).map_err(|_| syntax("not UTF-8".to_owned()))?;
        let mut table: Table = text.parse().map_err(|e: toml::de::Error| syntax(e.to_string()))?;
        overrides::apply(&mut table, variables())
            .map_err(|problems| LoadError::Problems(self.path.clone(), problems))?;
        Ok(table)
    }

    /// Paths in the values are relative to the folder of the file.
    fn config(&self, table: Table) -> Result<Config, LoadError> {
        let mut config = parse::parse(table.clone(), self.folder())
            .map_err(|problems| self.problems(problems))?;
        let files = std::mem::take(&mut config.origin.files);
        config.origin = Self { path: self.path.clone(), table, files, content: self.content };
        Ok(config)
    }
}

/// The environment, without names and values that are not UTF-8.
fn variables() -> impl Iterator<Item = (String, String)> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text)
}
