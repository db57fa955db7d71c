//! `broker devices import`: many devices in parts, each of which may be sent again without harm.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use futures_util::{StreamExt, stream};
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde_json::{Map, Value, json};

use super::remote::{Refused, Remote};
use crate::error::Exit;

/// Devices, and bytes, of one part.
const PART: usize = 1_000;
const PART_BYTES: usize = 4 << 20;
/// Longest line, in bytes.
const LINE_MAX: usize = 512 * 1024;
/// Parts that are under way at a time.
const PARTS: usize = 4;
/// Pauses before a part is sent again.
const PAUSES_S: [u64; 5] = [1, 2, 4, 8, 16];
/// Devices between two words about how far it is.
const WORD_EVERY: usize = 100_000;

/// How the devices are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// JSON, one device a line, as `export` writes it
    Ndjson,
    /// A head of columns: id, tenant, public_key (PEM, or its base64 alone), certificate, fingerprint, expires_at, attribute.NAME
    Csv,
}

/// An import.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The file; - is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// How it is written; without it a name that ends in .csv says CSV
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Devices that are there and differ become what the file says; otherwise their lines are refused
    #[arg(long)]
    replace: bool,
    /// Lines that are refused are written here, with number and reason
    #[arg(long, value_name = "FILE", default_value = "rejected.ndjson")]
    rejects: PathBuf,
    /// Begin at this line, from 1: where an import that was broken off says so
    #[arg(long, value_name = "LINE", default_value_t = 1)]
    from_line: usize,
}

/// Lines that are sent together.
struct Part {
    /// The number of each.
    numbers: Vec<usize>,
    lines: Vec<u8>,
    /// Those that could not even be read.
    bad: Vec<(usize, String, String)>,
}

impl Part {
    fn first(&self) -> usize {
        let bad = self.bad.first().map(|(number, ..)| *number);
        self.numbers
            .first()
            .copied()
            .into_iter()
            .chain(bad)
            .min()
            .unwrap_or(1)
    }
}

/// A row of the file with its number: a device as JSON, or why it is none and the row itself.
type Row = (usize, Result<String, (String, String)>);

/// Takes parts from a file, one at a time: no more is in memory than is under way.
struct Parts {
    rows: Box<dyn Iterator<Item = Row>>,
    from_line: usize,
}

impl Iterator for Parts {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        let mut part = Part {
            numbers: Vec::new(),
            lines: Vec::new(),
            bad: Vec::new(),
        };
        while part.numbers.len() + part.bad.len() < PART && part.lines.len() < PART_BYTES {
            let Some((number, row)) = self.rows.next() else {
                break;
            };
            if number < self.from_line {
                continue;
            }
            match row {
                Ok(line) => {
                    part.numbers.push(number);
                    part.lines.extend_from_slice(line.as_bytes());
                    part.lines.push(b'\n');
                }
                Err((reason, text)) => part.bad.push((number, reason, text)),
            }
        }
        (!part.numbers.is_empty() || !part.bad.is_empty()).then_some(part)
    }
}

/// Lines of a file with their numbers; blank ones are left out.
struct Lines<R> {
    from: R,
    number: usize,
    failed: bool,
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Row;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            let mut line = Vec::new();
            let bound = u64::try_from(LINE_MAX).unwrap_or(u64::MAX);
            let read = self
                .from
                .by_ref()
                .take(bound + 1)
                .read_until(b'\n', &mut line);
            self.number += 1;
            match read {
                Ok(0) => return None,
                Ok(_) if line.len() > LINE_MAX => {
                    self.failed = true;
                    let reason =
                        format!("the line has over {LINE_MAX} bytes: what follows is not read");
                    return Some((self.number, Err((reason, String::new()))));
                }
                Ok(_) => {}
                Err(error) => {
                    self.failed = true;
                    let reason = format!("the file cannot be read on: {error}");
                    return Some((self.number, Err((reason, String::new()))));
                }
            }
            match String::from_utf8(line) {
                Ok(line) if line.trim().is_empty() => {}
                Ok(line) => return Some((self.number, Ok(line.trim().to_owned()))),
                Err(error) => {
                    let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
                    return Some((self.number, Err(("the line is no UTF-8".to_owned(), text))));
                }
            }
        }
        None
    }
}

fn rows(from: Box<dyn Read>, format: Format) -> Result<Parts, String> {
    let from = BufReader::with_capacity(1 << 18, from);
    let rows: Box<dyn Iterator<Item = _>> = match format {
        Format::Ndjson => Box::new(Lines {
            from,
            number: 0,
            failed: false,
        }),
        Format::Csv => {
            let mut reader = csv::Reader::from_reader(from);
            let head = reader
                .headers()
                .map_err(|error| format!("the head of the CSV cannot be read: {error}"))?;
            let head: Vec<String> = head.iter().map(|name| name.trim().to_owned()).collect();
            check_head(&head)?;
            Box::new(reader.into_records().map(move |row| match row {
                Ok(row) => {
                    let number = row.position().map_or(0, csv::Position::line);
                    let number = usize::try_from(number).unwrap_or(usize::MAX);
                    let device = device_of(&head, &row)
                        .map_err(|reason| (reason, row.iter().collect::<Vec<_>>().join(",")));
                    (number, device.map(|device| device.to_string()))
                }
                Err(error) => {
                    let number = error.position().map_or(0, csv::Position::line);
                    let number = usize::try_from(number).unwrap_or(usize::MAX);
                    (number, Err((error.to_string(), String::new())))
                }
            }))
        }
    };
    Ok(Parts { rows, from_line: 1 })
}

