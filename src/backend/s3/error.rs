//! What an S3 server or the way to it answered, in fixed words, which a pod's events can carry.
//!
//! Of a server's error only its code, its region and its request id leave this room, for the log, and those only in their
//! usual alphabet: the message of SignatureDoesNotMatch echoes the whole request.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_xml::decode::{Document, try_data};
use http::HeaderMap;

use super::connector::Fault;
use crate::backend::{Error, ErrorKind, Op, Path};

/// A request that failed, before it is known for which operation and path it was made.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) kind: ErrorKind,
    /// The same request may succeed a moment later.
    pub(super) again: bool,
    /// HTTP status, where there was an answer.
    pub(super) status: Option<u16>,
    /// S3 error code, empty where there was none.
    pub(super) code: String,
    message: String,
    /// For the log.
    detail: String,
}

/// What a server said, in its own words.
#[derive(Clone, Copy)]
struct Refusal<'a> {
    status: u16,
    code: &'a str,
    text: &'a str,
    region: &'a str,
    request_id: &'a str,
}

impl Failure {
    /// A failure that no retry mends.
    pub(super) fn new(kind: ErrorKind, message: impl Into<String>) -> Failure {
        let (code, detail) = (String::new(), String::new());
        Failure { kind, again: false, status: None, code, message: message.into(), detail }
    }

    /// An answer that is not the one to what was asked.
    pub(super) fn corrupt(message: impl Into<String>) -> Failure {
        Failure::new(ErrorKind::Corrupt, message)
    }

    /// A failure that the same request may not meet again.
    pub(super) fn passing(kind: ErrorKind, message: impl Into<String>) -> Failure {
        Failure { again: true, ..Failure::new(kind, message) }
    }

    /// The store did not answer in time.
    pub(super) fn late(after: Duration) -> Failure {
        Failure::new(ErrorKind::Unavailable, format!("the store did not answer within {} s", after.as_secs_f32()))
    }

    /// As the seam's error.
    pub(super) fn at(self, op: Op, path: &Path) -> Error {
        Error::new(self.kind, op, path, self.message).with_detail(self.detail)
    }

    /// The same failure, left to the caller to look into.
    pub(super) fn once(self) -> Failure {
        Failure { again: false, ..self }
    }

    /// The answer with `status` did not come whole.
    pub(super) fn broken_off(status: u16) -> Failure {
        let why = "the store's answer broke off or cannot be understood";
        Failure::passing(ErrorKind::Unavailable, why).with(status, "").telling(format!("HTTP {status}"))
    }

    /// An answer that is no success, its body an XML document where it is S3's own (S3 API, "Error Responses").
    pub(super) fn refused(status: u16, headers: &HeaderMap, body: &[u8]) -> Failure {
        let word = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (code, text) = code_and_text(body).unwrap_or_default();
        let (region, request_id) = (word("x-amz-bucket-region"), word("x-amz-request-id"));
        Failure::judged(Refusal { status, code: &code, text: &text, region, request_id })
    }

    fn judged(refusal: Refusal<'_>) -> Failure {
        let Refusal { status, text, .. } = refusal;
        let code = plain(refusal.code, 64);
        let (kind, again, why) = judge(status, &code, text);
        let named = if code.is_empty() { format!("HTTP {status}") } else { format!("{code}, HTTP {status}") };
        let also = |what: &str, word: String| if word.is_empty() { word } else { format!(", {what} {word}") };
        let (request_id, region) = (plain(refusal.request_id, 128), plain(refusal.region, 32));
        let detail = format!("{named}{}{}", also("request", request_id), also("region", region));
        Failure { again, ..Failure::new(kind, why) }.with(status, &code).telling(detail)
    }

    fn telling(self, detail: impl Into<String>) -> Failure {
        Failure { detail: detail.into(), ..self }
    }

    fn with(self, status: u16, code: &str) -> Failure {
        Failure { status: Some(status), code: code.into(), ..self }
    }
}

impl<E: ProvideErrorMetadata> From<SdkError<E, HttpResponse>> for Failure {
    fn from(error: SdkError<E, HttpResponse>) -> Failure {
        match &error {
            SdkError::ServiceError(refused) => {
                let raw = refused.raw();
                Failure::judged(Refusal {
                    status: raw.status().as_u16(),
                    code: refused.err().code().unwrap_or_default(),
                    text: refused.err().message().unwrap_or_default(),
                    region: raw.headers().get("x-amz-bucket-region").unwrap_or_default(),
                    request_id: error.request_id().unwrap_or_default(),
                })
            }
            SdkError::DispatchFailure(unsent) => match unsent.as_connector_error() {
                Some(error) => unreached(error),
                None => Failure::passing(ErrorKind::Unavailable, "the request could not be sent"),
            },
            SdkError::ResponseError(response) => Failure::broken_off(response.raw().status().as_u16()),
            SdkError::TimeoutError(_) => Failure::passing(ErrorKind::Unavailable, "the store did not answer in time"),
            // Nothing of ours or of the credential's stands in the SDK's own words for a request it cannot build, but
            // nothing is promised about them either.
            _ => Failure::new(ErrorKind::Other, "the request cannot be made"),
        }
    }
}

