//! Policies: written, published, assigned, deleted; and how far a version has come.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::model::{Actor, Fault, Id, Precondition, Role, text};
use crate::ops::labels::ALL;
use crate::ops::settle::{self, StackItem};
use crate::policy;
use crate::store::feed::{self, Entry};
use crate::store::policies::{self, Assignment, PolicyRow, VersionRow};
use crate::store::{Conn, labels, stacks};

const NAME_CHARS_MAX: usize = 64;
const ASSIGNMENTS_MAX: usize = 500;
/// Versions that convergence is told of.
const VERSIONS_SHOWN: i64 = 5;

/// A policy as the API shows it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Policy {
    pub id: Id,
    pub name: String,
    /// The version in force; null while there are only drafts.
    pub version: Option<i64>,
    pub latest_version: i64,
    /// The document in force, or the latest draft.
    pub document: Value,
    pub assignments: Vec<Assignment>,
    pub updated_at_ms: i64,
}

/// One version as the API shows it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Version {
    pub version: i64,
    pub document: Value,
    pub message: String,
    pub created_by: String,
    pub created_at_ms: i64,
    pub published_at_ms: Option<i64>,
}

/// A document to be stored.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyInput {
    pub document: Value,
    #[serde(default)]
    pub message: String,
}

/// The assignments of a policy, whole.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Assignments {
    pub assignments: Vec<Assignment>,
}

/// What became of a stored document.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Stored {
    pub version: i64,
    pub published: bool,
    /// False where an equal document was there already: nobody is nudged.
    #[serde(skip)]
    pub made: bool,
}

/// Refuses to change a policy that is not as it is asked to be; its tag is the version in force, 0 while there are only drafts.
fn check(asked: &Precondition, row: Option<&PolicyRow>) -> Result<()> {
    let in_force = row.and_then(|row| row.published).unwrap_or(0);
    if asked.holds(row.is_some(), Some(&in_force.to_string())) {
        return Ok(());
    }
    let detail = match row {
        Some(_) => format!("version {in_force} is in force; read it again"),
        None => "there is no such policy".to_owned(),
    };
    Err(Error::refused("precondition_failed", detail))
}

/// Looks whether a policy is as it is asked to be, and keeps it so until the end of the transaction.
pub async fn demand(conn: &mut Conn, actor: &Actor, name: &str, asked: &Precondition) -> Result<()> {
    actor.require(Role::Operator)?;
    if asked.is_none() {
        return Ok(());
    }
    policies::lock(conn).await?;
    let row = policies::by_name(conn, name).await?.ok_or(Error::NotFound("policy"))?;
    check(asked, Some(&row))
}

/// Stores a document as a new version and, unless it is a draft, publishes it. An equal document changes nothing.
pub async fn put(
    conn: &mut Conn,
    moment: &mut Moment,
    actor: &Actor,
    name: &str,
    input: &PolicyInput,
    draft: bool,
    asked: Option<&Precondition>,
) -> Result<Stored> {
    actor.require(Role::Operator)?;
    let name = text::named("/name", name, NAME_CHARS_MAX)?;
    let faults = policy::document::check(&input.document, "/document");
    if !faults.is_empty() {
        return Err(Error::Invalid(faults));
    }
    let message = text::checked("/message", &input.message, 1000)?;
    policies::lock(conn).await?;
    let row = policies::by_name(conn, &name).await?;
    if let Some(asked) = asked {
        check(asked, row.as_ref())?;
    }
    let row = match row {
        Some(row) => row,
        None => {
            policies::insert(conn, moment.id(), &name, moment.now_ms).await?;
            policies::by_name(conn, &name).await?.ok_or(Error::NotFound("policy"))?
        }
    };
    let hash = policy::hash(&input.document);
    if let Some(n) = row.published.filter(|_| !draft)
        && let Some(in_force) = policies::version(conn, row.id, n).await?
    {
        if in_force.hash == hash {
            return Ok(Stored { version: n, published: true, made: false });
        }
        let faults = policy::apple::retyped(&parsed(&in_force.document), &input.document, "/document");
        if !faults.is_empty() {
            return Err(Error::Invalid(faults));
        }
    }
    let latest = policies::version(conn, row.id, row.latest).await?;
    let equal = latest.filter(|version| version.hash == hash);
    if let Some(version) = equal.as_ref().filter(|_| draft) {
        return Ok(Stored { version: version.n, published: row.published == Some(version.n), made: false });
    }
    let n = equal.as_ref().map_or(row.latest + 1, |version| version.n);
    if equal.is_none() {
        let version = VersionRow {
            n,
            document: input.document.to_string(),
            hash,
            message: message.clone(),
            created_by: actor.name.clone(),
            created_at_ms: moment.now_ms,
            published_at_ms: None,
        };
        policies::insert_version(conn, row.id, &version).await?;
    }
    if !draft {
        policies::publish(conn, row.id, n, moment.now_ms).await?;
        settle::recompute(conn, moment).await?;
    }
    let kind = if draft { "policy.drafted" } else { "policy.published" };
    let after = if draft { row.published } else { Some(n) };
    let data = json!({"name": name, "version": n, "message": message, "before": row.published, "after": after});
    tell(conn, moment, actor, kind, data).await?;
    Ok(Stored { version: n, published: !draft, made: true })
}

