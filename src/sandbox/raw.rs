//! A plain S3 client that shares nothing with the driver's backend: "another client" that puts data there and looks at
//! it, and the yardstick that the mount's speed is measured by.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode,
    sign,
};
use aws_sigv4::sign::v4::SigningParams;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// What S3 leaves as it is in a key's path (unreserved characters of RFC 3986, and the slash).
const KEY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// Where a bucket is, and a key pair for it.
#[derive(Clone)]
pub struct Access {
    /// `http(s)://host:port`.
    pub endpoint: String,
    /// The bucket, addressed by path.
    pub bucket: String,
    /// The region requests are signed for.
    pub region: String,
    /// Access key id.
    pub key_id: String,
    /// Secret access key.
    pub secret: String,
    /// Token of temporary keys.
    pub session_token: Option<String>,
    /// PEM certificates to trust instead of the system's.
    pub ca_pem: Option<String>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("endpoint", &self.endpoint).field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

/// The client. Requests go over HTTP/1.1, a connection each, which are kept.
#[derive(Clone)]
pub struct Raw {
    access: Arc<Access>,
    http: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Raw").field("endpoint", &self.access.endpoint).finish_non_exhaustive()
    }
}

impl Raw {
    /// # Errors
    /// Where the certificates cannot be used.
    pub fn new(access: Access) -> io::Result<Raw> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        let tls = match &access.ca_pem {
            Some(pem) => {
                let mut roots = rustls::RootCertStore::empty();
                for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                    roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
                }
                builder.with_root_certificates(roots)
            }
            None => builder.with_native_roots()?,
        }
        .with_no_client_auth();
        let https = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        let http = Client::builder(TokioExecutor::new()).build(https.build());
        Ok(Raw { access: Arc::new(access), http })
    }

    /// Sends a signed request for `key` (empty: the bucket); `query` is without `?` and already encoded.
    ///
    /// # Errors
    /// Where no answer comes. A refusal is an answer.
    pub async fn request(
        &self,
        method: Method,
        key: &str,
        query: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> io::Result<Response<Incoming>> {
        let Access { endpoint, bucket, .. } = &*self.access;
        let mark = if query.is_empty() { "" } else { "?" };
        let uri = format!("{endpoint}/{bucket}/{}{mark}{query}", utf8_percent_encode(key, KEY));
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send("s3", request, body).await
    }

    /// Signs a request to an AWS service and sends it.
    ///
    /// # Errors
    /// Where no answer comes. A refusal is an answer.
    pub(super) async fn send(
        &self,
        service: &str,
        request: http::request::Builder,
        body: Bytes,
    ) -> io::Result<Response<Incoming>> {
        let mut request = request.body(Full::new(body.clone())).map_err(io::Error::other)?;
        self.sign(service, &mut request, &body)?;
        self.http.request(request).await.map_err(io::Error::other)
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.access.endpoint
    }

    fn sign(&self, service: &str, request: &mut Request<Full<Bytes>>, body: &[u8]) -> io::Result<()> {
        let Access { key_id, secret, session_token, region, .. } = &*self.access;
        let identity = Credentials::new(key_id, secret, session_token.clone(), None, "raw").into();
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        let parameters = SigningParams::builder()
            .identity(&identity)
            .region(region)
            .name(service)
            .time(SystemTime::now())
            .settings(settings)
            .build()
            .map_err(io::Error::other)?;
        let uri = request.uri().to_string();
        let headers: Vec<_> = request
            .headers()
            .iter()
            .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())))
            .collect();
        let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let signable = SignableRequest::new(request.method().as_str(), uri, headers, SignableBody::Bytes(body))
            .map_err(io::Error::other)?;
        let (instructions, _) = sign(signable, &parameters.into()).map_err(io::Error::other)?.into_parts();
        instructions.apply_to_request_http1x(request);
        Ok(())
    }

    /// Makes the bucket.
    ///
    /// # Errors
    /// Where the store refuses.
    pub async fn create_bucket(&self) -> io::Result<()> {
        good(self.request(Method::PUT, "", "", &[], Bytes::new()).await?).await.map(drop)
    }

    /// Puts an object there.
    ///
    /// # Errors
    /// Where the store refuses.
    pub async fn put(&self, key: &str, body: Bytes) -> io::Result<()> {
        good(self.request(Method::PUT, key, "", &[], body).await?).await.map(drop)
    }

    /// Removes an object.
    ///
    /// # Errors
    /// Where the store refuses.
    pub async fn delete(&self, key: &str) -> io::Result<()> {
        good(self.request(Method::DELETE, key, "", &[], Bytes::new()).await?).await.map(drop)
    }

    /// The bytes of `range` of an object, or all of it, as they come.
    ///
    /// # Errors
    /// Where the store refuses.
    pub async fn get(&self, key: &str, range: Option<Range<u64>>) -> io::Result<BoxStream<'static, io::Result<Bytes>>> {
        let range = range.map(|range| format!("bytes={}-{}", range.start, range.end - 1));
        let headers: Vec<_> = range.iter().map(|range| ("range", range.as_str())).collect();
        let response = good(self.request(Method::GET, key, "", &headers, Bytes::new()).await?).await?;
        Ok(response.into_body().into_data_stream().map(|chunk| chunk.map_err(io::Error::other)).boxed())
    }

    /// Reads objects by ranges of `part` bytes, `connections` at a time, and gives each piece with its object's index
    /// and offset to `check`.
    ///
    /// # Errors
    /// The first failure, of the store or of `check`.
    pub async fn read_all(
        &self,
        objects: &[(String, u64)],
        connections: usize,
        part: u64,
        check: impl Fn(usize, u64, &[u8]) -> io::Result<()> + Send + Sync + 'static,
    ) -> io::Result<()> {
        let ranges: Vec<_> = objects
            .iter()
            .enumerate()
            .flat_map(|(index, (key, size))| {
                (0..*size).step_by(part as usize).map(move |at| (index, key.clone(), at..(at + part).min(*size)))
            })
            .collect();
        let (ranges, next, check) = (Arc::new(ranges), Arc::new(AtomicUsize::new(0)), Arc::new(check));
        let tasks: Vec<_> = (0..connections)
            .map(|_| {
                let (raw, ranges, next, check) = (self.clone(), ranges.clone(), next.clone(), check.clone());
                tokio::spawn(async move {
                    while let Some((index, key, range)) = ranges.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let (mut at, mut body) = (range.start, raw.get(key, Some(range.clone())).await?);
                        while let Some(chunk) = body.next().await {
                            let chunk = chunk?;
                            check(*index, at, &chunk)?;
                            at += chunk.len() as u64;
                        }
                        if at != range.end {
                            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        for task in tasks {
            task.await.map_err(io::Error::other)??;
        }
        Ok(())
    }
}

/// The answer, or its status and the S3 error code as an error.
pub(super) async fn good(response: Response<Incoming>) -> io::Result<Response<Incoming>> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = response.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    let code = tagged(&text, "Code").unwrap_or_default();
    let kind = match status {
        StatusCode::NOT_FOUND => io::ErrorKind::NotFound,
        StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => io::ErrorKind::PermissionDenied,
        _ => io::ErrorKind::Other,
    };
    Err(io::Error::new(kind, format!("{status} {code}")))
}

/// The text of the first `<tag>` of a flat XML answer.
pub(super) fn tagged(xml: &str, tag: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{tag}>"))?;
    rest.split_once('<').map(|(text, _)| text.to_owned())
}
