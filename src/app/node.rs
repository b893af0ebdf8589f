//! `millrace node`.

use std::fs::File;
use std::sync::Arc;

use anyhow::Context;

use super::control::{self, Answer, Ask};
use super::{audit, events, monitor, place, until_told_to_stop};
use crate::auth::memory::wipe_what_is_freed;
use crate::cli;
use crate::config::stores::LiveStores;
use crate::csi::identity::{Health, Identity};
use crate::csi::node::{Here, Node};
use crate::csi::{self, Services};
use crate::mount::{CacheDir, Config, Workers};
use crate::observability::Log;
use crate::observability::metrics::ProcessRecorder;

/// Serves until told to stop; the mounts are served on by their workers.
///
/// # Errors
/// Words that cannot be taken, a stores file that is wrong, no `/dev/fuse`, a state directory or socket that cannot be
/// had.
pub(super) async fn run(words: &cli::Node, log: Log) -> anyhow::Result<()> {
    let cli::Plugin { endpoint, driver_name, stores, metrics_address, .. } = &words.plugin;
    let recorder = ProcessRecorder::install();
    wipe_what_is_freed();
    let stop = until_told_to_stop()?;
    let audit = audit("node", &words.node_id, &words.plugin)?;
    let stores = LiveStores::load(stores)?;
    let health = Arc::new(Health::default());
    let identity = Identity::new(driver_name, Arc::clone(&health))?;
    File::options().read(true).write(true).open("/dev/fuse").context(
        "cannot open /dev/fuse; load the fuse module on this machine (modprobe fuse), and where this is a container, \
         make it privileged or give it the device",
    )?;
    let workers = Workers::start(Config {
        state_dir: words.state_dir.clone(),
        program: std::env::current_exe().context("cannot tell where this program is")?,
        worker_uid_base: words.worker_uid_base,
        worker_uid_count: words.worker_uid_count,
        ping_deadline: words.ping_deadline,
        isolate: !words.single_uid,
        log_filter: log.filter,
        log_json: log.json,
        cache: words.cache_dir.clone().map(|path| CacheDir { path, free_percent: words.cache_free }),
    });
    let place = place::of(words)?;
    let workers = workers.await?;
    let here = Here { driver: driver_name.clone(), place: place.clone() };
    let node =
        Node::new(&words.node_id, here, stores.clone(), workers.clone())?.with_most_volumes(words.max_volumes_per_node);
    if words.pod_events {
        let api = place::api(words).context("--pod-events")?;
        let (workers, driver, node) = (workers.clone(), driver_name.clone(), words.node_id.clone());
        tokio::spawn(async move { events::pass_on(&workers, api, &driver, &node).await });
    }
    let asked = workers.clone();
    let _control = control::start(&words.state_dir.join("control.sock"), move |ask| answer(asked.clone(), ask))?;
    let shown = (recorder, workers, stores.clone(), place);
    let numbers = move || {
        let (recorder, workers, stores, place) = shown.clone();
        async move { monitor::of_node(&recorder, &workers, &stores, &place).await }
    };
    monitor::start(*metrics_address, Arc::clone(&health), numbers).await?;
    let listener = csi::bind(endpoint).with_context(|| format!("cannot serve on {}", endpoint.display()))?;
    tracing::info!(
        driver = driver_name,
        version = env!("CARGO_PKG_VERSION"),
        node = words.node_id,
        stores = %stores.current().names(),
        socket = %endpoint.display(),
        "node plugin serves"
    );
    tokio::spawn(stores.watch());
    tokio::spawn(node.tidy_caches());
    tokio::spawn(csi::watchdog::watch(endpoint.clone(), Arc::clone(&health)));
    health.ready();
    Ok(csi::serve(listener, Services::new(identity).with_node(node).with_audit(audit), stop).await?)
}

async fn answer(workers: Arc<Workers>, ask: Ask) -> Answer {
    match ask {
        Ask::Status => Answer::Status(workers.overview().await),
        Ask::LogLevel(filter) => {
            let answer = control::log_by(&filter);
            if matches!(answer, Answer::Done) {
                workers.log_by(&filter).await;
            }
            answer
        }
    }
}