/// One policy.
pub async fn get(conn: &mut Conn, name: &str) -> Result<Policy> {
    let row = policies::by_name(conn, name).await?.ok_or(Error::NotFound("policy"))?;
    view(conn, row).await
}

/// A stored policy as the API shows it.
pub async fn view(conn: &mut Conn, row: PolicyRow) -> Result<Policy> {
    views(conn, vec![row]).await?.pop().ok_or(Error::NotFound("policy"))
}

/// Stored policies as the API shows them, in order; two statements for however many.
pub async fn views(conn: &mut Conn, rows: Vec<PolicyRow>) -> Result<Vec<Policy>> {
    let shown: Vec<(Id, i64)> = rows.iter().map(|row| (row.id, row.published.unwrap_or(row.latest))).collect();
    let mut documents: HashMap<Id, String> = policies::documents(conn, &shown).await?.into_iter().collect();
    let mut assignments: HashMap<Id, Vec<Assignment>> = HashMap::new();
    let ids: Vec<Id> = rows.iter().map(|row| row.id).collect();
    for (policy, assignment) in policies::assignments_of(conn, &ids).await? {
        assignments.entry(policy).or_default().push(assignment);
    }
    let view = |row: PolicyRow| Policy {
        id: row.id,
        version: row.published,
        latest_version: row.latest,
        document: documents.remove(&row.id).map_or(Value::Null, |document| parsed(&document)),
        assignments: assignments.remove(&row.id).unwrap_or_default(),
        updated_at_ms: row.updated_at_ms,
        name: row.name,
    };
    Ok(rows.into_iter().map(view).collect())
}

/// One version of a policy.
pub async fn version(conn: &mut Conn, name: &str, n: i64) -> Result<Version> {
    let row = policies::by_name(conn, name).await?.ok_or(Error::NotFound("policy"))?;
    let version = policies::version(conn, row.id, n).await?.ok_or(Error::NotFound("version of this policy"))?;
    Ok(version_view(version))
}

/// A stored version as the API shows it.
pub fn version_view(version: VersionRow) -> Version {
    Version {
        version: version.n,
        document: parsed(&version.document),
        message: version.message,
        created_by: version.created_by,
        created_at_ms: version.created_at_ms,
        published_at_ms: version.published_at_ms,
    }
}

/// Replaces the assignments of a policy.
pub async fn assign(conn: &mut Conn, moment: &mut Moment, actor: &Actor, name: &str, input: &Assignments) -> Result<Assignments> {
    actor.require(Role::Operator)?;
    policies::lock(conn).await?;
    let row = policies::by_name(conn, name).await?.ok_or(Error::NotFound("policy"))?;
    if input.assignments.len() > ASSIGNMENTS_MAX {
        return Err(Error::invalid("/assignments", format!("at most {ASSIGNMENTS_MAX}")));
    }
    let mut rows: Vec<(String, String, i64)> = Vec::with_capacity(input.assignments.len());
    let mut faults = Vec::new();
    for (at, one) in input.assignments.iter().enumerate() {
        let mut fault = |field: &str, detail: String| faults.push(Fault { pointer: format!("/assignments/{at}/{field}"), detail });
        if !matches!(one.mode.as_str(), "include" | "exclude") {
            fault("mode", "take include or exclude".into());
        }
        let label_id = if one.label == ALL {
            Some(ALL.to_owned())
        } else {
            labels::by_name(conn, &one.label).await?.map(|label| label.id.to_string())
        };
        match label_id {
            None => fault("label", format!("there is no label {:?}", one.label)),
            Some(id) if rows.iter().any(|(other, _, _)| *other == id) => fault("label", "this label is named twice".into()),
            Some(id) => rows.push((id, one.mode.clone(), one.rank)),
        }
    }
    if !faults.is_empty() {
        return Err(Error::Invalid(faults));
    }
    let before = policies::assignments(conn, row.id).await?;
    policies::assign(conn, row.id, &rows).await?;
    settle::recompute(conn, moment).await?;
    let after = policies::assignments(conn, row.id).await?;
    tell(conn, moment, actor, "policy.assigned", json!({"name": name, "before": before, "after": after})).await?;
    Ok(Assignments { assignments: after })
}

/// Deletes a policy: what it gave is taken from its devices.
pub async fn delete(conn: &mut Conn, moment: &mut Moment, actor: &Actor, name: &str) -> Result<()> {
    actor.require(Role::Operator)?;
    policies::lock(conn).await?;
    let row = policies::by_name(conn, name).await?.ok_or(Error::NotFound("policy"))?;
    policies::delete(conn, row.id).await?;
    settle::recompute(conn, moment).await?;
    tell(conn, moment, actor, "policy.deleted", json!({"name": name, "before": row.published, "after": null})).await
}

/// How far the versions of a policy have come.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Convergence {
    pub versions: Vec<VersionConvergence>,
}

