//! What an answer means for the command that it answers.

use super::resp::Value;

/// What is to be done with an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is an answer.
    Answer,
    /// Redis will not do it for what it is.
    Refused,
    /// Redis does not have the script (any more).
    NoScript,
    /// Redis is full.
    Full,
    /// Not now: again, after a while, on this connection.
    Later,
    /// Not this slot now: it is on its way to another server.
    Moving,
    /// The slot is another server's: `slot host:port`.
    Moved { slot: u16, to: String },
    /// This server is not one to write to: look for another one.
    Elsewhere,
    /// The account may not: an operator must act.
    Forbidden,
}

/// Reads what kind an answer is. Any error but those that are known to be of the server, and not of the
/// command, is the command's.
pub(super) fn judge(answer: &Value) -> Verdict {
    let Value::Error(error) = answer else {
        return Verdict::Answer;
    };
    let (code, rest) = error.split_once(' ').unwrap_or((error, ""));
    match code {
        "NOSCRIPT" => Verdict::NoScript,
        "OOM" => Verdict::Full,
        "LOADING" | "BUSY" | "MISCONF" | "NOREPLICAS" | "TRYAGAIN" | "CLUSTERDOWN"
        | "UNKILLABLE" => Verdict::Later,
        "ASK" => Verdict::Moving,
        "MOVED" => moved(rest).unwrap_or(Verdict::Elsewhere),
        "READONLY" | "MASTERDOWN" | "UNBLOCKED" => Verdict::Elsewhere,
        "NOAUTH" | "WRONGPASS" | "NOPERM" => Verdict::Forbidden,
        // A key of a slot that moves, met in the middle of a script, cannot be: the first key of every
        // script is one that never exists, so that the script does not begin.
        _ => Verdict::Refused,
    }
}

fn moved(rest: &str) -> Option<Verdict> {
    let (slot, to) = rest.split_once(' ')?;
    Some(Verdict::Moved {
        slot: slot.parse().ok()?,
        to: to.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(error: &str) -> Verdict {
        judge(&Value::Error(error.to_owned()))
    }

    #[test]
    fn what_is_wrong_with_the_server_for_a_while_is_tried_again() {
        for error in [
            "LOADING Redis is loading the dataset in memory",
            "BUSY Redis is busy running a script.",
            "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist on disk.",
            "NOREPLICAS Not enough good replicas to write.",
            "TRYAGAIN Multiple keys request during rehashing of slot",
            "CLUSTERDOWN The cluster is down",
        ] {
            assert_eq!(of(error), Verdict::Later, "{error}");
        }
    }

    #[test]
    fn a_full_server_is_told_from_a_slow_one() {
        assert_eq!(
            of("OOM command not allowed when used memory > 'maxmemory'."),
            Verdict::Full
        );
    }

    #[test]
    fn a_moved_slot_says_where_it_is() {
        let expected = Verdict::Moved {
            slot: 3999,
            to: "127.0.0.1:6381".to_owned(),
        };
        assert_eq!(of("MOVED 3999 127.0.0.1:6381"), expected);
        assert_eq!(of("ASK 3999 127.0.0.1:6381"), Verdict::Moving);
    }

    #[test]
    fn what_is_wrong_with_the_command_is_not_repeated() {
        assert_eq!(of("ERR unknown command 'FOO'"), Verdict::Refused);
        assert_eq!(
            of("WRONGTYPE Operation against a key holding the wrong kind of value"),
            Verdict::Refused
        );
    }

    #[test]
    fn an_answer_is_an_answer() {
        assert_eq!(judge(&Value::Int(-1)), Verdict::Answer);
    }
}
