//! How hash maps within the broker hash.

/// Seeded at random in every process, because clients choose topics and client ids; fixed in builds
/// for tests, where a seed must reproduce a whole run.
#[cfg(not(feature = "testing"))]
pub(crate) type RandomState = foldhash::fast::RandomState;
/// See the other.
#[cfg(feature = "testing")]
pub(crate) type RandomState = foldhash::fast::FixedState;
