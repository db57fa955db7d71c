//! Days of the calendar, in UTC.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// A day, counted from 1970-01-01.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Day(i64);

impl Day {
    /// The day of a moment given in microseconds since 1970-01-01 UTC.
    pub(crate) const fn of_micros(micros: i64) -> Self {
        Self(micros.div_euclid(MICROS_PER_DAY))
    }

    /// The day of `now`.
    pub(crate) fn of_time(now: SystemTime) -> Self {
        Self::of_micros(micros(now))
    }

    /// Reads `YYYY-MM-DD`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split('-');
        let (year, month, day) = (fields.next()?, fields.next()?, fields.next()?);
        if fields.next().is_some() || year.len() < 4 || month.len() != 2 || day.len() != 2 {
            return None;
        }
        let (year, month, day): (i64, i64, i64) =
            (year.parse().ok()?, month.parse().ok()?, day.parse().ok()?);
        let found = Self(days_from_civil(year, month, day));
        (found.to_string() == text).then_some(found)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(self.0);
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

/// Microseconds since 1970-01-01 UTC; 0 for a clock before that.
pub(crate) fn micros(now: SystemTime) -> i64 {
    now.duration_since(UNIX_EPOCH).map_or(0, |since| {
        i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
    })
}

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar. Years begin in March, so that the leap day
/// is the last of its year; 400 years have 146,097 days.
const fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

const fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_their_dates() {
        for (micros, text) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (951_782_400_000_000, "2000-02-29"),
            (1_795_219_199_999_999, "2026-11-20"),
            (1_795_219_200_000_000, "2026-11-21"),
            (4_107_542_400_000_000, "2100-03-01"),
        ] {
            assert_eq!(Day::of_micros(micros).to_string(), text);
            assert_eq!(Day::parse(text), Some(Day::of_micros(micros)));
        }
    }

    #[test]
    fn two_centuries_of_days_read_back_and_follow_each_other() {
        for days in -20_000..60_000 {
            let text = Day(days).to_string();
            assert_eq!(Day::parse(&text), Some(Day(days)), "{text}");
        }
    }

    #[test]
    fn what_is_no_date_is_not_read() {
        for text in [
            "",
            "2026",
            "2026-02-30",
            "2026-13-01",
            "2026-1-01",
            "2026-01-01-01",
            "day",
            "20260101",
        ] {
            assert_eq!(Day::parse(text), None, "{text}");
        }
    }
}
