//! Where clients may connect.

use std::{net::SocketAddr, path::PathBuf};

use super::{access::Methods, reader::Section, setting::word_setting};
use crate::error::Code;

/// What is spoken below MQTT on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerKind {
    /// Plain TCP.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// WebSocket over TCP.
    Ws,
    /// WebSocket over TLS.
    Wss,
}
word_setting!(ListenerKind {
    "tcp" => ListenerKind::Tcp,
    "tls" => ListenerKind::Tls,
    "ws" => ListenerKind::Ws,
    "wss" => ListenerKind::Wss,
});

impl ListenerKind {
    /// Whether a certificate is needed.
    #[must_use]
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::Wss)
    }

    /// Whether MQTT travels in WebSocket frames.
    #[must_use]
    pub fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }

    /// The word used in the configuration, in logs and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }
}

/// Whether a PROXY protocol header comes first on every connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// None is read; one that comes is a fault.
    Off,
    /// The text form only.
    V1,
    /// The binary form only.
    V2,
    /// Either form.
    Any,
}
word_setting!(ProxyProtocol {
    "off" => ProxyProtocol::Off,
    "v1" => ProxyProtocol::V1,
    "v2" => ProxyProtocol::V2,
    "any" => ProxyProtocol::Any,
});

/// Whether clients show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// They are not asked.
    None,
    /// They are asked, and may refuse; a certificate that is shown must be valid.
    Optional,
    /// Without a valid certificate the handshake fails.
    Required,
}
word_setting!(ClientAuth {
    "none" => ClientAuth::None,
    "optional" => ClientAuth::Optional,
    "required" => ClientAuth::Required,
});

/// Which part of a client certificate is the user name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameFrom {
    /// The common name of the subject.
    Cn,
    /// The first DNS name, e-mail address or URI of the subject's alternative names.
    San,
    /// SHA-256 of all of it, in hexadecimal digits.
    Fingerprint,
}
word_setting!(NameFrom {
    "cn" => NameFrom::Cn,
    "san" => NameFrom::San,
    "fingerprint" => NameFrom::Fingerprint,
});

/// Which part of a client certificate's subject is the tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TenantFrom {
    /// The organisation.
    O,
    /// The organisational unit.
    Ou,
}
word_setting!(TenantFrom { "o" => TenantFrom::O, "ou" => TenantFrom::Ou });

/// The oldest TLS that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2 and 1.3.
    V12,
    /// TLS 1.3 alone.
    V13,
}
word_setting!(TlsVersion { "1.2" => TlsVersion::V12, "1.3" => TlsVersion::V13 });

/// A certificate for those who ask for one of its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SniConfig {
    /// Host names; `*.` at the beginning stands for one label. Empty: those in the certificate.
    pub names: Vec<String>,
    /// PEM file: the certificate, then its intermediates.
    pub certificate: PathBuf,
    /// PEM file: its private key.
    pub key: PathBuf,
}

impl SniConfig {
    fn read(section: &mut Section<'_>) -> Option<Self> {
        let names = section.optional("names", &()).unwrap_or_default();
        let certificate = section.optional::<String>("certificate", &());
        let key = section.optional::<String>("key", &());
        for (name, missing) in [
            ("certificate", certificate.is_none()),
            ("key", key.is_none()),
        ] {
            if missing && !section.has(name) {
                let text = format!(
                    "the entry has no {name}: add {name} = \"…\" with the path of a PEM file"
                );
                section.problem(Code::Contradiction, name, text);
            }
        }
        Some(Self {
            names,
            certificate: certificate?.into(),
            key: key?.into(),
        })
    }
}

/// TLS of one listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// PEM file: the server's certificate, then its intermediates.
    pub certificate: PathBuf,
    /// PEM file: the private key (PKCS#8, PKCS#1 or SEC1).
    pub key: PathBuf,
    /// PEM file: the authorities that client certificates must come from.
    pub client_ca: Option<PathBuf>,
    /// Whether clients show a certificate.
    pub client_auth: ClientAuth,
    /// Where the user name is taken from; `None` leaves the name to the CONNECT packet.
    pub name_from: Option<NameFrom>,
    /// Where the tenant is taken from; `None`: a certificate says nothing of it.
    pub tenant_from: Option<TenantFrom>,
    /// Lists of revoked certificates, PEM or DER.
    pub crl: Vec<PathBuf>,
    /// Certificates for those who ask for other names.
    pub sni: Vec<SniConfig>,
    /// The oldest TLS that is spoken.
    pub min_version: TlsVersion,
}

