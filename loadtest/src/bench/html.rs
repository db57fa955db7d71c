//! The report as one file that any browser opens: no script, nothing from elsewhere.

mod plot;
mod scale;
mod tables;

use self::plot::{Axis, Mark, Row, Series};
use super::Outcome;
use super::plan::{Load, Shape, Workload};
use super::report::{Report, Spread, Summary};

/// Colours that the style has; brokers beyond share them.
const COLOURS: usize = 8;

impl Report {
    /// The report as HTML, well-formed as XML.
    #[must_use]
    pub fn to_html(&self) -> String {
        let machine = &self.machine;
        let title = format!("Benchmark {}, commit {}", machine.date, machine.commit);
        let parts = [
            self.facts(),
            tables::verdicts(self),
            self.costs(),
            self.growth(),
            self.latencies(),
            self.memory(),
            tables::summaries(self),
            tables::outcomes(self),
        ];
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\
             <title>{title}</title>\n<style>{}</style></head>\n<body>\n<h1>Benchmark</h1>\n{}</body></html>\n",
            include_str!("html/page.css"),
            parts.concat(),
            title = escape(&title),
        )
    }

    /// Number of a broker: its colour.
    fn series(&self, broker: &str) -> usize {
        let place = self.brokers.iter().position(|(name, _)| name == broker);
        place.unwrap_or(0) % COLOURS
    }

    fn facts(&self) -> String {
        let machine = &self.machine;
        let gib = machine.memory as f64 / (1u64 << 30) as f64;
        let mut facts = vec![
            format!("Commit {}, {}", machine.commit, machine.date),
            format!(
                "{}, {} processors, {gib:.1} GiB, Linux {}, load {} before",
                machine.processor, machine.processors, machine.kernel, machine.load
            ),
            match self.pinned {
                Some((broker, own)) => format!(
                    "MQTT {}; brokers on processor {broker}, the load generator on {own}",
                    self.mqtt
                ),
                None => format!("MQTT {}; nothing is pinned to a processor", self.mqtt),
            },
        ];
        let said = self
            .brokers
            .iter()
            .filter(|(_, version)| !version.is_empty());
        facts.extend(said.map(|(broker, version)| format!("{broker}: {version}")));
        let lines: String = facts
            .iter()
            .map(|fact| format!("<p>{}</p>", escape(fact)))
            .collect();
        format!("<div class=\"facts\">{lines}</div>\n{}", self.legend())
    }

    fn legend(&self) -> String {
        let names = self.brokers.iter().map(|(broker, _)| {
            let series = self.series(broker);
            format!("<span class=\"s{series}\"><i></i>{}</span>", escape(broker))
        });
        format!("<p class=\"legend\">{}</p>\n", names.collect::<String>())
    }

    fn costs(&self) -> String {
        let cost = |outcome: &Outcome| outcome.cpu_us;
        let (idle, steady): (Vec<Workload>, Vec<Workload>) = self
            .workloads()
            .into_iter()
            .partition(|workload| workload.shape == Shape::Idle);
        let mut html = String::new();
        let picture = plot::dots(&self.rows(&steady, cost), "µs");
        if !picture.is_empty() {
            html += "<h2>CPU time of the broker for each delivered message</h2>\n\
                     <p>Of a visit at churn, of a stored message at retain-store. A point is the median, a stroke each run; \
                     what is twice as much is the same length away everywhere.</p>\n";
            html += &picture;
        }
        let picture = plot::dots(&self.rows(&idle, cost), "µs");
        if !picture.is_empty() {
            html += "<h2>CPU time of the broker for each connect</h2>\n";
            html += &picture;
        }
        let picture = plot::dots(
            &self.rows(&steady, |outcome| {
                let paced = matches!(outcome.workload.load, Load::Rate(_));
                (!paced).then_some(outcome.delivered_per_s)
            }),
            "/s",
        );
        if !picture.is_empty() {
            html += "<h2>Messages in a second</h2>\n\
                     <p>The load generator may be what limits it: see its own CPU time below.</p>\n";
            html += &picture;
        }
        html
    }

    fn memory(&self) -> String {
        let rows = self.rows(&self.workloads(), |outcome| {
            outcome.bytes_each.map(|memory| memory.anonymous)
        });
        let picture = plot::dots(&rows, "B");
        if picture.is_empty() {
            return picture;
        }
        format!(
            "<h2>Memory of the broker for each</h2>\n<p>Bytes of no file, for each idle connection or retained message; \
             socket buffers of the kernel are not in it.</p>\n{picture}"
        )
    }

    /// Where a workload was measured with several numbers of what there are many.
    fn growth(&self) -> String {
        let mut html = String::new();
        for grows in Grows::ALL {
            for group in grows.groups(&self.workloads()) {
                let Some(first) = group.first() else { continue };
                let points = |broker: &str| {
                    let costs = group.iter().filter_map(|workload| {
                        let cost = self.summary(workload, broker)?.cpu_us?;
                        Some((grows.of(workload), cost.median))
                    });
                    costs.collect()
                };
                let curves: Vec<Series> = self
                    .brokers
                    .iter()
                    .map(|(broker, _)| Series {
                        series: self.series(broker),
                        name: broker.clone(),
                        dashed: false,
                        points: points(broker),
                    })
                    .collect();
                let picture = plot::lines(&curves, Axis::Count, grows.name(), "µs");
                if !picture.is_empty() {
                    html += &format!("<h3>From {}</h3>\n{picture}", escape(&first.name()));
                }
            }
        }
        if html.is_empty() {
            return html;
        }
        format!(
            "<h2>As it grows</h2>\n<p>CPU time of the broker for each message; medians.</p>\n{}{html}",
            self.legend()
        )
    }

    /// Only of loads that do not saturate: with a window, latency is that of its queue.
    fn latencies(&self) -> String {
        let mut html = String::new();
        for workload in self.workloads() {
            if matches!(workload.load, Load::Window(_)) {
                continue;
            }
            let mut curves = Vec::new();
            for (broker, _) in &self.brokers {
                let Some(outcome) = self.middle(&workload, broker) else {
                    continue;
                };
                for (until, points, dashed) in [
                    ("delivery", &outcome.latency_curve, false),
                    ("acknowledgement", &outcome.ack_latency_curve, true),
                ] {
                    if !points.is_empty() {
                        curves.push(Series {
                            series: self.series(broker),
                            name: format!("{broker}, until {until}"),
                            dashed,
                            points: points.clone(),
                        });
                    }
                }
            }
            let picture = plot::lines(&curves, Axis::Nines, "part of the messages", "µs");
            if !picture.is_empty() {
                html += &format!("<h3>{}</h3>\n{picture}", escape(&workload.name()));
            }
        }
        if html.is_empty() {
            return html;
        }
        format!(
            "<h2>Latency</h2>\n<p>From when a message was due, whatever the broker did meanwhile, until it was delivered; \
             dashed: until it was acknowledged. Of the run with the median p99.</p>\n{}{html}",
            self.legend()
        )
    }

    fn workloads(&self) -> Vec<Workload> {
        let mut found: Vec<Workload> = Vec::new();
        for summary in &self.summaries {
            if !found.contains(&summary.workload) {
                found.push(summary.workload);
            }
        }
        found
    }

    fn summary(&self, workload: &Workload, broker: &str) -> Option<&Summary> {
        let mut all = self.summaries.iter();
        all.find(|one| one.workload == *workload && one.broker == broker)
    }

    fn runs(&self, workload: &Workload, broker: &str) -> Vec<&Outcome> {
        let all = self.outcomes.iter();
        all.filter(|one| one.workload == *workload && one.broker == broker)
            .collect()
    }

    /// The run whose p99 is the median one.
    fn middle(&self, workload: &Workload, broker: &str) -> Option<&Outcome> {
        let mut runs = self.runs(workload, broker);
        runs.sort_by(|one, other| one.latency.p99_us.total_cmp(&other.latency.p99_us));
        runs.get(runs.len() / 2).copied()
    }

    fn rows(&self, workloads: &[Workload], of: fn(&Outcome) -> Option<f64>) -> Vec<Row> {
        let marks = |workload: &Workload| {
            let brokers = self.brokers.iter();
            brokers
                .filter_map(|(broker, _)| {
                    let runs = self.runs(workload, broker);
                    let values: Vec<f64> = runs.iter().filter_map(|run| of(run)).collect();
                    let spread = Spread::of(values.iter().copied())?;
                    (spread.max > 0.0).then(|| Mark {
                        series: self.series(broker),
                        name: broker.clone(),
                        spread,
                        values,
                    })
                })
                .collect()
        };
        let rows = workloads.iter().map(|workload| Row {
            name: workload.name(),
            marks: marks(workload),
        });
        rows.filter(|row| !row.marks.is_empty()).collect()
    }
}

