//! The protocol that Redis speaks (RESP 2, and what of RESP 3 a subscriber needs): commands out, answers in.
//!
//! Why not the client library's own codec: every request here is one script call whose arguments are known
//! bytes, written once and sent as they are, again after a lost connection; and answers are cut out of the
//! read buffer without a copy. Nothing is trusted: depth, counts and lengths are bounded.

use bytes::{Bytes, BytesMut};

/// Longest bulk string that is taken: what Redis itself takes (`proto-max-bulk-len`).
const BULK_MAX: usize = 512 * 1024 * 1024;
/// Most elements of one array.
const COUNT_MAX: usize = 64 * 1024 * 1024;
/// Deepest nesting.
const DEPTH_MAX: usize = 8;
/// Longest line without a bulk string: errors may be long, but not this long.
const LINE_MAX: usize = 64 * 1024;
/// Shorter strings are copied, so that a few bytes do not keep a whole read buffer.
const COPIED_MAX: usize = 4096;

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Nil,
    Int(i64),
    /// A string, binary.
    Bulk(Bytes),
    /// An error, as Redis words it.
    Error(String),
    /// An array, a set, or a map with keys and values in turn.
    Array(Vec<Value>),
    /// What comes unasked.
    Push(Vec<Value>),
}

impl Value {
    /// What it is, in words, and how long: for messages.
    pub(super) fn outline(&self) -> (&'static str, usize) {
        match self {
            Self::Nil => ("nothing", 0),
            Self::Int(_) => ("a number", 1),
            Self::Bulk(bytes) => ("a string", bytes.len()),
            Self::Error(error) => ("an error", error.len()),
            Self::Array(values) => ("an array", values.len()),
            Self::Push(values) => ("a push", values.len()),
        }
    }
}

/// Bytes that are not the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RespError {
    #[error("{0:#04x} does not begin an answer")]
    Type(u8),
    #[error("a line has more than {LINE_MAX} bytes")]
    Line,
    #[error("{0:?} is not a number")]
    Number(String),
    #[error("a length of {0} is too large")]
    Length(i64),
    #[error("arrays are nested deeper than {DEPTH_MAX}")]
    Depth,
}

/// Writes commands.
#[derive(Default)]
pub(super) struct Writer {
    pub(super) bytes: Vec<u8>,
}

impl Writer {
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(capacity),
        }
    }

    /// Begins a command of `count` arguments, its name included.
    pub(super) fn begin(&mut self, count: usize) {
        self.line(b'*', count);
    }

    pub(super) fn arg(&mut self, bytes: &[u8]) {
        self.line(b'$', bytes.len());
        self.bytes.extend_from_slice(bytes);
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// One argument of `size` bytes in parts.
    pub(super) fn arg_of<'p>(&mut self, size: usize, parts: impl Iterator<Item = &'p [u8]>) {
        self.line(b'$', size);
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        self.bytes.extend_from_slice(b"\r\n");
    }

    pub(super) fn number(&mut self, number: u64) {
        let mut digits = [0; 20];
        self.arg(decimal(number, &mut digits));
    }

    /// A whole command.
    pub(super) fn command(&mut self, args: &[&[u8]]) {
        self.begin(args.len());
        for arg in args {
            self.arg(arg);
        }
    }

    fn line(&mut self, kind: u8, number: usize) {
        let mut digits = [0; 20];
        self.bytes.push(kind);
        self.bytes
            .extend_from_slice(decimal(number as u64, &mut digits));
        self.bytes.extend_from_slice(b"\r\n");
    }
}

/// Digits of a number.
pub(super) fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
        at -= 1;
        if number == 0 {
            break;
        }
    }
    digits.get(at..).unwrap_or_default()
}

/// Finds where answers end, going on where it had to stop for want of bytes.
#[derive(Default)]
pub(super) struct Decoder {
    at: usize,
    /// Elements that are missing, by depth.
    open: Vec<usize>,
}

