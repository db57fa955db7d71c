//! Scenarios, and a model of broker, network and disk in which everything breaks at random.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::batch::{Batch, entries};
use crate::row::{Delivery, Row, UserProperties};

fn acks(session: &mut Session, position: u64) -> Vec<Ack> {
    let mut due = Vec::new();
    session.committed(position, |ack| due.push(ack));
    due
}

fn fresh() -> Session {
    let mut session = Session::new(&Ledger::new(10), 10);
    session.connected(false);
    session
}

#[test]
fn acknowledgements_come_after_the_commit_and_in_order() {
    let mut session = fresh();
    assert_eq!(session.handle_at_least_once(7, false, 1), Verdict::New(1));
    assert_eq!(session.handle_exactly_once(3, 2), Verdict::New(2));
    session.handle_at_most_once();
    assert_eq!(session.handle_at_least_once(8, false, 3), Verdict::New(4));
    assert_eq!(acks(&mut session, 0), []);
    assert_eq!(acks(&mut session, 2), [Ack::PubAck(7), Ack::PubRec(3)]);
    assert_eq!(acks(&mut session, 4), [Ack::PubAck(8)]);
}

#[test]
fn a_qos_2_message_sent_again_before_its_release_is_answered_and_not_stored() {
    let mut session = fresh();
    session.handle_exactly_once(3, 9);
    acks(&mut session, 1);
    session.connected(true);
    assert_eq!(session.handle_exactly_once(3, 9), Verdict::Known);
    assert_eq!(acks(&mut session, 1), [Ack::PubRec(3)]);
    assert_eq!(session.handle_release(3), Release::Store);
    assert_eq!(session.handle_release(3), Release::Known);
    assert_eq!(acks(&mut session, 2), [Ack::PubComp(3)]);
    assert_eq!(session.handle_release(3), Release::Known);
    assert_eq!(acks(&mut session, 2), [Ack::PubCompUnknown(3)]);
    assert_eq!(session.handle_exactly_once(3, 9), Verdict::New(2));
}

#[test]
fn a_qos_1_message_whose_puback_was_never_sent_is_not_stored_again() {
    let mut session = fresh();
    session.handle_at_least_once(3, false, 9);
    session.handle_at_least_once(4, false, 9);
    session.connected(true);
    assert_eq!(
        session.handle_at_least_once(3, true, 9),
        Verdict::Known,
        "still on its way to the sink"
    );
    assert_eq!(
        acks(&mut session, 2),
        [Ack::PubAck(3)],
        "4 has not come on this connection yet"
    );
    assert_eq!(session.handle_at_least_once(4, true, 9), Verdict::Known);
    assert_eq!(acks(&mut session, 2), [Ack::PubAck(4)]);
}

#[test]
fn an_answer_to_something_stored_waits_for_its_turn() {
    let mut session = fresh();
    session.handle_at_least_once(3, false, 9);
    session.disconnected();
    assert_eq!(acks(&mut session, 1), []);
    session.connected(true);
    session.handle_at_least_once(2, true, 5);
    session.handle_at_least_once(3, true, 9);
    session.handle_release(7);
    assert_eq!(acks(&mut session, 1), []);
    assert_eq!(
        acks(&mut session, 2),
        [Ack::PubAck(2), Ack::PubAck(3), Ack::PubCompUnknown(7)]
    );
}

#[test]
fn a_qos_1_message_whose_puback_may_have_been_lost_is_stored_again_under_its_number() {
    let mut session = fresh();
    session.handle_at_least_once(3, false, 9);
    acks(&mut session, 1);
    session.connected(true);
    assert_eq!(session.handle_at_least_once(3, true, 9), Verdict::Again(1));
    assert_eq!(acks(&mut session, 2), [Ack::PubAck(3)]);
    assert_eq!(
        session.handle_at_least_once(3, false, 9),
        Verdict::New(2),
        "without DUP it is another message"
    );
    assert_eq!(
        session.handle_at_least_once(3, true, 8),
        Verdict::New(3),
        "with other content, too"
    );
}

#[test]
fn nothing_is_acknowledged_to_a_session_that_did_not_send_it() {
    let mut session = fresh();
    session.handle_at_least_once(3, false, 9);
    session.handle_exactly_once(4, 9);
    session.connected(false);
    session.handle_reset();
    assert_eq!(session.handle_at_least_once(3, true, 9), Verdict::New(3));
    assert_eq!(acks(&mut session, 3), []);
    assert_eq!(acks(&mut session, 4), [Ack::PubAck(3)]);
    assert_eq!(session.handle_release(4), Release::Known);
    assert_eq!(acks(&mut session, 4), [Ack::PubCompUnknown(4)]);
}

