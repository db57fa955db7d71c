//! A web service is asked who a client is.
//!
//! So many questions at once as it is said, each for so long as it is said; who finds no place is told that the broker is busy. After five
//! failures in a row nobody waits for the service for two seconds at a time: the first question after that finds out whether it is back.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use base64ct::{Base64, Encoding};
use dunlin_protocol::ReasonCode;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method as HttpMethod, StatusCode};
use parking_lot::Mutex;
use ring::hmac;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::{WRONG, not_authorized};
use crate::auth::{Authenticator, Credential, Credentials, Method, Principal, Verdict};
use crate::config::{ANSWER_MAX, HookConfig, WhenAway};
use crate::http::{HttpClient, HttpError};

/// Failures in a row after which the service counts as away.
const FAILURES: u32 = 5;
/// How long it is then not asked.
const PAUSE: Duration = Duration::from_secs(2);
/// Answers that are kept.
const MAX_CACHED: usize = 10_000;
/// Longest name, tenant, role or attribute that is taken from an answer, in bytes.
const MAX_TEXT: usize = 1_024;
/// Roles, and attributes, that are taken from an answer.
const MAX_MANY: usize = 64;

#[derive(Serialize)]
struct Question<'a> {
    client_id: &'a str,
    username: Option<&'a str>,
    password: Option<&'a str>,
    /// In place of `password`, where that is no text.
    password_base64: Option<String>,
    peer: String,
    listener: &'a str,
    protocol: &'a str,
    certificate: Option<Shown<'a>>,
}

#[derive(Serialize)]
struct Shown<'a> {
    name: Option<&'a str>,
    sha256: Box<str>,
    serial: &'a str,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Word {
    Allow,
    Deny,
    Ignore,
}

#[derive(Deserialize)]
struct Reply {
    result: Word,
    username: Option<String>,
    tenant: Option<String>,
    #[serde(default)]
    roles: Vec<String>,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
    expires_at: Option<u64>,
}

#[derive(Debug, Default)]
struct Away {
    failures: AtomicU32,
    until: Mutex<Option<Instant>>,
}

type Cache = Mutex<HashMap<[u8; 32], (Instant, Verdict)>>;

/// Asks a web service.
#[derive(Debug)]
pub struct Hook {
    config: HookConfig,
    http: HttpClient,
    bearer: Option<HeaderValue>,
    places: Semaphore,
    away: Away,
    cache: Cache,
    /// Questions are remembered by what it makes of them: passwords are in them.
    print: hmac::Key,
}

impl Hook {
    /// `token` is what the service is shown.
    ///
    /// # Errors
    /// When the service cannot be asked with what the configuration says.
    pub fn new(config: HookConfig, token: Option<&Zeroizing<String>>) -> Result<Self, String> {
        let http = HttpClient::new(
            &config.url,
            config.ca.as_deref(),
            config.timeout,
            ANSWER_MAX,
        );
        let bearer = token.map(|token| {
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.as_str()))
                .map_err(|_| "the token for the service cannot stand in a header".to_owned())?;
            value.set_sensitive(true);
            Ok::<_, String>(value)
        });
        let print = hmac::Key::generate(hmac::HMAC_SHA256, &ring::rand::SystemRandom::new());
        Ok(Self {
            print: print.map_err(|_| "the system gives no random numbers".to_owned())?,
            http: http.map_err(|error| error.to_string())?,
            bearer: bearer.transpose()?,
            places: Semaphore::new(config.max_concurrent),
            away: Away::default(),
            cache: Cache::default(),
            config,
        })
    }

    async fn judge(&self, credentials: &Credentials) -> Verdict {
        if credentials.username.is_none()
            && credentials.password.is_none()
            && credentials.certificate.is_none()
        {
            return Verdict::Skip;
        }
        let Some(question) = question(credentials) else {
            return not_authorized("the credentials cannot be shown to the service");
        };
        let print = self.print(&question);
        if let Some(known) = self.known(&print) {
            return known;
        }
        if self.is_away() {
            return self.away();
        }
        let place = tokio::time::timeout(self.config.timeout, self.places.acquire()).await;
        let Ok(Ok(_place)) = place else {
            return Verdict::Refuse(
                ReasonCode::SERVER_BUSY,
                "too many clients wait for the service",
            );
        };
        match self.ask(question).await {
            Ok(reply) => {
                if self.away.failures.swap(0, Ordering::Relaxed) > 0 {
                    *self.away.until.lock() = None;
                }
                let verdict = verdict(credentials, reply);
                self.remember(print, &verdict);
                verdict
            }
            Err(error) => {
                let failures = self.away.failures.fetch_add(1, Ordering::Relaxed) + 1;
                tracing::warn!(
                    error,
                    service = self.http.place(),
                    failures,
                    "the service that says who clients are has not answered"
                );
                if failures >= FAILURES {
                    *self.away.until.lock() = Some(Instant::now() + PAUSE);
                }
                self.away()
            }
        }
    }

    fn is_away(&self) -> bool {
        let mut until = self.away.until.lock();
        match *until {
            Some(end) if Instant::now() < end => true,
            // One finds out; the others wait for what it finds.
            Some(_) if self.away.failures.load(Ordering::Relaxed) >= FAILURES => {
                *until = Some(Instant::now() + PAUSE);
                false
            }
            _ => false,
        }
    }

    fn away(&self) -> Verdict {
        match self.config.when_away {
            WhenAway::Ignore => Verdict::Skip,
            WhenAway::Deny => Verdict::Refuse(
                ReasonCode::SERVER_UNAVAILABLE,
                "nobody can say now who you are",
            ),
        }
    }

    async fn ask(&self, question: Vec<u8>) -> Result<Reply, String> {
        let json = HeaderValue::from_static("application/json");
        let mut headers: Vec<(HeaderName, HeaderValue)> = vec![(CONTENT_TYPE, json)];
        headers.extend(self.bearer.clone().map(|value| (AUTHORIZATION, value)));
        let body = bytes::Bytes::from(question);
        let ask = || self.http.send(HttpMethod::POST, "", &headers, body.clone());
        let answer = match ask().await {
            // A kept connection may have ended at that moment; to be asked twice changes nothing.
            Err(HttpError::Answer { .. }) => ask().await,
            other => other,
        };
        let answer = answer.map_err(|error| error.to_string())?;
        if answer.status != StatusCode::OK {
            return Err(format!("its answer is {}", answer.status));
        }
        serde_json::from_slice(&answer.body)
            .map_err(|error| format!("its answer makes no sense: {error}"))
    }

    /// The same for the same question; a password is not kept.
    fn print(&self, question: &[u8]) -> [u8; 32] {
        let mut print = [0; 32];
        print.copy_from_slice(hmac::sign(&self.print, question).as_ref());
        print
    }

    fn known(&self, print: &[u8; 32]) -> Option<Verdict> {
        if self.config.cache.is_zero() {
            return None;
        }
        let cache = self.cache.lock();
        let (until, verdict) = cache.get(print)?;
        let over = match verdict {
            Verdict::Accept(who) => who.expires_at.is_some_and(|end| end <= super::now()),
            _ => false,
        };
        (Instant::now() < *until && !over).then(|| verdict.clone())
    }

    fn remember(&self, print: [u8; 32], verdict: &Verdict) {
        if self.config.cache.is_zero() {
            return;
        }
        let now = Instant::now();
        let mut cache = self.cache.lock();
        if cache.len() >= MAX_CACHED {
            cache.retain(|_, (until, _)| now < *until);
        }
        if cache.len() < MAX_CACHED {
            cache.insert(print, (now + self.config.cache, verdict.clone()));
        }
    }
}

