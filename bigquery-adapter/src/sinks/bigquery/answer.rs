//! What BigQuery's answers mean: a pure function over the codes of gRPC, of the Storage Write API and of single rows.
//!
//! Sources: the documentation of `AppendRowsResponse`, of `StorageError` and of the canonical codes. An answer that is not known is
//! tried again, because a row must never be given up for an error that nobody has understood.

use gcp_bigquery_client::google::cloud::bigquery::storage::v1::storage_error::StorageErrorCode;
use gcp_bigquery_client::google::cloud::bigquery::storage::v1::{RowError, StorageError};
use gcp_bigquery_client::google::rpc;
use prost::Message as _;
use tonic::Code;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The rows are in the table already: a request that was sent again.
    Done,
    /// Rows before these are missing in the stream: send again from the oldest that is not answered.
    Gap,
    /// The same request again, after a pause.
    Retry(Pace),
    /// The stream is gone or finalized: ask how far it got, make a new one, and send the rest there.
    NewStream,
    /// These rows of the request, by index and reason, are refused for what they contain; none of the request is stored.
    RowsRefused(Vec<(usize, String)>),
    /// The request as a whole is malformed or too large, and no row is named: halve it until the row is found.
    RequestRefused,
    /// The table has not the columns that the rows have, or is missing: look at it again.
    Schema,
    /// Only a person can help: the text says what to do. Tried again at the slowest pace.
    Operator(Trouble),
}

/// How long to wait before the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// The usual backoff.
    Usual,
    /// A quota is exhausted: the pause begins longer.
    Quota,
    /// The credentials are renewed first.
    NewToken,
}

/// What only a person can mend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// `PERMISSION_DENIED`.
    #[error(
        "the service account lacks a permission: it needs roles/bigquery.dataEditor on the dataset"
    )]
    Permission,
    /// `UNAUTHENTICATED` with a fresh token.
    #[error("the token is refused: check the service account, its key, and the machine's clock")]
    Token,
    /// Keys of the customer.
    #[error(
        "the customer-managed encryption key cannot be used: check the key and the permissions of BigQuery's service account on it"
    )]
    Key,
    /// `UNIMPLEMENTED` and the like.
    #[error("the endpoint does not speak the Storage Write API: check bigquery.endpoint")]
    Endpoint,
}

impl Trouble {
    /// A word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Permission => "PermissionDenied",
            Self::Token => "Unauthenticated",
            Self::Key => "EncryptionKey",
            Self::Endpoint => "Unimplemented",
        }
    }
}

/// An error of a call as a whole: the connection, the RPC, or a unary call such as `CreateWriteStream`.
#[must_use]
pub fn judge_call(status: &tonic::Status) -> Verdict {
    // The details of a call's error are a google.rpc.Status in its trailer.
    let storage = rpc::Status::decode(status.details())
        .ok()
        .and_then(|status| storage_code(&status));
    judge_code(status.code(), storage, status.message())
}

/// An error in the answer to one append, which leaves the connection open.
#[must_use]
pub fn judge_append(error: &rpc::Status, rows: &[RowError]) -> Verdict {
    if !rows.is_empty() {
        let mut refused: Vec<(usize, String)> = rows
            .iter()
            .filter_map(|row| Some((usize::try_from(row.index).ok()?, row.message.clone())))
            .collect();
        refused.sort_unstable();
        refused.dedup_by_key(|(index, _)| *index);
        if !refused.is_empty() {
            return Verdict::RowsRefused(refused);
        }
    }
    judge_code(Code::from(error.code), storage_code(error), &error.message)
}

fn storage_code(status: &rpc::Status) -> Option<StorageErrorCode> {
    status.details.iter().find_map(|any| {
        let ours = any
            .type_url
            .ends_with("google.cloud.bigquery.storage.v1.StorageError");
        let error = ours.then(|| StorageError::decode(any.value.as_slice()).ok())??;
        StorageErrorCode::try_from(error.code).ok()
    })
}