/// What a refusal means, whether to ask again, and how to say it. The server's words, `text`, are looked at and never
/// shown.
fn judge(status: u16, code: &str, text: &str) -> (ErrorKind, bool, &'static str) {
    use ErrorKind::*;
    let says = |words: &str| text.to_ascii_lowercase().contains(words);
    match (code, status) {
        (
            "PermanentRedirect"
            | "TemporaryRedirect"
            | "AuthorizationHeaderMalformed"
            | "IllegalLocationConstraintException",
            _,
        )
        | (_, 301 | 307) => {
            (Misconfigured, false, "the bucket lies in another region: set the store's region and endpoint to it")
        }
        ("RequestTimeTooSkewed", _) => {
            (Misconfigured, false, "this node's clock and the store's differ too much: set the node's clock by NTP")
        }
        ("NoSuchBucket", _) => {
            (Misconfigured, false, "the bucket does not exist: name another in the store, or make it")
        }
        ("InvalidBucketName", _) => (Misconfigured, false, "the bucket's name is not a valid one"),
        ("InvalidAccessKeyId", _) => (Unauthenticated, false, "the store does not know the access key id"),
        ("SignatureDoesNotMatch", _) => (
            Unauthenticated,
            false,
            "the secret key does not fit the access key id, or the request was changed on its way",
        ),
        ("ExpiredToken" | "TokenRefreshRequired" | "RequestExpired", _) => {
            (Unauthenticated, false, "the session token has expired")
        }
        ("InvalidToken", _) => (Unauthenticated, false, "the store does not accept the session token"),
        ("InvalidObjectState" | "ObjectInArchive", _) => {
            (Denied, false, "the object lies in an archive storage class: restore it first")
        }
        ("InvalidRequest", 400) if says("server side encryption") || says("server-side encryption") => (
            Denied,
            false,
            "the object is encrypted with a key of its writer's (SSE-C), which the driver does not have",
        ),
        (code, _) if code.starts_with("KMS.") => (Denied, false, "the KMS key cannot be used"),
        (_, 403) if says("kms:") => (Denied, false, "the KMS key of the encryption refuses this identity"),
        ("AccessDenied" | "AllAccessDisabled" | "AccountProblem", _) | (_, 403) => {
            (Denied, false, "the store refuses this identity")
        }
        ("NoSuchUpload", _) => (Other, false, "the store no longer knows the unfinished upload"),
        ("NoSuchKey" | "NotFound" | "NoSuchVersion", _) | (_, 404) => (NotFound, false, "nothing lies there"),
        ("InvalidRange", _) | (_, 412 | 416) => (Stale, false, "the object is no longer that version"),
        ("ConditionalRequestConflict" | "OperationAborted", _) => {
            (Unavailable, true, "another operation on the object was under way")
        }
        ("ObjectParentIsFile", _) => (NotADirectory, false, "a part of the path is a file in this store"),
        ("ExistingObjectIsDirectory", _) => (IsADirectory, false, "a directory lies there in this store"),
        ("SlowDown" | "TooManyRequests" | "RequestLimitExceeded" | "ThrottlingException" | "Throttling", _)
        | (_, 429) => (Throttled, true, "the store asks for fewer requests"),
        ("RequestTimeout" | "IncompleteBody", _) => (Unavailable, true, "the request did not arrive whole"),
        ("BadDigest" | "XAmzContentChecksumMismatch" | "XAmzContentSHA256Mismatch", _) => {
            (Corrupt, true, "the bytes were changed on their way to the store")
        }
        ("EntityTooLarge", _) => (TooLarge, false, "the object is too large for this store"),
        ("KeyTooLongError" | "KeyTooLong", _) => (NameTooLong, false, "the name is too long for this store"),
        ("InvalidURI" | "InvalidObjectName" | "XMinioInvalidObjectName", _) => {
            (InvalidName, false, "the name is not allowed in this store")
        }
        ("QuotaExceeded" | "QuotaLimitReached" | "XMinioStorageFull" | "XMinioAdminBucketQuotaExceeded", _)
        | (_, 507) => (NoSpace, false, "the store is full or its quota is used up"),
        ("NotImplemented" | "MethodNotAllowed", _) | (_, 405 | 501) => {
            (Unsupported, false, "this store does not know the operation")
        }
        (_, 500..=599) => (Unavailable, true, "the store has a fault"),
        _ => (Other, false, "the store refuses the request"),
    }
}

/// What stands in `Code` and `Message` of an error document.
fn code_and_text(body: &[u8]) -> Option<(String, String)> {
    let mut document = Document::try_from(body).ok()?;
    let mut root = document.root_element().ok().filter(|root| root.start_el().matches("Error"))?;
    let (mut code, mut text) = (String::new(), String::new());
    while let Some(mut tag) = root.next_tag() {
        let word = match tag.start_el().local() {
            "Code" => &mut code,
            "Message" => &mut text,
            _ => continue,
        };
        *word = try_data(&mut tag).ok()?.into_owned();
    }
    Some((code, text))
}

