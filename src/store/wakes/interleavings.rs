//! The schedule's promises under random interleavings of change, claim, answer and contact, on both databases.
//!
//! A thousand channels live at once, each its own random sequence; an epoch of eight steps of each is one interleaving.

use std::collections::HashMap;

use super::*;
use crate::clock::{Clock, Moment};
use crate::model::schedule::{self, GAP_URGENT_MS, Rhythm, after_accepted, after_contact, after_failure};
use crate::store::testing::each_database;
use crate::store::testing::fleet::fleet;
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
    quarantined: bool,
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
        db.hasten().await;
        let moment = Moment::fixed(START_MS, 42);
        let ids: Vec<Id> = fleet(&db, &Clock::moved(START_MS, 42), 0, CHANNELS).await.into_iter().map(|member| member.channel_id).collect();
        // The gap is that of the lane.
        let mut conn = db.begin(Class::Operators).await.unwrap();
        sqlx::query("UPDATE wakes SET gap_ms = 0").execute(conn.raw()).await.unwrap();
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
                assert!(!model.dead && !model.quarantined, "a dead address was claimed");
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
        let (mut rows, mut dead, mut suspect) = (Vec::new(), Vec::new(), Vec::new());
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
                14..=16 => after_failure(&rhythm, lane, wake.step, wake.attempt, None, jitter, now_ms),
                _ => {
                    if fate == 17 {
                        suspect.push(id)
                    } else {
                        dead.push(id)
                    }
                    (model.quarantined, model.dead) = (fate == 17, fate == 18);
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
                told_seq: wake.work_seq,
                high_day: 0,
                high_count: 0,
            });
        }
        let mut conn = self.db.begin(Class::Nudger).await.unwrap();
        answer(&mut conn, &rows).await.unwrap();
        conn.commit().await.unwrap();
        for (state, ids) in [("dead", dead), ("quarantined", suspect)] {
            let mut conn = self.db.begin(Class::Nudger).await.unwrap();
            let addresses = died(&mut conn, &ids).await;
            kill(&mut conn, state, &addresses, now_ms).await.unwrap();
            conn.commit().await.unwrap();
        }
    }

    /// Quarantined addresses come back, a few at a time, while answers of others are still under way.
    async fn restore_some(&mut self, rows_max: i64) {
        let now_ms = self.moment.now_ms;
        let mut conn = self.db.begin(Class::Nudger).await.unwrap();
        restore(&mut conn, "fcm", "fcm", Restored::Since(0), rows_max, now_ms).await.unwrap();
        let left: Vec<Id> =
            sqlx::query_scalar("SELECT id FROM channel WHERE push_state = 'quarantined'").fetch_all(conn.raw()).await.unwrap();
        conn.commit().await.unwrap();
        for (id, model) in &mut self.models {
            model.quarantined &= left.contains(id);
        }
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
        for id in &ids {
            sqlx::query("UPDATE channel SET push_state = 'active' WHERE bucket = $1 AND id = $2")
                .bind(id.bucket())
                .bind(*id)
                .execute(conn.raw())
                .await
                .unwrap();
        }
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
            match world.moment.below(6) {
                0 => {
                    let ids = world.some(4);
                    world.change(&ids).await;
                }
                1 | 2 => world.claim_all().await,
                3 => world.answer_some(true).await,
                4 => {
                    let rows_max = 1 + world.moment.below(20);
                    world.restore_some(rows_max).await;
                }
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
    world.restore_some(i64::try_from(CHANNELS).unwrap()).await;
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

/// The addresses of these channels, as they are registered now.
pub(super) async fn died(conn: &mut Conn, ids: &[Id]) -> Vec<Died> {
    let mut addresses = Vec::with_capacity(ids.len());
    for channel_id in ids.iter().copied() {
        let text = "SELECT push_value, push_since_ms FROM channel WHERE id = $1";
        let (value, since_ms) = sqlx::query_as(text).bind(channel_id).fetch_one(conn.raw()).await.unwrap();
        addresses.push(Died { channel_id, value, since_ms });
    }
    addresses
}

/// A fleet whose addresses were set aside by our own fault comes back: none before its gap, none all at once.
async fn herd(db: Db) {
    let mut world = World::new(db).await;
    let now_ms = START_MS + 5_000;
    let half: Vec<Id> = world.ids.iter().copied().step_by(2).collect();
    let raises: Vec<Raise> = half.iter().map(|id| Raise { channel_id: *id, lane: Lane::Change }).collect();
    let mut conn = world.db.begin(Class::Operators).await.unwrap();
    let addresses = died(&mut conn, &world.ids).await;
    raise(&mut conn, &raises, START_MS).await.unwrap();
    sqlx::query("UPDATE wakes SET nudged_at_ms = $1").bind(START_MS).execute(conn.raw()).await.unwrap();
    kill(&mut conn, "quarantined", &addresses, START_MS).await.unwrap();
    // One device registers anew before it is restored, and its nudge is under way.
    let newcomer = half[0];
    sqlx::query("UPDATE channel SET push_state = 'active' WHERE id = $1").bind(newcomer).execute(conn.raw()).await.unwrap();
    readdress(&mut conn, &[Readdress { bucket: newcomer.bucket(), channel_id: newcomer, sender: "fcm".into() }], now_ms).await.unwrap();
    while restore(&mut conn, "fcm", "fcm", Restored::Since(START_MS), 100, now_ms).await.unwrap() > 0 {}
    let due: Vec<(Id, i64, i64)> =
        sqlx::query_as("SELECT channel_id, open_work, due_at_ms FROM wakes WHERE sender = 'fcm'").fetch_all(conn.raw()).await.unwrap();
    conn.commit().await.unwrap();
    assert_eq!(due.len(), CHANNELS);
    let mut minutes = [0; 11];
    for (id, open_work, due_ms) in due {
        if open_work == 0 {
            assert_eq!(due_ms, schedule::next_point_ms(now_ms, schedule::phase_s(id)), "what has nothing open waits for its point");
        } else if id != newcomer {
            assert!(due_ms >= START_MS + schedule::GAP_MS, "{} ms after the last nudge", due_ms - START_MS);
            minutes[usize::try_from((due_ms - now_ms) / 60_000).unwrap()] += 1;
        }
    }
    // The gap holds the first minute's back into the second.
    assert!(minutes[1..].iter().all(|n| *n <= 110), "{minutes:?}");
    world.moment.now_ms = now_ms;
}

#[tokio::test]
async fn a_restored_fleet_keeps_its_gaps_and_is_no_herd() {
    each_database(herd).await;
}

#[tokio::test]
async fn no_wake_up_is_lost_and_no_channel_is_called_twice_at_once() {
    each_database(live).await;
}
