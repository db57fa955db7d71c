//! Over HTTP, with records in memory that several provisioners share, as replicas do.

use std::time::Duration;

use base64ct::Encoding;
use dunlin_sync::records::{RecordKey, RecordPut, Table};
use dunlin_sync::{MemoryStore, Store};
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::{Method, StatusCode};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, SigningKey};
use serde_json::{Value, json};

use super::*;
use crate::registry::credential::hex;
use crate::registry::{Device, State};
use crate::shutdown::Shutdown;

const PATIENCE: Duration = Duration::from_secs(20);

/// Bootstrap keys, an authority, and replicas over one store.
struct World {
    folder: tempfile::TempDir,
    bootstrap: KeyPair,
    store: MemoryStore,
    stop: Shutdown,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.trigger();
    }
}

fn base64(bytes: &[u8]) -> String {
    base64ct::Base64UrlUnpadded::encode_string(bytes)
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bootstrap = KeyPair::generate().unwrap();
        std::fs::write(
            folder.path().join("bootstrap.pem"),
            bootstrap.public_key_pem(),
        )
        .unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "devices of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap();
        std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
        std::fs::write(folder.path().join("ca.key"), key.serialize_pem()).unwrap();
        Self {
            folder,
            bootstrap,
            store: MemoryStore::new().unwrap(),
            stop: Shutdown::default(),
        }
    }

    fn config(&self) -> ProvisioningConfig {
        let path = |name: &str| self.folder.path().join(name);
        ProvisioningConfig {
            listen: None,
            tls: None,
            mqtt: None,
            keys: vec![path("bootstrap.pem")],
            audience: "provisioning".to_owned(),
            listed_only: true,
            ca_certificate: Some(path("ca.pem")),
            ca_key: Some(path("ca.key")),
            validity: Duration::from_secs(86_400),
            hook_url: None,
            hook_ca_file: None,
            hook_timeout: PATIENCE,
            per_minute: 1_000,
        }
    }

    /// One more replica.
    fn replica(&self, config: &ProvisioningConfig) -> (HttpClient, Arc<Registry>) {
        let registry = Arc::new(Registry::new(self.store.records()));
        let provisioner = Provisioner::new(
            config,
            Files::read(config).unwrap(),
            registry.clone(),
            Audit::off(),
            Arc::default(),
        );
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let url = format!("http://{}", socket.local_addr().unwrap());
        tokio::spawn(serve(
            socket,
            None,
            Arc::new(provisioner),
            self.stop.clone(),
        ));
        (
            HttpClient::new(&url, None, PATIENCE, 1 << 20).unwrap(),
            registry,
        )
    }

    async fn list(&self, table: Table, serials: &[&str]) {
        let puts = serials
            .iter()
            .map(|&serial| RecordPut::set(RecordKey::new(table, serial), &b"{}"[..]));
        self.store.records().put(puts.collect()).await.unwrap();
    }

    fn token(&self, claims: Value) -> String {
        token(&self.bootstrap, claims)
    }

    fn good(&self) -> String {
        self.token(
            json!({ "aud": "provisioning", "sub": "line-1", "iat": now(), "exp": now() + 600 }),
        )
    }
}

fn token(key: &KeyPair, claims: Value) -> String {
    let message = format!(
        "{}.{}",
        base64(b"{\"alg\":\"ES256\"}"),
        base64(claims.to_string().as_bytes())
    );
    // The signature of a key pair is in DER, that of a token is two numbers of 32 bytes.
    let der = key.sign(message.as_bytes()).unwrap();
    let number = |at: usize| {
        let len = usize::from(der[at + 1]);
        let bytes = &der[at + 2..at + 2 + len];
        let bytes = &bytes[bytes.len().saturating_sub(32)..];
        let mut number = [0; 32];
        number[32 - bytes.len()..].copy_from_slice(bytes);
        (number, at + 2 + len)
    };
    let (r, next) = number(2);
    let (s, _) = number(next);
    format!("{message}.{}", base64(&[r, s].concat()))
}

