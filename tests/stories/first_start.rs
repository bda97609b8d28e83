//! Before the first start, and around it: what is made, whose it is, and what the command line takes from its surroundings.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use muster::clock::Clock;
use muster::sim::fcm::StandIn;

use crate::support::process::Process;

const DEADLINE: Duration = Duration::from_secs(60);

/// The program in a folder without a database and without a key of its own.
struct Bare {
    folder: tempfile::TempDir,
    process: Process,
}

impl Bare {
    async fn new() -> Bare {
        let folder = tempfile::tempdir().unwrap();
        let fcm = StandIn::start(Clock::system()).await.unwrap();
        let process = Process::new(folder.path(), &format!("sqlite://{}", folder.path().join("data/muster.db").display()), &fcm);
        Bare { folder, process }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    async fn run(&self, envs: &[(&str, &str)], args: &[&str]) -> Output {
        let mut command = self.process.command();
        command.env_remove("MUSTER_SECRETS_KEY").env("MUSTER_DATA_DIR", self.path("data")).envs(envs.iter().copied()).args(args);
        tokio::time::timeout(DEADLINE, command.output()).await.unwrap().unwrap()
    }

    /// What is said where it succeeds: standard output and standard error.
    async fn told(&self, envs: &[(&str, &str)], args: &[&str]) -> (String, String) {
        let output = self.run(envs, args).await;
        let (out, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success(), "{args:?}: {said}");
        (out, said)
    }

    async fn refused(&self, envs: &[(&str, &str)], args: &[&str]) -> String {
        let output = self.run(envs, args).await;
        assert!(!output.status.success() && output.stdout.is_empty(), "{args:?}: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stderr).unwrap()
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_only_reads_makes_nothing_and_what_is_made_is_its_owners_alone() {
    let mut bare = Bare::new().await;
    for args in [&["backup", "b"][..], &["ca", "show"], &["doctor"]] {
        let output = bare.run(&[], args).await;
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(said.contains("does not exist"), "{args:?}: {said}");
        assert!(!bare.path("data").exists() && !bare.path("b").exists(), "{args:?}");
    }
    bare.told(&[], &["key", "add", "first"]).await;
    bare.process.sealed_by(std::fs::read_to_string(bare.path("data/secret.key")).unwrap().trim());
    bare.process.start().await;
    assert_eq!(mode(&bare.path("data")), 0o700);
    for name in ["muster.db", "muster.db-wal", "muster.db-shm", "muster.db.lock", "secret.key"] {
        assert_eq!(mode(&bare.path("data").join(name)), 0o600, "{name}");
    }
    bare.told(&[], &["backup", "b"]).await;
    bare.process.kill().await;
    // A backup without its key is not restored under a new one.
    let elsewhere = bare.path("elsewhere");
    let (data, url) = (elsewhere.display().to_string(), format!("sqlite://{}", elsewhere.join("muster.db").display()));
    let envs = [("MUSTER_DATA_DIR", data.as_str()), ("MUSTER_DATABASE_URL", url.as_str())];
    assert!(bare.refused(&envs, &["restore", "b"]).await.contains("bring the key of this backup"));
    assert!(!elsewhere.exists());
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::copy(bare.path("data/secret.key"), elsewhere.join("secret.key")).unwrap();
    bare.told(&envs, &["restore", "b"]).await;
    // Nor does a database get a new key in the place of one that was lost.
    std::fs::remove_file(elsewhere.join("secret.key")).unwrap();
    assert!(bare.refused(&envs, &["key", "add", "second"]).await.contains("bring the key of this database"));
    assert!(!elsewhere.join("secret.key").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn root_leaves_nothing_in_the_folder_of_the_servers_user() {
    let bare = Bare::new().await;
    if std::fs::metadata(bare.folder.path()).unwrap().uid() != 0 {
        eprintln!("only root can give a folder away: not tried");
        return;
    }
    std::fs::create_dir(bare.path("data")).unwrap();
    std::os::unix::fs::chown(bare.path("data"), Some(4242), Some(4242)).unwrap();
    for args in [
        &["operator", "add", "admin", "--role", "admin"][..],
        &["key", "add", "a"],
        &["migrate"],
        &["serve"],
        &["ca", "rotate"],
        &["restore", "b"],
    ] {
        let said = bare.refused(&[], args).await;
        assert!(said.contains("data_dir") && said.contains("4242"), "{args:?}: {said}");
    }
    assert_eq!(std::fs::read_dir(bare.path("data")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_takes_what_is_its_own_and_flags_win() {
    let bare = Bare::new().await;
    std::fs::write(bare.path("other.toml"), "[limits]\nwipes_per_hour = 4\n[[listener]]\naddress = \"127.0.0.1:7\"\nserves = [\"api\"]\n")
        .unwrap();
    let print = &["serve", "--print-config"][..];
    let (text, _) = bare.told(&[("MUSTER_ENROLLMENT_TOKEN", "mdt_x"), ("MUSTER_CONFIG", "other.toml")], print).await;
    assert!(text.contains("wipes_per_hour = 4") && text.contains("127.0.0.1:7"), "{text}");
    let flag = &["--config", "other.toml", "serve", "--listen", "127.0.0.1:8", "--print-config"][..];
    let (text, _) = bare.told(&[("MUSTER_CONFIG", "nowhere.toml")], flag).await;
    assert!(text.contains("listen = \"127.0.0.1:8\"") && !text.contains("127.0.0.1:7") && !text.contains("[[listener]]"), "{text}");
    for (name, value, word) in [
        ("MUSTER_CONFIG", "nowhere.toml", "nowhere.toml"),
        ("MUSTER_LISTEN", "8080", "MUSTER_LISTEN"),
        ("MUSTER_LIMITS__WIPES_PER_HOUR", "-1", "[limits] wipes_per_hour"),
    ] {
        let said = bare.refused(&[(name, value)], print).await;
        assert!(said.contains(word), "{name}: {said}");
    }
    for args in [["operator", "add", ""], ["key", "add", ""]] {
        assert!(bare.refused(&[], &args).await.contains("/name: must not be empty"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_for_somebody_who_is_there_says_what_it_changes() {
    let bare = Bare::new().await;
    let add = async |more: &[&str]| {
        let (link, said) = bare.told(&[("MUSTER_LOG", "error")], &[&["operator", "add"], more].concat()).await;
        assert_eq!(link.lines().count(), 1, "{link}");
        said
    };
    // Whoever stands in another folder than the server's would else get a link that no server knows.
    assert!(add(&["first", "--role", "admin"]).await.contains("it was made"));
    assert_eq!(add(&["second", "--role", "admin"]).await, "");
    assert_eq!(add(&["second"]).await, "", "the role stays");
    assert_eq!(add(&["second", "--role", "viewer"]).await, "second was admin and is viewer now.\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demo_does_not_begin_on_what_another_has_kept() {
    let bare = Bare::new().await;
    std::fs::create_dir(bare.path("kept")).unwrap();
    std::fs::write(bare.path("kept/muster.db"), "").unwrap();
    let said = bare.refused(&[], &["demo", "--keep", "kept", "--seconds", "1"]).await;
    assert!(said.contains("kept holds a muster.db already"), "{said}");
    assert_eq!(std::fs::read_dir(bare.path("kept")).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_the_output_may_go_and_what_cannot_be_written_is_said() {
    let bare = Bare::new().await;
    for args in [&["doctor"][..], &["completion", "bash"], &["serve", "--print-config"], &["key", "add", "unread"]] {
        let mut command = bare.process.command();
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command.args(args).stdout(writer).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(141), "{args:?}: {said}");
        assert!(!said.contains("panicked"), "{args:?}: {said}");
    }
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = bare.process.command().args(["key", "add", "lost"]).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    let output = output.wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("standard output cannot be written") && !said.contains("panicked"), "{said}");
}
