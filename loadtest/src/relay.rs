//! The least that any broker must do: reads PUBLISH packets and writes them on to whom they are for.
//!
//! One thread, one epoll. Each packet is copied for each receiver by itself, and written with what else waits
//! for it: many in one read, many in one write. There are no sessions, nothing is checked, stored or resent, and packet ids
//! are passed on as they are: what it costs is what the sockets cost, and other costs can be measured
//! by it on any machine. Publishers and subscribers must speak the same version of MQTT and the same QoS.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use dunlin_protocol::{
    ConnAck, Packet, ReasonCode, Sender, SubAck, Version, decode, peek_frame, topic,
};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use crate::error::Error;
use crate::limits::require_sockets;
use crate::socket::Connection;

const READ_BYTES: usize = 512 * 1024;
const EVENTS: usize = 1024;
/// The greatest packet that is passed on.
const PACKET_MAX: u32 = 256 * 1024;
/// A receiver with more than this waiting is disconnected.
const OUT_MAX: usize = 64 << 20;
/// An answer of a handshake, whose buffer is given back.
const ANSWER_MAX: usize = 64;
/// Files that a relay opens at most, if the system allows so many.
const SOCKETS: u64 = 1024;
const LISTENER: u64 = u64::MAX;

struct Client {
    connection: Connection,
    version: Option<Version>,
    /// Where the last topic goes.
    route: Route,
    dirty: bool,
    /// Whether epoll watches for writability.
    watched: bool,
}

#[derive(Default)]
struct Route {
    topic: Vec<u8>,
    targets: Vec<usize>,
    /// Of the subscriptions that it was made by.
    generation: u64,
}

/// A filter and who wants it.
struct Subscription {
    filter: String,
    client: usize,
}

/// Listens, and relays until the process ends.
pub struct Relay {
    epoll: OwnedFd,
    listener: TcpListener,
    clients: Vec<Option<Client>>,
    free: Vec<usize>,
    subscriptions: Vec<Subscription>,
    generation: u64,
    dirty: Vec<usize>,
}

/// Why a connection ends.
struct Ended;

