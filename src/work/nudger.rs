//! The nudger: claims due wakes, sends their nudges, writes the answers back in groups.

mod answers;
mod flights;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use self::flights::Flights;
use crate::app::App;
use crate::change;
use crate::clock::Moment;
use crate::error::Result;
use crate::model::schedule::{HIGH_PER_DAY_MAX, LATE_MS, LEASE_JITTER_MS, LEASE_MS, Rhythm, expires_at_ms};
use crate::model::{Id, Lane};
use crate::ops::alarms::{self, PUSH_FAULT};
use crate::ops::mdm::checkin::magic_name;
use crate::push::{Address, AddressKind, Answer, Notice, Nudge, Sender, Trip};
use crate::store::wakes::{self, Claim, Claimed, Restored, Target};
use crate::store::{Class, Conn};
use crate::telemetry::Seldom;

/// How often due wakes are looked for when no bell rings: other processes' changes are seen then.
const TICK: Duration = Duration::from_millis(200);
/// After a look at the queue it hears no bell for so long: under load one look serves the bells of many commits.
const REST: Duration = Duration::from_millis(10);
/// Looks for urgent wakes alone, each after a rest, that follow one which found a few: meanwhile others gather. A claim and its answers cost
/// the database nearly the same for a hundred as for ten, and SQLite has one writer.
const URGENT_LOOKS: usize = 5;
/// How often it is seen to it that there are connections for the next nudge.
const WARM_EVERY: Duration = Duration::from_secs(1);
/// Fewer are a few.
const FEW: usize = CLAIM_MAX / 2;
/// Wakes claimed in one statement.
const CLAIM_MAX: usize = 500;
/// Overdue wakes spread in one statement.
const SPREAD_MAX: i64 = 500;
/// Answers that may wait for the database: more than any sender's claims.
const ANSWERS_WAITING_MAX: usize = 65_536;
/// What each lane gets of a sender's capacity when all are full, in per cent, best lane first.
const SHARES: [usize; 5] = [50, 25, 15, 5, 5];
/// Tokens given back in one statement when the fault was ours.
const RESTORE_MAX: i64 = 500;
const DAY_MS: i64 = 86_400_000;
/// Users of a device are called at their points for so long after they were there.
const USER_SEEN_MS: i64 = 2 * DAY_MS;

/// What happened to one claimed wake.
struct Outcome {
    wake: Claimed,
    lease_id: Id,
    sent: Sent,
}

enum Sent {
    /// There is nothing to be called for, or the device had come before: nothing was sent; the schedule goes on.
    Saved { rhythm: Rhythm },
    /// Its secret does not open under this server's key.
    Unsealed { due_ms: i64 },
    Answered {
        answer: Answer,
        rhythm: Rhythm,
        high: bool,
        /// When it left; where it did not, when it was to leave.
        at_ms: i64,
        address: Address,
        /// When the channel had registered that address.
        registered_at_ms: i64,
        platform: String,
    },
}

/// Runs until `stop`; what is in flight then is written back before it ends.
pub async fn run(app: App, stop: CancellationToken) -> Result<()> {
    let (sender, receiver) = mpsc::channel(ANSWERS_WAITING_MAX);
    let writer = tokio::spawn(answers::write_back(app.clone(), receiver));
    let flights = Flights::aside();
    let mut warmed = Instant::now();
    while !stop.is_cancelled() {
        if warmed.elapsed() >= WARM_EVERY {
            warmed = Instant::now();
            for sender in app.senders.all() {
                flights.spawn(async move { sender.keep_warm() });
            }
        }
        let found = look(&app, Lanes::All, &flights, &sender).await;
        if found == 0 {
            tokio::select! {
                () = stop.cancelled() => {}
                () = async { tokio::time::sleep(REST).await; app.bells.wakes.notified().await } => {}
                () = tokio::time::sleep(TICK) => {}
            }
        } else if found < FEW {
            for _ in 0..URGENT_LOOKS {
                tokio::time::sleep(REST).await;
                look(&app, Lanes::Urgent, &flights, &sender).await;
            }
        }
    }
    flights.landed().await;
    drop(sender);
    // The writer ends once its last answer is written; a panic in it must not pass unseen.
    writer.await.map_err(|_| crate::error::Error::NotFound("answer writer"))
}

/// Which wakes a look is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lanes {
    All,
    Urgent,
}

