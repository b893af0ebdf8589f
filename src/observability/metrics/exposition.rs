//! What a scrape gets: the table's numbers as text (OpenMetrics 1.0, which Prometheus reads).

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text as openmetrics};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::{BUCKETS, Kind, Metric, Numbers, Scope, layout};

/// The content type of [`text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whose a volume's numbers are. Each is a name that an administrator or Kubernetes gave, and empty where it is not
/// known.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels {
    /// The pods' namespace.
    pub namespace: String,
    /// The PersistentVolume's name; `inline` for all inline volumes of a namespace.
    pub persistent_volume: String,
    /// The store's name.
    pub store: String,
    /// The node's zone.
    pub zone: String,
}

/// Numbers, and whose they are.
#[derive(Debug, Clone)]
pub struct Group {
    labels: Option<Labels>,
    numbers: Numbers,
}

impl Group {
    /// The plugin's own.
    pub fn plugin(numbers: Numbers) -> Group {
        Group { labels: None, numbers }
    }

    /// A volume's.
    pub fn volume(labels: Labels, numbers: Numbers) -> Group {
        Group { labels: Some(labels), numbers }
    }

    /// The labels that `metric` has here; `None` where it is another scope's.
    fn labels(&self, metric: &Metric) -> Option<Vec<(&'static str, &str)>> {
        match (&self.labels, metric.scope) {
            (None, Scope::Plugin) => Some(Vec::new()),
            (Some(of), Scope::Volume | Scope::Traffic) => {
                let mut labels = vec![
                    ("namespace", of.namespace.as_str()),
                    ("persistentvolume", &of.persistent_volume),
                    ("store", &of.store),
                ];
                if metric.scope == Scope::Traffic {
                    labels.push(("zone", &of.zone));
                }
                Some(labels)
            }
            (None, _) | (Some(_), Scope::Plugin) => None,
        }
    }
}

/// The text of all groups.
pub fn text(groups: &[Group]) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Groups(groups.to_vec())));
    let mut text = String::new();
    // A String takes everything.
    let _ = openmetrics::encode(&mut text, &registry);
    text
}

#[derive(Debug)]
struct Groups(Vec<Group>);

impl Collector for Groups {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (first, metric) in layout() {
            let rows: Vec<_> = self.0.iter().flat_map(|group| rows(group, first, metric)).collect();
            if rows.is_empty() {
                continue;
            }
            let kind = match metric.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Histogram => MetricType::Histogram,
                Kind::Sum | Kind::Highest => MetricType::Gauge,
            };
            // The format gives a counter its ending.
            let name = metric.name.trim_end_matches("_total");
            let mut family = encoder.encode_descriptor(name, metric.help.trim(), None, kind)?;
            for (labels, numbers) in rows {
                row(family.encode_family(&labels)?, metric, &numbers)?;
            }
        }
        Ok(())
    }
}

type Row<'a> = (Vec<(&'static str, &'a str)>, Vec<u64>);

/// The series of `metric` that a group has. A counter without labels of its own is there from the beginning.
fn rows<'a>(group: &'a Group, first: usize, metric: &'a Metric) -> impl Iterator<Item = Row<'a>> {
    let labels = group.labels(metric);
    labels.into_iter().flat_map(move |labels| {
        (0..metric.series()).filter_map(move |series| {
            let at = first + series * metric.depth();
            let told: Vec<_> = (at..at + metric.depth()).map(|at| group.numbers.at(at)).collect();
            let is_there =
                told.iter().any(Option::is_some) || (metric.kind == Kind::Counter && metric.labels.is_empty());
            let numbers = told.into_iter().map(Option::unwrap_or_default).collect();
            is_there.then(|| ([labels.clone(), metric.values(series)].concat(), numbers))
        })
    })
}

fn row(mut encoder: MetricEncoder<'_>, metric: &Metric, numbers: &[u64]) -> fmt::Result {
    match metric.kind {
        Kind::Counter => encoder.encode_counter::<NoLabelSet, u64, u64>(&numbers[0], None),
        Kind::Sum | Kind::Highest => encoder.encode_gauge(&numbers[0]),
        Kind::Histogram => {
            let (counts, micros) = numbers.split_at(BUCKETS.len() + 1);
            let bounds = BUCKETS.iter().copied().chain([f64::INFINITY]);
            let buckets: Vec<_> = bounds.zip(counts.iter().copied()).collect();
            let count = counts.iter().fold(0, |sum: u64, count| sum.saturating_add(*count));
            encoder.encode_histogram::<NoLabelSet>(micros[0] as f64 / 1e6, count, &buckets, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;

    #[test]
    fn each_scope_has_its_labels_and_nothing_that_was_not_told() {
        let recorder = ProcessRecorder::default();
        metrics::with_local_recorder(&recorder, || {
            metrics::counter!(STORE_FETCHED_BYTES).increment(7);
            metrics::histogram!(STORE_REQUEST_SECONDS, "kind" => "read").record(0.02);
            metrics::histogram!(STORE_REQUEST_SECONDS, "kind" => "read").record(500.0);
            metrics::gauge!(VOLUME_USED_BYTES).set(3);
        });
        let labels = Labels {
            namespace: "team-a".into(),
            persistent_volume: "pv-1".into(),
            store: "lake".into(),
            zone: "a".into(),
        };
        let groups = [Group::plugin(Numbers::default()), Group::volume(labels, recorder.numbers())];
        let text = text(&groups);
        let of = r#"namespace="team-a",persistentvolume="pv-1",store="lake""#;
        for line in [
            "# TYPE millrace_store_fetched_bytes counter".to_owned(),
            "# HELP millrace_store_fetched_bytes Bytes of the store's answers".to_owned(),
            format!("millrace_store_fetched_bytes_total{{{of},zone=\"a\"}} 7"),
            format!("millrace_volume_used_bytes{{{of}}} 3"),
            format!("millrace_store_request_seconds_bucket{{le=\"0.01\",{of},kind=\"read\"}} 0"),
            format!("millrace_store_request_seconds_bucket{{le=\"0.025\",{of},kind=\"read\"}} 1"),
            format!("millrace_store_request_seconds_bucket{{le=\"+Inf\",{of},kind=\"read\"}} 2"),
            format!("millrace_store_request_seconds_count{{{of},kind=\"read\"}} 2"),
            "millrace_audit_write_failures_total 0".to_owned(),
        ] {
            assert!(text.lines().any(|have| have == line), "{line}\n{text}");
        }
        for absent in ["count_age", "csi_call", "worker_deaths", "store_requests"] {
            assert!(!text.contains(absent), "{absent}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
