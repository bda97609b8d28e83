//! Forgetting what has served its time, in small chunks; each function answers how many rows it took.

use super::Conn;
use crate::error::Result;
use crate::model::Id;

/// Contacts of one bucket from before `before_ms`.
pub async fn contacts(conn: &mut Conn, bucket: i64, before_ms: i64, rows_max: i64) -> Result<u64> {
    let text =
        "DELETE FROM contact WHERE bucket = $1 AND id IN (SELECT id FROM contact WHERE bucket = $1 AND id < $2 ORDER BY id LIMIT $3)";
    let done = sqlx::query(text).bind(bucket).bind(Id::first_of(before_ms)).bind(rows_max).execute(conn.raw()).await?;
    Ok(done.rows_affected())
}

/// Tasks of one bucket that were finished before `before_ms`; open ones stay, however old.
pub async fn tasks(conn: &mut Conn, bucket: i64, before_ms: i64, rows_max: i64) -> Result<u64> {
    let done = sqlx::query(
        "DELETE FROM task WHERE bucket = $1 AND id IN \
           (SELECT id FROM task WHERE bucket = $1 AND id < $2 AND finished_at_ms < $3 ORDER BY id LIMIT $4)",
    )
    .bind(bucket)
    .bind(Id::first_of(before_ms))
    .bind(before_ms)
    .bind(rows_max)
    .execute(conn.raw())
    .await?;
    Ok(done.rows_affected())
}

/// Jobs that were finished before `before_ms` and have no task left, with their counts.
pub async fn jobs(conn: &mut Conn, before_ms: i64, rows_max: i64) -> Result<u64> {
    let gone: Vec<Id> = sqlx::query_scalar(
        "SELECT id FROM job WHERE id < $1 AND finished_at_ms < $2 AND NOT EXISTS (SELECT 1 FROM task t WHERE t.job_id = job.id) \
         ORDER BY id LIMIT $3",
    )
    .bind(Id::first_of(before_ms))
    .bind(before_ms)
    .bind(rows_max)
    .fetch_all(conn.raw())
    .await?;
    for id in &gone {
        let topic = format!("job:{id}");
        for text in ["DELETE FROM tally WHERE topic = $1", "DELETE FROM tally_in WHERE topic = $1"] {
            sqlx::query(text).bind(&topic).execute(conn.raw()).await?;
        }
        sqlx::query("DELETE FROM job WHERE id = $1").bind(id).execute(conn.raw()).await?;
    }
    Ok(gone.len() as u64)
}

/// Sessions that have ended at `now_ms`.
pub async fn sessions(conn: &mut Conn, now_ms: i64, rows_max: i64) -> Result<u64> {
    chunk(conn, "DELETE FROM session WHERE hash IN (SELECT hash FROM session WHERE expires_at_ms <= $1 LIMIT $2)", now_ms, rows_max).await
}

/// Sign-in links that ended before `before_ms`.
pub async fn sign_in_links(conn: &mut Conn, before_ms: i64, rows_max: i64) -> Result<u64> {
    let text = "DELETE FROM sign_in_link WHERE hash IN (SELECT hash FROM sign_in_link WHERE expires_at_ms < $1 LIMIT $2)";
    chunk(conn, text, before_ms, rows_max).await
}

/// Idempotency keys whose time has run out at `now_ms`.
pub async fn idempotency(conn: &mut Conn, now_ms: i64, rows_max: i64) -> Result<u64> {
    let text = "DELETE FROM idempotency WHERE (actor, key) IN (SELECT actor, key FROM idempotency WHERE expires_at_ms <= $1 LIMIT $2)";
    chunk(conn, text, now_ms, rows_max).await
}

/// Challenges of enrollment profiles whose time has run out at `now_ms`, used or not: what was issued against them is kept elsewhere.
pub async fn challenges(conn: &mut Conn, now_ms: i64, rows_max: i64) -> Result<u64> {
    let text = "DELETE FROM scep_challenge WHERE hash IN (SELECT hash FROM scep_challenge WHERE expires_at_ms <= $1 LIMIT $2)";
    chunk(conn, text, now_ms, rows_max).await
}

/// Slots of the funnel from before `before_ms`.
pub async fn funnel(conn: &mut Conn, before_ms: i64, rows_max: i64) -> Result<u64> {
    let text = "DELETE FROM funnel WHERE (slot_ms, process, stage) IN \
       (SELECT slot_ms, process, stage FROM funnel WHERE slot_ms < $1 ORDER BY slot_ms LIMIT $2)";
    chunk(conn, text, before_ms, rows_max).await
}

