//! A writer of HTML in which only constants of the program are markup.

use std::fmt::{self, Display, Write as _};

use serde_json::Value;

use crate::runtime::text::{MAX_CHARACTERS, clean};

/// HTML under construction.
#[derive(Default)]
pub(super) struct Html(String);

impl Html {
    /// Appends markup.  Its type keeps foreign text out.
    pub(super) fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Appends text: at most [`MAX_CHARACTERS`] characters, hidden ones and markup escaped.
    pub(super) fn text(&mut self, text: impl Display) -> &mut Self {
        self.escaped(&clean(&text.to_string(), MAX_CHARACTERS))
    }

    /// Appends the commands of an SVG path, which the program computed.
    pub(super) fn drawing(&mut self, commands: &str) -> &mut Self {
        self.escaped(commands)
    }

    /// Appends an element with a text.
    pub(super) fn element(&mut self, tag: Tag, text: impl Display) -> &mut Self {
        self.raw(tag.0).text(text).raw(tag.1)
    }

    /// Appends one row of a list of terms.
    pub(super) fn row(&mut self, term: &'static str, value: impl Display) -> &mut Self {
        self.raw("<div><dt>").raw(term).raw("</dt><dd>").text(value).raw("</dd></div>")
    }

    /// Appends the heading of a section, which the navigation links to.
    pub(super) fn section(&mut self, id: &'static str, title: &'static str) -> &mut Self {
        self.raw("<section id=\"").raw(id).raw("\" aria-labelledby=\"").raw(id);
        self.raw("-title\"><h2 id=\"").raw(id).raw("-title\">").raw(title).raw("</h2>")
    }

    /// Appends a note that `all` has more items than the page shows, and the command that shows them.
    pub(super) fn more(&mut self, all: usize, shown: usize, command: &'static str) -> &mut Self {
        match all.checked_sub(shown) {
            None | Some(0) => self,
            Some(more) => self
                .raw("<p class=\"note\">")
                .text(more)
                .raw(" more are not shown here: <code>")
                .raw(command)
                .raw("</code></p>"),
        }
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }

    fn escaped(&mut self, text: &str) -> &mut Self {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                c => self.0.push(c),
            }
        }
        self
    }
}

/// Start and end of an element.
#[derive(Clone, Copy)]
pub(super) struct Tag(&'static str, &'static str);

pub(super) const P: Tag = Tag("<p>", "</p>");
pub(super) const NOTE: Tag = Tag("<p class=\"note\">", "</p>");
pub(super) const ERROR: Tag = Tag("<p class=\"error\" role=\"alert\">", "</p>");
pub(super) const H3: Tag = Tag("<h3>", "</h3>");
pub(super) const LI: Tag = Tag("<li>", "</li>");
pub(super) const CODE: Tag = Tag("<code>", "</code>");
pub(super) const PRE: Tag = Tag("<pre tabindex=\"0\"><code>", "</code></pre>");
pub(super) const GOOD: Tag = Tag("<span class=\"badge good\">", "</span>");
pub(super) const WARN: Tag = Tag("<span class=\"badge warn\">", "</span>");
pub(super) const BAD: Tag = Tag("<span class=\"badge bad\">", "</span>");

/// The text of a JSON value, or a dash.
pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("–")
}

/// The items of a JSON array.
pub(super) fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A duration in its two largest units, such as `3 d 4 h`.
pub(super) struct Span(pub(super) u64);

impl Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 4] =
            [(365 * 86_400, "y"), (86_400, "d"), (3600, "h"), (60, "min")];
        let Some(first) = UNITS.iter().position(|(unit, _)| self.0 >= *unit) else {
            return write!(f, "{} s", self.0);
        };
        let (unit, name) = UNITS[first];
        write!(f, "{} {name}", self.0 / unit)?;
        match UNITS.get(first + 1).map(|(next, name)| (self.0 % unit / next, name)) {
            Some((count @ 1.., name)) => write!(f, " {count} {name}"),
            _ => Ok(()),
        }
    }
}

/// A word of a command line, quoted for a POSIX shell if it needs to be.
pub(super) fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@".contains(c);
    if !word.is_empty() && !word.starts_with('-') && word.chars().all(is_plain) {
        return word.to_owned();
    }
    let mut out = String::with_capacity(word.len() + 2);
    let _ = write!(out, "'{}'", word.replace('\'', r"'\''"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_be_markup_and_is_bounded() {
        let mut html = Html::default();
        html.element(P, "<script>alert('1')</script>&amp;\u{202e}\"");
        assert_eq!(
            html.into_string(),
            "<p>&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;amp;\\u{202e}&quot;</p>"
        );
        let mut html = Html::default();
        html.text("<".repeat(10_000));
        assert!(html.into_string().len() <= MAX_CHARACTERS * "&lt;".len());
    }

    #[test]
    fn a_span_has_at_most_two_units() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3660, "1 h 1 min"),
            (7200, "2 h"),
            (90_061, "1 d 1 h"),
            (400 * 86_400, "1 y 35 d"),
        ] {
            assert_eq!(Span(seconds).to_string(), text);
        }
    }

    #[test]
    fn words_are_quoted_for_the_shell() {
        assert_eq!(shell_word("tenant/applications"), "tenant/applications");
        for (word, quoted) in
            [("", "''"), ("-x", "'-x'"), ("a b", "'a b'"), ("a'$(x)", r"'a'\''$(x)'")]
        {
            assert_eq!(shell_word(word), quoted);
        }
    }

    #[test]
    fn says_how_many_items_are_left_out() {
        let of = |all| Html::default().more(all, 10, "x").0.clone();
        assert_eq!((of(3), of(10)), (String::new(), String::new()));
        assert!(of(12).contains("2 more"));
    }
}
