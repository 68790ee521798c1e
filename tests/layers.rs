//! The architecture's rules, as a test: who may import whom, and what the pure floor may not touch.

use std::fs;
use std::path::{Path, PathBuf};

/// Parts by rank: a part imports only parts of a strictly lower rank.
const RANK: &[(&str, u8)] = &[
    ("x509", 0),
    ("trust", 1),
    ("token", 2),
    ("runtime", 3),
    ("http", 4),
    ("tls", 5),
    ("keyring", 5),
    ("graph", 5),
    ("crl", 5),
    ("store", 5),
    ("oauth", 5),
    ("sync", 6),
    ("directory", 6),
    ("admin", 7),
    ("config", 8),
    ("app", 9),
    ("cli", 10),
];

/// Parts that compute and never wait.
const PURE: &[&str] = &["x509", "trust", "token"];

/// What those parts may not name: it computes and never waits, reads no clock and draws no lots.
const IMPURE: &[&str] = &[
    "tokio",
    "hyper",
    "reqwest",
    "axum",
    "arc_swap",
    "redb",
    "sqlx",
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "SystemTime::now",
    "Instant::now",
    "aws_lc_rs::rand::fill",
];

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("src is readable") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// The code of a file without its comments and without its inline tests, line by line.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
        .map(|(n, line)| (n + 1, line.split("//").next().unwrap_or("")))
}

fn part_of<'a>(root: &Path, file: &'a Path) -> &'a str {
    let relative = file.strip_prefix(root).expect("below src");
    let first = relative.components().next().expect("a component");
    let name = first.as_os_str().to_str().expect("UTF-8");
    name.strip_suffix(".rs").unwrap_or(name)
}

fn rank(part: &str) -> Option<u8> {
    RANK.iter().find(|(name, _)| *name == part).map(|(_, rank)| *rank)
}

/// Every part that a line names through the crate root.
fn imported(line: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    for after in line.split("crate::").skip(1) {
        let end = after.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(after.len());
        parts.push(&after[..end]);
    }
    parts
}

#[test]
fn a_layer_imports_only_lower_layers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut faults = Vec::new();
    for file in &files {
        let part = part_of(&root, file);
        if part == "lib" || part == "main" {
            continue;
        }
        let text = fs::read_to_string(file).expect("a readable file");
        let Some(own) = rank(part) else {
            faults.push(format!("{}: `{part}` has no rank", file.display()));
            continue;
        };
        for (number, line) in code(&text) {
            let place = format!("{}:{number}", file.display());
            if line.contains("super::super") || line.contains("crate::{") {
                faults.push(format!("{place}: name one part a line, through `crate::`"));
            }
            for name in imported(line) {
                match rank(name) {
                    Some(other) if name != part && other >= own => {
                        faults
                            .push(format!("{place}: `{part}` ({own}) imports `{name}` ({other})"));
                    }
                    None => faults.push(format!("{place}: `{name}` has no rank")),
                    _ => {}
                }
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn the_lower_ranks_are_pure() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    for part in PURE {
        sources(&root.join(part), &mut files);
    }
    let mut faults = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file).expect("a readable file");
        for (number, line) in code(&text) {
            for word in IMPURE.iter().filter(|word| line.contains(**word)) {
                faults.push(format!("{}:{number}: `{word}`", file.display()));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn there_is_one_hot_swapped_cell() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    for file in files.iter().filter(|f| !f.ends_with("runtime/live.rs")) {
        let text = fs::read_to_string(file).expect("a readable file");
        for (number, line) in code(&text) {
            assert!(
                !line.contains("ArcSwap"),
                "{}:{number}: ArcSwap lives in runtime/live.rs",
                file.display()
            );
        }
    }
}
