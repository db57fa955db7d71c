//! Tokens: from a metadata server (Workload Identity) and with a service account's key; renewed before they expire; refused.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::support::{Setup, wait_for};
use crate::world::World;

/// Gives tokens `token-1`, `token-2` and so on, each good for a minute and a second, or refuses.
#[derive(Clone, Default)]
struct Tokens {
    given: Arc<AtomicU32>,
    refuses: Arc<std::sync::atomic::AtomicBool>,
}

async fn give(State(tokens): State<Tokens>) -> Response {
    let (status, body) = if tokens.refuses.load(Ordering::Relaxed) {
        let words =
            json!({"error": "invalid_grant", "error_description": "Invalid JWT Signature."});
        (StatusCode::BAD_REQUEST, words)
    } else {
        let number = tokens.given.fetch_add(1, Ordering::Relaxed) + 1;
        let token = json!({"access_token": format!("token-{number}"), "expires_in": 61, "token_type": "Bearer"});
        (StatusCode::OK, token)
    };
    (
        status,
        [(header::CONTENT_TYPE, "application/json")],
        body.to_string(),
    )
        .into_response()
}

/// The server's address, and what it gives.
fn serve(runtime: &tokio::runtime::Runtime) -> (String, Tokens) {
    let tokens = Tokens::default();
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = axum::Router::new()
        .fallback(give)
        .with_state(tokens.clone());
    runtime.spawn(async move { axum::serve(listener, router).await.unwrap() });
    (address, tokens)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

fn command(setup: &Setup, home: &std::path::Path, metadata: &str) -> Command {
    let mut command = setup.command();
    command
        .env("HOME", home)
        .env_remove("GOOGLE_APPLICATION_CREDENTIALS")
        .env("GCE_METADATA_HOST", metadata);
    command
}

/// A row is written with a token that was given, and later ones with others.
fn writes_with_tokens_that_change(world: &World, setup: &Setup, command: &mut Command) {
    let adapter = crate::support::Process::start(command);
    // What is published before there is a tap is not in it.
    setup.wait_ready();
    let mut publisher = world.publisher("c", "a", "1");
    let mut number = 0;
    wait_for("a second token", || {
        publisher.line(&number.to_string());
        number += 1;
        std::thread::sleep(std::time::Duration::from_millis(100));
        // Each connection takes the token of its moment.
        world.fake.state().faults =
            [Some(crate::fake::Fault::End(tonic::Code::Unavailable))].into();
        let tokens: std::collections::BTreeSet<String> =
            world.fake.state().tokens.iter().cloned().collect();
        (tokens.len() > 1).then_some(())
    });
    let tokens = world.fake.state().tokens.clone();
    assert!(
        tokens
            .iter()
            .all(|token| token.starts_with("Bearer token-")),
        "{tokens:?}"
    );
    publisher.finish();
    world.fake.state().faults.clear();
    wait_for("the rows", || {
        let rows = world.by_client().remove("c").unwrap_or_default();
        (rows.len() as u64 == number).then_some(())
    });
    assert!(adapter.terminate().success());
}

#[test]
fn on_google_cloud_tokens_come_from_the_metadata_server_and_are_renewed_before_they_expire() {
    let (world, runtime, home) = (World::start(), runtime(), tempfile::tempdir().unwrap());
    let (address, tokens) = serve(&runtime);
    let setup = world
        .adapter()
        .and(&["--set", "bigquery.credentials=default"]);
    let mut command = command(&setup, home.path(), &address);
    writes_with_tokens_that_change(&world, &setup, &mut command);
    let given = tokens.given.load(Ordering::Relaxed);
    assert!((2..200).contains(&given), "{given} tokens: they are kept");
}

#[test]
fn a_service_accounts_key_gives_tokens_and_a_refused_one_is_told() {
    let (world, runtime, home) = (World::start(), runtime(), tempfile::tempdir().unwrap());
    let (address, tokens) = serve(&runtime);
    let key = Command::new("openssl")
        .args([
            "genpkey",
            "-algorithm",
            "RSA",
            "-pkeyopt",
            "rsa_keygen_bits:2048",
        ])
        .stderr(std::process::Stdio::null())
        .output()
        .unwrap();
    let account = json!({
        "type": "service_account", "project_id": "p", "private_key_id": "1",
        "private_key": String::from_utf8(key.stdout).unwrap(),
        "client_email": "adapter@p.iam.gserviceaccount.com", "client_id": "1",
        "token_uri": format!("http://{address}/token"),
    });
    let path = home.path().join("key.json");
    std::fs::write(&path, account.to_string()).unwrap();
    let credentials = format!("bigquery.credentials={}", path.display());
    let setup = world.adapter().and(&["--set", &credentials]);
    let mut accepted = command(&setup, home.path(), "127.0.0.1:1");
    writes_with_tokens_that_change(&world, &setup, &mut accepted);
    tokens.refuses.store(true, Ordering::Relaxed);
    let mut refused = command(&setup, home.path(), "127.0.0.1:1");
    let output = refused
        .stderr(std::process::Stdio::piped())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{text}");
    for word in [
        "DUN-2060",
        &address,
        "invalid_grant",
        "check the service account",
    ] {
        assert!(text.contains(word), "{word:?} is missing in: {text}");
    }
}
