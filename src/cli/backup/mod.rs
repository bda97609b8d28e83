//! `muster backup` and `muster restore`: one file for both databases, made while servers run, restored into an empty database.
//!
//! The file is lines of JSON: a [`Header`]; for each table a line with its name, then a line for each row; an [`End`] with the SHA-256
//! of all bytes before it.

mod file;
#[cfg(test)]
mod tests;

use std::path::Path;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::config::Config;
use crate::seal::Seal;
use crate::server;
use crate::store::backup::{self, Table};
use crate::store::{Class, Conn, Db};
use file::{Line, Reader, Writer};

/// The first version of this format.
const FORMAT: i64 = 1;
/// The place that the proof is sealed for.
const PROOF: &str = "backup/proof";
/// Rows inserted by one statement, and their bytes.
const BATCH_ROWS_MAX: usize = 500;
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What stands in the first line.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    muster_backup: i64,
    /// The version of the schema.
    schema: i64,
    made_at_ms: i64,
    /// Of the master key under which the secrets in the file are sealed.
    key_fingerprint: String,
    /// The fingerprint, sealed under that key: who can open it has the key.
    key_proof: String,
    tables: Vec<Counted>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Counted {
    name: String,
    rows: i64,
}

/// The last line.
#[derive(Debug, Serialize, Deserialize)]
struct End {
    end: bool,
    sha256: String,
}

/// Writes the whole database to `path`; answers how many rows. Servers go on meanwhile: the file is one instant of the database.
pub async fn backup(config: &Config, clock: &Clock, path: &Path) -> anyhow::Result<i64> {
    let (db, seal) = server::open_existing(config).await?;
    let mut conn = backup::snapshot(&db).await?;
    let tables = backup::tables(&mut conn).await?;
    let mut counted = Vec::with_capacity(tables.len());
    for table in &tables {
        counted.push(Counted { name: table.name.clone(), rows: backup::count(&mut conn, table).await? });
    }
    let mut moment = clock.moment();
    let header = Header {
        muster_backup: FORMAT,
        schema: backup::schema_version(),
        made_at_ms: moment.now_ms,
        key_fingerprint: seal.fingerprint().to_owned(),
        key_proof: seal.seal(&mut moment, PROOF, seal.fingerprint().as_bytes()),
        tables: counted,
    };
    let mut writer = Writer::create(path).with_context(|| path.display().to_string())?;
    writer.line(&serde_json::to_string(&header)?)?;
    for table in &tables {
        writer.line(&serde_json::json!({"table": table.name}).to_string())?;
        backup::rows(&mut conn, table, |row| writer.line(row)).await?;
    }
    backup::release(conn).await?;
    db.close().await;
    writer.finish(path).with_context(|| path.display().to_string())?;
    Ok(header.tables.iter().map(|table| table.rows).sum())
}

/// Reads `path` into the empty database of the settings; answers how many rows. Nothing is written before the whole file, its
/// schema and the master key are proved.
pub async fn restore(config: &Config, path: &Path) -> anyhow::Result<i64> {
    server::owner::spare(config)?;
    let Some(seal) = Seal::existing(config)? else { bail!("{}", server::lost_key(config, "of this backup")) };
    let header = verify(path, &seal).with_context(|| path.display().to_string())?;
    let db = Db::open(&config.database_url).await?;
    db.migrate().await?;
    let mut conn = db.begin(Class::Operators).await?;
    let tables = backup::tables(&mut conn).await?;
    let named: Vec<&str> = header.tables.iter().map(|table| table.name.as_str()).collect();
    ensure!(tables.iter().map(|table| table.name.as_str()).eq(named), "the file has other tables than this program's schema");
    for table in &tables {
        ensure!(
            backup::count(&mut conn, table).await? == 0,
            "the database is not empty (table {}): name a fresh one, in the settings or as MUSTER_DATABASE_URL",
            table.name
        );
    }
    fill(&mut conn, path, &tables).await?;
    for (table, counted) in tables.iter().zip(&header.tables) {
        ensure!(backup::count(&mut conn, table).await? == counted.rows, "table {} did not come in whole", table.name);
    }
    conn.commit().await?;
    db.close().await;
    Ok(header.tables.iter().map(|table| table.rows).sum())
}

