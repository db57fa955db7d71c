//! `broker devices`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use base64ct::{Base64, Encoding};
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

use super::import::{self, ImportArgs};
use super::remote::{Remote, segment};
use super::say;
use crate::error::Exit;

/// Devices asked for at a time.
const PAGE: usize = 1_000;

/// What is asked about devices.
#[derive(Debug, Subcommand)]
pub(crate) enum DevicesCommand {
    /// Add a device
    Add {
        /// Its id
        id: String,
        #[command(flatten)]
        credential: CredentialArgs,
        /// An attribute, such as site=north; may be repeated
        #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = pair)]
        attributes: Vec<(String, String)>,
        /// JSON file: the rules of this device alone
        #[arg(long, value_name = "FILE")]
        policy: Option<PathBuf>,
    },
    /// List devices, each with the version of its configuration that it has acknowledged and when it was seen
    List {
        /// Only those whose id begins so
        #[arg(long, default_value = "")]
        prefix: String,
        /// Only those in this state
        #[arg(long, value_parser = ["active", "blocked"])]
        state: Option<String>,
        /// Only those with this attribute, and this value if one is given
        #[arg(long, value_name = "NAME[=VALUE]")]
        attribute: Option<String>,
        /// How many at the most
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Show a device
    Show {
        /// Its id
        id: String,
    },
    /// Block a device: it is disconnected wherever it is, and refused from then on
    Block {
        /// Its id
        id: String,
        /// Why
        #[arg(long)]
        reason: Option<String>,
    },
    /// Let a blocked device connect again
    Unblock {
        /// Its id
        id: String,
    },
    /// Set and remove attributes: NAME=VALUE sets, NAME= removes
    Attributes {
        /// Its id
        id: String,
        /// What is to be set or removed
        #[arg(required = true, value_name = "NAME=VALUE", value_parser = pair)]
        changes: Vec<(String, String)>,
    },
    /// Give a device a new credential in place of those that it has
    Rotate {
        /// Its id
        id: String,
        #[command(flatten)]
        credential: CredentialArgs,
        /// Seconds for which those before stay good; 0: they end at once, and who is connected by them too
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        grace: u64,
    },
    /// Add a credential to those that a device has, or remove one of them
    Credential {
        /// Its id
        id: String,
        #[command(flatten)]
        credential: CredentialArgs,
        /// Remove the credential of this id
        #[arg(long, value_name = "ID", conflicts_with_all = ["public_key", "certificate", "fingerprint"])]
        remove: Option<String>,
    },
    /// Show a device's configuration and which version of it the device has acknowledged, or give it another one
    Config {
        /// Its id
        id: String,
        /// The new configuration, as text
        #[arg(long, conflicts_with = "file")]
        text: Option<String>,
        /// A file that is the new configuration
        #[arg(long)]
        file: Option<PathBuf>,
        /// Only if the one that is there has this version
        #[arg(long, value_name = "VERSION")]
        only: Option<u64>,
    },
    /// Show what a device has reported, the newest first
    States {
        /// Its id
        id: String,
    },
    /// Send a command to a device
    Command {
        /// Its id
        id: String,
        /// The command
        text: String,
        /// Where below the device's topic of commands
        #[arg(long, default_value = "")]
        subfolder: String,
    },
    /// Remove a device with everything that is known of it
    Remove {
        /// Its id
        id: String,
    },
    /// Add many devices from a file or standard input
    Import(ImportArgs),
    /// Write all devices as JSON, one a line, as `import` takes them
    Export {
        /// Into this file instead of standard output
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// A credential on the command line.
#[derive(Debug, Args)]
pub(crate) struct CredentialArgs {
    /// PEM file: the public key that the device's tokens are verified by (P-256 or RSA), or a certificate with it
    #[arg(long, value_name = "FILE")]
    public_key: Option<PathBuf>,
    /// PEM file: the certificate that the device shows
    #[arg(long, value_name = "FILE", conflicts_with = "public_key")]
    certificate: Option<PathBuf>,
    /// SHA-256 of the certificate that the device shows, in hexadecimal digits
    #[arg(long, value_name = "SHA256", conflicts_with_all = ["public_key", "certificate"])]
    fingerprint: Option<String>,
    /// The credential's id; without one it follows from the key
    #[arg(long, value_name = "ID")]
    credential_id: Option<String>,
    /// Until when it is good, in Unix seconds
    #[arg(long, value_name = "SECONDS")]
    expires_at: Option<u64>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))
}

impl CredentialArgs {
    fn json(&self) -> Result<Option<Value>, String> {
        let mut json = match (&self.public_key, &self.certificate, &self.fingerprint) {
            (Some(file), _, _) => json!({ "public_key": read(file)? }),
            (_, Some(file), _) => json!({ "certificate": read(file)? }),
            (_, _, Some(digits)) => json!({ "fingerprint": digits }),
            _ => return Ok(None),
        };
        if let Some(id) = &self.credential_id {
            json["id"] = id.as_str().into();
        }
        if let Some(at) = self.expires_at {
            json["expires_at"] = at.into();
        }
        Ok(Some(json))
    }

