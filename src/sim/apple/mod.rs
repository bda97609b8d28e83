//! A simulated iPhone: Apple's MDM client as far as a server can tell. It speaks the wire, keeps what it was told, and never asks for
//! anything by itself but by [`Iphone::session`].

mod act;
pub mod declarative;
pub mod identity;
pub mod life;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use plist::{Dictionary, Value};
use reqwest::header::CONTENT_TYPE;

use crate::protocol::apple::command::xml;
use crate::protocol::apple::reading;
use crate::protocol::pki::PkiError;
use crate::sim::uplink::{Ask, Outcome, Uplink};

/// The kind of a check-in's body.
const CHECKIN: &str = "application/x-apple-aspen-mdm-checkin";
/// How long the server may take: where it makes keys for many phones on a slow machine, that is long.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Commands of one conversation at most: a server that never ends is no server.
const COMMANDS_MAX: usize = 1000;

/// Why a conversation ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error("the server cannot be reached: {0}")]
    Wire(#[from] reqwest::Error),
    #[error("the server refuses with {0}: {1}")]
    Refused(u16, String),
    #[error("the server issues no identity: failInfo {0}")]
    Unissued(String),
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error("the server's answer is no command")]
    Nonsense,
}

/// One simulated iPhone.
#[derive(Debug)]
pub struct Iphone {
    server: String,
    client: reqwest::Client,
    /// The header in which a proxy in front hands on the phone's certificate, and that of before it has an identity.
    proxy: Option<(String, String)>,
    /// The root that it trusts for TLS, PEM; the system's where there is none.
    root: Option<String>,
    /// The way that it shares with others, if it does.
    uplink: Option<Arc<Uplink>>,
    pub udid: String,
    pub serial: String,
    pub topic: String,
    /// What SCEP gave it: shown in the TLS handshake, to a proxy in front, and by signatures if the profile asks for them.
    pub identity: Option<identity::Identity>,
    /// True where its profile wants each message signed.
    pub signs: bool,
    pub state: State,
}

/// What the phone keeps.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub enrolled: bool,
    /// True while its screen is locked: what needs its data is put off.
    pub locked: bool,
    pub has_passcode: bool,
    pub lost: bool,
    pub supervised: bool,
    pub erased: bool,
    /// Managed apps, and how far each has come.
    pub apps: BTreeMap<String, &'static str>,
    /// The identifier of its enrollment profile.
    pub profile: String,
    /// A profile that renews its identity, to be installed when the command was carried out.
    pub renewal: Option<Vec<u8>>,
    /// The profiles that it was given by command: their UUIDs by their identifiers.
    pub profiles: BTreeMap<String, String>,
    pub push_token: Vec<u8>,
    /// False where its system is older than declarative management.
    pub knows_declarations: bool,
    /// True where none of the declarations that its system knows brings a profile.
    pub lacks_profiles: bool,
    pub declarations: declarative::Declarations,
    /// True where its last word was that it cannot now.
    pub put_off: bool,
    /// Commands of operators that it has carried out.
    pub ordered: u64,
    /// Requests that it has carried out, in order.
    pub done: Vec<String>,
}

impl Iphone {
    /// A supervised phone with a passcode, not enrolled.
    pub fn new(server: &str, name: &str, profile: &str) -> Iphone {
        let client = crate::sim::client(TIMEOUT).build().unwrap_or_default();
        let state = State { has_passcode: true, supervised: true, knows_declarations: true, profile: profile.into(), ..State::default() };
        Iphone {
            server: server.trim_end_matches('/').into(),
            client,
            proxy: None,
            root: None,
            uplink: None,
            udid: format!("00008030-{name}"),
            serial: format!("SIM{name}"),
            topic: "com.apple.mgmt.External.simulated".into(),
            identity: None,
            signs: false,
            state,
        }
    }

    /// A proxy in front of the server hands the phone's certificate on in this header; until it has an identity, this value.
    pub fn behind_proxy(mut self, header: &str, value: &str) -> Iphone {
        self.proxy = Some((header.into(), value.into()));
        self
    }

    /// Speaks over a way that it shares with others.
    pub fn over(mut self, uplink: Arc<Uplink>) -> Iphone {
        self.uplink = Some(uplink);
        self
    }

    /// Trusts this root (PEM) alone for TLS.
    pub fn trusting(mut self, root: &str) -> Result<Iphone, Trouble> {
        self.root = Some(root.into());
        self.client = self.connecting()?;
        Ok(self)
    }

    /// Installs the enrollment profile: Authenticate, then TokenUpdate with this push token.
    pub async fn enroll(&mut self, token: &[u8]) -> Result<(), Trouble> {
        self.authenticate().await?;
        self.token_update(token).await
    }

    /// The first half of an enrollment.
    pub async fn authenticate(&mut self) -> Result<(), Trouble> {
        let device =
            texts(&[("SerialNumber", &self.serial), ("ProductName", "iPhone17,1"), ("OSVersion", "18.1"), ("DeviceName", "iPhone")]);
        self.checkin("Authenticate", device).await
    }

