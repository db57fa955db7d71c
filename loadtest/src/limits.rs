//! How many sockets this process may open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::error::Error;

/// Raises the soft limit of open files to the hard one, for this process and those it starts.
///
/// # Errors
/// [`Error::TooManySockets`] when even that is not enough.
pub fn require_sockets(needed: u64) -> Result<(), Error> {
    let limits = getrlimit(Resource::Nofile);
    let hard = limits.maximum.unwrap_or(u64::MAX);
    if limits.current.is_some_and(|soft| soft < hard) {
        // Failing leaves the limit as it was, and the check below speaks of it.
        let raised = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limits.maximum,
                maximum: limits.maximum,
            },
        );
        if raised.is_err() && limits.current.is_some_and(|soft| soft < needed) {
            return Err(Error::TooManySockets {
                needed,
                limit: limits.current.unwrap_or(hard),
            });
        }
    }
    if hard < needed {
        Err(Error::TooManySockets {
            needed,
            limit: hard,
        })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_sockets_than_the_hard_limit_are_refused_with_both_numbers() {
        let hard = getrlimit(Resource::Nofile).maximum;
        let Some(hard) = hard else { return };
        let text = require_sockets(hard + 1).unwrap_err().to_string();
        assert!(
            text.contains(&hard.to_string()) && text.contains(&(hard + 1).to_string()),
            "{text}"
        );
        assert!(require_sockets(10).is_ok());
    }
}
