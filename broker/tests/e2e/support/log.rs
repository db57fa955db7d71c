//! The broker's log: a WARN or ERROR that a test has not announced fails the test.

use std::{fs, path::PathBuf};

/// The log file of one broker and the lines that its test expects there.
pub(crate) struct Log {
    path: PathBuf,
    allowed: Vec<String>,
}

impl Log {
    pub(crate) const fn new(path: PathBuf) -> Self {
        Self {
            path,
            allowed: Vec::new(),
        }
    }

    /// Lines that contain `text` may be warnings or errors.
    pub(crate) fn allow(&mut self, text: &str) {
        self.allowed.push(text.to_owned());
    }

    /// Everything logged so far.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.path).unwrap_or_default()).into_owned()
    }

    /// Warnings, errors and panics that no test has announced.
    pub(crate) fn unexpected(&self) -> Vec<String> {
        self.text()
            .lines()
            .filter(|line| is_alarm(line) && !self.allowed.iter().any(|text| line.contains(text)))
            .map(str::to_owned)
            .collect()
    }
}

/// Whether a line is of level WARN or above, in either format of the log, or tells of a panic.
fn is_alarm(line: &str) -> bool {
    let marks = [
        "\"level\":\"WARN\"",
        "\"level\":\"ERROR\"",
        " WARN ",
        " ERROR ",
        "panicked at",
    ];
    marks.iter().any(|mark| line.contains(mark))
}

#[test]
fn an_alarm_is_seen_in_both_formats() {
    assert!(is_alarm(
        r#"{"timestamp":"t","level":"ERROR","message":"m"}"#
    ));
    assert!(is_alarm("2026-01-01T00:00:00Z  WARN dunlin_broker: m"));
    assert!(!is_alarm(
        r#"{"timestamp":"t","level":"INFO","message":"WARNING lights"}"#
    ));
}
