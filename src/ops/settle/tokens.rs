//! `{{token:NAME}}`: a one-time enrollment token of one device and its user. It is derived, so the document stays as it is however often
//! it is delivered; only its hash is kept, from the first delivery on.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::stack::{Compiled, Stack};
use crate::clock::Moment;
use crate::error::Result;
use crate::model::Id;
use crate::model::token::Secret;
use crate::policy::variables::TOKEN;
use crate::seal::Seal;
use crate::store::Conn;
use crate::store::stacks::{self, Follower};
use crate::store::tokens::{self, Named, NewBound};

/// The names of the tokens that a document refers to.
pub(super) fn names(compiled: &Compiled) -> impl Iterator<Item = &str> {
    compiled.variables.iter().filter_map(|name| name.strip_prefix(TOKEN))
}

/// Finds for each channel the enrollment tokens that its own are derived from: the newest good one of the name, else the one from
/// which one was derived while it was good. What was delivered stays, so that a name which has ended holds no device that had it.
pub(super) async fn find(conn: &mut Conn, followers: &mut [&mut Follower], wanted: &BTreeSet<String>, now_ms: i64) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let all = tokens::named(conn, &wanted.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    let mut by_name: BTreeMap<&str, Vec<&Named>> = BTreeMap::new();
    for one in &all {
        by_name.entry(&one.name).or_default().push(one);
    }
    let pairs = all.iter().flat_map(|one| followers.iter().map(move |follower| (one.id, follower.device_id)));
    let pairs: Vec<(Id, Id)> = pairs.collect();
    let derived: HashSet<(Id, Id)> = tokens::derived(conn, pairs.into_iter()).await?.into_iter().collect();
    for follower in followers {
        for (name, tokens) in &by_name {
            let is_good = |one: &Named| one.revoked_at_ms.is_none() && one.expires_at_ms.is_none_or(|at| at > now_ms);
            let was_derived = |one: &&&Named| derived.contains(&(one.id, follower.device_id));
            let delivered = tokens.iter().rev().find(was_derived);
            let token = delivered.filter(|one| is_good(one)).or_else(|| tokens.iter().rev().find(|one| is_good(one))).or(delivered);
            if let Some(token) = token {
                follower.tokens.insert((*name).to_owned(), token.id);
            }
        }
    }
    Ok(())
}

/// What stands in a version for the token of a channel: it changes when the token does, and tells nothing of it.
pub(super) fn identity(follower: &Follower, name: &str) -> Option<String> {
    let parent = follower.tokens.get(name)?;
    Some(format!("{parent}/{}", follower.user_id.map(|id| id.to_string()).unwrap_or_default()))
}

/// The token itself.
pub(super) fn secret(seal: &Seal, follower: &Follower, name: &str) -> Option<Secret> {
    let identity = identity(follower, name)?;
    Some(Secret::enrollment_token(&seal.derive(&["enrollment token", &identity, &follower.device_id.to_string()])))
}

/// A token that a document holds.
#[derive(Clone, Debug)]
pub struct Bound {
    hash: String,
    parent_id: Id,
    device_id: Id,
    user_id: Option<Id>,
}

impl Bound {
    pub(super) fn of(seal: &Seal, follower: &Follower, name: &str) -> Option<Bound> {
        let secret = secret(seal, follower, name)?;
        let parent_id = *follower.tokens.get(name)?;
        Some(Bound { hash: secret.hash(), parent_id, device_id: follower.device_id, user_id: follower.user_id })
    }
}

/// Mints the tokens of documents that are being delivered.
pub async fn mint<'a>(conn: &mut Conn, moment: &mut Moment, bound: impl Iterator<Item = &'a Bound>) -> Result<()> {
    let mut rows: Vec<NewBound> = Vec::new();
    for Bound { hash, parent_id, device_id, user_id } in bound.cloned() {
        rows.push(NewBound { id: moment.id(), hash, parent_id, device_id, user_id });
    }
    // In one order, whoever mints.
    rows.sort_by(|a, b| a.hash.cmp(&b.hash));
    tokens::keep(conn, &rows, moment.now_ms).await
}

/// True where all of them were minted.
pub async fn are_minted(conn: &mut Conn, bound: &[Bound]) -> Result<bool> {
    for one in bound {
        if tokens::by_hash(conn, &one.hash).await?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Names that are looked at together.
const NAMES_MAX: i64 = 1_000;

/// Forgets unused tokens whose name ended before `before_ms`; answers how many. While a document refers to a name that has no good token,
/// they stay: a device is not held for want of what it was given.
pub async fn forget_unused(conn: &mut Conn, before_ms: i64, now_ms: i64, rows_max: i64) -> Result<u64> {
    let ended = tokens::ended(conn, before_ms, now_ms, NAMES_MAX).await?;
    if ended.is_empty() {
        return Ok(0);
    }
    let mut in_use: BTreeSet<String> = BTreeSet::new();
    for set in stacks::sets(conn).await? {
        in_use.extend(Stack::load(conn, &set.stack_id).await?.tokens().map(str::to_owned));
    }
    for one in ended.iter().filter(|one| one.is_replaced == 1 || !in_use.contains(&one.name)) {
        let rows = tokens::forget_unused(conn, one.id, rows_max).await?;
        if rows > 0 {
            return Ok(rows);
        }
    }
    Ok(0)
}
