//! Lost mode, and who turned it on. What a `locate` turned on for itself ends with it, however that ended: the server says so by itself where
//! the task cannot. What an operator turned on stays until an operator turns it off.

use serde_json::Value;

use super::plan::{LOST_OFF, LOST_ON, Progress};
use super::raw;
use crate::model::Id;
use crate::protocol::apple::Status;
use crate::store::apple::Enrollment;
use crate::store::tasks::{Command, OpenTask};

/// A device did not take the command that ends its lost mode; the subject is the device.
pub const ALARM: &str = "lost_mode_kept";
const OPERATOR: &str = "operator";
const KEPT: &str = "kept";

/// By whom a device is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// By an operator's own command, or by somebody whom this server does not know.
    Operator,
    /// By this task, which has told it to; perhaps it did not hear it.
    Locate(Id),
    /// A task had it turned on, and the device did not take the command that turns it off.
    Kept,
}

impl Lost {
    /// As it stands in the enrollment.
    pub fn of(enrollment: &Enrollment) -> Option<Lost> {
        match enrollment.lost_mode.as_deref()? {
            OPERATOR => Some(Lost::Operator),
            KEPT => Some(Lost::Kept),
            task => task.parse().ok().map(Lost::Locate),
        }
    }

    /// As it is stored.
    pub fn text(self) -> String {
        match self {
            Lost::Operator => OPERATOR.to_owned(),
            Lost::Locate(task) => task.to_string(),
            Lost::Kept => KEPT.to_owned(),
        }
    }
}

/// True where a `locate` neither turns it on nor off: it is not its own.
pub fn is_not_ours(enrollment: Option<&Enrollment>) -> bool {
    enrollment.and_then(Lost::of).is_some_and(|lost| !matches!(lost, Lost::Locate(_)))
}

/// The `locate` that is over and has left its device lost.
pub fn left_by(enrollment: Option<&Enrollment>, open: &[OpenTask]) -> Option<Id> {
    let enrollment = enrollment.filter(|enrollment| enrollment.state == "enrolled")?;
    let Some(Lost::Locate(task)) = Lost::of(enrollment) else { return None };
    (!open.iter().any(|open| open.id == task)).then_some(task)
}

/// What a status of a task's command makes of it. What comes after the task's end counts as well: it is about the device, not the task.
pub fn after(was: Option<Lost>, task: &Command, params: &Value, progress: &Progress, status: Status) -> Option<Lost> {
    let took = status == Status::Acknowledged;
    // Of a command that was given twice an Error may mean that it was carried out the first time.
    let is_clear = progress.given <= 1;
    let is_its_own = was == Some(Lost::Locate(task.id));
    match (task.kind.as_str(), progress.phase) {
        _ if status == Status::NotNow => was,
        // Only a lost device tells where it is: somebody has marked it.
        ("locate", 0) if took => was.or(Some(Lost::Operator)),
        ("locate", LOST_ON) if is_its_own && !took && is_clear => None,
        ("locate", LOST_OFF) if is_its_own => (!took && is_clear).then_some(Lost::Kept),
        ("apple_command", _) if took => match raw::command(params).map(|(command, _)| command) {
            Ok(command) if command.request_type() == "EnableLostMode" => Some(Lost::Operator),
            Ok(command) if command.request_type() == "DisableLostMode" => None,
            _ => was,
        },
        _ => was,
    }
}

/// What the device's own word makes of it.
pub fn told(was: Option<Lost>, is_lost: Option<bool>) -> Option<Lost> {
    match is_lost {
        Some(false) => None,
        Some(true) => was.or(Some(Lost::Operator)),
        None => was,
    }
}
