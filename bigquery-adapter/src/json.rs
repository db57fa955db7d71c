//! Which bodies are JSON.

use serde::de::IgnoredAny;

/// The body's text when it is one JSON value that other readers take too, else none.
///
/// RFC 8259 lets two things through that DuckDB and others refuse, and one refused value fails a whole query: half of
/// a surrogate pair (`"\ud800"`), and numbers beyond a double's range (`1e999`). They count as no JSON, and so
/// does what is nested more than 127 deep.
pub(crate) fn text(payload: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(payload).ok()?;
    serde_json::from_str::<IgnoredAny>(text).ok()?;
    (!is_unusual(text) || serde_json::from_str::<serde_json::Value>(text).is_ok()).then_some(text)
}

/// Whether the cheap check above might have passed something that only a full parse finds: an escape that could be a
/// surrogate, a number with an exponent or with so many digits that it is large without one, deep nesting.
fn is_unusual(text: &str) -> bool {
    let (mut digits, mut depth, mut before) = (0_u32, 0_u32, b' ');
    for byte in text.bytes() {
        digits = if byte.is_ascii_digit() { digits + 1 } else { 0 };
        match byte {
            b'u' if before == b'\\' => return true,
            b'e' | b'E' if before.is_ascii_digit() => return true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if digits > 300 || depth > 100 {
            return true;
        }
        before = byte;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_values_of_every_kind_are_kept_as_they_were_written() {
        for json in [
            "{}",
            "[]",
            "null",
            "true",
            "21.5",
            "-0",
            "1e3",
            "\"text\"",
            " {\"a\" : [1, 2]}\n",
            r#""\u00e9""#,
            r#""\ud83d\ude00""#,
            r#"{"temperature":39.40,"temperature":1}"#,
            "\"ä\"",
            "18446744073709551616",
        ] {
            assert_eq!(text(json.as_bytes()), Some(json));
        }
    }

    #[test]
    fn everything_else_is_not() {
        let deep = "[".repeat(200) + &"]".repeat(200);
        let long = "9".repeat(400);
        for not_json in [
            "",
            " ",
            "{",
            "{'a':1}",
            "NaN",
            "Infinity",
            "01",
            "1 2",
            "{}x",
            "hello",
            r#""\ud800""#,
            r#""\ud800x""#,
            "1e999",
            "-1e999",
            "[1,]",
            "\u{feff}{}",
            deep.as_str(),
            long.as_str(),
        ] {
            assert_eq!(text(not_json.as_bytes()), None, "{not_json}");
        }
        assert_eq!(text(b"\"\xff\""), None);
        assert_eq!(text(&[0, 1, 2]), None);
    }
}
