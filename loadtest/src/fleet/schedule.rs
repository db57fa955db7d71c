//! When a reading is due, given virtual time and the speed-up. Pure.

use std::time::Duration;

use crate::data::Timestamp;

/// How fast virtual time runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Speed {
    /// So many virtual seconds in one real second; above 0.
    Times(f64),
    /// Each device publishes whenever it may: a closed loop.
    AsFastAsPossible,
}

/// The schedule of one station.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    begin: Timestamp,
    /// Virtual milliseconds per real one; `None` for as fast as possible.
    factor: Option<f64>,
}

impl Schedule {
    /// Every station begins at the moment the fleet starts, whatever its virtual time.
    pub(crate) fn new(begin: Timestamp, pace: f64, speed: Speed) -> Self {
        let factor = match speed {
            Speed::Times(times) => Some(times * pace),
            Speed::AsFastAsPossible => None,
        };
        Self { begin, factor }
    }

    /// Real time from the start of the fleet until a reading is due; `None` when it is due whenever there
    /// is room for it.
    pub(crate) fn due(&self, at: Timestamp) -> Option<Duration> {
        let factor = self.factor?;
        let virtual_ms = at.0.saturating_sub(self.begin.0).max(0) as f64;
        // What is beyond centuries is never due; Duration has no room for more.
        let seconds = (virtual_ms / factor / 1000.0).min(1e10);
        Some(Duration::from_secs_f64(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    #[test]
    fn a_year_at_a_million_times_is_half_a_minute() {
        let schedule = Schedule::new(Timestamp(1000 * HOUR), 1.0, Speed::Times(1e6));
        let due = |hours: i64| schedule.due(Timestamp((1000 + hours) * HOUR)).unwrap();
        assert_eq!(due(0), Duration::ZERO);
        assert_eq!(due(8760), Duration::from_secs_f64(31.536));
        assert!(due(1) < due(2));
    }

    #[test]
    fn pace_multiplies_speed() {
        let at = Timestamp(4 * HOUR);
        let one = Schedule::new(Timestamp(0), 1.0, Speed::Times(100.0))
            .due(at)
            .unwrap();
        let four = Schedule::new(Timestamp(0), 4.0, Speed::Times(100.0))
            .due(at)
            .unwrap();
        assert_eq!(one, four * 4);
    }

    #[test]
    fn the_slowest_speed_does_not_overflow() {
        let schedule = Schedule::new(Timestamp(i64::MIN), 1e-9, Speed::Times(1e-9));
        assert!(schedule.due(Timestamp(i64::MAX)).is_some());
    }

    #[test]
    fn as_fast_as_possible_has_no_schedule() {
        let schedule = Schedule::new(Timestamp(0), 1.0, Speed::AsFastAsPossible);
        assert_eq!(schedule.due(Timestamp(HOUR)), None);
    }
}