/// How far one version has come.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct VersionConvergence {
    pub version: i64,
    /// Channels by state: `applied`, `pending`, `failed`, and `held` where this policy alone waits for a value of theirs.
    pub states: std::collections::BTreeMap<String, i64>,
    /// Seconds from publishing until 50, 90 and 99 per cent had applied it; null until they have.
    pub seconds_to: std::collections::BTreeMap<String, Option<f64>>,
}

/// Counts, for each recent version, the channels whose stack contains it.
pub async fn convergence(conn: &mut Conn, name: &str) -> Result<Convergence> {
    let row = policies::by_name(conn, name).await?.ok_or(Error::NotFound("policy"))?;
    let stacks = stacks::stacks(conn).await?;
    let mut versions = Vec::new();
    for version in policies::versions(conn, row.id, VERSIONS_SHOWN).await? {
        let holding: Vec<String> = stacks
            .iter()
            .filter(|stack| {
                let items: Vec<StackItem> = serde_json::from_str(&stack.items).unwrap_or_default();
                items.iter().any(|item| item.policy == row.id && item.version == version.n)
            })
            .map(|stack| stack.id.clone())
            .collect();
        let mut states: std::collections::BTreeMap<String, i64> =
            ["applied", "pending", "failed", "held"].into_iter().map(|state| (state.to_owned(), 0)).collect();
        for id in &holding {
            for standing in stacks::standings(conn, id).await? {
                standing.to(row.id).into_iter().for_each(|state| *states.entry(state.to_owned()).or_default() += standing.n);
            }
        }
        let all: i64 = states.values().sum();
        let places = [50, 90, 99].map(|share| ((all * share + 99) / 100).max(1));
        let reached = if states["applied"] < places[0] { Vec::new() } else { stacks::applied_at(conn, &holding, row.id, places).await? };
        let mut seconds_to = std::collections::BTreeMap::new();
        for (share, place) in ["50", "90", "99"].into_iter().zip(places) {
            let at_ms = reached.iter().find(|applied| applied.place == place).map(|applied| applied.at_ms);
            let seconds = at_ms.zip(version.published_at_ms).map(|(at, from)| (at - from).max(0) as f64 / 1000.0);
            seconds_to.insert(share.to_owned(), seconds);
        }
        versions.push(VersionConvergence { version: version.n, states, seconds_to });
    }
    Ok(Convergence { versions })
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or(Value::Null)
}

async fn tell(conn: &mut Conn, moment: &mut Moment, actor: &Actor, kind: &'static str, data: Value) -> Result<()> {
    feed::append(conn, moment, &[Entry { kind, actor: Some(actor.name.clone()), device_id: None, data }]).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::labels::{LabelInput, put as put_label};
    use crate::store::Class;
    use crate::store::testing::each_database;

    #[tokio::test]
    async fn a_page_costs_the_same_number_of_statements_however_many_policies_it_has_and_keeps_their_order() {
        each_database(async |db| {
            let (mut moment, actor) = (Moment::fixed(1_000_000, 3), Actor::server());
            let mut conn = db.begin(Class::Operators).await.unwrap();
            let label: LabelInput = serde_json::from_value(json!({})).unwrap();
            put_label(&mut conn, &mut moment, &actor, "field", &label).await.unwrap();
            for n in 0..20 {
                let input = PolicyInput { document: json!({"cameraAccess": "CAMERA_ACCESS_DISABLED"}), message: String::new() };
                let name = format!("p{n:02}");
                put(&mut conn, &mut moment, &actor, &name, &input, n % 2 == 1, None).await.unwrap();
                let of = |label: &str, rank| Assignment { label: label.into(), mode: "include".into(), rank };
                let wanted = Assignments { assignments: vec![of("all", 1), of("field", 10 + n)] };
                assign(&mut conn, &mut moment, &actor, &name, &wanted).await.unwrap();
            }
            conn.commit().await.unwrap();
            let mut conn = db.read().await.unwrap();
            let rows = policies::list(&mut conn, "", 100).await.unwrap();
            let before = conn.statements();
            let one = view(&mut conn, rows[0].clone()).await.unwrap();
            let cost = conn.statements() - before;
            let page = views(&mut conn, rows.clone()).await.unwrap();
            assert_eq!(conn.statements() - before, 2 * cost);
            assert_eq!(page.iter().map(|policy| &policy.name).collect::<Vec<_>>(), rows.iter().map(|row| &row.name).collect::<Vec<_>>());
            assert_eq!(serde_json::to_value(&page[0]).unwrap(), serde_json::to_value(&one).unwrap());
            for (n, policy) in page.iter().enumerate() {
                assert_eq!(policy.document["cameraAccess"], "CAMERA_ACCESS_DISABLED");
                assert_eq!(policy.version.is_none(), n % 2 == 1, "a draft is shown with its latest document");
                let strongest = &policy.assignments[0];
                assert_eq!((strongest.label.as_str(), strongest.rank, policy.assignments.len()), ("field", 10 + n as i64, 2));
            }
        })
        .await;
    }
}
