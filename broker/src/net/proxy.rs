//! The PROXY protocol: who the client is, as the load balancer in front says.
//!
//! No byte beyond the header is taken from the socket: what follows belongs to TLS, to WebSocket or
//! to MQTT.

use std::{io, net::SocketAddr};

use proxy_header::{ParseConfig, ProxyHeader};
use tokio::{io::AsyncReadExt, net::TcpStream};

use crate::config::ProxyProtocol;

/// Longest header of version 1, by the protocol's own rule.
const MAX_V1: usize = 107;
/// Longest header of version 2 that is read: 16 bytes and this much of addresses and extensions.
const MAX_V2_BODY: usize = 4_096;
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Why a header was refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyError {
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("it was closed before the PROXY header")]
    Closed,
    #[error("the PROXY header is missing or malformed")]
    Malformed,
    #[error("the PROXY header is longer than {0} bytes")]
    TooLong(usize),
    #[error("the PROXY header is of a version that proxy_protocol does not allow")]
    Version,
}

/// Reads the header. `None` when it names no client (the balancer's own health check).
pub(super) async fn read(
    stream: &mut TcpStream,
    accept: ProxyProtocol,
) -> Result<Option<SocketAddr>, ProxyError> {
    let mut header = Vec::with_capacity(MAX_V1);
    let first = stream.read_u8().await.map_err(end_is_closed)?;
    header.push(first);
    match first {
        b'P' => read_v1(stream, &mut header).await?,
        b'\r' => read_v2(stream, &mut header).await?,
        _ => return Err(ProxyError::Malformed),
    }
    let allowed = match accept {
        ProxyProtocol::Any => true,
        ProxyProtocol::V1 => first == b'P',
        ProxyProtocol::V2 => first == b'\r',
        ProxyProtocol::Off => false,
    };
    if !allowed {
        return Err(ProxyError::Version);
    }
    let config = ParseConfig {
        include_tlvs: false,
        ..ParseConfig::default()
    };
    match ProxyHeader::parse(&header, config) {
        Ok((parsed, len)) if len == header.len() => {
            Ok(parsed.proxied_address().map(|address| address.source))
        }
        _ => Err(ProxyError::Malformed),
    }
}

/// Takes bytes up to the line's end. They are peeked at first, so that nothing after it is taken.
async fn read_v1(stream: &mut TcpStream, header: &mut Vec<u8>) -> Result<(), ProxyError> {
    let mut peeked = [0; MAX_V1];
    while !header.ends_with(b"\r\n") {
        let room = MAX_V1 - header.len();
        let Some(peeked) = peeked.get_mut(..room).filter(|peeked| !peeked.is_empty()) else {
            return Err(ProxyError::TooLong(MAX_V1));
        };
        let len = stream.peek(peeked).await?;
        if len == 0 {
            return Err(ProxyError::Closed);
        }
        let line = peeked
            .iter()
            .take(len)
            .position(|byte| *byte == b'\n')
            .map_or(len, |at| at + 1);
        let start = header.len();
        header.resize(start + line, 0);
        stream
            .read_exact(&mut header[start..])
            .await
            .map_err(end_is_closed)?;
        if header.ends_with(b"\n") && !header.ends_with(b"\r\n") {
            return Err(ProxyError::Malformed);
        }
    }
    Ok(())
}

async fn read_v2(stream: &mut TcpStream, header: &mut Vec<u8>) -> Result<(), ProxyError> {
    header.resize(16, 0);
    stream
        .read_exact(&mut header[1..])
        .await
        .map_err(end_is_closed)?;
    if !header.starts_with(V2_SIGNATURE) {
        return Err(ProxyError::Malformed);
    }
    let body = usize::from(u16::from_be_bytes([header[14], header[15]]));
    if body > MAX_V2_BODY {
        return Err(ProxyError::TooLong(16 + MAX_V2_BODY));
    }
    header.resize(16 + body, 0);
    stream
        .read_exact(&mut header[16..])
        .await
        .map_err(end_is_closed)?;
    Ok(())
}

fn end_is_closed(error: io::Error) -> ProxyError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => ProxyError::Closed,
        _ => error.into(),
    }
}
