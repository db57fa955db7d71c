//! kill -9 in a row, under load: what was acknowledged is there, and QoS 2 comes once and in order.
//!
//! Publishers and subscribers have persistent sessions and do what the protocol asks of a client after a lost connection:
//! publishers resend what is unacknowledged, with DUP and in order, and PUBREL where PUBREC had come; subscribers
//! acknowledge, and tell a repeated QoS 2 PUBLISH by its packet id. Their state outlives the connections, as if it were on
//! disk. Some subscribers are away while the broker is killed.
//!
//! `CHAOS_KILLS` (3) and `CHAOS_SEED` (random, printed) can be given; `make chaos` kills 20 times.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::support::{
    connecting::Connecting,
    link::{Closed, Link},
    *,
};

const PUBLISHERS: u32 = 4;
const SUBSCRIBERS: u32 = 4;
/// Messages of one publisher that may be unacknowledged.
const WINDOW: usize = 16;

/// What all clients see of the run.
struct Run {
    address: SocketAddr,
    /// Publishers begin no new messages, and end when all are acknowledged.
    stop: AtomicBool,
    /// Subscribers end when they have this many messages of each publisher.
    published: Vec<AtomicU32>,
    finished: AtomicBool,
    /// Acknowledgements so far, over all publishers: the killer waits for it to rise.
    acknowledged: AtomicU32,
    /// Connections that broke after their CONNACK: a kill breaks at most one of each client, and nothing else may.
    broken: AtomicU32,
}

/// A small generator of pseudo-random numbers (splitmix64): a seed repeats a run's choices.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}

fn environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn chaos_kill_9_in_a_row_loses_nothing_and_repeats_no_qos_2() {
    let kills = environment("CHAOS_KILLS").unwrap_or(3);
    let seed = environment("CHAOS_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |now| now.subsec_nanos().into())
    });
    eprintln!("chaos: {kills} kills, CHAOS_SEED={seed}");
    let mut random = Random(seed);
    // The subscribers with small windows are meant to lag behind.
    // A kill may tear the last commit, and recovery says so.
    let mut broker = Broker::setup()
        .allow_log("too slowly")
        .allow_log("dropped an unfinished commit")
        .start();
    let run = Arc::new(Run {
        address: broker.address(),
        stop: AtomicBool::new(false),
        published: (0..PUBLISHERS).map(|_| AtomicU32::new(u32::MAX)).collect(),
        finished: AtomicBool::new(false),
        acknowledged: AtomicU32::new(0),
        broken: AtomicU32::new(0),
    });
    // Every subscription is there before the first message.
    for n in 0..SUBSCRIBERS {
        let mut client = subscriber_session(n).open(&broker, false);
        for publisher in 0..PUBLISHERS {
            client.subscribe(&format!("chaos/{publisher}/#"), QoS::ExactlyOnce);
        }
        client.disconnect();
    }
    let subscribers: Vec<_> = (0..SUBSCRIBERS)
        .map(|n| spawn_subscriber(n, &run, random.below(u64::MAX)))
        .collect();
    let publishers: Vec<_> = (0..PUBLISHERS).map(|n| spawn_publisher(n, &run)).collect();

    for kill in 1..=kills {
        let before = run.acknowledged.load(Ordering::Relaxed);
        let more = 200 + u32::try_from(random.below(800)).unwrap_or(0);
        wait_until("messages are acknowledged between two kills", || {
            run.acknowledged.load(Ordering::Relaxed) - before >= more
        });
        thread::sleep(Duration::from_micros(random.below(20_000)));
        broker.kill9();
        broker.start_again();
        eprintln!(
            "chaos: kill {kill}, {} acknowledged",
            run.acknowledged.load(Ordering::Relaxed)
        );
    }

    run.stop.store(true, Ordering::Relaxed);
    let mut total = 0;
    for (publisher, (n, counter)) in publishers.into_iter().zip((0..).zip(&run.published)) {
        let published = publisher
            .join()
            .unwrap_or_else(|_| panic!("publisher {n} failed"));
        counter.store(published, Ordering::Relaxed);
        total += published;
    }
    run.finished.store(true, Ordering::Relaxed);
    for (n, subscriber) in (0..).zip(subscribers) {
        let got: Taken = subscriber
            .join()
            .unwrap_or_else(|_| panic!("subscriber {n} failed"));
        got.check(n, &run);
    }
    let broken = run.broken.load(Ordering::Relaxed);
    let clients = u64::from(PUBLISHERS + SUBSCRIBERS);
    assert!(
        u64::from(broken) <= kills * clients,
        "{broken} connections broke in {kills} kills"
    );
    eprintln!(
        "chaos: {total} messages acknowledged and delivered to {SUBSCRIBERS} sessions after {kills} kills"
    );
}

