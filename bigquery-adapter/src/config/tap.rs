//! `[redis]`, `[tap]`, `[rules]` and `[bigquery]`.

use std::path::PathBuf;
use std::time::Duration;

use dunlin_protocol::topic;
use dunlin_sync::cluster::redis::{ANY_NAME, RedisOptions, check_url, without_password};
use dunlin_sync::cluster::tap::{Definition, WhenFull};

use super::reader::Reader;
use crate::rules::{Rules, check_table_name};
use crate::sinks::bigquery::token::Credentials;
use crate::sinks::bigquery::writer::Kind;
use crate::sinks::bigquery::{self, api, partition, tables};
use crate::sources::tap;

/// Rules, and where they are read again from.
#[derive(Debug, Clone)]
pub struct RulesFile {
    /// The file; none: the rules are the default ones.
    pub path: Option<PathBuf>,
    /// They.
    pub rules: Rules,
}

impl RulesFile {
    /// Reads the file.
    ///
    /// # Errors
    /// Every problem that there is.
    pub fn read(path: Option<PathBuf>) -> Result<Self, Vec<String>> {
        let text = match &path {
            None => String::new(),
            Some(path) => std::fs::read_to_string(path)
                .map_err(|error| vec![format!("{} cannot be read: {error}", path.display())])?,
        };
        let shown = path.as_ref().map(|path| format!("{}: ", path.display()));
        let shown = shown.unwrap_or_default();
        let rules = Rules::parse(&text).map_err(|problems| {
            problems
                .into_iter()
                .map(|problem| format!("{shown}{problem}"))
                .collect::<Vec<_>>()
        })?;
        partition::check_size(&rules).map_err(|problem| vec![format!("{shown}{problem}")])?;
        Ok(Self { path, rules })
    }
}

pub(super) fn read_tap(read: &mut Reader, chosen: bool) -> Option<tap::Settings> {
    let redis = read_redis(read, chosen);
    let name = read.parsed("tap.name", "warehouse", |text| Ok(text.to_owned()));
    let (filters, _) = read.list("tap.filters", &[]);
    for filter in &filters {
        if let Err(error) = topic::check_filter(filter) {
            read.problem(
                "tap.filters",
                format!("{filter:?} is not a topic filter: {error}"),
            );
        }
    }
    let partitions = read.integer("tap.partitions", 4_u16, 1..=1024);
    let words = [
        ("slow", WhenFull::Slow),
        ("drop_oldest", WhenFull::DropOldest),
    ];
    let when_full = read.choice("tap.when_full", &words, WhenFull::Slow);
    let max_messages = read.integer("tap.max_messages", 10_000_000, 1..=1 << 40);
    let max_bytes = read.integer("tap.max_bytes", 4 << 30, 1 << 16..=1 << 50);
    let lease = read.integer("tap.lease_ms", 10_000, 1_000..=600_000);
    let ahead_bytes = read.integer("tap.ahead_bytes", 8 << 20, 1 << 16..=1 << 30);
    let name = name?;
    let mut definition = Definition::new(&name, ["#"]);
    definition.partitions = partitions;
    if let Err(error) = definition.check() {
        read.problem("tap.name", error.to_string());
    }
    let redis = redis?;
    Some(tap::Settings {
        shown_url: without_password(&redis.url),
        redis,
        name,
        filters,
        partitions,
        when_full,
        max_messages,
        max_bytes,
        lease: Duration::from_millis(lease),
        ahead_bytes,
    })
}

