//! Connections and requests, with whatever is to go wrong with them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::service::S3Service;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::body::{self, Flaws};
use super::counters::{Ledger, Seen};
use super::faults::{Fault, Faults};
use super::kind::{self, Kind};
use super::pace::Pace;
use super::request::Ignored;

/// What all connections share.
pub(super) struct Wire {
    pub(super) service: S3Service,
    pub(super) faults: Faults,
    pub(super) ledger: Arc<Ledger>,
    pub(super) record: bool,
    pub(super) total: Pace,
}

/// One TCP connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) pace: Pace,
    pub(super) slow: Pace,
    socket: OwnedFd,
}

impl Connection {
    /// Makes the close to come a reset.
    pub(super) fn reset_on_close(&self) {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        // Fails only for a socket that is gone, which is what is wanted.
        let _ = nix::sys::socket::setsockopt(&self.socket, nix::sys::socket::sockopt::Linger, &linger);
    }
}

type Reply = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// Accepts connections until it is aborted; those that were accepted end with `end`.
pub(super) async fn accept(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    wire: Arc<Wire>,
    end: CancellationToken,
) {
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            // Out of descriptors, most likely: others end meanwhile.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        wire.ledger.connected();
        let (acceptor, wire, end) = (acceptor.clone(), wire.clone(), end.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = end.cancelled() => {}
                // A client that goes away ends its connection and nothing else.
                _ = connection(socket, acceptor, wire) => {}
            }
        });
    }
}

async fn connection(socket: TcpStream, acceptor: Option<TlsAcceptor>, wire: Arc<Wire>) -> io::Result<()> {
    wire.faults.spoken().await;
    socket.set_nodelay(true)?;
    let copy = socket.as_fd().try_clone_to_owned()?;
    let shared = Arc::new(Connection { pace: Pace::default(), slow: Pace::default(), socket: copy });
    match acceptor {
        Some(acceptor) => serve(acceptor.accept(socket).await?, shared, wire).await,
        None => serve(socket, shared, wire).await,
    }
}

async fn serve(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    connection: Arc<Connection>,
    wire: Arc<Wire>,
) -> io::Result<()> {
    let answer = service_fn(move |request| answer(request, connection.clone(), wire.clone()));
    let http = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(60))
        .serve_connection(TokioIo::new(io), answer);
    http.await.map_err(io::Error::other)
}

/// Answers a request, or fails so that its connection is closed.
async fn answer(request: Request<Incoming>, connection: Arc<Connection>, wire: Arc<Wire>) -> io::Result<Reply> {
    let (kind, key) = kind::of(request.method(), request.uri(), request.headers());
    let in_flight = wire.ledger.begin(kind);
    if wire.record {
        let mut headers = request.headers().clone();
        headers.remove(http::header::AUTHORIZATION);
        wire.ledger.record(Seen { kind, key: key.clone(), uri: request.uri().to_string(), headers });
    }
    let faults = wire.faults.take(kind, &key);
    let closed = || io::Error::from(io::ErrorKind::ConnectionAborted);
    wire.faults.spoken().await;
    tokio::time::sleep(wire.faults.load().first_byte).await;
    let mut ignored = Ignored::default();
    for fault in &faults {
        match fault {
            Fault::Delay(time) => tokio::time::sleep(*time).await,
            Fault::Silence => wire.faults.released().await,
            Fault::Refuse => return Err(closed()),
            Fault::Error { status, code, headers } => return refusal(&wire, *status, code, headers),
            Fault::IgnoreConditions => ignored.conditions = true,
            Fault::IgnoreRange => ignored.range = true,
            Fault::IgnoreEncoding => ignored.encoding = true,
            Fault::EmptyPage => ignored.empty_page = true,
            _ => {}
        }
    }
    if wire.faults.slows_down() {
        return refusal(&wire, 503, "SlowDown", &[]);
    }
    let mut request = request.map(|body| paced(body, connection.clone(), wire.clone()));
    request.extensions_mut().insert(ignored);
    let response = wire.service.call(request).await.map_err(io::Error::other)?;
    if faults.contains(&Fault::LostReply) {
        return Err(closed());
    }
    let (mut parts, body) = response.into_parts();
    wire.ledger.answered(parts.status.as_u16());
    let mut flaws = Flaws::of(&faults);
    for fault in &faults {
        match fault {
            Fault::ContentRange(text) => drop(parts.headers.insert(CONTENT_RANGE, header(text)?)),
            Fault::ETag(text) => drop(parts.headers.insert(ETAG, header(text)?)),
            Fault::Short(missing) => {
                let length = parts.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
                let end = length.unwrap_or(0u64).saturating_sub(*missing);
                parts.headers.insert(CONTENT_LENGTH, end.into());
                flaws.end = Some(end);
            }
            _ => {}
        }
    }
    let bodiless = matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if let (None, Some(length), false) = (parts.headers.get(CONTENT_LENGTH), body.size_hint().exact(), bodiless) {
        parts.headers.insert(CONTENT_LENGTH, length.into());
    }
    let is_object = kind == Kind::GetObject && parts.status.is_success();
    let frames = body::send(body, flaws, wire, connection, in_flight, is_object);
    Ok(Response::from_parts(parts, StreamBody::new(frames).boxed_unsync()))
}

/// The request's body, no faster than the conditions allow.
fn paced(body: Incoming, connection: Arc<Connection>, wire: Arc<Wire>) -> s3s::Body {
    if body.is_end_stream() {
        return s3s::Body::empty();
    }
    let frames = body.into_data_stream().map_err(io::Error::other).and_then(move |chunk| {
        let (connection, wire) = (connection.clone(), wire.clone());
        async move {
            let (total, one) = {
                let conditions = wire.faults.load();
                (conditions.total, conditions.per_connection)
            };
            wire.total.carry(chunk.len() as u64, total).await;
            connection.pace.carry(chunk.len() as u64, one).await;
            Ok(http_body::Frame::data(chunk))
        }
    });
    s3s::Body::http_body_unsync(StreamBody::new(frames))
}

fn header(text: &str) -> io::Result<HeaderValue> {
    HeaderValue::from_str(text).map_err(io::Error::other)
}

fn refusal(wire: &Wire, status: u16, code: &str, headers: &[(String, String)]) -> io::Result<Reply> {
    wire.ledger.answered(status);
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>staged</Message></Error>");
    let mut response = Response::builder().status(StatusCode::from_u16(status).map_err(io::Error::other)?);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    response.body(Full::new(body.into()).map_err(|never| match never {}).boxed_unsync()).map_err(io::Error::other)
}
