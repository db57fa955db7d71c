//! mosquitto's own clients, `mosquitto_pub` and `mosquitto_sub`.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use crate::support::{
    broker::free_port,
    certs,
    foreign::{Outcome, add_user, run},
    *,
};

const VERSIONS: [&str; 3] = ["mqttv31", "mqttv311", "mqttv5"];

fn publisher(port: u16) -> Command {
    let mut command = Command::new("mosquitto_pub");
    command.args(["-h", "127.0.0.1", "-p", &port.to_string()]);
    command
}

fn subscriber(port: u16) -> Command {
    let mut command = Command::new("mosquitto_sub");
    command.args(["-h", "127.0.0.1", "-p", &port.to_string()]);
    command
}

/// A subscriber with a session of its own, so that nothing is lost between its subscription and its next connection.
fn session(port: u16, version: &str, client_id: &str) -> Command {
    let mut command = subscriber(port);
    command.args(["-V", version, "-i", client_id, "-c"]);
    if version == "mqttv5" {
        command.args(["-x", "3600"]);
    }
    command
}

// [MQTT-7.0.0-2] v311
#[test]
fn publish_and_subscribe_in_every_version_and_qos() {
    let broker = Broker::start();
    for version in VERSIONS {
        for qos in ["0", "1", "2"] {
            let id = format!("sub-{version}-{qos}");
            let topic = format!("mosquitto/{version}/{qos}");
            let filter = format!("mosquitto/+/{qos}");
            run(session(broker.port(), version, &id).args(["-q", qos, "-t", &filter, "-E"]))
                .success();
            if qos != "0" {
                run(publisher(broker.port())
                    .args(["-V", version, "-q", qos, "-t", &topic, "-m", "waited"]))
                .success();
            }
            // A retained message comes with the subscription that the reader makes again.
            run(publisher(broker.port())
                .args(["-V", version, "-q", qos, "-t", &topic, "-m", "kept", "-r"]))
            .success();
            let wanted = if qos == "0" { "1" } else { "3" };
            let mut reader = session(broker.port(), version, &id);
            let got =
                run(reader.args(["-q", qos, "-t", &filter, "-C", wanted, "-F", "%q %r %t %p"]))
                    .success();
            let mut lines = got.lines();
            lines.sort_unstable();
            let mut expected = vec![format!("{qos} 1 {topic} kept")];
            if qos != "0" {
                expected.extend([
                    format!("{qos} 0 {topic} kept"),
                    format!("{qos} 0 {topic} waited"),
                ]);
            }
            expected.sort_unstable();
            assert_eq!(lines, expected, "{version}, QoS {qos}");
            run(publisher(broker.port()).args(["-t", &topic, "-r", "-n"])).success();
        }
    }
}

