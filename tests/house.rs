//! House rules for words and references: the language of comments and messages, and paths that exist.
//!
//! Rules that need the program itself are elsewhere: the reference tables have tests of their own.

#[path = "support/source_text.rs"]
#[allow(dead_code, reason = "the test of the layers uses the rest")]
mod source_text;

use std::fs;
use std::path::Path;

use source_text::{SourceText, files, relative, root};

/// Words that open a clause without a noun.  A doc comment opens with one of them only to ask a question.
const NO_OPENINGS: &[&str] =
    &["What", "Who", "Whoever", "Whose", "Where", "How", "Why", "Since when"];

/// Words and phrases that comments and messages do not use.
const BANNED: &[&str] = &[
    "anew",
    "heed",
    "heeds",
    "heeded",
    "nobody",
    "nobody's",
    "somebody",
    "somebody's",
    "somebody else's",
    "whoever",
    "whomever",
    "is none",
    "are none",
    "latest word",
    "for want of",
    "octet",
    "octets",
];

/// Hosts of package registries.  What the program and its tests need is named in the manifests only.
const REGISTRIES: &[&str] = &[
    "crates.io",
    "docs.rs",
    "lib.rs/crates",
    "pypi.org",
    "pythonhosted.org",
    "registry.npmjs.org",
    "npmjs.com",
    "proxy.golang.org",
    "rubygems.org",
];

/// This file has the banned words and the bad examples.
const SELF: &str = "tests/house.rs";

/// A place in a file, for messages.
fn place(file: &str, line: usize) -> String {
    format!("{file}:{line}")
}

/// Rust files, each with its path from the root and its parts.
fn rust_files() -> Vec<(String, SourceText)> {
    let folders = ["src", "tests", "benches", "fuzz"];
    let all = folders.iter().flat_map(|folder| files(&root().join(folder), &[".rs"]));
    all.map(|file| (relative(&file), SourceText::new(&read(&file)))).collect()
}

/// Text files that people read or run: documents, deployment files and scripts.
fn text_files() -> Vec<(String, String)> {
    let ends =
        [".md", ".toml", ".yaml", ".yml", ".service", "Dockerfile", ".sh", ".py", ".mjs", "run"];
    let all = files(root(), &ends);
    all.iter().map(|file| (relative(file), read(file))).collect()
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).expect("a readable text file")
}

/// Doc comments that open with a clause without a noun.
fn nounless_openings(file: &str, source: &SourceText) -> Vec<String> {
    let mut faults = Vec::new();
    let mut last = 0;
    for (n, comment) in source.comments.iter().enumerate() {
        let follows = n > 0 && source.comments[n - 1].is_doc && last + 1 == comment.line;
        last = comment.line;
        if !comment.is_doc || follows && !source.comments[n - 1].text.is_empty() {
            continue;
        }
        let opens = NO_OPENINGS.iter().find(|word| {
            let rest = comment.text.strip_prefix(**word);
            rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
        });
        if let Some(word) = opens
            && !is_question(source, n)
        {
            faults
                .push(format!("{}: a doc comment opens with `{word}`", place(file, comment.line)));
        }
    }
    faults
}

/// True if the sentence that starts at comment `first` ends with a question mark.
fn is_question(source: &SourceText, first: usize) -> bool {
    for comment in &source.comments[first..] {
        if comment.text.is_empty() {
            return false;
        }
        let text = format!("{} ", comment.text);
        if let Some(end) = [". ", "? ", "! "].iter().filter_map(|end| text.find(end)).min() {
            return text[end..].starts_with('?');
        }
    }
    false
}

/// Prose of a comment or a document: quotations and `code` are left out.
fn prose(text: &str) -> String {
    let mut out = String::new();
    for (n, part) in text.split('`').enumerate() {
        if n % 2 == 0 {
            out.push_str(part);
        } else {
            out.push_str("``");
        }
    }
    let parts: Vec<&str> = out.split('"').collect();
    if parts.len().is_multiple_of(2) {
        return out;
    }
    parts.iter().enumerate().map(|(n, part)| if n % 2 == 0 { part } else { "\"\"" }).collect()
}

/// The banned words of a text.
fn banned_words(text: &str) -> Vec<&'static str> {
    let lower = text.to_lowercase();
    BANNED.iter().copied().filter(|word| has_words(&lower, word)).collect()
}

