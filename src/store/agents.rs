//! An agent as who asks for it alone finds it: its credentials, its device's denial, its user.

use sqlx_macros::FromRow;

use super::Conn;
use super::devices;
use crate::error::Result;
use crate::model::Id;

/// The agent channel of a device.
#[derive(Clone, FromRow)]
pub struct Standing {
    pub device_id: Id,
    pub token_hash: Option<String>,
    pub fresh_token_hash: Option<String>,
    /// As [`crate::model::Denial`] names it.
    pub denied: Option<String>,
    pub user_id: Option<Id>,
    pub email: Option<String>,
    /// `enabled`, `disabled` or `deleted`.
    pub user_state: Option<String>,
}

impl std::fmt::Debug for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Standing").field("device_id", &self.device_id).field("denied", &self.denied).finish_non_exhaustive()
    }
}

/// The agent of a device, or of the one that it became a part of.
pub async fn standing(conn: &mut Conn, device_id: Id) -> Result<Option<Standing>> {
    if let Some(found) = of(conn, device_id).await? {
        return Ok(Some(found));
    }
    match devices::merged_into(conn, device_id).await? {
        Some(into) => of(conn, into).await,
        None => Ok(None),
    }
}

async fn of(conn: &mut Conn, device_id: Id) -> Result<Option<Standing>> {
    Ok(sqlx::query_as(
        "SELECT c.device_id, c.token_hash, c.fresh_token_hash, d.denied, d.user_id, u.email, u.state AS user_state FROM channel c \
         JOIN device d ON d.bucket = c.bucket AND d.id = c.device_id LEFT JOIN users u ON u.id = d.user_id \
         WHERE c.bucket = $1 AND c.device_id = $2 AND c.kind = 'agent' AND c.subject = ''",
    )
    .bind(device_id.bucket())
    .bind(device_id)
    .fetch_optional(conn.raw())
    .await?)
}