async fn ask(http: &HttpClient, token: &str, request: &Value) -> (StatusCode, Value) {
    let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
    let headers = [(AUTHORIZATION, value)];
    let body = request.to_string().into();
    let answer = http
        .send(Method::POST, "/v1/provision", &headers, body)
        .await
        .unwrap();
    (answer.status, serde_json::from_slice(&answer.body).unwrap())
}

fn nonce() -> String {
    let mut bytes = [0; 16];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes).unwrap();
    hex(&bytes)
}

fn csr(key: &KeyPair) -> String {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "somebody else");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn request(serial: &str, key: &KeyPair) -> Value {
    json!({ "serial": serial, "nonce": nonce(), "csr": csr(key) })
}

#[tokio::test]
async fn a_device_gets_a_certificate_of_ours_once_and_the_same_again() {
    let world = World::new();
    world.list(Table::Allow, &["sn-1"]).await;
    let (http, registry) = world.replica(&world.config());
    let key = KeyPair::generate().unwrap();
    let (status, identity) = ask(&http, &world.good(), &request("sn-1", &key)).await;
    assert_eq!(
        (status, &identity["device"]),
        (StatusCode::OK, &json!("sn-1")),
        "{identity}"
    );
    let pem = identity["certificate"].as_str().unwrap();
    let der = rustls::pki_types::pem::PemObject::from_pem_slice(pem.as_bytes());
    let der: rustls::pki_types::CertificateDer<'_> = der.unwrap();
    let (_, made) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert_eq!(made.subject().to_string(), "CN=sn-1", "the subject is ours");
    assert!(!made.is_ca() && made.validity().is_valid());
    let authority = identity["chain"].as_str().unwrap();
    let authority: rustls::pki_types::CertificateDer<'_> =
        rustls::pki_types::pem::PemObject::from_pem_slice(authority.as_bytes()).unwrap();
    let (_, authority) = x509_parser::parse_x509_certificate(&authority).unwrap();
    assert!(made.verify_signature(Some(authority.public_key())).is_ok());
    let (shown, _) = Shown::fingerprint_from_pem(pem).unwrap();
    let found = registry.of_certificate(&shown).await.unwrap().unwrap();
    assert_eq!(
        (found.key.id(), found.device.serial.as_deref()),
        ("sn-1", Some("sn-1"))
    );
    let (status, again) = ask(&http, &world.good(), &request("sn-1", &key)).await;
    assert_eq!(
        (status, &again),
        (StatusCode::OK, &identity),
        "the same identity"
    );
    let other = KeyPair::generate().unwrap();
    let (status, refused) = ask(&http, &world.good(), &request("sn-1", &other)).await;
    assert_eq!(status, StatusCode::CONFLICT, "{refused}");
    // An administrator forgets the serial number: then the device may come with another key, and the old one is worth nothing.
    world
        .store
        .records()
        .put(vec![RecordPut::remove(RecordKey::new(
            Table::Serial,
            "sn-1",
        ))])
        .await
        .unwrap();
    let (status, fresh) = ask(&http, &world.good(), &request("sn-1", &other)).await;
    assert_eq!(status, StatusCode::OK, "{fresh}");
    assert_eq!(registry.of_certificate(&shown).await.unwrap(), None);
}

#[tokio::test]
async fn a_public_key_is_registered() {
    let world = World::new();
    let config = ProvisioningConfig {
        listed_only: false,
        ..world.config()
    };
    let (http, registry) = world.replica(&config);
    let key = KeyPair::generate().unwrap();
    let wanted = json!({ "serial": "sn-1", "nonce": nonce(), "public_key": key.public_key_pem() });
    let tenant = world
        .token(json!({ "aud": "provisioning", "tenant": "acme", "exp": now() + 60, "iat": now() }));
    let (status, identity) = ask(&http, &tenant, &wanted).await;
    assert_eq!(
        (status, identity),
        (
            StatusCode::OK,
            json!({ "device": "sn-1", "tenant": "acme" })
        )
    );
    let device = registry
        .get(&DeviceKey::new(Some("acme"), "sn-1").unwrap())
        .await
        .unwrap()
        .unwrap();
    assert!(device.device.credentials[0].public_key().is_some());
    // A recorded request is worth nothing, and neither is the serial number with another tenant's token.
    let (status, problem) = ask(&http, &tenant, &wanted).await;
    assert_eq!(
        (status, &problem["type"]),
        (StatusCode::CONFLICT, &json!("urn:dunlin:problem:replayed"))
    );
    let elsewhere =
        json!({ "serial": "sn-1", "nonce": nonce(), "public_key": key.public_key_pem() });
    assert_eq!(
        ask(&http, &world.good(), &elsewhere).await.0,
        StatusCode::CONFLICT
    );
}

