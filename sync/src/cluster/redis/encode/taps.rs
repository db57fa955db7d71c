//! Taps.

use super::{Call, Chain, Class, Command, Encoder, Shape, key_of};
use crate::cluster::frame::{Kind, head};
use crate::cluster::redis::resp::Writer;
use crate::cluster::redis::scripts::Script;
use crate::cluster::tap::{TapBound, TapPartition, TapRequest};
use crate::cluster::{Appending, ReplicaId};

impl Encoder<'_> {
    pub(super) fn tap(&self, request: &TapRequest) -> Command {
        match request {
            TapRequest::Append {
                to,
                origin,
                attempt,
                bound,
                entries,
            } => self.tap_append(to, *origin, *attempt, *bound, entries),
            TapRequest::Lease {
                of,
                consumer,
                epoch,
                lease_ms,
                grace_ms,
            } => Call::new(Script::TapLease, self.0.tap_partition(of), 4, 64)
                .number(*consumer)
                .number(*epoch)
                .number(*lease_ms)
                .number(*grace_ms)
                .finish("TapLease", Class::Free, Shape::TapLeased),
            TapRequest::Release { of, epoch } => {
                Call::new(Script::TapRelease, self.0.tap_partition(of), 1, 16)
                    .number(*epoch)
                    .finish("TapRelease", Class::Free, Shape::Done)
            }
            TapRequest::Read {
                of,
                epoch,
                from,
                max_bytes,
            } => Call::new(Script::TapRead, self.0.tap_partition(of), 3, 48)
                .number(*epoch)
                .number(*from)
                .number(*max_bytes)
                .finish("TapRead", Class::Free, Shape::TapRead),
            TapRequest::Acknowledge {
                of,
                epoch,
                upto,
                number,
                checkpoint,
            } => {
                let base = self.0.tap_partition(of);
                let mut command = Call::new(Script::TapAcknowledge, base, 4, checkpoint.len() + 32)
                    .number(*epoch)
                    .number(*upto)
                    .number(*number)
                    .arg(checkpoint)
                    .finish("TapAcknowledge", Class::Free, Shape::DoneOrFenced);
                command.kept = true;
                command
            }
            TapRequest::Look { of } => Call::new(Script::TapLook, self.0.tap_partition(of), 0, 0)
                .finish("TapLook", Class::Free, Shape::TapSeen),
            TapRequest::Member {
                tap,
                consumer,
                lease_ms,
            } => Call::new(Script::TapMember, self.0.tap(tap), 2, 32)
                .number(*consumer)
                .number(*lease_ms)
                .finish("TapMember", Class::Free, Shape::TapMembers),
            TapRequest::Known {
                tap,
                replica,
                revision,
            } => Call::new(Script::TapKnown, self.0.tap(tap), 2, 32)
                .number(replica.0)
                .number(*revision)
                .finish("TapKnown", Class::Free, Shape::Done),
            TapRequest::WhoKnows { tap } => {
                let (base, slot) = self.0.tap(tap);
                let mut writer = Writer::default();
                writer.command(&[b"HGETALL", format!("{base}known").as_bytes()]);
                Command::plain("TapWhoKnows", Class::Free, Shape::TapKnownBy, slot, writer)
            }
        }
    }

    fn tap_append(
        &self,
        to: &TapPartition,
        origin: ReplicaId,
        attempt: u32,
        bound: TapBound,
        entries: &[Appending],
    ) -> Command {
        let plain = entries.iter().all(|entry| entry.once.is_none());
        let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        let first = entries.first().map_or(0, |entry| entry.number);
        let last = entries.last().map_or(0, |entry| entry.number);
        let mut numbers = Vec::with_capacity(64);
        for number in [bound.messages, bound.bytes, 0] {
            numbers.extend_from_slice(&number.to_le_bytes());
        }
        numbers.extend_from_slice(&attempt.to_le_bytes());
        numbers.extend_from_slice(&[u8::from(plain), u8::from(bound.drop_oldest)]);
        numbers.extend_from_slice(&count.to_le_bytes());
        numbers.extend_from_slice(&first.to_le_bytes());
        numbers.extend_from_slice(&last.to_le_bytes());
        if !plain {
            for entry in entries {
                numbers.extend_from_slice(&entry.number.to_le_bytes());
                let length = u32::try_from(entry.body.len()).unwrap_or(u32::MAX);
                numbers.extend_from_slice(&length.to_le_bytes());
                numbers.push(u8::from(entry.once.is_some()));
                if let Some((publisher, count)) = entry.once {
                    numbers.extend_from_slice(&publisher.to_le_bytes());
                    numbers.extend_from_slice(&count.to_le_bytes());
                }
            }
        }
        let head = head(Kind::Tap, origin);
        let size = head.len() + entries.iter().map(|entry| entry.body.len()).sum::<usize>();
        let mut call = Call::new(
            Script::TapAppend,
            self.0.tap_partition(to),
            3,
            size + numbers.len() + 96,
        )
        .letter_and_number(b'o', origin.0)
        .arg(&numbers);
        // The third of the numbers.
        let after_at = call.writer.bytes.len() - 2 - numbers.len() + 16;
        let bodies = entries.iter().map(|entry| &entry.body[..]);
        call.writer
            .arg_of(size, std::iter::once(&head[..]).chain(bodies));
        let mut command = call.finish("TapAppend", Class::Grows, Shape::TapAppended(count));
        command.after_at = after_at;
        command.chain = Some((Chain::Tap(key_of(5, to)), last));
        command.kept = true;
        command
    }
}
