//! One device: it connects, publishes its readings when they are due, and sees each acknowledged.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use dunlin_protocol::{Ack, Packet, Publish, QoS, ReasonCode, Version};
use rand::RngExt as _;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::client::{Link, Login, Transport, Trouble, Welcome};
use super::deal::Device;
use super::flight::{Answer, Flight, Stage};
use super::run::Options;
use super::tally::{Counts, Tally};
use crate::error::Error;
use crate::generate::random;

/// Bytes gathered before one write; it ends sooner when nothing more is due.
const BATCH_BYTES: usize = 32 * 1024;
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
const FAR: Duration = Duration::from_secs(3600);

/// What all devices of a fleet share.
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) transport: Transport,
    pub(crate) tally: RefCell<Tally>,
    /// Set once all are connected: the moment virtual time begins.
    pub(crate) start: watch::Receiver<Option<Instant>>,
    /// So many may be in a handshake at a time.
    pub(crate) handshakes: Semaphore,
    /// A device is connected, or `fatal` is set.
    pub(crate) changed: Notify,
    /// What ends the whole run.
    pub(crate) fatal: RefCell<Option<Error>>,
}

impl Shared {
    fn login(&self) -> &Login {
        &self.options.login
    }
}

/// One device at work.
struct Runner {
    device: Device,
    client_id: String,
    shared: Rc<Shared>,
    flight: Flight,
    keep_alive: Duration,
    /// The next message, where it is known.
    next: Option<(Option<Instant>, Box<[u8]>)>,
    exhausted: bool,
    start: Instant,
    out: Vec<u8>,
    /// QoS 0: the messages in `out`, by when they were due.
    unwritten: Vec<Instant>,
}

/// Runs a device to its end; its results are in the tally.
pub(crate) async fn run(device: Device, shared: Rc<Shared>) {
    let client_id = format!("{}{}", shared.login().client_id_prefix, device.name);
    let window = shared.options.inflight;
    let mut runner = Runner {
        device,
        client_id,
        flight: Flight::new(window),
        keep_alive: FAR,
        next: None,
        exhausted: false,
        start: Instant::now(),
        out: Vec::new(),
        unwritten: Vec::new(),
        shared,
    };
    let Some(link) = runner.first_connection().await else {
        return;
    };
    let mut start = runner.shared.start.clone();
    match start.wait_for(Option::is_some).await.map(|start| *start) {
        Ok(Some(start)) => runner.start = start,
        _ => return, // the fleet was given up before it began
    }
    runner.publish_all(link).await;
    runner.shared.tally.borrow_mut().devices_done += 1;
}

impl Runner {
    async fn first_connection(&mut self) -> Option<Link> {
        match self.connect(true).await {
            Ok(link) => {
                self.shared.tally.borrow_mut().connected += 1;
                self.shared.changed.notify_one();
                Some(link)
            }
            Err(trouble) => {
                let login = self.shared.login();
                let address = format!("{}:{}", login.host, login.port);
                let error = match trouble {
                    Trouble::Refused(reason) => Error::Refused {
                        address,
                        client: self.client_id.clone(),
                        reason,
                    },
                    Trouble::Final(problem) => Error::Option(problem),
                    Trouble::Network(problem) => Error::Unreachable {
                        address,
                        seconds: self.shared.options.give_up.as_secs(),
                        problem,
                    },
                };
                self.shared.fatal.borrow_mut().get_or_insert(error);
                self.shared.changed.notify_one();
                None
            }
        }
    }

    async fn publish_all(&mut self, mut link: Link) {
        loop {
            match self.session(&mut link).await {
                Ok(()) => break,
                Err(trouble) => {
                    self.note(&trouble);
                    self.fail_unwritten();
                    if matches!(trouble, Trouble::Final(_)) {
                        return self.give_up();
                    }
                }
            }
            self.shared.tally.borrow_mut().reconnects += 1;
            match self.connect(false).await {
                Ok(fresh) => link = fresh,
                Err(trouble) => {
                    self.note(&trouble);
                    return self.give_up();
                }
            }
        }
        if let Err(trouble) = self.say_goodbye(link).await {
            self.note(&trouble);
        }
    }

