//! `millrace controller`.

use std::sync::Arc;

use anyhow::Context;

use super::control::{self, Answer, Ask};
use super::{audit, monitor, until_told_to_stop};
use crate::auth::memory::wipe_what_is_freed;
use crate::backend::records::apart::Clerks;
use crate::cli;
use crate::config::stores::LiveStores;
use crate::csi::controller::Controller;
use crate::csi::identity::{Health, Identity};
use crate::csi::{self, Services};
use crate::observability::metrics::ProcessRecorder;

/// Serves until told to stop.
///
/// # Errors
/// Words that cannot be taken, a stores file that is wrong, a socket that cannot be had.
pub(super) async fn run(words: &cli::Controller, clerks: Clerks) -> anyhow::Result<()> {
    let cli::Plugin { endpoint, driver_name, stores, metrics_address, .. } = &words.plugin;
    let recorder = ProcessRecorder::install();
    wipe_what_is_freed();
    let stop = until_told_to_stop()?;
    let audit = audit("controller", &words.cluster_id, &words.plugin)?;
    let stores = LiveStores::load(stores)?;
    let health = Arc::new(Health::default());
    let identity = Identity::new(driver_name, Arc::clone(&health))?;
    let controller = Controller::new(stores.clone(), &words.cluster_id, driver_name, Some(clerks))?;
    let listener = csi::bind(endpoint).with_context(|| format!("cannot serve on {}", endpoint.display()))?;
    tracing::info!(
        driver = driver_name,
        version = env!("CARGO_PKG_VERSION"),
        cluster = words.cluster_id,
        stores = %stores.current().names(),
        socket = %endpoint.display(),
        "controller serves"
    );
    let _control = control::start(&endpoint.with_extension("control.sock"), |ask| {
        std::future::ready(match ask {
            Ask::LogLevel(filter) => control::log_by(&filter),
            Ask::Status => Answer::Done,
        })
    })?;
    tokio::spawn(stores.watch());
    tokio::spawn(controller.clone().tidy());
    tokio::spawn(csi::watchdog::watch(endpoint.clone(), Arc::clone(&health)));
    health.ready();
    let numbers = move || std::future::ready(monitor::of_plugin(&recorder));
    monitor::start(*metrics_address, Arc::clone(&health), numbers).await?;
    Ok(csi::serve(listener, Services::new(identity).with_controller(controller).with_audit(audit), stop).await?)
}
