//! What the rows must be, given what was sent.
//!
//! - What brokers have taken and rows are the same multiset: as many rows as the tap has given positions, and no message id twice.
//! - A QoS 2 message is one row, however often its publisher has sent it.
//! - A QoS 1 message is one row, and at most one more for each time that its publisher has sent it again, because it had no
//!   PUBACK when its connection broke: for a broker that is another message ([MQTT-4.3.2-1]).
//! - The messages of a publisher and topic are in order: by when they were received, and in the order of storing where that is known.
//! - Nothing else is there, and no payload is cut.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A row, as far as it matters here.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) client: String,
    pub(crate) topic: String,
    pub(crate) received_at: i64,
    pub(crate) id: String,
    /// Bytes of the payload.
    pub(crate) len: usize,
    /// What the payload begins with: the number of the message.
    pub(crate) text: String,
}

/// What became of a run.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) published: usize,
    /// Messages that brokers have put into the tap.
    pub(crate) taken: usize,
    pub(crate) rows: usize,
    pub(crate) lost: usize,
    /// Rows too many: of a QoS 2 message, of a message id, or of a QoS 1 message that was not sent so often.
    pub(crate) twice: usize,
    /// QoS 1: rows of what was sent again.
    pub(crate) sent_again: usize,
    pub(crate) out_of_order: usize,
    /// Rows that nobody has sent, or with less than was sent.
    pub(crate) wrong: usize,
    findings: Vec<String>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "published and acknowledged {}, taken {}, rows {}, lost {}, twice {}, out of order {}, wrong {}; QoS 1 sent again {}",
            self.published,
            self.taken,
            self.rows,
            self.lost,
            self.twice,
            self.out_of_order,
            self.wrong,
            self.sent_again
        )
    }
}

/// Rows of one publisher and QoS.
type Rows<'a> = BTreeMap<(usize, u8), Vec<(u32, &'a Row)>>;

impl Verdict {
    /// `sent`: for each publisher how often it has sent each of its messages, all of which are acknowledged; the even ones had QoS 2.
    pub(crate) fn of(name: &str, sent: &[Vec<u32>], taken: usize, rows: &[Row]) -> Self {
        let mut verdict = Self {
            published: sent.iter().map(Vec::len).sum(),
            taken,
            rows: rows.len(),
            ..Self::default()
        };
        let mut found: Rows<'_> = Rows::new();
        let mut ids = BTreeSet::new();
        for row in rows {
            if !ids.insert(&row.id) {
                verdict.twice += 1;
                verdict.note(|| format!("a message id twice: {row:?}"));
            }
            match row.sender(name, sent) {
                Some((publisher, number)) => {
                    let qos = qos_of(number);
                    let rows = found.entry((publisher, qos)).or_default();
                    rows.push((number, row));
                }
                None => {
                    verdict.wrong += 1;
                    verdict.note(|| format!("nobody has sent {row:?}"));
                }
            }
        }
        for (publisher, times) in sent.iter().enumerate() {
            for qos in [1, 2] {
                let rows = found.remove(&(publisher, qos)).unwrap_or_default();
                let what = format!("publisher {publisher}, QoS {qos}");
                verdict.judge_times(&what, qos, times, &rows);
                verdict.judge_order(&what, "stored", rows.iter().copied());
                let mut by_time = rows;
                by_time.sort_by_key(|(_, row)| (row.received_at, &row.id));
                verdict.judge_order(&what, "received", by_time.into_iter());
            }
        }
        if verdict.rows != taken {
            verdict.note(|| "not as many rows as messages in the tap".to_owned());
        }
        verdict
    }

    fn judge_times(&mut self, what: &str, qos: u8, times: &[u32], rows: &[(u32, &Row)]) {
        let mut found: BTreeMap<u32, u32> = BTreeMap::new();
        for (number, _) in rows {
            *found.entry(*number).or_default() += 1;
        }
        let of_qos = (0..).zip(times).filter(|(n, _)| qos_of(*n) == qos);
        for (number, sent) in of_qos {
            let there = found.get(&number).copied().unwrap_or(0);
            let most = if qos == 2 { 1 } else { *sent };
            if there == 0 {
                self.lost += 1;
            }
            if there > most {
                self.twice += (there - most) as usize;
            }
            if there == 0 || there > most {
                self.note(|| {
                    format!("{what}: {number}, sent {sent} times, is there {there} times")
                });
            }
            self.sent_again += there.min(most).saturating_sub(1) as usize;
        }
    }

