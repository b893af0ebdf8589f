//! Writes whose replies are lost, conflict, or carry an error.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Method;

use super::answers::{put_of, store, store_at};
use super::scripted::{Answer, Asked, Scripted, head, refusal};
use super::*;

/// A store of one object, `f`, that loses replies.
struct OneObject {
    /// The nonce it carries.
    nonce: Mutex<String>,
    puts: AtomicUsize,
}

#[tokio::test]
async fn a_412_after_a_lost_reply_is_settled_by_the_nonce() {
    for ours in [true, false] {
        let object = Arc::new(OneObject { nonce: Mutex::default(), puts: AtomicUsize::new(0) });
        let server = Scripted::start(move |asked: Asked| {
            if put_of(&asked) {
                if object.puts.fetch_add(1, Ordering::SeqCst) > 0 {
                    return refusal(412, "PreconditionFailed", "");
                }
                assert_eq!(asked.header("if-none-match"), "*");
                let nonce = if ours { asked.header("x-amz-meta-millrace-write") } else { "another" };
                *object.nonce.lock().unwrap() = nonce.to_owned();
                return Answer::Reset;
            }
            let nonce = object.nonce.lock().unwrap().clone();
            let headers = [("etag", "\"n\""), ("content-length", "4"), ("x-amz-meta-millrace-write", nonce.as_str())];
            Answer::Whole(head(200, &headers, ""))
        })
        .await;
        let mut upload = begin(&*store(&server).await, "f", Base::Absent).await;
        upload.write(Bytes::from_static(b"data")).await.unwrap();
        let published = upload.publish(&Attributes::default()).await;
        match ours {
            true => assert_eq!(&*published.unwrap().version().unwrap().bytes, "n"),
            false => assert_eq!(published.unwrap_err().kind, ErrorKind::Stale),
        }
    }
}

#[tokio::test]
async fn a_conflict_on_put_is_asked_again() {
    let server = Scripted::start(|asked: Asked| match (put_of(&asked), asked.number) {
        (true, 0..3) => refusal(409, "ConditionalRequestConflict", ""),
        (true, _) => Answer::Whole(head(200, &[("etag", "\"n\"")], "")),
        (false, _) => Answer::Whole(head(200, &[("etag", "\"n\""), ("content-length", "0")], "")),
    })
    .await;
    let mut upload = begin(&*store(&server).await, "f", Base::Absent).await;
    assert!(upload.publish(&Attributes::default()).await.is_ok());
}

/// A multipart store whose completion first answers 409 so many times, and whose HEAD finds `found`.
async fn completed_after(conflicts: usize, found: Option<&'static str>) -> Result<Meta> {
    let completions = AtomicUsize::new(0);
    let server = Scripted::start(move |asked: Asked| {
        let target = asked.target.as_str();
        match asked.method.as_str() {
            "POST" if target.contains("uploads") => {
                let body = "<InitiateMultipartUploadResult><UploadId>U</UploadId></InitiateMultipartUploadResult>";
                Answer::Whole(head(200, &[], body))
            }
            "PUT" => Answer::Whole(head(200, &[("etag", "\"part\"")], "")),
            "POST" if completions.fetch_add(1, Ordering::SeqCst) < conflicts => {
                refusal(409, "ConditionalRequestConflict", "")
            }
            "POST" => {
                let body = "<CompleteMultipartUploadResult><ETag>\"n\"</ETag></CompleteMultipartUploadResult>";
                Answer::Whole(head(200, &[], body))
            }
            "DELETE" => Answer::Whole(head(204, &[], "")),
            _ => match found {
                Some(etag) => Answer::Whole(head(200, &[("etag", etag), ("content-length", "9")], "")),
                None => Answer::Whole(head(404, &[], "")),
            },
        }
    })
    .await;
    let mut upload = begin(&*store(&server).await, "f", Base::Absent).await;
    upload.write(noise(9 * MIB).into()).await.unwrap();
    upload.publish(&Attributes::default()).await
}

#[tokio::test]
async fn a_conflict_on_completion_is_looked_into() {
    assert!(completed_after(1, None).await.is_ok());
    assert_eq!(completed_after(1, Some("\"x\"")).await.unwrap_err().kind, ErrorKind::Stale);
    assert_eq!(completed_after(2, None).await.unwrap_err().kind, ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_success_that_carries_an_error_is_none() {
    let server = Scripted::start(|asked: Asked| match asked.method {
        Method::POST if asked.target.contains("uploads") => {
            let body = "<InitiateMultipartUploadResult><UploadId>U</UploadId></InitiateMultipartUploadResult>";
            Answer::Whole(head(200, &[], body))
        }
        Method::PUT => Answer::Whole(head(200, &[("etag", "\"part\"")], "")),
        Method::POST => refusal(200, "InternalError", ""),
        Method::DELETE => Answer::Whole(head(204, &[], "")),
        _ => Answer::Whole(head(404, &[], "")),
    })
    .await;
    let mut upload = begin(&*store_at(&server, Duration::from_secs(1)), "f", Base::Absent).await;
    upload.write(noise(9 * MIB).into()).await.unwrap();
    assert!(upload.publish(&Attributes::default()).await.is_err());
}

#[tokio::test]
async fn a_publish_that_was_cut_off_is_not_gone_on_with() {
    let server = Scripted::start(|_| Answer::Silence).await;
    let mut upload = begin(&*store(&server).await, "f", Base::Absent).await;
    upload.write(Bytes::from_static(b"first")).await.unwrap();
    let attributes = Attributes::default();
    assert!(tokio::time::timeout(Duration::from_millis(300), upload.publish(&attributes)).await.is_err());
    // The five bytes went with the request: what follows them must never become the file.
    assert!(upload.write(Bytes::from_static(b"second")).await.is_err());
    assert!(upload.publish(&attributes).await.is_err());
}

#[tokio::test]
async fn a_failed_publish_from_memory_can_be_repeated() {
    let server = Scripted::start(|asked: Asked| match (put_of(&asked), asked.body.as_ref()) {
        (true, b"first") => refusal(403, "AccessDenied", ""),
        (true, _) => Answer::Whole(head(200, &[("etag", "\"n\"")], "")),
        (false, _) => Answer::Whole(head(200, &[("etag", "\"n\""), ("content-length", "11")], "")),
    })
    .await;
    let mut upload = begin(&*store(&server).await, "f", Base::Absent).await;
    upload.write(Bytes::from_static(b"first")).await.unwrap();
    assert_eq!(upload.publish(&Attributes::default()).await.unwrap_err().kind, ErrorKind::Denied);
    upload.write(Bytes::from_static(b"second")).await.unwrap();
    assert_eq!(upload.publish(&Attributes::default()).await.unwrap().size(), 11);
    let put = server.asked().into_iter().rfind(put_of).unwrap();
    assert!(put.body.windows(11).any(|bytes| bytes == b"firstsecond"), "{put:?}");
}
