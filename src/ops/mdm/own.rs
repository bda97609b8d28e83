//! What the server asks a device by itself, behind all tasks. It keeps no tasks for that: how far it has come stands in the enrollment,
//! so a million devices that are asked every three hours make no rows.

use crate::protocol::apple::command::Command;
use crate::store::apple::{Enrollment, Refresh};

use super::plan;

const PREFIX: &str = "refresh";

/// The next question to a device, with its id, and what is to be kept of its being asked; `None` where nothing is to be asked.
pub fn next(enrollment: &Enrollment, every_s: i64, now_ms: i64) -> Option<(String, Command, Option<Refresh>)> {
    if enrollment.state != "enrolled" || every_s <= 0 {
        return None;
    }
    let (started_ms, step, begins) = match enrollment.refresh_started_ms {
        Some(started_ms) => (started_ms, enrollment.refresh_step, false),
        None if is_due(enrollment, every_s, now_ms) => (now_ms, 0, true),
        None => return None,
    };
    let command = plan::refresh(None).into_iter().nth(usize::try_from(step).ok()?)?;
    Some((id(started_ms, step), command, begins.then(|| row(enrollment, Some(started_ms), 0, enrollment.refreshed_at_ms))))
}

/// True where the answers that are known are too old.
fn is_due(enrollment: &Enrollment, every_s: i64, now_ms: i64) -> bool {
    enrollment.refreshed_at_ms.is_none_or(|at| at + every_s * 1000 <= now_ms)
}

/// Where the asking stands after a final status; `None` where the id is not that of the present question.
pub fn take(enrollment: &Enrollment, command_uuid: &str, now_ms: i64) -> Option<Refresh> {
    let started_ms = enrollment.refresh_started_ms?;
    if command_uuid != id(started_ms, enrollment.refresh_step) {
        return None;
    }
    let step = enrollment.refresh_step + 1;
    let is_over = usize::try_from(step).is_ok_and(|step| step >= plan::refresh(None).len());
    let (started_ms, step, refreshed_at_ms) =
        if is_over { (None, 0, Some(now_ms)) } else { (Some(started_ms), step, enrollment.refreshed_at_ms) };
    Some(row(enrollment, started_ms, step, refreshed_at_ms))
}

/// True for an id of such a question, present or past.
pub fn is_own(command_uuid: &str) -> bool {
    command_uuid.starts_with("refresh.")
}

fn id(started_ms: i64, step: i64) -> String {
    format!("{PREFIX}.{started_ms}.{step}")
}

fn row(enrollment: &Enrollment, started_ms: Option<i64>, step: i64, refreshed_at_ms: Option<i64>) -> Refresh {
    Refresh { bucket: enrollment.device_id.bucket(), id: enrollment.device_id, started_ms, step, refreshed_at_ms }
}
