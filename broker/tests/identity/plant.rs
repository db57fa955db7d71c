//! A factory: bootstrap credentials of every kind, and a broker that gives identities over HTTPS and over MQTT.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
};

use dunlin_protocol::{
    Connect, Packet, PacketId, PropertiesBuf, Property, Publish, QoS, ReasonCode, Subscribe,
    SubscribeFiltersBuf, SubscribeOptions, Version,
};
use rcgen::{CertificateParams, KeyPair};
use ring::rand::SecureRandom;
use rustls::{ClientConnection, StreamOwned, pki_types::ServerName};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    authority::{Authority, client, nobody},
    broker::Broker,
    client::{Client, Kind, LIMIT, Shown},
    tokens::{Signer, now},
};

pub const REQUEST: &str = "$provision/request";

pub struct Plant {
    pub broker: Broker,
    /// Signs bootstrap tokens.
    line: Signer,
    pub folder: TempDir,
}

/// A number that is used once.
pub fn nonce() -> String {
    let mut bytes = [0; 16];
    ring::rand::SystemRandom::new().fill(&mut bytes).unwrap();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn csr(key: &KeyPair) -> String {
    let params = CertificateParams::default();
    params.serialize_request(key).unwrap().pem().unwrap()
}

/// A request for a certificate.
pub fn request(serial: &str, key: &KeyPair) -> Value {
    json!({ "serial": serial, "nonce": nonce(), "csr": csr(key) })
}

/// What came of a request: a status, and the answer.
pub type Answer = (u64, Value);

/// An answer as it came over MQTT.
pub struct Heard {
    pub topic: String,
    pub kind: Option<String>,
    pub correlation: Option<Vec<u8>>,
    pub retain: bool,
    pub answer: Answer,
}

impl Plant {
    /// `more` stands in `[provisioning]`, `after` behind everything.
    pub fn start(more: &str, after: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let server = Authority::new("of servers");
        fs::write(at.join("ca.pem"), &server.certificate).unwrap();
        server.sign(at, "localhost", 1, false);
        let lines = Authority::new("of bootstrap credentials");
        fs::write(at.join("lines.pem"), &lines.certificate).unwrap();
        lines.sign(at, "good", 0x11, false);
        lines.sign(at, "expired", 0x12, true);
        lines.sign(at, "revoked", 0x13, false);
        lines.revoke(&at.join("crl.pem"), &[0x13]);
        Authority::new("another authority").sign(at, "stranger", 1, false);
        let people = Authority::new("of people");
        people.sign(at, "ann", 0x21, false);
        let devices = Authority::new("of devices");
        fs::write(at.join("devices.pem"), &devices.certificate).unwrap();
        fs::write(at.join("devices.key"), &devices.secret).unwrap();
        let all = [&lines, &people, &devices].map(|authority| authority.certificate.as_str());
        fs::write(at.join("all.pem"), all.concat()).unwrap();
        let (line, public) = Signer::es256_with_pem();
        fs::write(at.join("line.pub"), public).unwrap();
        let broker = Broker::start(at, &config(at, more, after));
        Self {
            broker,
            line,
            folder,
        }
    }

    pub fn at(&self) -> &Path {
        self.folder.path()
    }

    pub fn address(&self, listener: &str) -> SocketAddr {
        self.broker.addresses[listener]
    }

    /// A bootstrap token with more claims, such as `,"tenant":"acme"`.
    pub fn token(&self, more: &str) -> String {
        let (from, until) = (now(), now() + 600);
        self.line.sign(
            None,
            &format!(r#"{{"aud":"provisioning","sub":"line-1","iat":{from},"exp":{until}{more}}}"#),
        )
    }

    /// A connection to a listener without TLS, with a bootstrap token.
    pub fn connect(&self, version: Version, client_id: &str) -> Client {
        self.connect_to("tcp", version, client_id, &self.token(""))
    }

    pub fn connect_to(
        &self,
        listener: &str,
        version: Version,
        client_id: &str,
        token: &str,
    ) -> Client {
        let (mut client, reason) = self.try_connect(listener, version, client_id, token);
        assert_eq!(reason, ReasonCode::SUCCESS, "{}", self.broker.log());
        client.version = version;
        client
    }

    pub fn try_connect(
        &self,
        listener: &str,
        version: Version,
        client_id: &str,
        token: &str,
    ) -> (Client, ReasonCode) {
        let address = self.address(listener);
        let mut client = Client::open(Kind::Tcp, address, &nobody(), version).unwrap();
        let shown = Shown::named("whoever", token);
        shown.send(&mut client, client_id).unwrap();
        let reason = client.connack().unwrap();
        (client, reason)
    }

    /// A connection over TLS with a certificate; an error where TLS refuses it.
    pub fn with_certificate(
        &self,
        listener: &str,
        version: Version,
        client_id: &str,
        certificate: &str,
    ) -> std::io::Result<(Client, ReasonCode)> {
        let tls = client(self.at(), Some(certificate));
        let mut client = Client::open(Kind::Tls, self.address(listener), &tls, version)?;
        client.send(&Packet::Connect(Connect::new(version, client_id)))?;
        let reason = client.connack()?;
        Ok((client, reason))
    }

    /// Asks over HTTPS with a token, or with a certificate.
    pub fn post(
        &self,
        token: Option<&str>,
        certificate: Option<&str>,
        request: &str,
    ) -> std::io::Result<Answer> {
        let tls = client(self.at(), certificate);
        let tcp = TcpStream::connect(self.broker.provisioning.unwrap())?;
        tcp.set_read_timeout(Some(LIMIT))?;
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = StreamOwned::new(ClientConnection::new(tls, name).unwrap(), tcp);
        let bearer = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
        let head = format!(
            "POST /v1/provision HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n{}Content-Length: {}\r\n\r\n",
            bearer.unwrap_or_default(),
            request.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(request.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").expect("an answer");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Ok((status, serde_json::from_str(body).unwrap()))
    }

    /// Connects as the device that has got this certificate.
    pub fn connect_device(&self, identity: &Value, key: &KeyPair, version: Version) -> ReasonCode {
        let device = identity["device"].as_str().unwrap();
        let certificate = identity["certificate"].as_str().unwrap();
        fs::write(self.at().join(format!("{device}.pem")), certificate).unwrap();
        fs::write(self.at().join(format!("{device}.key")), key.serialize_pem()).unwrap();
        let connected = self.with_certificate("tls", version, device, device);
        connected.unwrap().1
    }
}

/// Sends a SUBSCRIBE, and gives back what is granted.
pub fn subscribe(client: &mut Client, filters: &[&str]) -> Vec<u8> {
    let mut list = SubscribeFiltersBuf::default();
    for filter in filters {
        list.push(filter, SubscribeOptions::new(QoS::AtLeastOnce))
            .unwrap();
    }
    let subscribe = Subscribe {
        packet_id: PacketId::new(7).unwrap(),
        properties: dunlin_protocol::Properties::EMPTY,
        filters: list.as_filters(),
    };
    client.send(&Packet::Subscribe(subscribe)).unwrap();
    let granted = client.next(|packet| match packet {
        Packet::SubAck(suback) => suback.reason_codes.to_vec(),
        other => panic!("in place of SUBACK: {other:?}"),
    });
    granted.unwrap()
}

/// Publishes at QoS 1, and gives back the reason in PUBACK.
pub fn publish(
    client: &mut Client,
    topic: &str,
    properties: &[Property<'_>],
    payload: &str,
) -> ReasonCode {
    let mut list = PropertiesBuf::default();
    for property in properties {
        list.push(*property).unwrap();
    }
    let publish = Publish {
        qos: QoS::AtLeastOnce,
        retain: true,
        topic,
        packet_id: PacketId::new(9),
        properties: list.as_properties(),
        payload: payload.as_bytes(),
        ..Publish::default()
    };
    client.send(&Packet::Publish(publish)).unwrap();
    let acknowledged = client.next(|packet| match packet {
        Packet::PubAck(ack) => ack.reason,
        other => panic!("in place of PUBACK: {other:?}"),
    });
    acknowledged.unwrap()
}

/// The next PUBLISH: an answer.
pub fn hear(client: &mut Client) -> Heard {
    let heard = client.next(|packet| match packet {
        Packet::Publish(publish) => {
            let body: Value = serde_json::from_slice(publish.payload).unwrap();
            Heard {
                topic: publish.topic.to_owned(),
                kind: publish.properties.content_type().map(str::to_owned),
                correlation: publish.properties.correlation_data().map(<[u8]>::to_vec),
                retain: publish.retain,
                answer: (body["status"].as_u64().unwrap_or(200), body),
            }
        }
        other => panic!("in place of an answer: {other:?}"),
    });
    heard.unwrap()
}

/// Asks over MQTT, with a subscription made before.
pub fn ask(client: &mut Client, request: &str) -> Answer {
    let reason = publish(client, REQUEST, &[], request);
    assert_eq!(reason, ReasonCode::SUCCESS);
    hear(client).answer
}

pub fn config(at: &Path, more: &str, after: &str) -> String {
    let file = |name: &str| format!("{:?}", at.join(name).to_str().unwrap());
    let server = format!(
        "certificate = {}\nkey = {}\nclient_auth = \"optional\"\ncrl = [{}]\n",
        file("localhost.pem"),
        file("localhost.key"),
        file("crl.pem")
    );
    let listener = |name: &str, kind: &str, rest: &str| {
        format!(
            "[[listener]]\nname = \"{name}\"\ntype = \"{kind}\"\naddress = \"127.0.0.1:0\"\n{rest}\n"
        )
    };
    [
        "workers = 2\n[limits]\nlogin_failures = 0\n[features]\nallow_mqtt31 = true\n".to_owned(),
        "[auth]\nanonymous = false\nregistry = true\ndefault = \"allow\"\n".to_owned(),
        format!("[audit]\nto = {}\nevents = \"all\"\n", file("audit")),
        listener("tcp", "tcp", ""),
        listener("others", "tcp", "auth = [\"registry\"]"),
        listener("open", "tcp", "anonymous = true"),
        listener("tenants", "tcp", "tenant = \"acme\""),
        listener("tls", "tls", ""),
        format!("[listener.tls]\nclient_ca = {}\n{server}", file("all.pem")),
        listener("named", "tls", "auth = [\"certificate\"]"),
        format!(
            "[listener.tls]\nclient_ca = {}\nname_from = \"cn\"\n{server}",
            file("all.pem")
        ),
        "[[tenant]]\nname = \"acme\"\n".to_owned(),
        format!(
            "[provisioning]\nlisten = \"127.0.0.1:0\"\nmqtt = true\nmqtt_client_ca = {}\nkeys = [{}]\nca_certificate = {}\nca_key = {}\nlisted_only = false\n{more}\n",
            file("lines.pem"),
            file("line.pub"),
            file("devices.pem"),
            file("devices.key")
        ),
        format!(
            "[provisioning.tls]\nclient_ca = {}\n{server}",
            file("lines.pem")
        ),
        after.to_owned(),
    ]
    .concat()
}

/// The lines of the audit log about provisioning, when there are so many.
pub fn audited(plant: &Plant, event: &str, count: usize) -> Vec<Value> {
    let end = std::time::Instant::now() + LIMIT;
    loop {
        let text = fs::read_to_string(plant.at().join("audit")).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines = whole
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let found: Vec<_> = lines.filter(|line| line["event"] == event).collect();
        if found.len() >= count {
            return found;
        }
        assert!(std::time::Instant::now() < end, "{found:#?}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// A spy that reads all that anybody publishes.
pub fn spy(plant: &Plant) -> Client {
    let address = plant.address("open");
    let mut spy = Client::open(Kind::Tcp, address, &nobody(), Version::V5).unwrap();
    let connect = Connect::new(Version::V5, "spy");
    spy.send(&Packet::Connect(connect)).unwrap();
    assert_eq!(spy.connack().unwrap(), ReasonCode::SUCCESS);
    let filters = ["#", "$provision/#", "$provision/response/+", REQUEST];
    assert!(
        subscribe(&mut spy, &filters)
            .iter()
            .all(|code| *code < 0x80)
    );
    spy
}
