//! Names of keys and channels, and the hash slots they have in a Redis Cluster. Documented in `docs/redis.md`.

use crate::cluster::tap::TapPartition;
use crate::cluster::{BUCKETS, Bucket, ReplicaId};

/// Channel of all replicas when the prefix is the default.
const CHANNEL: &str = "sync";
/// The default prefix of keys.
pub(super) const DEFAULT_PREFIX: &str = "dunlin";

/// Names under one prefix.
#[derive(Clone, Debug)]
pub(super) struct Names {
    prefix: String,
    channel: String,
    cluster: bool,
    /// What the keys of each bucket begin with, and their slot.
    buckets: Vec<(String, u16)>,
    register: (String, u16),
}

impl Names {
    pub(super) fn new(prefix: &str, cluster: bool) -> Self {
        let channel = match prefix {
            DEFAULT_PREFIX => CHANNEL.to_owned(),
            prefix => format!("{prefix}:{CHANNEL}"),
        };
        let tag_slot = |tag: String| if cluster { slot(tag.as_bytes()) } else { 0 };
        Self {
            prefix: prefix.to_owned(),
            channel,
            cluster,
            buckets: (0..BUCKETS)
                .map(|n| (format!("{prefix}:{{b{n}}}:"), tag_slot(format!("b{n}"))))
                .collect(),
            register: (format!("{prefix}:{{r}}:"), tag_slot("r".to_owned())),
        }
    }

    pub(super) fn is_cluster(&self) -> bool {
        self.cluster
    }

    /// Channel of all replicas.
    pub(super) fn channel(&self) -> &str {
        &self.channel
    }

    /// Channel of one replica: in a cluster a sharded one, with the slot of the replica's other keys.
    pub(super) fn replica_channel(&self, replica: ReplicaId) -> String {
        match self.cluster {
            true => format!("{}:{{{}r}}", self.channel, replica.0),
            false => format!("{}:{}", self.channel, replica.0),
        }
    }

    pub(super) fn bucket(&self, bucket: Bucket) -> (&str, u16) {
        self.buckets
            .get(usize::from(bucket.0 % BUCKETS))
            .map_or(("", 0), |(base, slot)| (base, *slot))
    }

    pub(super) fn register(&self) -> (&str, u16) {
        (&self.register.0, self.register.1)
    }

    pub(super) fn replica(&self, replica: ReplicaId) -> (String, u16) {
        let slot = match self.cluster {
            true => slot(format!("{}r", replica.0).as_bytes()),
            false => 0,
        };
        (format!("{}:{{{}r}}:", self.prefix, replica.0), slot)
    }

    /// Keys of a tap itself.
    pub(super) fn tap(&self, name: &str) -> (String, u16) {
        self.tagged(format!("{name}t"))
    }

    /// Keys of a partition of a tap.
    pub(super) fn tap_partition(&self, of: &TapPartition) -> (String, u16) {
        self.tagged(format!("{}.{}t", of.tap, of.partition))
    }

    fn tagged(&self, tag: String) -> (String, u16) {
        let slot = match self.cluster {
            true => slot(tag.as_bytes()),
            false => 0,
        };
        (format!("{}:{{{tag}}}:", self.prefix), slot)
    }
}

/// Slots of a Redis Cluster.
pub(super) const SLOTS: usize = 16384;

/// Hash slot of a tag: CRC-16 (XMODEM).
pub(super) fn slot(tag: &[u8]) -> u16 {
    let mut crc: u16 = 0;
    for byte in tag {
        crc ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            crc = match crc & 0x8000 {
                0 => crc << 1,
                _ => (crc << 1) ^ 0x1021,
            };
        }
    }
    crc % SLOTS as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_cluster_specification() {
        assert_eq!(slot(b"123456789"), 0x31c3);
        assert_eq!(slot(b"foo"), 12182);
        assert_eq!(slot(b""), 0);
    }

    #[test]
    fn the_channel_of_the_default_prefix_is_called_sync() {
        let names = Names::new("dunlin", false);
        assert_eq!(names.channel(), "sync");
        assert_eq!(names.replica_channel(ReplicaId(7)), "sync:7");
        let names = Names::new("other", true);
        assert_eq!(names.channel(), "other:sync");
        assert_eq!(names.replica_channel(ReplicaId(7)), "other:sync:{7r}");
    }

    #[test]
    fn keys_of_one_owner_share_a_hash_tag() {
        let names = Names::new("dunlin", true);
        assert_eq!(names.bucket(Bucket(9)), ("dunlin:{b9}:", slot(b"b9")));
        assert_eq!(names.register(), ("dunlin:{r}:", slot(b"r")));
        assert_eq!(
            names.replica(ReplicaId(3)),
            ("dunlin:{3r}:".to_owned(), slot(b"3r"))
        );
    }
}
