//! Everything that the methods need, and a broker with a listener for each method and kind.

use std::{fs, path::Path, process::Command};

use tempfile::TempDir;

use crate::{authority::Authority, broker::Broker, client::Kind, service::Service, tokens::Signer};

pub const SECRET: &str = "a secret of 32 bytes, or some more";
/// Serial numbers of certificates.
pub const GOOD: u64 = 0x1001;
pub const REVOKED: u64 = 0x1002;
pub const EXPIRED: u64 = 0x1003;
pub const LATER: u64 = 0x1004;

pub struct World {
    pub broker: Broker,
    pub service: Service,
    pub authority: Authority,
    /// The key of the file that stays, and the one that is taken out.
    pub ec: Signer,
    pub ec_gone: Signer,
    /// The same for keys of the service.
    pub rsa: Signer,
    pub rsa_gone: Signer,
    pub hs: Signer,
    /// The key of the device `pump`, and of `gone-pump`.
    pub pump: Signer,
    /// For the administration.
    token: String,
    pub folder: TempDir,
}

/// Writes a users file with the right passwords of these, as `broker passwd` would.
pub fn passwd(file: &Path, name: &str, scram: bool) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_broker"));
    command
        .arg("passwd")
        .args(scram.then_some("--scram"))
        .arg(file)
        .arg(name);
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"right\n").unwrap();
    assert!(child.wait().unwrap().success());
}

/// Methods, as listeners have them, beside the kinds.
pub const METHODS: [&str; 8] = [
    "none",
    "anonymous",
    "certificate",
    "users",
    "jwt",
    "http",
    "scram",
    "registry",
];

impl World {
    /// `{at}` in `more` is the folder.
    pub fn start(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let authority = Authority::new("the authority");
        fs::write(at.join("ca.pem"), &authority.certificate).unwrap();
        authority.sign(at, "localhost", 1, false);
        authority.sign(at, "other.example", 2, false);
        authority.sign(at, "good", GOOD, false);
        authority.sign(at, "revoked", REVOKED, false);
        authority.sign(at, "expired", EXPIRED, true);
        authority.sign(at, "later", LATER, false);
        authority.sign(at, "valve", 0x1005, false);
        authority.sign(at, "gone-valve", 0x1006, false);
        Authority::new("another authority").sign(at, "stranger", 1, false);
        authority.revoke(&at.join("crl.pem"), &[REVOKED]);

        for name in ["ann", "gone"] {
            passwd(&at.join("users"), name, false);
        }
        for name in ["sue", "gone-sue"] {
            passwd(&at.join("users"), name, true);
        }
        let made = Command::new("mosquitto_passwd")
            .arg("-b")
            .arg(at.join("users"))
            .args(["moe", "right"])
            .output();
        let made = made.expect("mosquitto_passwd runs (Debian package mosquitto)");
        assert!(made.status.success(), "{made:?}");

        let (ec, ec_gone) = (Signer::es256(), Signer::es256());
        let [rsa, rsa_gone] = ["rsa", "rsa-gone"].map(|name| Signer::rs256(at, name));
        fs::write(at.join("stays.json"), ec.jwk("stays")).unwrap();
        fs::write(
            at.join("goes.json"),
            format!("{{\"keys\":[{}]}}", ec_gone.jwk("goes")),
        )
        .unwrap();
        fs::write(at.join("secret"), format!("{SECRET}\n")).unwrap();
        fs::write(at.join("token"), "shown to the service\n").unwrap();
        let service = Service::start();
        *service.state.keys.lock() = format!(
            "{{\"keys\":[{},{}]}}",
            rsa.jwk("rsa"),
            rsa_gone.jwk("rsa-gone")
        );

        let (pump, pump_pem) = Signer::es256_with_pem();
        fs::write(at.join("pump.pub"), pump_pem).unwrap();
        let made = Command::new(env!("CARGO_BIN_EXE_broker"))
            .arg("token")
            .arg(at.join("admin-tokens"))
            .args(["operator", "--write"])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let token = String::from_utf8(made.stdout).unwrap().trim().to_owned();

        let broker = Broker::start(at, &config(at, &service, more));
        Self {
            broker,
            service,
            authority,
            ec,
            ec_gone,
            rsa,
            rsa_gone,
            hs: Signer::hs256(SECRET.as_bytes()),
            pump,
            token,
            folder,
        }
    }

