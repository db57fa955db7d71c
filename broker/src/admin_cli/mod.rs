//! `broker devices`, `broker bans`, `broker clients`, `broker token`: what an administrator asks of a running broker.
//!
//! All but the last speak to the administration's HTTP listener (`admin.listen`), so they work from any machine, and against
//! any replica of a cluster.

mod devices;
mod import;
mod remote;
mod tenants;

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

use crate::admin::tokens;
use crate::error::Exit;
pub(crate) use devices::DevicesCommand;
use remote::{Remote, RemoteArgs};
pub(crate) use tenants::Tenants;

/// What is asked, and of whom.
#[derive(Debug, Args)]
pub(crate) struct Devices {
    #[command(flatten)]
    remote: RemoteArgs,
    #[command(subcommand)]
    command: DevicesCommand,
}

/// What is asked about clients.
#[derive(Debug, Args)]
pub(crate) struct Clients {
    #[command(flatten)]
    remote: RemoteArgs,
    #[command(subcommand)]
    command: ClientsCommand,
}

#[derive(Debug, Subcommand)]
enum ClientsCommand {
    /// The clients that are connected to the replica that answers
    List {
        /// Only those whose client id begins so
        #[arg(long, default_value = "")]
        prefix: String,
        /// Only those of this device
        #[arg(long)]
        device: Option<String>,
    },
    /// End a client's connection; it may come again
    Disconnect {
        /// The client id
        client: String,
    },
}

/// What is asked about bans.
#[derive(Debug, Args)]
pub(crate) struct Bans {
    #[command(flatten)]
    remote: RemoteArgs,
    #[command(subcommand)]
    command: BansCommand,
}

#[derive(Debug, Subcommand)]
enum BansCommand {
    /// Keep somebody out: an address or net, client id, user, device or tenant
    Add {
        /// Such as address:192.0.2.0/24, client:meter-7, user:anna, device:meter-7, device:acme/meter-7, tenant:acme
        target: String,
        /// Why
        #[arg(long, default_value = "")]
        reason: String,
        /// For how long; without it until it is removed
        #[arg(long)]
        seconds: Option<u64>,
    },
    /// Who is kept out
    List,
    /// Let somebody in again
    Remove {
        /// As it was added
        target: String,
    },
}

impl Bans {
    pub(crate) fn run(self) -> Exit {
        let Self { remote, command } = self;
        connected(&remote, |remote| async move {
            let path = |target: &str| format!("/v1/bans/{}", remote::segment(target));
            match command {
                BansCommand::Add {
                    target,
                    reason,
                    seconds,
                } => {
                    let body = json!({ "reason": reason, "seconds": seconds });
                    let ban = remote
                        .send(Method::PUT, &path(&target), None, &body)
                        .await?;
                    say(&ban_text(remote.json, &ban))
                }
                BansCommand::List => list_bans(&remote).await,
                BansCommand::Remove { target } => {
                    remote.delete(&path(&target), None).await?;
                    say("removed\n")
                }
            }
        })
    }
}

fn ban_text(json: bool, ban: &Value) -> String {
    if json {
        return format!("{ban}\n");
    }
    let field = |name: &str| ban[name].as_str().unwrap_or_default().to_owned();
    let until = ban["until"].as_u64().map_or_else(
        || "until it is removed".to_owned(),
        |until| format!("until {until}"),
    );
    format!(
        "{:<40} {until}, by {}: {}\n",
        field("target"),
        field("by"),
        field("reason")
    )
}

async fn list_bans(remote: &Remote) -> Result<Exit, String> {
    let mut after = String::new();
    loop {
        let page = remote
            .get(
                "/v1/bans",
                &[("limit", "1000".to_owned()), ("after", after)],
            )
            .await?;
        let bans = page["bans"].as_array().cloned().unwrap_or_default();
        let text: String = bans.iter().map(|ban| ban_text(remote.json, ban)).collect();
        say(&text)?;
        match bans.last().and_then(|ban| ban["target"].as_str()) {
            Some(last) => after = last.to_owned(),
            None => return Ok(Exit::Ok),
        }
    }
}

/// A token for the administration.
#[derive(Debug, Args)]
pub(crate) struct Token {
    /// The file of tokens (admin.tokens_file); made if there is none
    file: PathBuf,
    /// The token's name, as the audit log will have it
    name: String,
    /// It may change things, not only look
    #[arg(long)]
    write: bool,
    /// It is for the devices of this tenant only
    #[arg(long)]
    tenant: Option<String>,
}

fn outcome(done: Result<Exit, String>) -> Exit {
    done.unwrap_or_else(|text| {
        eprintln!("error: {text}");
        Exit::Runtime
    })
}

fn connected<F>(remote: &RemoteArgs, work: impl FnOnce(Remote) -> F) -> Exit
where
    F: Future<Output = Result<Exit, String>>,
{
    let remote = match Remote::new(remote) {
        Ok(remote) => remote,
        Err(text) => {
            eprintln!("error: {text}");
            return Exit::Usage;
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => outcome(runtime.block_on(work(remote))),
        Err(error) => outcome(Err(format!("no runtime: {error}"))),
    }
}

impl Devices {
    pub(crate) fn run(self) -> Exit {
        let Self { remote, command } = self;
        connected(&remote, |remote| command.run(remote))
    }
}

impl Clients {
    pub(crate) fn run(self) -> Exit {
        let Self { remote, command } = self;
        connected(&remote, |remote| async move {
            match command {
                ClientsCommand::List { prefix, device } => {
                    let mut query = vec![("prefix", prefix), ("limit", "1000".to_owned())];
                    query.extend(device.map(|device| ("device", device)));
                    let answer = remote.get("/v1/clients", &query).await?;
                    if remote.json {
                        return say(&format!("{answer:#}\n"));
                    }
                    let mut text = String::new();
                    for client in answer["clients"].as_array().into_iter().flatten() {
                        let field = |name: &str| client[name].as_str().unwrap_or("-").to_owned();
                        text.push_str(&format!(
                            "{}  {}  {}  {}  {}\n",
                            field("client_id"),
                            field("device"),
                            field("method"),
                            field("peer"),
                            field("version")
                        ));
                    }
                    text.push_str(&format!("{} in all\n", answer["total"]));
                    say(&text)
                }
                ClientsCommand::Disconnect { client } => {
                    remote
                        .delete(&format!("/v1/clients/{}", remote::segment(&client)), None)
                        .await?;
                    say("disconnected\n")
                }
            }
        })
    }
}

impl Token {
    pub(crate) fn run(&self) -> Exit {
        match tokens::add(&self.file, &self.name, self.write, self.tenant.as_deref()) {
            Ok(token) => outcome(say(&format!("{token}\n"))),
            Err(text) => {
                eprintln!("error: {text}");
                Exit::Usage
            }
        }
    }
}

/// Writes to standard output; a reader that has gone away is no failure.
fn say(text: &str) -> Result<Exit, String> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(Exit::Ok),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Ok),
        Err(error) => Err(format!("cannot write to standard output: {error}")),
    }
}
