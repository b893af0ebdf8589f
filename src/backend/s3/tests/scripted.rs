//! A server that answers as a test says: for what no sound server does.

use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// Its place among all requests, from 0.
    pub(super) number: usize,
    pub(super) method: Method,
    /// Path and query, or the absolute form that a proxy gets.
    pub(super) target: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Asked {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// What comes back.
pub(super) enum Answer {
    /// All of it.
    Whole(Response<Bytes>),
    /// The head and so many bytes of the body, then the connection breaks.
    Broken(Response<Bytes>, usize),
    /// The head and so many bytes of the body, then nothing more.
    Stalled(Response<Bytes>, usize),
    /// The connection breaks at once.
    Reset,
    /// Nothing, for ever.
    Silence,
    /// All of it, after a while.
    Late(Duration, Response<Bytes>),
    /// All of it in two pieces, of a length that is not said.
    Chunked(Response<Bytes>),
    /// So, but so many bytes and then the connection breaks.
    ChunkedBroken(Response<Bytes>, usize),
}

pub(super) fn head(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body.into()).unwrap()
}

/// An error as S3 words it.
pub(super) fn refusal(status: u16, code: &str, message: &str) -> Answer {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>");
    Answer::Whole(head(status, &[("x-amz-request-id", "REQ1")], body))
}

type Script = dyn Fn(Asked) -> Answer + Send + Sync;

/// A running server; it ends with the test's runtime.
#[derive(Clone)]
pub(super) struct Scripted {
    pub(super) address: std::net::SocketAddr,
    pub(super) connections: Arc<AtomicUsize>,
    /// ALPN protocols that clients chose.
    pub(super) alpn: Arc<Mutex<Vec<Option<Vec<u8>>>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    busy: Arc<AtomicUsize>,
    pub(super) most_busy: Arc<AtomicUsize>,
}

impl Scripted {
    pub(super) async fn start(script: impl Fn(Asked) -> Answer + Send + Sync + 'static) -> Scripted {
        Scripted::serve(Arc::new(script), None).await
    }

    pub(super) async fn start_tls(
        tls: rustls::ServerConfig,
        script: impl Fn(Asked) -> Answer + Send + Sync + 'static,
    ) -> Scripted {
        Scripted::serve(Arc::new(script), Some(TlsAcceptor::from(Arc::new(tls)))).await
    }

    async fn serve(script: Arc<Script>, tls: Option<TlsAcceptor>) -> Scripted {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Scripted {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
            alpn: Arc::default(),
            asked: Arc::default(),
            busy: Arc::default(),
            most_busy: Arc::default(),
        };
        let serving = server.clone();
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                serving.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serving.clone().connection(tcp, tls.clone(), script.clone()));
            }
        });
        server
    }

    async fn connection(self, tcp: TcpStream, tls: Option<TlsAcceptor>, script: Arc<Script>) {
        let service = service_fn(|request| self.clone().answer(request, script.clone()));
        let http = hyper::server::conn::http1::Builder::new();
        match tls {
            None => drop(http.serve_connection(TokioIo::new(tcp), service).await),
            Some(tls) => {
                let Ok(tls) = tls.accept(tcp).await else { return };
                self.alpn.lock().unwrap().push(tls.get_ref().1.alpn_protocol().map(<[u8]>::to_vec));
                drop(http.serve_connection(TokioIo::new(tls), service).await);
            }
        }
    }

    async fn answer(
        self,
        request: Request<Incoming>,
        script: Arc<Script>,
    ) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = io::Error>>, io::Error> {
        let busy = self.busy.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_busy.fetch_max(busy, Ordering::SeqCst);
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let asked = {
            let mut all = self.asked.lock().unwrap();
            let target = parts.uri.to_string();
            let number = all.len();
            all.push(Asked { number, method: parts.method, target, headers: parts.headers, body });
            all.last().unwrap().clone()
        };
        let answer = script(asked);
        let is_measured = !matches!(answer, Answer::Chunked(_) | Answer::ChunkedBroken(..));
        let (head, end): (_, End) = match answer {
            Answer::Whole(head) => (head, Box::new(|body| stream::iter([Ok(body)]).boxed())),
            Answer::Chunked(head) => {
                let pieces = |body: Bytes| {
                    let (one, two) = (body.slice(..body.len() / 2), body.slice(body.len() / 2..));
                    stream::iter([Ok(one), Ok(two)]).boxed()
                };
                (head, Box::new(pieces))
            }
            Answer::Broken(head, most) | Answer::ChunkedBroken(head, most) => {
                let broken = move |body: Bytes| {
                    stream::iter([Ok(body.slice(..most))])
                        .chain(stream::once(async {
                            // Time for what was sent to arrive before the connection is cut.
                            tokio::time::sleep(Duration::from_millis(50)).await;
                            Err(io::Error::other("cut"))
                        }))
                        .boxed()
                };
                (head, Box::new(broken))
            }
            Answer::Stalled(head, most) => {
                (head, Box::new(move |body| stream::iter([Ok(body.slice(..most))]).chain(stream::pending()).boxed()))
            }
            Answer::Late(pause, head) => {
                tokio::time::sleep(pause).await;
                (head, Box::new(|body| stream::iter([Ok(body)]).boxed()))
            }
            Answer::Reset => return Err(io::Error::other("reset")),
            Answer::Silence => match std::future::pending::<Infallible>().await {},
        };
        self.busy.fetch_sub(1, Ordering::SeqCst);
        let (mut parts, body) = head.into_parts();
        if is_measured && !parts.headers.contains_key("content-length") && parts.status != 204 {
            parts.headers.insert("content-length", body.len().into());
        }
        let body = end(body).filter(|piece| {
            let keep = !piece.as_ref().is_ok_and(Bytes::is_empty);
            async move { keep }
        });
        Ok(Response::from_parts(parts, StreamBody::new(body.map(|piece| piece.map(Frame::data)).boxed())))
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was asked so far.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

/// How a body comes.
type End = Box<dyn Fn(Bytes) -> Pieces + Send>;
type Pieces = stream::BoxStream<'static, io::Result<Bytes>>;
