//! What every request answers, the first time and again.

use std::sync::Arc;

use bytes::Bytes;
use dunlin_sync::SessionId;
use dunlin_sync::cluster::{
    AppendFate, Appending, Backplane, BackplaneEvent, Bucket, DueItem, Epoch, RELEASED_ENTRY,
    ReleaseEnd, ReplicaId, Reply, Request, Route, SessionFields, WillFate,
};

use crate::support::{RedisServer, ask, connect, head, record};
use dunlin_sync::cluster::redis::RedisBackplane;

const R1: ReplicaId = ReplicaId(1);
const R2: ReplicaId = ReplicaId(2);
const FOR_EVER: u32 = u32::MAX;

struct Rig {
    server: RedisServer,
    redis: Arc<RedisBackplane>,
}

/// The least that the broker's account needs: as documented in docs/redis.md.
const ACCOUNT: &str = "on >secret ~dunlin:* &sync &sync:* -@all +@hash +@list +@set +@sortedset +@stream \
    +@string +@transaction +@pubsub +@connection +evalsha +script|load +info +time +wait +exists +del +unlink +rename \
    +pexpire +pttl +cluster|slots";

impl Rig {
    fn new() -> Self {
        let server = RedisServer::start(&[]);
        let account: Vec<_> = ["ACL", "SETUSER", "broker"]
            .into_iter()
            .chain(ACCOUNT.split_whitespace())
            .collect();
        assert_eq!(server.cli(&account), "OK");
        let redis = connect(format!("redis://broker:secret@127.0.0.1:{}", server.port));
        Self { server, redis }
    }

    async fn ask(&self, request: Request) -> Reply {
        ask(&self.redis, request).await
    }
}

fn claim(client: &str, replica: ReplicaId, nonce: u64) -> Request {
    Request::Claim {
        client_id: client.into(),
        replica,
        nonce,
        clean_start: false,
        expiry_interval: FOR_EVER,
        fresh: Bucket::of(client).session(nonce),
        record: record(0),
        will: None,
        will_grace_ms: 60_000,
        head: head(replica.0),
    }
}

/// Changes some of the fields of a claim.
fn claim_with(request: Request, clean: bool, expiry: u32, wills: Option<(u32, Bytes)>) -> Request {
    match request {
        Request::Claim {
            client_id,
            replica,
            nonce,
            fresh,
            record,
            will_grace_ms,
            head,
            ..
        } => Request::Claim {
            client_id,
            replica,
            nonce,
            clean_start: clean,
            expiry_interval: expiry,
            fresh,
            record,
            will: wills,
            will_grace_ms,
            head,
        },
        other => other,
    }
}

fn append(session: SessionId, origin: u64, numbers: std::ops::Range<u64>) -> Request {
    Request::Append {
        session,
        origin: ReplicaId(origin),
        max_messages: 100,
        max_bytes: 1000,
        entries: numbers
            .map(|number| Appending {
                number,
                once: None,
                body: Bytes::from(format!("{origin}-{number}")),
            })
            .collect(),
    }
}

fn settle(session: SessionId, epoch: u64, dequeue: &[u64], release: &[u64]) -> Request {
    Request::Settle {
        session,
        epoch: Some(Epoch(epoch)),
        dequeue: dequeue.to_vec(),
        release: release.to_vec(),
        inbound_put: Vec::new(),
        inbound_delete: Vec::new(),
    }
}

fn at(owner: u64, seqs: std::ops::Range<u64>) -> Reply {
    Reply::Appended {
        owner: ReplicaId(owner),
        seqs: seqs.map(AppendFate::At).collect(),
    }
}

fn queue(entries: &[(u64, &str)]) -> Reply {
    Reply::Queue(
        entries
            .iter()
            .map(|(seq, body)| (*seq, Bytes::copy_from_slice(body.as_bytes())))
            .collect(),
    )
}

/// A session of `client`, connected to replica 1 with epoch 1.
async fn session(rig: &Rig, client: &str) -> SessionId {
    match rig.ask(claim(client, R1, 7)).await {
        Reply::Claimed {
            session: Some(session),
            epoch: Epoch(1),
            ..
        } => session,
        other => panic!("{other:?}"),
    }
}

async fn fields(rig: &Rig, session: SessionId) -> SessionFields {
    match rig.ask(Request::GetSession { session }).await {
        Reply::Session(Some(fields)) => fields,
        other => panic!("{other:?}"),
    }
}

fn read(session: SessionId, from: u64, limit: u32) -> Request {
    Request::ReadQueue {
        session,
        from,
        limit,
    }
}

