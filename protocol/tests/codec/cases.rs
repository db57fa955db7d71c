//! The case files: bytes in, packet or error out.
//!
//! A line of `tests/cases/*.txt` is
//!
//! ```text
//! v311,v5 client: 30 * s"a/b" 00 -> PUBLISH q0 "a/b" b"" // [MQTT-…] v5, [MQTT-…] v311
//! ```
//!
//! that is versions, who sends it, bytes (see `input`), what must come of it, and the statements of the specification
//! that it bears witness to. What is decoded is also encoded again, and must give the same bytes; where another form
//! is the canonical one it stands behind `=>`. `UPDATE_CASES=1` rewrites what stands between `->` and `//`: read the
//! difference. `FUZZ_SEEDS=folder` writes the bytes of every case there, for the fuzzer to start from.

use std::fs;
use std::path::{Path, PathBuf};

use dunlin_protocol::{Packet, Sender, Version, decode};

use crate::{input, text};

#[test]
fn every_case_file_holds() {
    let update = std::env::var_os("UPDATE_CASES").is_some();
    let seeds = seed_folder();
    let mut wrong = Vec::new();
    let mut cases = 0;
    for path in case_files() {
        let before = fs::read_to_string(&path).expect("a case file can be read");
        let mut after = String::new();
        for (number, line) in before.lines().enumerate() {
            let place = format!("{}:{}", path.display(), number + 1);
            if line.trim().is_empty() || line.starts_with('#') {
                after += line;
            } else {
                let case = Case::parse(line, &place);
                let outcomes = case.outcomes();
                if outcomes.iter().any(|(_, outcome)| outcome != case.expected) {
                    wrong.push(format!("{place}: {line}\n  gives {outcomes:?}"));
                }
                let lines: Vec<_> = outcomes
                    .iter()
                    .map(|(versions, outcome)| case.line(versions, outcome))
                    .collect();
                after += &lines.join("\n");
                if let Some(folder) = &seeds {
                    let name = format!("case-{cases:04}");
                    fs::write(folder.join(name), input::parse(case.input))
                        .expect("a seed can be written");
                }
                cases += 1;
            }
            after.push('\n');
        }
        if update && after != before {
            fs::write(&path, after).expect("a case file can be written");
        }
    }
    println!("{cases} cases");
    assert!(cases > 500, "only {cases} cases were found");
    assert!(
        update || wrong.is_empty(),
        "{} cases differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

fn seed_folder() -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("FUZZ_SEEDS")?);
    fs::create_dir_all(&folder).expect("the folder of seeds can be made");
    Some(folder)
}

fn case_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("the folder of cases can be read")
        .map(|entry| entry.expect("its entries too").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    files
}

struct Case<'a> {
    versions: Vec<&'a str>,
    sender: &'a str,
    input: &'a str,
    expected: &'a str,
    /// What stands behind `//`.
    note: Option<&'a str>,
}

impl<'a> Case<'a> {
    fn parse(line: &'a str, place: &str) -> Self {
        let (line, note) = match line.split_once(" // ") {
            Some((line, note)) => (line, Some(note.trim())),
            None => (line, None),
        };
        let (head, rest) = line
            .split_once(':')
            .unwrap_or_else(|| panic!("{place}: no ':'"));
        let (versions, sender) = head
            .split_once(' ')
            .unwrap_or_else(|| panic!("{place}: no sender"));
        let (input, expected) = rest.split_once("->").unwrap_or((rest, ""));
        Self {
            versions: versions.split(',').collect(),
            sender,
            input: input.trim(),
            expected: expected.trim(),
            note,
        }
    }

    /// What comes of it, and with which versions: more than one outcome is more than one case.
    fn outcomes(&self) -> Vec<(Vec<&'a str>, String)> {
        let bytes = input::parse(self.input);
        let mut outcomes: Vec<(Vec<&str>, String)> = Vec::new();
        for &version in &self.versions {
            let outcome = outcome(&bytes, parse_version(version), parse_sender(self.sender));
            match outcomes.iter_mut().find(|(_, other)| *other == outcome) {
                Some((versions, _)) => versions.push(version),
                None => outcomes.push((vec![version], outcome)),
            }
        }
        outcomes
    }

    fn line(&self, versions: &[&str], outcome: &str) -> String {
        let mut line = format!(
            "{} {}: {} -> {outcome}",
            versions.join(","),
            self.sender,
            self.input
        );
        if let Some(note) = self.note {
            line += " // ";
            line += note;
        }
        line
    }
}

fn parse_sender(sender: &str) -> Sender {
    match sender {
        "client" => Sender::Client,
        "server" => Sender::Server,
        other => panic!("no such sender: {other}"),
    }
}

fn parse_version(version: &str) -> Version {
    match version {
        "v31" => Version::V31,
        "v311" => Version::V311,
        "v5" => Version::V5,
        other => panic!("no such version: {other}"),
    }
}

fn outcome(bytes: &[u8], version: Version, sender: Sender) -> String {
    match decode(bytes, version, sender) {
        Ok(packet) => text::packet(&packet) + &canonical(&packet, bytes, version, sender),
        Err(error) => format!("error {:#04x}: {error}", error.reason_code().0),
    }
}

/// Encodes again; says so when the bytes differ. What the bytes mean must not change.
fn canonical(packet: &Packet<'_>, bytes: &[u8], version: Version, sender: Sender) -> String {
    let mut again = Vec::new();
    packet
        .encode(version, &mut again)
        .expect("what was decoded can be encoded");
    assert_eq!(
        packet.encoded_len(version),
        Ok(again.len()),
        "length told beforehand"
    );
    assert_eq!(
        decode(&again, version, sender).as_ref(),
        Ok(packet),
        "decoded again"
    );
    if again == bytes {
        return String::new();
    }
    let hex: Vec<String> = again.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(" => {}", hex.join(" "))
}
