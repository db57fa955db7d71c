//! The server's side of SCRAM-SHA-256 (RFC 5802, RFC 7677), without input or output.
//!
//! The password never travels: the client proves that it knows it, and the broker proves that it has a verifier of it. For a name that does
//! not exist the exchange goes on with a salt that follows from the name, and fails at its end like any other: who does not know a password
//! does not learn which names there are. Channel binding is not offered, and what asks for it is refused.

use std::num::NonZeroU32;

use base64ct::{Base64, Encoding};
use ring::{digest, hmac, pbkdf2};
use subtle::ConstantTimeEq;

/// The name of the method in CONNECT.
pub const METHOD: &str = "SCRAM-SHA-256";
/// Rounds of new verifiers.
pub const ITERATIONS: u32 = 65_536;
/// Least rounds that are taken from a file, as RFC 7677 has it.
const MIN_ITERATIONS: u32 = 4_096;
/// And most.
const MAX_ITERATIONS: u32 = 10_000_000;
/// Bytes of a salt.
const SALT: usize = 16;
/// Longest message of a client, in bytes.
const MAX_MESSAGE: usize = 4_096;
/// Characters of our part of the nonce: 24 out of 64 are 144 bits.
const NONCE: usize = 24;
const LEN: usize = 32;

/// What is kept of a password: enough to check it, and not enough to log in.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    iterations: NonZeroU32,
    salt: Box<[u8]>,
    stored_key: [u8; LEN],
    server_key: [u8; LEN],
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier")
            .field("iterations", &self.iterations)
            .finish_non_exhaustive()
    }
}

fn mac(key: &[u8], message: &[u8]) -> [u8; LEN] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message);
    let mut out = [0; LEN];
    out.copy_from_slice(tag.as_ref());
    out
}

fn sha256(message: &[u8]) -> [u8; LEN] {
    let mut out = [0; LEN];
    out.copy_from_slice(digest::digest(&digest::SHA256, message).as_ref());
    out
}

impl Verifier {
    /// Makes the verifier of a password. Slow on purpose.
    #[must_use]
    pub fn of(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Self {
        let mut salted = [0; LEN];
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            iterations,
            salt,
            password,
            &mut salted,
        );
        Self {
            iterations,
            salt: salt.into(),
            stored_key: sha256(&mac(&salted, b"Client Key")),
            server_key: mac(&salted, b"Server Key"),
        }
    }