#[tokio::test]
async fn a_replica_joins_renews_leads_and_leaves() {
    let rig = Rig::new();
    let join = |nonce| Request::Join {
        nonce,
        info: Bytes::from_static(b"\xff info"),
        lease_ms: 60_000,
    };
    let one = rig.ask(join(11)).await;
    assert_eq!(one, Reply::Joined { replica: R1 });
    assert_eq!(rig.ask(join(12)).await, Reply::Joined { replica: R2 });
    assert_eq!(
        rig.ask(join(11)).await,
        one,
        "a repetition finds its number"
    );
    let renew = Request::Renew {
        replica: R1,
        lease_ms: 60_000,
        info: Some(Bytes::from_static(b"new")),
    };
    let Reply::Renewed {
        alive: true,
        live,
        lapsed,
        now_ms,
        ..
    } = rig.ask(renew).await
    else {
        panic!("not renewed");
    };
    assert_eq!((live, lapsed), (vec![R1, R2], vec![]));
    assert!(now_ms > 1_700_000_000_000);
    let Reply::Registry(entries) = rig.ask(Request::Registry).await else {
        panic!("no register");
    };
    assert_eq!(entries.len(), 2);
    assert_eq!(&entries[0].info[..], b"new");
    assert_eq!(&entries[1].info[..], b"\xff info");
    assert!((1..=60_000).contains(&entries[1].lease_ms));

    let lead = |replica| Request::Lead {
        replica,
        lease_ms: 60_000,
    };
    assert_eq!(rig.ask(lead(R2)).await, Reply::Flag(true));
    assert_eq!(rig.ask(lead(R1)).await, Reply::Flag(false));
    assert_eq!(rig.ask(lead(R2)).await, Reply::Flag(true));

    let reap = |replica, force| Request::Reap { replica, force };
    assert_eq!(
        rig.ask(reap(R2, false)).await,
        Reply::Flag(false),
        "its lease runs"
    );
    assert_eq!(rig.ask(reap(R2, true)).await, Reply::Flag(true));
    assert_eq!(rig.ask(reap(R2, false)).await, Reply::Flag(true));
    let renew = Request::Renew {
        replica: R2,
        lease_ms: 60_000,
        info: None,
    };
    let reply = rig.ask(renew).await;
    assert!(
        matches!(&reply, Reply::Renewed { alive: false, live, .. } if *live == [R1]),
        "{reply:?}"
    );
}

#[tokio::test]
async fn a_lapsed_lease_is_told_and_comes_back_unless_reaped() {
    let rig = Rig::new();
    let join = Request::Join {
        nonce: 1,
        info: Bytes::new(),
        lease_ms: 1,
    };
    rig.ask(join).await;
    let join = Request::Join {
        nonce: 2,
        info: Bytes::new(),
        lease_ms: 60_000,
    };
    rig.ask(join).await;
    let renew = |replica| Request::Renew {
        replica,
        lease_ms: 60_000,
        info: None,
    };
    loop {
        match rig.ask(renew(R2)).await {
            Reply::Renewed { live, lapsed, .. } if lapsed == [R1] && live == [R2] => break,
            Reply::Renewed { live, .. } if live == [R1, R2] => tokio::task::yield_now().await,
            other => panic!("{other:?}"),
        }
    }
    let reply = rig.ask(renew(R1)).await;
    assert!(
        matches!(&reply, Reply::Renewed { alive: true, live, .. } if *live == [R1, R2]),
        "{reply:?}"
    );
}

#[tokio::test]
async fn numbers_of_sessions_come_in_blocks() {
    let rig = Rig::new();
    let numbers = |count| Request::Numbers { count };
    assert_eq!(rig.ask(numbers(10)).await, Reply::Numbers(1));
    assert_eq!(rig.ask(numbers(1)).await, Reply::Numbers(11));
    assert_eq!(rig.ask(numbers(5)).await, Reply::Numbers(12));
}

#[tokio::test]
async fn a_claim_makes_a_session_and_a_second_one_takes_it_over() {
    let rig = Rig::new();
    let first = rig.ask(claim("c", R1, 5)).await;
    let sid = Bucket::of("c").session(5);
    let Reply::Claimed {
        epoch: Epoch(1),
        session: Some(session),
        present: false,
        previous: (ReplicaId(0), Epoch(0)),
        fields,
        record: None,
        old_will: None,
    } = first.clone()
    else {
        panic!("{first:?}");
    };
    assert_eq!(session, sid);
    assert_eq!((fields.owner, fields.epoch), (R1, Epoch(1)));
    assert_eq!(rig.ask(claim("c", R1, 5)).await, first, "repeated");
    rig.ask(append(sid, 9, 1..3)).await;
    let second = rig.ask(claim("c", R2, 6)).await;
    let Reply::Claimed {
        epoch: Epoch(2),
        session: Some(session),
        present: true,
        previous: (R1, Epoch(1)),
        fields,
        record: Some(found),
        ..
    } = second.clone()
    else {
        panic!("{second:?}");
    };
    assert_eq!((session, found), (sid, record(0)));
    assert_eq!(
        (fields.head, fields.tail, fields.len, fields.bytes),
        (0, 2, 2, 6)
    );
    assert_eq!(rig.ask(claim("c", R2, 6)).await, second, "repeated");
    assert_eq!(rig.ask(settle(sid, 1, &[0], &[])).await, Reply::Fenced);
    assert_eq!(rig.ask(settle(sid, 2, &[0], &[])).await, Reply::Done);
}

