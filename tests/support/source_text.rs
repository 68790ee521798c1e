//! Splits Rust source into code, comments and string literals, for the tests of the house rules.

use std::fs;
use std::path::{Path, PathBuf};

/// A comment of one line, or one line of a block comment.
#[derive(Debug, PartialEq)]
pub struct Comment {
    /// Line number, from 1.
    pub line: usize,
    /// True for `///`, `//!`, `/**` and `/*!`.
    pub is_doc: bool,
    /// Text without the comment marks and the blank after them.
    pub text: String,
}

/// Source text of one file, taken apart.
#[derive(Debug, Default)]
pub struct SourceText {
    /// Code with the same lines, in which blanks replace comments and the contents of literals.
    pub code: String,
    /// Comments in order.
    pub comments: Vec<Comment>,
    /// String literals without their quotes, each with the number of its first line.
    pub strings: Vec<(usize, String)>,
}

impl SourceText {
    /// Takes `text` apart.  The text is assumed to compile.
    pub fn new(text: &str) -> Self {
        let chars: Vec<char> = text.chars().collect();
        let mut out = Self::default();
        let (mut at, mut line) = (0, 1);
        while at < chars.len() {
            let rest = &chars[at..];
            let end = at
                + match (rest[0], rest.get(1)) {
                    ('/', Some('/')) => out.line_comment(rest, line),
                    ('/', Some('*')) => out.block_comment(rest, line),
                    ('"', _) => out.string(rest, 0, line),
                    ('r' | 'b', _) if !continues_a_word(&chars, at) => out.prefixed(rest, line),
                    ('\'', _) => out.quote(rest),
                    (c, _) => {
                        out.code.push(c);
                        1
                    }
                };
            line += chars[at..end].iter().filter(|c| **c == '\n').count();
            at = end;
        }
        out
    }

