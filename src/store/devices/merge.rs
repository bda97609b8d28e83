//! An app's device becomes a part of another: its rows move into the bucket of that one. They are copied and deleted, because a row cannot
//! change its bucket where buckets lie on different machines. Devices of one bucket keep their rows, which only change hands.

use crate::error::Result;
use crate::model::Id;
use crate::store::{Conn, Dialect, wakes};

/// Rows of a device's history that move along, of each kind, the newest; older ones go by retention where they lie.
const HISTORY_MAX: i64 = 5_000;

/// What moves from where to where.
#[derive(Clone, Copy, Debug)]
pub struct Merge {
    pub from: Id,
    pub into: Id,
    /// The agent channel of `from`.
    pub channel: Id,
}

/// One table: copied and deleted, or changed within one bucket ('' where nothing in it names the device).
struct Table {
    copy: &'static str,
    delete: &'static str,
    stay: &'static str,
}

// What is moved, as one row beside those that move, so that every text has the same parameters.
macro_rules! moving {
    () => {
        " JOIN (SELECT CAST($1 AS BIGINT) AS bucket, CAST($2 AS TEXT) AS device, CAST($3 AS TEXT) AS channel, CAST($4 AS BIGINT) AS to_bucket, \
           CAST($5 AS TEXT) AS to_device, CAST($6 AS TEXT) AS to_channel, CAST($7 AS TEXT) AS ends, CAST($8 AS TEXT) AS since) AS p ON "
    };
}

// The same id in another bucket, as Id::in_bucket_of has it: `ends` holds the four that its last two digits may become.
macro_rules! moved {
    ($id:literal) => {
        concat!(
            "SUBSTR(",
            $id,
            ", 1, 34) || SUBSTR(p.ends, CASE WHEN SUBSTR(",
            $id,
            ", 35, 1) < '4' THEN 1 WHEN SUBSTR(",
            $id,
            ", 35, 1) < '8' THEN 3 WHEN SUBSTR(",
            $id,
            ", 35, 1) < 'c' THEN 5 ELSE 7 END, 2)"
        )
    };
}

const CHANNEL: Table = Table {
    copy: concat!(
        "INSERT INTO channel (bucket, id, device_id, kind, subject, platform, token_hash, fresh_token_hash, enrollment_token_id, activation, \
           activated_at_ms, denied, push_provider, push_kind, push_value, push_topic, push_secret, push_state, push_since_ms, \
           push_registered_ms, last_contact_ms, last_cause, last_serving_ms, last_facts_ms, skew_ms, label_set_id, generation, stack_id, \
           desired, desired_at_ms, declared, hold, reported, reported_at_ms, applied, applied_at_ms, details) \
         SELECT p.to_bucket, p.to_channel, p.to_device, t.kind, t.subject, t.platform, t.token_hash, t.fresh_token_hash, t.enrollment_token_id, \
           t.activation, t.activated_at_ms, t.denied, t.push_provider, t.push_kind, t.push_value, t.push_topic, t.push_secret, t.push_state, \
           t.push_since_ms, t.push_registered_ms, t.last_contact_ms, t.last_cause, t.last_serving_ms, t.last_facts_ms, t.skew_ms, \
           t.label_set_id, t.generation, t.stack_id, t.desired, \
           t.desired_at_ms, t.declared, t.hold, t.reported, t.reported_at_ms, t.applied, t.applied_at_ms, t.details FROM channel t",
        moving!(),
        "t.bucket = p.bucket AND t.id = p.channel"
    ),
    delete: "DELETE FROM channel WHERE bucket = $1 AND id = $2",
    stay: "UPDATE channel SET device_id = $3 WHERE bucket = $1 AND device_id = $2",
};