#[tokio::test]
async fn a_clean_start_ends_the_old_session() {
    let rig = Rig::new();
    let old = session(&rig, "c").await;
    rig.ask(append(old, 9, 1..3)).await;
    let clean = claim_with(claim("c", R1, 8), true, 10, None);
    let Reply::Claimed {
        session: Some(new),
        present: false,
        ..
    } = rig.ask(clean).await
    else {
        panic!("not claimed");
    };
    assert_ne!(new, old);
    assert_eq!(
        rig.ask(Request::GetSession { session: old }).await,
        Reply::Session(None)
    );
    assert_eq!(rig.ask(read(old, 0, 9)).await, Reply::Queue(vec![]));
    assert_eq!(
        rig.ask(append(old, 9, 3..4)).await,
        Reply::Appended {
            owner: ReplicaId(0),
            seqs: vec![AppendFate::Gone]
        }
    );
}

#[tokio::test]
async fn a_session_that_ends_with_its_connection_leaves_nothing() {
    let rig = Rig::new();
    let claimed = rig.ask(claim_with(claim("c", R1, 8), true, 0, None)).await;
    assert!(
        matches!(claimed, Reply::Claimed { session: None, .. }),
        "{claimed:?}"
    );
    let release = Request::Release {
        client_id: "c".into(),
        epoch: Epoch(1),
        end: ReleaseEnd::Ends,
        will: WillFate::Dropped,
        head: head(1),
    };
    assert_eq!(rig.ask(release.clone()).await, Reply::Done);
    assert_eq!(rig.ask(release).await, Reply::Done, "repeated");
    let keys = rig.server.cli(&["--scan", "--pattern", "*owner*"]);
    assert_eq!(keys, "");
}

#[tokio::test]
async fn a_release_of_an_older_claim_is_fenced() {
    let rig = Rig::new();
    session(&rig, "c").await;
    rig.ask(claim("c", R2, 9)).await;
    let release = |epoch| Request::Release {
        client_id: "c".into(),
        epoch: Epoch(epoch),
        end: ReleaseEnd::Ends,
        will: WillFate::Dropped,
        head: head(1),
    };
    assert_eq!(rig.ask(release(1)).await, Reply::Fenced);
    assert_eq!(rig.ask(release(2)).await, Reply::Done);
}

#[tokio::test]
async fn an_expired_session_is_due_and_ends_once() {
    let rig = Rig::new();
    let sid = session(&rig, "c").await;
    let bucket = Bucket::of("c");
    let release = Request::Release {
        client_id: "c".into(),
        epoch: Epoch(1),
        end: ReleaseEnd::Waits { expiry_interval: 0 },
        will: WillFate::Dropped,
        head: head(1),
    };
    let due = Request::Due { bucket, limit: 10 };
    assert_eq!(rig.ask(due.clone()).await, Reply::Due(vec![]));
    rig.ask(release).await;
    assert_eq!(
        rig.ask(due.clone()).await,
        Reply::Due(vec![DueItem::Session(sid)])
    );
    let expire = Request::Expire {
        session: sid,
        head: head(2),
    };
    assert_eq!(rig.ask(expire.clone()).await, Reply::Flag(true));
    assert_eq!(rig.ask(expire).await, Reply::Flag(false));
    assert_eq!(rig.ask(due).await, Reply::Due(vec![]));
    assert_eq!(
        rig.ask(Request::GetSession { session: sid }).await,
        Reply::Session(None)
    );
}

#[tokio::test]
async fn a_session_that_was_claimed_again_does_not_expire() {
    let rig = Rig::new();
    let sid = session(&rig, "c").await;
    let release = Request::Release {
        client_id: "c".into(),
        epoch: Epoch(1),
        end: ReleaseEnd::Waits {
            expiry_interval: 60,
        },
        will: WillFate::Dropped,
        head: head(1),
    };
    rig.ask(release).await;
    let expire = Request::Expire {
        session: sid,
        head: head(2),
    };
    assert_eq!(rig.ask(expire.clone()).await, Reply::Flag(false), "not due");
    rig.ask(claim("c", R2, 9)).await;
    assert_eq!(rig.ask(expire).await, Reply::Flag(false), "claimed");
}

#[tokio::test]
async fn a_will_waits_is_due_and_is_deleted() {
    let rig = Rig::new();
    let bucket = Bucket::of("c");
    let will = Bytes::from_static(b"\0will\xff");
    rig.ask(claim_with(
        claim("c", R1, 8),
        false,
        60,
        Some((5, will.clone())),
    ))
    .await;
    let get = Request::GetWill {
        bucket,
        epoch: Epoch(1),
    };
    assert_eq!(rig.ask(get.clone()).await, Reply::Will(Some(will.clone())));
    assert_eq!(
        rig.ask(Request::Wills { bucket }).await,
        Reply::Wills(vec![(Epoch(1), will)])
    );
    let release = Request::Release {
        client_id: "c".into(),
        epoch: Epoch(1),
        end: ReleaseEnd::Waits {
            expiry_interval: 60,
        },
        will: WillFate::DueIn(0),
        head: head(1),
    };
    rig.ask(release).await;
    let due = Request::Due { bucket, limit: 10 };
    assert_eq!(
        rig.ask(due.clone()).await,
        Reply::Due(vec![DueItem::Will(Epoch(1))])
    );
    let delete = Request::DeleteWill {
        bucket,
        epoch: Epoch(1),
    };
    assert_eq!(rig.ask(delete.clone()).await, Reply::Done);
    assert_eq!(rig.ask(delete).await, Reply::Done);
    assert_eq!(rig.ask(due).await, Reply::Due(vec![]));
    assert_eq!(rig.ask(get).await, Reply::Will(None));
}