impl TlsConfig {
    /// A server's certificate and key, and nothing else.
    #[must_use]
    pub fn new(certificate: PathBuf, key: PathBuf) -> Self {
        Self {
            certificate,
            key,
            client_ca: None,
            client_auth: ClientAuth::None,
            name_from: None,
            tenant_from: None,
            crl: Vec::new(),
            sni: Vec::new(),
            min_version: TlsVersion::V12,
        }
    }

    /// The files that it is made of.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let own = [
            Some(&self.certificate),
            Some(&self.key),
            self.client_ca.as_ref(),
        ];
        let sni = self.sni.iter().flat_map(|sni| [&sni.certificate, &sni.key]);
        own.into_iter().flatten().chain(&self.crl).chain(sni)
    }
}

/// One listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Its name in logs, metrics and messages; unique.
    pub name: String,
    /// What it binds.
    pub address: SocketAddr,
    /// What is spoken below MQTT.
    pub kind: ListenerKind,
    /// TLS; present exactly when the kind is TLS.
    pub tls: Option<TlsConfig>,
    /// Whether a PROXY header comes first.
    pub proxy_protocol: ProxyProtocol,
    /// The path of a WebSocket listener, such as `/mqtt`.
    pub path: String,
    /// Connections open at once on this listener; `None` leaves it to the limit of the broker.
    pub max_connections: Option<usize>,
    /// Whether clients without a name are accepted here; `None` leaves it to `[auth]`.
    pub anonymous: Option<bool>,
    /// The methods that are asked who a client is, in order; `None` leaves it to `[auth]`.
    pub auth: Option<Methods>,
    /// The tenant of everybody who comes in here; `None` leaves it to what clients show.
    pub tenant: Option<String>,
    /// Its place in the configuration, such as `listener[0]`.
    pub(crate) key: String,
}

impl ListenerConfig {
    /// A plain TCP listener, as `listen` and `--listen` make it.
    #[must_use]
    pub fn tcp(address: SocketAddr) -> Self {
        Self {
            name: format!("tcp-{}", address.port()),
            address,
            kind: ListenerKind::Tcp,
            tls: None,
            proxy_protocol: ProxyProtocol::Off,
            path: "/mqtt".to_owned(),
            max_connections: None,
            anonymous: None,
            auth: None,
            tenant: None,
            key: "listen".to_owned(),
        }
    }

    /// Reads one `[[listener]]`; `None` after a fault that leaves nothing to listen on.
    pub(super) fn read(section: &mut Section<'_>, index: usize) -> Option<Self> {
        let kind = section.get("type", ListenerKind::Tcp, &());
        let address = section.optional::<SocketAddr>("address", &());
        if address.is_none() && !section.has("address") {
            section.problem(
                Code::Contradiction,
                "address",
                "the listener has no address: add address = \"127.0.0.1:1883\"",
            );
        }
        let default_name = address.map_or_else(
            || format!("listener-{}", index + 1),
            |address| format!("{}-{}", kind.as_str(), address.port()),
        );
        let name = section.get("name", default_name, &());
        let path = section.get("path", "/mqtt".to_owned(), &());
        if !kind.is_websocket() {
            section.hide("path");
            if section.has("path") {
                let text = format!(
                    "listener {name:?} is of type \"{}\", which has no path: remove it, or use type \"ws\" or \"wss\"",
                    kind.as_str()
                );
                section.problem(Code::Contradiction, "path", text);
            }
        } else if !path.starts_with('/') {
            section.problem(
                Code::WrongValue,
                "path",
                format!(
                    "{} is {path:?}: must begin with \"/\"",
                    section.path("path")
                ),
            );
        }
        let proxy_protocol = section.get("proxy_protocol", ProxyProtocol::Off, &());
        let max_connections = section.optional("max_connections", &(1..=10_000_000));
        let anonymous = section.optional("anonymous", &());
        let auth = section.optional("auth", &());
        let tenant: Option<String> = section.optional("tenant", &());
        if let Some(Err(fault)) = tenant.as_deref().map(crate::core::mount::check_name) {
            section.problem(Code::WrongValue, "tenant", fault);
        }
        let tls = Self::read_tls(section, kind, &name);
        let key = section.path("address");
        let key = key.trim_end_matches(".address").to_owned();
        Some(Self {
            name,
            address: address?,
            kind,
            tls,
            proxy_protocol,
            path,
            max_connections,
            anonymous,
            auth,
            tenant,
            key,
        })
    }

