//! Connections to a store: TCP, through a proxy where one is set, TLS with the store's own CA; HTTP/1.1 alone.
//!
//! ALPN offers no `h2`: behind an ingress that speaks it, all requests would share one TCP connection and its
//! bandwidth.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::net::TcpStream;
use tower_service::Service;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Dialing<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// Opens a connection within `patience`: name lookup, TCP, the proxy's tunnel and the TLS handshake together.
#[derive(Debug, Clone)]
pub(super) struct Dial {
    tls: HttpsConnector<Route>,
    patience: Duration,
}

/// A connection was not made in time.
#[derive(Debug, thiserror::Error)]
#[error("no connection within {} s", .0.as_secs_f32())]
pub(super) struct ConnectTimeout(Duration);

impl Dial {
    /// # Errors
    /// Says what is wrong with the CA bundle or the proxy.
    pub(super) fn new(ca_bundle: Option<&str>, proxy: Option<&str>, patience: Duration) -> Result<Dial, String> {
        let proxy = proxy.map(proxy_uri).transpose()?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(Duration::from_secs(30)));
        let tls = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls_config(ca_bundle)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(Route { tcp, proxy });
        Ok(Dial { tls, patience })
    }
}

impl Service<Uri> for Dial {
    type Response = MaybeHttpsStream<Routed>;
    type Error = BoxError;
    type Future = Dialing<Self::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tls.poll_ready(cx)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let dialing = self.tls.call(to);
        let patience = self.patience;
        Box::pin(async move {
            match tokio::time::timeout(patience, dialing).await {
                Ok(dialed) => dialed,
                Err(_) => Err(ConnectTimeout(patience).into()),
            }
        })
    }
}

/// TCP to the store, or to the proxy: a tunnel for https, absolute-form requests for http.
#[derive(Debug, Clone)]
struct Route {
    tcp: HttpConnector,
    proxy: Option<Uri>,
}

impl Service<Uri> for Route {
    type Response = Routed;
    type Error = BoxError;
    type Future = Dialing<Routed>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Dialing<Routed> {
        let mut tcp = self.tcp.clone();
        let proxy = self.proxy.clone();
        Box::pin(async move {
            let (io, proxied) = match proxy {
                None => (tcp.call(to).await?, false),
                Some(proxy) if to.scheme_str() == Some("https") => (Tunnel::new(proxy, tcp).call(to).await?, false),
                Some(proxy) => (tcp.call(proxy).await?, true),
            };
            Ok(Routed { io, proxied })
        })
    }
}

/// A TCP connection that knows whether a proxy reads the requests on it.
#[derive(Debug)]
pub(super) struct Routed {
    io: TokioIo<TcpStream>,
    proxied: bool,
}

impl Connection for Routed {
    fn connected(&self) -> Connected {
        self.io.connected().proxy(self.proxied)
    }
}

impl Read for Routed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl Write for Routed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}

fn proxy_uri(word: &str) -> Result<Uri, String> {
    let uri: Uri = word.parse().map_err(|error| format!("proxy {word:?} is not a URL: {error}"))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http"), Some(_)) => Ok(uri),
        _ => Err(format!("proxy {word:?} must have the form http://host:port")),
    }
}

fn tls_config(ca_bundle: Option<&str>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    match ca_bundle {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate = certificate.map_err(|error| format!("the CA bundle is not PEM: {error}"))?;
                roots.add(certificate).map_err(|error| format!("a certificate of the CA bundle: {error}"))?;
            }
            if roots.is_empty() {
                return Err("the CA bundle holds no certificate".into());
            }
        }
        // A machine without certificates still reaches http endpoints; https ones then say that nobody is trusted.
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_words_are_named() {
        assert!(proxy_uri("http://proxy:3128").is_ok());
        for bad in ["proxy:3128", "https://proxy:1", "socks5://proxy:1", "http://"] {
            assert!(proxy_uri(bad).unwrap_err().contains("proxy"), "{bad}");
        }
        assert!(tls_config(Some("rubbish")).unwrap_err().contains("no certificate"));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(tls_config(Some(broken)).unwrap_err().contains("CA bundle"));
    }
}
