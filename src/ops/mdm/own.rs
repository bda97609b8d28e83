//! What the server tells a device by itself, behind all tasks: it renews its identity, asks it about itself, ends its Setup Assistant.
//!
//! No tasks are kept for that: how far it has come stands in the enrollment, so a million devices that are asked every three hours make no
//! rows. What a device proves by its deeds (a renewed identity, an answer) ends the asking. Declarations are
//! announced here too: the device then fetches them by itself.

use super::plan;
use crate::model::Id;
use crate::model::token::Secret;
use crate::protocol::apple::command::Command;
use crate::store::apple::{Enrollment, Refresh};

const REFRESH: &str = "refresh";
const CONFIGURED: &str = "configured";
const RENEW: &str = "renew";
const DECLARE: &str = "declare";
const REMOVE: &str = "remove";
const INSTALL: &str = "install";
const UNINSTALL: &str = "uninstall";
const LOST_MODE_OFF: &str = "lost_mode_off";
const OWN: [&str; 8] = [REFRESH, CONFIGURED, RENEW, REMOVE, DECLARE, INSTALL, UNINSTALL, LOST_MODE_OFF];
/// After a profile that renews an identity was given, so long passes until it is given again.
const RENEW_AGAIN_MS: i64 = 86_400_000;

/// Something that the server says by itself.
#[derive(Debug)]
pub struct Own {
    pub uuid: String,
    pub words: Words,
    /// What is to be kept of its being said.
    pub keep: Keep,
}

/// How it is said.
#[derive(Debug)]
pub enum Words {
    Command(Command),
    /// InstallProfile of a profile that is signed when everything else is done: that takes longer than all the rest, and nothing is to
    /// wait for it.
    Profile(Unsigned),
}

/// A profile before it is signed.
#[derive(Clone, Debug)]
pub enum Unsigned {
    /// It renews the identity and is made then.
    Renewal(Renewal),
    /// The policy's payloads, as XML.
    Payloads(Vec<u8>),
}

/// What a profile that renews an identity is made of.
#[derive(Clone, Debug)]
pub struct Renewal {
    pub topic: String,
    pub challenge: Secret,
}

/// What is kept when it is said.
#[derive(Debug)]
pub enum Keep {
    Nothing,
    /// The asking begins.
    Refresh(Refresh),
    /// When the identity is next to be renewed.
    RenewAt(i64),
}

/// A channel whose declarations are others than it was told of.
#[derive(Clone, Debug)]
pub struct Announcement {
    /// The version of its document.
    pub version: String,
    /// What its list of declarations is known by.
    pub token: String,
    /// The same as the device reads it, as JSON.
    pub tokens: Vec<u8>,
}

/// What a channel is to be told of its document.
#[derive(Clone, Debug)]
pub enum News {
    Declarations(Announcement),
    /// The profile of this PayloadUUID, not yet signed.
    Install {
        uuid: String,
        profile: Vec<u8>,
    },
    /// The one of this PayloadUUID goes.
    Uninstall {
        uuid: String,
        identifier: String,
    },
}

/// The command that tells it. Its id is the same for the same content, however often it is given.
pub fn tell(news: News) -> Own {
    match news {
        News::Declarations(announcement) => announce(announcement),
        News::Install { uuid, profile } => {
            Own { uuid: format!("{INSTALL}.{uuid}"), words: Words::Profile(Unsigned::Payloads(profile)), keep: Keep::Nothing }
        }
        News::Uninstall { uuid, identifier } => {
            Own { uuid: format!("{UNINSTALL}.{uuid}"), words: Words::Command(Command::remove_profile(&identifier)), keep: Keep::Nothing }
        }
    }
}

/// Of which profile a command of [`tell`] was: true with its PayloadUUID where it was to be installed, false where it was to go.
pub fn profile_of(command_uuid: &str) -> Option<(bool, &str)> {
    let (word, uuid) = command_uuid.split_once('.')?;
    [(INSTALL, true), (UNINSTALL, false)].into_iter().find(|(known, _)| *known == word).map(|(_, installs)| (installs, uuid))
}

/// So many characters of the token are in the command's id.
const TOKEN_CHARS: usize = 16;

/// The command by which a channel learns that its declarations have changed.
fn announce(announcement: Announcement) -> Own {
    // One version can be two lists: what a device does not support is taken off once it has said so.
    let token = announcement.token.get(..TOKEN_CHARS).unwrap_or(&announcement.token);
    let uuid = format!("{DECLARE}.{}.{token}", announcement.version);
    Own { uuid, words: Words::Command(Command::declarative_management(announcement.tokens)), keep: Keep::Nothing }
}

/// The version that an announcement told of, and the beginning of the list's token.
pub fn announced(command_uuid: &str) -> Option<(&str, &str)> {
    let (_, rest) = command_uuid.split_once('.').filter(|(word, _)| *word == DECLARE)?;
    rest.rsplit_once('.').filter(|(_, token)| token.len() == TOKEN_CHARS)
}

/// True where the identity of a device is to be renewed now.
pub fn is_to_be_renewed(enrollment: &Enrollment, now_ms: i64) -> bool {
    enrollment.state == "enrolled" && enrollment.renew_at_ms.is_some_and(|at| at <= now_ms)
}

