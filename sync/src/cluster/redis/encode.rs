//! Requests as commands.

use std::hash::{BuildHasher, Hash};

use super::names::Names;
use super::resp::Writer;
use super::scripts::Script;
use crate::SessionId;
use crate::cluster::{
    Appending, Bucket, Epoch, Head, ReleaseEnd, ReplicaId, Request, Route, WillFate,
};

/// A will up to this size may be stored with a claim while Redis is full: clients must be able to come and
/// drain their queues.
const SMALL_WILL: usize = 1024;
/// `$9\r\n`, the control, `\r\n`.
const CONTROL_ARG: usize = 15;

/// What a command may do while Redis does not take everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Changes nothing, or frees memory: overtakes what waits for memory.
    Free,
    /// As [`Class::Free`], but not before an earlier command with the same key.
    FreeInOrder,
    /// Needs memory: waits while Redis is full, in order.
    Grows,
    /// Not repeated.
    Publish,
}

/// How the answer is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Done,
    DoneOrFenced,
    Flag,
    Numbers,
    Version,
    VersionOrFenced,
    Versions,
    /// One of the versions that are asked for one by one, by bucket.
    OneVersion(u16),
    Joined,
    Renewed,
    Registry,
    Claimed,
    Clients,
    Due,
    Will,
    Wills,
    Appended(u32),
    Queue,
    Session,
    Bucket,
    Routes,
    InboxEntry,
    Inbox,
}

/// Appends of one session, and route changes of one replica, are checked to be applied in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Chain {
    Queue(u64),
    Routes(u64),
}

/// Bytes for one connection, and what is to be known of them.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) bytes: Vec<u8>,
    pub(super) kind: &'static str,
    pub(super) class: Class,
    pub(super) shape: Shape,
    pub(super) slot: u16,
    /// Answers that come; the last one counts.
    pub(super) answers: u8,
    pub(super) script: Option<Script>,
    /// The last argument is the control.
    pub(super) controlled: bool,
    /// Is written again after a failover.
    pub(super) kept: bool,
    /// What must be applied in order, and its number.
    pub(super) chain: Option<(Chain, u64)>,
    /// Where the 8 bytes of the number are that must be applied before.
    after_at: usize,
    sha_at: usize,
    /// What it changes; commands of the same key keep their order. The last one wins if `replaces`.
    pub(super) key: u64,
    pub(super) replaces: bool,
}

impl Command {
    fn plain(kind: &'static str, class: Class, shape: Shape, slot: u16, writer: Writer) -> Self {
        Self {
            bytes: writer.bytes,
            kind,
            class,
            shape,
            slot,
            answers: 1,
            script: None,
            controlled: false,
            kept: false,
            chain: None,
            after_at: 0,
            sha_at: 0,
            key: 0,
            replaces: false,
        }
    }

    /// A command of the connection's own.
    pub(super) fn internal(kind: &'static str, writer: Writer) -> Self {
        Self::plain(kind, Class::Free, Shape::Done, 0, writer)
    }

    /// Appends the command to `out`, for a server of this name.
    pub(super) fn write(&self, out: &mut Vec<u8>, control: [u8; 9], after: u64) {
        let from = out.len();
        out.extend_from_slice(&self.bytes);
        if self.controlled {
            let end = out.len() - 2;
            if let Some(slot) = out.get_mut(end - 9..end) {
                slot.copy_from_slice(&control);
            }
        }
        if after > 0 && self.after_at > 0 {
            let at = from + self.after_at;
            if let Some(slot) = out.get_mut(at..at + 8) {
                slot.copy_from_slice(&after.to_le_bytes());
            }
        }
    }

    /// The same command as it is written again after a failover, with what its first answer was.
    pub(super) fn write_again(&self, out: &mut Vec<u8>, server: [u8; 8], memo: &[u8]) {
        let from = out.len();
        let Some(script) = self.script.filter(|_| self.controlled) else {
            out.extend_from_slice(&self.bytes);
            return;
        };
        let cut = self.bytes.len().saturating_sub(CONTROL_ARG);
        out.extend_from_slice(self.bytes.get(..cut).unwrap_or_default());
        if let Some(slot) = out.get_mut(from + self.sha_at..from + self.sha_at + 40) {
            slot.copy_from_slice(script.again().sha().as_bytes());
        }
        let mut tail = Writer::default();
        tail.arg(&[&control(server, b'2'), memo].concat());
        out.extend_from_slice(&tail.bytes);
    }
}