    /// Devices, and those that are to be blocked.
    pub fn add_devices(&self) {
        for (id, kind, file) in [
            ("pump", "--public-key", "pump.pub"),
            ("gone-pump", "--public-key", "pump.pub"),
            ("core", "--public-key", "rsa.pub"),
            ("gone-core", "--public-key", "rsa.pub"),
            ("valve", "--certificate", "valve.pem"),
            ("gone-valve", "--certificate", "gone-valve.pem"),
        ] {
            let file = self.at().join(file);
            self.devices(&["add", id, kind, file.to_str().unwrap()]);
        }
    }

    /// `broker devices`.
    pub fn devices(&self, arguments: &[&str]) {
        let url = format!("http://{}", self.broker.admin.unwrap());
        let done = Command::new(env!("CARGO_BIN_EXE_broker"))
            .arg("devices")
            .args(arguments)
            .env("DUNLIN_ADMIN_URL", url)
            .env("DUNLIN_ADMIN_TOKEN", &self.token)
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "{arguments:?}: {done:?}\n{}",
            self.broker.log()
        );
    }

    pub fn at(&self) -> &Path {
        self.folder.path()
    }

    /// Replaces a file as a whole.
    pub fn put(&self, name: &str, content: &str) {
        let fresh = self.at().join("fresh");
        fs::write(&fresh, content).unwrap();
        fs::rename(fresh, self.at().join(name)).unwrap();
    }

    /// Takes users out of the users file.
    pub fn remove_users(&self, names: &[&str]) {
        let text = fs::read_to_string(self.at().join("users")).unwrap();
        let stays = |line: &&str| {
            !names
                .iter()
                .any(|name| line.starts_with(&format!("{name}:")))
        };
        let text: String = text
            .lines()
            .filter(stays)
            .map(|line| format!("{line}\n"))
            .collect();
        self.put("users", &text);
    }
}

fn config(at: &Path, service: &Service, more: &str) -> String {
    let more = more.replace("{at}", at.to_str().unwrap());
    let file = |name: &str| format!("{:?}", at.join(name).to_str().unwrap());
    let mut text = format!(
        "watch_files_ms = 50\nworkers = 2\n[limits]\nlogin_failures = 0\n[features]\nallow_mqtt31 = true\n\
         [admin]\nlisten = \"127.0.0.1:0\"\ntokens_file = {admin}\n\
         [auth]\nanonymous = false\nregistry = true\nusers = {users}\ndefault = \"allow\"\n\
         [auth.jwt]\nkeys = [{stays}, {goes}]\nsecret_file = {secret}\njwks_url = \"http://{service}/keys\"\n\
         jwks_refresh_s = 10\naudiences = [\"dunlin\"]\nleeway_s = 0\n\
         [auth.http]\nurl = \"http://{service}/clients\"\ntoken_file = {token}\n{more}\n",
        admin = file("admin-tokens"),
        users = file("users"),
        stays = file("stays.json"),
        goes = file("goes.json"),
        secret = file("secret"),
        token = file("token"),
        service = service.address,
    );
    for method in METHODS {
        for kind in Kind::ALL {
            if method == "certificate" && !kind.is_tls() {
                continue;
            }
            let auth = match method {
                // It takes clients without a name, beside users.
                "anonymous" => "[\"users\"]\nanonymous = true".to_owned(),
                "none" => "[\"users\"]".to_owned(),
                // An AUTH exchange is a token's, too, there.
                "scram" => "[\"scram\", \"jwt\"]".to_owned(),
                method => format!("[{method:?}]"),
            };
            let word = kind.word();
            text.push_str(&format!(
                "[[listener]]\nname = \"{method}-{word}\"\ntype = \"{word}\"\naddress = \"127.0.0.1:0\"\nauth = {auth}\n"
            ));
            if kind.is_tls() {
                text.push_str(&format!(
                    "[listener.tls]\ncertificate = {}\nkey = {}\n",
                    file("localhost.pem"),
                    file("localhost.key")
                ));
            }
            if kind.is_tls() && matches!(method, "certificate" | "registry") {
                text.push_str(&format!(
                    "client_ca = {}\nclient_auth = \"optional\"\ncrl = [{}]\n",
                    file("ca.pem"),
                    file("crl.pem")
                ));
                if method == "certificate" {
                    text.push_str("name_from = \"cn\"\n");
                }
            }
        }
    }
    text
}
