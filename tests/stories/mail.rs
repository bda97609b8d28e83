//! Mail: alarms and enrollment links leave through an outbox that survives everything but being told no.

use muster::config::Config;
use muster::model::Role;
use muster::ops::alarms;
use muster::sim::smtp::{Fault, StandIn};
use muster::store::Class;
use muster::work::expiry;
use serde_json::{Value, json};

use crate::support::postgres;
use crate::support::server::{START_MS, TestServer};

fn settings(smtp: &StandIn) -> impl Fn(&mut Config) {
    let url = smtp.url();
    move |config: &mut Config| {
        config.mail.smtp_url = Some(url.clone());
        config.mail.from = Some("Muster <muster@example.org>".into());
        config.alarms.mail = Some("admins@example.org".into());
    }
}

/// A story with a mail server, on both databases.
async fn with_mail(story: impl AsyncFn(TestServer, &StandIn)) {
    let smtp = StandIn::start().await.unwrap();
    story(TestServer::with(settings(&smtp)).await, &smtp).await;
    if let Some(url) = postgres::fresh_database().await {
        eprintln!("on PostgreSQL");
        let smtp = StandIn::start().await.unwrap();
        story(TestServer::at(&url, None, settings(&smtp)).await, &smtp).await;
    }
}

async fn alarm(server: &TestServer, subject: &str) {
    let mut moment = server.clock.moment();
    let mut conn = server.app.db.begin(Class::Operators).await.unwrap();
    alarms::open(&mut conn, &mut moment, "push_fault", subject, "the provider refuses our credential").await.unwrap();
    conn.commit().await.unwrap();
    server.app.bells.mail.notify_one();
}

async fn taken(server: &TestServer, smtp: &StandIn, n: usize) {
    server
        .until(&format!("{n} letters are taken"), async || {
            server.app.bells.mail.notify_one();
            smtp.letters().len() >= n
        })
        .await;
}

async fn until_state(server: &TestServer, path: &str, state: &str) -> Value {
    server.until(&format!("{path} is {state}"), async || server.get(path).await["state"] == state).await;
    server.get(path).await
}

