//! Clients that a run of faults must not cost a message, and the oracle that says whether it did.
//!
//! Publishers and subscribers have persistent sessions and do what the protocol asks of a client after a lost connection:
//! publishers resend what is unacknowledged, with DUP and in order, and PUBREL where PUBREC had come; subscribers
//! acknowledge, and tell a repeated QoS 2 PUBLISH by its packet id. Their state outlives the connections, as if it were on
//! disk. Besides, there may be subscribers whose session ends with their connection; theirs must not break.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    connecting::Connecting,
    link::{Closed, Link},
    *,
};

/// Messages of one publisher that may be unacknowledged.
const WINDOW: usize = 16;

/// A small generator of pseudo-random numbers (splitmix64): a seed repeats a run's choices.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}

/// A number from the environment.
pub(crate) fn environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// `CHAOS_SEED`, or one from the clock; printed, so that a run can be repeated.
pub(crate) fn chaos_seed(what: &str) -> u64 {
    let seed = environment("CHAOS_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |now| now.subsec_nanos().into())
    });
    eprintln!("chaos: {what}, CHAOS_SEED={seed}");
    seed
}

/// What fleet to start.
pub(crate) struct FleetSetup {
    /// First level of its topics, and part of its client ids.
    pub(crate) name: &'static str,
    /// Where publishers and persistent subscribers connect, and connect again.
    pub(crate) address: SocketAddr,
    pub(crate) publishers: u32,
    pub(crate) subscribers: u32,
    /// One more subscriber at each of these, with a session that ends with its connection.
    pub(crate) connected: Vec<SocketAddr>,
    /// Whether a CONNECT may be refused for the time being.
    pub(crate) may_be_refused: bool,
    /// Pause of a publisher between two messages: while a fault lasts, no queue may run over its bound.
    pub(crate) pause: Duration,
    pub(crate) seed: u64,
}

impl FleetSetup {
    /// Four publishers and four persistent subscribers.
    pub(crate) fn new(name: &'static str, address: SocketAddr, seed: u64) -> Self {
        Self {
            name,
            address,
            publishers: 4,
            subscribers: 4,
            connected: Vec::new(),
            may_be_refused: false,
            pause: Duration::ZERO,
            seed,
        }
    }
}

/// What all clients see of the run.
struct Run {
    setup: FleetSetup,
    /// Publishers begin no new messages, and end when all are acknowledged.
    stop: AtomicBool,
    /// Subscribers end when they have this many messages of each publisher.
    published: Vec<AtomicU32>,
    finished: AtomicBool,
    /// Acknowledgements so far, over all publishers: the one who makes the faults waits for it to rise.
    acknowledged: AtomicU32,
    /// Connections that broke after their CONNACK.
    broken: AtomicU32,
}

impl Run {
    fn new(setup: FleetSetup) -> Self {
        Self {
            stop: AtomicBool::new(false),
            published: (0..setup.publishers)
                .map(|_| AtomicU32::new(u32::MAX))
                .collect(),
            finished: AtomicBool::new(false),
            acknowledged: AtomicU32::new(0),
            broken: AtomicU32::new(0),
            setup,
        }
    }

    fn subscriber_session(&self, n: u32) -> Connecting {
        // Windows of different sizes: some subscribers always have a queue behind them.
        let window = [1_000, 3, 50, 10][n as usize % 4];
        connect(Version::V5, &format!("{}-sub-{n}", self.setup.name))
            .persistent()
            .with(Property::ReceiveMaximum(window))
    }

    fn filter(&self, publisher: u32) -> String {
        format!("{}/{publisher}/#", self.setup.name)
    }

    fn open(&self, connecting: &Connecting, session_present: bool) -> Option<Link> {
        Link::open_at(
            self.setup.address,
            connecting,
            session_present,
            self.setup.may_be_refused,
        )
    }
}

/// A fleet at work.
pub(crate) struct Fleet {
    run: Arc<Run>,
    publishers: Vec<JoinHandle<Vec<u32>>>,
    subscribers: Vec<JoinHandle<Taken>>,
    connected: Vec<JoinHandle<Taken>>,
}