fn question(credentials: &Credentials) -> Option<Vec<u8>> {
    let password = credentials.password.as_ref();
    let text = password.map(|password| std::str::from_utf8(password));
    let question = Question {
        client_id: &credentials.client_id,
        username: credentials.username.as_deref(),
        password: text.and_then(Result::ok),
        password_base64: match text {
            Some(Err(_)) => password.map(|password| Base64::encode_string(password)),
            _ => None,
        },
        peer: credentials.peer.ip().to_string(),
        listener: &credentials.listener.name,
        protocol: credentials.listener.kind.as_str(),
        certificate: credentials.certificate.as_ref().map(|certificate| Shown {
            name: credentials.tls_name.as_deref(),
            sha256: crate::net::hex(&certificate.sha256),
            serial: &certificate.serial,
        }),
    };
    serde_json::to_vec(&question).ok()
}

fn verdict(credentials: &Credentials, reply: Reply) -> Verdict {
    match reply.result {
        Word::Ignore => return Verdict::Skip,
        Word::Deny => return WRONG,
        Word::Allow => {}
    }
    if reply.expires_at.is_some_and(|end| end <= super::now()) {
        return not_authorized("the credentials have expired");
    }
    let texts = reply
        .username
        .iter()
        .chain(&reply.tenant)
        .chain(&reply.roles);
    let texts = texts
        .chain(reply.attributes.keys())
        .chain(reply.attributes.values());
    let good = |text: &String| text.len() <= MAX_TEXT && !text.contains(char::is_control);
    if !texts.into_iter().all(good) || reply.roles.len().max(reply.attributes.len()) > MAX_MANY {
        return not_authorized("the service says too much of you");
    }
    let name = reply.username.map(Arc::from);
    let name = name
        .or_else(|| credentials.username.clone())
        .or_else(|| credentials.tls_name.clone());
    let mut principal = Principal::new(Method::Http, name);
    principal.tenant = reply.tenant.map(Arc::from);
    principal.roles = reply.roles.into_iter().map(Arc::from).collect();
    principal.attributes = reply
        .attributes
        .into_iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    principal.credential = credentials
        .password
        .is_some()
        .then_some(Credential::Password { print: 0 });
    principal.expires_at = reply.expires_at;
    Verdict::Accept(Arc::new(principal))
}

impl Authenticator for Hook {
    fn method(&self) -> Method {
        Method::Http
    }

    fn takes_bare_passwords(&self) -> bool {
        true
    }

    fn authenticate<'a>(&'a self, credentials: &'a Credentials) -> BoxFuture<'a, Verdict> {
        self.judge(credentials).boxed()
    }
}
