//! The scenario file as it is written.

use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawScenario {
    pub(super) seed: Option<u64>,
    #[serde(default)]
    pub(super) station: Vec<RawStation>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStation {
    pub(super) name: String,
    pub(super) devices: Option<usize>,
    pub(super) spread: Option<RawSpread>,
    pub(super) pace: Option<f64>,
    pub(super) topic: Option<String>,
    /// With `time`: readings row by row.
    pub(super) table: Option<String>,
    pub(super) time: Option<String>,
    /// With `interval_ms` and `count`: readings at regular times.
    pub(super) start: Option<String>,
    pub(super) interval_ms: Option<i64>,
    pub(super) count: Option<usize>,
    #[serde(default)]
    pub(super) field: Vec<RawField>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawSpread {
    Partition,
    Replicate,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawField {
    pub(super) name: String,
    pub(super) column: Option<String>,
    pub(super) constant: Option<toml::Value>,
    pub(super) sine: Option<RawSine>,
    pub(super) walk: Option<RawWalk>,
    pub(super) decimals: Option<u8>,
    pub(super) noise: Option<f64>,
    pub(super) outliers: Option<RawOutliers>,
    pub(super) gaps: Option<RawGaps>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSine {
    pub(super) mean: f64,
    pub(super) amplitude: f64,
    pub(super) period_s: f64,
    #[serde(default)]
    pub(super) phase: f64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWalk {
    pub(super) start: f64,
    pub(super) step: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOutliers {
    pub(super) probability: f64,
    pub(super) size: f64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGaps {
    pub(super) probability: f64,
    pub(super) length: u32,
}
