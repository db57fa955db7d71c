//! The Lua scripts, each one atomic step.
//!
//! A script that frees memory may run when Redis is full, one that needs memory is refused then, before
//! it has changed anything; so is any script by a server that may not write.

use std::sync::LazyLock;

/// What a script may do while Redis is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flags {
    Reads,
    Frees,
    Grows,
}

impl Flags {
    fn line(self) -> &'static str {
        match self {
            Self::Reads => "#!lua flags=no-writes\n",
            Self::Frees => "#!lua flags=allow-oom\n",
            Self::Grows => "#!lua\n",
        }
    }
}

macro_rules! scripts {
    ($($name:ident $flags:ident $($part:literal)+;)+) => {
        /// A script by name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Script { $($name,)+ }

        /// All of them, in the order of the enum.
        static TEXTS: LazyLock<Vec<Text>> = LazyLock::new(|| vec![
            $(Text::new(Flags::$flags, &[$(include_str!(concat!("scripts/", $part, ".lua")),)+]),)+
        ]);
    };
}

scripts! {
    Claim Grows "tables" "claim_head" "claim" "claim_tail";
    ClaimSmall Frees "tables" "claim_head" "claim" "claim_tail";
    ClaimAgain Frees "tables" "claim_head" "claim_again" "claim_tail";
    Release Frees "tables" "let_go" "release";
    Orphan Frees "tables" "let_go" "orphan";
    Due Reads "due";
    Expire Frees "tables" "expire";
    PutSession Grows "tables" "put_session";
    PutRecord Grows "tables" "replace" "put_record";
    DeleteSession Frees "tables" "delete_session";
    PutRetained Grows "tables" "replace" "put_retained";
    DeleteRetained Frees "tables" "replace" "delete_retained";
    ExpireRetained Frees "tables" "expire_retained";
    PutRecords Grows "tables" "replace" "put_records";
    DeleteRecords Frees "tables" "replace" "put_records";
    ExpireRecord Frees "tables" "expire_record";
    GetRecords Reads "get_records";
    Append Grows "append";
    AppendAgain Grows "queue" "put" "append_again";
    Restore Frees "queue" "put" "restore";
    Settle Frees "settle_head" "queue" "settle";
    SettleGrowing Grows "settle_head" "queue" "settle";
    ReadQueue Reads "queue" "read_queue";
    Join Frees "server" "join";
    Numbers Frees "server" "numbers";
    Open Frees "open";
    DropReplica Frees "drop_replica";
    Renew Frees "renew";
    Reap Frees "reap";
    Lead Frees "lead";
    Registry Reads "registry";
    PutRoutes Grows "put_routes";
    TapAppend Grows "tap" "tap_seen" "tap_append";
    TapAppendAgain Grows "tap" "tap_seen" "tap_append_again";
    TapLease Frees "tap" "tap_lease";
    TapRelease Frees "tap" "tap_release";
    TapAcknowledge Frees "tap" "tap_acknowledge";
    TapRead Reads "tap" "tap_read";
    TapLook Reads "tap" "tap_look";
    TapMember Frees "tap_member";
    TapKnown Frees "tap_known";
}

struct Text {
    text: String,
    sha: String,
}

impl Text {
    fn new(flags: Flags, parts: &[&str]) -> Self {
        let text = format!("{}{}", flags.line(), parts.concat());
        let sha = sha1_smol::Sha1::from(&text).digest().to_string();
        Self { text, sha }
    }
}

impl Script {
    /// What `EVALSHA` calls it: 40 hexadecimal digits.
    pub(super) fn sha(self) -> &'static str {
        TEXTS.get(self as usize).map_or("", |text| &text.sha)
    }

    /// The script that writes again what this one had acknowledged before a failover.
    pub(super) fn again(self) -> Self {
        match self {
            Self::Claim | Self::ClaimSmall => Self::ClaimAgain,
            Self::Append => Self::AppendAgain,
            Self::TapAppend => Self::TapAppendAgain,
            other => other,
        }
    }
}

/// Texts of all scripts.
pub(super) fn texts() -> impl Iterator<Item = &'static str> {
    TEXTS.iter().map(|text| text.text.as_str())
}