#[tokio::test]
async fn a_claim_hands_over_an_old_connections_will_or_drops_it() {
    for (delay, clean, handed) in [(0, false, true), (5, false, false), (5, true, true)] {
        let rig = Rig::new();
        let will = Bytes::from_static(b"w");
        rig.ask(claim_with(
            claim("c", R1, 8),
            false,
            60,
            Some((delay, will.clone())),
        ))
        .await;
        let second = claim_with(claim("c", R2, 9), clean, 60, None);
        let reply = rig.ask(second.clone()).await;
        let Reply::Claimed { old_will, .. } = &reply else {
            panic!("{reply:?}");
        };
        let expected = handed.then_some((Epoch(1), will));
        assert_eq!(*old_will, expected, "delay {delay}, clean {clean}");
        assert_eq!(rig.ask(second).await, reply, "repeated");
        let left = rig
            .ask(Request::GetWill {
                bucket: Bucket::of("c"),
                epoch: Epoch(1),
            })
            .await;
        assert_eq!(left, Reply::Will(expected.map(|(_, will)| will)));
    }
}

#[tokio::test]
async fn what_a_dead_replica_owned_is_released_with_what_is_stored() {
    let rig = Rig::new();
    let bucket = Bucket::of("c");
    rig.ask(claim_with(
        claim("c", R1, 8),
        false,
        60,
        Some((0, Bytes::from_static(b"w"))),
    ))
    .await;
    let owned = |replica| Request::Owned {
        bucket,
        replica,
        limit: 10,
    };
    assert_eq!(rig.ask(owned(R1)).await, Reply::Clients(vec!["c".into()]));
    let orphan = |replica| Request::Orphan {
        client_id: "c".into(),
        replica,
        head: head(2),
    };
    assert_eq!(rig.ask(orphan(R2)).await, Reply::Done);
    assert_eq!(
        rig.ask(owned(R1)).await,
        Reply::Clients(vec!["c".into()]),
        "not of that replica"
    );
    assert_eq!(rig.ask(orphan(R1)).await, Reply::Done);
    assert_eq!(rig.ask(orphan(R1)).await, Reply::Done, "repeated");
    assert_eq!(rig.ask(owned(R1)).await, Reply::Clients(vec![]));
    let due = Request::Due { bucket, limit: 10 };
    assert_eq!(
        rig.ask(due).await,
        Reply::Due(vec![DueItem::Will(Epoch(1))])
    );
    let sid = bucket.session(8);
    assert_eq!(fields(&rig, sid).await.owner, ReplicaId(0));
}

#[tokio::test]
async fn appends_are_numbered_and_repetitions_are_left_out() {
    let rig = Rig::new();
    let sid = session(&rig, "c").await;
    assert_eq!(rig.ask(append(sid, 9, 1..4)).await, at(1, 0..3));
    let repeated = Reply::Appended {
        owner: R1,
        seqs: vec![
            AppendFate::Repeated,
            AppendFate::Repeated,
            AppendFate::At(3),
        ],
    };
    assert_eq!(rig.ask(append(sid, 9, 2..5)).await, repeated);
    assert_eq!(
        rig.ask(append(sid, 8, 1..2)).await,
        at(1, 4..5),
        "another origin"
    );
    let all = [(0, "9-1"), (1, "9-2"), (2, "9-3"), (3, "9-4"), (4, "8-1")];
    assert_eq!(rig.ask(read(sid, 0, 100)).await, queue(&all));
    assert_eq!(rig.ask(read(sid, 1, 2)).await, queue(&all[1..3]));
    assert_eq!(rig.ask(read(sid, 5, 2)).await, queue(&[]));
}

#[tokio::test]
async fn a_publishers_count_is_applied_once() {
    let rig = Rig::new();
    let sid = session(&rig, "c").await;
    let entry = |number, publisher, count| Appending {
        number,
        once: Some((publisher, count)),
        body: Bytes::from_static(b"x"),
    };
    let append = |origin, entries| Request::Append {
        session: sid,
        origin: ReplicaId(origin),
        max_messages: 100,
        max_bytes: 1000,
        entries,
    };
    let big = u64::MAX - 3;
    let reply = rig
        .ask(append(1, vec![entry(1, 4, big), entry(2, u64::MAX, 1)]))
        .await;
    assert_eq!(reply, at(1, 0..2));
    let again = vec![
        entry(1, 4, big - 1),
        entry(2, 4, big),
        entry(3, 4, big + 1),
        entry(4, u64::MAX, 1),
    ];
    let seqs = vec![
        AppendFate::Repeated,
        AppendFate::Repeated,
        AppendFate::At(2),
        AppendFate::Repeated,
    ];
    assert_eq!(
        rig.ask(append(2, again)).await,
        Reply::Appended { owner: R1, seqs }
    );
}

