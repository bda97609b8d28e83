//! What can go wrong below the listeners. `http::error` alone decides which status each becomes.

use serde_json::{Map, Value};

use crate::model::Fault;

/// A result of `ops`, `store` and `intake`.
pub type Result<T> = std::result::Result<T, Error>;

/// An error exists here only if somebody treats it differently.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The thing named by the caller does not exist; the text names the kind ("device").
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// Well-formed, but wrong: every fault with its JSON pointer. Said is the first.
    #[error("{}", first(.0))]
    Invalid(Vec<Fault>),
    /// Refused for a reason that the contract names.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// The server has more to do than it can; try again in so many seconds.
    #[error("the server is busy; try again in {retry_after_s} s")]
    Busy { retry_after_s: i64 },
    /// The disk of the database is full: nothing can be written until somebody makes room.
    #[error("the disk of the database is full")]
    Full,
    /// The database said no, or did not answer.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

fn first(faults: &[Fault]) -> String {
    faults.first().map_or_else(|| "the request is invalid".to_owned(), |fault| format!("{}: {}", fault.pointer, fault.detail))
}

/// A refusal with a stable code (`device_limit`), a sentence that says what to do, and further members for the answer.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    pub code: &'static str,
    pub detail: String,
    pub members: Map<String, Value>,
}

impl Error {
    /// A refusal without further members.
    pub fn refused(code: &'static str, detail: impl Into<String>) -> Error {
        Error::refused_with(code, detail, Map::new())
    }

    /// A refusal with further members of the problem document.
    pub fn refused_with(code: &'static str, detail: impl Into<String>, members: Map<String, Value>) -> Error {
        Error::Refused(Box::new(Refusal { code, detail: detail.into(), members }))
    }

    /// One fault at one place of the request.
    pub fn invalid(pointer: impl Into<String>, detail: impl Into<String>) -> Error {
        Error::Invalid(vec![Fault { pointer: pointer.into(), detail: detail.into() }])
    }

    /// True where nothing can be written because the disk of the database is full.
    pub fn is_full(&self) -> bool {
        match self {
            Error::Full => true,
            Error::Database(error) => is_full(error),
            _ => false,
        }
    }

    /// What the database says of a failed statement.
    pub fn trouble(&self) -> Trouble {
        match self {
            Error::Database(error) => Trouble::of(error),
            Error::Full => Trouble::Away,
            _ => Trouble::Other,
        }
    }
}

/// True where the disk of the database is full (SQLITE_FULL, SQLSTATE 53100).
pub fn is_full(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(database) = error else { return false };
    let code = database.code().unwrap_or_default();
    if database.as_error().downcast_ref::<sqlx::sqlite::SqliteError>().is_none() { code == "53100" } else { code == "13" }
}

/// Database errors by what the caller does about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Deadlock or serialization failure (40P01, 40001, SQLITE_BUSY): the same batch again.
    Repeat,
    /// One item's values are at fault (SQLSTATE classes 21, 22 and 23, SQLite's constraint, mismatch and too-big): halve the batch.
    Poison,
    /// The database cannot be reached, is shutting down or is full: nothing is wrong with the batch.
    Away,
    /// Anything else.
    Other,
}

impl Trouble {
    /// What kind of error this is.
    pub fn of(error: &sqlx::Error) -> Trouble {
        let sqlx::Error::Database(database) = error else {
            return match error {
                sqlx::Error::Io(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::Tls(_)
                | sqlx::Error::Protocol(_) => Trouble::Away,
                sqlx::Error::Encode(_) | sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => Trouble::Poison,
                _ => Trouble::Other,
            };
        };
        let code = database.code().unwrap_or_default();
        // PostgreSQL answers with five characters of SQLSTATE, SQLite with its extended result code in decimal.
        if database.as_error().downcast_ref::<sqlx::sqlite::SqliteError>().is_none() {
            return match code.as_ref() {
                "40P01" | "40001" => Trouble::Repeat,
                "57P01" | "57P02" | "57P03" | "53100" | "53200" | "53300" => Trouble::Away,
                c if c.starts_with("08") => Trouble::Away,
                c if c.starts_with("21") || c.starts_with("22") || c.starts_with("23") => Trouble::Poison,
                _ => Trouble::Other,
            };
        }
        match code.parse::<i64>().map(|extended| extended & 0xff) {
            Ok(5 | 6) => Trouble::Repeat,
            Ok(18..=20) => Trouble::Poison,
            // IO error, full, cannot open, read-only.
            Ok(8 | 10 | 13 | 14) => Trouble::Away,
            _ => Trouble::Other,
        }
    }
}
