//! Around every CSI call: it runs to its end, is logged in one line and counted, and where it changed something or was to
//! change something, stands in the audit trail.
//!
//! A call whose caller has gone (the kubelet's deadline is two minutes, the provisioner's ten seconds) is not dropped
//! between two steps: it goes on in a task of its own, holds its guard of [`super::inflight`], and the caller's next try
//! finds it done or is told to wait.

use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::{Code, Request, Status};
use tower_service::Service;

use super::status;
use crate::observability::audit::{Audit, Entry, Event};
use crate::observability::metrics::CSI_CALL_SECONDS;

/// What a call is about, for its log line and its audit line. A handler tells it; the request carries it.
#[derive(Debug, Clone, Default)]
pub struct Subject(Arc<Mutex<Entry>>);

impl Subject {
    /// Of `request`.
    pub fn of<T>(request: &Request<T>) -> Subject {
        request.extensions().get::<Subject>().cloned().unwrap_or_default()
    }

    /// Notes what `request` is about: a volume's id or name, and the target path (empty where there is none).
    pub fn note<T>(request: &Request<T>, volume: &str, target: &str) {
        let word = |text: &str| if text.is_empty() { None } else { Some(text.to_owned()) };
        Subject::of(request).tell(|entry| (entry.volume, entry.target) = (word(volume), word(target)));
    }

    /// Adds what is known by now. Nothing out of a secret.
    pub fn tell(&self, add: impl FnOnce(&mut Entry)) {
        add(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn get(&self) -> Entry {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The services, with what happens around each call.
#[derive(Debug, Clone)]
pub(super) struct Calls<S> {
    services: S,
    running: TaskTracker,
    audit: Option<Audit>,
}

impl<S> Calls<S> {
    pub(super) fn around(services: S, running: TaskTracker, audit: Option<Audit>) -> Calls<S> {
        Calls { services, running, audit }
    }
}

type Reply = Result<http::Response<Body>, Infallible>;

impl<S> Service<http::Request<Body>> for Calls<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Reply> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.services.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let begun = Instant::now();
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let subject = Subject::default();
        request.extensions_mut().insert(subject.clone());
        let call = self.services.call(request);
        let audit = self.audit.clone();
        let task = self.running.spawn(async move {
            let response = match AssertUnwindSafe(call).catch_unwind().await {
                Ok(Ok(response)) => response,
                Err(_) => status::internal("the driver panicked; see its log").into_http(),
            };
            let (entry, status) = (subject.get(), Status::from_header_map(response.headers()));
            report(&method, &entry, begun.elapsed(), status.as_ref());
            if let Some((audit, event)) = audit.zip(Event::of(&method)) {
                let failed = status.as_ref().filter(|status| status.code() != Code::Ok);
                let code = format!("{:?}", failed.map_or(Code::Ok, Status::code));
                audit.write(event, &entry, &code, failed.map(Status::message)).await;
            }
            response
        });
        Box::pin(async move {
            Ok(task.await.unwrap_or_else(|_| status::aborted("the driver is being stopped; try again").into_http()))
        })
    }
}

/// Writes the line and counts. What is asked again and again for ever, of no volume, is worth a line only where it fails.
fn report(method: &str, entry: &Entry, took: Duration, status: Option<&Status>) {
    let word = |text: &Option<String>| text.clone().unwrap_or_default();
    let (volume, target) = (word(&entry.volume), word(&entry.target));
    let code = status.map_or(Code::Ok, Status::code);
    let ms = took.as_millis();
    match status.filter(|_| code != Code::Ok) {
        Some(status) => {
            let error = status.message();
            tracing::warn!(method, volume, target, ms, ?code, error, "csi call failed");
        }
        None if matches!(method, "Probe" | "NodeGetCapabilities") => tracing::debug!(method, ms, ?code, "csi call"),
        None => tracing::info!(method, volume, target, ms, ?code, "csi call"),
    }
    metrics::histogram!(CSI_CALL_SECONDS, "method" => method.to_owned(), "code" => format!("{code:?}")).record(took);
}
