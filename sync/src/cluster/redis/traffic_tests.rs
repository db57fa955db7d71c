use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::encode::Encoder;
use super::super::job::{Batch, Job, Outcome, Whose};
use super::super::names::Names;
use super::super::resp::{Decoder, Value};
use super::super::ring::Ring;
use super::super::scripts::Script;
use super::{Event, Traffic};
use crate::SessionId;
use crate::cluster::{AppendFate, Appending, BackplaneError, ReplicaId, Reply, Request};

const OOM: &str = "OOM command not allowed when used memory > 'maxmemory'.";

/// Traffic with a clock, and what has come of each request.
struct Rig {
    traffic: Traffic,
    now: Instant,
    order: u64,
    told: Vec<oneshot::Receiver<Vec<Outcome>>>,
}

impl Rig {
    fn new(wait: Option<(u32, u32)>) -> Self {
        let ring = Ring::new(1 << 20, Duration::from_secs(30));
        Self {
            traffic: Traffic::new(ring, wait),
            now: Instant::now(),
            order: 0,
            told: Vec::new(),
        }
    }

    fn submit(&mut self, request: &Request) {
        let names = Names::new("dunlin", false);
        for command in Encoder(&names).encode(request) {
            let (batch, told) = Batch::new(1, 1);
            self.told.push(told);
            self.order += 1;
            let mut job = Job::new(command, Whose::Call { batch, index: 0 });
            job.order = self.order;
            self.traffic.handle_jobs([job]);
        }
    }

    /// What goes out now, as arguments.
    fn output(&mut self) -> Vec<Vec<Bytes>> {
        let mut out = Vec::new();
        self.traffic.poll_output(self.now, &mut out);
        let (mut buffer, mut decoder) = (BytesMut::from(&out[..]), Decoder::default());
        let mut commands = Vec::new();
        while let Some(Value::Array(args)) = decoder.next(&mut buffer).unwrap() {
            let bulk = |value| match value {
                Value::Bulk(bytes) => bytes,
                other => panic!("{other:?}"),
            };
            commands.push(args.into_iter().map(bulk).collect());
        }
        assert!(buffer.is_empty());
        commands
    }

    fn answer(&mut self, answer: Value) {
        assert!(self.traffic.handle_answer(self.now, answer));
    }

    fn refuse(&mut self, error: &str) {
        self.answer(Value::Error(error.to_owned()));
    }

    /// Until what was refused goes out again.
    fn pass(&mut self) {
        self.now = self
            .traffic
            .poll_timeout()
            .expect("nothing waits for a time");
    }

    fn outcome(&mut self, request: usize) -> Option<Outcome> {
        self.told[request].try_recv().ok()?.pop()
    }
}

fn append(session: u64, number: u64) -> Request {
    Request::Append {
        session: SessionId(session),
        origin: ReplicaId(1),
        max_messages: 9,
        max_bytes: 99,
        entries: vec![Appending {
            number,
            once: None,
            body: Bytes::from_static(b"x"),
        }],
    }
}

fn put(topic: &str, body: &'static str) -> Request {
    Request::PutRetained {
        topic: topic.into(),
        body: Bytes::from(body),
        head: [0; 12],
    }
}

fn delete(topic: &str) -> Request {
    Request::DeleteRetained {
        topic: topic.into(),
        head: [0; 12],
    }
}

fn appended(seq: i64) -> Value {
    Value::Array(vec![Value::Bulk(Bytes::from_static(b"1")), Value::Int(seq)])
}

fn at(seq: u64) -> Option<Outcome> {
    Some(Ok(Reply::Appended {
        owner: ReplicaId(1),
        seqs: vec![AppendFate::At(seq)],
    }))
}

/// Number that an append demands to have been applied before.
fn after(command: &[Bytes]) -> u64 {
    u64::from_le_bytes(command[6][16..24].try_into().unwrap())
}

fn is(command: &[Bytes], script: Script) -> bool {
    &command[0][..] == b"EVALSHA" && command[1] == script.sha()
}

#[test]
fn commands_go_out_as_they_come_and_answers_find_them() {
    let mut rig = Rig::new(None);
    rig.submit(&append(1, 1));
    rig.submit(&append(2, 1));
    assert_eq!(rig.output().len(), 2);
    assert!(rig.output().is_empty());
    rig.answer(appended(4));
    assert_eq!(rig.outcome(0), at(4));
    assert_eq!(rig.outcome(1), None);
    rig.answer(appended(5));
    assert_eq!(rig.outcome(1), at(5));
    assert!(
        !rig.traffic.handle_answer(rig.now, Value::Nil),
        "nothing was asked"
    );
}

