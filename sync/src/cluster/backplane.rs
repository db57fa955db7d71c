//! What carries requests to Redis and frames from it.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{ReplicaId, Reply, Request};
use crate::BoxFuture;

/// Answers to the requests of one [`Backplane::execute`], in order.
pub type Replies = Pin<Box<dyn Future<Output = Vec<Result<Reply, BackplaneError>>> + Send>>;

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackplaneError {
    /// Redis refused it for what it is: repeating it would not help. A defect, or foreign data.
    #[error("Redis refused {request}: {reason}")]
    Refused {
        /// Kind of request.
        request: &'static str,
        /// Redis' words.
        reason: String,
    },
    /// The answer makes no sense.
    #[error("Redis answered {request} with {answer}, which is not an answer to it")]
    Nonsense {
        /// Kind of request.
        request: &'static str,
        /// The beginning of the answer.
        answer: String,
    },
    /// A frame that is not repeated ([`Request::Publish`]) was lost with its connection.
    #[error("the connection was lost")]
    Lost,
    /// The backplane was closed.
    #[error("the backplane is closed")]
    Closed,
}

/// What comes from Redis unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackplaneEvent {
    /// A frame on `sync`, or on this replica's own channel.
    Frame(Bytes),
    /// A frame of this replica's inbox, and its position.
    Inbox((u64, u64), Bytes),
    /// The channels are (again) subscribed to, and that has been tested: frames of `sync` and of the own
    /// channel may have been missed before. The first event after [`Backplane::listen`].
    Listening,
    /// The channels are not heard now.
    Deaf,
    /// Redis is another one now, or has lost newer writes: what the ring held was written again.
    /// Tables are to be loaded anew.
    Failover,
}

/// How the connection to Redis is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackplaneStatus {
    /// All masters answer.
    pub connected: bool,
    /// Redis refuses writes because its memory is full.
    pub full: bool,
    /// The last failure, in words.
    pub last_error: Option<String>,
    /// Connections made anew.
    pub reconnects: u64,
    /// Failovers noticed.
    pub failovers: u64,
    /// Requests that wait for an answer.
    pub pending: u64,
    /// Masters that are connected to, as `host:port`.
    pub masters: Vec<String>,
    /// Microseconds that the last answered `PING` took.
    pub ping_us: u64,
    /// Bytes of memory in use, over all masters; 0 until they have said so.
    pub memory_used: u64,
    /// Bytes of memory that they may use (`maxmemory`); 0: no bound.
    pub memory_limit: u64,
    /// Used of allowed memory of the fullest master, in thousandths; 0 without a bound.
    pub memory_per_mille: u32,
}

/// Executes requests in Redis.
///
/// - A request is executed after all earlier ones of the same hash slot, and (on a connection that is
///   not lost) after all earlier ones of the same server. "Earlier" is the order of the calls of
///   [`execute`](Self::execute), not of polling.
/// - After a lost connection what has no answer is sent again, in order, until it has one, with
///   exponential backoff and jitter between attempts; so are writes that Redis refuses for the time being
///   (`LOADING`, `READONLY`, `MASTERDOWN`, `CLUSTERDOWN`, `TRYAGAIN`, `MOVED`, `ASK`, `OOM`, `MISCONF`, …).
///   While Redis is full, requests that free memory overtake those that need it.
/// - The caller bounds what is under way.
pub trait Backplane: Send + Sync + 'static {
    /// Takes the requests in. Dropping the future does not take them back.
    fn execute(&self, requests: Vec<Request>) -> Replies;

    /// Subscribes to `sync` and to the channel of `replica`, and reads its inbox from the beginning;
    /// events come through a bounded channel. Called once, after [`Request::Join`]; again after joining anew,
    /// which ends the earlier channel.
    fn listen(&self, replica: ReplicaId) -> mpsc::Receiver<BackplaneEvent>;

    /// Gives up every request that has no answer: they get [`BackplaneError::Lost`]. They may or may not
    /// have taken effect, and none does later: connections on which they were sent are reset, and they
    /// are not sent again. Later requests are not touched, nor what had been answered.
    fn abandon(&self);

    /// How the connection is.
    fn status(&self) -> BackplaneStatus;

    /// Failovers noticed, as in the status. An answer of another server is never given before it is
    /// counted.
    fn failovers(&self) -> u64 {
        self.status().failovers
    }

    /// Every replica has written again what so many failovers have lost. From a failover on until then, the
    /// [`Request::Append`]s of a backplane that [listens](Self::listen) wait: what is new comes behind what comes back.
    fn made_good(&self, failovers: u64);

    /// Redis has been emptied while it ran: what was acknowledged lately is written again, as after a failover.
    fn lost_everything(&self) {}

    /// Ends all connections; requests without an answer get [`BackplaneError::Closed`].
    fn close(&self) -> BoxFuture<()>;
}
