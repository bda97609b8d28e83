//! One attempt: a mail is handed to the mail server of `[mail]`.

use std::time::Duration;

use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, header};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};

use crate::config::Mail;
use crate::model::Id;

/// No command waits longer for its answer.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(15);
/// An attempt takes no longer, in all.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(40);

/// The way to the mail server.
#[derive(Clone, Debug)]
pub struct Post {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

/// Why an attempt failed.
#[derive(Debug)]
pub struct Failure {
    pub why: String,
    /// The server said no to this mail: trying again would change nothing.
    pub for_good: bool,
}

impl Post {
    /// The way that the settings name, if they name one.
    pub fn from_config(mail: &Mail) -> Result<Option<Post>, String> {
        let (Some(url), Some(from)) = (&mail.smtp_url, &mail.from) else { return Ok(None) };
        let from = from.parse().map_err(|error| format!("[mail] from: {error}"))?;
        let builder = AsyncSmtpTransport::<Tokio1Executor>::from_url(url).map_err(|error| format!("[mail] smtp_url: {error}"))?;
        Ok(Some(Post { transport: builder.timeout(Some(COMMAND_TIMEOUT)).build(), from }))
    }

    /// Hands a mail over. Its Message-ID is made of its id, so that one that is sent twice can be known.
    pub async fn send(&self, id: Id, to: &str, subject: &str, text: String) -> Result<(), Failure> {
        let message = self.message(id, to, subject, text).map_err(|why| Failure { why, for_good: true })?;
        match tokio::time::timeout(ATTEMPT_TIMEOUT, self.transport.send(message)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                // 53x is about our sign-in: that can be put right, and then the mail goes.
                let is_ours = error.status().is_some_and(|code| code.to_string().starts_with("53"));
                Err(Failure { for_good: error.is_permanent() && !is_ours, why: said(&error) })
            }
            Err(_) => Err(Failure { why: format!("no answer within {} s", ATTEMPT_TIMEOUT.as_secs()), for_good: false }),
        }
    }

    /// Connects, signs in and leaves again.
    pub async fn reach(&self) -> Result<(), String> {
        match tokio::time::timeout(COMMAND_TIMEOUT, self.transport.test_connection()).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err("the server does not answer as a mail server".into()),
            Ok(Err(error)) => Err(said(&error)),
            Err(_) => Err(format!("no answer within {} s", COMMAND_TIMEOUT.as_secs())),
        }
    }

    fn message(&self, id: Id, to: &str, subject: &str, text: String) -> Result<Message, String> {
        let to: Mailbox = to.parse().map_err(|error| format!("{to}: {error}"))?;
        let mut message = Message::builder()
            .from(self.from.clone())
            .to(to)
            .subject(subject)
            .message_id(Some(format!("<{id}@{}>", self.from.email.domain())))
            .header(header::ContentType::TEXT_PLAIN)
            .body(text)
            .map_err(|error| error.to_string())?;
        // No holiday note shall answer it.
        let name = HeaderName::new_from_ascii_str("Auto-Submitted");
        message.headers_mut().insert_raw(HeaderValue::new(name, "auto-generated".into()));
        Ok(message)
    }
}

/// An error with what it comes from; it holds what the server said, never what we did.
fn said(error: &lettre::transport::smtp::Error) -> String {
    let mut text = error.to_string();
    let mut at: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(source) = at {
        let part = source.to_string();
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        at = source.source();
    }
    text
}