// --- publishers

/// A message under way.
struct Flight {
    number: u32,
    qos: QoS,
    /// PUBREC has come: PUBREL is what is resent.
    released: bool,
}

fn spawn_publisher(n: u32, run: &Arc<Run>) -> JoinHandle<u32> {
    let run = Arc::clone(run);
    let publish = move || {
        let mut state = Publisher {
            n,
            next: 0,
            next_id: 1,
            flights: Vec::new(),
        };
        let mut session_present = false;
        while !(run.stop.load(Ordering::Relaxed) && state.flights.is_empty()) {
            let connect = connect(Version::V5, &format!("chaos-pub-{n}")).persistent();
            let Some(mut link) = Link::open(run.address, &connect, session_present) else {
                continue;
            };
            session_present = true;
            if state.drive(&mut link, &run).is_err() {
                run.broken.fetch_add(1, Ordering::Relaxed);
            }
        }
        state.next
    };
    thread::Builder::new()
        .name(format!("publisher-{n}"))
        .spawn(publish)
        .expect("a thread")
}

struct Publisher {
    n: u32,
    /// Number of the next message; all below are under way or acknowledged.
    next: u32,
    next_id: u16,
    /// By the order in which they were sent first.
    flights: Vec<(PacketId, Flight)>,
}

impl Publisher {
    fn drive(&mut self, link: &mut Link, run: &Run) -> Result<(), Closed> {
        for (packet_id, flight) in &self.flights {
            self.send(link, *packet_id, flight, true)?;
        }
        loop {
            while self.flights.len() < WINDOW && !run.stop.load(Ordering::Relaxed) {
                self.begin(link)?;
            }
            if self.flights.is_empty() {
                return Ok(());
            }
            let received = link.receive()?;
            self.handle(link, received.packet(), run)?;
        }
    }

    fn begin(&mut self, link: &mut Link) -> Result<(), Closed> {
        let packet_id = loop {
            let candidate = id(self.next_id);
            self.next_id = self.next_id.checked_add(1).unwrap_or(1);
            if self.flights.iter().all(|(taken, _)| *taken != candidate) {
                break candidate;
            }
        };
        let qos = if self.next.is_multiple_of(2) {
            QoS::ExactlyOnce
        } else {
            QoS::AtLeastOnce
        };
        let flight = Flight {
            number: self.next,
            qos,
            released: false,
        };
        self.next += 1;
        let sent = self.send(link, packet_id, &flight, false);
        self.flights.push((packet_id, flight));
        sent
    }

    fn send(
        &self,
        link: &mut Link,
        packet_id: PacketId,
        flight: &Flight,
        dup: bool,
    ) -> Result<(), Closed> {
        if flight.released {
            return link.send(Packet::PubRel(Ack::new(packet_id, ReasonCode::SUCCESS)));
        }
        let topic = format!("chaos/{}/{}", self.n, flight.qos as u8);
        // Of many sizes, and sometimes larger than what is stored inline.
        let mut payload = flight.number.to_string().into_bytes();
        payload.resize(payload.len() + (flight.number as usize * 37) % 3_000, b' ');
        link.send(Packet::Publish(Publish {
            dup,
            qos: flight.qos,
            topic: &topic,
            packet_id: Some(packet_id),
            payload: &payload,
            ..Publish::default()
        }))
    }

