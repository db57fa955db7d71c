//! A client that speaks any version over any kind of listener.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use dunlin_protocol::{
    Auth, Connect, Disconnect, Packet, PacketId, Properties, PropertiesBuf, Property, QoS,
    ReasonCode, Sender, Subscribe, SubscribeFiltersBuf, SubscribeOptions, Version, decode,
    peek_frame,
};
use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};
use tokio_tungstenite::tungstenite::{
    Message, WebSocket, client::IntoClientRequest, handshake::client::generate_key,
    http::HeaderValue,
};

/// How long a test waits for what must happen.
pub const LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Tcp,
    Tls,
    Ws,
    Wss,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Tcp, Self::Tls, Self::Ws, Self::Wss];

    pub fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }

    pub fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::Wss)
    }
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

enum Pipe {
    Plain(Box<dyn Stream>),
    Framed(Box<WebSocket<Box<dyn Stream>>>),
}

/// A connection below MQTT.
pub struct Client {
    pipe: Pipe,
    buffer: Vec<u8>,
    pub version: Version,
}

impl Client {
    /// Opens a connection. A server that refuses the certificate may say so only when it is read.
    pub fn open(
        kind: Kind,
        address: SocketAddr,
        tls: &Arc<ClientConfig>,
        version: Version,
    ) -> io::Result<Self> {
        Self::open_as(kind, address, tls, version, "localhost")
    }

    pub fn open_as(
        kind: Kind,
        address: SocketAddr,
        tls: &Arc<ClientConfig>,
        version: Version,
        host: &str,
    ) -> io::Result<Self> {
        let tcp = TcpStream::connect(address)?;
        tcp.set_read_timeout(Some(LIMIT))?;
        tcp.set_nodelay(true)?;
        let stream: Box<dyn Stream> = if kind.is_tls() {
            let name = ServerName::try_from(host.to_owned()).unwrap();
            let connection = ClientConnection::new(Arc::clone(tls), name).unwrap();
            let mut stream = StreamOwned::new(connection, tcp);
            while stream.conn.is_handshaking() {
                stream.conn.complete_io(&mut stream.sock)?;
            }
            Box::new(stream)
        } else {
            Box::new(tcp)
        };
        let pipe = if matches!(kind, Kind::Ws | Kind::Wss) {
            let mut request = format!("ws://{address}/mqtt")
                .into_client_request()
                .unwrap();
            let headers = request.headers_mut();
            headers.insert("Sec-WebSocket-Protocol", HeaderValue::from_static("mqtt"));
            headers.insert(
                "Sec-WebSocket-Key",
                HeaderValue::from_str(&generate_key()).unwrap(),
            );
            let opened = tokio_tungstenite::tungstenite::client(request, stream);
            let (socket, _) = opened.map_err(|error| io::Error::other(error.to_string()))?;
            Pipe::Framed(Box::new(socket))
        } else {
            Pipe::Plain(stream)
        };
        Ok(Self {
            pipe,
            buffer: Vec::new(),
            version,
        })
    }

    pub fn send(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        let mut bytes = Vec::new();
        packet.encode(self.version, &mut bytes).unwrap();
        match &mut self.pipe {
            Pipe::Plain(stream) => {
                stream.write_all(&bytes)?;
                stream.flush()
            }
            Pipe::Framed(socket) => {
                let sent = socket.send(Message::binary(bytes));
                sent.map_err(|error| io::Error::other(error.to_string()))
            }
        }
    }

    fn read(&mut self) -> io::Result<()> {
        match &mut self.pipe {
            Pipe::Plain(stream) => {
                let mut part = [0; 4_096];
                let read = stream.read(&mut part)?;
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.buffer.extend_from_slice(&part[..read]);
            }
            Pipe::Framed(socket) => {
                let read = socket.read();
                let read = read.map_err(|error| io::Error::other(error.to_string()))?;
                if let Message::Binary(bytes) = read {
                    self.buffer.extend_from_slice(&bytes);
                }
            }
        }
        Ok(())
    }

