//! The vocabulary between a replica and Redis: atomic steps, each within one hash slot.
//!
//! Every request may be repeated: after a lost connection it is not known whether it took effect, so
//! the backplane sends it again, and the answer must be as good as the first.
//!
//! Times are Redis' own (`TIME`, in milliseconds): the clocks of replicas decide nothing.

use std::sync::Arc;

use bytes::Bytes;

use super::tap::{TapReply, TapRequest};
use super::{Bucket, Epoch, ReplicaId, Route};
use crate::SessionId;
use crate::records::{PutOutcome, Record, RecordKey, RecordPut, Table};

/// First bytes of the frames that a step announces on `sync`: see [`super::frame`].
pub type Head = [u8; 12];

/// One message of an [`Request::Append`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appending {
    /// Number of the append at its origin: rises with every append of a replica. One that is not
    /// above the last applied one of (session, origin) is left out.
    pub number: u64,
    /// QoS 2 publishes of persistent sessions and wills: (publisher, count) that rises with each
    /// publish of that publisher; one that is not above the last applied one is left out. The publisher
    /// is a session number, or for a will (bucket, epoch) in one number counted down from `u64::MAX`, with 1 as
    /// count.
    pub once: Option<(u64, u64)>,
    /// Encoded queue entry.
    pub body: Bytes,
}

/// What becomes of a session when its client is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseEnd {
    /// It ends now, with everything.
    Ends,
    /// It waits this many seconds; `u32::MAX`: for ever.
    Waits {
        /// Session Expiry Interval.
        expiry_interval: u32,
    },
}

/// What becomes of the will of a claim that is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WillFate {
    /// There is none, or it is not to be published.
    Dropped,
    /// It is due in so many milliseconds: [`Request::Due`] finds it then.
    DueIn(u64),
}

/// Something whose time has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DueItem {
    /// A session's expiry interval has passed.
    Session(SessionId),
    /// A will is to be published: the epoch that it belongs to.
    Will(Epoch),
    /// The time of a record is over.
    Record {
        /// Number of its table, which a newer version may have made.
        code: u8,
        /// Its key.
        key: Arc<str>,
    },
}

