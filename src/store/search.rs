//! Finding devices. The one place where a statement is composed: of static fragments, never of input.

use sqlx::AssertSqlSafe;

use super::Conn;
use crate::error::Result;
use crate::model::Id;

/// Up to so many words or members are looked at to find their devices. Where there are more, the devices are walked in order
/// instead, and a page of those that fit is soon full.
const FEW: i64 = 5_000;

/// What to look for; everything must fit.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// The beginning of a word that the device is found by.
    pub q: Option<String>,
    /// A label's name.
    pub label: Option<String>,
    pub state: Option<String>,
    pub platform: Option<String>,
    /// Devices after this (bucket, id).
    pub after: Option<(i64, String)>,
}

/// How a word or a label takes part.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// It is not asked for.
    None,
    /// Few devices have it: they are where the search begins.
    Few,
    /// Many have it: each device is asked.
    Many,
}

/// A page of ids in the order of the primary key.
pub async fn devices(conn: &mut Conn, search: &Search, limit: i64) -> Result<Vec<Id>> {
    let (bucket, after) = search.after.clone().unwrap_or((-1, String::new()));
    let from = search.q.as_deref().unwrap_or("").trim().to_lowercase();
    // Texts compare as bytes; nothing that begins with `from` lies beyond it followed by the last character there is.
    let to = format!("{from}\u{10ffff}");
    let label = search.label.clone().unwrap_or_default();
    let words = match &search.q {
        Some(_) => part(words_few(conn, &from, &to).await?),
        None => Part::None,
    };
    let members = match &search.label {
        // One place to begin is enough.
        Some(_) if words == Part::Few => Part::Many,
        Some(_) => part(members_few(conn, &label).await?),
        None => Part::None,
    };
    Ok(sqlx::query_scalar(AssertSqlSafe(text(words, members)))
        .bind(bucket)
        .bind(after)
        .bind(search.state.clone().unwrap_or_default())
        .bind(search.platform.clone().unwrap_or_default())
        .bind(from)
        .bind(to)
        .bind(label)
        .bind(limit)
        .fetch_all(conn.raw())
        .await?)
}

/// The statement; its parameters are the same eight whatever is asked for.
fn text(words: Part, members: Part) -> String {
    // CROSS JOIN keeps SQLite to this order: first the few, then their devices.
    let begin = match (words, members) {
        (Part::Few, _) => {
            "(SELECT DISTINCT t.bucket, t.device_id FROM device_term t WHERE t.term >= $5 AND t.term < $6) AS f CROSS JOIN device d \
             WHERE d.bucket = f.bucket AND d.id = f.device_id AND "
        }
        (_, Part::Few) => {
            "(SELECT m.bucket, m.device_id FROM label_member m JOIN label l ON l.id = m.label_id WHERE l.name = $7) AS f CROSS JOIN device d \
             WHERE d.bucket = f.bucket AND d.id = f.device_id AND "
        }
        _ => "device d WHERE ",
    };
    let by_word = match words {
        Part::None => " AND CAST($5 AS TEXT) <= CAST($6 AS TEXT)",
        Part::Few => "",
        Part::Many => {
            " AND EXISTS (SELECT 1 FROM device_term t WHERE t.bucket = d.bucket AND t.device_id = d.id AND t.term >= $5 AND t.term < $6)"
        }
    };
    let by_label = match members {
        Part::None => " AND CAST($7 AS TEXT) = ''",
        Part::Few => "",
        Part::Many => {
            " AND EXISTS (SELECT 1 FROM label_member m JOIN label l ON l.id = m.label_id \
             WHERE m.bucket = d.bucket AND m.device_id = d.id AND l.name = $7)"
        }
    };
    let rest = "(d.bucket > $1 OR (d.bucket = $1 AND d.id > $2)) AND ($3 = '' OR d.state = $3) AND ($4 = '' OR d.platform = $4)";
    ["SELECT d.id FROM ", begin, rest, by_word, by_label, " ORDER BY d.bucket, d.id LIMIT $8"].concat()
}

fn part(few: bool) -> Part {
    if few { Part::Few } else { Part::Many }
}

async fn words_few(conn: &mut Conn, from: &str, to: &str) -> Result<bool> {
    let found: i64 =
        sqlx::query_scalar("SELECT COUNT(*) FROM (SELECT 1 AS one FROM device_term WHERE term >= $1 AND term < $2 LIMIT $3) AS counted")
            .bind(from)
            .bind(to)
            .bind(FEW + 1)
            .fetch_one(conn.raw())
            .await?;
    Ok(found <= FEW)
}

async fn members_few(conn: &mut Conn, label: &str) -> Result<bool> {
    let found: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM (SELECT 1 AS one FROM label_member m JOIN label l ON l.id = m.label_id WHERE l.name = $1 LIMIT $2) AS counted",
    )
    .bind(label)
    .bind(FEW + 1)
    .fetch_one(conn.raw())
    .await?;
    Ok(found <= FEW)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::store::testing::{bend, device, each_database};

    #[tokio::test]
    async fn every_way_to_ask_has_the_same_answer() {
        each_database(async |db| {
            let clock = Clock::moved(1_000, 3);
            let mut known = Vec::new();
            for n in 0..20_i64 {
                let (id, _) = device(&db, &clock).await;
                known.push(id);
                let word = if n % 4 == 0 {
                    "INSERT INTO device_term (bucket, device_id, term) SELECT bucket, id, 'rare' FROM device WHERE id = $1 AND $2 >= 0"
                } else {
                    "INSERT INTO device_term (bucket, device_id, term) SELECT bucket, id, 'plain' FROM device WHERE id = $1 AND $2 >= 0"
                };
                bend(&db, word, id, n).await;
            }
            let mut conn = db.read().await.unwrap();
            known.sort_unstable_by_key(|id| (id.bucket(), *id));
            for words in [Part::Few, Part::Many] {
                let found: Vec<Id> = sqlx::query_scalar(AssertSqlSafe(text(words, Part::None)))
                    .bind(-1_i64)
                    .bind("")
                    .bind("active")
                    .bind("android")
                    .bind("rar")
                    .bind("rar\u{10ffff}")
                    .bind("")
                    .bind(100_i64)
                    .fetch_all(conn.raw())
                    .await
                    .unwrap();
                assert_eq!(found.len(), 5);
                assert!(found.is_sorted_by_key(|id| (id.bucket(), *id)) && found.iter().all(|id| known.contains(id)));
            }
            for members in [Part::Few, Part::Many] {
                let search = text(Part::None, members);
                let found: Vec<Id> = sqlx::query_scalar(AssertSqlSafe(search))
                    .bind(-1_i64)
                    .bind("")
                    .bind("")
                    .bind("")
                    .bind("")
                    .bind("\u{10ffff}")
                    .bind("no such label")
                    .bind(100_i64)
                    .fetch_all(conn.raw())
                    .await
                    .unwrap();
                assert_eq!(found, []);
            }
        })
        .await;
    }
}
