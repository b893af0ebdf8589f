//! One isolated SDK client a volume, and the patience with which it asks.
//!
//! The configuration is built word by word: nothing of the environment, of profiles or of the node's metadata service
//! can reach it. The SDK's own retry is off; [`Client::ask`] retries inside a time budget, since a store that asks for
//! less does not count our attempts.

use std::fmt;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Builder, IdentityCache, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::types::RequestPayer;
use backon::{ExponentialBuilder, Retryable};
use futures::FutureExt;
use tracing::instrument::WithSubscriber;
use tracing::subscriber::NoSubscriber;

use super::connector::{Connector, Patience};
use super::direct::Direct;
use super::error::Failure;
use super::keys::Keys;
use super::schedule::Schedule;
use super::{Checksums, Config};
use crate::auth::{self, Credential};
use crate::backend::together::Together;
use crate::backend::turns::Turns;
use crate::backend::{Error, ErrorKind, Limits, Op, Path, Result};
use crate::observability::metrics::STORE_RETRIES;

/// A server-side copy or completion is given a second more for so many bytes.
const SLOWEST_COPY: u64 = 16 << 20;

/// A body on its way to the store is given a second more for so many bytes. Silence ends it much sooner.
const SLOWEST_SENDING: u64 = 64 << 10;

/// What every room of the S3 backend asks through.
pub(super) struct Client {
    pub(super) sdk: aws_sdk_s3::Client,
    /// Gets objects.
    pub(super) direct: Direct,
    pub(super) bucket: String,
    pub(super) keys: Keys,
    pub(super) limits: Limits,
    pub(super) credential: auth::Current,
    pub(super) schedule: Mutex<Schedule>,
    pub(super) checksums: Checksums,
    pub(super) payer: Option<RequestPayer>,
    pub(super) kms_key: Option<String>,
    pub(super) storage_class: Option<String>,
    /// Guessed reads leave some connections to those that somebody waits for.
    pub(super) turns: Turns,
    /// Reads that somebody waits for.
    pub(super) together: Together,
}

/// The SDK's own `Debug` prints the access key id.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("bucket", &self.bucket).field("keys", &self.keys).finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the directory `root` below the store's prefix. Asks nothing of the store.
    ///
    /// # Errors
    /// `Misconfigured`, `Unauthenticated`: see [`crate::backend::connect`].
    pub(super) fn new(config: &Config, credential: auth::Current, root: &Path, limits: Limits) -> Result<Client> {
        let wrong = |why: String| Error::new(ErrorKind::Misconfigured, Op::Connect, root, why);
        if config.bucket.ends_with("--x-s3") {
            return Err(wrong(format!(
                "{:?} is a directory bucket (S3 Express One Zone), whose listings are not sorted: use a general purpose \
                 bucket",
                config.bucket
            )));
        }
        if !matches!(credential.get().credential, auth::Credential::Anonymous | auth::Credential::S3 { .. }) {
            let why = "an S3 store is used with access keys, and the credential is of another kind";
            return Err(Error::new(ErrorKind::Unauthenticated, Op::Connect, root, why));
        }
        let keys = Keys::new(&config.prefix, root).ok_or_else(|| wrong("names in S3 are UTF-8".into()))?;
        let connector = Connector::new(config, Patience::of(&limits.timeout)).map_err(wrong)?;
        let direct = Direct::new(config, credential.clone(), connector.clone()).map_err(wrong)?;
        let sdk = aws_sdk_s3::Client::from_conf(settings(config, &credential, connector).build());
        let connections = config.max_connections.max(1) as usize;
        Ok(Client {
            sdk,
            direct,
            bucket: config.bucket.clone(),
            keys,
            schedule: Mutex::new(Schedule::new(limits.budget.total())),
            limits,
            credential,
            checksums: config.checksums,
            payer: config.requester_pays.then_some(RequestPayer::Requester),
            kms_key: config.sse_kms_key.clone(),
            storage_class: config.storage_class.clone(),
            turns: Turns::new(connections),
            together: Together::new(connections),
        })
    }

    /// The parts that the budget allows now.
    pub(super) fn schedule(&self) -> Schedule {
        let mut schedule = self.schedule.lock().unwrap_or_else(PoisonError::into_inner);
        let memory = self.limits.budget.total();
        if !schedule.is_for(memory) {
            *schedule = Schedule::new(memory);
        }
        *schedule
    }

    /// Asks until it is answered, refused for good, or the volume's timeout has passed.
    pub(super) async fn ask<T, A, F>(&self, ask: A) -> std::result::Result<T, Failure>
    where
        A: FnMut() -> F,
        F: Future<Output = std::result::Result<T, Failure>>,
    {
        self.ask_for(self.limits.timeout.get(), ask).await
    }

    /// [`Client::ask`] with a budget of its own.
    pub(super) async fn ask_for<T, A, F>(&self, budget: Duration, mut ask: A) -> std::result::Result<T, Failure>
    where
        A: FnMut() -> F,
        F: Future<Output = std::result::Result<T, Failure>>,
    {
        let mut last = None;
        // At the levels debug and trace the SDK logs what it signs, and with it the session token.
        let unlogged = || {
            let renewals = self.credential.get().renewals;
            let asked = ask().with_subscriber(NoSubscriber::default());
            asked.map(move |answer| answer.map_err(|failure| self.after_renewal(failure, renewals)))
        };
        let asking = unlogged.retry(backoff()).when(|failure| failure.again).notify(|failure: &Failure, pause| {
            tracing::debug!(code = failure.code, status = failure.status, ?pause, "asking the store again");
            metrics::counter!(STORE_RETRIES).increment(1);
            last = Some(failure.clone());
        });
        match tokio::time::timeout(budget, asking).await {
            Ok(answer) => answer,
            Err(_) => Err(last.unwrap_or_else(|| Failure::late(budget))),
        }
    }

    /// A request that was refused with keys which were renewed meanwhile is made again.
    fn after_renewal(&self, mut failure: Failure, renewals: u64) -> Failure {
        let refused = matches!(failure.kind, ErrorKind::Unauthenticated | ErrorKind::Denied);
        failure.again |= refused && self.credential.get().renewals != renewals;
        failure
    }

    /// The deadline of one request that carries `bytes` to the store.
    pub(super) fn sending_budget(&self, bytes: usize) -> Duration {
        self.limits.timeout.get() + Duration::from_secs(bytes as u64 / SLOWEST_SENDING)
    }

    /// The deadline of one server-side copy or completion of `bytes`.
    pub(super) fn copy_budget(&self, bytes: u64) -> Duration {
        self.limits.timeout.get() + Duration::from_secs(bytes / SLOWEST_COPY)
    }
}

