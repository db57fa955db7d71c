//! One kind of value that a configuration key can hold, and the table of keys made of them.
//!
//! A table is declared once with [`settings!`]: the struct, its documentation, its defaults, the
//! bounds that the reader checks and the lines of `print-config` all come from that declaration, so
//! that none of them can drift from the others.

use std::{fmt::Display, ops::RangeInclusive};

use config::ValueKind;

use super::reader::Section;

/// A value that one configuration key can hold.
pub(crate) trait Setting: Sized {
    /// What is checked beyond the type: a range for numbers, nothing for the rest.
    type Bounds;

    /// Reads the value. `text` is true where the layer has only text (environment, flags), so that
    /// `"12"` is a number there and a mistake in the file.
    ///
    /// # Errors
    /// The words that follow "must be".
    fn parse(kind: &ValueKind, text: bool, bounds: &Self::Bounds) -> Result<Self, String>;

    /// The value as it is printed in the effective configuration.
    fn show(&self) -> toml::Value;
}

/// The integer in `kind`; `None` when there is none.
fn integer(kind: &ValueKind, text: bool) -> Option<i128> {
    match kind {
        ValueKind::I64(n) => Some(i128::from(*n)),
        ValueKind::U64(n) => Some(i128::from(*n)),
        ValueKind::I128(n) => Some(*n),
        ValueKind::String(s) if text => {
            let s = s.trim().replace('_', "");
            match s.strip_prefix("0x") {
                Some(hex) => i128::from_str_radix(hex, 16).ok(),
                None => s.parse().ok(),
            }
        }
        _ => None,
    }
}

/// Reads an integer within bounds.
fn bounded<T>(kind: &ValueKind, text: bool, bounds: &RangeInclusive<T>) -> Result<T, String>
where
    T: TryFrom<i128> + PartialOrd + Display,
{
    let fault = || format!("an integer from {} to {}", bounds.start(), bounds.end());
    let number = integer(kind, text).ok_or_else(fault)?;
    T::try_from(number)
        .ok()
        .filter(|n| bounds.contains(n))
        .ok_or_else(fault)
}

macro_rules! integer_setting {
    ($($ty:ty),*) => {$(
        impl Setting for $ty {
            type Bounds = RangeInclusive<$ty>;
            fn parse(kind: &ValueKind, text: bool, bounds: &Self::Bounds) -> Result<Self, String> {
                bounded(kind, text, bounds)
            }
            fn show(&self) -> toml::Value {
                toml::Value::Integer(i64::try_from(*self).unwrap_or(i64::MAX))
            }
        }
    )*};
}
integer_setting!(u8, u16, u32, u64, usize);

/// A share of something, kept in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(pub u32);

impl Share {
    /// From 0 to 1.
    #[must_use]
    pub fn get(self) -> f64 {
        f64::from(self.0) / 1e6
    }
}

impl Setting for Share {
    type Bounds = ();
    fn parse(kind: &ValueKind, text: bool, (): &()) -> Result<Self, String> {
        let share = match kind {
            ValueKind::Float(share) => Some(*share),
            ValueKind::String(share) if text => share.trim().parse().ok(),
            other => integer(other, text).and_then(|n| u8::try_from(n).ok().map(f64::from)),
        };
        let share = share.filter(|share| (0.0..=1.0).contains(share));
        let share = share.ok_or("a number from 0 to 1")?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "from 0 to a million"
        )]
        let millionths = (share * 1e6).round() as u32;
        Ok(Self(millionths))
    }
    fn show(&self) -> toml::Value {
        toml::Value::Float(self.get())
    }
}

impl Setting for bool {
    type Bounds = ();
    fn parse(kind: &ValueKind, text: bool, (): &()) -> Result<Self, String> {
        match kind {
            ValueKind::Boolean(b) => Ok(*b),
            ValueKind::String(s) if text && s == "true" => Ok(true),
            ValueKind::String(s) if text && s == "false" => Ok(false),
            _ => Err("true or false".to_owned()),
        }
    }
    fn show(&self) -> toml::Value {
        toml::Value::Boolean(*self)
    }
}

