//! The form that orders something of devices.

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::device::can_do;
use super::form::{Asked, Fields, Posted};
use super::format::sentence;
use super::layout::{Frame, Shown, Visitor, page, told};
use super::line::device_name;
use crate::app::App;
use crate::change;
use crate::error::Error;
use crate::model::kind::{self, KINDS, Kind};
use crate::model::{Fault, Id, secrets};
use crate::ops::devices::{self, Device};
use crate::ops::jobs::{self as ops, NewJob, Target};
use crate::store::{Class, Conn, console, labels};

/// Labels that the form offers.
const LABELS_OFFERED: i64 = 500;
/// Devices that the form names; the others it counts.
const NAMED_MAX: usize = 12;
/// Devices that one form may carry.
const DEVICES_MAX: usize = 1000;

struct Field {
    name: &'static str,
    label: String,
    shape: &'static str,
    words: &'static [&'static str],
    required: bool,
    secret: bool,
    value: String,
    fault: String,
}

#[derive(Template)]
#[template(path = "order.html")]
struct Order {
    frame: Frame,
    kinds: Vec<&'static str>,
    kind: String,
    chosen: bool,
    destructive: bool,
    fields: Vec<Field>,
    devices: Vec<String>,
    named: Vec<String>,
    typed: String,
    aim: String,
    label: String,
    labels: Vec<String>,
    expires_in_h: String,
    faults: Vec<String>,
}

/// The form: first the kind, then what it needs.
pub async fn form(State(app): State<App>, asked: Asked) -> Shown {
    let mut conn = app.db.read().await?;
    shown(&mut conn, &asked.visitor, &asked.fields, Vec::new()).await
}

/// Makes the job, or shows the form again with what is wrong.
pub async fn create(State(app): State<App>, posted: Posted) -> Shown {
    let (fields, actor, seal) = (&posted.fields, posted.visitor.actor(), &app.seal);
    let done = match new_job(fields) {
        Ok(new) => change!(app, Class::Operators, |conn, moment| ops::create(conn, moment, actor, &new, None, Some(seal)).await),
        Err(error) => Err(error),
    };
    match done {
        Err(Error::Invalid(faults)) => {
            let mut conn = app.db.read().await?;
            let mut response = shown(&mut conn, &posted.visitor, fields, faults).await?;
            *response.status_mut() = axum::http::StatusCode::UNPROCESSABLE_ENTITY;
            Ok(response)
        }
        Ok(job) => told(&format!("/jobs/{}", job.id), Ok(format!("Ordered: {}. The devices are being called in.", sentence(&job.kind)))),
        Err(error) => told("/jobs/new", Err(error)),
    }
}

/// The kinds that one of the named devices can do; all of them where none is named. Retiring has a page of its own.
fn offered(found: &[Device]) -> Vec<&'static str> {
    let kinds = KINDS.iter().map(|kind| kind.name).filter(|name| *name != "retire");
    kinds.filter(|name| found.is_empty() || found.iter().any(|device| can_do(device, name))).collect()
}

/// True where a parameter means something to one of the named devices: some of a wipe are Android's, some Apple's.
fn is_meant(kind: &str, parameter: &str, found: &[Device]) -> bool {
    let of_android = match (kind, parameter) {
        ("wipe", "keep_reset_protection" | "external_storage") => true,
        (
            "wipe",
            "pin" | "obliteration" | "keep_data_plan" | "forbid_proximity_setup" | "return_to_service" | "wifi_profile" | "mdm_profile",
        ) => false,
        _ => return true,
    };
    found.is_empty() || found.iter().any(|device| (device.platform == "android") == of_android)
}

