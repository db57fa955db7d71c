//! Publishers that go on through whatever happens, and what must have become of their messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use dunlin_sync::SessionId;
use dunlin_sync::cluster::redis::RedisBackplane;
use dunlin_sync::cluster::{AppendFate, Appending, Backplane, Bucket, ReplicaId, Reply, Request};
use tokio::task::JoinHandle;

use crate::support::{LIMIT, ask, head, record};

/// Makes a session and returns its number.
pub(crate) async fn session(redis: &RedisBackplane, client: &str) -> SessionId {
    let claim = Request::Claim {
        client_id: client.into(),
        replica: ReplicaId(1),
        nonce: 1,
        clean_start: true,
        expiry_interval: u32::MAX,
        fresh: Bucket::of(client).session(1),
        record: record(0),
        will: None,
        will_grace_ms: 0,
        head: head(1),
    };
    match ask(redis, claim).await {
        Reply::Claimed {
            session: Some(session),
            ..
        } => session,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn append(session: SessionId, origin: u64, number: u64) -> Request {
    Request::Append {
        session,
        origin: ReplicaId(origin),
        max_messages: 1_000_000,
        max_bytes: 1 << 30,
        entries: vec![Appending {
            number,
            once: None,
            body: Bytes::from(format!("{origin}:{number}")),
        }],
    }
}

/// Several calls under way at any time, each with a message for every session.
pub(crate) struct Publisher {
    sessions: Vec<SessionId>,
    origin: u64,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Publisher {
    pub(crate) fn start(redis: &Arc<RedisBackplane>, sessions: &[SessionId], origin: u64) -> Self {
        let (stop, acknowledged) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        // Whatever comes: it waits for no other replica.
        redis.made_good(u64::MAX);
        let task = tokio::spawn(publish(
            Arc::clone(redis),
            sessions.to_vec(),
            origin,
            Arc::clone(&stop),
            Arc::clone(&acknowledged),
        ));
        Self {
            sessions: sessions.to_vec(),
            origin,
            stop,
            acknowledged,
            task,
        }
    }

    /// Messages that were acknowledged, per session.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Acquire)
    }

    /// Waits until so many more are acknowledged.
    pub(crate) async fn goes_on(&self, more: u64) {
        let goal = self.acknowledged() + more;
        crate::support::until(|| self.acknowledged() >= goal, "the publisher goes on").await;
    }

    /// Ends publishing; everything published must be in the queues, once and in order.
    pub(crate) async fn end(self, redis: &RedisBackplane) -> u64 {
        self.stop.store(true, Ordering::Release);
        tokio::time::timeout(LIMIT, self.task)
            .await
            .expect("the publisher does not end")
            .unwrap();
        let count = self.acknowledged.load(Ordering::Acquire);
        for session in &self.sessions {
            let own = own_numbers(redis, *session, self.origin).await;
            let expected: Vec<u64> = (1..=count).collect();
            assert!(own == expected, "{}", difference(&own, count));
        }
        count
    }
}

fn difference(found: &[u64], count: u64) -> String {
    let mut sorted = found.to_vec();
    sorted.sort_unstable();
    let missing = |n: &u64| sorted.binary_search(n).is_err();
    let lost: Vec<u64> = (1..=count).filter(missing).collect();
    let doubled = sorted.windows(2).filter(|pair| pair[0] == pair[1]).count();
    let reordered = found.windows(2).filter(|pair| pair[0] > pair[1]).count();
    let lost = match lost[..] {
        [] => "none".to_owned(),
        [first, .., last] => format!("{} from {first} to {last}", lost.len()),
        [one] => one.to_string(),
    };
    format!("of {count}: lost {lost}, doubled {doubled}, reordered {reordered}")
}

/// Numbers of one origin in a queue, in the queue's order.
pub(crate) async fn own_numbers(
    redis: &RedisBackplane,
    session: SessionId,
    origin: u64,
) -> Vec<u64> {
    let mut numbers = Vec::new();
    let mut from = 0;
    loop {
        let read = Request::ReadQueue {
            session,
            from,
            limit: 5000,
        };
        let Reply::Queue(entries) = ask(redis, read).await else {
            panic!("no queue");
        };
        let Some((last, _)) = entries.last() else {
            return numbers;
        };
        from = last + 1;
        numbers.extend(entries.iter().filter_map(|(_, body)| {
            let (whose, number) = std::str::from_utf8(body).unwrap().split_once(':')?;
            (whose.parse() == Ok(origin)).then(|| number.parse::<u64>().unwrap())
        }));
    }
}

async fn publish(
    redis: Arc<RedisBackplane>,
    sessions: Vec<SessionId>,
    origin: u64,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
) {
    let mut number = 0;
    let mut under_way = std::collections::VecDeque::new();
    loop {
        while under_way.len() < 8 && !stop.load(Ordering::Acquire) {
            number += 1;
            let requests = sessions
                .iter()
                .map(|session| append(*session, origin, number));
            under_way.push_back(redis.execute(requests.collect()));
        }
        let Some(replies) = under_way.pop_front() else {
            return;
        };
        for reply in replies.await {
            let Ok(Reply::Appended { seqs, .. }) = &reply else {
                panic!("{reply:?}");
            };
            assert!(
                matches!(seqs[..], [AppendFate::At(_) | AppendFate::Repeated]),
                "{seqs:?}"
            );
        }
        acknowledged.fetch_add(1, Ordering::AcqRel);
    }
}
