//! `muster apply`: makes labels, policies and assignments be what the files of a folder say, through the operator API.
//!
//! What is so already is left alone, so a second run changes nothing. Nothing is deleted unless that is asked for. Each change is told by a
//! line as it happens; a run that fails has done what it told, and the next one goes on from there.

mod files;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use self::files::{Wanted, WantedLabel, WantedPolicy};
use super::{Access, Call, ask, call, list, segment};
use crate::policy;
use crate::store::policies::Assignment;

/// Items of one list at most.
const ITEMS_MAX: usize = 1_000_000;

/// From files to a server.
#[derive(Clone, Debug, Args)]
pub struct Folder {
    /// The folder: labels.json, and policies/NAME.json for each policy.
    #[arg(short = 'f', long = "folder", value_name = "DIR")]
    folder: PathBuf,
    /// Only say what would change.
    #[arg(long)]
    plan: bool,
    /// Also delete the policies and labels that have no place in the folder.
    #[arg(long)]
    prune: bool,
}

/// A run, with what it has told.
struct Run<'a> {
    access: &'a Access,
    plan: bool,
    told: Vec<Change>,
}

/// A change as it is told.
#[derive(Serialize)]
struct Change {
    what: &'static str,
    /// `label` or `policy`.
    kind: &'static str,
    name: String,
    /// More of it, where there is more to say.
    said: String,
}

impl Change {
    fn new(what: &'static str, kind: &'static str, name: &str, said: &str) -> Change {
        Change { what, kind, name: name.to_owned(), said: said.to_owned() }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.what, self.kind, self.name)?;
        if self.said.is_empty() { Ok(()) } else { write!(f, " ({})", self.said) }
    }
}

impl Folder {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let wanted = Wanted::read(&self.folder)?;
        let mut run = Run { access, plan: self.plan, told: Vec::new() };
        let (labels, policies) = (run.all("/labels").await?, run.all("/policies").await?);
        for (name, label) in &wanted.labels {
            run.label(name, label, labels.get(name), &wanted.labels_file).await?;
        }
        for (name, policy) in &wanted.policies {
            run.policy(name, policy, policies.get(name)).await?;
        }
        if self.prune {
            for name in policies.keys().filter(|name| !wanted.policies.contains_key(*name)) {
                run.delete("policy", "/policies", name).await?;
            }
            for name in labels.keys().filter(|name| !wanted.labels.contains_key(*name)) {
                run.delete("label", "/labels", name).await?;
            }
        }
        let n = run.told.len();
        if access.json {
            println!("{}", serde_json::to_string_pretty(&json!({"planned": self.plan, "changes": run.told}))?);
        }
        eprintln!("{}", if self.plan { format!("{n} changes would be made") } else { format!("{n} changes made") });
        Ok(())
    }
}

impl Run<'_> {
    async fn label(&mut self, name: &str, wanted: &WantedLabel, is: Option<&Value>, file: &Path) -> anyhow::Result<()> {
        let path = format!("/labels/{}", segment(name));
        let described = |is: &Value| wanted.description.as_deref().is_none_or(|text| is["description"] == text);
        if !is.is_some_and(described) {
            let put = call("PUT", &path).with(json!({"description": wanted.description}));
            let what = if is.is_some() { "describe" } else { "create" };
            self.change(Change::new(what, "label", name, ""), put, &file.display().to_string()).await?;
        }
        let Some(devices) = &wanted.devices else { return Ok(()) };
        let at = format!("/{}/devices", name.replace('~', "~0").replace('/', "~1"));
        let is = if is.is_some() { self.members(&path).await? } else { BTreeSet::new() };
        let mut shall = BTreeSet::new();
        for (index, device) in devices.iter().enumerate() {
            let found = ask(self.access, call("GET", format!("/devices/{}", segment(device)))).await;
            let found = found.with_context(|| format!("{}: {at}/{index}: {device:?}", file.display()))?;
            shall.insert(found["id"].as_str().unwrap_or_default().to_owned());
        }
        if is == shall {
            return Ok(());
        }
        let said = format!("{} given, {} taken", shall.difference(&is).count(), is.difference(&shall).count());
        let put = call("PUT", format!("{path}/devices")).with(json!({"devices": shall}));
        self.change(Change::new("give", "label", name, &said), put, &format!("{}: {at}", file.display())).await
    }

    async fn policy(&mut self, name: &str, wanted: &WantedPolicy, is: Option<&Value>) -> anyhow::Result<()> {
        let (path, place) = (format!("/policies/{}", segment(name)), wanted.file.display().to_string());
        let in_force = is.filter(|is| !is["version"].is_null());
        if in_force.is_none_or(|is| policy::hash(&is["document"]) != policy::hash(&wanted.document)) {
            let put = call("PUT", &path).with(json!({"document": wanted.document, "message": wanted.message}));
            let said = in_force.map_or_else(|| "new".to_owned(), |is| format!("in the place of version {}", is["version"]));
            self.change(Change::new("publish", "policy", name, &said), put, &place).await?;
        }
        let Some(shall) = &wanted.assignments else { return Ok(()) };
        let is: Vec<Assignment> = is.and_then(|is| serde_json::from_value(is["assignments"].clone()).ok()).unwrap_or_default();
        if is.len() == shall.len() && shall.iter().all(|one| is.contains(one)) {
            return Ok(());
        }
        let put = call("PUT", format!("{path}/assignments")).with(json!({"assignments": shall}));
        let shown: Vec<String> = shall.iter().map(|one| format!("{} {} {}", one.mode, one.label, one.rank)).collect();
        let said = if shown.is_empty() { "to nobody".to_owned() } else { shown.join(", ") };
        self.change(Change::new("assign", "policy", name, &said), put, &place).await
    }

    async fn delete(&mut self, kind: &'static str, path: &str, name: &str) -> anyhow::Result<()> {
        let delete = call("DELETE", format!("{path}/{}", segment(name)));
        self.change(Change::new("delete", kind, name, ""), delete, "--prune").await
    }

    /// Tells a change and, unless this is a plan, makes it; `place` is what a fault is told with.
    async fn change(&mut self, change: Change, call: Call, place: &str) -> anyhow::Result<()> {
        if !self.plan {
            ask(self.access, call).await.with_context(|| place.to_owned())?;
        }
        if !self.access.json {
            println!("{change}");
        }
        self.told.push(change);
        Ok(())
    }

    /// Everything in a list of the API, by name.
    async fn all(&self, path: &str) -> anyhow::Result<BTreeMap<String, Value>> {
        let items = self.pages(path).await?;
        Ok(items.into_iter().filter_map(|item| Some((item["name"].as_str()?.to_owned(), item))).collect())
    }

    /// The ids of the devices that have a label.
    async fn members(&self, path: &str) -> anyhow::Result<BTreeSet<String>> {
        let items = self.pages(&format!("{path}/devices")).await?;
        Ok(items.iter().filter_map(|item| item["id"].as_str().map(str::to_owned)).collect())
    }

    async fn pages(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        let found = list(self.access, call("GET", path), ITEMS_MAX).await?;
        ensure!(found.next_cursor.is_none(), "{path} has more than {ITEMS_MAX} items");
        Ok(found.items)
    }
}
