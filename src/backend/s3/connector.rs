//! The SDK's HTTP client: hyper's pool over [`Dial`], with what a store under load needs and the SDK's own lacks.
//!
//! - No more than `max_connections` requests at once, each counted until its body has ended or was dropped, and no
//!   more than `requests_per_second`.
//! - A request that makes no progress is given up: no byte of its body taken, no first byte of the answer, no next
//!   piece of the answer's body for longer than its patience. The retry above then asks anew.

use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

use super::Config;
use super::meter;
use super::packing::{self, Packing};
use crate::backend::dial::Dial;
use crate::backend::meter::{Meter, answered};
use crate::tunable::Span;

type BoxError = Box<dyn StdError + Send + Sync>;

/// A request body is handed to hyper in pieces of this size, so that its progress can be seen.
const PIECE: usize = 128 << 10;

/// Idle connections are closed after this: below the 20 s after which S3 and common proxies close theirs.
const IDLE: Duration = Duration::from_secs(15);

/// How long nothing may happen to a request: shares of the volume's timeout.
#[derive(Debug, Clone)]
pub(super) struct Patience {
    timeout: Span,
    /// A copy or a completion is answered when it is done.
    silence: Option<Duration>,
}

impl Patience {
    pub(super) fn of(timeout: &Span) -> Patience {
        Patience { timeout: timeout.clone(), silence: None }
    }

    /// Until a connection stands.
    fn connect(&self) -> Duration {
        (self.timeout.get() / 3).min(Duration::from_secs(5))
    }

    /// Between two signs of life: a piece of the request's body, the answer's head, a piece of its body.
    fn silence(&self) -> Duration {
        self.silence.unwrap_or_else(|| (self.timeout.get() / 3).min(Duration::from_secs(20)))
    }
}

/// Why a request got no (whole) answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// Nothing came or went for so long.
    #[error("no answer within {} s", .0.as_secs_f32())]
    Silence(Duration),
    /// Hyper's error, with its causes.
    #[error("{}", causes(.0))]
    Http(#[source] BoxError),
}

/// An error with its causes, in one line.
fn causes(error: &BoxError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    http: Client<Dial, Sending>,
    slots: Arc<Semaphore>,
    pace: Option<Arc<Pace>>,
    patience: Patience,
    meter: Meter,
}

impl Connector {
    /// # Errors
    /// Says what is wrong with the CA bundle or the proxy.
    pub(super) fn new(config: &Config, patience: Patience) -> Result<Connector, String> {
        let http = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(config.max_connections as usize)
            .http1_max_buf_size(packing::BUFFER)
            .build(Dial::new(config.ca_bundle.as_deref(), config.proxy.as_deref(), patience.connect())?);
        Ok(Connector {
            http,
            slots: Arc::new(Semaphore::new(config.max_connections.max(1) as usize)),
            pace: config.requests_per_second.map(|rate| Arc::new(Pace::new(rate))),
            patience,
            meter: Meter::new(),
        })
    }

    async fn send(self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
        let answer = self.exchange(request).await?;
        HttpResponse::try_from(answer).map_err(|error| ConnectorError::other(error.into(), None))
    }

    /// Sends a request when it is its turn, and gives the answer whose body is still to come.
    pub(super) async fn exchange(
        self,
        request: http::Request<SdkBody>,
    ) -> Result<http::Response<SdkBody>, ConnectorError> {
        let silence = self.patience.silence();
        let slot = self.slots.acquire_owned().await.map_err(|closed| ConnectorError::other(closed.into(), None))?;
        if let Some(pace) = &self.pace {
            pace.turn().await;
        }
        let alive = Arc::new(Alive::new());
        let kind = meter::kind(request.method(), request.uri(), request.headers());
        let (begun, meter) = (Instant::now(), self.meter.clone());
        let request = request.map(|body| Sending { body, rest: Bytes::new(), alive: alive.clone(), meter });
        let answering = self.http.request(request);
        let answer = tokio::select! {
            answer = answering => answer.map_err(|error| ConnectorError::io(Fault::Http(error.into()).into())),
            () = alive.silent_for(silence) => Err(ConnectorError::timeout(Fault::Silence(silence).into())),
        };
        let status = meter::status(answer.as_ref().ok().map(|answer| answer.status().as_u16()));
        answered(kind, status, begun.elapsed());
        let receiving = |body| Receiving {
            body,
            packing: Packing::default(),
            slot: Some(slot),
            silence,
            timer: None,
            meter: self.meter,
        };
        Ok(answer?.map(|body| SdkBody::from_body_1_x(receiving(body))))
    }
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::new(self.clone().send(request))
    }
}

