//! A throw-away PostgreSQL: one cluster for each test process, one fresh database for each test.
//!
//! Compiled into the stories and, under `cfg(test)`, into the crate. Where PostgreSQL is not installed its tests do not run and
//! say so; with `MUSTER_REQUIRE_POSTGRES=1` they fail instead.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// PostgreSQL refuses to run as root; as root it is run as this user and group (`nobody` nearly everywhere).
const NOBODY: u32 = 65534;
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECTIONS_MAX: u32 = 200;

/// Ends the server when its standard input closes, which the kernel does however the test process ends.
const WATCHDOG: &str = r#"
"$0" -D "$1/data" -k "$1" -c listen_addresses= -c fsync=off -c synchronous_commit=off -c full_page_writes=off \
  -c shared_buffers=32MB -c "max_connections=$2" >"$1/log" 2>&1 &
server=$!
cat >/dev/null
kill -QUIT $server
wait $server
cd / && rm -rf "$1"
"#;

struct Cluster {
    /// Also where its socket is.
    folder: PathBuf,
    // Holds the watchdog's standard input open.
    _watchdog: Child,
}

/// The URL of a fresh, empty database, or `None` where PostgreSQL is not installed.
pub async fn fresh_database() -> Option<String> {
    static CLUSTER: OnceLock<Option<Cluster>> = OnceLock::new();
    static DATABASES: AtomicU32 = AtomicU32::new(0);
    let cluster = CLUSTER.get_or_init(start).as_ref()?;
    let name = format!("muster_{}", DATABASES.fetch_add(1, Ordering::SeqCst));
    let url = |database: &str| format!("postgres://postgres@localhost/{database}?host={}", cluster.folder.display());
    let mut conn = PgConnection::connect(&url("postgres")).await.expect("the test cluster takes connections");
    sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut conn).await.expect("a database can be made");
    conn.close().await.expect("the connection ends");
    Some(url(&name))
}

fn start() -> Option<Cluster> {
    let Some(programs) = programs() else {
        assert!(std::env::var("MUSTER_REQUIRE_POSTGRES").as_deref() != Ok("1"), "PostgreSQL is required but not installed");
        eprintln!("PostgreSQL is not installed: its tests did not run");
        return None;
    };
    let folder = tempfile::Builder::new().prefix("muster-pg").tempdir().expect("a temporary folder").keep();
    let root = std::fs::metadata(&folder).expect("the folder is there").uid() == 0;
    if root {
        std::os::unix::fs::chown(&folder, Some(NOBODY), Some(NOBODY)).expect("root may give a folder away");
    }
    let command = |program: &Path| {
        let mut command = Command::new(program);
        command.current_dir(&folder).env("LC_ALL", "C").env_remove("PGDATA");
        if root {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    };
    let made = command(&programs.join("initdb"))
        .args(["--auth=trust", "--username=postgres", "--locale=C", "--encoding=UTF8", "--no-sync", "-D"])
        .arg(folder.join("data"))
        .output()
        .expect("initdb runs");
    assert!(made.status.success(), "initdb failed: {}", String::from_utf8_lossy(&made.stderr));
    let watchdog = command(Path::new("/bin/sh"))
        .args(["-c", WATCHDOG])
        .arg(programs.join("postgres"))
        .arg(&folder)
        .arg(CONNECTIONS_MAX.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A process group of its own: Ctrl-C ends the tests, and their end ends the server.
        .process_group(0)
        .spawn()
        .expect("/bin/sh runs");
    await_ready(&folder);
    Some(Cluster { folder, _watchdog: watchdog })
}

/// The last line of `postmaster.pid` says how far the start has come.
fn await_ready(folder: &Path) {
    let started = Instant::now();
    loop {
        let state = std::fs::read_to_string(folder.join("data/postmaster.pid")).unwrap_or_default();
        if state.lines().nth(7).is_some_and(|line| line.trim() == "ready") {
            return;
        }
        let log = || std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        assert!(started.elapsed() < READY_TIMEOUT, "PostgreSQL did not start: {}", log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The folder with `initdb` and `postgres`.
fn programs() -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    let mut versions: Vec<PathBuf> =
        std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path().join("bin")).collect();
    versions.sort();
    folders.extend(versions.into_iter().rev());
    folders.push("/usr/local/bin".into());
    // Through links: initdb looks for postgres beside itself.
    let real = |folder: PathBuf| std::fs::canonicalize(folder.join("initdb")).ok().and_then(|program| program.parent().map(Path::to_owned));
    folders.into_iter().filter_map(real).find(|folder| folder.join("postgres").exists())
}
