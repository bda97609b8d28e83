//! Tasks as operators see them. The reason why an open task waits is derived here from its channel, its wake and its device, so that
//! it is never out of date.

use sqlx_macros::FromRow;

use crate::error::Result;
use crate::model::kind::OPEN_STATES;
use crate::model::{Callers, Id};
use crate::store::Conn;

/// A task with everything that its reason is derived from.
#[derive(Clone, Debug, FromRow)]
pub struct TaskView {
    pub id: Id,
    pub job_id: Id,
    pub device_id: Id,
    pub channel_id: Id,
    /// `agent` or `mdm`.
    pub channel: String,
    pub kind: String,
    pub params: String,
    pub lane: i64,
    pub state: String,
    pub reason: Option<String>,
    pub reason_since_ms: Option<i64>,
    /// When the server nudges next; none where it cannot.
    pub next_attempt_at_ms: Option<i64>,
    /// Who calls it; '' for nobody.
    pub sender: Option<String>,
    /// Where in the three hours the channel's own points lie.
    pub phase_s: Option<i64>,
    pub attempt: i64,
    pub created_at_ms: i64,
    pub delivered_at_ms: Option<i64>,
    pub finished_at_ms: Option<i64>,
    pub expires_at_ms: i64,
    pub progress: Option<String>,
    pub error: Option<String>,
    pub result: Option<String>,
    pub late: Option<String>,
    pub retried_by: Option<Id>,
    pub serial: Option<String>,
    pub model: String,
    pub email: Option<String>,
}

// What waits for a second operator is held by the budget where its whole job is, else it is a wipe whose device enrolled anew before it came.
// A denied device is given only what model::kind says. One that is silent is the next strongest reason: whatever else may be said, it does not come. $1 is the list of senders that this
// server has, as ' fcm apns_app ': an address of a provider without a sender waits for its credential.
macro_rules! view {
    ($where:literal) => {
        concat!(
            "SELECT * FROM (SELECT t.id, t.job_id, t.device_id, t.channel_id, COALESCE(c.kind, 'agent') AS channel, t.kind, j.params, t.lane, t.state, \
               CASE WHEN t.finished_at_ms IS NOT NULL THEN NULL \
                 WHEN t.state = 'awaiting_approval' THEN CASE WHEN j.state = 'awaiting_approval' THEN 'held_by_budget' ELSE 'awaiting_approval' END \
                 WHEN t.state = 'not_now' THEN 'device_locked' \
                 WHEN d.denied IS NOT NULL AND t.kind NOT IN ('lock', 'wipe', 'retire', 'locate', 'remove_app') THEN 'device_unauthorized' \
                 WHEN d.state = 'silent' THEN 'device_silent' \
                 WHEN c.push_state = 'none' THEN 'no_push_address' WHEN c.push_state IN ('dead', 'quarantined') THEN 'push_dead' \
                 WHEN $1 NOT LIKE '% ' || w.sender || ' %' THEN 'push_unconfigured' ELSE 'awaiting_contact' END AS reason, \
               CASE WHEN t.finished_at_ms IS NOT NULL THEN NULL WHEN t.state IN ('awaiting_approval', 'not_now') THEN t.state_since_ms \
                 WHEN d.denied_at_ms > t.state_since_ms AND t.kind NOT IN ('lock', 'wipe', 'retire', 'locate', 'remove_app') THEN d.denied_at_ms \
                 WHEN d.state = 'silent' THEN CASE WHEN d.state_since_ms > t.state_since_ms THEN d.state_since_ms ELSE t.state_since_ms END \
                 WHEN c.push_state <> 'active' AND c.push_since_ms > t.state_since_ms THEN c.push_since_ms ELSE t.state_since_ms END AS reason_since_ms, \
               CASE WHEN t.finished_at_ms IS NOT NULL OR t.state = 'awaiting_approval' OR $1 NOT LIKE '% ' || w.sender || ' %' THEN NULL \
                 ELSE COALESCE(w.next_due_ms, w.due_at_ms) END AS next_attempt_at_ms, w.sender, w.phase_s, \
               t.attempt, t.created_at_ms, t.delivered_at_ms, t.finished_at_ms, t.expires_at_ms, t.progress, t.error, t.result, t.late, t.retried_by, \
               d.serial, COALESCE(d.model, '') AS model, u.email \
             FROM task t LEFT JOIN job j ON j.id = t.job_id LEFT JOIN channel c ON c.bucket = t.bucket AND c.id = t.channel_id \
             LEFT JOIN wakes w ON w.bucket = t.bucket AND w.channel_id = t.channel_id \
             LEFT JOIN device d ON d.bucket = t.bucket AND d.id = t.device_id LEFT JOIN users u ON u.id = d.user_id ",
            $where
        )
    };
}

/// Every reason why an open task waits.
pub const REASONS: [&str; 10] = [
    "awaiting_contact",
    "push_unconfigured",
    "push_dead",
    "no_push_address",
    "device_silent",
    "device_locked",
    "device_unauthorized",
    "held_by_rollout",
    "held_by_budget",
    "awaiting_approval",
];

