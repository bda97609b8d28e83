//! A variable without a value holds the policies that name it, for that channel alone; the others are delivered.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Value, json};

use super::StackItem;
use super::stack::Compiled;
use crate::error::Result;
use crate::policy::{merge, variables};
use crate::store::stacks::{Follower, is_held};
use crate::store::{Conn, policies};

/// How the hold ends of a channel that has such a policy from before its value was lost: it keeps the document that it has.
const KEPT: &str = " (kept)";

/// True where nothing is delivered until the value is back: taking the policy away would undo what the device obeys.
pub fn is_kept(hold: Option<&str>) -> bool {
    hold.is_some_and(|hold| hold.ends_with(KEPT))
}

/// What a hold is called.
pub(super) fn name(variable: &str, kept: bool) -> String {
    format!("variable_missing:{variable}{}", if kept { KEPT } else { "" })
}

/// The documents of stacks' policies, read once.
pub(super) type Parts = HashMap<String, Vec<Value>>;

/// What is left of a stack, and the policies that are held.
pub(super) struct Rest<'a> {
    pub compiled: Compiled,
    pub held: Vec<&'a StackItem>,
}

impl Rest<'_> {
    /// The policies of a stack that its channel is not given, as they are stored. A channel that keeps what it has is given nothing of
    /// the stack but what it had `before`: of the items of its former stack, those that were not held then.
    pub fn not_given(&self, items: &[StackItem], before: Option<(&[StackItem], &str)>) -> String {
        let is_given = |item: &StackItem| {
            let is_same = |had: &StackItem| (had.policy, had.version) == (item.policy, item.version);
            let had = before.is_none_or(|(had, held)| had.iter().any(is_same) && !is_held(held, item.policy));
            had && !self.held.iter().any(|held| held.policy == item.policy)
        };
        let held: Vec<String> = items.iter().filter(|item| !is_given(item)).map(|item| item.policy.to_string()).collect();
        held.join(" ")
    }
}

/// Leaves out the policies that name a variable without a value, until none is named any more: what a held policy had won falls to the
/// next one, which may name another.
pub(super) async fn rest<'a>(
    conn: &mut Conn,
    parts: &mut Parts,
    stack_id: &str,
    items: &'a [StackItem],
    follower: &Follower,
    address: &str,
) -> Result<Rest<'a>> {
    if !parts.contains_key(stack_id) {
        parts.insert(stack_id.to_owned(), documents(conn, items).await?);
    }
    let mut left: Vec<(&StackItem, &Value)> = items.iter().zip(&parts[stack_id]).collect();
    let mut held = Vec::new();
    loop {
        let compiled = Compiled::for_channel(&merge::merge(left.iter().map(|(_, document)| *document)), follower);
        let missing: BTreeSet<String> = compiled.missing(follower, address).into_iter().collect();
        let before = left.len();
        left.retain(|(item, document)| {
            let stays = variables::names(&Compiled::for_channel(document, follower).document).is_disjoint(&missing);
            if !stays {
                held.push(*item);
            }
            stays
        });
        if left.len() == before {
            return Ok(Rest { compiled, held });
        }
    }
}

/// The documents of these policies, in their order.
pub(super) async fn documents(conn: &mut Conn, items: &[StackItem]) -> Result<Vec<Value>> {
    let mut documents = Vec::with_capacity(items.len());
    for item in items {
        let version = policies::version(conn, item.policy, item.version).await?;
        documents.push(version.and_then(|version| serde_json::from_str::<Value>(&version.document).ok()).unwrap_or_else(|| json!({})));
    }
    Ok(documents)
}
