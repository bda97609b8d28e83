//! Alarms open and close; each is told in the feed.

use serde_json::json;

use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::model::{Actor, Id, Role};
use crate::store::alarms::AlarmRow;
use crate::store::feed::{self, Entry};
use crate::store::{Conn, alarms};

/// The alarm of a sender whose credential or project is at fault; its subject is the sender.
pub const PUSH_FAULT: &str = "push_fault";
/// The alarm of a provider that answers nothing of use; its subject is the sender.
pub const PUSH_UNREACHED: &str = "push_unreached";

/// Opens the alarm of (kind, subject). Where it is open, only its detail is brought up to date, and an acknowledged one stays so.
pub async fn open(conn: &mut Conn, moment: &mut Moment, kind: &str, subject: &str, detail: &str) -> Result<()> {
    let id = moment.id();
    if alarms::open(conn, id, kind, subject, detail, moment.now_ms).await? == Some(id) {
        let data = json!({"id": id, "kind": kind, "subject": subject, "detail": detail});
        feed::append(conn, moment, &[Entry { kind: "alarm.opened", actor: None, device_id: None, data }]).await?;
    }
    Ok(())
}

/// As [`open`], where what has changed is worse: one that stands is told anew, in the feed and by mail, and one that was acknowledged is open
/// again.
pub async fn sharpen(conn: &mut Conn, moment: &mut Moment, kind: &str, subject: &str, detail: &str) -> Result<()> {
    let id = moment.id();
    let Some(stands) = alarms::open(conn, id, kind, subject, detail, moment.now_ms).await? else { return Ok(()) };
    if stands != id {
        alarms::untell(conn, stands).await?;
    }
    let data = json!({"id": stands, "kind": kind, "subject": subject, "detail": detail});
    feed::append(conn, moment, &[Entry { kind: "alarm.opened", actor: None, device_id: None, data }]).await
}

/// Closes the alarm of (kind, subject) if it is open: what it told of is over.
pub async fn close(conn: &mut Conn, moment: &mut Moment, kind: &str, subject: &str) -> Result<()> {
    if let Some(id) = alarms::close(conn, kind, subject, moment.now_ms).await? {
        let data = json!({"id": id, "kind": kind, "subject": subject});
        feed::append(conn, moment, &[Entry { kind: "alarm.closed", actor: None, device_id: None, data }]).await?;
    }
    Ok(())
}

/// Somebody has seen the alarm. One that is acknowledged or closed stays as it is.
pub async fn acknowledge(conn: &mut Conn, moment: &mut Moment, actor: &Actor, id: Id) -> Result<AlarmRow> {
    actor.require(Role::Operator)?;
    if alarms::acknowledge(conn, id, moment.now_ms).await? {
        let data = json!({"id": id, "before": {"state": "open"}, "after": {"state": "acknowledged"}});
        let entry = Entry { kind: "alarm.acknowledged", actor: Some(actor.name.clone()), device_id: None, data };
        feed::append(conn, moment, &[entry]).await?;
    }
    alarms::get(conn, id).await?.ok_or(Error::NotFound("alarm"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Class;
    use crate::store::testing::each_database;

    #[tokio::test]
    async fn an_alarm_is_open_once_however_often_it_is_raised_and_can_open_again_after_it_closed() {
        each_database(async |db| {
            let mut moment = Moment::fixed(1_000_000, 1);
            let mut conn = db.begin(Class::Operators).await.unwrap();
            for detail in ["first", "first", "second"] {
                open(&mut conn, &mut moment, "push_fault", "fcm", detail).await.unwrap();
                moment.now_ms += 1;
            }
            let listed = alarms::list(&mut conn, "open", None, 10).await.unwrap();
            assert_eq!(listed.len(), 1);
            assert_eq!((listed[0].detail.as_str(), listed[0].opened_at_ms), ("second", 1_000_000));
            close(&mut conn, &mut moment, "push_fault", "fcm").await.unwrap();
            close(&mut conn, &mut moment, "push_fault", "fcm").await.unwrap();
            assert!(alarms::list(&mut conn, "open", None, 10).await.unwrap().is_empty());
            open(&mut conn, &mut moment, "push_fault", "fcm", "third").await.unwrap();
            assert_eq!(alarms::list(&mut conn, "", None, 10).await.unwrap().len(), 2);
            // What stands comes first, however many have come and gone since; what somebody has seen comes behind.
            open(&mut conn, &mut moment, "push_fault", "apns_app", "").await.unwrap();
            for n in 0..60 {
                open(&mut conn, &mut moment, "push_death_rush", &n.to_string(), "").await.unwrap();
                close(&mut conn, &mut moment, "push_death_rush", &n.to_string()).await.unwrap();
            }
            let standing = async |conn: &mut Conn| {
                let rows = alarms::not_closed(conn, 10).await.unwrap();
                rows.into_iter().map(|row| row.subject).collect::<Vec<_>>()
            };
            assert_eq!(standing(&mut conn).await, ["apns_app", "fcm"]);
            let newest = alarms::not_closed(&mut conn, 1).await.unwrap()[0].id;
            alarms::acknowledge(&mut conn, newest, moment.now_ms).await.unwrap();
            assert_eq!(standing(&mut conn).await, ["fcm", "apns_app"]);
            conn.commit().await.unwrap();
        })
        .await;
    }

    #[tokio::test]
    async fn an_acknowledged_alarm_stays_so_until_it_closes_and_only_operators_acknowledge() {
        each_database(async |db| {
            let mut moment = Moment::fixed(1_000_000, 2);
            let mut conn = db.begin(Class::Operators).await.unwrap();
            open(&mut conn, &mut moment, "push_fault", "fcm", "first").await.unwrap();
            let id = alarms::list(&mut conn, "open", None, 10).await.unwrap()[0].id;
            let mut actor = Actor { name: "key:test".into(), role: Role::Viewer, person: false };
            assert!(matches!(acknowledge(&mut conn, &mut moment, &actor, id).await, Err(Error::Refused(_))));
            actor.role = Role::Operator;
            for _ in 0..2 {
                assert_eq!(acknowledge(&mut conn, &mut moment, &actor, id).await.unwrap().state, "acknowledged");
            }
            open(&mut conn, &mut moment, "push_fault", "fcm", "second").await.unwrap();
            let row = alarms::get(&mut conn, id).await.unwrap().unwrap();
            assert_eq!((row.state.as_str(), row.detail.as_str()), ("acknowledged", "second"));
            close(&mut conn, &mut moment, "push_fault", "fcm").await.unwrap();
            assert_eq!(acknowledge(&mut conn, &mut moment, &actor, id).await.unwrap().state, "closed");
            let unknown = moment.id();
            assert!(matches!(acknowledge(&mut conn, &mut moment, &actor, unknown).await, Err(Error::NotFound("alarm"))));
            // Opened, acknowledged once, closed.
            assert_eq!(feed::waiting_count(&mut conn).await.unwrap(), 3);
            conn.commit().await.unwrap();
        })
        .await;
    }
}
