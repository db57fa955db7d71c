use super::*;

fn parse(text: &str) -> Result<Scenario, Error> {
    Scenario::parse("test", text, Path::new("."), Overrides::default())
}

const SYNTHETIC: &str = include_str!("../../scenarios/synthetic.toml");

#[test]
fn the_default_replays_every_row_of_every_file_unchanged() {
    let scenario = Scenario::default_replay(Overrides::default()).unwrap();
    let rows: Vec<usize> = scenario
        .stations
        .iter()
        .map(|station| station.series(0).count())
        .collect();
    assert_eq!(rows, [8759, 8759, 1461]);
    let first: Vec<String> = scenario
        .stations
        .iter()
        .filter_map(|station| station.series(0).next())
        .map(|reading| reading.fields.into())
        .collect();
    assert_eq!(
        first,
        [
            r#""temperature":39.4,"unit":"F""#,
            r#""temperature":47.8,"unit":"F""#,
            r#""temperature_max":12.8,"temperature_min":5.0,"precipitation":0.0,"wind":4.7,"weather":"drizzle""#
        ]
    );
}

#[test]
fn devices_are_shared_out_without_remainder() {
    let scenario = Scenario::default_replay(Overrides::default()).unwrap();
    assert_eq!(scenario.share_out(100).unwrap(), [34, 33, 33]);
    assert_eq!(scenario.share_out(3).unwrap(), [1, 1, 1]);
    assert!(scenario.share_out(2).is_err());
}

#[test]
fn a_seed_decides_and_members_differ() {
    let first = |seed, member| {
        let overrides = Overrides {
            seed: Some(seed),
            clean: false,
        };
        let scenario = Scenario::parse("t", SYNTHETIC, Path::new("."), overrides).unwrap();
        scenario
            .stations
            .first()
            .unwrap()
            .series(member)
            .take(50)
            .collect::<Vec<_>>()
    };
    assert_eq!(first(1, 0), first(1, 0));
    assert_ne!(first(1, 0), first(2, 0));
    assert_ne!(first(1, 0), first(1, 1));
}

#[test]
fn clean_leaves_out_noise_outliers_and_gaps() {
    let overrides = Overrides {
        seed: None,
        clean: true,
    };
    let scenario = Scenario::parse("t", SYNTHETIC, Path::new("."), overrides).unwrap();
    let readings: Vec<_> = scenario.stations.first().unwrap().series(0).collect();
    assert_eq!(readings.len(), 3600);
    assert!(
        readings
            .first()
            .unwrap()
            .fields
            .starts_with(r#""temperature":20.00,"vibration":1.000,"#)
    );
}

#[test]
fn all_problems_of_a_scenario_are_named_at_once() {
    let text = r##"
[[station]]
name = "a b"
topic = "x/#"
pace = 0.0
table = "builtin:seattle-temps"
time = "date"
[[station.field]]
name = "time"
column = "temp"
[[station.field]]
name = "t"
column = "nothing"
[[station]]
name = "c"
interval_ms = 0
count = 1
[[station.field]]
name = "both"
constant = 1
walk = { start = 5.0, step = 1.0, min = 0.0, max = 1.0 }
"##;
    let Err(Error::ScenarioInvalid { problems, .. }) = parse(text) else {
        panic!("accepted")
    };
    for part in [
        "a name has",
        "topic name",
        "pace",
        "field time",
        "no column \"nothing\"",
        "interval_ms",
        "exactly one",
    ] {
        assert!(
            problems.iter().any(|problem| problem.contains(part)),
            "{part} not in {problems:#?}"
        );
    }
}

#[test]
fn a_misspelt_key_is_refused_with_its_line() {
    let text = parse("seed = 1\nstaton = 2\n").unwrap_err().to_string();
    assert!(text.contains("staton") && text.contains("line 2"), "{text}");
}
