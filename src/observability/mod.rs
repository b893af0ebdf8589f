//! What an operator sees of a process: its log on standard error, its audit trail, its metrics and how it is.

pub mod audit;
mod line;
pub mod metrics;
pub mod pages;

use std::sync::OnceLock;

use tracing::Metadata;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{FilterFn, filter_fn};
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The volume that this process serves, if it serves one.
static VOLUME: OnceLock<String> = OnceLock::new();

/// Libraries that would log what nobody may see, and the most that is logged of each, whatever a filter asks for.
const CAPPED: [(&str, LevelFilter); 2] = [
    // At debug the tokens and the encryption keys of blocks.
    ("hdfs_native", LevelFilter::INFO),
    // At trace whole requests, with what files hold.
    ("aws_smithy_runtime", LevelFilter::DEBUG),
];

/// How to log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Levels by module, as [`EnvFilter`] reads them: `info`, or `warn,millrace::csi=debug`. Audit lines are written at
    /// every level, unless the filter names their target.
    pub filter: String,
    /// One JSON object a line rather than text.
    pub json: bool,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter cannot be read.
    #[error(
        "log filter {filter:?}: {source}; write a level (error, warn, info, debug, trace), or several as module=level"
    )]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Something logs already.
    #[error("the process has a log already")]
    Installed,
}

/// Writes the process's log to standard error from now on: one line an event, whatever the event holds.
///
/// # Errors
/// A filter that cannot be read; a second call.
pub fn install(log: &Log) -> Result<(), Error> {
    let filter = parsed(&log.filter)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        // It would tell of a standard error that is gone (a worker outlives its node plugin) on standard error, and
        // panic.
        .log_internal_errors(false);
    let (installed, put): (_, Put) = match log.json {
        true => {
            let builder =
                builder.fmt_fields(JsonFields::new()).event_format(line::json(&VOLUME)).with_filter_reloading();
            let handle = builder.reload_handle();
            (builder.finish().with(cap()).try_init(), Box::new(move |filter| handle.reload(filter).is_ok()))
        }
        false => {
            let builder = builder.event_format(line::text(&VOLUME)).with_filter_reloading();
            let handle = builder.reload_handle();
            (builder.finish().with(cap()).try_init(), Box::new(move |filter| handle.reload(filter).is_ok()))
        }
    };
    installed.map_err(|_| Error::Installed)?;
    let _ = PUT.set(put);
    Ok(())
}

/// Puts another filter in force. False where there is no log.
type Put = Box<dyn Fn(EnvFilter) -> bool + Send + Sync>;

static PUT: OnceLock<Put> = OnceLock::new();

/// Logs by another filter from now on.
///
/// # Errors
/// A filter that cannot be read: the one before stays.
pub fn refilter(filter: &str) -> Result<(), Error> {
    let understood = parsed(filter)?;
    // Only a process that logs nothing has no log.
    let _ = PUT.get().is_some_and(|put| put(understood));
    Ok(())
}

/// Lies over every filter.
fn cap() -> FilterFn {
    filter_fn(|event: &Metadata<'_>| {
        let is_of = |library: &str| event.target().split("::").next() == Some(library);
        CAPPED.iter().all(|(library, most)| !is_of(library) || event.level() <= most)
    })
}

fn parsed(filter: &str) -> Result<EnvFilter, Error> {
    let parsed = EnvFilter::builder().parse(with_audit(filter));
    parsed.map_err(|source| Error::Filter { filter: filter.to_owned(), source })
}

/// The filter, with a word for the audit lines where it has none.
fn with_audit(filter: &str) -> String {
    let named = |word: &str| word.trim().split('=').next() == Some(audit::TARGET);
    match filter.split(',').any(named) {
        true => filter.to_owned(),
        false => format!("{filter},{}=info", audit::TARGET),
    }
}

/// Says in every line from now on which volume this process serves. The first call counts.
pub fn name_volume(volume: &str) {
    let _ = VOLUME.set(volume.to_owned());
}

#[cfg(test)]
mod tests {
    use tracing::{Level, enabled};

    use super::*;

    #[test]
    fn audit_lines_are_written_unless_the_filter_names_them() {
        for (filter, expected) in [
            ("info", "info,audit=info"),
            ("off", "off,audit=info"),
            ("warn,audit=off", "warn,audit=off"),
            ("warn, audit", "warn, audit"),
            ("warn,x::audit=off", "warn,x::audit=off,audit=info"),
        ] {
            assert_eq!(with_audit(filter), expected);
            assert!(EnvFilter::builder().parse(with_audit(filter)).is_ok(), "{filter}");
        }
    }

    #[test]
    fn no_filter_has_a_library_log_what_nobody_may_see() {
        for filter in [
            "trace",
            "off,hdfs_native=trace,aws_smithy_runtime=trace,hdfs_natively=trace",
            "hdfs_native::hdfs::block_reader=debug,aws_smithy_runtime::client=trace,trace",
        ] {
            let subscriber = tracing_subscriber::fmt().with_env_filter(parsed(filter).unwrap()).finish();
            tracing::subscriber::with_default(subscriber.with(cap()), || {
                assert!(!enabled!(target: "hdfs_native", Level::DEBUG), "{filter}");
                assert!(!enabled!(target: "hdfs_native::hdfs::block_reader", Level::DEBUG), "{filter}");
                assert!(enabled!(target: "hdfs_native::hdfs::block_reader", Level::INFO), "{filter}");
                assert!(!enabled!(target: "aws_smithy_runtime::client", Level::TRACE), "{filter}");
                assert!(enabled!(target: "aws_smithy_runtime::client", Level::DEBUG), "{filter}");
                assert!(enabled!(target: "hdfs_natively", Level::TRACE), "{filter}");
            });
        }
    }
}
