//! What the disk's answers mean.

use std::path::Path;

use super::journal::AppendError;
use crate::error::{Code, SinkError};

/// What a failed append to this segment means.
pub(super) fn judge(error: &AppendError, segment: &Path) -> SinkError {
    let path = segment.display();
    match error {
        AppendError::Write(error) => SinkError::Retry {
            code: Code::JOURNAL_WRITE,
            text: format!("writing to {path} failed: {error}"),
        },
        AppendError::Unknown(error) => SinkError::Fatal {
            code: Code::JOURNAL_SYNC,
            text: format!(
                "{path} could not be made durable: {error}; nothing after the last commit was acknowledged"
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_surely_not_written_is_tried_again_and_what_nobody_knows_ends_the_sink() {
        let error = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        let again = judge(&AppendError::Write(error()), Path::new("a/b"));
        assert!(matches!(again, SinkError::Retry { .. }), "{again}");
        assert!(again.to_string().contains("a/b"), "{again}");
        let unknown = judge(&AppendError::Unknown(error()), Path::new("a/b"));
        assert!(matches!(unknown, SinkError::Fatal { .. }), "{unknown}");
    }
}
