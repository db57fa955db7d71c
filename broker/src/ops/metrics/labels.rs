//! Labels whose values are known: a misspelt one does not compile, and each is shown before its first count.

/// A label with a fixed set of values.
pub trait Label: Copy + 'static {
    /// The label's name.
    const NAME: &'static str;
    /// Every value with its text, in the order of [`Label::index`].
    const VALUES: &'static [&'static str];
    /// The position of this value in [`Label::VALUES`].
    fn index(self) -> usize;
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident ($label:literal) { $( $(#[$vdoc:meta])* $value:ident = $text:literal, )* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $( $(#[$vdoc])* $value, )* }
        impl Label for $name {
            const NAME: &'static str = $label;
            const VALUES: &'static [&'static str] = &[$($text,)*];
            fn index(self) -> usize { self as usize }
        }
    };
}

label! {
    /// Why a message was not delivered to one subscriber.
    Dropped ("reason") {
        /// The queue of a persistent session was full.
        QueueFull = "queue_full",
        /// A slow reader, QoS 0.
        OutboxFull = "outbox_full",
        /// Its expiry interval had passed.
        Expired = "expired",
        /// Larger than the subscriber's Maximum Packet Size.
        TooLarge = "too_large",
        /// Its receiver may not read it, or no longer.
        Withheld = "withheld",
    }
}

label! {
    /// Quality of service.
    ByQos ("qos") {
        /// At most once.
        AtMostOnce = "0",
        /// At least once.
        AtLeastOnce = "1",
        /// Exactly once.
        ExactlyOnce = "2",
    }
}

label! {
    /// A bound of the configuration.
    Bound ("limit") {
        /// `limits.max_connections`.
        Connections = "connections",
        /// `limits.max_sessions`.
        Sessions = "sessions",
        /// `limits.max_retained`.
        RetainedMessages = "retained_messages",
        /// `limits.max_retained_bytes`.
        RetainedBytes = "retained_bytes",
        /// `limits.store_pending_bytes`.
        StorePendingBytes = "store_pending_bytes",
    }
}

label! {
    /// How something that was asked for ended.
    Outcome ("result") {
        /// It is in force.
        Ok = "ok",
        /// What was there stays.
        Refused = "refused",
    }
}

label! {
    /// What came of a request for an identity.
    Asked ("result") {
        /// It was given.
        Given = "given",
        /// It had been given before.
        Repeated = "repeated",
        /// It was not: for what was asked, or by whom.
        Refused = "refused",
        /// It was not: the store or the hook did not answer.
        Unavailable = "unavailable",
    }
}

/// What is read again while the broker runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// The configuration.
    Config,
    /// Certificates, keys and authorities.
    Certificates,
}
