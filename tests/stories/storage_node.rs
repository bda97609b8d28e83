//! A storage node: files of apps, for whoever shows a service token that stands.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::service_tokens::token;
use crate::support::outpost::Running;
use crate::support::server::{Reply, TestServer, each_database, reply};

/// A node in this folder, which may keep 1 MiB of a file and 2 MiB of a device.
async fn node(server: &TestServer, folder: &std::path::Path) -> Running {
    let folder = folder.display().to_string();
    let arguments = ["storage-node", "--server", &server.url, "--key", &server.key, "--dir", &folder];
    Running::start(&[arguments.as_slice(), &["--file-mib-max", "1", "--device-mib-max", "2"]].concat()).await
}

struct Client<'a> {
    server: &'a TestServer,
    url: String,
    token: String,
}

impl Client<'_> {
    async fn call(&self, method: &str, path: &str, body: Option<Vec<u8>>) -> Reply {
        let request = self.server.client.request(method.parse().unwrap(), format!("{}/storage/v1/files{path}", self.url));
        let request = request.bearer_auth(&self.token);
        reply(if let Some(body) = body { request.body(body) } else { request }).await
    }

    async fn names(&self) -> Vec<String> {
        let said = self.call("GET", "", None).await.expect(200);
        said["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    }
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_fall_and_is_its_own_devices_alone() {
    each_database(async |server| {
        let folder = tempfile::tempdir().unwrap();
        let running = node(&server, folder.path()).await;
        let (phone, other) = (server.phone("h").await, server.phone("other").await);
        let mut client = Client { server: &server, url: running.url.clone(), token: token(&server, &phone).await };
        assert_eq!(client.names().await, Vec::<String>::new());
        let made = client.call("PUT", "/notes.txt", Some(b"some words".to_vec())).await.expect(201);
        // The digest as another program makes it.
        assert_eq!(
            made,
            json!({"name": "notes.txt", "bytes": 10, "sha256": "050777a35dcd48838062824126e60a0780dc322c5b1f84c3a32636cc7466b1b6"})
        );
        client.call("PUT", "/notes.txt", Some(b"other words".to_vec())).await.expect(200);
        client.call("PUT", "/empty", Some(Vec::new())).await.expect(201);
        // One that was coming in when the node fell.
        let device = folder.path().join(&phone.id);
        std::fs::write(device.join(".part-left-over"), b"half").unwrap();
        running.kill().await;
        let running = node(&server, folder.path()).await;
        client.url.clone_from(&running.url);
        assert!(!device.join(".part-left-over").exists());
        assert_eq!(client.names().await, ["empty", "notes.txt"]);
        assert_eq!(client.call("GET", "/notes.txt", None).await.expect(200), json!("other words"));
        let stranger = Client { server: &server, url: running.url.clone(), token: token(&server, &other).await };
        stranger.call("GET", "/notes.txt", None).await.expect(404);
        stranger.call("DELETE", "/notes.txt", None).await.expect(404);
        client.call("DELETE", "/notes.txt", None).await.expect(204);
        assert_eq!(client.names().await, ["empty"]);
        assert!(running.ends_well().await);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn names_and_sizes_have_limits_and_nothing_half_stays() {
    each_database(async |server| {
        let folder = tempfile::tempdir().unwrap();
        let running = node(&server, folder.path()).await;
        let phone = server.phone("h").await;
        let client = Client { server: &server, url: running.url.clone(), token: token(&server, &phone).await };
        let large = client.call("PUT", "/large", Some(vec![0; 1_048_577])).await.expect(413);
        assert_eq!((&large["code"], &large["limit_bytes"]), (&json!("body_too_large"), &json!(1_048_576)));
        for name in ["a", "b"] {
            client.call("PUT", &format!("/{name}"), Some(vec![0; 1_048_576])).await.expect(201);
        }
        let full = client.call("PUT", "/c", Some(vec![0; 1])).await.expect(507);
        assert_eq!(full["code"], "device_full");
        client.call("PUT", "/b", Some(vec![0; 10])).await.expect(200);
        client.call("PUT", "/c", Some(vec![0; 1])).await.expect(201);
        for name in [".part-x", ".x", "a%2Fb", "a%5Cb", "%2e%2e%2fx", &"n".repeat(129), "a%20b"] {
            let said = client.call("PUT", &format!("/{name}"), Some(b"x".to_vec())).await.expect(422);
            assert_eq!(said["errors"][0]["pointer"], "name", "{name}");
        }
        let left: Vec<String> = std::fs::read_dir(folder.path().join(&phone.id))
            .unwrap()
            .map(|file| file.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|name| name.starts_with('.'))
            .collect();
        assert!(left.is_empty(), "{left:?}");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn nobody_is_let_in_whom_the_server_sent_away_or_of_whom_it_cannot_be_asked() {
    each_database(async |server| {
        let folder = tempfile::tempdir().unwrap();
        let running = node(&server, folder.path()).await;
        let phone = server.phone("h").await;
        let mut client = Client { server: &server, url: running.url.clone(), token: token(&server, &phone).await };
        client.names().await;
        let of = async |client: &Client<'_>| {
            let said = client.call("GET", "", None).await;
            (said.status, said.body["code"].as_str().unwrap_or_default().to_owned())
        };
        let good = client.token.clone();
        let unknown = (401, "token_unknown".to_owned());
        for nonsense in ["x", "a.b.c", &phone.token, &good[..good.len() - 3]] {
            nonsense.clone_into(&mut client.token);
            assert_eq!(of(&client).await, unknown, "{nonsense}");
        }
        good.clone_into(&mut client.token);
        // Another kind of node takes no tokens for this one.
        let elsewhere = folder.path().join("mail").display().to_string();
        let arguments = ["storage-node", "--server", &server.url, "--key", &server.key, "--dir", &elsewhere, "--audience", "mail"];
        let mail = Running::start(&arguments).await;
        let at_mail = Client { server: &server, url: mail.url.clone(), token: good.clone() };
        assert_eq!(of(&at_mail).await, (403, "token_audience".to_owned()));
        server.post(&format!("/devices/{}/unauthorize", phone.id), json!({})).await.expect(200);
        // The server's word is kept for two seconds.
        server.until("the device is sent away", async || of(&client).await == (401, "token_inactive".to_owned())).await;
        server.post(&format!("/devices/{}/authorize", phone.id), json!({})).await.expect(200);
        server.until("it is back", async || of(&client).await.0 == 200).await;
        // A node whose key the server does not know is not ready and lets nobody in.
        let arguments = ["storage-node", "--server", &server.url, "--key", "mk_unknown", "--dir", &elsewhere];
        let keyless = Running::start(&arguments).await;
        let ready = async |running: &Running| server.client.get(format!("{}/readyz", running.url)).send().await.unwrap().status();
        assert_eq!((ready(&running).await, ready(&keyless).await), (StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE));
        let at_keyless = Client { server: &server, url: keyless.url.clone(), token: good.clone() };
        assert_eq!(of(&at_keyless).await, (503, "server_unreachable".to_owned()));
        server.stop().await;
        let http = reqwest::Client::new();
        let answer = http.get(format!("{}/storage/v1/files", keyless.url)).bearer_auth(&good).send().await.unwrap();
        assert!(answer.headers().contains_key("retry-after"));
        assert_eq!(answer.json::<Value>().await.unwrap()["code"], "server_unreachable");
    })
    .await;
}

#[tokio::test]
async fn a_device_that_never_ends_its_files_takes_no_more_than_its_own_places() {
    each_database(async |server| {
        let folder = tempfile::tempdir().unwrap();
        let running = node(&server, folder.path()).await;
        let (phone, other) = (server.phone("h").await, server.phone("other").await);
        let client = Client { server: &server, url: running.url.clone(), token: token(&server, &phone).await };
        let mut ends = Vec::new();
        for n in 0..4 {
            let (end, rest) = tokio::sync::oneshot::channel::<()>();
            let pieces = futures_util::stream::unfold(Some(rest), async |rest: Option<tokio::sync::oneshot::Receiver<()>>| {
                match rest {
                    // The first piece at once, the end when the test says so.
                    Some(rest) => rest.await.ok().map(|()| (Ok::<_, std::io::Error>(b"some words".to_vec()), None)),
                    None => None,
                }
            });
            let request = server.client.put(format!("{}/storage/v1/files/slow-{n}", running.url)).bearer_auth(&client.token);
            ends.push((end, tokio::spawn(reply(request.body(reqwest::Body::wrap_stream(pieces))))));
        }
        let own = folder.path().join(&phone.id);
        let parts = || std::fs::read_dir(&own).map_or(0, |files| files.count());
        server.until("four are coming in", async || parts() == 4).await;
        let fifth = client.call("PUT", "/fifth", Some(b"x".to_vec())).await;
        assert!(fifth.headers.contains_key("retry-after"));
        assert_eq!(fifth.expect(503)["code"], "node_busy");
        let elsewhere = Client { server: &server, url: running.url.clone(), token: token(&server, &other).await };
        elsewhere.call("PUT", "/own", Some(b"x".to_vec())).await.expect(201);
        for (end, sending) in ends {
            end.send(()).unwrap();
            sending.await.unwrap().expect(201);
        }
        client.call("PUT", "/fifth", Some(b"x".to_vec())).await.expect(201);
        server.stop().await;
    })
    .await;
}
