//! Who asks, where a name node demands Kerberos: it gives a delegation token to whom its KDC proves, and takes that for a
//! while in the place of a proof with every request.
//!
//! The proof goes both ways. A server that does not demand one, or cannot give its own, is none that is spoken to.

use std::sync::Arc;

use data_encoding::BASE64;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use percent_encoding::utf8_percent_encode;
use tokio::sync::Mutex;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::answers::{Given, Thrown};
use super::{IN_QUERY, LARGEST_ANSWER, WebHdfs, refused, unreached};
use crate::auth::Secret;
use crate::backend::ErrorKind;
use crate::backend::hdfs::error::{Failure, Outcome};
use crate::backend::hdfs::identity::Identity;
use crate::backend::hdfs::kerberos::{Login, Proof};

/// The token in force, and since when it is.
#[derive(Debug, Default)]
pub(super) struct Delegation(Mutex<Option<(Secret, Instant)>>);

impl WebHdfs {
    /// The words of a request that say who asks; a token is asked for where there is none that is young enough.
    pub(super) async fn who(&self, address: &str) -> Outcome<Zeroizing<String>> {
        let login = match &self.identity {
            Identity::Claimed(user) => {
                return Ok(Zeroizing::new(format!("&user.name={}", utf8_percent_encode(user, IN_QUERY))));
            }
            Identity::Delegated(token) => return Ok(words(&token.in_force()?.url_text())),
            Identity::Proven(login) => login,
        };
        let mut held = self.delegation.0.lock().await;
        if let Some((token, since)) = &*held
            && since.elapsed() < login.lifetime()
        {
            return Ok(words(token));
        }
        let token = self.token(login, address).await?;
        Ok(words(&held.insert((token, Instant::now())).0))
    }

    /// The token of these words is not used any more. False where there is no such.
    pub(super) async fn forget(&self, who: &str) -> bool {
        let mut held = self.delegation.0.lock().await;
        held.take_if(|(token, _)| *words(token) == who).is_some()
    }

    /// Proves to the server at `address` who asks, for a token.
    async fn token(&self, login: &Arc<Login>, address: &str) -> Outcome<Secret> {
        let url = url::Url::parse(address).map_err(|_| Failure::corrupt("a WebHDFS address that is no URL"))?;
        let service = format!("HTTP@{}", url.host_str().unwrap_or_default());
        let login = login.clone();
        let begun = tokio::task::spawn_blocking(move || Proof::begin(&login, &service)).await;
        let (proof, token) =
            begun.map_err(|_| Failure::new(ErrorKind::Other, "the Kerberos library failed (a panic)"))??;
        let token = Zeroizing::new(format!("Negotiate {}", BASE64.encode(&token)));
        let mut header = HeaderValue::from_str(&token).map_err(|_| Failure::corrupt("a proof that is no header"))?;
        header.set_sensitive(true);
        let request = Request::get(format!("{address}/webhdfs/v1/?op=GETDELEGATIONTOKEN"))
            .header(AUTHORIZATION, header)
            .body(Empty::new())
            .map_err(|_| Failure::corrupt("a WebHDFS address that is no URL"))?;
        let answer = self.http.request(request).await.map_err(|_| unreached("WebHDFS cannot be reached"))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = Limited::new(answer.into_body(), LARGEST_ANSWER).collect().await;
        let body = body.map_err(|_| unreached("the connection broke in the middle of an answer"))?.to_bytes();
        if !status.is_success() {
            return Err(not_given(status, &headers, &body));
        }
        let theirs = negotiated(&headers).filter(|theirs| !theirs.is_empty()).ok_or_else(no_kerberos)?;
        proof.finish(&theirs)?;
        let Given { token } = serde_json::from_slice(&body)
            .map_err(|_| Failure::corrupt("a name node's answer by WebHDFS cannot be understood"))?;
        Ok(Secret::new(token.url_string))
    }
}

fn words(token: &Secret) -> Zeroizing<String> {
    Zeroizing::new(format!("&delegation={}", utf8_percent_encode(token.expose(), IN_QUERY)))
}

/// Why a proof did not lead to a token.
fn not_given(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Failure {
    let failure = refused(status, body);
    let is_thrown = serde_json::from_slice::<Thrown>(body).is_ok();
    match status {
        _ if failure.passing => failure,
        // Hadoop's filter before WebHDFS, which takes the proof or does not.
        StatusCode::UNAUTHORIZED if negotiated(headers).is_none() => no_kerberos(),
        StatusCode::UNAUTHORIZED => not_taken(status),
        StatusCode::FORBIDDEN if !is_thrown => not_taken(status),
        // WebHDFS itself, which nobody had to prove anything to.
        _ if negotiated(headers).is_none() => no_kerberos(),
        _ => failure,
    }
}

fn not_taken(status: StatusCode) -> Failure {
    let why = "WebHDFS does not accept the mount's Kerberos ticket";
    Failure { detail: format!("HTTP {}", status.as_u16()), ..Failure::new(ErrorKind::Unauthenticated, why) }
}

fn no_kerberos() -> Failure {
    let why = "the name node does not demand Kerberos, and this store has authentication: kerberos: nothing that it said \
               would be proved";
    Failure::new(ErrorKind::Misconfigured, why)
}

/// What the server says in turn; empty where it only names the scheme.
fn negotiated(headers: &HeaderMap) -> Option<Vec<u8>> {
    headers.get_all(WWW_AUTHENTICATE).iter().find_map(|value| {
        let rest = value.to_str().ok()?.strip_prefix("Negotiate")?;
        BASE64.decode(rest.trim().as_bytes()).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_demands_no_proof_is_told_from_one_that_takes_none() {
        let thrown = br#"{"RemoteException":{"exception":"IOException","message":"canary","javaClassName":"java.io.IOException"}}"#;
        let standby = br#"{"RemoteException":{"exception":"StandbyException","message":"canary"}}"#;
        for (status, scheme, body, kind) in [
            (401, None, &b""[..], ErrorKind::Misconfigured),
            (401, Some("PseudoAuth"), b"", ErrorKind::Misconfigured),
            (401, Some("Negotiate"), b"", ErrorKind::Unauthenticated),
            (403, None, b"<html>", ErrorKind::Unauthenticated),
            (403, None, thrown, ErrorKind::Misconfigured),
            (403, Some("Negotiate AAAA"), thrown, ErrorKind::Other),
            (403, None, standby, ErrorKind::Unavailable),
            (503, None, b"", ErrorKind::Unavailable),
        ] {
            let mut headers = HeaderMap::new();
            headers.extend(scheme.map(|scheme| (WWW_AUTHENTICATE, HeaderValue::from_static(scheme))));
            let failure = not_given(StatusCode::from_u16(status).unwrap(), &headers, body);
            assert_eq!(failure.kind, kind, "{status} {scheme:?}: {failure}");
            assert!(!failure.to_string().contains("canary"));
        }
    }
}
