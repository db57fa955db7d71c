//! Retained messages and the records of sessions.

use super::{Call, Chain, Class, Command, Encoder, Shape, bucket_head, epoch_arg, key_of, ordered};
use crate::cluster::redis::resp::Writer;
use crate::cluster::redis::scripts::Script;
use crate::cluster::{Bucket, Request};

impl Encoder<'_> {
    pub(super) fn tables(&self, request: &Request) -> Option<Command> {
        let channel = self.0.channel().as_bytes();
        Some(match request {
            Request::PutSession {
                session,
                client_id,
                expiry_interval,
                epoch,
                record,
                head,
            } => {
                let bucket = Bucket::of_session(*session);
                let size = client_id.len() + record.len();
                let call = Call::new(Script::PutSession, self.0.bucket(bucket), 7, size)
                    .number(session.0)
                    .arg(client_id.as_bytes())
                    .number(u64::from(*expiry_interval))
                    .number(epoch.0)
                    .arg(record)
                    .arg(&bucket_head(head, bucket))
                    .arg(channel);
                let mut command = ordered(
                    call.finish("PutSession", Class::Grows, Shape::Done),
                    key_of(1, session.0),
                    false,
                );
                // An append from before there was a session is none that must be there.
                command.chain = Some((Chain::Queue(session.0), 0));
                command
            }
            Request::PutRecord {
                session,
                epoch,
                record,
                head,
            } => {
                let bucket = Bucket::of_session(*session);
                let call = Call::new(Script::PutRecord, self.0.bucket(bucket), 5, record.len())
                    .number(session.0)
                    .number(epoch.0)
                    .arg(record)
                    .arg(&bucket_head(head, bucket))
                    .arg(channel);
                ordered(
                    call.finish("PutRecord", Class::Grows, Shape::VersionOrFenced),
                    key_of(2, (session.0, epoch.0)),
                    true,
                )
            }
            Request::DeleteSession {
                session,
                epoch,
                head,
            } => {
                let bucket = Bucket::of_session(*session);
                let call = epoch_arg(
                    Call::new(Script::DeleteSession, self.0.bucket(bucket), 4, 0).number(session.0),
                    *epoch,
                )
                .arg(&bucket_head(head, bucket))
                .arg(channel);
                ordered(
                    call.finish("DeleteSession", Class::FreeInOrder, Shape::DoneOrFenced),
                    key_of(1, session.0),
                    false,
                )
            }
            Request::PutRetained { topic, body, head } => {
                let bucket = Bucket::of(topic);
                let size = topic.len() + body.len();
                let call = Call::new(Script::PutRetained, self.0.bucket(bucket), 4, size)
                    .arg(topic.as_bytes())
                    .arg(body)
                    .arg(&bucket_head(head, bucket))
                    .arg(channel);
                ordered(
                    call.finish("PutRetained", Class::Grows, Shape::Version),
                    key_of(3, topic),
                    true,
                )
            }
            Request::DeleteRetained { topic, head } => {
                let bucket = Bucket::of(topic);
                let call = Call::new(
                    Script::DeleteRetained,
                    self.0.bucket(bucket),
                    3,
                    topic.len(),
                )
                .arg(topic.as_bytes())
                .arg(&bucket_head(head, bucket))
                .arg(channel);
                ordered(
                    call.finish("DeleteRetained", Class::FreeInOrder, Shape::Version),
                    key_of(3, topic),
                    true,
                )
            }
            Request::ExpireRetained { topic, head } => {
                let bucket = Bucket::of(topic);
                Call::new(
                    Script::ExpireRetained,
                    self.0.bucket(bucket),
                    3,
                    topic.len(),
                )
                .arg(topic.as_bytes())
                .arg(&bucket_head(head, bucket))
                .arg(channel)
                .finish("ExpireRetained", Class::Free, Shape::Flag)
            }
            Request::LoadBucket { bucket } => self.load_bucket(*bucket),
            _ => return None,
        })
    }

    fn load_bucket(&self, bucket: Bucket) -> Command {
        let (base, slot) = self.0.bucket(bucket);
        let mut writer = Writer::default();
        writer.command(&[b"MULTI"]);
        writer.command(&[b"GET", format!("{base}version").as_bytes()]);
        for table in ["retained", "records", "owners"] {
            writer.command(&[b"HGETALL", format!("{base}{table}").as_bytes()]);
        }
        writer.command(&[b"EXEC"]);
        let mut command = Command::plain("LoadBucket", Class::Free, Shape::Bucket, slot, writer);
        command.answers = 6;
        command
    }
}
