//! From labels and assignments to the document that each channel should have.

mod held;
mod stack;
mod tokens;

pub use tokens::{Bound, are_minted, forget_unused, mint};

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

pub use self::held::is_kept;
use self::held::{Parts, name as hold_name, rest};
use self::stack::{Stack, ensure_stack, short_hash, stored, value_of};

use crate::clock::Moment;
use crate::error::Result;
use crate::model::{Id, Lane};
use crate::ops::labels::ALL;
use crate::policy::variables;
use crate::protocol::agent::{Detail, PolicyReport};
use crate::seal::Seal;
use crate::store::feed::{self, Entry};
use crate::store::policies::{self, InForce};
use crate::store::stacks::{self, Follower, SetRow, Settled, StackRow};
use crate::store::wakes::{self, Raise};
use crate::store::{Conn, channels_lock, labels, meta};

/// Where the server's own address is kept for `{{server.address}}`.
pub const ADDRESS: &str = "public_url";
/// Channels settled in one statement at most; larger sets are moved in the background.
pub const CHUNK_MAX: usize = 500;

/// One policy of a stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StackItem {
    pub policy: Id,
    pub name: String,
    pub version: i64,
    pub rank: i64,
}

/// Settles all channels of these devices: their label set, its stack, their desired version. Raises wakes where that is another.
pub async fn devices(conn: &mut Conn, moment: &mut Moment, ids: &[Id], lane: Lane) -> Result<()> {
    for chunk in ids.chunks(CHUNK_MAX) {
        stacks::lock_of_devices(conn, chunk).await?;
        let followers = stacks::of_devices(conn, chunk).await?;
        place(conn, moment, followers, Some(lane)).await?;
    }
    Ok(())
}

/// Settles devices whose labels have changed: a few at once, more of them in the background.
pub async fn relabelled(conn: &mut Conn, moment: &mut Moment, ids: &[Id]) -> Result<()> {
    if ids.len() > CHUNK_MAX {
        return stacks::unsettle(conn, ids).await;
    }
    devices(conn, moment, ids, Lane::Change).await
}

/// Brings stale channels up to date, as their own contact does, which holds their locks; answers where they stand. Raises nothing:
/// they are here.
pub async fn stale(conn: &mut Conn, moment: &mut Moment, channels: &[Id]) -> Result<Vec<Settled>> {
    let followers = stacks::of_channels(conn, channels).await?;
    place(conn, moment, followers, None).await
}

/// Moves up to `limit` stale channels of a set; answers how many. One entry in the feed tells of all that have another document.
pub async fn move_some(conn: &mut Conn, moment: &mut Moment, set: &SetRow, limit: i64, lane: Lane) -> Result<usize> {
    let ids = stacks::stale(conn, set, limit).await?;
    channels_lock(conn, &ids).await?;
    let followers = stacks::of_channels(conn, &ids).await?;
    // A contact may have moved one between the look and the lock; it is settled to the same place once more.
    let settled = place(conn, moment, followers, Some(lane)).await?;
    let moved: i64 = settled.iter().map(|row| row.moved).sum();
    if moved > 0 {
        let data = json!({"label_set": set.id, "stack": set.stack_id, "channels": moved});
        feed::append(conn, moment, &[Entry { kind: "policy.moved", actor: None, device_id: None, data }]).await?;
    }
    Ok(settled.len())
}

/// Notes the server's own address; documents that reference it change with it.
pub async fn address(conn: &mut Conn, url: &str) -> Result<()> {
    if meta::get(conn, ADDRESS).await?.as_deref() == Some(url) {
        return Ok(());
    }
    meta::put(conn, ADDRESS, url).await?;
    repoint(conn, "server.address").await
}

/// An enrollment token came or ended: documents that refer to it by its name change with it.
pub async fn token_changed(conn: &mut Conn, name: &str) -> Result<()> {
    repoint(conn, &format!("{}{name}", variables::TOKEN)).await
}

/// Has every channel settled anew whose document references a variable.
async fn repoint(conn: &mut Conn, variable: &str) -> Result<()> {
    policies::lock(conn).await?;
    for set in stacks::sets(conn).await? {
        let stack = Stack::load(conn, &set.stack_id).await?;
        if stack.references(variable) {
            stacks::repoint(conn, &set.id, &set.stack_id).await?;
        }
    }
    Ok(())
}