/// One [`pass`]; one that fails is told, and has found nothing.
async fn look(app: &App, lanes: Lanes, flights: &Flights, answers: &mpsc::Sender<Outcome>) -> usize {
    match pass(app, lanes, flights, answers).await {
        Ok(found) => found,
        Err(error) => {
            app.heed(&error);
            static TOLD: Seldom = Seldom::new();
            if TOLD.is_time() {
                tracing::warn!(%error, "the nudge queue cannot be read; trying again");
            }
            0
        }
    }
}

/// Asks every sender: claims what it can take now and sets it flying. Answers how many wakes were claimed.
async fn pass(app: &App, lanes: Lanes, flights: &Flights, answers: &mpsc::Sender<Outcome>) -> Result<usize> {
    let mut found = 0;
    for sender in &app.senders.all() {
        // An alarm that cannot be written holds up no nudge.
        if let Err(error) = heed_notices(app, sender).await {
            app.heed(&error);
            static TOLD: Seldom = Seldom::new();
            if TOLD.is_time() {
                tracing::warn!(sender = sender.name(), %error, "what a sender has to tell cannot be written; trying again");
            }
        }
        let (capacity, express) = (sender.capacity().min(CLAIM_MAX), sender.express_capacity().min(CLAIM_MAX));
        if capacity + express > 0 {
            found += claim_and_send(app, sender, lanes, (capacity, express), flights, answers).await?;
        }
    }
    Ok(found)
}

/// Urgent wakes go first and by themselves: they neither wait for the claim of others nor for room that others take up.
async fn claim_and_send(
    app: &App,
    sender: &Arc<Sender>,
    wanted: Lanes,
    (capacity, express): (usize, usize),
    flights: &Flights,
    answers: &mpsc::Sender<Outcome>,
) -> Result<usize> {
    let now_ms = app.clock.now_ms();
    let mut conn = app.db.read().await?;
    let due = match wanted {
        Lanes::All => wakes::due_lanes(&mut conn, sender.name(), now_ms).await?,
        Lanes::Urgent => wakes::due_urgent(&mut conn, sender.name(), now_ms).await?.into_iter().collect(),
    };
    drop(conn);
    let (late, due): (Vec<_>, Vec<_>) = due.into_iter().partition(|(lane, oldest_ms)| may_wait(*lane) && now_ms - oldest_ms > LATE_MS);
    let mut lanes: Vec<Lane> = due.into_iter().map(|(lane, _)| lane).collect();
    let mut urgent = 0;
    if lanes.first() == Some(&Lane::Urgent) {
        let rows_max = share(capacity, Lane::Urgent, app.clock.moment().below(100)).max(express);
        urgent = claim(app, sender, &[(Lane::Urgent, rows_max)], rows_max, flights, answers).await?;
        if urgent < rows_max {
            lanes.remove(0);
        }
    }
    let spread = spread_late(app, sender, &late, now_ms).await?;
    // First each lane's share, then what is left over, best lane first.
    let left = capacity.saturating_sub(urgent);
    let mut moment = app.clock.moment();
    let shared = lanes
        .iter()
        .filter(|lane| **lane != Lane::Urgent && lanes.len() > 1)
        .map(|lane| (*lane, share(capacity, *lane, moment.below(100))));
    let wanted: Vec<(Lane, usize)> = shared.chain(lanes.iter().map(|lane| (*lane, left))).collect();
    Ok(urgent + spread + claim(app, sender, &wanted, left, flights, answers).await?)
}

/// What a lane gets of `capacity` when all are full. What is over a whole number is given by the throw of `die`, 0 to 99: however small the
/// capacity is, in the long run each lane gets its share, and none starves.
fn share(capacity: usize, lane: Lane, die: i64) -> usize {
    (capacity * SHARES[lane as usize] + usize::try_from(die).unwrap_or(0)) / 100
}

/// Claims up to `rows_max` wakes, of each lane as many as are wanted, and sets them flying. Answers how many.
async fn claim(
    app: &App,
    sender: &Arc<Sender>,
    wanted: &[(Lane, usize)],
    rows_max: usize,
    flights: &Flights,
    answers: &mpsc::Sender<Outcome>,
) -> Result<usize> {
    if rows_max == 0 || wanted.is_empty() {
        return Ok(0);
    }
    let leased = lease(app, sender.name(), wanted, rows_max).await?;
    let found = leased.wakes.len();
    if found > 0 {
        launch(app, sender, leased, flights, answers).await?;
    }
    Ok(found)
}

/// Wakes that are ours under one lease.
struct Leased {
    id: Id,
    wakes: Vec<Claimed>,
}

