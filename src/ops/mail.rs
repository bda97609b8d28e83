//! Mail: queued in the transaction of what it tells of, so that none is lost and none tells of what was undone.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::model::{Actor, Id, Role};
use crate::ops::{alarms as alarm_ops, tokens};
use crate::seal::Seal;
use crate::store::alarms::{self, AlarmRow};
use crate::store::feed::{self, Entry};
use crate::store::mail::{self, MailRow};
use crate::store::users::UserRow;
use crate::store::{Conn, users};

/// The alarm of mail that cannot be sent; it is told everywhere but by mail.
pub const FAILING: &str = "mail_failing";
const ALARM: &str = "alarm";
const ACTIVATION: &str = "activation";
/// Waits after failed attempts; after the last of them the mail has failed.
const BACKOFF_S: [i64; 6] = [60, 300, 1800, 7200, 21_600, 43_200];
/// So many attempts fail before an alarm says so: one may be chance.
const FAILURES_TOLD: i64 = 3;
/// Alarms that are told in one mail each; more at once go in one mail together.
const ALARMS_EACH_MAX: usize = 3;
/// In a rush so many mails of alarms are made in [`RUSH_MS`]; what comes then waits for the end of that time, and goes together.
const ALARM_MAILS_MAX: i64 = 5;
const RUSH_MS: i64 = 600_000;
/// Alarms that one mail lists.
const ALARMS_LISTED_MAX: i64 = 100;
/// How long an activation link is good.
const LINK_MS: i64 = 14 * 86_400_000;
const SUBJECT_CHARS_MAX: usize = 150;
const ERROR_CHARS_MAX: usize = 300;

/// A mail as the API shows it; what it says is shown to its reader alone.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Mail {
    pub id: Id,
    /// `alarm` or `activation`.
    pub kind: String,
    /// The user of an activation.
    pub user_id: Option<Id>,
    pub to: String,
    pub subject: String,
    /// `queued`, `sent` (the mail server took it) or `failed`.
    pub state: String,
    pub attempts: i64,
    /// Why the last attempt failed.
    pub error: Option<String>,
    pub next_attempt_at_ms: Option<i64>,
    pub created_at_ms: i64,
    pub finished_at_ms: Option<i64>,
}

impl From<MailRow> for Mail {
    fn from(row: MailRow) -> Mail {
        Mail {
            id: row.id,
            kind: row.kind,
            user_id: row.about.parse().ok(),
            to: row.recipient,
            subject: row.subject,
            next_attempt_at_ms: (row.state == "queued").then_some(row.due_at_ms),
            state: row.state,
            attempts: row.attempts,
            error: row.error,
            created_at_ms: row.created_at_ms,
            finished_at_ms: row.finished_at_ms,
        }
    }
}

/// The server's outbox.
#[derive(Clone, Copy, Debug)]
pub struct Outbox<'a> {
    pub seal: &'a Seal,
    /// True where `[mail]` is set.
    pub is_set_up: bool,
    pub public_url: &'a str,
}

impl Outbox<'_> {
    /// Refuses where no mail can be sent.
    pub fn require(&self) -> Result<()> {
        if self.is_set_up {
            return Ok(());
        }
        Err(Error::refused("mail_unconfigured", "set [mail] smtp_url and from, or hand the link over yourself"))
    }

    /// The enrollment link of a token's value.
    pub fn link(&self, token: &str) -> String {
        format!("{}/enroll/{token}", self.public_url.trim_end_matches('/'))
    }

    async fn queue(&self, conn: &mut Conn, moment: &mut Moment, letter: Letter<'_>) -> Result<MailRow> {
        let id = moment.id();
        let subject: String = letter.subject.chars().filter(|c| !c.is_control()).take(SUBJECT_CHARS_MAX).collect();
        let row = MailRow {
            id,
            kind: letter.kind.into(),
            about: letter.about,
            recipient: letter.to.into(),
            subject,
            body: self.seal.seal(moment, &sealed_name(id), letter.text.as_bytes()),
            state: "queued".into(),
            attempts: 0,
            created_at_ms: moment.now_ms,
            due_at_ms: moment.now_ms,
            finished_at_ms: None,
            error: None,
        };
        mail::insert(conn, &row).await?;
        Ok(row)
    }
}

