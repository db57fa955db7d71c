//! Hearing the channels and the inbox, each on a connection of its own.
//!
//! The channels count as heard when a nonce that this very connection has published has come back over
//! `sync`; before each reconnection's first frame the reader is told that it may have missed some.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{info, warn};

use super::connect::{ConnectError, Server, Wire};
use super::decode::{array, bulk, inbox};
use super::pool::Core;
use super::resp::{RespError, Value};
use super::url::Address;
use crate::cluster::{BackplaneEvent, ReplicaId};

/// A nonce of the self-test begins with this; frames begin with `DN`.
const NONCE: &[u8] = b"nonce:";
/// Pause between two questions whether the connection lives.
const PING: Duration = Duration::from_secs(1);
/// How long one blocking read of the inbox lasts, and how much it takes.
const BLOCK: Duration = Duration::from_secs(2);
const INBOX_COUNT: &str = "256";
const BLOCK_MS: &str = "2000";

/// Starts both connections; they end when `ended`'s sender is dropped or nobody reads the events.
pub(super) fn start(
    core: &Arc<Core>,
    replica: ReplicaId,
    tell: &mpsc::Sender<BackplaneEvent>,
    ended: &watch::Receiver<()>,
) {
    let listener = || Listener {
        core: Arc::clone(core),
        replica,
        tell: tell.clone(),
    };
    spawn(core, ended, listener().hear());
    spawn(core, ended, listener().read_inbox());
    spawn(core, ended, listener().notice_failovers());
}

fn spawn(
    core: &Arc<Core>,
    ended: &watch::Receiver<()>,
    work: impl Future<Output = ()> + Send + 'static,
) {
    let mut closed = core.closed.subscribe();
    let mut ended = ended.clone();
    drop(core.handle.spawn(async move {
        tokio::select! {
            () = work => {}
            _ = closed.wait_for(|closed| *closed) => {}
            // The sender is only ever dropped.
            _ = ended.changed() => {}
        }
    }));
}

/// Nobody reads the events any more.
struct Unheard;

struct Listener {
    core: Arc<Core>,
    replica: ReplicaId,
    tell: mpsc::Sender<BackplaneEvent>,
}

impl Listener {
    async fn say(&self, event: BackplaneEvent) -> Result<(), Unheard> {
        self.tell.send(event).await.map_err(|_| Unheard)
    }

    async fn notice_failovers(self) {
        let mut failovers = self.core.failovers.subscribe();
        failovers.mark_unchanged();
        while failovers.changed().await.is_ok() {
            if self.say(BackplaneEvent::Failover).await.is_err() {
                return;
            }
        }
    }

    /// The server that has this replica's slot.
    async fn address(&self) -> Result<Address, ConnectError> {
        loop {
            if let Some(address) = self.known_address() {
                return match address {
                    Some(address) => Ok(address),
                    None => self.core.master().await,
                };
            }
            tokio::time::sleep(self.core.options.backoff_min).await;
        }
    }

    fn known_address(&self) -> Option<Option<Address>> {
        let names = self.core.names()?;
        let (_, slot) = names.replica(self.replica);
        let routes = self.core.routes.lock();
        Some(routes.node_of(slot)?.address.clone())
    }

    async fn connect(&self) -> Result<(Wire, Server), ConnectError> {
        let address = self.address().await?;
        let mut wire = self.core.access.connect(&address).await?;
        let name = wire.address.clone();
        let server = self.core.in_time(&name, Server::of(&mut wire)).await?;
        Ok((wire, server))
    }

    async fn hear(self) {
        let mut pauses = self.core.pauses();
        loop {
            let mut heard = false;
            let end = self.hear_once(&mut heard).await;
            if heard {
                pauses = self.core.pauses();
                if self.say(BackplaneEvent::Deaf).await.is_err() {
                    return;
                }
            }
            match end {
                Ok(Unheard) => return,
                Err(error) => {
                    warn!("the channels of redis are not heard: {error}");
                    self.core.failed(error.to_string());
                    self.core.topology.notify_one();
                }
            }
            let pause = pauses.next().unwrap_or(self.core.options.backoff_max);
            tokio::time::sleep(pause).await;
        }
    }