/// Reads the whole file once: format, schema, key, counts, checksum.
fn verify(path: &Path, seal: &Seal) -> anyhow::Result<Header> {
    let mut reader = Reader::open(path)?;
    let first = reader.next()?.context("the file is empty")?;
    let header: Header = serde_json::from_str(&first).context("this is no backup of Muster")?;
    ensure!(header.muster_backup == FORMAT, "the file's format is newer than this program: take the program that made it, or a newer one");
    ensure!(
        header.schema <= backup::schema_version(),
        "the file has a newer schema ({}): take the program that made it, or a newer one",
        header.schema
    );
    ensure!(
        header.schema == backup::schema_version(),
        "the file has an older schema ({}): restore it with the program that made it, then migrate",
        header.schema
    );
    let proved = seal.open(PROOF, &header.key_proof).is_ok_and(|opened| opened == header.key_fingerprint.as_bytes());
    ensure!(
        header.key_fingerprint == seal.fingerprint() && proved,
        "the master key (fingerprint {}) is not the one this backup was sealed with ({}): set [secrets] key_file or MUSTER_SECRETS_KEY to that key",
        seal.fingerprint(),
        header.key_fingerprint
    );
    let (mut counted, mut rows, mut proven) = (header.tables.iter(), 0, false);
    let mut expected: Option<&Counted> = None;
    loop {
        match reader.line()? {
            Line::Row(row) => {
                let table = expected.context("the file has rows without a table")?;
                if !proven && table.name == "sealed" {
                    proven = opens(&row, seal)?;
                }
                rows += 1;
            }
            Line::Table(name) => {
                ensure!(expected.is_none_or(|table| table.rows == rows), "the file lacks rows");
                expected = counted.next();
                ensure!(expected.is_some_and(|table| table.name == name), "the file's tables are not those of its header");
                rows = 0;
            }
            Line::End => break,
        }
    }
    ensure!(expected.is_none_or(|table| table.rows == rows) && counted.next().is_none(), "the file lacks rows");
    Ok(header)
}

/// A secret as it is kept must open, not only the proof. False for one that was taken away, of which there is nothing to be opened.
fn opens(row: &str, seal: &Seal) -> anyhow::Result<bool> {
    #[derive(Deserialize)]
    struct Sealed {
        name: String,
        sealed: String,
    }
    let row: Sealed = serde_json::from_str(row)?;
    if row.sealed.is_empty() {
        return Ok(false);
    }
    if seal.open(&row.name, &row.sealed).is_err() {
        bail!("the sealed secret {} does not open under the master key", row.name);
    }
    Ok(true)
}

/// The second reading: rows go in, in batches.
async fn fill(conn: &mut Conn, path: &Path, tables: &[Table]) -> anyhow::Result<()> {
    let mut reader = Reader::open(path)?;
    reader.next()?;
    let mut table: Option<&Table> = None;
    let mut batch = Batch::default();
    loop {
        match reader.line()? {
            Line::Row(row) => {
                batch.add(&row);
                if batch.rows < BATCH_ROWS_MAX && batch.text.len() < BATCH_BYTES_MAX {
                    continue;
                }
                batch.insert(conn, table).await?;
            }
            Line::Table(name) => {
                batch.insert(conn, table).await?;
                table = tables.iter().find(|table| table.name == name);
            }
            Line::End => return batch.insert(conn, table).await,
        }
    }
}

/// Rows that go in together: the text of a JSON array, without its end.
#[derive(Default)]
struct Batch {
    text: String,
    rows: usize,
}

impl Batch {
    fn add(&mut self, row: &str) {
        self.text.push(if self.rows == 0 { '[' } else { ',' });
        self.text.push_str(row);
        self.rows += 1;
    }

    async fn insert(&mut self, conn: &mut Conn, table: Option<&Table>) -> anyhow::Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        self.text.push(']');
        let table = table.context("the file has rows without a table")?;
        backup::insert(conn, table, &self.text).await.with_context(|| format!("rows of table {}", table.name))?;
        *self = Batch::default();
        Ok(())
    }
}
