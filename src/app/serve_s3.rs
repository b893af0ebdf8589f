//! `millrace serve-s3`: the embedded S3 server as a process of its own, for tests that need one to outlive them.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde::Deserialize;
use serde_json::json;

use super::until_told_to_stop;
use crate::sandbox::s3::{Conditions, Counters, Options, Rights, Server, User};

/// How often the counters are looked at, and the file.
const PULSE: Duration = Duration::from_millis(500);

/// The file that says what to serve. Who may do what, and whether an answer comes, may change meanwhile; the rest is as
/// it was at the start.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Words {
    listen: SocketAddr,
    #[serde(default)]
    tls: bool,
    buckets: Vec<String>,
    users: Vec<UserWords>,
    /// What unsigned requests may do; without it nothing.
    anonymous: Option<RightsWords>,
    /// Takes requests and answers none.
    #[serde(default)]
    silent: bool,
    #[serde(default)]
    objects: Vec<ObjectWords>,
    #[serde(default)]
    files: Vec<FilesWords>,
    #[serde(default)]
    series: Vec<SeriesWords>,
    /// Milliseconds until an answer's first byte.
    #[serde(default)]
    first_byte_ms: u64,
    /// Bytes a second on each connection.
    per_connection: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct UserWords {
    key_id: String,
    access_key: String,
    /// `bucket/key-prefix`es; everything where there is none.
    #[serde(default)]
    under: Vec<String>,
    #[serde(default)]
    read_only: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RightsWords {
    #[serde(default)]
    under: Vec<String>,
    #[serde(default)]
    read_only: bool,
}

impl std::fmt::Debug for UserWords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserWords").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// An object whose bytes are computed and kept nowhere.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ObjectWords {
    bucket: String,
    key: String,
    seed: u64,
    size: u64,
}

/// The files below a directory of this machine, read once.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FilesWords {
    bucket: String,
    prefix: String,
    directory: PathBuf,
}

/// Objects of one size whose keys are `prefix`, four digits, `/` and three: a thousand in each folder.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SeriesWords {
    bucket: String,
    prefix: String,
    count: u64,
    size: u64,
}

/// Serves what `file` says until told to stop. Prints its endpoint, then the counters, as a line of JSON whenever they
/// have changed.
///
/// # Errors
/// A file that cannot be read, an address that cannot be had.
pub(super) async fn run(file: &Path) -> anyhow::Result<()> {
    let mut text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut words = understood(&text).with_context(|| file.display().to_string())?;
    let stop = until_told_to_stop()?;
    let server = start(&words).await?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", json!({ "endpoint": server.endpoint(), "ca": server.ca_pem() }))?;
    let mut told = Counters::default();
    let mut pulse = tokio::time::interval(PULSE);
    while stop.run_until_cancelled(pulse.tick()).await.is_some() {
        let counters = server.counters();
        if counters != told {
            writeln!(out, "{}", shown(&counters))?;
            told = counters;
        }
        let now = std::fs::read_to_string(file).unwrap_or_default();
        if now == text {
            continue;
        }
        text = now;
        match understood(&text) {
            Ok(changed) => {
                follow(&server, &words, &changed);
                words = changed;
            }
            Err(error) => tracing::warn!("{}: what it said before stays in force: {error:#}", file.display()),
        }
    }
    Ok(())
}

fn understood(text: &str) -> anyhow::Result<Words> {
    // As many objects as whoever starts it likes: it is his own machine.
    Ok(serde_saphyr::from_str_with_options(text, serde_saphyr::options! { budget: None })?)
}

async fn start(words: &Words) -> anyhow::Result<Server> {
    let conditions = Conditions {
        first_byte: Duration::from_millis(words.first_byte_ms),
        per_connection: words.per_connection,
        silent: words.silent,
        ..Conditions::default()
    };
    let options = Options {
        users: words.users.iter().map(user).collect(),
        buckets: words.buckets.clone(),
        conditions,
        tls: words.tls,
        listen: Some(words.listen),
        ..Options::default()
    };
    let server = Server::start(options).await.with_context(|| format!("cannot listen on {}", words.listen))?;
    server.users().set_anonymous(words.anonymous.as_ref().map(rights));
    for ObjectWords { bucket, key, seed, size } in &words.objects {
        server.put_computed(bucket, key, *seed, *size);
    }
    for FilesWords { bucket, prefix, directory } in &words.files {
        put_files(&server, bucket, prefix, directory).with_context(|| directory.display().to_string())?;
    }
    for SeriesWords { bucket, prefix, count, size } in &words.series {
        for number in 0..*count {
            let key = format!("{prefix}{:04}/{:03}", number / 1000, number % 1000);
            server.put_computed(bucket, &key, number, *size);
        }
    }
    Ok(server)
}

