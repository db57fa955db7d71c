//! The walk through a tutorial of IoT Core: an ES256 key by openssl, a device added with its public key, paho-mqtt with a token over TLS, and a row in the
//! warehouse that has the device id from the broker. Only the host, its port and its CA file are others than in the tutorial. Once into Parquet files, once into
//! BigQuery, with the registry of the tutorial's client id as the device's tenant.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;

use rcgen::{CertificateParams, KeyPair};

use crate::emulator::{DATASET, Emulator, PROJECT};
use crate::support::{LIMIT, Setup, free_port, wait_for};
use crate::world::World;

const DEVICE: &str = "pump-7";
/// The registry of IoT Core is the device's tenant, where it has one.
const REGISTRY: &str = "my-registry";

/// The broker's folder, its ports, and a token for its administration.
struct Place {
    dir: tempfile::TempDir,
    tls: u16,
    admin: u16,
    /// Of the device.
    tenant: Option<&'static str>,
}

fn broker() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_bigquery-adapter")).with_file_name("broker")
}

impl Place {
    fn new(tenant: Option<&'static str>) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            tls: free_port(),
            admin: free_port(),
            tenant,
        }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Writes everything that the broker is configured by; gives the arguments that it is started with.
    fn prepare(&self, plain: u16) -> Vec<String> {
        let pair = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&pair).unwrap();
        fs::write(self.path("server.pem"), certificate.pem()).unwrap();
        fs::write(self.path("server.key"), pair.serialize_pem()).unwrap();
        let token = Command::new(broker())
            .args(["token", &self.path("tokens"), "operator", "--write"])
            .output()
            .unwrap();
        assert!(token.status.success(), "{token:?}");
        fs::write(self.path("token"), token.stdout).unwrap();
        let (folder, tls, admin) = (self.dir.path().display(), self.tls, self.admin);
        let tls_files = format!(
            "tls = {{ certificate = \"{folder}/server.pem\", key = \"{folder}/server.key\" }}"
        );
        let tenant = self.tenant.map_or_else(String::new, |tenant| {
            format!("[[tenant]]\nname = \"{tenant}\"\n\n")
        });
        let config = format!(
            "{tenant}[auth]\nregistry = true\n\n[[auth.rules]]\neffect = \"allow\"\ntopics = [\"probe\"]\n\n\
             [[listener]]\nname = \"devices\"\ntype = \"tls\"\naddress = \"127.0.0.1:{tls}\"\nanonymous = false\n{tls_files}\n\n\
             [[listener]]\naddress = \"127.0.0.1:{plain}\"\nanonymous = true\n\n\
             [admin]\nlisten = \"127.0.0.1:{admin}\"\ntokens_file = \"{folder}/tokens\"\n{tls_files}\n"
        );
        fs::write(self.path("dunlin.toml"), config).unwrap();
        vec!["--config".to_owned(), self.path("dunlin.toml")]
    }

    /// `broker devices …`, as an operator gives it.
    fn devices(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(broker());
        command
            .args([
                "devices",
                "--url",
                &format!("https://localhost:{}", self.admin),
            ])
            .args([
                "--ca",
                &self.path("server.pem"),
                "--token-file",
                &self.path("token"),
            ])
            .args(self.tenant.iter().flat_map(|tenant| ["--tenant", tenant]))
            .args(arguments);
        command.output().unwrap()
    }

    /// The client of the tutorial, with a private key.
    fn client(&self, key: &str) -> Command {
        let mut command = python();
        command
            .args(["localhost", &self.tls.to_string(), &self.path("server.pem")])
            .args(["my-project", "europe-west1", REGISTRY, DEVICE, key]);
        command
    }

    #[track_caller]
    fn done(&self, arguments: &[&str]) -> String {
        let output = self.devices(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

fn openssl(arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn python() -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let interpreter = std::env::var_os("DUNLIN_PYTHON")
        .map_or_else(|| root.join(".venv/bin/python"), PathBuf::from);
    let mut command = Command::new(interpreter);
    command.arg(root.join("tests-e2e/python/iot_core_check.py"));
    command
}

/// What the tutorial does, and what its operator does beside it.
fn walk(place: &Place) {
    let (private, public) = (place.path("ec_private.pem"), place.path("ec_public.pem"));
    openssl(&[
        "ecparam",
        "-genkey",
        "-name",
        "prime256v1",
        "-noout",
        "-out",
        &private,
    ]);
    openssl(&["ec", "-in", &private, "-pubout", "-out", &public]);
    let shown = place.done(&[
        "add",
        DEVICE,
        "--public-key",
        &public,
        "--attribute",
        "site=north",
    ]);
    assert!(shown.contains("key for ES256"), "{shown}");
    place.done(&["config", DEVICE, "--text", "{\"interval\": 17}"]);

    let mut client = place
        .client(&private)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (said, lines) = mpsc::sync_channel(1_000);
    let out = BufReader::new(client.stdout.take().unwrap());
    let reading = std::thread::spawn(move || {
        out.lines()
            .map_while(Result::ok)
            .for_each(|line| drop(said.send(line)))
    });
    let next = || {
        lines
            .recv_timeout(LIMIT)
            .expect("the client says how far it is")
    };
    assert_eq!(next(), "connected");
    assert_eq!(next(), "config 17");
    assert_eq!(next(), "published");
    place.done(&["command", DEVICE, "reboot"]);
    assert_eq!(next(), "command reboot");
    assert!(client.wait().unwrap().success());
    reading.join().unwrap();
    wait_for("what the device has reported", || {
        let states = place.done(&["states", DEVICE]);
        states.contains("interval").then_some(())
    });

    // Whoever has no key of the device is refused, and so is the device when it is blocked.
    let other = place.path("other.pem");
    openssl(&[
        "ecparam",
        "-genkey",
        "-name",
        "prime256v1",
        "-noout",
        "-out",
        &other,
    ]);
    place.done(&["block", DEVICE, "--reason", "stolen"]);
    for key in [&other, &private] {
        let refused = place.client(key).output().unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            !refused.status.success() && said.contains("AssertionError"),
            "{said}"
        );
    }
}

/// The client id is what a tutorial's client has; the device id is the registry's.
fn client_id() -> String {
    format!("projects/my-project/locations/europe-west1/registries/{REGISTRY}/devices/{DEVICE}")
}

fn wait_until_stored(world: &World) {
    wait_for("all to be in the warehouse", || {
        (world.messages_left() == 0).then_some(())
    });
}

fn adapter(world: &World) -> Setup {
    Setup::new("mqtt://127.0.0.1:1")
        .and(&["--source", "tap", "--redis", &world.redis_url()])
        .and(&["--set", "tap.partitions=6"])
}

#[test]
fn a_tutorial_of_iot_core_works_with_another_host_name() {
    let place = Place::new(None);
    let world = World::start_with(|port| place.prepare(port));
    let adapter = adapter(&world).and(&["--set", "parquet.roll_ms=60"]);
    let running = adapter.start_ready();
    walk(&place);
    wait_until_stored(&world);
    assert!(running.terminate().success());
    let found = adapter.sql(&format!(
        "select device_id, client_id, tenant, count(*) from messages where topic = '/devices/{DEVICE}/events' group by all"
    ));
    assert_eq!(found, format!("('{DEVICE}', '{}', None, 3)", client_id()));
}

#[test]
fn its_rows_in_bigquery_have_the_device_and_the_tenant_that_the_broker_knows() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let emulator = Emulator::start();
    runtime.block_on(emulator.make_dataset());
    let place = Place::new(Some(REGISTRY));
    let world = World::start_with(|port| place.prepare(port));
    let settings = [
        ("adapter.sink", "bigquery"),
        ("bigquery.project", PROJECT),
        ("bigquery.dataset", DATASET),
        ("bigquery.credentials", "none"),
        ("bigquery.endpoint", &emulator.grpc),
        ("bigquery.rest_endpoint", &emulator.rest),
        ("bigquery.dead_letter_directory", &place.path("dead")),
        ("bigquery.age_ms", "20"),
    ];
    let adapter = settings
        .iter()
        .fold(adapter(&world), |setup, (key, value)| {
            setup.and(&["--set", &format!("{key}={value}")])
        });
    let running = adapter.start_ready();
    walk(&place);
    wait_until_stored(&world);
    assert!(running.terminate().success());
    let found = runtime.block_on(emulator.query(&format!(
        "select device_id, tenant, client_id, count(*) from `{PROJECT}.{DATASET}.messages` \
         where topic = '/devices/{DEVICE}/events' group by device_id, tenant, client_id"
    )));
    let expected = [DEVICE, REGISTRY, &client_id(), "3"].map(|text| Some(text.to_owned()));
    assert_eq!(found, [expected]);
}
