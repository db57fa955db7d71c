//! Who may administer: named tokens, of which the file holds only hashes.
//!
//! A token has 256 random bits, so its SHA-256 needs neither salt nor stretching.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64ct::{Base64UrlUnpadded, Encoding};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use subtle::ConstantTimeEq;

use crate::registry::device::check_name;

/// Longest name of a token, in bytes.
const NAME_MAX: usize = 64;
/// What every token begins with, so that leaked ones are found by those who search for such.
const PREFIX: &str = "dunlin_";
/// Tokens in one file.
const TOKENS_MAX: usize = 1_000;

/// Whose token it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The name, as the audit log has it.
    pub name: Box<str>,
    /// Whether it may change things; every token may look.
    pub write: bool,
    /// The tenant whose devices it is for; `None`: everything.
    pub tenant: Option<Box<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    hash: [u8; 32],
    holder: Holder,
}

/// The tokens of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokens(Vec<Entry>);

fn hash(token: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    hash
}

impl Tokens {
    /// Reads a file: one token a line, `NAME SCOPES HASH [TENANT]`; scopes are `read` or `read,write`, the hash is hexadecimal.
    ///
    /// # Errors
    /// Every line that cannot be used: its number from 1, and why.
    pub fn parse(text: &str) -> Result<Self, Vec<(usize, String)>> {
        let (mut entries, mut faults) = (Vec::<Entry>::new(), Vec::new());
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match entry(line) {
                Ok(entry)
                    if entries
                        .iter()
                        .any(|other| other.holder.name == entry.holder.name) =>
                {
                    faults.push((
                        index + 1,
                        format!("there is a token named {:?} already", entry.holder.name),
                    ));
                }
                Ok(entry) => entries.push(entry),
                Err(fault) => faults.push((index + 1, fault)),
            }
        }
        if entries.len() > TOKENS_MAX {
            faults.push((
                1,
                format!("{} tokens: {TOKENS_MAX} at the most", entries.len()),
            ));
        }
        if faults.is_empty() {
            Ok(Self(entries))
        } else {
            Err(faults)
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none: then nobody may do anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whose token this is. Takes the same time for each that is none.
    #[must_use]
    pub fn holder(&self, token: &str) -> Option<&Holder> {
        let hash = hash(token);
        let mut found = None;
        for entry in &self.0 {
            if bool::from(entry.hash.ct_eq(&hash)) {
                found = Some(&entry.holder);
            }
        }
        found
    }
}

fn entry(line: &str) -> Result<Entry, String> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let (name, scopes, digits, tenant) = match fields[..] {
        [name, scopes, digits] => (name, scopes, digits, None),
        [name, scopes, digits, tenant] => (name, scopes, digits, Some(tenant)),
        _ => {
            return Err(
                "must be NAME SCOPES HASH, and a TENANT or nothing (made by `broker token`)"
                    .to_owned(),
            );
        }
    };
    check_name("the name", name, NAME_MAX).map_err(|error| error.to_string())?;
    let write = match scopes {
        "read" => false,
        "write" | "read,write" => true,
        _ => {
            return Err(format!(
                "the scopes are {scopes:?}: must be \"read\" or \"read,write\""
            ));
        }
    };
    if let Some(tenant) = tenant {
        check_name("the tenant", tenant, NAME_MAX).map_err(|error| error.to_string())?;
    }
    let mut hash = [0; 32];
    if !read_hex(digits, &mut hash) {
        return Err("the hash must be 64 hexadecimal digits: the SHA-256 of the token, not the token itself".to_owned());
    }
    Ok(Entry {
        hash,
        holder: Holder {
            name: name.into(),
            write,
            tenant: tenant.map(Into::into),
        },
    })
}

fn read_hex(digits: &str, into: &mut [u8; 32]) -> bool {
    let digits = digits.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return false;
    }
    let value = |digit: u8| {
        char::from(digit)
            .to_digit(16)
            .and_then(|n| u8::try_from(n).ok())
            .unwrap_or(0)
    };
    for (byte, pair) in into.iter_mut().zip(digits.chunks_exact(2)) {
        if let [high, low] = pair {
            *byte = value(*high) << 4 | value(*low);
        }
    }
    true
}

/// Makes a token and adds its line to a file, which is made if there is none; the token is nowhere but in what is returned.
///
/// # Errors
/// In words for whoever has asked.
pub fn add(file: &Path, name: &str, write: bool, tenant: Option<&str>) -> Result<String, String> {
    let shown = file.display();
    let before = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(format!("cannot read {shown}: {error}")),
    };
    let mut random = [0; 32];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| "the system gives no randomness".to_owned())?;
    let token = format!("{PREFIX}{}", Base64UrlUnpadded::encode_string(&random));
    let scopes = if write { "read,write" } else { "read" };
    let tenant = tenant
        .map(|tenant| format!(" {tenant}"))
        .unwrap_or_default();
    let digits = crate::registry::credential::hex(&hash(&token));
    let end = if before.is_empty() || before.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    let line = format!("{end}{name} {scopes} {digits}{tenant}\n");
    Tokens::parse(&format!("{before}{line}")).map_err(|faults| {
        let faults: Vec<_> = faults
            .iter()
            .map(|(line, fault)| format!("{shown}:{line}: {fault}"))
            .collect();
        faults.join("; ")
    })?;
    let mut opened = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(file)
        .map_err(|error| format!("cannot write {shown}: {error}"))?;
    opened
        .write_all(line.as_bytes())
        .and_then(|()| opened.sync_all())
        .map_err(|error| format!("cannot write {shown}: {error}"))?;
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_was_made_is_known_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens");
        let reader = add(&file, "reader", false, None).unwrap();
        let writer = add(&file, "writer", true, Some("acme")).unwrap();
        assert!(
            add(&file, "writer", true, None)
                .unwrap_err()
                .contains("already")
        );
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(
            !text.contains(&reader) && !text.contains(&writer),
            "only hashes are kept"
        );
        let tokens = Tokens::parse(&text).unwrap();
        let holder = tokens.holder(&reader).unwrap();
        assert_eq!(
            (&*holder.name, holder.write, holder.tenant.as_deref()),
            ("reader", false, None)
        );
        let holder = tokens.holder(&writer).unwrap();
        assert_eq!(
            (&*holder.name, holder.write, holder.tenant.as_deref()),
            ("writer", true, Some("acme"))
        );
        for wrong in ["", "dunlin_", &reader[1..], &format!("{reader} ")] {
            assert_eq!(tokens.holder(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_line_that_cannot_be_used_is_named() {
        let hash = "ab".repeat(32);
        let text = format!(
            "# comment\n\na read {hash}\nb all {hash}\nc read 12\nd\na read {hash}\ne read {hash} t/u\n"
        );
        let faults = Tokens::parse(&text).unwrap_err();
        let lines: Vec<_> = faults.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [4, 5, 6, 7, 8], "{faults:?}");
    }
}