    /// Makes the verifier of a password with a fresh salt.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn fresh(password: &[u8]) -> Result<Self, String> {
        use ring::rand::SecureRandom;
        let mut salt = [0; SALT];
        ring::rand::SystemRandom::new()
            .fill(&mut salt)
            .map_err(|_| "the system gives no random numbers".to_owned())?;
        let iterations = NonZeroU32::new(ITERATIONS).unwrap_or(NonZeroU32::MIN);
        Ok(Self::of(password, &salt, iterations))
    }

    /// Reads `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`, the form that PostgreSQL has, too.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("SCRAM-SHA-256$");
        let parts = rest.and_then(|rest| {
            let (first, keys) = rest.split_once('$')?;
            Some((first.split_once(':')?, keys.split_once(':')?))
        });
        let Some(((iterations, salt), (stored_key, server_key))) = parts else {
            return Err(
                "a SCRAM verifier must be SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey"
                    .to_owned(),
            );
        };
        let iterations = iterations.parse::<NonZeroU32>().ok();
        let iterations = iterations
            .filter(|n| (MIN_ITERATIONS..=MAX_ITERATIONS).contains(&n.get()))
            .ok_or_else(|| {
                format!(
                    "the number of iterations must be from {MIN_ITERATIONS} to {MAX_ITERATIONS}"
                )
            })?;
        let bytes = |text: &str| {
            Base64::decode_vec(text)
                .map_err(|_| "salt and keys of a SCRAM verifier must be base64".to_owned())
        };
        let key = |text: &str| {
            <[u8; LEN]>::try_from(bytes(text)?)
                .map_err(|_| format!("the keys of a SCRAM verifier have {LEN} bytes each"))
        };
        let salt = bytes(salt)?;
        if salt.is_empty() {
            return Err("the SCRAM verifier has no salt".to_owned());
        }
        Ok(Self {
            iterations,
            salt: salt.into(),
            stored_key: key(stored_key)?,
            server_key: key(server_key)?,
        })
    }

    /// The text that [`Self::parse`] reads.
    #[must_use]
    pub fn show(&self) -> String {
        format!(
            "SCRAM-SHA-256${}:{}${}:{}",
            self.iterations,
            Base64::encode_string(&self.salt),
            Base64::encode_string(&self.stored_key),
            Base64::encode_string(&self.server_key)
        )
    }

    /// Whether a password is the right one. Slow on purpose.
    #[must_use]
    pub fn verify(&self, password: &[u8]) -> bool {
        let other = Self::of(password, &self.salt, self.iterations);
        other.stored_key.ct_eq(&self.stored_key).into()
    }

    /// Rounds.
    #[must_use]
    pub fn iterations(&self) -> NonZeroU32 {
        self.iterations
    }

    /// What other names are asked with, that do not exist: nobody knows a password for it.
    #[must_use]
    pub(super) fn decoy(secret: &[u8], name: &str, iterations: NonZeroU32) -> Self {
        let salt = mac(secret, name.as_bytes());
        Self {
            iterations,
            salt: salt.iter().copied().take(SALT).collect(),
            stored_key: mac(secret, &salt),
            server_key: mac(&salt, secret),
        }
    }

    /// A secret that follows from a file of verifiers: the same on every replica that has the file.
    pub(super) fn mix(&self, secret: &mut [u8; LEN]) {
        let mine = mac(&self.server_key, &self.salt);
        for (byte, mine) in secret.iter_mut().zip(mine) {
            *byte ^= mine;
        }
    }
}

/// Why an exchange has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A message has not the form that the specification gives it.
    #[error("a message is not one of SCRAM")]
    Form,
    /// It asks for what is not offered.
    #[error("the client asks for channel binding, or for another's name")]
    Unsupported,
    /// The proof is wrong.
    #[error("the credentials were not accepted")]
    Wrong,
}

/// An exchange whose first message has been answered.
#[derive(Debug)]
pub struct Exchange {
    verifier: Verifier,
    /// There is such a user.
    known: bool,
    /// What the client is to say again about channel binding.
    binding: String,
    nonce: String,
    /// The first two messages as both sides sign them.
    signed: String,
}

/// The name of a client's first message.
///
/// # Errors
/// When it is no first message.
pub fn name_in(first: &[u8]) -> Result<String, Fault> {
    Ok(First::parse(first)?.name)
}

struct First<'a> {
    binding: &'a str,
    bare: &'a str,
    name: String,
    nonce: &'a str,
}

impl<'a> First<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, Fault> {
        if message.len() > MAX_MESSAGE {
            return Err(Fault::Form);
        }
        let text = std::str::from_utf8(message).map_err(|_| Fault::Form)?;
        let (flag, rest) = text.split_once(',').ok_or(Fault::Form)?;
        let (authority, bare) = rest.split_once(',').ok_or(Fault::Form)?;
        match flag {
            "n" | "y" => {}
            flag if flag.starts_with("p=") => return Err(Fault::Unsupported),
            _ => return Err(Fault::Form),
        }
        let mut parts = bare.split(',');
        let first = parts.next().ok_or(Fault::Form)?;
        if first.starts_with("m=") {
            return Err(Fault::Unsupported);
        }
        let name = first.strip_prefix("n=").ok_or(Fault::Form)?;
        let nonce = parts.next().and_then(|part| part.strip_prefix("r="));
        let nonce = nonce.filter(|nonce| is_nonce(nonce)).ok_or(Fault::Form)?;
        let name = unescape(name)?;
        // To act for somebody else is not offered.
        let other = authority.strip_prefix("a=").map(unescape).transpose()?;
        if other.is_some_and(|other| other != name) {
            return Err(Fault::Unsupported);
        }
        if !authority.is_empty() && !authority.starts_with("a=") {
            return Err(Fault::Form);
        }
        Ok(Self {
            binding: text.get(..text.len() - bare.len()).unwrap_or_default(),
            bare,
            name,
            nonce,
        })
    }
}

