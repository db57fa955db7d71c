//! Measurements that are written down: a TOML file (`loadtest/scenarios/bench/`) with brokers and workloads.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::goal::Goal;
use super::plan::{Filters, LEVELS_DEFAULT, Load, PAYLOAD_DEFAULT, Shape, Workload};
use crate::error::Error;

/// Measurements of one file; more than that nobody waits for.
const WORKLOADS_MAX: usize = 1000;

/// What a file says. What it leaves open is for the command line, or has a default.
#[derive(Debug, Clone, PartialEq)]
pub struct BenchScenario {
    /// Broker files, relative to where `loadtest` was started.
    pub brokers: Vec<PathBuf>,
    /// MQTT version: `5` or `3.1.1`.
    pub protocol: Option<String>,
    /// How often each workload is measured on each broker.
    pub runs: Option<usize>,
    /// Seconds before measuring begins.
    pub warm_up: Option<f64>,
    /// Seconds that are measured.
    pub seconds: Option<f64>,
    /// What to measure, in the order of the file.
    pub workloads: Vec<Workload>,
    /// What is asked of brokers, in which workload.
    pub goals: Vec<(Workload, Goal)>,
    /// What is not measured on which broker.
    pub skip: Vec<(Workload, String)>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    brokers: Vec<PathBuf>,
    protocol: Option<String>,
    runs: Option<usize>,
    warm_up: Option<f64>,
    seconds: Option<f64>,
    #[serde(default)]
    workload: Vec<RawWorkload>,
}

/// Each of clients, QoS and payloads may be a list: then every combination is a workload.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWorkload {
    kind: Shape,
    clients: OneOrMany<usize>,
    #[serde(default)]
    qos: OneOrMany<u8>,
    payload: Option<OneOrMany<usize>>,
    window: Option<u16>,
    rate: Option<OneOrMany<f64>>,
    #[serde(default)]
    one: bool,
    #[serde(default)]
    persistent: bool,
    topics: Option<OneOrMany<u32>>,
    levels: Option<u8>,
    #[serde(default)]
    standing: OneOrMany<usize>,
    filters: Option<OneOrMany<Filters>>,
    #[serde(default)]
    deaf: OneOrMany<usize>,
    #[serde(default)]
    slow: OneOrMany<usize>,
    /// Names of brokers that cannot do it.
    #[serde(default)]
    skip: Vec<String>,
    /// What is asked of brokers, in each of these workloads.
    #[serde(default)]
    goals: Vec<Goal>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T: Default> Default for OneOrMany<T> {
    fn default() -> Self {
        Self::One(T::default())
    }
}

impl<T: Copy> OneOrMany<T> {
    fn list(&self) -> Vec<T> {
        match self {
            Self::One(one) => vec![*one],
            Self::Many(many) => many.clone(),
        }
    }
}

impl BenchScenario {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, has unknown keys, or makes no sense; all problems are named.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::ScenarioUnreadable {
            path: path.to_owned(),
            source,
        })?;
        let folder = path.parent().unwrap_or(Path::new("."));
        Self::parse(&text, folder).map_err(|problems| Error::ScenarioInvalid {
            name: path.display().to_string(),
            problems,
        })
    }

    fn parse(text: &str, folder: &Path) -> Result<Self, Vec<String>> {
        let raw: Raw = toml::from_str(text).map_err(|problem| vec![problem.to_string()])?;
        let mut problems = Vec::new();
        let mut workloads: Vec<Workload> = Vec::new();
        let (mut skip, mut goals) = (Vec::new(), Vec::new());
        for (number, raw) in raw.workload.iter().enumerate() {
            match raw.workloads() {
                Ok(more) => {
                    for name in &raw.skip {
                        skip.extend(more.iter().map(|workload| (*workload, name.clone())));
                    }
                    for goal in &raw.goals {
                        let problem = goal.problem();
                        problems
                            .extend(problem.map(|text| format!("workload {}: {text}", number + 1)));
                        goals.extend(more.iter().map(|workload| (*workload, goal.clone())));
                    }
                    workloads.extend(more);
                }
                Err(problem) => problems.push(format!("workload {}: {problem}", number + 1)),
            }
        }
        if raw.workload.is_empty() {
            problems.push("there is no [[workload]]".to_owned());
        }
        if workloads.len() > WORKLOADS_MAX {
            problems.push(format!(
                "{} workloads are more than {WORKLOADS_MAX}",
                workloads.len()
            ));
        }
        for (place, workload) in workloads.iter().enumerate() {
            if workloads.iter().take(place).any(|other| other == workload) {
                problems.push(format!("{} is there twice", workload.name()));
            }
        }
        let protocol = raw.protocol.as_deref();
        if !matches!(protocol, None | Some("5" | "3.1.1")) {
            problems.push("protocol must be \"5\" or \"3.1.1\"".to_owned());
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self {
            brokers: raw.brokers.iter().map(|path| folder.join(path)).collect(),
            protocol: raw.protocol,
            runs: raw.runs,
            warm_up: raw.warm_up,
            seconds: raw.seconds,
            workloads,
            goals,
            skip,
        })
    }
}

