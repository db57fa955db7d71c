//! The log, on standard error: for people, as JSON, or as Cloud Logging reads it.
//!
//! Cloud Logging takes a line of JSON for a structured entry. What it looks for are the fields `severity`, `message` and `time`, labels, and for an
//! ERROR the type of Error Reporting; the fields `trace_id` and `span_id` of a line become those by which Cloud Logging shows it beside its trace
//! (with `GOOGLE_CLOUD_PROJECT` in the environment); everything else is the entry's payload and can be searched (`jsonPayload.client="sensor-7"`). A panic is CRITICAL;
//! tracing has no such level, so it is an ERROR with the field `critical`.

use std::fmt;
use std::io::{self, IsTerminal};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Registry, reload};

/// The form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// [`Format::Human`] on a terminal, [`Format::Json`] otherwise.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
    /// One JSON object a line, with the fields that Cloud Logging looks for.
    Cloud,
}

/// Which program it is, in entries of Cloud Logging.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
}

/// A log that was started: its level can be changed.
#[derive(Debug, Clone)]
pub struct Log(reload::Handle<EnvFilter, Registry>);

impl Log {
    /// What is logged from now on. Does nothing when the log has ended.
    pub fn set_filter(&self, filter: EnvFilter) {
        if let Err(error) = self.0.reload(filter) {
            tracing::warn!(%error, "the level of the log cannot be changed");
        }
    }
}

/// Starts the log on standard error.
///
/// # Errors
///
/// A log has been started before.
pub fn start(filter: EnvFilter, format: Format, program: Program) -> Result<Log, TryInitError> {
    let terminal = io::stderr().is_terminal();
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    match (format, terminal) {
        (Format::Cloud, _) => registry
            .with(lines.with_ansi(false).event_format(Cloud::new(program)))
            .try_init()?,
        (Format::Json, _) | (Format::Auto, false) => {
            registry.with(lines.json().flatten_event(true)).try_init()?
        }
        (Format::Human, _) | (Format::Auto, true) => registry
            .with(lines.with_ansi(terminal).with_target(false))
            .try_init()?,
    }
    Ok(Log(handle))
}

/// Lines as Cloud Logging reads them.
struct Cloud {
    program: Program,
    /// Where traces are, with a slash at the end; empty: not known.
    traces: String,
}

impl Cloud {
    fn new(program: Program) -> Self {
        let project = std::env::var("GOOGLE_CLOUD_PROJECT").unwrap_or_default();
        Self::of_project(program, &project)
    }

    fn of_project(program: Program, project: &str) -> Self {
        let traces = match project {
            "" => String::new(),
            project => format!("projects/{project}/traces/"),
        };
        Self { program, traces }
    }
}

impl<S, N> FormatEvent<S, N> for Cloud
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        fields.name_trace(&self.traces);
        let meta = event.metadata();
        let entry = entry(
            self.program,
            (meta.level(), meta.target()),
            (meta.file(), meta.line()),
            SystemTime::now(),
            fields,
        );
        writeln!(writer, "{entry}")
    }
}

/// What an event says: its message, and its other fields by name.
#[derive(Default)]
struct Fields {
    message: String,
    critical: bool,
    others: Map<String, Value>,
}

/// Names with a meaning for Cloud Logging: fields of the same name get a `_` behind it.
const TAKEN: [&str; 8] = [
    "severity",
    "time",
    "timestamp",
    "serviceContext",
    "httpRequest",
    "target",
    "trace",
    "@type",
];

impl Fields {
    /// Moves the ids of a trace to where Cloud Logging looks for them.
    fn name_trace(&mut self, traces: &str) {
        let Some(Value::String(trace)) = self.others.remove("trace_id") else {
            return;
        };
        let mut put = |name: &str, value| {
            let name = format!("logging.googleapis.com/{name}");
            self.others.insert(name, value);
        };
        put("trace", json!(format!("{traces}{trace}")));
        // Others are not written about.
        put("trace_sampled", json!(true));
        if let Some(span) = self.others.remove("span_id") {
            let name = "logging.googleapis.com/spanId".to_owned();
            self.others.insert(name, span);
        }
    }

