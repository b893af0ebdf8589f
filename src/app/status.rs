//! `millrace status` and `millrace log-level`: what a person asks of a plugin that runs.

use std::io::Write;
use std::time::Duration;

use anyhow::bail;

use super::columns::columns;
use super::control::{Answer, Ask, ask};
use crate::cli::{LogLevel, Status};
use crate::mount::Shown;

/// Between two looks of `--watch`.
const PAUSE: Duration = Duration::from_secs(2);

/// Prints the mounts of the node plugin.
///
/// # Errors
/// No node plugin that answers.
pub(super) async fn run(words: &Status) -> anyhow::Result<()> {
    loop {
        let Answer::Status(mounts) = ask(&words.socket, &Ask::Status).await? else {
            bail!("the plugin at {} serves no mounts: it is the controller", words.socket.display())
        };
        let text = if words.json { serde_json::to_string(&mounts)? + "\n" } else { table(&mounts) };
        let mut out = std::io::stdout().lock();
        if words.watch && !words.json {
            // Clears the screen.
            write!(out, "\x1b[H\x1b[2J")?;
        }
        out.write_all(text.as_bytes())?;
        out.flush()?;
        drop(out);
        if !words.watch {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Has a plugin, and its workers, log by another filter.
///
/// # Errors
/// No plugin that answers, or a filter that it cannot read.
pub(super) async fn log_level(words: &LogLevel) -> anyhow::Result<()> {
    ask(&words.socket, &Ask::LogLevel(words.filter.clone())).await.map(drop)
}

const COLUMNS: [&str; 10] =
    ["NAMESPACE", "POD", "VOLUME", "STORE", "IDENTITY", "WORKER", "MEMORY", "READ/WRITE", "ERRORS", "AGE"];

fn table(mounts: &[Shown]) -> String {
    let known = |word: &str| if word.is_empty() { "-".to_owned() } else { word.to_owned() };
    let row = |one: &Shown| {
        let volume = match one.consumer.persistent_volume.as_str() {
            "" => &one.volume_id,
            name => name,
        };
        [
            known(&one.consumer.namespace),
            known(&one.consumer.pod),
            volume.escape_default().to_string(),
            known(&one.store),
            known(&one.identity),
            one.worker.map_or_else(|| "gone".to_owned(), |pid| pid.to_string()),
            size(one.memory),
            format!("{}/s {}/s", size(one.read_per_second), size(one.written_per_second)),
            one.errors.to_string(),
            age(one.age),
        ]
    };
    let rows: Vec<_> = std::iter::once(COLUMNS.map(str::to_owned)).chain(mounts.iter().map(row)).collect();
    columns(&rows)
}

fn size(bytes: u64) -> String {
    let units = ["", "Ki", "Mi", "Gi", "Ti"];
    let power = (0..units.len() - 1).find(|power| bytes >> (10 * power) < 10_240).unwrap_or(units.len() - 1);
    format!("{}{}", bytes >> (10 * power), units[power])
}

fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::Consumer;

    #[test]
    fn mounts_stand_in_columns() {
        let consumer = Consumer {
            namespace: "team-a".into(),
            pod: "train-0".into(),
            pod_uid: "u".into(),
            persistent_volume: "pvc-1".into(),
        };
        let serving = Shown {
            consumer,
            volume_id: "lake/a@b".into(),
            store: "lake".into(),
            identity: "0123456789abcdef".into(),
            worker: Some(4711),
            memory: 70 << 20,
            read_per_second: 123 << 20,
            written_per_second: 0,
            errors: 3,
            age: 4000,
        };
        let gone =
            Shown { consumer: Consumer::default(), volume_id: "a\u{1b}b".into(), worker: None, ..serving.clone() };
        let text = table(&[serving, gone]);
        let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[0], COLUMNS);
        assert_eq!(
            words[1],
            ["team-a", "train-0", "pvc-1", "lake", "0123456789abcdef", "4711", "70Mi", "123Mi/s", "0/s", "3", "66m"]
        );
        assert_eq!((words[2][0], words[2][2], words[2][5]), ("-", "a\\u{1b}b", "gone"));
        assert_eq!([0, 10_239, 10_240, u64::MAX].map(size), ["0", "10239", "10Ki", "16777215Ti"]);
    }
}
