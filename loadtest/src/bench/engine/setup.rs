//! Connecting and subscribing.

use std::time::{Duration, Instant};

use dunlin_protocol::{Packet, PacketId, Subscribe, SubscribeFiltersBuf, SubscribeOptions};
use rustix::event::epoll::{self, EventData, EventFlags};

use super::{Client, Engine, Failure, Outcome, Phase, Role};
use crate::bench::plan::Shape;
use crate::socket::{Connection, next_source};

/// Connections in a handshake at a time, below the usual backlog of a listener.
const HANDSHAKES: usize = 100;
/// Bytes that wait unread in the socket of one that does not keep up.
const LAZY_BYTES: usize = 4096;
/// Setting up may stand still for so long.
const SETUP_LIMIT: Duration = Duration::from_secs(20);

impl Engine {
    /// Connects everyone and subscribes: first the subscribers, so that nothing is published to nobody.
    pub(crate) fn set_up(&mut self) -> Outcome<()> {
        let (publishers, subscribers) = self.workload.ends();
        if self.workload.is_of_visits() {
            return Ok(());
        }
        let shape = self.workload.shape;
        let listeners = (0..subscribers).map(|number| match shape {
            Shape::Idle => Role::Idle,
            Shape::Subscriptions => Role::Holder,
            _ => Role::Subscriber(number),
        });
        self.connect_all(listeners.collect())?;
        self.connect_all(self.lazy_roles())?;
        self.seats = (0..publishers)
            .map(|number| self.clients.len() + number)
            .collect();
        self.connect_all((0..publishers).map(Role::Publisher).collect())
    }

    fn connect_all(&mut self, roles: Vec<Role>) -> Outcome<()> {
        let target = self.clients.len() + roles.len();
        let mut roles = roles.into_iter();
        let (mut progress, mut known) = (Instant::now(), self.ready);
        while self.ready < target {
            while self.clients.len() - self.ready < HANDSHAKES {
                let Some(role) = roles.next() else { break };
                self.connect(role)?;
            }
            self.turn(Duration::from_millis(100))?;
            if self.ready > known {
                (progress, known) = (Instant::now(), self.ready);
            } else if progress.elapsed() > SETUP_LIMIT {
                let problem = format!(
                    "{} of {target} connections are ready, and none more in 20 s",
                    self.ready
                );
                return Err(Failure::Protocol(problem));
            }
        }
        Ok(())
    }

    fn connect(&mut self, role: Role) -> Outcome<()> {
        let client = self.begin(self.clients.len(), role)?;
        self.clients.push(client);
        Ok(())
    }

    /// Begins to connect the client with a number.
    pub(super) fn begin(&mut self, number: usize, role: Role) -> Outcome<Client> {
        let address = match role {
            Role::Publisher(number) => self.addresses.publisher(number),
            Role::Subscriber(number)
            | Role::Lazy {
                subscriber: number, ..
            } => self.addresses.subscriber(number),
            Role::Idle | Role::Visitor | Role::Holder => self.addresses.subscriber(number),
        };
        let address =
            address.ok_or_else(|| Failure::Protocol("nobody to connect to".to_owned()))?;
        let source = next_source(self.per_source);
        // What is not read is to wait in the broker, and not in this machine's memory.
        let receive = matches!(role, Role::Lazy { .. }).then_some(LAZY_BYTES);
        let connection = Connection::begin(address, Some(source), receive, self.addresses.tls())
            .map_err(|error| Failure::Io("connect", error))?;
        epoll::add(
            &self.epoll,
            &connection,
            EventData::new_u64(number as u64),
            EventFlags::IN | EventFlags::OUT,
        )
        .map_err(|error| Failure::Io("epoll", error.into()))?;
        Ok(Client {
            connection,
            role,
            phase: Phase::Connecting,
            dirty: false,
            watched: true,
        })
    }

    pub(super) fn on_connected(&mut self, number: usize) -> Outcome<()> {
        let subscriber = match self.clients.get(number).map(|client| client.role) {
            Some(Role::Subscriber(subscriber) | Role::Lazy { subscriber, .. }) => subscriber,
            Some(Role::Visitor) if self.workload.shape == Shape::Sessions => {
                self.churn.serial(number)
            }
            Some(Role::Visitor) => number,
            _ => {
                self.on_ready(number);
                return Ok(());
            }
        };
        if let Some(client) = self.clients.get_mut(number) {
            client.phase = Phase::AwaitsSuback;
        }
        let mut filters = SubscribeFiltersBuf::new();
        let Some(packet_id) = PacketId::new(1) else {
            return Ok(());
        };
        filters
            .push(
                &self.workload.filter(subscriber),
                SubscribeOptions::new(self.qos),
            )
            .map_err(|problem| Failure::Protocol(problem.to_string()))?;
        let filters = filters.as_filters();
        self.send(
            number,
            &Packet::Subscribe(Subscribe {
                packet_id,
                properties: Default::default(),
                filters,
            }),
        )
    }

    pub(super) fn on_ready(&mut self, number: usize) {
        if let Some(client) = self
            .clients
            .get_mut(number)
            .filter(|client| client.phase != Phase::Ready)
        {
            client.phase = Phase::Ready;
            if client.role == Role::Idle {
                client.connection.shrink();
            }
            self.ready += 1;
        }
    }
}
