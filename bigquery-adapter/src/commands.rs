//! What is done at once and ends: `dead-letters list`, `dead-letters replay`, `status`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::cli::{Command, LetterCommand};
use crate::config::{Config, Path};
use crate::sinks::bigquery::Settings;
use crate::sinks::bigquery::api::WriteApi;
use crate::sinks::bigquery::letters::Letters;
use crate::sinks::bigquery::tables::Tables;
use crate::sinks::bigquery::token::Tokens;

/// How long the running adapter may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Does it, and gives what is to be printed.
///
/// # Errors
/// What is wrong, with what to do.
pub async fn run(command: &Command, config: &Config) -> Result<String, String> {
    match command {
        Command::Status => status(config),
        Command::DeadLetters(LetterCommand::List { limit }) => {
            let letters = letters(config).await?;
            let listed = letters
                .list(*limit)
                .await
                .map_err(|error| error.to_string())?;
            let mut text = String::new();
            for letter in &listed {
                let client = letter.client_id.as_deref().unwrap_or("-");
                text.push_str(&format!(
                    "{}  {}  {}  {} bytes from {client}\n    {}\n",
                    letter.message_id,
                    letter.table,
                    letter.topic,
                    letter.payload.len(),
                    letter.reason
                ));
            }
            text.push_str(&format!("{} letters\n", listed.len()));
            Ok(text)
        }
        Command::DeadLetters(LetterCommand::Replay) => {
            let letters = letters(config).await?;
            let replayed = letters.replay(&config.rules.rules).await;
            let replayed = replayed.map_err(|error| error.to_string())?;
            let mut text = String::new();
            for (id, table, reason) in &replayed.unfit {
                text.push_str(&format!("{id}  {table}\n    {reason}\n"));
            }
            text.push_str(&format!(
                "{} stored, {} still fit nowhere\n",
                replayed.stored,
                replayed.unfit.len()
            ));
            Ok(text)
        }
    }
}

async fn letters(config: &Config) -> Result<Letters, String> {
    let Path::TapToBigQuery(_, settings) = &config.path else {
        return Err("there are dead letters with adapter.sink = \"bigquery\" only".to_owned());
    };
    let settings: &Settings = settings;
    let tokens = Tokens::open(&settings.credentials).await;
    let tokens = tokens.map_err(|error| error.to_string())?;
    let api =
        WriteApi::new(&settings.endpoint, tokens.clone()).map_err(|error| error.to_string())?;
    let (rest, project) = (&settings.rest_endpoint, &settings.project);
    let tables = Tables::new(rest, tokens, project, &settings.dataset).await;
    let tables = tables.map_err(|error| error.to_string())?;
    let directory = settings.dead_letter_directory.clone();
    Ok(Letters::new(
        api,
        tables,
        &settings.dead_letter_table,
        directory,
    ))
}

/// What the adapter that runs with this configuration says of itself.
fn status(config: &Config) -> Result<String, String> {
    let address = config
        .ops
        .ok_or("ops.listen is \"off\": nobody can be asked")?;
    let ask = |path: &str| -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let body = answer
            .split_once("\r\n\r\n")
            .map(|(_, body)| body.to_owned());
        Ok(body.unwrap_or_default())
    };
    let unanswered = |error| format!("no adapter answers at {address} (ops.listen): {error}");
    let ready = ask("/health/ready").map_err(unanswered)?;
    let metrics = ask("/metrics").map_err(unanswered)?;
    let mut text = ready;
    for line in metrics.lines() {
        let shown = [
            "tap_",
            "bigquery_",
            "dead_letters",
            "committed_rows",
            "source_connected",
        ];
        if let Some(rest) = line.strip_prefix("dunlin_adapter_")
            && shown.iter().any(|prefix| rest.starts_with(prefix))
        {
            text.push_str(&format!("{rest}\n"));
        }
    }
    Ok(text)
}
