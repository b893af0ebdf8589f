//! TLS and proxies.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use super::scripted::{Answer, Scripted, head};
use super::*;

fn file() -> Version {
    Version { path: path("f"), file: "e".into(), bytes: "e".into(), size: 10 }
}

fn ten() -> http::Response<Bytes> {
    head(200, &[("etag", "\"e\"")], vec![7; 10])
}

/// A TLS server that would rather speak HTTP/2, and its certificate.
async fn secure(answer: impl Fn() -> Answer + Send + Sync + 'static) -> (Scripted, String) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".into()]).unwrap();
    let pem = made.cert.pem();
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (Scripted::start_tls(tls, move |_| answer()).await, pem)
}

fn connected(config: Config) -> Arc<dyn Backend> {
    let limits = Limits { timeout: Duration::from_secs(10).into(), ..limits() };
    connect(&crate::backend::Config::S3(config), &keys("id", "secret"), &Path::root(), limits).unwrap()
}

#[tokio::test]
async fn parallel_reads_use_connections_of_their_own_where_the_server_offers_h2() {
    let (server, pem) = secure(|| Answer::Late(Duration::from_millis(100), ten())).await;
    let endpoint = format!("https://{}", server.address);
    let store = connected(Config { ca_bundle: Some(pem), ..config(&endpoint) });
    let file = file();
    let reads = join_all((0..8).map(|_| part(&*store, &file, 0..10))).await;
    assert!(reads.into_iter().all(|read| read.unwrap() == [7; 10]));
    assert!(server.connections.load(Ordering::SeqCst) >= 8);
    assert!(server.alpn.lock().unwrap().iter().all(|alpn| alpn.as_deref() != Some(b"h2")));
}

#[tokio::test]
async fn an_untrusted_certificate_is_told_at_once() {
    let (server, _) = secure(|| Answer::Whole(ten())).await;
    let error = connected(config(&format!("https://{}", server.address))).stat(&Path::root()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Misconfigured, "{error}");
    assert!(error.message.contains("not trusted") && error.message.contains("caBundle"), "{error}");
    let tries = server.connections.load(Ordering::SeqCst);
    assert_eq!(tries, 1);
}

#[tokio::test]
async fn http_goes_through_a_proxy_in_absolute_form() {
    let proxy = Scripted::start(|_| Answer::Whole(ten())).await;
    let store = connected(Config { proxy: Some(proxy.url()), ..config("http://store.invalid:9000") });
    part(&*store, &file(), 0..10).await.unwrap();
    let target = proxy.asked()[0].target.clone();
    assert!(target.starts_with("http://store.invalid:9000/bucket/f"), "{target}");
}

#[tokio::test]
async fn https_goes_through_a_tunnel() {
    let (server, pem) = secure(|| Answer::Whole(ten())).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    let to = server.address;
    let tunnel = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            asked.push(client.read_u8().await.unwrap());
        }
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let mut store = TcpStream::connect(to).await.unwrap();
        tokio::spawn(async move { copy_bidirectional(&mut client, &mut store).await });
        String::from_utf8(asked).unwrap()
    });
    let endpoint = format!("https://{}", server.address);
    let store = connected(Config { ca_bundle: Some(pem), proxy: Some(proxy), ..config(&endpoint) });
    part(&*store, &file(), 0..10).await.unwrap();
    assert!(tunnel.await.unwrap().starts_with(&format!("CONNECT {to} HTTP/1.1\r\n")));
}
