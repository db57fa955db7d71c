//! A web service: it has keys, and says who clients are.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::tokens::now;

#[derive(Default)]
pub struct State {
    /// What `/keys` answers.
    pub keys: Mutex<String>,
    /// How often that was asked for.
    pub fetched: AtomicUsize,
    /// Clients that are no longer let in.
    pub denied: Mutex<Vec<String>>,
    /// It fails.
    pub broken: AtomicBool,
    /// Questions about clients.
    pub asked: AtomicUsize,
    /// The last of them.
    pub last: Mutex<Value>,
}

pub struct Service {
    pub address: SocketAddr,
    pub state: Arc<State>,
}

impl Service {
    /// Runs as long as the test does.
    pub fn start() -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in socket.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Self { address, state }
    }
}

fn serve(stream: TcpStream, state: &State) {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
            head.push_str(&line);
        }
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).is_err() {
            return;
        }
        let answer = if state.broken.load(Ordering::SeqCst) {
            "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n".to_owned()
        } else {
            let text = if head.starts_with("GET /keys ") {
                state.fetched.fetch_add(1, Ordering::SeqCst);
                state.keys.lock().clone()
            } else {
                state.asked.fetch_add(1, Ordering::SeqCst);
                assert!(
                    head.to_ascii_lowercase()
                        .contains("authorization: bearer shown to the service"),
                    "{head}"
                );
                say(state, &serde_json::from_slice(&body).unwrap()).to_string()
            };
            format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}",
                text.len()
            )
        };
        if stream.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// The password says what is to be said.
fn say(state: &State, question: &Value) -> Value {
    *state.last.lock() = question.clone();
    let name = question["username"].as_str().unwrap_or_default().to_owned();
    let denied = state.denied.lock().contains(&name);
    match question["password"].as_str() {
        Some("right") if !denied => json!({"result": "allow", "roles": ["device"], "tenant": null}),
        Some("over") => json!({"result": "allow", "expires_at": now() - 1}),
        Some("soon") => json!({"result": "allow", "expires_at": now() + 2}),
        Some("other") => json!({"result": "ignore"}),
        _ => json!({"result": "deny"}),
    }
}
