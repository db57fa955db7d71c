//! What is done at once and ends: `dead-letters list`, `dead-letters replay`, `status`, `health`.

use crate::cli::{Command, LetterCommand};
use crate::config::{Config, Path};
use crate::sinks::bigquery::Settings;
use crate::sinks::bigquery::api::WriteApi;
use crate::sinks::bigquery::letters::Letters;
use crate::sinks::bigquery::tables::Tables;
use crate::sinks::bigquery::token::Tokens;
use crate::status::{health, status};

/// Does it, and gives what is to be printed.
///
/// # Errors
/// What is wrong, with what to do.
pub async fn run(command: &Command, config: &Config) -> Result<String, String> {
    match command {
        Command::Status { json } => status(config, *json).await,
        Command::Health { what } => health(config, *what).await,
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
