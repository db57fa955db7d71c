//! The load generator: one thread, one epoll, all connections.
//!
//! Each turn waits for sockets, reads each once, lets publishers fill their windows, and writes what has
//! gathered: many packets per system call on both ways.

mod churn;
mod hold;
mod lazy;
mod receive;
mod setup;

use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use dunlin_protocol::{
    Connect, Disconnect, Packet, PropertiesBuf, Property, QoS, ReasonCode, Version,
};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use self::churn::Churn;
use self::hold::Held;
use self::lazy::Lazy;
use super::flows::{Flows, Once};
use super::plan::{Load, PAYLOAD_MAX, Plan, Shape, Workload};
use super::publisher::{Publisher, Setup};
use super::system::Addresses;
use crate::latency::Latencies;
use crate::socket::Connection;

/// Bytes taken with one read. Above the greatest packet, so that each read makes progress.
const READ_BYTES: usize = 2 * PAYLOAD_MAX;
/// A publisher does not add to more unwritten bytes than this.
const OUT_BYTES_MAX: usize = 256 * 1024;
const EVENTS: usize = 1024;
/// Seconds that a persistent session outlives its connection, at least as long as a measurement.
const SESSION_EXPIRY: u32 = 86_400;
/// QoS 0 may be dropped: after so long without a delivery, what is missing no longer holds the window.
const STALL: Duration = Duration::from_millis(500);

/// Who a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Publisher(usize),
    Subscriber(usize),
    Idle,
    /// Leaves when it has subscribed.
    Visitor,
    /// Has many subscriptions.
    Holder,
    /// Subscribes as the subscriber with a number does, and does not keep up.
    Lazy {
        subscriber: usize,
        /// At least a little.
        reads: bool,
    },
}

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connecting,
    AwaitsConnack,
    AwaitsSuback,
    Ready,
    /// It has left.
    Gone,
}

struct Client {
    connection: Connection,
    role: Role,
    phase: Phase,
    dirty: bool,
    /// Whether epoll watches for writability.
    watched: bool,
}

/// Why a benchmark cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}: {1}")]
    Io(&'static str, std::io::Error),
    #[error("{0}")]
    Protocol(String),
}

type Outcome<T> = Result<T, Failure>;

/// Counts that only grow.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    pub(crate) sent: u64,
    pub(crate) delivered: u64,
    pub(crate) stalls: u64,
}

pub(crate) struct Engine {
    workload: Workload,
    version: Version,
    qos: QoS,
    addresses: Addresses,
    per_source: usize,
    epoll: OwnedFd,
    clients: Vec<Client>,
    publishers: Vec<Publisher>,
    /// The connection of each publisher.
    seats: Vec<usize>,
    flows: Flows,
    /// Retained messages that a reader has got.
    once: Once,
    churn: Churn,
    held: Held,
    lazy: Lazy,
    /// Answers to PINGREQ.
    pongs: usize,
    dirty: Vec<usize>,
    buffer: Vec<u8>,
    events: Vec<Event>,
    epoch: Instant,
    now_ns: u64,
    totals: Totals,
    last_delivery_ns: u64,
    ready: usize,
    pace: Pace,
    /// Latencies of what is delivered while this is set.
    pub(crate) latencies: Option<Latencies>,
    /// From when a message was due to its PUBACK or PUBREC, while this is set.
    pub(crate) ack_latencies: Option<Latencies>,
}

/// What is due when.
#[derive(Debug, Clone, Copy)]
enum Pace {
    Stopped,
    Window,
    /// Message number `next` is due at `begin_ns + next * gap_ns`.
    Rate {
        begin_ns: u64,
        gap_ns: f64,
        next: u64,
    },
    /// The publisher whose turn it is.
    One {
        turn: usize,
        flying: bool,
    },
}

