//! A broker with many listeners.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::client::LIMIT;

const RELOADED: &str = "the configuration was read again";

/// A running broker; killed when dropped.
pub struct Broker {
    child: Child,
    log: PathBuf,
    config: PathBuf,
    /// By the listener's name.
    pub addresses: HashMap<String, SocketAddr>,
    /// Where it is administered.
    pub admin: Option<SocketAddr>,
    /// Where identities are asked for over HTTPS.
    pub provisioning: Option<SocketAddr>,
}

impl Broker {
    pub fn start(folder: &Path, config: &str) -> Self {
        let file = folder.join("dunlin.toml");
        std::fs::write(&file, config).unwrap();
        let log = folder.join("log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_broker"));
        for (name, _) in std::env::vars_os() {
            if name
                .to_str()
                .is_some_and(|name| name.starts_with("DUNLIN_") || name == "RUST_LOG")
            {
                command.env_remove(name);
            }
        }
        let child = command
            .stdin(Stdio::null())
            .arg("--config")
            .arg(&file)
            .args(["--no-ops", "--store", "memory", "--set", "log.format=json"])
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut broker = Self {
            child,
            log,
            config: file,
            addresses: HashMap::new(),
            admin: None,
            provisioning: None,
        };
        broker.wait_for("\"message\":\"ready\"", 1);
        for line in broker.log().lines() {
            let is = |word: &str| line.contains(&format!("\"message\":\"{word}\""));
            let (administration, provisioning) = (is("administration"), is("provisioning"));
            if !administration && !provisioning && !is("listening") {
                continue;
            }
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let field = |name: &str| {
                let at = line.get(name).or_else(|| line["fields"].get(name));
                at.and_then(serde_json::Value::as_str).unwrap().to_owned()
            };
            if administration {
                broker.admin = Some(field("address").parse().unwrap());
                continue;
            }
            if provisioning {
                broker.provisioning = Some(field("address").parse().unwrap());
                continue;
            }
            broker
                .addresses
                .insert(field("listener"), field("address").parse().unwrap());
        }
        broker
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Asks it to end.
    pub fn terminate(&self) {
        let id = self.child.id().to_string();
        let told = Command::new("kill").args(["-TERM", &id]).status().unwrap();
        assert!(told.success());
    }

    /// Another configuration from now on.
    pub fn reload(&mut self, config: &str) {
        let before = self.log().matches(RELOADED).count();
        std::fs::write(&self.config, config).unwrap();
        let id = self.child.id().to_string();
        let told = Command::new("kill").args(["-HUP", &id]).status().unwrap();
        assert!(told.success());
        self.wait_for(RELOADED, before + 1);
    }

    /// Waits until the log has the words so often.
    pub fn wait_for(&mut self, words: &str, times: usize) {
        let end = Instant::now() + LIMIT;
        while self.log().matches(words).count() < times {
            assert!(Instant::now() < end, "waited for {words}:\n{}", self.log());
            assert!(
                self.child.try_wait().unwrap().is_none(),
                "ended:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have ended.
        let _ended = self.child.kill().is_err();
        self.child.wait().unwrap();
    }
}