/// Leases up to `rows_max` due wakes in one transaction, of each lane as many as are wanted.
async fn lease(app: &App, sender: &str, wanted: &[(Lane, usize)], rows_max: usize) -> Result<Leased> {
    let mut moment = app.clock.moment();
    let mut leased = Leased { id: moment.id(), wakes: Vec::new() };
    let now_ms = moment.now_ms;
    let mut conn = app.db.begin(Class::Nudger).await?;
    for (lane, most) in wanted {
        let rows_max = (*most).min(rows_max - leased.wakes.len());
        if rows_max == 0 {
            continue;
        }
        let lapses_at_ms = now_ms + LEASE_MS + moment.below(LEASE_JITTER_MS);
        let rows_max = i64::try_from(rows_max).unwrap_or(0);
        let claim = Claim { sender, lane: *lane, now_ms, lapses_at_ms, lease_id: leased.id, rows_max };
        leased.wakes.extend(wakes::claim(&mut conn, &claim).await?);
    }
    conn.commit().await?;
    Ok(leased)
}

/// Sets leased wakes flying. Their targets are read only now, after the commit of the lease: who has come since is not called.
async fn launch(app: &App, sender: &Arc<Sender>, leased: Leased, flights: &Flights, answers: &mpsc::Sender<Outcome>) -> Result<()> {
    let ids: Vec<Id> = leased.wakes.iter().map(|wake| wake.channel_id).collect();
    let targets = wakes::targets(&mut app.db.read().await?, &ids, leased.id).await?;
    let mut targets: HashMap<Id, Target> = targets.into_iter().map(|target| (target.channel_id, target)).collect();
    for wake in leased.wakes {
        // A wake without a target lost its lease or its device meanwhile; its lease lapses by itself.
        if let Some(target) = targets.remove(&wake.channel_id) {
            let (app, sender, answers, lease_id) = (app.clone(), sender.clone(), answers.clone(), leased.id);
            flights.spawn(async move {
                let sent = fly(&app, &sender, &wake, target).await;
                // The receiver outlives every flight.
                answers.send(Outcome { wake, lease_id, sent }).await.ok();
            });
        }
    }
    Ok(())
}

/// The lanes whose calls may come later; what an operator ordered leaves as soon as the pace allows.
fn may_wait(lane: Lane) -> bool {
    matches!(lane, Lane::Retry | Lane::Periodic)
}

/// After hours in which nobody sent (the server was down, the provider broken) every channel is overdue. Called all at once they would
/// come all at once, and again three hours later; by their phases they come evenly from the first second. Answers how many were moved.
async fn spread_late(app: &App, sender: &Sender, late: &[(Lane, i64)], now_ms: i64) -> Result<usize> {
    let mut spread = 0;
    for (lane, _) in late {
        let mut conn = app.db.begin(Class::Nudger).await?;
        let rows = wakes::postpone(&mut conn, sender.name(), *lane, SPREAD_MAX, now_ms).await?;
        conn.commit().await?;
        metrics::counter!("muster_nudges_postponed_total", "provider" => sender.name().to_owned(), "lane" => lane.name()).increment(rows);
        spread += usize::try_from(rows).unwrap_or(0);
    }
    Ok(spread)
}

async fn fly(app: &App, sender: &Sender, wake: &Claimed, target: Target) -> Sent {
    let now_ms = app.clock.now_ms();
    let lane = Lane::from_rank(wake.lane);
    let rhythm = Rhythm { phase_s: wake.phase_s, lazy: wake.lazy == 1, gap_ms: wake.gap_ms, last_serving_ms: target.last_serving_ms };
    let idle = lane == Lane::Periodic && target.open_work == 0;
    if target.next_due_ms.is_some() || (idle && (rhythm.came_for_its_point(now_ms) || is_away(&target, now_ms))) {
        metrics::counter!("muster_nudges_saved_total", "provider" => sender.name().to_owned(), "lane" => lane.name()).increment(1);
        return Sent::Saved { rhythm };
    }
    let today = now_ms / DAY_MS;
    let used = if wake.high_day == today { wake.high_count } else { 0 };
    let high = matches!(lane, Lane::Urgent | Lane::Change) && wake.step == 0 && wake.attempt == 0 && used < HIGH_PER_DAY_MAX;
    let Some(address) = address_of(app, &target) else { return Sent::Unsealed { due_ms: now_ms + DAY_MS } };
    let nudge = Nudge {
        channel_id: wake.channel_id,
        address: address.clone(),
        app: target.app,
        ios: target.platform == "ios",
        lane,
        high,
        again: wake.attempt > 0,
        expires_at_ms: expires_at_ms(&rhythm, lane, now_ms),
        registered_at_ms: target.push_since_ms,
    };
    let span = tracing::info_span!("nudge", sender = sender.name(), lane = lane.name());
    let Trip { answer, left_ms } = sender.send(&nudge).instrument(span).await;
    if nudge.again && !matches!(answer, Answer::GivenBack { .. }) {
        metrics::counter!("muster_retries_total", "provider" => sender.name().to_owned(), "lane" => lane.name()).increment(1);
    }
    let registered_at_ms = target.push_since_ms;
    Sent::Answered { answer, rhythm, high, at_ms: left_ms.unwrap_or(now_ms), address, registered_at_ms, platform: target.platform }
}

