//! What happens to values on their way: noise, outliers, gaps. Each wraps any generator.

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use rand_distr::Normal;

use super::{Generator, Tick, Value};

/// Adds normally distributed noise to numbers; text passes.
#[derive(Debug)]
pub struct Noise<G> {
    inner: G,
    normal: Normal<f64>,
    random: ChaCha8Rng,
}

impl<G> Noise<G> {
    /// Noise with this standard deviation; `None` when it is negative or not finite.
    #[must_use]
    pub fn new(inner: G, sigma: f64, random: ChaCha8Rng) -> Option<Self> {
        let normal = Normal::new(0.0, sigma).ok().filter(|_| sigma >= 0.0)?;
        Some(Self {
            inner,
            normal,
            random,
        })
    }
}

impl<G: Generator> Generator for Noise<G> {
    fn value(&mut self, tick: Tick) -> Option<Value> {
        // Drawn even where there is no value: a gap does not shift the noise after it.
        let noise = self.random.sample(self.normal);
        self.inner
            .value(tick)
            .map(|value| value.map(|number| number + noise))
    }
}

/// Now and then a number that is far off, up or down.
#[derive(Debug)]
pub struct Outliers<G> {
    /// What is wrapped.
    pub inner: G,
    /// How often, 0 to 1.
    pub probability: f64,
    /// How far off.
    pub size: f64,
    /// Its random numbers.
    pub random: ChaCha8Rng,
}

impl<G: Generator> Generator for Outliers<G> {
    fn value(&mut self, tick: Tick) -> Option<Value> {
        let hit = self.random.random::<f64>() < self.probability;
        let up = self.random.random::<bool>();
        let value = self.inner.value(tick)?;
        Some(match (hit, up) {
            (false, _) => value,
            (true, true) => value.map(|number| number + self.size),
            (true, false) => value.map(|number| number - self.size),
        })
    }
}

/// Now and then nothing, for a number of ticks.
#[derive(Debug)]
pub struct Gaps<G> {
    inner: G,
    probability: f64,
    length: u32,
    left: u32,
    random: ChaCha8Rng,
}

impl<G> Gaps<G> {
    /// At each tick a gap of `length` ticks begins with this probability.
    #[must_use]
    pub fn new(inner: G, probability: f64, length: u32, random: ChaCha8Rng) -> Self {
        Self {
            inner,
            probability,
            length,
            left: 0,
            random,
        }
    }
}

impl<G: Generator> Generator for Gaps<G> {
    fn value(&mut self, tick: Tick) -> Option<Value> {
        // The inner value is taken in a gap too: a walk goes on while nobody looks.
        let value = self.inner.value(tick);
        let begins = self.random.random::<f64>() < self.probability;
        if self.left == 0 && begins {
            self.left = self.length;
        }
        if self.left > 0 {
            self.left -= 1;
            return None;
        }
        value
    }
}