    fn required(&self) -> Result<Value, String> {
        self.json()?.ok_or_else(|| {
            "no credential: give --public-key, --certificate or --fingerprint".to_owned()
        })
    }
}

fn path(id: &str) -> String {
    format!("/v1/devices/{}", segment(id))
}

impl DevicesCommand {
    pub(super) async fn run(self, remote: Remote) -> Result<Exit, String> {
        match self {
            Self::Add {
                id,
                credential,
                attributes,
                policy,
            } => {
                let mut device = json!({ "id": id });
                if let Some(tenant) = &remote.tenant {
                    device["tenant"] = tenant.as_str().into();
                }
                if let Some(credential) = credential.json()? {
                    device["credentials"] = json!([credential]);
                }
                device["attributes"] = json!(BTreeMap::from_iter(attributes));
                if let Some(file) = policy {
                    let rules = serde_json::from_str(&read(&file)?);
                    device["policy"] =
                        rules.map_err(|error| format!("{}: {error}", file.display()))?;
                }
                // The tenant is in the body, not in the query.
                let remote = remote.without_tenant();
                let device = remote
                    .send(Method::POST, "/v1/devices", None, &device)
                    .await?;
                show(&remote, &device)
            }
            Self::List {
                prefix,
                state,
                attribute,
                limit,
            } => {
                let mut query = vec![("prefix", prefix), ("status", "true".to_owned())];
                query.extend(state.map(|state| ("state", state)));
                query.extend(attribute.map(|attribute| ("attribute", attribute)));
                list(&remote, query, limit).await
            }
            Self::Show { id } => {
                let device = remote.get(&path(&id), &[]).await?;
                show(&remote, &device)
            }
            Self::Block { id, reason } => {
                let patch = json!({ "state": "blocked", "reason": reason });
                let device = remote.send(Method::PATCH, &path(&id), None, &patch).await?;
                show(&remote, &device)
            }
            Self::Unblock { id } => {
                let patch = json!({ "state": "active" });
                let device = remote.send(Method::PATCH, &path(&id), None, &patch).await?;
                show(&remote, &device)
            }
            Self::Attributes { id, changes } => {
                let value = |value: String| {
                    if value.is_empty() {
                        Value::Null
                    } else {
                        value.into()
                    }
                };
                let changes: BTreeMap<_, _> = changes
                    .into_iter()
                    .map(|(name, text)| (name, value(text)))
                    .collect();
                let patch = json!({ "attributes": changes });
                let device = remote.send(Method::PATCH, &path(&id), None, &patch).await?;
                show(&remote, &device)
            }
            Self::Rotate {
                id,
                credential,
                grace,
            } => {
                let body = json!({ "credential": credential.required()?, "grace_s": grace });
                let device = remote
                    .send(Method::POST, &format!("{}/rotate", path(&id)), None, &body)
                    .await?;
                show(&remote, &device)
            }
            Self::Credential {
                id,
                credential: _,
                remove: Some(credential),
            } => {
                let place = format!("{}/credentials/{}", path(&id), segment(&credential));
                remote.delete(&place, None).await?;
                say("removed\n")
            }
            Self::Credential {
                id,
                credential,
                remove: None,
            } => {
                let place = format!("{}/credentials", path(&id));
                let device = remote
                    .send(Method::POST, &place, None, &credential.required()?)
                    .await?;
                show(&remote, &device)
            }
            Self::Config {
                id,
                text,
                file,
                only,
            } => {
                let place = format!("{}/config", path(&id));
                let wanted = match (text, file) {
                    (Some(text), _) => Some(json!({ "text": text })),
                    (None, Some(file)) => {
                        let bytes = std::fs::read(&file);
                        let bytes = bytes
                            .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
                        Some(json!({ "data": Base64::encode_string(&bytes) }))
                    }
                    (None, None) => None,
                };
                let config = match wanted {
                    Some(wanted) => remote.send(Method::PUT, &place, only, &wanted).await?,
                    None => remote.get(&place, &[]).await?,
                };
                say(&format!("{config:#}\n"))
            }
            Self::States { id } => {
                let states = remote.get(&format!("{}/states", path(&id)), &[]).await?;
                say(&format!("{states:#}\n"))
            }
            Self::Command {
                id,
                text,
                subfolder,
            } => {
                let body = json!({ "text": text, "subfolder": subfolder });
                let sent = remote
                    .send(
                        Method::POST,
                        &format!("{}/commands", path(&id)),
                        None,
                        &body,
                    )
                    .await?;
                if remote.json {
                    return say(&format!("{sent}\n"));
                }
                match sent["delivered"].as_bool() {
                    Some(true) => say("sent\n"),
                    _ => Err("the device does not wait for commands: it is away, and has no session or no subscription".to_owned()),
                }
            }
            Self::Remove { id } => {
                remote.delete(&path(&id), None).await?;
                say("removed\n")
            }
            Self::Import(args) => import::run(&remote, args).await,
            Self::Export { output } => export(&remote, output.as_deref()).await,
        }
    }
}

async fn list(remote: &Remote, filter: Vec<(&str, String)>, limit: usize) -> Result<Exit, String> {
    let mut found = Vec::new();
    let mut cursor = None;
    while found.len() < limit {
        let mut query = filter.clone();
        query.push(("limit", (limit - found.len()).min(PAGE).to_string()));
        query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
        let mut page = remote.get("/v1/devices", &query).await?;
        if let Some(Value::Array(devices)) = page.get_mut("devices").map(Value::take) {
            found.extend(devices);
        }
        match page["next"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
    }
    if remote.json {
        return say(&format!("{:#}\n", Value::Array(found)));
    }
    let mut text = format!(
        "{:<32} {:<16} {:<8} {:>11}  {:>9}  {:>12}  attributes\n",
        "id", "tenant", "state", "credentials", "config", "last seen"
    );
    for device in &found {
        let attributes = device["attributes"].as_object().into_iter().flatten();
        let attributes: Vec<_> = attributes
            .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
            .collect();
        text.push_str(&format!(
            "{:<32} {:<16} {:<8} {:>11}  {:>9}  {:>12}  {}\n",
            device["id"].as_str().unwrap_or_default(),
            device["tenant"].as_str().unwrap_or("-"),
            device["state"].as_str().unwrap_or_default(),
            device["credentials"].as_array().map_or(0, Vec::len),
            config_text(&device["config"]),
            seen_text(&device["last_seen"]),
            attributes.join(" ")
        ));
    }
    if cursor.is_some() {
        text.push_str("There are more: --limit.\n");
    }
    say(&text)
}

/// The version that a device has acknowledged, of the one that it is to have.
fn config_text(config: &Value) -> String {
    match config["version"].as_u64() {
        None => "-".to_owned(),
        Some(version) => {
            let acknowledged = config["acknowledged_version"].as_u64();
            format!("{}/{version}", acknowledged.unwrap_or(0))
        }
    }
}

fn acknowledged_text(config: &Value) -> String {
    let of = |name: &str| config[name].as_u64();
    let version = of("version").unwrap_or_default();
    match (of("acknowledged_version"), of("acknowledged_at")) {
        (Some(acknowledged), Some(at)) => {
            format!("version {version}, acknowledged {acknowledged} at {at}")
        }
        _ => format!("version {version}, none acknowledged"),
    }
}

/// `now` for one that has not left, else when it was there last, in Unix seconds.
fn seen_text(seen: &Value) -> String {
    match (seen.is_object(), seen["disconnected_at"].as_u64()) {
        (false, _) => "-".to_owned(),
        (true, None) => "now".to_owned(),
        (true, Some(at)) => at.to_string(),
    }
}

fn show(remote: &Remote, device: &Value) -> Result<Exit, String> {
    if remote.json {
        return say(&format!("{device:#}\n"));
    }
    let mut text = String::new();
    let mut line = |name: &str, value: String| text.push_str(&format!("{name:<14} {value}\n"));
    for name in [
        "id",
        "tenant",
        "state",
        "reason",
        "serial",
        "revision",
        "created_at",
        "updated_at",
    ] {
        match &device[name] {
            Value::Null => {}
            Value::String(value) => line(name, value.clone()),
            value => line(name, value.to_string()),
        }
    }
    if device["config"].is_object() {
        line("config", acknowledged_text(&device["config"]));
    }
    let seen = &device["last_seen"];
    for name in ["connected_at", "disconnected_at", "address", "replica"] {
        match &seen[name] {
            Value::Null => {}
            Value::String(value) => line(name, value.clone()),
            value => line(name, value.to_string()),
        }
    }
    for credential in device["credentials"].as_array().into_iter().flatten() {
        let field = |name: &str| credential[name].as_str();
        let what = match (
            field("algorithm"),
            field("fingerprint"),
            field("serial_number"),
        ) {
            (Some(algorithm), _, _) => format!("key for {algorithm}"),
            (_, Some(digits), _) => format!("certificate {digits}"),
            (_, _, Some(serial)) => format!("certificate of serial number {serial}"),
            _ => String::new(),
        };
        let until = credential["expires_at"]
            .as_u64()
            .map(|at| format!(", until {at}"))
            .unwrap_or_default();
        line(
            "credential",
            format!("{} {what}{until}", field("id").unwrap_or_default()),
        );
    }
    for (name, value) in device["attributes"].as_object().into_iter().flatten() {
        line(
            "attribute",
            format!("{name}={}", value.as_str().unwrap_or_default()),
        );
    }
    for rule in device["policy"].as_array().into_iter().flatten() {
        line("rule", rule.to_string());
    }
    say(&text)
}

async fn export(remote: &Remote, output: Option<&Path>) -> Result<Exit, String> {
    let unwritten = |error: std::io::Error| format!("the devices cannot be written: {error}");
    let mut out: Box<dyn Write> = match output {
        Some(path) => Box::new(std::fs::File::create(path).map_err(unwritten)?),
        None => Box::new(std::io::stdout()),
    };
    let mut cursor: Option<String> = None;
    loop {
        let mut query = vec![("limit", PAGE.to_string())];
        query.extend(cursor.map(|cursor| ("cursor", cursor)));
        let page = remote.get("/v1/devices", &query).await?;
        let mut text = String::new();
        for device in page["devices"].as_array().into_iter().flatten() {
            text.push_str(&device.to_string());
            text.push('\n');
        }
        out.write_all(text.as_bytes()).map_err(unwritten)?;
        cursor = page["next"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    out.flush().map_err(unwritten)?;
    Ok(Exit::Ok)
}
