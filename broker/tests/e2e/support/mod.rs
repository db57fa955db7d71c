//! What every end-to-end test needs: a broker process, a client that speaks bytes, waiting, foreign programs.

pub(crate) mod broker;
pub(crate) mod certs;
pub(crate) mod client;
pub(crate) mod connecting;
pub(crate) mod fleet;
pub(crate) mod foreign;
pub(crate) mod link;
pub(crate) mod log;
pub(crate) mod oracle;
pub(crate) mod received;
pub(crate) mod wait;
pub(crate) mod websocket;

pub(crate) use broker::Broker;
pub(crate) use client::Client;
pub(crate) use connecting::connect;
pub(crate) use oracle::matches;
pub(crate) use received::Received;
pub(crate) use wait::{LIMIT, wait_until};

pub(crate) use dunlin_protocol::{
    Ack, Auth, Disconnect, Packet, PacketId, PropertiesBuf, Property, Publish, QoS, ReasonCode,
    RetainHandling, SubscribeFiltersBuf, SubscribeOptions, Version,
};

/// Both versions that a server must speak, for tests of what they share.
pub(crate) const BOTH: [Version; 2] = [Version::V311, Version::V5];

/// A packet identifier from a number that is not 0.
pub(crate) fn id(number: u16) -> PacketId {
    PacketId::new(number).expect("a packet identifier is not 0")
}

/// A block of properties.
pub(crate) fn properties(list: &[Property<'_>]) -> PropertiesBuf {
    let mut block = PropertiesBuf::new();
    for property in list {
        block.push(*property).expect("the property can be written");
    }
    block
}

/// Lets whole seconds of the broker's own clock pass, without sleeping on ours: a session that lasts that long ends,
/// and its will says so.
pub(crate) fn let_seconds_pass(broker: &Broker, seconds: u32) {
    let mut watcher = connect(Version::V311, "clock-watcher").open(broker, false);
    watcher.subscribe("clock/rings", QoS::AtMostOnce);
    let late = [Property::WillDelayInterval(3_600)];
    connect(Version::V5, "clock")
        .expiry(seconds)
        .will_with("clock/rings", b"", QoS::AtMostOnce, false, &late)
        .open(broker, false)
        .drop_connection();
    watcher.expect_message("clock/rings", b"");
}
