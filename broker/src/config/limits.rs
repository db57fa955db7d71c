//! Every bound of the broker: nothing in it grows without one of these.
//!
//! What happens at a bound is said at the bound; each has a counter in the metrics.

use super::setting::{settings, word_setting};

/// What gives way when the queue of a persistent session is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueFull {
    /// The message that arrives is not queued for that session.
    DropNewest,
    /// The oldest message that is not in flight leaves the queue for it.
    DropOldest,
}
word_setting!(QueueFull {
    "drop-newest" => QueueFull::DropNewest,
    "drop-oldest" => QueueFull::DropOldest,
});

/// What happens to a client that publishes more than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverRate {
    /// It is read from more slowly.
    Slow,
    /// It is disconnected, if it can be told why.
    Disconnect,
}
word_setting!(OverRate {
    "slow" => OverRate::Slow,
    "disconnect" => OverRate::Disconnect,
});

settings! {
    /// The bounds of `[limits]`. Defaults suit one machine with a few GiB of memory.
    pub struct Limits {
        /// Bytes of one MQTT packet, header included, in both directions. A larger one from a client
        /// is refused before memory is spent (0x95); v5 clients learn the bound at CONNACK.
        /// Default 1 MiB. Worst memory: `max_connections * max_packet_size` while all send one at once.
        pub max_packet_size: u32 = 1_048_576, 1_024..=268_435_460;
        /// Connections open at once, over all listeners. Above it a client is refused at CONNECT (0x89,
        /// server busy; 3.1.1: 3). Default 100,000. An idle connection costs a few KiB.
        pub max_connections: usize = 100_000, 1..=10_000_000;
        /// Milliseconds that a client has from the accepted socket to its complete CONNECT: PROXY
        /// header, TLS and WebSocket handshakes included. Default 10,000.
        pub connect_timeout_ms: u32 = 10_000, 10..=3_600_000;
        /// QoS 1 and 2 messages that one client may have unacknowledged towards the broker (Receive
        /// Maximum in CONNACK). More is answered with 0x93. Default 1,024.
        pub receive_maximum: u16 = 1_024, 1..=65_535;
        /// QoS 1 and 2 messages that the broker has unacknowledged towards one session; the client's
        /// own Receive Maximum applies too. Default 1,024.
        pub max_inflight: u16 = 1_024, 1..=65_535;
        /// Topic aliases that one client may set (Topic Alias Maximum in CONNACK). 0 switches them
        /// off. Default 32. Worst memory per connection: this many topics of 64 KiB.
        pub topic_alias_maximum: u16 = 32, 0..=65_535;
        /// Topic aliases that the broker uses towards one client that allows them. 0 switches them
        /// off. Default 32. Worst memory per connection: this many topics of 64 KiB.
        pub outbound_topic_aliases: u16 = 32, 0..=65_535;
        /// Seconds of keep alive that a v5 client may ask for; a larger wish, or none, is answered
        /// with Server Keep Alive. 0 is no cap. Default 0.
        pub max_keep_alive: u16 = 0, 0..=65_535;
        /// Seconds that a session may outlive its connection; a larger wish is answered with the cap.
        /// 4294967295 is for ever. Default 604,800 (7 days).
        pub max_session_expiry: u32 = 604_800, 0..=u32::MAX;
        /// Persistent sessions kept, connected or not. Above it a client without a session is
        /// refused (0x97, quota exceeded). Default 1,000,000. A session without subscriptions
        /// costs about 1 KiB.
        pub max_sessions: usize = 1_000_000, 1..=100_000_000;
        /// Messages queued for one persistent session. Default 100,000. See `queue_full`.
        pub max_queued_messages: u32 = 100_000, 1..=u32::MAX;
        /// Bytes queued for one persistent session, in the store. Default 64 MiB. See `queue_full`.
        pub max_queued_bytes: u64 = 67_108_864, 1_024..=1_099_511_627_776;
        /// What gives way when the queue of a session that is not persistent is full:
        /// `"drop-newest"` or `"drop-oldest"`. A persistent session keeps what it has: there the
        /// newest always gives way. Default `"drop-newest"`. Either is counted in `dunlin_publishes_dropped_total`.
        pub queue_full: QueueFull = QueueFull::DropNewest, ();
        /// Queued messages of one connected persistent session held in memory ahead of the client;
        /// the rest waits in the store. Default 256.
        pub session_ready_messages: u32 = 256, 1..=65_535;
        /// Bytes that may wait for one slow reader. Above it QoS 0 to that client is dropped and
        /// QoS 1 and 2 wait in its session. Default 1 MiB. Worst memory:
        /// `max_connections * outbox_bytes`.
        pub outbox_bytes: u32 = 1_048_576, 4_096..=268_435_456;
        /// Bytes that one read from a socket may take, and so the largest read buffer of a
        /// connection that is not in the middle of a larger packet. Default 16 KiB.
        pub read_buffer: u32 = 16_384, 1_024..=1_048_576;
        /// Subscriptions of one client. Above it SUBACK says 0x97. Default 1,000.
        pub max_subscriptions_per_client: u32 = 1_000, 1..=1_000_000;
        /// Subscriptions of one client that have `+` or `#`, shared ones included. Above it SUBACK says 0x97 (3.1.1: 0x80); what a resumed
        /// session has, stays. 0: there are none, as without `features.wildcard_subscriptions` (0xA2). Default 1,000.
        pub max_wildcard_subscriptions_per_client: u32 = 1_000, 0..=1_000_000;
        /// Levels of a topic or filter. A deeper one is refused (0x90, 0x8F). Default 128.
        pub max_topic_levels: u16 = 128, 1..=65_535;
        /// Retained messages kept. A new topic above it is refused (0x97). Default 1,000,000.
        pub max_retained: usize = 1_000_000, 0..=100_000_000;
        /// Bytes of retained messages kept, in memory; a quarter of `max_memory` at the most.
        /// Default 1 GiB.
        pub max_retained_bytes: u64 = 1_073_741_824, 0..=1_099_511_627_776;
        /// Bytes on their way to the store over all clients. Above it publishers are slowed down:
        /// the broker stops reading from them; a sixteenth of `max_memory` at the most.
        /// Default 32 MiB.
        pub store_pending_bytes: usize = 33_554_432, 65_536..=17_179_869_184;
        /// Members of one shared subscription group. Above it SUBACK says 0x97. Default 10,000.
        pub max_shared_group_members: u32 = 10_000, 1..=1_000_000;
        /// Connections open at once from one address (IPv6: one /64). Above it sockets are closed at once.
        /// 0 is no bound: behind a balancer that hides the clients' addresses it would hold for all together. Default 0.
        pub connections_per_address: u32 = 0, 0..=1_000_000;
        /// Connections of one address between the accepted socket and the CONNACK at once; above it sockets are closed
        /// at once. 0 is no bound. Default 0.
        pub handshakes_per_address: u32 = 0, 0..=1_000_000;
        /// New connections per second of one address, a second's worth at once; above it sockets are closed at once.
        /// 0 is no bound. Default 0.
        pub connect_rate_per_address: u32 = 0, 0..=1_000_000;
        /// Bytes of a CONNECT packet. A larger one is refused before memory is spent (0x95). The name and password of a
        /// client are not known yet. Default 256 KiB. Worst memory: `max_handshakes * max_connect_size`.
        pub max_connect_size: u32 = 262_144, 1_024..=268_435_460;
        /// Wrong logins of one name from one address after which further ones wait (0x9F; 3.1.1: 3), from a second on, each time
        /// twice as long. Twenty times as many are free for one address, and for one name. 0 switches it off. Default 10.
        pub login_failures: u32 = 10, 0..=1_000_000;
        /// Seconds that a login waits at the most after wrong ones; for the names of a whole address 10 at the most.
        /// Default 300.
        pub login_pause_max: u32 = 300, 1..=86_400;
        /// Messages per second that one client may publish; above it the broker reads more slowly
        /// from that client. 0 is no bound. Default 0.
        pub publish_rate: u32 = 0, 0..=10_000_000;
        /// Bytes of topics' payloads per second that one client may publish, as `publish_rate`. 0 is no bound. Default 0.
        pub publish_byte_rate: u64 = 0, 0..=1_099_511_627_776;
        /// What happens to a client above `publish_rate` or `publish_byte_rate`: `"slow"`: it is read from more slowly;
        /// `"disconnect"`: an MQTT 5 client is disconnected (0x96), older ones, which cannot be told why, are slowed down.
        /// Default `"slow"`.
        pub over_rate: OverRate = OverRate::Slow, ();
        /// Milliseconds from the first bytes of a packet to its last, once 4 KiB of it are there: what is half sent is held in
        /// memory. Above it the connection ends (0x83). 0 is no bound. Default 120,000.
        pub packet_timeout_ms: u32 = 120_000, 0..=86_400_000;
        /// Filters of one SUBSCRIBE packet. Those above it are refused (0x97; 3.1.1: 0x80). Default 1,000.
        pub max_filters_per_subscribe: u32 = 1_000, 1..=1_000_000;
        /// `+` and `#` of one filter. More are refused (0x97; 3.1.1: 0x80). Default 16.
        pub max_wildcards_per_filter: u16 = 16, 0..=65_535;
        /// New connections per second over all listeners; above it the rest waits in the kernel's
        /// queue. 0 is no bound. Default 0.
        pub connect_rate: u32 = 0, 0..=1_000_000;
        /// New connections that may come at once within `connect_rate`. 0 is a tenth of it.
        /// Default 0.
        pub connect_burst: u32 = 0, 0..=1_000_000;
        /// Connections between the accepted socket and the CONNACK at once, over all listeners; above
        /// it the rest waits in the kernel's queue. Default 1,000. With TLS each takes about 40 KiB.
        pub max_handshakes: usize = 1_000, 1..=1_000_000;
        /// Bytes of memory that the broker may use. Above seven tenths new clients are refused (0x89),
        /// above 85 of 100 publishers are slowed down and the clients for which most waits are
        /// disconnected. 0 is what the container may use, or else the machine's memory.
        /// Default 0.
        pub max_memory: u64 = 0, 0..=1_099_511_627_776;
        /// Password checks at once; more wait. Who would wait for more than half the connect timeout is
        /// refused at once (0x89, server busy). Each costs a thread, and argon2id 19 MiB while it
        /// runs. Default 4.
        pub password_checks: usize = 4, 1..=256;
    }
}