struct Letter<'a> {
    kind: &'a str,
    about: String,
    to: &'a str,
    subject: String,
    text: String,
}

/// What a stored mail says.
pub fn text_of(seal: &Seal, row: &MailRow) -> Option<String> {
    String::from_utf8(seal.open(&sealed_name(row.id), &row.body).ok()?).ok()
}

fn sealed_name(id: Id) -> String {
    format!("mail/{id}")
}

/// Sends a user an enrollment link, good once and for two weeks. Asked again it makes another link.
pub async fn activate(conn: &mut Conn, moment: &mut Moment, actor: &Actor, outbox: Outbox<'_>, user: Id) -> Result<Mail> {
    actor.require(Role::Operator)?;
    outbox.require()?;
    let user = users::locked(conn, user).await?.filter(|user| user.state != "deleted").ok_or(Error::NotFound("user"))?;
    if user.state != "enabled" {
        return Err(Error::refused("user_not_enabled", "the user is disabled: enable the user first, or the link would be refused"));
    }
    let (name, expires_at_ms) = (format!("mailed to {}", user.email), moment.now_ms + LINK_MS);
    let token = tokens::mint(conn, moment, actor, name, Some(expires_at_ms), Some(1), Vec::new(), Some(user.id), None, None).await?;
    let link = outbox.link(&token.token.unwrap_or_default());
    let row = send_link(conn, moment, actor, outbox, &user, &link, expires_at_ms).await?;
    Ok(row)
}

/// Sends a user an enrollment link that is made already.
pub async fn send_link(
    conn: &mut Conn,
    moment: &mut Moment,
    actor: &Actor,
    outbox: Outbox<'_>,
    user: &UserRow,
    link: &str,
    expires_at_ms: i64,
) -> Result<Mail> {
    outbox.require()?;
    let until = DateTime::<Utc>::from_timestamp_millis(expires_at_ms).unwrap_or_default().format("%-d %B %Y, %H:%M UTC");
    let name = if user.name.is_empty() { &user.email } else { &user.name };
    let text = format!(
        "Hello {name},\n\nyour device can now be set up for work. Open this link on the device:\n\n{link}\n\n\
         iPhone, iPad, Mac: the page offers a profile. Download it, then install it in Settings.\n\
         Android: the page has a button for the app. If you read this on a computer, scan the code that the page shows\n\
         with the device's camera.\n\n\
         The link is yours alone: it admits one device, for {email}, until {until}. Do not hand it on.\n\
         If you did not expect this, tell those who look after your devices.\n",
        email = user.email
    );
    let subject = "Set up your device".to_owned();
    let letter = Letter { kind: ACTIVATION, about: user.id.to_string(), to: &user.email, subject, text };
    let row = outbox.queue(conn, moment, letter).await?;
    tell(conn, moment, Some(actor), "mail.queued", json!({"id": row.id, "kind": row.kind, "user_id": user.id, "to": row.recipient}))
        .await?;
    Ok(row.into())
}

/// Queues a mail again that has failed.
pub async fn again(conn: &mut Conn, moment: &mut Moment, actor: &Actor, id: Id) -> Result<Mail> {
    actor.require(Role::Operator)?;
    let before = mail::get(conn, id).await?.ok_or(Error::NotFound("mail"))?;
    if !mail::again(conn, id, moment.now_ms).await? {
        return Err(Error::refused("mail_not_failed", format!("the mail is {}; only one that failed can be sent again", before.state)));
    }
    let data = json!({"id": id, "kind": before.kind, "before": {"state": before.state}, "after": {"state": "queued"}});
    tell(conn, moment, Some(actor), "mail.queued", data).await?;
    Ok(mail::get(conn, id).await?.ok_or(Error::NotFound("mail"))?.into())
}

