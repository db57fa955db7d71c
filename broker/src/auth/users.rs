//! The users file: one `name:hash` per line, as mosquitto has it.

use std::{
    collections::HashMap,
    io::{self, Write},
    path::Path,
};

use super::password::Hashed;
use super::scram::Verifier;

/// Names and their hashes.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Users {
    by_name: HashMap<Box<str>, Hashed>,
    /// Checked for names that do not exist, so that time does not tell which do.
    decoy: Option<Hashed>,
    /// One of the verifiers of SCRAM, whose rounds are shown for names that do not exist; `None`: there are none.
    scram: Option<Verifier>,
    /// Salts of names that do not exist follow from it; from all verifiers, so it is no better known than they are.
    secret: [u8; 32],
}

/// A line that cannot be used: its number from 1, and why.
pub type LineFault = (usize, String);

impl Users {
    /// Reads the text of a users file; empty lines and lines that begin with `#` are skipped.
    #[must_use]
    pub fn parse(text: &str) -> (Self, Vec<LineFault>) {
        let mut users = Self::default();
        let mut faults = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Err(fault) = users.add(line) {
                faults.push((index + 1, fault));
            }
        }
        (users, faults)
    }

    fn add(&mut self, line: &str) -> Result<(), String> {
        let (name, hash) = line
            .split_once(':')
            .ok_or("there is no colon: a line is name:hash")?;
        check_name(name)?;
        let hash = Hashed::parse(hash)?;
        self.decoy.get_or_insert_with(|| hash.clone());
        if let Hashed::Scram(verifier) = &hash {
            self.scram.get_or_insert_with(|| verifier.clone());
            verifier.mix(&mut self.secret);
        }
        match self.by_name.insert(name.into(), hash) {
            None => Ok(()),
            Some(_) => Err(format!("user {name:?} stands twice in the file")),
        }
    }

    /// Whether there is a user of that name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Whether there are users that can log in by SCRAM.
    #[must_use]
    pub fn has_scram(&self) -> bool {
        self.scram.is_some()
    }

    /// The verifier of a name, and whether it is a user's: for other names there is one that nobody has a password for. `None`: nobody can
    /// log in by SCRAM.
    #[must_use]
    pub fn scram(&self, name: &str) -> Option<(Verifier, bool)> {
        if let Some(Hashed::Scram(verifier)) = self.by_name.get(name) {
            return Some((verifier.clone(), true));
        }
        let shown = self.scram.as_ref()?.iterations();
        Some((Verifier::decoy(&self.secret, name, shown), false))
    }

    /// Tells what the file has of a name from anything else that it could have; `None`: it does not have it.
    #[must_use]
    pub fn print(&self, name: &str) -> Option<u64> {
        let line = self.by_name.get(name)?.line();
        let digest = ring::digest::digest(&ring::digest::SHA256, line.as_bytes());
        let first = digest.as_ref().first_chunk::<8>()?;
        // 0 stands for none.
        Some(u64::from_le_bytes(*first).max(1))
    }

    /// How many users there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Whether name and password belong together. Slow on purpose.
    #[must_use]
    pub fn verify(&self, name: &str, password: &[u8]) -> bool {
        match (self.by_name.get(name), &self.decoy) {
            (Some(hash), _) => hash.verify(password),
            (None, Some(decoy)) => {
                let _same_time = decoy.verify(password);
                false
            }
            (None, None) => false,
        }
    }
}

/// A name that a line can hold.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("the user name is empty".to_owned());
    }
    if name.len() > 1_024 {
        return Err(format!(
            "the user name has {} bytes: 1024 are the most",
            name.len()
        ));
    }
    if name.contains(|c: char| c == ':' || c.is_control()) {
        return Err("a user name cannot hold a colon or a control character".to_owned());
    }
    Ok(())
}

/// Writes a user into a users file, in place of the line that has the name; makes the file if there
/// is none. The file is replaced as a whole, so a reader sees the old one or the new one.
///
/// # Errors
/// When the file cannot be read or written.
pub fn put(path: &Path, name: &str, hash: &str) -> io::Result<()> {
    let old = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let mut text = String::with_capacity(old.len() + name.len() + hash.len() + 2);
    let mut written = false;
    for line in old.lines() {
        if line
            .split_once(':')
            .is_some_and(|(other, _)| other.trim() == name)
        {
            if !written {
                text.push_str(&format!("{name}:{hash}\n"));
                written = true;
            }
        } else {
            text.push_str(line);
            text.push('\n');
        }
    }
    if !written {
        text.push_str(&format!("{name}:{hash}\n"));
    }
    replace(path, text.as_bytes())
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let mut name = path
        .file_name()
        .ok_or(io::ErrorKind::InvalidInput)?
        .to_owned();
    name.push(".new");
    let fresh = path.with_file_name(name);
    // Only the owner may read it, unless the old file said otherwise.
    let mode = std::fs::metadata(path).map_or(0o600, |old| old.permissions().mode() & 0o777);
    let result = (|| {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&fresh)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)
    })();
    if result.is_err() {
        // What was begun is of no use; that it cannot be removed either changes nothing.
        let _kept = std::fs::remove_file(&fresh).is_err();
    }
    result
}
