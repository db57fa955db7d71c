//! What a device measures: generators that compose.
//!
//! A [`Generator`] gives one value per tick, or nothing. Sources (a CSV column, a constant, a sine, a
//! random walk) begin a chain; shapes (noise, outliers, gaps) wrap one and are generators again; a
//! [`Join`] puts several chains into one JSON object. A chain owns its random numbers, seeded from the
//! scenario's seed and the chain's place, so that adding a field does not change the others and the same
//! seed gives the same bytes on every machine.

mod join;
mod series;
mod shape;
mod source;
mod value;

pub use join::Join;
pub use series::{Clock, Reading, Series};
pub use shape::{Gaps, Noise, Outliers};
pub use source::{Column, Constant, Sine, Walk};
pub use value::Value;
pub(crate) use value::write_json_text;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::data::Timestamp;

/// One step of a series.
#[derive(Debug, Clone, Copy)]
pub struct Tick {
    /// Counts from 0; the row, where there is a table.
    pub index: usize,
    /// The virtual time of the step.
    pub at: Timestamp,
}

/// Gives one value per tick. Ticks come in order, each once.
pub trait Generator: Send {
    /// The value at this tick; `None` where nothing is measured.
    fn value(&mut self, tick: Tick) -> Option<Value>;
}

impl Generator for Box<dyn Generator> {
    fn value(&mut self, tick: Tick) -> Option<Value> {
        (**self).value(tick)
    }
}

/// The random numbers of one place in a scenario: the same seed and place give the same numbers.
#[must_use]
pub fn random(seed: u64, place: &str) -> ChaCha8Rng {
    // FNV-1a: only to spread places over seeds, nobody attacks it.
    let hash = place.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    ChaCha8Rng::seed_from_u64(seed ^ hash)
}

#[cfg(test)]
mod tests;
