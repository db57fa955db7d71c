//! Certificates, users and the configuration change while the broker runs.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    sync::Arc,
};

use rcgen::DnType;
use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};

use crate::{
    certificates::Authority,
    process::{CONNACK, CONNECT, Running, broker, passwd},
};

type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A TLS connection after its handshake, and the serial number of the certificate that it was shown.
fn connect_tls(running: &Running, config: Arc<ClientConfig>) -> std::io::Result<(Tls, Vec<u8>)> {
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(config, name).unwrap();
    let mut stream = StreamOwned::new(connection, running.connect());
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    let shown = stream.conn.peer_certificates().unwrap()[0].to_vec();
    Ok((stream, shown))
}

/// Speaks MQTT over a connection; false when the broker ends it.
fn is_served(stream: &mut Tls) -> bool {
    let mut answer = [0; 4];
    stream.write_all(CONNECT).is_ok() && stream.read_exact(&mut answer).is_ok() && answer == CONNACK
}

/// A folder as Kubernetes mounts a secret: links through `..data` to the version in force.
struct Secret<'a> {
    authority: &'a Authority,
    version: u32,
}

impl<'a> Secret<'a> {
    fn new(authority: &'a Authority) -> Self {
        let mut secret = Self {
            authority,
            version: 0,
        };
        secret.renew("server", "server");
        for name in ["tls.crt", "tls.key", "ca.crt"] {
            let link = secret.path(name);
            std::os::unix::fs::symlink(Path::new("..data").join(name), link).unwrap();
        }
        secret
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.authority.path(name)
    }

    /// The next version is in force, at once: the certificate of one name and the key of another.
    fn renew(&mut self, certificate: &str, key: &str) {
        self.version += 1;
        let folder = format!("..v{}", self.version);
        std::fs::create_dir(self.path(&folder)).unwrap();
        let place = |from: String, to: &str| {
            std::fs::copy(self.path(&from), self.path(&folder).join(to)).unwrap();
        };
        self.authority.sign(certificate, |params| {
            params
                .distinguished_name
                .push(DnType::OrganizationName, self.version.to_string());
        });
        if key != certificate {
            self.authority.sign(key, |_| {});
        }
        place(format!("{certificate}.pem"), "tls.crt");
        place(format!("{key}.key"), "tls.key");
        place("ca.pem".to_owned(), "ca.crt");
        std::os::unix::fs::symlink(&folder, self.path("..new")).unwrap();
        std::fs::rename(self.path("..new"), self.path("..data")).unwrap();
    }

    /// Starts a broker that uses it.
    fn start(&self, tls: &str) -> Running {
        let config = self.path("dunlin.toml");
        let text = format!(
            "watch_files_ms = 50\n[[listener]]\nname = \"devices\"\ntype = \"tls\"\naddress = \"127.0.0.1:0\"\n\
             [listener.tls]\ncertificate = {:?}\nkey = {:?}\n{tls}\n",
            self.path("tls.crt"),
            self.path("tls.key"),
        );
        std::fs::write(&config, text).unwrap();
        let mut command = broker();
        command.arg("--config").arg(&config);
        Running::start_as_is(command, &["--no-ops"])
    }
}

#[test]
fn a_renewed_certificate_is_shown_without_a_restart_and_connections_stay() {
    let authority = Authority::new();
    let mut secret = Secret::new(&authority);
    let mut running = secret.start("");
    let (mut early, first) = connect_tls(&running, authority.client(None)).unwrap();
    assert!(is_served(&mut early));
    secret.renew("server", "server");
    running.wait_for("new connections get the new certificate");
    let (_late, second) = connect_tls(&running, authority.client(None)).unwrap();
    assert_ne!(first, second);
    early.write_all(&[0xC0, 0]).unwrap();
    let mut pong = [0; 2];
    early.read_exact(&mut pong).unwrap();
    assert_eq!(pong, [0xD0, 0]);
}

#[test]
fn a_broken_pair_is_refused_and_the_old_one_stays() {
    let authority = Authority::new();
    let mut secret = Secret::new(&authority);
    let mut running = secret.start("");
    let (_, first) = connect_tls(&running, authority.client(None)).unwrap();
    secret.renew("server", "other");
    running.wait_for("DUN-0203");
    assert!(running.log().contains("the certificate in use stays"));
    let (_, second) = connect_tls(&running, authority.client(None)).unwrap();
    assert_eq!(first, second);
    secret.renew("server", "server");
    running.wait_for("new connections get the new certificate");
    let (_, third) = connect_tls(&running, authority.client(None)).unwrap();
    assert_ne!(first, third);
}