fn check_head(head: &[String]) -> Result<(), String> {
    const KNOWN: [&str; 7] = [
        "id",
        "tenant",
        "public_key",
        "certificate",
        "fingerprint",
        "expires_at",
        "credential_id",
    ];
    let unknown = head
        .iter()
        .find(|name| !KNOWN.contains(&name.as_str()) && !name.starts_with("attribute."));
    match unknown {
        Some(name) => Err(format!(
            "the CSV has a column {name:?}: must be one of {}, or attribute.NAME",
            KNOWN.join(", ")
        )),
        None if !head.iter().any(|name| name == "id") => {
            Err("the CSV has no column \"id\"".to_owned())
        }
        None => Ok(()),
    }
}

fn device_of(head: &[String], row: &csv::StringRecord) -> Result<Value, String> {
    let (mut device, mut credential, mut attributes) = (Map::new(), Map::new(), Map::new());
    for (name, value) in head.iter().zip(row) {
        let value = value.trim();
        if value.is_empty() {
            continue;
        }
        match name.as_str() {
            "id" | "tenant" => drop(device.insert(name.clone(), value.into())),
            "public_key" if !value.contains("-----") => {
                let pem =
                    format!("-----BEGIN PUBLIC KEY-----\n{value}\n-----END PUBLIC KEY-----\n");
                credential.insert(name.clone(), pem.into());
            }
            "public_key" | "certificate" | "fingerprint" => {
                drop(credential.insert(name.clone(), value.into()))
            }
            "credential_id" => drop(credential.insert("id".to_owned(), value.into())),
            "expires_at" => {
                let at: u64 = value
                    .parse()
                    .map_err(|_| format!("expires_at is {value:?}: must be Unix seconds"))?;
                credential.insert(name.clone(), at.into());
            }
            other => {
                let name = other.strip_prefix("attribute.").unwrap_or(other);
                attributes.insert(name.to_owned(), value.into());
            }
        }
    }
    if !credential.is_empty() {
        device.insert("credentials".to_owned(), json!([credential]));
    }
    device.insert("attributes".to_owned(), attributes.into());
    Ok(device.into())
}

/// What has been done so far.
#[derive(Default)]
struct Totals {
    created: u64,
    replaced: u64,
    unchanged: u64,
    refused: u64,
    seen: usize,
}

impl Totals {
    fn words(&self) -> String {
        format!(
            "{} created, {} replaced, {} unchanged, {} refused",
            self.created, self.replaced, self.unchanged, self.refused
        )
    }
}

pub(super) async fn run(remote: &Remote, args: ImportArgs) -> Result<Exit, String> {
    let from: Box<dyn Read> = if args.file == Path::new("-") {
        Box::new(io::stdin())
    } else {
        let opened = File::open(&args.file);
        Box::new(opened.map_err(|error| format!("cannot read {}: {error}", args.file.display()))?)
    };
    let csv = args
        .file
        .extension()
        .is_some_and(|end| end.eq_ignore_ascii_case("csv"));
    let format = args
        .format
        .unwrap_or(if csv { Format::Csv } else { Format::Ndjson });
    let mut parts = rows(from, format)?;
    parts.from_line = args.from_line.max(1);
    let existing = if args.replace { "replace" } else { "keep" };
    let mut sent = stream::iter(parts)
        .map(|part| async move {
            let answer = send(remote, existing, &part).await;
            (part, answer)
        })
        .buffered(PARTS);
    let mut totals = Totals::default();
    let mut rejects = None;
    while let Some((part, answer)) = sent.next().await {
        let answer = answer.map_err(|refused| {
            format!(
                "{refused}\n{} so far; go on with --from-line {}",
                totals.words(),
                part.first()
            )
        })?;
        let before = totals.seen / WORD_EVERY;
        take(&part, &answer, &mut totals, &mut rejects, &args.rejects)?;
        if totals.seen / WORD_EVERY > before {
            eprintln!("{}", totals.words());
        }
    }
    if remote.json {
        let words = json!({
            "created": totals.created, "replaced": totals.replaced, "unchanged": totals.unchanged, "refused": totals.refused,
        });
        super::say(&format!("{words}\n"))?;
    } else {
        super::say(&format!("{}\n", totals.words()))?;
    }
    if totals.refused == 0 {
        return Ok(Exit::Ok);
    }
    eprintln!(
        "the lines that were refused are in {}",
        args.rejects.display()
    );
    Ok(Exit::Partly)
}