/// Queues mail of alarms that nobody was told of; a few in one mail each, many in one together. True where there was something.
pub async fn tell_alarms(conn: &mut Conn, moment: &mut Moment, outbox: Outbox<'_>, to: &[String]) -> Result<bool> {
    if mail::made_since(conn, ALARM, moment.now_ms - RUSH_MS).await? >= ALARM_MAILS_MAX {
        return Ok(false);
    }
    let mut fresh = Vec::new();
    for alarm in alarms::untold(conn, FAILING, ALARMS_LISTED_MAX).await? {
        if alarms::told(conn, alarm.id, moment.now_ms).await? {
            fresh.push(alarm);
        }
    }
    let letters: Vec<(String, String)> = match fresh.len() {
        0 => return Ok(false),
        1..=ALARMS_EACH_MAX => fresh.iter().map(|alarm| (format!("Muster: {}", words(&alarm.kind)), said(alarm))).collect(),
        many => vec![(format!("Muster: {many} alarms"), fresh.iter().map(said).collect::<Vec<_>>().join("\n"))],
    };
    let url = outbox.public_url.trim_end_matches('/');
    for (subject, said) in &letters {
        for address in to {
            let text = format!("{said}\nIt stays open until what it tells of is over. {url}/\n");
            let letter = Letter { kind: ALARM, about: String::new(), to: address, subject: subject.clone(), text };
            outbox.queue(conn, moment, letter).await?;
        }
    }
    Ok(true)
}

fn said(alarm: &AlarmRow) -> String {
    let since = DateTime::<Utc>::from_timestamp_millis(alarm.opened_at_ms).unwrap_or_default().format("%Y-%m-%d %H:%M UTC");
    format!("{} ({})\n  {}\n  since {since}, {}\n", words(&alarm.kind), alarm.subject, alarm.detail, alarm.state)
}

fn words(kind: &str) -> String {
    kind.replace('_', " ")
}

/// The mail server took a mail.
pub async fn sent(conn: &mut Conn, moment: &mut Moment, row: &MailRow) -> Result<()> {
    mail::sent(conn, row.id, moment.now_ms).await?;
    alarm_ops::close(conn, moment, FAILING, "smtp").await?;
    tell(conn, moment, None, "mail.sent", json!({"id": row.id, "kind": row.kind, "attempts": row.attempts})).await
}

/// An attempt failed; for good where the answer was no, or after the last wait.
pub async fn failed(conn: &mut Conn, moment: &mut Moment, row: &MailRow, why: &str, for_good: bool) -> Result<()> {
    let why: String = why.chars().filter(|c| !c.is_control()).take(ERROR_CHARS_MAX).collect();
    let wait_s = usize::try_from(row.attempts - 1).ok().and_then(|at| BACKOFF_S.get(at)).filter(|_| !for_good);
    let again_at_ms = wait_s.map(|seconds| moment.now_ms + seconds * 1000);
    mail::failed(conn, row.id, &why, again_at_ms, moment.now_ms).await?;
    if again_at_ms.is_none() {
        let data = json!({"id": row.id, "kind": row.kind, "to": row.recipient, "attempts": row.attempts, "error": why});
        tell(conn, moment, None, "mail.failed", data).await?;
    }
    if again_at_ms.is_none() || row.attempts >= FAILURES_TOLD {
        let detail = format!("mail to {} cannot be sent: {why}", row.recipient);
        alarm_ops::open(conn, moment, FAILING, "smtp", &detail).await?;
    }
    Ok(())
}

async fn tell(conn: &mut Conn, moment: &mut Moment, actor: Option<&Actor>, kind: &'static str, data: Value) -> Result<()> {
    feed::append(conn, moment, &[Entry { kind, actor: actor.map(|actor| actor.name.clone()), device_id: None, data }]).await
}
