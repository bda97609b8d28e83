//! `muster push`: how the senders stand, and the road to an MDM push certificate and to its yearly renewal.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::DateTime;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Access, ROWS_MAX, ask, call, run, segment};
use crate::clock::Clock;
use crate::files;
use crate::protocol::pki::request::Request;
use crate::protocol::pki::{Key, name};
use crate::push::apns::Identity;

const PORTAL: &str = "https://identity.apple.com/pushcert";
const MDM: &str = "apns_mdm/";
/// How often a canary is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Where the server is and who asks; `--key` is the key of a certificate here.
#[derive(Clone, Args)]
pub struct PushAccess {
    /// The server.
    #[arg(long, global = true, env = "MUSTER_SERVER", default_value = "http://127.0.0.1:8080", value_name = "URL")]
    server: String,
    /// An API key; `muster key add` makes one.
    #[arg(long, global = true, env = "MUSTER_KEY", hide_env_values = true, value_name = "KEY")]
    api_key: Option<String>,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
}

impl std::fmt::Debug for PushAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PushAccess").field("server", &self.server).finish_non_exhaustive()
    }
}

impl From<PushAccess> for Access {
    fn from(access: PushAccess) -> Access {
        let asks = "say who asks: --api-key or MUSTER_KEY; `muster key add` makes one";
        Access { server: access.server, key: access.api_key, asks, json: access.json, limit: ROWS_MAX }
    }
}

/// Push credentials.
#[derive(Debug, Subcommand)]
pub enum Push {
    /// Show the senders and how they stand.
    Status,
    /// Make a key and a certificate signing request for a first MDM push certificate.
    Request {
        #[command(flatten)]
        files: Files,
    },
    /// Make a key and a request to renew the MDM push certificate in use, which must keep its topic.
    Renew {
        #[command(flatten)]
        files: Files,
        /// Which topic, where the server has several.
        #[arg(long)]
        topic: Option<String>,
        /// The certificate in use, PEM, instead of asking the server for its topic.
        #[arg(long, value_name = "FILE", conflicts_with = "topic")]
        certificate: Option<PathBuf>,
    },
    /// Call one device in through a sender, and tell what comes of it.
    Canary {
        /// fcm, apns-app or apns-mdm.
        sender: String,
        /// How long the provider's answer and the device are waited for.
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        wait: u64,
    },
    /// Take a credential away that was set by the API; one in a file of the server's settings takes its place.
    Remove {
        /// fcm, apns-app, or the topic of an MDM push certificate.
        sender: String,
        /// Take it away although devices are called with it.
        #[arg(long)]
        force: bool,
    },
    /// Put an MDM push certificate into use, after a look at key, chain, end and topic.
    Install {
        /// The certificate that Apple's portal gave out, PEM.
        #[arg(long, value_name = "FILE")]
        certificate: PathBuf,
        /// Its key, PEM.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Take it although enrolled devices would not hear it, or another CA than Apple's issued it.
        #[arg(long)]
        force: bool,
    },
}

/// What is made for a request.
#[derive(Debug, Args)]
pub struct Files {
    /// Where the new key is written, readable by its owner alone; a file that is there is left alone.
    #[arg(long, value_name = "FILE", default_value = "mdm-push.key")]
    key: PathBuf,
    /// Where the request is written; a file that is there is left alone.
    #[arg(long, value_name = "FILE", default_value = "mdm-push.csr")]
    out: PathBuf,
    /// The common name in the request. Apple's certificate has a name of its own.
    #[arg(long, default_value = "Muster MDM push")]
    name: String,
}

