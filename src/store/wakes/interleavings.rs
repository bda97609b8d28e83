//! The schedule's promises under random interleavings of change, claim, answer and contact, on both databases.
//!
//! A thousand channels live at once, each its own random sequence; an epoch of eight steps of each is one interleaving.

use std::collections::HashMap;

use super::*;
use crate::clock::Moment;
use crate::model::schedule::{self, GAP_URGENT_MS, Rhythm, after_accepted, after_contact, after_failure};
use crate::store::testing::each_database;
use crate::store::{Class, Db};

const CHANNELS: usize = 1000;
const EPOCHS: usize = 100;
const STEPS: usize = 8;
const START_MS: i64 = 1_800_000_000_000;

#[derive(Default)]
struct Model {
    changed_ms: i64,
    came_ms: i64,
    sent_ms: Option<i64>,
    flying: Option<(Claimed, Id, i64)>,
    dead: bool,
    sends: i64,
}

struct World {
    db: Db,
    moment: Moment,
    models: HashMap<Id, Model>,
    ids: Vec<Id>,
}

impl World {
    async fn new(db: Db) -> World {
        let mut moment = Moment::fixed(START_MS, 42);
        let ids: Vec<Id> = (0..CHANNELS).map(|_| moment.id()).collect();
        let mut conn = db.begin(Class::Operators).await.unwrap();
        for id in &ids {
            let phase_s = schedule::phase_s(*id);
            sqlx::query(
                "INSERT INTO wakes (bucket, channel_id, sender, lane, due_at_ms, work_seq, open_work, urgent_open, step, attempt, fruitless, \
                 changed_at_ms, unanswered, high_day, high_count, gap_ms, phase_s, lazy) \
                 VALUES ($1, $2, 'fcm', 4, $3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, $4, 0)",
            )
            .bind(id.bucket())
            .bind(*id)
            .bind(schedule::next_point_ms(START_MS, phase_s))
            .bind(phase_s)
            .execute(conn.raw())
            .await
            .unwrap();
        }
        conn.commit().await.unwrap();
        let models = ids.iter().map(|id| (*id, Model::default())).collect();
        World { db, moment, models, ids }
    }

    fn some(&mut self, one_in: i64) -> Vec<Id> {
        let ids = self.ids.clone();
        ids.into_iter().filter(|_| self.moment.below(one_in) == 0).collect()
    }

    async fn change(&mut self, ids: &[Id]) {
        let now_ms = self.moment.now_ms;
        let raises: Vec<Raise> = ids
            .iter()
            .map(|id| Raise { channel_id: *id, lane: [Lane::Urgent, Lane::Change, Lane::Bulk][self.moment.below(3) as usize] })
            .collect();
        let mut conn = self.db.begin(Class::Operators).await.unwrap();
        raise(&mut conn, &raises, now_ms).await.unwrap();
        conn.commit().await.unwrap();
        for id in ids {
            self.models.get_mut(id).unwrap().changed_ms = now_ms;
        }
    }

    async fn claim_all(&mut self) {
        let now_ms = self.moment.now_ms;
        for lane in Lane::ALL {
            let lease_id = self.moment.id();
            let claim = Claim { sender: "fcm", lane, now_ms, lapses_at_ms: now_ms + schedule::LEASE_MS, lease_id, rows_max: 200 };
            let mut conn = self.db.begin(Class::Nudger).await.unwrap();
            let claimed = super::claim(&mut conn, &claim).await.unwrap();
            conn.commit().await.unwrap();
            for wake in claimed {
                let model = self.models.get_mut(&wake.channel_id).unwrap();
                assert!(!model.dead, "a dead address was claimed");
                if let Some((_, _, since_ms)) = &model.flying {
                    assert!(now_ms - since_ms >= schedule::LEASE_MS, "two nudges of one channel in flight");
                }
                if let Some(sent_ms) = model.sent_ms {
                    assert!(now_ms - sent_ms >= GAP_URGENT_MS, "a nudge {} ms after the last", now_ms - sent_ms);
                }
                model.sent_ms = Some(now_ms);
                model.sends += 1;
                model.flying = Some((wake, lease_id, now_ms));
            }
        }
    }

    /// Answers part of what flies; `lossy` leaves some to lapse and lets some fail or die.
    async fn answer_some(&mut self, lossy: bool) {
        let now_ms = self.moment.now_ms;
        let (mut rows, mut dead) = (Vec::new(), Vec::new());
        for id in self.ids.clone() {
            if lossy && self.moment.below(3) == 0 {
                continue;
            }
            let fate = if lossy { self.moment.below(20) } else { 0 };
            let jitter = self.moment.below(1000);
            let model = self.models.get_mut(&id).unwrap();
            let Some((wake, lease_id, since_ms)) = model.flying.take() else { continue };
            if fate == 19 {
                // The process died: nobody answers, the lease lapses.
                model.flying = Some((wake, lease_id, since_ms));
                continue;
            }
            let rhythm = Rhythm { phase_s: wake.phase_s, lazy: false, gap_ms: 0, last_serving_ms: Some(model.came_ms) };
            let lane = Lane::from_rank(wake.lane);
            let next = match fate {
                0..=13 => after_accepted(&rhythm, lane, wake.open_work == 1, wake.step, now_ms),
                14..=17 => after_failure(&rhythm, lane, wake.step, wake.attempt, None, jitter, now_ms),
                _ => {
                    dead.push(id);
                    model.dead = true;
                    after_accepted(&rhythm, lane, wake.open_work == 1, wake.step, now_ms)
                }
            };
            rows.push(Answered {
                bucket: id.bucket(),
                channel_id: id,
                lease_id,
                lane: next.lane.rank(),
                due_at_ms: next.due_at_ms,
                step: next.step,
                attempt: next.attempt,
                nudged_at_ms: Some(since_ms),
                accepted: 1,
                high_day: 0,
                high_count: 0,
            });
        }
        let mut conn = self.db.begin(Class::Nudger).await.unwrap();
        answer(&mut conn, &rows).await.unwrap();
        // The address dies with its channel row elsewhere; here its wake is what counts.
        for id in &dead {
            sqlx::query("UPDATE wakes SET sender = '', lease_id = NULL, next_due_ms = NULL WHERE bucket = $1 AND channel_id = $2")
                .bind(id.bucket())
                .bind(*id)
                .execute(conn.raw())
                .await
                .unwrap();
        }
        conn.commit().await.unwrap();
    }

