//! From an address to a connection that the broker has accepted.

use std::sync::Arc;

use dunlin_protocol::{
    ConnAck, Connect, EncodeError, Packet, PropertiesBuf, Property, ReasonCode, Sender, Version,
    decode,
};
use rustls::ClientConfig;
use tokio::io::AsyncWriteExt;

use super::Address;
use super::stream::{self, OpenError, ReadHalf, WriteHalf};
use super::wire::{Inbox, WireError};

/// What we say of ourselves.
#[derive(Debug, Clone)]
pub struct Hello<'a> {
    /// MQTT 5 or 3.1.1.
    pub version: Version,
    /// Fixed, so that the broker knows the session.
    pub client_id: &'a str,
    /// User name.
    pub username: Option<&'a str>,
    /// Password.
    pub password: Option<&'a [u8]>,
    /// Seconds.
    pub keep_alive: u16,
    /// Seconds that the broker keeps the session after the connection. MQTT 5 only; before, as long as it likes.
    pub session_expiry: u32,
    /// QoS 1 and 2 messages that the broker may send before we have acknowledged. MQTT 5 only.
    pub receive_maximum: u16,
    /// Bytes of the largest packet that we take.
    pub max_packet: u32,
    /// Topic aliases that the broker may use. MQTT 5 only.
    pub topic_aliases: u16,
}

/// A connection.
pub struct Accepted {
    pub(crate) read: ReadHalf,
    pub(crate) write: WriteHalf,
    pub(crate) inbox: Inbox,
    /// Whether the broker still had our session.
    pub session_present: bool,
    /// Seconds, as the broker wants it.
    pub keep_alive: u16,
    /// Seconds that the broker will keep the session, where it says so.
    pub session_expiry: Option<u32>,
}

impl std::fmt::Debug for Accepted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accepted")
            .field("session_present", &self.session_present)
            .finish_non_exhaustive()
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The network.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What came was no CONNACK.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Another packet came.
    #[error("the broker answered CONNECT with another packet than CONNACK")]
    Unexpected,
    /// The broker says no.
    #[error("the broker refuses: {} ({:#04x}){}", reason.name(), reason.0, shown(text))]
    Refused {
        /// Why.
        reason: ReasonCode,
        /// The broker's own words.
        text: String,
    },
    /// The broker does not speak this version.
    #[error("the broker does not speak MQTT {}", if *version == Version::V5 { "5; set mqtt.version to \"3.1.1\" or \"auto\"" } else { "3.1.1" })]
    Version {
        /// The version that we asked for.
        version: Version,
    },
    /// Our CONNECT cannot be written.
    #[error("the CONNECT packet cannot be written: {0}")]
    Encode(#[from] EncodeError),
}

fn shown(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!(": {text:?}")
    }
}

/// Connects and waits for the broker's answer. Sets no limit of time. Cancel safe: dropping it closes the socket.
///
/// # Errors
/// When there is no network connection, or the broker does not accept.
pub async fn connect(
    address: &Address,
    tls: Option<(&Arc<ClientConfig>, &str)>,
    hello: &Hello<'_>,
) -> Result<Accepted, HandshakeError> {
    let (mut read, mut write) = stream::open(address, tls).await?;
    write
        .write_all(&encode(hello)?)
        .await
        .map_err(WireError::Io)?;
    write.flush().await.map_err(WireError::Io)?;
    let mut inbox = Inbox::new(hello.max_packet);
    let mut accepted = None;
    while accepted.is_none() {
        inbox.fill(&mut read).await?;
        accepted = inbox
            .next_frame()?
            .map(|frame| judge(frame, hello))
            .transpose()?;
    }
    let Judged {
        session_present,
        keep_alive,
        session_expiry,
    } = accepted.ok_or(HandshakeError::Unexpected)?;
    Ok(Accepted {
        read,
        write,
        inbox,
        session_present,
        keep_alive,
        session_expiry,
    })
}