    /// The first rows of the messages are in order.
    fn judge_order<'a>(
        &mut self,
        what: &str,
        how: &str,
        rows: impl Iterator<Item = (u32, &'a Row)>,
    ) {
        let (mut seen, mut highest) = (BTreeSet::new(), None);
        for (number, row) in rows {
            if seen.insert(number) && Some(number) < highest {
                self.out_of_order += 1;
                self.note(|| format!("{what}: {number} was {how} after {highest:?}: {row:?}"));
            }
            highest = highest.max(Some(number));
        }
    }

    fn note(&mut self, finding: impl FnOnce() -> String) {
        if self.findings.len() < 20 {
            self.findings.push(finding());
        }
    }

    /// States the figures; there may be nothing wrong.
    #[track_caller]
    pub(crate) fn check(&self, what: &str) {
        eprintln!("chaos: {what}: {self}");
        assert!(
            self.findings.is_empty(),
            "{what}: {self}\n{}",
            self.findings.join("\n")
        );
        assert!(self.rows > 0, "{what}: there are no rows");
    }
}

impl Row {
    /// Publisher and number, if somebody has sent this.
    fn sender(&self, name: &str, sent: &[Vec<u32>]) -> Option<(usize, u32)> {
        let publisher: usize = self
            .client
            .strip_prefix(&format!("{name}-pub-"))?
            .parse()
            .ok()?;
        let number: u32 = self.text.parse().ok()?;
        sent.get(publisher)?.get(number as usize)?;
        let qos = qos_of(number);
        let len = self.text.len() + (number as usize * 37) % 3_000;
        (self.topic == format!("{name}/{publisher}/{qos}") && self.len == len)
            .then_some((publisher, number))
    }
}

/// The even messages of a publisher have QoS 2.
const fn qos_of(number: u32) -> u8 {
    if number.is_multiple_of(2) { 2 } else { 1 }
}

/// The oracle itself: what it is for must make it fail.
mod tests {
    use super::*;

    fn rows(numbers: &[u32]) -> Vec<Row> {
        let rows = numbers.iter().enumerate().map(|(at, number)| Row {
            client: "o-pub-0".to_owned(),
            topic: format!("o/0/{}", qos_of(*number)),
            received_at: at as i64,
            id: format!("1-{at:04}"),
            len: number.to_string().len() + (*number as usize * 37) % 3_000,
            text: number.to_string(),
        });
        rows.collect()
    }

    fn of(rows: &[Row]) -> Verdict {
        Verdict::of("o", &[vec![2, 2, 1, 1]], rows.len(), rows)
    }

    #[test]
    fn chaos_oracle_of_rows_accepts_what_is_allowed() {
        of(&rows(&[0, 1, 2, 3])).check("all");
        of(&rows(&[0, 1, 1, 2, 3])).check("1 was sent twice");
        of(&rows(&[0, 1, 3, 2, 1])).check("order is that of first rows, by topic");
    }

    #[test]
    fn chaos_oracle_of_rows_refuses_what_is_not() {
        assert_eq!(of(&rows(&[0, 1, 3])).lost, 1, "QoS 2");
        assert_eq!(of(&rows(&[0, 1, 2])).lost, 1, "QoS 1");
        assert_eq!(of(&rows(&[0, 0, 1, 2, 3])).twice, 1, "QoS 2");
        assert_eq!(of(&rows(&[0, 1, 2, 3, 3])).twice, 1, "3 was sent once");
        assert_eq!(of(&rows(&[2, 0, 1, 3])).out_of_order, 2, "both ways");
        assert_eq!(of(&rows(&[0, 1, 2, 3, 4])).wrong, 1, "4 was not sent");
        let mut other = rows(&[0, 1, 2, 3]);
        other[1].id = other[0].id.clone();
        assert_eq!(of(&other).twice, 1, "one id");
        other[2].len += 1;
        assert_eq!(of(&other).wrong, 1, "a payload");
        let mut other = rows(&[0, 1, 2, 3]);
        other.reverse();
        assert_eq!(of(&other).out_of_order, 2, "stored, at each QoS");
        let short = Verdict::of("o", &[vec![1]], 2, &rows(&[0]));
        assert_eq!(short.findings.len(), 1, "the tap had one more");
    }
}
