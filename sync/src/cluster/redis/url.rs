//! Where Redis is, as an operator writes it.

use std::path::PathBuf;

/// Port of Redis where none is given.
const PORT: u16 = 6379;
/// Port of a Sentinel where none is given.
const SENTINEL_PORT: u16 = 26379;
const SCHEMES: &str = "redis://host:6379, rediss://host:6380 (TLS), redis+unix:///path, \
     redis+sentinel://host1:26379,host2:26379/mymaster or redis+cluster://host1:6379,host2:6379 \
     (with TLS: rediss+sentinel://…, rediss+cluster://…)";

/// Why a URL cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Not one of the known forms.
    #[error("{0:?} is not a scheme for Redis: write {SCHEMES}")]
    Scheme(String),
    /// Nothing between scheme and path.
    #[error("no host: write {SCHEMES}")]
    NoHost,
    /// A host without a name.
    #[error("{0:?} is not a host: write host:port, or [address]:port for IPv6")]
    Host(String),
    /// A port that is none.
    #[error("{0:?} is not a port: write a number from 1 to 65535")]
    Port(String),
    /// Several hosts where there can be one.
    #[error(
        "{0} hosts for one server: write redis+sentinel:// or redis+cluster:// in front of several"
    )]
    Hosts(usize),
    /// Behind the hosts is not a database.
    #[error("{0:?} is not a database: write a number behind the last slash, or nothing")]
    Database(String),
    /// Sentinel needs to know whose master.
    #[error("no master is named: write redis+sentinel://host:26379/mymaster")]
    NoMaster,
    /// A Redis Cluster has one database.
    #[error("a Redis Cluster has no databases: leave out {0:?}")]
    ClusterDatabase(String),
    /// `%` without two digits.
    #[error("{0:?} has a % that is not followed by two hexadecimal digits: write %25 for %")]
    Percent(String),
    /// Something behind `?` or `#`.
    #[error("{0:?} is not understood: settings have places of their own in the configuration")]
    Query(String),
}

/// How the servers at the addresses work together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// One server, or a node of a cluster: it says so itself.
    Single,
    /// The addresses are Sentinels', which know the master of this name.
    Sentinel(String),
    /// A Redis Cluster.
    Cluster,
}

/// One server's address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Address {
    /// Host and port.
    Tcp(String, u16),
    /// A socket file.
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A URL, read.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) mode: Mode,
    pub(super) tls: bool,
    pub(super) addresses: Vec<Address>,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) database: u32,
}

impl Url {
    pub(super) fn parse(url: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| UrlError::Scheme(url.to_owned()))?;
        let (base, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
        let tls = match base {
            "redis" => false,
            "rediss" => true,
            _ => return Err(UrlError::Scheme(scheme.to_owned())),
        };
        // The last one: a password may hold the character itself.
        let (account, rest) = match rest.rsplit_once('@') {
            Some((account, rest)) => (Some(account), rest),
            None => (None, rest),
        };
        if let Some(at) = rest.find(['?', '#']) {
            return Err(UrlError::Query(
                rest.get(at..).unwrap_or_default().to_owned(),
            ));
        }
        let (user, password) = account.map(account_of).transpose()?.unwrap_or_default();
        let url = Self {
            mode: Mode::Single,
            tls,
            addresses: Vec::new(),
            user,
            password,
            database: 0,
        };
        match kind {
            "" => url.single(rest),
            "unix" if !tls => url.unix(rest),
            "sentinel" => url.sentinel(rest),
            "cluster" => url.cluster(rest),
            _ => Err(UrlError::Scheme(scheme.to_owned())),
        }
    }

    fn single(mut self, rest: &str) -> Result<Self, UrlError> {
        let (hosts, database) = rest.split_once('/').unwrap_or((rest, ""));
        self.addresses = addresses(hosts, PORT)?;
        if self.addresses.len() > 1 {
            return Err(UrlError::Hosts(self.addresses.len()));
        }
        if !database.is_empty() {
            self.database = database
                .parse()
                .map_err(|_| UrlError::Database(database.to_owned()))?;
        }
        Ok(self)
    }

    fn unix(mut self, path: &str) -> Result<Self, UrlError> {
        if !path.starts_with('/') {
            return Err(UrlError::Host(path.to_owned()));
        }
        self.addresses = vec![Address::Unix(PathBuf::from(path))];
        Ok(self)
    }

    fn sentinel(mut self, rest: &str) -> Result<Self, UrlError> {
        let (hosts, master) = rest.split_once('/').unwrap_or((rest, ""));
        let (master, database) = master.split_once('/').unwrap_or((master, ""));
        self.addresses = addresses(hosts, SENTINEL_PORT)?;
        if master.is_empty() {
            return Err(UrlError::NoMaster);
        }
        if !database.is_empty() {
            self.database = database
                .parse()
                .map_err(|_| UrlError::Database(database.to_owned()))?;
        }
        self.mode = Mode::Sentinel(decoded(master)?);
        Ok(self)
    }

    fn cluster(mut self, rest: &str) -> Result<Self, UrlError> {
        let (hosts, database) = rest.split_once('/').unwrap_or((rest, ""));
        if !matches!(database, "" | "0") {
            return Err(UrlError::ClusterDatabase(database.to_owned()));
        }
        self.addresses = addresses(hosts, PORT)?;
        self.mode = Mode::Cluster;
        Ok(self)
    }
}

