//! Random changes to an embedded store and to maps in memory, with reopening at random moments:
//! both must hold the same.
#![allow(
    clippy::unwrap_used,
    reason = "a test that meets the unexpected has to stop"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use dunlin_protocol::QoS;
use dunlin_sync::testing::{Driver, samples};
use dunlin_sync::{
    Delivery, EmbeddedOptions, EmbeddedStore, Message, Op, QueueState, SessionId, SessionRecord,
    SubscriptionRecord, WillRecord,
};
use proptest::prelude::*;

/// Sessions that the changes are about; some exist, some do not.
const SLOTS: usize = 4;

#[derive(Clone, Debug)]
enum Step {
    PutSession {
        slot: usize,
        epoch: u64,
    },
    DeleteSession {
        slot: usize,
    },
    PutSubscription {
        slot: usize,
        filter: u8,
        options: u8,
    },
    DeleteSubscription {
        slot: usize,
        filter: u8,
    },
    /// To each of the slots in the mask, in one batch.
    Enqueue {
        mask: u8,
        size: usize,
        qos: u8,
    },
    /// The n-th live entry of the queue.
    Release {
        slot: usize,
        nth: usize,
    },
    Dequeue {
        slot: usize,
        nth: usize,
    },
    PutInbound {
        slot: usize,
        packet_id: u16,
    },
    DeleteInbound {
        slot: usize,
        packet_id: u16,
    },
    PutRetained {
        topic: u8,
        size: usize,
    },
    DeleteRetained {
        topic: u8,
    },
    PutWill {
        client: u8,
        slot: usize,
    },
    DeleteWill {
        client: u8,
    },
    /// The changes so far are one batch.
    Commit,
    Reopen {
        close: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let slot = || 0..SLOTS;
    let size = || prop_oneof![4 => 0usize..50, 1 => 1000usize..5000];
    prop_oneof![
        3 => (slot(), any::<u64>()).prop_map(|(slot, epoch)| Step::PutSession { slot, epoch }),
        1 => slot().prop_map(|slot| Step::DeleteSession { slot }),
        2 => (slot(), 0u8..6, any::<u8>())
            .prop_map(|(slot, filter, options)| Step::PutSubscription { slot, filter, options }),
        1 => (slot(), 0u8..6)
            .prop_map(|(slot, filter)| Step::DeleteSubscription { slot, filter }),
        12 => (1u8..16, size(), 1u8..3)
            .prop_map(|(mask, size, qos)| Step::Enqueue { mask, size, qos }),
        3 => (slot(), 0usize..8).prop_map(|(slot, nth)| Step::Release { slot, nth }),
        8 => (slot(), 0usize..8).prop_map(|(slot, nth)| Step::Dequeue { slot, nth }),
        2 => (slot(), 1u16..6)
            .prop_map(|(slot, packet_id)| Step::PutInbound { slot, packet_id }),
        2 => (slot(), 1u16..6)
            .prop_map(|(slot, packet_id)| Step::DeleteInbound { slot, packet_id }),
        2 => (0u8..6, size()).prop_map(|(topic, size)| Step::PutRetained { topic, size }),
        1 => (0u8..6).prop_map(|topic| Step::DeleteRetained { topic }),
        1 => (0u8..4, slot()).prop_map(|(client, slot)| Step::PutWill { client, slot }),
        1 => (0u8..4).prop_map(|client| Step::DeleteWill { client }),
        12 => Just(Step::Commit),
        3 => any::<bool>().prop_map(|close| Step::Reopen { close }),
    ]
}

#[derive(Debug, Clone)]
struct ModelEntry {
    state: QueueState,
    delivery: Delivery,
    message: Option<Arc<Message>>,
}

#[derive(Debug, Default)]
struct ModelSession {
    record: Option<SessionRecord>,
    subscriptions: BTreeMap<Box<str>, SubscriptionRecord>,
    inbound: BTreeSet<u16>,
    queue: BTreeMap<u64, ModelEntry>,
    tail: u64,
}

/// What a store holds, in maps.
#[derive(Default)]
struct Model {
    slots: [Option<SessionId>; SLOTS],
    sessions: BTreeMap<SessionId, ModelSession>,
    retained: BTreeMap<String, Arc<Message>>,
    wills: BTreeMap<Arc<str>, WillRecord>,
}

impl Model {
    fn session(&mut self, slot: usize) -> Option<(SessionId, &mut ModelSession)> {
        let id = self.slots[slot]?;
        self.sessions.get_mut(&id).map(|session| (id, session))
    }

