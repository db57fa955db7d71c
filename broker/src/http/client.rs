//! Asks one HTTP service, with or without TLS: hooks, key sets, the administration of a broker.
//!
//! One client is for one base address. It keeps a few connections open, waits for no answer longer than it was told, and
//! reads none that is larger than it was told. It follows no redirects: where it is to ask was configured.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Connections that are kept while nobody asks.
const IDLE_MAX: usize = 16;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address makes no sense, or the CA file does not.
    #[error("{0}")]
    Setup(String),
    /// Nobody is there, or TLS does not come about.
    #[error("{place} cannot be reached: {why}")]
    Connect {
        /// Host and port.
        place: String,
        /// In the system's words.
        why: String,
    },
    /// It took too long.
    #[error("{place} has not answered within {after:?}")]
    TimedOut {
        /// Host and port.
        place: String,
        /// How long was waited.
        after: Duration,
    },
    /// The answer broke off, is no HTTP or too large.
    #[error("the answer of {place} cannot be used: {why}")]
    Answer {
        /// Host and port.
        place: String,
        /// What is wrong with it.
        why: String,
    },
}

/// What a service says.
#[derive(Debug, Clone)]
pub struct Answer {
    /// How it went.
    pub status: StatusCode,
    /// As they came.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

type Sender = SendRequest<Full<Bytes>>;

/// A service and the connections to it.
pub struct HttpClient {
    host: Box<str>,
    port: u16,
    /// As the header `host` names it.
    authority: HeaderValue,
    /// What comes before every path, without a slash at its end.
    base: Box<str>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    timeout: Duration,
    answer_max: usize,
    idle: Mutex<Vec<Sender>>,
}

impl std::fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpClient")
            .field("place", &self.place())
            .finish_non_exhaustive()
    }
}

impl HttpClient {
    /// For what is at `url` (`http://` or `https://`, host, port, the beginning of paths). TLS trusts the authorities in `ca`, a PEM
    /// file, or those of the system. `timeout` is for one request with everything, `answer_max` bytes for the body of its answer.
    ///
    /// # Errors
    /// [`HttpError::Setup`], in words for whoever has configured it.
    pub fn new(
        url: &str,
        ca: Option<&Path>,
        timeout: Duration,
        answer_max: usize,
    ) -> Result<Self, HttpError> {
        let setup = |why: String| HttpError::Setup(format!("{url:?}: {why}"));
        let uri: Uri = url
            .parse()
            .map_err(|error| setup(format!("no address: {error}")))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(setup("must begin with http:// or https://".to_owned())),
        };
        let authority = uri
            .authority()
            .ok_or_else(|| setup("has no host".to_owned()))?;
        if authority.as_str().contains('@') {
            return Err(setup(
                "names and passwords in an address are not supported".to_owned(),
            ));
        }
        if uri.query().is_some() {
            return Err(setup("must have no query".to_owned()));
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let tls = if tls {
            let name = ServerName::try_from(host.clone())
                .map_err(|error| setup(format!("no name for TLS: {error}")))?;
            Some((TlsConnector::from(Arc::new(trusting(ca)?)), name))
        } else {
            None
        };
        Ok(Self {
            authority: HeaderValue::from_str(authority.as_str())
                .map_err(|error| setup(error.to_string()))?,
            host: host.into(),
            port,
            base: uri.path().trim_end_matches('/').into(),
            tls,
            timeout,
            answer_max,
            idle: Mutex::default(),
        })
    }

