//! What an operator does with dead letters: looks at them, and has them tried again after the rules, or a table, were changed.
//!
//! A letter counts as waiting as long as its message is not in the table that it was meant for, by its message id. So a replay can be
//! broken off and repeated, and stores each message once; only two replays must not run at the same time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use data_encoding::HEXLOWER_PERMISSIVE;
use gcp_bigquery_client::google::cloud::bigquery::storage::v1::ProtoSchema;
use serde_json::Value as Json;

use super::answer::Verdict;
use super::api::{MAX_REQUEST, WriteApi};
use super::dead::Letter;
use super::encode;
use super::tables::{Catalog, TableError, Tables};
use super::window::{Append, Rows};
use super::writer::judge;
use crate::rules::{Rules, Table};

/// Letters that are handled at a time.
const PAGE: usize = 500;
/// What a file is called while a replay has it.
const TAKEN: &str = "replaying";

/// Why it cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum LettersError {
    /// Dataset, table or query.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A file.
    #[error("{}: {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// An answer that makes no sense.
    #[error("the table of dead letters has a row that cannot be read: {0}")]
    Letter(String),
    /// BigQuery takes nothing.
    #[error("table {table} takes nothing: {reason}; what is stored is stored, run it again")]
    Append {
        /// Which.
        table: String,
        /// BigQuery's words.
        reason: String,
    },
}

/// What a replay has done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Messages that are in their tables now.
    pub stored: usize,
    /// Letters that still fit nowhere, with the reason.
    pub unfit: Vec<(String, String, String)>,
}

/// Where the letters are.
#[derive(Debug)]
pub struct Letters {
    api: WriteApi,
    tables: Tables,
    name: String,
    directory: PathBuf,
}

impl Letters {
    /// Letters in this table and this directory.
    #[must_use]
    pub fn new(api: WriteApi, tables: Tables, name: &str, directory: PathBuf) -> Self {
        Self {
            api,
            tables,
            name: name.to_owned(),
            directory,
        }
    }

    /// The first letters that wait, at most `limit` for each table, those in files after those in the table.
    ///
    /// # Errors
    /// See [`LettersError`].
    pub async fn list(&self, limit: usize) -> Result<Vec<Letter>, LettersError> {
        let mut letters = Vec::new();
        for table in self.tables_with_letters().await? {
            letters.extend(self.waiting(&table, "", limit).await?);
        }
        for path in self.files(&["jsonl", TAKEN])? {
            let read = read_file(&path)?;
            let waiting = self.not_stored(read).await?;
            letters.extend(waiting.into_values().flatten().take(limit));
        }
        Ok(letters)
    }

    /// Makes rows of all letters that wait, by these rules, and stores them.
    ///
    /// # Errors
    /// See [`LettersError`].
    pub async fn replay(&self, rules: &Rules) -> Result<Replayed, LettersError> {
        let mut replayed = Replayed::default();
        for table in self.tables_with_letters().await? {
            let mut after = String::new();
            loop {
                let letters = self.waiting(&table, &after, PAGE).await?;
                let Some(last) = letters.last() else { break };
                after.clone_from(&last.message_id);
                self.store(rules, &table, &letters, &mut replayed).await?;
            }
        }
        for path in self.files(&["jsonl"])? {
            // The adapter goes on in a new file.
            let taken = path.with_extension(TAKEN);
            if !taken.exists() {
                std::fs::rename(&path, &taken).map_err(|error| file_error(&path, &error))?;
            }
        }
        for path in self.files(&[TAKEN])? {
            self.replay_file(rules, &path, &mut replayed).await?;
        }
        Ok(replayed)
    }

    async fn replay_file(
        &self,
        rules: &Rules,
        path: &Path,
        replayed: &mut Replayed,
    ) -> Result<(), LettersError> {
        let letters = read_file(path)?;
        let unfit_before = replayed.unfit.len();
        for (table, waiting) in self.not_stored(letters).await? {
            for page in waiting.chunks(PAGE) {
                self.store(rules, &table, page, replayed).await?;
            }
        }
        let failed = |error: std::io::Error| file_error(path, &error);
        if replayed.unfit.len() == unfit_before {
            std::fs::remove_file(path).map_err(failed)
        } else {
            // With those that are stored, which do not wait any more; a name that no adapter writes to.
            let kept = path.with_extension(format!("{}.jsonl", std::process::id()));
            std::fs::rename(path, kept).map_err(failed)
        }
    }

    async fn tables_with_letters(&self) -> Result<Vec<String>, LettersError> {
        let sql = format!(
            "select distinct table_name from {} order by table_name",
            self.tables.quoted(&self.name)
        );
        let rows = self.tables.query(&sql).await?;
        let names = rows.iter().filter_map(|row| text(row.first()));
        Ok(names
            .filter(|name| crate::rules::check_table_name(name).is_ok())
            .collect())
    }

