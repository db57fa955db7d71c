//! Where values come from.

use std::sync::Arc;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use super::{Generator, Tick, Value};

/// The cells of a table's column, row by row.
#[derive(Debug, Clone)]
pub struct Column(pub Arc<[Box<str>]>);

impl Generator for Column {
    fn value(&mut self, tick: Tick) -> Option<Value> {
        self.0
            .get(tick.index)
            .and_then(|cell| Value::from_cell(cell))
    }
}

/// Always the same.
#[derive(Debug, Clone)]
pub struct Constant(pub Value);

impl Generator for Constant {
    fn value(&mut self, _: Tick) -> Option<Value> {
        Some(self.0.clone())
    }
}

/// A sine over virtual time, such as the course of a day.
#[derive(Debug, Clone)]
pub struct Sine {
    /// The middle.
    pub mean: f64,
    /// The greatest distance from the middle.
    pub amplitude: f64,
    /// Virtual seconds of one period; above 0.
    pub period_s: f64,
    /// Part of a period by which it is shifted, 0 to 1.
    pub phase: f64,
    /// Decimals of the value.
    pub decimals: u8,
}

impl Generator for Sine {
    fn value(&mut self, tick: Tick) -> Option<Value> {
        // Whole periods go first: a sine of a large argument loses digits.
        let seconds = tick.at.0 as f64 / 1000.0;
        let turn = (seconds / self.period_s + self.phase).fract();
        let number = self
            .amplitude
            .mul_add((turn * std::f64::consts::TAU).sin(), self.mean);
        Some(Value::Number(number, self.decimals))
    }
}

/// A random walk that turns back at its bounds.
#[derive(Debug, Clone)]
pub struct Walk {
    /// The present value.
    pub now: f64,
    /// The greatest change in one step.
    pub step: f64,
    /// Never below.
    pub min: f64,
    /// Never above.
    pub max: f64,
    /// Decimals of the value.
    pub decimals: u8,
    /// Its random numbers.
    pub random: ChaCha8Rng,
}

impl Generator for Walk {
    fn value(&mut self, _: Tick) -> Option<Value> {
        let now = self.now;
        let step = self.step * (2.0 * self.random.random::<f64>() - 1.0);
        let next = now + step;
        let turned = if next < self.min || next > self.max {
            now - step
        } else {
            next
        };
        self.now = turned.max(self.min).min(self.max);
        Some(Value::Number(now, self.decimals))
    }
}
