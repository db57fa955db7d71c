//! One client that stays.

use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

use dunlin_protocol::{
    Ack, Packet, PacketId, Properties, Publish, QoS, ReasonCode, Subscribe, SubscribeFiltersBuf,
    SubscribeOptions, Version,
};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Phase, Shared};
use crate::fleet::client::{Link, Trouble, Welcome};
use crate::fleet::flight::{Answer, Flight, Stage};
use crate::generate::random;

/// Unacknowledged messages of one client.
const WINDOW: u16 = 16;
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
const CONNECT_LIMIT: Duration = Duration::from_secs(15);

pub(super) struct Resident {
    number: usize,
    shared: Rc<Shared>,
    client_id: String,
    topic: String,
    /// Whose messages it gets.
    peer: usize,
    qos: QoS,
    flight: Flight,
    /// Number of the next message.
    next: u32,
    due: Instant,
    /// QoS 2 messages received and not released; kept over connections, as the session is.
    taken: HashSet<PacketId>,
    subscribed: bool,
    random: ChaCha8Rng,
    out: Vec<u8>,
}

impl Resident {
    pub(super) fn new(number: usize, shared: Rc<Shared>) -> Self {
        let prefix = &shared.options.login.client_id_prefix;
        Self {
            client_id: format!("{prefix}{number}"),
            topic: format!("stay/{number}"),
            peer: (number + 1) % shared.options.clients,
            qos: match number % 2 {
                0 => QoS::AtLeastOnce,
                _ => QoS::ExactlyOnce,
            },
            flight: Flight::new(WINDOW),
            next: 0,
            due: Instant::now(),
            taken: HashSet::new(),
            subscribed: false,
            random: random(number as u64, "stay"),
            out: Vec::new(),
            number,
            shared,
        }
    }

    /// Runs until it is to leave.
    pub(super) async fn run(mut self) {
        let mut phase = self.shared.phase.clone();
        let leave = async move {
            // The sender outlives the clients.
            let _gone = phase
                .wait_for(|phase| *phase == Phase::Leave)
                .await
                .is_err();
        };
        tokio::pin!(leave);
        let mut first = true;
        loop {
            let link = tokio::select! {
                link = self.connect(first) => link,
                () = &mut leave => return,
            };
            let Some(mut link) = link else { return };
            self.shared
                .counts
                .borrow_mut()
                .connected_again(self.number, first);
            first = false;
            let ended = tokio::select! {
                ended = self.serve(&mut link) => ended,
                () = &mut leave => {
                    // Whether it arrives does not matter any more.
                    let _gone = link.close(true).await.is_err();
                    return;
                }
            };
            self.shared.counts.borrow_mut().ended(self.number, &ended);
        }
    }