    /// Host and port, for messages.
    #[must_use]
    pub fn place(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Asks; `path` follows the base address, its query included. Cancel safe: whether the service has seen the request is
    /// not known then.
    ///
    /// # Errors
    /// All but [`HttpError::Setup`].
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<Answer, HttpError> {
        let asked = self.ask(method, path, headers, body);
        match tokio::time::timeout(self.timeout, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(HttpError::TimedOut {
                place: self.place(),
                after: self.timeout,
            }),
        }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<Answer, HttpError> {
        let request = || {
            let target = format!("{}{path}", self.base);
            let target = if target.is_empty() {
                "/".to_owned()
            } else {
                target
            };
            let mut request = Request::builder()
                .method(method.clone())
                .uri(target)
                .header(header::HOST, self.authority.clone())
                .header(
                    header::USER_AGENT,
                    concat!("dunlin/", env!("CARGO_PKG_VERSION")),
                );
            for (name, value) in headers {
                request = request.header(name, value);
            }
            request
                .body(Full::new(body.clone()))
                .map_err(|error| self.unusable(&error))
        };
        // A kept connection may have been closed by the other side; what it has not sent is sent again.
        loop {
            let kept = self.idle.lock().pop();
            let Some(mut sender) = kept else { break };
            if sender.ready().await.is_err() {
                continue;
            }
            match sender.send_request(request()?).await {
                Ok(response) => return self.read(sender, response).await,
                Err(error)
                    if error.is_canceled()
                        || error.is_incomplete_message() && method.is_idempotent() => {}
                Err(error) => return Err(self.unusable(&error)),
            }
        }
        let mut sender = self.connect().await?;
        let response = sender.send_request(request()?).await;
        let response = response.map_err(|error| self.unusable(&error))?;
        self.read(sender, response).await
    }

    async fn read(
        &self,
        sender: Sender,
        response: hyper::Response<hyper::body::Incoming>,
    ) -> Result<Answer, HttpError> {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, self.answer_max).collect().await;
        let body = body.map_err(|error| HttpError::Answer {
            place: self.place(),
            why: error.to_string(),
        })?;
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_MAX {
            idle.push(sender);
        }
        drop(idle);
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body: body.to_bytes(),
        })
    }

    async fn connect(&self) -> Result<Sender, HttpError> {
        let fault = |why: String| HttpError::Connect {
            place: self.place(),
            why,
        };
        let stream = TcpStream::connect((&*self.host, self.port))
            .await
            .map_err(|error| fault(error.to_string()))?;
        stream
            .set_nodelay(true)
            .map_err(|error| fault(error.to_string()))?;
        match &self.tls {
            None => open(TokioIo::new(stream)).await,
            Some((connector, name)) => {
                let stream = connector
                    .connect(name.clone(), stream)
                    .await
                    .map_err(|error| fault(error.to_string()))?;
                open(TokioIo::new(stream)).await
            }
        }
        .map_err(|error| fault(error.to_string()))
    }

    fn unusable(&self, error: &dyn std::error::Error) -> HttpError {
        HttpError::Answer {
            place: self.place(),
            why: error.to_string(),
        }
    }
}

async fn open<S>(stream: S) -> hyper::Result<Sender>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(stream).await?;
    // It ends with its connection, at the latest when the sender is dropped.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to an HTTP service has ended");
        }
    });
    Ok(sender)
}

/// TLS that trusts the authorities of a file, or those of the system.
fn trusting(ca: Option<&Path>) -> Result<ClientConfig, HttpError> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            let shown = path.display();
            let pem = std::fs::read(path).map_err(|error| {
                HttpError::Setup(format!("cannot read the CA file {shown}: {error}"))
            })?;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                let certificate = certificate.map_err(|error| {
                    HttpError::Setup(format!("the CA file {shown} is damaged: {error}"))
                })?;
                roots.add(certificate).map_err(|error| {
                    HttpError::Setup(format!("the CA file {shown} holds no authority: {error}"))
                })?;
            }
            if roots.is_empty() {
                return Err(HttpError::Setup(format!(
                    "the CA file {shown} holds no certificate"
                )));
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                return Err(HttpError::Setup(
                    "this system names no authorities that could be trusted: name a CA file"
                        .to_owned(),
                ));
            }
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| HttpError::Setup(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(url: &str) -> Result<HttpClient, HttpError> {
        HttpClient::new(url, None, Duration::from_secs(1), 1_000)
    }

    #[test]
    fn an_address_is_understood_or_refused_in_clear_words() {
        let here = client("http://[::1]:81/a/b/").unwrap();
        assert_eq!((here.place().as_str(), &*here.base), ("[::1]:81", "/a/b"));
        assert_eq!(client("http://host").unwrap().place(), "host:80");
        for url in [
            "",
            "host",
            "ftp://host/",
            "http://",
            "http://a:b@host/",
            "http://host/?a=b",
        ] {
            assert!(matches!(client(url), Err(HttpError::Setup(_))), "{url}");
        }
        let missing = HttpClient::new("https://host", Some(Path::new("/none")), Duration::ZERO, 0);
        assert!(missing.unwrap_err().to_string().contains("/none"));
    }
}