    async fn is_there(&self, table: &str) -> Result<bool, LettersError> {
        Ok(self.tables.exists(table).await?)
    }

    /// Letters for a table whose messages are not in it, by message id. A letter whose body is cut off is whole in a file.
    async fn waiting(
        &self,
        table: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Letter>, LettersError> {
        let stored = if self.is_there(table).await? {
            format!(
                "and message_id not in (select message_id from {} where message_id is not null)",
                self.tables.quoted(table)
            )
        } else {
            String::new()
        };
        let sql = format!(
            "select unix_micros(received_at), message_id, table_name, reason, topic, to_hex(payload), client_id, qos, retain, \
             content_type, response_topic, to_hex(correlation_data), user_properties, tenant, device_id \
             from {} where table_name = '{table}' and payload_bytes = byte_length(payload) and message_id > '{}' {stored} \
             qualify row_number() over (partition by message_id order by failed_at desc) = 1 \
             order by message_id limit {limit}",
            self.tables.quoted(&self.name),
            after.replace(['\'', '\\'], ""),
        );
        let rows = self.tables.query(&sql).await?;
        rows.iter()
            .map(|row| letter(row).ok_or_else(|| LettersError::Letter(format!("{row:?}"))))
            .collect()
    }

    /// Of letters from a file, by table, those that are not in their table.
    async fn not_stored(
        &self,
        letters: Vec<Letter>,
    ) -> Result<BTreeMap<String, Vec<Letter>>, LettersError> {
        let mut tables: BTreeMap<String, BTreeMap<String, Letter>> = BTreeMap::new();
        for letter in letters {
            let of_table = tables.entry(letter.table.clone()).or_default();
            of_table.insert(letter.message_id.clone(), letter);
        }
        let mut waiting = BTreeMap::new();
        for (table, mut letters) in tables {
            if crate::rules::check_table_name(&table).is_ok() && self.is_there(&table).await? {
                let ids: Vec<String> = letters.keys().cloned().collect();
                for ids in ids.chunks(PAGE) {
                    for id in self.stored_of(&table, ids).await? {
                        letters.remove(&id);
                    }
                }
            }
            waiting.insert(table, letters.into_values().collect());
        }
        Ok(waiting)
    }

    async fn stored_of(
        &self,
        table: &str,
        ids: &[String],
    ) -> Result<BTreeSet<String>, LettersError> {
        let ids: Vec<String> = ids
            .iter()
            .map(|id| format!("'{}'", id.replace(['\'', '\\'], "")))
            .collect();
        let sql = format!(
            "select distinct message_id from {} where message_id in ({})",
            self.tables.quoted(table),
            ids.join(", ")
        );
        let rows = self.tables.query(&sql).await?;
        Ok(rows.iter().filter_map(|row| text(row.first())).collect())
    }

    async fn store(
        &self,
        rules: &Rules,
        name: &str,
        letters: &[Letter],
        replayed: &mut Replayed,
    ) -> Result<(), LettersError> {
        let found = rules.tables().iter().enumerate();
        let found = found.into_iter().find(|(_, table)| table.name == name);
        let Some((number, table)) = found else {
            let reason = "no rule writes to this table any more";
            replayed
                .unfit
                .extend(letters.iter().map(|letter| unfit(letter, reason)));
            return Ok(());
        };
        self.tables.prepare(table).await?;
        let (mut rows, mut of) = (Vec::new(), Vec::new());
        for letter in letters {
            match row_of(rules, number, letter) {
                Ok(row) => {
                    rows.push(row);
                    of.push(letter);
                }
                Err(reason) => replayed.unfit.push(unfit(letter, &reason)),
            }
        }
        while !rows.is_empty() {
            let mut bytes = 0;
            let fit = rows.iter().take_while(|row: &&Bytes| {
                bytes += row.len();
                bytes <= MAX_REQUEST
            });
            let count = fit.count().max(1);
            let refused = self
                .append(table, rows.get(..count).unwrap_or_default())
                .await?;
            if refused.is_empty() {
                replayed.stored += count;
                rows.drain(..count);
                of.drain(..count);
                continue;
            }
            // None of the request is stored: the others are tried again.
            for (index, reason) in refused.into_iter().rev() {
                if index < rows.len() {
                    rows.remove(index);
                    replayed.unfit.push(unfit(of.remove(index), &reason));
                }
            }
        }
        Ok(())
    }

    /// Appends rows to the default stream. Which of them are refused, and then none is stored.
    async fn append(
        &self,
        table: &Table,
        rows: &[Bytes],
    ) -> Result<Vec<(usize, String)>, LettersError> {
        let failed = |reason: String| LettersError::Append {
            table: table.name.clone(),
            reason,
        };
        let mut of_request = Rows::default();
        for row in rows {
            of_request.push(0, row.clone());
        }
        let stream = format!("{}/streams/_default", self.tables.path(&table.name));
        let schema = Arc::new(ProtoSchema {
            proto_descriptor: Some(encode::descriptor(table)),
        });
        let mut connection = self.api.connect(&stream, schema, 1);
        let append = Append {
            offset: -1,
            rows: of_request,
        };
        connection
            .send(&append)
            .map_err(|status| failed(status.message().to_owned()))?;
        let answer = connection.next().await;
        let answer = answer.map_err(|status| failed(status.message().to_owned()))?;
        match judge(answer) {
            (Verdict::Done, _) => Ok(Vec::new()),
            (Verdict::RowsRefused(refused), _) => Ok(refused),
            (_, status) => Err(failed(status.message().to_owned())),
        }
    }

    fn files(&self, extensions: &[&str]) -> Result<Vec<PathBuf>, LettersError> {
        let listed = match std::fs::read_dir(&self.directory) {
            Ok(listed) => listed,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(file_error(&self.directory, &error)),
        };
        let mut files: Vec<PathBuf> = listed
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let extension = path.extension().and_then(|extension| extension.to_str());
                extension.is_some_and(|extension| extensions.contains(&extension))
            })
            .collect();
        files.sort();
        Ok(files)
    }
}

