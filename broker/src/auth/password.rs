//! Password hashes: argon2id, the two forms of `mosquitto_passwd`, and verifiers of SCRAM.

use std::num::NonZeroU32;

use argon2::{Argon2, PasswordHash, PasswordHasher, PasswordVerifier};
use base64ct::{Base64, Encoding};
use ring::{digest, pbkdf2};
use subtle::ConstantTimeEq;

use super::scram::Verifier;

/// More rounds than this would hold up a thread for minutes.
const MAX_ITERATIONS: u32 = 10_000_000;

/// A hash as it stands in a users file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hashed {
    /// `$argon2id$…`, a PHC string.
    Argon2(Box<str>),
    /// `$7$iterations$salt$hash`: PBKDF2 with SHA-512.
    Pbkdf2 {
        /// Rounds.
        iterations: NonZeroU32,
        /// Salt.
        salt: Box<[u8]>,
        /// What must come out.
        hash: Box<[u8]>,
    },
    /// `SCRAM-SHA-256$…`: a verifier, with which the password need not travel.
    Scram(Verifier),
    /// `$6$salt$hash`: SHA-512 of password and salt.
    Sha512 {
        /// Salt.
        salt: Box<[u8]>,
        /// What must come out.
        hash: Box<[u8]>,
    },
}

impl Hashed {
    /// Reads a hash.
    ///
    /// # Errors
    /// What is wrong with it, and what to do.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("$argon2") {
            PasswordHash::new(text)
                .map_err(|error| format!("the argon2 hash cannot be read: {error}"))?;
            return Ok(Self::Argon2(text.into()));
        }
        if text.starts_with("SCRAM-") {
            return Verifier::parse(text).map(Self::Scram);
        }
        let mut parts = text.split('$').skip(1);
        let kind = parts.next();
        let mut part = |what: &str| {
            parts
                .next()
                .ok_or_else(|| format!("the hash has no {what}"))
        };
        match kind {
            Some("7") => {
                let iterations = part("number of iterations")?.parse::<NonZeroU32>().ok();
                let iterations = iterations
                    .filter(|n| n.get() <= MAX_ITERATIONS)
                    .ok_or_else(|| format!("the number of iterations must be from 1 to {MAX_ITERATIONS}"))?;
                Ok(Self::Pbkdf2 { iterations, salt: base64(part("salt")?)?, hash: sha512_sized(part("hash")?)? })
            }
            Some("6") => Ok(Self::Sha512 { salt: base64(part("salt")?)?, hash: sha512_sized(part("hash")?)? }),
            _ => Err("the password is not hashed, or in a form that is not known: set it with `broker passwd`, or with mosquitto_passwd".to_owned()),
        }
    }

    /// A text that is the same for the same hash.
    pub(super) fn line(&self) -> String {
        match self {
            Self::Argon2(phc) => phc.to_string(),
            Self::Scram(verifier) => verifier.show(),
            other => format!("{other:?}"),
        }
    }

    /// Whether a password is the right one. Slow on purpose: not for a thread that has other work.
    #[must_use]
    pub fn verify(&self, password: &[u8]) -> bool {
        match self {
            Self::Argon2(phc) => PasswordHash::new(phc)
                .is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok()),
            Self::Pbkdf2 {
                iterations,
                salt,
                hash,
            } => pbkdf2::verify(
                pbkdf2::PBKDF2_HMAC_SHA512,
                *iterations,
                salt,
                password,
                hash,
            )
            .is_ok(),
            Self::Scram(verifier) => verifier.verify(password),
            Self::Sha512 { salt, hash } => {
                let mut context = digest::Context::new(&digest::SHA512);
                context.update(password);
                context.update(salt);
                context.finish().as_ref().ct_eq(hash).into()
            }
        }
    }
}

/// Makes an argon2id hash with a fresh salt (19 MiB, 2 passes).
///
/// # Errors
/// When the system gives no randomness or no memory.
pub fn hash(password: &[u8]) -> Result<String, String> {
    Argon2::default()
        .hash_password(password)
        .map(|hash| hash.to_string())
        .map_err(|error| error.to_string())
}

fn base64(text: &str) -> Result<Box<[u8]>, String> {
    Base64::decode_vec(text)
        .map(Into::into)
        .map_err(|_| "salt and hash must be base64".to_owned())
}

fn sha512_sized(text: &str) -> Result<Box<[u8]>, String> {
    let bytes = base64(text)?;
    if bytes.len() != digest::SHA512_OUTPUT_LEN {
        return Err(format!(
            "the hash has {} bytes and should have {}",
            bytes.len(),
            digest::SHA512_OUTPUT_LEN
        ));
    }
    Ok(bytes)
}