fn encode(hello: &Hello<'_>) -> Result<Vec<u8>, EncodeError> {
    let mut properties = PropertiesBuf::new();
    if hello.version.is_v5() {
        properties
            .push(Property::SessionExpiryInterval(hello.session_expiry))?
            .push(Property::ReceiveMaximum(hello.receive_maximum))?
            .push(Property::MaximumPacketSize(hello.max_packet))?;
        if hello.topic_aliases > 0 {
            properties.push(Property::TopicAliasMaximum(hello.topic_aliases))?;
        }
    }
    let connect = Connect {
        clean_start: false,
        keep_alive: hello.keep_alive,
        username: hello.username,
        password: hello.password,
        properties: properties.as_properties(),
        ..Connect::new(hello.version, hello.client_id)
    };
    let mut out = Vec::new();
    Packet::Connect(connect).encode(hello.version, &mut out)?;
    Ok(out)
}

#[derive(Debug, PartialEq, Eq)]
struct Judged {
    session_present: bool,
    keep_alive: u16,
    session_expiry: Option<u32>,
}

/// What the broker's first packet means.
fn judge(frame: &[u8], hello: &Hello<'_>) -> Result<Judged, HandshakeError> {
    // A broker of old answers in its own version, which is a CONNACK of four bytes.
    let old = frame.len() == 4;
    let version = if old { Version::V311 } else { hello.version };
    let Packet::ConnAck(answer) =
        decode(frame, version, Sender::Server).map_err(WireError::Decode)?
    else {
        return Err(HandshakeError::Unexpected);
    };
    if answer.reason == ReasonCode::SUCCESS {
        if old && hello.version.is_v5() {
            return Err(HandshakeError::Version {
                version: hello.version,
            });
        }
        return Ok(Judged {
            session_present: answer.session_present,
            keep_alive: answer
                .properties
                .server_keep_alive()
                .unwrap_or(hello.keep_alive),
            session_expiry: answer.properties.session_expiry_interval(),
        });
    }
    Err(refused(&answer, old, hello.version))
}

fn refused(answer: &ConnAck<'_>, old: bool, version: Version) -> HandshakeError {
    let reason = match (old, answer.reason.0) {
        (false, _) => answer.reason,
        (true, 1) => ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
        (true, 2) => ReasonCode::CLIENT_IDENTIFIER_NOT_VALID,
        (true, 3) => ReasonCode::SERVER_UNAVAILABLE,
        (true, 4) => ReasonCode::BAD_USER_NAME_OR_PASSWORD,
        (true, _) => ReasonCode::NOT_AUTHORIZED,
    };
    if reason == ReasonCode::UNSUPPORTED_PROTOCOL_VERSION {
        return HandshakeError::Version { version };
    }
    HandshakeError::Refused {
        reason,
        text: answer
            .properties
            .reason_string()
            .unwrap_or_default()
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: Hello<'_> = Hello {
        version: Version::V5,
        client_id: "c",
        username: None,
        password: None,
        keep_alive: 30,
        session_expiry: 60,
        receive_maximum: 10,
        max_packet: 1000,
        topic_aliases: 0,
    };

    #[test]
    fn an_answer_is_understood() {
        let yes = judge(&[0x20, 6, 1, 0, 3, 0x13, 0, 9], &HELLO).unwrap();
        assert_eq!(
            yes,
            Judged {
                session_present: true,
                keep_alive: 9,
                session_expiry: None
            }
        );
        let error = judge(&[0x20, 3, 0, 0x86, 0], &HELLO).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the broker refuses: Bad User Name or Password (0x86)"
        );
    }

    #[test]
    fn a_broker_of_old_is_recognised_by_its_answer() {
        for answer in [[0x20, 2, 0, 1], [0x20, 2, 0, 0]] {
            assert!(matches!(
                judge(&answer, &HELLO).unwrap_err(),
                HandshakeError::Version { .. }
            ));
        }
        let old = Hello {
            version: Version::V311,
            ..HELLO
        };
        assert!(judge(&[0x20, 2, 1, 0], &old).unwrap().session_present);
        let error = judge(&[0x20, 2, 0, 5], &old).unwrap_err();
        assert!(error.to_string().contains("Not authorized"), "{error}");
    }

    #[test]
    fn what_is_no_connack_is_refused() {
        assert!(matches!(
            judge(&[0xd0, 0], &HELLO).unwrap_err(),
            HandshakeError::Unexpected
        ));
        assert!(judge(b"HTTP/1.1 400 Bad Request", &HELLO).is_err());
    }
}
