//! Bans of every kind, set at one replica, felt at three.

#![allow(clippy::unwrap_used, reason = "test code")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use dunlin_protocol::peek_frame;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use socket2::{Domain, Socket, Type};

use super::{Pair, World, now, setup};
use crate::{
    rig::cluster::wait_ready,
    support::{certs, connecting::Connecting, foreign::add_user, *},
};

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// A connection from any address, over TLS or not.
struct Link {
    stream: Box<dyn Stream>,
    unread: Vec<u8>,
}

impl Link {
    /// The next packet; `None`: it was closed.
    fn next(&mut self) -> Option<Received> {
        loop {
            let header = peek_frame(&self.unread, u32::MAX).expect("a good length");
            if let Some(header) = header
                && self.unread.len() >= header.total_len
            {
                let rest = self.unread.split_off(header.total_len);
                let frame = std::mem::replace(&mut self.unread, rest);
                return Some(Received::new(frame, Version::V5));
            }
            let mut part = [0; 4_096];
            match self.stream.read(&mut part) {
                Ok(count @ 1..) => self.unread.extend_from_slice(&part[..count]),
                _ => return None,
            }
        }
    }

    /// It lives, and has not been told anything.
    #[track_caller]
    fn expect_silence(&mut self) {
        let mut ping = Vec::new();
        Packet::PingReq.encode(Version::V5, &mut ping).unwrap();
        self.stream.write_all(&ping).expect("it is open");
        let answer = self.next().expect("it is open");
        assert_eq!(answer.packet(), Packet::PingResp);
    }

    #[track_caller]
    fn expect_end(&mut self) {
        let told = self.next().expect("not closed without a word");
        assert!(matches!(told.packet(), Packet::Disconnect(_)), "{told:?}");
        assert_eq!(told.reason(), ReasonCode::ADMINISTRATIVE_ACTION);
        assert!(self.next().is_none());
    }
}

/// How a client comes.
struct Way {
    /// What is banned.
    target: String,
    listener: &'static str,
    from: Ipv4Addr,
    tls: Option<Arc<ClientConfig>>,
    /// It has one client id, wherever it is.
    alone: bool,
    connecting: Box<dyn Fn(usize) -> Connecting>,
}

impl Way {
    fn new(target: &str, listener: &'static str, id: &'static str) -> Self {
        Self {
            target: target.to_owned(),
            listener,
            from: Ipv4Addr::LOCALHOST,
            tls: None,
            alone: false,
            connecting: Box::new(move |at| connect(Version::V5, &format!("{id}-{at}"))),
        }
    }

    fn with(self, connecting: impl Fn(usize) -> Connecting + 'static) -> Self {
        Self {
            connecting: Box::new(connecting),
            ..self
        }
    }

    /// Where such a client is connected.
    fn places(&self) -> std::ops::Range<usize> {
        match self.alone {
            true => 1..2,
            false => 0..3,
        }
    }

    /// Comes to a replica; the answer to CONNECT, if there is one.
    fn ask(&self, replica: &Broker, at: usize) -> (Link, Option<Received>) {
        let address = address_of(replica, self.listener);
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket
            .bind(&SocketAddr::from((self.from, 0)).into())
            .unwrap();
        socket.connect(&address.into()).unwrap();
        let tcp = TcpStream::from(socket);
        tcp.set_read_timeout(Some(LIMIT)).unwrap();
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(tcp),
            Some(config) => {
                let name = ServerName::try_from("localhost").unwrap();
                let connection = ClientConnection::new(Arc::clone(config), name).unwrap();
                Box::new(StreamOwned::new(connection, tcp))
            }
        };
        let mut link = Link {
            stream,
            unread: Vec::new(),
        };
        // One whose address is banned may be closed before it has spoken.
        let spoke = link.stream.write_all(&(self.connecting)(at).bytes());
        let answer = spoke.ok().and_then(|()| link.next());
        (link, answer)
    }

    #[track_caller]
    fn open(&self, replica: &Broker, at: usize) -> Link {
        let (link, answer) = self.ask(replica, at);
        let answer = answer.expect("an answer");
        assert_eq!(answer.reason(), ReasonCode::SUCCESS, "{}", self.target);
        link
    }

    #[track_caller]
    fn expect_refused(&self, replica: &Broker, at: usize) {
        let answer = self.ask(replica, at).1;
        match self.target.starts_with("address:") {
            true => assert!(answer.is_none(), "{answer:?}"),
            false => assert_eq!(
                answer.expect("an answer").reason(),
                ReasonCode::BANNED,
                "{}",
                self.target
            ),
        }
    }
}

/// Where a listener of a replica is.
fn address_of(replica: &Broker, listener: &str) -> SocketAddr {
    if listener.is_empty() {
        return replica.address();
    }
    let log = replica.log();
    let mut lines = log.lines().rev().filter_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        let fields = match line["fields"].is_object() {
            true => line["fields"].clone(),
            false => line,
        };
        (fields["listener"] == listener).then(|| fields["address"].as_str()?.parse().ok())?
    });
    lines.next().expect("the listener is bound")
}