    /// Channels come; work may appear between what a contact reads and what it writes.
    async fn come(&mut self, ids: &[Id], leaves_open: bool) {
        let now_ms = self.moment.now_ms;
        let mut conn = self.db.read().await.unwrap();
        let mut seen: HashMap<Id, (i64, Option<i64>)> = HashMap::new();
        for (id, seq, nudged) in sqlx::query_as::<_, (Id, i64, Option<i64>)>("SELECT channel_id, work_seq, nudged_at_ms FROM wakes")
            .fetch_all(conn.raw())
            .await
            .unwrap()
        {
            seen.insert(id, (seq, nudged));
        }
        drop(conn);
        let overtaken: Vec<Id> = ids.iter().copied().filter(|_| self.moment.below(4) == 0).collect();
        for id in ids {
            self.models.get_mut(id).unwrap().came_ms = now_ms;
        }
        self.moment.now_ms += 1;
        self.change(&overtaken).await;
        let mut resets = Vec::new();
        for id in ids {
            let (seq, nudged_at_ms) = seen[id];
            let rhythm = Rhythm { phase_s: schedule::phase_s(*id), lazy: false, gap_ms: 0, last_serving_ms: Some(now_ms) };
            let open: &[schedule::OpenWork] =
                if leaves_open { &[schedule::OpenWork { last_ms: now_ms, patience_ms: 600_000, urgent: false }] } else { &[] };
            let (lane, due_at_ms) = after_contact(&rhythm, open, 0, nudged_at_ms, now_ms);
            resets.push(Reset {
                bucket: id.bucket(),
                channel_id: *id,
                seen: seq,
                lane: lane.rank(),
                due_at_ms,
                open_work: i64::from(leaves_open),
                urgent_open: 0,
                fruitless: 0,
            });
        }
        let mut conn = self.db.begin(Class::Contacts).await.unwrap();
        let done = reset(&mut conn, &resets).await.unwrap();
        conn.commit().await.unwrap();
        assert_eq!(done, (ids.len() - overtaken.len()) as u64, "exactly the contacts that were overtaken leave the schedule alone");
    }

    /// Dead channels register a new address.
    async fn register(&mut self) {
        let ids: Vec<Id> = self.ids.iter().copied().filter(|id| self.models[id].dead).collect();
        let now_ms = self.moment.now_ms;
        let rows: Vec<Readdress> = ids.iter().map(|id| Readdress { bucket: id.bucket(), channel_id: *id, sender: "fcm".into() }).collect();
        let mut conn = self.db.begin(Class::Contacts).await.unwrap();
        readdress(&mut conn, &rows, now_ms).await.unwrap();
        conn.commit().await.unwrap();
        for id in ids {
            let model = self.models.get_mut(&id).unwrap();
            model.dead = false;
            model.flying = None;
        }
    }

    fn check_counts(&self) {
        let elapsed_ms = self.moment.now_ms - START_MS;
        for model in self.models.values() {
            assert!(model.sends <= 1 + elapsed_ms / GAP_URGENT_MS, "{} sends in {elapsed_ms} ms", model.sends);
        }
    }
}

async fn live(db: Db) {
    let mut world = World::new(db).await;
    for _ in 0..EPOCHS {
        for _ in 0..STEPS {
            world.moment.now_ms += [1, 900, 7_000, 61_000, 600_000][world.moment.below(5) as usize];
            match world.moment.below(5) {
                0 => {
                    let ids = world.some(4);
                    world.change(&ids).await;
                }
                1 | 2 => world.claim_all().await,
                3 => world.answer_some(true).await,
                _ => {
                    let ids = world.some(6);
                    let leaves_open = world.moment.below(2) == 0;
                    world.come(&ids, leaves_open).await;
                }
            }
        }
        world.register().await;
        world.check_counts();
    }
    // From here nothing new happens: within a day everybody whose last change is unseen must be called after it.
    for _ in 0..200 {
        world.moment.now_ms += 450_000;
        world.claim_all().await;
        world.answer_some(false).await;
    }
    for (id, model) in &world.models {
        let answered = model.came_ms >= model.changed_ms || model.sent_ms.is_some_and(|sent| sent >= model.changed_ms);
        assert!(answered, "channel {id}: changed at {}, came at {}, nudged at {:?}", model.changed_ms, model.came_ms, model.sent_ms);
    }
}

#[tokio::test]
async fn no_wake_up_is_lost_and_no_channel_is_called_twice_at_once() {
    each_database(live).await;
}
