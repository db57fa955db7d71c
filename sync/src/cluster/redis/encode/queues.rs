//! Queues of sessions.

use bytes::Bytes;

use super::{Call, Chain, Class, Command, Encoder, Shape, epoch_arg};
use crate::SessionId;
use crate::cluster::redis::resp::Writer;
use crate::cluster::redis::scripts::Script;
use crate::cluster::{Appending, Bucket, ReplicaId, Request};

impl Encoder<'_> {
    pub(super) fn queues(&self, request: &Request) -> Option<Command> {
        Some(match request {
            Request::Append {
                session,
                origin,
                max_messages,
                max_bytes,
                entries,
            } => self.append(*session, *origin, (*max_messages, *max_bytes), entries),
            Request::Settle { .. } => return self.settle(request),
            Request::ReadQueue {
                session,
                from,
                limit,
            } => {
                let base = self.0.bucket(Bucket::of_session(*session));
                Call::new(Script::ReadQueue, base, 3, 0)
                    .number(session.0)
                    .number(*from)
                    .number(u64::from(*limit))
                    .finish("ReadQueue", Class::Free, Shape::Queue)
            }
            Request::Restore { session, entries } => self.restore(*session, entries),
            Request::GetSession { session } => {
                let (base, slot) = self.0.bucket(Bucket::of_session(*session));
                let mut writer = Writer::default();
                writer.command(&[b"HGETALL", format!("{base}s:{}", session.0).as_bytes()]);
                Command::plain("GetSession", Class::Free, Shape::Session, slot, writer)
            }
            _ => return None,
        })
    }

    fn append(
        &self,
        session: SessionId,
        origin: ReplicaId,
        (max_messages, max_bytes): (u64, u64),
        entries: &[Appending],
    ) -> Command {
        let base = self.0.bucket(Bucket::of_session(session));
        let size: usize = entries.iter().map(|entry| entry.body.len() + 48).sum();
        let mut numbers = Vec::with_capacity(32 + entries.len() * 9);
        for number in [max_messages, max_bytes, 0] {
            numbers.extend_from_slice(&number.to_le_bytes());
        }
        let plain = entries.iter().all(|entry| entry.once.is_none());
        numbers.push(u8::from(plain));
        for entry in entries {
            numbers.extend_from_slice(&entry.number.to_le_bytes());
            numbers.push(u8::from(entry.once.is_some()));
            if let Some((publisher, count)) = entry.once {
                numbers.extend_from_slice(&publisher.to_le_bytes());
                numbers.extend_from_slice(&count.to_le_bytes());
            }
        }
        if entries.is_empty() {
            numbers.push(0);
        }
        let last = entries.last().map_or(0, |entry| entry.number);
        numbers.extend_from_slice(&last.to_le_bytes());
        let mut call = Call::new(Script::Append, base, 3 + entries.len(), size)
            .number(session.0)
            .letter_and_number(b'o', origin.0)
            .arg(&numbers);
        // The third of the numbers.
        let after_at = call.writer.bytes.len() - 2 - numbers.len() + 16;
        for entry in entries {
            call = call.arg(&entry.body);
        }
        let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        let mut command = call.finish("Append", Class::Grows, Shape::Appended(count));
        command.after_at = after_at;
        command.chain = entries
            .last()
            .map(|last| (Chain::Queue(session.0), last.number));
        command.kept = true;
        command
    }

    fn restore(&self, session: SessionId, entries: &[(u64, Bytes)]) -> Command {
        let base = self.0.bucket(Bucket::of_session(session));
        let size: usize = entries.iter().map(|(_, body)| body.len() + 24).sum();
        let numbers: Vec<u8> = entries
            .iter()
            .flat_map(|(seq, _)| seq.to_le_bytes())
            .collect();
        let mut call = Call::new(Script::Restore, base, 2 + entries.len(), size)
            .number(session.0)
            .arg(&numbers);
        for (_, body) in entries {
            call = call.arg(body);
        }
        let mut command = call.finish("Restore", Class::Free, Shape::Done);
        command.kept = true;
        command
    }

    fn settle(&self, request: &Request) -> Option<Command> {
        let Request::Settle {
            session,
            epoch,
            dequeue,
            release,
            inbound_put,
            inbound_delete,
        } = request
        else {
            return None;
        };
        let (script, class) = match inbound_put.is_empty() {
            true => (Script::Settle, Class::Free),
            false => (Script::SettleGrowing, Class::Grows),
        };
        let base = self.0.bucket(Bucket::of_session(*session));
        let lists = settle_lists(dequeue, release, inbound_put, inbound_delete);
        let call = epoch_arg(
            Call::new(script, base, 3, lists.len()).number(session.0),
            *epoch,
        )
        .arg(&lists);
        let mut command = call.finish("Settle", class, Shape::DoneOrFenced);
        command.kept = true;
        Some(command)
    }
}

/// How many of each, and then all of them.
fn settle_lists(
    dequeue: &[u64],
    release: &[u64],
    inbound_put: &[(u16, u64)],
    inbound_delete: &[u16],
) -> Vec<u8> {
    let counts = [
        dequeue.len(),
        release.len(),
        inbound_put.len(),
        inbound_delete.len(),
    ];
    let mut lists = Vec::with_capacity(16 + counts.iter().sum::<usize>() * 10);
    for count in counts {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        lists.extend_from_slice(&count.to_le_bytes());
    }
    for seq in dequeue.iter().chain(release) {
        lists.extend_from_slice(&seq.to_le_bytes());
    }
    for (id, count) in inbound_put {
        lists.extend_from_slice(&id.to_le_bytes());
        lists.extend_from_slice(&count.to_le_bytes());
    }
    for id in inbound_delete {
        lists.extend_from_slice(&id.to_le_bytes());
    }
    lists
}