async fn shown(conn: &mut Conn, visitor: &Visitor, given: &Fields, faults: Vec<Fault>) -> Result<Response, super::layout::Trouble> {
    let kind = Kind::named(given.text("kind")).filter(|kind| kind.name != "retire");
    let devices = given.all("device");
    let ids: Vec<Id> = devices.iter().take(NAMED_MAX).filter_map(|text| text.parse().ok()).collect();
    let names = console::named(conn, ids.iter().copied()).await?;
    let mut named: Vec<String> = ids.iter().map(|id| device_name(*id, names.get(id))).collect();
    if devices.len() > named.len() {
        named.push(format!("and {} more", devices.len() - named.len()));
    }
    let found = devices::views(conn, &ids).await?;
    let mut fields: Vec<Field> = kind.map(|kind| fields(kind, given, &faults)).unwrap_or_default();
    if devices.len() == ids.len() {
        fields.retain(|field| is_meant(given.text("kind"), field.name, &found));
    }
    let known = |fault: &&Fault| !fields.iter().any(|field| fault.pointer == format!("/params/{}", field.name));
    let aim = given.some("aim").unwrap_or_else(|| if devices.is_empty() { "label" } else { "devices" }.into());
    Ok(page(&Order {
        frame: visitor.frame(kind.map_or_else(|| "Order something".into(), |kind| format!("Order: {}", kind.name))),
        kinds: offered(&found),
        kind: kind.map(|kind| kind.name.to_owned()).unwrap_or_default(),
        chosen: kind.is_some(),
        destructive: kind.is_some_and(|kind| ops::is_destructive(kind, &params(kind, given).unwrap_or_default())),
        devices,
        named,
        typed: given.text("typed").to_owned(),
        aim,
        label: given.text("label").to_owned(),
        labels: labels::list(conn, "", LABELS_OFFERED).await?.into_iter().map(|label| label.name).collect(),
        expires_in_h: given.text("expires_in_h").to_owned(),
        faults: faults.iter().filter(known).map(|fault| fault.detail.clone()).collect(),
        fields,
    }))
}

fn fields(kind: &'static Kind, given: &Fields, faults: &[Fault]) -> Vec<Field> {
    let field = |field: kind::Field| {
        let secret = secrets::whole(kind.name).any(|name| name == field.name);
        let pointer = format!("/params/{}", field.name);
        Field {
            name: field.name,
            label: sentence(field.name),
            shape: field.shape,
            words: field.words,
            required: field.required,
            secret,
            // A secret is typed again.
            value: if secret { String::new() } else { given.text(&format!("p_{}", field.name)).to_owned() },
            fault: faults.iter().find(|fault| fault.pointer == pointer).map(|fault| fault.detail.clone()).unwrap_or_default(),
        }
    };
    kind.fields().into_iter().map(field).collect()
}

fn new_job(given: &Fields) -> Result<NewJob, Error> {
    let kind = Kind::named(given.text("kind")).filter(|kind| kind.name != "retire");
    let kind = kind.ok_or_else(|| Error::invalid("/kind", "choose what to order"))?;
    let params = params(kind, given)?;
    if ops::is_destructive(kind, &params) && given.text("sure") != "yes" {
        return Err(Error::invalid("/sure", "this cannot be undone: tick the box that says so"));
    }
    let target = match given.text("aim") {
        "all" => Target { all: Some(true), ..Target::default() },
        "label" => {
            let label = given.some("label").ok_or_else(|| Error::invalid("/target/label", "choose a label"))?;
            Target { label: Some(label), ..Target::default() }
        }
        _ => Target { devices: Some(devices(given)?), ..Target::default() },
    };
    let expires_in_s = given.number("expires_in_h")?.map(|hours| hours.saturating_mul(3600));
    Ok(NewJob { kind: kind.name.to_owned(), params, target, expires_in_s, lane: None })
}

/// The parameters that were filled in.
fn params(kind: &Kind, given: &Fields) -> Result<Map<String, Value>, Error> {
    let mut params = Map::new();
    for field in kind.fields() {
        let text = given.text(&format!("p_{}", field.name));
        let value = match field.shape {
            "bool" if text.is_empty() => continue,
            "bool" => json!(text == "yes"),
            _ if text.is_empty() => continue,
            "object" => serde_json::from_str::<Value>(text)
                .map_err(|error| Error::invalid(format!("/params/{}", field.name), format!("this is no JSON: {error}")))?,
            _ => json!(text),
        };
        params.insert(field.name.to_owned(), value);
    }
    Ok(params)
}

/// The devices that were selected, and those that were typed.
fn devices(given: &Fields) -> Result<Vec<String>, Error> {
    let mut devices = given.all("device");
    devices.extend(given.text("typed").split([',', '\n', ' ']).map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned));
    if devices.len() > DEVICES_MAX {
        return Err(Error::invalid("/target/devices", format!("at most {DEVICES_MAX}; use a label for more")));
    }
    Ok(devices)
}
