//! Which message is new, which was sent before, and what may be acknowledged when: the receiver's side of QoS 1 and 2.
//!
//! Pure. `handle_*` says what to do with a packet; [`Session::committed`] says which acknowledgements are due. Positions
//! count the entries given to the sink; what is committed is always all up to a position.
//!
//! # When is a message the same message?
//!
//! **QoS 2**: its packet id is taken, from the row's commit to the release's commit, also across a crash (the
//! [ledger](crate::ledger)). This is exact.
//!
//! **QoS 1**, in one run: its row is on its way or stored, and its PUBACK has not been handed to a socket. Then the broker
//! cannot have let go of the packet id, so the same id in the same session is the same message. This is exact too, and
//! covers connections that break under load. Once a PUBACK is with the socket, or the adapter was killed, nobody knows
//! whether the broker got it: the id may mean the same message or the next one. Such a message is stored again
//! (dropping it could lose a message), under the same number, so that a query can leave it out. A message without DUP
//! is always new.
//!
//! In all cases the fingerprint must agree. A different message under a taken id means that the broker has lost its
//! state, and is a new message.
//!
//! # Why acknowledgements are tied to a connection
//!
//! A packet id belongs to a session, and an acknowledgement sent to the wrong session could release a message that was
//! never received. So what was received on an earlier connection is acknowledged only after the broker has sent it
//! again on this one.

use std::collections::{HashMap, VecDeque};

use crate::ledger::{Known, Ledger};

/// An acknowledgement to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// QoS 1: stored.
    PubAck(u16),
    /// QoS 2: stored.
    PubRec(u16),
    /// QoS 2: the release is stored.
    PubComp(u16),
    /// QoS 2: a release of an id that is not taken; nothing to do.
    PubCompUnknown(u16),
}

/// What to do with a PUBLISH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Store it under this number.
    New(u64),
    /// Store it under this number, which another row has already: it is probably the same message.
    Again(u64),
    /// It is the same message as one that is stored or being stored: nothing to store. Its acknowledgement comes from
    /// [`Session::committed`], in its turn.
    Known,
}

/// What to do with a PUBREL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// Store the release.
    Store,
    /// Nothing to store: it is being stored, or the id is not taken. The answer comes from [`Session::committed`].
    Known,
}

/// How far the newest message under a packet id is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// On its way to the sink.
    Storing,
    /// Stored, and no acknowledgement that may have arrived.
    Stored,
    /// QoS 1: stored, and the PUBACK was handed to a socket, or may have been by a process before this one.
    Acknowledged,
    /// QoS 2: the release is on its way to the sink.
    Releasing,
}

#[derive(Debug, Clone, Copy)]
struct Message {
    known: Known,
    stage: Stage,
    /// Number of the connection on which it, or its release, came last.
    connection: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    AtMostOnce,
    AtLeastOnce,
    ExactlyOnce,
    Release,
    Reset,
    /// No entry: an answer to something that is stored already.
    Answer(Ack),
}

/// An entry on its way to the sink, or an answer that waits for the entries before it: [MQTT-4.6.0-2] to
/// [MQTT-4.6.0-4] want answers in the order of what they answer.
#[derive(Debug, Clone, Copy)]
struct Sent {
    position: u64,
    packet_id: u16,
    number: u64,
    kind: Kind,
    connection: u64,
}

/// State of the session. Holds at most one message per packet id and QoS, and what is on its way to the sink.
#[derive(Debug)]
pub struct Session {
    next_number: u64,
    connection: u64,
    at_least_once: HashMap<u16, Message>,
    exactly_once: HashMap<u16, Message>,
    sent: VecDeque<Sent>,
    /// Acknowledged QoS 1 messages by number, to forget the oldest.
    acknowledged: VecDeque<(u16, u64)>,
    window: usize,
    position: u64,
}

