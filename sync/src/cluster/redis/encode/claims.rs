//! Replicas, clients and wills.

use super::{Call, Class, Command, Encoder, SMALL_WILL, Shape, bucket_head};
use crate::cluster::redis::resp::Writer;
use crate::cluster::redis::scripts::Script;
use crate::cluster::{Bucket, ReleaseEnd, ReplicaId, Request, WillFate};

impl Encoder<'_> {
    /// The second step of joining: the keys of the replica itself.
    pub(in crate::cluster::redis) fn open(&self, replica: ReplicaId) -> Command {
        let mut command = Call::new(Script::Open, self.0.replica(replica), 0, 0).finish(
            "Join",
            Class::Free,
            Shape::Done,
        );
        command.kept = true;
        command
    }

    pub(super) fn register(&self, request: &Request) -> Option<Command> {
        let base = self.0.register();
        Some(match request {
            Request::Join {
                nonce,
                info,
                lease_ms,
            } => {
                let mut command = Call::new(Script::Join, base, 3, info.len())
                    .number(*nonce)
                    .arg(info)
                    .number(*lease_ms)
                    .finish("Join", Class::Free, Shape::Joined);
                command.kept = true;
                command
            }
            Request::Renew {
                replica,
                lease_ms,
                info,
            } => {
                let info = info.as_deref().unwrap_or_default();
                Call::new(Script::Renew, base, 3, info.len())
                    .number(replica.0)
                    .number(*lease_ms)
                    .arg(info)
                    .finish("Renew", Class::Free, Shape::Renewed)
            }
            Request::Reap { replica, force } => Call::new(Script::Reap, base, 2, 0)
                .number(replica.0)
                .number(u64::from(*force))
                .finish("Reap", Class::Free, Shape::Flag),
            Request::Lead { replica, lease_ms } => Call::new(Script::Lead, base, 2, 0)
                .number(replica.0)
                .number(*lease_ms)
                .finish("Lead", Class::Free, Shape::Flag),
            Request::Numbers { count } => Call::new(Script::Numbers, base, 1, 0)
                .number(*count)
                .finish("Numbers", Class::Free, Shape::Numbers),
            Request::Registry => Call::new(Script::Registry, base, 0, 0).finish(
                "Registry",
                Class::Free,
                Shape::Registry,
            ),
            _ => return None,
        })
    }

    pub(super) fn claim(&self, request: &Request) -> Option<Command> {
        let Request::Claim {
            client_id,
            replica,
            nonce,
            clean_start,
            expiry_interval,
            fresh,
            record,
            will,
            will_grace_ms,
            head,
        } = request
        else {
            return None;
        };
        let bucket = Bucket::of(client_id);
        let (delay, body) = match will {
            Some((delay, body)) => (*delay, &body[..]),
            None => (0, &[][..]),
        };
        let (script, class) = match body.len() <= SMALL_WILL {
            true => (Script::ClaimSmall, Class::Free),
            false => (Script::Claim, Class::Grows),
        };
        let size = client_id.len() + record.len() + body.len() + 128;
        let mut command = Call::new(script, self.0.bucket(bucket), 12, size)
            .arg(client_id.as_bytes())
            .number(replica.0)
            .number(*nonce)
            .number(u64::from(*clean_start))
            .number(u64::from(*expiry_interval))
            .number(fresh.0)
            .arg(record)
            .number(u64::from(delay))
            .arg(body)
            .number(*will_grace_ms)
            .arg(&bucket_head(head, bucket))
            .arg(self.0.channel().as_bytes())
            .finish("Claim", class, Shape::Claimed);
        command.kept = true;
        Some(command)
    }

    pub(super) fn ends(&self, request: &Request) -> Option<Command> {
        Some(match request {
            Request::Release {
                client_id,
                epoch,
                end,
                will,
                head,
            } => {
                let bucket = Bucket::of(client_id);
                let call = Call::new(Script::Release, self.0.bucket(bucket), 6, client_id.len())
                    .arg(client_id.as_bytes())
                    .number(epoch.0);
                let call = match end {
                    ReleaseEnd::Ends => call.arg(b""),
                    ReleaseEnd::Waits { expiry_interval } => {
                        call.number(u64::from(*expiry_interval))
                    }
                };
                let call = match will {
                    WillFate::Dropped => call.arg(b""),
                    WillFate::DueIn(ms) => call.number(*ms),
                };
                let mut command = call
                    .arg(&bucket_head(head, bucket))
                    .arg(self.0.channel().as_bytes())
                    .finish("Release", Class::Free, Shape::DoneOrFenced);
                command.kept = true;
                command
            }
            Request::Orphan {
                client_id,
                replica,
                head,
            } => {
                let bucket = Bucket::of(client_id);
                let mut command =
                    Call::new(Script::Orphan, self.0.bucket(bucket), 4, client_id.len())
                        .arg(client_id.as_bytes())
                        .number(replica.0)
                        .arg(&bucket_head(head, bucket))
                        .arg(self.0.channel().as_bytes())
                        .finish("Orphan", Class::Free, Shape::Done);
                command.kept = true;
                command
            }
            Request::Owned {
                bucket,
                replica,
                limit,
            } => {
                let (base, slot) = self.0.bucket(*bucket);
                let mut writer = Writer::default();
                writer.begin(3);
                writer.arg(b"SRANDMEMBER");
                writer.arg(format!("{base}owned:{}", replica.0).as_bytes());
                writer.number(u64::from(*limit));
                Command::plain("Owned", Class::Free, Shape::Clients, slot, writer)
            }
            Request::Due { bucket, limit } => Call::new(Script::Due, self.0.bucket(*bucket), 1, 0)
                .number(u64::from(*limit))
                .finish("Due", Class::Free, Shape::Due),
            Request::Expire { session, head } => {
                let bucket = Bucket::of_session(*session);
                let mut command = Call::new(Script::Expire, self.0.bucket(bucket), 3, 0)
                    .number(session.0)
                    .arg(&bucket_head(head, bucket))
                    .arg(self.0.channel().as_bytes())
                    .finish("Expire", Class::Free, Shape::Flag);
                command.kept = true;
                command
            }
            _ => return None,
        })
    }

    pub(super) fn wills(&self, request: &Request) -> Option<Command> {
        let mut writer = Writer::default();
        let wills = |bucket: &Bucket| {
            let (base, slot) = self.0.bucket(*bucket);
            (format!("{base}wills"), format!("{base}due"), slot)
        };
        Some(match request {
            Request::GetWill { bucket, epoch } => {
                let (key, _, slot) = wills(bucket);
                let field = epoch.0.to_string();
                writer.command(&[b"HGET", key.as_bytes(), field.as_bytes()]);
                Command::plain("GetWill", Class::Free, Shape::Will, slot, writer)
            }
            Request::PutWill {
                bucket,
                epoch,
                delay,
                body,
            } => {
                let (key, _, slot) = wills(bucket);
                let mut value = delay.to_le_bytes().to_vec();
                value.extend_from_slice(body);
                let field = epoch.0.to_string();
                writer.command(&[b"HSET", key.as_bytes(), field.as_bytes(), &value]);
                Command::plain("PutWill", Class::Grows, Shape::Done, slot, writer)
            }
            Request::DeleteWill { bucket, epoch } => {
                let (key, due, slot) = wills(bucket);
                let field = epoch.0.to_string();
                let member = format!("w:{}", epoch.0);
                writer.command(&[b"ZREM", due.as_bytes(), member.as_bytes()]);
                writer.command(&[b"HDEL", key.as_bytes(), field.as_bytes()]);
                let mut command =
                    Command::plain("DeleteWill", Class::Free, Shape::Done, slot, writer);
                command.answers = 2;
                command.kept = true;
                command
            }
            Request::Wills { bucket } => {
                let (key, _, slot) = wills(bucket);
                writer.command(&[b"HGETALL", key.as_bytes()]);
                Command::plain("Wills", Class::Free, Shape::Wills, slot, writer)
            }
            _ => return None,
        })
    }
}
