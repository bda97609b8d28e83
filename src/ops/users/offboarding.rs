//! What would happen if a user were disabled or deleted.
//!
//! It is found out by doing it, in a transaction that the caller undoes: so the preview cannot say anything else than what would be done.

use std::collections::HashMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::{UserPatch, change, delete};
use crate::clock::Moment;
use crate::error::Result;
use crate::model::{Actor, Denial, Id};
use crate::store::devices::DeviceRow;
use crate::store::{Conn, devices, findings, tasks, users};

/// How a user may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// For now: the devices sign out.
    Disable,
    /// For good: the devices delete their data.
    Delete,
}

/// Everything that would become different.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Offboarding {
    #[schema(value_type = String)]
    pub user_id: Id,
    pub email: String,
    /// `disable` or `delete`.
    pub way: &'static str,
    /// Every device of the user, those too that nothing would happen to.
    pub devices: Vec<Leaving>,
    /// Open tasks that would be cancelled.
    pub tasks_cancelled: usize,
    /// Open findings that would be closed.
    pub findings_closed: usize,
}

/// What would happen to a device.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Leaving {
    #[schema(value_type = String)]
    pub device_id: Id,
    pub serial: Option<String>,
    pub model: String,
    pub platform: String,
    pub state: String,
    /// `sign_out`, `wipe_app_data`, or `none` where it is denied already for as strong a reason.
    pub action: &'static str,
    /// Why it is denied already, if it is.
    pub denied: Option<String>,
    pub tasks_cancelled: usize,
    pub findings_closed: usize,
}

/// Lets the user go. The caller undoes the transaction.
pub async fn preview(conn: &mut Conn, moment: &mut Moment, actor: &Actor, id: Id, way: Way) -> Result<Offboarding> {
    let user = super::live(conn, id).await?;
    let ids = users::device_ids(conn, id).await?;
    let before = state(conn, &ids).await?;
    match way {
        Way::Disable => drop(change(conn, moment, actor, id, &UserPatch { enabled: Some(false), ..UserPatch::default() }).await?),
        Way::Delete => delete(conn, moment, actor, id).await?,
    }
    let after = state(conn, &ids).await?;
    let of = |counts: &HashMap<Id, usize>, id: Id| counts.get(&id).copied().unwrap_or(0);
    let leaving = |row: &DeviceRow, now: &DeviceRow| Leaving {
        device_id: row.id,
        serial: row.serial.clone(),
        model: row.model.clone(),
        platform: row.platform.clone(),
        state: row.state.clone(),
        action: match now.denied.as_deref().and_then(Denial::named).filter(|_| now.denied != row.denied) {
            Some(denial) if denial.is_for_good() => "wipe_app_data",
            Some(_) => "sign_out",
            None => "none",
        },
        denied: row.denied.clone(),
        tasks_cancelled: of(&before.tasks, row.id).saturating_sub(of(&after.tasks, row.id)),
        findings_closed: of(&before.findings, row.id).saturating_sub(of(&after.findings, row.id)),
    };
    let devices: Vec<Leaving> = before.devices.iter().zip(&after.devices).map(|(row, now)| leaving(row, now)).collect();
    Ok(Offboarding {
        user_id: id,
        email: user.email,
        way: if way == Way::Disable { "disable" } else { "delete" },
        tasks_cancelled: devices.iter().map(|device| device.tasks_cancelled).sum(),
        findings_closed: devices.iter().map(|device| device.findings_closed).sum(),
        devices,
    })
}

/// How devices stand: themselves, and what is open of each.
struct State {
    devices: Vec<DeviceRow>,
    tasks: HashMap<Id, usize>,
    findings: HashMap<Id, usize>,
}

async fn state(conn: &mut Conn, ids: &[Id]) -> Result<State> {
    let mut state = State { devices: Vec::with_capacity(ids.len()), tasks: HashMap::new(), findings: HashMap::new() };
    for id in ids {
        state.devices.extend(devices::get(conn, *id).await?);
    }
    let channels = devices::channels_of(conn, ids).await?;
    for task in tasks::open_of(conn, &channels).await? {
        *state.tasks.entry(task.device_id).or_default() += 1;
    }
    for finding in findings::open_of(conn, ids, "").await? {
        *state.findings.entry(finding.device_id).or_default() += 1;
    }
    Ok(state)
}
