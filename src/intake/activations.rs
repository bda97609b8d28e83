//! Activations, committed in groups: one after the other inside one transaction.

use super::group::Kind;
use crate::app::App;
use crate::config::Reactivation;
use crate::error::{Error, Result};
use crate::ops::activate::{self, Activation, Rules};
use crate::store::Class;

pub use crate::ops::activate::{Activation as Admission, Newcomer};

/// The activations' way of committing.
pub struct Activations {
    pub app: App,
}

impl Kind for Activations {
    type Item = Newcomer;
    type Outcome = Activation;

    fn key(item: &Newcomer) -> String {
        format!("{}/{}", item.request.device.app, item.request.device.hardware_id)
    }

    async fn commit(&self, items: &[Newcomer]) -> Result<Vec<Activation>> {
        let rules = Rules {
            devices_per_user: self.app.config.limits.devices_per_user,
            approve_reactivation: self.app.config.agent.reactivation == Reactivation::Approve,
        };
        let mut moment = self.app.clock.moment();
        let mut conn = self.app.db.begin(Class::Results).await?;
        let now_ms = moment.now_ms;
        let tell = |remote: &str, code: &'static str| self.app.refusals.tell(remote, code, now_ms);
        let outcomes = activate::activate_all(&mut conn, &mut moment, items, rules, &tell).await?;
        conn.commit().await?;
        self.app.bells.ring();
        Ok(outcomes)
    }

    fn heed(&self, error: &Error) {
        self.app.heed(error);
    }

    fn split(_item: &Newcomer) -> Option<(Newcomer, Newcomer)> {
        None
    }

    fn join(_first: Activation, second: Activation) -> Activation {
        second
    }

    fn without_poison(_item: &Newcomer) -> Option<Newcomer> {
        None
    }
}
