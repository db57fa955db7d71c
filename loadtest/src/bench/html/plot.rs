//! Pictures, as SVG within the page. Everything is drawn with classes that the page's style knows.

use std::fmt::Write as _;

use super::escape;
use super::scale::{Scale, short};
use crate::bench::Spread;

/// Width of a picture; it grows and shrinks with the page.
const WIDTH: f64 = 860.0;
/// Width of a letter of a name, about.
const LETTER: f64 = 6.8;
const LINE: f64 = 16.0;
/// From the bottom of a plot to its top at least so many times as much.
const SPAN: f64 = 10.0;

/// What one broker has in a row.
pub(super) struct Mark {
    /// Number of the broker: its colour.
    pub(super) series: usize,
    pub(super) name: String,
    pub(super) spread: Spread,
    /// Every repetition.
    pub(super) values: Vec<f64>,
}

/// A workload.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) marks: Vec<Mark>,
}

/// A row for each workload, a line in it for each broker: the median as a point, every repetition as a stroke, the
/// spread as a bar. Empty where nothing was measured.
pub(super) fn dots(rows: &[Row], unit: &str) -> String {
    let values = rows.iter().flat_map(|row| &row.marks);
    let values = values.flat_map(|mark| [mark.spread.min, mark.spread.max]);
    let longest = rows.iter().map(|row| row.name.chars().count()).max();
    let names = (longest.unwrap_or(0) as f64 * LETTER + 20.0).min(WIDTH / 2.0);
    let Some(scale) = Scale::around(values, names, WIDTH - 60.0) else {
        return String::new();
    };
    let lines: usize = rows.iter().map(|row| row.marks.len()).sum();
    let height = lines as f64 * LINE + rows.len() as f64 * 8.0 + 34.0;
    let mut svg = open(height);
    for tick in scale.ticks() {
        let Some(x) = scale.at(tick) else { continue };
        let bottom = height - 26.0;
        svg += &format!(
            "<line class=\"grid\" x1=\"{x:.1}\" y1=\"4\" x2=\"{x:.1}\" y2=\"{bottom:.1}\"/>"
        );
        svg += &text(x, height - 12.0, "tick", &short(tick));
    }
    svg += &text(WIDTH - 30.0, height - 12.0, "tick", unit);
    let mut y = 12.0;
    for row in rows {
        let middle = y + (row.marks.len() as f64 - 1.0) * LINE / 2.0 + 4.0;
        svg += &text(names - 12.0, middle, "name", &row.name);
        for mark in &row.marks {
            draw_mark(&mut svg, mark, &scale, y, unit);
            y += LINE;
        }
        y += 8.0;
    }
    svg + "</svg>\n"
}

fn draw_mark(svg: &mut String, mark: &Mark, scale: &Scale, y: f64, unit: &str) {
    let Spread { median, min, max } = mark.spread;
    let (Some(x), Some(from), Some(to)) = (scale.at(median), scale.at(min), scale.at(max)) else {
        return;
    };
    let series = mark.series;
    let hint = format!(
        "{}: {} {unit} ({} to {})",
        mark.name,
        short(median),
        short(min),
        short(max)
    );
    let _written = write!(
        svg,
        "<g class=\"s{series}\"><title>{}</title><line class=\"spread\" x1=\"{from:.1}\" y1=\"{y:.1}\" x2=\"{to:.1}\" y2=\"{y:.1}\"/>",
        escape(&hint)
    );
    for at in mark.values.iter().filter_map(|value| scale.at(*value)) {
        let (top, bottom) = (y - 4.0, y + 4.0);
        let _written = write!(
            svg,
            "<line class=\"stroke\" x1=\"{at:.1}\" y1=\"{top:.1}\" x2=\"{at:.1}\" y2=\"{bottom:.1}\"/>"
        );
    }
    let label = text(to + 8.0, y + 4.0, "value", &short(median));
    let _written = write!(
        svg,
        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>{label}</g>"
    );
}

/// A line of a plot.
pub(super) struct Series {
    pub(super) series: usize,
    pub(super) name: String,
    pub(super) dashed: bool,
    pub(super) points: Vec<(f64, f64)>,
}

/// How the horizontal axis of a plot is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Axis {
    /// Parts of a hundred, with as much room for 90 to 99 as for 99 to 99.9.
    Nines,
    /// Numbers, by their logarithm.
    Count,
}