async fn chunk(conn: &mut Conn, text: &'static str, at_ms: i64, rows_max: i64) -> Result<u64> {
    Ok(sqlx::query(text).bind(at_ms).bind(rows_max).execute(conn.raw()).await?.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Moment;
    use crate::store::testing::each_database;
    use crate::store::{Class, Db};

    const OLD_MS: i64 = 1_700_000_000_000;
    const CUT_MS: i64 = OLD_MS + 1_000;

    async fn fill(db: &Db, device: Id, ids: &[Id]) {
        let mut conn = db.begin(Class::Operators).await.unwrap();
        for (n, id) in ids.iter().enumerate() {
            let finished = (n % 2 == 0).then_some(OLD_MS);
            sqlx::query(
                "INSERT INTO task (bucket, id, job_id, device_id, channel_id, kind, lane, state, attempt, created_at_ms, expires_at_ms, \
                   state_since_ms, finished_at_ms) VALUES ($1, $2, $3, $4, $4, 'lock', 0, 'queued', 1, 0, 0, 0, $5)",
            )
            .bind(id.bucket())
            .bind(id)
            .bind(if n == 0 { ids[0] } else { ids[1] })
            .bind(device)
            .bind(finished)
            .execute(conn.raw())
            .await
            .unwrap();
            sqlx::query(
                "INSERT INTO contact (bucket, id, device_id, channel_id, cause, at_ms, results, events, tasks) \
                 VALUES ($1, $2, $3, $3, 'push', 0, 0, 0, 0)",
            )
            .bind(id.bucket())
            .bind(id)
            .bind(device)
            .execute(conn.raw())
            .await
            .unwrap();
        }
        for id in &ids[..2] {
            sqlx::query(
                "INSERT INTO job (id, kind, params, lane, selector, state, tasks, unknown_devices, duplicate_devices, created_by, created_at_ms, \
                   expires_at_ms, finished_at_ms, walk, walk_at_ms, expand_after) \
                 VALUES ($1, 'lock', '{}', 'urgent', '{}', 'done', 1, '[]', '[]', 'test', 0, 0, $2, '', 0, '')",
            )
            .bind(id)
            .bind(OLD_MS)
            .execute(conn.raw())
            .await
            .unwrap();
            sqlx::query("INSERT INTO tally (topic, key, n) VALUES ($1, 'done', 1)")
                .bind(format!("job:{id}"))
                .execute(conn.raw())
                .await
                .unwrap();
        }
        for (text, at_ms) in [
            ("INSERT INTO session (hash, operator_id, csrf, created_at_ms, expires_at_ms) VALUES ($1, 'o', 'c', 0, $2)", OLD_MS),
            ("INSERT INTO session (hash, operator_id, csrf, created_at_ms, expires_at_ms) VALUES ($1 || 'x', 'o', 'c', 0, $2)", CUT_MS + 1),
            ("INSERT INTO sign_in_link (hash, operator_id, created_at_ms, expires_at_ms) VALUES ($1, 'o', 0, $2)", OLD_MS),
            ("INSERT INTO idempotency (actor, key, body_hash, job_id, expires_at_ms) VALUES ('a', $1, 'h', 'j', $2)", OLD_MS),
            ("INSERT INTO scep_challenge (hash, created_at_ms, expires_at_ms) VALUES ($1, 0, $2)", OLD_MS),
            ("INSERT INTO funnel (slot_ms, process, stage, n) VALUES ($2, $1, 's', 1)", OLD_MS),
        ] {
            sqlx::query(text).bind(ids[0]).bind(at_ms).execute(conn.raw()).await.unwrap();
        }
        conn.commit().await.unwrap();
    }

    #[tokio::test]
    async fn finished_work_goes_with_its_counts_and_open_work_stays_however_old() {
        each_database(async |db| {
            let mut moment = Moment::fixed(OLD_MS, 1);
            let device = moment.id();
            let ids: Vec<Id> = (0..4).map(|_| moment.id_beside(device)).collect();
            fill(&db, device, &ids).await;
            let mut conn = db.begin(Class::Background).await.unwrap();
            let bucket = device.bucket();
            assert_eq!(jobs(&mut conn, CUT_MS, 500).await.unwrap(), 0, "their tasks are still there");
            assert_eq!(tasks(&mut conn, (bucket + 1) % 64, CUT_MS, 500).await.unwrap(), 0);
            assert_eq!(tasks(&mut conn, bucket, CUT_MS, 1).await.unwrap(), 1, "no more than it was told");
            assert_eq!(tasks(&mut conn, bucket, CUT_MS, 500).await.unwrap(), 1);
            assert_eq!(jobs(&mut conn, CUT_MS, 500).await.unwrap(), 1, "the other one has an open task");
            let tallies: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM tally").fetch_one(conn.raw()).await.unwrap();
            assert_eq!(tallies, 1);
            assert_eq!(contacts(&mut conn, bucket, OLD_MS, 500).await.unwrap(), 0);
            assert_eq!(contacts(&mut conn, bucket, CUT_MS, 500).await.unwrap(), 4);
            for expected in [1, 0] {
                let forgotten = [
                    sessions(&mut conn, CUT_MS, 500).await.unwrap(),
                    sign_in_links(&mut conn, CUT_MS, 500).await.unwrap(),
                    idempotency(&mut conn, CUT_MS, 500).await.unwrap(),
                    challenges(&mut conn, CUT_MS, 500).await.unwrap(),
                    funnel(&mut conn, CUT_MS, 500).await.unwrap(),
                ];
                let left: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM session").fetch_one(conn.raw()).await.unwrap();
                assert_eq!((forgotten, left), ([expected; 5], 1));
            }
            conn.commit().await.unwrap();
        })
        .await;
    }
}