    /// Connects, with backoff, until it works or the time to give up has come. A refusal of the first
    /// connection is final; later ones may pass (a broker that restarts, a store that is away).
    async fn connect(&mut self, first: bool) -> Result<Link, Trouble> {
        let end = Instant::now() + self.shared.options.give_up;
        let mut backoff = BACKOFF_MIN;
        let mut jitter = random(self.shared.tally.borrow().reconnects, &self.client_id);
        loop {
            let trouble = match self.connect_once(first).await {
                Ok((link, welcome)) => {
                    self.welcome(welcome, first)?;
                    return Ok(link);
                }
                Err(trouble) => trouble,
            };
            let hopeless = first && !matches!(trouble, Trouble::Network(_));
            if hopeless || Instant::now() + backoff > end {
                return Err(trouble);
            }
            // Jitter: devices that lost one broker do not all come back at one moment.
            sleep(backoff.mul_f64(0.5 + jitter.random::<f64>() / 2.0)).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    async fn connect_once(&self, first: bool) -> Result<(Link, Welcome), Trouble> {
        let login = self.shared.login();
        let limit = self.shared.options.ack_timeout;
        let permit = self.shared.handshakes.acquire().await;
        let open = |clean| Link::open(login, &self.shared.transport, &self.client_id, clean, limit);
        let mut opened = open(false).await;
        if first
            && let Ok((
                link,
                Welcome {
                    session_present: true,
                    ..
                },
            )) = opened
        {
            // An earlier run left a session: its packet ids would be taken for ours. Not by clean start on the
            // connection that stays: before MQTT 5 the session would end with it, and mosquitto does not
            // write such a session to its store.
            link.close(true).await?;
            let (link, _) = open(true).await?;
            link.close(true).await?;
            opened = open(false).await;
        }
        drop(permit);
        opened
    }

    fn welcome(&mut self, welcome: Welcome, first: bool) -> Result<(), Trouble> {
        let qos = self.shared.options.qos;
        if welcome.maximum_qos < qos {
            return Err(Trouble::Final(format!(
                "the broker supports QoS {} at most; ask for it with --qos",
                welcome.maximum_qos as u8
            )));
        }
        if !first && !welcome.session_present {
            self.shared.tally.borrow_mut().sessions_lost += 1;
        }
        self.keep_alive = match welcome.keep_alive {
            0 => FAR,
            seconds => Duration::from_secs(u64::from(seconds)),
        };
        self.flight
            .reconnected(self.shared.options.inflight.min(welcome.receive_maximum));
        Ok(())
    }

    /// Publishes on one connection until all is done (`Ok`) or the connection is.
    async fn session(&mut self, link: &mut Link) -> Result<(), Trouble> {
        let ack_timeout = self.shared.options.ack_timeout;
        let mut heard = Instant::now();
        let mut wrote = heard;
        let mut asked: Option<Instant> = None;
        self.out.clear();
        loop {
            self.take_up()?;
            self.send_pending(link.version())?;
            let now = Instant::now();
            if self.out.is_empty() && asked.is_none() && now >= wrote + self.keep_alive {
                encode(&Packet::PingReq, link.version(), &mut self.out)?;
                asked = Some(now);
            }
            if !self.out.is_empty() {
                within(ack_timeout, "write", link.write(&self.out)).await?;
                self.out.clear();
                self.count_written();
                wrote = Instant::now();
            }
            if self.is_done() {
                return self.barrier(link).await;
            }
            let waits = !self.flight.is_empty() || asked.is_some();
            let limit = if waits {
                heard.max(asked.unwrap_or(heard)) + ack_timeout
            } else {
                now + FAR
            };
            if Instant::now() >= limit {
                return Err(Trouble::Network(format!(
                    "no answer within {} s",
                    ack_timeout.as_secs()
                )));
            }
            let wake = self
                .next_due()
                .unwrap_or(limit)
                .min(limit)
                .min(wrote + self.keep_alive);
            tokio::select! {
                read = link.read_more() => {
                    read?;
                    heard = Instant::now();
                    asked = None;
                    self.handle_frames(link)?;
                }
                () = sleep_until(wake) => {
                    if self.flight.is_empty() && asked.is_none() {
                        heard = Instant::now();
                    }
                }
            }
        }
    }

    /// Takes up what is due, as far as there is room.
    fn take_up(&mut self) -> Result<(), Trouble> {
        let now = Instant::now();
        let qos = self.shared.options.qos;
        while self.out.len() < BATCH_BYTES && (qos == QoS::AtMostOnce || self.flight.has_room()) {
            self.peek();
            let due = match &self.next {
                Some((Some(due), _)) if *due > now => break,
                Some((due, _)) => due.unwrap_or(now),
                None => break,
            };
            let Some((_, payload)) = self.next.take() else {
                break;
            };
            self.count(|counts| counts.due += 1);
            if qos == QoS::AtMostOnce {
                let publish = Publish {
                    qos,
                    topic: &self.device.topic,
                    payload: &payload,
                    ..Publish::default()
                };
                encode(
                    &Packet::Publish(publish),
                    self.shared.login().version,
                    &mut self.out,
                )?;
                self.unwritten.push(due);
            } else {
                self.flight.publish(payload, due);
            }
        }
        Ok(())
    }

    fn send_pending(&mut self, version: Version) -> Result<(), Trouble> {
        while let Some((pending, again)) = self.flight.poll_send() {
            let packet = match pending.stage {
                Stage::Publish => Packet::Publish(Publish {
                    dup: again,
                    qos: self.shared.options.qos,
                    topic: &self.device.topic,
                    packet_id: Some(pending.id),
                    payload: &pending.payload,
                    ..Publish::default()
                }),
                Stage::Release => Packet::PubRel(Ack::new(pending.id, ReasonCode::SUCCESS)),
            };
            encode(&packet, version, &mut self.out)?;
            let mut tally = self.shared.tally.borrow_mut();
            let counts = tally.station(self.device.station);
            if again {
                counts.resent += 1
            } else {
                counts.sent += 1
            }
        }
        Ok(())
    }

    fn handle_frames(&mut self, link: &mut Link) -> Result<(), Trouble> {
        let qos = self.shared.options.qos;
        while let Some(frame) = link.next_frame()? {
            let answer = match link.decode(&frame)? {
                Packet::PubAck(ack) if qos == QoS::AtLeastOnce => {
                    self.flight.handle_received(ack.packet_id, ack.reason, qos)
                }
                Packet::PubRec(ack) if qos == QoS::ExactlyOnce => {
                    let answer = self.flight.handle_received(ack.packet_id, ack.reason, qos);
                    if answer == Answer::Release {
                        let release = Ack::new(ack.packet_id, ReasonCode::SUCCESS);
                        encode(&Packet::PubRel(release), link.version(), &mut self.out)?;
                    }
                    answer
                }
                Packet::PubComp(ack) => self.flight.handle_complete(ack.packet_id),
                Packet::PingResp => continue,
                Packet::Disconnect(disconnect)
                    if disconnect.reason == ReasonCode::SESSION_TAKEN_OVER =>
                {
                    return Err(Trouble::Final(format!(
                        "another client uses the client id {}; give this fleet another --client-id-prefix",
                        self.client_id
                    )));
                }
                Packet::Disconnect(disconnect) => {
                    return Err(Trouble::Network(format!(
                        "the broker disconnected: {}",
                        disconnect.reason
                    )));
                }
                other => {
                    return Err(Trouble::Network(format!(
                        "the broker sent an unexpected {:?}",
                        other.packet_type()
                    )));
                }
            };
            self.settle(answer);
        }
        Ok(())
    }

    fn settle(&mut self, answer: Answer) {
        let mut tally = self.shared.tally.borrow_mut();
        match answer {
            Answer::Done { due, nobody } => {
                tally.latencies.record(due.elapsed());
                let counts = tally.station(self.device.station);
                counts.acknowledged += 1;
                counts.no_subscriber += u64::from(nobody);
            }
            Answer::Refused(reason) => {
                tally.last_trouble = Some(format!(
                    "{}: a message was refused: {reason}",
                    self.client_id
                ));
                tally.station(self.device.station).failed += 1;
            }
            Answer::Release | Answer::Unexpected => {}
        }
    }

    fn count_written(&mut self) {
        let mut tally = self.shared.tally.borrow_mut();
        for due in self.unwritten.drain(..) {
            tally.latencies.record(due.elapsed());
            let counts = tally.station(self.device.station);
            counts.sent += 1;
            counts.acknowledged += 1;
        }
    }

    /// QoS 0 messages in a write that broke: they may have arrived or not, and are not sent again.
    fn fail_unwritten(&mut self) {
        let lost = self.unwritten.drain(..).count() as u64;
        self.count(|counts| counts.failed += lost);
    }

    /// At QoS 0 nothing says that the broker has read what was written, but the answer to a later PINGREQ.
    async fn barrier(&mut self, link: &mut Link) -> Result<(), Trouble> {
        if self.shared.options.qos != QoS::AtMostOnce {
            return Ok(());
        }
        within(self.shared.options.ack_timeout, "PINGRESP", async {
            link.send(&Packet::PingReq).await?;
            loop {
                while let Some(frame) = link.next_frame()? {
                    if matches!(link.decode(&frame)?, Packet::PingResp) {
                        return Ok(());
                    }
                }
                link.read_more().await?;
            }
        })
        .await
    }

    async fn say_goodbye(&self, link: Link) -> Result<(), Trouble> {
        let limit = self.shared.options.ack_timeout;
        let version = link.version();
        within(limit, "disconnect", link.close(true)).await?;
        if version != Version::V5 {
            // Ends the session that the broker would else keep for ever.
            let _permit = self.shared.handshakes.acquire().await;
            let login = self.shared.login();
            let (link, _) =
                Link::open(login, &self.shared.transport, &self.client_id, true, limit).await?;
            within(limit, "disconnect", link.close(true)).await?;
        }
        Ok(())
    }

    /// What is in flight and all that would still come counts as failed.
    fn give_up(&mut self) {
        let in_flight = self.flight.len() as u64;
        let mut rest = u64::from(self.next.take().is_some());
        while self.device.next_message().is_some() {
            rest += 1;
        }
        self.count(|counts| {
            counts.due += rest;
            counts.failed += rest + in_flight;
        });
    }

    fn peek(&mut self) {
        if self.next.is_none() && !self.exhausted {
            self.next = self.device.next_message().map(|(at, payload)| {
                (
                    self.device.schedule.due(at).map(|after| self.start + after),
                    payload,
                )
            });
            self.exhausted = self.next.is_none();
        }
    }

    /// When the next message is to be taken up; `None` while there is none or no room for it.
    fn next_due(&mut self) -> Option<Instant> {
        if self.shared.options.qos != QoS::AtMostOnce && !self.flight.has_room() {
            return None;
        }
        self.peek();
        self.next
            .as_ref()
            .map(|(due, _)| due.unwrap_or_else(Instant::now))
    }

    fn is_done(&mut self) -> bool {
        self.peek();
        self.exhausted && self.flight.is_empty() && self.out.is_empty()
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(self.shared.tally.borrow_mut().station(self.device.station));
    }

    fn note(&self, trouble: &Trouble) {
        self.shared.tally.borrow_mut().last_trouble =
            Some(format!("{}: {trouble}", self.client_id));
    }
}

fn encode(packet: &Packet<'_>, version: Version, out: &mut Vec<u8>) -> Result<(), Trouble> {
    packet
        .encode(version, out)
        .map_err(|problem| Trouble::Final(problem.to_string()))
}

async fn within<T>(
    limit: Duration,
    what: &str,
    work: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, Trouble> {
    timeout(limit, work).await.unwrap_or_else(|_| {
        Err(Trouble::Network(format!(
            "no {what} within {} s",
            limit.as_secs()
        )))
    })
}
