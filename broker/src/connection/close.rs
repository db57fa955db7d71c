//! How a connection ends: what the client is told, and what becomes of its session.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use dunlin_protocol::{
    DecodeError, Disconnect, Packet, PacketType, PropertiesBuf, Property, ReasonCode, Sender,
    Version,
};
use futures_util::FutureExt as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::audited;
use super::run::Connection;
use crate::hub::wake::CloseRequest;
use crate::hub::{Departure, Farewell};
use crate::net::Transport;

/// How long the last bytes may take to leave, and how long is listened afterwards: a socket that is
/// closed with unread input is reset, and the reset can overtake the DISCONNECT.
const LINGER: Duration = Duration::from_secs(1);
/// How long a connection that has ended waits for its QoS 2 publishes.
const DELIVERIES: Duration = Duration::from_secs(5);
/// Bytes that are read and thrown away while lingering.
const LINGER_BYTES: usize = 1 << 20;

/// Why a connection ends.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Closing {
    /// The client said so; with `will`, it wants its will published.
    Disconnected {
        will: bool,
        expiry_interval: Option<u32>,
    },
    /// The socket ended or failed.
    Lost(String),
    /// Nothing came for one and a half times the keep alive. [MQTT-3.1.2-22]
    KeepAlive,
    /// The client broke the protocol.
    Violation(ReasonCode, String),
    /// See [`CloseRequest`].
    Asked(CloseRequest),
}

impl From<DecodeError> for Closing {
    fn from(error: DecodeError) -> Self {
        let reason = error.reason_code();
        // What is wrong with a second CONNECT has codes that only CONNACK knows.
        let reason = match reason.is_allowed_in(PacketType::Disconnect, Sender::Server) {
            true => reason,
            false => ReasonCode::PROTOCOL_ERROR,
        };
        Self::Violation(reason, error.to_string())
    }
}

impl Closing {
    /// What an MQTT 5 client is told.
    pub(super) fn reason_code(&self) -> Option<ReasonCode> {
        match self {
            Self::Disconnected { .. } | Self::Lost(_) => None,
            Self::KeepAlive => Some(ReasonCode::KEEP_ALIVE_TIMEOUT),
            Self::Violation(reason, _) => Some(*reason),
            Self::Asked(CloseRequest::TakenOver | CloseRequest::ClaimedElsewhere) => {
                Some(ReasonCode::SESSION_TAKEN_OVER)
            }
            Self::Asked(CloseRequest::Suspended | CloseRequest::TakenForDead) => {
                Some(ReasonCode::SERVER_BUSY)
            }
            Self::Asked(CloseRequest::ServerShutdown) => Some(ReasonCode::SERVER_SHUTTING_DOWN),
            Self::Asked(CloseRequest::MemoryShort) => Some(ReasonCode::QUOTA_EXCEEDED),
            Self::Asked(CloseRequest::NotAuthorized) => Some(ReasonCode::NOT_AUTHORIZED),
            Self::Asked(CloseRequest::Expired) => Some(ReasonCode::MAXIMUM_CONNECT_TIME),
            Self::Asked(CloseRequest::Administrative) => Some(ReasonCode::ADMINISTRATIVE_ACTION),
            Self::Asked(CloseRequest::StoreFailed) => Some(ReasonCode::UNSPECIFIED_ERROR),
        }
    }

    fn departure(&self) -> Departure {
        match self {
            Self::Disconnected {
                will,
                expiry_interval,
            } => Departure {
                will: *will,
                expiry_interval: *expiry_interval,
                claimed_elsewhere: false,
            },
            // Whoever has claimed the client id has the will too.
            Self::Asked(CloseRequest::ClaimedElsewhere) => Departure {
                will: false,
                expiry_interval: None,
                claimed_elsewhere: true,
            },
            _ => Departure {
                will: true,
                expiry_interval: None,
                claimed_elsewhere: false,
            },
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Violation(_, text) => text,
            _ => "",
        }
    }
}

impl Connection {
    /// Lets go of the session, then tells the client.
    pub(super) async fn finish(mut self, closing: Closing) {
        self.log(&closing);
        audited::disconnected(&self, &closing);
        if self.hub.cluster.is_some() && self.session.store_id.is_some() && self.inbound_open > 0 {
            self.await_deliveries(&closing).await;
        }
        self.hub
            .detach(&self.session, &self.wake, closing.departure());
        self.hub.metrics.connection_closed(&self.here);
        let crowded_out = closing == Closing::Asked(CloseRequest::MemoryShort);
        if crowded_out && !self.writing.is_empty() {
            // It does not read, and what is half written would have to be kept until it does.
            self.transport.shutdown().now_or_never();
        } else if let Some(reason) = closing.reason_code() {
            if closing == Closing::Asked(CloseRequest::ServerShutdown) && self.version.is_v5() {
                let farewell = farewell(&self.hub.farewell.load(), self.max_packet);
                self.local
                    .extend(&farewell.unwrap_or_else(|| disconnect(reason, "", self.max_packet)));
            } else if self.version.is_v5() {
                let text = if self.problem_information {
                    closing.text()
                } else {
                    ""
                };
                self.local
                    .extend(&disconnect(reason, text, self.max_packet));
            }
            let mut out = Vec::new();
            self.writing.append(&mut self.local);
            drain_into(&mut self.writing, &mut out);
            say_goodbye(&mut self.transport, &out).await;
        } else if let Err(error) = tokio::time::timeout(LINGER, self.transport.shutdown()).await {
            tracing::trace!(%error, "a closed connection did not shut down in time");
        }
    }

