//! Who answers a request: the thread that read it where nothing is to be waited for, else a task.
//!
//! Every request has a deadline. A question is given up then; a change goes on to its end behind the error, since
//! nobody can tell how far it came.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use crate::tunable::Span;
use crate::vfs::{Error, Result, Vfs};

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
}

impl Answers {
    /// A call that changes nothing: dropped at its deadline.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T>> + Send + 'static,
        reply: impl FnOnce(Result<T>) + Send + 'static,
    ) {
        let timeout = self.timeout.get();
        self.begin(Box::pin(call), reply, move |call, reply| async move {
            reply(tokio::time::timeout(timeout, call).await.unwrap_or_else(|_| Err(late(timeout))));
        });
    }

    /// A call that changes something.
    pub(super) fn change<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T>> + Send + 'static,
        reply: impl FnOnce(Result<T>) + Send + 'static,
    ) {
        let timeout = self.timeout.get();
        self.begin(Box::pin(call), reply, move |mut call, reply| async move {
            match tokio::time::timeout(timeout, &mut call).await {
                Ok(outcome) => reply(outcome),
                Err(_) => {
                    reply(Err(late(timeout)));
                    let _ = call.await;
                }
            }
        });
    }

    /// A call that changes something and moves bytes: its deadline counts from the last progress. Each step of it has
    /// one of its own in the store, which comes first.
    pub(super) fn transfer<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T>> + Send + 'static,
        reply: impl FnOnce(Result<T>) + Send + 'static,
    ) {
        let (vfs, timeout) = (self.vfs.clone(), self.timeout.get() * PATIENCE);
        self.begin(Box::pin(call), reply, move |mut call, reply| async move {
            let mut before = vfs.progress();
            loop {
                if let Ok(outcome) = tokio::time::timeout(timeout, &mut call).await {
                    return reply(outcome);
                }
                let now = vfs.progress();
                if now == before {
                    break;
                }
                before = now;
            }
            reply(Err(late(timeout)));
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

fn late(timeout: Duration) -> Error {
    tracing::warn!(?timeout, "a request passed its deadline");
    Error::Io
}
