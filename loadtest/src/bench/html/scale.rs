//! From values to places on a picture, and the round values to write beside it.

/// A logarithmic axis: what is twice as much is the same length away everywhere.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    /// So that all values have a place between `from` and `to`; those that are not above zero have none.
    /// `None` where there is no value.
    pub(super) fn around(
        values: impl IntoIterator<Item = f64>,
        from: f64,
        to: f64,
    ) -> Option<Self> {
        let (mut low, mut high) = (f64::INFINITY, 0.0_f64);
        for value in values.into_iter().filter(|value| is_good(*value)) {
            (low, high) = (low.min(value), high.max(value));
        }
        // A little air, also around a single value.
        (high > 0.0).then_some(Self {
            low: low / 1.25,
            high: high * 1.25,
            from,
            to,
        })
    }

    /// The same with at least so many times as much at its end as at its beginning: what hardly changes is to look so.
    pub(super) fn at_least(self, times: f64) -> Self {
        let more = (times / (self.high / self.low)).max(1.0).sqrt();
        Self {
            low: self.low / more,
            high: self.high * more,
            ..self
        }
    }

    /// The place of a value.
    pub(super) fn at(&self, value: f64) -> Option<f64> {
        let part = (value / self.low).ln() / (self.high / self.low).ln();
        is_good(value).then_some(self.from + part * (self.to - self.from))
    }

    /// Round values within the axis, few enough to be written.
    pub(super) fn ticks(&self) -> Vec<f64> {
        let decades = (self.high / self.low).log10();
        let steps: &[f64] = if decades < 2.5 {
            &[1.0, 2.0, 5.0]
        } else {
            &[1.0]
        };
        let first = self.low.log10().floor() as i32;
        let last = self.high.log10().ceil() as i32;
        (first..=last)
            .flat_map(|power| steps.iter().map(move |step| step * 10_f64.powi(power)))
            .filter(|tick| (self.low..=self.high).contains(tick))
            .collect()
    }
}

fn is_good(value: f64) -> bool {
    value.is_finite() && value > 0.0
}

/// A number for people: three digits that matter, thousands as they are said.
pub(super) fn short(value: f64) -> String {
    let size = value.abs();
    let text = if size >= 1e6 {
        return trim(format!("{:.2}", value / 1e6)) + " M";
    } else if size >= 1e4 {
        return trim(format!("{:.1}", value / 1e3)) + " k";
    } else if size >= 100.0 {
        format!("{value:.0}")
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else if size >= 0.1 || size == 0.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.4}")
    };
    trim(text)
}

fn trim(text: String) -> String {
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_between_the_ends_and_in_order() {
        let values = [0.3, 7.0, 120.0];
        let scale = Scale::around(values, 100.0, 500.0).unwrap();
        let places: Vec<f64> = values.iter().filter_map(|value| scale.at(*value)).collect();
        assert!(places.is_sorted() && places.iter().all(|place| (100.0..500.0).contains(place)));
        assert_eq!(scale.at(0.0), None);
        assert!(scale.ticks().contains(&10.0));
        assert!(Scale::around([0.0, f64::NAN, -1.0], 0.0, 1.0).is_none());
        let one = Scale::around([3.0], 0.0, 100.0).unwrap();
        assert!((one.at(3.0).unwrap() - 50.0).abs() < 1e-9);
        let wide = one.at_least(10.0);
        assert!((wide.at(3.0).unwrap() - 50.0).abs() < 1e-9);
        assert!(wide.at(3.5).unwrap() < one.at(3.5).unwrap());
        assert_eq!(scale.at_least(10.0), scale);
    }

    #[test]
    fn numbers_are_short() {
        for (value, expected) in [
            (0.0, "0"),
            (0.0625, "0.0625"),
            (0.5, "0.5"),
            (12.34, "12.3"),
            (4321.0, "4321"),
            (54_321.0, "54.3 k"),
            (1_630_000.0, "1.63 M"),
        ] {
            assert_eq!(short(value), expected);
        }
    }
}