    fn read_tls(section: &mut Section<'_>, kind: ListenerKind, name: &str) -> Option<TlsConfig> {
        let given = section.has("tls");
        if !kind.is_tls() {
            if given {
                let text = format!(
                    "listener {name:?} is of type \"{0}\", which has no TLS: remove the table, or use type \"{1}\"",
                    kind.as_str(),
                    if kind.is_websocket() { "wss" } else { "tls" }
                );
                section.problem(Code::Contradiction, "tls", text);
                section.with_table("tls", TlsConfig::read);
            }
            return None;
        }
        if !given {
            let text = format!(
                "listener {name:?} is of type \"{}\" and has no certificate: add tls = {{ certificate = \"server.pem\", key = \"server.key\" }}",
                kind.as_str()
            );
            section.problem(Code::Contradiction, "tls", text);
        }
        let tls = section.with_table("tls", TlsConfig::read);
        tls.filter(|_| given)
    }
}

impl TlsConfig {
    pub(super) fn read(section: &mut Section<'_>) -> Option<Self> {
        let certificate = section.optional::<String>("certificate", &());
        let key = section.optional::<String>("key", &());
        let client_ca = section
            .optional::<String>("client_ca", &())
            .map(PathBuf::from);
        let default = if client_ca.is_some() {
            ClientAuth::Required
        } else {
            ClientAuth::None
        };
        let client_auth = section.get("client_auth", default, &());
        let name_from = section.optional("name_from", &());
        let tenant_from = section.optional("tenant_from", &());
        let crl: Vec<String> = section.optional("crl", &()).unwrap_or_default();
        let sni: Vec<_> = section.tables("sni", SniConfig::read).unwrap_or_default();
        let min_version = section.get("min_version", TlsVersion::V12, &());
        if !crl.is_empty() && client_auth == ClientAuth::None {
            section.problem(Code::Contradiction, "crl", "crl lists certificates of clients, and none are asked for: add client_auth = \"required\" and client_ca");
        }
        for (name, missing) in [
            ("certificate", certificate.is_none()),
            ("key", key.is_none()),
        ] {
            if missing && !section.has(name) && (certificate.is_some() || key.is_some()) {
                section.problem(
                    Code::Contradiction,
                    name,
                    format!("tls has no {name}: add {name} = \"…\" with the path of a PEM file"),
                );
            }
        }
        if client_auth != ClientAuth::None && client_ca.is_none() && !section.has("client_ca") {
            section.problem(Code::Contradiction, "client_auth", "client_auth asks for certificates, and nothing says which are good: add client_ca = \"…\" with the path of a PEM file");
        }
        if name_from.is_some() && client_auth == ClientAuth::None {
            section.problem(Code::Contradiction, "name_from", "name_from needs certificates of the clients: add client_auth = \"required\" and client_ca");
        }
        if tenant_from.is_some() && client_auth == ClientAuth::None {
            section.problem(Code::Contradiction, "tenant_from", "tenant_from needs certificates of the clients: add client_auth = \"required\" and client_ca");
        }
        Some(Self {
            certificate: certificate?.into(),
            key: key?.into(),
            client_ca,
            client_auth,
            name_from,
            tenant_from,
            crl: crl.into_iter().map(Into::into).collect(),
            sni: sni.into_iter().flatten().collect(),
            min_version,
        })
    }
}
