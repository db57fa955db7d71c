//! A WebSocket client that sends whatever frame a test wants.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
};

use super::LIMIT;

/// Frame types of RFC 6455 that the tests use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opcode {
    /// A text frame, which MQTT forbids.
    Text = 1,
    /// A binary frame.
    Binary = 2,
    /// The end.
    Close = 8,
    /// Asks for a pong.
    Ping = 9,
    /// Answers a ping.
    Pong = 10,
}

impl Opcode {
    fn of(first: u8) -> Self {
        match first & 0x0F {
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            other => panic!("unexpected frame type {other}"),
        }
    }
}

/// What the server answered to the upgrade.
pub(crate) struct Upgrade {
    /// The status line and the headers, as they came.
    pub(crate) head: String,
    /// The connection, of use when the status is 101.
    pub(crate) socket: WebSocket,
}

impl Upgrade {
    /// Value of a header of the answer.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// One whole message, masked as a client has to.
pub(crate) fn frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode as u8];
    match u16::try_from(payload.len()) {
        Ok(len) if len < 126 => frame.push(0x80 | payload.len() as u8),
        Ok(len) => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&len.to_be_bytes());
        }
        Err(_) => panic!("the tests need no frame that long"),
    }
    let mask = [0x5A, 0xA5, 0x0F, 0xF0];
    frame.extend_from_slice(&mask);
    frame.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    frame
}

/// The first frame of what has come, if it is whole.
pub(crate) fn take_frame(bytes: &mut Vec<u8>) -> Option<(Opcode, Vec<u8>)> {
    let (at, len) = match *bytes.get(1)? {
        126 => {
            let len = [*bytes.get(2)?, *bytes.get(3)?];
            (4, usize::from(u16::from_be_bytes(len)))
        }
        127 => panic!("the tests expect no frame that long"),
        len => (2, usize::from(len)),
    };
    let payload = bytes.get(at..at + len)?.to_vec();
    let opcode = Opcode::of(*bytes.first()?);
    bytes.drain(..at + len);
    Some((opcode, payload))
}

/// A WebSocket connection.
pub(crate) struct WebSocket {
    stream: BufReader<TcpStream>,
}

impl WebSocket {
    /// Asks for an upgrade on `/mqtt`, offering these subprotocols (none: the header is left out).
    pub(crate) fn upgrade(address: SocketAddr, subprotocols: &str) -> Upgrade {
        let mut stream = TcpStream::connect(address).expect("the broker accepts a connection");
        stream.set_read_timeout(Some(LIMIT)).expect("a read limit");
        let offer = if subprotocols.is_empty() {
            String::new()
        } else {
            format!("Sec-WebSocket-Protocol: {subprotocols}\r\n")
        };
        let request = format!(
            "GET /mqtt HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{offer}\r\n"
        );
        stream
            .write_all(request.as_bytes())
            .expect("the broker reads");
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream
                .read_line(&mut head)
                .expect("an answer to the upgrade")
                == 0
            {
                break;
            }
        }
        Upgrade {
            head,
            socket: Self { stream },
        }
    }

    /// Upgrades with subprotocol `mqtt`; the broker has to accept.
    pub(crate) fn open(address: SocketAddr) -> Self {
        let upgrade = Self::upgrade(address, "mqtt");
        assert!(upgrade.head.starts_with("HTTP/1.1 101"), "{}", upgrade.head);
        assert_eq!(
            upgrade.header("sec-websocket-accept"),
            Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        );
        assert_eq!(upgrade.header("sec-websocket-protocol"), Some("mqtt"));
        upgrade.socket
    }

    /// The socket, for who makes the frames himself.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream.into_inner()
    }

    /// Sends one whole message, masked as a client has to.
    pub(crate) fn send(&mut self, opcode: Opcode, payload: &[u8]) {
        let frame = frame(opcode, payload);
        self.stream
            .get_mut()
            .write_all(&frame)
            .expect("the broker reads");
    }

    /// Takes the next frame; `None` when the broker closes.
    pub(crate) fn receive(&mut self) -> Option<(Opcode, Vec<u8>)> {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head).ok()?;
        assert_eq!(head[1] & 0x80, 0, "a server does not mask");
        let len = match head[1] {
            126 => {
                let mut len = [0; 2];
                self.stream.read_exact(&mut len).ok()?;
                usize::from(u16::from_be_bytes(len))
            }
            127 => panic!("the tests expect no frame that long"),
            len => usize::from(len),
        };
        let mut payload = vec![0; len];
        self.stream.read_exact(&mut payload).ok()?;
        Some((Opcode::of(head[0]), payload))
    }

    /// Takes binary frames until `count` bytes have come.
    pub(crate) fn receive_bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            match self.receive() {
                Some((Opcode::Binary, payload)) => bytes.extend_from_slice(&payload),
                other => panic!("binary frames were expected, not {other:?}"),
            }
        }
        bytes
    }
}
