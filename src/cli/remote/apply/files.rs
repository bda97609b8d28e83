//! What a folder says: `labels.json`, and one file a policy in `policies/`. All of it is read and checked before anything is asked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::policy::document;
use crate::store::policies::Assignment;

const FILES_MAX: usize = 1_000;
/// What the operator API takes as a body.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// What shall be.
#[derive(Debug)]
pub struct Wanted {
    pub labels: BTreeMap<String, WantedLabel>,
    pub labels_file: PathBuf,
    pub policies: BTreeMap<String, WantedPolicy>,
}

/// A label of `labels.json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedLabel {
    /// Absent: it stays what it is.
    pub description: Option<String>,
    /// Exactly these devices have it, by id, serial number or UDID; absent: whoever has it keeps it.
    pub devices: Option<Vec<String>>,
}

/// The content of a policy's file; its name is that of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    document: Value,
    #[serde(default)]
    message: String,
    assignments: Option<Vec<Assignment>>,
}

/// A policy that shall be in force.
#[derive(Debug)]
pub struct WantedPolicy {
    pub file: PathBuf,
    pub document: Value,
    /// Why it is published.
    pub message: String,
    /// Exactly these; absent: they stay as they are.
    pub assignments: Option<Vec<Assignment>>,
}

impl Wanted {
    /// Reads a folder. Every fault is told with its file and, within it, its JSON pointer.
    pub fn read(folder: &Path) -> anyhow::Result<Wanted> {
        let (labels_file, policies_folder) = (folder.join("labels.json"), folder.join("policies"));
        ensure!(labels_file.exists() || policies_folder.is_dir(), "{} has neither labels.json nor a folder policies", folder.display());
        let labels = if labels_file.exists() { parse(&labels_file)? } else { BTreeMap::new() };
        let mut policies = BTreeMap::new();
        let mut faults = Vec::new();
        for file in policy_files(&policies_folder)? {
            let name = file.file_stem().and_then(|stem| stem.to_str()).context("a file's name is no text")?.to_owned();
            let File { document, message, assignments } = parse(&file)?;
            let found = document::check(&document, "/document");
            faults.extend(found.iter().map(|fault| format!("{}: {}: {}", file.display(), fault.pointer, fault.detail)));
            policies.insert(name, WantedPolicy { file, document, message, assignments });
        }
        ensure!(faults.is_empty(), "{}", faults.join("\n"));
        Ok(Wanted { labels, labels_file, policies })
    }
}

/// The files of a folder in the order of their names; what is no JSON file has no place there.
fn policy_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
            continue;
        }
        ensure!(path.extension().is_some_and(|ending| ending == "json"), "{}: a policy's file is called NAME.json", path.display());
        found.push(path);
        ensure!(found.len() <= FILES_MAX, "{} has more than {FILES_MAX} files", folder.display());
    }
    found.sort();
    Ok(found)
}

fn parse<T: DeserializeOwned>(file: &Path) -> anyhow::Result<T> {
    let length = std::fs::metadata(file).with_context(|| file.display().to_string())?.len();
    ensure!(length <= FILE_BYTES_MAX, "{} has more than {FILE_BYTES_MAX} bytes", file.display());
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let mut reader = serde_json::Deserializer::from_str(&text);
    match serde_path_to_error::deserialize(&mut reader) {
        Ok(value) => {
            reader.end().with_context(|| file.display().to_string())?;
            Ok(value)
        }
        Err(error) => bail!("{}: {}: {}", file.display(), pointer(error.path()), error.inner()),
    }
}

/// An RFC 6901 pointer; `/` where the fault is the whole.
fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let segments = path.iter().map(|segment| match segment {
        Segment::Seq { index } => index.to_string(),
        Segment::Map { key } => key.replace('~', "~0").replace('/', "~1"),
        Segment::Enum { variant } => variant.clone(),
        Segment::Unknown => "?".to_owned(),
    });
    format!("/{}", segments.collect::<Vec<_>>().join("/"))
}
