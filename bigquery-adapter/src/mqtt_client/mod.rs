//! A small MQTT client: an address, a byte stream, packets. What the packets mean is the source's affair.

mod address;
mod handshake;
mod stream;
mod tls;
mod wire;

pub use address::{Address, AddressError};
pub use handshake::{Accepted, HandshakeError, Hello, connect};
pub use stream::OpenError;
pub use tls::{TlsError, TlsFiles};
pub use wire::{Inbox, WireError};

pub(crate) use stream::{ReadHalf, WriteHalf};