#[tokio::test]
async fn who_may_not_ask_gets_nothing() {
    let world = World::new();
    world.list(Table::Allow, &["sn-1", "sn-2"]).await;
    world.list(Table::Block, &["sn-2"]).await;
    let (http, registry) = world.replica(&world.config());
    let key = KeyPair::generate().unwrap();
    let claims = |more: Value| {
        let mut claims = json!({ "aud": "provisioning", "iat": now(), "exp": now() + 600 });
        claims
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        claims
    };
    let stranger = token(&KeyPair::generate().unwrap(), claims(json!({})));
    for (token, serial, status) in [
        (String::new(), "sn-1", StatusCode::UNAUTHORIZED),
        ("a.b.c".to_owned(), "sn-1", StatusCode::UNAUTHORIZED),
        (stranger, "sn-1", StatusCode::UNAUTHORIZED),
        (
            world.token(claims(json!({ "aud": "other" }))),
            "sn-1",
            StatusCode::UNAUTHORIZED,
        ),
        (
            world.token(claims(json!({ "iat": 1_000, "exp": 2_000 }))),
            "sn-1",
            StatusCode::UNAUTHORIZED,
        ),
        (
            world.token(claims(json!({ "serial": "sn-9" }))),
            "sn-1",
            StatusCode::FORBIDDEN,
        ),
        (world.good(), "sn-2", StatusCode::FORBIDDEN),
        (world.good(), "sn-3", StatusCode::FORBIDDEN),
        (world.good(), "a/b", StatusCode::BAD_REQUEST),
    ] {
        let (found, problem) = ask(&http, &token, &request(serial, &key)).await;
        assert_eq!(found, status, "{serial} {problem}");
    }
    let short = json!({ "serial": "sn-1", "nonce": "short", "csr": csr(&key) });
    let both = json!({ "serial": "sn-1", "nonce": nonce(), "csr": csr(&key), "public_key": key.public_key_pem() });
    let mut forged = csr(&key);
    let at = forged.len() / 2;
    let letter = if &forged[at..=at] == "A" { "B" } else { "A" };
    forged.replace_range(at..=at, letter);
    let forged = json!({ "serial": "sn-1", "nonce": nonce(), "csr": forged });
    let weak = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    for wrong in [short, both, forged, request("sn-1", &weak)] {
        assert_eq!(
            ask(&http, &world.good(), &wrong).await.0,
            StatusCode::BAD_REQUEST,
            "{wrong}"
        );
    }
    assert!(registry.list(None, 10).await.unwrap().devices.is_empty());
    // A device that an administrator has blocked stays blocked.
    let key_of = DeviceKey::new(None, "sn-1").unwrap();
    let mut blocked = Device::new(1);
    blocked.state = State::Blocked;
    registry.create(&key_of, blocked).await.unwrap();
    assert_eq!(
        ask(&http, &world.good(), &request("sn-1", &key)).await.0,
        StatusCode::FORBIDDEN
    );
}

