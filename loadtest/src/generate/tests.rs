use super::*;

fn ticks(count: usize) -> impl Iterator<Item = Tick> {
    (0..count).map(|index| Tick {
        index,
        at: Timestamp(index as i64 * 1000),
    })
}

fn numbers(generator: &mut impl Generator, count: usize) -> Vec<Option<f64>> {
    ticks(count)
        .map(|tick| generator.value(tick).and_then(|value| value.number()))
        .collect()
}

fn zero() -> Constant {
    Constant(Value::Number(0.0, 3))
}

#[test]
fn the_same_seed_and_place_give_the_same_values() {
    let make = |seed, place| Noise::new(zero(), 1.0, random(seed, place)).unwrap();
    let first = numbers(&mut make(7, "a/temperature"), 100);
    assert_eq!(first, numbers(&mut make(7, "a/temperature"), 100));
    assert_ne!(first, numbers(&mut make(8, "a/temperature"), 100));
    assert_ne!(first, numbers(&mut make(7, "b/temperature"), 100));
}

#[test]
fn noise_has_the_standard_deviation_asked_for() {
    let mut noise = Noise::new(zero(), 2.0, random(1, "x")).unwrap();
    let values: Vec<f64> = numbers(&mut noise, 20_000).into_iter().flatten().collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance = values
        .iter()
        .map(|value| (value - mean).powi(2))
        .sum::<f64>()
        / values.len() as f64;
    assert!(mean.abs() < 0.06, "mean {mean}");
    assert!(
        (variance.sqrt() - 2.0).abs() < 0.06,
        "deviation {}",
        variance.sqrt()
    );
}

#[test]
fn noise_of_negative_or_infinite_width_is_refused() {
    assert!(Noise::new(zero(), -1.0, random(1, "x")).is_none());
    assert!(Noise::new(zero(), f64::INFINITY, random(1, "x")).is_none());
}

#[test]
fn outliers_come_as_often_as_asked_and_by_their_size_only() {
    let mut outliers = Outliers {
        inner: zero(),
        probability: 0.1,
        size: 50.0,
        random: random(1, "x"),
    };
    let values: Vec<f64> = numbers(&mut outliers, 10_000)
        .into_iter()
        .flatten()
        .collect();
    let hits = values.iter().filter(|value| **value != 0.0).count();
    assert!(
        values
            .iter()
            .all(|value| [0.0, 50.0, -50.0].contains(value))
    );
    assert!((800..1200).contains(&hits), "{hits} hits");
}

#[test]
fn gaps_have_their_length_and_the_walk_below_goes_on() {
    let walk = || Walk {
        now: 0.0,
        step: 1.0,
        min: -50.0,
        max: 50.0,
        decimals: 2,
        random: random(1, "walk"),
    };
    let plain = numbers(&mut walk(), 1000);
    let gapped = numbers(&mut Gaps::new(walk(), 0.02, 5, random(1, "gaps")), 1000);
    assert!(gapped.iter().any(Option::is_none));
    for (gap, value) in gapped.iter().zip(&plain) {
        assert!(gap.is_none() || gap == value);
    }
    let first = gapped.iter().position(Option::is_none).unwrap();
    assert!(gapped.iter().skip(first).take(5).all(Option::is_none));
}

#[test]
fn a_walk_stays_within_its_bounds() {
    let mut walk = Walk {
        now: 0.0,
        step: 3.0,
        min: -1.0,
        max: 1.0,
        decimals: 2,
        random: random(3, "x"),
    };
    assert!(
        numbers(&mut walk, 10_000)
            .into_iter()
            .flatten()
            .all(|value| (-1.0..=1.0).contains(&value))
    );
}

#[test]
fn a_sine_has_its_mean_and_amplitude_over_a_period() {
    let mut sine = Sine {
        mean: 10.0,
        amplitude: 4.0,
        period_s: 100.0,
        phase: 0.0,
        decimals: 3,
    };
    let values: Vec<f64> = numbers(&mut sine, 100).into_iter().flatten().collect();
    let mean = values.iter().sum::<f64>() / 100.0;
    let max = values.iter().copied().fold(f64::MIN, f64::max);
    assert!((mean - 10.0).abs() < 1e-9, "{mean}");
    assert!((max - 14.0).abs() < 1e-9, "{max}");
}

#[test]
fn a_join_leaves_out_what_has_no_value_and_is_nothing_without_any() {
    let cells: std::sync::Arc<[Box<str>]> = ["1.0".into(), "".into()].into();
    let mut join = Join::default();
    join.add("a", Column(cells));
    let unit = r#""unit":"F""#;
    let mut at = ticks(3).map(|tick| join.read(tick, unit));
    assert_eq!(
        at.next().flatten().as_deref(),
        Some(r#""a":1.0,"unit":"F""#)
    );
    assert_eq!(at.next(), Some(None));
}

#[test]
fn shapes_compose_in_any_order_and_pass_text_through() {
    let text = Constant(Value::Text("rain".into()));
    let noisy = Noise::new(
        Outliers {
            inner: text,
            probability: 1.0,
            size: 9.0,
            random: random(1, "o"),
        },
        1.0,
        random(1, "n"),
    );
    let mut chain: Box<dyn Generator> = Box::new(Gaps::new(noisy.unwrap(), 0.0, 1, random(1, "g")));
    let value = chain.value(Tick {
        index: 0,
        at: Timestamp(0),
    });
    assert_eq!(value, Some(Value::Text("rain".into())));
}

#[test]
fn a_series_skips_steps_without_values_and_ends() {
    let cells: std::sync::Arc<[Box<str>]> = ["1".into(), "".into(), "3".into()].into();
    let mut join = Join::default();
    join.add("v", Column(cells));
    let clock = Clock::Every {
        start: Timestamp(0),
        interval_ms: 10,
        count: 3,
    };
    let readings: Vec<Reading> = Series::new(clock, join, "".into()).collect();
    assert_eq!(
        readings,
        [
            Reading {
                at: Timestamp(0),
                fields: r#""v":1"#.into()
            },
            Reading {
                at: Timestamp(20),
                fields: r#""v":3"#.into()
            }
        ]
    );
}