#[tokio::test]
async fn counts_of_publishers_are_bounded_and_the_newest_are_remembered() {
    let rig = Rig::new();
    let sid = session(&rig, "c").await;
    let append = |from: u64, publishers: std::ops::Range<u64>| Request::Append {
        session: sid,
        origin: R1,
        max_messages: 1_000_000,
        max_bytes: 1_000_000,
        entries: publishers
            .enumerate()
            .map(|(n, publisher)| Appending {
                number: from + n as u64,
                once: Some((publisher, 1)),
                body: Bytes::from_static(b"x"),
            })
            .collect(),
    };
    for block in 0..5 {
        rig.ask(append(block * 5000 + 1, block * 5000..(block + 1) * 5000))
            .await;
    }
    let kept = |key: &str| {
        rig.server.cli(&[
            "HLEN",
            &format!("dunlin:{{b{}}}:{key}:{}", Bucket::of("c").0, sid.0),
        ])
    };
    assert_eq!((kept("l").as_str(), kept("k").as_str()), ("8192", "424"));
    let Reply::Appended { seqs, .. } = rig.ask(append(90_000, 17_000..25_000)).await else {
        panic!("not appended");
    };
    assert!(seqs.iter().all(|fate| *fate == AppendFate::Repeated));
}

#[tokio::test]
async fn a_queue_has_bounds_in_messages_and_bytes() {
    let rig = Rig::new();
    let sid = session(&rig, "c").await;
    let append = |number, max_messages, max_bytes, size| Request::Append {
        session: sid,
        origin: R1,
        max_messages,
        max_bytes,
        entries: vec![Appending {
            number,
            once: None,
            body: Bytes::from(vec![7; size]),
        }],
    };
    let full = Reply::Appended {
        owner: R1,
        seqs: vec![AppendFate::Full],
    };
    assert_eq!(rig.ask(append(1, 2, 100, 101)).await, full);
    assert_eq!(rig.ask(append(2, 2, 100, 60)).await, at(1, 0..1));
    assert_eq!(rig.ask(append(3, 2, 100, 41)).await, full);
    assert_eq!(rig.ask(append(4, 2, 100, 40)).await, at(1, 1..2));
    assert_eq!(rig.ask(append(5, 2, 200, 1)).await, full);
    assert_eq!(rig.ask(settle(sid, 1, &[1], &[])).await, Reply::Done);
    assert_eq!(
        rig.ask(append(6, 2, 200, 1)).await,
        at(1, 2..3),
        "a hole takes no place"
    );
}

#[tokio::test]
async fn entries_are_dequeued_in_any_order() {
    let rig = Rig::new();
    let sid = session(&rig, "c").await;
    rig.ask(append(sid, 9, 0..0)).await;
    rig.ask(append(sid, 9, 1..9)).await;
    let state = async |rig: &Rig| {
        let fields = fields(rig, sid).await;
        (fields.head, fields.tail, fields.len, fields.bytes)
    };
    assert_eq!(state(&rig).await, (0, 8, 8, 24));
    rig.ask(settle(sid, 1, &[2, 4, 5], &[])).await;
    assert_eq!(state(&rig).await, (0, 8, 5, 15));
    rig.ask(settle(sid, 1, &[2, 4, 99], &[])).await;
    assert_eq!(state(&rig).await, (0, 8, 5, 15), "repeated and unknown");
    assert_eq!(
        rig.ask(read(sid, 1, 3)).await,
        queue(&[(1, "9-2"), (3, "9-4"), (6, "9-7")]),
        "the limit counts entries"
    );
    rig.ask(settle(sid, 1, &[0, 1], &[])).await;
    assert_eq!(state(&rig).await, (3, 8, 3, 9), "the hole is passed");
    rig.ask(settle(sid, 1, &[0, 3], &[])).await;
    assert_eq!(state(&rig).await, (6, 8, 2, 6));
    assert_eq!(rig.ask(append(sid, 9, 9..10)).await, at(1, 8..9));
    rig.ask(settle(sid, 1, &[6, 7, 8, 9, 10], &[])).await;
    assert_eq!(state(&rig).await, (9, 9, 0, 0));
    assert_eq!(rig.ask(read(sid, 0, 9)).await, queue(&[]));
}

