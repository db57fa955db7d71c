//! Random text from the operating system.

use ring::rand::{SecureRandom, SystemRandom};

/// A random number.
///
/// # Errors
///
/// The operating system gives no random bytes.
pub(crate) fn number() -> Result<u64, &'static str> {
    let mut bytes = [0; 8];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| "the operating system gives no random bytes")?;
    Ok(u64::from_le_bytes(bytes))
}

/// `len` random letters and digits.
///
/// # Errors
///
/// The operating system gives no random bytes.
pub(crate) fn alphanumeric(len: usize) -> Result<String, &'static str> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut bytes = vec![0; len];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| "the operating system gives no random bytes")?;
    Ok(bytes
        .iter()
        .map(|byte| char::from(ALPHABET[usize::from(byte & 63)]))
        .collect())
}
