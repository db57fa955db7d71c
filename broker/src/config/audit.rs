//! `[audit]`: what is recorded of who comes and of what is changed. `[bans]`: who is kept out by itself.

use config::ValueKind;

use super::{
    reader::Section,
    setting::{Setting, word_setting},
};
use crate::abuse::BansConfig;
use crate::audit::{AuditConfig, Scope, Target};

word_setting!(Scope {
    "changes" => Scope::Changes,
    "refused" => Scope::Refused,
    "all" => Scope::All,
});

impl Setting for Target {
    type Bounds = ();
    fn parse(kind: &ValueKind, _text: bool, (): &()) -> Result<Self, String> {
        match kind {
            ValueKind::String(word) if word == "off" => Ok(Self::Off),
            ValueKind::String(word) if word == "log" => Ok(Self::Log),
            ValueKind::String(path) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => Err("\"off\", \"log\" or the path of a file".to_owned()),
        }
    }
    fn show(&self) -> toml::Value {
        toml::Value::String(match self {
            Self::Off => "off".to_owned(),
            Self::Log => "log".to_owned(),
            Self::File(path) => path.display().to_string(),
        })
    }
}

pub(super) fn read(section: &mut Section<'_>) -> AuditConfig {
    AuditConfig {
        target: section.get("to", Target::default(), &()),
        scope: section.get("events", Scope::default(), &()),
    }
}

pub(super) fn read_bans(section: &mut Section<'_>) -> BansConfig {
    let default = BansConfig::default();
    BansConfig {
        after_failures: section.get("after_failures", default.after_failures, &(0..=1_000_000)),
        seconds: section.get("seconds", default.seconds, &(1..=31_536_000)),
    }
}