impl RawWorkload {
    fn workloads(&self) -> Result<Vec<Workload>, String> {
        let loads = match (&self.rate, self.one, self.window) {
            (Some(rates), false, None) => rates.list().into_iter().map(Load::Rate).collect(),
            (None, true, None) => vec![Load::One],
            (None, false, window) => vec![Load::Window(window)],
            _ => return Err("only one of window, rate and one".to_owned()),
        };
        let or = |list: Option<Vec<usize>>| list.unwrap_or_else(|| vec![PAYLOAD_DEFAULT]);
        let payloads = or(self.payload.as_ref().map(OneOrMany::list));
        let topics = self.topics.as_ref().map_or(vec![1], OneOrMany::list);
        let filters = self.filters.as_ref();
        let filters = filters.map_or(vec![Filters::Plain], OneOrMany::list);
        // Each list multiplies what there is by then.
        let mut all: Vec<Workload> = vec![Workload {
            persistent: self.persistent,
            levels: self.levels.unwrap_or(LEVELS_DEFAULT),
            ..Workload::new(self.kind, 0, 0)
        }];
        each(&mut all, &self.clients.list(), |one, of| one.clients = of);
        each(&mut all, &filters, |one, of| one.filters = of);
        each(&mut all, &self.standing.list(), |one, of| one.standing = of);
        each(&mut all, &self.deaf.list(), |one, of| one.deaf = of);
        each(&mut all, &self.slow.list(), |one, of| one.slow = of);
        each(&mut all, &topics, |one, of| one.topics = of);
        each(&mut all, &payloads, |one, of| one.payload_bytes = of);
        each(&mut all, &self.qos.list(), |one, of| one.qos = of);
        each(&mut all, &loads, |one, of| one.load = of);
        if all.is_empty() {
            return Err("an empty list leaves nothing to measure".to_owned());
        }
        Ok(all)
    }
}

/// Each workload with each of the values.
fn each<T: Copy>(all: &mut Vec<Workload>, values: &[T], set: fn(&mut Workload, T)) {
    let with = |workload: &Workload, value: T| {
        let mut changed = *workload;
        set(&mut changed, value);
        changed
    };
    *all = all
        .iter()
        .flat_map(|workload| values.iter().map(move |value| with(workload, *value)))
        .collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<BenchScenario, Vec<String>> {
        BenchScenario::parse(text, Path::new("files"))
    }

    #[test]
    fn lists_make_every_combination_in_order() {
        let scenario = parse(
            "brokers = [\"../a.toml\"]\nruns = 5\n\
             [[workload]]\nkind = \"fan-in\"\nclients = 100\nqos = [0, 1]\npayload = [64, 1024]\n\
             [[workload]]\nkind = \"fan-out\"\nclients = [10, 20]\nrate = 1000\n\
             [[workload]]\nkind = \"retain-read\"\nclients = 500\nskip = [\"relay\"]\n",
        )
        .unwrap();
        let names: Vec<_> = scenario.workloads.iter().map(Workload::name).collect();
        assert_eq!(
            names,
            [
                "fan-in 100 QoS 0",
                "fan-in 100 QoS 1",
                "fan-in 100 QoS 0 1024 B",
                "fan-in 100 QoS 1 1024 B",
                "fan-out 10 QoS 0 1000/s",
                "fan-out 20 QoS 0 1000/s",
                "retain-read 500 QoS 0",
            ]
        );
        let skipped = (Workload::new(Shape::RetainRead, 500, 0), "relay".to_owned());
        assert_eq!(scenario.skip, [skipped]);
        assert_eq!(scenario.brokers, [Path::new("files/../a.toml")]);
        assert_eq!((scenario.runs, scenario.seconds), (Some(5), None));
    }

    #[test]
    fn all_problems_are_named_at_once() {
        let problems = parse(
            "protocol = \"4\"\n\
             [[workload]]\nkind = \"pairs\"\nclients = 1\nrate = 1\none = true\n\
             [[workload]]\nkind = \"pairs\"\nclients = []\n\
             [[workload]]\nkind = \"churn\"\nclients = [3, 3]\ngoals = [{ figure = \"cpu\", broker = \"a\" }]\n",
        )
        .unwrap_err();
        for expected in [
            "workload 1: only one",
            "workload 2: an empty",
            "churn 3 QoS 0 is there twice",
            "workload 3: a goal has neither",
            "protocol",
        ] {
            assert!(
                problems.iter().any(|problem| problem.contains(expected)),
                "{expected}: {problems:?}"
            );
        }
        assert!(parse("").unwrap_err()[0].contains("no [[workload]]"));
        assert!(parse("colour = 1").unwrap_err()[0].contains("colour"));
        assert!(
            parse("[[workload]]\nkind = \"storm\"\nclients = 1").unwrap_err()[0].contains("storm")
        );
    }

    #[test]
    fn the_files_that_come_with_the_project_are_good() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/bench");
        let mut count = 0;
        for file in std::fs::read_dir(folder).unwrap().flatten() {
            let scenario = BenchScenario::open(&file.path()).unwrap();
            for broker in &scenario.brokers {
                super::super::BrokerSpec::open(broker).unwrap();
            }
            count += 1;
        }
        assert!(count > 0);
    }
}