impl Engine {
    pub(crate) fn new(
        addresses: &Addresses,
        workload: Workload,
        qos: QoS,
        plan: &Plan,
    ) -> Outcome<Self> {
        let (publishers, subscribers) = workload.ends();
        let publishers: Result<Vec<Publisher>, _> = (0..publishers)
            .map(|number| {
                Publisher::new(Setup {
                    number: number as u32, // at most a million: the plan is checked
                    version: plan.version,
                    qos,
                    topic: &workload.topic(number),
                    topics: workload.topics_of_a_publisher(),
                    retain: workload.shape == Shape::RetainStore,
                    quota: workload.quota(number),
                    payload_bytes: workload.payload_bytes,
                    window: workload.window(),
                    fanout: workload.fanout(),
                    bound_by_delivery: plan.bound_by_delivery,
                })
            })
            .collect();
        let publishers = publishers.map_err(|problem| Failure::Protocol(problem.to_string()))?;
        // Waits end on time: the default slack of 50 µs would be a part of what is measured.
        let _refused = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        Ok(Self {
            workload,
            version: plan.version,
            qos,
            addresses: addresses.clone(),
            per_source: plan.per_source,
            epoll: epoll::create(CreateFlags::CLOEXEC)
                .map_err(|error| Failure::Io("epoll", error.into()))?,
            clients: Vec::new(),
            flows: Flows::new(publishers.len().max(subscribers)),
            once: Once::new(&workload),
            churn: Churn::new(&workload),
            held: Held::default(),
            lazy: Lazy::default(),
            pongs: 0,
            publishers,
            seats: Vec::new(),
            dirty: Vec::new(),
            buffer: vec![0; READ_BYTES],
            events: Vec::with_capacity(EVENTS),
            epoch: Instant::now(),
            now_ns: 0,
            totals: Totals::default(),
            last_delivery_ns: 0,
            ready: 0,
            pace: Pace::Stopped,
            latencies: None,
            ack_latencies: None,
        })
    }

    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    /// Begins to publish.
    pub(crate) fn start(&mut self) {
        self.tick();
        self.last_delivery_ns = self.now_ns;
        self.pace = match self.workload.load {
            Load::Window(_) => Pace::Window,
            Load::Rate(rate) => Pace::Rate {
                begin_ns: self.now_ns,
                gap_ns: 1e9 / rate,
                next: 0,
            },
            Load::One => Pace::One {
                turn: 0,
                flying: false,
            },
        };
    }

    /// No new messages from now on.
    pub(crate) fn stop(&mut self) {
        self.pace = Pace::Stopped;
    }