    fn handle(&mut self, link: &mut Link, packet: Packet<'_>, run: &Run) -> Result<(), Closed> {
        match packet {
            Packet::PubRec(ack) => {
                assert!(!ack.reason.is_error(), "{ack:?}");
                for (packet_id, flight) in &mut self.flights {
                    flight.released |= *packet_id == ack.packet_id;
                }
                link.send(Packet::PubRel(Ack::new(ack.packet_id, ReasonCode::SUCCESS)))
            }
            Packet::PubAck(ack) | Packet::PubComp(ack) => {
                // After a crash the broker may not know of a PUBREL that it has completed before.
                let known = [
                    ReasonCode::SUCCESS,
                    ReasonCode::NO_MATCHING_SUBSCRIBERS,
                    ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
                ];
                assert!(known.contains(&ack.reason), "{ack:?}");
                self.flights
                    .retain(|(packet_id, _)| *packet_id != ack.packet_id);
                run.acknowledged.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Packet::Disconnect(_) => Err(Closed),
            other => panic!("publisher {}: {other:?}", self.n),
        }
    }
}

// --- subscribers

fn subscriber_session(n: u32) -> Connecting {
    // Windows of different sizes: some subscribers always have a queue behind them.
    let window = [1_000, 3, 50, 10][n as usize % 4];
    connect(Version::V5, &format!("chaos-sub-{n}"))
        .persistent()
        .with(Property::ReceiveMaximum(window))
}

/// What one subscriber got, in order: (publisher, QoS) to numbers.
#[derive(Default)]
struct Taken {
    numbers: BTreeMap<(u32, u8), Vec<u32>>,
    /// QoS 2: received and not yet released.
    unreleased: HashSet<PacketId>,
}

fn spawn_subscriber(n: u32, run: &Arc<Run>, seed: u64) -> JoinHandle<Taken> {
    let run = Arc::clone(run);
    let subscribe = move || {
        let mut got = Taken::default();
        let mut random = Random(seed);
        let mut deadline = None;
        while !got.complete(&run) {
            if run.finished.load(Ordering::Relaxed) {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + LIMIT);
                if Instant::now() > deadline {
                    break;
                }
            }
            let Some(mut link) = Link::open(run.address, &subscriber_session(n), true) else {
                continue;
            };
            // Odd ones go away by themselves now and then, and are away for a while.
            let stay = if n % 2 == 1 {
                100 + random.below(500)
            } else {
                u64::MAX
            };
            if got.take(&mut link, stay, &run).is_err() {
                run.broken.fetch_add(1, Ordering::Relaxed);
            } else if !run.finished.load(Ordering::Relaxed) {
                drop(link);
                thread::sleep(Duration::from_millis(random.below(300)));
            }
        }
        got
    };
    thread::Builder::new()
        .name(format!("subscriber-{n}"))
        .spawn(subscribe)
        .expect("a thread")
}

impl Taken {
    /// Takes up to `count` packets, or what there is until all messages have come.
    fn take(&mut self, link: &mut Link, count: u64, run: &Run) -> Result<(), Closed> {
        for _ in 0..count {
            if self.complete(run) {
                break;
            }
            let Some(received) = link.receive_soon()? else {
                continue;
            };
            match received.packet() {
                Packet::Publish(publish) => self.publish(link, &publish)?,
                Packet::PubRel(ack) => {
                    self.unreleased.remove(&ack.packet_id);
                    link.send(Packet::PubComp(Ack::new(
                        ack.packet_id,
                        ReasonCode::SUCCESS,
                    )))?;
                }
                Packet::Disconnect(_) => return Err(Closed),
                other => panic!("a subscriber got {other:?}"),
            }
        }
        Ok(())
    }

    fn publish(&mut self, link: &mut Link, publish: &Publish<'_>) -> Result<(), Closed> {
        let packet_id = publish.packet_id.expect("a packet id");
        let answer = Ack::new(packet_id, ReasonCode::SUCCESS);
        if publish.qos == QoS::AtLeastOnce {
            self.note(publish);
            return link.send(Packet::PubAck(answer));
        }
        if self.unreleased.insert(packet_id) {
            self.note(publish);
        } else {
            assert!(
                publish.dup,
                "packet id {packet_id:?} stands for a new message before its release"
            );
        }
        link.send(Packet::PubRec(answer))
    }

