//! Encoding and decoding turn each other round, and no bytes make the decoder panic.

use dunlin_protocol::{
    Packet, PacketType, Properties, Sender, Version, decode, decode_publish, peek_frame,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::arbitrary::{self, Owned};
use crate::properties::read_everything;

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];
const SENDERS: [Sender; 2] = [Sender::Client, Sender::Server];

fn encoded(packet: &Packet<'_>, version: Version) -> Vec<u8> {
    let mut out = Vec::new();
    packet
        .encode(version, &mut out)
        .expect("a valid packet can be encoded");
    out
}

fn owned_bytes(owned: &Owned) -> Vec<u8> {
    encoded(&owned.packet(), owned.version)
}

/// A publish is decoded alike by the way that knows its header, whatever topic was known before.
fn decode_known(bytes: &[u8], version: Version, sender: Sender) {
    let Ok(Some(header)) = peek_frame(bytes, u32::MAX) else {
        return;
    };
    if header.first_byte >> 4 != PacketType::Publish as u8 {
        return;
    }
    let publish = |known| decode_publish(header, bytes, version, sender, known);
    let plain = publish("");
    assert_eq!(plain.map(Packet::Publish), decode(bytes, version, sender));
    assert_eq!(publish("another topic"), plain);
    if let Ok(plain) = plain {
        let again = publish(plain.topic).expect("it has been decoded");
        assert_eq!(again, plain);
        assert!(std::ptr::eq(again.topic, plain.topic));
        let known = plain.topic.to_owned();
        let again = decode_publish(header, bytes, version, sender, &known);
        let again = again.expect("it has been decoded");
        assert_eq!(again, plain);
        assert!(known.is_empty() || std::ptr::eq(again.topic, &*known));
    }
}

/// Decodes in every way there is; what is let through must survive another round.
fn decode_anyhow(bytes: &[u8]) {
    for (version, sender) in VERSIONS
        .into_iter()
        .flat_map(|version| SENDERS.map(|sender| (version, sender)))
    {
        decode_known(bytes, version, sender);
        let Ok(packet) = decode(bytes, version, sender) else {
            continue;
        };
        let again = encoded(&packet, version);
        assert!(
            again.len() <= bytes.len(),
            "the canonical form is never longer"
        );
        assert_eq!(decode(&again, version, sender), Ok(packet));
        assert_eq!(
            encoded(
                &decode(&again, version, sender).expect("as just before"),
                version
            ),
            again
        );
        for properties in blocks(&packet) {
            read_everything(properties);
        }
        if let Packet::Subscribe(subscribe) = packet {
            assert_eq!(subscribe.filters.iter().count(), subscribe.filters.len());
        }
        if let Packet::Unsubscribe(unsubscribe) = packet {
            assert_eq!(
                unsubscribe.filters.iter().count(),
                unsubscribe.filters.len()
            );
        }
    }
}

fn blocks<'a>(packet: &Packet<'a>) -> Vec<Properties<'a>> {
    match packet {
        Packet::Connect(it) => [Some(it.properties), it.will.map(|will| will.properties)]
            .into_iter()
            .flatten()
            .collect(),
        Packet::ConnAck(it) => vec![it.properties],
        Packet::Publish(it) => vec![it.properties],
        Packet::PubAck(it) | Packet::PubRec(it) | Packet::PubRel(it) | Packet::PubComp(it) => {
            vec![it.properties]
        }
        Packet::Subscribe(it) => vec![it.properties],
        Packet::SubAck(it) => vec![it.properties],
        Packet::Unsubscribe(it) => vec![it.properties],
        Packet::UnsubAck(it) => vec![it.properties],
        Packet::Disconnect(it) => vec![it.properties],
        Packet::Auth(it) => vec![it.properties],
        Packet::PingReq | Packet::PingResp => Vec::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_packet_is_decoded_as_it_was_encoded(owned in arbitrary::packet()) {
        let packet = owned.packet();
        let bytes = owned_bytes(&owned);
        prop_assert_eq!(decode(&bytes, owned.version, owned.sender), Ok(packet));
        prop_assert_eq!(packet.encoded_len(owned.version), Ok(bytes.len()));
        let header = peek_frame(&bytes, u32::MAX).expect("a good header").expect("a whole one");
        prop_assert_eq!(header.total_len, bytes.len());
        prop_assert_eq!(PacketType::from_first_byte(header.first_byte), Some(owned.packet_type));
        decode_anyhow(&bytes);
    }

    #[test]
    fn any_prefix_of_a_packet_is_incomplete_and_nothing_else(owned in arbitrary::packet(), followed_by in any::<u8>()) {
        let mut bytes = owned_bytes(&owned);
        for end in 0..bytes.len() {
            let prefix = &bytes[..end];
            let header = peek_frame(prefix, u32::MAX).expect("a prefix is not an error");
            prop_assert!(header.is_none_or(|header| header.total_len == bytes.len()));
            prop_assert!(decode(prefix, owned.version, owned.sender).is_err());
        }
        bytes.push(followed_by);
        prop_assert!(decode(&bytes, owned.version, owned.sender).is_err());
    }

    #[test]
    fn a_packet_cut_short_with_its_length_set_right_never_panics(
        owned in arbitrary::packet(),
        cut in any::<prop::sample::Index>(),
    ) {
        let bytes = owned_bytes(&owned);
        let header = peek_frame(&bytes, u32::MAX).expect("a good header").expect("a whole one");
        let body = &bytes[header.header_len..];
        if !body.is_empty() {
            decode_anyhow(&framed(header.first_byte, &body[..cut.index(body.len())]));
        }
    }

    #[test]
    fn a_packet_with_altered_bytes_never_panics(
        owned in arbitrary::packet(),
        alterations in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = owned_bytes(&owned);
        for (at, byte) in alterations {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        decode_anyhow(&bytes);
    }

    #[test]
    fn a_packet_with_bytes_put_in_or_taken_out_never_panics(
        owned in arbitrary::packet(),
        at in any::<prop::sample::Index>(),
        put in vec(any::<u8>(), 0..3),
        taken in 0..3usize,
    ) {
        let bytes = owned_bytes(&owned);
        let header = peek_frame(&bytes, u32::MAX).expect("a good header").expect("a whole one");
        let mut body = bytes[header.header_len..].to_vec();
        let at = at.index(body.len() + 1);
        let end = (at + taken).min(body.len());
        body.splice(at..end, put);
        decode_anyhow(&framed(header.first_byte, &body));
    }

    #[test]
    fn any_bytes_in_a_good_frame_never_panic(first_byte in any::<u8>(), body in vec(any::<u8>(), 0..64)) {
        decode_anyhow(&framed(first_byte, &body));
    }

    #[test]
    fn any_bytes_at_all_never_panic(bytes in vec(any::<u8>(), 0..16), limit in any::<u32>()) {
        decode_anyhow(&bytes);
        if let Ok(Some(header)) = peek_frame(&bytes, limit) {
            prop_assert!(header.total_len <= limit as usize);
        }
    }
}

/// A body with its fixed header.
fn framed(first_byte: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first_byte];
    let mut len = body.len();
    while len >= 0x80 {
        out.push((len & 0x7F) as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend_from_slice(body);
    out
}
