//! Where a process counts: one cell a number of the table.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};

use super::numbers::Numbers;
use super::{BUCKETS, Kind, Metric, layout, width};

/// What the `metrics` facade counts into. Cloning shares it.
#[derive(Debug, Clone)]
pub struct ProcessRecorder {
    cells: Arc<[AtomicU64]>,
    by_name: Arc<HashMap<&'static str, (usize, &'static Metric)>>,
}

/// What a level is that nobody has told: no number.
const UNTOLD: u64 = f64::NAN.to_bits();

impl Default for ProcessRecorder {
    fn default() -> ProcessRecorder {
        let cells: Vec<_> = std::iter::repeat_with(AtomicU64::default).take(width()).collect();
        for (first, metric) in layout().filter(|(_, metric)| is_level(metric)) {
            cells[first..first + metric.width()].iter().for_each(|cell| cell.store(UNTOLD, Ordering::Relaxed));
        }
        let by_name = layout().map(|(first, metric)| (metric.name, (first, metric))).collect();
        ProcessRecorder { cells: cells.into(), by_name: Arc::new(by_name) }
    }
}

fn is_level(metric: &Metric) -> bool {
    matches!(metric.kind, Kind::Sum | Kind::Highest)
}

impl ProcessRecorder {
    /// Counts for the whole process from now on. The first call counts.
    pub fn install() -> ProcessRecorder {
        let recorder = ProcessRecorder::default();
        // In a test there may be one already.
        let _ = metrics::set_global_recorder(recorder.clone());
        recorder
    }

    /// What was counted so far.
    pub fn numbers(&self) -> Numbers {
        let mut numbers = Numbers::default();
        for (first, metric) in layout() {
            for at in first..first + metric.width() {
                let raw = self.cells[at].load(Ordering::Relaxed);
                match is_level(metric) {
                    true if raw == UNTOLD => {}
                    true => numbers.put(at, f64::from_bits(raw) as u64),
                    false if raw == 0 => {}
                    false => numbers.put(at, raw),
                }
            }
        }
        numbers
    }

    fn cell(&self, key: &Key) -> Option<Cell> {
        let (first, metric) = *self.by_name.get(key.name())?;
        let value = |name: &str| key.labels().find(|label| label.key() == name).map(metrics::Label::value);
        Some(Cell { cells: self.cells.clone(), at: first + metric.number(value) * metric.depth() })
    }
}

/// The first cell of a series.
struct Cell {
    cells: Arc<[AtomicU64]>,
    at: usize,
}

impl CounterFn for Cell {
    fn increment(&self, more: u64) {
        self.cells[self.at].fetch_add(more, Ordering::Relaxed);
    }

    fn absolute(&self, value: u64) {
        self.cells[self.at].fetch_max(value, Ordering::Relaxed);
    }
}

impl GaugeFn for Cell {
    fn increment(&self, more: f64) {
        GaugeFn::increment(&self.cells[self.at], more);
    }

    fn decrement(&self, less: f64) {
        GaugeFn::decrement(&self.cells[self.at], less);
    }

    fn set(&self, value: f64) {
        GaugeFn::set(&self.cells[self.at], value);
    }
}

impl HistogramFn for Cell {
    fn record(&self, seconds: f64) {
        let bucket = BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS.len());
        self.cells[self.at + bucket].fetch_add(1, Ordering::Relaxed);
        let sum = &self.cells[self.at + BUCKETS.len() + 1];
        sum.fetch_add((seconds * 1e6) as u64, Ordering::Relaxed);
    }
}

/// What the table does not know is counted nowhere.
impl Recorder for ProcessRecorder {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.cell(key).map_or_else(Counter::noop, |cell| Counter::from_arc(Arc::new(cell)))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.cell(key).map_or_else(Gauge::noop, |cell| Gauge::from_arc(Arc::new(cell)))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.cell(key).map_or_else(Histogram::noop, |cell| Histogram::from_arc(Arc::new(cell)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;

    #[test]
    fn what_is_counted_by_name_is_read_by_name() {
        let recorder = ProcessRecorder::default();
        metrics::with_local_recorder(&recorder, || {
            metrics::counter!(STORE_REQUESTS, "status" => "denied", "kind" => "read").increment(2);
            metrics::counter!(STORE_REQUESTS, "kind" => "read", "status" => "denied").increment(1);
            metrics::counter!(STORE_REQUESTS, "kind" => "/etc/passwd", "status" => "ok").increment(1);
            metrics::gauge!(VOLUME_LIMIT_BYTES).set(0);
            metrics::histogram!(STORE_REQUEST_SECONDS, "kind" => "list").record(0.2);
            metrics::counter!("millrace_nothing_total").increment(1);
        });
        let numbers = recorder.numbers();
        assert_eq!(numbers.get(STORE_REQUESTS, &[("kind", "read"), ("status", "denied")]), Some(3));
        assert_eq!(numbers.get(STORE_REQUESTS, &[("kind", "other"), ("status", "ok")]), Some(1));
        assert_eq!(numbers.get(VOLUME_LIMIT_BYTES, &[]), Some(0));
        // Never told, and so not 0.
        assert_eq!(numbers.get(VOLUME_USED_BYTES, &[]), None);
        let text = exposition::text(&[exposition::Group::plugin(numbers)]);
        assert!(!text.contains("passwd") && !text.contains("nothing"), "{text}");
    }
}
