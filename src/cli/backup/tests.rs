use std::path::Path;

use super::*;
use crate::model::{Actor, Role};
use crate::ops::{credentials, operators};

const KEY: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

fn config(folder: &Path, name: &str) -> Config {
    let mut config = Config { database_url: format!("sqlite://{}", folder.join(name).display()), ..Config::default() };
    config.secrets.key = Some(KEY.to_owned());
    config
}

/// A database with an operator and a sealed secret, backed up to `b`.
async fn backed_up(folder: &Path) -> (Config, Clock) {
    let (config, clock) = (config(folder, "a.db"), Clock::moved(1_800_000_000_000, 1));
    let (db, seal) = server::open(&config, &clock, true).await.unwrap();
    let (mut conn, mut moment) = (db.begin(Class::Operators).await.unwrap(), clock.moment());
    let actor = Actor::server();
    operators::link(&mut conn, &mut moment, &actor, "an \"operator\" \u{1f600}", Some(Role::Admin)).await.unwrap();
    credentials::put(&mut conn, &mut moment, &actor, &seal, "push/fcm", b"secret").await.unwrap();
    conn.commit().await.unwrap();
    db.close().await;
    assert!(backup(&config, &clock, &folder.join("b")).await.unwrap() >= 5);
    (config, clock)
}

async fn refused(folder: &Path, file: &str, config: &Config) -> String {
    format!("{:#}", restore(config, &folder.join(file)).await.unwrap_err())
}

#[tokio::test]
async fn a_file_that_is_cut_off_damaged_newer_or_of_another_key_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    backed_up(folder).await;
    let whole = std::fs::read(folder.join("b")).unwrap();
    let fresh = config(folder, "fresh.db");
    for cut in [0, 1, 100, whole.len() / 2, whole.len() - 1, whole.len() - 90] {
        std::fs::write(folder.join("cut"), &whole[..cut]).unwrap();
        refused(folder, "cut", &fresh).await;
    }
    let text = String::from_utf8(whole).unwrap();
    for (from, to, said) in [
        ("operator\\\"", "operatoR\\\"", "checksum"),
        ("\"schema\":1", "\"schema\":999", "newer schema"),
        ("\"muster_backup\":1", "\"muster_backup\":9", "newer"),
    ] {
        assert!(text.contains(from), "{from} is in the file");
        std::fs::write(folder.join("bad"), text.replacen(from, to, 1)).unwrap();
        let error = refused(folder, "bad", &fresh).await;
        assert!(error.contains(said), "{error}");
    }
    let mut other = fresh.clone();
    other.secrets.key = Some("CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg=".to_owned());
    assert!(refused(folder, "b", &other).await.contains("master key"));
    assert!(!folder.join("fresh.db").exists(), "not even the database was made");
    // Without a key none is made: it could not be the right one.
    let mut keyless = fresh.clone();
    (keyless.secrets.key, keyless.data_dir) = (None, folder.join("data"));
    assert!(refused(folder, "b", &keyless).await.contains("bring the key of this backup"));
    assert!(!folder.join("data").exists() && !folder.join("fresh.db").exists());
    restore(&fresh, &folder.join("b")).await.unwrap();
    assert!(refused(folder, "b", &fresh).await.contains("not empty"));
}

#[tokio::test]
async fn a_backup_of_what_is_not_there_makes_nothing_and_a_lost_key_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (path, clock) = (folder.path(), Clock::moved(1_800_000_000_000, 1));
    let data_dir = path.join("data");
    let config = Config { database_url: format!("sqlite://{}", data_dir.join("muster.db").display()), data_dir, ..Config::default() };
    let refused = async || format!("{:#}", backup(&config, &clock, &path.join("b")).await.unwrap_err());
    assert!(refused().await.contains("does not exist"));
    assert_eq!(std::fs::read_dir(path).unwrap().count(), 0);
    // A first start makes both; without its key the database gets no other one, whoever opens it.
    server::open(&config, &clock, true).await.unwrap().0.close().await;
    backup(&config, &clock, &path.join("b")).await.unwrap();
    let key = path.join("data/secret.key");
    std::fs::rename(&key, path.join("kept.key")).unwrap();
    assert!(refused().await.contains("bring the key of this database"));
    let error = format!("{:#}", server::open(&config, &clock, true).await.unwrap_err());
    assert!(error.contains("bring the key of this database") && error.contains("fingerprint"), "{error}");
    assert!(!key.exists());
}

#[cfg(unix)]
#[tokio::test]
async fn a_backup_is_its_owners_alone_and_leaves_nothing_beside_it() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    backed_up(folder.path()).await;
    assert_eq!(std::fs::metadata(folder.path().join("b")).unwrap().permissions().mode() & 0o777, 0o600);
    let names: Vec<String> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!names.iter().any(|name| name.contains("partial")), "{names:?}");
}
