//! The console as an operator meets it, without a script.

use std::time::Duration;

use muster::model::Role;
use serde_json::{Value, json};

use crate::support::browser::Browser;
use crate::support::device::TestDevice;
use crate::support::server::{TestServer, each_database};

const PAGES: [&str; 12] =
    ["/", "/devices", "/tasks", "/jobs", "/jobs/new", "/policies", "/labels", "/events", "/users", "/enrollment", "/settings", "/audit"];
const HOSTILE: &str = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>";

/// Every page that there is for a device, a job, a policy, a label and a token.
async fn all_pages(server: &TestServer, device: &TestDevice, label: &str, policy: &str) -> Vec<String> {
    let job = server.get("/jobs").await["items"][0]["id"].as_str().unwrap().to_owned();
    let token = server.get("/enrollment-tokens").await["items"][0]["id"].as_str().unwrap().to_owned();
    let user = server.get("/users").await["items"][0]["id"].as_str().unwrap().to_owned();
    let mut pages: Vec<String> = PAGES.iter().map(|page| (*page).to_owned()).collect();
    let id = &device.id;
    pages.extend([
        format!("/devices/{id}"),
        format!("/devices/{id}/unauthorize"),
        format!("/devices/{id}/retire"),
        format!("/devices?q={}&state=active&platform=android", "s-"),
        format!("/jobs/{job}"),
        format!("/jobs/{job}/cancel"),
        format!("/tasks?device={id}"),
        format!("/labels/{label}"),
        format!("/labels/{label}/delete"),
        format!("/policies/{policy}"),
        format!("/policies/{policy}/delete"),
        format!("/enrollment/{token}"),
        format!("/enrollment/{token}/revoke"),
        format!("/users/{user}/disable"),
        format!("/users/{user}/delete"),
        "/events?which=all&kind=usb_debugging&type=usb_debugging_changed".to_owned(),
        "/audit?kind=user".to_owned(),
    ]);
    pages.extend(
        ["lock", "wipe", "message", "refresh", "apple_command", "reset_password"].map(|kind| format!("/jobs/new?kind={kind}&device={id}")),
    );
    pages
}