#[test]
fn appends_behind_a_refused_one_go_out_again_in_order() {
    let mut rig = Rig::new(None);
    for number in 1..=3 {
        rig.submit(&append(1, number));
    }
    rig.submit(&append(2, 1));
    let sent = rig.output();
    let demands: Vec<_> = sent.iter().map(|command| after(command)).collect();
    assert_eq!(demands, [0, 1, 2, 0]);
    rig.refuse(OOM);
    rig.answer(Value::Int(-1));
    rig.answer(Value::Int(-1));
    assert!(rig.output().is_empty(), "one is on its way");
    rig.answer(appended(0));
    assert_eq!(rig.outcome(3), at(0), "another queue is not concerned");
    assert!(rig.output().is_empty(), "a pause");
    rig.pass();
    let sent = rig.output();
    assert_eq!(sent.len(), 1, "one finds out whether there is memory");
    assert_eq!(after(&sent[0]), 0);
    rig.answer(appended(0));
    let demands: Vec<_> = rig.output().iter().map(|command| after(command)).collect();
    assert_eq!(demands, [0, 2]);
    rig.answer(appended(1));
    rig.answer(appended(2));
    assert_eq!(
        (rig.outcome(0), rig.outcome(1), rig.outcome(2)),
        (at(0), at(1), at(2))
    );
}

#[test]
fn what_frees_memory_overtakes_what_needs_it() {
    let mut rig = Rig::new(None);
    rig.submit(&put("t", "1"));
    rig.output();
    rig.refuse(OOM);
    assert!(rig.traffic.is_full());
    rig.submit(&append(1, 1));
    rig.submit(&Request::Registry);
    rig.submit(&delete("other"));
    rig.submit(&delete("t"));
    let sent = rig.output();
    assert_eq!(
        sent.len(),
        2,
        "neither the append nor what deletes the refused message"
    );
    assert!(is(&sent[0], Script::Registry) && is(&sent[1], Script::DeleteRetained));
    rig.answer(Value::Array(vec![]));
    rig.answer(Value::Int(1));
    rig.pass();
    let sent = rig.output();
    assert_eq!(sent.len(), 2, "the append waits for the outcome");
    assert!(is(&sent[0], Script::PutRetained) && is(&sent[1], Script::DeleteRetained));
    rig.answer(Value::Int(2));
    assert!(!rig.traffic.is_full());
    rig.answer(Value::Int(3));
    assert!(is(&rig.output()[0], Script::Append));
}

#[test]
fn a_refused_change_that_was_replaced_meanwhile_is_over() {
    let mut rig = Rig::new(None);
    for body in ["1", "2", "3"] {
        rig.submit(&put("t", body));
    }
    rig.submit(&put("other", "1"));
    rig.output();
    rig.refuse(OOM);
    rig.answer(Value::Int(7));
    rig.refuse(OOM);
    rig.refuse(OOM);
    assert_eq!(rig.outcome(0), Some(Ok(Reply::Version(7))));
    assert_eq!(rig.outcome(1), Some(Ok(Reply::Version(7))));
    rig.pass();
    assert_eq!(rig.output().len(), 1);
    rig.answer(Value::Int(8));
    assert_eq!(rig.outcome(2), Some(Ok(Reply::Version(8))));
    assert_eq!(rig.output().len(), 1);
    rig.answer(Value::Int(1));
    assert_eq!(rig.outcome(3), Some(Ok(Reply::Version(1))));
}

#[test]
fn a_server_that_refuses_everything_is_asked_again_after_growing_pauses() {
    let mut rig = Rig::new(None);
    rig.submit(&append(1, 1));
    let mut last = Duration::ZERO;
    for _ in 0..12 {
        assert_eq!(rig.output().len(), 1);
        rig.refuse("MISCONF Redis is configured to save RDB snapshots");
        rig.submit(&Request::Registry);
        assert!(rig.output().is_empty(), "nothing else goes out meanwhile");
        let before = rig.now;
        rig.pass();
        let pause = rig.now - before;
        assert!(
            pause >= last && pause <= Duration::from_millis(500),
            "{pause:?}"
        );
        last = pause;
        let mut again = rig.output();
        assert!(is(&again.remove(0), Script::Append), "in order");
        rig.refuse("MISCONF");
        for _ in again {
            rig.refuse("MISCONF");
        }
        rig.pass();
        rig.traffic.handle_lost();
        let jobs = rig.traffic.take_jobs();
        rig.traffic.handle_jobs(jobs.into_iter().take(1));
    }
    assert_eq!(last, Duration::from_millis(500));
}

