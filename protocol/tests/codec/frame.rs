//! Finding the end of a packet.

use dunlin_protocol::{DecodeError, FrameHeader, MAX_VARINT, ReasonCode, peek_frame};

const NO_LIMIT: u32 = u32::MAX;

#[test]
fn an_incomplete_fixed_header_asks_for_more() {
    for bytes in [
        &[][..],
        &[0x30],
        &[0x30, 0x80],
        &[0x30, 0xFF, 0xFF],
        &[0x30, 0x80, 0x80, 0x80],
    ] {
        assert_eq!(peek_frame(bytes, NO_LIMIT), Ok(None), "{bytes:02x?}");
    }
}

#[test]
fn the_header_tells_where_the_packet_ends() {
    let lengths = [
        (0, 1),
        (1, 1),
        (127, 1),
        (128, 2),
        (16_383, 2),
        (16_384, 3),
        (2_097_151, 3),
        (2_097_152, 4),
    ];
    for (remaining, len) in lengths.into_iter().chain([(MAX_VARINT as usize, 4)]) {
        let mut bytes = vec![0x32];
        let mut value = remaining;
        for i in 0..len {
            bytes.push((value & 0x7F) as u8 | if i + 1 < len { 0x80 } else { 0 });
            value >>= 7;
        }
        let header = FrameHeader {
            first_byte: 0x32,
            header_len: 1 + len,
            total_len: 1 + len + remaining,
        };
        assert_eq!(peek_frame(&bytes, NO_LIMIT), Ok(Some(header)));
        // What follows changes nothing.
        bytes.extend_from_slice(&[0xFF; 9]);
        assert_eq!(peek_frame(&bytes, NO_LIMIT), Ok(Some(header)));
    }
}

#[test]
fn a_length_in_the_wrong_form_is_refused_as_soon_as_it_is_seen() {
    assert_eq!(
        peek_frame(&[0x30, 0x80, 0x80, 0x80, 0x80], NO_LIMIT),
        Err(DecodeError::RemainingLengthTooLong)
    );
    assert_eq!(
        peek_frame(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1], NO_LIMIT),
        Err(DecodeError::RemainingLengthTooLong)
    );
    // [MQTT-1.5.5-1] v5
    for bytes in [
        &[0x30, 0x80, 0x00][..],
        &[0x30, 0xFF, 0x80, 0x00],
        &[0x30, 0x80, 0x80, 0x80, 0x00],
    ] {
        let result = peek_frame(bytes, NO_LIMIT);
        assert!(
            matches!(result, Err(DecodeError::RemainingLengthNotMinimal { .. })),
            "{bytes:02x?} gives {result:?}"
        );
    }
}

#[test]
fn the_limit_counts_the_whole_packet_and_is_checked_before_the_packet_is_there() {
    // 2 bytes of header, 100 of packet.
    let header = [0x30, 100];
    assert!(peek_frame(&header, 102).is_ok_and(|header| header.is_some()));
    let error = DecodeError::PacketTooLarge {
        size: 102,
        limit: 101,
    };
    assert_eq!(peek_frame(&header, 101), Err(error));
    assert_eq!(error.reason_code(), ReasonCode::PACKET_TOO_LARGE);
    let largest = [0x30, 0xFF, 0xFF, 0xFF, 0x7F];
    assert!(peek_frame(&largest, 1_048_576).is_err());
    assert!(peek_frame(&largest, MAX_VARINT + 5).is_ok_and(|header| header.is_some()));
}
