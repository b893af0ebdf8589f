//! Calls of the RPC library, each with a deadline: it has none of its own, and waits for ever for a name node that is
//! frozen. After a call that got no answer, and after a panic inside the library, a new client is built, which asks the
//! next name node first.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use hdfs_native::{Client, ClientBuilder};
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep, timeout};

use super::error::{Failure, Outcome};
use super::identity::Identity;
use super::{Config, kerberos};
use crate::backend::ErrorKind;
use crate::backend::meter::{UNREACHED, answered};
use crate::tunable::Span;

/// What the name nodes together are called between the library and us, where the library finds no token by it.
const SERVICE: &str = "store";

/// No client reads the node's own Hadoop configuration.
const NO_CONFIGURATION: &str = "/proc/self/no-hadoop-configuration";

/// Before a question is asked again.
const PAUSE: Duration = Duration::from_millis(300);

/// One user's connection to a cluster.
#[derive(Debug)]
pub(super) struct Library {
    config: Config,
    identity: Identity,
    pub(super) timeout: Span,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    client: Option<Client>,
    /// Clients that were built.
    built: usize,
    /// A name node answered something.
    proved: bool,
}

impl Library {
    pub(super) fn new(config: &Config, identity: Identity, timeout: Span) -> Library {
        Library { config: config.clone(), identity, timeout, state: Mutex::default() }
    }

