//! What a verified token says.

use serde_json::{Map, Value};

/// What a verified token says.
#[derive(Debug, Clone)]
pub struct Claims(pub(super) Map<String, Value>);

/// Why a token that is genuine is not good here and now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet")]
    NotYet,
    /// It says nothing of its end.
    #[error("the token has no expiry")]
    Endless,
    /// It is good for longer than is taken.
    #[error("the token is valid for too long")]
    TooLong,
    /// It is for somebody else.
    #[error("the token is for another audience")]
    Audience,
    /// It is from somebody else.
    #[error("the token is of another issuer")]
    Issuer,
}

impl Fault {
    /// The same in words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Expired => "the token has expired",
            Self::NotYet => "the token is not valid yet",
            Self::Endless => "the token has no expiry",
            Self::TooLong => "the token is valid for too long",
            Self::Audience => "the token is for another audience",
            Self::Issuer => "the token is of another issuer",
        }
    }
}

/// What a token must say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checks {
    /// Its issuer; empty: any, or none.
    pub issuers: Vec<String>,
    /// One of its audiences; empty: any, or none.
    pub audiences: Vec<String>,
    /// Seconds that clocks may differ by.
    pub leeway: u64,
    /// Seconds that it may be valid from its issue on; then it must say when that was. 0: for any time.
    pub max_lifetime: u64,
    /// A token without an end is taken.
    pub endless: bool,
}

impl Checks {
    /// Checks a token at a time in Unix seconds; gives back from when on it is no longer good, leeway included.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, claims: &Claims, now: u64) -> Result<Option<u64>, Fault> {
        if !self.issuers.is_empty() {
            let issuer = claims.text("iss");
            if !issuer.is_some_and(|issuer| self.issuers.iter().any(|known| known == issuer)) {
                return Err(Fault::Issuer);
            }
        }
        if !self.audiences.is_empty() {
            let audiences = claims.texts("aud");
            if !audiences
                .iter()
                .any(|audience| self.audiences.iter().any(|known| known == audience))
            {
                return Err(Fault::Audience);
            }
        }
        let ends = match (claims.time("exp")?, self.endless) {
            (None, false) => return Err(Fault::Endless),
            (ends, _) => ends,
        };
        let ends = ends.map(|ends| ends.saturating_add(self.leeway));
        if ends.is_some_and(|ends| ends <= now) {
            return Err(Fault::Expired);
        }
        let soon = now.saturating_add(self.leeway);
        let issued = claims.time("iat")?;
        if claims.time("nbf")?.is_some_and(|from| from > soon)
            || issued.is_some_and(|issued| issued > soon)
        {
            return Err(Fault::NotYet);
        }
        if self.max_lifetime > 0 {
            let latest =
                issued.map(|issued| issued.saturating_add(self.max_lifetime + self.leeway));
            let within = latest.is_some_and(|latest| ends.is_some_and(|ends| ends <= latest));
            if !within {
                return Err(Fault::TooLong);
            }
        }
        Ok(ends)
    }
}

impl Claims {
    /// A claim; `a.b` is also the claim `b` within the claim `a`.
    fn get(&self, name: &str) -> Option<&Value> {
        if let Some(value) = self.0.get(name) {
            return Some(value);
        }
        let mut parts = name.split('.');
        let first = self.0.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.get(part))
    }

    /// A claim that is a text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.as_str()
    }

    /// A claim that is one text or a list of them; what else is in the list is left out.
    #[must_use]
    pub fn texts(&self, name: &str) -> Vec<&str> {
        match self.get(name) {
            Some(Value::String(text)) => vec![text],
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// A claim that is a text, a number or true or false, as a text.
    #[must_use]
    pub fn plain(&self, name: &str) -> Option<String> {
        match self.get(name)? {
            Value::String(text) => Some(text.clone()),
            value @ (Value::Number(_) | Value::Bool(_)) => Some(value.to_string()),
            _ => None,
        }
    }

    /// A claim that is a time, in Unix seconds; one that is there and is no time is as bad as one that is over.
    fn time(&self, name: &str) -> Result<Option<u64>, Fault> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        if let Some(seconds) = value.as_u64() {
            return Ok(Some(seconds));
        }
        match value.as_f64() {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "within what a u64 has"
            )]
            Some(seconds) if (0.0..1e18).contains(&seconds) => Ok(Some(seconds as u64)),
            _ => Err(Fault::Expired),
        }
    }
}