#[tokio::test]
async fn a_released_entry_keeps_its_place_without_its_message() {
    let rig = Rig::new();
    let sid = session(&rig, "c").await;
    rig.ask(append(sid, 9, 1..4)).await;
    rig.ask(settle(sid, 1, &[2], &[1, 2, 7])).await;
    rig.ask(settle(sid, 1, &[], &[1])).await;
    let expected = Reply::Queue(vec![
        (0, Bytes::from_static(b"9-1")),
        (1, Bytes::from_static(RELEASED_ENTRY)),
    ]);
    assert_eq!(rig.ask(read(sid, 0, 9)).await, expected);
    assert_eq!(fields(&rig, sid).await.bytes, 5);
    rig.ask(settle(sid, 1, &[1], &[])).await;
    rig.ask(settle(sid, 1, &[0], &[])).await;
    let fields = fields(&rig, sid).await;
    assert_eq!((fields.head, fields.len, fields.bytes), (3, 0, 0));
}

#[tokio::test]
async fn packet_ids_of_a_publisher_are_remembered_with_their_counts() {
    let rig = Rig::new();
    let sid = session(&rig, "c").await;
    let settle = |epoch: Option<u64>, put: &[(u16, u64)], delete: &[u16]| Request::Settle {
        session: sid,
        epoch: epoch.map(Epoch),
        dequeue: Vec::new(),
        release: Vec::new(),
        inbound_put: put.to_vec(),
        inbound_delete: delete.to_vec(),
    };
    rig.ask(settle(Some(1), &[(65535, u64::MAX), (1, 0)], &[]))
        .await;
    assert_eq!(fields(&rig, sid).await.inbound, [(1, 0), (65535, u64::MAX)]);
    rig.ask(settle(None, &[(2, 5)], &[1, 9])).await;
    assert_eq!(fields(&rig, sid).await.inbound, [(2, 5), (65535, u64::MAX)]);
    assert_eq!(
        rig.ask(settle(Some(3), &[(7, 7)], &[])).await,
        Reply::Fenced
    );
}

#[tokio::test]
async fn settling_a_session_that_is_gone_is_fenced_if_it_was_claimed() {
    let rig = Rig::new();
    let sid = SessionId(256);
    assert_eq!(rig.ask(settle(sid, 1, &[0], &[])).await, Reply::Fenced);
    let unclaimed = Request::Settle {
        session: sid,
        epoch: None,
        dequeue: vec![0],
        release: vec![],
        inbound_put: vec![],
        inbound_delete: vec![],
    };
    assert_eq!(rig.ask(unclaimed).await, Reply::Done);
}

#[tokio::test]
async fn tables_have_versions_and_are_loaded_whole() {
    let rig = Rig::new();
    let topic = "t/ü";
    let bucket = Bucket::of(topic);
    let put = |body: &'static [u8]| Request::PutRetained {
        topic: topic.into(),
        body: Bytes::from_static(body),
        head: head(1),
    };
    assert_eq!(rig.ask(put(b"\0\xff1")).await, Reply::Version(1));
    assert_eq!(rig.ask(put(b"2\r\n")).await, Reply::Version(2));
    let load = Request::LoadBucket { bucket };
    let Reply::Bucket {
        version: 2,
        retained,
        sessions,
        owners,
    } = rig.ask(load).await
    else {
        panic!("not loaded");
    };
    assert_eq!(retained, [(topic.into(), Bytes::from_static(b"2\r\n"))]);
    assert!(sessions.is_empty() && owners.is_empty());
    let delete = Request::DeleteRetained {
        topic: topic.into(),
        head: head(1),
    };
    assert_eq!(rig.ask(delete.clone()).await, Reply::Version(3));
    assert_eq!(
        rig.ask(delete).await,
        Reply::Version(3),
        "nothing to remove"
    );
    let Reply::Versions(versions) = rig.ask(Request::Versions).await else {
        panic!("no versions");
    };
    let expected: Vec<u64> = Bucket::all()
        .map(|b| if b == bucket { 3 } else { 0 })
        .collect();
    assert_eq!(versions, expected);
}

#[tokio::test]
async fn records_follow_the_epoch() {
    let rig = Rig::new();
    let sid = session(&rig, "c").await;
    let put = |epoch| Request::PutRecord {
        session: sid,
        epoch: Epoch(epoch),
        record: record(1),
        head: head(1),
    };
    assert_eq!(rig.ask(put(1)).await, Reply::Version(2));
    assert_eq!(rig.ask(put(2)).await, Reply::Fenced);
    let load = Request::LoadBucket {
        bucket: Bucket::of("c"),
    };
    let Reply::Bucket {
        sessions, owners, ..
    } = rig.ask(load).await
    else {
        panic!("not loaded");
    };
    assert_eq!(sessions, [(sid, record(1))]);
    let owner = (
        &*owners[0].client_id,
        owners[0].replica,
        owners[0].epoch,
        owners[0].session,
    );
    assert_eq!(owner, ("c", R1, Epoch(1), Some(sid)));
    let delete = |epoch: Option<u64>| Request::DeleteSession {
        session: sid,
        epoch: epoch.map(Epoch),
        head: head(1),
    };
    assert_eq!(rig.ask(delete(Some(9))).await, Reply::Fenced);
    assert_eq!(rig.ask(delete(None)).await, Reply::Done);
    assert_eq!(rig.ask(delete(Some(9))).await, Reply::Done, "gone");
    assert_eq!(rig.ask(put(1)).await, Reply::Fenced);
}

