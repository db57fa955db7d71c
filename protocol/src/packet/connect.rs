//! CONNECT (section 3.1).

use crate::error::{DecodeError, EncodeError};
use crate::primitive::{Cursor, check_len, put_binary};
use crate::property::{Properties, PropertyContext};
use crate::topic;
use crate::version::{QoS, Sender, Version};

const USERNAME: u8 = 0x80;
const PASSWORD: u8 = 0x40;
const WILL_RETAIN: u8 = 0x20;
const WILL_QOS_SHIFT: u8 = 3;
const WILL: u8 = 0x04;
const CLEAN_START: u8 = 0x02;
const RESERVED: u8 = 0x01;

/// CONNECT: the first packet of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connect<'a> {
    /// The version of the connection.
    pub version: Version,
    /// Whether an existing session is thrown away (before MQTT 5: clean session, which also ends with the connection).
    pub clean_start: bool,
    /// Seconds; 0: no limit.
    pub keep_alive: u16,
    /// May be empty in MQTT 5, and in MQTT 3.1.1 with a clean session: the server chooses one.
    pub client_id: &'a str,
    /// Properties.
    pub properties: Properties<'a>,
    /// The message to publish when the connection ends without a DISCONNECT.
    pub will: Option<Will<'a>>,
    /// User name.
    pub username: Option<&'a str>,
    /// Password: any bytes.
    pub password: Option<&'a [u8]>,
}

/// A will message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Will<'a> {
    /// Its QoS.
    pub qos: QoS,
    /// Whether it is to be retained.
    pub retain: bool,
    /// Its topic name, valid.
    pub topic: &'a str,
    /// Its payload, at most 65,535 bytes.
    pub payload: &'a [u8],
    /// Its properties, will delay interval included.
    pub properties: Properties<'a>,
}

impl<'a> Connect<'a> {
    /// A CONNECT without will and credentials.
    #[must_use]
    pub const fn new(version: Version, client_id: &'a str) -> Self {
        Self {
            version,
            clean_start: true,
            keep_alive: 0,
            client_id,
            properties: Properties::EMPTY,
            will: None,
            username: None,
            password: None,
        }
    }

    pub(super) fn read(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(body);
        let version = read_version(&mut cursor)?;
        let flags = cursor.u8("connect flags")?;
        check_flags(flags, version)?;
        let keep_alive = cursor.u16("keep alive")?;
        let properties = read_properties(&mut cursor, version, PropertyContext::Connect)?;
        let client_id = cursor.string("client identifier")?;
        let clean_start = flags & CLEAN_START != 0;
        check_client_id(client_id, version, clean_start)?;
        let will = (flags & WILL != 0)
            .then(|| Will::read(&mut cursor, flags, version))
            .transpose()?;
        let username = (flags & USERNAME != 0)
            .then(|| cursor.string("user name"))
            .transpose()?;
        let password = (flags & PASSWORD != 0)
            .then(|| cursor.binary("password"))
            .transpose()?;
        cursor.finish()?;
        Ok(Self {
            version,
            clean_start,
            keep_alive,
            client_id,
            properties,
            will,
            username,
            password,
        })
    }

    fn flags(&self) -> u8 {
        let mut flags = 0;
        if self.clean_start {
            flags |= CLEAN_START;
        }
        if let Some(will) = &self.will {
            flags |= WILL | (will.qos as u8) << WILL_QOS_SHIFT;
            if will.retain {
                flags |= WILL_RETAIN;
            }
        }
        if self.username.is_some() {
            flags |= USERNAME;
        }
        if self.password.is_some() {
            flags |= PASSWORD;
        }
        flags
    }

    pub(super) fn body_len(&self) -> Result<usize, EncodeError> {
        // [MQTT-3.1.2-22] of MQTT 3.1.1.
        if self.password.is_some() && self.username.is_none() && !self.version.is_v5() {
            return Err(EncodeError::PasswordWithoutUsername);
        }
        check_len("client identifier", self.client_id.as_bytes())?;
        let mut len = 2 + self.version.protocol_name().len() + 4 + 2 + self.client_id.len();
        if self.version.is_v5() {
            len += self.properties.wire_len();
        }
        if let Some(will) = &self.will {
            len += will.body_len(self.version)?;
        }
        if let Some(username) = self.username {
            check_len("user name", username.as_bytes())?;
            len += 2 + username.len();
        }
        if let Some(password) = self.password {
            check_len("password", password)?;
            len += 2 + password.len();
        }
        Ok(len)
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        put_binary(out, self.version.protocol_name().as_bytes());
        out.push(self.version.level());
        out.push(self.flags());
        out.extend_from_slice(&self.keep_alive.to_be_bytes());
        if self.version.is_v5() {
            super::put_properties(out, self.properties.as_bytes());
        }
        put_binary(out, self.client_id.as_bytes());
        if let Some(will) = &self.will {
            will.write(self.version, out);
        }
        if let Some(username) = self.username {
            put_binary(out, username.as_bytes());
        }
        if let Some(password) = self.password {
            put_binary(out, password);
        }
    }
}

