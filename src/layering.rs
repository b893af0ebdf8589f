//! The architecture as a table: fails when a module names one that it may not know.
//!
//! It reads text: `crate::a`, every arm of `crate::{a, b}` at any depth of `use`, and `super::` paths that climb out
//! of their module. Comments do not count. Files called `tests.rs`, those in a folder `tests`, and what follows a
//! `#[cfg(test)]` may also name `sandbox`, whose servers they run against.

use std::fs;
use std::path::{Path, PathBuf};

const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("observability", &[]),
    ("auth", &[]),
    ("budget", &[]),
    ("topology", &[]),
    ("tunable", &[]),
    ("cluster", &[]),
    ("sandbox", &[]),
    ("backend", &["auth", "budget", "tunable"]),
    ("cache", &["backend", "budget"]),
    ("prefetch", &["backend", "budget"]),
    ("vfs", &["prefetch", "backend", "budget", "tunable"]),
    ("fuse", &["vfs", "budget", "tunable"]),
    ("config", &["auth", "backend", "prefetch", "vfs", "fuse", "topology", "observability"]),
    ("mount", &["config", "auth", "backend"]),
    ("csi", &["config", "mount", "backend", "auth", "topology", "observability::audit", "observability::pages"]),
    ("cli", &["config", "topology"]),
    (
        "app",
        &[
            "auth",
            "backend",
            "budget",
            "cache",
            "cli",
            "cluster",
            "config",
            "csi",
            "fuse",
            "mount",
            "observability",
            "prefetch",
            "sandbox",
            "topology",
            "tunable",
            "vfs",
        ],
    ),
    ("main", &["app", "auth", "cli"]),
];

/// A leaf of names that everybody may emit.
const EVERYONE: &[&str] = &["observability::metrics"];

#[test]
fn modules_import_only_what_they_may_know() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut bad = Vec::new();
    for file in sources(&root) {
        let inside = file.strip_prefix(&root).unwrap();
        let module = module_of(inside);
        if ["lib", "layering"].contains(&module.as_str()) {
            continue;
        }
        let (_, allowed) = MAY_IMPORT
            .iter()
            .find(|(name, _)| *name == module)
            .unwrap_or_else(|| panic!("{module} is not in the table"));
        let depth = module_depth(inside);
        let text = fs::read_to_string(&file).unwrap();
        let whole_file_is_test = inside.iter().any(|part| part == "tests" || part == "tests.rs");
        let (code, test) = match text.split_once("#[cfg(test)]") {
            _ if whole_file_is_test => ("", text.as_str()),
            Some((code, test)) => (code, test),
            None => (text.as_str(), ""),
        };
        for (part, is_test) in [(code, false), (test, true)] {
            for path in imports(part, depth) {
                let to = path.split("::").next().unwrap_or_default();
                let may = |one: &&str| to == *one || path.strip_prefix(*one).is_some_and(|rest| rest.starts_with("::"));
                let known = to == module
                    || allowed.iter().any(may)
                    || (is_test && to == "sandbox")
                    || EVERYONE.iter().any(|leaf| path.starts_with(leaf));
                if !known {
                    bad.push(format!("{}: {module} -> {path}", inside.display()));
                }
            }
        }
    }
    assert!(bad.is_empty(), "forbidden imports:\n{}", bad.join("\n"));
}

#[test]
fn every_form_of_import_is_seen() {
    let seen = |code: &str, depth| imports(code, depth);
    assert_eq!(seen("use crate::vfs::Vfs;", 1), ["vfs::Vfs"]);
    assert_eq!(seen("use crate::{csi, mount::{Mounter, Error}};", 1), ["csi", "mount::Mounter", "mount::Error"]);
    assert_eq!(seen("fn f() -> crate::fuse::X {}", 1), ["fuse::X"]);
    assert_eq!(seen("use super::super::vfs::Vfs;", 2), ["vfs::Vfs"]);
    assert_eq!(seen("use super::sibling;", 2), Vec::<String>::new());
    assert_eq!(seen("use super::vfs;", 1), ["vfs"]);
    assert_eq!(seen("// crate::vfs\n/* crate::csi */", 1), Vec::<String>::new());
    assert_eq!(seen("use millrace::vfs;", 1), ["vfs"]);
}

/// `a/b/c.rs` belongs to `a`; `a.rs` to `a`.
fn module_of(inside: &Path) -> String {
    let first = inside.iter().next().unwrap().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// How many `super` lead from the file's own module to the crate's root.
fn module_depth(inside: &Path) -> usize {
    let parts = inside.iter().count();
    match inside.file_name().and_then(|name| name.to_str()) {
        Some("mod.rs") => parts - 1,
        _ => parts,
    }
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            found.extend(sources(&entry));
        } else if entry.extension().is_some_and(|ext| ext == "rs") {
            found.push(entry);
        }
    }
    found
}

/// Every path from the crate's root that `source` names, without the root itself.
fn imports(source: &str, depth: usize) -> Vec<String> {
    let code = without_comments(source);
    let mut found = Vec::new();
    let climb = "super::".repeat(depth);
    for root in ["crate::", "millrace::", climb.as_str()] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            tree(&code[at + root.len()..], "", &mut found);
        }
    }
    found
}

/// Expands the use-tree at the start of `code`; returns what follows it.
fn tree<'a>(code: &'a str, prefix: &str, found: &mut Vec<String>) -> &'a str {
    let code = code.trim_start();
    if let Some(mut rest) = code.strip_prefix('{') {
        loop {
            rest = rest.trim_start();
            if let Some(after) = rest.strip_prefix('}') {
                return after;
            }
            let before = rest.len();
            rest = tree(rest, prefix, found).trim_start();
            rest = rest.strip_prefix(',').unwrap_or(rest);
            if rest.len() == before {
                return rest;
            }
        }
    }
    let end = code.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(code.len());
    let (word, rest) = code.split_at(end);
    if word.is_empty() {
        return rest;
    }
    let path = if prefix.is_empty() { word.to_owned() } else { format!("{prefix}::{word}") };
    match rest.strip_prefix("::") {
        Some(deeper) => tree(deeper, &path, found),
        None => {
            found.push(path);
            rest
        }
    }
}

fn without_comments(source: &str) -> String {
    let mut code = String::new();
    let mut rest = source;
    while let Some(at) = rest.find("/*") {
        code.push_str(&rest[..at]);
        rest = rest[at..].split_once("*/").map_or("", |(_, after)| after);
    }
    code.push_str(rest);
    let lines: Vec<_> = code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    lines.join("\n")
}