impl Decoder {
    /// Takes one whole answer off the buffer; `None` if it is not whole yet.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Value>, RespError> {
        if !self.scan(buffer)? {
            return Ok(None);
        }
        let whole = buffer.split_to(self.at).freeze();
        self.at = 0;
        let mut cursor = Cursor { whole, at: 0 };
        cursor.value(0).map(Some)
    }

    fn scan(&mut self, buffer: &[u8]) -> Result<bool, RespError> {
        loop {
            let Some((kind, number, after)) = head(buffer, self.at)? else {
                return Ok(false);
            };
            match kind {
                b'$' | b'=' if number >= 0 => {
                    let end = after + bounded(number, BULK_MAX)? + 2;
                    if buffer.len() < end {
                        return Ok(false);
                    }
                    self.at = end;
                }
                b'*' | b'>' | b'~' | b'%' if number > 0 => {
                    if self.open.len() >= DEPTH_MAX {
                        return Err(RespError::Depth);
                    }
                    let count = bounded(number, COUNT_MAX)?;
                    self.open.push(if kind == b'%' { count * 2 } else { count });
                    self.at = after;
                    continue;
                }
                _ => self.at = after,
            }
            // One element is whole; so is every array that it completes.
            loop {
                let Some(left) = self.open.last_mut() else {
                    return Ok(true);
                };
                *left -= 1;
                if *left > 0 {
                    break;
                }
                self.open.pop();
            }
        }
    }
}

fn bounded(number: i64, max: usize) -> Result<usize, RespError> {
    usize::try_from(number)
        .ok()
        .filter(|number| *number <= max)
        .ok_or(RespError::Length(number))
}

/// Type byte, number on the line (0 for types without), and where the line ends.
fn head(buffer: &[u8], at: usize) -> Result<Option<(u8, i64, usize)>, RespError> {
    let Some((kind, rest)) = buffer.get(at..).and_then(<[u8]>::split_first) else {
        return Ok(None);
    };
    let Some(length) = line_length(rest) else {
        return match rest.len() > LINE_MAX {
            true => Err(RespError::Line),
            false => Ok(None),
        };
    };
    let line = rest.get(..length).unwrap_or_default();
    let number = match kind {
        b'$' | b'*' | b'>' | b'~' | b'%' | b'=' | b':' => number(line)?,
        b'+' | b'-' | b'_' | b',' | b'#' | b'(' => 0,
        other => return Err(RespError::Type(*other)),
    };
    Ok(Some((*kind, number, at + 1 + length + 2)))
}

fn line_length(rest: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let at = from + rest.get(from..)?.iter().position(|byte| *byte == b'\r')?;
        match rest.get(at + 1)? {
            b'\n' => return Some(at),
            _ => from = at + 1,
        }
    }
}

fn number(line: &[u8]) -> Result<i64, RespError> {
    let bad = || RespError::Number(String::from_utf8_lossy(line.get(..32).unwrap_or(line)).into());
    let (negative, digits) = match line.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, line),
    };
    if digits.is_empty() || digits.len() > 19 {
        return Err(bad());
    }
    let mut value: i64 = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return Err(bad());
        }
        value = value
            .checked_mul(10)
            .and_then(|value| value.checked_add(i64::from(digit - b'0')))
            .ok_or_else(bad)?;
    }
    Ok(if negative { -value } else { value })
}

/// Reads one whole answer.
struct Cursor {
    whole: Bytes,
    at: usize,
}

impl Cursor {
    fn value(&mut self, depth: usize) -> Result<Value, RespError> {
        let from = self.at;
        let Some((kind, number, after)) = head(&self.whole, from)? else {
            return Ok(Value::Nil);
        };
        self.at = after;
        Ok(match kind {
            b':' => Value::Int(number),
            b'$' | b'=' if number < 0 => Value::Nil,
            b'$' | b'=' => {
                let len = bounded(number, BULK_MAX)?;
                self.at = after + len + 2;
                Value::Bulk(self.cut(after, len))
            }
            b'*' if number < 0 => Value::Nil,
            b'*' | b'~' => Value::Array(self.elements(number, depth)?),
            b'%' => Value::Array(self.elements(number.saturating_mul(2), depth)?),
            b'>' => Value::Push(self.elements(number, depth)?),
            b'-' => {
                let line = self.cut(from + 1, after - from - 3);
                Value::Error(String::from_utf8_lossy(&line).into_owned())
            }
            b'_' => Value::Nil,
            _ => Value::Bulk(self.cut(from + 1, after - from - 3)),
        })
    }