#[tokio::test]
async fn strangers_are_sent_to_sign_in_whatever_they_ask_for() {
    let server = TestServer::on_sqlite().await;
    let stranger = server.stranger();
    for path in PAGES.into_iter().chain(["/live", "/devices/x", "/jobs/x", "/policies/x", "/labels/x", "/settings/keys/x/revoke"]) {
        let page = stranger.get(path).await;
        assert_eq!((page.status, page.location()), (303, "/sign-in"), "{path}");
    }
    for path in ["/jobs/new", "/policies", "/settings/keys", "/sign-out", "/devices/x/retire"] {
        let page = stranger.post_bare(path, &[("csrf", "x")]).await;
        assert_eq!((page.status, page.location()), (303, "/sign-in"), "{path}");
    }
    assert_eq!(stranger.get("/sign-in").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn a_link_signs_in_once_and_signing_out_ends_the_session() {
    each_database(async |server| {
        let link = server.sign_in_link("anna", Role::Admin).await;
        // Who only looks at it, or fetches it ahead of its person, uses nothing up.
        let looked = server.client.head(format!("{}{link}", server.url)).send().await.unwrap();
        let has_session = |answer: &reqwest::Response| {
            let cookies = answer.headers().get_all("set-cookie");
            cookies.iter().any(|cookie| cookie.to_str().unwrap().starts_with("muster="))
        };
        assert_eq!((looked.status().as_u16(), has_session(&looked)), (200, false));
        for (name, value) in [("sec-purpose", "prefetch;prerender"), ("purpose", "prefetch")] {
            let ahead = server.client.get(format!("{}{link}", server.url)).header(name, value).send().await.unwrap();
            assert_eq!((ahead.status().as_u16(), has_session(&ahead)), (503, false), "{name}");
        }
        let mut anna = server.stranger();
        let first = anna.get(&link).await;
        assert_eq!((first.status, first.location()), (303, "/"));
        assert_eq!(server.stranger().get(&link).await.status, 403, "the second time");
        anna.keep(&first).await;
        assert_eq!(anna.get("/").await.status, 200);
        assert_eq!(anna.get("/sign-in").await.location(), "/", "who is signed in goes on");
        let out = anna.post("/sign-out", &[]).await;
        assert_eq!((out.status, out.location()), (303, "/sign-in"));
        assert_eq!(anna.get("/").await.location(), "/sign-in");

        let late = server.sign_in_link("anna", Role::Admin).await;
        server.clock.advance(15 * 60 * 1000 + 1);
        assert_eq!(server.stranger().get(&late).await.status, 403, "after a quarter of an hour");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn the_cookie_is_secure_and_bound_to_the_host_exactly_where_the_address_is_https() {
    for (url, begins, secure) in [("http://127.0.0.1:8080", "muster=", false), ("https://mdm.example.org", "__Host-muster=", true)] {
        let server = TestServer::with(|config| config.public_url = url.into()).await;
        let link = server.sign_in_link("anna", Role::Viewer).await;
        let page = server.stranger().get(&link).await;
        let cookie = page.cookies().into_iter().find(|cookie| cookie.starts_with(begins)).expect(url);
        assert_eq!(cookie.contains("; Secure"), secure, "{cookie}");
        for attribute in ["; HttpOnly", "; SameSite=Lax", "; Path=/;"] {
            assert!(cookie.contains(attribute), "{cookie}");
        }
        // The message for the next page too; a page that was not left one sets no cookie.
        let admin = server.operator("an operator", Role::Admin).await;
        let told = admin.post("/settings/canary", &[("sender", "nobody")]).await;
        let cookie = told.cookies().into_iter().find(|cookie| cookie.starts_with("muster_flash=")).expect("a message");
        assert_eq!(cookie.contains("; Secure"), secure, "{cookie}");
        assert!(admin.get("/").await.cookies().iter().all(|cookie| !cookie.starts_with("muster_flash=")));
        server.stop().await;
    }
}

#[tokio::test]
async fn a_password_signs_in_and_the_sixth_try_in_a_minute_is_refused() {
    let server = TestServer::on_sqlite().await;
    let anna = server.operator("anna", Role::Operator).await;
    let other = server.operator("anna", Role::Operator).await;
    let differing = anna.submit("/settings/password", &[("password", "correct horse battery"), ("again", "another")]).await;
    assert!(differing.text.contains("the two passwords differ"), "{}", differing.text);
    let set = anna.submit("/settings/password", &[("password", "correct horse battery"), ("again", "correct horse battery")]).await;
    assert!(set.text.contains("Your password is set"), "{}", set.text);
    assert_eq!(anna.get("/").await.status, 200, "the session that set it goes on");
    assert_eq!(other.get("/").await.location(), "/sign-in", "the others have ended");

    let stranger = server.stranger();
    let good = [("name", "anna"), ("password", "correct horse battery")];
    let page = stranger.post_bare("/sign-in", &good).await;
    assert_eq!((page.status, page.location()), (303, "/"), "{}", page.text);
    let wrong = stranger.post_bare("/sign-in", &[("name", "anna"), ("password", "wrong")]).await;
    assert_eq!(wrong.status, 401);
    assert!(wrong.text.contains("name or password is wrong"));
    let nobody = stranger.post_bare("/sign-in", &[("name", "nobody"), ("password", "wrong")]).await;
    assert_eq!(nobody.status, 401, "a name that nobody has is told in the same way");
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(stranger.post_bare("/sign-in", &good).await.status);
    }
    assert_eq!(statuses.last(), Some(&429), "{statuses:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_form_without_the_sessions_token_does_nothing() {
    let server = TestServer::on_sqlite().await;
    let anna = server.operator("anna", Role::Admin).await;
    for fields in [&[("name", "a")][..], &[("name", "a"), ("csrf", "wrong")], &[("name", "a"), ("csrf", "")]] {
        let page = anna.post_bare("/labels", fields).await;
        assert_eq!(page.status, 403, "{}", page.text);
    }
    assert_eq!(server.get("/labels").await["items"], json!([]));
    let elsewhere = server.client.post(format!("{}/sign-in", server.url)).header("sec-fetch-site", "cross-site");
    let status = elsewhere.form(&[("name", "anna"), ("password", "x")]).send().await.unwrap().status();
    assert_eq!(status, 403, "another site cannot sign anybody in");
    server.stop().await;
}

#[tokio::test]
async fn every_page_is_complete_without_a_script_and_shows_hostile_texts_as_texts() {
    each_database(async |server| {
        let anna = server.operator("anna <b>", Role::Admin).await;
        let user = json!({"email": "hostile@example.org", "name": HOSTILE});
        server.post("/users", user).await.expect(201);
        let token = server.post("/enrollment-tokens", json!({"name": HOSTILE})).await.expect(201);
        let token = token["token"].as_str().unwrap();
        let device = server.phone_with(token, "hostile@example.org", &format!("h{HOSTILE}")).await;
        let facts = json!({"cause": "launch", "facts": {"model": HOSTILE, "timezone": HOSTILE, HOSTILE: HOSTILE}, "policy": {"version": null}});
        device.sync(&server, facts).await.expect(200);
        anna.submit("/labels", &[("name", "a <b>"), ("description", HOSTILE)]).await;
        anna.submit("/labels/a%20%3Cb%3E/devices", &[("typed", &device.id), ("how", "add")]).await;
        anna.submit("/policies", &[("name", "p <b>")]).await;
        let document = json!({"applications": [{"packageName": "org.example.app", "installType": "AVAILABLE", "managedConfiguration": {"x": HOSTILE}}]});
        let published = [("document", document.to_string()), ("message", HOSTILE.to_owned()), ("how", "publish".to_owned())];
        let fields: Vec<(&str, &str)> = published.iter().map(|(name, value)| (*name, value.as_str())).collect();
        anna.submit("/policies/p%20%3Cb%3E", &fields).await;
        anna.submit("/policies/p%20%3Cb%3E/assignments", &[("label_0", "a <b>"), ("mode_0", "include"), ("rank_0", "1")]).await;
        let order = [("kind", "message"), ("device", device.id.as_str()), ("aim", "devices"), ("p_text", HOSTILE), ("p_title", HOSTILE)];
        let ordered = anna.submit("/jobs/new", &order).await;
        assert!(ordered.text.contains("Ordered: Message"), "{}", ordered.text);
        let visit = device.visit(&server, "push").await;
        let task = &visit["tasks"][0]["id"];
        let failed = json!([{"task_id": task, "status": "failed", "code": HOSTILE, "message": HOSTILE, "data": {HOSTILE: HOSTILE}, "at_ms": 1}]);
        device.sync(&server, json!({"cause": "push", "results": failed})).await.expect(200);
        device.events(&server, json!([event(1, "malware_unresolved", json!({"threat": HOSTILE, "object": HOSTILE}))])).await.expect(200);
        server
            .until("the feed", async || server.get("/feed?kind=finding.opened").await["items"].as_array().is_some_and(|items| !items.is_empty()))
            .await;

        for path in all_pages(&server, &device, "a%20%3Cb%3E", "p%20%3Cb%3E").await {
            let page = anna.get(&path).await;
            assert_eq!(page.status, 200, "{path}: {}", page.text);
            assert!(page.text.contains("</html>"), "{path}");
            for bad in ["<script>alert", "<img src=x", "a <b>", "p <b>", "anna <b>", " style=\"", "<style", "onclick="] {
                assert!(!page.text.contains(bad), "{path} has {bad:?} in it");
            }
            assert_eq!(page.text.matches("<script").count(), 1, "{path}: the console's own script and no other");
        }
        let seen = anna.get(&format!("/devices/{}", device.id)).await.text;
        assert!(seen.contains("&#60;script&#62;alert(1)") || seen.contains("&lt;script&gt;alert(1)"), "{seen}");
        server.stop().await;
    })
    .await;
}

fn event(seq: i64, kind: &str, data: Value) -> Value {
    json!({"event_id": format!("00000000-0000-4000-8000-{seq:012}"), "type": kind, "seq": seq, "occurred_at_ms": 1_800_000_000_000_i64,
        "first_attempt_at_ms": 1_800_000_000_000_i64, "attempt": 1, "boot_id": "b", "uptime_ms": 1, "policy_version": null, "data": data})
}

#[tokio::test]
async fn every_answer_carries_a_policy_that_lets_nothing_unsafe_in() {
    let server = TestServer::on_sqlite().await;
    let anna = server.operator("anna", Role::Admin).await;
    let elsewhere =
        ["/sign-in", "/sign-in/nonsense", "/devices/nonsense", "/assets/console.js", "/assets/console.css", "/assets/nothing", "/nothing"];
    for path in PAGES.into_iter().chain(elsewhere) {
        for browser in [&anna, &server.stranger()] {
            let page = browser.get(path).await;
            assert!(page.policy().starts_with("default-src 'none';"), "{path}");
            assert!(!page.policy().contains("unsafe"), "{path}");
            assert_eq!(page.headers["x-content-type-options"], "nosniff", "{path}");
            assert_eq!(page.headers["referrer-policy"], "no-referrer", "{path}");
            let cached = page.headers["cache-control"].to_str().unwrap();
            assert!(cached == "no-store" || path.starts_with("/assets/"), "{path}: {cached}");
        }
    }
    assert_eq!(anna.get("/nothing").await.status, 404);
    let missing = server.call("GET", "/nothing", None).await;
    assert_eq!(missing.expect(404)["code"], "not_found", "programs are answered as programs");
    let script = anna.get("/assets/console.js").await;
    let tag = script.headers["etag"].to_str().unwrap().to_owned();
    let again = server.client.get(format!("{}/assets/console.js", server.url)).header("if-none-match", tag).send().await.unwrap();
    assert_eq!(again.status(), 304);
    server.stop().await;
}

#[tokio::test]
async fn an_operator_gives_a_policy_and_an_order_and_sees_what_became_of_them() {
    let server = TestServer::on_sqlite().await;
    let anna = server.operator("anna", Role::Operator).await;
    let device = server.phone("one").await;
    let page = format!("/devices/{}", device.id);
    assert!(anna.get(&page).await.text.contains("It is active and last came just now (launch)"));

    anna.submit("/policies", &[("name", "baseline")]).await;
    let typo = anna.post("/policies/baseline", &[("document", "{\"cameraDisabledd\": true}"), ("how", "publish")]).await;
    assert_eq!(typo.status, 422);
    assert!(typo.text.contains("/document/cameraDisabledd"), "the fault is shown where it is: {}", typo.text);
    assert!(typo.text.contains("aria-invalid=\"true\""));
    let broken = anna.post("/policies/baseline", &[("document", "{"), ("how", "publish")]).await;
    assert_eq!(broken.status, 422);
    assert!(broken.text.contains("this is no JSON"));
    let document = "{\"cameraAccess\": \"CAMERA_ACCESS_DISABLED\"}";
    let published =
        anna.submit("/policies/baseline", &[("document", document), ("message", "no camera"), ("how", "publish"), ("base", "0")]).await;
    assert!(published.text.contains("is published; devices are being called in"), "{}", published.text);
    assert!(published.text.contains("class=\"add\""), "the difference to the empty draft is shown");
    let unknown = anna.post("/policies/baseline/assignments", &[("label_0", "nobody"), ("mode_0", "include"), ("rank_0", "1")]).await;
    assert_eq!(unknown.status, 422);
    assert!(unknown.text.contains("there is no label"), "{}", unknown.text);
    anna.submit("/policies/baseline/assignments", &[("label_0", "all"), ("mode_0", "include"), ("rank_0", "1")]).await;
    server
        .until("the move", async || {
            server.get(&format!("/devices/{}", device.id)).await["channels"][0]["applied"]
                != server.get(&format!("/devices/{}", device.id)).await["channels"][0]["desired"]
        })
        .await;
    assert!(anna.get(&page).await.text.contains("It has not yet proved to have the policy document"));
    let given = device.visit(&server, "push").await;
    let version = &given["policy"]["version"];
    device.sync(&server, json!({"cause": "push", "policy": {"version": version, "details": []}})).await.expect(200);
    assert!(anna.get(&page).await.text.contains("It has the policy document that it should have."));
    assert!(anna.get("/policies/baseline").await.text.contains("applied"));

    let no_text = anna.post("/jobs/new", &[("kind", "message"), ("device", &device.id), ("aim", "devices")]).await;
    assert_eq!(no_text.status, 422);
    assert!(no_text.text.contains("is needed"), "{}", no_text.text);
    let unsure = anna.post("/jobs/new", &[("kind", "wipe"), ("device", &device.id), ("aim", "devices")]).await;
    assert_eq!(unsure.status, 422, "a wipe without the tick");
    let ordered = anna.submit("/jobs/new", &[("kind", "message"), ("device", &device.id), ("aim", "devices"), ("p_text", "hello")]).await;
    assert!(ordered.text.contains("waits for the device to come in"), "{}", ordered.text);
    let task = server.get("/tasks?state=queued").await["items"][0]["id"].as_str().unwrap().to_owned();
    let cancelled = anna.submit(&format!("/tasks/{task}/cancel"), &[("back", &page)]).await;
    assert!(cancelled.text.contains("The task message is cancelled."), "{}", cancelled.text);
    assert!(cancelled.text.contains("Past tasks"), "it leads back to where it was done");
    let elsewhere = anna.post(&format!("/tasks/{task}/retry"), &[("back", "https://example.org/")]).await;
    assert_eq!(elsewhere.location(), "/tasks", "but never to another server");
    server.stop().await;
}

#[tokio::test]
async fn what_is_shown_once_is_shown_once() {
    let server = TestServer::on_sqlite().await;
    let anna = server.operator("anna", Role::Admin).await;
    let made = anna.post("/enrollment", &[("name", "phones"), ("days", "30")]).await;
    assert_eq!(made.status, 200);
    let value = between(&made.text, "id=\"once-value\">", "<");
    assert!(value.starts_with("mdt_"));
    assert!(made.text.contains(&format!("/enroll/{value}")));
    assert!(!anna.get("/enrollment").await.text.contains("mdt_"));
    let key = anna.post("/settings/keys", &[("name", "ci"), ("role", "viewer")]).await;
    let key = between(&key.text, "id=\"once-value\">", "<");
    let status = server.client.get(format!("{}/api/v1/devices", server.url)).bearer_auth(&key).send().await.unwrap().status();
    assert_eq!(status, 200, "the key that was shown is good");
    assert!(!anna.get("/settings").await.text.contains(&key));
    server.stop().await;
}

fn between(text: &str, from: &str, to: &str) -> String {
    text.split_once(from).unwrap().1.split_once(to).unwrap().0.to_owned()
}

#[tokio::test]
async fn a_viewer_looks_and_does_nothing() {
    let server = TestServer::on_sqlite().await;
    let vera = server.operator("vera", Role::Viewer).await;
    let device = server.phone("one").await;
    for path in PAGES {
        let page = vera.get(path).await;
        assert_eq!(page.status, 200, "{path}");
    }
    assert!(!vera.get(&format!("/devices/{}", device.id)).await.text.contains("Sync now"));
    for (path, fields) in [
        ("/labels", &[("name", "a")][..]),
        ("/users", &[("email", "b@example.org")]),
        ("/enrollment", &[("name", "a")]),
        ("/settings/keys", &[("name", "a"), ("role", "admin")]),
        ("/settings/operators", &[("name", "a"), ("role", "admin")]),
        ("/policies", &[("name", "a")]),
        ("/jobs/new", &[("kind", "lock"), ("aim", "all")]),
    ] {
        let page = vera.submit(path, fields).await;
        assert!(page.text.contains("this needs the role"), "{path}: {}", page.text);
    }
    assert_eq!(server.get("/labels").await["items"], json!([]));
    server.stop().await;
}

#[tokio::test]
async fn pages_hear_of_what_happens_as_long_as_the_session_lasts() {
    let server = TestServer::on_sqlite().await;
    let anna: Browser = server.operator("anna", Role::Admin).await;
    let mut stream = server.client.get(format!("{}/live", server.url)).header("cookie", &anna.cookie).send().await.unwrap();
    assert_eq!(stream.status(), 200);
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let mut heard = String::new();
    let listening = async {
        // The tail of a process that has only just begun may pass by what came first: something happens until it is heard.
        for n in 0.. {
            anna.submit("/labels", &[("name", &format!("loud {n}"))]).await;
            while let Ok(chunk) = tokio::time::timeout(Duration::from_secs(1), stream.chunk()).await {
                heard.push_str(&String::from_utf8_lossy(&chunk.unwrap().unwrap()));
            }
            if heard.contains("label.created") {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), listening).await.unwrap();
    assert!(heard.starts_with("event: hello"), "{heard}");
    assert!(!heard.contains("loud"), "the stream says what kind of thing happened and where, no more: {heard}");
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn an_iphones_page_offers_what_it_can_do_and_says_no_more_than_apple_does() {
    crate::apple::commands::each(async |server| {
        let anna = server.operator("anna", Role::Operator).await;
        let phone = crate::support::apple::AppleDevice::named("shown");
        let id = phone.enroll(&server).await;
        phone.settle(&server).await;
        let page = anna.get(&format!("/devices/{id}")).await.text;
        assert!(page.contains("It is active and last came just now. "), "{page}");
        assert!(!page.contains("unknown"), "Apple's clients never say why they come");
        for (kind, offered) in [("lock", true), ("wipe", true), ("refresh", true), ("message", false), ("scan", false)] {
            assert_eq!(page.contains(&format!("/jobs/new?kind={kind}&amp;device=")), offered, "{kind}");
        }
        let wipe = anna.get(&format!("/jobs/new?kind=wipe&device={id}")).await.text;
        assert!(wipe.contains("p_keep_data_plan") && !wipe.contains("p_external_storage"), "nor what only an Android understands: {wipe}");
        // What it cannot do fails at once, and is not offered again.
        server.post("/jobs", json!({"kind": "scan", "target": {"devices": [id]}})).await.expect(202);
        let page = anna.get(&format!("/devices/{id}")).await.text;
        assert!(page.contains("this device cannot do this (unsupported)") && !page.contains(">Retry</button>"), "{page}");
        // Its address is one of the topic that it enrolled with; nobody has a certificate for that here.
        let settings = anna.get("/settings").await.text;
        let sender = format!("<b>apns_mdm/{}</b>", crate::support::apple::TOPIC);
        let (_, line) = settings.split_once(&sender).unwrap_or_else(|| panic!("{settings}"));
        assert!(line.split("</li>").next().unwrap().contains("1 active"), "{line}");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn every_page_is_built_for_those_who_hear_it_and_a_form_that_is_typed_as_an_address_says_so() {
    let server = TestServer::on_sqlite().await;
    let anna = server.operator("anna", Role::Admin).await;
    let device = server.phone("one").await;
    server.put("/labels/field", json!({})).await.expect(201);
    server.put("/policies/p", json!({"document": {}})).await.expect(201);
    server.post("/jobs", json!({"kind": "scan", "target": {"all": true}})).await.expect(202);
    for path in all_pages(&server, &device, "field", "p").await {
        let text = anna.get(&path).await.text;
        assert!(text.contains("<html lang=\"en\">") && text.contains("class=\"skip\""), "{path}");
        assert_eq!(text.matches("<h1").count(), 1, "{path}: one heading says what the page is");
        assert_eq!(text.matches("<th").count(), text.matches("<th scope=\"col\"").count() + text.matches("<thead").count(), "{path}");
        assert!(!text.contains("<th scope=\"col\"></th>"), "{path}: a column without a name");
        for part in text.split("aria-labelledby=\"").skip(1) {
            let id = part.split('"').next().unwrap();
            assert!(text.contains(&format!("id=\"{id}\"")), "{path}: nothing has the id {id}");
        }
    }
    for path in ["/sign-out", "/settings/fcm", &format!("/devices/{}/sync", device.id)] {
        let page = anna.get(path).await;
        assert_eq!(page.status, 405, "{path}");
        assert!(page.text.contains("only takes what a form of the console sends") && page.policy().starts_with("default-src"), "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn the_longest_names_and_facts_that_are_taken_leave_every_page_readable() {
    let server = TestServer::on_sqlite().await;
    let anna = server.operator("anna", Role::Admin).await;
    let device = server.phone("one").await;
    let million = "x".repeat(1_000_000);
    for (path, mut body) in [
        ("/users", json!({"email": "long@example.org"})),
        ("/enrollment-tokens", json!({})),
        ("/operators", json!({"role": "viewer"})),
        ("/keys", json!({"role": "viewer"})),
    ] {
        body["name"] = json!(million);
        let refused = server.post(path, body).await;
        assert_eq!((refused.status, &refused.body["errors"][0]["pointer"]), (422, &json!("/name")), "{path}: {}", refused.body["code"]);
    }
    let long = "y".repeat(4000);
    let facts: serde_json::Map<String, Value> = (0..190).map(|n| (format!("fact_{n}"), json!(long))).collect();
    device.sync(&server, json!({"cause": "manual", "facts": facts})).await.expect(200);
    server.post("/jobs", json!({"kind": "message", "params": {"text": "z".repeat(4096)}, "target": {"all": true}})).await.expect(202);
    let page = anna.get(&format!("/devices/{}", device.id)).await;
    assert!(page.status == 200 && page.text.len() < 200_000, "{} bytes", page.text.len());
    assert!(page.text.contains(&format!("{}\u{2026}", "y".repeat(300))), "what is cut says so");
    assert!(server.get(&format!("/devices/{}", device.id)).await["facts"]["fact_1"] == json!(long), "the API has the whole of it");
    server.stop().await;
}
