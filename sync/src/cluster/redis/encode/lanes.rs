//! Routes, inboxes and channels.

use std::sync::Arc;

use super::{Call, Chain, Class, Command, Encoder, Shape, key_of};
use crate::cluster::redis::resp::Writer;
use crate::cluster::redis::scripts::Script;
use crate::cluster::{Head, ReplicaId, Request, Route};

impl Encoder<'_> {
    pub(super) fn lanes(&self, request: &Request) -> Option<Command> {
        let mut writer = Writer::default();
        Some(match request {
            Request::PutRoutes {
                replica,
                version,
                changes,
                head,
            } => self.put_routes(*replica, *version, changes, head),
            Request::LoadRoutes { replica } => {
                let (base, slot) = self.0.replica(*replica);
                writer.command(&[b"MULTI"]);
                writer.command(&[b"GET", format!("{base}routes:version").as_bytes()]);
                writer.command(&[b"HGETALL", format!("{base}routes").as_bytes()]);
                writer.command(&[b"EXEC"]);
                let mut command =
                    Command::plain("LoadRoutes", Class::Free, Shape::Routes, slot, writer);
                command.answers = 4;
                command
            }
            Request::DropReplica { replica, from } => {
                let from = from.map_or_else(String::new, |from| format!("{}-{}", from.0, from.1));
                let mut command =
                    Call::new(Script::DropReplica, self.0.replica(*replica), 1, from.len())
                        .arg(from.as_bytes())
                        .finish("DropReplica", Class::Free, Shape::Flag);
                command.kept = true;
                command
            }
            Request::Inbox { to, frame } => {
                let (base, slot) = self.0.replica(*to);
                let key = format!("{base}inbox");
                writer = Writer::with_capacity(frame.len() + key.len() + 64);
                writer.command(&[b"XADD", key.as_bytes(), b"NOMKSTREAM", b"*", b"f", frame]);
                let mut command =
                    Command::plain("Inbox", Class::Grows, Shape::InboxEntry, slot, writer);
                command.kept = true;
                command.key = key_of(4, to.0);
                command
            }
            Request::ReadInbox {
                replica,
                after,
                limit,
            } => {
                let (base, slot) = self.0.replica(*replica);
                let key = format!("{base}inbox");
                let from = format!("({}-{}", after.0, after.1);
                let limit = limit.to_string();
                writer.command(&[
                    b"XRANGE",
                    key.as_bytes(),
                    from.as_bytes(),
                    b"+",
                    b"COUNT",
                    limit.as_bytes(),
                ]);
                Command::plain("ReadInbox", Class::Free, Shape::Inbox, slot, writer)
            }
            Request::TrimInbox { replica, from } => {
                let (base, slot) = self.0.replica(*replica);
                let key = format!("{base}inbox");
                let from = format!("{}-{}", from.0, from.1);
                writer.command(&[b"XTRIM", key.as_bytes(), b"MINID", from.as_bytes()]);
                Command::plain("TrimInbox", Class::Free, Shape::Done, slot, writer)
            }
            Request::Publish { to, frame } => self.publish(*to, frame),
            _ => return None,
        })
    }

    fn put_routes(
        &self,
        replica: ReplicaId,
        version: u64,
        changes: &[(Arc<str>, Route)],
        head: &Head,
    ) -> Command {
        let announced = routes_change(changes);
        let mut call = Call::new(
            Script::PutRoutes,
            self.0.replica(replica),
            5 + changes.len() * 2,
            announced.len() * 2,
        )
        .number(version);
        let after_at = call.writer.bytes.len() + 4;
        call = call
            .arg(&[0; 8])
            .arg(head)
            .arg(self.0.channel().as_bytes())
            .arg(&announced);
        for (filter, route) in changes {
            call = call.arg(filter.as_bytes());
            call = match route.is_empty() {
                true => call.arg(b""),
                false => {
                    let [low, high] = route.members.to_le_bytes();
                    call.arg(&[route.flags, low, high])
                }
            };
        }
        let mut command = call.finish("PutRoutes", Class::Grows, Shape::VersionOrFenced);
        command.after_at = after_at;
        command.chain = Some((Chain::Routes(replica.0), version));
        command.kept = true;
        command
    }

    /// A frame on a channel. In a cluster that of one replica is sharded.
    fn publish(&self, to: Option<ReplicaId>, frame: &[u8]) -> Command {
        let (name, channel, slot): (&[u8], _, _) = match to {
            None => (b"PUBLISH", self.0.channel().to_owned(), self.0.register().1),
            Some(to) if self.0.is_cluster() => (
                b"SPUBLISH",
                self.0.replica_channel(to),
                self.0.replica(to).1,
            ),
            Some(to) => (b"PUBLISH", self.0.replica_channel(to), 0),
        };
        let mut writer = Writer::with_capacity(frame.len() + channel.len() + 48);
        writer.command(&[name, channel.as_bytes(), frame]);
        Command::plain("Publish", Class::Publish, Shape::Done, slot, writer)
    }
}

/// Changes as they are announced: see [`crate::cluster::frame`].
fn routes_change(changes: &[(Arc<str>, Route)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(changes.iter().map(|(filter, _)| filter.len() + 5).sum());
    for (filter, route) in changes {
        let len = u16::try_from(filter.len()).unwrap_or(u16::MAX);
        out.push(route.flags);
        out.extend_from_slice(&route.members.to_le_bytes());
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(filter.as_bytes());
    }
    out
}
