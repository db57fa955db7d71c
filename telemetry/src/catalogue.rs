//! The table of metrics in `docs/metrics.md`, made from what a binary shows: code and document cannot drift apart.
//!
//! A test of each binary renders its metrics, with one value for each label that has no fixed values ([`OPEN`]), and compares the table with the part of
//! the document between `<!-- NAME: … -->` and `<!-- /NAME -->`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// The value of a label that is to be shown as one of many.
pub const OPEN: &str = "…";

#[derive(Default)]
struct Family {
    kind: String,
    help: String,
    labels: BTreeMap<String, BTreeSet<String>>,
}

/// The table of everything in `text` (OpenMetrics), in the order of names. A metric whose help begins with "Whether" is 0 or 1.
///
/// # Panics
///
/// On a line that is not OpenMetrics: this is for tests.
#[must_use]
pub fn table(text: &str) -> String {
    let mut families: BTreeMap<&str, Family> = BTreeMap::new();
    let mut current = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            families.entry(name).or_default().help = help.trim_end_matches('.').to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, ""));
            families.entry(name).or_default().kind = kind.to_owned();
            current = name;
        } else if !line.starts_with('#')
            && let Some(family) = families.get_mut(current)
        {
            for (label, value) in labels(line) {
                family.labels.entry(label).or_default().insert(value);
            }
        }
    }
    let mut table =
        "| metric | type | labels | unit | meaning |\n| --- | --- | --- | --- | --- |\n".to_owned();
    for (name, family) in &families {
        let written = writeln!(
            table,
            "| `{}` | {} | {} | {} | {} |",
            scraped(name, &family.kind),
            family.kind,
            label_cell(family),
            unit(name, family),
            family.help
        );
        assert!(written.is_ok(), "writing to a String does not fail");
    }
    table
}

/// The name of the sample that carries the value.
fn scraped(name: &str, kind: &str) -> String {
    match kind {
        "counter" => format!("{name}_total"),
        "info" => format!("{name}_info"),
        _ => name.to_owned(),
    }
}

fn label_cell(family: &Family) -> String {
    let shown = |(label, values): (&String, &BTreeSet<String>)| {
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        match values.as_slice() {
            [OPEN] => format!("`{label}`"),
            _ => format!("`{label}`: {}", values.join(", ")),
        }
    };
    // `le` is what a histogram has anyway.
    let labels = family.labels.iter().filter(|(label, _)| *label != "le");
    labels.map(shown).collect::<Vec<_>>().join("; ")
}

fn unit(name: &str, family: &Family) -> &'static str {
    let units = [
        ("_bytes", "bytes"),
        ("_seconds", "seconds"),
        ("_ratio", "0 to 1"),
    ];
    if family.help.starts_with("Whether") {
        return "0 or 1";
    }
    let of_name = units.iter().find(|(suffix, _)| name.ends_with(suffix));
    of_name.map_or("", |(_, unit)| unit)
}

fn labels(sample: &str) -> Vec<(String, String)> {
    let Some((_, rest)) = sample.split_once('{') else {
        return Vec::new();
    };
    let Some((inside, _)) = rest.rsplit_once('}') else {
        return Vec::new();
    };
    let pairs = inside
        .split("\",")
        .filter_map(|pair| pair.split_once("=\""));
    pairs
        .map(|(label, value)| (label.to_owned(), value.trim_end_matches('"').to_owned()))
        .collect()
}

/// The document with `table` in the part called `name`; `None` if it has no such part.
#[must_use]
pub fn with_part(document: &str, name: &str, table: &str) -> Option<String> {
    let (before, rest) = document.split_once(&format!("<!-- {name}:"))?;
    let (comment, rest) = rest.split_once("-->\n")?;
    let (_, after) = rest.split_once(&format!("<!-- /{name} -->"))?;
    Some(format!(
        "{before}<!-- {name}:{comment}-->\n{table}<!-- /{name} -->{after}"
    ))
}

/// Compares the part `name` of the document at `path` with what `text` has; with `UPDATE_GOLDEN` in the environment it is written there instead.
///
/// # Errors
///
/// They differ, or the document cannot be read or has no such part: what to do.
pub fn hold(path: &str, name: &str, text: &str) -> Result<(), String> {
    let document = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let wanted = with_part(&document, name, &table(text))
        .ok_or_else(|| format!("{path} has no part <!-- {name}: … --> … <!-- /{name} -->"))?;
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        return std::fs::write(path, wanted).map_err(|error| format!("{path}: {error}"));
    }
    let missing: Vec<&str> = wanted
        .lines()
        .filter(|line| !document.lines().any(|other| other == *line))
        .collect();
    if document == wanted {
        return Ok(());
    }
    Err(format!(
        "{path} does not say what the binary shows; run the test again with UPDATE_GOLDEN=1 and look at the difference. It lacks:\n{}",
        missing.join("\n")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP a_b Messages.\n# TYPE a_b counter\na_b_total{qos=\"0\"} 1\na_b_total{qos=\"1\",reason=\"…\"} 2\n\
        # HELP up Whether it runs.\n# TYPE up gauge\nup 1\n# HELP t_seconds Time.\n# TYPE t_seconds histogram\nt_seconds_bucket{le=\"1\"} 1\n# EOF\n";

    #[test]
    fn a_table_has_names_as_scraped_labels_and_units() {
        let lines: Vec<String> = table(TEXT).lines().map(str::to_owned).collect();
        assert_eq!(
            lines[2..],
            [
                "| `a_b_total` | counter | `qos`: 0, 1; `reason` |  | Messages |",
                "| `t_seconds` | histogram |  | seconds | Time |",
                "| `up` | gauge |  | 0 or 1 | Whether it runs |",
            ]
        );
    }

    #[test]
    fn a_part_of_a_document_is_replaced_and_the_rest_stays() {
        let document = "x\n<!-- one: made -->\nold\n<!-- /one -->\ny\n";
        let new = with_part(document, "one", "new\n");
        assert_eq!(
            new.as_deref(),
            Some("x\n<!-- one: made -->\nnew\n<!-- /one -->\ny\n")
        );
        assert_eq!(with_part(document, "two", "new\n"), None);
    }
}
