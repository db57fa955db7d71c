//! Why something was not done in the registry.

use dunlin_sync::StoreError;

use super::device::Invalid;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It would be out of bounds.
    #[error("{0}")]
    Invalid(#[from] Invalid),
    /// There is one already, and it is another.
    #[error("the device exists, and differs")]
    Exists {
        /// Of the one that is there.
        revision: u64,
    },
    /// There is none.
    #[error("there is no such device")]
    Missing,
    /// Somebody has changed it meanwhile.
    #[error("the device has been changed meanwhile: it is of revision {revision} now")]
    Changed {
        /// Of the one that is there.
        revision: u64,
    },
    /// A certificate is another device's.
    #[error("the certificate of credential {id:?} is another device's")]
    Taken {
        /// Which credential.
        id: String,
    },
    /// What is stored cannot be read.
    #[error("the record of device {key} cannot be used: {why}")]
    Damaged {
        /// Which.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// So many change it at once that none of the attempts succeeded.
    #[error("the device is being changed by too many at once: try again")]
    Busy,
    /// The store does not answer as it should.
    #[error("{0}")]
    Store(#[from] StoreError),
}