/// The control argument of scripts: who the server is, and whether a failover is being repaired.
pub(super) fn control(server: [u8; 8], mode: u8) -> [u8; 9] {
    let mut control = [mode; 9];
    for (to, from) in control.iter_mut().zip(server) {
        *to = from;
    }
    control
}

/// A script call in the making.
struct Call {
    writer: Writer,
    script: Script,
    slot: u16,
    sha_at: usize,
}

impl Call {
    /// `args` counts the arguments before the control.
    fn new(script: Script, (base, slot): (String, u16), args: usize, size: usize) -> Self {
        let mut writer = Writer::with_capacity(size + base.len() + args * 8 + 128);
        writer.begin(args + 5);
        writer.arg(b"EVALSHA");
        let sha_at = writer.bytes.len() + 5;
        writer.arg(script.sha().as_bytes());
        writer.arg(b"1");
        writer.arg(base.as_bytes());
        Self {
            writer,
            script,
            slot,
            sha_at,
        }
    }

    fn arg(mut self, bytes: &[u8]) -> Self {
        self.writer.arg(bytes);
        self
    }

    fn number(mut self, number: u64) -> Self {
        self.writer.number(number);
        self
    }

    fn finish(mut self, kind: &'static str, class: Class, shape: Shape) -> Command {
        self.writer.arg(&control([0; 8], b'0'));
        let mut command = Command::plain(kind, class, shape, self.slot, self.writer);
        command.script = Some(self.script);
        command.controlled = true;
        command.sha_at = self.sha_at;
        command
    }
}

/// Never 0, which is no key.
fn key_of(kind: u8, of: impl Hash) -> u64 {
    foldhash::fast::FixedState::with_seed(1).hash_one((kind, of)) | 1
}

/// Writes requests as commands.
pub(super) struct Encoder<'a>(pub(super) &'a Names);

