//! GetObject without what the SDK puts around each request, which takes three times the processor time of the request
//! itself: small files are read by thousands a second. The endpoint is resolved once, by the SDK's own rules, and what
//! remains is a URI, some headers and a signature. An answer is given in the SDK's words, its body checked by the SDK's own
//! checksums.

use std::time::SystemTime;

use aws_sdk_s3::config::endpoint::{DefaultResolver, Params, ResolveEndpoint};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, DateTime, DateTimeFormat};
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode,
    sign,
};
use aws_sigv4::sign::v4::SigningParams;
use aws_smithy_checksums::ChecksumAlgorithm;
use aws_smithy_checksums::body::validate::ChecksumBody;
use aws_smithy_checksums::http::{
    CRC_32_C_HEADER_NAME, CRC_32_HEADER_NAME, CRC_64_NVME_HEADER_NAME, SHA_1_HEADER_NAME, SHA_256_HEADER_NAME,
};
use aws_smithy_runtime_api::client::identity::Identity;
use aws_smithy_types::Document;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use data_encoding::BASE64;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http_body_util::{BodyExt, Limited};
use tokio::sync::OnceCell;

use super::client::keys_of;
use super::connector::Connector;
use super::error::{Failure, unreached};
use super::{Config, keys};
use crate::auth;
use crate::backend::ErrorKind;

/// A refusal is read so far; S3's are much shorter.
const LONGEST_REFUSAL: usize = 64 << 10;
const PAYER: HeaderName = HeaderName::from_static("x-amz-request-payer");
const CHECKSUM_MODE: HeaderName = HeaderName::from_static("x-amz-checksum-mode");
const CHECKSUM_TYPE: &str = "x-amz-checksum-type";

/// Checksums, and the headers that give them, the cheapest first.
const SUMS: [(ChecksumAlgorithm, &str); 5] = [
    (ChecksumAlgorithm::Crc64Nvme, CRC_64_NVME_HEADER_NAME),
    (ChecksumAlgorithm::Crc32c, CRC_32_C_HEADER_NAME),
    (ChecksumAlgorithm::Crc32, CRC_32_HEADER_NAME),
    (ChecksumAlgorithm::Sha1, SHA_1_HEADER_NAME),
    (ChecksumAlgorithm::Sha256, SHA_256_HEADER_NAME),
];

/// What is asked for.
#[derive(Debug, Default)]
pub(super) struct Get<'a> {
    pub(super) key: &'a str,
    /// ETags, with quotes.
    pub(super) if_match: Option<String>,
    pub(super) if_none_match: Option<String>,
    /// As the header says it.
    pub(super) range: Option<String>,
    /// The store gives the checksum that it keeps of the whole object, if any, and the body is compared with it.
    pub(super) checksum: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Direct {
    connector: Connector,
    credential: auth::Current,
    endpoint: Params,
    region: String,
    requester_pays: bool,
    target: OnceCell<Target>,
}

/// Where the bucket's objects lie, and what signatures there are for.
#[derive(Debug)]
struct Target {
    /// Up to the slash before a key.
    base: String,
    headers: HeaderMap,
    service: String,
    region: String,
}

impl Direct {
    /// Asks nothing of the store.
    ///
    /// # Errors
    /// Says what of the configuration no endpoint can be told from.
    pub(super) fn new(config: &Config, credential: auth::Current, connector: Connector) -> Result<Direct, String> {
        let endpoint = Params::builder()
            .bucket(&config.bucket)
            .region(&config.region)
            .set_endpoint(config.endpoint.clone())
            .force_path_style(config.path_style)
            .disable_multi_region_access_points(true)
            .disable_s3_express_session_auth(true)
            .build()
            .map_err(|wrong| wrong.to_string())?;
        let (region, requester_pays) = (config.region.clone(), config.requester_pays);
        Ok(Direct { connector, credential, endpoint, region, requester_pays, target: OnceCell::new() })
    }

    /// Sends one request. Its answer is one of success.
    pub(super) async fn get(&self, get: Get<'_>) -> Result<GetObjectOutput, Failure> {
        let target = self.target.get_or_try_init(|| self.resolve()).await?;
        let checksum = get.checksum;
        let request = self.request(target, get).ok_or_else(unsendable)?;
        let answer = self.connector.clone().exchange(request).await.map_err(|error| unreached(&error))?;
        let (head, body) = answer.into_parts();
        if head.status.is_success() {
            return Ok(answered(&head.headers, body, checksum));
        }
        match Limited::new(body, LONGEST_REFUSAL).collect().await {
            Ok(body) => Err(Failure::refused(head.status.as_u16(), &head.headers, &body.to_bytes())),
            Err(_) => Err(Failure::broken_off(head.status.as_u16())),
        }
    }

