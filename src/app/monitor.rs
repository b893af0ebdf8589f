//! What a plugin shows of itself: its numbers, and on a node those of every volume.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use tokio::sync::Mutex;
use tokio::time::{Duration, Instant};

use crate::config::stores::LiveStores;
use crate::csi::identity::Health;
use crate::mount::Workers;
use crate::observability::metrics::exposition::{Group, Labels, text};
use crate::observability::metrics::{
    MOUNTS, Numbers, ProcessRecorder, STORE_CROSSED_BYTES, STORE_FETCHED_BYTES, STORE_SENT_BYTES,
};
use crate::observability::pages::{Pages, listen, show};
use crate::topology::{Domain, Located, UNKNOWN};

/// For so long whoever scrapes gets what the one before got: each scrape asks every worker.
const FRESH: Duration = Duration::from_secs(1);

/// Shows `health` and what `metrics` makes at `address`, if there is one.
///
/// # Errors
/// An address that cannot be had.
pub(super) async fn start<F>(
    address: Option<SocketAddr>,
    health: Arc<Health>,
    metrics: impl Fn() -> F + Send + Sync + 'static,
) -> anyhow::Result<()>
where
    F: Future<Output = String> + Send + 'static,
{
    let Some(address) = address else { return Ok(()) };
    let listener = listen(address).await.with_context(|| format!("--metrics-address {address}"))?;
    let metrics = Arc::new(metrics);
    let last: Arc<Mutex<Option<(Instant, String)>>> = Arc::default();
    let fresh = move || {
        let (metrics, last) = (metrics.clone(), last.clone());
        async move {
            let mut last = last.lock().await;
            match &*last {
                Some((at, text)) if at.elapsed() < FRESH => text.clone(),
                _ => {
                    let text = metrics().await;
                    *last = Some((Instant::now(), text.clone()));
                    text
                }
            }
        }
    };
    tracing::info!(address = %listener.local_addr()?, "shows /metrics, /healthz and /readyz");
    tokio::spawn(show(listener, Pages::new(move || health.standing(), fresh)));
    Ok(())
}

/// The numbers of a plugin that serves no volume.
pub(super) fn of_plugin(recorder: &ProcessRecorder) -> String {
    text(&[Group::plugin(recorder.numbers())])
}

/// The numbers of the node plugin and of each volume on this node.
pub(super) async fn of_node(
    recorder: &ProcessRecorder,
    workers: &Workers,
    stores: &LiveStores,
    place: &Located,
) -> String {
    let (mounts, volumes) = workers.numbers().await;
    metrics::gauge!(MOUNTS).set(mounts as f64);
    let zone = place.get().map(|place| place.of(Domain::Zone).to_owned()).unwrap_or_else(|_| UNKNOWN.to_owned());
    let stores = stores.current();
    let volume = |(labels, mut numbers): (Labels, Numbers)| {
        let elsewhere = stores.get(&labels.store).and_then(|store| store.zone.as_ref()).filter(|at| **at != zone);
        if elsewhere.is_some() && zone != UNKNOWN {
            let bytes = |name| numbers.get(name, &[]).unwrap_or_default();
            let crossed = bytes(STORE_FETCHED_BYTES).saturating_add(bytes(STORE_SENT_BYTES));
            numbers.set(STORE_CROSSED_BYTES, crossed);
        }
        Group::volume(Labels { zone: zone.clone(), ..labels }, numbers)
    };
    let groups: Vec<_> =
        std::iter::once(Group::plugin(recorder.numbers())).chain(volumes.into_iter().map(volume)).collect();
    text(&groups)
}