fn read_redis(read: &mut Reader, chosen: bool) -> Option<RedisOptions> {
    let url = read.url("redis.url", without_password);
    let prefix = read.parsed("redis.prefix", "dunlin", |text| {
        if text.is_empty() || text.contains(['{', '}', ' ', '\n']) {
            Err("it must not be empty and have no brace and no space".to_owned())
        } else {
            Ok(text.to_owned())
        }
    });
    let password_file = read.text("redis.password_file").map(PathBuf::from);
    let mut file = |key| read.text(key).map(PathBuf::from);
    let ca_file = file("redis.ca_file");
    let cert_file = file("redis.cert_file");
    let key_file = file("redis.key_file");
    let server_name = read.text("redis.server_name");
    if server_name.as_deref() == Some(ANY_NAME) && ca_file.is_none() {
        read.problem(
            "redis.server_name",
            "redis.server_name = \"*\" needs redis.ca_file, with the authority that only Redis has certificates of",
        );
    }
    if cert_file.is_some() != key_file.is_some() {
        read.problem(
            "redis.cert_file",
            "redis.cert_file and redis.key_file belong together: give both or neither",
        );
    }
    let connect_timeout = read.integer("redis.connect_timeout_ms", 2_000, 100..=60_000);
    let Some(url) = url else {
        if chosen {
            read.problem(
                "redis.url",
                "it is needed for the source \"tap\": the Redis of the brokers, such as redis://127.0.0.1:6379",
            );
        }
        return None;
    };
    if let Err(error) = check_url(&url) {
        read.problem(
            "redis.url",
            format!("{:?} cannot be used: {error}", without_password(&url)),
        );
    }
    let password = password_file.and_then(|path| match std::fs::read_to_string(&path) {
        Ok(text) => Some(text.lines().next().unwrap_or_default().to_owned()),
        Err(error) => {
            read.problem(
                "redis.password_file",
                format!("{} cannot be read: {error}", path.display()),
            );
            None
        }
    });
    Some(RedisOptions {
        password,
        ca_file,
        server_name,
        cert_file,
        key_file,
        prefix: prefix?,
        connect_timeout: Duration::from_millis(connect_timeout),
        ..RedisOptions::new(url)
    })
}

pub(super) fn read_rules(read: &mut Reader) -> Option<RulesFile> {
    let path = read.text("rules.file").map(PathBuf::from);
    match RulesFile::read(path) {
        Ok(rules) => Some(rules),
        Err(problems) => {
            for problem in problems {
                read.problem("rules.file", problem);
            }
            None
        }
    }
}

pub(super) fn read_bigquery(
    read: &mut Reader,
    chosen: bool,
    ahead_bytes: u64,
) -> Option<bigquery::Settings> {
    let project = read.text("bigquery.project");
    let dataset = read.text("bigquery.dataset");
    if chosen {
        if project.is_none() {
            read.problem(
                "bigquery.project",
                "it is needed for the sink \"bigquery\": the id of the Google Cloud project",
            );
        }
        let named = |text: &String| {
            text.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        match &dataset {
            None => read.problem(
                "bigquery.dataset",
                "it is needed for the sink \"bigquery\": the id of a dataset that is there",
            ),
            Some(dataset) if !named(dataset) => read.problem(
                "bigquery.dataset",
                format!("{dataset:?}: a dataset has letters, digits and underscores, and no project before it"),
            ),
            Some(_) => {}
        }
    }
    let credentials = read.parsed("bigquery.credentials", "default", |text| {
        Ok(match text {
            "default" => Credentials::Default,
            "none" => Credentials::None,
            path => Credentials::File(PathBuf::from(path)),
        })
    });
    let address = |text: &str| {
        if text.starts_with("https://") || text.starts_with("http://") {
            Ok(text.to_owned())
        } else {
            Err("it must begin with https:// (http:// for an emulator)".to_owned())
        }
    };
    let endpoint = read.parsed("bigquery.endpoint", api::ENDPOINT, address);
    let rest_endpoint = read.parsed("bigquery.rest_endpoint", tables::ENDPOINT, address);
    let dead_letter_table = read.parsed("bigquery.dead_letter_table", "dead_letters", |text| {
        check_table_name(text).map(|()| text.to_owned())
    });
    let dead_letter_directory = read.parsed(
        "bigquery.dead_letter_directory",
        "dead-letters",
        |text| match text {
            "" => Err("a directory is needed".to_owned()),
            text => Ok(PathBuf::from(text)),
        },
    );
    let kinds = [("committed", Kind::Committed), ("default", Kind::Default)];
    let partition = partition::Settings {
        stream: read.choice("bigquery.stream", &kinds, Kind::Committed),
        rows: read.integer("bigquery.rows", 5_000, 1..=50_000),
        bytes: read.integer("bigquery.bytes", 2 << 20, 1 << 10..=8 << 20),
        age: Duration::from_millis(read.integer("bigquery.age_ms", 500, 1..=60_000)),
        in_flight: read.integer("bigquery.in_flight", 8, 1..=100),
        ahead_bytes: usize::try_from(ahead_bytes).unwrap_or(usize::MAX),
    };
    Some(bigquery::Settings {
        project: project?,
        dataset: dataset?,
        credentials: credentials?,
        endpoint: endpoint?,
        rest_endpoint: rest_endpoint?,
        partition,
        dead_letter_table: dead_letter_table?,
        dead_letter_directory: dead_letter_directory?,
    })
}
