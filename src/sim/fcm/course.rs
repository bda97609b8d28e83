//! The ordinary course of a request: paths, credentials, validation, delivery.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use hyper::{Method, Request, Response};

use super::board::Kept;
use super::faults::{self, Canned, Fault};
use super::message;
use super::oauth;
use super::serve::{Answer, Outcome};
use super::{Captured, Inner};

/// FCM's messages have at most 4 KiB of payload.
const REQUEST_BYTES_MAX: usize = 65_536;

impl Inner {
    /// Handles one request.
    pub(super) async fn handle(self: Arc<Self>, request: Request<Incoming>) -> Outcome {
        self.counts.requests.fetch_add(1, Ordering::Relaxed);
        let (head, body) = request.into_parts();
        let Ok(body) = Limited::new(body, REQUEST_BYTES_MAX).collect().await else { return Outcome::Close };
        let body = body.to_bytes();
        if self.capturing.load(Ordering::Relaxed) {
            self.record(&head, &body);
        }
        if head.method != Method::POST {
            return answer(Canned::project_not_found());
        }
        if head.uri.path() == "/token" {
            return self.token(&body).await;
        }
        let Some(project) = head.uri.path().strip_prefix("/v1/projects/").and_then(|rest| rest.strip_suffix("/messages:send")) else {
            return answer(Canned::project_not_found());
        };
        let authorization = head.headers.get(AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
        self.send(project, authorization, &body).await
    }

    async fn send(&self, project: &str, authorization: &[u8], body: &[u8]) -> Outcome {
        let delay_ms = self.delay_ms.load(Ordering::Relaxed);
        if delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        }
        let read = message::read(body);
        let fault = faults::next_send(&self.faults, read.as_ref().ok().map(|message| message.address.as_str()));
        let leaves = matches!(fault, Some(Fault::GoAway));
        let dismissal = if let Some(Fault::Dismissed { code, words }) = fault { Some((code, words)) } else { None };
        if let Some(outcome) = suffer(fault).await {
            return outcome;
        }
        match self.judge(project, authorization, read) {
            Outcome::Answer(response) if leaves => Outcome::LastAnswer(response),
            Outcome::Answer(response) => match dismissal {
                Some((code, words)) => Outcome::Dismissal(response, code, words),
                None => Outcome::Answer(response),
            },
            outcome => outcome,
        }
    }

    /// The ordinary course of a message that FCM could read or could not.
    fn judge(&self, project: &str, authorization: &[u8], read: Result<message::Accepted, Canned>) -> Outcome {
        let now_ms = self.clock.now_ms();
        let granted = self.granted.read().unwrap_or_else(PoisonError::into_inner).project_of(authorization, now_ms);
        let Some(own) = granted else { return answer(Canned::unauthenticated()) };
        if *own != *project {
            return answer(if self.knows(project) { Canned::permission_denied() } else { Canned::project_not_found() });
        }
        let message = match read {
            Ok(message) => message,
            Err(canned) => return answer(canned),
        };
        let loss = self.loss_per_million.load(Ordering::Relaxed);
        let lost = loss > 0 && self.chance.lock().unwrap_or_else(PoisonError::into_inner).below(1_000_000) < loss;
        let mut board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        let kept =
            if lost || message.validate_only { board.look(&message.address, project) } else { board.deliver(message, project, now_ms) };
        drop(board);
        match kept {
            Kept::UnknownAddress => return answer(Canned::unregistered()),
            Kept::OtherProject => return answer(Canned::sender_id_mismatch()),
            _ if lost => self.counts.lost.fetch_add(1, Ordering::Relaxed),
            Kept::Delivered => self.counts.delivered.fetch_add(1, Ordering::Relaxed),
            Kept::Stored => self.counts.stored.fetch_add(1, Ordering::Relaxed),
        };
        let nth = self.counts.accepted.fetch_add(1, Ordering::Relaxed);
        json(200, format!("{{\n  \"name\": \"projects/{project}/messages/0:{now_ms}%{nth:x}\"\n}}\n").into())
    }

    async fn token(&self, body: &[u8]) -> Outcome {
        self.counts.token_requests.fetch_add(1, Ordering::Relaxed);
        if let Some(outcome) = suffer(faults::next_oauth(&self.faults)).await {
            return outcome;
        }
        let now_ms = self.clock.now_ms();
        let checked = oauth::check(body, &self.token_uri, &self.key.verifier, now_ms);
        let project = checked.and_then(|email| self.project_of_account(&email).ok_or("account not found"));
        let project = match project {
            Ok(project) => project,
            Err(description) => {
                return json(400, format!(r#"{{"error":"invalid_grant","error_description":"{description}"}}"#).into());
            }
        };
        let life_s = self.token_life_s.load(Ordering::Relaxed);
        let secret = self.chance.lock().unwrap_or_else(PoisonError::into_inner).secret();
        let token = format!("ya29.{}", URL_SAFE_NO_PAD.encode(secret));
        let body = format!(r#"{{"access_token":"{token}","expires_in":{life_s},"token_type":"Bearer"}}"#);
        self.granted.write().unwrap_or_else(PoisonError::into_inner).grant(token, project, now_ms + life_s * 1_000);
        self.counts.tokens_granted.fetch_add(1, Ordering::Relaxed);
        json(200, body.into())
    }

    fn record(&self, head: &hyper::http::request::Parts, body: &Bytes) {
        let headers = head.headers.iter().map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
        let captured = Captured {
            method: head.method.to_string(),
            path: head.uri.path().to_owned(),
            http2: head.version == hyper::Version::HTTP_2,
            headers: headers.collect(),
            body: body.clone(),
            at_ms: self.clock.now_ms(),
        };
        let mut captures = self.captures.lock().unwrap_or_else(PoisonError::into_inner);
        if captures.len() < super::CAPTURES_MAX {
            captures.push(captured);
        }
    }
}

/// Lets a fault happen; `None` goes on with the ordinary course.
async fn suffer(fault: Option<Fault>) -> Option<Outcome> {
    match fault? {
        Fault::Answer(canned) => Some(answer(canned)),
        Fault::Cut(status) => {
            let body = Answer::cut(Bytes::from_static(br#"{"error":{"code":0,"message":"half of this is sent"}}"#));
            Some(respond(Response::builder().status(status).header(CONTENT_TYPE, "application/json"), body))
        }
        Fault::Close => Some(Outcome::Close),
        Fault::Reset => Some(Outcome::Reset),
        Fault::ResetStream(code) => Some(Outcome::ResetStream(code)),
        Fault::GoAway | Fault::Dismissed { .. } => None,
        Fault::Hang => std::future::pending().await,
        Fault::Slow(by_ms) => {
            tokio::time::sleep(Duration::from_millis(by_ms)).await;
            None
        }
    }
}

fn json(status: u16, body: Bytes) -> Outcome {
    answer(Canned { status, retry_after: None, content_type: "application/json; charset=UTF-8", body })
}

fn answer(canned: Canned) -> Outcome {
    let mut builder = Response::builder().status(canned.status).header(CONTENT_TYPE, canned.content_type);
    if let Some(value) = canned.retry_after {
        builder = builder.header(RETRY_AFTER, value);
    }
    respond(builder, Answer::whole(canned.body))
}

fn respond(builder: hyper::http::response::Builder, body: Answer) -> Outcome {
    builder.body(body).map_or(Outcome::Close, Outcome::Answer)
}
