//! Packets as a line of text, for the case files.

use dunlin_protocol::{
    Ack, ConnAck, Connect, Packet, Properties, Publish, QoS, RetainHandling, SubscribeOptions, Will,
};

pub(crate) fn packet(packet: &Packet<'_>) -> String {
    let name = packet.packet_type().name();
    let rest = match packet {
        Packet::Connect(it) => connect(it),
        Packet::ConnAck(it) => connack(it),
        Packet::Publish(it) => publish(it),
        Packet::PubAck(it) | Packet::PubRec(it) | Packet::PubRel(it) | Packet::PubComp(it) => {
            ack(it)
        }
        Packet::Subscribe(it) => {
            let filters = it
                .filters
                .iter()
                .map(|(filter, options)| format!("{} {}", string(filter), subscription(options)));
            format!(
                "id={}{} {}",
                it.packet_id,
                properties(it.properties),
                join(filters)
            )
        }
        Packet::SubAck(it) => format!(
            "id={}{} {}",
            it.packet_id,
            properties(it.properties),
            codes(it.reason_codes)
        ),
        Packet::Unsubscribe(it) => {
            format!(
                "id={}{} {}",
                it.packet_id,
                properties(it.properties),
                join(it.filters.iter().map(string))
            )
        }
        Packet::UnsubAck(it) => format!(
            "id={}{} {}",
            it.packet_id,
            properties(it.properties),
            codes(it.reason_codes)
        ),
        Packet::PingReq | Packet::PingResp => String::new(),
        Packet::Disconnect(it) => format!("{:#04x}{}", it.reason.0, properties(it.properties)),
        Packet::Auth(it) => format!("{:#04x}{}", it.reason.0, properties(it.properties)),
    };
    format!("{name} {rest}").trim_end().to_owned()
}

fn connect(connect: &Connect<'_>) -> String {
    let mut out = format!("mqtt {} {}", connect.version, string(connect.client_id));
    if connect.clean_start {
        out += " clean";
    }
    out += &format!(
        " keep_alive={}{}",
        connect.keep_alive,
        properties(connect.properties)
    );
    if let Some(will) = &connect.will {
        out += &will_text(will);
    }
    if let Some(username) = connect.username {
        out += &format!(" username={}", string(username));
    }
    if let Some(password) = connect.password {
        out += &format!(" password={}", bytes(password));
    }
    out
}

fn will_text(will: &Will<'_>) -> String {
    let retain = if will.retain { " retain" } else { "" };
    format!(
        " will({}{retain} {}{} {})",
        qos(will.qos),
        string(will.topic),
        properties(will.properties),
        bytes(will.payload)
    )
}

fn connack(connack: &ConnAck<'_>) -> String {
    let session = if connack.session_present {
        " session_present"
    } else {
        ""
    };
    format!(
        "{:#04x}{session}{}",
        connack.reason.0,
        properties(connack.properties)
    )
}

fn publish(publish: &Publish<'_>) -> String {
    let mut out = qos(publish.qos).to_owned();
    if publish.dup {
        out += " dup";
    }
    if publish.retain {
        out += " retain";
    }
    if let Some(id) = publish.packet_id {
        out += &format!(" id={id}");
    }
    format!(
        "{out} {}{} {}",
        string(publish.topic),
        properties(publish.properties),
        bytes(publish.payload)
    )
}

fn ack(ack: &Ack<'_>) -> String {
    format!(
        "id={} {:#04x}{}",
        ack.packet_id,
        ack.reason.0,
        properties(ack.properties)
    )
}

fn subscription(options: SubscribeOptions) -> String {
    let mut out = qos(options.qos).to_owned();
    if options.no_local {
        out += " no_local";
    }
    if options.retain_as_published {
        out += " retain_as_published";
    }
    match options.retain_handling {
        RetainHandling::Send => out,
        RetainHandling::SendIfNew => out + " retain_if_new",
        RetainHandling::DoNotSend => out + " retain_never",
    }
}

fn properties(properties: Properties<'_>) -> String {
    if properties.is_empty() {
        return String::new();
    }
    format!(
        " [{}]",
        shorten(join(
            properties.iter().map(|property| format!("{property:?}"))
        ))
    )
}

fn codes(codes: &[u8]) -> String {
    join(codes.iter().map(|code| format!("{code:#04x}")))
}

fn join(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

const fn qos(qos: QoS) -> &'static str {
    match qos {
        QoS::AtMostOnce => "q0",
        QoS::AtLeastOnce => "q1",
        QoS::ExactlyOnce => "q2",
    }
}

fn string(text: &str) -> String {
    shorten(format!("{text:?}"))
}

fn bytes(bytes: &[u8]) -> String {
    shorten(format!("b\"{}\"", bytes.escape_ascii()))
}

/// What is very long is said by its length.
fn shorten(text: String) -> String {
    if text.len() > 300 {
        format!("<{} characters>", text.chars().count())
    } else {
        text
    }
}
