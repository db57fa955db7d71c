//! The Redis that the replicas of a cluster share.

use std::path::PathBuf;

use dunlin_sync::cluster::redis::{ANY_NAME, without_password};

use super::reader::Section;
use super::setting::Setting;
use crate::error::Code;

/// How the cluster's Redis is reached. Files are read when the broker starts.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisConfig {
    /// Where it is; may hold a password, so it is never printed whole.
    pub url: String,
    /// First part of every key, and of the channels if it is not `dunlin`.
    pub prefix: String,
    /// A file whose first line is the password.
    pub password_file: Option<PathBuf>,
    /// PEM with the authorities that may have signed Redis' certificate; else those of the system.
    pub ca_file: Option<PathBuf>,
    /// What Redis' certificates must name instead of the address; `*`: anything.
    pub server_name: Option<String>,
    /// PEM with a client certificate.
    pub cert_file: Option<PathBuf>,
    /// PEM with its key.
    pub key_file: Option<PathBuf>,
    /// Milliseconds that a connection may take to be made.
    pub connect_timeout_ms: u32,
    /// Milliseconds that a connecting client waits for Redis at most.
    pub claim_timeout_ms: u32,
    /// Milliseconds after which a replica that is not heard of is taken for dead.
    pub lease_ms: u32,
    /// Bytes of the newest acknowledged writes that are kept to repair a failover.
    pub ring_bytes: usize,
    /// Bytes that may wait on the way to another replica before QoS 0 is dropped.
    pub lane_bytes: usize,
    /// Replicas of Redis that must have a write before it counts as done (`WAIT`). 0: none.
    pub wait_replicas: u32,
    /// Milliseconds that they are waited for.
    pub wait_timeout_ms: u32,
}

impl std::fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisConfig")
            .field("url", &without_password(&self.url))
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl RedisConfig {
    /// `None`: the broker is not one of a cluster.
    pub(super) fn read(section: &mut Section<'_>) -> Option<Self> {
        let url = section.optional::<String>("url", &());
        if let Some(url) = &url {
            section.show("url", without_password(url).show());
            if let Err(error) = dunlin_sync::cluster::redis::check_url(url) {
                section.problem(
                    Code::Redis,
                    "url",
                    format!("redis.url is {:?}: {error}", without_password(url)),
                );
            }
        }
        let lease_ms = section.get("lease_ms", 6_000, &(3_000..=600_000));
        let config = Self {
            url: url.clone().unwrap_or_default(),
            prefix: section.get("prefix", "dunlin".to_owned(), &()),
            password_file: path(section, "password_file"),
            ca_file: path(section, "ca_file"),
            server_name: section.optional::<String>("server_name", &()),
            cert_file: path(section, "cert_file"),
            key_file: path(section, "key_file"),
            connect_timeout_ms: section.get("connect_timeout_ms", 2_000, &(100..=60_000)),
            claim_timeout_ms: section.get("claim_timeout_ms", 5_000, &(100..=60_000)),
            lease_ms,
            ring_bytes: section.get("ring_bytes", 64 << 20, &(0..=8 << 30)),
            lane_bytes: section.get("lane_bytes", 16 << 20, &(1 << 16..=1 << 30)),
            wait_replicas: section.get("wait_replicas", 0, &(0..=16)),
            wait_timeout_ms: section.get("wait_timeout_ms", 100, &(1..=60_000)),
        };
        if config.cert_file.is_some() != config.key_file.is_some() {
            section.problem(
                Code::Redis,
                "cert_file",
                "redis.cert_file and redis.key_file belong together: give both or neither",
            );
        }
        if config.server_name.as_deref() == Some(ANY_NAME) && config.ca_file.is_none() {
            section.problem(
                Code::Redis,
                "server_name",
                "redis.server_name = \"*\" needs redis.ca_file, with the authority that only Redis has certificates of",
            );
        }
        if config.prefix.contains(['{', '}', ' ', '\n']) {
            section.problem(
                Code::Redis,
                "prefix",
                format!(
                    "redis.prefix is {:?}: must have no brace and no space",
                    config.prefix
                ),
            );
        }
        if url.is_none() {
            for key in [
                "prefix",
                "connect_timeout_ms",
                "claim_timeout_ms",
                "lease_ms",
                "ring_bytes",
                "lane_bytes",
                "wait_replicas",
                "wait_timeout_ms",
            ] {
                section.hide(key);
            }
        }
        url.map(|_| config)
    }
}

fn path(section: &mut Section<'_>, key: &'static str) -> Option<PathBuf> {
    section.optional::<String>(key, &()).map(PathBuf::from)
}
