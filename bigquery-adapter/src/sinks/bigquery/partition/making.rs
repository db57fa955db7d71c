//! Messages become rows, in the order of their positions.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::super::api::MAX_REQUEST;
use super::super::dead::Letter;
use super::super::encode;
use super::{Messages, Partition, table};
use crate::rules::Rules;

/// A row with its frame in a request must stay below what a request takes.
const MAX_ROW: usize = MAX_REQUEST - 64 * 1024;

impl<M: Messages> Partition<M> {
    /// Makes rows of what waits, as far as may be now.
    pub(super) fn make(&mut self) {
        loop {
            self.perhaps_change_rules();
            let Some(first) = self.waiting.front() else {
                return;
            };
            let settled = self.made.is_empty() && self.unconfirmed.is_empty();
            if self.must_settle() && !settled {
                return;
            }
            // A gap is acknowledged by itself, before anything behind it is made: so what was written before a crash never
            // reaches across one.
            let gap = first.gap();
            if !gap.is_empty() {
                if !settled {
                    return;
                }
                if self.asked < gap.end {
                    self.pass_gap();
                    self.made_upto = gap.end;
                    return;
                }
            }
            let Some(messages) = self.waiting.pop_front() else {
                return;
            };
            self.waiting_bytes -= messages.bytes();
            self.made_bytes += messages.bytes();
            self.make_rows(&messages);
            self.made_upto = messages.positions().end;
            self.made.push_back(messages);
        }
    }

    /// New rules wait, and the rows that the old ones have to leave out are all left out.
    fn must_settle(&self) -> bool {
        self.next_rules.is_some()
            && self
                .tables
                .iter()
                .all(|state| state.progress.written() == 0)
    }

    fn perhaps_change_rules(&mut self) {
        if !(self.must_settle() && self.made.is_empty() && self.unconfirmed.is_empty()) {
            return;
        }
        if let Some(rules) = self.next_rules.take() {
            // Everything is acknowledged: the streams of the old rules hold nothing that a crash could repeat.
            self.tables = table::states(&rules);
            self.refused.clear();
            self.to_record.clear();
            self.rules = rules;
        }
    }

    fn pass_gap(&mut self) {
        for state in &mut self.tables {
            let rows = state.progress.gap();
            if rows > 0 {
                tracing::warn!(
                    table = state.name,
                    rows,
                    "rows were written from messages that Redis has lost since; they stay"
                );
            }
        }
        self.refused.clear();
    }

    fn make_rows(&mut self, messages: &M) {
        let rules: Arc<Rules> = Arc::clone(&self.rules);
        messages.each(&mut |position, id, row| {
            rules.apply(row, id, |number, values| {
                let Some(state) = self.tables.get_mut(number) else {
                    return;
                };
                let encoded = match values {
                    Ok(values) => {
                        let mut out = Vec::new();
                        encode::encode(values, &mut out);
                        if out.len() <= MAX_ROW {
                            Ok(out)
                        } else {
                            Err(format!(
                                "the row has {} bytes, and BigQuery takes {MAX_ROW} at the most",
                                out.len()
                            ))
                        }
                    }
                    Err(refusal) => Err(refusal.to_string()),
                };
                match encoded {
                    Err(reason) => {
                        let letter = Letter::new(row, id, &state.name, reason);
                        self.letters.gathering.push((position, letter));
                    }
                    Ok(_) if is_refused(&self.refused, &state.name, position) => {}
                    Ok(encoded) => {
                        if !state.progress.assign(position) {
                            state.add(position, Bytes::from(encoded), &self.shared.settings);
                        }
                    }
                }
            });
        });
    }

    /// Hands over what has gathered long enough. When the next is due.
    pub(super) fn flush(&mut self) -> Option<Instant> {
        let (now, age) = (Instant::now(), self.shared.settings.age);
        let mut next: Option<Instant> = None;
        for state in &mut self.tables {
            if state.has_sealed() {
                state.hand_over(&self.shared, &self.rules);
            }
            match state.since.map(|since| since + age) {
                Some(due) if due <= now => state.flush(&self.shared, &self.rules),
                Some(due) => next = Some(next.map_or(due, |next| next.min(due))),
                None => {}
            }
        }
        next
    }
}

/// Whether BigQuery has refused the row of this position before a crash. Hardly ever is there one.
fn is_refused(refused: &BTreeSet<(String, u64)>, table: &str, position: u64) -> bool {
    !refused.is_empty() && refused.contains(&(table.to_owned(), position))
}