#[tokio::test]
async fn a_session_can_be_put_without_a_claim() {
    let rig = Rig::new();
    let sid = Bucket::of("c").session(3);
    let put = Request::PutSession {
        session: sid,
        client_id: "c".into(),
        expiry_interval: 60,
        epoch: Epoch(4),
        record: record(0),
        head: head(1),
    };
    assert_eq!(rig.ask(put.clone()).await, Reply::Done);
    rig.ask(append(sid, 9, 1..2)).await;
    assert_eq!(rig.ask(put).await, Reply::Done);
    let fields = fields(&rig, sid).await;
    assert_eq!(
        (fields.epoch, fields.len, fields.expiry_interval),
        (Epoch(4), 1, 60)
    );
    let will = Request::PutWill {
        bucket: Bucket::of("c"),
        epoch: Epoch(4),
        delay: 9,
        body: Bytes::from_static(b"w"),
    };
    assert_eq!(rig.ask(will).await, Reply::Done);
    let get = Request::GetWill {
        bucket: Bucket::of("c"),
        epoch: Epoch(4),
    };
    assert_eq!(
        rig.ask(get).await,
        Reply::Will(Some(Bytes::from_static(b"w")))
    );
}

#[tokio::test]
async fn routes_belong_to_a_replica_that_has_joined() {
    let rig = Rig::new();
    let join = Request::Join {
        nonce: 1,
        info: Bytes::new(),
        lease_ms: 60_000,
    };
    let route = Route {
        flags: Route::STORED,
        members: 513,
    };
    let put = |replica, version, changes: &[(&str, Route)]| Request::PutRoutes {
        replica,
        version,
        changes: changes
            .iter()
            .map(|(filter, route)| ((*filter).into(), *route))
            .collect(),
        head: head(1),
    };
    assert_eq!(rig.ask(put(R1, 1, &[("a/#", route)])).await, Reply::Fenced);
    rig.ask(join).await;
    assert_eq!(
        rig.ask(put(R1, 1, &[("a/#", route), ("b", route)])).await,
        Reply::Version(1)
    );
    assert_eq!(
        rig.ask(put(R1, 1, &[("c", route)])).await,
        Reply::Version(1),
        "repeated"
    );
    assert_eq!(
        rig.ask(put(R1, 2, &[("b", Route::default())])).await,
        Reply::Version(2)
    );
    let load = |replica| Request::LoadRoutes { replica };
    let expected = Reply::Routes {
        version: 2,
        routes: vec![("a/#".into(), route)],
    };
    assert_eq!(rig.ask(load(R1)).await, expected);
    let none = Reply::Routes {
        version: 0,
        routes: vec![],
    };
    assert_eq!(rig.ask(load(R2)).await, none);
    let drop_from = |from| Request::DropReplica { replica: R1, from };
    let into = Request::Inbox {
        to: R1,
        frame: Bytes::from_static(b"late"),
    };
    assert_eq!(rig.ask(into.clone()).await, Reply::Flag(true));
    assert_eq!(rig.ask(drop_from(Some((0, 0)))).await, Reply::Flag(false));
    assert_eq!(rig.ask(load(R1)).await, expected);
    assert_eq!(
        rig.ask(drop_from(Some((u64::MAX, 0)))).await,
        Reply::Flag(true)
    );
    assert_eq!(rig.ask(drop_from(None)).await, Reply::Flag(true));
    assert_eq!(rig.ask(into).await, Reply::Flag(false));
    assert_eq!(rig.ask(load(R1)).await, none);
    assert_eq!(rig.ask(put(R1, 3, &[("c", route)])).await, Reply::Fenced);
}

#[tokio::test]
async fn an_inbox_is_there_while_its_replica_is() {
    let rig = Rig::new();
    let inbox = |frame: &'static [u8]| Request::Inbox {
        to: R1,
        frame: Bytes::from_static(frame),
    };
    assert_eq!(rig.ask(inbox(b"x")).await, Reply::Flag(false));
    let join = Request::Join {
        nonce: 1,
        info: Bytes::new(),
        lease_ms: 60_000,
    };
    rig.ask(join).await;
    let read = |after, limit| Request::ReadInbox {
        replica: R1,
        after,
        limit,
    };
    assert_eq!(rig.ask(read((0, 0), 9)).await, Reply::Inbox(vec![]));
    for frame in [b"1\0" as &[u8], b"2", b"3"] {
        assert_eq!(rig.ask(inbox(frame)).await, Reply::Flag(true));
    }
    let Reply::Inbox(frames) = rig.ask(read((0, 0), 9)).await else {
        panic!("no frames");
    };
    let bodies: Vec<_> = frames.iter().map(|(_, frame)| frame.clone()).collect();
    assert_eq!(bodies, [&b"1\0"[..], b"2", b"3"]);
    assert_eq!(
        rig.ask(read(frames[0].0, 1)).await,
        Reply::Inbox(frames[1..2].to_vec())
    );
    let trim = Request::TrimInbox {
        replica: R1,
        from: frames[2].0,
    };
    assert_eq!(rig.ask(trim).await, Reply::Done);
    assert_eq!(
        rig.ask(read((0, 0), 9)).await,
        Reply::Inbox(frames[2..].to_vec())
    );
}

