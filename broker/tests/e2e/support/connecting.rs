//! Opening a connection: a CONNECT built piece by piece.

use std::net::SocketAddr;

use dunlin_protocol::{Connect, Packet, PropertiesBuf, Property, QoS, ReasonCode, Version, Will};

use super::{Broker, Client, Received, properties};

/// A will with what it says.
struct OwnedWill {
    qos: QoS,
    retain: bool,
    topic: String,
    payload: Vec<u8>,
    properties: PropertiesBuf,
}

/// A CONNECT that is being put together. Clean start and no keep alive unless said otherwise.
pub(crate) struct Connecting {
    version: Version,
    client_id: String,
    clean_start: bool,
    keep_alive: u16,
    properties: PropertiesBuf,
    will: Option<OwnedWill>,
    username: Option<String>,
    password: Option<Vec<u8>>,
}

/// Starts a CONNECT.
pub(crate) fn connect(version: Version, client_id: &str) -> Connecting {
    Connecting {
        version,
        client_id: client_id.to_owned(),
        clean_start: true,
        keep_alive: 0,
        properties: PropertiesBuf::new(),
        will: None,
        username: None,
        password: None,
    }
}

impl Connecting {
    /// Asks for a session that outlives the connection: for ever in 3.1.1, for an hour in 5.0.
    pub(crate) fn persistent(self) -> Self {
        self.resume().expiry(3_600)
    }

    /// Clean start 0, and nothing about what happens at the end.
    pub(crate) fn resume(mut self) -> Self {
        self.clean_start = false;
        self
    }

    /// Session Expiry Interval in seconds; nothing in versions that have none.
    pub(crate) fn expiry(self, seconds: u32) -> Self {
        if self.version.is_v5() {
            self.with(Property::SessionExpiryInterval(seconds))
        } else {
            self
        }
    }

    /// Keep alive in seconds.
    pub(crate) fn keep_alive(mut self, seconds: u16) -> Self {
        self.keep_alive = seconds;
        self
    }

    /// Adds a property.
    pub(crate) fn with(mut self, property: Property<'_>) -> Self {
        self.properties
            .push(property)
            .expect("the property can be written");
        self
    }

    /// Sets the will.
    pub(crate) fn will(self, topic: &str, payload: &[u8], qos: QoS, retain: bool) -> Self {
        self.will_with(topic, payload, qos, retain, &[])
    }

    /// Sets the will and its properties.
    pub(crate) fn will_with(
        mut self,
        topic: &str,
        payload: &[u8],
        qos: QoS,
        retain: bool,
        list: &[Property<'_>],
    ) -> Self {
        self.will = Some(OwnedWill {
            qos,
            retain,
            topic: topic.to_owned(),
            payload: payload.to_vec(),
            properties: properties(list),
        });
        self
    }

    /// Sets the user name.
    pub(crate) fn username(mut self, name: &str) -> Self {
        self.username = Some(name.to_owned());
        self
    }

    /// Sets the password.
    pub(crate) fn password(mut self, password: &[u8]) -> Self {
        self.password = Some(password.to_vec());
        self
    }

    /// What it speaks.
    pub(crate) const fn version(&self) -> Version {
        self.version
    }

    /// The bytes of the CONNECT.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let connect = Connect {
            version: self.version,
            clean_start: self.clean_start,
            keep_alive: self.keep_alive,
            client_id: &self.client_id,
            properties: self.properties.as_properties(),
            will: self.will.as_ref().map(|will| Will {
                qos: will.qos,
                retain: will.retain,
                topic: &will.topic,
                payload: &will.payload,
                properties: will.properties.as_properties(),
            }),
            username: self.username.as_deref(),
            password: self.password.as_deref(),
        };
        let mut out = Vec::new();
        Packet::Connect(connect)
            .encode(self.version, &mut out)
            .expect("the CONNECT can be written");
        out
    }

    /// Connects and gives the CONNACK, whatever it says.
    pub(crate) fn answer(&self, broker: &Broker) -> (Client, Received) {
        self.answer_at(broker.address())
    }

    /// The same at an address.
    pub(crate) fn answer_at(&self, address: SocketAddr) -> (Client, Received) {
        self.answer_over(Client::open(address, self.version))
    }

    /// The same over what is open already.
    pub(crate) fn answer_over(&self, mut client: Client) -> (Client, Received) {
        client.send_bytes(&self.bytes());
        let connack = client.receive();
        (client, connack)
    }

    /// Connects, takes the CONNACK and is gone; `None` if the broker closes instead of answering.
    #[allow(dead_code, reason = "for the cluster's tests, which share this folder")]
    pub(crate) fn try_answer(&self, address: SocketAddr) -> Option<Received> {
        let mut client = Client::open(address, self.version);
        if client.try_send_bytes(&self.bytes()) {
            client.next()
        } else {
            None
        }
    }

    /// Connects; the broker has to accept.
    pub(crate) fn accepted(&self, broker: &Broker) -> (Client, Received) {
        let (client, answer) = self.answer(broker);
        assert_eq!(answer.connack().reason, ReasonCode::SUCCESS, "{answer:?}");
        (client, answer)
    }

    /// Connects; the broker has to accept, and whether it had a session is checked.
    pub(crate) fn open(&self, broker: &Broker, session_present: bool) -> Client {
        let (client, answer) = self.accepted(broker);
        assert_eq!(
            answer.connack().session_present,
            session_present,
            "{answer:?}"
        );
        client
    }

    /// Connects; the broker has to answer with `reason` and close.
    pub(crate) fn refused(&self, broker: &Broker, reason: ReasonCode) -> Received {
        let (mut client, answer) = self.answer(broker);
        assert_eq!(answer.connack().reason, reason, "{answer:?}");
        assert!(!answer.connack().session_present, "{answer:?}");
        client.expect_closed();
        answer
    }
}