/// A number that a workload may have been measured with several of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grows {
    Clients,
    Topics,
    Payload,
    Standing,
}

impl Grows {
    const ALL: [Self; 4] = [Self::Clients, Self::Topics, Self::Payload, Self::Standing];

    fn of(self, workload: &Workload) -> f64 {
        match self {
            Self::Clients => workload.clients as f64,
            Self::Topics => f64::from(workload.topics),
            Self::Payload => workload.payload_bytes as f64,
            // None at all has a place, too.
            Self::Standing => workload.standing.max(1) as f64,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Clients => "clients, or what is stored",
            Self::Topics => "topics of a publisher",
            Self::Payload => "bytes of a payload",
            Self::Standing => "subscriptions of others",
        }
    }

    /// The workload with the number left out: alike for all that differ in nothing else.
    fn without(self, workload: &Workload) -> Workload {
        let usual = Workload::new(workload.shape, 0, workload.qos);
        match self {
            Self::Clients => Workload {
                clients: 0,
                ..*workload
            },
            Self::Topics => Workload {
                topics: usual.topics,
                ..*workload
            },
            Self::Payload => Workload {
                payload_bytes: usual.payload_bytes,
                ..*workload
            },
            Self::Standing => Workload {
                standing: 0,
                ..*workload
            },
        }
    }

    /// Workloads that differ in nothing but this, of which there are at least three.
    fn groups(self, workloads: &[Workload]) -> Vec<Vec<Workload>> {
        let mut groups: Vec<(Workload, Vec<Workload>)> = Vec::new();
        for workload in workloads {
            let family = self.without(workload);
            match groups.iter_mut().find(|(of, _)| *of == family) {
                Some((_, group)) => group.push(*workload),
                None => groups.push((family, vec![*workload])),
            }
        }
        let mut groups: Vec<_> = groups.into_iter().map(|(_, group)| group).collect();
        groups.retain(|group| group.len() >= 3);
        for group in &mut groups {
            group.sort_by(|one, other| self.of(one).total_cmp(&self.of(other)));
        }
        groups
    }
}

/// Text that is no markup.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            // Not allowed in XML, whatever a version text may have.
            letter if letter.is_control() => safe.push(' '),
            letter => safe.push(letter),
        }
    }
    safe
}

#[cfg(test)]
mod tests;