impl Session {
    /// Goes on where the ledger ends. `window`: how many QoS 1 messages may be unacknowledged at a time.
    #[must_use]
    pub fn new(ledger: &Ledger, window: u16) -> Self {
        let message = |known, stage| Message {
            known,
            stage,
            connection: 0,
        };
        let recent = ledger
            .recent()
            .map(|(id, known)| (id, message(known, Stage::Acknowledged)));
        let taken = ledger
            .taken()
            .iter()
            .map(|(id, known)| (*id, message(*known, Stage::Stored)));
        Self {
            next_number: ledger.next_number(),
            connection: 0,
            at_least_once: recent.collect(),
            exactly_once: taken.collect(),
            sent: VecDeque::new(),
            acknowledged: ledger
                .recent()
                .map(|(id, known)| (id, known.number))
                .collect(),
            window: usize::from(window),
            position: 0,
        }
    }

    /// The connection has ended: from now on nothing that came on it can be acknowledged on it.
    pub fn disconnected(&mut self) {
        self.connection += 1;
    }

    /// A connection is made. When the broker has no session (`session_present` is false), everything about packet ids
    /// is forgotten; the caller must then store a reset before it subscribes, see [`Session::handle_reset`].
    pub fn connected(&mut self, session_present: bool) {
        self.connection += 1;
        if !session_present {
            self.at_least_once.clear();
            self.exactly_once.clear();
            self.acknowledged.clear();
        }
    }