/// No answer came.
pub(super) fn unreached(error: &(dyn StdError + 'static)) -> Failure {
    let mut fault = None;
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(why) = untrusted(cause) {
            let message = "the store's certificate is not trusted: name its CA in the store's caBundle";
            return Failure::new(ErrorKind::Misconfigured, message).telling(why);
        }
        fault = fault.or(cause.downcast_ref::<Fault>());
        next = cause.source();
    }
    let why = fault.map_or_else(|| "connection lost".into(), Fault::to_string);
    Failure::passing(ErrorKind::Unavailable, "the store cannot be reached").telling(why)
}

/// Rustls's reason, where `error` is its refusal of a certificate. An `io::Error` hides what it holds from `source`.
fn untrusted(error: &(dyn StdError + 'static)) -> Option<String> {
    let held = error.downcast_ref::<io::Error>().and_then(|io| io.get_ref());
    let tls = match held {
        Some(held) => return untrusted(held),
        None => error.downcast_ref::<rustls::Error>()?,
    };
    matches!(tls, rustls::Error::InvalidCertificate(_)).then(|| tls.to_string())
}

/// At most `most` characters of the alphabet that codes, regions and request ids are made of.
fn plain(text: &str, most: usize) -> String {
    let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '+' | '/' | '=' | ':');
    text.chars().take_while(allowed).take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: u16, code: &str, text: &str) -> (ErrorKind, bool) {
        let (kind, again, why) = judge(status, code, text);
        assert!(!why.is_empty());
        (kind, again)
    }

    #[test]
    fn refusals_have_a_meaning_of_their_own() {
        use ErrorKind::*;
        for (status, code, text, kind, again) in [
            (301, "PermanentRedirect", "", Misconfigured, false),
            (301, "", "", Misconfigured, false),
            (400, "AuthorizationHeaderMalformed", "", Misconfigured, false),
            (403, "RequestTimeTooSkewed", "", Misconfigured, false),
            (404, "NoSuchBucket", "", Misconfigured, false),
            (403, "SignatureDoesNotMatch", "", Unauthenticated, false),
            (403, "InvalidAccessKeyId", "", Unauthenticated, false),
            (400, "ExpiredToken", "", Unauthenticated, false),
            (403, "AccessDenied", "", Denied, false),
            (403, "AccessDenied", "not authorized to perform: kms:Decrypt", Denied, false),
            (403, "", "", Denied, false),
            (403, "InvalidObjectState", "", Denied, false),
            (400, "InvalidRequest", "stored using a form of Server Side Encryption", Denied, false),
            (400, "KMS.DisabledException", "", Denied, false),
            (404, "NoSuchKey", "", NotFound, false),
            (412, "PreconditionFailed", "", Stale, false),
            (409, "ConditionalRequestConflict", "", Unavailable, true),
            (503, "SlowDown", "", Throttled, true),
            (503, "ServiceUnavailable", "", Unavailable, true),
            (500, "InternalError", "", Unavailable, true),
            (501, "NotImplemented", "", Unsupported, false),
            (418, "Teapot", "", Other, false),
        ] {
            assert_eq!(judged(status, code, text), (kind, again), "{status} {code} {text}");
        }
    }

    #[test]
    fn a_refusal_is_told_by_its_document_as_far_as_there_is_one() {
        let document = |inner: &str| format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error>{inner}</Error>");
        let slow = document("<Code>SlowDown</Code><Message>Please &lt;reduce&gt;</Message><Resource/>");
        for (status, body, kind, again, code) in [
            (503, &*slow, ErrorKind::Throttled, true, "SlowDown"),
            (404, &document("<Code>NoSuchBucket</Code>"), ErrorKind::Misconfigured, false, "NoSuchBucket"),
            (404, "", ErrorKind::NotFound, false, ""),
            (502, "<html><body>Bad Gateway</body></html>", ErrorKind::Unavailable, true, ""),
            (503, "<Error><Code>SlowDown", ErrorKind::Throttled, true, "SlowDown"),
            (412, "\u{0}\u{1}", ErrorKind::Stale, false, ""),
        ] {
            let failure = Failure::refused(status, &HeaderMap::new(), body.as_bytes());
            assert_eq!((failure.kind, failure.again, &*failure.code), (kind, again, code), "{status} {body}");
        }
        let headers = HeaderMap::from_iter([("x-amz-request-id".parse().unwrap(), "44 42".parse().unwrap())]);
        assert_eq!(Failure::refused(503, &headers, slow.as_bytes()).detail, "SlowDown, HTTP 503, request 44");
    }

    #[test]
    fn only_the_usual_alphabet_leaves() {
        assert_eq!(plain("SlowDown", 64), "SlowDown");
        assert_eq!(plain("Slow\nDown <secret>", 64), "Slow");
        assert_eq!(plain(&"x".repeat(500), 64).len(), 64);
    }
}