#[test]
fn another_authority_for_clients_holds_without_a_restart() {
    let authority = Authority::new();
    let mut secret = Secret::new(&authority);
    let client_ca = format!("client_ca = {:?}", secret.path("ca.crt"));
    let mut running = secret.start(&client_ca);
    // They trust the broker, and it does not trust them.
    let others = Authority::new();
    others.sign("device", |_| {});
    for name in ["device.pem", "device.key"] {
        std::fs::copy(others.path(name), authority.path(name)).unwrap();
    }
    let device = authority.client(Some("device"));
    let served = |running: &Running| {
        connect_tls(running, Arc::clone(&device))
            .is_ok_and(|(mut stream, _)| is_served(&mut stream))
    };
    assert!(!served(&running));
    let own = std::fs::read(authority.path("ca.pem")).unwrap();
    std::fs::copy(others.path("ca.pem"), authority.path("ca.pem")).unwrap();
    secret.renew("server", "server");
    std::fs::write(authority.path("ca.pem"), own).unwrap();
    running.wait_for("new connections get the new certificate");
    assert!(served(&running));
}

#[test]
fn a_changed_users_file_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users");
    assert!(passwd(&users, "ann", "first\n").status.success());
    let mut command = broker();
    command.args(["--set", &format!("auth.users={}", users.display())]);
    let mut running = Running::start_with(command, &["--no-ops", "--set", "watch_files_ms=50"]);
    assert_eq!(running.log_in("ann", "first"), CONNACK);
    assert_eq!(running.log_in("bob", "his"), [0x20, 2, 0, 4]);
    assert!(passwd(&users, "bob", "his\n").status.success());
    running.wait_for("the users file was read again");
    assert_eq!(running.log_in("bob", "his"), CONNACK);
    std::fs::write(&users, "no colon in this line\n").unwrap();
    running.wait_for("the users stay as they were");
    assert!(running.log().contains("DUN-0302"), "{}", running.log());
    assert_eq!(running.log_in("bob", "his"), CONNACK);
}

#[test]
fn a_hangup_brings_a_changed_configuration_into_force_and_names_what_needs_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("dunlin.toml");
    let write = |text: &str| std::fs::write(&config, text).unwrap();
    write("[limits]\nmax_connections = 100\n");
    let mut command = broker();
    command.arg("--config").arg(&config);
    let mut running = Running::start(command);
    let _first = running.connect_mqtt();
    write("[limits]\nmax_connections = 1\nread_buffer = 2048\n[log]\nlevel = \"debug\"\n");
    running.signal("-HUP");
    running.wait_for("needs a restart");
    let log = running.log();
    assert!(
        log.contains("\"changed\":\"limits.max_connections, log.level\""),
        "{log}"
    );
    assert!(log.contains("\"keys\":\"limits.read_buffer\""), "{log}");
    let mut second = running.connect();
    second.write_all(CONNECT).unwrap();
    let mut answer = [0; 4];
    second.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [0x20, 2, 0, 3]);
    running.wait_for("\"level\":\"DEBUG\"");
}

#[test]
fn a_wrong_configuration_changes_nothing_and_all_of_its_problems_are_said() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("dunlin.toml");
    let write = |text: &str| std::fs::write(&config, text).unwrap();
    write("");
    let mut command = broker();
    command.arg("--config").arg(&config);
    let mut running = Running::start(command);
    write(
        "[limits]\nmax_connections = 1\nread_bufer = 2048\n[auth]\nusers = \"absent\"\n[log]\nlevel = \"loud\"\n",
    );
    running.signal("-HUP");
    running.wait_for("nothing has been changed");
    let log = running.log();
    for words in ["DUN-0103", "DUN-0301", "DUN-0003", "\"problems\":3"] {
        assert!(log.contains(words), "{words}: {log}");
    }
    let _first = running.connect_mqtt();
    let _second = running.connect_mqtt();
    write("[[auth.rules]]\neffect = \"deny\"\ntopics = [\"secret\"]\n");
    running.signal("-HUP");
    running.wait_for("the configuration was read again");
    assert!(
        running
            .log()
            .contains("\"changed\":\"auth.default, auth.rules\""),
        "{}",
        running.log()
    );
}

#[test]
fn rules_hold_for_clients_that_are_connected_too() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("dunlin.toml");
    std::fs::write(&config, "").unwrap();
    let mut command = broker();
    command.arg("--config").arg(&config);
    let mut running = Running::start(command);
    let mut client = running.connect_mqtt();
    let subscribe = |client: &mut std::net::TcpStream| {
        client.write_all(&[0x82, 6, 0, 1, 0, 1, b'a', 0]).unwrap();
        let mut answer = [0; 5];
        client.read_exact(&mut answer).unwrap();
        answer[4]
    };
    assert_eq!(subscribe(&mut client), 0);
    std::fs::write(
        &config,
        "[[auth.rules]]\neffect = \"allow\"\ntopics = [\"b\"]\n",
    )
    .unwrap();
    running.signal("-HUP");
    running.wait_for("the configuration was read again");
    // What is no longer allowed is taken away, and its client told by the end of the connection.
    running.wait_for("clients were disconnected");
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    let mut again = running.connect_mqtt();
    assert_eq!(subscribe(&mut again), 0x80);
}
