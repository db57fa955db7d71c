//! The notation of the case files for bytes.
//!
//! ```text
//! 10 00ff      bytes in hex            "MQTT"       the bytes of a text
//! 61x300       a byte many times       s"a/b"       a text with its two-byte length in front
//! s( … )       anything, likewise      p( … )       anything with its length as a variable byte integer in front
//! *            the remaining length of all that follows
//! ```

/// Turns the notation into bytes. Panics on a slip in it: case files are part of the tests.
pub(crate) fn parse(notation: &str) -> Vec<u8> {
    let mut chars = notation.chars().collect::<Vec<_>>().into_iter().peekable();
    let bytes = group(&mut chars);
    assert!(chars.next().is_none(), "too many ) in: {notation}");
    bytes
}

type Chars = std::iter::Peekable<std::vec::IntoIter<char>>;

fn group(chars: &mut Chars) -> Vec<u8> {
    let mut out = Vec::new();
    // Where the remaining length goes once the end is known.
    let mut star = None;
    while let Some(&c) = chars.peek() {
        match c {
            ')' => break,
            '*' => {
                chars.next();
                assert!(star.is_none(), "more than one *");
                star = Some(out.len());
            }
            c if c.is_whitespace() => {
                chars.next();
            }
            '"' => out.extend(quoted(chars)),
            's' | 'p' => {
                chars.next();
                let inner = prefixed(chars);
                match c {
                    's' => out.extend(u16::try_from(inner.len()).expect("a length").to_be_bytes()),
                    _ => out.extend(varint(inner.len())),
                }
                out.extend(inner);
            }
            _ => out.extend(hex(chars)),
        }
    }
    if let Some(at) = star {
        let length = varint(out.len() - at);
        out.splice(at..at, length);
    }
    out
}

fn prefixed(chars: &mut Chars) -> Vec<u8> {
    if chars.peek() == Some(&'"') {
        return quoted(chars);
    }
    assert_eq!(chars.next(), Some('('), "s and p want a text or a group");
    let inner = group(chars);
    assert_eq!(chars.next(), Some(')'), "a group is not closed");
    inner
}

fn quoted(chars: &mut Chars) -> Vec<u8> {
    chars.next();
    let text: String = chars.by_ref().take_while(|&c| c != '"').collect();
    text.into_bytes()
}

fn hex(chars: &mut Chars) -> Vec<u8> {
    let mut word = String::new();
    while let Some(c) = chars.next_if(|c| c.is_ascii_alphanumeric()) {
        word.push(c);
    }
    let (digits, count) = match word.split_once('x') {
        Some((digits, count)) => (digits, count.parse().expect("a count")),
        None => (word.as_str(), 1),
    };
    assert!(
        !digits.is_empty() && digits.len() % 2 == 0,
        "not hex: {word:?}"
    );
    let bytes: Vec<u8> = (0..digits.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&digits[i..i + 2], 16).expect("hex digits"))
        .collect();
    bytes.repeat(count)
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}
