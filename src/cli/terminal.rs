//! Output of the commands: the one place that writes to standard output and standard error.
//!
//! # Design notes
//! Almost everything that commands print comes from a directory, a certificate, a list or a server.  Two
//! layers keep it from acting on a terminal.  [`text`] and [`Cleaned`] make a foreign text one bounded
//! line.  The writers below escape every hidden character except line breaks and tabs, whatever was printed.  JSON
//! keeps the values: there, hidden characters become escapes of JSON.
//!
//! [`Cleaned`]: crate::runtime::text::Cleaned

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write, stderr, stdout};

use serde_json::Value;

use crate::cli::exit;
use crate::runtime::text::{Form, MAX_CHARACTERS, clean, escape};

/// Lines of a foreign text that are shown.
const MAX_LINES: usize = 200;

/// Like the standard macro, without hidden characters.  If the reader has closed the pipe, as `| head` does,
/// it ends the program silently instead of panicking.
macro_rules! println {
    ($($text:tt)*) => { $crate::cli::terminal::print(format_args!("{}\n", format_args!($($text)*))) };
}
/// Like the standard macro, with the same exceptions.
macro_rules! print {
    ($($text:tt)*) => { $crate::cli::terminal::print(format_args!($($text)*)) };
}
/// Like the standard macro, without hidden characters.  A closed standard error is ignored.
macro_rules! eprintln {
    ($($text:tt)*) => { $crate::cli::terminal::print_error(format_args!($($text)*)) };
}

/// Writes a text to standard output.
pub(super) fn print(text: fmt::Arguments<'_>) {
    write(|out| out.write_all(lines(&text.to_string()).as_bytes()));
}

/// Writes a line to standard error.
pub(super) fn print_error(text: fmt::Arguments<'_>) {
    let text = text.to_string();
    let _ = stderr().lock().write_all(format!("{}\n", lines(&text)).as_bytes());
}

/// Writes a value to standard output, indented.
pub(super) fn print_json(value: &Value) {
    let text = format!("{value:#}");
    write(|out| writeln!(out, "{}", json_text(&text)));
}

/// Writes text in YAML, whose texts are quoted.
pub(super) fn print_yaml(text: &str) {
    let text = escape(text, |c| (c != '\n').then_some(Form::Yaml));
    write(|out| out.write_all(text.as_bytes()));
}

/// JSON text without hidden characters.  Line breaks between its members stay.
pub(super) fn json_text(text: &str) -> Cow<'_, str> {
    escape(text, |c| (c != '\n').then_some(Form::Json))
}

/// A foreign text for a terminal, or `-` for another value.
pub(super) fn text(value: &Value) -> Cow<'_, str> {
    clean(value.as_str().unwrap_or("-"), MAX_CHARACTERS)
}

/// A foreign text of several lines: each is bounded, and all but the first are indented.
pub(super) fn indented(value: &Value) -> String {
    let lines = value.as_str().unwrap_or("-").lines().take(MAX_LINES);
    lines.map(|line| clean(line.trim(), MAX_CHARACTERS)).collect::<Vec<_>>().join("\n  ")
}

/// An error as one line.  It may contain a message of a server.
pub(super) fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").replace('\n', "\\u{a}")
}

fn lines(text: &str) -> Cow<'_, str> {
    escape(text, |c| (!matches!(c, '\n' | '\t')).then_some(Form::Text))
}

fn write(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) {
    let mut out = stdout().lock();
    if write(&mut out).and_then(|()| out.flush()).is_err() {
        std::process::exit(exit::NO_READER.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_keep_their_breaks_and_nothing_else_that_is_hidden() {
        assert_eq!(lines("a\nb\x1b[2J\u{9b}\u{202e}\r"), "a\nb\\u{1b}[2J\\u{9b}\\u{202e}\\u{d}");
    }

    #[test]
    fn further_lines_of_a_foreign_text_are_indented() {
        let problems = json!("x.toml: 2 problem(s)\n  a: wrong\r\nanchorgate: \u{1b}[2J");
        let expected = "x.toml: 2 problem(s)\n  a: wrong\n  anchorgate: \\u{1b}[2J";
        assert_eq!(indented(&problems), expected);
    }

    #[test]
    fn json_keeps_its_values() {
        let value = json!({"a": "\u{7f}\u{9b}\u{202e}\n\u{e0041}"});
        let text = format!("{value:#}");
        let printed = json_text(&text);
        assert!(printed.chars().all(|c| c == '\n' || !crate::runtime::text::is_hidden(c)));
        assert_eq!(serde_json::from_str::<Value>(&printed).expect("JSON"), value);
    }
}
