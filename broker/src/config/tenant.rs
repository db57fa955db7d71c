//! The tenants: the raw form of `[[tenant]]`.

use super::reader::Section;
use crate::core::mount::check_name;
use crate::error::Code;
use crate::tenant::OTHERS;

/// What all clients of a tenant may use together; 0 is no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quotas {
    /// Connections open at once, on each replica.
    pub max_connections: u32,
    /// Publishes per second, on each replica.
    pub messages_per_second: u32,
    /// Bytes of their payloads per second, on each replica.
    pub bytes_per_second: u64,
    /// Stored sessions, in the whole cluster.
    pub max_sessions: u32,
    /// Retained messages, in the whole cluster.
    pub max_retained: u32,
    /// Bytes of them.
    pub max_retained_bytes: u64,
    /// Bytes that wait in the queues of the sessions that a replica holds.
    pub max_queued_bytes: u64,
}

/// One `[[tenant]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantConfig {
    /// Its name; `*` stands for those that have no entry.
    pub name: String,
    /// Its bounds.
    pub quotas: Quotas,
}

impl TenantConfig {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let name: Option<String> = section.optional("name", &());
        match &name {
            None if !section.has("name") => section.problem(
                Code::Contradiction,
                "name",
                "the tenant has no name: add name = \"…\", or name = \"*\" for all that have no entry of their own",
            ),
            Some(name) if name != OTHERS => {
                if let Err(fault) = check_name(name) {
                    section.problem(Code::WrongValue, "name", fault);
                }
            }
            _ => {}
        }
        let count = 0..=u32::MAX;
        let bytes = 0..=u64::MAX / 4;
        Self {
            name: name.unwrap_or_default(),
            quotas: Quotas {
                max_connections: section.get("max_connections", 0, &count),
                messages_per_second: section.get("messages_per_second", 0, &count),
                bytes_per_second: section.get("bytes_per_second", 0, &bytes),
                max_sessions: section.get("max_sessions", 0, &count),
                max_retained: section.get("max_retained", 0, &count),
                max_retained_bytes: section.get("max_retained_bytes", 0, &bytes),
                max_queued_bytes: section.get("max_queued_bytes", 0, &bytes),
            },
        }
    }
}