fn put_files(server: &Server, bucket: &str, prefix: &str, dir: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name =
            entry.file_name().into_string().map_err(|name| anyhow::anyhow!("{} is not UTF-8", name.display()))?;
        match entry.file_type()? {
            kind if kind.is_dir() => put_files(server, bucket, &format!("{prefix}{name}/"), &entry.path())?,
            kind if kind.is_file() => {
                server.put(bucket, &format!("{prefix}{name}"), std::fs::read(entry.path())?);
            }
            _ => {}
        }
    }
    Ok(())
}

/// Changes what may change, from `before` to `now`.
fn follow(server: &Server, before: &Words, now: &Words) {
    let stays = |key: &str| now.users.iter().any(|user| user.key_id == key);
    before.users.iter().filter(|user| !stays(&user.key_id)).for_each(|user| server.users().remove(&user.key_id));
    now.users.iter().for_each(|words| server.users().add(user(words)));
    server.users().set_anonymous(now.anonymous.as_ref().map(rights));
    server.faults().adjust(|conditions| conditions.silent = now.silent);
}

fn user(words: &UserWords) -> User {
    let rights = Rights { read_only: words.read_only, under: words.under.clone() };
    User::new(&words.key_id, &words.access_key).with(rights)
}

fn rights(words: &RightsWords) -> Rights {
    Rights { read_only: words.read_only, under: words.under.clone() }
}

fn shown(counters: &Counters) -> serde_json::Value {
    let requests: serde_json::Map<_, _> =
        counters.requests.iter().map(|(kind, count)| (format!("{kind:?}"), (*count).into())).collect();
    json!({ "requests": requests, "bodyBytes": counters.body_bytes, "connections": counters.connections })
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::sandbox::raw::Raw;

    #[test]
    fn as_many_objects_are_served_as_the_file_has() {
        let object = |number: u64| format!("{{bucket: b, key: k/{number}, seed: {number}, size: 5}}");
        let objects: Vec<_> = (0..60_000).map(object).collect();
        let text = format!("{{listen: '127.0.0.1:0', buckets: [b], users: [], objects: [{}]}}", objects.join(", "));
        assert_eq!(understood(&text).unwrap().objects.len(), 60_000);
    }

    #[tokio::test]
    async fn who_may_do_what_follows_the_file() {
        let file = |more: &str| format!("{{listen: '127.0.0.1:0', buckets: [bucket], {more}}}");
        let alice = "users: [{keyId: alice, accessKey: hers}]";
        let mut words = understood(&file(alice)).unwrap();
        let server = start(&words).await.unwrap();
        server.put("bucket", "k", "x");
        let raw = |key: &str, secret: &str| Raw::new(server.access("bucket", &User::new(key, secret))).unwrap();
        let status =
            async |raw: Raw| raw.request(Method::GET, "k", "", &[], Default::default()).await.unwrap().status();
        assert_eq!(status(raw("alice", "hers")).await, 200);
        assert_eq!(status(raw("bob", "his")).await, 403);
        for (more, of_alice, of_bob) in [
            ("users: [{keyId: bob, accessKey: his}]", 403, 200),
            ("users: [{keyId: alice, accessKey: new}, {keyId: bob, accessKey: his, under: [bucket/other]}]", 403, 403),
            (alice, 200, 403),
        ] {
            let now = understood(&file(more)).unwrap();
            follow(&server, &words, &now);
            words = now;
            assert_eq!(status(raw("alice", "hers")).await, of_alice, "{more}");
            assert_eq!(status(raw("bob", "his")).await, of_bob, "{more}");
        }
        follow(&server, &words, &understood(&file("users: [], silent: true")).unwrap());
        assert!(server.faults().conditions().silent);
        assert!(understood(&file("users: [], nonsense: 1")).is_err());
    }
}