/// Lets one request wait in silence for `budget`: a store answers a copy or a completion when it is done.
pub(super) fn quiet_for(budget: Duration) -> Builder {
    aws_sdk_s3::Config::builder().timeout_config(TimeoutConfig::builder().read_timeout(budget).build())
}

/// The pauses between two attempts: without end, since time is the budget.
pub(super) fn backoff() -> ExponentialBuilder {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(5))
        .with_factor(2.0)
        .with_jitter()
        .without_max_times()
}

/// The keys in force, for the signature of one request.
#[derive(Debug)]
struct Keyring(auth::Current);

impl ProvideCredentials for Keyring {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let keys = keys_of(&self.0.get().credential);
        let missing = || CredentialsError::not_loaded("the volume's credential holds no keys");
        future::ProvideCredentials::ready(keys.ok_or_else(missing))
    }
}

/// The keys to sign with; none for anonymous requests.
pub(super) fn keys_of(credential: &Credential) -> Option<Credentials> {
    let Credential::S3 { key_id, secret_key, session_token } = credential else { return None };
    let token = session_token.as_ref().map(|token| token.expose().to_owned());
    Some(Credentials::new(key_id, secret_key.expose(), token, None, "volume"))
}

/// How the SDK asks; see the module.
pub(super) fn settings(config: &Config, credential: &auth::Current, connector: Connector) -> Builder {
    let checksums = match config.checksums {
        Checksums::Supported => RequestChecksumCalculation::WhenSupported,
        Checksums::Required => RequestChecksumCalculation::WhenRequired,
    };
    let mut settings = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new(config.region.clone()))
        .force_path_style(config.path_style)
        .http_client(connector)
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .disable_s3_express_session_auth(true)
        .disable_multi_region_access_points(true)
        .request_checksum_calculation(checksums)
        // Ranges carry no checksum that could be checked; whole objects ask for theirs one by one.
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    settings.set_endpoint_url(config.endpoint.clone());
    match &credential.get().credential {
        Credential::Anonymous => settings.allow_no_auth(),
        // Nothing is kept between two requests: the next is signed with what is in force then.
        _ => settings.identity_cache(IdentityCache::no_cache()).credentials_provider(Keyring(credential.clone())),
    }
}