    /// Waits until the client's QoS 2 publishes are with their receivers: that is left to whoever has the
    /// session next, who would otherwise have to deliver again what the client repeats, and some receivers
    /// cannot tell a repetition. Ids of which it is not known in time are forgotten here, and stay as they are in Redis.
    async fn await_deliveries(&mut self, closing: &Closing) {
        let hopeless = |request| {
            matches!(
                request,
                CloseRequest::ClaimedElsewhere
                    | CloseRequest::Suspended
                    | CloseRequest::TakenForDead
                    | CloseRequest::StoreFailed
            )
        };
        let given_up = matches!(closing, Closing::Asked(request) if hopeless(*request));
        if !given_up {
            let committed = poll_fn(|cx| {
                self.wake.begin(cx.waker());
                let over = self.wake.close_request().is_some_and(hopeless);
                match over || self.wake.committed() >= self.submitted {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                }
            });
            if tokio::time::timeout(DELIVERIES, committed).await.is_err() {
                tracing::debug!(client = %self.session.client_id, "QoS 2 publishes were not delivered in time");
            }
        }
        self.collect_answers();
        let mut state = self.session.lock();
        for id in self.acks.unrecorded() {
            state.inbound.remove(id);
        }
    }

    fn log(&self, closing: &Closing) {
        let client = &*self.session.client_id;
        match closing {
            Closing::Disconnected { .. } => {
                tracing::debug!(client, peer = %self.wake.about.address(), "client disconnected")
            }
            Closing::Lost(why) => {
                tracing::debug!(client, peer = %self.wake.about.address(), why, "connection lost")
            }
            Closing::KeepAlive => {
                self.hub.metrics.keep_alive_timeout();
                tracing::info!(client, peer = %self.wake.about.address(), keep_alive_s = self.keep_alive_seconds, "client silent for one and a half times its keep alive");
            }
            Closing::Violation(reason, why) => {
                self.hub.metrics.protocol_error(*reason);
                if self.hub.guard.talk.may() {
                    tracing::info!(client, peer = %self.wake.about.address(), reason = %format_args!("{:#04x} {}", reason.0, reason.name()), why, "client broke the protocol");
                }
            }
            Closing::Asked(request) => {
                tracing::debug!(client, peer = %self.wake.about.address(), ?request, "connection closed by the broker")
            }
        }
    }
}

fn drain_into(from: &mut crate::core::out_buffer::OutBuffer, out: &mut Vec<u8>) {
    while !from.is_empty() {
        let mut slices = [std::io::IoSlice::new(&[]); 8];
        let filled = from.io_slices(&mut slices);
        let mut taken = 0;
        for slice in slices.iter().take(filled) {
            out.extend_from_slice(slice);
            taken += slice.len();
        }
        from.consume(taken);
    }
}

/// A DISCONNECT within what the client takes.
pub(super) fn disconnect(reason: ReasonCode, text: &str, max_packet: u32) -> Vec<u8> {
    let mut properties = PropertiesBuf::default();
    let pushed = text.is_empty() || properties.push(Property::ReasonString(text)).is_ok();
    let mut out = Vec::new();
    let packet = Packet::Disconnect(Disconnect {
        reason,
        properties: properties.as_properties(),
    });
    if !pushed || packet.encode(Version::V5, &mut out).is_err() || out.len() > max_packet as usize {
        // [MQTT-3.14.2-3]: without the text rather than longer than the client takes.
        out = vec![0xE0, 1, reason.0];
    }
    out
}

/// A DISCONNECT that says where else to go; `None` when there is nothing to say, or it is longer than the client takes.
fn farewell(farewell: &Farewell, max_packet: u32) -> Option<Vec<u8>> {
    let mut properties = PropertiesBuf::default();
    let reference = Property::ServerReference(farewell.reference.as_deref()?);
    properties.push(reference).ok()?;
    let packet = Packet::Disconnect(Disconnect {
        reason: match farewell.moved {
            true => ReasonCode::SERVER_MOVED,
            false => ReasonCode::USE_ANOTHER_SERVER,
        },
        properties: properties.as_properties(),
    });
    let mut out = Vec::new();
    packet.encode(Version::V5, &mut out).ok()?;
    (out.len() <= max_packet as usize).then_some(out)
}

/// Writes the last bytes, ends the sending side and listens until the client has ended its own.
pub(super) async fn say_goodbye(transport: &mut Transport, bytes: &[u8]) {
    let goodbye = async {
        transport.write_all(bytes).await?;
        transport.shutdown().await?;
        let mut left = LINGER_BYTES;
        let mut sink = [0u8; 2048];
        while left > 0 {
            let read = transport.read(&mut sink).await?;
            if read == 0 {
                break;
            }
            left = left.saturating_sub(read);
        }
        Ok::<_, std::io::Error>(())
    };
    // A client that is gone cannot be told anything.
    match tokio::time::timeout(LINGER, goodbye).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::trace!(%error, "the last bytes of a connection did not leave"),
        Err(_) => tracing::trace!("a connection was closed before its client did"),
    }
}