/// Puts channels into the sets of their labels and follows those. The caller holds the locks of the channels.
async fn place(conn: &mut Conn, moment: &mut Moment, followers: Vec<Follower>, lane: Option<Lane>) -> Result<Vec<Settled>> {
    let device_ids: BTreeSet<Id> = followers.iter().map(|follower| follower.device_id).collect();
    let mut label_ids: HashMap<Id, Vec<Id>> = HashMap::new();
    for (device, label) in labels::of_devices(conn, &device_ids.into_iter().collect::<Vec<_>>()).await? {
        label_ids.entry(device).or_default().push(label);
    }
    let labels_of = |follower: &Follower| label_ids.get(&follower.device_id).cloned().unwrap_or_default();
    let combinations: BTreeSet<Vec<Id>> = followers.iter().map(labels_of).collect();
    let sets = ensure_sets(conn, moment, combinations).await?;
    let targets = followers
        .into_iter()
        .filter_map(|follower| {
            let set = sets.get(&labels_of(&follower))?.clone();
            Some((follower, set))
        })
        .collect();
    follow(conn, moment, targets, lane).await
}

/// Points each channel to its set's stack and computes its desired version.
async fn follow(conn: &mut Conn, moment: &mut Moment, mut targets: Vec<(Follower, SetRow)>, lane: Option<Lane>) -> Result<Vec<Settled>> {
    let mut known: HashMap<String, Stack> = HashMap::new();
    let mut address = None;
    let mut parts = Parts::new();
    let mut settled = Vec::with_capacity(targets.len());
    let mut changed = Vec::new();
    let mut raises = Vec::new();
    for (follower, set) in &targets {
        for id in [&set.stack_id, &follower.stack_id] {
            if !known.contains_key(id) {
                known.insert(id.clone(), Stack::load(conn, id).await?);
            }
        }
    }
    let wanted = known.values().flat_map(Stack::tokens).map(str::to_owned).collect();
    tokens::find(conn, &mut targets.iter_mut().map(|(follower, _)| follower).collect::<Vec<_>>(), &wanted, moment.now_ms).await?;
    for (follower, set) in targets {
        let stack = known[&set.stack_id].of_channel(&follower);
        if !stack.variables.is_empty() && address.is_none() {
            address = Some(meta::get(conn, ADDRESS).await?.unwrap_or_default());
        }
        let (desired, hold, held) = match stack.desired(&follower, address.as_deref().unwrap_or("")) {
            // An Apple device is left as it is until there is something to declare; from then on, also nothing is declared to it.
            Ok(_) if follower.kind != "agent" && follower.desired.is_none() && stack.is_empty() => (None, None, String::new()),
            Ok(version) => (Some(version), None, String::new()),
            // Never delivered empty: the policies that name it wait, the others are delivered. Where the channel has one of those already,
            // what it has stays desired until the value is back.
            Err(name) => {
                let (items, address) = (&known[&set.stack_id].items, address.as_deref().unwrap_or(""));
                let rest = rest(conn, &mut parts, &set.stack_id, items, &follower, address).await?;
                let may_have = follower.desired.is_some() && (follower.hold.is_none() || is_kept(follower.hold.as_deref()));
                let has = |item: &StackItem| rest.held.iter().any(|held| held.policy == item.policy);
                let kept = may_have && known[&follower.stack_id].items.iter().any(has);
                let nothing = follower.kind != "agent" && follower.desired.is_none() && rest.compiled.is_empty();
                let desired = if kept || nothing { follower.desired.clone() } else { rest.compiled.desired(&follower, address).ok() };
                let before = kept.then(|| (known[&follower.stack_id].items.as_slice(), follower.held.as_str()));
                (desired, Some(hold_name(&name, kept)), rest.not_given(items, before))
            }
        };
        let moved = desired != follower.desired;
        let released = follower.hold.is_some() && hold.is_none() && desired != follower.applied;
        // The first document is fetched by the sync that follows an activation; nobody is called before it. Apple's devices follow none.
        let came = follower.desired.is_some() || follower.last_serving_ms.is_some() || follower.kind != "agent";
        if (moved || released) && came {
            raises.extend(lane.map(|lane| Raise { channel_id: follower.id, lane }));
        }
        let same = !moved
            && hold == follower.hold
            && held == follower.held
            && (&set.id, set.generation, &set.stack_id) == (&follower.label_set_id, follower.generation, &follower.stack_id);
        let row = Settled {
            bucket: follower.id.bucket(),
            id: follower.id,
            label_set_id: set.id,
            generation: set.generation,
            stack_id: set.stack_id,
            desired,
            hold,
            held,
            moved: i64::from(moved),
        };
        if !same {
            changed.push(row.clone());
        }
        settled.push(row);
    }
    stacks::settle(conn, &changed, moment.now_ms).await?;
    wakes::raise(conn, &raises, moment.now_ms).await?;
    Ok(settled)
}

