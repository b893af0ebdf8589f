use std::fs;
use std::path::Path;

use serde_json::Value;

use super::*;

fn audit(dir: &Path) -> Audit {
    Audit::to_log("node", "node-1").to_file(&dir.join("audit.log")).unwrap()
}

fn lines(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.ends_with('\n'), "{text:?}");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn entry(volume: &str) -> Entry {
    Entry { volume: Some(volume.into()), ..Entry::default() }
}

impl Audit {
    async fn ok(&self, volume: &str) {
        self.write(Event::Publish, &entry(volume), "Ok", None).await;
    }
}

#[tokio::test]
async fn every_line_has_every_field() {
    let dir = tempfile::tempdir().unwrap();
    let audit = audit(dir.path());
    audit.ok("v").await;
    let full = Entry {
        target: Some("/pod".into()),
        namespace: Some("team-a".into()),
        pod: Some("train-0".into()),
        pod_uid: Some("u-1".into()),
        service_account: Some("trainer".into()),
        claim: Some("data".into()),
        store: Some("lake".into()),
        path: Some("a/b".into()),
        identity: Some("0011".into()),
        read_only: Some(true),
        size: Some(7),
        removed: Some(8),
        changed: [("ttl".into(), "1s".into())].into(),
        event: Some(Event::CredentialChange),
        ..entry("v")
    };
    audit.write(Event::Publish, &full, "Aborted", Some("why")).await;
    let [short, long] = &lines(&dir.path().join("audit.log"))[..] else { panic!("not two lines") };
    let names = |line: &Value| line.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let expected = [
        "audit",
        "changed",
        "claim",
        "code",
        "event",
        "identity",
        "instance",
        "namespace",
        "path",
        "plugin",
        "pod",
        "podUid",
        "readOnly",
        "reason",
        "removed",
        "serviceAccount",
        "size",
        "store",
        "target",
        "time",
        "volume",
    ];
    assert_eq!(names(short), expected);
    assert_eq!(names(long), expected);
    assert!(long.as_object().unwrap().values().all(|value| !value.is_null()), "{long}");
    assert_eq!((&short["event"], &short["code"], &short["reason"]), (&"publish".into(), &"Ok".into(), &Value::Null));
    assert_eq!((&long["event"], &long["reason"]), (&"credential-change".into(), &"why".into()));
    assert_eq!((&short["audit"], &short["plugin"], &short["instance"]), (&1.into(), &"node".into(), &"node-1".into()));
    assert!(humantime::parse_rfc3339(short["time"].as_str().unwrap()).is_ok());
}

#[tokio::test]
async fn a_line_is_one_line_and_not_endless() {
    let dir = tempfile::tempdir().unwrap();
    let audit = audit(dir.path());
    let nasty = format!("a\nb\u{1b}[2J\u{9b}2J\u{2028}{}", "é".repeat(4096));
    audit.write(Event::Create, &entry(&nasty), "InvalidArgument", Some(&nasty)).await;
    let text = fs::read_to_string(dir.path().join("audit.log")).unwrap();
    assert!(text.len() < 3 * LONGEST && text.matches(|c: char| c.is_control()).count() == 1, "{text}");
    assert!(lines(&dir.path().join("audit.log"))[0]["volume"].as_str().unwrap().starts_with("a\nb\u{1b}[2J\u{9b}2J"));
}

#[tokio::test]
async fn a_call_that_changed_nothing_has_no_line_unless_it_failed() {
    let dir = tempfile::tempdir().unwrap();
    let audit = audit(dir.path());
    let again = Entry { unchanged: true, ..entry("v") };
    audit.write(Event::Publish, &again, "Ok", None).await;
    audit.write(Event::Publish, &again, "Unavailable", Some("the worker is gone")).await;
    let written = lines(&dir.path().join("audit.log"));
    assert_eq!((written.len(), &written[0]["code"]), (1, &"Unavailable".into()));
}

#[tokio::test]
async fn a_file_that_was_moved_away_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (file, moved) = (dir.path().join("audit.log"), dir.path().join("audit.log.1"));
    let audit = audit(dir.path());
    audit.ok("one").await;
    fs::rename(&file, &moved).unwrap();
    audit.ok("two").await;
    fs::remove_file(&file).unwrap();
    audit.reopen();
    audit.ok("three").await;
    assert_eq!((lines(&moved)[0]["volume"].as_str(), lines(&moved).len()), (Some("one"), 1));
    assert_eq!((lines(&file)[0]["volume"].as_str(), lines(&file).len()), (Some("three"), 1));
}

#[tokio::test]
async fn what_is_there_stays_and_a_broken_line_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("audit.log");
    fs::write(&file, "{\"half").unwrap();
    audit(dir.path()).ok("v").await;
    let text = fs::read_to_string(&file).unwrap();
    let (broken, whole) = text.split_once('\n').unwrap();
    assert_eq!(broken, "{\"half");
    assert_eq!(serde_json::from_str::<Value>(whole).unwrap()["volume"], "v");
}

#[tokio::test]
async fn a_line_that_the_file_does_not_take_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let file = File::open(&path).unwrap();
    file.append("one".into()).await.unwrap();
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(file.append("two".into()).await, Err("two".into()));
    fs::remove_dir(&path).unwrap();
    file.append("three".into()).await.unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");
}

#[test]
fn only_a_regular_file_can_be_an_audit_log() {
    let to = |path: &str| Audit::to_log("node", "n").to_file(Path::new(path));
    assert!(to("/dev/null").unwrap_err().to_string().contains("no regular file"));
    assert!(to("/no/such/directory/audit.log").is_err());
}
