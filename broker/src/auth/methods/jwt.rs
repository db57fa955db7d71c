//! Tokens in the password, signed by keys of files or of a set that a web service has.
//!
//! The set is fetched at the start and now and then, and when a token names a key that is not known, but not more often than every ten
//! seconds: nobody can make the broker ask all the time. While the service is away the keys that it had stay good for a stated time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hyper::{Method as HttpMethod, StatusCode};
use tokio::sync::Mutex;

use super::{WRONG, not_authorized};
use crate::auth::jwt::{Claims, Key, Token};
use crate::auth::{Authenticator, Credential, Credentials, Method, Principal, Verdict};
use crate::config::{ANSWER_MAX, JwtConfig};
use crate::http::HttpClient;

/// Least time between two attempts to fetch keys.
const AT_MOST_EVERY: Duration = Duration::from_secs(10);
/// How long the service may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Keys of a set that are looked at.
const MAX_KEYS: usize = 256;
/// Longest name, tenant, role or attribute that is taken from a token, in bytes.
const MAX_TEXT: usize = 1_024;
/// Roles that are taken from a token.
const MAX_ROLES: usize = 64;

/// The keys that tokens are verified by.
#[derive(Debug)]
pub struct Keys {
    own: Vec<Key>,
    fetched: ArcSwap<Vec<Key>>,
    /// As they were when [`Self::keep`] last looked.
    told: parking_lot::Mutex<Arc<Vec<Key>>>,
    source: Option<Source>,
}

#[derive(Debug)]
struct Source {
    http: HttpClient,
    refresh: Duration,
    stale: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    tried: Option<Instant>,
    /// When it was last answered.
    had: Option<Instant>,
}

impl Keys {
    /// Keys of files, and those of the service that the configuration names.
    ///
    /// # Errors
    /// When the service cannot be asked with what the configuration says.
    pub fn new(config: &JwtConfig, own: Vec<Key>) -> Result<Self, String> {
        let source = config.jwks_url.as_ref().map(|url| {
            let http = HttpClient::new(url, config.jwks_ca.as_deref(), PATIENCE, ANSWER_MAX);
            Ok::<_, String>(Source {
                http: http.map_err(|error| error.to_string())?,
                refresh: config.jwks_refresh,
                stale: config.jwks_stale,
                state: Mutex::default(),
            })
        });
        Ok(Self {
            own,
            fetched: ArcSwap::default(),
            told: parking_lot::Mutex::default(),
            source: source.transpose()?,
        })
    }

    /// Whether a key of that name is still good.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        let fetched = self.fetched.load();
        self.own
            .iter()
            .chain(fetched.iter())
            .any(|key| *key.name() == *name)
    }

    /// Fetches the set of keys if it is time to; true when there are keys less. Cancel safe.
    pub async fn keep(&self) -> bool {
        let Some(source) = &self.source else {
            return false;
        };
        let due = {
            let state = source.state.lock().await;
            let every = match state.had {
                Some(_) => source.refresh,
                None => AT_MOST_EVERY,
            };
            state.tried.is_none_or(|tried| tried.elapsed() >= every)
        };
        if due {
            self.fetch(source).await;
        }
        let after = self.fetched.load_full();
        let before = std::mem::replace(&mut *self.told.lock(), Arc::clone(&after));
        before.iter().any(|key| !after.contains(key))
    }

    /// Fetches the set of keys, unless that was tried a moment ago.
    async fn fetch(&self, source: &Source) {
        // Who comes while it is fetched waits for that.
        let mut state = source.state.lock().await;
        if state
            .tried
            .is_some_and(|tried| tried.elapsed() < AT_MOST_EVERY)
        {
            return;
        }
        state.tried = Some(Instant::now());
        let answer = source
            .http
            .send(HttpMethod::GET, "", &[], Bytes::new())
            .await;
        let keys = match answer {
            Ok(answer) if answer.status == StatusCode::OK => Key::from_jwks(&answer.body, false),
            Ok(answer) => Err(format!("its answer is {}", answer.status)),
            Err(error) => Err(error.to_string()),
        };
        match keys {
            Ok(mut keys) => {
                keys.truncate(MAX_KEYS);
                state.had = Some(Instant::now());
                if **self.fetched.load() != keys {
                    tracing::info!(
                        keys = keys.len(),
                        from = source.http.place(),
                        "the keys of tokens were fetched"
                    );
                    self.fetched.store(Arc::new(keys));
                }
            }
            Err(error) => {
                let over = state.had.is_none_or(|had| had.elapsed() > source.stale);
                let kept = if over { 0 } else { self.fetched.load().len() };
                tracing::warn!(%error, from = source.http.place(), kept, "the keys of tokens could not be fetched");
                if over {
                    self.fetched.store(Arc::default());
                }
            }
        }
    }

    /// What a token says, and the key that has signed it; `None`: no key could have. An error: one could have, and has not.
    async fn verify(&self, token: &Token<'_>) -> Option<Result<(Claims, Box<str>), ()>> {
        if let Some(verified) = self.try_all(token) {
            return Some(verified);
        }
        self.fetch(self.source.as_ref()?).await;
        self.try_all(token)
    }

    fn try_all(&self, token: &Token<'_>) -> Option<Result<(Claims, Box<str>), ()>> {
        let fetched = self.fetched.load();
        let keys = self.own.iter().chain(fetched.iter());
        let mut found = None;
        for key in keys.filter(|key| token.may_be_of(key)) {
            match token.verified_by(key) {
                Some(claims) => return Some(Ok((claims, key.name()))),
                None => found = Some(Err(())),
            }
        }
        found
    }
}