#[tokio::test]
async fn an_alarm_is_mailed_once_and_stands_on_every_page_until_its_cause_ends() {
    with_mail(async |server, smtp| {
        let browser = server.operator("an operator", Role::Operator).await;
        assert!(!browser.get("/devices").await.text.contains("alarm stands"));
        alarm(&server, "fcm").await;
        alarm(&server, "fcm").await;
        taken(&server, smtp, 1).await;
        let letter = smtp.letters().remove(0);
        assert_eq!((letter.from.as_str(), letter.to.as_slice()), ("muster@example.org", &["admins@example.org".to_owned()][..]));
        assert_eq!(letter.header("Subject"), Some("Muster: push fault"));
        assert_eq!(letter.header("Auto-Submitted"), Some("auto-generated"));
        assert!(letter.text().contains("the provider refuses our credential"), "{}", letter.text());
        for page in ["/", "/devices", "/tasks", "/jobs", "/policies", "/labels", "/events", "/users", "/enrollment", "/audit", "/settings"]
        {
            assert!(browser.get(page).await.text.contains("1 alarm stands"), "{page}");
        }
        let open = server.get("/alarms?state=open").await;
        let id = open["items"][0]["id"].as_str().unwrap().to_owned();
        let seen = server.post(&format!("/alarms/{id}/acknowledge"), json!({})).await.expect(200);
        assert_eq!(seen["state"], "acknowledged");
        let mut moment = server.clock.moment();
        let mut conn = server.app.db.begin(Class::Operators).await.unwrap();
        alarms::close(&mut conn, &mut moment, "push_fault", "fcm").await.unwrap();
        conn.commit().await.unwrap();
        assert!(!browser.get("/devices").await.text.contains("alarm stands"));
        // It opens again: that is another one.
        alarm(&server, "fcm").await;
        taken(&server, smtp, 2).await;
        assert_eq!(smtp.letters().len(), 2);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_alarm_of_what_has_no_end_closes_when_it_has_not_happened_for_a_day() {
    let server = TestServer::on_sqlite().await;
    let mut moment = server.clock.moment();
    let mut conn = server.app.db.begin(Class::Operators).await.unwrap();
    for kind in ["push_death_rush", "push_fault"] {
        alarms::open(&mut conn, &mut moment, kind, "fcm", "a detail").await.unwrap();
    }
    conn.commit().await.unwrap();
    let open = async || server.get("/alarms?state=open").await["items"].as_array().unwrap().len();
    server.clock.advance(86_400_000);
    expiry::quiet(&server.app).await.unwrap();
    assert_eq!(open().await, 2);
    server.clock.advance(1);
    expiry::quiet(&server.app).await.unwrap();
    assert_eq!(open().await, 1, "a fault stands until it is over");
    server.stop().await;
}

#[tokio::test]
async fn many_alarms_at_once_go_in_one_mail() {
    with_mail(async |server, smtp| {
        let mut moment = server.clock.moment();
        let mut conn = server.app.db.begin(Class::Operators).await.unwrap();
        for subject in ["a", "b", "c", "d", "e", "f", "g"] {
            alarms::open(&mut conn, &mut moment, "push_fault", subject, &format!("about {subject}")).await.unwrap();
        }
        conn.commit().await.unwrap();
        taken(&server, smtp, 1).await;
        let letter = smtp.letters().remove(0);
        assert_eq!(letter.header("Subject"), Some("Muster: 7 alarms"));
        assert!(letter.text().contains("about a") && letter.text().contains("about g"));
        // A rush is held up to the end of its ten minutes and then told together.
        for n in 0..4 {
            alarm(&server, &format!("more {n}")).await;
            taken(&server, smtp, n + 2).await;
        }
        for n in 0..5 {
            alarm(&server, &format!("held {n}")).await;
        }
        let mail = server.get("/mail").await;
        assert_eq!(mail["items"].as_array().unwrap().len(), 5);
        server.advance(600_000);
        taken(&server, smtp, 6).await;
        assert_eq!(smtp.letters()[5].header("Subject"), Some("Muster: 5 alarms"));
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_activation_mail_carries_a_link_that_admits_its_users_device_and_its_state_can_be_read() {
    with_mail(async |server, smtp| {
        let user = server.user("user@example.org").await;
        let path = format!("/users/{}/activation", user["id"].as_str().unwrap());
        assert_eq!(server.call("GET", &path, None).await.status, 404);
        let mail = server.post(&path, json!({})).await.expect(202);
        assert_eq!((&mail["state"], &mail["to"], &mail["kind"]), (&json!("queued"), &json!("user@example.org"), &json!("activation")));
        let sent = until_state(&server, &path, "sent").await;
        assert_eq!((&sent["attempts"], &sent["error"]), (&json!(1), &Value::Null));
        let text = smtp.letters()[0].text();
        let link = text.lines().find(|line| line.contains("/enroll/")).unwrap().trim();
        let token = link.rsplit('/').next().unwrap();
        // The page behind the link shows the code, and the link admits one device of this user.
        assert_eq!(server.client.get(format!("{}/enroll/{token}", server.url)).send().await.unwrap().status(), 200);
        server.phone_with(token, "user@example.org", "h").await;
        let second = crate::support::device::activation(token, "user@example.org", "other", None);
        assert_eq!(server.activate(&second, None).await.body["code"], "token_exhausted");
        // What was sent is not kept.
        let mut conn = server.app.db.read().await.unwrap();
        let row = muster::store::mail::get(&mut conn, sent["id"].as_str().unwrap().parse().unwrap()).await.unwrap().unwrap();
        assert_eq!(row.body, "");
        drop(conn);
        // Again: another link. And an announced device's own.
        let again = server.post(&path, json!({})).await.expect(202);
        assert_ne!(again["id"], sent["id"]);
        taken(&server, smtp, 2).await;
        assert!(!smtp.letters()[1].text().contains(token));
        let device = json!({"user": "user@example.org", "platform": "android", "serial": "S-1", "send_mail": true});
        let made = server.post("/devices", device).await.expect(201);
        until_state(&server, &format!("/mail/{}", made["enrollment"]["mail"]["id"].as_str().unwrap()), "sent").await;
        assert!(smtp.letters()[2].text().contains(made["enrollment"]["link"].as_str().unwrap()));
        // The console sends it too, and shows what became of it.
        let browser = server.operator("an operator", Role::Operator).await;
        let shown = browser.submit(&format!("/users/{}/activation", user["id"].as_str().unwrap()), &[]).await;
        assert!(shown.text.contains("is queued"), "{}", shown.text);
        taken(&server, smtp, 4).await;
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn mail_is_tried_again_later_and_a_refusal_is_told_with_its_reason() {
    with_mail(async |server, smtp| {
        let user = server.user("user@example.org").await;
        let path = format!("/users/{}/activation", user["id"].as_str().unwrap());
        smtp.next(Fault::Refuse("451 4.3.0 later".into()));
        server.post(&path, json!({})).await.expect(202);
        server.until("the attempt has failed", async || server.get(&path).await["error"] != Value::Null).await;
        let waiting = server.get(&path).await;
        assert_eq!((&waiting["state"], &waiting["next_attempt_at_ms"]), (&json!("queued"), &json!(START_MS + 60_000)));
        assert!(waiting["error"].as_str().unwrap().contains("451") || waiting["error"].as_str().unwrap().contains("later"), "{waiting}");
        server.advance(60_000);
        assert_eq!(until_state(&server, &path, "sent").await["attempts"], 2);
        // A server that breaks off after the letter may have taken it: it comes twice, under one Message-ID.
        smtp.next(Fault::CutAfterData);
        server.post(&path, json!({})).await.expect(202);
        server.until("the attempt has failed", async || server.get(&path).await["error"] != Value::Null).await;
        server.advance(60_000);
        until_state(&server, &path, "sent").await;
        let letters = smtp.letters();
        assert_eq!(letters.len(), 3);
        assert_eq!(letters[1].header("Message-ID"), letters[2].header("Message-ID"));
        assert_ne!(letters[0].header("Message-ID"), letters[1].header("Message-ID"));
        // No is no.
        smtp.next(Fault::Refuse("550 5.1.1 no such user".into()));
        let refused = server.post(&path, json!({})).await.expect(202);
        let failed = until_state(&server, &path, "failed").await;
        assert!(failed["error"].as_str().unwrap().contains("no such user"), "{failed}");
        let failing = async || {
            let alarms = server.get("/alarms?state=open").await;
            alarms["items"].as_array().unwrap().iter().filter(|alarm| alarm["kind"] == "mail_failing").count()
        };
        assert_eq!(failing().await, 1);
        server.post(&format!("/mail/{}/resend", refused["id"].as_str().unwrap()), json!({})).await.expect(202);
        until_state(&server, &path, "sent").await;
        assert_eq!(failing().await, 0, "the alarm of failing mail is over once mail goes");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn queued_mail_survives_the_death_of_its_server() {
    let Some(url) = postgres::fresh_database().await else { return };
    let smtp = StandIn::start().await.unwrap();
    let server = TestServer::at(&url, None, settings(&smtp)).await;
    let user = server.user("user@example.org").await;
    let path = format!("/users/{}/activation", user["id"].as_str().unwrap());
    smtp.next(Fault::Refuse("451 4.3.0 later".into()));
    server.post(&path, json!({})).await.expect(202);
    server.until("the attempt has failed", async || server.get(&path).await["error"] != Value::Null).await;
    let (clock, fcm) = (server.clock.clone(), muster::sim::fcm::StandIn::start(server.clock.clone()).await.unwrap());
    server.abandon();
    clock.advance(60_000);
    let server = TestServer::beside(&url, None, clock, fcm, settings(&smtp)).await;
    assert_eq!(until_state(&server, &path, "sent").await["attempts"], 2);
    server.stop().await;
}

#[tokio::test]
async fn without_a_mail_server_the_answer_says_what_to_set() {
    let server = TestServer::on_sqlite().await;
    let user = server.user("user@example.org").await;
    let refused = server.post(&format!("/users/{}/activation", user["id"].as_str().unwrap()), json!({})).await;
    assert_eq!((refused.status, &refused.body["code"]), (409, &json!("mail_unconfigured")));
    let device = json!({"user": "user@example.org", "platform": "android", "send_mail": true});
    assert_eq!(server.post("/devices", device).await.body["code"], "mail_unconfigured");
    assert_eq!(server.get("/devices").await["items"], json!([]), "nothing was made");
    server.stop().await;
}

#[tokio::test]
async fn the_outbox_is_a_page_of_the_console_where_failed_mail_is_sent_again() {
    with_mail(async |server, smtp| {
        let user = server.user("user@example.org").await["id"].as_str().unwrap().to_owned();
        smtp.next(Fault::Refuse("550 5.1.1 no such user".into()));
        let mail = server.post(&format!("/users/{user}/activation"), json!({})).await.expect(202)["id"].as_str().unwrap().to_owned();
        until_state(&server, &format!("/mail/{mail}"), "failed").await;
        let browser = server.operator("anna", Role::Operator).await;
        assert!(browser.get("/settings").await.text.contains("/settings/mail"));
        let page = browser.get("/settings/mail?state=failed").await.text;
        assert!(page.contains("user@example.org") && page.contains("5.1.1 no such user") && page.contains("Send again"), "{page}");
        assert!(!browser.get("/settings/mail?state=sent").await.text.contains("user@example.org"));
        browser.post(&format!("/settings/mail/{mail}/resend"), &[]).await;
        until_state(&server, &format!("/mail/{mail}"), "sent").await;
        let page = browser.get("/settings/mail").await.text;
        assert!(page.contains("user@example.org") && !page.contains("Send again"), "{page}");
        let viewer = server.operator("board", Role::Viewer).await;
        viewer.post(&format!("/settings/mail/{mail}/resend"), &[]).await;
        assert_eq!(server.get(&format!("/mail/{mail}")).await["state"], "sent");
        server.stop().await;
    })
    .await;
}
