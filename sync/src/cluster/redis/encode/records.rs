//! Records.

use super::{Call, Class, Command, Encoder, Shape, bucket_head, key_of, ordered};
use crate::cluster::redis::resp::Writer;
use crate::cluster::redis::scripts::Script;
use crate::cluster::{Bucket, Head, Request};
use crate::records::{Expect, RecordKey, RecordPut};

impl Encoder<'_> {
    pub(super) fn records(&self, request: &Request) -> Option<Command> {
        Some(match request {
            Request::PutRecords {
                bucket,
                puts,
                name,
                head,
            } => self.put_records(*bucket, puts, *name, head),
            Request::GetRecords { bucket, keys } => {
                let size = keys.iter().map(|key| key.key.len() + 1).sum();
                let call = Call::new(Script::GetRecords, self.0.bucket(*bucket), keys.len(), size);
                keys.iter()
                    .fold(call, |call, key| call.arg(&place(key)))
                    .finish("GetRecords", Class::Free, Shape::Records(keys.len() as u32))
            }
            Request::RecordKeys { bucket, table } => {
                let (base, slot) = self.0.bucket(*bucket);
                let mut writer = Writer::default();
                let key = format!("{base}r:{}", table.code());
                writer.command(&[b"HKEYS", key.as_bytes()]);
                Command::plain("RecordKeys", Class::Free, Shape::RecordKeys, slot, writer)
            }
            Request::ExpireRecord { key, head } => {
                let bucket = key.bucket();
                let mut command = Call::new(
                    Script::ExpireRecord,
                    self.0.bucket(bucket),
                    4,
                    key.key.len(),
                )
                .number(u64::from(key.table.code()))
                .arg(key.key.as_bytes())
                .arg(&bucket_head(head, bucket))
                .arg(self.0.channel().as_bytes())
                .finish("ExpireRecord", Class::Free, Shape::Flag);
                command.kept = true;
                command
            }
            _ => return None,
        })
    }

    fn put_records(&self, bucket: Bucket, puts: &[RecordPut], name: u64, head: &Head) -> Command {
        let size: usize = puts
            .iter()
            .map(|put| put.key.key.len() + put.value.as_ref().map_or(0, bytes::Bytes::len) + 40)
            .sum();
        let grows = puts.iter().any(|put| put.value.is_some());
        let (script, class) = match grows {
            true => (Script::PutRecords, Class::Grows),
            false => (Script::DeleteRecords, Class::FreeInOrder),
        };
        let mut call = Call::new(script, self.0.bucket(bucket), 3 + puts.len() * 3, size)
            .number(name)
            .arg(&bucket_head(head, bucket))
            .arg(self.0.channel().as_bytes());
        for put in puts {
            call = call
                .arg(&what(put))
                .arg(put.key.key.as_bytes())
                .arg(put.value.as_deref().unwrap_or_default());
        }
        let shape = Shape::RecordsPut(puts.len() as u32);
        ordered(
            call.finish("PutRecords", class, shape),
            key_of(4, bucket.0),
            false,
        )
    }
}

fn place(key: &RecordKey) -> Vec<u8> {
    [&[key.table.code()], key.key.as_bytes()].concat()
}

/// What is to be done with a record.
fn what(put: &RecordPut) -> [u8; 20] {
    let (kind, revision) = match put.expect {
        Expect::Any => (0, 0),
        Expect::Absent => (1, 0),
        Expect::Revision(revision) => (2, revision),
    };
    let mut what = [0; 20];
    let ends = put.expires_at_ms.map_or(0, |end| end.max(1));
    let fields = [put.key.table.code(), kind]
        .into_iter()
        .chain(u64::to_le_bytes(revision))
        .chain(u64::to_le_bytes(ends))
        .chain([put.hint, u8::from(put.value.is_some())]);
    for (to, from) in what.iter_mut().zip(fields) {
        *to = from;
    }
    what
}