/// Accepts whoever has a good token.
#[derive(Debug)]
pub struct Jwt {
    config: JwtConfig,
    keys: Arc<Keys>,
}

impl Jwt {
    /// With the keys, which live longer than a configuration.
    #[must_use]
    pub fn new(config: JwtConfig, keys: Arc<Keys>) -> Self {
        Self { config, keys }
    }

    async fn judge(&self, credentials: &Credentials) -> Verdict {
        let password = credentials.password.as_ref();
        let Some(token) = password.and_then(|password| Token::parse(password)) else {
            return Verdict::Skip;
        };
        match self.keys.verify(&token).await {
            None => Verdict::Skip,
            Some(Err(())) => WRONG,
            Some(Ok((claims, key))) => match self.principal(credentials, &claims, key) {
                Ok(principal) => Verdict::Accept(Arc::new(principal)),
                Err(why) => not_authorized(why),
            },
        }
    }

    fn principal(
        &self,
        credentials: &Credentials,
        claims: &Claims,
        key: Box<str>,
    ) -> Result<Principal, &'static str> {
        let config = &self.config;
        let ends = config
            .checks
            .check(claims, super::now())
            .map_err(|fault| fault.words())?;
        if let Some(claim) = &config.client_id_claim
            && claims.text(claim) != Some(&*credentials.client_id)
        {
            return Err("the token is for another client id");
        }
        let text = |claim: &str| claims.plain(claim).filter(|text| is_good(text));
        let name = text(&config.username_claim).ok_or("the token names no user")?;
        let mut principal = Principal::new(Method::Jwt, Some(name.into()));
        if let Some(claim) = &config.tenant_claim {
            let tenant = text(claim).ok_or("the token names no tenant")?;
            principal.tenant = Some(tenant.into());
        }
        if let Some(claim) = &config.roles_claim {
            let roles = claims.texts(claim).into_iter().filter(|role| is_good(role));
            principal.roles = roles.take(MAX_ROLES).map(Arc::from).collect();
        }
        let attributes = config.attribute_claims.iter();
        let attributes =
            attributes.filter_map(|claim| Some((claim.as_str().into(), text(claim)?.into())));
        principal.attributes = attributes.collect::<BTreeMap<_, _>>();
        principal.credential = Some(Credential::Token {
            id: text("jti").map(Into::into),
            key: Some(key),
        });
        principal.expires_at = ends;
        Ok(principal)
    }
}

fn is_good(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_TEXT && !text.contains(char::is_control)
}

impl Authenticator for Jwt {
    fn method(&self) -> Method {
        Method::Jwt
    }

    fn takes_bare_passwords(&self) -> bool {
        true
    }

    fn authenticate<'a>(&'a self, credentials: &'a Credentials) -> BoxFuture<'a, Verdict> {
        self.judge(credentials).boxed()
    }
}