    /// The next packet, and what is made of it.
    pub fn next<T>(&mut self, look: impl FnOnce(Packet<'_>) -> T) -> io::Result<T> {
        loop {
            if let Some(header) = peek_frame(&self.buffer, 1 << 20).unwrap()
                && header.total_len <= self.buffer.len()
            {
                let rest = self.buffer.split_off(header.total_len);
                let frame = std::mem::replace(&mut self.buffer, rest);
                return Ok(look(decode(&frame, self.version, Sender::Server).unwrap()));
            }
            self.read()?;
        }
    }

    /// The reason in CONNACK.
    pub fn connack(&mut self) -> io::Result<ReasonCode> {
        let v5 = self.version.is_v5();
        self.next(|packet| match packet {
            Packet::ConnAck(connack) if v5 => connack.reason,
            Packet::ConnAck(connack) => ReasonCode(connack.reason.0),
            other => panic!("in place of CONNACK: {other:?}"),
        })
    }

    /// The reason in DISCONNECT.
    pub fn disconnect(&mut self) -> ReasonCode {
        let reason = self.next(|packet| match packet {
            Packet::Disconnect(disconnect) => disconnect.reason,
            other => panic!("in place of DISCONNECT: {other:?}"),
        });
        reason.expect("DISCONNECT")
    }

    /// Asks whether the connection lives.
    pub fn ping(&mut self) {
        self.send(&Packet::PingReq).unwrap();
        self.next(|packet| assert!(matches!(packet, Packet::PingResp), "{packet:?}"))
            .unwrap();
    }

    /// Asks for a filter, and gives back what is granted.
    pub fn subscribe(&mut self, filter: &str) -> ReasonCode {
        let mut list = SubscribeFiltersBuf::default();
        list.push(filter, SubscribeOptions::new(QoS::AtMostOnce))
            .unwrap();
        let subscribe = Subscribe {
            packet_id: PacketId::new(1).unwrap(),
            properties: Properties::EMPTY,
            filters: list.as_filters(),
        };
        self.send(&Packet::Subscribe(subscribe)).unwrap();
        let granted = self.next(|packet| match packet {
            Packet::SubAck(suback) => ReasonCode(suback.reason_codes[0]),
            other => panic!("in place of SUBACK: {other:?}"),
        });
        granted.unwrap()
    }

    /// Sends AUTH.
    pub fn auth(&mut self, reason: ReasonCode, method: &str, data: Option<&[u8]>) {
        let mut properties = PropertiesBuf::default();
        properties
            .push(Property::AuthenticationMethod(method))
            .unwrap();
        if let Some(data) = data {
            properties.push(Property::AuthenticationData(data)).unwrap();
        }
        let properties = properties.as_properties();
        self.send(&Packet::Auth(Auth { reason, properties }))
            .unwrap();
    }

    /// AUTH or CONNACK of the server: reason, method and data.
    pub fn answer(&mut self) -> (Answer, ReasonCode, Option<String>, Vec<u8>) {
        let answer = self.next(|packet| {
            let (kind, reason, properties) = match packet {
                Packet::Auth(Auth { reason, properties }) => (Answer::Auth, reason, properties),
                Packet::ConnAck(connack) => (Answer::ConnAck, connack.reason, connack.properties),
                Packet::Disconnect(Disconnect { reason, properties }) => {
                    (Answer::Disconnect, reason, properties)
                }
                other => panic!("not expected: {other:?}"),
            };
            let method = properties.authentication_method().map(str::to_owned);
            let data = properties
                .authentication_data()
                .map(<[u8]>::to_vec)
                .unwrap_or_default();
            (kind, reason, method, data)
        });
        answer.expect("an answer")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Auth,
    ConnAck,
    Disconnect,
}

/// A CONNECT with what it shows.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    pub username: Option<String>,
    pub password: Option<String>,
    /// Authentication method, and data.
    pub enhanced: Option<(&'static str, Option<Vec<u8>>)>,
}

impl Shown {
    pub fn named(username: &str, password: &str) -> Self {
        Self {
            username: Some(username.to_owned()),
            password: Some(password.to_owned()),
            enhanced: None,
        }
    }

    pub fn send(&self, client: &mut Client, client_id: &str) -> io::Result<()> {
        let mut properties = PropertiesBuf::default();
        if let Some((method, data)) = &self.enhanced {
            properties
                .push(Property::AuthenticationMethod(method))
                .unwrap();
            if let Some(data) = data {
                properties.push(Property::AuthenticationData(data)).unwrap();
            }
        }
        let connect = Connect {
            username: self.username.as_deref(),
            password: self.password.as_ref().map(String::as_bytes),
            properties: properties.as_properties(),
            ..Connect::new(client.version, client_id)
        };
        client.send(&Packet::Connect(connect))
    }
}