/// What comes next; `None` where there is nothing to say. `renewal` is what renews the identity, where that is to be renewed;
/// `news` is what it is to be told of its document, where that has changed.
pub fn next(enrollment: &Enrollment, every_s: i64, renewal: Option<Renewal>, news: Option<News>, now_ms: i64) -> Option<Own> {
    if enrollment.state != "enrolled" {
        return None;
    }
    if let Some(renewal) = renewal.filter(|_| is_to_be_renewed(enrollment, now_ms)) {
        let keep = Keep::RenewAt(now_ms + RENEW_AGAIN_MS);
        return Some(Own { uuid: format!("{RENEW}.{now_ms}"), words: Words::Profile(Unsigned::Renewal(renewal)), keep });
    }
    news.map(tell).or_else(|| question(enrollment, every_s, now_ms)).or_else(|| configured(enrollment))
}

/// The command that ends the management of a device that is denied for good, where no task does.
pub fn removal(enrollment: &Enrollment, profile: &str) -> Own {
    let uuid = format!("{REMOVE}.{}", enrollment.authenticated_at_ms);
    Own { uuid, words: Words::Command(Command::remove_profile(profile)), keep: Keep::Nothing }
}

/// The command that ends the lost mode which this task has left on.
pub fn lost_mode_off(task: Id) -> Own {
    Own { uuid: format!("{LOST_MODE_OFF}.{task}"), words: Words::Command(Command::new("DisableLostMode")), keep: Keep::Nothing }
}

/// The task whose lost mode a command of [`lost_mode_off`] was to end.
pub fn lost_mode_of(command_uuid: &str) -> Option<Id> {
    let (_, task) = command_uuid.split_once('.').filter(|(word, _)| *word == LOST_MODE_OFF)?;
    task.parse().ok()
}

/// True for a command of [`removal`].
pub fn is_removal(command_uuid: &str) -> bool {
    command_uuid.split_once('.').is_some_and(|(word, _)| word == REMOVE)
}

fn question(enrollment: &Enrollment, every_s: i64, now_ms: i64) -> Option<Own> {
    if every_s <= 0 {
        return None;
    }
    let is_due = enrollment.refreshed_at_ms.is_none_or(|at| at + every_s * 1000 <= now_ms);
    let (started_ms, step, keep) = match enrollment.refresh_started_ms {
        Some(started_ms) => (started_ms, enrollment.refresh_step, Keep::Nothing),
        None if is_due => (now_ms, 0, Keep::Refresh(row(enrollment, Some(now_ms), 0, enrollment.refreshed_at_ms))),
        None => return None,
    };
    let command = plan::refresh(None).into_iter().nth(usize::try_from(step).ok()?)?;
    Some(Own { uuid: question_id(started_ms, step), words: Words::Command(command), keep })
}

/// A device that sits in Setup Assistant goes on once it is told that everything was said.
fn configured(enrollment: &Enrollment) -> Option<Own> {
    let is_waiting = enrollment.awaiting_configuration == 1;
    let words = || Words::Command(Command::new("DeviceConfigured"));
    is_waiting.then(|| Own { uuid: configured_id(enrollment), words: words(), keep: Keep::Nothing })
}

/// The same for a user of a Shared iPad.
pub fn user_configured(channel: Id) -> Own {
    Own { uuid: user_configured_id(channel), words: Words::Command(Command::new("UserConfigured")), keep: Keep::Nothing }
}

/// The id of the command that tells this user's channel.
pub fn user_configured_id(channel: Id) -> String {
    format!("{CONFIGURED}.{channel}")
}

/// What a final status changes.
#[derive(Debug)]
pub enum Took {
    Refresh(Refresh),
    Configured,
}

/// The first question from this one on that is to be asked of a device which tells by itself what these requests ask.
fn following(step: i64, covered: &[&str]) -> i64 {
    let questions = plan::refresh(None);
    let is_to_be_asked = |at: &usize| questions.get(*at).is_none_or(|question| !covered.contains(&question.request_type()));
    let from = usize::try_from(step).unwrap_or(usize::MAX).min(questions.len());
    i64::try_from((from..=questions.len()).find(is_to_be_asked).unwrap_or(from)).unwrap_or(step)
}

/// What a final status of one of these commands changes, of a device that need not be asked these requests; `None` where it is not about the present one.
pub fn take(enrollment: &Enrollment, command_uuid: &str, covered: &[&str], now_ms: i64) -> Option<Took> {
    if command_uuid == configured_id(enrollment) && enrollment.awaiting_configuration == 1 {
        return Some(Took::Configured);
    }
    let started_ms = enrollment.refresh_started_ms?;
    if command_uuid != question_id(started_ms, enrollment.refresh_step) {
        return None;
    }
    let step = following(enrollment.refresh_step + 1, covered);
    let is_over = usize::try_from(step).is_ok_and(|step| step >= plan::refresh(None).len());
    let (started_ms, step, refreshed_at_ms) =
        if is_over { (None, 0, Some(now_ms)) } else { (Some(started_ms), step, enrollment.refreshed_at_ms) };
    Some(Took::Refresh(row(enrollment, started_ms, step, refreshed_at_ms)))
}

/// True for an id of such a command, present or past.
pub fn is_own(command_uuid: &str) -> bool {
    command_uuid.split_once('.').is_some_and(|(word, _)| OWN.contains(&word))
}

fn question_id(started_ms: i64, step: i64) -> String {
    format!("{REFRESH}.{started_ms}.{step}")
}

fn configured_id(enrollment: &Enrollment) -> String {
    format!("{CONFIGURED}.{}", enrollment.authenticated_at_ms)
}

fn row(enrollment: &Enrollment, started_ms: Option<i64>, step: i64, refreshed_at_ms: Option<i64>) -> Refresh {
    Refresh { bucket: enrollment.device_id.bucket(), id: enrollment.device_id, started_ms, step, refreshed_at_ms }
}
