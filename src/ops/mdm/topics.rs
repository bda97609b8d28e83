//! Topics that devices listen to and that no credential has: they are accepted, are called by nobody, and an operator is told.

use crate::clock::Moment;
use crate::error::Result;
use crate::ops::alarms;
use crate::store::{Conn, alarms as store, gauges};

/// The alarm of a topic without a credential; the subject is the topic.
pub const ALARM: &str = "topic_unconfigured";
/// How the senders of topics are named, before the topic.
pub const SENDER_PREFIX: &str = "apns_mdm/";
/// Alarms that are looked at together.
const TOPICS_MAX: i64 = 100;
/// Devices that are counted of a topic: it is done every few seconds, and more are many.
const WAITING_MAX: i64 = 1_000;

/// True where the alarm of this topic stands.
pub async fn is_told(conn: &mut Conn, topic: &str) -> Result<bool> {
    Ok(store::opened_at_ms(conn, ALARM, topic).await?.is_some())
}

/// The topics that are told of.
pub async fn told(conn: &mut Conn) -> Result<Vec<String>> {
    store::standing(conn, ALARM, TOPICS_MAX).await
}

/// Devices that wait for a credential of this topic, at most [`WAITING_MAX`].
pub async fn waiting(conn: &mut Conn, topic: &str) -> Result<i64> {
    gauges::devices_of(conn, &format!("{SENDER_PREFIX}{topic}"), WAITING_MAX).await
}

/// Tells of a topic without a credential, or that nobody waits for one any more.
pub async fn tell(conn: &mut Conn, moment: &mut Moment, topic: &str, waiting: i64) -> Result<()> {
    if waiting == 0 {
        return alarms::close(conn, moment, ALARM, topic).await;
    }
    let them = match waiting {
        1 => "1 device listens".to_owned(),
        most if most >= WAITING_MAX => format!("{most} devices or more listen"),
        many => format!("{many} devices listen"),
    };
    let detail = format!(
        "{them} to the topic {topic} and no credential has it, so nothing calls them: set its certificate by PUT /api/v1/push/apns-mdm"
    );
    alarms::open(conn, moment, ALARM, topic, &detail).await
}
