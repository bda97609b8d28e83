//! Apple devices' check-in messages, committed in groups: one after the other inside one transaction.

use super::group::Kind;
use crate::app::App;
use crate::error::{Error, Result};
use crate::ops::mdm::{self, Rules};
use crate::store::Class;

pub use crate::ops::mdm::{Answer, Arrival, Credential, Issued};

/// The check-ins' way of committing.
pub struct Checkins {
    pub app: App,
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