/// True for the channel of a user who has not been seen for so long: somebody else may have the Mac now. It is called for its work alone.
fn is_away(target: &Target, now_ms: i64) -> bool {
    !target.subject.is_empty() && now_ms - target.last_serving_ms.unwrap_or(0).max(target.push_since_ms) > USER_SEEN_MS
}

/// Where the nudge goes. `None` where the magic of an MDM channel does not open: no push would be heard until it registers again.
fn address_of(app: &App, target: &Target) -> Option<Address> {
    let kind = match &target.push_secret {
        Some(sealed) => match app.seal.open(&magic_name(target.channel_id), sealed) {
            Ok(magic) => AddressKind::Mdm { magic: String::from_utf8_lossy(&magic).into_owned() },
            Err(error) => {
                tracing::error!(%error, channel = %target.channel_id, "the stored PushMagic does not open");
                return None;
            }
        },
        None if target.push_kind.as_deref() == Some("fid") => AddressKind::Fid,
        None => AddressKind::Token,
    };
    Some(Address { kind, value: target.push_value.clone().unwrap_or_default() })
}

/// Turns what a sender has to say into alarms, and gives tokens back where their deaths were our fault.
async fn heed_notices(app: &App, sender: &Sender) -> Result<()> {
    let mut notices = sender.take_notices().into_iter();
    while let Some(notice) = notices.next() {
        if let Err(error) = heed_notice(app, sender, &notice).await {
            // Told again at the next look: the database may be away for a while.
            sender.put_back(std::iter::once(notice).chain(notices));
            return Err(error);
        }
    }
    Ok(())
}

async fn heed_notice(app: &App, sender: &Sender, notice: &Notice) -> Result<()> {
    change!(app, Class::Operators, |conn, moment| tell(conn, moment, sender.name(), notice).await)?;
    if let Notice::MassDeath { since_ms } = notice {
        while restore(app, sender, Restored::Since(*since_ms)).await? == RESTORE_MAX.unsigned_abs() {}
    }
    Ok(())
}

async fn tell(conn: &mut Conn, moment: &mut Moment, name: &str, notice: &Notice) -> Result<()> {
    match notice {
        Notice::Fault { code, detail } => alarms::open(conn, moment, PUSH_FAULT, name, &format!("{code}: {detail}")).await,
        Notice::Recovered => alarms::close(conn, moment, PUSH_FAULT, name).await,
        Notice::Bug { detail } => alarms::open(conn, moment, "push_request_refused", name, detail).await,
        Notice::DeathRush => {
            let detail = "more than 30 % of the last answers were dead tokens; they stay dead until the devices register again";
            alarms::open(conn, moment, "push_death_rush", name, detail).await
        }
        Notice::MassDeath { .. } => {
            let detail = "so many tokens were refused at once that the fault must be ours: the sender stopped and the tokens were restored";
            alarms::open(conn, moment, "push_mass_death", name, detail).await
        }
    }
}

/// Some quarantined addresses, in a transaction of their own; answers how many were looked at.
async fn restore(app: &App, sender: &Sender, which: Restored) -> Result<u64> {
    let (name, provider) = (sender.name(), provider_of(sender.name()));
    change!(app, Class::Nudger, |conn, moment| wakes::restore(conn, provider, name, which, RESTORE_MAX, moment.now_ms).await)
}

/// The provider whose addresses a sender serves.
fn provider_of(sender: &str) -> &'static str {
    if sender == "fcm" { "fcm" } else { "apns" }
}

/// Gives addresses back whose 24 hours of quarantine are over.
pub async fn release_quarantined(app: &App) -> Result<()> {
    for sender in &app.senders.all() {
        while restore(app, sender, Restored::Before(app.clock.now_ms() - DAY_MS)).await? == RESTORE_MAX.unsigned_abs() {}
    }
    Ok(())
}

#[cfg(test)]
mod tests;