#[test]
fn what_is_remembered_of_qos_1_has_a_bound() {
    let mut session = fresh();
    for id in 1..=1000 {
        session.handle_at_least_once(id, false, u64::from(id));
        acks(&mut session, u64::from(id));
    }
    assert!(session.at_least_once.len() <= 11 && session.acknowledged.len() <= 11);
}

/// One step of the model.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// The broker sends what it can.
    Send,
    /// This many packets arrive at the adapter.
    Arrive(usize),
    /// The sink commits this many entries.
    Commit(usize),
    /// This many acknowledgements arrive at the broker.
    Acknowledge(usize),
    /// The connection breaks, everything on its way is lost, and a new one resumes the session.
    Break,
    /// The adapter dies, everything not committed is lost, and a new one resumes the session.
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Send),
        6 => (1usize..5).prop_map(Step::Arrive),
        6 => (1usize..5).prop_map(Step::Commit),
        6 => (1usize..5).prop_map(Step::Acknowledge),
        1 => Just(Step::Break),
        1 => Just(Step::Kill),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flight {
    Publish,
    Release,
}

#[derive(Debug, Clone, Copy)]
enum Packet {
    Publish {
        id: u16,
        qos: u8,
        dup: bool,
        content: u64,
    },
    Release(u16),
}

/// A broker as the specification wants it: few packet ids, so that they are used again soon.
#[derive(Default)]
struct Broker {
    queue: VecDeque<(u64, u8)>,
    /// In the order of sending, which is the order of sending again.
    flying: Vec<(u16, u64, u8, Flight)>,
    wire: VecDeque<Packet>,
}

const IDS: u16 = 4;

impl Broker {
    fn send(&mut self) {
        while let Some(id) = (1..=IDS).find(|id| self.flying.iter().all(|flying| flying.0 != *id)) {
            let Some((content, qos)) = self.queue.pop_front() else {
                return;
            };
            self.flying.push((id, content, qos, Flight::Publish));
            self.wire.push_back(Packet::Publish {
                id,
                qos,
                dup: false,
                content,
            });
        }
    }

    fn resume(&mut self) {
        self.wire.clear();
        for (id, content, qos, flight) in &self.flying {
            self.wire.push_back(match flight {
                Flight::Publish => Packet::Publish {
                    id: *id,
                    qos: *qos,
                    dup: true,
                    content: *content,
                },
                Flight::Release => Packet::Release(*id),
            });
        }
    }

    fn acknowledged(&mut self, ack: Ack) {
        match ack {
            Ack::PubAck(id) => {
                let at = self
                    .flying
                    .iter()
                    .position(|f| f.2 == 1)
                    .expect("PUBACK for nothing in flight");
                // [MQTT-4.6.0-2].
                assert_eq!(self.flying[at].0, id, "PUBACK out of turn");
                self.flying.remove(at);
            }
            Ack::PubRec(id) => {
                // A second PUBREC, after the PUBREL: the PUBREL is sent again.
                if let Some(flying) = self.flying.iter_mut().find(|f| f.0 == id && f.2 == 2) {
                    flying.3 = Flight::Release;
                    self.wire.push_back(Packet::Release(id));
                }
            }
            Ack::PubComp(id) | Ack::PubCompUnknown(id) => {
                self.flying
                    .retain(|f| f.0 != id || f.2 != 2 || f.3 != Flight::Release);
            }
        }
    }
}

struct Model {
    broker: Broker,
    session: Session,
    ledger: Ledger,
    /// Entries given to the sink: position, bytes.
    sink: VecDeque<(u64, Batch)>,
    acks: VecDeque<Ack>,
    /// Position up to which the sink has committed in this process.
    committed: u64,
    /// (number, content, qos) of every committed row.
    rows: Vec<(u64, u64, u8)>,
}