impl Push {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        match self {
            Push::Status => run(access, call("GET", "/push")).await,
            Push::Request { files } => {
                files.make()?;
                eprint!("{}", explained(&files, None));
                told(access, &json!({"key": files.key, "request": files.out}))
            }
            Push::Renew { files, topic, certificate } => {
                let (topic, ends_at_ms) = match certificate {
                    Some(path) => of_file(&path)?,
                    None => in_use(access, topic).await?,
                };
                files.make()?;
                eprint!("{}", explained(&files, Some((&topic, ends_at_ms))));
                told(access, &json!({"key": files.key, "request": files.out, "topic": topic, "ends_at_ms": ends_at_ms}))
            }
            Push::Remove { sender, force } => {
                let path = match sender.as_str() {
                    "fcm" => format!("/push/fcm?force={force}"),
                    "apns-app" | "apns_app" => format!("/push/apns-app?force={force}"),
                    topic => format!("/push/apns-mdm?topic={}&force={force}", segment(topic.strip_prefix(MDM).unwrap_or(topic))),
                };
                run(access, call("DELETE", path)).await
            }
            Push::Canary { sender, wait } => canary(access, &sender, Duration::from_secs(wait)).await,
            Push::Install { certificate, key, force } => {
                let (pem, key) = (read(&certificate)?, read(&key)?);
                let identity = Identity::from_pem(pem.as_bytes(), key.as_bytes()).with_context(|| certificate.display().to_string())?;
                let force = force.then(|| "true".to_owned());
                let put = call("PUT", "/push/apns-mdm").ask("force", force).with(json!({"certificate": pem, "key": key}));
                let answer = ask(access, put).await?;
                eprintln!("{} is in use until {}.", identity.topic(), day(identity.not_after_ms()));
                if let Some(detail) = answer["preflight"]["detail"].as_str() {
                    eprintln!("Its issuer: {detail}.");
                }
                told(access, &answer)
            }
        }
    }
}

impl Files {
    /// Makes both files, or neither.
    fn make(&self) -> anyhow::Result<()> {
        for path in [&self.key, &self.out] {
            ensure!(!path.exists(), "{} is there already, and nothing is written over: name another file", path.display());
        }
        let key = Key::make(&mut Clock::system().moment())?;
        let request = Request::make(&key, &name::of(&[(name::COMMON_NAME, self.name.as_str())]), None)?;
        files::private_new(&self.key, key.to_pem()?.as_bytes()).with_context(|| self.key.display().to_string())?;
        let written = files::private_new(&self.out, pem(&request).as_bytes()).with_context(|| self.out.display().to_string());
        if written.is_err() {
            // A key without its request is of no use, and would be in the way of the next try.
            std::fs::remove_file(&self.key).ok();
        }
        written
    }
}

/// What to do with a request, step by step; `renewed` is the topic that must stay, and when its certificate ends.
fn explained(files: &Files, renewed: Option<(&str, i64)>) -> String {
    let (key, request) = (files.key.display(), files.out.display());
    let mut text = format!(
        "The key is in {key}: keep it secret, and keep it; the certificate is of no use without it.\nThe request is in {request}.\n\n"
    );
    if let Some((topic, ends_at_ms)) = renewed {
        text += &format!(
            "THE TOPIC MUST STAY {topic}\n\
             Devices hear the topic they enrolled with and no other. RENEW that certificate (it ends on {}); one that is CREATED has\n\
             another topic, and no enrolled device is reached by it until it enrolls again.\n\n",
            day(ends_at_ms)
        );
    }
    text += &format!(
        "1. Have {request} signed with an MDM vendor certificate: the vendor signs the request (SHA-256, RSA) and hands back a property\n"
    );
    text += "   list with the request, the signature and the vendor's certificates.\n";
    text += &match renewed {
        None => format!(
            "2. At {PORTAL}, under an Apple account of your organisation that will still be there next year, choose\n   \"Create a Certificate\" and upload it.\n"
        ),
        Some((topic, _)) => format!(
            "2. At {PORTAL}, under the SAME Apple account as last time, find the certificate whose subject has the UID\n   {topic}, choose \"Renew\" beside it and upload the list.\n"
        ),
    };
    text += &format!("3. Download the certificate (PEM) and put it into use:\n   muster push install --certificate FILE --key {key}\n");
    text
}