impl<'a> Will<'a> {
    fn read(cursor: &mut Cursor<'a>, flags: u8, version: Version) -> Result<Self, DecodeError> {
        let properties = read_properties(cursor, version, PropertyContext::Will)?;
        let topic = cursor.utf8("will topic")?;
        topic::check_name(topic)
            .map_err(|error| super::publish::topic_error("will topic", error))?;
        let payload = cursor.binary("will payload")?;
        Ok(Self {
            qos: will_qos(flags)?,
            retain: flags & WILL_RETAIN != 0,
            topic,
            payload,
            properties,
        })
    }

    fn body_len(&self, version: Version) -> Result<usize, EncodeError> {
        check_len("will topic", self.topic.as_bytes())?;
        check_len("will payload", self.payload)?;
        let properties = if version.is_v5() {
            self.properties.wire_len()
        } else {
            0
        };
        Ok(properties + 2 + self.topic.len() + 2 + self.payload.len())
    }

    fn write(&self, version: Version, out: &mut Vec<u8>) {
        if version.is_v5() {
            super::put_properties(out, self.properties.as_bytes());
        }
        put_binary(out, self.topic.as_bytes());
        put_binary(out, self.payload);
    }
}

/// Protocol name and level. Nothing behind them is looked at unless both are known.
fn read_version(cursor: &mut Cursor<'_>) -> Result<Version, DecodeError> {
    let name = cursor.binary("protocol name")?;
    if name != b"MQTT" && name != b"MQIsdp" {
        return Err(DecodeError::ProtocolName);
    }
    match (name, cursor.u8("protocol level")?) {
        (b"MQIsdp", 3) => Ok(Version::V31),
        (b"MQTT", 4) => Ok(Version::V311),
        (b"MQTT", 5) => Ok(Version::V5),
        (_, level) => Err(DecodeError::UnsupportedVersion { level }),
    }
}

fn check_flags(flags: u8, version: Version) -> Result<(), DecodeError> {
    // [MQTT-3.1.2-3].
    if flags & RESERVED != 0 {
        return Err(DecodeError::ConnectFlags { flags });
    }
    let will_qos = will_qos(flags)?;
    // [MQTT-3.1.2-11], [MQTT-3.1.2-13].
    if flags & WILL == 0 && (will_qos != QoS::AtMostOnce || flags & WILL_RETAIN != 0) {
        return Err(DecodeError::WillFlags { flags });
    }
    // [MQTT-3.1.2-22] of MQTT 3.1.1; MQTT 5 allows it.
    if flags & PASSWORD != 0 && flags & USERNAME == 0 && !version.is_v5() {
        return Err(DecodeError::PasswordWithoutUsername);
    }
    Ok(())
}

fn will_qos(flags: u8) -> Result<QoS, DecodeError> {
    QoS::try_from(flags >> WILL_QOS_SHIFT & 0b11)
        .map_err(|_| DecodeError::QosReserved { field: "will qos" })
}

/// An empty client identifier wants a clean session in MQTT 3.1.1 [MQTT-3.1.3-8], and does not exist in MQTT 3.1.
fn check_client_id(
    client_id: &str,
    version: Version,
    clean_start: bool,
) -> Result<(), DecodeError> {
    let may_be_empty = match version {
        Version::V31 => false,
        Version::V311 => clean_start,
        Version::V5 => true,
    };
    if client_id.is_empty() && !may_be_empty {
        return Err(DecodeError::ClientIdEmpty { version });
    }
    Ok(())
}

fn read_properties<'a>(
    cursor: &mut Cursor<'a>,
    version: Version,
    context: PropertyContext,
) -> Result<Properties<'a>, DecodeError> {
    if !version.is_v5() {
        return Ok(Properties::EMPTY);
    }
    Properties::read(cursor, context, Sender::Client)
}