fn file_error(path: &Path, error: &std::io::Error) -> LettersError {
    LettersError::File {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

fn unfit(letter: &Letter, reason: &str) -> (String, String, String) {
    (
        letter.message_id.clone(),
        letter.table.clone(),
        reason.to_owned(),
    )
}

fn row_of(rules: &Rules, number: usize, letter: &Letter) -> Result<Bytes, String> {
    let mut made = Err("no rule writes this topic to the table any more".to_owned());
    letter.with_row(|row| {
        rules.apply(row, &letter.message_id, |table, values| {
            if table == number {
                made = values.map_err(|refusal| refusal.to_string()).map(|values| {
                    let mut out = Vec::new();
                    encode::encode(values, &mut out);
                    Bytes::from(out)
                });
            }
        });
    });
    made.and_then(|row| {
        if row.len() <= MAX_REQUEST {
            Ok(row)
        } else {
            Err(format!(
                "the row has {} bytes, too many for BigQuery",
                row.len()
            ))
        }
    })
}

fn read_file(path: &Path) -> Result<Vec<Letter>, LettersError> {
    let text = std::fs::read_to_string(path).map_err(|error| file_error(path, &error))?;
    let mut letters = Vec::new();
    for (line, number) in text.lines().zip(1_u64..) {
        match serde_json::from_str(line) {
            Ok(letter) => letters.push(letter),
            // A crash in the middle of a line: its message was not acknowledged, and came again.
            Err(error) if error.is_eof() => {
                tracing::warn!(path = %path.display(), line = number, "an unfinished line is left out");
            }
            Err(error) => {
                return Err(LettersError::File {
                    path: path.to_owned(),
                    reason: format!("line {number}: {error}"),
                });
            }
        }
    }
    Ok(letters)
}

fn text(cell: Option<&Json>) -> Option<String> {
    match cell? {
        Json::String(text) => Some(text.clone()),
        Json::Null => None,
        other => Some(other.to_string()),
    }
}

/// A letter in the order of the columns that [`Letters::waiting`] asks for.
fn letter(row: &[Json]) -> Option<Letter> {
    let cell = |at: usize| text(row.get(at));
    let bytes = |text: String| HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
    let payload = bytes(cell(5)?)?;
    let correlation_data = match cell(11) {
        None => None,
        Some(text) => Some(bytes(text)?),
    };
    let pairs = row
        .get(12)
        .and_then(Json::as_array)
        .cloned()
        .unwrap_or_default();
    let pair = |value: &Json| {
        let fields = value.get("v")?.get("f")?;
        let field = |at: usize| text(fields.get(at)?.get("v"));
        Some((field(0)?, field(1)?))
    };
    Some(Letter {
        received_at: cell(0)?.parse().ok()?,
        message_id: cell(1)?,
        table: cell(2)?,
        reason: cell(3)?,
        topic: cell(4)?,
        payload,
        client_id: cell(6),
        qos: cell(7)?.parse().ok()?,
        retain: cell(8)?.parse().ok()?,
        content_type: cell(9),
        response_topic: cell(10),
        correlation_data,
        user_properties: pairs.iter().filter_map(pair).collect(),
        tenant: cell(13),
        device_id: cell(14),
    })
}
