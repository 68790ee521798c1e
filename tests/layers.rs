//! Architecture rules: which part may import which, and what the pure parts must not use.
//!
//! The ranks are explained in the crate documentation.  Items that `#[cfg(test)]` marks are not checked.

#[path = "support/source_text.rs"]
#[allow(dead_code, reason = "the other house test uses the rest")]
mod source_text;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use source_text::{SourceText, files, root};

/// Parts by rank: a part imports only parts of a strictly lower rank.
const RANKS: &[(&str, u8)] = &[
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

/// A file or a folder of a part, with its rank there.
type InnerRanks = &'static [(&'static str, u8)];

/// Ranks inside the large parts.  The first entry that matches a file counts.
const INNER_RANKS: &[(&str, InnerRanks)] = &[
    (
        "trust",
        &[
            ("mod.rs", 0),
            ("refusal.rs", 0),
            ("subject", 1),
            ("configurations.rs", 2),
            ("index.rs", 3),
            ("devices", 3),
            ("revocation", 3),
            ("path/signature.rs", 3),
            ("snapshot.rs", 4),
            ("assembly.rs", 5),
            ("path", 5),
            ("judge", 6),
        ],
    ),
    ("graph", &[("mod.rs", 0), ("collection.rs", 0), ("auth", 0), ("wire", 1), ("client", 2)]),
    (
        "sync",
        &[
            ("config.rs", 0),
            ("files.rs", 0),
            ("metrics.rs", 0),
            ("pauses.rs", 0),
            ("status.rs", 0),
            ("freshness.rs", 1),
            ("journal.rs", 1),
            ("payload.rs", 1),
            ("handle.rs", 2),
            ("follower.rs", 3),
            ("devices", 4),
            ("configurations", 5),
            ("mod.rs", 6),
        ],
    ),
    (
        "directory",
        &[
            ("mod.rs", 0),
            ("errors.rs", 0),
            ("in_flight.rs", 0),
            ("metrics.rs", 0),
            ("names.rs", 0),
            ("object_locks.rs", 0),
            ("shapes.rs", 0),
            ("device.rs", 1),
            ("odata", 1),
            ("permissions.rs", 1),
            ("responses.rs", 1),
            ("issuers", 2),
            ("paths.rs", 2),
            ("shared_pages.rs", 2),
            ("validate", 2),
            ("auth.rs", 3),
            ("call.rs", 3),
            ("objects.rs", 4),
            ("list.rs", 5),
            ("delta.rs", 6),
            ("application_routes.rs", 6),
            ("configuration_routes.rs", 6),
            ("device_routes.rs", 6),
            ("template_routes.rs", 7),
        ],
    ),
];

/// Parts that compute only: they do not wait, and time, bytes and random numbers are arguments.
const PURE: &[&str] = &["x509", "trust", "token"];

/// Names that the pure parts must not use.
///
/// `OnceLock` and `LazyLock` are allowed: they hold values that depend on nothing but the program.
/// The trait `SecureRandom` is allowed: a random generator is an argument.
/// `quick_cache`, which remembers good signatures (a fact about bytes), is allowed and locks inside.
const IMPURE: &[&str] = &[
    "tokio",
    "hyper",
    "reqwest",
    "arc_swap",
    "redb",
    "sqlx",
    "futures_util",
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "SystemTime::now",
    "Instant",
    "SystemRandom",
    "rand::fill",
    "RandomState::new",
    "Waker",
    "Notify",
    "Mutex",
    "RwLock",
    "Condvar",
];

/// Source files: the path from `src`, and the code without comments, literals and tests.
type Sources = BTreeMap<String, String>;

fn sources() -> Sources {
    let src = root().join("src");
    let mut out = Sources::new();
    for file in files(&src, &[".rs"]) {
        let path = file.strip_prefix(&src).expect("below src").to_str().expect("UTF-8").to_owned();
        if is_for_tests(&path) {
            continue;
        }
        let text = fs::read_to_string(&file).expect("a readable file");
        out.insert(path, SourceText::new(&text).code_without_tests());
    }
    out
}

