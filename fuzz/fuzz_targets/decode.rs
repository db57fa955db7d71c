//! Any bytes into the decoder, in every version and from both sides.
//!
//! Nothing may panic; what is let through can be read to its end and is, encoded again, the same packet in its
//! canonical form; and what has been encoded is found and let through again.

#![no_main]

use dunlin_protocol::topic::{check_name, check_plain_filter, matches, parse_shared};
use dunlin_protocol::{Packet, Properties, PropertyContext, Sender, Version, decode, peek_frame};
use libfuzzer_sys::fuzz_target;

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];
const SENDERS: [Sender; 2] = [Sender::Client, Sender::Server];
/// Small, so that it is met.
const MAX_PACKET_SIZE: u32 = 4096;

fuzz_target!(|data: &[u8]| {
    stream(data);
    if let Some((&first_byte, body)) = data.split_first() {
        every_way(&framed(first_byte, body));
    }
    every_way(data);
    unvalidated(data);
    if let Ok(text) = std::str::from_utf8(data) {
        topics(text);
    }
});

/// As a broker reads: packet after packet, until one is wrong or cut off.
fn stream(mut data: &[u8]) {
    while let Ok(Some(header)) = peek_frame(data, MAX_PACKET_SIZE) {
        assert!(
            header.total_len <= MAX_PACKET_SIZE as usize && header.header_len <= header.total_len
        );
        let Some((frame, rest)) = data.split_at_checked(header.total_len) else {
            return;
        };
        every_way(frame);
        data = rest;
    }
}

/// The bytes as the body of a packet whose length is right, for else hardly any input gets past the fixed header.
fn framed(first_byte: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![first_byte];
    let mut len = body.len();
    while len >= 0x80 {
        frame.push((len & 0x7F) as u8 | 0x80);
        len >>= 7;
    }
    frame.push(len as u8);
    frame.extend_from_slice(body);
    frame
}

fn every_way(frame: &[u8]) {
    for version in VERSIONS {
        for sender in SENDERS {
            match decode(frame, version, sender) {
                Ok(packet) => again(&packet, frame, version, sender),
                Err(error) => assert!(error.reason_code().is_error()),
            }
        }
    }
}

fn again(packet: &Packet<'_>, frame: &[u8], version: Version, sender: Sender) {
    read(packet);
    let mut encoded = Vec::new();
    packet
        .encode(version, &mut encoded)
        .expect("what was decoded can be encoded");
    assert_eq!(packet.encoded_len(version), Ok(encoded.len()));
    assert!(
        encoded.len() <= frame.len(),
        "the canonical form is never longer"
    );
    let header = peek_frame(&encoded, u32::MAX)
        .expect("a good header")
        .expect("a whole header");
    assert_eq!(header.total_len, encoded.len());
    let decoded = decode(&encoded, version, sender).expect("what was encoded can be decoded");
    assert_eq!(&decoded, packet);
    let mut twice = Vec::new();
    decoded.encode(version, &mut twice).expect("as before");
    assert_eq!(twice, encoded);
}

/// Reads all that is in a packet.
fn read(packet: &Packet<'_>) {
    match packet {
        Packet::Connect(it) => {
            whole(it.properties);
            if let Some(will) = it.will {
                whole(will.properties);
                assert_eq!(check_name(will.topic), Ok(()));
            }
        }
        Packet::ConnAck(it) => whole(it.properties),
        Packet::Publish(it) => {
            whole(it.properties);
            assert!(check_name(it.topic).is_ok() || it.properties.topic_alias().is_some());
        }
        Packet::PubAck(it) | Packet::PubRec(it) | Packet::PubRel(it) | Packet::PubComp(it) => {
            whole(it.properties)
        }
        Packet::Subscribe(it) => {
            whole(it.properties);
            assert_eq!(it.filters.iter().count(), it.filters.len());
            assert!(
                it.filters
                    .iter()
                    .all(|(filter, _)| check_plain_filter(filter).is_ok())
            );
        }
        Packet::SubAck(it) => whole(it.properties),
        Packet::Unsubscribe(it) => {
            whole(it.properties);
            assert_eq!(it.filters.iter().count(), it.filters.len());
        }
        Packet::UnsubAck(it) => whole(it.properties),
        Packet::Disconnect(it) => whole(it.properties),
        Packet::Auth(it) => whole(it.properties),
        Packet::PingReq | Packet::PingResp => {}
    }
}

/// A block that was let through is read to its last byte.
fn whole(properties: Properties<'_>) {
    getters(properties);
    let read: usize = properties.raw_iter().map(|raw| raw.bytes.len()).sum();
    assert_eq!(read, properties.as_bytes().len());
    assert_eq!(properties.iter().count(), properties.raw_iter().count());
}

/// A block that nobody has validated; and blocks that have been, by themselves.
fn unvalidated(data: &[u8]) {
    getters(Properties::from_validated(data));
    for context in [
        PropertyContext::Will,
        PropertyContext::ConnAck,
        PropertyContext::Auth,
    ] {
        if let Ok(properties) = Properties::parse(data, context, Sender::Server) {
            whole(properties);
        }
    }
}

fn getters(properties: Properties<'_>) {
    let user = properties.user_properties().count();
    assert!(user <= properties.raw_iter().count());
    std::hint::black_box((
        properties.payload_format_indicator(),
        properties.message_expiry_interval(),
        properties.content_type(),
        properties.response_topic(),
        properties.correlation_data(),
        properties.subscription_identifiers().count(),
        properties.session_expiry_interval(),
        properties.authentication_method(),
        properties.request_problem_information(),
        properties.receive_maximum(),
        properties.topic_alias(),
        properties.maximum_qos(),
    ));
}

fn topics(text: &str) {
    let (filter, topic) = text.split_once('\n').unwrap_or((text, "a/b"));
    let matched = matches(filter, topic);
    if check_plain_filter(filter).is_ok() && check_name(topic).is_ok() {
        // A filter without wildcards matches itself and nothing else.
        if !filter.contains(['+', '#']) {
            assert_eq!(matched, filter == topic);
        }
        let hidden = topic.starts_with('$');
        assert_eq!(matches("#", topic), !hidden);
    }
    if let Ok(Some(shared)) = parse_shared(filter) {
        assert_eq!(check_plain_filter(shared.filter), Ok(()));
        assert!(!shared.group.is_empty() && !shared.group.contains(['/', '+', '#']));
    }
}