/// Orders a canary, waits for what comes of it, and fails unless the provider took the call.
async fn canary(access: &Access, sender: &str, wait: Duration) -> anyhow::Result<()> {
    let ends_at = Instant::now() + wait;
    let mut answer = ask(access, call("POST", format!("/push/{}/canary", segment(sender)))).await?;
    let name = sender.replace('-', "_");
    let of = |answer: &Value| -> Vec<Value> {
        let meant = |sender: &&Value| sender["name"].as_str().is_some_and(|known| known.split('/').next() == Some(&name));
        answer["senders"].as_array().into_iter().flatten().filter(meant).cloned().collect()
    };
    while Instant::now() < ends_at && of(&answer).iter().any(|sender| sender["canary"]["state"] != "ended") {
        tokio::time::sleep(LOOK_EVERY).await;
        answer = ask(access, call("GET", "/push")).await?;
    }
    let mut is_taken = true;
    for sender in of(&answer) {
        let (name, canary) = (sender["name"].as_str().unwrap_or_default(), &sender["canary"]);
        is_taken &= canary["answer"] == "accepted";
        let said = match (canary["answer"].as_str(), canary["contact_at_ms"].as_i64().zip(canary["called_at_ms"].as_i64())) {
            (None, _) if canary["called_at_ms"].is_null() => "no device came within a day that could be called".to_owned(),
            (None, _) => "no answer yet".to_owned(),
            (Some(answer), Some((came_ms, called_ms))) => format!("{answer}; the device came {} s later", (came_ms - called_ms) / 1000),
            (Some(answer), None) => format!("{answer}; the device has not come yet"),
        };
        eprintln!("{name}: {said}");
    }
    ensure!(is_taken, "the provider has not taken the call");
    told(access, &answer)
}

/// Topic and end of the MDM push certificate that the server uses.
async fn in_use(access: &Access, wanted: Option<String>) -> anyhow::Result<(String, i64)> {
    let answer = ask(access, call("GET", "/push")).await?;
    let senders = answer["senders"].as_array().map(Vec::as_slice).unwrap_or_default();
    let known: Vec<(&str, i64)> = senders
        .iter()
        .filter(|sender| sender["name"].as_str().is_some_and(|name| name.starts_with(MDM)))
        .filter_map(|sender| Some((sender["topic"].as_str()?, sender["credential_ends_at_ms"].as_i64()?)))
        .filter(|(topic, _)| wanted.as_deref().is_none_or(|wanted| wanted == *topic))
        .collect();
    match known[..] {
        [(topic, ends_at_ms)] => Ok((topic.to_owned(), ends_at_ms)),
        [] => bail!("the server has no such MDM push certificate: `muster push request` begins with a first one"),
        _ => bail!(
            "the server has several; say which: {}",
            known.iter().map(|(topic, _)| format!("--topic {topic}")).collect::<Vec<_>>().join(" or ")
        ),
    }
}

fn of_file(path: &Path) -> anyhow::Result<(String, i64)> {
    let found = Identity::topic_and_end(read(path)?.as_bytes()).with_context(|| path.display().to_string())?;
    Ok(found)
}

fn read(path: &Path) -> anyhow::Result<String> {
    let length = std::fs::metadata(path).with_context(|| path.display().to_string())?.len();
    ensure!(length <= FILE_BYTES_MAX, "{} has more than {FILE_BYTES_MAX} bytes", path.display());
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// A request as openssl and Apple's portal read it (RFC 7468).
fn pem(request: &[u8]) -> String {
    let text = STANDARD.encode(request);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n", lines.join("\n"))
}

fn day(ms: i64) -> String {
    DateTime::from_timestamp_millis(ms).map_or_else(|| ms.to_string(), |at| at.format("%Y-%m-%d").to_string())
}

/// Prints what a script asks for.
fn told(access: &Access, value: &Value) -> anyhow::Result<()> {
    if access.json {
        println!("{}", serde_json::to_string_pretty(value)?);
    }
    Ok(())
}