    fn note(&mut self, publish: &Publish<'_>) {
        let mut levels = publish.topic.split('/').skip(1);
        let publisher = levels
            .next()
            .and_then(|level| level.parse().ok())
            .expect("a publisher in the topic");
        let text = String::from_utf8_lossy(publish.payload);
        let number: u32 = text.trim_end().parse().expect("a number in the payload");
        assert_eq!(
            publish.payload.len(),
            number.to_string().len() + (number as usize * 37) % 3_000,
            "payload cut"
        );
        self.numbers
            .entry((publisher, publish.qos as u8))
            .or_default()
            .push(number);
    }

    /// Whether the last message of each publisher has come at each QoS, and nothing is left to be released.
    fn complete(&self, run: &Run) -> bool {
        run.finished.load(Ordering::Relaxed)
            && self.unreleased.is_empty()
            && (0..).zip(&run.published).all(|(publisher, published)| {
                let published = published.load(Ordering::Relaxed);
                [1, 2].into_iter().all(|qos| {
                    let wanted = expected(published, qos).last();
                    wanted.is_none()
                        || self
                            .numbers
                            .get(&(publisher, qos))
                            .is_some_and(|got| got.last() == wanted.as_ref())
                })
            })
    }

    fn check(&self, n: u32, run: &Run) {
        for (publisher, published) in (0..).zip(&run.published) {
            let published = published.load(Ordering::Relaxed);
            for qos in [1, 2] {
                let wanted: Vec<u32> = expected(published, qos).collect();
                let got = self
                    .numbers
                    .get(&(publisher, qos))
                    .map_or(&[][..], Vec::as_slice);
                let mut times: HashMap<u32, u32> = HashMap::new();
                for number in got {
                    *times.entry(*number).or_default() += 1;
                }
                let what = format!("subscriber {n}, publisher {publisher}, QoS {qos}");
                let missing: Vec<_> = wanted
                    .iter()
                    .filter(|number| !times.contains_key(number))
                    .collect();
                assert!(
                    missing.is_empty(),
                    "{what}: {} of {} missing: {missing:?}",
                    missing.len(),
                    wanted.len()
                );
                if qos == 2 {
                    let twice: Vec<_> = times.iter().filter(|(_, times)| **times > 1).collect();
                    assert!(twice.is_empty(), "{what}: more than once: {twice:?}");
                    assert_eq!(got, wanted, "{what}: out of order");
                } else {
                    let mut seen = HashSet::new();
                    let first: Vec<u32> = got
                        .iter()
                        .copied()
                        .filter(|number| seen.insert(*number))
                        .collect();
                    assert_eq!(first, wanted, "{what}: first deliveries out of order");
                }
            }
        }
    }
}

/// Numbers that a publisher which has sent `published` messages has sent at `qos`.
fn expected(published: u32, qos: u8) -> impl DoubleEndedIterator<Item = u32> {
    (0..published).filter(move |number| number % 2 == if qos == 2 { 0 } else { 1 })
}

/// The oracle itself: what it is for must make it fail.
#[cfg(test)]
mod oracle {
    use super::*;

    fn judge(numbers: &[u32], qos: u8) -> bool {
        let run = Run {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            stop: AtomicBool::new(true),
            published: vec![AtomicU32::new(6)],
            finished: AtomicBool::new(true),
            acknowledged: AtomicU32::new(6),
            broken: AtomicU32::new(0),
        };
        let mut taken = Taken::default();
        taken.numbers.insert((0, 2), vec![0, 2, 4]);
        taken.numbers.insert((0, 1), vec![1, 3, 5]);
        taken.numbers.insert((0, qos), numbers.to_vec());
        thread::spawn(move || taken.check(0, &run)).join().is_ok()
    }

    #[test]
    fn chaos_oracle_accepts_what_is_allowed() {
        assert!(judge(&[0, 2, 4], 2));
        assert!(judge(&[1, 3, 5], 1));
        assert!(judge(&[1, 3, 1, 3, 5, 5], 1), "QoS 1 may repeat");
    }

    #[test]
    fn chaos_oracle_refuses_what_is_not() {
        assert!(!judge(&[0, 4], 2), "missing at QoS 2");
        assert!(!judge(&[1, 3], 1), "missing at QoS 1");
        assert!(!judge(&[0, 2, 2, 4], 2), "twice at QoS 2");
        assert!(!judge(&[2, 0, 4], 2), "out of order at QoS 2");
        assert!(!judge(&[3, 1, 5], 1), "out of order at QoS 1");
    }
}
