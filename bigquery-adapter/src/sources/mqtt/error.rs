//! Why a connection to the broker ended.

use dunlin_protocol::{EncodeError, ReasonCode};

use crate::error::Code;
use crate::mqtt_client::{HandshakeError, WireError};
use crate::pipeline::SinkStopped;

/// Why a connection was not made or did not last. All but [`ConnectionError::Sink`] lead to another attempt.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// It was not made.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// It was not made within the limit.
    #[error("no answer within {0} ms")]
    Timeout(u64),
    /// It broke.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A filter was refused.
    #[error("the broker refuses the filter {filter:?}: {} ({:#04x})", reason.name(), reason.0)]
    Subscription {
        /// The filter.
        filter: String,
        /// Why.
        reason: ReasonCode,
    },
    /// The broker said goodbye.
    #[error("the broker ended the connection: {} ({:#04x}) {text}", reason.name(), reason.0)]
    Disconnected {
        /// Why.
        reason: ReasonCode,
        /// The broker's own words.
        text: String,
    },
    /// The same client id connected elsewhere.
    #[error(
        "another client connected with the client id {0:?}: every adapter needs its own mqtt.client_id"
    )]
    TakenOver(String),
    /// The broker closed an accepted connection.
    #[error(
        "the broker closed the connection without a word; when this goes on, look for another client with the client id {0:?}"
    )]
    Dropped(String),
    /// No answer to a ping.
    #[error("the broker has not answered a ping for {0} s")]
    Silent(u16),
    /// A packet that has no place where it came.
    #[error("the broker broke the protocol: {0}")]
    Protocol(&'static str),
    /// A packet of ours cannot be written.
    #[error("a packet cannot be written: {0}")]
    Encode(#[from] EncodeError),
    /// The sink has stopped: there is no use in going on.
    #[error(transparent)]
    Sink(#[from] SinkStopped),
}

impl ConnectionError {
    /// The code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Handshake(HandshakeError::Open(error)) => error.code(),
            Self::Handshake(HandshakeError::Wire(error)) | Self::Wire(error) => error.code(),
            Self::Handshake(HandshakeError::Unexpected | HandshakeError::Encode(_)) => {
                Code::PROTOCOL
            }
            Self::Handshake(HandshakeError::Refused { .. } | HandshakeError::Version { .. }) => {
                Code::REFUSED
            }
            Self::Timeout(_) => Code::CONNECT,
            Self::Subscription { .. } => Code::SUBSCRIPTION,
            Self::Disconnected { .. } | Self::Dropped(_) => Code::DISCONNECTED,
            Self::TakenOver(_) => Code::TAKEN_OVER,
            Self::Silent(_) => Code::SILENT,
            Self::Protocol(_) | Self::Encode(_) => Code::PROTOCOL,
            Self::Sink(_) => Code::SINK_STOPPED,
        }
    }
}
