//! The arrows between modules, the size of files, and where SQL may stand: read from the source.

use std::path::{Path, PathBuf};

/// Which modules a module may name. Leaves may be named by all; `cli`, `server` and `main` may name all.
const ARROWS: &[(&str, &[&str])] = &[
    ("http", &["intake", "ops", "store", "protocol", "policy", "app", "model", "push", "http"]),
    ("work", &["ops", "push", "store", "app", "model", "work"]),
    ("intake", &["ops", "store", "app", "protocol", "model", "intake"]),
    ("outpost", &["http", "protocol", "model", "outpost"]),
    ("ops", &["store", "policy", "protocol", "model", "ops"]),
    ("push", &["model", "push"]),
    ("store", &["model", "store"]),
    ("policy", &["model", "policy"]),
    ("protocol", &["model", "protocol"]),
    ("model", &["model"]),
    ("sim", &["protocol", "model", "sim"]),
    ("app", &["config", "store", "intake", "push", "app", "model"]),
];
const LEAVES: &[&str] = &["clock", "error", "seal", "config", "telemetry", "change"];
const LINES_MAX: usize = 400;

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// (path below src, text without what only tests compile).
fn each_source() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    let below = |path: &PathBuf| path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
    found.iter().map(|path| (below(path), std::fs::read_to_string(path).unwrap())).collect()
}

fn is_test(path: &str) -> bool {
    path.contains("tests") || path.ends_with("testing.rs") || path.ends_with("interleavings.rs") || path.ends_with("_model.rs")
}

#[test]
fn modules_name_only_the_modules_they_may() {
    let mut wrong = Vec::new();
    for (path, text) in each_source().iter().filter(|(path, _)| !is_test(path)) {
        let module = path.split(['/', '.']).next().unwrap();
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == module) else { continue };
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for line in text.lines().map(str::trim_start).filter(|line| !line.starts_with("//")) {
            for named in line.split("crate::").skip(1) {
                let named: String = named.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let known = ARROWS.iter().any(|(name, _)| *name == named) || matches!(named.as_str(), "cli" | "server");
                if known && !allowed.contains(&named.as_str()) && !LEAVES.contains(&named.as_str()) {
                    wrong.push(format!("{path}: {module} -> {named}"));
                }
            }
        }
    }
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_file_is_longer_than_400_lines_and_sql_stands_in_the_store_alone() {
    let mut wrong = Vec::new();
    for (path, text) in each_source() {
        let lines = text.lines().count();
        if lines > LINES_MAX {
            wrong.push(format!("{path} has {lines} lines"));
        }
        if text.contains("sqlx::query") && !path.starts_with("store") && !is_test(&path) {
            wrong.push(format!("{path} has SQL"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
