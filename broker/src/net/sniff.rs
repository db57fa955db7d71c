//! A courtesy to those who knock at the wrong door: what the first bytes say the client speaks.

use super::ListenerInfo;

/// What speaks, when it is not MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sniffed {
    /// An HTTP request: a browser, or a WebSocket client on a plain port.
    Http,
    /// A TLS ClientHello.
    Tls,
    /// A PROXY protocol header.
    Proxy,
    /// An MQTT CONNECT, where MQTT does not come first.
    Mqtt,
}

/// Says what a client speaks that does not begin with an MQTT CONNECT; `None` when it does, or when
/// the bytes say nothing. Three bytes are enough, more are not looked at.
#[must_use]
pub fn not_mqtt(first: &[u8]) -> Option<Sniffed> {
    sniff(first).filter(|found| *found != Sniffed::Mqtt)
}

/// Says what a client speaks, as far as the first bytes tell.
#[must_use]
pub fn sniff(first: &[u8]) -> Option<Sniffed> {
    match first {
        [0x10, ..] => Some(Sniffed::Mqtt),
        [0x16, 0x03, ..] => Some(Sniffed::Tls),
        [b'P', b'R', b'O', ..] | [b'\r', b'\n', b'\r', ..] => Some(Sniffed::Proxy),
        [b'G', b'E', b'T', ..]
        | [b'P', b'O', b'S', ..]
        | [b'P', b'U', b'T', ..]
        | [b'H', b'E', b'A', ..]
        | [b'O', b'P', b'T', ..]
        | [b'D', b'E', b'L', ..]
        | [b'C', b'O', b'N', ..]
        | [b'P', b'A', b'T', ..]
        | [b'P', b'R', b'I', ..] => Some(Sniffed::Http),
        _ => None,
    }
}

impl Sniffed {
    /// What the log says about it: what came, and what the listener speaks.
    #[must_use]
    pub fn message(self, listener: &ListenerInfo) -> String {
        let kind = match listener.kind {
            crate::config::ListenerKind::Tcp => "plain MQTT",
            crate::config::ListenerKind::Tls => "MQTT over TLS",
            crate::config::ListenerKind::Ws => "MQTT over WebSocket",
            crate::config::ListenerKind::Wss => "MQTT over secure WebSocket",
        };
        let what = match self {
            Self::Http => "client speaks HTTP",
            Self::Tls => "client speaks TLS",
            Self::Proxy => "client sends a PROXY header, and proxy_protocol is off",
            Self::Mqtt => "client speaks plain MQTT",
        };
        format!(
            "{what}: listener {:?} on {} is for {kind}",
            listener.name, listener.address
        )
    }

    /// The bytes to answer with before closing; empty where no answer can be understood.
    #[must_use]
    pub fn answer(self, listener: &ListenerInfo) -> Vec<u8> {
        if self != Self::Http {
            return Vec::new();
        }
        let mut body = format!(
            "This is a port for MQTT, not for HTTP (Dunlin, listener {:?}).\n",
            listener.name
        );
        if listener.websocket_hint.is_empty() {
            body.push_str(
                "The broker has no WebSocket listener: add one with [[listener]] type = \"ws\".\n",
            );
        } else {
            body.push_str(&listener.websocket_hint);
            body.push('\n');
        }
        let len = body.len();
        format!(
                "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{body}"
        )
        .into_bytes()
    }
}
