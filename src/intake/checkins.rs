//! Apple devices' check-in messages, committed in groups: one after the other inside one transaction.

use std::collections::BTreeSet;

use super::group::Kind;
use crate::app::App;
use crate::change;
use crate::error::{Error, Result};
use crate::ops::mdm::{self, Rules, topics};
use crate::protocol::apple::CheckinMessage;
use crate::store::Class;

pub use crate::ops::mdm::{Answer, Arrival, Credential, Issued};

/// The check-ins' way of committing.
pub struct Checkins {
    pub app: App,
}

impl Checkins {
    /// Sees to it that operators learn of topics that no credential has. Nobody waits for that, and where all have one it costs a look.
    fn uncalled(&self, items: &[Arrival], answers: &[Answer]) {
        let mut topics = BTreeSet::new();
        for (item, answer) in items.iter().zip(answers) {
            if let CheckinMessage::TokenUpdate(update) = &item.checkin.message
                && *answer == Answer::Accepted
                && !self.app.has_credential(&format!("{}{}", topics::SENDER_PREFIX, update.topic))
            {
                topics.insert(update.topic.clone());
            }
        }
        if !topics.is_empty() {
            tokio::spawn(tell_of(self.app.clone(), topics));
        }
    }
}

/// Tells of topics without a credential. One that was told of already is brought up to date by the worker that follows credentials.
async fn tell_of(app: App, topics: BTreeSet<String>) {
    for topic in topics {
        let told = async {
            let mut conn = app.db.read().await?;
            if topics::is_told(&mut conn, &topic).await? {
                return Ok(());
            }
            let waiting = topics::waiting(&mut conn, &topic).await?;
            drop(conn);
            change!(app, Class::Background, |conn, moment| topics::tell(conn, moment, &topic, waiting).await)
        };
        if let Err(error) = told.await {
            app.heed(&error);
            tracing::warn!(%error, topic, "a topic without a credential cannot be told of; the next device tries again");
        }
    }
}

impl Kind for Checkins {
    type Item = Arrival;
    type Outcome = Answer;

    fn key(item: &Arrival) -> String {
        item.checkin.from.id.clone()
    }

    async fn commit(&self, items: &[Arrival]) -> Result<Vec<Answer>> {
        let config = &self.app.config;
        let rules = Rules {
            devices_per_user: config.limits.devices_per_user,
            known_certificate: config.mdm.require_known_certificate,
            reenrollment: config.mdm.allow_reenrollment,
            refresh_every_s: config.mdm.refresh_every_s,
            network_users: config.mdm.network_users,
        };
        let mut moment = self.app.clock.moment();
        let mut conn = self.app.db.begin(Class::Results).await?;
        let mut answers = Vec::with_capacity(items.len());
        for item in items {
            match mdm::checkin(&mut conn, &mut moment, &self.app.seal, rules, item).await {
                Ok(answer) => answers.push(answer),
                Err(error) => {
                    // The error at hand says more than a failure to undo.
                    conn.rollback().await.ok();
                    return Err(error);
                }
            }
        }
        conn.commit().await?;
        self.app.bells.ring();
        self.uncalled(items, &answers);
        Ok(answers)
    }

    fn heed(&self, error: &Error) {
        self.app.heed(error);
    }

    fn split(_item: &Arrival) -> Option<(Arrival, Arrival)> {
        None
    }

    fn join(_first: Answer, second: Answer) -> Answer {
        second
    }

    fn without_poison(_item: &Arrival) -> Option<Arrival> {
        None
    }
}
