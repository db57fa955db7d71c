//! Requests as commands.

mod claims;
mod lanes;
mod queues;
mod records;
mod tables;
mod taps;

use std::hash::{BuildHasher, Hash};

use super::names::Names;
use super::resp::{Writer, decimal};
use super::scripts::Script;
use crate::cluster::{Bucket, Epoch, Head, Request};

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
    TapAppended(u32),
    RecordsPut(u32),
    Records(u32),
    RecordKeys,
    TapLeased,
    TapRead,
    TapSeen,
    TapMembers,
    TapKnownBy,
}

/// Appends of one session or to one partition, and route changes of one replica, are checked to be applied in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Chain {
    Queue(u64),
    Routes(u64),
    Tap(u64),
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
    fn new(script: Script, (base, slot): (impl AsRef<str>, u16), args: usize, size: usize) -> Self {
        let base = base.as_ref();
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

    fn letter_and_number(mut self, letter: u8, number: u64) -> Self {
        let mut digits = [0; 20];
        let digits = decimal(number, &mut digits);
        let mut text = [letter; 21];
        for (to, from) in text.iter_mut().skip(1).zip(digits) {
            *to = *from;
        }
        self.writer
            .arg(text.get(..=digits.len()).unwrap_or_default());
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
pub(super) struct Encoder<'a>(pub(in crate::cluster::redis) &'a Names);

impl Encoder<'_> {
    /// The command of a request; [`Request::Versions`] becomes several in a cluster.
    pub(super) fn encode(&self, request: &Request) -> Vec<Command> {
        let command = match request {
            Request::Versions if self.0.is_cluster() => {
                return Bucket::all()
                    .map(|bucket| self.one_version(bucket))
                    .collect();
            }
            Request::Versions => Some(self.versions()),
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
            | Request::ExpireRetained { .. }
            | Request::LoadBucket { .. } => self.tables(request),
            Request::PutRecords { .. }
            | Request::GetRecords { .. }
            | Request::RecordKeys { .. }
            | Request::ExpireRecord { .. } => self.records(request),
            Request::Append { .. }
            | Request::Settle { .. }
            | Request::ReadQueue { .. }
            | Request::Restore { .. }
            | Request::GetSession { .. } => self.queues(request),
            Request::PutRoutes { .. }
            | Request::LoadRoutes { .. }
            | Request::DropReplica { .. }
            | Request::Inbox { .. }
            | Request::ReadInbox { .. }
            | Request::TrimInbox { .. }
            | Request::Publish { .. } => self.lanes(request),
            Request::Tap(request) => Some(self.tap(request)),
        };
        command.into_iter().collect()
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
}

fn ordered(mut command: Command, key: u64, replaces: bool) -> Command {
    command.key = key;
    command.replaces = replaces;
    command.kept = true;
    command
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