/// True if `text` has `words` between characters that are not part of a word.
fn has_words(text: &str, words: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(words).any(|(at, _)| {
        let rest = &text[at + words.len()..];
        !text[..at].chars().next_back().is_some_and(is_part)
            && !rest.chars().next().is_some_and(is_part)
            && (words.ends_with("'s") || !rest.starts_with("'s"))
    })
}

/// Negated nouns, such as "is no URL".  "There is no …" and "is no longer …" are good English.
fn negated_nouns(text: &str) -> Vec<String> {
    const FINE: &[&str] = &[
        "longer",
        "more",
        "less",
        "fewer",
        "later",
        "earlier",
        "sooner",
        "larger",
        "smaller",
        "higher",
        "lower",
        "older",
        "newer",
        "different",
        "better",
        "worse",
        "one",
    ];
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut found = Vec::new();
    for at in 1..words.len().saturating_sub(1) {
        let verb = matches!(words[at - 1], "is" | "are" | "was" | "were");
        let next = words[at + 1].trim_matches(|c: char| !c.is_alphanumeric());
        let existential = at >= 2
            && matches!(
                words[at - 2].trim_matches(|c: char| !c.is_alphanumeric()),
                "there" | "There"
            );
        if verb && words[at] == "no" && !existential && !FINE.contains(&next) {
            found.push(format!("{} no {next}", words[at - 1]));
        }
    }
    found
}

/// Faults in the words of a Rust file.
fn bad_words(file: &str, source: &SourceText) -> Vec<String> {
    let comments = source.comments.iter().map(|c| (c.line, prose(&c.text)));
    let strings = source.strings.iter().map(|(line, text)| (*line, text.clone()));
    let mut faults = Vec::new();
    for (line, text) in comments.chain(strings) {
        faults.extend(bad_words_of(file, line, &text));
    }
    faults
}

/// Faults in the words of another text file: in the comments of scripts and settings, and in the prose of
/// documents, whose fenced blocks are code.
fn bad_words_of_text(file: &str, text: &str) -> Vec<String> {
    let (mut faults, mut is_code) = (Vec::new(), false);
    for (n, line) in text.lines().enumerate() {
        let words = if !file.ends_with(".md") {
            let mark = if file.ends_with(".mjs") { "//" } else { "#" };
            line.split_once(mark).map_or("", |(_, comment)| comment)
        } else if line.trim_start().starts_with("```") {
            is_code = !is_code;
            ""
        } else if is_code {
            ""
        } else {
            line
        };
        faults.extend(bad_words_of(file, n + 1, &prose(words)));
    }
    faults
}

fn bad_words_of(file: &str, line: usize, text: &str) -> Vec<String> {
    let banned = banned_words(text).into_iter().map(str::to_owned);
    let all = banned.chain(negated_nouns(text));
    all.map(|word| format!("{}: `{word}`", place(file, line))).collect()
}

/// Paths of this repository that a document names as `code` or as the target of a link.
fn named_paths(text: &str) -> Vec<(usize, String)> {
    const FOLDERS: &[&str] =
        &["src/", "tests/", "benches/", "fuzz/", "deploy/", "certs/", ".github/", ".ci/"];
    let mut found = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let code = line.split('`').skip(1).step_by(2);
        let links = line.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
        for name in code.chain(links) {
            let name = name.split([' ', ':']).next().unwrap_or_default();
            if FOLDERS.iter().any(|folder| name.starts_with(folder)) && !name.contains(['*', '<']) {
                found.push((n + 1, name.trim_end_matches('/').to_owned()));
            }
        }
    }
    found
}

/// Named paths that `exists` does not know.
fn missing_paths(file: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let missing = named_paths(text).into_iter().filter(|(_, path)| !exists(path));
    missing.map(|(line, path)| format!("{}: `{path}` does not exist", place(file, line))).collect()
}

