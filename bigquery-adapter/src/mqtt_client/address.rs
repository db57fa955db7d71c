//! Where the broker is: `mqtt://host[:port]` or `mqtts://host[:port]`.

use std::fmt;
use std::str::FromStr;

/// A broker's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Name or IP address, an IPv6 address without its brackets.
    pub host: String,
    /// Port; 1883 without and 8883 with TLS where the text has none.
    pub port: u16,
    /// Whether TLS is spoken.
    pub tls: bool,
}

/// A text is not the address of a broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No scheme, or an unknown one.
    #[error("it must begin with mqtt:// or mqtts://")]
    Scheme,
    /// Nothing between scheme and port.
    #[error("it names no host")]
    Host,
    /// The port is no number from 1 to 65535.
    #[error("{0:?} is not a port, which is a number from 1 to 65535")]
    Port(String),
    /// User name or password in the address.
    #[error(
        "user name and password do not belong into it: set mqtt.username and mqtt.password_file"
    )]
    Credentials,
    /// Something after the port.
    #[error("there is something after the port: {0:?}")]
    Path(String),
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (tls, rest) = match text.split_once("://") {
            Some(("mqtt" | "tcp", rest)) => (false, rest),
            Some(("mqtts" | "ssl", rest)) => (true, rest),
            _ => return Err(AddressError::Scheme),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains('@') {
            return Err(AddressError::Credentials);
        }
        if let Some(at) = rest.find(['/', '?', '#']) {
            return Err(AddressError::Path(
                rest.get(at..).unwrap_or_default().to_owned(),
            ));
        }
        let default = if tls { 8883 } else { 1883 };
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']').ok_or(AddressError::Host)?;
                (
                    host,
                    after
                        .strip_prefix(':')
                        .or((!after.is_empty()).then_some(after)),
                )
            }
            None => rest
                .split_once(':')
                .map_or((rest, None), |(host, port)| (host, Some(port))),
        };
        if host.is_empty() {
            return Err(AddressError::Host);
        }
        let parse = |text: &str| {
            text.parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| AddressError::Port(text.to_owned()))
        };
        let port = port.map_or(Ok(default), parse)?;
        Ok(Self {
            host: host.to_owned(),
            port,
            tls,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        for (text, shown) in [
            ("mqtt://localhost", "mqtt://localhost:1883"),
            (
                "mqtts://broker.example.org/",
                "mqtts://broker.example.org:8883",
            ),
            ("mqtt://127.0.0.1:2000", "mqtt://127.0.0.1:2000"),
            ("tcp://a:1", "mqtt://a:1"),
            ("mqtt://[::1]:1884", "mqtt://[::1]:1884"),
            ("mqtts://[fe80::1]", "mqtts://[fe80::1]:8883"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, error) in [
            ("localhost:1883", AddressError::Scheme),
            ("http://localhost", AddressError::Scheme),
            ("mqtt://", AddressError::Host),
            ("mqtt://:1883", AddressError::Host),
            ("mqtt://a:0", AddressError::Port("0".to_owned())),
            ("mqtt://a:70000", AddressError::Port("70000".to_owned())),
            ("mqtt://[::1]x", AddressError::Port("x".to_owned())),
            ("mqtt://user:secret@a", AddressError::Credentials),
            ("mqtt://a:1/topic", AddressError::Path("/topic".to_owned())),
        ] {
            assert_eq!(text.parse::<Address>(), Err(error), "{text}");
        }
    }
}