impl Model {
    fn new(messages: &[u8]) -> Self {
        let ledger = Ledger::new(IDS);
        let mut session = Session::new(&ledger, IDS);
        session.connected(false);
        let queue = messages
            .iter()
            .enumerate()
            .map(|(content, qos)| (content as u64, *qos))
            .collect();
        let broker = Broker {
            queue,
            ..Broker::default()
        };
        Self {
            broker,
            session,
            ledger,
            sink: VecDeque::new(),
            acks: VecDeque::new(),
            committed: 0,
            rows: Vec::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Send => self.broker.send(),
            Step::Arrive(count) => (0..count).for_each(|_| self.arrive()),
            Step::Commit(count) => (0..count).for_each(|_| self.commit()),
            Step::Acknowledge(count) => {
                for ack in self.acks.drain(..count.min(self.acks.len())) {
                    self.broker.acknowledged(ack);
                }
            }
            Step::Break => {
                self.acks.clear();
                self.session.connected(true);
                self.broker.resume();
            }
            Step::Kill => {
                self.acks.clear();
                self.sink.clear();
                self.committed = 0;
                self.session = Session::new(&self.ledger, IDS);
                self.session.connected(true);
                self.broker.resume();
            }
        }
    }

    fn arrive(&mut self) {
        let mut batch = Batch::default();
        match self.broker.wire.pop_front() {
            None => return,
            Some(Packet::Publish {
                id,
                qos,
                dup,
                content,
            }) => {
                let (verdict, delivery) = match qos {
                    1 => (
                        self.session.handle_at_least_once(id, dup, content),
                        Delivery::AtLeastOnce(id),
                    ),
                    _ => (
                        self.session.handle_exactly_once(id, content),
                        Delivery::ExactlyOnce(id),
                    ),
                };
                match verdict {
                    Verdict::New(number) | Verdict::Again(number) => {
                        batch.push_row(self.session.position(), &row(number, delivery, content));
                    }
                    Verdict::Known => return self.answer(),
                }
            }
            Some(Packet::Release(id)) => match self.session.handle_release(id) {
                Release::Store => batch.push_released(self.session.position(), id),
                Release::Known => return self.answer(),
            },
        }
        self.sink.push_back((self.session.position(), batch));
    }

    fn commit(&mut self) {
        let Some((position, batch)) = self.sink.pop_front() else {
            return;
        };
        for entry in entries(batch.as_bytes()) {
            let entry = entry.unwrap();
            self.ledger.apply(&entry).unwrap();
            if let crate::batch::Entry::Row(row) = entry {
                let row = row.decode().unwrap();
                self.rows
                    .push((row.number, row.fingerprint, row.delivery.qos()));
            }
        }
        self.committed = position;
        self.answer();
    }

    fn answer(&mut self) {
        let acks = &mut self.acks;
        self.session
            .committed(self.committed, |ack| acks.push_back(ack));
    }
}

fn row(number: u64, delivery: Delivery, fingerprint: u64) -> Row<'static> {
    Row {
        received_at: 0,
        number,
        delivery,
        fingerprint,
        retain: false,
        topic: "t",
        payload: b"",
        client_id: None,
        tenant: None,
        device_id: None,
        content_type: None,
        response_topic: None,
        origin: None,
        correlation_data: None,
        user_properties: UserProperties::default(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn whatever_breaks_qos_2_is_exactly_once_and_qos_1_at_least_once(
        messages in proptest::collection::vec(1u8..=2, 1..40),
        steps in proptest::collection::vec(step(), 0..300),
    ) {
        let mut model = Model::new(&messages);
        for step in steps {
            model.step(step);
        }
        // From here on nothing breaks any more, and everything must come to its end.
        for _ in 0..20 * messages.len() + 100 {
            for step in [Step::Send, Step::Arrive(10), Step::Commit(10), Step::Acknowledge(10)] {
                model.step(step);
            }
        }
        prop_assert!(model.broker.flying.is_empty() && model.broker.queue.is_empty(), "something is in flight for ever");
        prop_assert!(model.ledger.taken().is_empty(), "packet ids stay taken: {:?}", model.ledger.taken());
        let mut counts = BTreeMap::new();
        let mut numbers = BTreeMap::new();
        for (number, content, _) in &model.rows {
            *counts.entry(*content).or_insert(0) += 1;
            numbers.entry(*content).or_insert_with(BTreeSet::new).insert(*number);
        }
        for (content, qos) in messages.iter().enumerate() {
            let count = counts.get(&(content as u64)).copied().unwrap_or_default();
            prop_assert!(count >= 1, "message {} was lost", content);
            prop_assert!(count == 1 || *qos == 1, "QoS 2 message {} is there {} times", content, count);
            prop_assert_eq!(numbers[&(content as u64)].len(), 1, "message {} has more than one number", content);
        }
        let all: BTreeSet<_> = model.rows.iter().map(|(number, ..)| number).collect();
        prop_assert_eq!(all.len(), messages.len(), "two messages share a number");
    }
}