impl HttpClient for Connector {
    /// A request's own read timeout stands in for the usual silence: stores answer copies and completions when done.
    fn http_connector(&self, settings: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        let patience = Patience { silence: settings.read_timeout(), ..self.patience.clone() };
        SharedHttpConnector::new(Connector { patience, ..self.clone() })
    }
}

/// When a request last made progress.
#[derive(Debug)]
struct Alive(Mutex<Instant>);

impl Alive {
    fn new() -> Alive {
        Alive(Mutex::new(Instant::now()))
    }

    fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mark(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    async fn silent_for(&self, silence: Duration) {
        loop {
            let end = self.last() + silence;
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

/// A request's body.
#[derive(Debug)]
struct Sending {
    body: SdkBody,
    rest: Bytes,
    alive: Arc<Alive>,
    meter: Meter,
}

impl Body for Sending {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.alive.mark();
        if !self.rest.has_remaining() {
            match std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return Poll::Ready(other),
            }
        }
        let piece = self.rest.len().min(PIECE);
        self.meter.sent(piece);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let inner = Body::size_hint(&self.body);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + self.rest.len() as u64);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + self.rest.len() as u64);
        }
        hint
    }
}

/// An answer's body: ends with an error when nothing comes for too long, and holds its slot until it ends.
struct Receiving {
    body: Incoming,
    packing: Packing,
    slot: Option<OwnedSemaphorePermit>,
    silence: Duration,
    /// Runs only while a reader waits.
    timer: Option<Pin<Box<Sleep>>>,
    meter: Meter,
}

impl Body for Receiving {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Receiving { body, packing, meter, .. } = &mut *self;
        let mut polled = Pin::new(&mut *body).poll_frame(cx);
        // Trailers tell nothing that was asked, and the SDK's checksums know only data.
        while let Poll::Ready(Some(Ok(frame))) = &polled
            && !frame.is_data()
        {
            polled = Pin::new(&mut *body).poll_frame(cx);
        }
        if let Poll::Ready(frame) = polled {
            let rest = body.size_hint().lower();
            let mut received = |data: Bytes| {
                meter.fetched(data.len());
                packing.pack(data, rest)
            };
            let frame = frame.map(|frame| frame.map(|frame| frame.map_data(&mut received)));
            let is_over = !matches!(frame, Some(Ok(_))) || body.is_end_stream();
            self.timer = None;
            if is_over {
                self.slot = None;
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(|error| Fault::Http(error.into()).into())));
        }
        let silence = self.silence;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(silence)));
        std::task::ready!(timer.as_mut().poll(cx));
        self.slot = None;
        Poll::Ready(Some(Err(Fault::Silence(silence).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Spaces requests evenly, after a first burst of at most a second's worth.
#[derive(Debug)]
struct Pace {
    gap: Duration,
    /// When the next request would start if none had come early. Locked by whoever waits for that.
    next: tokio::sync::Mutex<Instant>,
}

impl Pace {
    fn new(rate: u32) -> Pace {
        Pace { gap: Duration::from_secs(1) / rate.max(1), next: tokio::sync::Mutex::new(Instant::now()) }
    }

    /// Waits for a turn. Who leaves before it comes has taken none.
    async fn turn(&self) {
        let mut next = self.next.lock().await;
        let now = Instant::now();
        let start = (*next).max(now.checked_sub(Duration::from_secs(1)).unwrap_or(now));
        tokio::time::sleep_until(start).await;
        *next = start + self.gap;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_keep_to_the_pace() {
        let pace = Pace::new(10);
        let begun = Instant::now();
        for _ in 0..31 {
            pace.turn().await;
        }
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(1900) && took <= Duration::from_millis(3100), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_before_his_turn_takes_none() {
        let pace = Pace::new(10);
        let begun = Instant::now();
        for _ in 0..50 {
            let leaving = futures::future::join_all((0..10).map(|_| pace.turn()));
            let _ = tokio::time::timeout(Duration::from_millis(1), leaving).await;
        }
        pace.turn().await;
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn silence_counts_from_the_last_sign_of_life() {
        let alive = Arc::new(Alive::new());
        let begun = Instant::now();
        let watched = alive.clone();
        let marker = tokio::spawn(async move {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_secs(4)).await;
                watched.mark();
            }
        });
        alive.silent_for(Duration::from_secs(5)).await;
        assert_eq!(begun.elapsed().as_secs(), 17);
        marker.await.unwrap();
    }
}