    /// Until the connection is lost, which is an error, or nobody listens.
    async fn hear_once(&self, heard: &mut bool) -> Result<Unheard, ConnectError> {
        let (mut wire, _) = self.connect().await?;
        let nonce = self.subscribe(&mut wire).await?;
        let timeout = self.core.options.answer_timeout;
        let mut last = Instant::now();
        let mut asked = last;
        loop {
            let value = match tokio::time::timeout_at(asked + PING, wire.receive()).await {
                Ok(value) => value?,
                Err(_) if last.elapsed() > timeout => {
                    return Err(ConnectError::Timeout(wire.address));
                }
                Err(_) => {
                    asked = Instant::now();
                    wire.send(&[b"PING"]).await?;
                    continue;
                }
            };
            last = Instant::now();
            let frame = match value {
                Value::Push(parts) => self.frame_of(&wire, parts)?,
                Value::Error(error) => return Err(wire.said(error)),
                _ => continue,
            };
            let event = match frame {
                None => continue,
                Some(frame) if frame == nonce => {
                    *heard = true;
                    info!(address = wire.address, "the channels of redis are heard");
                    BackplaneEvent::Listening
                }
                Some(frame) if frame.starts_with(NONCE) => continue,
                // What comes before the test has passed would come before it is told.
                Some(_) if !*heard => continue,
                Some(frame) => BackplaneEvent::Frame(frame),
            };
            if self.say(event).await.is_err() {
                return Ok(Unheard);
            }
        }
    }

    /// Subscribes and publishes the nonce, on the same connection: RESP 3 allows both.
    async fn subscribe(&self, wire: &mut Wire) -> Result<Bytes, ConnectError> {
        let Some(names) = self.core.names() else {
            return Err(ConnectError::Timeout(wire.address.clone()));
        };
        let own = names.replica_channel(self.replica);
        let subscribe: &[u8] = match names.is_cluster() {
            true => b"SSUBSCRIBE",
            false => b"SUBSCRIBE",
        };
        let random = RandomState::new().hash_one(self.replica.0);
        let nonce = [
            NONCE,
            format!("{}:{random:016x}", self.replica.0).as_bytes(),
        ]
        .concat();
        let channel = names.channel().as_bytes();
        wire.send(&[b"HELLO", b"3"]).await?;
        wire.send(&[b"SUBSCRIBE", channel]).await?;
        wire.send(&[subscribe, own.as_bytes()]).await?;
        wire.send(&[b"PUBLISH", channel, &nonce]).await?;
        Ok(nonce.into())
    }

    fn frame_of(&self, wire: &Wire, parts: Vec<Value>) -> Result<Option<Bytes>, ConnectError> {
        let mut parts = parts.into_iter();
        let Some(Value::Bulk(kind)) = parts.next() else {
            return Ok(None);
        };
        match &kind[..] {
            b"message" | b"smessage" => Ok(parts.nth(1).and_then(bulk)),
            // The slot is another server's now.
            b"sunsubscribe" => Err(wire.said("the channel has moved".to_owned())),
            _ => Ok(None),
        }
    }

    async fn read_inbox(self) {
        let mut pauses = self.core.pauses();
        let mut place = Place::default();
        loop {
            let before = place.position;
            match self.read_inbox_once(&mut place).await {
                Ok(Unheard) => return,
                Err(error) => {
                    warn!("the inbox in redis is not read: {error}");
                    self.core.failed(error.to_string());
                }
            }
            if place.position != before {
                pauses = self.core.pauses();
            }
            let pause = pauses.next().unwrap_or(self.core.options.backoff_max);
            tokio::time::sleep(pause).await;
        }
    }

    async fn read_inbox_once(&self, place: &mut Place) -> Result<Unheard, ConnectError> {
        let (mut wire, server) = self.connect().await?;
        if place.server.replace(server.name) != Some(server.name) {
            // Another server may lack the newest frames and give their positions to others. What was
            // read is trimmed, and what is not is known by its number.
            place.position = (0, 0);
        }
        let Some(names) = self.core.names() else {
            return Err(ConnectError::Timeout(wire.address));
        };
        let key = format!("{}inbox", names.replica(self.replica).0);
        loop {
            let from = format!("{}-{}", place.position.0, place.position.1);
            let args: [&[u8]; 8] = [
                b"XREAD",
                b"COUNT",
                INBOX_COUNT.as_bytes(),
                b"BLOCK",
                BLOCK_MS.as_bytes(),
                b"STREAMS",
                key.as_bytes(),
                from.as_bytes(),
            ];
            let patience = BLOCK + self.core.options.answer_timeout;
            let answer = tokio::time::timeout(patience, wire.ask(&args))
                .await
                .map_err(|_| ConnectError::Timeout(wire.address.clone()))??;
            let entries = entries_of(answer)
                .ok_or_else(|| wire.protocol(RespError::Number("an inbox".to_owned())))?;
            for (position, frame) in entries {
                let event = BackplaneEvent::Inbox(position, frame);
                if self.say(event).await.is_err() {
                    return Ok(Unheard);
                }
                place.position = position;
            }
        }
    }
}

/// How far the inbox was read, and on which server.
#[derive(Default)]
struct Place {
    server: Option<[u8; 8]>,
    position: (u64, u64),
}

/// `[[stream, entries]]`, or nothing.
fn entries_of(answer: Value) -> Option<Vec<((u64, u64), Bytes)>> {
    let mut streams = array(answer)?;
    match streams.pop() {
        None => Some(Vec::new()),
        Some(stream) => inbox(array(stream)?.pop()?),
    }
}
