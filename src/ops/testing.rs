//! What the tests of this folder share: a server's database with its clock, and phones that knock.

use serde_json::{Value, json};

use crate::clock::Clock;
use crate::error::Result;
use crate::model::token::Secret;
use crate::model::{Actor, Id, Role};
use crate::ops::activate::{Activation, Newcomer, Rules, activate_all};
use crate::ops::users::{NewUser, User, UserPatch};
use crate::ops::{devices as device_ops, tokens as token_ops, users as user_ops};
use crate::store::Db;
use crate::store::testing::number;

pub(crate) const START_MS: i64 = 1_800_000_000_000;
pub(crate) const HOUR_MS: i64 = 3_600_000;
pub(crate) const RULES: Rules = Rules { devices_per_user: 0, approve_reactivation: false };

/// A server's database with its clock, as activation meets it.
pub(crate) struct Door {
    pub(crate) db: Db,
    pub(crate) clock: Clock,
    pub(crate) actor: Actor,
    pub(crate) rules: Rules,
}

/// Does something in one transaction of its own and commits it.
macro_rules! commit {
    ($door:expr, |$conn:ident, $moment:ident| $work:expr) => {{
        let mut held = $door.db.begin(crate::store::Class::Operators).await.unwrap();
        let mut at = $door.clock.moment();
        let ($conn, $moment) = (&mut held, &mut at);
        let done = $work;
        held.commit().await.unwrap();
        done
    }};
}
pub(crate) use commit;

impl Door {
    pub(crate) fn new(db: Db) -> Door {
        let actor = Actor { name: "key:test".into(), role: Role::Operator, person: false };
        Door { db, clock: Clock::moved(START_MS, 1), actor, rules: RULES }
    }

    pub(crate) async fn user(&self, email: &str) -> User {
        let new: NewUser = serde_json::from_value(json!({"email": email, "name": "A user"})).unwrap();
        commit!(self, |conn, moment| user_ops::create(conn, moment, &self.actor, &new).await.unwrap())
    }

    pub(crate) async fn change_user(&self, id: Id, patch: Value) {
        let patch: UserPatch = serde_json::from_value(patch).unwrap();
        commit!(self, |conn, moment| user_ops::change(conn, moment, &self.actor, id, &patch).await.unwrap());
    }

    /// A token's id and value.
    pub(crate) async fn token(&self, more: Value) -> (Id, String) {
        let mut new = json!({"name": "a token"});
        new.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let new = serde_json::from_value(new).unwrap();
        let made = commit!(self, |conn, moment| token_ops::create(conn, moment, &self.actor, &new).await.unwrap());
        (made.id, made.token.unwrap())
    }

    pub(crate) async fn uses(&self, token: Id) -> i64 {
        token_ops::get(&mut self.db.read().await.unwrap(), token, self.clock.now_ms()).await.unwrap().uses
    }

    pub(crate) async fn knock(&self, newcomer: &Newcomer) -> Activation {
        let all = std::slice::from_ref(newcomer);
        commit!(self, |conn, moment| activate_all(conn, moment, all, self.rules, &|_, _| true).await.unwrap()).remove(0)
    }

    pub(crate) async fn admitted(&self, newcomer: &Newcomer) -> (Id, Secret) {
        match self.knock(newcomer).await {
            Activation::Admitted { device_id, device_token, .. } => (device_id, device_token),
            Activation::Refused { code, .. } => panic!("refused: {code}"),
        }
    }

    pub(crate) async fn refused(&self, newcomer: &Newcomer) -> &'static str {
        let before = number(&self.db, "SELECT COALESCE(CAST(SUM(uses) AS BIGINT), 0) FROM enrollment_token").await;
        let outcome = self.knock(newcomer).await;
        let after = number(&self.db, "SELECT COALESCE(CAST(SUM(uses) AS BIGINT), 0) FROM enrollment_token").await;
        assert_eq!(before, after, "a refusal uses nothing up");
        match outcome {
            Activation::Refused { code, .. } => code,
            Activation::Admitted { .. } => panic!("admitted"),
        }
    }

    pub(crate) async fn device(&self, id: Id) -> device_ops::Device {
        device_ops::view(&mut self.db.read().await.unwrap(), id).await.unwrap()
    }

    pub(crate) async fn credentials(&self, device: Id) -> crate::store::channels::Credentials {
        crate::store::channels::credentials(&mut self.db.read().await.unwrap(), device).await.unwrap().unwrap()
    }

    /// The one device that waits for an operator.
    pub(crate) async fn parked(&self) -> Id {
        let search = crate::store::search::Search { state: Some("pending_approval".into()), ..Default::default() };
        let found = crate::store::search::devices(&mut self.db.read().await.unwrap(), &search, 10).await.unwrap();
        assert_eq!(found.len(), 1);
        found[0]
    }

    pub(crate) async fn authorize(&self, id: Id) -> Result<device_ops::Device> {
        commit!(self, |conn, moment| device_ops::authorize(conn, moment, &self.actor, id).await)
    }
}

pub(crate) fn phone(hardware: &str, email: &str, token: &str) -> Newcomer {
    let request = json!({"token": token, "email": email, "device": {
        "platform": "android", "app": "org.example.agent", "hardware_id": hardware, "serial": format!("S-{hardware}"), "model": "Model",
        "os_version": "15", "agent_version": "1", "management_mode": "device_owner",
    }, "push": {"provider": "fcm", "kind": "token", "value": format!("push-{hardware}")}});
    Newcomer { request: serde_json::from_value(request).unwrap(), bearer: None, remote: "192.0.2.1".into() }
}

pub(crate) fn with_bearer(mut newcomer: Newcomer, secret: &Secret) -> Newcomer {
    newcomer.request.token = None;
    newcomer.bearer = Some(Secret::given(secret.reveal()));
    newcomer
}
