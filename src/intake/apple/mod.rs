//! Apple devices' reports in the intake: one command's status in, the next command out.

mod answer;
mod take;

pub(super) use answer::answer;
pub(super) use take::take;

use std::collections::HashMap;

use super::authority;
use super::contacts::Visit;
use crate::app::App;
use crate::clock::Moment;
use crate::error::Result;
use crate::model::Id;
use crate::ops::mdm::declarative;
use crate::ops::mdm::own::{self, Announcement, News};
use crate::ops::mdm::profiles::{self, Step};
use crate::ops::settle;
use crate::ops::settle::is_kept;
use crate::protocol::apple::Report;
use crate::protocol::apple::configuration::{self, Profile};
use crate::store::Conn;
use crate::store::apple::{self as store, Enrollment};

/// What a report found and did.
#[derive(Clone, Debug, Default)]
pub struct Reported {
    /// 1 where it spoke of a command that is known.
    pub results: i64,
    /// The enrollment that the channel belongs to.
    pub enrollment: Option<Enrollment>,
    /// True where its identity is to be renewed, and can be.
    pub is_to_be_renewed: bool,
    /// What it is to be told of its document, where that is another than it was told of.
    pub news: Option<News>,
    /// The requests that it need not be asked, as it tells the answers by itself.
    pub covered: Vec<&'static str>,
    /// True where the device put a question of the server off.
    pub own_put_off: bool,
}

/// Reads the enrollments of the devices that report, and finds those whose identity is to be renewed.
pub(super) async fn open(app: &App, conn: &mut Conn, moment: &Moment, visits: &mut [Visit<'_>]) -> Result<()> {
    let ids: Vec<Id> = visits.iter().filter(|visit| visit.report().is_some()).map(|visit| visit.standing.device_id).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let mut known: HashMap<Id, Enrollment> = store::of_devices(conn, &ids).await?.into_iter().map(|row| (row.device_id, row)).collect();
    // Only who answers a question of the server is asked the next.
    let is_asked = |visit: &Visit<'_>| visit.report().and_then(|report| report.command_uuid.as_deref()).is_some_and(own::is_own);
    let asked: Vec<Id> = visits.iter().filter(|visit| is_asked(visit)).map(|visit| visit.standing.id).collect();
    if !asked.is_empty() {
        let mut covered = declarative::covered(conn, &asked).await?;
        for visit in visits.iter_mut() {
            visit.reported.covered = covered.remove(&visit.standing.id).unwrap_or_default();
        }
    }
    for visit in visits.iter_mut().filter(|visit| visit.report().is_some()) {
        let Some(enrollment) = known.remove(&visit.standing.device_id) else { continue };
        if visit.standing.subject.is_empty() && visit.standing.denied.is_none() && own::is_to_be_renewed(&enrollment, moment.now_ms) {
            // Where it is not at hand yet it will be for the next report; making it here would wait for this very transaction.
            visit.reported.is_to_be_renewed = app.authorities.at_hand().is_some();
            if !visit.reported.is_to_be_renewed {
                authority::prepare(app);
            }
        }
        visit.reported.enrollment = Some(enrollment);
    }
    Ok(())
}

/// Finds what channels are to be told whose document has changed since they were last told of it: their declarations, or the profile that takes
/// their place. What is proved already is written.
pub(super) async fn announce(app: &App, conn: &mut Conn, moment: &mut Moment, visits: &mut [Visit<'_>]) -> Result<()> {
    let is_to_be_told = |visit: &Visit<'_>| {
        let standing = &visit.standing;
        visit.report().is_some()
            && standing.denied.is_none()
            && !is_kept(standing.hold.as_deref())
            && standing.desired.is_some()
            && standing.declared != standing.desired
    };
    let channels: Vec<Id> = visits.iter().filter(|visit| is_to_be_told(visit)).map(|visit| visit.standing.id).collect();
    if channels.is_empty() {
        return Ok(());
    }
    let mut assigned = declarative::assigned(conn, &app.seal, &channels, moment.now_ms).await?;
    settle::mint(conn, moment, assigned.values().flat_map(|one| &one.tokens)).await?;
    for visit in visits.iter_mut().filter(|visit| is_to_be_told(visit)) {
        let standing = &mut visit.standing;
        let Some(assigned) = assigned.remove(&standing.id).filter(|assigned| !assigned.is_held) else { continue };
        let news = match assigned.by_command.step(standing.applied == standing.desired) {
            Step::Declare => News::Declarations(Announcement {
                version: assigned.version,
                token: assigned.served.token(),
                tokens: assigned.served.tokens(moment.now_ms),
            }),
            Step::Install(Profile { uuid, xml }) => News::Install { uuid, profile: xml },
            Step::Uninstall(uuid) => News::Uninstall { uuid, identifier: configuration::commanded(&app.config.public_url) },
            Step::Settled => {
                let applies = profiles::settled(conn, moment, standing.device_id, standing.id, &assigned).await?;
                standing.declared.clone_from(&standing.desired);
                if applies {
                    standing.applied.clone_from(&standing.desired);
                } else if standing.applied == standing.desired {
                    standing.applied = None;
                }
                continue;
            }
        };
        visit.reported.news = Some(news);
    }
    Ok(())
}

/// What is left of a report whose values the database refuses: its status alone; `None` where there is no more to leave out.
pub(super) fn bare(report: &Report) -> Option<Report> {
    if report.body.is_empty() {
        return None;
    }
    let command_uuid = report.command_uuid.clone().filter(|id| !id.contains('\0'));
    Some(Report { from: report.from.clone(), status: report.status, command_uuid, chain: Vec::new(), body: plist::Dictionary::new() })
}