#[tokio::test]
async fn the_longest_texts_and_every_byte_are_kept() {
    let rig = Rig::new();
    let text = format!("{}ü\u{1}\r\n$5", "x".repeat(65_535 - 7));
    assert_eq!(text.len(), 65_535);
    let every: Bytes = (0..=255).cycle().take(100_000).collect();
    let put = Request::PutRetained {
        topic: text.as_str().into(),
        body: every.clone(),
        head: head(1),
    };
    assert_eq!(rig.ask(put).await, Reply::Version(1));
    let load = Request::LoadBucket {
        bucket: Bucket::of(&text),
    };
    let Reply::Bucket { retained, .. } = rig.ask(load).await else {
        panic!("not loaded");
    };
    assert_eq!(retained, [(text.as_str().into(), every.clone())]);
    let sid = session(&rig, &text).await;
    let append = Request::Append {
        session: sid,
        origin: R1,
        max_messages: 9,
        max_bytes: 1 << 20,
        entries: vec![Appending {
            number: 1,
            once: None,
            body: every.clone(),
        }],
    };
    assert_eq!(rig.ask(append).await, at(1, 0..1));
    assert_eq!(
        rig.ask(read(sid, 0, 9)).await,
        Reply::Queue(vec![(0, every)])
    );
    let owned = Request::Owned {
        bucket: Bucket::of(&text),
        replica: R1,
        limit: 9,
    };
    assert_eq!(
        rig.ask(owned).await,
        Reply::Clients(vec![text.as_str().into()])
    );
}

#[tokio::test]
async fn changes_are_announced_and_frames_are_heard() {
    let rig = Rig::new();
    let mut events = rig.redis.listen(R1);
    let mut next = async || {
        tokio::time::timeout(crate::support::LIMIT, events.recv())
            .await
            .expect("no event in time")
            .expect("the events have ended")
    };
    assert_eq!(next().await, BackplaneEvent::Listening);
    let put = Request::PutRetained {
        topic: "t".into(),
        body: Bytes::from_static(b"body"),
        head: head(3),
    };
    rig.ask(put).await;
    let mut frame = head(3).to_vec();
    frame.extend_from_slice(&Bucket::of("t").0.to_le_bytes());
    frame.extend_from_slice(&1u64.to_le_bytes());
    frame.extend_from_slice(b"\x01body");
    assert_eq!(next().await, BackplaneEvent::Frame(frame.into()));
    for to in [None, Some(R1), Some(R2), Some(R1)] {
        let frame = Bytes::from(format!("DN to {to:?}"));
        assert_eq!(rig.ask(Request::Publish { to, frame }).await, Reply::Done);
    }
    assert_eq!(next().await, BackplaneEvent::Frame("DN to None".into()));
    for _ in 0..2 {
        assert_eq!(
            next().await,
            BackplaneEvent::Frame("DN to Some(ReplicaId(1))".into())
        );
    }
    let join = Request::Join {
        nonce: 1,
        info: Bytes::new(),
        lease_ms: 60_000,
    };
    rig.ask(join).await;
    let inbox = Request::Inbox {
        to: R1,
        frame: Bytes::from_static(b"in"),
    };
    rig.ask(inbox).await;
    let event = next().await;
    assert!(
        matches!(&event, BackplaneEvent::Inbox(_, frame) if &frame[..] == b"in"),
        "{event:?}"
    );
}

#[tokio::test]
async fn many_requests_of_one_call_are_answered_in_order() {
    let rig = Rig::new();
    let sid = session(&rig, "c").await;
    let requests = (1..500).map(|number| Request::Append {
        session: sid,
        origin: R1,
        max_messages: 1000,
        max_bytes: 100_000,
        entries: vec![Appending {
            number,
            once: None,
            body: Bytes::from_static(b"x"),
        }],
    });
    let replies = crate::support::ask_all(&rig.redis, requests.collect()).await;
    let expected: Vec<_> = (0..499).map(|seq| Ok(at(1, seq..seq + 1))).collect();
    assert_eq!(replies, expected);
    assert_eq!(rig.redis.execute(vec![]).await, vec![]);
}

#[tokio::test]
async fn foreign_data_under_a_key_is_refused_and_named() {
    let rig = Rig::new();
    let bucket = Bucket::of("t");
    rig.server
        .cli(&["SET", &format!("dunlin:{{b{}}}:retained", bucket.0), "x"]);
    let put = Request::PutRetained {
        topic: "t".into(),
        body: Bytes::new(),
        head: head(1),
    };
    let error = crate::support::try_ask(&rig.redis, put).await.unwrap_err();
    assert!(
        error.to_string().contains("PutRetained") && error.to_string().contains("WRONGTYPE"),
        "{error}"
    );
}