fn judge_code(code: Code, storage: Option<StorageErrorCode>, message: &str) -> Verdict {
    use StorageErrorCode as Storage;
    // The finer code first, where there is one.
    match storage {
        Some(Storage::OffsetAlreadyExists) => return Verdict::Done,
        Some(Storage::OffsetOutOfRange) => return Verdict::Gap,
        Some(Storage::SchemaMismatchExtraFields | Storage::TableNotFound) => {
            return Verdict::Schema;
        }
        Some(
            Storage::StreamNotFound
            | Storage::StreamFinalized
            | Storage::StreamAlreadyCommitted
            | Storage::InvalidStreamState
            | Storage::InvalidStreamType,
        ) => return Verdict::NewStream,
        Some(
            Storage::CmekNotProvided
            | Storage::InvalidCmekProvided
            | Storage::CmekEncryptionError
            | Storage::KmsPermissionDenied,
        ) => return Verdict::Operator(Trouble::Key),
        Some(Storage::KmsServiceError) => return Verdict::Retry(Pace::Usual),
        Some(Storage::Unspecified) | None => {}
    }
    match code {
        Code::AlreadyExists => Verdict::Done,
        Code::OutOfRange => Verdict::Gap,
        Code::NotFound if message.contains("able") && !message.contains("tream") => Verdict::Schema,
        Code::NotFound | Code::FailedPrecondition => Verdict::NewStream,
        Code::InvalidArgument => Verdict::RequestRefused,
        Code::ResourceExhausted if is_size(message) => Verdict::RequestRefused,
        Code::ResourceExhausted => Verdict::Retry(Pace::Quota),
        Code::Unauthenticated => Verdict::Retry(Pace::NewToken),
        Code::PermissionDenied => Verdict::Operator(Trouble::Permission),
        Code::Unimplemented => Verdict::Operator(Trouble::Endpoint),
        Code::Ok
        | Code::Aborted
        | Code::Cancelled
        | Code::DataLoss
        | Code::DeadlineExceeded
        | Code::Internal
        | Code::Unavailable
        | Code::Unknown => Verdict::Retry(Pace::Usual),
    }
}