impl Fleet {
    /// Subscribes, and then lets everybody publish.
    pub(crate) fn start(setup: FleetSetup) -> Self {
        let mut random = Random(setup.seed);
        let run = Arc::new(Run::new(setup));
        // Every subscription is there before the first message.
        for n in 0..run.setup.subscribers {
            let (mut client, answer) = run.subscriber_session(n).answer_at(run.setup.address);
            assert_eq!(answer.connack().reason, ReasonCode::SUCCESS, "{answer:?}");
            for publisher in 0..run.setup.publishers {
                client.subscribe(&run.filter(publisher), QoS::ExactlyOnce);
            }
            client.disconnect();
        }
        let connected = (0..)
            .zip(run.setup.connected.clone())
            .map(|(n, address)| spawn_connected(n, address, &run))
            .collect();
        let subscribers = (0..run.setup.subscribers)
            .map(|n| spawn_subscriber(n, &run, random.below(u64::MAX)))
            .collect();
        let publishers = (0..run.setup.publishers)
            .map(|n| spawn_publisher(n, &run))
            .collect();
        Self {
            run,
            publishers,
            subscribers,
            connected,
        }
    }

    /// Acknowledgements so far.
    pub(crate) fn acknowledged(&self) -> u32 {
        self.run.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits for so many more acknowledgements.
    pub(crate) fn wait_for_more(&self, more: u32) {
        let before = self.acknowledged();
        wait_until("messages are acknowledged", || {
            assert!(
                self.publishers.iter().all(|thread| !thread.is_finished()),
                "a publisher has failed"
            );
            self.acknowledged() - before >= more
        });
    }

    /// Connections that broke after their CONNACK.
    pub(crate) fn broken(&self) -> u32 {
        self.run.broken.load(Ordering::Relaxed)
    }

    /// Lets the publishers end with everything acknowledged and the subscribers with everything received.
    pub(crate) fn finish(self) -> Verdict {
        let run = &self.run;
        run.stop.store(true, Ordering::Relaxed);
        let mut verdict = Verdict::default();
        for (times, counter) in join(self.publishers).iter().zip(&run.published) {
            let published = u32::try_from(times.len()).unwrap_or(u32::MAX);
            counter.store(published, Ordering::Relaxed);
            verdict.published += published;
        }
        verdict.acknowledged = run.acknowledged.load(Ordering::Relaxed);
        run.finished.store(true, Ordering::Relaxed);
        for (n, subscriber) in (0..).zip(self.subscribers) {
            let taken = subscriber
                .join()
                .unwrap_or_else(|_| panic!("subscriber {n} failed"));
            verdict.judge(&format!("subscriber {n}"), &taken, run, true);
        }
        for (n, subscriber) in (0..).zip(self.connected) {
            let taken = subscriber
                .join()
                .unwrap_or_else(|_| panic!("connected subscriber {n} failed"));
            verdict.judge(&format!("connected subscriber {n}"), &taken, run, false);
        }
        verdict
    }

    /// Lets the publishers end with everything acknowledged: for a run whose messages somebody else receives. For each publisher how
    /// often each of its messages was sent; the even ones had QoS 2, the odd ones QoS 1.
    #[allow(dead_code, reason = "for tests of what receives by other ways")]
    pub(crate) fn finish_publishing(self) -> Vec<Vec<u32>> {
        self.run.stop.store(true, Ordering::Relaxed);
        join(self.publishers)
    }
}

fn join(publishers: Vec<JoinHandle<Vec<u32>>>) -> Vec<Vec<u32>> {
    let join = |(n, thread): (usize, JoinHandle<_>)| {
        let times = thread.join();
        times.unwrap_or_else(|_| panic!("publisher {n} failed"))
    };
    publishers.into_iter().enumerate().map(join).collect()
}

// --- publishers

/// A message under way.
struct Flight {
    number: u32,
    qos: QoS,
    /// PUBREC has come: PUBREL is what is resent.
    released: bool,
}

/// Gives how often it has sent each message.
fn spawn_publisher(n: u32, run: &Arc<Run>) -> JoinHandle<Vec<u32>> {
    let run = Arc::clone(run);
    let publish = move || {
        let mut state = Publisher {
            n,
            times: Vec::new(),
            next_id: 1,
            flights: Vec::new(),
        };
        let mut session_present = false;
        while !(run.stop.load(Ordering::Relaxed) && state.flights.is_empty()) {
            let name = format!("{}-pub-{n}", run.setup.name);
            let connect = connect(Version::V5, &name).persistent();
            let Some(mut link) = run.open(&connect, session_present) else {
                continue;
            };
            session_present = true;
            if state.drive(&mut link, &run).is_err() {
                run.broken.fetch_add(1, Ordering::Relaxed);
            }
        }
        state.times
    };
    thread::Builder::new()
        .name(format!("publisher-{n}"))
        .spawn(publish)
        .expect("a thread")
}

struct Publisher {
    n: u32,
    /// How often each message was sent as a PUBLISH. All are under way or acknowledged.
    times: Vec<u32>,
    next_id: u16,
    /// By the order in which they were sent first.
    flights: Vec<(PacketId, Flight)>,
}

impl Publisher {
    fn drive(&mut self, link: &mut Link, run: &Run) -> Result<(), Closed> {
        for (packet_id, flight) in &self.flights {
            self.times[flight.number as usize] += u32::from(!flight.released);
            send(self.n, link, run, *packet_id, flight, true)?;
        }
        loop {
            while self.flights.len() < WINDOW && !run.stop.load(Ordering::Relaxed) {
                self.begin(link, run)?;
            }
            if self.flights.is_empty() {
                return Ok(());
            }
            let received = link.receive()?;
            self.handle(link, received.packet(), run)?;
        }
    }

