//! Dead letters, and what may be acknowledged.

use super::super::checkpoint::{Checkpoint, MAX_BYTES};
use super::super::dead::{Filed, Letter};
use super::super::window::Rows;
use super::table::TableState;
use super::{Acknowledge, Messages, Partition, Storing};

/// Acknowledgements that may be unconfirmed at a time.
const UNCONFIRMED: usize = 8;
/// Dead letters that are stored at a time.
const LETTERS: usize = 500;

impl<M: Messages> Partition<M> {
    /// Rows that BigQuery refuses: dead letters first, then the checkpoint, then the writer goes on.
    pub(super) fn refuse(&mut self, number: usize, rows: &Rows, reasons: Vec<String>) {
        let Some(state) = self.tables.get_mut(number) else {
            return;
        };
        let table = state.name.clone();
        state.progress.refuse(rows.positions());
        for (position, reason) in rows.positions().iter().zip(reasons) {
            for messages in &self.made {
                if !messages.positions().contains(position) {
                    continue;
                }
                messages.each(&mut |at, id, row| {
                    if at == *position {
                        let reason = format!("BigQuery refuses the row: {reason}");
                        let letter = Letter::new(row, id, &table, reason);
                        self.letters.gathering.push((at, letter));
                    }
                });
            }
        }
        self.letters
            .releases
            .push((number, rows.positions().to_vec()));
    }

    /// Begins to store what has gathered, unless something is being stored.
    pub(super) fn store_letters(&mut self) {
        let letters = &mut self.letters;
        if letters.storing.is_some()
            || (letters.gathering.is_empty() && letters.releases.is_empty())
        {
            return;
        }
        // A writer waits for all letters of its rows: those that wait for none may be cut anywhere.
        let count = if letters.releases.is_empty() {
            letters.gathering.len().min(LETTERS)
        } else {
            letters.gathering.len()
        };
        let rest = letters.gathering.split_off(count);
        let taken = std::mem::replace(&mut letters.gathering, rest);
        let oldest = taken.iter().map(|(position, _)| *position).min();
        let texts: Vec<Letter> = taken.into_iter().map(|(_, letter)| letter).collect();
        let dead = self.shared.dead.clone();
        letters.storing = Some(Storing {
            oldest: oldest.unwrap_or(u64::MAX),
            letters: texts.len(),
            releases: std::mem::take(&mut letters.releases),
            done: Box::pin(async move {
                loop {
                    match dead.store(&texts).await {
                        Ok(filed) => return filed,
                        Err(error) => tracing::error!(
                            code = crate::error::Code::DEAD_LETTERS.as_str(),
                            "dead letters can be written nowhere, neither to BigQuery nor to a file: {error}; the tap holds the messages meanwhile"
                        ),
                    }
                    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
                }
            }),
        });
    }

    pub(super) fn stored(&mut self, filed: Filed) {
        let Some(storing) = self.letters.storing.take() else {
            return;
        };
        let place = match filed {
            Filed::Table => "table",
            Filed::File => "file",
        };
        self.shared.metrics.letters_stored(place, storing.letters);
        for (number, positions) in storing.releases {
            self.to_record.push_back((number, positions));
        }
    }

    /// What may be acknowledged now, or must be written into the checkpoint.
    pub(super) fn acknowledge(&mut self) -> Option<Acknowledge> {
        if self.unconfirmed.len() >= UNCONFIRMED {
            return None;
        }
        let rows = self.tables.iter().filter_map(TableState::oldest);
        let gathering = self.letters.gathering.iter().map(|(position, _)| *position);
        let storing = self.letters.storing.iter().map(|storing| storing.oldest);
        let oldest = rows.chain(gathering).chain(storing).min();
        let stored = oldest.unwrap_or(self.made_upto).min(self.made_upto);
        let mut upto = self.asked;
        while let Some(first) = self.made.front() {
            let end = first.positions().end;
            if end > stored {
                break;
            }
            upto = upto.max(end);
            self.made_bytes -= first.bytes();
            self.made.pop_front();
        }
        if self.made.is_empty() {
            upto = upto.max(stored);
        }
        if upto == self.asked && self.to_record.is_empty() && !self.owed {
            return None;
        }
        let more = upto > self.asked || self.owed;
        self.asked = upto;
        self.refused.retain(|(_, position)| *position >= upto);
        for state in &mut self.tables {
            state.progress.advance(upto);
        }
        let (checkpoint, recorded) = self.checkpoint();
        self.owed = checkpoint.len() > MAX_BYTES;
        if self.owed {
            // It is shorter when the streams that have ended are acknowledged; until then the tap holds what follows.
            tracing::warn!(
                bytes = checkpoint.len(),
                "the checkpoint is too long for now: too many write streams hold rows that are not acknowledged"
            );
            return None;
        }
        if recorded.is_empty() && !more {
            return None;
        }
        self.unconfirmed.push_back(recorded);
        Some(Acknowledge { upto, checkpoint })
    }

    /// The checkpoint at the position that is asked for, with as much as finds room of what is to be recorded, and the
    /// tables that waited for that.
    fn checkpoint(&mut self) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = self.encode_checkpoint();
        let mut recorded = Vec::new();
        while let Some((number, mut positions)) = self.to_record.pop_front() {
            positions.retain(|position| *position >= self.asked);
            let Some(name) = self.tables.get(number).map(|state| state.name.clone()) else {
                continue;
            };
            for position in &positions {
                self.refused.insert((name.clone(), *position));
            }
            let longer = self.encode_checkpoint();
            if longer.len() > MAX_BYTES && !positions.is_empty() {
                for position in &positions {
                    self.refused.remove(&(name.clone(), *position));
                }
                // Its rows are acknowledged when those before them are, and then need no place.
                self.to_record.push_front((number, positions));
                break;
            }
            bytes = longer;
            recorded.push(number);
        }
        (bytes, recorded)
    }

    fn encode_checkpoint(&self) -> Vec<u8> {
        let checkpoint = Checkpoint {
            rules: self.rules.text().to_owned(),
            streams: self
                .tables
                .iter()
                .flat_map(|state| state.progress.streams(&state.name))
                .collect(),
            refused: self.refused.iter().cloned().collect(),
        };
        checkpoint.encode()
    }
}
