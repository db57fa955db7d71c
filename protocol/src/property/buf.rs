//! Building a block of properties.

use super::{Properties, Property, PropertyId, RawProperty};
use crate::error::EncodeError;
use crate::primitive::{MAX_VARINT, check_len, put_binary, put_varint};

/// A block of properties that is being built.
///
/// It checks what would make the bytes unreadable (lengths, identifiers out of range); that a property stands in a
/// packet where it belongs is for the caller to see to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PropertiesBuf {
    bytes: Vec<u8>,
}

impl PropertiesBuf {
    /// An empty block; allocates with the first push.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: Vec::new() }
    }

    /// The block, to put into a packet.
    #[must_use]
    pub fn as_properties(&self) -> Properties<'_> {
        Properties::from_validated(&self.bytes)
    }

    /// The bytes, without the length in front.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes, without the length in front.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Whether nothing has been pushed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Removes everything and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Appends a property as it was on the wire of another block.
    pub fn push_raw(&mut self, property: RawProperty<'_>) -> &mut Self {
        self.bytes.extend_from_slice(property.bytes);
        self
    }

    /// Appends all of another block.
    pub fn extend(&mut self, properties: Properties<'_>) -> &mut Self {
        self.bytes.extend_from_slice(properties.as_bytes());
        self
    }

    /// Appends a property.
    ///
    /// # Errors
    ///
    /// [`EncodeError::FieldTooLong`] for a string or data above 65,535 bytes, [`EncodeError::PropertyValue`] for a
    /// subscription identifier out of its range. Nothing has been appended then.
    pub fn push(&mut self, property: Property<'_>) -> Result<&mut Self, EncodeError> {
        let id = property.id();
        match property {
            Property::PayloadFormatIndicator(value) => self.byte(id, value),
            Property::MaximumQoS(qos) => self.byte(id, qos as u8),
            Property::RequestProblemInformation(flag)
            | Property::RequestResponseInformation(flag)
            | Property::RetainAvailable(flag)
            | Property::WildcardSubscriptionAvailable(flag)
            | Property::SubscriptionIdentifierAvailable(flag)
            | Property::SharedSubscriptionAvailable(flag) => self.byte(id, u8::from(flag)),
            Property::ServerKeepAlive(value)
            | Property::ReceiveMaximum(value)
            | Property::TopicAliasMaximum(value)
            | Property::TopicAlias(value) => self.number(id, &value.to_be_bytes()),
            Property::MessageExpiryInterval(value)
            | Property::SessionExpiryInterval(value)
            | Property::WillDelayInterval(value)
            | Property::MaximumPacketSize(value) => self.number(id, &value.to_be_bytes()),
            Property::SubscriptionIdentifier(value) => self.subscription_identifier(value)?,
            Property::ContentType(text)
            | Property::ResponseTopic(text)
            | Property::AssignedClientIdentifier(text)
            | Property::AuthenticationMethod(text)
            | Property::ResponseInformation(text)
            | Property::ServerReference(text)
            | Property::ReasonString(text) => self.binary(id, text.as_bytes())?,
            Property::CorrelationData(data) | Property::AuthenticationData(data) => {
                self.binary(id, data)?
            }
            Property::UserProperty(name, value) => self.pair(id, name, value)?,
        }
        Ok(self)
    }

    fn byte(&mut self, id: PropertyId, value: u8) {
        self.bytes.extend_from_slice(&[id as u8, value]);
    }

    fn number(&mut self, id: PropertyId, value: &[u8]) {
        self.bytes.push(id as u8);
        self.bytes.extend_from_slice(value);
    }

    fn subscription_identifier(&mut self, value: u32) -> Result<(), EncodeError> {
        let property = PropertyId::SubscriptionIdentifier;
        if value == 0 || value > MAX_VARINT {
            return Err(EncodeError::PropertyValue { property, value });
        }
        self.bytes.push(property as u8);
        put_varint(&mut self.bytes, value);
        Ok(())
    }

    fn binary(&mut self, id: PropertyId, value: &[u8]) -> Result<(), EncodeError> {
        check_len(id.name(), value)?;
        self.bytes.push(id as u8);
        put_binary(&mut self.bytes, value);
        Ok(())
    }

    fn pair(&mut self, id: PropertyId, name: &str, value: &str) -> Result<(), EncodeError> {
        check_len(id.name(), name.as_bytes())?;
        check_len(id.name(), value.as_bytes())?;
        self.bytes.push(id as u8);
        put_binary(&mut self.bytes, name.as_bytes());
        put_binary(&mut self.bytes, value.as_bytes());
        Ok(())
    }
}