    /// An id that was never stored, for changes that must have no effect.
    fn id_of(&self, slot: usize) -> SessionId {
        self.slots[slot].unwrap_or(SessionId(u64::MAX - slot as u64))
    }

    /// Applies a step and adds the same as operations.
    fn apply(&mut self, step: &Step, driver: &Driver, ops: &mut Vec<Op>) {
        match *step {
            Step::PutSession { slot, epoch } => {
                let id = *self.slots[slot].get_or_insert_with(|| driver.store().next_session_id());
                let mut record = samples::session(id, &format!("client {slot}"));
                record.epoch = epoch;
                self.sessions.entry(id).or_default().record = Some(record.clone());
                ops.push(Op::PutSession(record));
            }
            Step::DeleteSession { slot } => {
                let id = self.id_of(slot);
                self.sessions.remove(&id);
                self.slots[slot] = None;
                ops.push(Op::DeleteSession(id));
            }
            Step::PutSubscription {
                slot,
                filter,
                options,
            } => {
                let record = samples::subscription(&format!("filter/{filter}"), options);
                if let Some((_, session)) = self.session(slot) {
                    session
                        .subscriptions
                        .insert(record.filter.clone(), record.clone());
                }
                ops.push(Op::PutSubscription(self.id_of(slot), record));
            }
            Step::DeleteSubscription { slot, filter } => {
                let filter = format!("filter/{filter}").into_boxed_str();
                if let Some((_, session)) = self.session(slot) {
                    session.subscriptions.remove(&filter);
                }
                ops.push(Op::DeleteSubscription(self.id_of(slot), filter));
            }
            Step::Enqueue { mask, size, qos } => self.enqueue(mask, size, qos, ops),
            Step::Release { slot, nth } => {
                if let Some((session, seq, entry)) = self.nth_entry(slot, nth) {
                    *entry = ModelEntry {
                        state: QueueState::Released,
                        delivery: Delivery::plain(QoS::ExactlyOnce),
                        message: None,
                    };
                    ops.push(Op::Release { session, seq });
                }
            }
            Step::Dequeue { slot, nth } => {
                if let Some((session, seq, _)) = self.nth_entry(slot, nth) {
                    self.sessions.get_mut(&session).unwrap().queue.remove(&seq);
                    ops.push(Op::Dequeue { session, seq });
                }
            }
            Step::PutInbound { slot, packet_id } => {
                if let Some((_, session)) = self.session(slot) {
                    session.inbound.insert(packet_id);
                }
                let session = self.id_of(slot);
                ops.push(Op::PutInboundQos2 {
                    session,
                    packet_id,
                    count: 0,
                });
            }
            Step::DeleteInbound { slot, packet_id } => {
                if let Some((_, session)) = self.session(slot) {
                    session.inbound.remove(&packet_id);
                }
                let session = self.id_of(slot);
                ops.push(Op::DeleteInboundQos2 { session, packet_id });
            }
            Step::PutRetained { topic, size } => {
                let topic = format!("topic/{topic}");
                let message = samples::full_message(&topic, &vec![1; size]);
                self.retained.insert(topic, Arc::clone(&message));
                ops.push(Op::PutRetained(message));
            }
            Step::DeleteRetained { topic } => {
                let topic = format!("topic/{topic}");
                self.retained.remove(&topic);
                ops.push(Op::DeleteRetained(topic.into()));
            }
            Step::PutWill { client, slot } => {
                let will = samples::will(&format!("client {client}"), self.slots[slot]);
                self.wills.insert(Arc::clone(&will.client_id), will.clone());
                ops.push(Op::PutWill(will));
            }
            Step::DeleteWill { client } => {
                let client_id: Arc<str> = format!("client {client}").into();
                self.wills.remove(&client_id);
                ops.push(Op::DeleteWill { client_id });
            }
            Step::Commit | Step::Reopen { .. } => {}
        }
    }

    fn nth_entry(&mut self, slot: usize, nth: usize) -> Option<(SessionId, u64, &mut ModelEntry)> {
        let (id, session) = self.session(slot)?;
        let (seq, entry) = session.queue.iter_mut().nth(nth)?;
        Some((id, *seq, entry))
    }