    async fn resolve(&self) -> Result<Target, Failure> {
        let endpoint = DefaultResolver::new().resolve_endpoint(&self.endpoint).await.map_err(|_| unsendable())?;
        let mut target = Target {
            base: endpoint.url().trim_end_matches('/').to_owned(),
            headers: HeaderMap::new(),
            service: "s3".into(),
            region: self.region.clone(),
        };
        for (name, values) in endpoint.headers() {
            for value in values {
                let header = (HeaderName::try_from(name), HeaderValue::try_from(value));
                let (Ok(name), Ok(value)) = header else { return Err(unsendable()) };
                target.headers.append(name, value);
            }
        }
        let schemes = endpoint.properties().get("authSchemes").and_then(Document::as_array);
        if let Some(scheme) = schemes.and_then(|schemes| schemes.first()).and_then(Document::as_object) {
            let word = |name: &str| scheme.get(name).and_then(Document::as_string);
            if word("name") != Some("sigv4") {
                return Err(unsendable());
            }
            target.service = word("signingName").map_or(target.service, Into::into);
            target.region = word("signingRegion").map_or(target.region, Into::into);
        }
        Ok(target)
    }

    /// `None` where a word of it cannot stand in a request.
    fn request(&self, target: &Target, get: Get<'_>) -> Option<http::Request<SdkBody>> {
        let uri = format!("{}/{}", target.base, keys::encoded(get.key));
        let mut request = http::Request::get(uri).body(SdkBody::empty()).ok()?;
        let headers = request.headers_mut();
        headers.extend(target.headers.clone());
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("millrace/", env!("CARGO_PKG_VERSION"))));
        for (name, value) in [
            (header::IF_MATCH, get.if_match),
            (header::IF_NONE_MATCH, get.if_none_match),
            (header::RANGE, get.range),
            (PAYER, self.requester_pays.then(|| "requester".into())),
            (CHECKSUM_MODE, get.checksum.then(|| "ENABLED".into())),
        ] {
            if let Some(value) = value {
                headers.insert(name, HeaderValue::try_from(value).ok()?);
            }
        }
        let current = self.credential.get();
        if let Some(keys) = keys_of(&current.credential) {
            self.sign(target, &mut request, &keys.into())?;
        }
        Some(request)
    }

    fn sign(&self, target: &Target, request: &mut http::Request<SdkBody>, keys: &Identity) -> Option<()> {
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        let parameters = SigningParams::builder()
            .identity(keys)
            .region(&target.region)
            .name(&target.service)
            .time(SystemTime::now())
            .settings(settings)
            .build()
            .ok()?;
        let uri = request.uri().to_string();
        let words = request.headers().iter().map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        let words: Vec<_> = words.collect::<Option<_>>()?;
        let signable = SignableRequest::new("GET", uri, words.into_iter(), SignableBody::Bytes(&[])).ok()?;
        let (instructions, _) = sign(signable, &parameters.into()).ok()?.into_parts();
        instructions.apply_to_request_http1x(request);
        Some(())
    }
}

/// Nothing of ours or of the credential's stands in the libraries' words for it, but nothing is promised about them either.
fn unsendable() -> Failure {
    Failure::new(ErrorKind::Other, "the request cannot be made")
}

fn answered(headers: &HeaderMap, body: SdkBody, checksum: bool) -> GetObjectOutput {
    let word = |name: &str| headers.get(name)?.to_str().ok();
    let sum = |name| word(name).map(str::to_owned);
    let body = match checksum.then(|| expected(word)).flatten() {
        Some((algorithm, sum)) => SdkBody::from_body_1_x(ChecksumBody::new(body, algorithm.into_impl(), sum)),
        None => body,
    };
    GetObjectOutput::builder()
        .set_e_tag(word(header::ETAG.as_str()).map(str::to_owned))
        .set_content_length(word(header::CONTENT_LENGTH.as_str()).and_then(|length| length.parse().ok()))
        .set_content_range(word(header::CONTENT_RANGE.as_str()).map(str::to_owned))
        .set_last_modified(
            word(header::LAST_MODIFIED.as_str()).and_then(|at| DateTime::from_str(at, DateTimeFormat::HttpDate).ok()),
        )
        .set_checksum_crc32(sum(CRC_32_HEADER_NAME))
        .set_checksum_crc32_c(sum(CRC_32_C_HEADER_NAME))
        .set_checksum_crc64_nvme(sum(CRC_64_NVME_HEADER_NAME))
        .set_checksum_sha1(sum(SHA_1_HEADER_NAME))
        .set_checksum_sha256(sum(SHA_256_HEADER_NAME))
        .set_checksum_type(word(CHECKSUM_TYPE).map(Into::into))
        .body(ByteStream::new(body))
        .build()
}

