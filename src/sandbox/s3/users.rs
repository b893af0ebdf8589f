//! Who may do what: keys whose signatures are checked, and what each may touch.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Result, s3_error};

/// A key pair and its rights.
#[derive(Clone)]
pub struct User {
    /// Access key id.
    pub key_id: String,
    /// Secret access key.
    pub secret: String,
    /// Where there is one, requests must carry it as `x-amz-security-token`.
    pub session_token: Option<String>,
    /// What it may do.
    pub rights: Rights,
}

impl User {
    /// A user who may do everything.
    pub fn new(key_id: impl Into<String>, secret: impl Into<String>) -> User {
        User { key_id: key_id.into(), secret: secret.into(), session_token: None, rights: Rights::default() }
    }

    /// The same user with other rights.
    pub fn with(mut self, rights: Rights) -> User {
        self.rights = rights;
        self
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("key_id", &self.key_id).field("rights", &self.rights).finish_non_exhaustive()
    }
}

/// What a user may do; by default everything.
#[derive(Debug, Clone, Default)]
pub struct Rights {
    /// No request that changes anything.
    pub read_only: bool,
    /// `bucket/key-prefix`: only keys, and lists of prefixes, that begin so. Empty for all.
    pub under: Vec<String>,
}

impl Rights {
    /// Everything below one `bucket/key-prefix`, and nothing else.
    pub fn under(prefix: impl Into<String>) -> Rights {
        Rights { read_only: false, under: vec![prefix.into()] }
    }

    /// No write.
    pub fn read_only(mut self) -> Rights {
        self.read_only = true;
        self
    }

    fn reach(&self, path: &str) -> bool {
        self.under.is_empty() || self.under.iter().any(|prefix| path.starts_with(prefix))
    }

    /// # Errors
    /// AccessDenied where `bucket/key` is out of reach.
    pub(super) fn check(&self, bucket: &str, key: &str) -> S3Result<()> {
        match self.reach(&format!("{bucket}/{key}")) {
            true => Ok(()),
            false => Err(s3_error!(AccessDenied, "Access Denied")),
        }
    }
}

#[derive(Debug, Default)]
struct Known {
    users: HashMap<String, User>,
    anonymous: Option<Rights>,
}

/// The users of a server; they may change while it runs.
#[derive(Debug, Clone, Default)]
pub struct Users {
    known: Arc<RwLock<Known>>,
}

impl Users {
    /// Adds a user, or replaces the one with its key id.
    pub fn add(&self, user: User) {
        self.write().users.insert(user.key_id.clone(), user);
    }

    /// Forgets a key: its next request is InvalidAccessKeyId.
    pub fn remove(&self, key_id: &str) {
        self.write().users.remove(key_id);
    }

    /// What unsigned requests may do; `None`, the default, refuses them.
    pub fn set_anonymous(&self, rights: Option<Rights>) {
        self.write().anonymous = rights;
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, key_id: &str) -> Option<User> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).users.get(key_id).cloned()
    }

    fn anonymous(&self) -> Option<Rights> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).anonymous.clone()
    }
}

#[async_trait::async_trait]
impl S3Auth for Users {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let unknown = "The AWS Access Key Id you provided does not exist in our records.";
        let user = self.get(access_key).ok_or_else(|| s3_error!(InvalidAccessKeyId, "{unknown}"))?;
        Ok(SecretKey::from(user.secret))
    }
}

/// Runs after the signature was found good. Leaves the caller's [`Rights`] for what only the operation can judge: the
/// source of a copy, the keys of a batch.
#[async_trait::async_trait]
impl S3Access for Users {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let rights = match cx.credentials() {
            None => self.anonymous().ok_or_else(|| s3_error!(AccessDenied, "Access Denied"))?,
            Some(credentials) => {
                let user = self.get(&credentials.access_key).ok_or_else(|| s3_error!(InvalidAccessKeyId))?;
                let token = cx.headers().get("x-amz-security-token").map(|token| token.as_bytes());
                if token != user.session_token.as_deref().map(str::as_bytes) {
                    return Err(s3_error!(InvalidToken, "The provided token is malformed or otherwise invalid."));
                }
                user.rights
            }
        };
        let operation = cx.s3_op().name();
        let reads = ["Get", "Head", "List"].iter().any(|verb| operation.starts_with(verb));
        if rights.read_only && !reads {
            return Err(s3_error!(AccessDenied, "Access Denied"));
        }
        match (cx.s3_path().as_object(), cx.s3_path().as_bucket()) {
            (Some((bucket, key)), _) => rights.check(bucket, key)?,
            // Each key of a batch is judged by itself.
            (None, Some(_)) if operation == "DeleteObjects" => {}
            (None, Some(bucket)) => rights.check(bucket, &listed_prefix(cx.uri().query().unwrap_or_default()))?,
            (None, None) => rights.check("", "")?,
        }
        cx.extensions_mut().insert(rights);
        Ok(())
    }
}

fn listed_prefix(query: &str) -> String {
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    pairs.find(|(name, _)| name == "prefix").map(|(_, prefix)| prefix.into_owned()).unwrap_or_default()
}
