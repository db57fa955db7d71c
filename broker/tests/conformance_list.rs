//! Holds the lists of normative statements (`docs/conformance`) and the tests together.
//!
//! A test that holds the code to a statement says so in a comment beside it: the id in brackets, then `v311` or `v5`. Every
//! such tag must be in the list of its version, marked `tested`; every statement marked `tested` must have a tag.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// A list, the word for its version in tags, and how many statements the specification has.
const LISTS: [(&str, &str, usize); 2] =
    [("mqtt-3.1.1.tsv", "v311", 141), ("mqtt-5.0.tsv", "v5", 251)];

/// Where tests are. In `src` only what follows `#[cfg(test)]` counts.
const PLACES: [&str; 7] = [
    "protocol/tests",
    "protocol/src",
    "sync/tests",
    "sync/src",
    "broker/tests",
    "broker/src",
    "tests-e2e",
];

struct Statement {
    id: String,
    status: String,
    why: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read_list(file: &str) -> (String, Vec<Statement>) {
    let path = root().join("docs/conformance").join(file);
    let text =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let statements = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| match line.split('\t').collect::<Vec<_>>()[..] {
            [id, words, status, why] => {
                assert!(!words.is_empty(), "{file}: {id} has no words");
                Statement {
                    id: id.to_owned(),
                    status: status.to_owned(),
                    why: why.to_owned(),
                }
            }
            _ => panic!("{file}: not four columns: {line}"),
        })
        .collect();
    let header = text
        .lines()
        .filter(|line| line.starts_with('#'))
        .collect::<Vec<_>>()
        .join("\n");
    (header, statements)
}

/// Every tag in the tests, with the files it is in: (version, id) to files.
fn tags() -> BTreeMap<(String, String), BTreeSet<PathBuf>> {
    let mut found: BTreeMap<(String, String), BTreeSet<PathBuf>> = BTreeMap::new();
    for place in PLACES {
        for file in files(&root().join(place)) {
            let Ok(text) = fs::read_to_string(&file) else {
                continue;
            };
            let tests = if place.ends_with("/src") {
                text.split_once("#[cfg(test)]").map_or("", |(_, rest)| rest)
            } else {
                &text
            };
            for tag in tests.split("[MQTT-").skip(1).filter_map(read_tag) {
                found.entry(tag).or_default().insert(file.clone());
            }
        }
    }
    found
}

/// `3.1.0-1] v5 …` without the version's suffix: (version, id).
fn read_tag(text: &str) -> Option<(String, String)> {
    let (id, rest) = text.split_once("] ")?;
    let version: String = rest
        .chars()
        .take_while(char::is_ascii_alphanumeric)
        .collect();
    let known = LISTS.iter().any(|(_, word, _)| *word == version);
    (known
        && id
            .chars()
            .all(|c| c.is_ascii_digit() || c == '.' || c == '-'))
    .then(|| (version, format!("MQTT-{id}")))
}

fn files(place: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries =
        fs::read_dir(place).unwrap_or_else(|error| panic!("{}: {error}", place.display()));
    for entry in entries.map(|entry| entry.expect("a folder's entry").path()) {
        let name = entry
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        if name == "node_modules" || name == "proptest-regressions" || name == "conformance_list.rs"
        {
            continue;
        }
        if entry.is_dir() {
            found.extend(files(&entry));
        } else if [".rs", ".txt", ".py", ".mjs"]
            .iter()
            .any(|ending| name.ends_with(ending))
        {
            found.push(entry);
        }
    }
    found
}

#[test]
fn every_statement_is_listed_once_and_every_tag_is_in_the_list() {
    let tags = tags();
    let mut faults = Vec::new();
    for (file, version, count) in LISTS {
        let (header, statements) = read_list(file);
        assert!(
            header.contains(&format!("{count} of them")),
            "{file}: the header says another count"
        );
        assert_eq!(
            statements.len(),
            count,
            "{file}: statements are missing or too many"
        );
        let ids: BTreeSet<_> = statements
            .iter()
            .map(|statement| statement.id.as_str())
            .collect();
        assert_eq!(ids.len(), count, "{file}: an id is there twice");
        for statement in &statements {
            let tagged = tags.contains_key(&(version.to_owned(), statement.id.clone()));
            match (statement.status.as_str(), tagged) {
                ("tested", true) => {}
                ("tested", false) => faults.push(format!(
                    "{file}: {} is marked tested, and no test has its tag",
                    statement.id
                )),
                ("not-applicable" | "open", true) => {
                    faults.push(format!(
                        "{file}: {} has tests and is marked {}",
                        statement.id, statement.status
                    ));
                }
                ("not-applicable" | "open", false) if statement.why.is_empty() => {
                    faults.push(format!(
                        "{file}: {} is {} and does not say why",
                        statement.id, statement.status
                    ));
                }
                ("not-applicable" | "open", false) => {}
                (other, _) => faults.push(format!(
                    "{file}: {} has the unknown status {other:?}",
                    statement.id
                )),
            }
        }
        for ((_, id), files) in tags
            .iter()
            .filter(|((tag_version, _), _)| tag_version == version)
        {
            if !ids.contains(id.as_str()) {
                faults.push(format!(
                    "[{id}] {version} is no statement of {file}; it is in {files:?}"
                ));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
