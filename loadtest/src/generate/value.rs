//! A measured value, and how it is written as JSON.

use std::fmt::Write as _;

/// One value of one field.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A number in the text that it has in the input, `39.0` as `39.0`.
    Exact(Box<str>),
    /// A computed number with so many decimals.
    Number(f64, u8),
    /// Any other text.
    Text(Box<str>),
}

impl Value {
    /// A cell of a table: a number where its text is one in JSON, else text; nothing where it is empty.
    #[must_use]
    pub fn from_cell(cell: &str) -> Option<Self> {
        if cell.is_empty() {
            None
        } else if is_json_number(cell) {
            Some(Self::Exact(cell.into()))
        } else {
            Some(Self::Text(cell.into()))
        }
    }

    /// The number, where it is one.
    #[must_use]
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Exact(text) => text.parse().ok(),
            Self::Number(number, _) => Some(*number),
            Self::Text(_) => None,
        }
    }

    /// Decimals it is written with.
    #[must_use]
    pub fn decimals(&self) -> u8 {
        match self {
            Self::Exact(text) => text
                .split_once('.')
                .map_or(0, |(_, tail)| u8::try_from(tail.len()).unwrap_or(u8::MAX)),
            Self::Number(_, decimals) => *decimals,
            Self::Text(_) => 0,
        }
    }

    /// The same value with another number, as computed; text stays as it is.
    #[must_use]
    pub fn map(self, change: impl FnOnce(f64) -> f64) -> Self {
        match self.number() {
            Some(number) => Self::Number(change(number), self.decimals()),
            None => self,
        }
    }

    /// Appends it as JSON.
    pub fn write_json(&self, out: &mut String) {
        match self {
            Self::Exact(text) => out.push_str(text),
            Self::Number(number, decimals) if number.is_finite() => {
                // Writing to a String cannot fail.
                let _ignored = write!(out, "{number:.*}", usize::from(*decimals));
            }
            Self::Number(..) => out.push_str("null"),
            Self::Text(text) => write_json_text(text, out),
        }
    }
}

/// Appends a text in quotes, escaped as JSON asks for.
pub(crate) fn write_json_text(text: &str, out: &mut String) {
    match serde_json::to_string(text) {
        Ok(quoted) => out.push_str(&quoted),
        Err(_) => out.push_str("null"), // a &str always serialises
    }
}

/// The grammar of RFC 8259, without exponents: those would not be exact decimals to most readers.
fn is_json_number(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = match unsigned.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (unsigned, None),
    };
    digits(whole) && (whole == "0" || !whole.starts_with('0')) && fraction.is_none_or(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(value: &Value) -> String {
        let mut out = String::new();
        value.write_json(&mut out);
        out
    }

    #[test]
    fn a_cell_is_a_number_only_where_json_says_so() {
        for number in ["39.0", "-0.5", "0", "0.0", "12"] {
            assert!(
                matches!(Value::from_cell(number), Some(Value::Exact(_))),
                "{number}"
            );
        }
        for text in ["007", "1.", ".5", "1e5", "NaN", "drizzle", "-"] {
            assert!(
                matches!(Value::from_cell(text), Some(Value::Text(_))),
                "{text}"
            );
        }
        assert_eq!(Value::from_cell(""), None);
    }

    #[test]
    fn text_is_escaped() {
        assert_eq!(json(&Value::Text("a\"b\n".into())), r#""a\"b\n""#);
    }

    #[test]
    fn a_changed_number_keeps_its_decimals() {
        let value = Value::Exact("39.40".into()).map(|number| number + 1.0);
        assert_eq!(json(&value), "40.40");
    }

    #[test]
    fn a_number_that_is_none_is_null() {
        assert_eq!(json(&Value::Number(f64::NAN, 1)), "null");
    }
}
