//! A stand-in for a mail server: it speaks SMTP on loopback, keeps what it takes, and says no when it is told to.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A line, and a whole letter, are no longer.
const LETTER_BYTES_MAX: u64 = 1_048_576;

/// A letter that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    pub from: String,
    pub to: Vec<String>,
    /// Headers and body as they came.
    pub data: String,
}

/// What the server does instead of taking the next letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Answers RCPT with this line: `451 4.3.0 later`, `550 5.1.1 no such user`.
    Refuse(String),
    /// Takes the letter and breaks off before it says so.
    CutAfterData,
}

#[derive(Debug, Default)]
struct State {
    letters: Vec<Letter>,
    faults: VecDeque<Fault>,
    attempts: usize,
}

/// The server; it ends with its last handle.
#[derive(Debug)]
pub struct StandIn {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    serving: JoinHandle<()>,
}

impl StandIn {
    /// Listens on a free loopback port.
    pub async fn start() -> io::Result<StandIn> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = shared.clone();
                tokio::spawn(async move { serve(stream, &state).await.ok() });
            }
        });
        Ok(StandIn { address, state, serving })
    }

    /// What `[mail] smtp_url` names it by.
    pub fn url(&self) -> String {
        format!("smtp://{}", self.address)
    }

    /// What it took, in order.
    pub fn letters(&self) -> Vec<Letter> {
        lock(&self.state).letters.clone()
    }

    /// How many letters were begun.
    pub fn attempts(&self) -> usize {
        lock(&self.state).attempts
    }

    /// Does this with one of the next letters, in the order of the calls.
    pub fn next(&self, fault: Fault) {
        lock(&self.state).faults.push_back(fault);
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Letter {
    /// The value of a header that stands on one line.
    pub fn header(&self, name: &str) -> Option<&str> {
        let head = self.data.split("\r\n\r\n").next().unwrap_or_default();
        head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// The body as it reads, quoted-printable undone.
    pub fn text(&self) -> String {
        let body = self.data.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        if self.header("Content-Transfer-Encoding") != Some("quoted-printable") {
            return body.to_owned();
        }
        let joined = body.replace("=\r\n", "");
        let (mut bytes, mut rest) = (Vec::new(), joined.as_bytes());
        while let Some((first, tail)) = rest.split_first() {
            let code = (*first == b'=').then(|| tail.get(..2)).flatten().and_then(|hex| std::str::from_utf8(hex).ok());
            match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                Some(byte) => (bytes.push(byte), rest = &tail[2..]).1,
                None => (bytes.push(*first), rest = tail).1,
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

async fn serve(stream: TcpStream, state: &Mutex<State>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read.take(LETTER_BYTES_MAX));
    let (mut from, mut to) = (String::new(), Vec::new());
    say(&mut write, "220 stand-in ESMTP").await?;
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let line = line.trim_end();
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        match verb.as_str() {
            "EHLO" => say(&mut write, "250-stand-in\r\n250 8BITMIME").await?,
            "HELO" | "RSET" | "NOOP" => say(&mut write, "250 ok").await?,
            "MAIL" => {
                (from, to) = (address(line), Vec::new());
                lock(state).attempts += 1;
                say(&mut write, "250 ok").await?;
            }
            "RCPT" => {
                let fault = {
                    let mut state = lock(state);
                    matches!(state.faults.front(), Some(Fault::Refuse(_))).then(|| state.faults.pop_front()).flatten()
                };
                match fault {
                    Some(Fault::Refuse(answer)) => say(&mut write, &answer).await?,
                    _ => {
                        to.push(address(line));
                        say(&mut write, "250 ok").await?;
                    }
                }
            }
            "DATA" => {
                say(&mut write, "354 go on").await?;
                let data = letter(&mut lines).await?;
                let is_cut = {
                    let mut state = lock(state);
                    state.letters.push(Letter { from: from.clone(), to: to.clone(), data });
                    let is_cut = state.faults.front() == Some(&Fault::CutAfterData);
                    if is_cut {
                        state.faults.pop_front();
                    }
                    is_cut
                };
                if is_cut {
                    return Ok(());
                }
                say(&mut write, "250 taken").await?;
            }
            "QUIT" => return say(&mut write, "221 bye").await,
            _ => say(&mut write, "502 unknown").await?,
        }
    }
}

async fn letter(lines: &mut (impl AsyncBufReadExt + Unpin)) -> io::Result<String> {
    let mut data = String::new();
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line == ".\r\n" {
            return Ok(data);
        }
        // A line that begins with a dot was sent with another before it.
        data.push_str(line.strip_prefix('.').unwrap_or(&line));
    }
}

async fn say(write: &mut (impl AsyncWriteExt + Unpin), line: &str) -> io::Result<()> {
    write.write_all(format!("{line}\r\n").as_bytes()).await
}

fn address(line: &str) -> String {
    line.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(address, _)| address.to_owned()).unwrap_or_default()
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