    /// Number of entries given to the sink: the position of the newest.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Entries that are not known to be committed, and answers that wait behind them.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.sent.len()
    }

    /// A QoS 0 message: always new.
    pub fn handle_at_most_once(&mut self) -> u64 {
        let number = self.take_number();
        self.send(0, number, Kind::AtMostOnce);
        number
    }

    /// A QoS 1 message. After [`Verdict::New`] and [`Verdict::Again`] the caller gives a row to the sink.
    pub fn handle_at_least_once(&mut self, id: u16, dup: bool, fingerprint: u64) -> Verdict {
        let connection = self.connection;
        let mut number = None;
        if let Some(message) = self.at_least_once.get_mut(&id)
            && message.known.fingerprint == fingerprint
            && dup
        {
            match message.stage {
                Stage::Storing | Stage::Stored | Stage::Releasing => {
                    let number = message.known.number;
                    if std::mem::replace(&mut message.connection, connection) != connection {
                        self.answer(id, number, Ack::PubAck(id));
                    }
                    return Verdict::Known;
                }
                Stage::Acknowledged => number = Some(message.known.number),
            }
        }
        let again = number.is_some();
        let number = number.unwrap_or_else(|| self.take_number());
        let known = Known {
            number,
            fingerprint,
        };
        self.at_least_once.insert(
            id,
            Message {
                known,
                stage: Stage::Storing,
                connection,
            },
        );
        self.send(id, number, Kind::AtLeastOnce);
        if again {
            Verdict::Again(number)
        } else {
            Verdict::New(number)
        }
    }

    /// A QoS 2 message. After [`Verdict::New`] the caller gives a row to the sink.
    pub fn handle_exactly_once(&mut self, id: u16, fingerprint: u64) -> Verdict {
        let connection = self.connection;
        if let Some(message) = self.exactly_once.get_mut(&id)
            && message.known.fingerprint == fingerprint
        {
            match message.stage {
                Stage::Storing | Stage::Stored | Stage::Acknowledged => {
                    let number = message.known.number;
                    if std::mem::replace(&mut message.connection, connection) != connection {
                        self.answer(id, number, Ack::PubRec(id));
                    }
                    return Verdict::Known;
                }
                // After its release an id is free for another message, which may have the same content.
                Stage::Releasing => {}
            }
        }
        let number = self.take_number();
        let known = Known {
            number,
            fingerprint,
        };
        self.exactly_once.insert(
            id,
            Message {
                known,
                stage: Stage::Storing,
                connection,
            },
        );
        self.send(id, number, Kind::ExactlyOnce);
        Verdict::New(number)
    }

    /// A PUBREL. After [`Release::Store`] the caller gives the release to the sink.
    pub fn handle_release(&mut self, id: u16) -> Release {
        let connection = self.connection;
        let Some(message) = self.exactly_once.get_mut(&id) else {
            self.answer(id, 0, Ack::PubCompUnknown(id));
            return Release::Known;
        };
        let number = message.known.number;
        let before = std::mem::replace(&mut message.connection, connection);
        if message.stage == Stage::Releasing {
            if before != connection {
                self.answer(id, number, Ack::PubComp(id));
            }
            return Release::Known;
        }
        message.stage = Stage::Releasing;
        self.send(id, number, Kind::Release);
        Release::Store
    }

    /// The caller gives a reset, or another entry that needs no acknowledgement, to the sink; returns its position.
    pub fn handle_reset(&mut self) -> u64 {
        self.send(0, 0, Kind::Reset);
        self.position
    }

    /// Everything up to `position` is stored: calls `due` for every acknowledgement that is due on this connection, in
    /// the order in which the messages came.
    pub fn committed(&mut self, position: u64, mut due: impl FnMut(Ack)) {
        while let Some(sent) = self
            .sent
            .front()
            .copied()
            .filter(|sent| sent.position <= position)
        {
            self.sent.pop_front();
            if let Some(ack) = self.stored(sent) {
                due(ack);
            }
        }
    }

    fn stored(&mut self, sent: Sent) -> Option<Ack> {
        let (id, here) = (sent.packet_id, sent.connection == self.connection);
        let ack = match sent.kind {
            Kind::AtMostOnce | Kind::Reset => return None,
            Kind::AtLeastOnce => Ack::PubAck(id),
            Kind::ExactlyOnce => Ack::PubRec(id),
            Kind::Release => Ack::PubComp(id),
            Kind::Answer(ack) => ack,
        };
        let messages = if matches!(ack, Ack::PubAck(_)) {
            &mut self.at_least_once
        } else {
            &mut self.exactly_once
        };
        // Another number: the id has been given to another message since, in a session of its own.
        let message = messages
            .get_mut(&id)
            .filter(|message| message.known.number == sent.number);
        if let Some(message) = message {
            match (sent.kind, ack, message.stage) {
                (Kind::Release, ..) => drop(messages.remove(&id)),
                (_, Ack::PubAck(_), _) if here => {
                    message.stage = Stage::Acknowledged;
                    self.remember_acknowledged(id, sent.number);
                }
                (Kind::AtLeastOnce, ..) | (Kind::ExactlyOnce, _, Stage::Storing) => {
                    message.stage = Stage::Stored
                }
                _ => {}
            }
        }
        here.then_some(ack)
    }

    fn take_number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }

    fn send(&mut self, packet_id: u16, number: u64, kind: Kind) {
        self.position += 1;
        self.sent.push_back(Sent {
            position: self.position,
            packet_id,
            number,
            kind,
            connection: self.connection,
        });
    }

    /// Queues an answer behind what has been given to the sink so far.
    fn answer(&mut self, packet_id: u16, number: u64, ack: Ack) {
        let (position, connection) = (self.position, self.connection);
        self.sent.push_back(Sent {
            position,
            packet_id,
            number,
            kind: Kind::Answer(ack),
            connection,
        });
    }

    /// Numbers are given in the order in which the broker sends, and acknowledgements go out in that order: what may be
    /// unacknowledged is at the end of the numbers. When `window` have followed, an acknowledgement has arrived.
    fn remember_acknowledged(&mut self, id: u16, number: u64) {
        match self.acknowledged.back() {
            Some((_, newest)) if *newest >= number => {
                if let Err(place) = self
                    .acknowledged
                    .binary_search_by_key(&number, |(_, number)| *number)
                {
                    self.acknowledged.insert(place, (id, number));
                }
            }
            _ => self.acknowledged.push_back((id, number)),
        }
        while self.acknowledged.len() > self.window {
            let Some((id, number)) = self.acknowledged.pop_front() else {
                return;
            };
            let old = |message: &Message| {
                message.known.number == number && message.stage == Stage::Acknowledged
            };
            if self.at_least_once.get(&id).is_some_and(old) {
                self.at_least_once.remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests;
