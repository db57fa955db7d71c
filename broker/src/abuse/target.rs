//! Who can be banned.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Longest name or id that can be banned, in bytes.
const NAME_MAX: usize = 512;

/// Addresses with the same first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Net {
    /// As of IPv6; those of IPv4 are mapped into it.
    bits: u128,
    /// Of 128.
    length: u8,
}

/// The bits of IPv4 begin here.
const V4_AT: u8 = 96;

impl Net {
    /// The address alone.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        Self::with(address, 128)
    }

    /// The first `length` bits of the address.
    fn with(address: IpAddr, length: u8) -> Self {
        let bits = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
            IpAddr::V6(address) => address.to_bits(),
        };
        Self { bits, length }.cut(length)
    }

    /// How many first bits are the same.
    pub(super) fn length(self) -> u8 {
        self.length
    }

    /// The larger net of so many bits.
    pub(super) fn cut(self, length: u8) -> Self {
        let away = 128_u32.saturating_sub(length.into());
        let bits = match away {
            128 => 0,
            away => self.bits >> away << away,
        };
        Self { bits, length }
    }

    /// Whether the address is in it.
    #[must_use]
    pub fn holds(self, address: IpAddr) -> bool {
        Self::of(address).cut(self.length) == self
    }
}

impl FromStr for Net {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fault = || {
            format!(
                "{text:?} is no address: write 192.0.2.1, 192.0.2.0/24, 2001:db8::1 or 2001:db8::/64"
            )
        };
        let (address, length) = match text.split_once('/') {
            None => (text, None),
            Some((address, length)) => (address, Some(length)),
        };
        let address: IpAddr = address.parse().map_err(|_| fault())?;
        let (own, at) = match address {
            IpAddr::V4(_) => (32, V4_AT),
            IpAddr::V6(_) => (128, 0),
        };
        let length = match length {
            None => own,
            Some(length) => length
                .parse()
                .ok()
                .filter(|length| *length <= own)
                .ok_or_else(fault)?,
        };
        if length < 8 {
            return Err(format!(
                "{text:?} is too much of the Internet: a ban takes a prefix of 8 bits at least"
            ));
        }
        Ok(Self::with(address, at + length))
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = std::net::Ipv6Addr::from_bits(self.bits);
        match address.to_ipv4_mapped().filter(|_| self.length >= V4_AT) {
            Some(address) if self.length == 128 => write!(f, "{address}"),
            Some(address) => write!(f, "{address}/{}", self.length - V4_AT),
            None if self.length == 128 => write!(f, "{address}"),
            None => write!(f, "{address}/{}", self.length),
        }
    }
}

/// Who is banned. Its text, such as `address:192.0.2.0/24` or `client:meter-7`, is the key of its record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// All who come from there.
    Address(Net),
    /// A client id; that of a tenant's client is `$tenant/<tenant>/<client id>`.
    Client(Box<str>),
    /// A verified user name; that of a tenant's user is `<tenant>/<name>`.
    User(Box<str>),
    /// A device of the registry: `<tenant or nothing>/<device id>`.
    Device(Box<str>),
    /// All of a tenant.
    Tenant(Box<str>),
    /// One token: its `jti`.
    Token(Box<str>),
    /// One certificate: its SHA-256, in 64 hexadecimal digits.
    Certificate(Box<str>),
}

/// The digits of a SHA-256, also as `openssl x509 -fingerprint -sha256` shows them.
fn fingerprint(text: &str) -> Result<Box<str>, String> {
    let digits = text.replace(':', "").to_ascii_lowercase();
    let right = digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    right
        .then(|| digits.into())
        .ok_or_else(|| format!("{text:?} is no SHA-256: it has 64 hexadecimal digits"))
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, value) = text.split_once(':').ok_or_else(|| {
            format!(
                "{text:?} is no target: write address:…, client:…, user:…, device:…, tenant:…, token:… or certificate:…"
            )
        })?;
        if value.is_empty() || value.len() > NAME_MAX || value.contains(char::is_control) {
            return Err(format!(
                "what is banned must have 1 to {NAME_MAX} bytes and no control characters"
            ));
        }
        match kind {
            "address" => value.parse().map(Self::Address),
            "client" => Ok(Self::Client(value.into())),
            "user" => Ok(Self::User(value.into())),
            "device" if value.contains('/') => Ok(Self::Device(value.into())),
            "device" => Ok(Self::Device(format!("/{value}").into())),
            "tenant" => Ok(Self::Tenant(value.into())),
            "token" => Ok(Self::Token(value.into())),
            "certificate" => fingerprint(value).map(Self::Certificate),
            other => Err(format!(
                "{other:?} cannot be banned: address, client, user, device, tenant, token or certificate can"
            )),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(net) => write!(f, "address:{net}"),
            Self::Client(id) => write!(f, "client:{id}"),
            Self::User(name) => write!(f, "user:{name}"),
            Self::Device(id) => write!(f, "device:{id}"),
            Self::Tenant(name) => write!(f, "tenant:{name}"),
            Self::Token(id) => write!(f, "token:{id}"),
            Self::Certificate(sha256) => write!(f, "certificate:{sha256}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_they_are_written() {
        for (text, shown) in [
            ("address:192.0.2.1", "address:192.0.2.1"),
            ("address:192.0.2.77/24", "address:192.0.2.0/24"),
            ("address:::ffff:192.0.2.1", "address:192.0.2.1"),
            ("address:2001:db8::1", "address:2001:db8::1"),
            ("address:2001:db8::1/64", "address:2001:db8::/64"),
            ("client:a:b", "client:a:b"),
            ("user:ann", "user:ann"),
            ("device:acme/pump", "device:acme/pump"),
            ("device:pump", "device:/pump"),
            ("tenant:acme", "tenant:acme"),
            ("token:a/7", "token:a/7"),
            (
                "certificate:AB:CD00000000000000000000000000000000000000000000000000000000000f",
                "certificate:abcd00000000000000000000000000000000000000000000000000000000000f",
            ),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!(target.to_string(), shown);
            assert_eq!(shown.parse::<Target>().unwrap(), target);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_words() {
        for text in [
            "192.0.2.1",
            "address:here",
            "address:192.0.2.1/33",
            "address:0.0.0.0/0",
            "address:::/0",
            "client:",
            "user:a\nb",
            "role:admin",
            "certificate:abcd",
            "token:",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_net_holds_its_addresses_in_either_form() {
        let net: Net = "192.0.2.0/24".parse().unwrap();
        for (address, held) in [
            ("192.0.2.255", true),
            ("::ffff:192.0.2.3", true),
            ("192.0.3.0", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(net.holds(address.parse().unwrap()), held, "{address}");
        }
    }
}
