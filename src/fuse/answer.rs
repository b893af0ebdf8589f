//! Who answers a request: the thread that read it where nothing is to be waited for, else a task.
//!
//! Every request has a deadline, and ends before it where its caller is being killed ([`super::waiting`]). A question is
//! given up then; a change goes on to its end behind the error, since nobody can tell how far it came, and what it
//! would have given the kernel to hold is taken back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures::FutureExt;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use super::operations::{Operation, Operations};
use super::waiting::{Seat, Waiting};
use crate::tunable::Span;
use crate::vfs::{Error, Repeats, Result, Vfs};

/// Deadlines without progress that a call may pass whose steps the store bounds by itself. Only a store that fails to
/// do so comes here.
const PATIENCE: u32 = 10;

type Call<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// Runs calls and sees that they are answered.
#[derive(Debug, Clone)]
pub(super) struct Answers {
    pub(super) vfs: Arc<Vfs>,
    pub(super) runtime: Handle,
    pub(super) timeout: Span,
    pub(super) tasks: TaskTracker,
    pub(super) waiting: Waiting,
    pub(super) operations: Operations,
}

impl Answers {
    /// A call that changes nothing: dropped at its deadline.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        what: Operation,
        caller: u32,
        call: impl Future<Output = Result<T>> + Send + 'static,
        reply: impl FnOnce(Result<T>) + Send + 'static,
    ) {
        let (timeout, waiting) = (self.timeout.get(), self.waiting.clone());
        let reply = self.operations.counted(what, reply);
        self.begin(Box::pin(call), reply, move |call, reply| async move {
            let mut seat = waiting.sit(caller);
            reply(tokio::select! {
                outcome = call => outcome,
                error = given_up(&mut seat, timeout) => Err(error),
            });
        });
    }

    /// A call that changes something, and leaves the kernel nothing to hold.
    pub(super) fn change<T: Send + 'static>(
        &self,
        what: Operation,
        caller: u32,
        call: impl Future<Output = Result<T>> + Send + 'static,
        reply: impl FnOnce(Result<T>) + Send + 'static,
    ) {
        self.grant(what, caller, call, reply, |_| std::future::ready(()));
    }

    /// A call that gives the kernel something to hold, an open file or a name it has looked up: taken back where the
    /// kernel never hears of it.
    pub(super) fn grant<T: Send + 'static, F: Future<Output = ()> + Send + 'static>(
        &self,
        what: Operation,
        caller: u32,
        call: impl Future<Output = Result<T>> + Send + 'static,
        reply: impl FnOnce(Result<T>) + Send + 'static,
        take_back: impl FnOnce(T) -> F + Send + 'static,
    ) {
        let (timeout, waiting) = (self.timeout.get(), self.waiting.clone());
        let reply = self.operations.counted(what, reply);
        self.begin(Box::pin(call), reply, move |mut call, reply| async move {
            let mut seat = waiting.sit(caller);
            let error = tokio::select! {
                outcome = &mut call => return reply(outcome),
                error = given_up(&mut seat, timeout) => error,
            };
            drop(seat);
            reply(Err(error));
            if let Ok(unheard) = call.await {
                take_back(unheard).await;
            }
        });
    }

    /// A call that changes something and moves bytes: its deadline counts from the last progress. Each step of it has
    /// one of its own in the store, which comes first.
    pub(super) fn transfer<T: Send + 'static>(
        &self,
        what: Operation,
        caller: u32,
        call: impl Future<Output = Result<T>> + Send + 'static,
        reply: impl FnOnce(Result<T>) + Send + 'static,
    ) {
        let (vfs, timeout, waiting) = (self.vfs.clone(), self.timeout.get() * PATIENCE, self.waiting.clone());
        let reply = self.operations.counted(what, reply);
        self.begin(Box::pin(call), reply, move |mut call, reply| async move {
            let mut seat = waiting.sit(caller);
            let mut before = vfs.progress();
            let error = loop {
                let error = tokio::select! {
                    outcome = &mut call => return reply(outcome),
                    error = given_up(&mut seat, timeout) => error,
                };
                let now = vfs.progress();
                if now == before || error == Error::Interrupted {
                    break error;
                }
                before = now;
            };
            drop(seat);
            reply(Err(error));
            let _ = call.await;
        });
    }

    fn begin<T, R, W, F>(&self, mut call: Call<T>, reply: R, wait: W)
    where
        R: FnOnce(Result<T>),
        W: FnOnce(Call<T>, R) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        let _inside = self.runtime.enter();
        // A reader thread that unwinds is missed for good. The reply answers EIO when it is dropped.
        match catch_unwind(AssertUnwindSafe(|| call.as_mut().now_or_never())) {
            Ok(Some(outcome)) => reply(outcome),
            Ok(None) => {
                self.tasks.spawn_on(wait(call, reply), &self.runtime);
            }
            Err(_) => tracing::error!("a call panicked; its caller gets an input/output error"),
        }
    }
}

/// Requests that nobody answered in time.
static LATE: LazyLock<Repeats<()>> =
    LazyLock::new(|| Repeats::new(|(), times| tracing::warn!(times, "more requests passed their deadline")));

/// Why a request waits no longer.
async fn given_up(seat: &mut Seat, timeout: Duration) -> Error {
    match tokio::time::timeout(timeout, seat.released()).await {
        Ok(()) => Error::Interrupted,
        Err(_) => {
            if LATE.is_news(()) {
                tracing::warn!(?timeout, "a request passed its deadline");
            }
            Error::Io
        }
    }
}