fn is_nonce(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b',')
}

/// `=2C` is a comma and `=3D` an equals sign.
fn unescape(text: &str) -> Result<String, Fault> {
    let mut parts = text.split('=');
    let mut name = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (c, rest) = match (part.strip_prefix("2C"), part.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (_, Some(rest)) => ('=', rest),
            _ => return Err(Fault::Form),
        };
        name.push(c);
        name.push_str(rest);
    }
    if name.is_empty() {
        return Err(Fault::Form);
    }
    Ok(name)
}

impl Exchange {
    /// Answers the first message. `random` is our part of the nonce; `known`: the verifier is that of a user.
    ///
    /// # Errors
    /// When it is no first message.
    pub fn begin(
        first: &[u8],
        verifier: Verifier,
        known: bool,
        random: &str,
    ) -> Result<(Self, Vec<u8>), Fault> {
        let first = First::parse(first)?;
        let nonce = format!("{}{random}", first.nonce);
        let salt = Base64::encode_string(&verifier.salt);
        let answer = format!("r={nonce},s={salt},i={}", verifier.iterations);
        let exchange = Self {
            verifier,
            known,
            binding: Base64::encode_string(first.binding.as_bytes()),
            nonce,
            signed: format!("{},{answer}", first.bare),
        };
        Ok((exchange, answer.into_bytes()))
    }

    /// Answers the last message: our proof, if the client's is right.
    ///
    /// # Errors
    /// When it is not, or the message has not the right form.
    pub fn finish(self, last: &[u8]) -> Result<Vec<u8>, Fault> {
        if last.len() > MAX_MESSAGE {
            return Err(Fault::Form);
        }
        let text = std::str::from_utf8(last).map_err(|_| Fault::Form)?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(Fault::Form)?;
        let mut parts = without_proof.split(',');
        let binding = parts.next().and_then(|part| part.strip_prefix("c="));
        let nonce = parts.next().and_then(|part| part.strip_prefix("r="));
        let (binding, nonce) = binding.zip(nonce).ok_or(Fault::Form)?;
        let proof = Base64::decode_vec(proof).map_err(|_| Fault::Form)?;
        let proof = <[u8; LEN]>::try_from(proof).map_err(|_| Fault::Form)?;
        let signed = format!("{},{without_proof}", self.signed);
        let mut key = mac(&self.verifier.stored_key, signed.as_bytes());
        for (byte, proof) in key.iter_mut().zip(proof) {
            *byte ^= proof;
        }
        let right = sha256(&key).ct_eq(&self.verifier.stored_key);
        if binding != self.binding || nonce != self.nonce || !bool::from(right) || !self.known {
            return Err(Fault::Wrong);
        }
        let mine = mac(&self.verifier.server_key, signed.as_bytes());
        Ok(format!("v={}", Base64::encode_string(&mine)).into_bytes())
    }
}