impl Setting for String {
    type Bounds = ();
    fn parse(kind: &ValueKind, _text: bool, (): &()) -> Result<Self, String> {
        match kind {
            ValueKind::String(s) if !s.is_empty() => Ok(s.clone()),
            ValueKind::String(_) => Err("a text that is not empty".to_owned()),
            _ => Err("a text in quotes".to_owned()),
        }
    }
    fn show(&self) -> toml::Value {
        toml::Value::String(self.clone())
    }
}

impl Setting for Vec<String> {
    type Bounds = ();
    fn parse(kind: &ValueKind, text: bool, (): &()) -> Result<Self, String> {
        let fault = || "a list of texts, such as [\"a\", \"b\"]".to_owned();
        match kind {
            ValueKind::Array(values) => values
                .iter()
                .map(|value| String::parse(&value.kind, text, &()).map_err(|_| fault()))
                .collect(),
            ValueKind::String(s) if text => Ok(s
                .split(',')
                .map(str::trim)
                .filter(|s| !s.is_empty())
                .map(str::to_owned)
                .collect()),
            _ => Err(fault()),
        }
    }
    fn show(&self) -> toml::Value {
        toml::Value::Array(self.iter().cloned().map(toml::Value::String).collect())
    }
}

impl Setting for std::net::SocketAddr {
    type Bounds = ();
    fn parse(kind: &ValueKind, _text: bool, (): &()) -> Result<Self, String> {
        let fault =
            || "an address and a port, such as \"127.0.0.1:1883\" or \"[::]:1883\"".to_owned();
        match kind {
            ValueKind::String(s) => parse_address(s).ok_or_else(fault),
            _ => Err(fault()),
        }
    }
    fn show(&self) -> toml::Value {
        toml::Value::String(self.to_string())
    }
}

/// `ip:port`, and `localhost:port` and `:port` (every address) as people write them.
pub(crate) fn parse_address(text: &str) -> Option<std::net::SocketAddr> {
    let text = text.trim();
    if let Some(port) = text.strip_prefix("localhost:") {
        return Some((std::net::Ipv4Addr::LOCALHOST, port.parse().ok()?).into());
    }
    if let Some(port) = text.strip_prefix(':') {
        return Some((std::net::Ipv4Addr::UNSPECIFIED, port.parse().ok()?).into());
    }
    text.parse().ok()
}

/// Reads one of several words.
pub(crate) fn word<T: Copy>(kind: &ValueKind, words: &[(&'static str, T)]) -> Result<T, String> {
    if let ValueKind::String(s) = kind
        && let Some((_, value)) = words.iter().find(|(word, _)| word == s)
    {
        return Ok(*value);
    }
    let list: Vec<String> = words
        .iter()
        .map(|(word, _)| format!("\"{word}\""))
        .collect();
    Err(format!("one of {}", list.join(", ")))
}

/// Makes an enum with a fixed set of words a [`Setting`].
macro_rules! word_setting {
    ($ty:ty { $($word:literal => $value:expr),+ $(,)? }) => {
        impl $crate::config::setting::Setting for $ty {
            type Bounds = ();
            fn parse(kind: &::config::ValueKind, _text: bool, (): &()) -> Result<Self, String> {
                $crate::config::setting::word(kind, &[$(($word, $value)),+])
            }
            fn show(&self) -> toml::Value {
                for (word, value) in [$(($word, $value)),+] {
                    if value == *self {
                        return toml::Value::String(word.to_owned());
                    }
                }
                toml::Value::String(String::new())
            }
        }
    };
}
pub(crate) use word_setting;

/// Declares a table of keys: struct, `Default` and reader from one list.
macro_rules! settings {
    (
        $(#[$outer:meta])*
        pub struct $name:ident {
            $( $(#[$inner:meta])* pub $field:ident : $ty:ty = $default:expr, $bounds:expr; )*
        }
    ) => {
        $(#[$outer])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            $( $(#[$inner])* pub $field: $ty, )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default, )* }
            }
        }

        impl $crate::config::setting::Table for $name {
            fn read(section: &mut $crate::config::reader::Section<'_>) -> Self {
                Self { $( $field: section.get(stringify!($field), $default, &$bounds), )* }
            }
        }
    };
}
pub(crate) use settings;

/// A declared table of keys.
pub(crate) trait Table: Default {
    /// Reads every key; faults go to the section's list and leave the default.
    fn read(section: &mut Section<'_>) -> Self;
}
