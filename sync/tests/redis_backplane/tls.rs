//! TLS, with the certificates of an operator's own authority.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dunlin_sync::cluster::redis::{RedisBackplane, RedisError, RedisOptions};
use dunlin_sync::cluster::{Backplane, Reply, Request};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::runtime::Handle;

use crate::support::{RedisServer, ask, connect_with, free_port, options, until};

struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn make() -> Self {
        let files = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let ca_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // OpenSSL takes a certificate whose issuer has its own name for self-signed.
        params
            .distinguished_name
            .push(DnType::CommonName, "authority of a test");
        let ca = params.self_signed(&ca_key).unwrap();
        let issuer = Issuer::new(params, ca_key);
        files.write("ca.pem", &ca.pem());
        for name in ["server", "client", "elsewhere"] {
            let key = KeyPair::generate().unwrap();
            let names = match name {
                "elsewhere" => vec!["redis.example.com".to_owned()],
                _ => vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
            };
            let cert = CertificateParams::new(names)
                .unwrap()
                .signed_by(&key, &issuer)
                .unwrap();
            files.write(&format!("{name}.pem"), &cert.pem());
            files.write(&format!("{name}.key"), &key.serialize_pem());
        }
        files
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }
}

struct TlsServer {
    server: RedisServer,
    port: u16,
}

impl TlsServer {
    fn start(files: &Files, clients: &str) -> Self {
        Self::with_certificate(files, clients, "server")
    }

    fn with_certificate(files: &Files, clients: &str, name: &str) -> Self {
        let port = free_port();
        let server = RedisServer::start(&[
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            &files.text(&format!("{name}.pem")),
            "--tls-key-file",
            &files.text(&format!("{name}.key")),
            "--tls-ca-cert-file",
            &files.text("ca.pem"),
            "--tls-auth-clients",
            clients,
        ]);
        Self { server, port }
    }

    fn options(&self, host: &str) -> RedisOptions {
        options(format!("rediss://{host}:{}", self.port))
    }
}

fn with(mut options: RedisOptions, files: &Files, client: bool) -> Arc<RedisBackplane> {
    options.ca_file = Some(files.path("ca.pem"));
    if client {
        options.cert_file = Some(files.path("client.pem"));
        options.key_file = Some(files.path("client.key"));
    }
    connect_with(options)
}

#[tokio::test]
async fn tls_works_by_name_and_by_address() {
    let files = Files::make();
    let server = TlsServer::start(&files, "no");
    for host in ["localhost", "127.0.0.1"] {
        let redis = with(server.options(host), &files, false);
        assert!(matches!(
            ask(&redis, Request::Numbers { count: 1 }).await,
            Reply::Numbers(_)
        ));
    }
    assert_eq!(server.server.cli(&["GET", "dunlin:{r}:sessions"]), "2");
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_it_is_demanded() {
    let files = Files::make();
    let server = TlsServer::start(&files, "yes");
    let redis = with(server.options("localhost"), &files, true);
    assert!(matches!(
        ask(&redis, Request::Numbers { count: 1 }).await,
        Reply::Numbers(_)
    ));
    let redis = with(server.options("localhost"), &files, false);
    until(
        || redis.status().last_error.is_some(),
        "the refusal is known",
    )
    .await;
    assert!(!redis.status().connected);
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_not_trusted() {
    let (files, others) = (Files::make(), Files::make());
    let server = TlsServer::start(&files, "no");
    let redis = with(server.options("localhost"), &others, false);
    until(
        || redis.status().last_error.is_some(),
        "the failure is known",
    )
    .await;
    let error = redis.status().last_error.unwrap();
    assert!(error.contains("certificate"), "{error}");
}

#[tokio::test]
async fn a_certificate_must_name_the_address_unless_another_name_is_wanted() {
    let (files, others) = (Files::make(), Files::make());
    let server = TlsServer::with_certificate(&files, "no", "elsewhere");
    let named = |name: Option<&str>, files| {
        let mut options = server.options("127.0.0.1");
        options.server_name = name.map(str::to_owned);
        with(options, files, false)
    };
    for name in ["redis.example.com", "*"] {
        let redis = named(Some(name), &files);
        let reply = ask(&redis, Request::Numbers { count: 1 }).await;
        assert!(matches!(reply, Reply::Numbers(_)), "{name}");
    }
    for redis in [
        named(None, &files),
        named(Some("redis.example.org"), &files),
        named(Some("*"), &others),
    ] {
        until(|| redis.status().last_error.is_some(), "the refusal").await;
        let error = redis.status().last_error.unwrap();
        assert!(error.contains("certificate"), "{error}");
        assert!(!redis.status().connected);
    }
}

#[tokio::test]
async fn any_name_will_do_only_for_an_authority_that_is_named() {
    let mut options = options("rediss://localhost");
    options.server_name = Some("*".to_owned());
    let refused = RedisBackplane::start(options, Handle::current()).map(drop);
    assert!(
        matches!(refused, Err(RedisError::Tls { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn an_authority_that_is_renewed_is_trusted_with_the_next_connection() {
    let (files, others) = (Files::make(), Files::make());
    let server = TlsServer::start(&files, "no");
    let redis = with(server.options("localhost"), &others, false);
    until(
        || redis.status().last_error.is_some(),
        "the failure is known",
    )
    .await;
    others.write("ca.pem", "not a certificate");
    let text = std::fs::read_to_string(files.path("ca.pem")).unwrap();
    others.write("ca.pem", &text);
    until(|| redis.status().connected, "Redis is trusted").await;
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named_at_once() {
    let files = Files::make();
    files.write("empty.pem", "");
    let start = |ca: &Path| {
        let mut options = options("rediss://localhost");
        options.ca_file = Some(ca.to_owned());
        RedisBackplane::start(options, Handle::current()).map(drop)
    };
    for name in ["missing.pem", "empty.pem"] {
        let Err(RedisError::Tls { file, .. }) = start(&files.path(name)) else {
            panic!("{name} is taken");
        };
        assert!(file.ends_with(name), "{file}");
    }
    assert_eq!(start(&files.path("ca.pem")), Ok(()));
}