    fn elements(&mut self, count: i64, depth: usize) -> Result<Vec<Value>, RespError> {
        if depth > DEPTH_MAX {
            return Err(RespError::Depth);
        }
        let count = bounded(count, COUNT_MAX * 2)?;
        let mut elements = Vec::with_capacity(count.min(self.whole.len()));
        for _ in 0..count {
            elements.push(self.value(depth + 1)?);
        }
        Ok(elements)
    }

    fn cut(&self, at: usize, len: usize) -> Bytes {
        let Some(slice) = self.whole.get(at..at + len) else {
            return Bytes::new();
        };
        if len <= COPIED_MAX {
            return Bytes::copy_from_slice(slice);
        }
        self.whole.slice(at..at + len)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(bytes: &[u8], piece: usize) -> Result<Vec<Value>, RespError> {
        let (mut buffer, mut decoder) = (BytesMut::new(), Decoder::default());
        let mut values = Vec::new();
        for piece in bytes.chunks(piece) {
            buffer.extend_from_slice(piece);
            while let Some(value) = decoder.next(&mut buffer)? {
                values.push(value);
            }
        }
        Ok(values)
    }

    fn bulk(text: &str) -> Value {
        Value::Bulk(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn every_kind_of_answer_is_read_in_pieces_of_any_size() {
        let bytes = b"+OK\r\n-ERR no\r\n:-42\r\n$3\r\na\r\n\r\n$-1\r\n*-1\r\n*0\r\n*2\r\n*1\r\n:1\r\n$0\r\n\r\n\
            >2\r\n+message\r\n_\r\n%1\r\n+k\r\n#t\r\n~1\r\n,1.5\r\n=5\r\ntxt:x\r\n";
        let expected = vec![
            bulk("OK"),
            Value::Error("ERR no".to_owned()),
            Value::Int(-42),
            bulk("a\r\n"),
            Value::Nil,
            Value::Nil,
            Value::Array(vec![]),
            Value::Array(vec![Value::Array(vec![Value::Int(1)]), bulk("")]),
            Value::Push(vec![bulk("message"), Value::Nil]),
            Value::Array(vec![bulk("k"), bulk("t")]),
            Value::Array(vec![bulk("1.5")]),
            bulk("txt:x"),
        ];
        for piece in 1..bytes.len() {
            assert_eq!(
                all(bytes, piece).as_ref(),
                Ok(&expected),
                "in pieces of {piece}"
            );
        }
    }

    #[test]
    fn what_is_not_the_protocol_is_refused() {
        for (bytes, error) in [
            (&b"HTTP/1.1 400\r\n"[..], RespError::Type(b'H')),
            (b":1x\r\n", RespError::Number("1x".to_owned())),
            (b"$\r\n", RespError::Number(String::new())),
            (b"$999999999999\r\n", RespError::Length(999_999_999_999)),
            (
                b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n",
                RespError::Depth,
            ),
        ] {
            assert_eq!(all(bytes, 7), Err(error));
        }
        let endless = vec![b'+'; LINE_MAX + 10];
        assert_eq!(all(&endless, 1000), Err(RespError::Line));
    }

    #[test]
    fn a_command_is_written_as_redis_reads_it() {
        let mut writer = Writer::default();
        writer.begin(3);
        writer.arg(b"SET");
        writer.arg(b"a\r\n");
        writer.number(u64::MAX);
        let expected = "*3\r\n$3\r\nSET\r\n$3\r\na\r\n\r\n$20\r\n18446744073709551615\r\n";
        assert_eq!(writer.bytes, expected.as_bytes());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), piece in 1usize..50) {
            drop(all(&bytes, piece));
        }

        #[test]
        fn nearly_right_bytes_do_not_either(bytes in "([*$:+>%~-]-?[0-9]{0,3}\r\n|[a-c]{0,5}\r\n){0,20}", piece in 1usize..20) {
            drop(all(bytes.as_bytes(), piece));
        }
    }
}