fn tls(at: &Path) -> (ClientConfig, String) {
    let read = |name: &str| std::fs::read(at.join(name)).unwrap();
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(&read("ca.pem")).unwrap();
    roots.add(authority).unwrap();
    let own = CertificateDer::from_pem_slice(&read("client.pem")).unwrap();
    let digest = ring::digest::digest(&ring::digest::SHA256, &own);
    let hex = digest.as_ref().iter().map(|byte| format!("{byte:02x}"));
    let hex = hex.collect();
    let key = PrivateKeyDer::from_pem_slice(&read("client.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![own], key)
        .unwrap();
    (config, hex)
}

/// The listeners of a replica, beside the plain one.
fn listeners(at: &Path) -> String {
    let at = at.display();
    let listener = |name: &str, kind: &str, more: &str| {
        format!(
            "[[listener]]\nname = \"{name}\"\ntype = \"{kind}\"\naddress = \"127.0.0.1:0\"\n{more}\n"
        )
    };
    let certificate = format!(
        "auth = [\"certificate\"]\n[listener.tls]\ncertificate = \"{at}/server.pem\"\nkey = \"{at}/server.key\"\n\
         client_ca = \"{at}/ca.pem\"\nname_from = \"cn\""
    );
    [
        listener("acme", "tcp", "tenant = \"acme\""),
        listener("users", "tcp", "auth = [\"users\"]"),
        listener("jwt", "tcp", "auth = [\"jwt\"]"),
        listener("certificates", "tls", &certificate),
        format!("[auth]\nusers = \"{at}/users\"\n[auth.jwt]\nkeys = [\"{at}/issuer.pem\"]\n"),
        "[[tenant]]\nname = \"acme\"\n".to_owned(),
    ]
    .concat()
}

#[test]
fn bans_of_every_kind_end_and_refuse_on_all_replicas_and_outlive_them() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    certs::write(at, "gate");
    for name in ["ann", "bob"] {
        add_user(&at.join("users"), name, "secret");
    }
    let issuer = Arc::new(Pair::new());
    std::fs::write(at.join("issuer.pem"), issuer.0.public_key_pem()).unwrap();
    let setup = setup()
        .set("auth.default=allow")
        .set("limits.login_failures=0")
        .with_faults()
        .tables(&listeners(at));
    let mut world = World::with(setup).without_administrator();

    let (config, sha256) = tls(at);
    let user = |name: &'static str| {
        move |at| {
            connect(Version::V5, &format!("{name}-{at}"))
                .username(name)
                .password(b"secret")
        }
    };
    let token = |jti: &'static str| {
        let issuer = Arc::clone(&issuer);
        move |at| {
            let until = now() + 3_600;
            let token = issuer.token(&format!(
                r#"{{"jti":"{jti}","sub":"visitor","exp":{until}}}"#
            ));
            connect(Version::V5, &format!("{jti}-{at}"))
                .username("unused")
                .password(token.as_bytes())
        }
    };
    let device = world
        .pair
        .token(&format!(r#"{{"iat":{},"exp":{}}}"#, now(), now() + 3_600));
    let ways = [
        Way {
            from: Ipv4Addr::new(127, 0, 0, 77),
            ..Way::new("address:127.0.0.77", "", "far")
        },
        Way {
            alone: true,
            ..Way::new("client:meter", "", "").with(|_| connect(Version::V5, "meter"))
        },
        Way {
            alone: true,
            ..Way::new("client:$tenant/acme/meter", "acme", "")
                .with(|_| connect(Version::V5, "meter"))
        },
        Way::new("user:ann", "users", "").with(user("ann")),
        Way::new("device:pump", "", "").with(move |at| {
            connect(Version::V5, &format!("pump/{at}"))
                .username("pump")
                .password(device.as_bytes())
        }),
        Way::new("token:lost", "jwt", "").with(token("lost")),
        Way {
            tls: Some(Arc::new(config)),
            ..Way::new(&format!("certificate:{sha256}"), "certificates", "gate")
        },
        // The last, as one of its clients was banned before.
        Way::new("tenant:acme", "acme", "member"),
    ];
    let others = [
        Way::new("", "", "bystander"),
        Way::new("", "users", "").with(user("bob")),
        Way::new("", "jwt", "").with(token("kept")),
    ];
    let open = |way: &Way| -> Vec<Link> {
        let places = way.places();
        places.map(|at| way.open(world.replica(at), at)).collect()
    };
    let mut here: Vec<_> = ways.iter().map(&open).collect();
    let mut beside: Vec<_> = others.iter().flat_map(&open).collect();

    for (index, way) in ways.iter().enumerate() {
        let by = index % 3;
        let begin = Instant::now();
        let ban = ["bans", "add", &way.target, "--reason", "test"];
        world.ask(by, &ban);
        let answered = begin.elapsed();
        // What was answered holds everywhere already.
        for at in 0..3 {
            way.expect_refused(world.replica(at), at);
        }
        for link in &mut here[index] {
            link.expect_end();
        }
        let kind = way.target.split(':').next().unwrap_or_default();
        println!(
            "ban of a {kind} at replica {by}: answered after {answered:?} (of which the command line starts), all ended and refused after {:?}",
            begin.elapsed()
        );
        for link in here[index + 1..].iter_mut().flatten() {
            link.expect_silence();
        }
        for link in &mut beside {
            link.expect_silence();
        }
    }

    drop(beside);
    world.cluster.replicas[2].kill9();
    world.cluster.replicas[2].start_again();
    wait_ready(world.replica(2));
    for way in &ways {
        way.expect_refused(world.replica(2), 2);
    }
    for (index, way) in ways.iter().enumerate().rev() {
        world.ask((index + 1) % 3, &["bans", "remove", &way.target]);
        for at in 0..3 {
            way.open(world.replica(at), at);
        }
    }
    for way in &others {
        way.open(world.replica(2), 2);
    }
}
