//! The list of devices: found, filtered, selected, ordered something.

use askama::Template;
use axum::extract::State;

use super::form::Asked;
use super::format::{Badge, When};
use super::layout::{Frame, Shown, page};
use super::line::device_name;
use crate::app::App;
use crate::http::page::List;
use crate::model::Id;
use crate::model::kind::KINDS;
use crate::ops::devices::{self, Device};
use crate::store::channels::ChannelView;
use crate::store::console::Named;
use crate::store::search::{self, Search};
use crate::store::{Conn, labels};

/// Devices on a page.
const PAGE_ROWS: i64 = 50;
/// Labels that the filter offers.
const LABELS_OFFERED: i64 = 500;
pub const STATES: [&str; 6] = ["active", "idle", "silent", "expected", "pending_approval", "unmanaged"];
pub const PLATFORMS: [&str; 3] = ["android", "ios", "macos"];

/// A device as one row.
pub struct Row {
    pub id: Id,
    pub name: String,
    pub user: String,
    pub platform: String,
    pub state: Badge,
    /// What stands beside its state: unauthorized, quarantined.
    pub denied: Option<Badge>,
    pub policy: Badge,
    /// What stands beside it: a policy is held for the device.
    pub held: Option<Badge>,
    pub push: Badge,
    pub seen: When,
    pub labels: String,
}

#[derive(Template)]
#[template(path = "devices.html")]
struct Devices {
    frame: Frame,
    q: String,
    state: String,
    platform: String,
    label: String,
    states: &'static [&'static str],
    platforms: &'static [&'static str],
    labels: Vec<String>,
    kinds: Vec<&'static str>,
    rows: Vec<Row>,
    next: Option<String>,
    filtered: bool,
}

/// The list.
pub async fn list(State(app): State<App>, asked: Asked) -> Shown {
    let fields = &asked.fields;
    let search = Search {
        q: fields.some("q"),
        label: fields.some("label"),
        state: fields.some("state"),
        platform: fields.some("platform"),
        after: asked.cursor(),
    };
    let mut conn = app.db.read().await?;
    let found = List::of(search::devices(&mut conn, &search, PAGE_ROWS + 1).await?, PAGE_ROWS, |id| (id.bucket(), id.to_string()));
    let shown = Devices {
        rows: rows(&mut conn, &found.items, app.clock.now_ms()).await?,
        next: found.next_cursor.map(|cursor| asked.next(&cursor)),
        labels: labels::list(&mut conn, "", LABELS_OFFERED).await?.into_iter().map(|label| label.name).collect(),
        kinds: KINDS.iter().map(|kind| kind.name).filter(|name| *name != "retire").collect(),
        states: &STATES,
        platforms: &PLATFORMS,
        filtered: search.q.is_some() || search.label.is_some() || search.state.is_some() || search.platform.is_some(),
        q: search.q.unwrap_or_default(),
        state: search.state.unwrap_or_default(),
        platform: search.platform.unwrap_or_default(),
        label: search.label.unwrap_or_default(),
        frame: asked.visitor.frame("Devices"),
    };
    Ok(page(&shown))
}

/// Devices as rows.
pub async fn rows(conn: &mut Conn, ids: &[Id], now_ms: i64) -> crate::error::Result<Vec<Row>> {
    Ok(devices::views(conn, ids).await?.into_iter().map(|device| row(device, now_ms)).collect())
}

/// What a device is called.
pub fn name_of(device: &Device) -> String {
    let email = device.user.as_ref().map(|user| user.email.clone());
    device_name(device.id, Some(&Named { id: None, model: device.model.clone(), serial: device.serial.clone(), email }))
}

fn row(device: Device, now_ms: i64) -> Row {
    let seen = device.channels.iter().filter_map(|channel| channel.last_contact_ms).max();
    let push = if device.channels.iter().any(|channel| channel.push_state == "active") {
        "active"
    } else {
        device.channels.first().map_or("none", |channel| channel.push_state.as_str())
    };
    Row {
        name: name_of(&device),
        user: device.user.as_ref().map(|user| user.email.clone()).unwrap_or_default(),
        denied: device.unauthorized.then(|| Badge::of(if device.quarantined { "quarantined" } else { "unauthorized" })),
        policy: Badge::of(standing(&device)),
        held: has_held(&device).then(|| Badge::of("held")),
        push: Badge::of(push),
        seen: When::maybe(seen, now_ms),
        labels: device.labels.join(", "),
        state: Badge::of(&device.state),
        platform: device.platform,
        id: device.id,
    }
}

/// How a device stands to the document that it should have: the worst of its channels.
pub fn standing(device: &Device) -> &'static str {
    // The order of gravity; `max` keeps the last of equals, which is the same word.
    const GRAVITY: [&str; 3] = ["applied", "pending", "failed"];
    let gravity = |channel: &&ChannelView| GRAVITY.iter().position(|word| *word == channel_standing(channel));
    device.channels.iter().max_by_key(gravity).map_or("none", channel_standing)
}

/// True where a policy is held for one of its channels, for want of a value. It stands beside [`standing`], which tells of the document
/// without it: one policy that is held says nothing of the others.
pub fn has_held(device: &Device) -> bool {
    device.channels.iter().any(|channel| channel.hold.is_some())
}

/// How one channel stands to it: `none` (it is to have none), `failed` (it has it and says that it does not obey all of it), `applied` or
/// `pending`.
pub fn channel_standing(channel: &ChannelView) -> &'static str {
    match channel {
        ChannelView { desired: None, .. } => "none",
        ChannelView { details: Some(_), .. } if channel.reported == channel.desired => "failed",
        _ if channel.applied == channel.desired => "applied",
        _ => "pending",
    }
}