/// Finds the sets of these combinations of labels, or makes them with their stacks. Whoever holds one sees it point nowhere else until
/// the transaction ends.
async fn ensure_sets(conn: &mut Conn, moment: &mut Moment, combinations: BTreeSet<Vec<Id>>) -> Result<HashMap<Vec<Id>, SetRow>> {
    let mut wanted: HashMap<String, Vec<Id>> = HashMap::new();
    for labels in combinations {
        wanted.insert(short_hash(&json!(labels).to_string()), labels);
    }
    let ids: Vec<String> = wanted.keys().cloned().collect();
    let known: BTreeSet<String> = stacks::sets_of(conn, &ids).await?.into_iter().map(|set| set.id).collect();
    if known.len() < wanted.len() {
        // Under the lock nobody publishes between the computing of the stack and the birth of the set.
        policies::lock(conn).await?;
        let in_force = policies::in_force(conn).await?;
        for (id, labels) in wanted.iter().filter(|(id, _)| !known.contains(*id)) {
            let stack_id = ensure_stack(conn, moment, &resolve(&in_force, labels)).await?;
            let set = SetRow { id: id.clone(), labels: json!(labels).to_string(), stack_id, generation: 1, moving: 0 };
            stacks::insert_set(conn, &set, moment.now_ms).await?;
        }
    }
    let held = stacks::sets_held(conn, &ids).await?;
    Ok(held.into_iter().filter_map(|set| Some((wanted.remove(&set.id)?, set))).collect())
}

/// Computes the stack of every label set anew and points those to another that have one. The caller holds [`policies::lock`].
pub async fn recompute(conn: &mut Conn, moment: &mut Moment) -> Result<()> {
    let in_force = policies::in_force(conn).await?;
    for set in stacks::sets(conn).await? {
        let labels: Vec<Id> = serde_json::from_str(&set.labels).unwrap_or_default();
        let stack_id = ensure_stack(conn, moment, &resolve(&in_force, &labels)).await?;
        if stack_id != set.stack_id {
            stacks::repoint(conn, &set.id, &stack_id).await?;
        }
    }
    Ok(())
}

/// The policies that apply to a set of labels, strongest first: the greater rank, then the name. An exclusion wins.
pub fn resolve(in_force: &[InForce], labels: &[Id]) -> Vec<StackItem> {
    let has = |label: &str| label == ALL || label.parse().is_ok_and(|id: Id| labels.contains(&id));
    let mut excluded = BTreeSet::new();
    let mut items: BTreeMap<Id, StackItem> = BTreeMap::new();
    for one in in_force.iter().filter(|one| has(&one.label_id)) {
        if one.mode == "exclude" {
            excluded.insert(one.policy_id);
            continue;
        }
        let item = items.entry(one.policy_id).or_insert_with(|| StackItem {
            policy: one.policy_id,
            name: one.name.clone(),
            version: one.version,
            rank: one.rank,
        });
        item.rank = item.rank.max(one.rank);
    }
    let mut items: Vec<StackItem> = items.into_values().filter(|item| !excluded.contains(&item.policy)).collect();
    items.sort_by(|a, b| b.rank.cmp(&a.rank).then_with(|| a.name.cmp(&b.name)));
    items
}

/// A channel's document as it is delivered.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Delivered {
    pub channel_id: Id,
    pub version: String,
    pub document: Value,
    /// The policies it is made of, strongest first.
    pub items: Vec<StackItem>,
    /// Variables that have no value: the policies that name them are held for this device.
    pub variables_missing: Vec<String>,
    /// The policies that are held. They are no part of the document; where the device has one of them from before, there is no document
    /// here, and it keeps the one it has.
    pub held: Vec<String>,
    /// The device's own enrollment tokens that it holds: they are to be minted before it leaves.
    #[serde(skip)]
    pub tokens: Vec<Bound>,
}

/// For whom documents are read.
#[derive(Clone, Copy, Debug)]
pub enum Reader<'a> {
    /// The device itself.
    Device(&'a Seal),
    /// Operators, who are not shown a device's tokens.
    Operator,
}