// A nudge that is on its way belongs to the channel that was: its answer finds no lease, and the wake is due when that would have lapsed.
const WAKES: Table = Table {
    copy: concat!(
        "INSERT INTO wakes (bucket, channel_id, sender, lane, due_at_ms, next_due_ms, lease_id, work_seq, told_seq, open_work, urgent_open, step, \
           attempt, fruitless, changed_at_ms, nudged_at_ms, nudged_lane, unanswered, high_day, high_count, gap_ms, phase_s, lazy) \
         SELECT p.to_bucket, p.to_channel, t.sender, t.lane, COALESCE(t.next_due_ms, t.due_at_ms), NULL, NULL, t.work_seq, t.told_seq, t.open_work, \
           t.urgent_open, t.step, t.attempt, t.fruitless, t.changed_at_ms, t.nudged_at_ms, t.nudged_lane, t.unanswered, t.high_day, t.high_count, t.gap_ms, \
           t.phase_s, t.lazy FROM wakes t",
        moving!(),
        "t.bucket = p.bucket AND t.channel_id = p.channel"
    ),
    delete: "DELETE FROM wakes WHERE bucket = $1 AND channel_id = $2",
    stay: "",
};

// Of a device's rows in its bucket SQLite would as soon read all in the bucket: `+bucket` keeps it to the index by device.
const TASK: Table = Table {
    copy: concat!(
        "INSERT INTO task (bucket, id, job_id, device_id, channel_id, kind, lane, state, attempt, created_at_ms, expires_at_ms, state_since_ms, \
           delivered_at_ms, progressed_at_ms, finished_at_ms, progress, error, result, late, retried_by, command_uuid) \
         SELECT p.to_bucket, ",
        moved!("t.id"),
        ", t.job_id, p.to_device, CASE t.channel_id WHEN p.channel THEN p.to_channel ELSE p.to_device END, t.kind, t.lane, t.state, t.attempt, \
           t.created_at_ms, t.expires_at_ms, t.state_since_ms, t.delivered_at_ms, t.progressed_at_ms, t.finished_at_ms, t.progress, t.error, \
           t.result, t.late, ",
        moved!("t.retried_by"),
        ", t.command_uuid FROM task t",
        moving!(),
        "+t.bucket = p.bucket AND t.device_id = p.device"
    ),
    delete: "DELETE FROM task WHERE +bucket = $1 AND device_id = $2",
    // What failed before anybody was there has the device for its channel.
    stay: "UPDATE task SET device_id = $3, channel_id = CASE channel_id WHEN $2 THEN $3 ELSE channel_id END WHERE +bucket = $1 AND device_id = $2",
};

const FINDING: Table = Table {
    copy: concat!(
        "INSERT INTO finding (bucket, id, device_id, kind, subject, opened_at_ms, due_at_ms, overdue_at_ms, closed_at_ms, closed_by, detail) \
         SELECT p.to_bucket, ",
        moved!("t.id"),
        ", p.to_device, t.kind, t.subject, t.opened_at_ms, t.due_at_ms, t.overdue_at_ms, t.closed_at_ms, t.closed_by, t.detail FROM finding t",
        moving!(),
        "+t.bucket = p.bucket AND t.device_id = p.device"
    ),
    delete: "DELETE FROM finding WHERE +bucket = $1 AND device_id = $2",
    stay: "UPDATE finding SET device_id = $3 WHERE +bucket = $1 AND device_id = $2",
};

const EVENT: Table = Table {
    copy: concat!(
        "INSERT INTO event (bucket, channel_id, event_id, id, device_id, type, activation, seq, occurred_at_ms, claimed_at_ms, \
           first_attempt_at_ms, received_at_ms, attempt, boot_id, uptime_ms, policy_version, late, data) \
         SELECT p.to_bucket, p.to_channel, t.event_id, ",
        moved!("t.id"),
        ", p.to_device, t.type, t.activation, t.seq, t.occurred_at_ms, t.claimed_at_ms, t.first_attempt_at_ms, t.received_at_ms, t.attempt, \
           t.boot_id, t.uptime_ms, t.policy_version, t.late, t.data FROM event t",
        moving!(),
        "+t.bucket = p.bucket AND t.device_id = p.device WHERE t.id >= p.since"
    ),
    delete: "DELETE FROM event WHERE +bucket = $1 AND device_id = $2 AND id >= $3",
    stay: "UPDATE event SET device_id = $3 WHERE +bucket = $1 AND device_id = $2",
};

