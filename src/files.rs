//! Files and folders with secrets: their owner's alone.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;

/// Writes a file that only its owner may read, in the place of one that is there.
pub fn private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
        options.mode(0o600);
        if path.exists() {
            // The mode is for files that are made; one that was there keeps its own.
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        }
    }
    options.open(path)?.write_all(bytes)
}

/// Writes a file that only its owner may read; one that is there is left alone, and that is an error.
pub fn private_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Opens a file for writing, made empty and its owner's alone where there is none; one that is there keeps its mode and its content.
pub fn private_open(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Makes a file empty where there is none, so that whoever opens it next finds one that is its owner's alone.
pub fn private_empty(path: &Path) -> std::io::Result<()> {
    match private_new(path, b"") {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Makes a folder and those above it where there are none, each its owner's alone; those that are there keep their modes.
pub fn private_folder(path: &Path) -> std::io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Whether a file could be made in this folder. Nothing is left there: the file that is tried has no name.
pub fn can_write(folder: &Path) -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::OpenOptionsExt;
        /// O_TMPFILE of Linux, open(2).
        const NAMELESS: i32 = 0o20_200_000;
        if let Err(error) = OpenOptions::new().write(true).mode(0o600).custom_flags(NAMELESS).open(folder) {
            // A file system that knows no such files says nothing about leave to write.
            return if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) { Err(error) } else { Ok(()) };
        }
    }
    std::fs::metadata(folder).map(drop)
}