    /// Works until `end`.
    pub(crate) fn work_until(&mut self, end: Instant) -> Outcome<()> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.pump()?;
            self.flush()?;
            let wait = self
                .until_due()
                .map_or(left, |due| due.min(left))
                .min(Duration::from_millis(100));
            self.turn(wait)?;
            self.read_slowly();
            self.forgive_stall();
        }
    }

    /// Works until everything has arrived and is acknowledged, or nothing has come for `patience`.
    pub(crate) fn drain(&mut self, patience: Duration) -> Outcome<()> {
        let (mut before, mut progress) = (self.totals.delivered, Instant::now());
        while !self.is_idle() && progress.elapsed() < patience {
            self.flush()?;
            self.turn(Duration::from_millis(20))?;
            if self.totals.delivered > before {
                (before, progress) = (self.totals.delivered, Instant::now());
            }
        }
        self.flush()
    }

    /// Works until publishers with a quota have sent it and the broker has taken it, and visits are made; or nothing has
    /// moved for `patience`.
    pub(crate) fn send_all(&mut self, patience: Duration) -> Outcome<()> {
        let (mut before, mut progress) = (0, Instant::now());
        let mut asked = false;
        while progress.elapsed() < patience {
            self.pump()?;
            let all = self.publishers.iter().all(Publisher::has_sent_all);
            if all && self.churn.has_begun_all() && self.is_idle() {
                if self.workload.is_of_visits() {
                    return Ok(());
                }
                if self.qos != QoS::AtMostOnce || self.pongs == self.publishers.len() {
                    return Ok(());
                }
                // Without acknowledgements: what is answered behind a message says that it was read.
                if !std::mem::replace(&mut asked, true) {
                    for seat in self.seats.clone() {
                        self.send(seat, &Packet::PingReq)?;
                    }
                }
            }
            self.flush()?;
            self.turn(Duration::from_millis(20))?;
            let moved = self.totals.sent + self.totals.delivered;
            if moved > before {
                (before, progress) = (moved, Instant::now());
            }
        }
        Ok(())
    }

    /// Works until a reader has got all retained messages, or nothing has come for `patience`.
    pub(crate) fn read_all(&mut self, patience: Duration) -> Outcome<()> {
        let (mut before, mut progress) = (0, Instant::now());
        while self.once.missing() > 0 && progress.elapsed() < patience {
            self.turn(Duration::from_millis(20))?;
            if self.totals.delivered > before {
                (before, progress) = (self.totals.delivered, Instant::now());
            }
        }
        Ok(())
    }

    fn is_idle(&self) -> bool {
        self.publishers.iter().all(Publisher::is_idle) && self.churn.is_idle()
    }

    /// Lost, duplicated, reordered.
    pub(crate) fn verdict(&self) -> (u64, u64, u64) {
        match self.workload.shape {
            Shape::Churn | Shape::Sessions => {
                return (self.totals.sent - self.totals.delivered, 0, 0);
            }
            Shape::RetainRead => return (self.once.missing(), self.once.repeated(), 0),
            _ => {}
        }
        let (publishers, subscribers) = self.workload.ends();
        let sent = |flow: usize| {
            let publisher = if publishers == 1 { 0 } else { flow };
            self.publishers.get(publisher).map_or(0, Publisher::sent)
        };
        let lost = (0..publishers.max(subscribers))
            .map(|flow| self.flows.lost(flow, sent(flow)))
            .sum();
        (lost, self.flows.duplicated(), self.flows.reordered())
    }

    /// Says goodbye on all connections.
    pub(crate) fn close(&mut self) -> Outcome<()> {
        // Before MQTT 5 a persistent session cannot be ended with its connection: it stays.
        let mut ends = PropertiesBuf::new();
        if self.workload.persistent && self.version.is_v5() {
            push(&mut ends, Property::SessionExpiryInterval(0))?;
        }
        let goodbye = Disconnect {
            properties: ends.as_properties(),
            ..Disconnect::new(ReasonCode::NORMAL_DISCONNECTION)
        };
        let ready = |client: &Client| {
            client.phase == Phase::Ready && !matches!(client.role, Role::Lazy { .. })
        };
        let there: Vec<usize> = (0..self.clients.len())
            .filter(|number| self.clients.get(*number).is_some_and(ready))
            .collect();
        for number in there {
            self.send(number, &Packet::Disconnect(goodbye))?;
        }
        self.flush()
    }

    fn tick(&mut self) {
        self.now_ns = u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX);
    }

    fn until_due(&self) -> Option<Duration> {
        match self.pace {
            Pace::Rate {
                begin_ns,
                gap_ns,
                next,
            } => {
                let due = begin_ns + (next as f64 * gap_ns) as u64;
                // What is overdue waits for room, and room comes with a socket's event.
                due.checked_sub(self.now_ns)
                    .filter(|left| *left > 0)
                    .map(Duration::from_nanos)
            }
            _ => None,
        }
    }

    /// Waits for sockets once and serves those that have something.
    fn turn(&mut self, wait: Duration) -> Outcome<()> {
        let timeout = Timespec::try_from(wait).unwrap_or_default();
        self.events.clear();
        let mut events = std::mem::take(&mut self.events);
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&timeout),
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Failure::Io("epoll", error.into())),
        }
        self.tick();
        for event in &events {
            let number = event.data.u64() as usize;
            let flags = event.flags;
            if flags.contains(EventFlags::OUT) {
                self.on_writable(number)?;
            }
            if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                self.on_readable(number)?;
            }
        }
        self.events = events;
        self.flush()
    }

    fn on_writable(&mut self, number: usize) -> Outcome<()> {
        let Some(client) = self.clients.get_mut(number) else {
            return Ok(());
        };
        if client.phase == Phase::Connecting {
            client
                .connection
                .connected()
                .map_err(|error| Failure::Io("connect", error))?;
            client.phase = Phase::AwaitsConnack;
            let persistent = match client.role {
                Role::Subscriber(_) => self.workload.persistent,
                Role::Visitor => self.workload.shape == Shape::Sessions,
                _ => false,
            };
            return self.introduce(number, persistent);
        }
        self.mark(number);
        Ok(())
    }

    fn introduce(&mut self, number: usize, persistent: bool) -> Outcome<()> {
        let id = match self.clients.get(number).map(|client| client.role) {
            Some(Role::Holder) => format!("holder-{number}"),
            Some(Role::Visitor) if persistent => format!("away-{}", self.churn.serial(number)),
            _ => format!("bench-{number}"),
        };
        let mut properties = PropertiesBuf::new();
        if persistent && self.version.is_v5() {
            push(
                &mut properties,
                Property::SessionExpiryInterval(SESSION_EXPIRY),
            )?;
        }
        let connect = Connect {
            // What an earlier run may have left ends where it can; before MQTT 5 that would end this session too.
            clean_start: !persistent || self.version.is_v5(),
            properties: properties.as_properties(),
            ..Connect::new(self.version, &id)
        };
        self.send(number, &Packet::Connect(connect))
    }

    fn send(&mut self, number: usize, packet: &Packet<'_>) -> Outcome<()> {
        let version = self.version;
        if let Some(client) = self.clients.get_mut(number) {
            packet
                .encode(version, &mut client.connection.out)
                .map_err(|problem| Failure::Protocol(problem.to_string()))?;
        }
        self.mark(number);
        Ok(())
    }

    fn mark(&mut self, number: usize) {
        if let Some(client) = self.clients.get_mut(number)
            && !client.dirty
        {
            client.dirty = true;
            self.dirty.push(number);
        }
    }

    /// Lets publishers publish what is due and has room.
    fn pump(&mut self) -> Outcome<()> {
        self.tick();
        match self.pace {
            Pace::Stopped => {}
            Pace::Window if self.workload.is_of_visits() => while self.visit(self.now_ns)? {},
            Pace::Window => {
                for publisher in 0..self.publishers.len() {
                    while self.publish(publisher, self.now_ns) {}
                }
            }
            Pace::Rate {
                begin_ns,
                gap_ns,
                mut next,
            } => {
                loop {
                    let due = begin_ns + (next as f64 * gap_ns) as u64;
                    let publisher = next as usize % self.publishers.len().max(1);
                    // Without room it waits, and its latency counts from when it was due all the same.
                    if due > self.now_ns || !self.emit(publisher, due)? {
                        break;
                    }
                    next += 1;
                }
                self.pace = Pace::Rate {
                    begin_ns,
                    gap_ns,
                    next,
                };
            }
            Pace::One { turn, flying } => {
                if flying && !self.is_idle_at(turn) {
                    return Ok(());
                }
                let turn = if flying {
                    (turn + 1) % self.publishers.len().max(1)
                } else {
                    turn
                };
                let flying = self.emit(turn, self.now_ns)?;
                self.pace = Pace::One { turn, flying };
            }
        }
        Ok(())
    }

    fn is_idle_at(&self, turn: usize) -> bool {
        if self.workload.is_of_visits() {
            return self.churn.is_idle();
        }
        self.publishers.get(turn).is_some_and(Publisher::is_idle)
    }

    /// What is due: a message of a publisher, or a visit. `false` when there is no room.
    fn emit(&mut self, publisher: usize, due_ns: u64) -> Outcome<bool> {
        if self.workload.is_of_visits() {
            self.visit(due_ns)
        } else {
            Ok(self.publish(publisher, due_ns))
        }
    }

    #[inline]
    fn publish(&mut self, number: usize, due_ns: u64) -> bool {
        let Some(seat) = self.seats.get(number).copied() else {
            return false;
        };
        let (Some(publisher), Some(client)) =
            (self.publishers.get_mut(number), self.clients.get_mut(seat))
        else {
            return false;
        };
        let out = &mut client.connection.out;
        if !publisher.has_room() || client.connection.blocked || out.len() >= OUT_BYTES_MAX {
            return false;
        }
        publisher.publish(due_ns, out);
        self.totals.sent += 1;
        self.mark(seat);
        true
    }

    fn flush(&mut self) -> Outcome<()> {
        let mut dirty = std::mem::take(&mut self.dirty);
        for number in dirty.drain(..) {
            let Some(client) = self.clients.get_mut(number) else {
                continue;
            };
            client.dirty = false;
            client
                .connection
                .flush()
                .map_err(|error| Failure::Io("write", error))?;
            if client.connection.blocked != client.watched {
                client.watched = client.connection.blocked;
                let flags = if client.watched {
                    EventFlags::IN | EventFlags::OUT
                } else {
                    EventFlags::IN
                };
                epoll::modify(
                    &self.epoll,
                    &client.connection,
                    EventData::new_u64(number as u64),
                    flags,
                )
                .map_err(|error| Failure::Io("epoll", error.into()))?;
            }
        }
        self.dirty = dirty;
        Ok(())
    }

    fn forgive_stall(&mut self) {
        let silent = Duration::from_nanos(self.now_ns.saturating_sub(self.last_delivery_ns));
        if self.qos == QoS::AtMostOnce
            && !self.workload.is_of_visits()
            && silent > STALL
            && !self.publishers.iter().all(Publisher::is_idle)
        {
            self.publishers.iter_mut().for_each(Publisher::forgive);
            self.totals.stalls += 1;
            self.last_delivery_ns = self.now_ns;
        }
    }
}

fn push(properties: &mut PropertiesBuf, property: Property<'_>) -> Outcome<()> {
    properties
        .push(property)
        .map(|_| ())
        .map_err(|problem| Failure::Protocol(problem.to_string()))
}
