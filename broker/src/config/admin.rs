//! The administration over HTTP: the table `[admin]`.

use std::{net::SocketAddr, path::PathBuf};

use super::{TlsConfig, reader::Section};
use crate::error::Code;

/// Where devices are administered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminConfig {
    /// What it binds.
    pub listen: SocketAddr,
    /// The file of those who may.
    pub tokens: PathBuf,
    /// TLS; without it tokens travel in clear.
    pub tls: Option<TlsConfig>,
}

impl AdminConfig {
    pub(super) fn read(section: &mut Section<'_>) -> Option<Self> {
        let listen = section.optional::<SocketAddr>("listen", &());
        let tokens = section.optional::<String>("tokens_file", &());
        let plain = section.get("plain", false, &());
        let tls = section.with_table("tls", TlsConfig::read);
        if listen.is_none() && !section.has("listen") {
            section.hide("plain");
            section.hide("tls");
            if tokens.is_some() || section.has("tls") || section.has("plain") {
                let text =
                    "admin has no listen: add listen = \"127.0.0.1:9443\", or remove the table";
                section.problem(Code::Contradiction, "listen", text);
            }
            return None;
        }
        if tokens.is_none() && !section.has("tokens_file") {
            let text = "admin has no tokens_file: make one with `broker token admin-tokens.txt NAME --write`, and add tokens_file = \"admin-tokens.txt\"";
            section.problem(Code::Contradiction, "tokens_file", text);
        }
        let listen = listen?;
        if !listen.ip().is_loopback() && !section.has("tls") && !plain {
            let text = format!(
                "admin.listen is {listen}, which other machines can reach, and has no TLS: tokens would travel in clear. \
                 Add admin.tls = {{ certificate = \"server.pem\", key = \"server.key\" }}, or plain = true when something in front of it does TLS"
            );
            section.problem(Code::WhoMayConnect, "listen", text);
        }
        Some(Self {
            listen,
            tokens: tokens?.into(),
            tls,
        })
    }
}
