//! Rows of figures: one line of JSON each, and the table that is made from them.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::origin::Counts;
use super::process::Used;
use super::reader::Outcome;
use super::workload::{Unit, Workload};

/// One run of one subject.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) workload: &'static str,
    pub(crate) variant: String,
    /// `millrace`, `raw`, `on-demand`, `own` (the driver's client without a mount), `disk`, `bare` or a peer's program.
    pub(crate) subject: String,
    /// What the limit of this pair reached.
    pub(crate) raw_value: f64,
    pub(crate) connections: u32,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// `value / raw_value`; of times the inverse, so that more is better.
    pub(crate) ratio_to_limit: f64,
    pub(crate) requests: u64,
    /// HEAD and LIST requests among them.
    pub(crate) metadata_requests: u64,
    /// Bytes that left the store, over bytes read; `None` where nobody counted.
    pub(crate) fetched_per_read: Option<f64>,
    /// Of the serving process.
    pub(crate) cpu_s_per_gib: f64,
    /// Of what stands for the wire, where that is a process of its own.
    pub(crate) relay_cpu_s_per_gib: f64,
    pub(crate) peak_rss_mib: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) pair: usize,
    /// Whether the raw client of this pair was near what the wire gives; other runs do not count.
    pub(crate) counts: bool,
}

/// What a run gave, in the workload's unit.
pub(crate) fn value(unit: Unit, outcome: &Outcome) -> f64 {
    match unit {
        Unit::MegabytesPerSecond => outcome.bytes as f64 / 1e6 / outcome.seconds,
        Unit::FilesPerSecond => outcome.steps as f64 / outcome.seconds,
        Unit::Milliseconds => quantile(&outcome.times, 50),
    }
}

fn quantile(times: &[f64], percent: usize) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// What others reach at the most with a workload, and whether the raw client was near what the wire gives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) value: f64,
    pub(crate) valid: bool,
}

/// Everything about one run, before it is a row.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    pub(crate) workload: &'a Workload,
    pub(crate) subject: &'a str,
    pub(crate) outcome: &'a Outcome,
    pub(crate) counts: Counts,
    pub(crate) used: Used,
    pub(crate) limit: f64,
    pub(crate) pair: usize,
    pub(crate) valid: bool,
}

impl Run<'_> {
    pub(crate) fn row(&self) -> Row {
        let Run { workload, outcome, counts, .. } = self;
        let value = value(workload.unit, outcome);
        let ratio = if workload.unit == Unit::Milliseconds { self.limit / value } else { value / self.limit };
        let round = |number: f64| (number * 1000.0).round() / 1000.0;
        let bytes = outcome.bytes.max(1) as f64;
        Row {
            workload: workload.name,
            variant: workload.variant.clone(),
            subject: self.subject.to_owned(),
            raw_value: round(self.limit),
            connections: workload.connections,
            value: round(value),
            unit: match workload.unit {
                Unit::MegabytesPerSecond => "MB/s",
                Unit::FilesPerSecond => "files/s",
                Unit::Milliseconds => "ms",
            },
            ratio_to_limit: round(ratio),
            requests: counts.gets + counts.heads + counts.lists,
            metadata_requests: counts.heads + counts.lists,
            fetched_per_read: (!workload.direct).then(|| round(counts.bytes as f64 / bytes)),
            cpu_s_per_gib: round(self.used.cpu / (bytes / f64::from(1 << 30))),
            relay_cpu_s_per_gib: round(counts.relay_cpu / (bytes / f64::from(1 << 30))),
            peak_rss_mib: round(self.used.peak as f64 / f64::from(1 << 20)),
            p50_ms: round(quantile(&outcome.times, 50)),
            p99_ms: round(quantile(&outcome.times, 99)),
            pair: self.pair,
            counts: self.valid,
        }
    }
}

fn fetched(per_read: Option<f64>) -> String {
    per_read.map_or_else(|| "-".to_owned(), |number| format!("{number:.3}"))
}

