//! Foreign text on its way to a log or a terminal: bounded, and without hidden characters.
//!
//! A directory's `displayName`, a certificate's subject or a form field can contain line breaks,
//! terminal control sequences and characters that reorder or hide text.  [`clean`] writes each such
//! character as an escape, `\u{202e}`, so that the text cannot forge a line, move the cursor or print
//! as another text.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use crate::x509::certificate::Fingerprint;

/// Characters of one foreign text in a log line or an audit record.
pub const MAX_CHARACTERS: usize = 256;

/// Hexadecimal digits of the hash in a [`distinct`] text.
const HASH_CHARACTERS: usize = 16;

/// Marks a text that was cut.
const ELLIPSIS: char = '…';

/// True for characters that print as nothing or change how others print: control characters,
/// separators of lines and paragraphs, bidirectional controls, and the default-ignorable characters
/// (Unicode `DerivedCoreProperties.txt`).
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{34f}'
                | '\u{61c}'
                | '\u{115f}'..='\u{1160}'
                | '\u{17b4}'..='\u{17b5}'
                | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{fe00}'..='\u{fe0f}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff0}'..='\u{fffb}'
                | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

/// Notation of a hidden character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// `\u{202e}`, for people.
    Text,
    /// `\u202e`, inside a string of JSON.
    Json,
    /// `\u202e` or `\U000e0041`, inside a quoted string of YAML.
    Yaml,
}

/// Escapes the hidden characters for which `form` returns a notation.
pub(crate) fn escape(text: &str, form: impl Fn(char) -> Option<Form>) -> Cow<'_, str> {
    if !text.chars().any(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match form(c).filter(|_| is_hidden(c)) {
            Some(form) => push_escaped(&mut out, c, form),
            None => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// Appends a character in this notation.
pub(crate) fn push_escaped(out: &mut String, c: char, form: Form) {
    // Writing to a String does not fail.
    let _ = match form {
        Form::Text => write!(out, "{}", c.escape_unicode()),
        Form::Yaml if u32::from(c) > 0xffff => write!(out, "\\U{:08x}", u32::from(c)),
        Form::Json | Form::Yaml => {
            c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(out, "\\u{unit:04x}"))
        }
    };
}

/// Like [`clean`], for a text that identifies something: a changed one ends with a part of its SHA-256, so
/// that cutting and escaping do not make two identities one text.  So does a text that has such an end
/// itself, which would otherwise look like another one that was changed.
pub fn distinct(text: &str, max: usize) -> Cow<'_, str> {
    match clean(text, max) {
        Cow::Borrowed(text) if !ends_like_a_hash(text) => Cow::Borrowed(text),
        _ => {
            let hash = &Fingerprint::of(text.as_bytes()).to_string()[..HASH_CHARACTERS];
            Cow::Owned(format!("{} {hash}", clean(text, max.saturating_sub(HASH_CHARACTERS + 1))))
        }
    }
}

/// True if the text ends with a blank and [`HASH_CHARACTERS`] hexadecimal digits.
fn ends_like_a_hash(text: &str) -> bool {
    let is_digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    text.rsplit_once(' ')
        .is_some_and(|(_, end)| end.len() == HASH_CHARACTERS && end.chars().all(is_digit))
}

/// Escapes hidden characters and cuts the result to `max` characters, the last of which is `…` then.
pub fn clean(text: &str, max: usize) -> Cow<'_, str> {
    // Text of at most `max` bytes has at most `max` characters.
    let fits = text.len() <= max || text.chars().nth(max).is_none();
    if fits && !text.chars().any(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut out = String::new();
    let mut characters = 0;
    // Length of `out` while one more character still fits: where a longer text is cut.
    let mut cut = 0;
    for c in text.chars() {
        let start = out.len();
        if is_hidden(c) {
            let _ = write!(out, "{}", c.escape_unicode());
        } else {
            out.push(c);
        }
        // An escape is ASCII.
        characters += if is_hidden(c) { out.len() - start } else { 1 };
        if characters > max {
            out.truncate(cut);
            if max > 0 {
                out.push(ELLIPSIS);
            }
            return Cow::Owned(out);
        }
        if characters < max {
            cut = out.len();
        }
    }
    Cow::Owned(out)
}

/// Prints a value through [`clean`], with at most [`MAX_CHARACTERS`] characters.
///
/// ```
/// use anchorgate::runtime::text::Cleaned;
/// assert_eq!(Cleaned(&"a\nb").to_string(), "a\\u{a}b");
/// ```
pub struct Cleaned<'a, T: ?Sized>(pub &'a T);

impl<T: fmt::Display + ?Sized> fmt::Display for Cleaned<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&clean(&self.0.to_string(), MAX_CHARACTERS))
    }
}

impl<T: fmt::Display + ?Sized> fmt::Debug for Cleaned<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn long_identities_that_differ_at_the_end_stay_apart() {
        let long = |end: &str| distinct(&format!("CN={}{end}", "x".repeat(600)), 256).into_owned();
        assert_ne!(long("1"), long("2"));
        assert_eq!(long("1"), long("1"));
        assert_eq!(long("1").chars().count(), 256);
        assert_ne!(distinct("a\n", 256), distinct("a\\u{a}", 256));
        assert_eq!(distinct("CN=device", 256), "CN=device");
        let changed = distinct("a\n", 256).into_owned();
        assert_ne!(distinct(&changed, 256), changed, "another identity that is this text");
    }

    #[test]
    fn escapes_characters_that_forge_lines_or_hide_text() {
        for (text, cleaned) in [
            ("plain äöü 漢字", "plain äöü 漢字"),
            ("a\r\nb", "a\\u{d}\\u{a}b"),
            ("\x1b[2J", "\\u{1b}[2J"),
            ("\u{9b}31m\u{7f}", "\\u{9b}31m\\u{7f}"),
            ("\u{202e}dlrow\u{2066}\u{2069}", "\\u{202e}dlrow\\u{2066}\\u{2069}"),
            ("\u{200e}\u{200f}\u{61c}", "\\u{200e}\\u{200f}\\u{61c}"),
            ("a\u{200b}\u{feff}\u{ad}b", "a\\u{200b}\\u{feff}\\u{ad}b"),
            ("\u{2028}\u{e0041}", "\\u{2028}\\u{e0041}"),
        ] {
            assert_eq!(clean(text, 100), cleaned, "{text:?}");
        }
    }

    #[test]
    fn cuts_long_text_and_marks_the_cut() {
        assert_eq!(clean("abcd", 4), "abcd");
        assert_eq!(clean("abcde", 4), "abc…");
        assert_eq!(clean("äöüäö", 4), "äöü…");
        assert_eq!(clean("ab\n", 5), "ab…", "an escape is kept whole or not at all");
        assert_eq!(clean("ab\n", 7), "ab\\u{a}");
        assert_eq!(clean("abc", 0), "");
        assert_eq!(clean(&"x".repeat(15_000), MAX_CHARACTERS).chars().count(), MAX_CHARACTERS);
    }

    proptest! {
        #[test]
        fn the_result_is_bounded_and_has_no_hidden_character(
            text in any::<String>(), max in 0usize..40
        ) {
            let cleaned = clean(&text, max);
            prop_assert!(cleaned.chars().count() <= max);
            prop_assert!(!cleaned.chars().any(is_hidden));
        }
    }
}