impl Encoder<'_> {
    /// The command of a request; [`Request::Versions`] becomes several in a cluster.
    pub(super) fn encode(&self, request: &Request) -> Vec<Command> {
        vec![match request {
            Request::Versions if self.0.is_cluster() => {
                return Bucket::all()
                    .map(|bucket| self.one_version(bucket))
                    .collect();
            }
            Request::Versions => self.versions(),
            Request::Join { .. }
            | Request::Renew { .. }
            | Request::Reap { .. }
            | Request::Lead { .. }
            | Request::Registry
            | Request::Numbers { .. } => self.register(request),
            Request::Claim { .. } => self.claim(request),
            Request::Release { .. }
            | Request::Orphan { .. }
            | Request::Owned { .. }
            | Request::Due { .. }
            | Request::Expire { .. } => self.ends(request),
            Request::GetWill { .. }
            | Request::PutWill { .. }
            | Request::Wills { .. }
            | Request::DeleteWill { .. } => self.wills(request),
            Request::PutSession { .. }
            | Request::PutRecord { .. }
            | Request::DeleteSession { .. }
            | Request::PutRetained { .. }
            | Request::DeleteRetained { .. }
            | Request::LoadBucket { .. } => self.tables(request),
            Request::Append { .. }
            | Request::Settle { .. }
            | Request::ReadQueue { .. }
            | Request::GetSession { .. } => self.queues(request),
            Request::PutRoutes { .. }
            | Request::LoadRoutes { .. }
            | Request::DropReplica { .. }
            | Request::Inbox { .. }
            | Request::ReadInbox { .. }
            | Request::TrimInbox { .. }
            | Request::Publish { .. } => self.lanes(request),
        }]
    }

    fn one_version(&self, bucket: Bucket) -> Command {
        let (base, slot) = self.0.bucket(bucket);
        let mut writer = Writer::default();
        writer.command(&[b"GET", format!("{base}version").as_bytes()]);
        Command::plain(
            "Versions",
            Class::Free,
            Shape::OneVersion(bucket.0),
            slot,
            writer,
        )
    }

    fn versions(&self) -> Command {
        let mut writer = Writer::default();
        writer.begin(usize::from(crate::cluster::BUCKETS) + 1);
        writer.arg(b"MGET");
        for bucket in Bucket::all() {
            writer.arg(format!("{}version", self.0.bucket(bucket).0).as_bytes());
        }
        Command::plain("Versions", Class::Free, Shape::Versions, 0, writer)
    }

    /// The second step of joining: the keys of the replica itself.
    pub(super) fn open(&self, replica: ReplicaId) -> Command {
        let mut command = Call::new(Script::Open, self.0.replica(replica), 0, 0).finish(
            "Join",
            Class::Free,
            Shape::Done,
        );
        command.kept = true;
        command
    }

    fn register(&self, request: &Request) -> Command {
        let base = self.0.register();
        match request {
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
            _ => Call::new(Script::Registry, base, 0, 0).finish(
                "Registry",
                Class::Free,
                Shape::Registry,
            ),
        }
    }

    fn claim(&self, request: &Request) -> Command {
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
            return self.versions();
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
        command
    }

    fn ends(&self, request: &Request) -> Command {
        match request {
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
            _ => self.versions(),
        }
    }

    fn wills(&self, request: &Request) -> Command {
        let mut writer = Writer::default();
        let wills = |bucket: &Bucket| {
            let (base, slot) = self.0.bucket(*bucket);
            (format!("{base}wills"), format!("{base}due"), slot)
        };
        match request {
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
            _ => self.versions(),
        }
    }

    fn tables(&self, request: &Request) -> Command {
        let channel = self.0.channel().as_bytes();
        match request {
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
            Request::LoadBucket { bucket } => self.load_bucket(*bucket),
            _ => self.versions(),
        }
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

    fn queues(&self, request: &Request) -> Command {
        match request {
            Request::Append {
                session,
                origin,
                max_messages,
                max_bytes,
                entries,
            } => self.append(*session, *origin, (*max_messages, *max_bytes), entries),
            Request::Settle { .. } => self.settle(request),
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
            Request::GetSession { session } => {
                let (base, slot) = self.0.bucket(Bucket::of_session(*session));
                let mut writer = Writer::default();
                writer.command(&[b"HGETALL", format!("{base}s:{}", session.0).as_bytes()]);
                Command::plain("GetSession", Class::Free, Shape::Session, slot, writer)
            }
            _ => self.versions(),
        }
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
            .arg(format!("o{}", origin.0).as_bytes())
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

    fn settle(&self, request: &Request) -> Command {
        let Request::Settle {
            session,
            epoch,
            dequeue,
            release,
            inbound_put,
            inbound_delete,
        } = request
        else {
            return self.versions();
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
        command
    }

    fn lanes(&self, request: &Request) -> Command {
        let mut writer = Writer::default();
        match request {
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
            Request::DropReplica { replica } => {
                let (base, slot) = self.0.replica(*replica);
                let keys = ["routes", "routes:version", "inbox"].map(|key| format!("{base}{key}"));
                let [routes, version, inbox] = keys.each_ref().map(|key| key.as_bytes());
                writer.command(&[b"UNLINK", routes, version, inbox]);
                let mut command =
                    Command::plain("DropReplica", Class::Free, Shape::Done, slot, writer);
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
            _ => self.versions(),
        }
    }

    fn put_routes(
        &self,
        replica: ReplicaId,
        version: u64,
        changes: &[(std::sync::Arc<str>, Route)],
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
    pub(super) fn publish(&self, to: Option<ReplicaId>, frame: &[u8]) -> Command {
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

fn ordered(mut command: Command, key: u64, replaces: bool) -> Command {
    command.key = key;
    command.replaces = replaces;
    command.kept = true;
    command
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

fn epoch_arg(call: Call, epoch: Option<Epoch>) -> Call {
    match epoch {
        Some(epoch) => call.number(epoch.0),
        None => call.arg(b""),
    }
}

/// Head of a frame about a table, up to the bucket.
fn bucket_head(head: &Head, bucket: Bucket) -> [u8; 14] {
    let mut whole = [0; 14];
    for (to, from) in whole
        .iter_mut()
        .zip(head.iter().chain(&bucket.0.to_le_bytes()))
    {
        *to = *from;
    }
    whole
}

/// Changes as they are announced: see [`crate::cluster::frame`].
fn routes_change(changes: &[(std::sync::Arc<str>, Route)]) -> Vec<u8> {
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
