//! `/mdm/scep`: devices ask for their identities (RFC 8894). Whatever is wrong with a request is said inside an answer of SCEP; only what
//! is no message at all is refused by HTTP.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio::sync::Semaphore;

use super::super::auth::client_address;
use super::super::extract;
use super::super::serve::Peer;
use super::refusal::Refusal;
use crate::app::App;
use crate::change;
use crate::error::{Error, Result as Outcome};
use crate::intake::authority;
use crate::intake::refusals::network_of;
use crate::ops::ca::Authority;
use crate::ops::ca::issue::{self, Read};
use crate::protocol::apple::scep::{self, FailInfo, Kind, MESSAGE_BYTES_MAX};
use crate::protocol::cms::certificates_only;
use crate::store::Class;

/// Requests a second of one address, and how many may come at once: a school's phones stand behind one address.
const REQUESTS_PER_S: NonZeroU32 = match NonZeroU32::new(10) {
    Some(requests) => requests,
    None => NonZeroU32::MIN,
};
const REQUESTS_AT_ONCE: NonZeroU32 = match NonZeroU32::new(200) {
    Some(requests) => requests,
    None => NonZeroU32::MIN,
};
/// Addresses remembered; beyond it those that are free again are forgotten, and then everybody waits.
const ADDRESSES_MAX: usize = 10_000;
/// Messages that are opened beside each other: it is work for a processor.
const OPENED_MAX: usize = 2;
const RETRY_AFTER_S: i64 = 5;

/// How much one process does for those whom nobody knows yet.
#[derive(Debug)]
pub struct Gate {
    addresses: DefaultKeyedRateLimiter<String>,
    opened: Semaphore,
}

impl Default for Gate {
    fn default() -> Gate {
        let quota = Quota::per_second(REQUESTS_PER_S).allow_burst(REQUESTS_AT_ONCE);
        Gate { addresses: RateLimiter::keyed(quota), opened: Semaphore::new(OPENED_MAX) }
    }
}

impl Gate {
    fn count(&self, address: IpAddr) -> Outcome<()> {
        if self.addresses.len() >= ADDRESSES_MAX {
            self.addresses.retain_recent();
        }
        let is_free = self.addresses.len() < ADDRESSES_MAX && self.addresses.check_key(&network_of(&address.to_string())).is_ok();
        if is_free { Ok(()) } else { Err(Error::Busy { retry_after_s: RETRY_AFTER_S }) }
    }
}

/// One of the three operations. 200 with what SCEP says; 400, 413, 500 and 503 with a sentence.
pub async fn operation(
    State(app): State<App>,
    Extension(Peer(peer)): Extension<Peer>,
    Extension(gate): Extension<Arc<Gate>>,
    request: Request,
) -> Result<Response, Refusal> {
    gate.count(client_address(&app, peer.ip(), request.headers()))?;
    let query = request.uri().query().unwrap_or_default().to_owned();
    let operation = query.split('&').find_map(|pair| pair.strip_prefix("operation=")).unwrap_or_default();
    match operation {
        "GetCACaps" => Ok(typed("text/plain", scep::CAPABILITIES.as_bytes().to_vec())),
        "GetCACert" => Ok(typed("application/x-x509-ca-ra-cert", certificates(&*authority(&app).await?))),
        "PKIOperation" => {
            let message = message(request, &query).await?;
            let authority = authority(&app).await?;
            let permit = gate.opened.acquire().await;
            let answered = answer(&app, authority, message).await;
            drop(permit);
            answered.map(|bytes| typed("application/x-pki-message", bytes))
        }
        _ => Err(Refusal::new(StatusCode::BAD_REQUEST, "operation must be GetCACaps, GetCACert or PKIOperation")),
    }
}

/// The CA, or the sentence that it cannot be had, which is no fault of the device.
async fn authority(app: &App) -> Result<Arc<Authority>, Refusal> {
    authority::authority(app).await.map_err(|error| match error {
        Error::Refused(_) => {
            tracing::error!(%error, "no identities are issued");
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "this server issues no identities now")
        }
        error => error.into(),
    })
}

/// What opens requests stands first, and above it the CA that issues.
fn certificates(authority: &Authority) -> Vec<u8> {
    certificates_only(&[authority.transport.chain.as_slice(), authority.ca.chain.as_slice()].concat())
}

/// The body of a POST, whatever its query repeats; the query of a GET.
async fn message(request: Request, query: &str) -> Result<Bytes, Refusal> {
    if request.method() == Method::POST {
        return Ok(extract::body(request, MESSAGE_BYTES_MAX).await?);
    }
    let read = scep::message_of(query.as_bytes()).filter(|message| message.len() <= MESSAGE_BYTES_MAX);
    read.map(Bytes::from).ok_or_else(|| Refusal::new(StatusCode::BAD_REQUEST, "message holds no base64"))
}

async fn answer(app: &App, authority: Arc<Authority>, message: Bytes) -> Result<Vec<u8>, Refusal> {
    let (opener, mut moment) = (authority.clone(), app.clock.moment());
    let read = beside(move || issue::read(&mut moment, &opener, &message)).await?;
    let read = read.map_err(|error| {
        count("malformed");
        Refusal::new(StatusCode::BAD_REQUEST, format!("this is no message of SCEP: {error}"))
    })?;
    let (asked, cipher, decided) = match read {
        Read::Refused(asked, why) => (*asked, None, Err(why)),
        Read::Search(search) => {
            let found = issue::find(&mut app.db.read().await?, &app.clock.moment(), &search).await?;
            (search.asked, Some(search.cipher), found)
        }
        Read::Wish(wish) => {
            let decided = change!(app, Class::Results, |conn, moment| issue::decide(conn, moment, &wish).await)?;
            (wish.asked, Some(wish.cipher), decided)
        }
    };
    count(if decided.is_err() {
        "refused"
    } else if asked.kind == Kind::GetCert {
        "found"
    } else {
        "issued"
    });
    if let Err(why) = &decided {
        tracing::info!(?why, "a device is issued no identity");
    }
    let mut moment = app.clock.moment();
    let said = beside(move || {
        let ours = authority.signing(moment.now_ms);
        match (decided, cipher) {
            (Ok(issued), Some(cipher)) => asked.succeeded(&mut moment, &ours, cipher, &issued),
            (Err(why), _) => asked.failed(&mut moment, &ours, why),
            (Ok(_), None) => asked.failed(&mut moment, &ours, FailInfo::BadRequest),
        }
    });
    said.await?.map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, format!("this request cannot be answered: {error}")))
}

/// Runs what takes milliseconds of a processor beside the loop that serves everybody.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the message could not be read"))
}

fn count(outcome: &'static str) {
    metrics::counter!("muster_scep_requests_total", "outcome" => outcome).increment(1);
}

fn typed(kind: &'static str, body: Vec<u8>) -> Response {
    (StatusCode::OK, [(header::CONTENT_TYPE, kind)], body).into_response()
}
