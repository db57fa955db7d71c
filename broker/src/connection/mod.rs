//! One client's connection: a task that reads, hands on, acknowledges and writes.
//!
//! The task never waits for one direction: a client that does not read still has its packets
//! handled until a bound says otherwise. Nothing is held while nothing happens: bytes are read into
//! a buffer of the thread, and what is left of an incomplete packet is all that a connection keeps.
//!
//! - `handshake`: CONNECT, its answer, the claim of the session.
//! - `bootstrap`: clients that may do nothing but ask for an identity.
//! - `exchange`: authentication by AUTH packets.
//! - `packets`: what each packet means.
//! - `acks`: acknowledgements that wait for the store, in order.
//! - `identity`: what is kept of clients of tenants, and of devices.
//! - `held`: publishes that come while this replica is cut off from its cluster.
//! - `run`: the loop. `socket`: what it reads and writes. `pauses`: when it reads nothing, and when the client is silent for too long.
//! - `close`: how it ends. `audited`: what the audit log is told. `login`: whether a login is looked at.

mod acks;
mod audited;
mod bootstrap;
mod close;
mod exchange;
mod handshake;
mod held;
mod identity;
mod login;
mod packets;
mod pauses;
mod run;
mod socket;
mod stored;
mod throttle;
mod traces;

use std::sync::Arc;

use crate::hub::Hub;
use crate::net::Accepted;

/// Serves one connection until it is closed.
///
/// Not cancel safe: a dropped future leaves the session claimed until the process ends. Ask the
/// connection to close instead ([`Hub::drain`]).
pub fn serve(hub: Arc<Hub>, accepted: Accepted) -> impl Future<Output = ()> + Send + 'static {
    // In boxes of their own: the memory of what is done once, several KB, is not kept while the connection is open. What the handshake is
    // given goes into its box before the future begins, which would keep a place for it otherwise.
    let handshake = Box::pin(async move { handshake::handshake(&hub, accepted).await });
    async move {
        let Some(mut connection) = handshake.await else {
            return;
        };
        let closing = connection.run().await;
        Box::pin(connection.finish(closing)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::session::Session;
    use crate::hub::wake::Wake;

    fn size_of_task<F: Future>(_: fn(Arc<Hub>, Accepted) -> F) -> usize {
        size_of::<F>()
    }

    /// mimalloc has blocks of 160, 192, 512 and 640 bytes and none between: a field too many costs 128 bytes in each connection. What is
    /// rare belongs into a box.
    #[cfg(target_pointer_width = "64")]
    #[test]
    fn what_an_idle_connection_keeps_fits_the_blocks_of_the_allocator() {
        let counts = 2 * size_of::<usize>();
        let sizes = [
            ("task", size_of_task(serve), 512),
            ("session", size_of::<Session>() + counts, 512),
            ("wake", size_of::<Wake>() + counts, 160),
        ];
        for (what, size, block) in sizes {
            assert!(size <= block, "{what} has {size} bytes, for {block}");
        }
    }
}
