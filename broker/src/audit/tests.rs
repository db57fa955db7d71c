use super::*;

fn event(client: &str) -> Event {
    Event::new(Kind::Refused)
        .peer(([192, 0, 2, 1], 4_242).into())
        .client(client)
        .user(Some(&Arc::from("mallory")))
        .reason(dunlin_protocol::ReasonCode::BAD_USER_NAME_OR_PASSWORD)
        .why("wrong \"password\"\n")
}

fn lines(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap();
    let parse = |line| serde_json::from_str(line).unwrap();
    text.lines().map(parse).collect()
}

fn to_file(path: &Path, scope: Scope) -> AuditConfig {
    AuditConfig {
        target: Target::File(path.to_owned()),
        scope,
    }
}

#[test]
fn an_event_is_one_line_of_json_whatever_a_client_calls_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let audit = Audit::start(&to_file(&path, Scope::Refused), Counts::default()).unwrap();
    audit.record(event("a\n{\"event\":\"admin\"}"));
    audit.record(event(&"ü".repeat(10_000)));
    audit.flush();
    let lines = lines(&path);
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["event"], "refused");
    assert_eq!(lines[0]["peer"], "192.0.2.1:4242");
    assert_eq!(lines[0]["client"], "a\n{\"event\":\"admin\"}");
    assert_eq!(lines[0]["reason"], "0x86");
    assert_eq!(lines[0]["why"], "wrong \"password\"\n");
    assert!(lines[0]["time"].as_str().unwrap().ends_with('Z'));
    assert_eq!(lines[1]["client"], "ü".repeat(128));
}

#[test]
fn what_is_not_asked_for_is_not_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let counts = Counts::default();
    let audit = Audit::start(&to_file(&path, Scope::Changes), counts.clone()).unwrap();
    audit.record(event("refused"));
    audit.record(Event::new(Kind::Connected).client("connected"));
    audit.record(Event::new(Kind::Banned).by("broker").target("192.0.2.1"));
    audit.flush();
    assert_eq!(lines(&path).len(), 1);
    audit.renew(&to_file(&path, Scope::All)).unwrap();
    audit.record(event("refused"));
    audit.record(Event::new(Kind::Connected).client("connected"));
    audit.flush();
    assert_eq!(lines(&path).len(), 3);
    assert_eq!(counts.recorded.get(), 3);
    assert!(!Audit::off().wants(Kind::Admin));
}

#[test]
fn a_file_that_was_moved_away_is_made_anew_when_it_is_renewed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let moved = folder.path().join("audit.jsonl.1");
    let config = to_file(&path, Scope::Refused);
    let audit = Audit::start(&config, Counts::default()).unwrap();
    audit.record(event("one"));
    audit.flush();
    std::fs::rename(&path, &moved).unwrap();
    audit.record(event("two"));
    audit.flush();
    audit.renew(&config).unwrap();
    audit.record(event("three"));
    audit.flush();
    assert_eq!(lines(&moved).len(), 2);
    assert_eq!(lines(&path).len(), 1);
    let missing = to_file(&folder.path().join("none/audit.jsonl"), Scope::All);
    assert!(audit.renew(&missing).is_err());
    audit.record(event("four"));
    audit.flush();
    assert_eq!(lines(&path).len(), 2, "it goes on where it was");
}

#[test]
fn what_cannot_be_written_is_counted_and_said_in_the_next_line_that_can() {
    let counts = Counts::default();
    let config = to_file(Path::new("/dev/full"), Scope::Refused);
    let audit = Audit::start(&config, counts.clone()).unwrap();
    audit.record(event("lost"));
    audit.flush();
    assert_eq!(counts.lost.get(), 1);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    audit.renew(&to_file(&path, Scope::Refused)).unwrap();
    audit.record(event("written"));
    audit.flush();
    let lines = lines(&path);
    assert_eq!(lines[0]["event"], "lost");
    assert_eq!(lines[0]["events"], "1");
    assert_eq!(lines[1]["client"], "written");
}