const CONTACT: Table = Table {
    copy: concat!(
        "INSERT INTO contact (bucket, id, device_id, channel_id, cause, at_ms, after_nudge_ms, results, events, tasks, policy) \
         SELECT p.to_bucket, ",
        moved!("t.id"),
        ", p.to_device, p.to_channel, t.cause, t.at_ms, t.after_nudge_ms, t.results, t.events, t.tasks, t.policy FROM contact t",
        moving!(),
        "+t.bucket = p.bucket AND t.device_id = p.device WHERE t.id >= p.since"
    ),
    delete: "DELETE FROM contact WHERE +bucket = $1 AND device_id = $2 AND id >= $3",
    stay: "UPDATE contact SET device_id = $3 WHERE +bucket = $1 AND device_id = $2",
};

const EVENT_HEAD: Table = Table {
    copy: concat!(
        "INSERT INTO event_head (bucket, channel_id, subject, activation, seq) \
         SELECT p.to_bucket, p.to_channel, t.subject, t.activation, t.seq FROM event_head t",
        moving!(),
        "t.bucket = p.bucket AND t.channel_id = p.channel"
    ),
    delete: "DELETE FROM event_head WHERE bucket = $1 AND channel_id = $2",
    stay: "",
};

// The device that is merged into may have come by the same token, and may have the same labels.
const USE: Table = Table {
    copy: concat!(
        "INSERT INTO enrollment_use (bucket, device_id, token_id, at_ms, remote) \
         SELECT p.to_bucket, p.to_device, t.token_id, t.at_ms, t.remote FROM enrollment_use t",
        moving!(),
        "t.bucket = p.bucket AND t.device_id = p.device WHERE TRUE ON CONFLICT (bucket, device_id, token_id) DO NOTHING"
    ),
    delete: "DELETE FROM enrollment_use WHERE bucket = $1 AND device_id = $2",
    stay: "",
};

const LABELS: Table = Table {
    copy: concat!(
        "INSERT INTO label_member (bucket, device_id, label_id, added_at_ms) \
         SELECT p.to_bucket, p.to_device, t.label_id, t.added_at_ms FROM label_member t",
        moving!(),
        "t.bucket = p.bucket AND t.device_id = p.device WHERE TRUE ON CONFLICT (bucket, device_id, label_id) DO NOTHING"
    ),
    delete: "DELETE FROM label_member WHERE bucket = $1 AND device_id = $2",
    stay: "",
};

impl Merge {
    /// The id that the channel has there.
    pub fn to_channel(&self) -> Id {
        self.channel.in_bucket_of(self.into)
    }

    /// Moves the channel, its labels and its wake; the caller holds the locks of both devices' channels.
    pub async fn channel(&self, conn: &mut Conn) -> Result<()> {
        self.rows(conn, &CHANNEL, self.channel).await?;
        self.join(conn, &LABELS).await?;
        wakes::lock(conn, &[self.channel, self.to_channel()]).await?;
        self.rows(conn, &WAKES, self.channel).await
    }

    /// Moves its tasks, with ids in the bucket of the other; answers those that are open by the ids they had.
    pub async fn tasks(&self, conn: &mut Conn) -> Result<Vec<Id>> {
        if conn.dialect() == Dialect::Postgres {
            sqlx::query("SELECT COUNT(*) FROM (SELECT id FROM task WHERE bucket = $1 AND device_id = $2 ORDER BY id FOR UPDATE) AS locked")
                .bind(self.from.bucket())
                .bind(self.from)
                .execute(conn.raw())
                .await?;
        }
        let open =
            sqlx::query_scalar("SELECT id FROM task WHERE +bucket = $1 AND device_id = $2 AND COALESCE(finished_at_ms, 0) = 0 ORDER BY id")
                .bind(self.from.bucket())
                .bind(self.from)
                .fetch_all(conn.raw())
                .await?;
        self.rows(conn, &TASK, self.from).await?;
        Ok(open)
    }

    /// Moves its findings, of which none may be open that is open for the other too.
    pub async fn findings(&self, conn: &mut Conn) -> Result<()> {
        self.rows(conn, &FINDING, self.from).await
    }