/// The checksum of a body that its head gives; none where it is one of the parts' sums (`sum-parts`).
fn expected<'a>(word: impl Fn(&str) -> Option<&'a str>) -> Option<(ChecksumAlgorithm, Bytes)> {
    let (algorithm, sum) = SUMS.into_iter().find_map(|(algorithm, header)| Some((algorithm, word(header)?)))?;
    Some((algorithm, BASE64.decode(sum.as_bytes()).ok()?.into()))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use aws_smithy_runtime_api::client::http::{
        HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
    };
    use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
    use aws_smithy_runtime_api::client::result::ConnectorError;
    use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

    use super::super::client::settings;
    use super::super::connector::Patience;
    use super::*;
    use crate::auth::{Credential, Secret};
    use crate::tunable::Span;

    /// Where a request goes, and for what region and service it is signed.
    type Sent = (String, String);

    /// Sends nothing.
    #[derive(Debug, Clone, Default)]
    struct Caught(Arc<Mutex<Option<Sent>>>);

    impl HttpConnector for Caught {
        fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
            let scope = scope(request.headers().get("authorization").unwrap());
            *self.0.lock().unwrap() = Some((request.uri().to_owned(), scope));
            HttpConnectorFuture::ready(Err(ConnectorError::user("it is only looked at".into())))
        }
    }

    impl HttpClient for Caught {
        fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
            SharedHttpConnector::new(self.clone())
        }
    }

    fn scope(authorization: &str) -> String {
        let scope = authorization.split_once("Credential=id/").unwrap().1.split_once(',').unwrap().0;
        scope.split_once('/').unwrap().1.to_owned()
    }

    fn direct(config: &Config) -> (Direct, auth::Current, Connector) {
        let credential =
            Credential::S3 { key_id: "id".into(), secret_key: Secret::new("secret".into()), session_token: None };
        let credential = auth::Current::new(credential);
        let connector = Connector::new(config, Patience::of(&Span::new(Duration::from_secs(1)))).unwrap();
        (Direct::new(config, credential.clone(), connector.clone()).unwrap(), credential, connector)
    }

    #[tokio::test]
    async fn a_request_goes_where_the_sdk_would_send_it() {
        let aws = |bucket: &str, region: &str| Config {
            endpoint: None,
            region: region.into(),
            path_style: false,
            ..Config::at("", bucket)
        };
        for config in [
            Config::at("http://127.0.0.1:9000", "data"),
            Config::at("https://[::1]:9000/under/a/path/", "data"),
            Config { path_style: false, ..Config::at("https://store.example", "data") },
            aws("data", "eu-central-1"),
            aws("with.dots", "us-east-1"),
            aws("data", "cn-north-1"),
            aws("arn:aws:s3:eu-west-1:123456789012:accesspoint/mine", "eu-west-1"),
            Config { path_style: true, ..aws("data", "us-west-2") },
        ] {
            let (direct, credential, connector) = direct(&config);
            for key in ["a", "dir/file.bin", "a b+c%d", "\u{e9}t\u{e9}/~'()*!&$=,;:@", "q?x#y\\z|{}[]^`\"<>", "%2F"] {
                let caught = Caught::default();
                let sdk = settings(&config, &credential, connector.clone()).http_client(caught.clone()).build();
                let get = aws_sdk_s3::Client::from_conf(sdk).get_object().bucket(&config.bucket).key(key);
                get.send().await.unwrap_err();
                let (theirs, theirs_scope) = caught.0.lock().unwrap().take().unwrap();
                let target = direct.resolve().await.unwrap();
                let request = direct.request(&target, Get { key, ..Get::default() }).unwrap();
                let signed = request.headers()["authorization"].to_str().unwrap();
                let ours = (format!("{}?x-id=GetObject", request.uri()), scope(signed));
                assert_eq!(ours, (theirs, theirs_scope));
            }
        }
    }

    #[test]
    fn a_body_is_compared_with_the_whole_objects_sum_alone() {
        for (given, algorithm) in [
            (&[][..], None),
            (&[("x-amz-checksum-crc32", "DUoRhQ==")], Some("crc32")),
            (&[("x-amz-checksum-sha256", "AAAA"), ("x-amz-checksum-crc32", "DUoRhQ==")], Some("crc32")),
            (&[("x-amz-checksum-crc32", "DUoRhQ==-3")], None),
            (&[("x-amz-checksum-crc32", "not base64")], None),
            (&[("x-amz-checksum-md99", "DUoRhQ==")], None),
        ] {
            let word = |name: &str| given.iter().find(|(given, _)| *given == name).map(|(_, value)| *value);
            let found = expected(word);
            assert_eq!(found.map(|(algorithm, _)| algorithm.as_str()), algorithm, "{given:?}");
        }
    }
}