    /// Tries until it is connected; `None`: that cannot be.
    async fn connect(&mut self, first: bool) -> Option<Link> {
        let shared = Rc::clone(&self.shared);
        let mut backoff = BACKOFF_MIN;
        loop {
            let turn = match first {
                true => Some(shared.handshakes.acquire().await.ok()?),
                false => None,
            };
            let login = shared.login(self.number);
            // A clean session of 3.1.1 would end with its connection.
            let clean = first && login.version.is_v5();
            let opened = Link::open(
                login,
                &shared.transport,
                &self.client_id,
                clean,
                CONNECT_LIMIT,
            );
            let trouble = match opened.await {
                Ok((link, welcome)) => {
                    self.welcome(&welcome);
                    return Some(link);
                }
                Err(trouble) => trouble,
            };
            drop(turn);
            shared.counts.borrow_mut().failed(&trouble.to_string());
            if matches!(trouble, Trouble::Final(_)) {
                return None;
            }
            sleep(backoff.mul_f64(self.random.random_range(0.5..1.5))).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    fn welcome(&mut self, welcome: &Welcome) {
        if !welcome.session_present {
            if self.subscribed {
                self.shared.counts.borrow_mut().sessions_lost += 1;
            }
            self.subscribed = false;
            self.taken.clear();
        }
        self.flight.reconnected(welcome.receive_maximum.min(WINDOW));
    }

    /// One connection to its end; says how it ended.
    async fn serve(&mut self, link: &mut Link) -> String {
        loop {
            match self.turn(link).await {
                Ok(()) => {}
                Err(trouble) => return trouble,
            }
        }
    }

    async fn turn(&mut self, link: &mut Link) -> Result<(), String> {
        self.publish_what_is_due();
        self.fill(link.version())
            .map_err(|error| error.to_string())?;
        if !self.out.is_empty() {
            let out = std::mem::take(&mut self.out);
            link.write(&out)
                .await
                .map_err(|trouble| trouble.to_string())?;
        }
        let publishing = *self.shared.phase.borrow() == Phase::Publish;
        let mut phase = self.shared.phase.clone();
        tokio::select! {
            read = link.read_more() => read.map_err(|trouble| trouble.to_string())?,
            () = sleep_until(self.due), if publishing && self.flight.has_room() => {}
            // An error: the run is over.
            changed = phase.changed() => drop(changed),
        }
        while let Some(frame) = link.next_frame().map_err(|trouble| trouble.to_string())? {
            let packet = link.decode(&frame).map_err(|trouble| trouble.to_string())?;
            self.take(&packet, link.version())?;
        }
        Ok(())
    }

    fn publish_what_is_due(&mut self) {
        if *self.shared.phase.borrow() != Phase::Publish {
            // The first message comes at a random moment of the interval, so that they do not come together.
            let part = self.random.random_range(0.0..1.0);
            self.due = Instant::now() + self.shared.options.interval.mul_f64(part);
            return;
        }
        let now = Instant::now();
        while self.due <= now && self.flight.has_room() {
            self.flight
                .publish(self.next.to_string().into_bytes().into(), self.due);
            self.next += 1;
            self.due += self.shared.options.interval;
            self.shared.counts.borrow_mut().begun += 1;
        }
    }

    /// What is to be sent: the subscription, messages, and PUBREL.
    fn fill(&mut self, version: Version) -> Result<(), dunlin_protocol::EncodeError> {
        if !self.subscribed {
            self.subscribed = true;
            let mut filters = SubscribeFiltersBuf::new();
            let topic = format!("stay/{}", self.peer);
            filters.push(&topic, SubscribeOptions::new(QoS::ExactlyOnce))?;
            let subscribe = Subscribe {
                packet_id: PacketId::MAX,
                properties: Properties::default(),
                filters: filters.as_filters(),
            };
            Packet::Subscribe(subscribe).encode(version, &mut self.out)?;
        }
        while let Some((entry, again)) = self.flight.poll_send() {
            let packet = match entry.stage {
                Stage::Publish => Packet::Publish(Publish {
                    dup: again,
                    qos: self.qos,
                    topic: &self.topic,
                    packet_id: Some(entry.id),
                    payload: &entry.payload,
                    ..Publish::default()
                }),
                Stage::Release => Packet::PubRel(Ack::new(entry.id, ReasonCode::SUCCESS)),
            };
            packet.encode(version, &mut self.out)?;
        }
        Ok(())
    }

    fn take(&mut self, packet: &Packet<'_>, version: Version) -> Result<(), String> {
        let answer = match packet {
            Packet::Publish(publish) => return self.receive(publish, version),
            Packet::PubRel(ack) => {
                self.taken.remove(&ack.packet_id);
                return self.answer(
                    Packet::PubComp(Ack::new(ack.packet_id, ReasonCode::SUCCESS)),
                    version,
                );
            }
            Packet::PubAck(ack) => {
                self.flight
                    .handle_received(ack.packet_id, ack.reason, QoS::AtLeastOnce)
            }
            Packet::PubRec(ack) => {
                self.flight
                    .handle_received(ack.packet_id, ack.reason, QoS::ExactlyOnce)
            }
            Packet::SubAck(_) => {
                self.shared.counts.borrow_mut().subscribed += 1;
                self.shared.changed.notify_one();
                return Ok(());
            }
            Packet::PubComp(ack) => self.flight.handle_complete(ack.packet_id),
            Packet::Disconnect(disconnect) => return Err(disconnect.reason.to_string()),
            _ => return Ok(()),
        };
        match answer {
            Answer::Done { .. } => self.shared.counts.borrow_mut().acknowledged += 1,
            Answer::Refused(reason) => {
                let mut counts = self.shared.counts.borrow_mut();
                counts.refused += 1;
                counts.failed(&format!("a message was refused: {reason}"));
            }
            Answer::Release => {
                let released = match packet {
                    Packet::PubRec(ack) => ack.packet_id,
                    _ => return Ok(()),
                };
                self.answer(
                    Packet::PubRel(Ack::new(released, ReasonCode::SUCCESS)),
                    version,
                )?;
            }
            Answer::Unexpected => {}
        }
        self.shared.changed.notify_one();
        Ok(())
    }

    fn receive(&mut self, publish: &Publish<'_>, version: Version) -> Result<(), String> {
        let number = std::str::from_utf8(publish.payload)
            .ok()
            .and_then(|text| text.parse().ok());
        let number: u32 = number.ok_or("a payload that is none of ours")?;
        let fresh = match (publish.qos, publish.packet_id) {
            (QoS::ExactlyOnce, Some(id)) => self.taken.insert(id),
            _ => true,
        };
        if fresh {
            self.shared
                .counts
                .borrow_mut()
                .received(self.peer, number, publish.qos);
            self.shared.changed.notify_one();
        }
        match (publish.qos, publish.packet_id) {
            (QoS::AtLeastOnce, Some(id)) => {
                self.answer(Packet::PubAck(Ack::new(id, ReasonCode::SUCCESS)), version)
            }
            (QoS::ExactlyOnce, Some(id)) => {
                self.answer(Packet::PubRec(Ack::new(id, ReasonCode::SUCCESS)), version)
            }
            _ => Ok(()),
        }
    }

    fn answer(&mut self, packet: Packet<'_>, version: Version) -> Result<(), String> {
        let encoded = packet.encode(version, &mut self.out);
        encoded.map(drop).map_err(|error| error.to_string())
    }
}
