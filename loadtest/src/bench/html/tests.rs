use super::*;
use crate::bench::{Figure, Goal, Machine, Memory};
use crate::latency::Latencies;
use crate::proc::Usage;

/// The names of open elements must be closed in turn; a text has no markup. What is not so is told.
fn well_formed(html: &str) -> Result<usize, String> {
    let body = html.strip_prefix("<!DOCTYPE html>\n").ok_or("no DOCTYPE")?;
    let mut open: Vec<&str> = Vec::new();
    let mut elements = 0;
    let mut rest = body;
    while let Some((text, tag)) = rest.split_once('<') {
        let style = open.last() == Some(&"style");
        if text.contains('>') && !style {
            return Err(format!("a bare > in {text:?}"));
        }
        let entity = |part: &str| {
            ["amp;", "lt;", "gt;", "quot;"]
                .iter()
                .any(|known| part.starts_with(known))
        };
        if !style && !text.split('&').skip(1).all(entity) {
            return Err(format!("a bare & in {text:?}"));
        }
        let (tag, after) = tag.split_once('>').ok_or("a tag without an end")?;
        rest = after;
        if tag.matches('"').count() % 2 == 1 {
            return Err(format!("quotes in {tag:?}"));
        }
        let name = tag.trim_start_matches('/').split([' ', '/']).next();
        let name = name.unwrap_or_default();
        if tag.starts_with('/') {
            let last = open.pop();
            if last != Some(name) {
                return Err(format!("{last:?} is closed by {name}"));
            }
        } else {
            elements += 1;
            if !tag.ends_with('/') {
                open.push(name);
            }
        }
    }
    if open.is_empty() && rest.trim().is_empty() {
        Ok(elements)
    } else {
        Err(format!("left open: {open:?}, behind it: {rest:?}"))
    }
}

fn outcome(broker: &str, workload: Workload, cost: f64) -> Outcome {
    let own = Usage {
        cpu_ns: 1_000_000,
        ..Usage::default()
    };
    let mut outcome = Outcome::new(broker, workload, 3.0, 1000, own);
    let usage = Usage {
        cpu_ns: (cost * 1e6) as u64,
        ..Usage::default()
    };
    outcome.set_usage(vec![("broker".to_owned(), usage)]);
    let mut latencies = Latencies::default();
    for us in 1..2000 {
        latencies.record_ns(us * 1000);
    }
    outcome.set_latencies(&latencies, &latencies);
    outcome.others = Some(0.03);
    outcome
}

/// Every kind of picture, and a name that would break a page that believes it.
fn report() -> Report {
    let name = "<b>\"A&B\"</b>";
    let paced = Workload {
        load: Load::Rate(1000.0),
        ..Workload::new(Shape::FanIn, 100, 1)
    };
    let mut workloads = vec![paced, Workload::new(Shape::Idle, 100, 0)];
    workloads.extend([10, 100, 1000].map(|clients| Workload::new(Shape::FanOut, clients, 0)));
    let mut outcomes = Vec::new();
    for workload in &workloads {
        for broker in [name, "plain"] {
            for run in 1..=3 {
                let cost = f64::from(run) * (workload.clients as f64).sqrt();
                let mut one = outcome(broker, *workload, cost);
                if workload.shape == Shape::Idle {
                    one.bytes_each = Some(Memory {
                        anonymous: 900.0 * cost,
                        pss: 1.0,
                        rss: 1.0,
                    });
                }
                one.lost = u64::from(run == 3);
                outcomes.push(one);
            }
        }
    }
    let brokers = vec![
        (name.to_owned(), "version \u{7}1 <x>".to_owned()),
        ("plain".to_owned(), String::new()),
    ];
    let mut report = Report::of(
        &workloads,
        "5.0",
        Some((1, 0)),
        Machine::look(),
        brokers,
        outcomes,
    );
    for most in [1.0, 1e6] {
        let goal = Goal {
            figure: Figure::Cpu,
            broker: name.to_owned(),
            of: Some("plain".to_owned()),
            relay: None,
            most: Some(most / 2.0),
            least: None,
        };
        let verdict = goal.judge(paced, &report.outcomes);
        report.verdicts.push(verdict);
    }
    report
}

#[test]
fn the_page_is_well_formed_whatever_names_there_are() {
    let html = report().to_html();
    let elements = well_formed(&html).unwrap();
    assert!(elements > 500, "{elements}");
    assert!(html.contains("&lt;b&gt;&quot;A&amp;B&quot;&lt;/b&gt;"));
    assert!(!html.contains('\u{7}'));
}

#[test]
fn nothing_comes_from_elsewhere_and_nothing_runs() {
    let html = report().to_html();
    for outside in [
        "http:", "https:", "src=", "href=", "url(", "@import", "<script", "<link", "onclick",
    ] {
        assert!(!html.contains(outside), "{outside}");
    }
}

#[test]
fn everything_that_was_measured_is_drawn_and_told() {
    let html = report().to_html();
    // Costs, connects, throughput, growth, latency, memory.
    assert_eq!(html.matches("<svg").count(), 6);
    // Of each of five workloads on two brokers: medians and three runs; two goals; three heads.
    assert_eq!(html.matches("<tr>").count(), 10 + 30 + 2 + 3);
    for expected in [
        "fan-in 100 QoS 1 1000/s",
        "idle 100",
        "99.9 %",
        "From fan-out 10 QoS 0",
        "class=\"bad\"",
        "1 of 2 are met",
        "in parts of plain's: at most 0.5",
        "class=\"curve dashed\"",
    ] {
        assert!(html.contains(expected), "{expected}");
    }
}

#[test]
fn a_run_that_measured_nothing_is_a_page_too() {
    let brokers = vec![("a".to_owned(), String::new())];
    let report = Report::of(&[], "5.0", None, Machine::look(), brokers, Vec::new());
    let html = report.to_html();
    assert!(well_formed(&html).is_ok() && !html.contains("<svg"));
}

#[test]
fn the_check_itself_finds_what_is_wrong() {
    for wrong in [
        "<p>",
        "<p></b>",
        "<p>a & b</p>",
        "<p x=\"></p>",
        "</p>",
        "<p>a > b</p>",
    ] {
        let page = format!("<!DOCTYPE html>\n{wrong}");
        assert!(well_formed(&page).is_err(), "{wrong}");
    }
}

#[test]
fn only_what_differs_in_one_number_is_a_growth() {
    let of = |clients, qos| Workload::new(Shape::Pairs, clients, qos);
    let all = [of(100, 0), of(1, 0), of(10, 0), of(1, 1), of(10, 1)];
    let groups = Grows::Clients.groups(&all);
    assert_eq!(groups, [vec![of(1, 0), of(10, 0), of(100, 0)]]);
    assert!(Grows::Payload.groups(&all).is_empty());
}
