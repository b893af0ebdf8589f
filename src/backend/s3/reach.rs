//! Whether a store answers at all, without a credential.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use super::Config;
use crate::backend::dial::Dial;
use crate::backend::{Error, ErrorKind, Op, Path, Result};

/// Asks for the bucket without signing. Any answer is one, also a refusal: only what says that the store is in trouble
/// (5xx) is an error.
///
/// # Errors
/// `Misconfigured` for words no client can be built from, `Unavailable` where no answer came within `deadline`,
/// `Throttled` where the answer was 5xx.
pub(in crate::backend) async fn reach(config: &Config, deadline: Duration) -> Result<()> {
    let error = |kind, why: String| Error::new(kind, Op::Connect, &Path::root(), why);
    let wrong = |why: String| error(ErrorKind::Misconfigured, why);
    let request = Request::builder().method(Method::HEAD).uri(address(config)).body(Empty::<Bytes>::new());
    let request = request.map_err(|why| wrong(why.to_string()))?;
    let dial = Dial::new(config.ca_bundle.as_deref(), config.proxy.as_deref(), deadline).map_err(wrong)?;
    let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(dial);
    match tokio::time::timeout(deadline, client.request(request)).await {
        Ok(Ok(answer)) if answer.status().is_server_error() && answer.status() != StatusCode::NOT_IMPLEMENTED => {
            Err(error(ErrorKind::Throttled, format!("the store answers {}", answer.status())))
        }
        Ok(Ok(_)) => Ok(()),
        Ok(Err(why)) => {
            let mut text = why.to_string();
            let mut next = std::error::Error::source(&why);
            while let Some(cause) = next {
                text = format!("{text}: {cause}");
                next = cause.source();
            }
            Err(error(ErrorKind::Unavailable, "the store cannot be reached".to_owned()).with_detail(text))
        }
        Err(_) => Err(error(ErrorKind::Unavailable, format!("no answer within {} s", deadline.as_secs_f32()))),
    }
}

fn address(config: &Config) -> String {
    match &config.endpoint {
        Some(endpoint) => format!("{}/{}", endpoint.trim_end_matches('/'), config.bucket),
        None => format!("https://{}.s3.{}.amazonaws.com/", config.bucket, config.region),
    }
}
