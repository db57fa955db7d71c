//! `broker tenants`.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::remote::{Remote, RemoteArgs, segment};
use super::{connected, say};
use crate::error::Exit;

/// Tenants asked for at a time.
const PAGE: usize = 1_000;

/// What is asked about tenants.
#[derive(Debug, Args)]
pub(crate) struct Tenants {
    #[command(flatten)]
    remote: RemoteArgs,
    #[command(subcommand)]
    command: TenantsCommand,
}

#[derive(Debug, Subcommand)]
enum TenantsCommand {
    /// The tenants that the replica that answers knows, with what they use of it and their bounds
    List {
        /// Only those whose name begins so
        #[arg(long, default_value = "")]
        prefix: String,
    },
    /// Show a tenant
    Show {
        /// Its name
        name: String,
    },
}

impl Tenants {
    pub(crate) fn run(self) -> Exit {
        let Self { remote, command } = self;
        connected(&remote, |remote| async move {
            let remote = remote.without_tenant();
            match command {
                TenantsCommand::List { prefix } => list(&remote, &prefix).await,
                TenantsCommand::Show { name } => {
                    let path = format!("/v1/tenants/{}", segment(&name));
                    let tenant = remote.get(&path, &[]).await?;
                    say(&format!("{tenant:#}\n"))
                }
            }
        })
    }
}

async fn list(remote: &Remote, prefix: &str) -> Result<Exit, String> {
    let mut found = Vec::new();
    let mut after = String::new();
    loop {
        let query = [
            ("prefix", prefix.to_owned()),
            ("limit", PAGE.to_string()),
            ("after", after),
        ];
        let mut page = remote.get("/v1/tenants", &query).await?;
        let Value::Array(tenants) = page["tenants"].take() else {
            break;
        };
        let last = tenants.last().and_then(|tenant| tenant["name"].as_str());
        after = last.unwrap_or_default().to_owned();
        let is_whole = tenants.len() < PAGE;
        found.extend(tenants);
        if is_whole {
            break;
        }
    }
    if remote.json {
        return say(&format!("{:#}\n", Value::Array(found)));
    }
    let columns = ["connections", "sessions", "retained", "queued bytes"];
    let mut text = format!("{:<32}", "name");
    for column in columns {
        text.push_str(&format!(" {column:>16}"));
    }
    text.push('\n');
    for tenant in &found {
        let quotas = &tenant["quotas"];
        text.push_str(&format!("{:<32}", tenant["name"].as_str().unwrap_or("-")));
        for (used, bound) in [
            ("connections", "max_connections"),
            ("sessions", "max_sessions"),
            ("retained", "max_retained"),
            ("queued_bytes", "max_queued_bytes"),
        ] {
            let used = match quotas[bound].as_u64() {
                None | Some(0) => tenant[used].to_string(),
                Some(bound) => format!("{}/{bound}", tenant[used]),
            };
            text.push_str(&format!(" {used:>16}"));
        }
        text.push('\n');
    }
    say(&text)
}
