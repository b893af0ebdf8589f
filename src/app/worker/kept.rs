//! What is kept on the node's disk, and lent to the kernel to read by itself.
//!
//! The node plugin has the kernel know a file, which a worker may not: each file is asked for over the worker's line,
//! and given back when nobody has it open any more.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use crate::backend::Version;
use crate::cache::{Cached, LocalFile};
use crate::mount::handover::FromWorker;
use crate::vfs::{Lender, Loan};

/// How long an open may wait for the node plugin.
const PATIENCE: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub(super) struct Kept {
    cached: Mutex<Option<Cached>>,
    /// Nothing is lent while the store does not let this identity read.
    lends: AtomicBool,
    words: mpsc::UnboundedSender<FromWorker>,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Option<u32>>>>,
    tickets: AtomicU64,
}

impl Kept {
    /// In `cached`, if anything is. What is asked of the node plugin goes to `words`.
    pub(super) fn new(cached: Option<Cached>, words: mpsc::UnboundedSender<FromWorker>) -> Kept {
        let (waiting, tickets) = (Mutex::default(), AtomicU64::new(0));
        Kept { cached: Mutex::new(cached), lends: AtomicBool::new(true), words, waiting, tickets }
    }

    /// Where it is kept.
    pub(super) fn cached(&self) -> Option<Cached> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It is another identity's from now on: nothing is kept, lent or read of it.
    pub(super) fn give_up(&self) {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Whether anything is lent from now on. What is lent stays so until it is closed.
    pub(super) fn lend_if(&self, may: bool) {
        self.lends.store(may, Ordering::Release);
    }

    /// The node plugin's answer; `None` for a refusal, and where there is no node plugin.
    pub(super) fn answer(&self, ticket: u64, id: Option<u32>) {
        let heard = self.waiting().remove(&ticket).is_some_and(|tell| tell.send(id).is_ok());
        if let Some(id) = id.filter(|_| !heard) {
            // Nobody waited for it any more.
            let _ = self.words.send(FromWorker::Return { id });
        }
    }

    async fn borrow(&self, name: &str) -> Option<u32> {
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = oneshot::channel();
        self.waiting().insert(ticket, tell);
        self.words.send(FromWorker::Borrow { ticket, name: name.to_owned() }).ok()?;
        let answer = tokio::time::timeout(PATIENCE, told).await;
        self.waiting().remove(&ticket);
        answer.ok()?.ok()?
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Option<u32>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Lender for Kept {
    async fn lend(&self, version: &Version) -> Option<Box<dyn Loan>> {
        if !self.lends.load(Ordering::Acquire) {
            return None;
        }
        let file = self.cached()?.local(version).await?;
        let id = self.borrow(file.name()).await?;
        Some(Box::new(Lent { id, _file: file, words: self.words.clone() }))
    }
}

/// A file that the kernel knows.
#[derive(Debug)]
struct Lent {
    id: u32,
    /// Not to be changed meanwhile.
    _file: LocalFile,
    words: mpsc::UnboundedSender<FromWorker>,
}

impl Loan for Lent {
    fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let _ = self.words.send(FromWorker::Return { id: self.id });
    }
}