    /// Moves what it told and how it came, of each the newest rows, and by which tokens it was admitted.
    pub async fn history(&self, conn: &mut Conn) -> Result<()> {
        for (table, oldest) in [
            (&EVENT, "SELECT id FROM event WHERE +bucket = $1 AND device_id = $2 ORDER BY id DESC LIMIT 1 OFFSET $3"),
            (&CONTACT, "SELECT id FROM contact WHERE +bucket = $1 AND device_id = $2 ORDER BY id DESC LIMIT 1 OFFSET $3"),
        ] {
            let bucket = self.from.bucket();
            let oldest = sqlx::query_scalar(oldest).bind(bucket).bind(self.from).bind(HISTORY_MAX - 1).fetch_optional(conn.raw()).await?;
            let since: String = oldest.unwrap_or_default();
            if self.stays() {
                self.stay(conn, table).await?;
            } else {
                self.copy(conn, table, &since).await?;
                sqlx::query(table.delete).bind(bucket).bind(self.from).bind(&since).execute(conn.raw()).await?;
            }
        }
        self.rows(conn, &EVENT_HEAD, self.channel).await?;
        self.join(conn, &USE).await
    }

    /// True where both lie in one bucket: no id changes.
    fn stays(&self) -> bool {
        self.from.bucket() == self.into.bucket()
    }

    /// Rows that are found by `key`.
    async fn rows(&self, conn: &mut Conn, table: &Table, key: Id) -> Result<()> {
        if self.stays() { self.stay(conn, table).await } else { self.take(conn, table, key).await }
    }

    /// Rows of which the other device may have the same.
    async fn join(&self, conn: &mut Conn, table: &Table) -> Result<()> {
        self.take(conn, table, self.from).await
    }

    async fn take(&self, conn: &mut Conn, table: &Table, key: Id) -> Result<()> {
        self.copy(conn, table, "").await?;
        sqlx::query(table.delete).bind(self.from.bucket()).bind(key).execute(conn.raw()).await?;
        Ok(())
    }

    async fn stay(&self, conn: &mut Conn, table: &Table) -> Result<()> {
        if !table.stay.is_empty() {
            sqlx::query(table.stay).bind(self.from.bucket()).bind(self.from).bind(self.into).execute(conn.raw()).await?;
        }
        Ok(())
    }

