//! What a worker does by itself while it serves: it looks at the volume's own file, and counts the volume's files.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::served::Served;

/// Between two looks at the volume's own file.
const LOOK: Duration = Duration::from_secs(30);
/// Between two counts.
const COUNT: Duration = Duration::from_secs(3600);
/// Before a count that failed is begun anew the first time; twice as long each time after that, up to [`COUNT`].
const RETRY: Duration = Duration::from_secs(300);
/// How long the node plugin may take to say what other mounts know.
const GREETING: Duration = Duration::from_secs(3);

/// Looks at the volume's own file for as long as it is polled.
pub(super) async fn look(served: Arc<Served>) {
    loop {
        tokio::time::sleep(LOOK).await;
        if let Err(refusal) = served.reload().await {
            tracing::warn!(?refusal, "the volume's own file cannot be read: what it said before stays in force");
        }
    }
}

/// Counts the volume's files, while it has a limit, for as long as it is polled. Where another mount of this node has
/// counted, or is about to, that counts for this one too.
pub(super) async fn count(served: Arc<Served>) {
    let mut limited = served.limited.subscribe();
    let (mut retry, mut greeting) = (RETRY, GREETING);
    // The sender lives as long as what is served.
    while limited.wait_for(|limited| *limited).await.is_ok() {
        let mut others = served.others.subscribe();
        let _ = timeout(greeting, others.wait_for(|others| others.heard)).await;
        greeting = Duration::ZERO;
        // Where no node plugin runs, nobody says when it is done.
        let _ = timeout(COUNT, others.wait_for(|others| !others.counting)).await;
        if let Some(fresh) = served.vfs.usage().counted.and_then(|age| COUNT.checked_sub(age)) {
            // Not all at the same moment, when it is old.
            tokio::time::sleep(fresh + COUNT.mul_f64(rand::random_range(0.001..0.05))).await;
            continue;
        }
        let counted = served.vfs.count().await;
        served.state().health.count = counted.as_ref().err().map(ToString::to_string);
        match counted {
            Ok(()) => retry = RETRY,
            Err(error) => {
                tracing::warn!(%error, "the volume's files cannot be counted: an earlier count stands");
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(COUNT);
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Mutex;

    use tokio::sync::{Notify, mpsc, watch};

    use super::super::kept::Kept;
    use super::super::right::Right;
    use super::super::served::State;
    use super::super::served::tests::spec;
    use super::super::sharing::Others;
    use super::*;
    use crate::auth::{Credential, Current};
    use crate::backend::faulty::{Fault, Faulty};
    use crate::backend::memory::Memory;
    use crate::backend::{Backend, ErrorKind, Op, Path, Swappable};
    use crate::budget::Budget;
    use crate::config::{VolumeOptions, VolumeSpec};
    use crate::mount::Health;
    use crate::observability::metrics::ProcessRecorder;
    use crate::prefetch::{self, ReadAhead};
    use crate::tunable::Span;
    use crate::vfs::{self, Vfs};

    pub(in super::super) fn served(store: &Faulty) -> Arc<Served> {
        let spec = VolumeSpec { options: VolumeOptions::default(), ..spec() };
        let swappable = Swappable::new(Arc::new(store.clone()));
        let (budget, seen): (_, Arc<dyn Backend>) = (Budget::new(32 << 20), Arc::new(swappable.clone()));
        let read_ahead = ReadAhead::new(seen.clone(), budget.clone(), prefetch::Config::for_budget(32 << 20));
        let ttl = Span::new(spec.options.ttl);
        let config = vfs::Config { ttl: ttl.clone(), ..vfs::Config::default() };
        let vfs = Arc::new(Vfs::new(seen, read_ahead.clone(), budget.clone(), config));
        let state = State { known: None, options: spec.options.clone(), health: Health::default() };
        Arc::new(Served {
            recorder: ProcessRecorder::default(),
            credential: Mutex::new(Current::new(Credential::Anonymous)),
            backend: swappable,
            own: None,
            read_ahead,
            budget,
            dialer: Arc::default(),
            timeout: Span::new(spec.options.timeout),
            ttl,
            vfs,
            words: mpsc::unbounded_channel().0,
            limited: watch::Sender::new(false),
            others: watch::Sender::new(Others::default()),
            state: Mutex::new(state),
            looking: tokio::sync::Mutex::default(),
            right: tokio::sync::Mutex::new(Right::proven(Arc::new(store.clone()))),
            renewed: Notify::new(),
            kept: Arc::new(Kept::new(None, mpsc::unbounded_channel().0)),
            uncached: None,
            spec,
        })
    }

    fn say(memory: &Memory, more: &str) {
        let text = format!(r#"{{"format":1,"generation":"abcdefghij"{more}}}"#);
        memory.put(&Path::parse(".millrace/volume.json").unwrap(), text);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_the_volumes_own_file_is_in_force_within_a_minute() {
        let memory = Memory::new();
        let store = Faulty::new(Arc::new(memory.clone()));
        let served = served(&store);
        tokio::spawn(look(served.clone()));
        say(&memory, r#","parameters":{"ttl":"9s"}"#);
        tokio::time::sleep(Duration::from_secs(59)).await;
        assert_eq!(served.ttl.get(), Duration::from_secs(9));
        store.every(Op::Fetch, 1, Fault::Fail(ErrorKind::Unauthenticated));
        say(&memory, "");
        tokio::time::sleep(Duration::from_secs(59)).await;
        let health = served.usage(None).health;
        assert!(health.credential.is_some() && health.volume_file.is_none(), "{health:?}");
        assert_eq!(served.ttl.get(), Duration::from_secs(9));
        store.heal();
        tokio::time::sleep(Duration::from_secs(59)).await;
        assert_eq!((served.ttl.get(), served.usage(None).health), (Duration::from_secs(1), Health::default()));
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_volume_with_a_limit_is_counted_at_once_and_then_hourly() {
        let memory = Memory::new();
        memory.put(&Path::parse("d/f").unwrap(), vec![0; 1000]);
        let store = Faulty::new(Arc::new(memory.clone()));
        let served = served(&store);
        tokio::spawn(count(served.clone()));
        say(&memory, "");
        served.reload().await.unwrap();
        tokio::time::sleep(Duration::from_secs(10_000)).await;
        assert_eq!(store.calls(Op::List), 0);
        store.nth(Op::List, 1, Fault::Fail(ErrorKind::Denied));
        say(&memory, r#","limit":5000"#);
        served.reload().await.unwrap();
        tokio::time::sleep(GREETING + Duration::from_secs(1)).await;
        let usage = served.usage(None);
        assert!(usage.health.count.is_some() && usage.counted_s.is_none(), "{usage:?}");
        tokio::time::sleep(RETRY).await;
        let usage = served.usage(None);
        assert_eq!((usage.used_bytes, usage.limit, usage.health.count), (1000, Some(5000), None));
        let asked = store.calls(Op::List);
        tokio::time::sleep(COUNT - Duration::from_secs(60)).await;
        assert_eq!(store.calls(Op::List), asked);
        tokio::time::sleep(Duration::from_secs(60) + COUNT / 20).await;
        assert!(store.calls(Op::List) > asked);
    }
}
