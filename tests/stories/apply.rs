//! `muster apply`: from the files of a folder to a server, as often as somebody likes.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::postgres;
use crate::support::shell::Shell;

/// Runs a story on both databases, with a folder that holds nothing yet.
async fn each(story: impl AsyncFn(&Shell, &Path)) {
    for database in [Some("sqlite://muster.db".to_owned()), postgres::fresh_database().await] {
        let Some(database) = database else { continue };
        let folder = tempfile::tempdir().unwrap();
        let shell = Shell::start(folder.path(), &database, "").await;
        std::fs::create_dir_all(folder.path().join("fleet/policies")).unwrap();
        story(&shell, &folder.path().join("fleet")).await;
    }
}

fn put(folder: &Path, name: &str, content: &Value) {
    std::fs::write(folder.join(name), content.to_string()).unwrap();
}

/// Everything that `muster apply` can change, as the server has it.
async fn state(shell: &Shell) -> Value {
    let (labels, policies) = (shell.get("/labels").await["items"].clone(), shell.get("/policies").await["items"].clone());
    json!([labels, policies])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_become_labels_policies_and_assignments_and_a_second_run_changes_nothing() {
    each(async |shell, folder| {
        shell.post("/users", json!({"email": "user@example.org", "name": "A user"})).await.expect(201);
        let device = json!({"user": "user@example.org", "platform": "android", "serial": "S-1"});
        let device = shell.post("/devices", device).await.expect(201)["id"].clone();
        put(folder, "labels.json", &json!({"field": {"description": "Outside", "devices": ["S-1"]}, "lent": {}}));
        let camera = json!({"document": {"cameraAccess": "CAMERA_ACCESS_DISABLED"}, "message": "why", "assignments": [
            {"label": "field", "mode": "include", "rank": 10}, {"label": "lent", "mode": "exclude", "rank": 20}]});
        put(folder, "policies/camera.json", &camera);
        put(folder, "policies/bare.json", &json!({"document": {}}));
        // A plan says everything and does nothing.
        let nothing = state(shell).await;
        let (planned, said) = shell.both("apply -f fleet --plan").await;
        assert!(said.contains("6 changes would be made") && planned.lines().count() == 6, "{planned}{said}");
        assert_eq!(state(shell).await, nothing);
        let (made, said) = shell.both("apply -f fleet").await;
        assert!(said.contains("6 changes made"), "{said}");
        assert_eq!(made, planned, "what was planned is what is made");
        let lines: Vec<&str> = made.lines().collect();
        assert_eq!(lines[..3], ["create label field", "give label field (1 given, 0 taken)", "create label lent"]);
        assert_eq!(lines[5], "assign policy camera (include field 10, exclude lent 20)");
        let whole = state(shell).await;
        assert_eq!((&whole[0][0]["description"], &whole[0][0]["devices"]), (&json!("Outside"), &json!(1)));
        assert_eq!((&whole[1][1]["name"], &whole[1][1]["version"]), (&json!("camera"), &json!(1)));
        assert_eq!(whole[1][1]["assignments"].as_array().unwrap().len(), 2);
        assert_eq!(shell.get("/labels/field/devices").await["items"][0]["id"], device);
        // Again: nothing is different, so nothing is done.
        let (made, said) = shell.both("apply -f fleet").await;
        assert!(made.is_empty() && said.contains("0 changes made"), "{made}{said}");
        assert_eq!(state(shell).await, whole);
        // One thing changes, and one alone.
        put(folder, "policies/camera.json", &json!({"document": {"cameraAccess": "CAMERA_ACCESS_ENFORCED"}}));
        let told: Value = serde_json::from_str(&shell.both("apply -f fleet --plan --json").await.0).unwrap();
        let change = json!({"what": "publish", "kind": "policy", "name": "camera", "said": "in the place of version 1"});
        assert_eq!(told, json!({"planned": true, "changes": [change]}));
        shell.said("apply -f fleet").await;
        let after = state(shell).await;
        assert_eq!((&after[1][1]["version"], &after[1][1]["assignments"]), (&json!(2), &whole[1][1]["assignments"]));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_deleted_unless_it_is_asked_for() {
    each(async |shell, folder| {
        put(folder, "labels.json", &json!({"a": {}, "b": {}}));
        for name in ["one", "two"] {
            let policy = json!({"document": {}, "assignments": [{"label": "b", "mode": "include", "rank": 1}]});
            put(folder, &format!("policies/{name}.json"), &policy);
        }
        shell.said("apply -f fleet").await;
        put(folder, "labels.json", &json!({"a": {}}));
        std::fs::remove_file(folder.join("policies/two.json")).unwrap();
        put(folder, "policies/one.json", &json!({"document": {}, "assignments": []}));
        let (made, _) = shell.both("apply -f fleet").await;
        assert_eq!(made, "assign policy one (to nobody)\n");
        let before = state(shell).await;
        let (planned, _) = shell.both("apply -f fleet --prune --plan").await;
        assert_eq!(planned, "delete policy two\ndelete label b\n");
        assert_eq!(state(shell).await, before);
        assert_eq!(shell.both("apply -f fleet --prune").await.0, planned);
        let after = state(shell).await;
        assert_eq!((after[0].as_array().unwrap().len(), after[1].as_array().unwrap().len()), (1, 1), "{after}");
        assert!(shell.both("apply -f fleet --prune").await.0.is_empty());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_names_its_file_and_its_place_and_a_faulty_file_changes_nothing() {
    each(async |shell, folder| {
        put(folder, "labels.json", &json!({"field": {}}));
        put(folder, "policies/good.json", &json!({"document": {"screenCaptureDisabled": true}}));
        let nothing = state(shell).await;
        for (content, words) in [
            (r#"{"document": {"cameraAccess": "OFF"}}"#, "bad.json: /document/cameraAccess"),
            (r#"{"document": {}, "assignmnts": []}"#, "bad.json: /assignmnts"),
            (r#"{"document": {}, "assignments": [{"label": "field", "mode": "include", "rank": "1"}]}"#, "bad.json: /assignments/0/rank"),
            (r#"{"document": {}"#, "bad.json"),
            (r#"{}"#, "`document`"),
        ] {
            std::fs::write(folder.join("policies/bad.json"), content).unwrap();
            for line in ["apply -f fleet", "apply -f fleet --plan"] {
                let said = shell.refused(line).await;
                assert!(said.contains(words), "{content}: {said}");
            }
            assert_eq!(state(shell).await, nothing, "{content}");
        }
        // What only the server knows is told with the file as well.
        put(folder, "policies/bad.json", &json!({"document": {}, "assignments": [{"label": "nobody", "mode": "include", "rank": 1}]}));
        let output = shell.run("apply -f fleet").await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains("bad.json") && said.contains("/assignments/0/label"), "{said}");
        std::fs::remove_file(folder.join("policies/bad.json")).unwrap();
        put(folder, "labels.json", &json!({"field": {"devices": ["S-unknown"]}}));
        assert!(shell.refused("apply -f fleet --plan").await.contains("labels.json: /field/devices/0"));
        std::fs::write(folder.join("policies/notes.txt"), "").unwrap();
        assert!(shell.refused("apply -f fleet").await.contains("notes.txt"));
        assert!(shell.refused("apply -f nowhere").await.contains("nowhere"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_is_applied_as_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let shell = Shell::start(folder.path(), "sqlite://muster.db", "").await;
    let line = format!("apply -f {}/examples/fleet", env!("CARGO_MANIFEST_DIR"));
    assert!(shell.said(&line).await.contains("6 changes made"));
    assert!(shell.said(&line).await.contains("0 changes made"));
    let names: Vec<Value> = shell.get("/policies").await["items"].as_array().unwrap().iter().map(|policy| policy["name"].clone()).collect();
    assert_eq!(names, ["baseline", "field"]);
}