    /// Pushes blanks for `text`; line ends stay.
    fn blank(&mut self, text: &[char]) {
        self.code.extend(text.iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
    }

    fn line_comment(&mut self, rest: &[char], line: usize) -> usize {
        let end = rest.iter().position(|c| *c == '\n').unwrap_or(rest.len());
        let text: String = rest[..end].iter().collect();
        let is_doc =
            text.starts_with("//!") || text.starts_with("///") && !text.starts_with("////");
        let text = text.trim_start_matches('/').trim_start_matches('!').trim().to_owned();
        self.comments.push(Comment { line, is_doc, text });
        self.blank(&rest[..end]);
        end
    }

    fn block_comment(&mut self, rest: &[char], line: usize) -> usize {
        let (mut depth, mut end) = (0, 0);
        while end < rest.len() {
            match (rest[end], rest.get(end + 1)) {
                ('/', Some('*')) => (depth, end) = (depth + 1, end + 2),
                ('*', Some('/')) => (depth, end) = (depth - 1, end + 2),
                _ => end += 1,
            }
            if depth == 0 {
                break;
            }
        }
        let text: String = rest[..end].iter().collect();
        let is_doc = text.starts_with("/**") || text.starts_with("/*!");
        for (n, part) in text.lines().enumerate() {
            let text = part.trim_matches(|c: char| "/*!".contains(c) || c.is_whitespace());
            self.comments.push(Comment { line: line + n, is_doc, text: text.to_owned() });
        }
        self.blank(&rest[..end]);
        end
    }

    /// A literal that starts with `r`, `b`, `br` or their like, or a word that does.
    fn prefixed(&mut self, rest: &[char], line: usize) -> usize {
        let letters = rest.iter().take_while(|c| matches!(c, 'r' | 'b')).count();
        let hashes = rest[letters..].iter().take_while(|c| **c == '#').count();
        let is_raw = rest[..letters].contains(&'r');
        match rest.get(letters + hashes) {
            Some('"') if is_raw => {
                self.blank(&rest[..letters + hashes]);
                let close: Vec<char> =
                    std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
                let body = &rest[letters + hashes + 1..];
                let length =
                    body.windows(close.len()).position(|w| w == close).unwrap_or(body.len());
                self.strings.push((line, body[..length].iter().collect()));
                let end = (letters + hashes + 1 + length + close.len()).min(rest.len());
                self.blank(&rest[letters + hashes..end]);
                end
            }
            Some('"') if hashes == 0 => self.string(rest, letters, line),
            Some('\'') if hashes == 0 => {
                self.blank(&rest[..letters]);
                letters + self.quote(&rest[letters..])
            }
            _ => {
                self.code.extend(&rest[..letters]);
                letters
            }
        }
    }

    /// A string whose opening quote is at `open`.
    fn string(&mut self, rest: &[char], open: usize, line: usize) -> usize {
        let mut end = open + 1;
        while end < rest.len() && rest[end] != '"' {
            end += if rest[end] == '\\' { 2 } else { 1 };
        }
        let end = end.min(rest.len());
        self.strings.push((line, rest[open + 1..end].iter().collect()));
        let end = (end + 1).min(rest.len());
        self.blank(&rest[..end]);
        end
    }

    /// A character literal, or a lifetime.
    fn quote(&mut self, rest: &[char]) -> usize {
        let end = match (rest.get(1), rest.get(2)) {
            (Some('\\'), _) => rest[3..].iter().position(|c| *c == '\'').map(|at| at + 4),
            (Some(_), Some('\'')) => Some(3),
            _ => None,
        };
        if let Some(end) = end {
            self.blank(&rest[..end]);
            return end;
        }
        self.code.push('\'');
        1
    }

    /// The code without the items that `#[cfg(test)]` marks; the lines stay.
    pub fn code_without_tests(&self) -> String {
        const MARK: &str = "#[cfg(test)]";
        let mut out = String::new();
        let mut rest = &self.code[..];
        while let Some(at) = rest.find(MARK) {
            out.push_str(&rest[..at]);
            let item = &rest[at..];
            let length = end_of_item(item, MARK.len());
            out.extend(item[..length].chars().filter(|c| *c == '\n'));
            rest = &item[length..];
        }
        out + rest
    }
}

/// True if the character at `at` goes on with an identifier.
fn continues_a_word(chars: &[char], at: usize) -> bool {
    at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_')
}

/// The end of the item whose attribute ends at `from`: its semicolon or its closing brace.
fn end_of_item(item: &str, from: usize) -> usize {
    let mut depth = 0;
    for (at, c) in item.char_indices().skip_while(|(at, _)| *at < from) {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => {
                depth -= 1;
                if depth == 0 && c == '}' {
                    return at + 1;
                }
            }
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    item.len()
}

/// The folder of `Cargo.toml`.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files below `folder` whose names end in one of `ends`, in order.
pub fn files(folder: &Path, ends: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for entry in entries {
        let path = entry.expect("a readable folder").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a UTF-8 name");
        if path.is_dir() && name != "target" && name != ".git" {
            found.extend(files(&path, ends));
        } else if path.is_file() && ends.iter().any(|end| name.ends_with(end)) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The path of `file` from the folder of `Cargo.toml`.
pub fn relative(file: &Path) -> String {
    file.strip_prefix(root()).expect("below the root").to_str().expect("UTF-8").to_owned()
}

#[test]
fn source_is_split_into_code_comments_and_strings() {
    let text =
        "let a = 'b'; // one\n/// two\nfn f<'a>() { \"th\\\"ree\"; r#\"fo\"ur\"#; b'\\''; }\n";
    let source = SourceText::new(text);
    let comments: Vec<_> = source.comments.iter().map(|c| (c.line, c.is_doc, &*c.text)).collect();
    assert_eq!(comments, [(1, false, "one"), (2, true, "two")]);
    assert_eq!(source.strings, [(3, "th\\\"ree".to_owned()), (3, "fo\"ur".to_owned())]);
    assert_eq!(source.code.lines().count(), 3);
    assert!(source.code.contains("fn f<'a>() {") && !source.code.contains("ree"));
}

#[test]
fn items_for_tests_are_left_out_and_later_items_are_kept() {
    let text =
        "#[cfg(test)]\nmod tests;\nfn kept() {}\n#[cfg(test)]\nmod t { fn no() {} }\nfn too() {}";
    let code = SourceText::new(text).code_without_tests();
    assert!(code.contains("kept") && code.contains("too") && !code.contains("no()"), "{code}");
    assert_eq!(code.lines().count(), 6);
}
