//! The methods that say who a client is.

mod certificate;
mod users;

pub use certificate::Certificate;
pub use users::UsersMethod;