/// Includes of a file of tests/ by a file of src/.
fn included_tests(file: &str, text: &str) -> Vec<String> {
    let includes = ["#[path", "include!", "include_str!", "include_bytes!"];
    let mut faults = Vec::new();
    for (n, line) in text.lines().enumerate() {
        if !includes.iter().any(|include| line.contains(include)) {
            continue;
        }
        for name in line.split('"').skip(1).step_by(2) {
            let mut path: Vec<&str> = file.split('/').collect();
            path.pop();
            for part in name.split('/') {
                match part {
                    ".." => drop(path.pop()),
                    "." => {}
                    part => path.push(part),
                }
            }
            if path.first() == Some(&"tests") {
                faults.push(format!("{}: includes `{name}`", place(file, n + 1)));
            }
        }
    }
    faults
}

/// Host names of package registries.
fn registry_hosts(file: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (n, line) in text.lines().enumerate() {
        for host in REGISTRIES.iter().filter(|host| has_words(line, host)) {
            faults.push(format!("{}: `{host}`", place(file, n + 1)));
        }
    }
    faults
}

/// Names of the tests in Rust text.
fn tests_in(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        let Some((_, function)) = line.split_once("fn ").filter(|_| is_test) else { continue };
        names.extend(function.split(['(', '<']).next().map(str::to_owned));
        is_test = false;
    }
    names
}

/// Faults of the table of actors: rows without a test in `hostile`, and tests that are not in `all`.
fn faults_of_actors(text: &str, all: &[String], hostile: &[String]) -> Vec<String> {
    let actors = text.split("\n## ").find(|section| section.starts_with("Actors\n"));
    let rows = actors.unwrap_or_default().lines().filter(|line| line.starts_with("| ")).skip(1);
    let mut faults = Vec::new();
    for cells in rows.map(|row| row.trim_matches([' ', '|']).split(" | ").collect::<Vec<_>>()) {
        let named: Vec<_> = cells.last().map_or(Vec::new(), |tests| {
            tests.split('`').skip(1).step_by(2).map(str::to_owned).collect()
        });
        if cells.len() != 4 || !named.iter().any(|test| hostile.contains(test)) {
            faults.push(format!("{}: no test in tests/hostile", cells[0]));
        }
        let missing = named.iter().filter(|test| !all.contains(test));
        faults.extend(missing.map(|test| format!("{}: no test `{test}`", cells[0])));
    }
    faults
}

#[track_caller]
fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn doc_comments_name_the_thing_first() {
    let faults: Vec<_> =
        rust_files().iter().flat_map(|(file, source)| nounless_openings(file, source)).collect();
    assert_none(&faults);
}

#[test]
fn comments_and_messages_use_plain_words() {
    let rust = rust_files();
    let rust = rust.iter().filter(|(file, _)| file != SELF);
    let mut faults: Vec<_> = rust.flat_map(|(file, source)| bad_words(file, source)).collect();
    for (file, text) in text_files() {
        faults.extend(bad_words_of_text(&file, &text));
    }
    assert_none(&faults);
}

#[test]
fn named_paths_exist() {
    let exists = |path: &str| root().join(path).exists();
    let crate_doc = SourceText::new(&read(&root().join("src/lib.rs")));
    let mut faults = Vec::new();
    for comment in &crate_doc.comments {
        faults.extend(missing_paths(&place("src/lib.rs", comment.line), &comment.text, exists));
    }
    for (file, text) in text_files().iter().filter(|(file, _)| file.ends_with(".md")) {
        faults.extend(missing_paths(file, text, exists));
    }
    assert_none(&faults);
}

#[test]
fn the_tests_of_the_threat_model_exist() {
    let tests = |folder: &str| -> Vec<String> {
        let files = files(&root().join(folder), &[".rs"]);
        files.iter().flat_map(|file| tests_in(&read(file))).collect()
    };
    let (all, hostile) = ([tests("src"), tests("tests")].concat(), tests("tests/hostile"));
    let text = read(&root().join("deploy/threat-model.md"));
    assert!(text.matches("\n| ").count() > 15, "the tables are read");
    assert_none(&faults_of_actors(&text, &all, &hostile));
}

#[test]
fn sources_include_no_file_of_the_tests() {
    let all = files(&root().join("src"), &[".rs"]);
    let faults: Vec<_> =
        all.iter().flat_map(|file| included_tests(&relative(file), &read(file))).collect();
    assert_none(&faults);
}