impl Relay {
    /// Listens on an address.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot.
    pub fn bind(address: SocketAddr) -> Result<Self, Error> {
        let failed = |what: &'static str| {
            move |source: std::io::Error| Error::Io {
                what: format!("{what} {address}"),
                source,
            }
        };
        require_sockets(SOCKETS)?;
        let listener = TcpListener::bind(address).map_err(failed("cannot listen on"))?;
        listener
            .set_nonblocking(true)
            .map_err(failed("cannot listen on"))?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)
            .map_err(|error| failed("no epoll for")(error.into()))?;
        epoll::add(
            &epoll,
            &listener,
            EventData::new_u64(LISTENER),
            EventFlags::IN,
        )
        .map_err(|error| failed("no epoll for")(error.into()))?;
        Ok(Self {
            epoll,
            listener,
            clients: Vec::new(),
            free: Vec::new(),
            subscriptions: Vec::new(),
            generation: 1,
            dirty: Vec::new(),
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// [`Error::Io`] when the system does not say.
    pub fn address(&self) -> Result<SocketAddr, Error> {
        self.listener.local_addr().map_err(|source| Error::Io {
            what: "no address".to_owned(),
            source,
        })
    }

    /// Relays.
    ///
    /// # Errors
    /// [`Error::Io`] when the system does not give events any more.
    pub fn run(mut self) -> Result<(), Error> {
        let mut buffer = vec![0; READ_BYTES];
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                None,
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    return Err(Error::Io {
                        what: "epoll".to_owned(),
                        source: error.into(),
                    });
                }
            }
            for event in &events {
                if event.data.u64() == LISTENER {
                    self.accept();
                    continue;
                }
                let number = event.data.u64() as usize;
                let flags = event.flags;
                if flags.contains(EventFlags::OUT) {
                    self.mark(number);
                }
                if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR)
                    && self.read(number, &mut buffer).is_err()
                {
                    self.end(number);
                }
            }
            self.flush();
        }
    }

    fn accept(&mut self) {
        // Whatever goes wrong with one is no reason to leave the others alone.
        while let Ok((stream, _)) = self.listener.accept() {
            let Ok(connection) = Connection::accepted(stream) else {
                continue;
            };
            let number = self.free.pop().unwrap_or(self.clients.len());
            let data = EventData::new_u64(number as u64);
            if epoll::add(&self.epoll, &connection, data, EventFlags::IN).is_err() {
                self.free.push(number);
                continue;
            }
            let client = Client {
                connection,
                version: None,
                route: Route::default(),
                dirty: false,
                watched: false,
            };
            match self.clients.get_mut(number) {
                Some(place) => *place = Some(client),
                None => self.clients.push(Some(client)),
            }
        }
    }

    fn client(&mut self, number: usize) -> Option<&mut Client> {
        self.clients.get_mut(number)?.as_mut()
    }

    fn end(&mut self, number: usize) {
        let gone = self.clients.get_mut(number).and_then(Option::take);
        if gone.is_none() {
            return;
        }
        self.free.push(number);
        let before = self.subscriptions.len();
        self.subscriptions.retain(|one| one.client != number);
        if self.subscriptions.len() != before {
            self.generation += 1;
        }
    }

    fn read(&mut self, number: usize, buffer: &mut [u8]) -> Result<(), Ended> {
        let Some(client) = self.client(number) else {
            return Ok(());
        };
        let count = match client.connection.read(buffer) {
            Ok(None) => return Ok(()),
            Ok(Some(0)) | Err(_) => return Err(Ended),
            Ok(Some(count)) => count,
        };
        let bytes = buffer.get(..count).unwrap_or_default();
        let used = self.packets(number, bytes)?;
        if let Some(client) = self.client(number) {
            client.connection.part.clear();
            let rest = bytes.get(used..).unwrap_or_default();
            client.connection.part.extend_from_slice(rest);
        }
        Ok(())
    }

    /// Serves all whole packets; how many bytes that were.
    fn packets(&mut self, number: usize, bytes: &[u8]) -> Result<usize, Ended> {
        let mut at = 0;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            let Some(header) = peek_frame(rest, PACKET_MAX).map_err(|_| Ended)? else {
                return Ok(at);
            };
            let Some(packet) = rest.get(..header.total_len) else {
                return Ok(at);
            };
            if packet.first().is_some_and(|first| first >> 4 == 3) {
                let publish = Published::read(packet, header.header_len).ok_or(Ended)?;
                if !self.same_route(number, publish.topic) {
                    self.find_route(number, publish.topic)?;
                }
                self.pass_on(number, packet);
                self.acknowledge(number, &publish);
            } else {
                self.control(number, packet)?;
            }
            at += header.total_len;
        }
    }

    fn same_route(&mut self, number: usize, topic: &[u8]) -> bool {
        let generation = self.generation;
        self.client(number).is_some_and(|client| {
            client.route.generation == generation && client.route.topic == topic
        })
    }

    fn find_route(&mut self, number: usize, topic: &[u8]) -> Result<(), Ended> {
        let text = std::str::from_utf8(topic).map_err(|_| Ended)?;
        let wanting = self.subscriptions.iter();
        let targets = wanting
            .filter(|one| topic::matches(&one.filter, text))
            .map(|one| one.client)
            .collect();
        let generation = self.generation;
        if let Some(client) = self.client(number) {
            client.route = Route {
                topic: topic.to_vec(),
                targets,
                generation,
            };
        }
        Ok(())
    }

    fn pass_on(&mut self, number: usize, packet: &[u8]) {
        let Some(client) = self.client(number) else {
            return;
        };
        let targets = std::mem::take(&mut client.route.targets);
        for target in &targets {
            if let Some(receiver) = self.client(*target) {
                receiver.connection.out.extend_from_slice(packet);
            }
            self.mark(*target);
        }
        if let Some(client) = self.client(number) {
            client.route.targets = targets;
        }
    }

    fn acknowledge(&mut self, number: usize, publish: &Published<'_>) {
        if let Some([high, low]) = publish.packet_id {
            let first = if publish.qos == 1 { 0x40 } else { 0x50 };
            self.answer(number, &[first, 2, high, low]);
        }
    }

    fn answer(&mut self, number: usize, bytes: &[u8]) {
        if let Some(client) = self.client(number) {
            client.connection.out.extend_from_slice(bytes);
        }
        self.mark(number);
    }

    /// Any packet but PUBLISH.
    fn control(&mut self, number: usize, packet: &[u8]) -> Result<(), Ended> {
        let id = packet.get(2..4).and_then(|id| <[u8; 2]>::try_from(id).ok());
        match (packet.first().map(|first| first >> 4), id) {
            // PUBACK and PUBCOMP end there; PUBREC is answered with PUBREL, PUBREL with PUBCOMP.
            (Some(4 | 7), _) => {}
            (Some(5), Some([high, low])) => self.answer(number, &[0x62, 2, high, low]),
            (Some(6), Some([high, low])) => self.answer(number, &[0x70, 2, high, low]),
            (Some(12), _) => self.answer(number, &[0xd0, 0]),
            (Some(1 | 8), _) => self.handshake(number, packet)?,
            _ => return Err(Ended),
        }
        Ok(())
    }

    fn handshake(&mut self, number: usize, packet: &[u8]) -> Result<(), Ended> {
        let client = self.client(number).ok_or(Ended)?;
        let version = client.version.unwrap_or(Version::V311);
        let mut answer = Vec::new();
        match decode(packet, version, Sender::Client).map_err(|_| Ended)? {
            Packet::Connect(connect) => {
                client.version = Some(connect.version);
                let connack = Packet::ConnAck(ConnAck {
                    session_present: false,
                    reason: ReasonCode::SUCCESS,
                    properties: Default::default(),
                });
                connack
                    .encode(connect.version, &mut answer)
                    .map_err(|_| Ended)?;
            }
            Packet::Subscribe(subscribe) => {
                let mut codes = Vec::new();
                for (filter, options) in subscribe.filters.iter() {
                    codes.push(options.qos as u8);
                    self.subscriptions.push(Subscription {
                        filter: filter.to_owned(),
                        client: number,
                    });
                }
                self.generation += 1;
                let suback = Packet::SubAck(SubAck {
                    packet_id: subscribe.packet_id,
                    properties: Default::default(),
                    reason_codes: &codes,
                });
                suback.encode(version, &mut answer).map_err(|_| Ended)?;
            }
            _ => return Err(Ended),
        }
        self.answer(number, &answer);
        Ok(())
    }

    fn mark(&mut self, number: usize) {
        if let Some(client) = self.client(number)
            && !client.dirty
        {
            client.dirty = true;
            self.dirty.push(number);
        }
    }

    fn flush(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for number in dirty.drain(..) {
            if self.write(number).is_err() {
                self.end(number);
            }
        }
        self.dirty = dirty;
    }

    fn write(&mut self, number: usize) -> Result<(), Ended> {
        // Not through `client`: the epoll is borrowed beside it.
        let Some(Some(client)) = self.clients.get_mut(number) else {
            return Ok(());
        };
        client.dirty = false;
        client.connection.flush().map_err(|_| Ended)?;
        if client.connection.out.len() > OUT_MAX {
            return Err(Ended);
        }
        if client.connection.out.capacity() <= ANSWER_MAX && client.connection.out.is_empty() {
            client.connection.shrink_out();
        }
        if client.connection.blocked != client.watched {
            client.watched = client.connection.blocked;
            let flags = if client.watched {
                EventFlags::IN | EventFlags::OUT
            } else {
                EventFlags::IN
            };
            let data = EventData::new_u64(number as u64);
            epoll::modify(&self.epoll, &client.connection, data, flags).map_err(|_| Ended)?;
        }
        Ok(())
    }
}

/// What of a PUBLISH is looked at.
struct Published<'a> {
    topic: &'a [u8],
    qos: u8,
    packet_id: Option<[u8; 2]>,
}

impl<'a> Published<'a> {
    fn read(packet: &'a [u8], header_len: usize) -> Option<Self> {
        let qos = packet.first()? >> 1 & 3;
        let (length, rest) = packet.get(header_len..)?.split_first_chunk::<2>()?;
        let (topic, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        let packet_id = match qos {
            0 => None,
            _ => Some(*rest.first_chunk::<2>()?),
        };
        Some(Self {
            topic,
            qos,
            packet_id,
        })
    }
}