/// Sends a part; again, after a pause, when the broker could not answer.
async fn send(remote: &Remote, existing: &str, part: &Part) -> Result<Value, Refused> {
    if part.numbers.is_empty() {
        return Ok(Value::Null);
    }
    let kind = [(
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-ndjson"),
    )];
    let path = format!("/v1/import?existing={existing}");
    let body = Bytes::copy_from_slice(&part.lines);
    let mut pauses = PAUSES_S.iter();
    loop {
        match remote.ask(Method::POST, &path, &kind, body.clone()).await {
            Ok(answer) => return Ok(serde_json::from_slice(&answer).unwrap_or_default()),
            Err(refused) => match pauses.next() {
                Some(pause) if refused.may_pass() => {
                    eprintln!("{refused}: once more in {pause} s");
                    tokio::time::sleep(Duration::from_secs(*pause)).await;
                }
                _ => return Err(refused),
            },
        }
    }
}

/// Adds up what became of a part, and keeps apart what was refused.
fn take(
    part: &Part,
    answer: &Value,
    totals: &mut Totals,
    rejects: &mut Option<File>,
    path: &Path,
) -> Result<(), String> {
    let count = |name: &str| answer[name].as_u64().unwrap_or(0);
    totals.created += count("created");
    totals.replaced += count("replaced");
    totals.unchanged += count("unchanged");
    totals.seen += part.numbers.len() + part.bad.len();
    let mut refused: Vec<_> = part.bad.clone();
    let lines: Vec<_> = part.lines.split(|byte| *byte == b'\n').collect();
    for one in answer["refused"].as_array().into_iter().flatten() {
        let line = one["line"]
            .as_u64()
            .and_then(|line| usize::try_from(line).ok())
            .unwrap_or(0);
        let index = line.wrapping_sub(1);
        let number = part.numbers.get(index).copied().unwrap_or(0);
        let text = lines
            .get(index)
            .map(|line| String::from_utf8_lossy(line).into_owned());
        let reason = one["reason"].as_str().unwrap_or_default().to_owned();
        refused.push((number, reason, text.unwrap_or_default()));
    }
    refused.sort_by_key(|(number, ..)| *number);
    totals.refused += refused.len() as u64;
    for (number, reason, text) in refused {
        let unwritten = |error: io::Error| format!("cannot write {}: {error}", path.display());
        let file = match rejects {
            Some(file) => file,
            None => rejects.insert(File::create(path).map_err(unwritten)?),
        };
        let line = json!({ "line": number, "reason": reason, "text": text });
        writeln!(file, "{line}").map_err(unwritten)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &'static str, format: Format) -> Vec<Row> {
        rows(Box::new(text.as_bytes()), format)
            .unwrap()
            .rows
            .collect()
    }

    #[test]
    fn lines_keep_their_numbers_and_blank_ones_are_left_out() {
        let rows = all("{\"id\":\"a\"}\n\n  \n{\"id\":\"b\"}", Format::Ndjson);
        let expected = [
            (1, Ok("{\"id\":\"a\"}".to_owned())),
            (4, Ok("{\"id\":\"b\"}".to_owned())),
        ];
        assert_eq!(rows, expected);
    }

    #[test]
    fn a_row_of_csv_becomes_a_device() {
        let text = "id,tenant,public_key,expires_at,attribute.site\na,,AAAA,17,north\nb,acme,,,\nc,,,soon,\n";
        let rows = all(text, Format::Csv);
        let first: Value = serde_json::from_str(rows[0].1.as_ref().unwrap()).unwrap();
        assert_eq!(first["credentials"][0]["expires_at"], 17);
        assert!(
            first["credentials"][0]["public_key"]
                .as_str()
                .unwrap()
                .starts_with("-----BEGIN PUBLIC KEY-----\nAAAA\n")
        );
        assert_eq!(first["attributes"], json!({ "site": "north" }));
        let second: Value = serde_json::from_str(rows[1].1.as_ref().unwrap()).unwrap();
        assert_eq!(
            second,
            json!({ "id": "b", "tenant": "acme", "attributes": {} })
        );
        assert_eq!(rows[2].0, 4);
        assert!(rows[2].1.as_ref().unwrap_err().0.contains("soon"));
    }

    #[test]
    fn a_column_that_is_unknown_is_named() {
        let fault = rows(Box::new(&b"id,name\n"[..]), Format::Csv)
            .err()
            .unwrap();
        assert!(fault.contains("\"name\""), "{fault}");
        assert!(rows(Box::new(&b"tenant\n"[..]), Format::Csv).is_err());
    }

    #[test]
    fn parts_are_bounded_and_begin_where_they_are_told() {
        let text = "{}\n".repeat(PART + 10);
        let mut parts = rows(Box::new(io::Cursor::new(text)), Format::Ndjson).unwrap();
        parts.from_line = 6;
        let sizes: Vec<_> = parts
            .map(|part| (part.first(), part.numbers.len()))
            .collect();
        assert_eq!(sizes, [(6, PART), (PART + 6, 5)]);
    }
}