/// Whether this is a URL that [`RedisOptions`](super::RedisOptions) can have.
///
/// # Errors
///
/// What is wrong with it, and what to write.
pub fn check_url(url: &str) -> Result<(), UrlError> {
    Url::parse(url).map(drop)
}

/// A URL of Redis with `***` for its password, for logs and messages.
#[must_use]
pub fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    // The last one: a password may hold the character itself.
    let Some((user, hosts)) = rest.rsplit_once('@') else {
        return url.to_owned();
    };
    match user.split_once(':') {
        Some((name, _)) => format!("{scheme}://{name}:***@{hosts}"),
        None => url.to_owned(),
    }
}

fn account_of(account: &str) -> Result<(Option<String>, Option<String>), UrlError> {
    let (user, password) = match account.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (account, None),
    };
    let user = Some(decoded(user)?).filter(|user| !user.is_empty());
    Ok((user, password.map(decoded).transpose()?))
}

fn addresses(hosts: &str, port: u16) -> Result<Vec<Address>, UrlError> {
    if hosts.is_empty() {
        return Err(UrlError::NoHost);
    }
    hosts.split(',').map(|host| address(host, port)).collect()
}

/// `host`, `host:port`, `[address]` or `[address]:port`.
fn address(text: &str, default: u16) -> Result<Address, UrlError> {
    let bad = || UrlError::Host(text.to_owned());
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or_else(bad)?;
            let port = match port {
                "" => None,
                port => Some(port.strip_prefix(':').ok_or_else(bad)?),
            };
            (host, port)
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == '/') {
        return Err(bad());
    }
    let port = match port {
        None => default,
        Some(port) => port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| UrlError::Port(port.to_owned()))?,
    };
    Ok(Address::Tcp(host.to_owned(), port))
}

/// `%xx` as the bytes that they stand for.
fn decoded(text: &str) -> Result<String, UrlError> {
    let bad = || UrlError::Percent(text.to_owned());
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let (digits, tail) = tail.split_at_checked(2).ok_or_else(bad)?;
        let digits = std::str::from_utf8(digits).map_err(|_| bad())?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(bad());
        }
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| bad())?);
        rest = tail;
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp(host.to_owned(), port)
    }

    #[test]
    fn a_password_is_never_shown() {
        for (url, shown) in [
            ("redis://h:1", "redis://h:1"),
            ("redis://user:p@ss:w/ord@h:1/2", "redis://user:***@h:1/2"),
            ("rediss://:secret@h", "rediss://:***@h"),
            ("redis://user@h", "redis://user@h"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }

    #[test]
    fn one_server_with_everything() {
        let url = Url::parse("rediss://me:p@ss%2Fw%C3%B6rd@[::1]:7000/3").unwrap();
        assert!(url.tls);
        assert_eq!(url.mode, Mode::Single);
        assert_eq!(url.addresses, [tcp("::1", 7000)]);
        assert_eq!(url.user.as_deref(), Some("me"));
        assert_eq!(url.password.as_deref(), Some("p@ss/wörd"));
        assert_eq!(url.database, 3);
        assert_eq!(url.addresses[0].to_string(), "[::1]:7000");
    }

    #[test]
    fn what_is_not_given_is_usual() {
        let url = Url::parse("redis://host").unwrap();
        assert_eq!(url.addresses, [tcp("host", 6379)]);
        assert_eq!((url.user, url.password, url.tls), (None, None, false));
        let url = Url::parse("redis://:secret@host/").unwrap();
        assert_eq!((url.user, url.password.as_deref()), (None, Some("secret")));
    }

    #[test]
    fn several_servers_are_sentinels_or_a_cluster() {
        let url = Url::parse("redis+sentinel://a,b:5/mymaster/2").unwrap();
        assert_eq!(url.mode, Mode::Sentinel("mymaster".to_owned()));
        assert_eq!(url.addresses, [tcp("a", 26379), tcp("b", 5)]);
        assert_eq!(url.database, 2);
        let url = Url::parse("rediss+cluster://a:1,b:2").unwrap();
        assert_eq!((url.mode, url.tls), (Mode::Cluster, true));
        let url = Url::parse("redis+unix:///run/redis.sock").unwrap();
        assert_eq!(url.addresses, [Address::Unix("/run/redis.sock".into())]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (url, error) in [
            ("host:6379", UrlError::Scheme("host:6379".into())),
            ("http://host", UrlError::Scheme("http".into())),
            ("redis+foo://host", UrlError::Scheme("redis+foo".into())),
            ("redis://", UrlError::NoHost),
            ("redis://:1", UrlError::Host(":1".into())),
            ("redis://h:99999", UrlError::Port("99999".into())),
            ("redis://h:", UrlError::Port(String::new())),
            ("redis://a,b", UrlError::Hosts(2)),
            ("redis://a/x", UrlError::Database("x".into())),
            ("redis+sentinel://a", UrlError::NoMaster),
            ("redis+cluster://a/1", UrlError::ClusterDatabase("1".into())),
            ("redis://u:%zz@h", UrlError::Percent("%zz".into())),
            ("redis://h?ssl=1", UrlError::Query("?ssl=1".into())),
            ("redis+unix://x", UrlError::Host("x".into())),
        ] {
            assert_eq!(check_url(url), Err(error), "{url}");
        }
    }
}