/// True for the files of modules that only tests compile.
fn is_for_tests(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name == "tests.rs" || name.starts_with("test_") || path.contains("/tests/")
}

/// The first component of a path, without `.rs`.
fn part_of(path: &str) -> &str {
    path.split('/').next().unwrap_or(path).trim_end_matches(".rs")
}

fn rank_of(part: &str) -> Option<u8> {
    RANKS.iter().find(|(name, _)| *name == part).map(|(_, rank)| *rank)
}

/// Paths of names that the code uses through the crate root, each with its line.
///
/// Braces are expanded: `crate::a::{b, c::D}` is `a::b` and `a::c::D`.
fn crate_paths(code: &str) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let mut paths = Vec::new();
        expand(&code[at + "crate::".len()..], &[], &mut paths);
        found.extend(paths.into_iter().map(|path| (line, path)));
    }
    found
}

/// Expands the path or tree at the start of `text`; returns how many bytes it has.
fn expand(text: &str, prefix: &[String], out: &mut Vec<Vec<String>>) -> usize {
    let mut path = prefix.to_vec();
    let mut at = 0;
    loop {
        let rest = &text[at..];
        at += rest.len() - rest.trim_start().len();
        if text[at..].starts_with('{') {
            at += 1;
            loop {
                at += expand(&text[at..], &path, out);
                let rest = &text[at..];
                match rest.find([',', '}']) {
                    Some(end) if rest[end..].starts_with(',') => at += end + 1,
                    Some(end) => return at + end + 1,
                    None => return text.len(),
                }
            }
        }
        let name: String =
            text[at..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if name.is_empty() {
            break;
        }
        at += name.len();
        path.push(name);
        if !text[at..].starts_with("::") {
            break;
        }
        at += 2;
    }
    if path.len() > prefix.len() {
        if path.last().is_some_and(|name| name == "self") {
            path.pop();
        }
        out.push(path);
    }
    at
}

/// The file of a module path, and how many components it takes.
fn file_of(sources: &Sources, path: &[String]) -> Option<(String, usize)> {
    (1..=path.len()).rev().find_map(|length| {
        let module = path[..length].join("/");
        [format!("{module}.rs"), format!("{module}/mod.rs")]
            .into_iter()
            .find(|file| sources.contains_key(file))
            .map(|file| (file, length))
    })
}

/// Modules and items that a `mod.rs` re-exports from its children: the name, and the path it stands for.
fn reexports(sources: &Sources, file: &str) -> BTreeMap<String, Vec<String>> {
    let mut out = BTreeMap::new();
    let Some(folder) = file.strip_suffix("/mod.rs") else { return out };
    let folder: Vec<String> = folder.split('/').map(str::to_owned).collect();
    let code = &sources[file];
    for (at, _) in code.match_indices("pub use ") {
        let text = code[at + "pub use ".len()..].trim_start_matches("self::");
        if text.starts_with("crate::") || text.starts_with("super::") {
            continue;
        }
        let mut paths = Vec::new();
        expand(text, &folder, &mut paths);
        for path in paths {
            out.insert(path.last().expect("a name").clone(), path);
        }
    }
    out
}

/// Files that each file imports.
///
/// An item that a `mod.rs` re-exports counts for the file that has it.  Imports by a `mod.rs` from its own
/// folder do not count: it composes its children, and they may use the types that it declares for them.
fn imports(sources: &Sources) -> BTreeMap<&str, BTreeSet<String>> {
    let reexported: BTreeMap<&String, _> =
        sources.keys().map(|file| (file, reexports(sources, file))).collect();
    let mut out: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (file, code) in sources {
        let targets = out.entry(file).or_default();
        for (_, mut path) in crate_paths(code) {
            let Some((mut target, mut used)) = file_of(sources, &path) else { continue };
            while let Some(whole) = path.get(used).and_then(|name| reexported[&target].get(name)) {
                let rest = path.split_off(used + 1);
                path = [whole.clone(), rest].concat();
                let Some(next) = file_of(sources, &path) else { break };
                if next.0 == target {
                    break;
                }
                (target, used) = next;
            }
            let is_own_child = file
                .strip_suffix("mod.rs")
                .is_some_and(|folder| !folder.is_empty() && target.starts_with(folder));
            if target != *file && !is_own_child {
                targets.insert(target);
            }
        }
    }
    out
}

/// Imports of a part of the same or a higher rank.
fn upward_imports(sources: &Sources) -> Vec<String> {
    let mut faults = Vec::new();
    for (file, code) in sources {
        let part = part_of(file);
        if part == "lib" || part == "main" {
            continue;
        }
        let Some(own) = rank_of(part) else {
            faults.push(format!("src/{file}: `{part}` has no rank"));
            continue;
        };
        for (line, path) in crate_paths(code) {
            let Some(name) = path.first() else { continue };
            match rank_of(name) {
                Some(other) if name != part && other >= own => {
                    faults.push(format!(
                        "src/{file}:{line}: `{part}` ({own}) imports `{name}` ({other})"
                    ));
                }
                None => faults.push(format!("src/{file}:{line}: `{name}` has no rank")),
                _ => {}
            }
        }
    }
    faults
}

/// Imports through `super::super`, which would hide a part from this test.
fn hidden_imports(sources: &Sources) -> Vec<String> {
    let lines = sources.iter().flat_map(|(file, code)| {
        code.lines().enumerate().map(move |(n, line)| (file, n + 1, line))
    });
    lines
        .filter(|(_, _, line)| line.contains("super::super"))
        .map(|(file, n, _)| format!("src/{file}:{n}: import through `crate::`"))
        .collect()
}

/// Groups of files that import each other in a circle.
fn circles(imports: &BTreeMap<&str, BTreeSet<String>>) -> Vec<String> {
    let reaches = |from: &str| {
        let mut seen = BTreeSet::new();
        let mut open = vec![from.to_owned()];
        while let Some(file) = open.pop() {
            for next in imports.get(&*file).into_iter().flatten() {
                if seen.insert(next.clone()) {
                    open.push(next.clone());
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&str, BTreeSet<String>> =
        imports.keys().map(|file| (*file, reaches(file))).collect();
    let mut found = BTreeSet::new();
    for (file, all) in &reached {
        if all.contains(*file) {
            let circle: Vec<&str> =
                all.iter().map(|f| &**f).filter(|f| reached[f].contains(*file)).collect();
            found.insert(format!("circle of files: {}", circle.join(", ")));
        }
    }
    found.into_iter().collect()
}

/// Imports inside one part that are not of a strictly lower rank there.
fn inner_upward_imports(
    part: &str,
    ranks: &[(&str, u8)],
    imports: &BTreeMap<&str, BTreeSet<String>>,
) -> Vec<String> {
    let below = |file: &str| file.strip_prefix(part)?.strip_prefix('/').map(str::to_owned);
    let rank = |file: &str| {
        let entry = ranks.iter().find(|(name, _)| {
            file == *name || file.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'))
        });
        entry.copied()
    };
    let mut faults = Vec::new();
    for (file, targets) in imports {
        let Some(file) = below(file) else { continue };
        let Some((own_name, own)) = rank(&file) else {
            faults.push(format!("src/{part}/{file} has no rank inside `{part}`"));
            continue;
        };
        for target in targets.iter().filter_map(|target| below(target)) {
            if let Some((name, other)) = rank(&target)
                && name != own_name
                && other >= own
            {
                faults.push(format!(
                    "src/{part}/{file} ({own}) imports src/{part}/{target} ({other})"
                ));
            }
        }
    }
    faults
}

/// Uses of impure names in the pure parts.
fn impure_uses(sources: &Sources) -> Vec<String> {
    let mut faults = Vec::new();
    for (file, code) in sources.iter().filter(|(file, _)| PURE.contains(&part_of(file))) {
        for (n, line) in code.lines().enumerate() {
            for name in IMPURE.iter().filter(|name| has_word(line, name)) {
                faults.push(format!("src/{file}:{}: `{name}`", n + 1));
            }
        }
    }
    faults
}

/// True if `line` has `word` between characters that cannot belong to a name.
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].chars().next_back().is_some_and(is_part)
            && !line[at + word.len()..].chars().next().is_some_and(is_part)
    })
}

/// Uses of `ArcSwap` outside of the one live cell.
fn other_cells(sources: &Sources) -> Vec<String> {
    let others = sources.iter().filter(|(file, _)| *file != "runtime/live.rs");
    others
        .filter(|(_, code)| has_word(code, "ArcSwap"))
        .map(|(file, _)| format!("src/{file}: ArcSwap belongs in runtime/live.rs"))
        .collect()
}

#[track_caller]
fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn parts_import_only_lower_ranks() {
    assert_none(&upward_imports(&sources()));
}

#[test]
fn imports_name_their_part() {
    assert_none(&hidden_imports(&sources()));
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let sources = sources();
    assert_none(&circles(&imports(&sources)));
}

#[test]
fn files_of_large_parts_import_only_lower_ranks() {
    let sources = sources();
    let imports = imports(&sources);
    let faults: Vec<String> = INNER_RANKS
        .iter()
        .flat_map(|(part, ranks)| inner_upward_imports(part, ranks, &imports))
        .collect();
    assert_none(&faults);
}

#[test]
fn the_lower_ranks_are_pure() {
    assert_none(&impure_uses(&sources()));
}

#[test]
fn there_is_one_hot_swapped_cell() {
    assert_none(&other_cells(&sources()));
}

/// Sources of an example, in which each file has one line.
fn example(files: &[(&str, &str)]) -> Sources {
    files.iter().map(|(file, code)| ((*file).to_owned(), (*code).to_owned())).collect()
}

#[test]
fn each_rule_finds_its_bad_example() {
    let upward = example(&[
        ("x509/der.rs", "use crate::trust::{path::Path, refusal::Code};"),
        ("tls/mod.rs", "fn f() { crate::graph::client::g(); }"),
        ("novel/mod.rs", "use crate::x509::der;"),
    ]);
    assert_eq!(upward_imports(&upward).len(), 4, "{:?}", upward_imports(&upward));
    assert_eq!(upward_imports(&example(&[("token/a.rs", "use crate::trust::b;")])), [""; 0]);

    let hidden = example(&[("a/b.rs", "use super::super::c;")]);
    assert_eq!(hidden_imports(&hidden).len(), 1);

    let circle = example(&[
        ("a/mod.rs", "pub mod b;\npub mod c;\npub use b::B;\n"),
        ("a/b.rs", "use crate::a::c::C;"),
        ("a/c.rs", "use crate::a::B;"),
        ("a/d.rs", "use crate::a::{B, c};"),
        ("e/mod.rs", "use crate::e::f::F;"),
        ("e/f.rs", "use crate::e::E;"),
    ]);
    assert_eq!(circles(&imports(&circle)), ["circle of files: a/b.rs, a/c.rs"]);

    let inner: &[(&str, u8)] = &[("low.rs", 0), ("high", 1)];
    let files = example(&[
        ("graph/low.rs", "use crate::graph::high::x::X;"),
        ("graph/high/x.rs", "use crate::graph::low::Y; use crate::graph::high::y::Z;"),
        ("graph/high/y.rs", ""),
        ("graph/new.rs", ""),
    ]);
    let faults = inner_upward_imports("graph", inner, &imports(&files));
    assert_eq!(
        faults,
        [
            "src/graph/low.rs (0) imports src/graph/high/x.rs (1)",
            "src/graph/new.rs has no rank inside `graph`",
        ]
    );

    let impure = example(&[
        ("x509/a.rs", "let state = RandomState::new();\nlet t = std::time::Instant::now();"),
        ("token/b.rs", "use std::sync::{Arc, Mutex};\nlet grand = operand;"),
        ("tls/c.rs", "use tokio::sync::Notify;"),
    ]);
    assert_eq!(impure_uses(&impure).len(), 3, "{:?}", impure_uses(&impure));

    assert_eq!(other_cells(&example(&[("tls/a.rs", "use arc_swap::ArcSwap;")])).len(), 1);
}
