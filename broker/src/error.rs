//! The catalogue of what an operator can be told, one stable code each.
//!
//! Every code has a page in `docs/errors/` that says what happened and what to do; a test holds the
//! two lists together. Codes of the store (`DUN-1xxx`) come from `dunlin-sync`.

use std::fmt;

macro_rules! codes {
    ($( $(#[$doc:meta])* $name:ident = $text:literal; )*) => {
        /// A stable code for a message to the operator.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $( $(#[$doc])* $name, )* }

        impl Code {
            /// Every code, in order.
            pub const ALL: &'static [Code] = &[ $( Code::$name, )* ];

            /// The code as it is written in logs, messages and file names.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $( Code::$name => $text, )* }
            }
        }
    };
}

codes! {
    /// The broker failed while it ran.
    Runtime = "DUN-0001";
    /// Clients were still connected when the time to drain was over.
    DrainTimedOut = "DUN-0002";
    /// The log could not be set up as configured.
    Log = "DUN-0003";
    /// A defect of the program ended a task or a thread.
    Defect = "DUN-0004";
    /// The configuration file cannot be read.
    ConfigFile = "DUN-0101";
    /// The configuration file is not TOML.
    ConfigSyntax = "DUN-0102";
    /// A key that the broker does not know.
    UnknownKey = "DUN-0103";
    /// A value of the wrong type or out of its range.
    WrongValue = "DUN-0104";
    /// A listener that others can reach, and nothing says who may connect.
    WhoMayConnect = "DUN-0105";
    /// Two listeners with one name or one address.
    ListenerConflict = "DUN-0106";
    /// Keys that contradict each other, or one that another one needs.
    Contradiction = "DUN-0107";
    /// An environment variable or flag that cannot be understood.
    Override = "DUN-0108";
    /// A certificate, key or CA file cannot be read.
    TlsFile = "DUN-0201";
    /// A certificate, key or CA file has not in it what it should.
    TlsContent = "DUN-0202";
    /// Certificate and private key do not belong together.
    TlsMismatch = "DUN-0203";
    /// A certificate is outside its validity.
    TlsValidity = "DUN-0204";
    /// The users file cannot be read or written.
    UsersFile = "DUN-0301";
    /// A line of the users file cannot be used.
    UsersLine = "DUN-0302";
    /// An access rule cannot be used.
    AccessRule = "DUN-0303";
    /// The users file can be read by every user of the machine.
    UsersFileMode = "DUN-0304";
    /// A file with keys or a secret of an authentication method cannot be used.
    TokenKeys = "DUN-0305";
    /// An access file cannot be read or used.
    AclFile = "DUN-0306";
    /// Clients show who they are, and nothing says what they may do.
    NothingAllowed = "DUN-0307";
    /// A port is in use already.
    AddressInUse = "DUN-0401";
    /// A port may not be bound by this user.
    AddressDenied = "DUN-0402";
    /// An address does not belong to this machine.
    AddressUnknown = "DUN-0403";
    /// A port cannot be bound for another reason.
    AddressOther = "DUN-0404";
    /// The system has no more files or sockets for the broker.
    OutOfFiles = "DUN-0405";
    /// How the cluster's Redis is reached makes no sense.
    Redis = "DUN-0501";
    /// The cluster's Redis cannot be used.
    Cluster = "DUN-0502";
    /// The file of those who may administer cannot be used.
    AdminTokens = "DUN-0601";
    /// The audit log cannot be written.
    Audit = "DUN-0701";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How the process ends; documented in `docs/configuration.md` and in `--help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All is done: drained after a signal, or the command succeeded.
    Ok = 0,
    /// The broker failed while it ran.
    Runtime = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// A listener could not be bound.
    Bind = 3,
    /// The store could not be opened.
    Store = 4,
    /// Clients were still connected when the time to drain was over.
    DrainTimedOut = 5,
    /// Of what was to be imported, some was refused.
    Partly = 6,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