#[test]
fn no_file_names_a_package_registry() {
    let mut faults = Vec::new();
    for (file, text) in text_files() {
        // The allowed source of crates has the registry's name by necessity.
        if file != ".deny.toml" {
            faults.extend(registry_hosts(&file, &text));
        }
    }
    for file in files(root(), &[".rs"]) {
        let name = relative(&file);
        if name != SELF {
            faults.extend(registry_hosts(&name, &read(&file)));
        }
    }
    assert_none(&faults);
}

#[test]
fn the_rule_for_openings_finds_bad_examples() {
    let bad = "//! What a fetch brings.\n\n/// Since when it is so.\n/// Second line.\nfn f() {}\n\
               /// A list.\n///\n/// Who asks waits.\nfn g() {}";
    assert_eq!(nounless_openings("a.rs", &SourceText::new(bad)).len(), 3);
    let good = "//! What does a list cost\n//! to read?\n\n/// Whether it is so.\n/// Where it ends\n\
                /// is on the next line.\n// What an ordinary comment has.\n/// # Why\nfn f() {}";
    assert_eq!(nounless_openings("a.rs", &SourceText::new(good)), [""; 0]);
}

#[test]
fn the_rule_for_words_finds_bad_examples() {
    let bad = "// Nobody waits.\nlet a = \"the latest word\"; // Begin anew: it is no list.\n\
               /* Twenty octets. */";
    let faults = bad_words("a.rs", &SourceText::new(bad));
    assert_eq!(
        faults,
        [
            "a.rs:1: `nobody`",
            "a.rs:2: `anew`",
            "a.rs:2: `is no list`",
            "a.rs:3: `octets`",
            "a.rs:2: `latest word`"
        ]
    );
    let good = "// RFC 5280: \"up to 20 octets\".  `nobody` is a user.  There is no list.\n\
                // It is no longer used.\nlet octets = ip.octets();";
    assert_eq!(bad_words("a.rs", &SourceText::new(good)), [""; 0]);
    let document = "Somebody asks.\n```\nnobody\n```\n`anew` is a flag.";
    assert_eq!(bad_words_of_text("a.md", document), ["a.md:1: `somebody`"]);
    let script = "if answer is None:  # Nobody answered.\n    nobody()";
    assert_eq!(bad_words_of_text("a.py", script), ["a.py:1: `nobody`"]);
}

#[test]
fn the_rule_for_paths_finds_bad_examples() {
    let text = "| `src/a.rs`: a variant | [b](deploy/b.md#top) and `tests/c` and `tls/d.rs` |";
    let faults = missing_paths("README.md", text, |path| path == "src/a.rs");
    assert_eq!(
        faults,
        ["README.md:1: `tests/c` does not exist", "README.md:1: `deploy/b.md` does not exist"]
    );
}

#[test]
fn the_rule_for_includes_finds_bad_examples() {
    let text = "#[path = \"../../tests/support/a.rs\"]\nmod a;\ninclude_str!(\"tests/b.json\");";
    let faults = included_tests("src/x509/mod.rs", text);
    assert_eq!(faults, ["src/x509/mod.rs:1: includes `../../tests/support/a.rs`"]);
}

#[test]
fn the_rule_for_registries_finds_bad_examples() {
    let text = "Published on https://crates.io/crates/x\nSee https://docs.rsx.example";
    assert_eq!(registry_hosts("a.md", text), ["a.md:1: `crates.io`"]);
}

#[test]
fn the_rule_for_the_threat_model_finds_bad_examples() {
    let (all, hostile) = (["a", "b"].map(str::to_owned), ["a".to_owned()]);
    let faults = |row: &str| {
        let text =
            format!("# X\n## Actors\n\n| actor | can | cannot | tests |\n|---|---|---|---|\n{row}");
        faults_of_actors(&text, &all, &hostile).len()
    };
    assert_eq!(faults("| x | y | z | `a`, `b` |"), 0);
    assert_eq!(faults("| x | y | z | `b` |"), 1, "not in the folder");
    assert_eq!(faults("| x | y | z | `a`, `c` |"), 1, "no such test");
    assert_eq!(faults("| x | y | z | |"), 1);
    let text =
        "#[test]\nfn a() {}\nfn b() {}\n#[tokio::test(start_paused = true)]\nasync fn c() {}";
    assert_eq!(tests_in(text), ["a", "c"]);
}
