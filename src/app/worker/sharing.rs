//! What the workers of one volume on a node tell each other of its use, by way of the node plugin.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::served::Served;
use crate::mount::handover::FromWorker;
use crate::mount::line::{Caller, Line};
use crate::mount::tally::{self, Tally};
use crate::vfs::{Amount, Change, News};

/// Between two words to the node plugin: what others write within it may pass the limit.
const PAUSE: Duration = Duration::from_millis(50);

/// What is known of the volume's other mounts.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Others {
    /// The node plugin has said what there is to say.
    pub(super) heard: bool,
    /// One of them is counting the volume.
    pub(super) counting: bool,
}

/// This worker's words about its use.
#[derive(Debug)]
pub(super) struct Telling {
    served: Arc<Served>,
    bell: Arc<Notify>,
    /// Who has been told, and when.
    told: Option<(Caller, Instant)>,
}

impl Telling {
    pub(super) fn new(served: &Arc<Served>) -> Telling {
        Telling { bell: served.vfs.bell(), served: served.clone(), told: None }
    }

    /// Waits until there is something to tell the node plugin at the other end of `line`. For ever, where there is none.
    /// May be cancelled and called again.
    pub(super) async fn called(&self, line: Option<Caller>) {
        let Some(caller) = line else { return std::future::pending().await };
        // The sender lives as long as what is served.
        let _ = self.served.limited.subscribe().wait_for(|limited| *limited).await;
        if let Some((told, at)) = self.told
            && told == caller
        {
            tokio::time::sleep_until(at + PAUSE).await;
            self.bell.notified().await;
        }
    }

    /// What is to be told `caller` now.
    pub(super) fn word(&mut self, caller: Caller) -> FromWorker {
        let first = self.told.is_none_or(|(told, _)| told != caller);
        self.told = Some((caller, Instant::now()));
        FromWorker::Tally(tally(self.served.vfs.news(first)))
    }

    /// Tells what was done last, where anybody has been told of this worker.
    pub(super) async fn finish(&mut self, line: &mut Line) {
        if self.told.is_some_and(|(told, _)| Some(told) == line.connected()) {
            line.send(&FromWorker::Tally(tally(self.served.vfs.news(false)))).await;
        }
    }
}

impl Served {
    /// Takes note of what the node plugin says of the other mounts.
    pub(super) fn hear(&self, told: Tally) {
        let counted = told.counted_ms.and_then(|age| Instant::now().checked_sub(Duration::from_millis(age)));
        let change = |change: tally::Change| Change {
            dir: change.dir,
            by: Amount { bytes: change.by.bytes, inodes: change.by.inodes },
        };
        let changes = told.changes.into_iter().map(change).collect();
        self.vfs.hear(News { base: None, changes, unpublished: told.unpublished, counted, counting: told.counting });
        // Last: whoever waits for it looks at what was heard.
        self.others.send_replace(Others { heard: true, counting: told.counting });
    }
}

fn tally(news: News) -> Tally {
    let amount = |amount: Amount| tally::Amount { bytes: amount.bytes, inodes: amount.inodes };
    let age = |counted: Instant| u64::try_from(counted.elapsed().as_millis()).unwrap_or(u64::MAX);
    Tally {
        base: news.base.map(amount),
        changes: news.changes.into_iter().map(|Change { dir, by }| tally::Change { dir, by: amount(by) }).collect(),
        unpublished: news.unpublished,
        counted_ms: news.counted.map(age),
        counting: news.counting,
    }
}