/// The file of rows.
#[derive(Debug)]
pub(crate) struct Results {
    file: File,
    rows: Vec<Row>,
}

impl Results {
    pub(crate) fn create(path: &Path) -> Result<Results> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let file = OpenOptions::new().create(true).truncate(true).write(true).open(path)?;
        Ok(Results { file, rows: Vec::new() })
    }

    pub(crate) fn add(&mut self, row: Row) -> Result<()> {
        writeln!(self.file, "{}", serde_json::to_string(&row)?)?;
        println!(
            "{:<3} {:<28} {:<10} {:>9.1} {:<7} ratio {:>5.2}  fetched {:>6}  requests {:>6}  {:>6.2} CPU-s/GiB  {:>5.0} MiB{}",
            row.workload,
            row.variant,
            row.subject,
            row.value,
            row.unit,
            row.ratio_to_limit,
            fetched(row.fetched_per_read),
            row.requests,
            row.cpu_s_per_gib,
            row.peak_rss_mib,
            if row.counts { "" } else { "  (does not count: the raw client was slowed)" },
        );
        self.rows.push(row);
        Ok(())
    }

    /// The median of a subject's runs of a workload that count, or of all where none does; `None` without a run.
    pub(crate) fn median(&self, workload: &Workload, subject: &str, of: impl Fn(&Row) -> f64) -> Option<f64> {
        let all = self.rows.iter().filter(|row| {
            (row.workload, row.variant.as_str(), row.subject.as_str()) == (workload.name, &*workload.variant, subject)
        });
        let all: Vec<_> = all.collect();
        let counting = all.iter().any(|row| row.counts);
        let mut numbers: Vec<_> = all.iter().filter(|row| row.counts || !counting).map(|row| of(row)).collect();
        numbers.sort_by(f64::total_cmp);
        numbers.get(numbers.len() / 2).copied()
    }

    /// The table of medians, as Markdown. A median of runs that count; where none does, of all, and marked so.
    pub(crate) fn table(&self) -> String {
        let mut groups: BTreeMap<(&str, &str, &str), Vec<&Row>> = BTreeMap::new();
        let mut order = Vec::new();
        for row in self.rows.iter().filter(|row| row.subject != "raw" && row.subject != "disk") {
            let key = (row.workload, row.variant.as_str(), row.subject.as_str());
            if !groups.contains_key(&key) {
                order.push(key);
            }
            groups.entry(key).or_default().push(row);
        }
        let mut table = String::from(
            "| | | | value | limit | ratio (least to most) | fetched / read | requests | CPU-s/GiB | peak MiB | p50 and p99, ms |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        );
        for key in order {
            let all = &groups[&key];
            let good: Vec<_> = all.iter().copied().filter(|row| row.counts).collect();
            let (rows, mark) = if good.is_empty() { (all.clone(), " (*)") } else { (good, "") };
            let mid = |of: fn(&Row) -> f64| {
                let mut numbers: Vec<_> = rows.iter().map(|row| of(row)).collect();
                numbers.sort_by(f64::total_cmp);
                (numbers[0], numbers[numbers.len() / 2], numbers[numbers.len() - 1])
            };
            let (least, ratio, most) = mid(|row| row.ratio_to_limit);
            table += &format!(
                "| {} | {} | {}{mark} | {:.1} {} | {:.1} | {ratio:.2} ({least:.2} to {most:.2}) | {} | {:.0} | {:.2} | {:.0} | {:.2}, {:.1} |\n",
                key.0,
                key.1,
                key.2,
                mid(|row| row.value).1,
                rows[0].unit,
                mid(|row| row.raw_value).1,
                fetched(rows[0].fetched_per_read.map(|_| mid(|row| row.fetched_per_read.unwrap_or_default()).1)),
                mid(|row| row.requests as f64).1,
                mid(|row| row.cpu_s_per_gib).1,
                mid(|row| row.peak_rss_mib).2,
                mid(|row| row.p50_ms).1,
                mid(|row| row.p99_ms).1,
            );
        }
        table
    }
}
