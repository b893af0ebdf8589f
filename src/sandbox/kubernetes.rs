//! A Kubernetes API server that knows Nodes, Events and one service account, whose only rights are to get a Node by its
//! name and to make Events.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Collected, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::tls::Identity;

/// Labels by Node.
pub type Nodes = BTreeMap<String, BTreeMap<String, String>>;

/// A server on a port of its own at 127.0.0.1, over TLS, until it is dropped.
#[derive(Debug)]
pub struct Server {
    url: String,
    ca_pem: String,
    state: Arc<Mutex<State>>,
    _end: DropGuard,
}

#[derive(Debug)]
struct State {
    token: String,
    nodes: Nodes,
    asked: Vec<String>,
    events: Vec<Value>,
    /// Of so many requests the answer is lost.
    lost: u32,
}

impl Server {
    /// A server that lets in who has `token`.
    ///
    /// # Errors
    /// Where no certificate can be made or no port had.
    pub async fn start(token: &str, nodes: Nodes) -> io::Result<Server> {
        let Identity { acceptor, ca_pem } = Identity::generate()?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let url = format!("https://{}", listener.local_addr()?);
        let state = State { token: token.to_owned(), nodes, asked: Vec::new(), events: Vec::new(), lost: 0 };
        let state = Arc::new(Mutex::new(state));
        let end = CancellationToken::new();
        let (shared, ended) = (Arc::clone(&state), end.clone());
        tokio::spawn(end.clone().run_until_cancelled_owned(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
                // A client that goes away ends its connection and nothing else.
                tokio::spawn(ended.clone().run_until_cancelled_owned(async move {
                    if let Ok(stream) = acceptor.accept(socket).await {
                        connection(stream, shared).await;
                    }
                }));
            }
        }));
        Ok(Server { url, ca_pem, state, _end: end.drop_guard() })
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Writes the service account's `token` and `ca.crt` into `dir`, as a pod finds them.
    ///
    /// # Errors
    /// Where they cannot be written.
    pub fn write_account(&self, dir: &Path) -> io::Result<()> {
        std::fs::write(dir.join("ca.crt"), &self.ca_pem)?;
        std::fs::write(dir.join("token"), &self.state().token)
    }

    /// Lets in who has `token` from now on, and nobody else.
    pub fn set_token(&self, token: &str) {
        token.clone_into(&mut self.state().token);
    }

    /// Changes the labels.
    pub fn set_nodes(&self, nodes: Nodes) {
        self.state().nodes = nodes;
    }

    /// Does what the next so many requests ask, and closes their connections instead of an answer.
    pub fn lose_answers(&self, requests: u32) {
        self.state().lost = requests;
    }

    /// Every request so far, as method and path.
    pub fn asked(&self) -> Vec<String> {
        self.state().asked.clone()
    }

    /// Every Event that was made.
    pub fn events(&self) -> Vec<Value> {
        self.state().events.clone()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn connection(stream: tokio_rustls::server::TlsStream<TcpStream>, shared: Arc<Mutex<State>>) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let shared = shared.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
            let state = &mut shared.lock().unwrap_or_else(PoisonError::into_inner);
            let (status, body) = answer(&head, &body, state);
            if let Some(left) = state.lost.checked_sub(1) {
                state.lost = left;
                return Err(io::Error::from(io::ErrorKind::ConnectionReset));
            }
            let mut reply = Response::new(Full::new(Bytes::from(body.to_string())));
            *reply.status_mut() = status;
            reply.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
            Ok(reply)
        }
    });
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
}

fn answer(request: &Parts, body: &[u8], state: &mut State) -> (StatusCode, Value) {
    let path = request.uri.path();
    state.asked.push(format!("{} {path}", request.method));
    let word = |name: header::HeaderName| request.headers.get(name).and_then(|value| value.to_str().ok());
    if word(header::AUTHORIZATION) != Some(format!("Bearer {}", state.token).as_str()) {
        return refusal(StatusCode::UNAUTHORIZED, "Unauthorized");
    }
    let namespace = path.strip_prefix("/api/v1/namespaces/").and_then(|rest| rest.strip_suffix("/events"));
    if let Some(namespace) = namespace.filter(|_| request.method == Method::POST) {
        return match serde_json::from_slice::<Value>(body) {
            Ok(event)
                if event["metadata"]["namespace"] == namespace && event["involvedObject"]["namespace"] == namespace =>
            {
                if state.events.iter().any(|known| known["metadata"]["name"] == event["metadata"]["name"]) {
                    return refusal(StatusCode::CONFLICT, "an event of that name already exists");
                }
                state.events.push(event.clone());
                (StatusCode::CREATED, event)
            }
            _ => refusal(StatusCode::UNPROCESSABLE_ENTITY, "involvedObject.namespace: does not match event.namespace"),
        };
    }
    let name = path.strip_prefix("/api/v1/nodes/").filter(|name| !name.is_empty() && !name.contains('/'));
    let Some(name) = name.filter(|_| request.method == Method::GET) else {
        return refusal(StatusCode::FORBIDDEN, "nodes is forbidden: this account may get a Node, and nothing else");
    };
    let Some(labels) = state.nodes.get(name) else {
        return refusal(StatusCode::NOT_FOUND, &format!("nodes {name:?} not found"));
    };
    let metadata = json!({"name": name, "labels": labels});
    let partial = word(header::ACCEPT).is_some_and(|accept| accept.contains("as=PartialObjectMetadata;"));
    let form = match partial {
        true => json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}),
        false => json!({"kind": "Node", "apiVersion": "v1", "metadata": metadata, "spec": {}, "status": {}}),
    };
    (StatusCode::OK, form)
}

fn refusal(status: StatusCode, message: &str) -> (StatusCode, Value) {
    let reason = status.canonical_reason().unwrap_or_default().replace(' ', "");
    let form = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        "reason": reason, "code": status.as_u16(),
    });
    (status, form)
}