/// What to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub job: Option<Id>,
    pub device: Option<Id>,
    pub state: Option<String>,
    pub kind: Option<String>,
    pub reason: Option<String>,
    /// Tasks older than this one.
    pub before: Option<Id>,
}

impl Filter {
    /// True where only open tasks can match: there are few of them, with an index of their own.
    fn is_open(&self) -> bool {
        self.reason.is_some() || self.state.as_deref().is_some_and(|state| OPEN_STATES.contains(&state))
    }
}

/// One task.
pub async fn get(conn: &mut Conn, id: Id, callers: &Callers) -> Result<Option<TaskView>> {
    let row: Option<TaskView> = sqlx::query_as(view!("WHERE t.bucket = $2 AND t.id = $3) AS v"))
        .bind(&callers.names)
        .bind(id.bucket())
        .bind(id)
        .fetch_optional(conn.raw())
        .await?;
    Ok(row.map(|row| called_by(row, callers)))
}

fn called_by(row: TaskView, callers: &Callers) -> TaskView {
    let next_ms = row.next_attempt_at_ms.map(|due_ms| callers.calls_at_ms(row.sender.as_deref().unwrap_or_default(), due_ms));
    TaskView { next_attempt_at_ms: next_ms, ..row }
}

/// A page, newest first. Without a device or a job and with a reason only open tasks are looked through.
pub async fn list(conn: &mut Conn, filter: &Filter, callers: &Callers, limit: i64) -> Result<Vec<TaskView>> {
    const ANY: &str = "zzzzzzzz-zzzz-zzzz-zzzz-zzzzzzzzzzzz";
    let before = filter.before.map_or_else(|| ANY.to_owned(), |id| id.to_string());
    let text = match (filter.job.is_some(), filter.device.is_some(), filter.is_open()) {
        (true, _, _) => view!(
            "WHERE t.job_id = $6 AND t.id < $2 AND ($3 = '' OR t.state = $3) AND ($4 = '' OR t.kind = $4)) AS v \
             WHERE ($5 = '' OR reason = $5) ORDER BY id DESC LIMIT $7"
        ),
        (_, true, _) => view!(
            "WHERE t.device_id = $6 AND t.id < $2 AND ($3 = '' OR t.state = $3) AND ($4 = '' OR t.kind = $4)) AS v \
             WHERE ($5 = '' OR reason = $5) ORDER BY id DESC LIMIT $7"
        ),
        (_, _, true) => view!(
            "WHERE t.finished_at_ms IS NULL AND t.id > '' AND t.id < $2 AND ($3 = '' OR t.state = $3) AND ($4 = '' OR t.kind = $4) AND $6 = '') AS v \
             WHERE ($5 = '' OR reason = $5) ORDER BY id DESC LIMIT $7"
        ),
        _ => view!(
            "WHERE t.id < $2 AND ($3 = '' OR t.state = $3) AND ($4 = '' OR t.kind = $4) AND $6 = '') AS v \
             WHERE ($5 = '' OR reason = $5) ORDER BY id DESC LIMIT $7"
        ),
    };
    let which = filter.job.or(filter.device).map(|id| id.to_string()).unwrap_or_default();
    let rows: Vec<TaskView> = sqlx::query_as(text)
        .bind(&callers.names)
        .bind(before)
        .bind(filter.state.clone().unwrap_or_default())
        .bind(filter.kind.clone().unwrap_or_default())
        .bind(filter.reason.clone().unwrap_or_default())
        .bind(which)
        .bind(limit)
        .fetch_all(conn.raw())
        .await?;
    Ok(rows.into_iter().map(|row| called_by(row, callers)).collect())
}

/// How many open tasks wait for which reason: of a job, or of all with `None`. Counts no further than `most` tasks.
pub async fn reasons(conn: &mut Conn, job: Option<Id>, senders: &str, most: i64) -> Result<Vec<(String, i64)>> {
    let text = match job {
        Some(_) => concat!(
            "SELECT reason, COUNT(*) FROM (",
            view!("WHERE t.job_id = $2 AND COALESCE(t.finished_at_ms, 0) = 0 LIMIT $3) AS v"),
            ") AS r GROUP BY reason ORDER BY reason"
        ),
        None => concat!(
            "SELECT reason, COUNT(*) FROM (",
            view!("WHERE t.finished_at_ms IS NULL AND $2 = '' LIMIT $3) AS v"),
            ") AS r GROUP BY reason ORDER BY reason"
        ),
    };
    let rows: Vec<(Option<String>, i64)> =
        sqlx::query_as(text).bind(senders).bind(job.map(|id| id.to_string()).unwrap_or_default()).bind(most).fetch_all(conn.raw()).await?;
    Ok(rows.into_iter().filter_map(|(reason, n)| Some((reason?, n))).collect())
}