    async fn copy(&self, conn: &mut Conn, table: &Table, since: &str) -> Result<()> {
        let ends: String = [0x00, 0x40, 0x80, 0xc0].iter().map(|high| format!("{:02x}", high | self.into.bucket())).collect();
        sqlx::query(table.copy)
            .bind(self.from.bucket())
            .bind(self.from)
            .bind(self.channel)
            .bind(self.into.bucket())
            .bind(self.into)
            .bind(self.to_channel())
            .bind(ends)
            .bind(since)
            .execute(conn.raw())
            .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::store::Class;
    use crate::store::testing::{devices, each_database};

    #[tokio::test]
    async fn a_merged_device_keeps_everything_within_one_bucket_and_from_one_to_another() {
        each_database(async |db| {
            let clock = Clock::moved(1_800_000_000_000, 1);
            let made = devices(&db, &clock, 70).await;
            let pair = |is_one_bucket: bool, taken: &[Id]| {
                let mut pairs = made.iter().enumerate().flat_map(|(at, one)| made[at + 1..].iter().map(move |other| (*one, *other)));
                let is_free = |id: Id| !taken.contains(&id);
                pairs.find(|(a, b)| (a.0.bucket() == b.0.bucket()) == is_one_bucket && is_free(a.0) && is_free(b.0)).unwrap()
            };
            let within = pair(true, &[]);
            for ((from, channel), (into, theirs)) in [within, pair(false, &[within.0.0, within.1.0])] {
                let mut conn = db.begin(Class::Operators).await.unwrap();
                sqlx::query("UPDATE channel SET kind = 'mdm' WHERE id = $1").bind(theirs).execute(conn.raw()).await.unwrap();
                let old = clock.moment().id_beside(from);
                let mut insert = async |sql: &'static str| {
                    sqlx::query(sql).bind(from.bucket()).bind(old).bind(from).bind(channel).execute(conn.raw()).await.unwrap();
                };
                insert(
                    "INSERT INTO task (bucket, id, job_id, device_id, channel_id, kind, lane, state, attempt, created_at_ms, expires_at_ms, state_since_ms, retried_by) \
                     VALUES ($1, $2, 'job', $3, $4, 'message', 1, 'queued', 0, 1, 9, 1, $2)",
                )
                .await;
                // One that failed before anybody was there has the device in the place of a channel.
                let early = clock.moment().id_beside(from);
                let failed = "INSERT INTO task (bucket, id, job_id, device_id, channel_id, kind, lane, state, attempt, created_at_ms, expires_at_ms, \
                   state_since_ms, finished_at_ms) VALUES ($1, $2, 'job', $3, $3, 'message', 1, 'failed', 0, 1, 9, 1, 1)";
                sqlx::query(failed).bind(from.bucket()).bind(early).bind(from).execute(conn.raw()).await.unwrap();
                let mut insert = async |sql: &'static str| {
                    sqlx::query(sql).bind(from.bucket()).bind(old).bind(from).bind(channel).execute(conn.raw()).await.unwrap();
                };
                insert(
                    "INSERT INTO finding (bucket, id, device_id, kind, subject, opened_at_ms, due_at_ms, detail) \
                     VALUES ($1, $2, $3, 'rooted', CASE WHEN $4 = '' THEN 'x' ELSE '' END, 1, 1, '{}')",
                )
                .await;
                insert(
                    "INSERT INTO contact (bucket, id, device_id, channel_id, cause, at_ms, results, events, tasks) VALUES ($1, $2, $3, $4, 'push', 1, 1, 0, 0)",
                )
                .await;
                insert(
                    "INSERT INTO event (bucket, id, device_id, channel_id, event_id, type, activation, seq, occurred_at_ms, claimed_at_ms, received_at_ms, \
                       attempt, late, data) VALUES ($1, $2, $3, $4, 'e', 'fact_changed', 1, 1, 1, 1, 1, 1, 0, '{}')",
                )
                .await;
                let merge = Merge { from, into, channel };
                merge.channel(&mut conn).await.unwrap();
                assert_eq!(merge.tasks(&mut conn).await.unwrap(), [old]);
                merge.findings(&mut conn).await.unwrap();
                merge.history(&mut conn).await.unwrap();
                assert_eq!(merge.to_channel(), channel.in_bucket_of(into));
                let moved = channel.in_bucket_of(into);
                let is = old.in_bucket_of(into);
                for there in [
                    "SELECT COUNT(*) FROM task WHERE bucket = $1 AND device_id = $2 AND channel_id = $3 AND id = $4 AND retried_by = id AND state = 'queued'",
                    "SELECT COUNT(*) FROM contact WHERE bucket = $1 AND device_id = $2 AND channel_id = $3 AND id = $4",
                    "SELECT COUNT(*) FROM event WHERE bucket = $1 AND device_id = $2 AND channel_id = $3 AND id = $4",
                    "SELECT COUNT(*) FROM finding WHERE bucket = $1 AND device_id = $2 AND $3 <> '' AND id = $4 AND closed_at_ms IS NULL",
                    "SELECT COUNT(*) FROM channel WHERE bucket = $1 AND device_id = $2 AND id = $3 AND $4 <> '' AND kind = 'agent'",
                    "SELECT COUNT(*) FROM wakes WHERE bucket = $1 AND $2 <> '' AND channel_id = $3 AND $4 <> ''",
                ] {
                    let count = sqlx::query_scalar(there).bind(into.bucket()).bind(into).bind(moved).bind(is);
                    assert_eq!(count.fetch_one(conn.raw()).await.ok(), Some(1_i64), "{there}");
                }
                let kept = "SELECT COUNT(*) FROM task WHERE bucket = $1 AND device_id = $2 AND channel_id = $2 AND id = $3 AND state = 'failed'";
                let kept = sqlx::query_scalar(kept).bind(into.bucket()).bind(into).bind(early.in_bucket_of(into));
                assert_eq!(kept.fetch_one(conn.raw()).await.ok(), Some(1_i64));
                for left in [
                    "SELECT COUNT(*) FROM task WHERE device_id = $1",
                    "SELECT COUNT(*) FROM contact WHERE device_id = $1",
                    "SELECT COUNT(*) FROM event WHERE device_id = $1",
                    "SELECT COUNT(*) FROM finding WHERE device_id = $1",
                    "SELECT COUNT(*) FROM channel WHERE device_id = $1",
                ] {
                    assert_eq!(sqlx::query_scalar(left).bind(from).fetch_one(conn.raw()).await.ok(), Some(0_i64), "{left}");
                }
                conn.commit().await.unwrap();
            }
        })
        .await;
    }
}
