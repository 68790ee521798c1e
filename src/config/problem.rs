//! A fault of a configuration file.

use std::fmt;

/// A fault of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, dotted from the top.
    pub key: String,
    /// The value found, if there is one.
    pub value: Option<String>,
    /// The fault, or the allowed values.
    pub requirement: String,
}

/// Beginning of the requirement of a key that no reader asks for.
pub(super) const UNKNOWN_KEY: &str = "unknown key";

impl Problem {
    pub(super) fn is_unknown_key(&self) -> bool {
        self.requirement.starts_with(UNKNOWN_KEY)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}: {value} is not allowed; {}", self.key, self.requirement),
            None => write!(f, "{}: {}", self.key, self.requirement),
        }
    }
}
