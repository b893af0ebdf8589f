//! What a plugin shows over HTTP: `/metrics` for a scrape, `/healthz` and `/readyz` for the kubelet. Nothing can be
//! asked that changes anything, and nothing that is shown is secret, but anybody who reaches the address may ask.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use super::metrics::exposition::CONTENT_TYPE;

/// How many may ask at the same time. For the next one the oldest is cut off, so that callers who say nothing do not keep
/// the kubelet out, which restarts a plugin that does not answer it.
const MOST: usize = 64;

/// A caller who takes so long for one question and its answer is cut off.
const PATIENCE: Duration = Duration::from_secs(30);

/// A caller who does not say within this what he wants is cut off.
const HEAD: Duration = Duration::from_secs(5);

/// How a plugin is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It serves.
    Ready,
    /// It will.
    Starting,
    /// It does not, and a restart would mend that: why.
    Broken(String),
}

/// Where the pages come from.
#[derive(Clone)]
pub struct Pages {
    standing: Arc<dyn Fn() -> Standing + Send + Sync>,
    metrics: Arc<dyn Fn() -> BoxFuture<'static, String> + Send + Sync>,
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pages")
    }
}

impl Pages {
    /// Of a plugin whose `standing` is asked at each probe, and whose `metrics` at each scrape.
    pub fn new<F>(
        standing: impl Fn() -> Standing + Send + Sync + 'static,
        metrics: impl Fn() -> F + Send + Sync + 'static,
    ) -> Pages
    where
        F: Future<Output = String> + Send + 'static,
    {
        Pages { standing: Arc::new(standing), metrics: Arc::new(move || metrics().boxed()) }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET {
            return page(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into());
        }
        let standing = (self.standing)();
        match (request.uri().path(), standing) {
            ("/metrics", _) => {
                let mut response = page(StatusCode::OK, (self.metrics)().await);
                response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(CONTENT_TYPE));
                response
            }
            ("/healthz" | "/readyz", Standing::Broken(why)) => {
                page(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"))
            }
            ("/readyz", Standing::Starting) => page(StatusCode::SERVICE_UNAVAILABLE, "starting\n".into()),
            ("/healthz" | "/readyz", Standing::Starting | Standing::Ready) => page(StatusCode::OK, "ok\n".into()),
            _ => page(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n".into()),
        }
    }
}

fn page(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Takes `address`.
///
/// # Errors
/// What the system says of it.
pub async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Shows `pages` for as long as it is polled.
pub async fn show(listener: TcpListener, pages: Pages) -> Infallible {
    let mut asking: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                // Such as too many open descriptors.
                tracing::warn!("a scrape cannot be taken: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        asking.retain(|one| !one.is_finished());
        if asking.len() >= MOST
            && let Some(oldest) = asking.pop_front()
        {
            oldest.abort();
        }
        let pages = pages.clone();
        let answering = tokio::spawn(async move {
            let answer = service_fn(|request: Request<Incoming>| {
                let pages = pages.clone();
                async move { Ok::<_, Infallible>(pages.answer(&request).await) }
            });
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEAD).keep_alive(false);
            let serving = server.serve_connection(TokioIo::new(socket), answer);
            let _ = tokio::time::timeout(PATIENCE, serving).await;
        });
        asking.push_back(answering.abort_handle());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn ask(address: SocketAddr, line: &str) -> String {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn probes_tell_starting_from_broken() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let standing = Arc::new(Mutex::new(Standing::Starting));
        let told = standing.clone();
        let pages = Pages::new(move || told.lock().unwrap().clone(), || async { "# EOF\n".to_owned() });
        tokio::spawn(show(listener, pages));
        for (now, healthz, readyz) in [
            (Standing::Starting, "200", "503"),
            (Standing::Ready, "200", "200"),
            (Standing::Broken("the watcher ended".into()), "503", "503"),
        ] {
            *standing.lock().unwrap() = now.clone();
            for (path, status) in [("/healthz", healthz), ("/readyz", readyz), ("/metrics", "200"), ("/", "404")] {
                let text = ask(address, &format!("GET {path}")).await;
                assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{now:?} {path}: {text}");
            }
        }
        assert!(ask(address, "GET /healthz").await.contains("the watcher ended"));
        assert!(ask(address, "GET /metrics").await.contains(CONTENT_TYPE));
        assert!(ask(address, "POST /metrics").await.starts_with("HTTP/1.1 405 "));
    }

    #[tokio::test]
    async fn callers_who_say_nothing_do_not_keep_others_out() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(show(listener, Pages::new(|| Standing::Ready, || async { String::new() })));
        let mut silent = Vec::new();
        for _ in 0..2 * MOST {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let answer = tokio::time::timeout(HEAD - Duration::from_secs(1), ask(address, "GET /healthz")).await;
        assert!(answer.expect("before the others are done with").contains("200"));
    }
}
