//! A log line: one event, one line, and the volume in it. An audit line stands there as it is, without any prefix.

use std::fmt;
use std::sync::OnceLock;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Json, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, format};
use tracing_subscriber::registry::LookupSpan;

use super::audit::TARGET;

/// Formats as the formatter inside, then mends the text.
pub(super) struct Line<F> {
    inside: F,
    volume: &'static OnceLock<String>,
    mend: fn(&str, Option<&str>) -> String,
}

/// Lines of text; control characters are escaped, since a file's name or a store's answer may hold them.
pub(super) fn text(volume: &'static OnceLock<String>) -> Line<Format<Full>> {
    let mend = |line: &str, volume: Option<&str>| {
        let mut one = String::with_capacity(line.len());
        for c in line.chars() {
            if c.is_control() { one.extend(c.escape_default()) } else { one.push(c) }
        }
        if let Some(volume) = volume {
            one += &format!(" volume={volume:?}");
        }
        one
    };
    Line { inside: format().with_ansi(false), volume, mend }
}

/// Lines of JSON, an event's fields at the top.
pub(super) fn json(volume: &'static OnceLock<String>) -> Line<Format<Json>> {
    let mend = |line: &str, volume: Option<&str>| {
        let Some(volume) = volume else { return line.to_owned() };
        // An event that names a volume of its own keeps it.
        match serde_json::from_str::<Map<String, Value>>(line) {
            Ok(mut fields) => {
                fields.entry("volume").or_insert_with(|| Value::from(volume));
                Value::from(fields).to_string()
            }
            Err(_) => line.to_owned(),
        }
    };
    Line { inside: format().json().flatten_event(true), volume, mend }
}

impl<S, N, F> FormatEvent<S, N> for Line<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        if event.metadata().target() == TARGET {
            let mut message = Message(String::new());
            event.record(&mut message);
            return writeln!(to, "{}", message.0);
        }
        let mut line = String::new();
        self.inside.format_event(context, Writer::new(&mut line), event)?;
        let volume = self.volume.get().map(String::as_str);
        writeln!(to, "{}", (self.mend)(line.trim_end_matches('\n'), volume))
    }
}

/// An event's message.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::format::JsonFields;

    use super::*;

    static NONE: OnceLock<String> = OnceLock::new();
    static ONE: OnceLock<String> = OnceLock::new();

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(is_json: bool, volume: &'static OnceLock<String>, event: impl Fn()) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let builder = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false);
        if is_json {
            let subscriber = builder.fmt_fields(JsonFields::new()).event_format(json(volume)).finish();
            tracing::subscriber::with_default(subscriber, event);
        } else {
            tracing::subscriber::with_default(builder.event_format(text(volume)).finish(), event);
        }
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn nasty() {
        let error = "one\ntwo\u{1b}[2J";
        tracing::warn!(%error, count = 3, "a \n line");
    }

    #[test]
    fn an_event_is_one_line_whatever_it_holds() {
        for is_json in [false, true] {
            let lines = written(is_json, &NONE, nasty);
            assert_eq!(lines.matches('\n').count(), 1, "{lines:?}");
            assert!(lines.ends_with('\n') && !lines.contains('\u{1b}'), "{lines:?}");
            assert!(lines.contains("WARN") && lines.contains("two") && !lines.contains("volume"), "{lines:?}");
        }
    }

    #[test]
    fn an_audit_line_stands_alone() {
        for is_json in [false, true] {
            let line = written(is_json, &NONE, || tracing::info!(target: TARGET, "{}", r#"{"audit":1}"#));
            assert_eq!(line, "{\"audit\":1}\n");
        }
    }

    #[test]
    fn the_volume_stands_in_every_line() {
        ONE.get_or_init(|| "lake/a\"b@0123456789".into());
        let line = written(false, &ONE, nasty);
        assert!(line.ends_with(" volume=\"lake/a\\\"b@0123456789\"\n"), "{line:?}");
        let fields: Value = serde_json::from_str(&written(true, &ONE, nasty)).unwrap();
        assert_eq!(fields["volume"], "lake/a\"b@0123456789");
        assert_eq!((&fields["message"], &fields["count"]), (&Value::from("a \n line"), &Value::from(3)));
        let named: Value = serde_json::from_str(&written(true, &ONE, || tracing::info!(volume = "own", "x"))).unwrap();
        assert_eq!(named["volume"], "own");
    }
}