/// A request above the limit of 10 MB is refused by some with the code of exhausted quotas.
fn is_size(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    [
        "too large",
        "larger than",
        "message size",
        "size limit",
        "request size",
    ]
    .iter()
    .any(|words| message.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detailed(code: Code, storage: StorageErrorCode) -> rpc::Status {
        let error = StorageError {
            code: storage as i32,
            entity: "projects/p".to_owned(),
            error_message: String::new(),
        };
        rpc::Status {
            code: code as i32,
            message: "words".to_owned(),
            details: vec![prost_types::Any {
                type_url: "type.googleapis.com/google.cloud.bigquery.storage.v1.StorageError"
                    .to_owned(),
                value: error.encode_to_vec(),
            }],
        }
    }

    fn plain(code: Code, message: &str) -> rpc::Status {
        rpc::Status {
            code: code as i32,
            message: message.to_owned(),
            details: Vec::new(),
        }
    }

    #[test]
    fn every_canonical_code_has_a_meaning() {
        for (code, expected) in [
            (Code::Ok, Verdict::Retry(Pace::Usual)),
            (Code::Cancelled, Verdict::Retry(Pace::Usual)),
            (Code::Unknown, Verdict::Retry(Pace::Usual)),
            (Code::InvalidArgument, Verdict::RequestRefused),
            (Code::DeadlineExceeded, Verdict::Retry(Pace::Usual)),
            (Code::NotFound, Verdict::NewStream),
            (Code::AlreadyExists, Verdict::Done),
            (
                Code::PermissionDenied,
                Verdict::Operator(Trouble::Permission),
            ),
            (Code::ResourceExhausted, Verdict::Retry(Pace::Quota)),
            (Code::FailedPrecondition, Verdict::NewStream),
            (Code::Aborted, Verdict::Retry(Pace::Usual)),
            (Code::OutOfRange, Verdict::Gap),
            (Code::Unimplemented, Verdict::Operator(Trouble::Endpoint)),
            (Code::Internal, Verdict::Retry(Pace::Usual)),
            (Code::Unavailable, Verdict::Retry(Pace::Usual)),
            (Code::DataLoss, Verdict::Retry(Pace::Usual)),
            (Code::Unauthenticated, Verdict::Retry(Pace::NewToken)),
        ] {
            assert_eq!(
                judge_append(&plain(code, "words"), &[]),
                expected,
                "{code:?}"
            );
            let status = tonic::Status::new(code, "words");
            assert_eq!(judge_call(&status), expected, "{code:?} of a call");
        }
        assert_eq!(
            judge_append(&plain(Code::from(99), ""), &[]),
            Verdict::Retry(Pace::Usual)
        );
    }

    #[test]
    fn every_code_of_the_storage_api_counts_more_than_the_canonical_one() {
        use StorageErrorCode as Storage;
        for (storage, expected) in [
            (Storage::Unspecified, Verdict::Retry(Pace::Usual)),
            (Storage::TableNotFound, Verdict::Schema),
            (Storage::StreamAlreadyCommitted, Verdict::NewStream),
            (Storage::StreamNotFound, Verdict::NewStream),
            (Storage::InvalidStreamType, Verdict::NewStream),
            (Storage::InvalidStreamState, Verdict::NewStream),
            (Storage::StreamFinalized, Verdict::NewStream),
            (Storage::SchemaMismatchExtraFields, Verdict::Schema),
            (Storage::OffsetAlreadyExists, Verdict::Done),
            (Storage::OffsetOutOfRange, Verdict::Gap),
            (Storage::CmekNotProvided, Verdict::Operator(Trouble::Key)),
            (
                Storage::InvalidCmekProvided,
                Verdict::Operator(Trouble::Key),
            ),
            (
                Storage::CmekEncryptionError,
                Verdict::Operator(Trouble::Key),
            ),
            (Storage::KmsServiceError, Verdict::Retry(Pace::Usual)),
            (
                Storage::KmsPermissionDenied,
                Verdict::Operator(Trouble::Key),
            ),
        ] {
            let status = detailed(Code::Internal, storage);
            assert_eq!(judge_append(&status, &[]), expected, "{storage:?}");
            let details = status.encode_to_vec().into();
            let call = tonic::Status::with_details(Code::Internal, "words", details);
            assert_eq!(judge_call(&call), expected, "{storage:?} of a call");
        }
    }

    #[test]
    fn refused_rows_are_named_once_each_in_their_order() {
        let row = |index, message: &str| RowError {
            index,
            code: 1,
            message: message.to_owned(),
        };
        let status = plain(Code::InvalidArgument, "errors found");
        let rows = [
            row(4, "bad"),
            row(1, "worse"),
            row(4, "again"),
            row(-1, "?"),
        ];
        let expected = vec![(1, "worse".to_owned()), (4, "again".to_owned())];
        assert_eq!(judge_append(&status, &rows), Verdict::RowsRefused(expected));
        assert_eq!(
            judge_append(&status, &[row(-1, "?")]),
            Verdict::RequestRefused
        );
    }

    #[test]
    fn a_request_that_is_too_large_is_not_a_quota() {
        let status = plain(
            Code::ResourceExhausted,
            "Message larger than max (11 vs. 10)",
        );
        assert_eq!(judge_append(&status, &[]), Verdict::RequestRefused);
    }

    #[test]
    fn a_missing_table_is_told_from_a_missing_stream() {
        for (words, expected) in [
            ("Not found: Table p:d.t", Verdict::Schema),
            (
                "Requested entity was not found. Entity: projects/p/datasets/d/tables/t/streams/s",
                Verdict::NewStream,
            ),
        ] {
            assert_eq!(
                judge_append(&plain(Code::NotFound, words), &[]),
                expected,
                "{words}"
            );
        }
    }
}
