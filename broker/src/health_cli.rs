//! `broker health`: asks the broker's own endpoint, for images that have neither a shell nor curl.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use clap::ValueEnum;

/// Bytes of the answer that are read: reasons are a few lines.
const ANSWER_MAX: u64 = 64 * 1024;

/// What is asked.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Question {
    /// Is the start over?
    Started,
    /// Should it be given work?
    Ready,
    /// Do the loops of all threads move?
    Live,
}

impl Question {
    fn path(self) -> &'static str {
        match self {
            Self::Started => "/health/started",
            Self::Ready => "/health/ready",
            Self::Live => "/health/live",
        }
    }
}

/// Asks; `Ok` holds what a healthy broker says.
///
/// # Errors
/// What is wrong: the broker's own words where it answers, else why it was not reached.
pub(crate) fn ask(
    listen: SocketAddr,
    question: Question,
    patience: Duration,
) -> Result<String, String> {
    let address = reachable(listen);
    let answer = exchange(address, question.path(), patience)
        .map_err(|error| format!("{address} does not answer: {error}"))?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| format!("{address} does not speak HTTP"))?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        Some("503") => Err(body.trim_end().replace('\n', "; ")),
        _ => Err(format!(
            "{address} says {:?}",
            head.lines().next().unwrap_or_default()
        )),
    }
}

/// Where a listener on every address is reached from within.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn exchange(address: SocketAddr, path: &str, patience: Duration) -> std::io::Result<String> {
    let end = Instant::now() + patience;
    let left = || {
        end.saturating_duration_since(Instant::now())
            .max(Duration::from_millis(1))
    };
    let mut stream = TcpStream::connect_timeout(&address, left())?;
    stream.set_write_timeout(Some(left()))?;
    stream.set_read_timeout(Some(left()))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(ANSWER_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_asked_on_the_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:9100", "127.0.0.1:9100"),
            ("[::]:9100", "[::1]:9100"),
            ("10.0.0.7:9100", "10.0.0.7:9100"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