#[test]
fn forgotten_scripts_are_brought_before_what_needs_them() {
    let mut rig = Rig::new(None);
    rig.submit(&append(1, 1));
    rig.output();
    rig.refuse("NOSCRIPT No matching script.");
    rig.pass();
    let sent = rig.output();
    let (last, loads) = sent.split_last().unwrap();
    assert!(is(last, Script::Append));
    assert!(!loads.is_empty() && loads.iter().all(|command| command[0] == "SCRIPT"));
    for _ in loads {
        rig.answer(Value::Nil);
    }
    rig.answer(appended(0));
    assert_eq!(rig.outcome(0), at(0));
}

#[test]
fn what_has_no_answer_goes_out_again_but_frames_do_not() {
    let mut rig = Rig::new(None);
    rig.submit(&append(1, 1));
    rig.submit(&Request::Publish {
        to: None,
        frame: Bytes::from_static(b"DN"),
    });
    rig.submit(&append(1, 2));
    rig.submit(&append(1, 3));
    let first = rig.output();
    rig.answer(appended(0));
    rig.traffic.handle_lost();
    assert_eq!(rig.outcome(1), Some(Err(BackplaneError::Lost)));
    rig.traffic
        .handle_connected(*b"another!", Some(rig.now + Duration::from_secs(9)));
    let again = rig.output();
    assert_eq!(again.len(), 2);
    assert_eq!(again[0][7], first[2][7]);
    assert_eq!((after(&again[0]), after(&again[1])), (0, 2));
    assert_eq!(
        again[0].last().map(|control| &control[..]),
        Some(&b"another!1"[..])
    );
}

#[test]
fn writes_are_not_acknowledged_before_enough_replicas_have_them() {
    let mut rig = Rig::new(Some((2, 50)));
    rig.submit(&append(1, 1));
    rig.submit(&Request::Registry);
    let sent = rig.output();
    assert_eq!(sent[2], ["WAIT", "2", "50"]);
    rig.answer(appended(0));
    rig.answer(Value::Array(vec![]));
    assert_eq!(rig.outcome(0), None);
    assert!(rig.outcome(1).is_some(), "reading waits for nobody");
    rig.answer(Value::Int(1));
    assert_eq!(rig.outcome(0), None);
    assert_eq!(rig.traffic.events, [Event::Unreplicated(1)]);
    assert_eq!(rig.output(), [["WAIT", "2", "50"]]);
    rig.answer(Value::Int(2));
    assert_eq!(rig.outcome(0), at(0));
}

#[test]
fn what_redis_refuses_for_what_it_is_is_not_repeated() {
    let mut rig = Rig::new(None);
    rig.submit(&append(1, 1));
    rig.submit(&Request::Registry);
    rig.output();
    rig.refuse("WRONGTYPE Operation against a key");
    rig.answer(Value::Int(3));
    let Some(Err(BackplaneError::Refused { request, reason })) = rig.outcome(0) else {
        panic!("not refused");
    };
    assert_eq!(request, "Append");
    assert!(reason.starts_with("WRONGTYPE"));
    let nonsense = BackplaneError::Nonsense {
        request: "Registry",
        answer: "a number of 1".to_owned(),
    };
    assert_eq!(rig.outcome(1), Some(Err(nonsense)));
    assert!(rig.output().is_empty());
}

#[test]
fn a_batch_is_told_when_all_of_it_is_answered() {
    let names = Names::new("dunlin", false);
    let (batch, mut told) = Batch::new(2, 2);
    let mut rig = Rig::new(None);
    for index in 0..2 {
        for command in Encoder(&names).encode(&append(1, index as u64 + 1)) {
            let batch = Arc::clone(&batch);
            rig.traffic
                .handle_jobs([Job::new(command, Whose::Call { batch, index })]);
        }
    }
    rig.output();
    rig.answer(appended(0));
    assert!(told.try_recv().is_err());
    rig.answer(appended(1));
    assert_eq!(told.try_recv().unwrap().len(), 2);
}
