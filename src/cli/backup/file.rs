//! The bytes of a backup: written beside their place and renamed into it, read with their checksum.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::End;

/// The longest line that is read: one row.
const LINE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Writes lines to a temporary file that only its owner can read; without [`Writer::finish`] it is taken away again.
pub(super) struct Writer {
    out: BufWriter<File>,
    digest: Sha256,
    partial: PathBuf,
    finished: bool,
}

impl Writer {
    pub(super) fn create(path: &Path) -> std::io::Result<Writer> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".partial-{}", std::process::id()));
        let partial = path.with_file_name(name);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let out = BufWriter::with_capacity(1 << 20, options.open(&partial)?);
        Ok(Writer { out, digest: Sha256::new(), partial, finished: false })
    }

    pub(super) fn line(&mut self, text: &str) -> std::io::Result<()> {
        for bytes in [text.as_bytes(), b"\n"] {
            self.digest.update(bytes);
            self.out.write_all(bytes)?;
        }
        Ok(())
    }

    /// Ends the file, makes it durable and gives it its name.
    pub(super) fn finish(mut self, path: &Path) -> std::io::Result<()> {
        let end = End { end: true, sha256: hex(self.digest.clone()) };
        self.out.write_all(format!("{}\n", serde_json::to_string(&end)?).as_bytes())?;
        self.out.flush()?;
        self.out.get_ref().sync_all()?;
        std::fs::rename(&self.partial, path)?;
        self.finished = true;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished {
            std::fs::remove_file(&self.partial).ok();
        }
    }
}

/// A line behind the header.
pub(super) enum Line {
    Table(String),
    Row(String),
    /// The checksum was right and nothing follows.
    End,
}

/// Reads lines; whoever sees [`Line::End`] has read all of the file, as it was written.
pub(super) struct Reader {
    from: BufReader<File>,
    digest: Sha256,
}

#[derive(Deserialize)]
struct Begin {
    table: String,
}

impl Reader {
    pub(super) fn open(path: &Path) -> std::io::Result<Reader> {
        Ok(Reader { from: BufReader::with_capacity(1 << 20, File::open(path)?), digest: Sha256::new() })
    }

    /// A whole line without its end; `None` at the end of the file.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<String>> {
        let before = self.digest.clone();
        let mut bytes = Vec::new();
        let mut limited = std::io::Read::take(&mut self.from, LINE_BYTES_MAX as u64);
        if limited.read_until(b'\n', &mut bytes)? == 0 {
            return Ok(None);
        }
        ensure!(bytes.last() == Some(&b'\n'), "the file ends in the middle of a line: it is truncated");
        self.digest.update(&bytes);
        bytes.pop();
        let text = String::from_utf8(bytes).context("the file is damaged: it is no text")?;
        if text.starts_with("{\"end\":") {
            let end: End = serde_json::from_str(&text).context("the file is damaged")?;
            ensure!(end.end && end.sha256 == hex(before), "the file is damaged: its checksum is another");
            ensure!(self.from.fill_buf()?.is_empty(), "the file is damaged: something follows its end");
        }
        Ok(Some(text))
    }

    /// The next line behind the header.
    pub(super) fn line(&mut self) -> anyhow::Result<Line> {
        let text = self.next()?.context("the file has no end: it is truncated")?;
        if text.starts_with("{\"end\":") {
            return Ok(Line::End);
        }
        // No table has a column of one of these two names as its first.
        if text.starts_with("{\"table\":") {
            return Ok(Line::Table(serde_json::from_str::<Begin>(&text).context("the file is damaged")?.table));
        }
        Ok(Line::Row(text))
    }
}

fn hex(digest: Sha256) -> String {
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