impl Axis {
    /// What is shown as a multiple: of 1 % above, upside down.
    fn value(self, x: f64) -> f64 {
        match self {
            Self::Nines => 100.0 / (100.0 - x),
            Self::Count => x,
        }
    }
}

/// Lines over a logarithmic or percentile axis. Empty where there are no points.
pub(super) fn lines(all: &[Series], axis: Axis, across: &str, unit: &str) -> String {
    const HEIGHT: f64 = 300.0;
    let points = || all.iter().flat_map(|series| &series.points);
    // 100 of 100 has no place on an axis of nines.
    let inside = |x: f64| axis != Axis::Nines || x < 99.999_95;
    let xs = points().map(|point| point.0).filter(|x| inside(*x));
    let (Some(x_scale), Some(y_scale)) = (
        Scale::around(xs.map(|x| axis.value(x)), 70.0, WIDTH - 30.0),
        Scale::around(points().map(|point| point.1), HEIGHT - 40.0, 12.0),
    ) else {
        return String::new();
    };
    let y_scale = y_scale.at_least(SPAN);
    let mut svg = open(HEIGHT);
    for tick in y_scale.ticks() {
        let Some(y) = y_scale.at(tick) else { continue };
        let right = WIDTH - 30.0;
        svg += &format!(
            "<line class=\"grid\" x1=\"70\" y1=\"{y:.1}\" x2=\"{right:.1}\" y2=\"{y:.1}\"/>"
        );
        svg += &text(62.0, y + 4.0, "name", &measure(tick, unit));
    }
    let ticks = match axis {
        Axis::Nines => vec![50.0, 90.0, 99.0, 99.9, 99.99, 99.999],
        Axis::Count => x_scale.ticks(),
    };
    for tick in ticks {
        let Some(x) = x_scale
            .at(axis.value(tick))
            .filter(|x| (70.0..=WIDTH - 30.0).contains(x))
        else {
            continue;
        };
        svg += &format!("<line class=\"grid\" x1=\"{x:.1}\" y1=\"12\" x2=\"{x:.1}\" y2=\"260\"/>");
        let label = match axis {
            Axis::Nines => format!("{tick} %"),
            Axis::Count => short(tick),
        };
        svg += &text(x, 276.0, "tick", &label);
    }
    svg += &text(WIDTH / 2.0, 294.0, "tick", across);
    for series in all {
        draw_series(&mut svg, series, axis, (&x_scale, &y_scale), unit);
    }
    svg + "</svg>\n"
}

fn draw_series(
    svg: &mut String,
    series: &Series,
    axis: Axis,
    scales: (&Scale, &Scale),
    unit: &str,
) {
    let (x_scale, y_scale) = scales;
    let inside = |x: f64| axis != Axis::Nines || x < 99.999_95;
    let places: Vec<(f64, f64, f64, f64)> = series
        .points
        .iter()
        .filter(|(x, _)| inside(*x))
        .filter_map(|(x, y)| Some((x_scale.at(axis.value(*x))?, y_scale.at(*y)?, *x, *y)))
        .collect();
    let path: Vec<String> = places
        .iter()
        .map(|(x, y, ..)| format!("{x:.1},{y:.1}"))
        .collect();
    let dashed = if series.dashed { " dashed" } else { "" };
    let _written = write!(
        svg,
        "<g class=\"s{}\"><polyline class=\"curve{dashed}\" points=\"{}\"/>",
        series.series,
        path.join(" ")
    );
    for (x, y, at, value) in places {
        let hint = match axis {
            Axis::Nines => format!("{}: {at:.4} % within {}", series.name, measure(value, unit)),
            Axis::Count => format!("{}: {} at {}", series.name, measure(value, unit), short(at)),
        };
        let _written = write!(
            svg,
            "<circle class=\"point\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\"><title>{}</title></circle>",
            escape(&hint)
        );
    }
    *svg += "</g>";
}

/// A value with its unit; times in the unit that fits.
fn measure(value: f64, unit: &str) -> String {
    match unit {
        "µs" if value >= 1000.0 => format!("{} ms", short(value / 1000.0)),
        _ => format!("{} {unit}", short(value)),
    }
}

fn open(height: f64) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH:.0} {height:.0}\" role=\"img\">")
}

fn text(x: f64, y: f64, class: &str, content: &str) -> String {
    format!(
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>",
        escape(content)
    )
}
