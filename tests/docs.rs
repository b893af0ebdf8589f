//! The documents against the tree: every test that a promise names exists, and every link leads somewhere.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

const FOLDERS: &[&str] = &["", "docs", "deploy"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn documents() -> Vec<PathBuf> {
    let all = FOLDERS.iter().flat_map(|folder| fs::read_dir(root().join(folder)).unwrap());
    all.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|ext| ext == "md")).collect()
}

/// The names of all functions that a `#[test]` or `#[tokio::test]` marks in `src` and `tests`.
fn tests_of(dir: &Path, names: &mut HashSet<String>) {
    for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            tests_of(&path, names);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            let mut marked = false;
            for line in fs::read_to_string(&path).unwrap().lines().map(str::trim_start) {
                let name = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
                match name.and_then(|rest| rest.split_once('(')) {
                    Some((name, _)) if std::mem::take(&mut marked) => drop(names.insert(name.to_owned())),
                    _ => marked |= line.starts_with("#[") && line.contains("test"),
                }
            }
        }
    }
}

fn between<'a>(text: &'a str, open: &str, close: char) -> Vec<&'a str> {
    text.split(open).skip(1).filter_map(|rest| rest.split_once(close)).map(|(inside, _)| inside).collect()
}

#[test]
fn every_promise_names_tests_that_exist() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let promises = readme.split("\n## ").find(|section| section.starts_with("Promises")).unwrap();
    let mut tests = HashSet::new();
    for folder in ["src", "tests"] {
        tests_of(&root().join(folder), &mut tests);
    }
    // The contract's clauses are cases of one suite that runs on every backend, not functions marked as tests.
    let contract: String = fs::read_dir(root().join("src/backend/contract"))
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    let named: Vec<&str> = promises
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| word.contains('_') && !word.contains(['.', '/', '{']))
        .collect();
    assert!(named.len() > 40, "found only {named:?}");
    let missing: Vec<_> =
        named.iter().filter(|name| !tests.contains(**name) && !contract.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty(), "promises name tests that do not exist: {missing:?}");
}

#[test]
fn every_link_leads_to_a_file() {
    let mut broken = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for target in between(&text, "](", ')') {
            let path = target.split('#').next().unwrap();
            let outside = target.contains("://") || path.is_empty();
            if !outside && !document.parent().unwrap().join(path).exists() {
                broken.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}
