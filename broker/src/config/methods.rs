//! What the methods of authentication go by: the raw forms of `[auth.jwt]`, `[auth.http]` and `[[auth.user]]`.

use std::path::PathBuf;
use std::time::Duration;

use super::{reader::Section, setting::word_setting};
use crate::auth::jwt::Checks;
use crate::error::Code;
use crate::http::HttpClient;

/// Bytes of an answer with keys, or of one that says who a client is.
pub(crate) const ANSWER_MAX: usize = 1 << 20;

/// `[auth.jwt]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtConfig {
    /// Files with public keys or certificates (PEM), a JWK or a set of them.
    pub keys: Vec<PathBuf>,
    /// A file that is the secret of HS256, without the line end at its end.
    pub secret_file: Option<PathBuf>,
    /// Where a set of keys is to be had.
    pub jwks_url: Option<String>,
    /// PEM file: the authorities that may have signed its certificate.
    pub jwks_ca: Option<PathBuf>,
    /// How often it is asked for.
    pub jwks_refresh: Duration,
    /// How long its keys are good while it cannot be reached.
    pub jwks_stale: Duration,
    /// What a token must say.
    pub checks: Checks,
    /// The claim that is the user name.
    pub username_claim: String,
    /// The claim that must be the client id.
    pub client_id_claim: Option<String>,
    /// The claim that is the tenant.
    pub tenant_claim: Option<String>,
    /// The claim with the roles.
    pub roles_claim: Option<String>,
    /// Claims that are kept as attributes.
    pub attribute_claims: Vec<String>,
}

impl JwtConfig {
    /// `None`: nothing says which tokens are good.
    pub(super) fn read(section: &mut Section<'_>) -> Option<Self> {
        let paths = |paths: Option<Vec<String>>| -> Vec<PathBuf> {
            paths
                .unwrap_or_default()
                .into_iter()
                .map(Into::into)
                .collect()
        };
        let keys = paths(section.optional("keys", &()));
        let secret_file = section.optional::<String>("secret_file", &());
        let jwks_url = section.optional::<String>("jwks_url", &());
        let given = !keys.is_empty() || secret_file.is_some() || jwks_url.is_some();
        let any = section.any();
        let config = Self {
            keys,
            secret_file: secret_file.map(PathBuf::from),
            jwks_ca: section
                .optional::<String>("jwks_ca", &())
                .map(PathBuf::from),
            jwks_refresh: Duration::from_secs(section.get("jwks_refresh_s", 300, &(10..=86_400))),
            jwks_stale: Duration::from_secs(section.get("jwks_stale_s", 86_400, &(0..=31_536_000))),
            checks: Checks {
                issuers: section.optional("issuers", &()).unwrap_or_default(),
                audiences: section.optional("audiences", &()).unwrap_or_default(),
                leeway: section.get("leeway_s", 60, &(0..=3_600)),
                max_lifetime: section.get("max_lifetime_s", 0, &(0..=31_536_000)),
                endless: !section.get("require_expiry", true, &()),
            },
            username_claim: section.get("username_claim", "sub".to_owned(), &()),
            client_id_claim: section.optional("client_id_claim", &()),
            tenant_claim: section.optional("tenant_claim", &()),
            roles_claim: section.optional("roles_claim", &()),
            attribute_claims: section
                .optional("attribute_claims", &())
                .unwrap_or_default(),
            jwks_url,
        };
        if let Some(url) = &config.jwks_url {
            check_service(section, "jwks_url", url, config.jwks_ca.as_deref());
        }
        if config.checks.endless && config.checks.max_lifetime > 0 {
            section.problem(
                Code::Contradiction,
                "max_lifetime_s",
                "auth.jwt.max_lifetime_s bounds an expiry that auth.jwt.require_expiry = false does not ask for",
            );
        }
        if !given && any {
            section.problem(
                Code::Contradiction,
                "keys",
                "nothing says which tokens are good: add auth.jwt.keys, auth.jwt.jwks_url or auth.jwt.secret_file",
            );
        }
        if !given {
            for key in [
                "jwks_refresh_s",
                "jwks_stale_s",
                "leeway_s",
                "max_lifetime_s",
                "require_expiry",
                "username_claim",
            ] {
                section.hide(key);
            }
        }
        given.then_some(config)
    }
}

/// What holds while the web service cannot be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenAway {
    /// The client is refused: 0x88, it may come again.
    Deny,
    /// The next method is asked.
    Ignore,
}
word_setting!(WhenAway { "deny" => WhenAway::Deny, "ignore" => WhenAway::Ignore });

/// `[auth.http]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookConfig {
    /// What is asked.
    pub url: String,
    /// PEM file: the authorities that may have signed its certificate.
    pub ca: Option<PathBuf>,
    /// A file that is the token which the service is shown.
    pub token_file: Option<PathBuf>,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Questions at once.
    pub max_concurrent: usize,
    /// What holds while it cannot be asked.
    pub when_away: WhenAway,
    /// How long an answer holds for the same question; zero: it is asked each time.
    pub cache: Duration,
}

impl HookConfig {
    /// `None`: no service is asked.
    pub(super) fn read(section: &mut Section<'_>) -> Option<Self> {
        let url = section.optional::<String>("url", &());
        let any = section.any();
        let config = Self {
            ca: section.optional::<String>("ca", &()).map(PathBuf::from),
            token_file: section
                .optional::<String>("token_file", &())
                .map(PathBuf::from),
            timeout: Duration::from_millis(section.get("timeout_ms", 2_000, &(10..=60_000))),
            max_concurrent: section.get("max_concurrent", 64, &(1..=10_000)),
            when_away: section.get("when_away", WhenAway::Deny, &()),
            cache: Duration::from_millis(section.get("cache_ms", 0, &(0..=3_600_000))),
            url: url.clone().unwrap_or_default(),
        };
        match &url {
            Some(url) => check_service(section, "url", url, config.ca.as_deref()),
            None => {
                for key in ["timeout_ms", "max_concurrent", "when_away", "cache_ms"] {
                    section.hide(key);
                }
                if any && !section.has("url") {
                    section.problem(
                        Code::Contradiction,
                        "url",
                        "nothing says which service is asked: add auth.http.url",
                    );
                }
            }
        }
        url.map(|_| config)
    }
}

fn check_service(section: &mut Section<'_>, key: &str, url: &str, ca: Option<&std::path::Path>) {
    if let Err(error) = HttpClient::new(url, ca, Duration::from_secs(1), ANSWER_MAX) {
        let text = format!("{} is {error}", section.path(key));
        section.problem(Code::WrongValue, key, text);
    }
}

/// `[[auth.user]]`: what is known of a name, however it was verified in this broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserConfig {
    /// The name.
    pub name: String,
    /// The tenant it belongs to.
    pub tenant: Option<String>,
    /// What it is.
    pub roles: Vec<String>,
}

impl UserConfig {
    pub(super) fn read(section: &mut Section<'_>) -> Option<Self> {
        let name = section.optional::<String>("name", &());
        if name.is_none() && !section.has("name") {
            section.problem(
                Code::Contradiction,
                "name",
                "the user has no name: add name = \"…\", as it stands in the users file or in a certificate",
            );
        }
        Some(Self {
            tenant: section.optional("tenant", &()),
            roles: section.optional("roles", &()).unwrap_or_default(),
            name: name?,
        })
    }
}