/// The documents of channels, by channel id. Held policies are left out of what is delivered; `variables_missing` says why.
pub async fn documents(conn: &mut Conn, reader: Reader<'_>, channels: &[Id], now_ms: i64) -> Result<Vec<Delivered>> {
    let mut rows: HashMap<String, Option<StackRow>> = HashMap::new();
    let address = meta::get(conn, ADDRESS).await?.unwrap_or_default();
    let mut parts = Parts::new();
    let mut delivered = Vec::with_capacity(channels.len());
    let mut followers = stacks::of_channels(conn, channels).await?;
    let mut wanted = BTreeSet::new();
    for follower in &followers {
        if !rows.contains_key(&follower.stack_id) {
            let row = stored(conn, &follower.stack_id).await?;
            wanted.extend(Stack::of(row.as_ref()).tokens().map(str::to_owned));
            rows.insert(follower.stack_id.clone(), row);
        }
    }
    tokens::find(conn, &mut followers.iter_mut().collect::<Vec<_>>(), &wanted, now_ms).await?;
    for follower in followers {
        let row = rows[&follower.stack_id].as_ref();
        let whole = Stack::of(row);
        let values = |name: &str| value_of(&follower, &address, name);
        let variables_missing = whole.of_channel(&follower).missing(&follower, &address);
        let (mut stack, mut held) = (whole.of_channel(&follower).clone(), Vec::new());
        if !variables_missing.is_empty() {
            let rest = rest(conn, &mut parts, &follower.stack_id, &whole.items, &follower, &address).await?;
            held = rest.held.iter().map(|item| item.name.clone()).collect();
            stack = rest.compiled;
        }
        let kept = !variables_missing.is_empty() && is_kept(follower.hold.as_deref());
        let version = stack.desired(&follower, &address).ok().filter(|_| !kept).or_else(|| follower.desired.clone()).unwrap_or_default();
        let shown = |name: &str| match (name.strip_prefix(variables::TOKEN), reader) {
            (Some(token), Reader::Device(seal)) => tokens::secret(seal, &follower, token).map(|secret| secret.reveal().to_owned()),
            (Some(_), Reader::Operator) => values(name).map(|_| format!("{{{{{name}}}}}")),
            (None, _) => values(name),
        };
        let document = variables::resolve(&stack.document, &shown).ok().filter(|_| !kept).unwrap_or(Value::Null);
        let tokens = match reader {
            Reader::Device(seal) if !document.is_null() => {
                tokens::names(&stack).filter_map(|name| Bound::of(seal, &follower, name)).collect()
            }
            _ => Vec::new(),
        };
        delivered.push(Delivered { channel_id: follower.id, version, document, items: whole.items, variables_missing, held, tokens });
    }
    Ok(delivered)
}

/// What the policies of channels say of apps: the list `applications` of each, by channel; null where they say nothing.
pub async fn applications(conn: &mut Conn, channels: &[Id]) -> Result<Vec<(Id, Value)>> {
    let mut known: HashMap<String, Value> = HashMap::new();
    let mut said = Vec::with_capacity(channels.len());
    for follower in stacks::of_channels(conn, channels).await? {
        if !known.contains_key(&follower.stack_id) {
            let row = stored(conn, &follower.stack_id).await?;
            let mut document: Value = row.and_then(|row| serde_json::from_str(&row.document).ok()).unwrap_or_default();
            known.insert(follower.stack_id.clone(), document["applications"].take());
        }
        said.push((follower.id, known[&follower.stack_id].clone()));
    }
    Ok(said)
}

/// What a report proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    pub reported: Option<String>,
    /// True where the report proves the desired version.
    pub applies: bool,
    /// What the channel does not obey, as JSON text; `PENDING` alone is no failure.
    pub details: Option<String>,
    /// True where something of the reported version is still to be done.
    pub is_pending: bool,
}

impl Proof {
    /// True where the report says nothing against `applied`, the version that was proved last: it names that version, and all of it is done.
    pub fn leaves(&self, applied: Option<&str>) -> bool {
        applied.is_none() || (self.reported.as_deref() == applied && !self.is_pending)
    }
}

/// Reads a report against what is desired. `applied` moves only to a version equal to the desired one, and back to none where a report
/// denies what was proved: [`Proof::leaves`].
pub fn proof(desired: Option<&str>, report: &PolicyReport) -> Proof {
    let failing: Vec<&Detail> = report.details.iter().filter(|detail| detail.reason != "PENDING").collect();
    let details = (!failing.is_empty()).then(|| json!(failing).to_string());
    let is_pending = failing.len() < report.details.len();
    let applies = report.version.is_some() && report.version.as_deref() == desired && !is_pending;
    Proof { reported: report.version.clone(), applies, details, is_pending }
}

#[cfg(test)]
mod tests;