    fn begin(&mut self, link: &mut Link, run: &Run) -> Result<(), Closed> {
        let packet_id = loop {
            let candidate = id(self.next_id);
            self.next_id = self.next_id.checked_add(1).unwrap_or(1);
            if self.flights.iter().all(|(taken, _)| *taken != candidate) {
                break candidate;
            }
        };
        let number = u32::try_from(self.times.len()).expect("not so many messages");
        let qos = if number.is_multiple_of(2) {
            QoS::ExactlyOnce
        } else {
            QoS::AtLeastOnce
        };
        let flight = Flight {
            number,
            qos,
            released: false,
        };
        self.times.push(1);
        thread::sleep(run.setup.pause);
        let sent = send(self.n, link, run, packet_id, &flight, false);
        self.flights.push((packet_id, flight));
        sent
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

/// Sends what a message's state calls for: PUBLISH or PUBREL.
fn send(
    publisher: u32,
    link: &mut Link,
    run: &Run,
    packet_id: PacketId,
    flight: &Flight,
    dup: bool,
) -> Result<(), Closed> {
    if flight.released {
        return link.send(Packet::PubRel(Ack::new(packet_id, ReasonCode::SUCCESS)));
    }
    let topic = format!("{}/{publisher}/{}", run.setup.name, flight.qos as u8);
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

// --- subscribers

/// What one subscriber got, in order: (publisher, QoS) to numbers.
#[derive(Default)]
struct Taken {
    numbers: BTreeMap<(u32, u8), Vec<u32>>,
    /// QoS 2: received and not yet released, with the publisher and the number of the message.
    unreleased: HashMap<PacketId, (u32, u32)>,
    /// What has come on the connection that stands.
    connection: HashSet<PacketId>,
}

fn spawn_subscriber(n: u32, run: &Arc<Run>, seed: u64) -> JoinHandle<Taken> {
    let run = Arc::clone(run);
    let subscribe = move || {
        let mut got = Taken::default();
        let mut random = Random(seed);
        // When something new has come last, and how much there was then.
        let mut progress = (Instant::now(), 0);
        while !got.is_complete(&run) {
            let count = got.numbers.values().map(Vec::len).sum::<usize>();
            if count > progress.1 || !run.finished.load(Ordering::Relaxed) {
                progress = (Instant::now(), count);
            }
            if progress.0.elapsed() > LIMIT {
                break;
            }
            let Some(mut link) = run.open(&run.subscriber_session(n), true) else {
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

/// Returns when it has subscribed.
fn spawn_connected(n: u32, address: SocketAddr, run: &Arc<Run>) -> JoinHandle<Taken> {
    let run = Arc::clone(run);
    let (ready, subscribed) = std::sync::mpsc::sync_channel(1);
    let subscribe = move || {
        let name = format!("{}-connected-{n}", run.setup.name);
        let mut link = Link::open_at(address, &connect(Version::V5, &name), false, false)
            .expect("the replica takes the connection");
        for publisher in 0..run.setup.publishers {
            link.subscribe(&run.filter(publisher), QoS::ExactlyOnce)
                .expect("the connection stands");
        }
        ready.send(()).expect("somebody waits");
        let mut got = Taken::default();
        got.take(&mut link, u64::MAX, &run)
            .expect("the connection of a session that ends with it stands");
        got
    };
    let thread = thread::Builder::new()
        .name(format!("connected-{n}"))
        .spawn(subscribe)
        .expect("a thread");
    subscribed.recv().expect("the subscription was granted");
    thread
}

impl Taken {
    /// Takes up to `count` packets, or what there is until all messages have come.
    fn take(&mut self, link: &mut Link, count: u64, run: &Run) -> Result<(), Closed> {
        let mut deadline = None;
        self.connection.clear();
        for _ in 0..count {
            if self.is_complete(run) {
                break;
            }
            let Some(received) = link.receive_soon()? else {
                if run.finished.load(Ordering::Relaxed) {
                    let deadline = *deadline.get_or_insert_with(|| Instant::now() + LIMIT);
                    if Instant::now() > deadline {
                        break;
                    }
                }
                continue;
            };
            deadline = None;
            match received.packet() {
                Packet::Publish(publish) => self.publish(link, &publish)?,
                Packet::PubRel(ack) => {
                    self.unreleased.remove(&ack.packet_id);
                    self.connection.remove(&ack.packet_id);
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
        let (publisher, number) = identity(publish);
        if publish.qos == QoS::AtLeastOnce {
            self.note(publish, publisher, number);
            return link.send(Packet::PubAck(answer));
        }
        let on_this_connection = !self.connection.insert(packet_id);
        match self.unreleased.insert(packet_id, (publisher, number)) {
            None => self.note(publish, publisher, number),
            Some(before) => {
                assert_eq!(
                    (publisher, number),
                    before,
                    "{packet_id:?} stands for another message before its release (publisher, number)"
                );
                assert!(
                    publish.dup && !on_this_connection,
                    "{packet_id:?}, number {number} of publisher {publisher}, came again: DUP {}, on the same connection {on_this_connection}",
                    publish.dup
                );
            }
        }
        link.send(Packet::PubRec(answer))
    }

    fn note(&mut self, publish: &Publish<'_>, publisher: u32, number: u32) {
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
    fn is_complete(&self, run: &Run) -> bool {
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
                            .is_some_and(|got| got.contains(&wanted.unwrap_or(0)))
                })
            })
    }
}

/// Publisher and number of a message.
fn identity(publish: &Publish<'_>) -> (u32, u32) {
    let mut levels = publish.topic.split('/').skip(1);
    let publisher = levels
        .next()
        .and_then(|level| level.parse().ok())
        .expect("a publisher in the topic");
    let text = String::from_utf8_lossy(publish.payload);
    let number = text.trim_end().parse().expect("a number in the payload");
    (publisher, number)
}

// --- the oracle

/// What became of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Messages that publishers have begun, at QoS 1 and 2.
    pub(crate) published: u32,
    /// Those whose exchange came to its end.
    pub(crate) acknowledged: u32,
    /// Different messages that subscribers got, over all subscribers.
    pub(crate) delivered: u32,
    /// Messages that a subscriber did not get.
    pub(crate) lost: u32,
    /// QoS 2 messages that a persistent subscriber got more than once.
    pub(crate) duplicated: u32,
    /// Repetitions at QoS 1, or to sessions that end with their connection: allowed.
    pub(crate) repeated: u32,
    /// Messages that came after a later one of the same publisher and topic.
    pub(crate) reordered: u32,
    /// The first few of what must not be.
    pub(crate) findings: Vec<String>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "published {}, acknowledged {}, delivered {}, lost {}, duplicated (QoS 2) {}, reordered {}, repeated (QoS 1) {}",
            self.published,
            self.acknowledged,
            self.delivered,
            self.lost,
            self.duplicated,
            self.reordered,
            self.repeated
        )
    }
}

impl Verdict {
    /// States the figures; nothing may be lost, duplicated or reordered.
    #[track_caller]
    pub(crate) fn check(&self, what: &str) {
        eprintln!("chaos: {what}: {self}");
        assert_eq!(
            (self.lost, self.duplicated, self.reordered),
            (0, 0, 0),
            "{what}: {self}\n{}",
            self.findings.join("\n")
        );
        assert!(self.delivered > 0, "{what}: nothing was delivered");
    }

    fn judge(&mut self, who: &str, taken: &Taken, run: &Run, persistent: bool) {
        for (publisher, published) in (0..).zip(&run.published) {
            let published = published.load(Ordering::Relaxed);
            for qos in [1, 2] {
                let wanted: Vec<u32> = expected(published, qos).collect();
                let got = taken
                    .numbers
                    .get(&(publisher, qos))
                    .map_or(&[][..], Vec::as_slice);
                let what = format!("{who}, publisher {publisher}, QoS {qos}");
                self.judge_row(&what, &wanted, got, qos == 2 && persistent);
            }
        }
    }

    fn judge_row(&mut self, what: &str, wanted: &[u32], got: &[u32], once: bool) {
        let mut times: HashMap<u32, u32> = HashMap::new();
        let mut highest = None;
        for number in got {
            let count = times.entry(*number).or_default();
            *count += 1;
            match *count {
                1 if highest > Some(*number) => {
                    self.reordered += 1;
                    self.note(format!("{what}: {number} came after {highest:?}"));
                }
                1 => {}
                _ if once => {
                    self.duplicated += 1;
                    self.note(format!("{what}: {number} came {count} times"));
                }
                _ => self.repeated += 1,
            }
            highest = highest.max(Some(*number));
        }
        let missing: Vec<_> = wanted
            .iter()
            .filter(|number| !times.contains_key(number))
            .collect();
        if !missing.is_empty() {
            self.note(format!(
                "{what}: {} of {} missing: {missing:?}",
                missing.len(),
                wanted.len()
            ));
        }
        self.lost += u32::try_from(missing.len()).unwrap_or(u32::MAX);
        self.delivered += u32::try_from(times.len()).unwrap_or(u32::MAX);
    }

    fn note(&mut self, finding: String) {
        if self.findings.len() < 20 {
            self.findings.push(finding);
        }
    }
}

/// Numbers that a publisher which has sent `published` messages has sent at `qos`.
fn expected(published: u32, qos: u8) -> impl DoubleEndedIterator<Item = u32> {
    (0..published).filter(move |number| number % 2 == if qos == 2 { 0 } else { 1 })
}

/// The oracle itself: what it is for must make it fail.
mod oracle {
    use super::*;

    fn judge(numbers: &[u32], qos: u8, persistent: bool) -> Verdict {
        let setup = FleetSetup {
            publishers: 1,
            ..FleetSetup::new("oracle", SocketAddr::from(([127, 0, 0, 1], 0)), 1)
        };
        let run = Run::new(setup);
        run.published[0].store(6, Ordering::Relaxed);
        let mut taken = Taken::default();
        taken.numbers.insert((0, 2), vec![0, 2, 4]);
        taken.numbers.insert((0, 1), vec![1, 3, 5]);
        taken.numbers.insert((0, qos), numbers.to_vec());
        let mut verdict = Verdict::default();
        verdict.judge("somebody", &taken, &run, persistent);
        verdict
    }

    #[test]
    fn chaos_oracle_accepts_what_is_allowed() {
        judge(&[0, 2, 4], 2, true).check("all");
        judge(&[1, 3, 5], 1, true).check("all");
        judge(&[1, 3, 1, 3, 5, 5], 1, true).check("QoS 1 may repeat");
        judge(&[0, 2, 2, 4], 2, false).check("so may a session that ends with its connection");
    }

    #[test]
    fn chaos_oracle_refuses_what_is_not() {
        assert_eq!(judge(&[0, 4], 2, true).lost, 1, "missing at QoS 2");
        assert_eq!(judge(&[1, 3], 1, true).lost, 1, "missing at QoS 1");
        assert_eq!(judge(&[1], 1, false).lost, 2, "missing while connected");
        assert_eq!(judge(&[0, 2, 2, 4], 2, true).duplicated, 1, "twice");
        assert_eq!(judge(&[2, 0, 4], 2, true).reordered, 1, "QoS 2");
        assert_eq!(judge(&[3, 1, 5], 1, true).reordered, 1, "QoS 1");
        assert_eq!(judge(&[3, 5, 1, 3], 1, true).reordered, 1, "QoS 1");
    }
}
