//! Files on a disk: a folder for each device, and in it a file for each name. A file is there whole or not at all.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::{Duration, UNIX_EPOCH};

use axum::body::Body;
use axum::http::StatusCode;
use http_body_util::BodyExt;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Mutex;

use crate::files::private_folder;
use crate::http::error::{Answer, Problem};
use crate::http::extract::{drain, too_large};
use crate::http::serve::Patience;
use crate::model::{BUCKETS, Id};

use crate::protocol::pki::certificate::hex;

/// Characters of a file's name at most.
const NAME_BYTES_MAX: usize = 128;
/// Files of a device at most: a list of them fits into one answer.
const FILES_MAX: usize = 1000;
/// Files that are written at a time, and those of one device among them; more are sent away.
const WRITING_MAX: usize = 64;
const WRITING_OF_DEVICE_MAX: usize = 4;
/// Seconds after which who was sent away comes again.
const RETRY_AFTER_S: i64 = 5;
/// What is read of a file at a time.
const PIECE_BYTES: usize = 64 * 1024;
/// How long a device may take for the next piece of a file, and for all of it.
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);
const FILE_TIMEOUT: Duration = Duration::from_secs(1800);
/// What a file is called while it comes in. No name that is taken begins with a dot.
const PART: &str = ".part-";

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub file_bytes_max: u64,
    pub device_bytes_max: u64,
}

/// The files of all devices.
#[derive(Debug)]
pub struct Files {
    folder: PathBuf,
    limits: Limits,
    /// How many files each device is writing.
    writing: std::sync::Mutex<HashMap<Id, usize>>,
    /// One for the devices of a bucket: who writes counts what the device has.
    locks: Vec<Mutex<()>>,
}

/// A file of a device that is being written.
struct Writing<'a> {
    files: &'a Files,
    device: Id,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let mut writing = self.files.writing.lock().unwrap_or_else(PoisonError::into_inner);
        match writing.get_mut(&self.device) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(writing.remove(&self.device)),
        }
    }
}

/// A stored file as the acknowledgement tells it.
#[derive(Clone, Debug, Serialize)]
pub struct Stored {
    pub name: String,
    pub bytes: u64,
    /// Lower-case hex.
    pub sha256: String,
}

/// A file as the list tells it.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    pub name: String,
    pub bytes: u64,
    /// Unix milliseconds.
    pub modified_ms: u64,
}

impl Files {
    /// Opens the folder, makes it where there is none, and takes away what a fall left half written.
    pub fn open(folder: &Path, limits: Limits) -> std::io::Result<Files> {
        private_folder(folder)?;
        for device in std::fs::read_dir(folder)? {
            let device = device?;
            if !device.file_type()?.is_dir() {
                continue;
            }
            for file in std::fs::read_dir(device.path())? {
                let file = file?;
                if file.file_name().to_string_lossy().starts_with(PART) {
                    std::fs::remove_file(file.path())?;
                }
            }
        }
        let locks = (0..BUCKETS).map(|_| Mutex::default()).collect();
        Ok(Files { folder: folder.to_owned(), limits, writing: Default::default(), locks })
    }

    /// Fails where no file could be written.
    pub fn reach(&self) -> Answer<()> {
        crate::files::can_write(&self.folder).map_err(disk)
    }

    /// The files of a device, by name.
    pub async fn list(&self, device: Id) -> Answer<Vec<Listed>> {
        let folder = self.folder_of(device);
        let read = tokio::task::spawn_blocking(move || listed(&folder)).await;
        read.map_err(|_| disk(ErrorKind::Interrupted.into()))?.map_err(disk)
    }

    /// How many bytes a file has, and the bytes.
    pub async fn read(&self, device: Id, name: &str) -> Answer<(u64, Body)> {
        let file = File::open(self.folder_of(device).join(checked(name)?)).await.map_err(disk)?;
        let bytes = file.metadata().await.map_err(disk)?.len();
        let pieces = futures_util::stream::try_unfold(file, async |mut file| {
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            let read = file.read_buf(&mut piece).await?;
            Ok::<_, std::io::Error>((read > 0).then_some((piece, file)))
        });
        Ok((bytes, Body::from_stream(pieces)))
    }

    /// Stores what comes; true where the name is new. `part` names it while it comes.
    pub async fn write(&self, device: Id, name: &str, part: Id, mut body: Body) -> Answer<(Stored, bool)> {
        let (folder, name) = (self.folder_of(device), checked(name)?);
        let _place = self.place(device)?;
        private_folder(&folder).map_err(disk)?;
        let part = folder.join(format!("{PART}{part}"));
        let outcome = self.write_part(&folder, name, &part, &mut body, device).await;
        if outcome.is_err() {
            drain(&mut body, Patience::default()).await;
            // It may not be there at all.
            tokio::fs::remove_file(&part).await.ok();
        }
        outcome
    }