#[tokio::test]
async fn of_many_that_ask_at_once_on_three_replicas_one_key_wins() {
    let world = World::new();
    let serials: Vec<String> = (0..10).map(|n| format!("sn-{n}")).collect();
    let names: Vec<&str> = serials.iter().map(String::as_str).collect();
    world.list(Table::Allow, &names).await;
    let replicas: Vec<_> = (0..3).map(|_| world.replica(&world.config())).collect();
    for serial in &serials {
        let keys: Vec<_> = (0..2).map(|_| KeyPair::generate().unwrap()).collect();
        let good = world.good();
        let asks = (0..12).map(|n| {
            let wanted = request(serial, &keys[n % 2]);
            let (http, good) = (&replicas[n % 3].0, good.clone());
            async move { (n % 2, ask(http, &good, &wanted).await) }
        });
        let done = futures_util::future::join_all(asks).await;
        let given: Vec<_> = done
            .iter()
            .filter(|(_, (status, _))| *status == StatusCode::OK)
            .collect();
        let winner = given[0].0;
        assert!(
            given
                .iter()
                .all(|(key, (_, identity))| *key == winner && *identity == given[0].1.1),
            "{done:?}"
        );
        for (key, (status, problem)) in &done {
            assert!(
                *status == StatusCode::OK || (*key != winner && *status == StatusCode::CONFLICT),
                "{problem}"
            );
        }
        let device = replicas[0]
            .1
            .get(&DeviceKey::new(None, serial).unwrap())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(device.device.credentials.len(), 1, "{device:?}");
    }
}

#[tokio::test]
async fn a_flood_by_one_credential_is_stopped() {
    let world = World::new();
    let config = ProvisioningConfig {
        per_minute: 5,
        listed_only: false,
        ..world.config()
    };
    let (http, _) = world.replica(&config);
    let key = KeyPair::generate().unwrap();
    let mut stopped = 0;
    // Two minutes may be touched.
    for n in 0..15 {
        let (status, _) = ask(&http, &world.good(), &request(&format!("sn-{n}"), &key)).await;
        stopped += usize::from(status == StatusCode::TOO_MANY_REQUESTS);
    }
    assert!((5..=10).contains(&stopped), "{stopped}");
}

#[tokio::test]
async fn the_hook_decides_and_may_bring_the_certificate() {
    let world = World::new();
    let foreign = KeyPair::generate().unwrap();
    let foreign = CertificateParams::new(vec!["sn-1".to_owned()])
        .unwrap()
        .self_signed(&foreign)
        .unwrap()
        .pem();
    let given = foreign.clone();
    let hook = axum::Router::new().route(
        "/check",
        axum::routing::post(move |body: String| async move {
            let asked: Value = serde_json::from_str(&body).unwrap();
            match asked["serial"].as_str().unwrap() {
                "sn-1" => json!({ "result": "allow", "attributes": { "model": "x" }, "certificate": given }).to_string(),
                _ => json!({ "result": "deny" }).to_string(),
            }
        }),
    );
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let url = format!("http://{}/check", socket.local_addr().unwrap());
    tokio::spawn(crate::http::server::serve(
        socket,
        None,
        hook,
        4,
        world.stop.clone(),
        PATIENCE,
    ));
    let config = ProvisioningConfig {
        hook_url: Some(url),
        listed_only: false,
        ..world.config()
    };
    let (http, registry) = world.replica(&config);
    let key = KeyPair::generate().unwrap();
    let (status, identity) = ask(&http, &world.good(), &request("sn-1", &key)).await;
    assert_eq!(
        (status, identity["certificate"].as_str()),
        (StatusCode::OK, Some(foreign.as_str()))
    );
    let device = registry
        .get(&DeviceKey::new(None, "sn-1").unwrap())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(device.device.attributes["model"], "x");
    assert_eq!(
        ask(&http, &world.good(), &request("sn-2", &key)).await.0,
        StatusCode::FORBIDDEN
    );
    // One that is away lets nobody in.
    let config = ProvisioningConfig {
        hook_url: Some("http://127.0.0.1:1/".to_owned()),
        ..config
    };
    let (http, _) = world.replica(&config);
    assert_eq!(
        ask(&http, &world.good(), &request("sn-1", &key)).await.0,
        StatusCode::SERVICE_UNAVAILABLE
    );
}
