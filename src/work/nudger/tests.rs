//! Days of a fleet with a moved clock: the real pass, the real intake, and the stand-in for FCM on the wire.

use futures_util::future::join_all;

use super::*;
use crate::app::Workers;
use crate::clock::Clock;
use crate::intake::contacts::{Contact, Heard, Said};
use crate::model::schedule::{PERIOD_S, next_point_ms};
use crate::protocol::agent::parse_sync;
use crate::push::fcm::Settings;
use crate::sim::fcm::{PROJECT, Push, StandIn};
use crate::store::Db;
use crate::store::contacts::Way;
use crate::store::testing::fleet::{Member, chi_square, fleet, numbers};
use crate::store::testing::{TOKEN_HASH, each_database, number};
use crate::store::wakes::Raise;

const START_MS: i64 = 1_800_000_000_000;
const STEP_MS: i64 = 60_000;
const PERIOD_MS: i64 = PERIOD_S * 1000;
/// Slots of a lap whose loads are compared.
const SLOTS: usize = 36;
/// With 35 degrees of freedom 99.99 % of even spreads stay under this.
const CHI_MAX: f64 = 75.0;

/// A server process without listeners, its senders, and what it sends to.
struct Site {
    app: App,
    clock: Clock,
    stand_in: StandIn,
    _workers: Workers,
}

impl Site {
    async fn new(db: &Db) -> Site {
        db.hasten().await;
        rustls::crypto::ring::default_provider().install_default().ok();
        let clock = Clock::moved(START_MS, 7);
        let stand_in = StandIn::start(clock.clone()).await.unwrap();
        Site::again(db, clock, stand_in)
    }

    /// Another process on the same database.
    fn again(db: &Db, clock: Clock, stand_in: StandIn) -> Site {
        let settings = Settings { endpoint: stand_in.endpoint(), ..Settings::default() };
        let sender = Sender::fcm(settings, clock.clone()).unwrap();
        sender.replace_credential(&stand_in.service_account()).unwrap();
        let (app, committers) = App::for_tests_with(db, &clock, vec![Arc::new(sender)]);
        let mut workers = Workers::default();
        committers.start(&app, &CancellationToken::new(), &mut workers);
        Site { app, clock, stand_in, _workers: workers }
    }

    /// Passes until nothing more can be claimed at this instant, with every answer written back.
    async fn settle(&self) {
        let (sender, mut receiver) = mpsc::channel(ANSWERS_WAITING_MAX);
        let flights = Flights::here();
        while pass(&self.app, Lanes::All, &flights, &sender).await.unwrap() > 0 {}
        flights.landed().await;
        drop(sender);
        let mut group = Vec::new();
        while receiver.recv_many(&mut group, answers::ANSWERS_MAX).await > 0 {
            answers::write_group(&self.app, &group).await.unwrap();
            group.clear();
        }
    }
}

/// A phone of the simulated fleet.
struct Phone {
    member: Member,
    pushes: mpsc::Receiver<Push>,
    /// When an Android agent comes by itself.
    own_ms: Option<i64>,
    /// Since when a push that it never saw is to be made good.
    lost_ms: Option<i64>,
}

impl Phone {
    fn new(site: &Site, member: Member) -> Phone {
        let address = member.channel_id.to_string();
        site.stand_in.register_as(&address, PROJECT, None);
        let own_ms = (member.lazy == 1).then(|| next_point_ms(START_MS, member.phase_s));
        Phone { pushes: site.stand_in.connect(&address), member, own_ms, lost_ms: None }
    }

