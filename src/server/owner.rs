//! Root makes nothing in a folder that is somebody else's: the server, which runs as that user, could not read it.

use std::path::Path;

use crate::config::Config;

/// Refuses where this process is root's and would leave files of root's in a folder that belongs to another user.
pub fn spare(config: &Config) -> anyhow::Result<()> {
    #[cfg(unix)]
    if effective_uid() == Some(0) {
        let file = config.sqlite_file();
        let folder = file.as_deref().and_then(Path::parent).filter(|folder| !folder.as_os_str().is_empty());
        for (setting, folder) in [("data_dir", Some(config.data_dir.as_path())), ("the folder of database_url", folder)] {
            let Some(folder) = folder else { continue };
            let Some(uid) = owner_of(folder).filter(|uid| *uid != 0) else { continue };
            anyhow::bail!("{}", refusal(setting, folder, uid, name_of(uid).as_deref()));
        }
    }
    Ok(())
}

/// The user whose rights this process has. The kernel tells it in a file that anybody may read; where there is no such kernel, nobody knows.
#[cfg(unix)]
fn effective_uid() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(unix)]
fn owner_of(folder: &Path) -> Option<u32> {
    std::fs::metadata(folder).ok().map(|found| std::os::unix::fs::MetadataExt::uid(&found))
}

#[cfg(unix)]
fn name_of(uid: u32) -> Option<String> {
    let known = std::fs::read_to_string("/etc/passwd").ok()?;
    let fields = known.lines().map(|line| line.split(':').collect::<Vec<_>>());
    fields.into_iter().find(|fields| fields.get(2).is_some_and(|id| id.parse() == Ok(uid))).map(|fields| fields[0].to_owned())
}

#[cfg(unix)]
fn refusal(setting: &str, folder: &Path, uid: u32, name: Option<&str>) -> String {
    let folder = folder.display();
    match name {
        Some(name) => format!(
            "{setting} {folder} belongs to {name}, who could not read what root makes there: run it as {name}: runuser -u {name} -- muster ..."
        ),
        None => format!(
            "{setting} {folder} belongs to the user with the id {uid}, who could not read what root makes there: run it as that user"
        ),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_says_as_whom_to_run() {
        let said = refusal("data_dir", Path::new("/var/lib/muster"), 110, Some("muster"));
        assert!(said.contains("data_dir /var/lib/muster belongs to muster") && said.contains("runuser -u muster -- muster"), "{said}");
        assert!(refusal("data_dir", Path::new("/x"), 4242, None).contains("4242"));
        assert_eq!(name_of(0).as_deref(), Some("root"));
    }

    #[test]
    fn root_is_kept_from_a_folder_of_somebody_else_and_nobody_else_is_kept_from_anything() {
        let folder = tempfile::tempdir().unwrap();
        let url = |folder: &Path| format!("sqlite://{}", folder.join("muster.db").display());
        let config = Config { data_dir: folder.path().to_owned(), database_url: url(folder.path()), ..Config::default() };
        assert!(spare(&config).is_ok(), "one's own folder");
        assert!(spare(&Config { data_dir: folder.path().join("none"), ..config.clone() }).is_ok(), "a folder that is still to be made");
        if effective_uid() != Some(0) {
            // Only root can give a folder away; that anybody else is let through was seen above.
            return;
        }
        let theirs = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(theirs.path(), Some(4242), None).unwrap();
        for config in
            [Config { data_dir: theirs.path().to_owned(), ..config.clone() }, Config { database_url: url(theirs.path()), ..config }]
        {
            assert!(spare(&config).unwrap_err().to_string().contains("4242"));
        }
    }
}