    /// The second half of an enrollment, and every new push token.
    pub async fn token_update(&mut self, token: &[u8]) -> Result<(), Trouble> {
        let mut update = texts(&[("PushMagic", &magic_of(&self.udid))]);
        update.insert("Token".into(), Value::Data(token.to_vec()));
        update.insert("UnlockToken".into(), Value::Data(format!("unlock {}", self.udid).into_bytes()));
        self.checkin("TokenUpdate", update).await?;
        self.state.enrolled = true;
        self.state.push_token = token.to_vec();
        self.state.erased = false;
        Ok(())
    }

    /// One conversation, as after a nudge or an unlocking: asks for commands, carries each out, until the server has no more.
    pub async fn session(&mut self) -> Result<usize, Trouble> {
        let mut report = texts(&[("Status", "Idle")]);
        for carried_out in 0..COMMANDS_MAX {
            let Some((uuid, command)) = self.connect(report).await? else {
                if self.state.declarations.is_behind {
                    self.follow_declarations().await?;
                }
                return Ok(carried_out);
            };
            report = self.act(&command);
            let status = report.get("Status").and_then(Value::as_string);
            self.state.put_off = status == Some("NotNow");
            self.state.ordered += u64::from(status == Some("Acknowledged") && is_order(&uuid));
            report.insert("CommandUUID".into(), Value::String(uuid));
            if let Some(profile) = self.state.renewal.take() {
                // It speaks with the new identity before it reports, and then does not report any more.
                let token = self.state.push_token.clone();
                self.install(&profile, &token).await?;
                report = texts(&[("Status", "Idle")]);
            }
            if self.state.erased {
                // It reports nothing any more, nor anything else.
                return Ok(carried_out + 1);
            }
            if !self.state.enrolled {
                self.checkin("CheckOut", Dictionary::new()).await?;
                return Ok(carried_out + 1);
            }
        }
        Err(Trouble::Nonsense)
    }

    /// Asks for a command and loses it, as when the connection dies; answers its id.
    pub async fn fetch(&self) -> Result<Option<String>, Trouble> {
        Ok(self.connect(texts(&[("Status", "Idle")])).await?.map(|(uuid, _)| uuid))
    }

    async fn checkin(&self, message: &str, mut more: Dictionary) -> Result<(), Trouble> {
        more.extend(texts(&[("MessageType", message), ("Topic", &self.topic)]));
        self.send("checkin", CHECKIN, more).await.map(drop)
    }

    async fn connect(&self, report: Dictionary) -> Result<Option<(String, Dictionary)>, Trouble> {
        let bytes = self.send("connect", "application/x-apple-aspen-mdm; charset=UTF-8", report).await?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let mut outer = reading::dictionary(&bytes).map_err(|_| Trouble::Nonsense)?;
        let uuid = outer.remove("CommandUUID").and_then(Value::into_string).ok_or(Trouble::Nonsense)?;
        let command = outer.remove("Command").and_then(Value::into_dictionary).ok_or(Trouble::Nonsense)?;
        Ok(Some((uuid, command)))
    }

    async fn send(&self, path: &str, kind: &str, mut body: Dictionary) -> Result<Vec<u8>, Trouble> {
        body.insert("UDID".into(), Value::String(self.udid.clone()));
        let body = xml(&Value::Dictionary(body));
        let request = self.client.put(format!("{}/mdm/{path}", self.server)).header(CONTENT_TYPE, kind).headers(self.proofs(&body)?);
        let exchange = async {
            let response = request.body(body).send().await?;
            let status = response.status();
            if status.as_u16() != 200 {
                return Err(Trouble::Refused(status.as_u16(), response.text().await?));
            }
            Ok(response.bytes().await?.to_vec())
        };
        self.over_uplink(if path == "checkin" { Ask::Checkin } else { Ask::Connect }, exchange).await
    }

    async fn over_uplink<T>(&self, ask: Ask, exchange: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
        match &self.uplink {
            Some(uplink) => uplink.send(ask, exchange, outcome).await,
            None => exchange.await,
        }
    }
}

fn outcome<T>(answer: &Result<T, Trouble>) -> Outcome {
    match answer {
        Ok(_) => Outcome::of(Some(200), None),
        Err(Trouble::Refused(status, body)) => {
            let problem: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
            Outcome::of(Some(*status), problem["code"].as_str())
        }
        Err(_) => Outcome::of(None, None),
    }
}

/// What a push for this phone says.
fn magic_of(udid: &str) -> String {
    format!("magic of {udid}")
}

/// What the server asks by itself has a name; what an operator ordered has the id of a task.
fn is_order(command_uuid: &str) -> bool {
    command_uuid.get(..36).is_some_and(|id| uuid::Uuid::try_parse(id).is_ok())
}

fn texts(pairs: &[(&str, &str)]) -> Dictionary {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), Value::String((*value).to_owned()))).collect()
}