/// Our part of a nonce.
///
/// # Errors
/// When the system gives no randomness.
pub fn nonce() -> Result<String, String> {
    crate::random::alphanumeric(NONCE).map_err(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677, section 3.
    #[test]
    fn the_exchange_of_the_specification_comes_out_as_it_is_written() {
        let salt = Base64::decode_vec("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = Verifier::of(b"pencil", &salt, NonZeroU32::new(4096).unwrap());
        let first = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
        assert_eq!(name_in(first).unwrap(), "user");
        let random = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let (exchange, answer) = Exchange::begin(first, verifier, true, random).unwrap();
        assert_eq!(
            answer,
            b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        let last = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(
            exchange.finish(last).unwrap(),
            b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
        );
    }

    #[test]
    fn a_wrong_proof_another_nonce_and_an_unknown_name_fail() {
        let salt = [7; 16];
        let verifier = || Verifier::of(b"pencil", &salt, NonZeroU32::new(4096).unwrap());
        let first = b"y,,n=us=2Cer=3D,r=abc";
        assert_eq!(name_in(first).unwrap(), "us,er=");
        let begin = |known| Exchange::begin(first, verifier(), known, "xyz").unwrap();
        // As the client does it.
        let prove = |nonce: &str, binding: &str| {
            let (_, answer) = begin(true);
            let without = format!("c={binding},r={nonce}");
            let signed = format!(
                "n=us=2Cer=3D,r=abc,{},{without}",
                String::from_utf8(answer).unwrap()
            );
            let mut salted = [0; LEN];
            pbkdf2::derive(
                pbkdf2::PBKDF2_HMAC_SHA256,
                NonZeroU32::new(4096).unwrap(),
                &salt,
                b"pencil",
                &mut salted,
            );
            let key = mac(&salted, b"Client Key");
            let mut proof = mac(&sha256(&key), signed.as_bytes());
            proof.iter_mut().zip(key).for_each(|(a, b)| *a ^= b);
            format!("{without},p={}", Base64::encode_string(&proof))
        };
        let good = prove("abcxyz", "eSws");
        assert!(begin(true).0.finish(good.as_bytes()).is_ok());
        assert_eq!(begin(false).0.finish(good.as_bytes()), Err(Fault::Wrong));
        for (message, fault) in [
            (prove("abcabc", "eSws"), Fault::Wrong),
            (prove("abcxyz", "biws"), Fault::Wrong),
            (good.replace("p=", "p=AAAA"), Fault::Form),
            (good.replace(",p=", ",q="), Fault::Form),
            ("c=eSws,r=abcxyz".to_owned(), Fault::Form),
            (
                format!("c=eSws,r=abcxyz,p={}", Base64::encode_string(&[0; LEN])),
                Fault::Wrong,
            ),
            ("x".repeat(MAX_MESSAGE + 1), Fault::Form),
            (String::new(), Fault::Form),
        ] {
            assert_eq!(
                begin(true).0.finish(message.as_bytes()),
                Err(fault),
                "{message}"
            );
        }
    }

    #[test]
    fn first_messages_that_are_none_are_refused() {
        for (message, fault) in [
            ("", Fault::Form),
            ("n,,", Fault::Form),
            ("n,,n=,r=a", Fault::Form),
            ("n,,n=a", Fault::Form),
            ("n,,n=a,r=", Fault::Form),
            ("n,,n=a=b,r=c", Fault::Form),
            ("n,x,n=a,r=c", Fault::Form),
            ("n,,n=a,r=\u{e4}", Fault::Form),
            ("q,,n=a,r=c", Fault::Form),
            ("n,,m=x,n=a,r=c", Fault::Unsupported),
            ("p=tls-unique,,n=a,r=c", Fault::Unsupported),
            ("n,a=b,n=a,r=c", Fault::Unsupported),
        ] {
            assert_eq!(name_in(message.as_bytes()), Err(fault), "{message}");
        }
        assert!(name_in(b"n,a=a,n=a,r=c").is_ok());
    }

    #[test]
    fn a_verifier_is_read_as_it_was_written_and_checks_the_password() {
        let made = Verifier::of(b"pencil", &[1; 16], NonZeroU32::new(4096).unwrap());
        let read = Verifier::parse(&made.show()).unwrap();
        assert_eq!(read, made);
        assert!(read.verify(b"pencil") && !read.verify(b"pen"));
        for (text, words) in [
            ("SCRAM-SHA-256$4096:AAAA", "must be SCRAM"),
            ("SCRAM-SHA-256$1:AAAA$AAAA:AAAA", "iterations"),
            ("SCRAM-SHA-256$4096:*$AAAA:AAAA", "base64"),
            ("SCRAM-SHA-256$4096:AAAA$AAAA:AAAA", "32 bytes"),
        ] {
            assert!(Verifier::parse(text).unwrap_err().contains(words), "{text}");
        }
    }
}