    /// Asks what may be asked twice, until it is answered or the volume's time is over.
    pub(super) async fn ask<T, F>(&self, kind: &'static str, call: impl Fn(Client) -> F) -> Outcome<T>
    where
        F: Future<Output = hdfs_native::Result<T>>,
    {
        let deadline = Instant::now() + self.timeout.get();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let patience = if self.config.namenodes.len() > 1 { left.min(self.timeout.get() / 3) } else { left };
            match self.call(kind, patience, &call).await {
                Err(failure) if failure.kind == ErrorKind::Unavailable && Instant::now() + PAUSE < deadline => {
                    sleep(PAUSE).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Does what must not be done twice: again only where the name node says that it did not do it.
    pub(super) async fn act<T, F>(&self, kind: &'static str, call: impl Fn(Client) -> F) -> Outcome<T>
    where
        F: Future<Output = hdfs_native::Result<T>>,
    {
        let deadline = Instant::now() + self.timeout.get();
        loop {
            let patience = deadline.saturating_duration_since(Instant::now());
            match self.call(kind, patience, &call).await {
                Err(failure) if failure.passing && Instant::now() + PAUSE < deadline => sleep(PAUSE).await,
                outcome => return outcome,
            }
        }
    }

    /// Asks once, and waits for so long.
    pub(super) async fn once<T, F>(
        &self,
        kind: &'static str,
        patience: Duration,
        call: impl Fn(Client) -> F,
    ) -> Outcome<T>
    where
        F: Future<Output = hdfs_native::Result<T>>,
    {
        self.call(kind, patience, call).await
    }

    async fn call<T, F>(&self, kind: &'static str, patience: Duration, call: impl Fn(Client) -> F) -> Outcome<T>
    where
        F: Future<Output = hdfs_native::Result<T>>,
    {
        let (client, number, proved) = self.client()?;
        let begun = Instant::now();
        let outcome = bounded(patience, call(client)).await;
        let word = match &outcome {
            Ok(_) => "ok",
            Err(failure) => word(failure.kind),
        };
        answered(kind, word, begun.elapsed());
        match outcome {
            Err(failure) if matches!(failure.kind, ErrorKind::Unavailable | ErrorKind::Other) => {
                self.replace(number);
                Err(self.hinted(failure, proved))
            }
            outcome => {
                self.state().proved = true;
                outcome
            }
        }
    }

    /// What likely is the matter where a name node never did anything but end the connection.
    fn hinted(&self, failure: Failure, proved: bool) -> Failure {
        match self.identity {
            Identity::Claimed(_) if !proved && failure.detail == std::io::ErrorKind::ConnectionAborted.to_string() => {
                let hint = "it likely demands Kerberos, and this store has authentication: simple";
                Failure { message: format!("{}: {hint}", failure.message), ..failure }
            }
            _ => failure,
        }
    }

    fn client(&self) -> Outcome<(Client, usize, bool)> {
        match &self.identity {
            Identity::Claimed(_) => {}
            // It is read at the next login, from where it lies.
            Identity::Proven(login) => drop(login.keytab()?),
            Identity::Delegated(token) => drop(token.in_force()?),
        }
        let mut state = self.state();
        if let Some(client) = &state.client {
            return Ok((client.clone(), state.built, state.proved));
        }
        let client = self.build(state.built)?;
        state.built += 1;
        state.client = Some(client.clone());
        Ok((client, state.built, state.proved))
    }

    /// The client of that number is not used any more.
    fn replace(&self, number: usize) {
        let mut state = self.state();
        if state.built == number {
            state.client = None;
        }
    }

    fn build(&self, first: usize) -> Outcome<Client> {
        let mut nodes = self.config.namenodes.clone();
        let count = nodes.len();
        nodes.rotate_left(first % count);
        let timeout = (self.timeout.get() / 4).min(Duration::from_secs(15)).max(Duration::from_millis(100));
        let mut words = self.config.options.clone();
        let mut set = |word: String, value: String| drop(words.insert(word, value));
        set("dfs.client.socket-timeout".into(), timeout.as_millis().to_string());
        set("dfs.client.failover.max.attempts".into(), (2 * count).to_string());
        set("dfs.client.failover.sleep.base.millis".into(), "100".into());
        set("dfs.client.failover.sleep.max.millis".into(), "1000".into());
        let names: Vec<String> = (0..count).map(|number| format!("n{number}")).collect();
        let service = match &self.identity {
            Identity::Claimed(_) | Identity::Proven(_) => SERVICE,
            Identity::Delegated(token) => token.service(),
        };
        set(format!("dfs.ha.namenodes.{service}"), names.join(","));
        for (name, address) in names.iter().zip(nodes) {
            set(format!("dfs.namenode.rpc-address.{service}.{name}"), address);
        }
        let builder = ClientBuilder::new().with_url(format!("hdfs://{service}")).with_config_dir(NO_CONFIGURATION);
        if !matches!(self.identity, Identity::Claimed(_)) {
            set("hadoop.security.authentication".into(), "kerberos".into());
            // Whatever a DataNode asks for is done: the word has to be there, whichever it is.
            set("dfs.data.transfer.protection".into(), "privacy".into());
        }
        let builder = match &self.identity {
            Identity::Claimed(user) => builder.with_user(user),
            Identity::Delegated(_) => builder,
            Identity::Proven(login) => builder
                .with_kerberos_principal(login.principal())
                .with_kerberos_keytab(login.keytab()?)
                .with_kerberos_cache(login.cache()),
        };
        builder
            .with_config(words)
            .build()
            .map_err(|_| Failure::new(ErrorKind::Misconfigured, "no HDFS client can be made of the store's words"))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the library answers within `patience`. A panic inside it is an error of that call.
///
/// Its futures are large, so that they are put aside before anybody holds them.
pub(super) fn bounded<T>(
    patience: Duration,
    call: impl Future<Output = hdfs_native::Result<T>>,
) -> impl Future<Output = Outcome<T>> {
    let call = Aside(Box::pin(AssertUnwindSafe(call).catch_unwind()));
    async move {
        match timeout(patience, call).await {
            Ok(Ok(outcome)) => outcome.map_err(Failure::from),
            Ok(Err(_)) => Err(Failure::new(ErrorKind::Other, "the HDFS library failed (a panic)")),
            Err(_) => Err(Failure::late(patience)),
        }
    }
}

/// A call that may connect, and then waits for the KDC on the thread that it runs on, where this process has one: others'
/// work moves to another thread.
struct Aside<F>(Pin<Box<F>>);

impl<F: Future> Future for Aside<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match kerberos::is_settled() {
            true => block_in_place(|| self.0.as_mut().poll(cx)),
            false => self.0.as_mut().poll(cx),
        }
    }
}

fn word(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "not-found",
        ErrorKind::Denied | ErrorKind::NotPermitted | ErrorKind::Unauthenticated => "denied",
        ErrorKind::AlreadyExists | ErrorKind::Stale | ErrorKind::Busy => "conflict",
        ErrorKind::Unavailable => UNREACHED,
        ErrorKind::Other | ErrorKind::Corrupt => "fault",
        _ => "refused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_that_ends_at_once_hints_at_kerberos_where_the_store_has_none_and_nobody_ever_answered() {
        let aborts = |_| async {
            let ended = std::io::Error::new(std::io::ErrorKind::ConnectionAborted, "RPC listener disconnected");
            Err::<(), _>(hdfs_native::HdfsError::IOError(ended))
        };
        let config = Config::at("127.0.0.1:1", "http://127.0.0.1:1");
        let library = Library::new(&config, Identity::Claimed("alice".into()), Duration::from_secs(5).into());
        let patience = Duration::from_secs(5);
        let told = library.once("stat", patience, aborts).await.unwrap_err();
        assert!(told.message.contains("demands Kerberos"), "{told}");
        library.once("stat", patience, |_| async { Ok(()) }).await.unwrap();
        // By that client and by the next.
        for _ in 0..2 {
            let told = library.once("stat", patience, aborts).await.unwrap_err();
            assert!(told.kind == ErrorKind::Unavailable && !told.message.contains("Kerberos"), "{told}");
        }
    }

    #[tokio::test]
    async fn a_panic_inside_the_library_is_an_error_of_that_call() {
        let call = async { if true { panic!("Cannot read past end of the file") } else { Ok(()) } };
        assert_eq!(bounded(Duration::from_secs(5), call).await.unwrap_err().kind, ErrorKind::Other);
        let silent = std::future::pending::<hdfs_native::Result<()>>();
        assert_eq!(bounded(Duration::from_millis(10), silent).await.unwrap_err().kind, ErrorKind::Unavailable);
    }
}
