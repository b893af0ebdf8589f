//! One mount at its private mount point, with the worker that serves it: shown at each target by a bind mount, and made
//! once however many ask for it at the same moment.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::Error;
use super::faults::Told;
use super::live::Live;
use super::pace::Pace;
use super::state::{MountId, MountRecord, State};
use crate::observability::metrics::Numbers;

/// A mount, from the moment its first target asks for it until it is taken down.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) id: MountId,
    record: Mutex<MountRecord>,
    /// Once it is made. Absent too where the worker ended while no node plugin ran.
    worker: OnceLock<Live>,
    /// Held by the one who makes it or takes it down. `None` until somebody has tried to make it.
    made: tokio::sync::Mutex<Option<Result<(), Error>>>,
    /// Held by the one who changes its credential.
    renewal: tokio::sync::Mutex<()>,
    /// What its worker last told of what it counted.
    numbers: Mutex<Numbers>,
    pace: Mutex<Pace>,
    told: Mutex<Told>,
}

impl Shared {
    /// One that nobody has begun to make.
    pub(super) fn new(id: MountId, record: MountRecord) -> Shared {
        Shared {
            id,
            record: Mutex::new(record),
            worker: OnceLock::new(),
            made: tokio::sync::Mutex::new(None),
            renewal: tokio::sync::Mutex::new(()),
            numbers: Mutex::default(),
            pace: Mutex::default(),
            told: Mutex::default(),
        }
    }

    /// One that an earlier node plugin made.
    pub(super) fn adopt(id: MountId, record: MountRecord, worker: Option<Live>) -> Shared {
        let shared = Shared { made: tokio::sync::Mutex::new(Some(Ok(()))), ..Shared::new(id, record) };
        if let Some(worker) = worker {
            shared.serve(worker);
        }
        shared
    }

    /// What is on disk of it, or soon is.
    pub(super) fn record(&self) -> MutexGuard<'_, MountRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is on disk of it.
    pub(super) fn note(&self, state: &State, change: impl FnOnce(&mut MountRecord)) -> Result<(), Error> {
        let record = {
            let mut record = self.record();
            change(&mut record);
            record.clone()
        };
        state.save_mount(&self.id, &record)
    }

    pub(super) fn volume_id(&self) -> String {
        self.record().volume_id.clone()
    }

    /// `major:minor` of the mount, once it is served.
    pub(super) fn device(&self) -> Option<String> {
        self.record().device.clone()
    }

    /// Its worker, as soon as it serves and also when it has ended.
    pub(super) fn worker(&self) -> Option<&Live> {
        self.worker.get()
    }

    /// Notes the worker that serves it from now on. There is one in its life.
    pub(super) fn serve(&self, worker: Live) {
        let _ = self.worker.set(worker);
    }

    /// Asks its worker what it has counted; where that does not answer, what it told before stays.
    pub(super) async fn read_numbers(&self) {
        if let Some(worker) = self.worker().filter(|worker| worker.ended().is_none())
            && let Some(told) = worker.numbers().await
        {
            let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
            pace.note(Instant::now(), &told);
            *self.counted() = told;
        }
    }

    /// Bytes a second that programs read and wrote lately.
    pub(super) fn throughput(&self) -> (u64, u64) {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner).rates()
    }

    /// What its worker last told of what it counted.
    pub(super) fn numbers(&self) -> Numbers {
        self.counted().clone()
    }

    /// What of its troubles was told.
    pub(super) fn troubles(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counted(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for whoever makes it or takes it down.
    pub(super) async fn made(&self) -> tokio::sync::MutexGuard<'_, Option<Result<(), Error>>> {
        self.made.lock().await
    }

    /// Waits for whoever changes its credential.
    pub(super) async fn renewal(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.renewal.lock().await
    }

    /// Whether its worker runs and answers within `deadline`.
    pub(super) async fn is_well(&self, deadline: Duration) -> bool {
        match self.worker() {
            Some(worker) => worker.ended().is_none() && worker.answers(deadline).await,
            None => false,
        }
    }
}
