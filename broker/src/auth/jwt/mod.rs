//! Signed tokens (RFC 7519 in the compact form of RFC 7515): what they say, and whether it can be believed.
//!
//! The algorithm follows from the key and never from the token: a token that says something else does not fit the key. Only ES256, RS256 and
//! HS256 are known. Nothing is read out of a token's claims before its signature has been verified.

mod claims;
mod key;

pub use claims::{Checks, Claims, Fault};
pub use key::{Algorithm, Key};

use base64ct::{Base64UrlUnpadded, Encoding};
use serde::Deserialize;

/// Longest token, in bytes. It is checked before anything is decoded.
pub const MAX_TOKEN: usize = 16 * 1024;

/// A token that has the right form, and of which nothing is believed yet.
#[derive(Debug, Clone)]
pub struct Token<'a> {
    /// Header and claims as they were signed.
    signed: &'a str,
    claims: &'a str,
    signature: Vec<u8>,
    header: Header,
}

#[derive(Debug, Clone, Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that must be understood. None are.
    crit: Option<serde_json::Value>,
}

impl<'a> Token<'a> {
    /// Takes a token apart; `None`: it is none.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        if bytes.len() > MAX_TOKEN {
            return None;
        }
        let text = std::str::from_utf8(bytes).ok()?;
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        if claims.contains('.') {
            return None;
        }
        let header = Base64UrlUnpadded::decode_vec(header).ok()?;
        Some(Self {
            signed,
            claims,
            signature: Base64UrlUnpadded::decode_vec(signature).ok()?,
            header: serde_json::from_slice(&header).ok()?,
        })
    }

    /// The key that it says it was signed with.
    #[must_use]
    pub fn key_id(&self) -> Option<&str> {
        self.header.kid.as_deref()
    }

    /// Whether a key could have signed it: the same algorithm, and the same id where both have one.
    #[must_use]
    pub fn may_be_of(&self, key: &Key) -> bool {
        let same_id = match (key.id(), self.key_id()) {
            (Some(of_key), Some(of_token)) => of_key == of_token,
            _ => true,
        };
        same_id && self.header.alg == key.algorithm().as_str() && self.header.crit.is_none()
    }

    /// What the token says, if the key has signed it.
    #[must_use]
    pub fn verified_by(&self, key: &Key) -> Option<Claims> {
        if !self.may_be_of(key) || !key.has_signed(self.signed.as_bytes(), &self.signature) {
            return None;
        }
        let claims = Base64UrlUnpadded::decode_vec(self.claims).ok()?;
        serde_json::from_slice(&claims).ok().map(Claims)
    }
}

#[cfg(test)]
mod tests;