    /// A place among those who write. A file takes as long as its device likes, so nobody waits for one.
    fn place(&self, device: Id) -> Answer<Writing<'_>> {
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let own = writing.get(&device).copied().unwrap_or(0);
        if own >= WRITING_OF_DEVICE_MAX || writing.values().sum::<usize>() >= WRITING_MAX {
            let detail = format!("{WRITING_OF_DEVICE_MAX} files of a device are taken at a time, and {WRITING_MAX} of all; try again");
            let busy = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "node_busy", detail);
            return Err(Problem { retry_after_s: Some(RETRY_AFTER_S), ..busy });
        }
        writing.insert(device, own + 1);
        Ok(Writing { files: self, device })
    }

    async fn write_part(&self, folder: &Path, name: &str, part: &Path, body: &mut Body, device: Id) -> Answer<(Stored, bool)> {
        let received = tokio::time::timeout(FILE_TIMEOUT, self.receive(part, body)).await;
        let (bytes, sha256) = received.map_err(|_| too_slow())??;
        // From here on nobody else counts this device's files.
        let _turn = self.lock_of(device).lock().await;
        let there = self.list(device).await?;
        let is_new = there.iter().all(|file| file.name != name);
        let others: u64 = there.iter().filter(|file| file.name != name).map(|file| file.bytes).sum();
        if others + bytes > self.limits.device_bytes_max || (is_new && there.len() >= FILES_MAX) {
            let detail = format!(
                "a device may have {} bytes in {FILES_MAX} files, and has {others} in {} others: take some away",
                self.limits.device_bytes_max,
                there.len() - usize::from(!is_new)
            );
            return Err(Problem::new(StatusCode::INSUFFICIENT_STORAGE, "device_full", detail));
        }
        tokio::fs::rename(part, folder.join(name)).await.map_err(disk)?;
        // The name is as durable as the bytes, and so is the device's folder, which may be new.
        for folder in [folder, &self.folder] {
            File::open(folder).await.map_err(disk)?.sync_all().await.map_err(disk)?;
        }
        Ok((Stored { name: name.to_owned(), bytes, sha256 }, is_new))
    }

    /// Writes a body into a file of its own; answers its bytes and their SHA-256.
    async fn receive(&self, part: &Path, body: &mut Body) -> Answer<(u64, String)> {
        let mut file = File::create_new(part).await.map_err(disk)?;
        let (mut bytes, mut digest) = (0, Sha256::new());
        loop {
            let frame = tokio::time::timeout(PIECE_TIMEOUT, body.frame()).await.map_err(|_| too_slow())?;
            let Some(frame) = frame else { break };
            let frame =
                frame.map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "body_incomplete", "the file ended early; send it again"))?;
            let Some(piece) = frame.data_ref() else { continue };
            bytes += piece.len() as u64;
            if bytes > self.limits.file_bytes_max {
                return Err(too_large(self.limits.file_bytes_max));
            }
            digest.update(piece);
            file.write_all(piece).await.map_err(disk)?;
        }
        file.sync_all().await.map_err(disk)?;
        Ok((bytes, hex(&digest.finalize())))
    }

    /// Takes a file away.
    pub async fn remove(&self, device: Id, name: &str) -> Answer<()> {
        let file = self.folder_of(device).join(checked(name)?);
        let _turn = self.lock_of(device).lock().await;
        tokio::fs::remove_file(file).await.map_err(disk)
    }

    fn lock_of(&self, device: Id) -> &Mutex<()> {
        &self.locks[usize::try_from(device.bucket()).unwrap_or(0)]
    }

    fn folder_of(&self, device: Id) -> PathBuf {
        self.folder.join(device.to_string())
    }
}

fn checked(name: &str) -> Answer<&str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if !name.starts_with('.') && (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_plain) {
        return Ok(name);
    }
    let detail = format!("a file's name has up to {NAME_BYTES_MAX} of A-Z, a-z, 0-9, '.', '_' and '-', and begins with no dot");
    Err(Problem::invalid(vec![crate::model::Fault { pointer: "name".into(), detail }]))
}

fn listed(folder: &Path) -> std::io::Result<Vec<Listed>> {
    let mut found = Vec::new();
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // Taken away meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if !name.starts_with(PART) {
            let since = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
            found.push(Listed { name, bytes: metadata.len(), modified_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX) });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn too_slow() -> Problem {
    Problem::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", "the file took too long; send it again")
}

fn disk(error: std::io::Error) -> Problem {
    match error.kind() {
        ErrorKind::NotFound => Problem::new(StatusCode::NOT_FOUND, "not_found", "there is no such file"),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            tracing::error!("the disk of the storage node is full");
            Problem::new(StatusCode::INSUFFICIENT_STORAGE, "disk_full", "the node's disk is full; what was acknowledged is safe")
        }
        _ => {
            tracing::error!(%error, "the disk of the storage node does not do what it should");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the node failed; its log says why")
        }
    }
}