/// An atomic step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A new replica: draws its number, takes its lease, makes its inbox. → [`Reply::Joined`]
    Join {
        /// Drawn at random: a repetition finds its number by it.
        nonce: u64,
        /// What `cluster status` shows, at most 4 KiB.
        info: Bytes,
        /// Length of the lease, in milliseconds.
        lease_ms: u64,
    },
    /// Extends the lease; brings it back if it has lapsed but nobody has reaped the replica.
    /// → [`Reply::Renewed`]
    Renew {
        /// Who.
        replica: ReplicaId,
        /// Length of the lease, in milliseconds.
        lease_ms: u64,
        /// Replaces what `cluster status` shows.
        info: Option<Bytes>,
    },
    /// Takes a replica off the register if its lease has lapsed, or at once if `force` (it leaves by
    /// itself). → [`Reply::Flag`]: it is off the register now.
    Reap {
        /// Who.
        replica: ReplicaId,
        /// Whether the lease is not looked at.
        force: bool,
    },
    /// Takes or extends the lease of the one replica that sweeps. → [`Reply::Flag`]: it has it.
    Lead {
        /// Who.
        replica: ReplicaId,
        /// Length of the lease, in milliseconds.
        lease_ms: u64,
    },
    /// All replicas on the register. → [`Reply::Registry`]
    Registry,
    /// Draws `count` numbers for sessions. → [`Reply::Numbers`]: the first one.
    Numbers {
        /// How many.
        count: u64,
    },

    /// A connection claims its client id. → [`Reply::Claimed`]
    Claim {
        /// Who claims.
        client_id: Arc<str>,
        /// For which replica.
        replica: ReplicaId,
        /// Drawn at random: a repetition gets the answer of the first.
        nonce: u64,
        /// What is there is deleted.
        clean_start: bool,
        /// Seconds that the session outlives the connection.
        expiry_interval: u32,
        /// Number of the session, if one is to be made.
        fresh: SessionId,
        /// Record of the session, if one is to be made: encoded [`super::SessionEntry`].
        record: Bytes,
        /// Delay in seconds, and encoded will.
        will: Option<(u32, Bytes)>,
        /// An old connection's will is left to the claimer for so long.
        will_grace_ms: u64,
        /// For the announcements.
        head: Head,
    },
    /// The connection is over. → [`Reply::Done`] or [`Reply::Fenced`]
    Release {
        /// Who.
        client_id: Arc<str>,
        /// The claim.
        epoch: Epoch,
        /// What becomes of the session.
        end: ReleaseEnd,
        /// What becomes of the will.
        will: WillFate,
        /// For the announcements.
        head: Head,
    },
    /// As [`Request::Release`], for a client of a replica that is no more: with the expiry interval and
    /// the will's delay that are stored. → [`Reply::Done`]; nothing happens if somebody has claimed it since.
    Orphan {
        /// Who.
        client_id: Arc<str>,
        /// The replica that is no more.
        replica: ReplicaId,
        /// For the announcements.
        head: Head,
    },
    /// Clients claimed by a replica, in any order. → [`Reply::Clients`]
    Owned {
        /// Of this bucket.
        bucket: Bucket,
        /// By whom.
        replica: ReplicaId,
        /// At most so many.
        limit: u32,
    },
    /// What is due. → [`Reply::Due`]
    Due {
        /// Of this bucket.
        bucket: Bucket,
        /// At most so many.
        limit: u32,
    },
    /// Ends a session that is due and that nobody has claimed. → [`Reply::Flag`]: it has ended now.
    Expire {
        /// Which.
        session: SessionId,
        /// For the announcements.
        head: Head,
    },
    /// A stored will. → [`Reply::Will`]
    GetWill {
        /// Of this bucket.
        bucket: Bucket,
        /// Of this claim.
        epoch: Epoch,
    },
    /// Stores a will outside of a claim. → [`Reply::Done`]
    PutWill {
        /// Of this bucket.
        bucket: Bucket,
        /// Of this claim.
        epoch: Epoch,
        /// Delay in seconds.
        delay: u32,
        /// Encoded will.
        body: Bytes,
    },
    /// All stored wills. → [`Reply::Wills`]
    Wills {
        /// Of this bucket.
        bucket: Bucket,
    },
    /// A will is published, or not to be. → [`Reply::Done`]
    DeleteWill {
        /// Of this bucket.
        bucket: Bucket,
        /// Of this claim.
        epoch: Epoch,
    },

    /// Creates or replaces a persistent session outside of a claim. → [`Reply::Done`]
    PutSession {
        /// Which.
        session: SessionId,
        /// Its client.
        client_id: Arc<str>,
        /// As in CONNECT.
        expiry_interval: u32,
        /// Fencing number.
        epoch: Epoch,
        /// Encoded [`super::SessionEntry`].
        record: Bytes,
        /// For the announcements.
        head: Head,
    },
    /// Replaces the record (subscriptions) of a session. → [`Reply::Version`], or [`Reply::Fenced`] if
    /// it has another epoch now or is gone.
    PutRecord {
        /// Which.
        session: SessionId,
        /// The claim.
        epoch: Epoch,
        /// Encoded [`super::SessionEntry`].
        record: Bytes,
        /// For the announcements.
        head: Head,
    },
    /// Deletes a session with everything, whoever has it if `epoch` is `None`. → [`Reply::Done`] or
    /// [`Reply::Fenced`]
    DeleteSession {
        /// Which.
        session: SessionId,
        /// The claim.
        epoch: Option<Epoch>,
        /// For the announcements.
        head: Head,
    },
    /// Changes records, each if what it expects is there. → [`Reply::RecordsPut`]
    PutRecords {
        /// All of this bucket, and each key once.
        bucket: Bucket,
        /// What, in order.
        puts: Arc<[RecordPut]>,
        /// Of this call: a repetition within a minute gets the answer of the first.
        name: u64,
        /// For the announcements.
        head: Head,
    },
    /// Reads records. → [`Reply::Records`]
    GetRecords {
        /// All of this bucket.
        bucket: Bucket,
        /// Which.
        keys: Vec<RecordKey>,
    },
    /// Keys of a table, in any order, those of records whose time is over included. → [`Reply::RecordKeys`]
    RecordKeys {
        /// In this bucket.
        bucket: Bucket,
        /// Which.
        table: Table,
    },
    /// Removes a record whose time is over. → [`Reply::Flag`]: it is removed now.
    ExpireRecord {
        /// Which.
        key: RecordKey,
        /// For the announcements.
        head: Head,
    },
    /// Appends to a session's queue. → [`Reply::Appended`]
    Append {
        /// Whose queue.
        session: SessionId,
        /// Who appends.
        origin: ReplicaId,
        /// Bound of the queue: messages.
        max_messages: u64,
        /// Bound of the queue: bytes of the bodies.
        max_bytes: u64,
        /// What, in order.
        entries: Vec<Appending>,
    },
    /// What the client of a session has acknowledged, and the QoS 2 packet ids of its own publishes.
    /// → [`Reply::Done`] or [`Reply::Fenced`]
    Settle {
        /// Whose queue.
        session: SessionId,
        /// The claim; `None`: whoever has it.
        epoch: Option<Epoch>,
        /// Entries that are done with, ascending.
        dequeue: Vec<u64>,
        /// Entries of which only the PUBREL is owed, ascending.
        release: Vec<u64>,
        /// Packet ids to remember, with the publisher's count.
        inbound_put: Vec<(u16, u64)>,
        /// Packet ids to forget.
        inbound_delete: Vec<u16>,
    },
    /// Entries of a queue. → [`Reply::Queue`]
    ReadQueue {
        /// Whose queue.
        session: SessionId,
        /// First sequence number.
        from: u64,
        /// At most so many.
        limit: u32,
    },
    /// Entries of a queue that were read shortly before a failover, from the other server: if it has lost them
    /// they go back to their places, and the [`Request::Append`] that had made them, should it have had no
    /// answer and come again, is answered as repeated. → [`Reply::Done`]
    Restore {
        /// Whose queue.
        session: SessionId,
        /// Sequence number and encoded entry.
        entries: Vec<(u64, Bytes)>,
    },
    /// What is known of a session beside its record and its queue. → [`Reply::Session`]
    GetSession {
        /// Which.
        session: SessionId,
    },

    /// Sets the retained message of a topic. → [`Reply::Version`]
    PutRetained {
        /// The topic.
        topic: Arc<str>,
        /// Encoded message.
        body: Bytes,
        /// For the announcements.
        head: Head,
    },
    /// Removes the retained message of a topic. → [`Reply::Version`]
    DeleteRetained {
        /// The topic.
        topic: Arc<str>,
        /// For the announcements.
        head: Head,
    },
    /// Removes the retained message of a topic, if it has expired by the server's clock. → [`Reply::Flag`]: it is removed now.
    ExpireRetained {
        /// The topic.
        topic: Arc<str>,
        /// For the announcements.
        head: Head,
    },
    /// Versions of buckets. → [`Reply::Versions`], in the order asked.
    Versions,
    /// A whole bucket. → [`Reply::Bucket`]
    LoadBucket {
        /// Which.
        bucket: Bucket,
    },

    /// Changes routes of a replica; a [`Route`] that [is empty](Route::is_empty) is removed.
    /// → [`Reply::Version`], or [`Reply::Fenced`] if the replica is not on the register's side any more
    /// (its routes were dropped).
    PutRoutes {
        /// Whose.
        replica: ReplicaId,
        /// Version after the change: one above the one before. A repetition changes nothing.
        version: u64,
        /// What.
        changes: Vec<(Arc<str>, Route)>,
        /// For the announcements.
        head: Head,
    },
    /// All routes of a replica. → [`Reply::Routes`]
    LoadRoutes {
        /// Whose.
        replica: ReplicaId,
    },
    /// Deletes the routes and the inbox of a replica that is off the register. → [`Reply::Flag`]: it is done; else
    /// somebody has put something into the inbox that is to be read first.
    DropReplica {
        /// Whose.
        replica: ReplicaId,
        /// Nothing may be in the inbox from this position on; `None`: whatever is there.
        from: Option<(u64, u64)>,
    },
    /// Appends a frame to a replica's inbox. → [`Reply::Flag`]: the replica has an inbox.
    Inbox {
        /// Whose.
        to: ReplicaId,
        /// The frame.
        frame: Bytes,
    },
    /// Frames of an inbox, from the first after `after` (`(0, 0)`: from the first). → [`Reply::Inbox`]
    ReadInbox {
        /// Whose.
        replica: ReplicaId,
        /// Position as in [`BackplaneEvent::Inbox`](super::BackplaneEvent::Inbox).
        after: (u64, u64),
        /// At most so many.
        limit: u32,
    },
    /// Forgets the frames of an inbox below a position. → [`Reply::Done`]
    TrimInbox {
        /// Whose.
        replica: ReplicaId,
        /// First position to keep.
        from: (u64, u64),
    },
    /// Publishes a frame on `sync`, or on the channel of one replica. → [`Reply::Done`]. Not repeated
    /// when it is unknown whether it was published.
    Publish {
        /// To whom; `None`: all.
        to: Option<ReplicaId>,
        /// The frame.
        frame: Bytes,
    },
    /// Of a tap: see [`TapRequest`].
    Tap(TapRequest),
}

