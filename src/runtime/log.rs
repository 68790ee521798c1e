//! Logging set-up and the type that keeps secrets out of it.

use std::fmt;
use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use zeroize::Zeroizing;

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// The target of audit events: one for each decision about a certificate.
pub const AUDIT: &str = "audit";

/// Starts logging to standard error; `filter` is tracing's directive syntax, such as
/// `info,audit=info`.  Does nothing when logging was started before.
///
/// # Errors
/// A `filter` that cannot be read.
pub fn start(filter: &str, format: Format) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|e| e.to_string())?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Colours are for people: in a file or a collector their codes are noise.
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // A second start, as in tests that start several gateways, keeps the first.
    let _ = match format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}

/// True for tracing directives that [`start`] accepts.
pub fn is_filter(filter: &str) -> bool {
    EnvFilter::try_new(filter).is_ok()
}

/// A value that prints nothing and is wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a secret in.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(Zeroizing::new(secret.into()))
    }

    /// The value itself; to be sent to whom it is meant for, never written elsewhere.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_nothing() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret");
    }

    #[test]
    fn a_bad_filter_is_an_error() {
        assert!(start("info,=", Format::Text).is_err());
    }
}
