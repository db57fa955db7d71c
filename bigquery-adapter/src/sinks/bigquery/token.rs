//! Tokens: Application Default Credentials, a credentials file, or none for an emulator. Cached by the library and renewed before
//! they expire.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use gcp_bigquery_client::error::BQError;
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use yup_oauth2::AccessToken;
use yup_oauth2::authenticator::{ApplicationDefaultCredentialsTypes, DefaultAuthenticator};
use yup_oauth2::{
    ApplicationDefaultCredentialsAuthenticator, ApplicationDefaultCredentialsFlowOpts,
    AuthorizedUserAuthenticator, ServiceAccountAuthenticator,
};

const SCOPES: [&str; 1] = ["https://www.googleapis.com/auth/bigquery"];
/// What Google's own libraries read.
const FILE_VARIABLE: &str = "GOOGLE_APPLICATION_CREDENTIALS";
const METADATA_VARIABLE: &str = "GCE_METADATA_HOST";
const METADATA_PATH: &str = "/computeMetadata/v1/instance/service-accounts/default/token";

/// A server that has not given a token after this is not waited for.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Where tokens come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Application Default Credentials: the file that `GOOGLE_APPLICATION_CREDENTIALS` names, the file that `gcloud auth
    /// application-default login` has written, or the metadata server (Workload Identity).
    Default,
    /// A file with a service account's key or a user's credentials.
    File(PathBuf),
    /// No token at all: an emulator.
    None,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file.
    #[error("the credentials file {} cannot be used: {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Google's token server, or the metadata server.
    #[error(
        "no token from {from}: {reason}; check the service account (Workload Identity binding, key not revoked) and the machine's clock"
    )]
    Refused {
        /// Who was asked.
        from: String,
        /// What was said.
        reason: String,
    },
}

/// Gives tokens. Cheap to clone.
#[derive(Clone)]
pub struct Tokens {
    source: Option<Arc<DefaultAuthenticator>>,
    from: Arc<str>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens")
            .field("from", &self.from)
            .finish_non_exhaustive()
    }
}

impl Tokens {
    /// Reads the credentials. No server is asked yet.
    ///
    /// # Errors
    /// When there is a file and it cannot be used.
    pub async fn open(credentials: &Credentials) -> Result<Self, TokenError> {
        match credentials {
            Credentials::None => Ok(Self {
                source: None,
                from: "nobody".into(),
            }),
            Credentials::File(path) => Self::file(path).await,
            Credentials::Default => match default_file() {
                Some(path) => Self::file(&path).await,
                None => {
                    let host = std::env::var(METADATA_VARIABLE);
                    let host = host.unwrap_or_else(|_| "metadata.google.internal".to_owned());
                    Self::metadata(&host).await
                }
            },
        }
    }

    async fn file(path: &Path) -> Result<Self, TokenError> {
        let refuse = |reason: String| TokenError::File {
            path: path.to_owned(),
            reason,
        };
        let text = tokio::fs::read(path)
            .await
            .map_err(|error| refuse(error.to_string()))?;
        let json: serde_json::Value =
            serde_json::from_slice(&text).map_err(|error| refuse(format!("no JSON: {error}")))?;
        let kind = json
            .get("type")
            .and_then(serde_json::Value::as_str)
            .unwrap_or_default();
        let source = match kind {
            "service_account" => {
                let key = serde_json::from_value(json.clone());
                let key = key.map_err(|error| refuse(error.to_string()))?;
                ServiceAccountAuthenticator::builder(key).build().await
            }
            "authorized_user" => {
                let secret = serde_json::from_value(json.clone());
                let secret = secret.map_err(|error| refuse(error.to_string()))?;
                AuthorizedUserAuthenticator::builder(secret).build().await
            }
            other => {
                return Err(refuse(format!(
                    "type {other:?} is neither \"service_account\" nor \"authorized_user\""
                )));
            }
        };
        let source = source.map_err(|error| refuse(error.to_string()))?;
        let server = json.get("token_uri").and_then(serde_json::Value::as_str);
        Ok(Self {
            source: Some(Arc::new(source)),
            from: server.unwrap_or("Google's token server").into(),
        })
    }

    async fn metadata(host: &str) -> Result<Self, TokenError> {
        let options = ApplicationDefaultCredentialsFlowOpts {
            metadata_url: Some(format!("http://{host}{METADATA_PATH}")),
        };
        let from = format!("the metadata server {host}");
        let built = match ApplicationDefaultCredentialsAuthenticator::builder(options).await {
            ApplicationDefaultCredentialsTypes::InstanceMetadata(builder) => builder.build().await,
            ApplicationDefaultCredentialsTypes::ServiceAccount(builder) => builder.build().await,
        };
        let source = built.map_err(|error| TokenError::Refused {
            from: from.clone(),
            reason: error.to_string(),
        })?;
        Ok(Self {
            source: Some(Arc::new(source)),
            from: from.into(),
        })
    }

    /// A token that is valid for a minute at least; `None` where none is needed. Cancel safe.
    ///
    /// # Errors
    /// When none can be had.
    pub async fn token(&self) -> Result<Option<String>, TokenError> {
        let Some(source) = &self.source else {
            return Ok(None);
        };
        self.check(timeout(TIMEOUT, source.token(&SCOPES)).await)
    }

    /// A new token, though the old one should still be good: it was refused. Cancel safe.
    ///
    /// # Errors
    /// When none can be had.
    pub async fn renew(&self) -> Result<(), TokenError> {
        let Some(source) = &self.source else {
            return Ok(());
        };
        let renewed = timeout(TIMEOUT, source.force_refreshed_token(&SCOPES));
        self.check(renewed.await).map(drop)
    }

    fn check(
        &self,
        token: Result<Result<AccessToken, yup_oauth2::Error>, Elapsed>,
    ) -> Result<Option<String>, TokenError> {
        let refused = |reason: String| TokenError::Refused {
            from: self.from.to_string(),
            reason,
        };
        let token = token.map_err(|_| refused(format!("no answer within {TIMEOUT:?}")))?;
        let token = token.map_err(|error| refused(error.to_string()))?;
        match token.token() {
            Some(text) if !text.is_empty() => Ok(Some(text.to_owned())),
            _ => Err(refused("an answer without a token".to_owned())),
        }
    }
}

#[async_trait]
impl gcp_bigquery_client::auth::Authenticator for Tokens {
    async fn access_token(&self) -> Result<String, BQError> {
        match self.token().await {
            Ok(token) => Ok(token.unwrap_or_default()),
            Err(error) => {
                tracing::warn!("{error}");
                Err(BQError::NoToken)
            }
        }
    }
}

fn default_file() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(FILE_VARIABLE) {
        return Some(PathBuf::from(path));
    }
    let home = PathBuf::from(std::env::var_os("HOME")?);
    let path = home.join(".config/gcloud/application_default_credentials.json");
    path.exists().then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_gives_no_token_is_not_waited_for() {
        // It takes connections, and says nothing.
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = silent.local_addr().unwrap().to_string();
        let tokens = Tokens::metadata(&host).await.unwrap();
        let error = tokens.token().await.unwrap_err().to_string();
        assert!(error.contains("no answer within 30s"), "{error}");
        let error = tokens.renew().await.unwrap_err().to_string();
        assert!(error.contains("no answer within 30s"), "{error}");
    }
}
