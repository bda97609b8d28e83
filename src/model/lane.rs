//! The five lanes of a nudge.

use serde::{Deserialize, Serialize};

/// How urgently a nudge wants to leave; the order is the rank, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    Urgent,
    Change,
    Bulk,
    Retry,
    Periodic,
}

impl Lane {
    /// Every lane, best first.
    pub const ALL: [Lane; 5] = [Lane::Urgent, Lane::Change, Lane::Bulk, Lane::Retry, Lane::Periodic];

    /// 0 for the best lane; how the store keeps it.
    pub fn rank(self) -> i64 {
        self as i64
    }

    /// The lane of a stored rank; ranks that nobody stores read as the last lane.
    pub fn from_rank(rank: i64) -> Lane {
        usize::try_from(rank).ok().and_then(|at| Lane::ALL.get(at)).copied().unwrap_or(Lane::Periodic)
    }

    /// The word used in the API, metrics and the console.
    pub fn name(self) -> &'static str {
        match self {
            Lane::Urgent => "urgent",
            Lane::Change => "change",
            Lane::Bulk => "bulk",
            Lane::Retry => "retry",
            Lane::Periodic => "periodic",
        }
    }
}