    /// Whether it comes now, and for what. A push of `loss` in a hundred never reaches it; the next must come within three hours.
    fn wakes(&mut self, now_ms: i64, loss: i64, chance: &mut Moment) -> Option<&'static str> {
        let mut cause = None;
        while self.pushes.try_recv().is_ok() {
            if let Some(since_ms) = self.lost_ms.take() {
                assert!(now_ms - since_ms <= PERIOD_MS + 2 * STEP_MS, "a lost nudge was made good after {} s", (now_ms - since_ms) / 1000);
            }
            if chance.below(100) < loss {
                self.lost_ms = Some(now_ms);
            } else {
                cause = Some("push");
            }
        }
        if self.own_ms.is_some_and(|own_ms| own_ms <= now_ms) {
            cause = Some("periodic");
        }
        if cause.is_some() {
            self.lost_ms = None;
        }
        assert!(self.lost_ms.is_none_or(|since_ms| now_ms - since_ms <= PERIOD_MS + 2 * STEP_MS), "a lost nudge was never made good");
        cause
    }

    async fn come(&mut self, site: &Site, cause: &str) {
        let sync = parse_sync(format!(r#"{{"cause": "{cause}"}}"#).as_bytes()).unwrap();
        let said = Said::Sync(Box::new(sync));
        let heard = site
            .app
            .intake
            .contact(Contact { device_id: self.member.id, way: Way::Agent, token_hash: TOKEN_HASH.into(), said })
            .await
            .unwrap();
        let Heard::Sync(answer) = heard else { panic!("the phone was not admitted") };
        if self.member.lazy == 1 {
            self.own_ms = Some(site.clock.now_ms() + answer.next_sync_in_s * 1000);
        }
    }
}

/// The loads of laps: how many phones came in each slot.
struct Day {
    site: Site,
    phones: Vec<Phone>,
    chance: Moment,
    slots: [u32; SLOTS],
}

impl Day {
    async fn new(db: &Db, android: usize, ios: usize) -> Day {
        let site = Site::new(db).await;
        let members = fleet(db, &site.clock, android, ios).await;
        let phones = members.into_iter().map(|member| Phone::new(&site, member)).collect();
        Day { site, phones, chance: Moment::fixed(START_MS, 9), slots: [0; SLOTS] }
    }

    /// Lives on for so long. Answers how many pushes left.
    async fn live(&mut self, for_ms: i64, loss: i64) -> u64 {
        let before = self.site.stand_in.counts().accepted;
        for _ in 0..for_ms / STEP_MS {
            self.site.clock.advance(STEP_MS);
            self.step(loss).await;
        }
        self.site.stand_in.counts().accepted - before
    }

    async fn step(&mut self, loss: i64) {
        let now_ms = self.site.clock.now_ms();
        self.site.settle().await;
        let mut coming = Vec::new();
        for phone in &mut self.phones {
            if let Some(cause) = phone.wakes(now_ms, loss, &mut self.chance) {
                coming.push(phone.come(&self.site, cause));
            }
        }
        let slot = usize::try_from((now_ms - 1).rem_euclid(PERIOD_MS) * SLOTS as i64 / PERIOD_MS).unwrap();
        self.slots[slot] += u32::try_from(coming.len()).unwrap();
        join_all(coming).await;
    }

    /// The load of the lap that has just passed was even.
    fn even(&mut self, when: &str) {
        let slots = std::mem::replace(&mut self.slots, [0; SLOTS]);
        let mean = f64::from(slots.iter().sum::<u32>()) / SLOTS as f64;
        let chi = chi_square(&slots);
        assert!(chi < CHI_MAX, "{when}: chi-square {chi} of {slots:?}");
        let most = f64::from(*slots.iter().max().unwrap());
        assert!(most <= mean + 4.5 * mean.sqrt(), "{when}: {most} in one slot, {mean} on average");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_of_a_fleet_is_even_heals_lost_nudges_and_stays_even_after_an_outage_of_four_hours() {
    const ANDROID: usize = 400;
    const IOS: usize = 400;
    each_database(async |db| {
        let mut day = Day::new(&db, ANDROID, IOS).await;
        for lap in 0..3 {
            let pushes = day.live(PERIOD_MS, if lap == 0 { 0 } else { 5 }).await;
            day.even(&format!("lap {lap}"));
            // Android agents come by themselves and cost no push.
            assert!((IOS as u64 * 9 / 10..=IOS as u64 * 11 / 10).contains(&pushes), "{pushes} pushes in lap {lap}");
        }
        // Everybody is called at once, and comes at once; the laps after it are as even as those before.
        let ids: Vec<Raise> = day.phones.iter().map(|phone| Raise { channel_id: phone.member.channel_id, lane: Lane::Bulk }).collect();
        change!(day.site.app, Class::Operators, |conn, moment| wakes::raise(conn, &ids, moment.now_ms).await).unwrap();
        day.phones.iter_mut().for_each(|phone| phone.lost_ms = None);
        day.live(20 * STEP_MS, 0).await;
        let came = day.slots.iter().sum::<u32>();
        assert!(came >= u32::try_from(ANDROID + IOS).unwrap(), "only {came} came for the change");
        day.live(PERIOD_MS - 20 * STEP_MS, 0).await;
        day.slots = [0; SLOTS];
        day.live(PERIOD_MS, 0).await;
        day.even("the lap after a change for all");
        // Four hours without a server; agents that knock in vain come again at their next point.
        day.site.clock.advance(4 * 3_600_000);
        let now_ms = day.site.clock.now_ms();
        for phone in &mut day.phones {
            phone.own_ms = phone.own_ms.map(|_| next_point_ms(now_ms, phone.member.phase_s));
            phone.lost_ms = None;
        }
        day.site = Site::again(&db, day.site.clock.clone(), day.site.stand_in.clone());
        let at_once = {
            let before = day.site.stand_in.counts().accepted;
            day.step(0).await;
            day.site.stand_in.counts().accepted - before
        };
        assert!(at_once <= 2, "{at_once} nudges in the instant of the restart");
        let first = day.live(10 * STEP_MS, 0).await;
        let fair = (IOS as i64 * 10 * STEP_MS) as f64 / PERIOD_MS as f64;
        assert!(first as f64 <= 1.5 * fair + 2.0 * fair.sqrt(), "{first} nudges in the first ten minutes, {fair} are fair");
        day.live(PERIOD_MS - 10 * STEP_MS, 0).await;
        day.even("the lap after the outage");
        assert_eq!(number(&db, "SELECT COUNT(*) FROM wakes WHERE unanswered > 0").await, 0, "everybody came");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_of_fifty_thousand_overdue_channels_is_no_herd_at_the_restart() {
    const FLEET: usize = 50_000;
    let per_minute = (FLEET as i64 * 60 / PERIOD_S) as f64;
    each_database(async |db| {
        let site = Site::new(&db).await;
        for member in fleet(&db, &site.clock, 0, FLEET).await {
            site.stand_in.register_as(&member.channel_id.to_string(), PROJECT, None);
        }
        site.clock.advance(4 * 3_600_000);
        let site = Site::again(&db, site.clock.clone(), site.stand_in.clone());
        site.settle().await;
        assert_eq!(site.stand_in.counts().accepted, 0, "nobody is called in the instant of the restart");
        let restart_ms = site.clock.now_ms();
        let due = numbers(&db, "SELECT due_at_ms FROM wakes").await;
        let mut slots = [0_u32; SLOTS];
        for due_ms in &due {
            let after_ms = due_ms - restart_ms;
            assert!((1..=PERIOD_MS).contains(&after_ms), "due {after_ms} ms after the restart");
            slots[usize::try_from((after_ms - 1) * SLOTS as i64 / PERIOD_MS).unwrap()] += 1;
        }
        assert!(chi_square(&slots) < CHI_MAX, "{slots:?}");
        let mut seconds = Vec::new();
        for _ in 0..60 {
            let before = site.stand_in.counts().accepted;
            site.clock.advance(1000);
            site.settle().await;
            seconds.push(site.stand_in.counts().accepted - before);
        }
        let sum: u64 = seconds.iter().sum();
        assert!(sum as f64 <= 1.5 * per_minute && sum as f64 >= 0.5 * per_minute, "{sum} in the first minute, {per_minute} are fair");
        let mean = per_minute / 60.0;
        assert!(seconds.iter().all(|n| *n as f64 <= mean + 6.0 * mean.sqrt()), "{seconds:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_phone_that_comes_between_its_claim_and_its_call_is_not_called() {
    each_database(async |db| {
        let site = Site::new(&db).await;
        let mut phones: Vec<Phone> = fleet(&db, &site.clock, 0, 2).await.into_iter().map(|member| Phone::new(&site, member)).collect();
        let raises: Vec<Raise> = phones.iter().map(|phone| Raise { channel_id: phone.member.channel_id, lane: Lane::Urgent }).collect();
        change!(site.app, Class::Operators, |conn, moment| wakes::raise(conn, &raises, moment.now_ms).await).unwrap();
        let sender = site.app.senders.all()[0].clone();
        let leased = lease(&site.app, sender.name(), &[(Lane::Urgent, 10)], 10).await.unwrap();
        assert_eq!(leased.wakes.len(), 2);
        phones[0].come(&site, "launch").await;
        let (answers, mut outcomes) = mpsc::channel(10);
        let flights = Flights::here();
        launch(&site.app, &sender, leased, &flights, &answers).await.unwrap();
        flights.landed().await;
        drop(answers);
        let mut group = Vec::new();
        while outcomes.recv_many(&mut group, 10).await > 0 {}
        answers::write_group(&site.app, &group).await.unwrap();
        assert!(phones[1].pushes.try_recv().is_ok(), "who has not come is called");
        assert!(phones[0].pushes.try_recv().is_err(), "who has come is not");
        assert_eq!(site.stand_in.counts().accepted, 1);
        assert_eq!(number(&db, "SELECT COUNT(*) FROM wakes WHERE lease_id IS NOT NULL").await, 0, "both leases have ended");
        // It goes on as its contact said: at its next point.
        let point_ms = next_point_ms(site.clock.now_ms(), phones[0].member.phase_s);
        assert_eq!(numbers(&db, "SELECT due_at_ms FROM wakes WHERE lane = 4").await, [point_ms]);
    })
    .await;
}

#[tokio::test]
async fn however_little_may_be_sent_each_lane_gets_its_share() {
    each_database(async |db| {
        let site = Site::new(&db).await;
        let members = fleet(&db, &site.clock, 1_000, 0).await;
        let raises: Vec<Raise> = members
            .iter()
            .enumerate()
            .map(|(n, member)| Raise { channel_id: member.channel_id, lane: Lane::ALL[n % Lane::ALL.len()] })
            .collect();
        change!(site.app, Class::Operators, |conn, moment| wakes::raise(conn, &raises, moment.now_ms).await).unwrap();
        let sender = site.app.senders.all().remove(0);
        let (answers, _waiting) = mpsc::channel(ANSWERS_WAITING_MAX);
        let flights = Flights::here();
        for _ in 0..200 {
            // As many as a sender at the foot of its ramp may take.
            claim_and_send(&site.app, &sender, Lanes::All, (3, 0), &flights, &answers).await.unwrap();
        }
        let mut claimed = [0; Lane::ALL.len()];
        for lane in numbers(&db, "SELECT lane FROM wakes WHERE lease_id IS NOT NULL").await {
            claimed[usize::try_from(lane).unwrap()] += 1;
        }
        assert!(claimed.iter().all(|claims| *claims >= 5) && claimed[0] > claimed[2], "{claimed:?}");
    })
    .await;
}

/// A phone that comes before its provider's answer is written is counted as called, once, and is not waited for any more; a change that
/// comes meanwhile does not hide its nudge.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_phone_that_comes_before_the_answer_is_written_is_called_once_in_the_lane_of_its_nudge() {
    each_database(async |db| {
        let site = Site::new(&db).await;
        let mut phones: Vec<Phone> = fleet(&db, &site.clock, 0, 3).await.into_iter().map(|member| Phone::new(&site, member)).collect();
        let raise = async |phone: &Phone, lane: Lane| {
            let raises = [Raise { channel_id: phone.member.channel_id, lane }];
            change!(site.app, Class::Operators, |conn, moment| wakes::raise(conn, &raises, moment.now_ms).await).unwrap();
        };
        for phone in &phones {
            raise(phone, Lane::Change).await;
        }
        let sender = site.app.senders.all()[0].clone();
        let leased = lease(&site.app, sender.name(), &[(Lane::Change, 10)], 10).await.unwrap();
        let (answers, mut outcomes) = mpsc::channel(10);
        let flights = Flights::here();
        launch(&site.app, &sender, leased, &flights, &answers).await.unwrap();
        flights.landed().await;
        drop(answers);
        site.clock.advance(700);
        // Two come for their nudge, one of them twice, another of its own; a change overtakes the answer of each.
        let counted = async || numbers(&db, "SELECT after_nudge_ms FROM contact WHERE after_nudge_ms IS NOT NULL ORDER BY id").await;
        phones[0].come(&site, "push").await;
        phones[0].come(&site, "push").await;
        assert_eq!(counted().await, [700]);
        phones[1].come(&site, "launch").await;
        assert_eq!(counted().await, [700], "it came by itself in the same instant");
        raise(&phones[2], Lane::Urgent).await;
        let mut group = Vec::new();
        while outcomes.recv_many(&mut group, 10).await > 0 {}
        answers::write_group(&site.app, &group).await.unwrap();
        let lanes = "SELECT nudged_lane FROM wakes WHERE unanswered = 1 AND leased_lane IS NULL";
        assert_eq!(numbers(&db, lanes).await, [Lane::Change.rank()], "only the third is waited for, in the lane of its nudge");
        site.clock.advance(300);
        for phone in &mut phones {
            phone.come(&site, "push").await;
        }
        assert_eq!(counted().await, [700, 1000]);
        assert_eq!(number(&db, "SELECT COUNT(*) FROM wakes WHERE unanswered > 0").await, 0);
    })
    .await;
}
