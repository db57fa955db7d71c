//! Dead letters, and what may be acknowledged.

use super::super::checkpoint::Checkpoint;
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
            releases: std::mem::take(&mut letters.releases),
            done: Box::pin(async move {
                loop {
                    match dead.store(&texts).await {
                        Ok(filed) => return filed,
                        Err(error) => tracing::error!(
                            "dead letters can be written nowhere, neither to BigQuery nor to a file: {error}; the tap holds the messages meanwhile"
                        ),
                    }
                    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
                }
            }),
        });
    }

    pub(super) fn stored(&mut self, _filed: Filed) {
        let Some(storing) = self.letters.storing.take() else {
            return;
        };
        for (number, positions) in storing.releases {
            if let Some(state) = self.tables.get(number) {
                let name = state.name.clone();
                let refused = positions
                    .into_iter()
                    .map(|position| (name.clone(), position));
                self.refused.extend(refused);
                self.to_record.push(number);
            }
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
        if upto == self.asked && self.to_record.is_empty() {
            return None;
        }
        self.asked = upto;
        self.refused.retain(|(_, position)| *position >= upto);
        for state in &mut self.tables {
            state.progress.advance(upto);
        }
        let checkpoint = Checkpoint {
            rules: self.rules.text().to_owned(),
            streams: self
                .tables
                .iter()
                .flat_map(|state| state.progress.streams(&state.name))
                .collect(),
            refused: self.refused.iter().cloned().collect(),
        };
        self.unconfirmed
            .push_back(std::mem::take(&mut self.to_record));
        Some(Acknowledge {
            upto,
            checkpoint: checkpoint.encode(),
        })
    }
}