    fn enqueue(&mut self, mask: u8, size: usize, qos: u8, ops: &mut Vec<Op>) {
        let message = samples::full_message("queued", &vec![2; size]);
        for slot in (0..SLOTS).filter(|slot| mask & (1 << slot) != 0) {
            let delivery = Delivery {
                qos: QoS::try_from(qos).unwrap(),
                ..samples::full_delivery()
            };
            if let Some((_, session)) = self.session(slot) {
                let entry = ModelEntry {
                    state: QueueState::Queued,
                    delivery: delivery.clone(),
                    message: Some(Arc::clone(&message)),
                };
                session.queue.insert(session.tail, entry);
                session.tail += 1;
            }
            ops.push(Op::Enqueue {
                session: self.id_of(slot),
                delivery,
                message: Arc::clone(&message),
                once: None,
            });
        }
    }

    fn compare_queues(&self, driver: &Driver) {
        for (id, session) in &self.sessions {
            let read = driver.read_all(*id);
            assert_eq!(read.len(), session.queue.len());
            for (entry, (seq, expected)) in read.iter().zip(&session.queue) {
                assert_eq!(entry.seq, *seq);
                assert_eq!(entry.state, expected.state);
                assert_eq!(entry.delivery, expected.delivery);
                assert_eq!(entry.message, expected.message);
            }
        }
    }

    /// Compares what was found at opening, and takes over how far numbers were skipped.
    fn compare_recovered(&mut self, driver: &Driver) {
        let recovered = driver.store().recover().unwrap();
        let ids: Vec<_> = recovered
            .sessions
            .iter()
            .map(|found| found.record.id)
            .collect();
        assert_eq!(ids, self.sessions.keys().copied().collect::<Vec<_>>());
        for found in &recovered.sessions {
            let expected = self.sessions.get_mut(&found.record.id).unwrap();
            assert_eq!(Some(&found.record), expected.record.as_ref());
            let subscriptions: Vec<_> = expected.subscriptions.values().cloned().collect();
            assert_eq!(found.subscriptions, subscriptions);
            let inbound: Vec<_> = expected.inbound.iter().copied().collect();
            assert_eq!(found.inbound_qos2, inbound);
            assert_eq!(found.queue_len, expected.queue.len() as u64);
            assert!(found.queue_tail >= expected.tail);
            expected.tail = found.queue_tail;
            let head = expected.queue.keys().next().copied();
            assert_eq!(found.queue_head, head.unwrap_or(found.queue_tail));
            let messages = expected
                .queue
                .values()
                .filter_map(|entry| entry.message.as_ref());
            let bytes: usize = messages.map(|message| message.size()).sum();
            assert_eq!(found.queue_bytes, bytes as u64);
        }
        assert_eq!(
            recovered.retained,
            self.retained.values().cloned().collect::<Vec<_>>()
        );
        assert_eq!(
            recovered.wills,
            self.wills.values().cloned().collect::<Vec<_>>()
        );
    }
}

fn open(path: &Path, write_buffer_bytes: u64) -> Driver {
    let options = EmbeddedOptions {
        write_buffer_bytes,
        ..EmbeddedOptions::default()
    };
    Driver::new(Arc::new(EmbeddedStore::open(path, &options).unwrap()))
}

fn run(steps: &[Step], write_buffer_bytes: u64) {
    let directory = tempfile::tempdir().unwrap();
    let mut model = Model::default();
    let mut driver = open(directory.path(), write_buffer_bytes);
    let mut ops = Vec::new();
    for step in steps {
        model.apply(step, &driver, &mut ops);
        match step {
            Step::Commit => {
                driver.commit(std::mem::take(&mut ops));
                model.compare_queues(&driver);
            }
            Step::Reopen { close } => {
                driver.commit(std::mem::take(&mut ops));
                if *close {
                    driver.store().close().unwrap();
                }
                drop(driver);
                driver = open(directory.path(), write_buffer_bytes);
                model.compare_recovered(&driver);
                model.compare_queues(&driver);
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_store_holds_what_maps_in_memory_hold(steps in proptest::collection::vec(step(), 1..150)) {
        run(&steps, 32 << 20);
    }

    #[test]
    fn a_store_with_small_tables_holds_what_maps_in_memory_hold(
        steps in proptest::collection::vec(step(), 100..400)
    ) {
        run(&steps, 8 << 10);
    }
}