#[test]
fn many_lines_come_in_order_and_whole() {
    let broker = Broker::start();
    run(session(broker.port(), "mqttv5", "lines").args(["-q", "2", "-t", "lines", "-E"])).success();
    let mut child = publisher(broker.port())
        .args(["-V", "mqttv5", "-q", "2", "-t", "lines", "-l"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("mosquitto_pub starts; `make deps` installs it");
    let lines: Vec<String> = (0..500).map(|n| format!("line {n}")).collect();
    let mut stdin = child.stdin.take().expect("its standard input");
    stdin
        .write_all(format!("{}\n", lines.join("\n")).as_bytes())
        .expect("the lines are taken");
    drop(stdin);
    assert!(child.wait().expect("mosquitto_pub ends").success());
    let got = run(
        session(broker.port(), "mqttv5", "lines").args(["-q", "2", "-t", "lines", "-C", "500"])
    )
    .success();
    assert_eq!(got.lines(), lines);
}

#[test]
fn a_killed_client_leaves_its_will() {
    let broker = Broker::start();
    for version in VERSIONS {
        let mut witness = Client::new(&broker, Version::V5, "witness");
        witness.subscribe("mosquitto/#", QoS::AtLeastOnce);
        let mut child = publisher(broker.port())
            .args(["-V", version, "-q", "1", "-t", "mosquitto/alive", "-l"])
            .args([
                "--will-topic",
                "mosquitto/will",
                "--will-payload",
                "killed",
                "--will-qos",
                "1",
            ])
            .stdin(Stdio::piped())
            .spawn()
            .expect("mosquitto_pub starts; `make deps` installs it");
        let stdin = child.stdin.as_mut().expect("its standard input");
        stdin.write_all(b"hello\n").expect("the line is taken");
        witness.expect_message("mosquitto/alive", b"hello");
        child.kill().expect("mosquitto_pub can be killed");
        child.wait().expect("mosquitto_pub ends");
        witness.expect_message("mosquitto/will", b"killed");
    }
}

#[test]
fn properties_of_5_0_come_through() {
    let broker = Broker::start();
    run(session(broker.port(), "mqttv5", "props").args(["-q", "1", "-t", "props", "-E"])).success();
    let mut command = publisher(broker.port());
    command.args(["-V", "mqttv5", "-q", "1", "-t", "props", "-m", "x"]);
    for property in [
        &["content-type", "text/plain"][..],
        &["response-topic", "answers"],
        &["correlation-data", "corr"],
        &["user-property", "name", "value"],
    ] {
        command.args(["-D", "publish"]).args(property);
    }
    run(&mut command).success();
    let mut reader = session(broker.port(), "mqttv5", "props");
    let got =
        run(reader.args(["-q", "1", "-t", "props", "-C", "1", "-F", "%C|%R|%D|%P"])).success();
    assert_eq!(got.lines(), ["text/plain|answers|corr|name:value"]);
}

/// A broker with a TLS listener besides its plain one, and the certificates beside its files.
fn with_tls(client_name: &str, tls: &str, auth: &str) -> (Broker, u16) {
    let port = free_port();
    let setup = Broker::setup();
    certs::write(setup.dir(), client_name);
    let broker = setup
        .config(&format!(
            "[[listener]]\naddress = \"127.0.0.1:{{port}}\"\n\n[[listener]]\naddress = \"127.0.0.1:{port}\"\n\
             type = \"tls\"\ntls = {{ certificate = \"{{dir}}/server.pem\", key = \"{{dir}}/server.key\"{tls} }}\n\n\
             [store]\nkind = \"memory\"\n{auth}"
        ))
        .start();
    (broker, port)
}

fn over_tls(command: &mut Command, dir: &Path, authority: &str, client: bool) -> Outcome {
    command
        .arg("--cafile")
        .arg(dir.join(authority))
        .args(["-V", "mqttv5", "-q", "1"]);
    if client {
        command
            .arg("--cert")
            .arg(dir.join("client.pem"))
            .arg("--key")
            .arg(dir.join("client.key"));
    }
    run(command)
}

#[test]
fn tls_carries_messages_and_a_wrong_authority_is_noticed() {
    let (broker, port) = with_tls("unused", "", "");
    let mut witness = Client::new(&broker, Version::V5, "witness");
    witness.subscribe("tls", QoS::AtLeastOnce);
    let send = |authority: &str| {
        over_tls(
            publisher(port).args(["-t", "tls", "-m", "hidden"]),
            broker.dir(),
            authority,
            false,
        )
    };
    send("ca.pem").success();
    witness.expect_message("tls", b"hidden");
    assert_ne!(send("other-ca.pem").code, Some(0));
}

#[test]
fn mutual_tls_names_the_client_by_its_certificate() {
    let (broker, port) = with_tls(
        "sensor-7",
        ", client_ca = \"{dir}/ca.pem\", client_auth = \"required\", name_from = \"cn\"",
        "\n[auth]\nanonymous = true\n\n[[auth.rules]]\neffect = \"allow\"\naction = \"publish\"\ntopics = [\"own/%u\"]\n\n\
         [[auth.rules]]\neffect = \"allow\"\naction = \"subscribe\"\ntopics = [\"#\"]\n",
    );
    let mut witness = Client::new(&broker, Version::V5, "witness");
    witness.subscribe("own/#", QoS::AtLeastOnce);
    let publish = |topic: &str, client: bool| {
        over_tls(
            publisher(port).args(["-t", topic, "-m", "me"]),
            broker.dir(),
            "ca.pem",
            client,
        )
    };
    assert_ne!(
        publish("own/sensor-7", false).code,
        Some(0),
        "a client without a certificate is not let in"
    );
    publish("own/sensor-8", true);
    publish("own/sensor-7", true).success();
    witness.expect_message("own/sensor-7", b"me");
}

#[test]
fn a_wrong_password_is_named_by_the_client() {
    let setup = Broker::setup();
    add_user(&setup.dir().join("users"), "bird", "secret");
    let broker = setup
        .config(
            "[[listener]]\naddress = \"127.0.0.1:{port}\"\n\n[store]\nkind = \"memory\"\n\n\
             [auth]\nanonymous = false\nusers = \"{dir}/users\"\ndefault = \"allow\"\n",
        )
        .start();
    let attempt = |version: &str, password: &str| {
        run(publisher(broker.port()).args([
            "-V", version, "-t", "t", "-m", "x", "-u", "bird", "-P", password,
        ]))
    };
    for version in VERSIONS {
        attempt(version, "secret").success();
        let refused = attempt(version, "wrong");
        assert_ne!(refused.code, Some(0));
        let text = refused.stderr.to_lowercase();
        assert!(
            text.contains("bad user") || text.contains("not authori"),
            "{version}: {text}"
        );
    }
}