    fn put(&mut self, field: &Field, value: Value) {
        let mut name = field.name().to_owned();
        if TAKEN.contains(&field.name()) {
            name.push('_');
        }
        self.others.insert(name, value);
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, json!(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, json!(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, json!(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        match field.name() {
            "critical" => self.critical = value,
            _ => self.put(field, json!(value)),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            _ => self.put(field, json!(value)),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        self.record_str(field, &text);
    }
}

/// The names of Cloud Logging.
fn severity(level: &Level, critical: bool) -> &'static str {
    match *level {
        Level::ERROR if critical => "CRITICAL",
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        Level::DEBUG => "DEBUG",
        Level::TRACE => "DEFAULT",
    }
}

fn entry(
    program: Program,
    (level, target): (&Level, &str),
    (file, line): (Option<&str>, Option<u32>),
    now: SystemTime,
    fields: Fields,
) -> Value {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut entry = json!({
        "severity": severity(level, fields.critical),
        "message": fields.message,
        "timestamp": {"seconds": since.as_secs(), "nanos": since.subsec_nanos()},
        "target": target,
        "logging.googleapis.com/labels": {"program": program.name, "version": program.version},
    });
    let Some(object) = entry.as_object_mut() else {
        return entry;
    };
    if *level == Level::ERROR {
        // Error Reporting groups what has this, and mails whoever wants to know.
        object.insert(
            "@type".to_owned(),
            json!(
                "type.googleapis.com/google.devtools.clouderrorreporting.v1beta1.ReportedErrorEvent"
            ),
        );
        object.insert(
            "serviceContext".to_owned(),
            json!({"service": program.name, "version": program.version}),
        );
    }
    if let (Some(file), Some(line)) = (file, line)
        && *level <= Level::WARN
    {
        object.insert(
            "logging.googleapis.com/sourceLocation".to_owned(),
            json!({"file": file, "line": line.to_string()}),
        );
    }
    object.extend(fields.others);
    entry
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::*;

    const PROGRAM: Program = Program {
        name: "broker",
        version: "1.2.3",
    };

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(act: impl FnOnce()) -> Vec<Value> {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            .event_format(Cloud::of_project(PROGRAM, "my-project"));
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, act);
        let bytes = lines.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn levels_have_the_names_of_cloud_logging() {
        let lines = logged(|| {
            tracing::trace!("a");
            tracing::debug!("b");
            tracing::info!("c");
            tracing::warn!("d");
            tracing::error!("e");
            tracing::error!(critical = true, "f");
        });
        let severities: Vec<&str> = lines
            .iter()
            .map(|line| line["severity"].as_str().unwrap())
            .collect();
        assert_eq!(
            severities,
            ["DEFAULT", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
        );
    }

    #[test]
    fn fields_keep_their_types_and_do_not_hide_what_cloud_logging_looks_for() {
        let lines = logged(|| {
            tracing::info!(client = %"a \"quoted\" name", queued = 7, slow = true, severity = "mine", "it is\nslow");
        });
        let line = &lines[0];
        assert_eq!(line["message"], "it is\nslow");
        assert_eq!(line["client"], "a \"quoted\" name");
        assert_eq!((&line["queued"], &line["slow"]), (&json!(7), &json!(true)));
        assert_eq!(line["severity"], "INFO");
        assert_eq!(line["severity_"], "mine");
        assert_eq!(
            line["logging.googleapis.com/labels"],
            json!({"program": "broker", "version": "1.2.3"})
        );
        assert!(line.get("@type").is_none());
    }

    #[test]
    fn an_error_is_for_error_reporting_and_says_where_it_is_from() {
        let lines = logged(|| tracing::error!(code = "DUN-0001", "no"));
        let line = &lines[0];
        assert_eq!(line["serviceContext"]["service"], "broker");
        assert!(
            line["@type"]
                .as_str()
                .unwrap()
                .ends_with("ReportedErrorEvent")
        );
        let place = &line["logging.googleapis.com/sourceLocation"];
        assert!(place["file"].as_str().unwrap().ends_with("log.rs"));
        assert!(place["line"].as_str().unwrap().parse::<u32>().unwrap() > 1);
    }

    #[test]
    fn a_line_about_a_trace_is_shown_beside_it() {
        let lines = logged(|| tracing::debug!(trace_id = "4bf9", span_id = "00f0", "traced"));
        let line = &lines[0];
        let field = |name: &str| line[format!("logging.googleapis.com/{name}")].clone();
        assert_eq!(field("trace"), "projects/my-project/traces/4bf9");
        assert_eq!(field("spanId"), "00f0");
        assert_eq!(field("trace_sampled"), true);
        assert!(line.get("trace_id").is_none() && line.get("span_id").is_none());
    }

    #[test]
    fn the_time_is_seconds_and_nanoseconds() {
        let now = UNIX_EPOCH + Duration::new(1_700_000_000, 42);
        let entry = entry(
            PROGRAM,
            (&Level::INFO, "here"),
            (None, None),
            now,
            Fields::default(),
        );
        assert_eq!(
            entry["timestamp"],
            json!({"seconds": 1_700_000_000, "nanos": 42})
        );
    }
}
