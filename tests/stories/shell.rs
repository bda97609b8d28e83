//! The operator API from a shell, where it could mislead a script: long lists, orders for nobody, answers that are none.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::command::{Terminal, id};
use crate::support::server::reply;

/// Somebody else's program: answers each request with this head and body. Its URL.
async fn stranger(head: &'static str, body: &'static str) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = [0; 4096];
            let answer = format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
            if stream.read(&mut asked).await.is_ok_and(|bytes| bytes > 0) {
                stream.write_all(answer.as_bytes()).await.ok();
            }
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_comes_whole_or_says_that_there_is_more() {
    let shell = Terminal::start().await;
    let client = reqwest::Client::new();
    for n in 0..105 {
        let user = json!({"email": format!("user{n}@example.org"), "name": "A user"});
        reply(client.post(format!("{}/api/v1/users", shell.server.url)).bearer_auth(&shell.key).json(&user)).await.expect(201);
    }
    let all = shell.told("user list").await;
    assert_eq!((all["items"].as_array().unwrap().len(), &all["next_cursor"]), (105, &json!(null)));
    let cut = shell.run(&["user", "list", "--limit", "102"]).await;
    let (told, said): (serde_json::Value, _) = (serde_json::from_slice(&cut.stdout).unwrap(), String::from_utf8(cut.stderr).unwrap());
    assert_eq!(told["items"].as_array().unwrap().len(), 102);
    assert!(told["next_cursor"].is_string() && said.contains("102 are shown") && said.contains("--limit"), "{said}");
    assert!(shell.refused("user list --limit 0").await.contains("whole number"));
    // Whoever lists anything can say how much.
    let (device, _) = shell.phone("one@example.org", "one").await;
    shell.told("label put field").await;
    let job = id(&shell.told("job create locate --device S-one").await);
    for line in [
        "device list",
        "job list",
        "task list",
        "policy list",
        "label list",
        "token list",
        "event list",
        "label devices field",
        &format!("job tasks {job}"),
        "device tasks S-one",
        "device events S-one",
        "device contacts S-one",
    ] {
        assert!(shell.told(&format!("{line} --limit 1")).await["items"].is_array(), "{line}");
    }
    // Why a setting is as it is; and the device is forgotten.
    assert!(shell.told("device explain S-one cameraAccess").await["considered"].is_array());
    shell.told(&format!("device delete {device}")).await;
    assert!(shell.refused(&format!("device show {device}")).await.contains("404"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_for_nobody_is_a_failure_and_assignments_are_not_lost_by_a_word_too_few() {
    let shell = Terminal::with("[limits]\nwipes_per_hour = 1\n").await;
    for name in ["one", "two"] {
        shell.phone(&format!("{name}@example.org"), name).await;
    }
    let said = shell.refused("job create lock --device typo").await;
    assert!(said.contains("typo: there is no such device") && said.contains("has no task"), "{said}");
    shell.told("label put field").await;
    assert!(shell.refused("job create lock --label field").await.contains("has no task"), "nobody has the label");
    let output = shell.run(&["job", "create", "lock", "--device", "S-one", "--device", "typo"]).await;
    assert!(output.status.success() && String::from_utf8(output.stderr).unwrap().contains("typo"));
    // What waits for a second operator is no order for nobody, and can be ended from here.
    let job = shell.told("job create wipe --device S-one --device S-two").await;
    assert_eq!(job["state"], "awaiting_approval", "{job}");
    assert_eq!(shell.told(&format!("job reject {}", id(&job))).await["state"], "rejected");
    let file = shell.folder.path().join("camera.json");
    std::fs::write(&file, json!({"cameraAccess": "CAMERA_ACCESS_DISABLED"}).to_string()).unwrap();
    shell.told(&format!("policy put camera {}", file.display())).await;
    shell.told("policy assign camera field:include:10").await;
    let assigned = async || shell.told("policy show camera").await["assignments"].as_array().unwrap().len();
    assert!(shell.refused("policy assign camera").await.contains("ASSIGNMENTS"));
    assert!(shell.refused("policy assign camera field:include:10 --none").await.contains("cannot be used with"));
    assert_eq!(assigned().await, 1);
    shell.told("policy assign camera --none").await;
    assert_eq!(assigned().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_not_musters_is_a_failure() {
    let shell = Terminal::start().await;
    let fleet = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/fleet");
    let wrong = "not as Muster does";
    for (head, body, words) in [
        ("200 OK", "hello", wrong),
        ("200 OK", "{\"hello\": 1}", wrong),
        ("502 Bad Gateway", "<html>", wrong),
        ("308 Permanent Redirect\r\nlocation: https://mdm.example.org/", "", "leads to https://mdm.example.org/"),
    ] {
        let url = stranger(head, body).await;
        for line in [format!("device list --server {url}"), format!("apply -f {fleet} --server {url}")] {
            let said = shell.refused(&line).await;
            assert!(said.contains(words) && said.contains(&url), "{line}: {said}");
        }
    }
    let url = stranger("200 OK", "hello").await;
    assert!(shell.refused(&format!("job create lock --all --server {url}")).await.contains(wrong));
    // No body is an answer: that is how deleting is told.
    let url = stranger("204 No Content", "").await;
    shell.told(&format!("label delete field --server {url}")).await;
}
