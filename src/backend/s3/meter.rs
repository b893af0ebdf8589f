//! What an S3 request is for and how it was answered, in the words of the metrics.

use http::{HeaderMap, Method, Uri};

use crate::backend::meter::UNREACHED;

/// What an S3 request is for, by its form.
pub(super) fn kind(method: &Method, uri: &Uri, headers: &HeaderMap) -> &'static str {
    let asks = |word: &str| {
        let words = uri.query().unwrap_or_default().split('&');
        words.map(|pair| pair.split('=').next().unwrap_or_default()).any(|given| given == word)
    };
    let copies = headers.contains_key("x-amz-copy-source");
    match *method {
        Method::HEAD => "stat",
        Method::GET if ["list-type", "versions", "uploads"].iter().any(|word| asks(word)) => "list",
        Method::GET if asks("uploadId") => "multipart",
        Method::GET => "read",
        Method::PUT if copies => "copy",
        Method::PUT => "write",
        Method::POST if asks("delete") => "remove",
        Method::POST if asks("uploads") || asks("uploadId") => "multipart",
        Method::DELETE if asks("uploadId") => "multipart",
        Method::DELETE => "remove",
        _ => "other",
    }
}

/// How a request was answered, by the HTTP status.
pub(super) fn status(status: Option<u16>) -> &'static str {
    match status {
        None => UNREACHED,
        Some(200..=399) => "ok",
        Some(404) => "not-found",
        Some(401 | 403) => "denied",
        Some(409 | 412 | 416) => "conflict",
        // S3 says SlowDown with 503.
        Some(429 | 503) => "throttled",
        Some(500..) => "fault",
        Some(_) => "refused",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backend::meter::answered;
    use crate::observability::metrics::{ProcessRecorder, STORE_REQUESTS};

    #[test]
    fn a_request_is_told_by_its_form() {
        for (method, uri, expected) in [
            ("GET", "/bucket/key", "read"),
            ("GET", "/bucket/key?x-id=GetObject", "read"),
            ("GET", "/bucket/uploads?x-id=GetObject", "read"),
            ("GET", "/bucket?list-type=2&prefix=a", "list"),
            ("GET", "/bucket?uploads", "list"),
            ("GET", "/bucket/key?uploadId=7", "multipart"),
            ("HEAD", "/bucket/key", "stat"),
            ("PUT", "/bucket/key?x-id=PutObject", "write"),
            ("PUT", "/bucket/key?partNumber=1&uploadId=7", "write"),
            ("POST", "/bucket/key?uploads", "multipart"),
            ("POST", "/bucket/key?uploadId=7", "multipart"),
            ("POST", "/bucket?delete", "remove"),
            ("DELETE", "/bucket/key", "remove"),
            ("DELETE", "/bucket/key?uploadId=7", "multipart"),
            ("PATCH", "/bucket/key", "other"),
        ] {
            let (method, at) = (method.parse().unwrap(), uri.parse().unwrap());
            assert_eq!(kind(&method, &at, &HeaderMap::new()), expected, "{method} {uri}");
        }
        let copy = HeaderMap::from_iter([("x-amz-copy-source".parse().unwrap(), "a".parse().unwrap())]);
        assert_eq!(kind(&Method::PUT, &"/bucket/key".parse().unwrap(), &copy), "copy");
    }

    #[test]
    fn every_answer_has_a_word_in_the_table() {
        let recorder = ProcessRecorder::default();
        metrics::with_local_recorder(&recorder, || {
            for code in [200, 206, 304, 404, 401, 403, 409, 412, 416, 429, 503, 500, 502, 400, 418] {
                answered("read", status(Some(code)), Duration::from_millis(2));
            }
            answered("read", status(None), Duration::from_secs(1));
        });
        let numbers = recorder.numbers();
        let of = |status| numbers.get(STORE_REQUESTS, &[("kind", "read"), ("status", status)]).unwrap_or_default();
        let counts = ["ok", "not-found", "denied", "conflict", "throttled", "fault", "unreached", "refused"].map(of);
        assert_eq!(counts, [3, 1, 2, 3, 2, 2, 1, 2]);
    }
}