/// A replica on the register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryEntry {
    /// Its number.
    pub replica: ReplicaId,
    /// As it was given.
    pub info: Bytes,
    /// Milliseconds that its lease has left; 0: it has lapsed.
    pub lease_ms: u64,
}

/// Fields of a session in Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionFields {
    /// Seconds it outlives its connection.
    pub expiry_interval: u32,
    /// Claim that it has or had last.
    pub epoch: Epoch,
    /// Who has it; 0: nobody.
    pub owner: ReplicaId,
    /// First entry of its queue that is there.
    pub head: u64,
    /// Next entry of its queue.
    pub tail: u64,
    /// Entries in its queue.
    pub len: u64,
    /// Bytes in its queue.
    pub bytes: u64,
    /// QoS 2 packet ids that its client has not released, with the publisher's count.
    pub inbound: Vec<(u16, u64)>,
}

/// Who has a client id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerEntry {
    /// The client.
    pub client_id: Arc<str>,
    /// Who has it; 0: nobody.
    pub replica: ReplicaId,
    /// Claim that it has or had last.
    pub epoch: Epoch,
    /// Its persistent session, if any.
    pub session: Option<SessionId>,
}

/// What became of a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is done.
    Done,
    /// The claim is another's now; nothing was changed.
    Fenced,
    /// Yes or no: see the request.
    Flag(bool),
    /// A number, or the first of a block.
    Numbers(u64),
    /// The version after the change.
    Version(u64),
    /// See [`Request::Versions`]: of all buckets, ascending.
    Versions(Vec<u64>),
    /// See [`Request::Join`].
    Joined {
        /// Its number.
        replica: ReplicaId,
    },
    /// See [`Request::Renew`].
    Renewed {
        /// `false`: the replica was reaped, and must join anew.
        alive: bool,
        /// Nobody has reaped it: Redis has lost the register, and probably everything else. See
        /// [`Backplane::lost_everything`](crate::cluster::Backplane::lost_everything).
        lost: bool,
        /// A replica has joined a server that took over in the last 30 seconds: those whose lease has lapsed may
        /// have something to write again.
        changed: bool,
        /// Replicas whose lease runs, ascending, the asking one included.
        live: Vec<ReplicaId>,
        /// Replicas on the register whose lease has lapsed, ascending.
        lapsed: Vec<ReplicaId>,
        /// Redis' clock, Unix time in milliseconds.
        now_ms: u64,
    },
    /// See [`Request::Registry`]; ascending.
    Registry(Vec<RegistryEntry>),
    /// See [`Request::Claim`].
    Claimed {
        /// The new claim.
        epoch: Epoch,
        /// The persistent session that is used now, if any.
        session: Option<SessionId>,
        /// It was there before.
        present: bool,
        /// Who had the client id, and under which claim; (0, 0): nobody.
        previous: (ReplicaId, Epoch),
        /// The session's fields, if there is one.
        fields: SessionFields,
        /// The session's record, if it was there before.
        record: Option<Bytes>,
        /// An old connection's will that the claimer is to publish now, with its epoch.
        old_will: Option<(Epoch, Bytes)>,
    },
    /// See [`Request::Owned`].
    Clients(Vec<Arc<str>>),
    /// See [`Request::Due`].
    Due(Vec<DueItem>),
    /// See [`Request::GetWill`].
    Will(Option<Bytes>),
    /// See [`Request::Wills`].
    Wills(Vec<(Epoch, Bytes)>),
    /// See [`Request::Append`].
    Appended {
        /// Who has the session; 0: nobody.
        owner: ReplicaId,
        /// For each entry, in order: its sequence number.
        seqs: Vec<AppendFate>,
    },
    /// See [`Request::ReadQueue`]: (sequence number, encoded entry), ascending; empty if the session does not exist.
    Queue(Vec<(u64, Bytes)>),
    /// See [`Request::GetSession`].
    Session(Option<SessionFields>),
    /// See [`Request::LoadBucket`].
    Bucket {
        /// Its version.
        version: u64,
        /// Retained messages by topic.
        retained: Vec<(Arc<str>, Bytes)>,
        /// Records of persistent sessions.
        sessions: Vec<(SessionId, Bytes)>,
        /// Owners of persistent sessions.
        owners: Vec<OwnerEntry>,
    },
    /// See [`Request::PutRecords`].
    RecordsPut {
        /// Of the bucket, after the changes; 0 if there were none.
        version: u64,
        /// One for each.
        outcomes: Vec<PutOutcome>,
    },
    /// See [`Request::GetRecords`]; one for each.
    Records(Vec<Option<Record>>),
    /// See [`Request::RecordKeys`].
    RecordKeys(Vec<Arc<str>>),
    /// See [`Request::LoadRoutes`].
    Routes {
        /// Their version; 0: there never were any.
        version: u64,
        /// All of them, in any order.
        routes: Vec<(Arc<str>, Route)>,
    },
    /// See [`Request::ReadInbox`]: (position, frame).
    Inbox(Vec<((u64, u64), Bytes)>),
    /// See [`TapRequest`].
    Tap(TapReply),
}

/// What became of an [`Appending`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendFate {
    /// It is in the queue, at this place.
    At(u64),
    /// It had been appended before.
    Repeated,
    /// The queue is at its bound.
    Full,
    /// There is no such session.
    Gone,
}
