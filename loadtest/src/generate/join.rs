//! Several values in one JSON object.

use super::value::write_json_text;
use super::{Generator, Tick};

/// Named generators that are read at the same tick.
#[derive(Default)]
pub struct Join {
    fields: Vec<(Box<str>, Box<dyn Generator>)>,
}

impl Join {
    /// Adds a field after those there are.
    pub fn add(&mut self, name: &str, generator: impl Generator + 'static) {
        self.fields.push((name.into(), Box::new(generator)));
    }

    /// The members of a JSON object without its braces: `"temperature":39.4,"unit":"F"`. A field without a
    /// value is left out; `None` when there are only constants or nothing left.
    pub fn read(&mut self, tick: Tick, constants: &str) -> Option<Box<str>> {
        let mut out = String::new();
        for (name, generator) in &mut self.fields {
            let Some(value) = generator.value(tick) else {
                continue;
            };
            if !out.is_empty() {
                out.push(',');
            }
            write_json_text(name, &mut out);
            out.push(':');
            value.write_json(&mut out);
        }
        if out.is_empty() {
            return None;
        }
        if !constants.is_empty() {
            out.push(',');
            out.push_str(constants);
        }
        Some(out.into_boxed_str())
    }
}

impl std::fmt::Debug for Join {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_list()
            .entries(self.fields.iter().map(|(name, _)| name))
            .finish()
    }
}
