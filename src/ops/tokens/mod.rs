//! Enrollment tokens: made, shown once, revoked.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::model::token::Secret;
use crate::model::{Actor, Denial, Id, Role, text};
use crate::ops::{devices as device_ops, labels as label_ops, settle};
use crate::store::feed::{self, Entry};
use crate::store::tokens::{self, TokenRow, UseRow};
use crate::store::{Conn, labels};

/// Devices that a token's record shows at most.
const USES_SHOWN_MAX: i64 = 1000;

/// A token to be made.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    pub name: String,
    #[serde(default)]
    pub expires_at_ms: Option<i64>,
    #[serde(default)]
    pub max_uses: Option<i64>,
    /// Names of labels that the devices get.
    #[serde(default)]
    pub labels: Vec<String>,
    /// The only user it admits: id or e-mail address.
    #[serde(default)]
    pub user: Option<String>,
    #[serde(default)]
    pub serial: Option<String>,
}

/// A token as the API shows it; `token` only when it was just made.
#[derive(Clone, Serialize, ToSchema)]
pub struct Token {
    pub id: Id,
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// `live`, `expired`, `revoked` or `exhausted`.
    pub state: &'static str,
    pub expires_at_ms: Option<i64>,
    pub max_uses: Option<i64>,
    pub uses: i64,
    pub labels: Vec<String>,
    pub user_id: Option<Id>,
    pub serial: Option<String>,
    pub created_at_ms: i64,
    pub created_by: String,
    /// The devices it admitted; only when asked for one token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices: Option<Vec<UseRow>>,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

/// Makes a token. Its value is in the answer, once.
pub async fn create(conn: &mut Conn, moment: &mut Moment, actor: &Actor, new: &NewToken) -> Result<Token> {
    actor.require(Role::Operator)?;
    if new.expires_at_ms.is_some_and(|at| at <= moment.now_ms) {
        return Err(Error::invalid("/expires_at_ms", "must be in the future"));
    }
    if new.max_uses.is_some_and(|most| most < 1) {
        return Err(Error::invalid("/max_uses", "must be 1 or more"));
    }
    let label_ids = label_ops::ids(conn, "/labels", &new.labels).await?;
    let user_id = match &new.user {
        None => None,
        Some(named) => Some(device_ops::user_named(conn, "/user", named).await?.id),
    };
    let serial = new.serial.as_deref().map(|serial| text::named("/serial", serial, 256)).transpose()?;
    mint(conn, moment, actor, text::named("/name", &new.name, 256)?, new.expires_at_ms, new.max_uses, label_ids, user_id, serial, None)
        .await
}

/// Makes a token of checked parts.
#[expect(clippy::too_many_arguments, reason = "the columns of one row, each of another kind")]
pub async fn mint(
    conn: &mut Conn,
    moment: &mut Moment,
    actor: &Actor,
    name: String,
    expires_at_ms: Option<i64>,
    max_uses: Option<i64>,
    label_ids: Vec<Id>,
    user_id: Option<Id>,
    serial: Option<String>,
    device_id: Option<Id>,
) -> Result<Token> {
    let secret = Secret::enrollment_token(&moment.secret());
    let row = TokenRow {
        id: moment.id(),
        name,
        hash: secret.hash(),
        created_by: actor.name.clone(),
        created_at_ms: moment.now_ms,
        expires_at_ms,
        max_uses,
        uses: 0,
        revoked_at_ms: None,
        labels: serde_json::to_string(&label_ids).unwrap_or_else(|_| "[]".into()),
        user_id,
        serial,
        device_id,
        parent_id: None,
    };
    tokens::insert(conn, &row).await?;
    let after = json!({"expires_at_ms": row.expires_at_ms, "max_uses": row.max_uses, "user_id": row.user_id, "serial": row.serial});
    let data = json!({"id": row.id, "name": row.name, "before": null, "after": after});
    feed::append(conn, moment, &[Entry { kind: "enrollment_token.created", actor: Some(actor.name.clone()), device_id: None, data }])
        .await?;
    settle::token_changed(conn, &row.name).await?;
    let mut token = view(conn, row, moment.now_ms).await?;
    token.token = Some(secret.reveal().to_owned());
    Ok(token)
}

/// Ends a token; with a time also quarantines every device that it admitted since.
pub async fn revoke(conn: &mut Conn, moment: &mut Moment, actor: &Actor, id: Id, quarantine_since_ms: Option<i64>) -> Result<Token> {
    actor.require(Role::Operator)?;
    let before = tokens::get(conn, id).await?.ok_or(Error::NotFound("enrollment token"))?;
    tokens::revoke(conn, id, moment.now_ms).await?;
    settle::token_changed(conn, &before.name).await?;
    let mut quarantined = 0;
    if let Some(since_ms) = quarantine_since_ms {
        let admitted: Vec<Id> = tokens::uses(conn, id, since_ms, i64::MAX).await?.into_iter().map(|used| used.device_id).collect();
        quarantined = device_ops::deny(conn, moment, actor, &admitted, Denial::Quarantined).await?.len();
    }
    let before = shown(before, Vec::new(), moment.now_ms).state;
    let (before, after) = (json!({"state": before}), json!({"state": "revoked"}));
    let data = json!({"id": id, "quarantined": quarantined, "before": before, "after": after});
    feed::append(conn, moment, &[Entry { kind: "enrollment_token.revoked", actor: Some(actor.name.clone()), device_id: None, data }])
        .await?;
    get(conn, id, moment.now_ms).await
}

/// One token with the devices it admitted.
pub async fn get(conn: &mut Conn, id: Id, now_ms: i64) -> Result<Token> {
    let row = tokens::get(conn, id).await?.ok_or(Error::NotFound("enrollment token"))?;
    let devices = tokens::uses(conn, id, 0, USES_SHOWN_MAX).await?;
    let mut token = view(conn, row, now_ms).await?;
    token.devices = Some(devices);
    Ok(token)
}

/// A stored token as the API shows it.
pub async fn view(conn: &mut Conn, row: TokenRow, now_ms: i64) -> Result<Token> {
    views(conn, vec![row], now_ms).await?.pop().ok_or(Error::NotFound("enrollment token"))
}

/// Stored tokens as the API shows them, in order; one statement for however many.
pub async fn views(conn: &mut Conn, rows: Vec<TokenRow>, now_ms: i64) -> Result<Vec<Token>> {
    let ids: Vec<Vec<Id>> = rows.iter().map(|row| serde_json::from_str(&row.labels).unwrap_or_default()).collect();
    let all: BTreeSet<Id> = ids.iter().flatten().copied().collect();
    // Sorted by name, and so is what each token takes of them.
    let names = labels::names_of(conn, &all.into_iter().collect::<Vec<_>>()).await?;
    let of = |ids: Vec<Id>| names.iter().filter(|(id, _)| ids.contains(id)).map(|(_, name)| name.clone()).collect();
    Ok(rows.into_iter().zip(ids).map(|(row, ids)| shown(row, of(ids), now_ms)).collect())
}

fn shown(row: TokenRow, labels: Vec<String>, now_ms: i64) -> Token {
    let state = if row.revoked_at_ms.is_some() {
        "revoked"
    } else if row.expires_at_ms.is_some_and(|at| at <= now_ms) {
        "expired"
    } else if row.max_uses.is_some_and(|most| row.uses >= most) {
        "exhausted"
    } else {
        "live"
    };
    Token {
        id: row.id,
        name: row.name,
        token: None,
        state,
        expires_at_ms: row.expires_at_ms,
        max_uses: row.max_uses,
        uses: row.uses,
        labels,
        user_id: row.user_id,
        serial: row.serial,
        created_at_ms: row.created_at_ms,
        created_by: row.created_by,
        devices: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Class;
    use crate::store::testing::each_database;

    #[tokio::test]
    async fn a_page_of_tokens_costs_one_statement_and_each_has_its_own_labels() {
        each_database(async |db| {
            let (mut moment, actor) = (Moment::fixed(1_000_000, 4), Actor::server());
            let mut conn = db.begin(Class::Operators).await.unwrap();
            for name in ["b", "a", "c"] {
                let label = serde_json::from_value(json!({})).unwrap();
                label_ops::put(&mut conn, &mut moment, &actor, name, &label).await.unwrap();
            }
            for labels in [vec!["b", "a"], vec![], vec!["c"]] {
                let new: NewToken = serde_json::from_value(json!({"name": "some", "labels": labels})).unwrap();
                create(&mut conn, &mut moment, &actor, &new).await.unwrap();
                moment.now_ms += 1;
            }
            conn.commit().await.unwrap();
            let mut conn = db.read().await.unwrap();
            let rows = tokens::list(&mut conn, "", 100).await.unwrap();
            let before = conn.statements();
            let mut page = views(&mut conn, rows.clone(), moment.now_ms).await.unwrap();
            assert_eq!(conn.statements() - before, 1);
            assert_eq!(page.iter().map(|token| token.id).collect::<Vec<_>>(), rows.iter().map(|row| row.id).collect::<Vec<_>>());
            page.sort_by_key(|token| token.created_at_ms);
            let labels: Vec<Vec<String>> = page.into_iter().map(|token| token.labels).collect();
            assert_eq!(labels, [vec!["a", "b"], vec![], vec!["c"]]);
        })
        .await;
    }
}
