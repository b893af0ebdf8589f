//! A plugin's own socket, for the administrator who is beside it: what is mounted, and how to log.
//!
//! Only the plugin's own user and root get at it. One question and its answer a connection, as frames of
//! [`handover::Channel`](crate::mount::handover::Channel).

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};

use crate::csi::{self, RemoveAtEnd};
use crate::mount::Shown;
use crate::mount::handover::Channel;
use crate::observability;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What may be asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Ask {
    /// What is mounted.
    Status,
    /// Log by this filter from now on, workers too.
    LogLevel(String),
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer {
    Status(Vec<Shown>),
    Done,
    /// Why not.
    Refused(String),
}

/// Logs by another filter from now on.
pub(super) fn log_by(filter: &str) -> Answer {
    match observability::refilter(filter) {
        Ok(()) => {
            tracing::info!(filter, "logs by another filter");
            Answer::Done
        }
        Err(error) => Answer::Refused(error.to_string()),
    }
}

/// Answers at `path` for as long as the process lives; the socket's file goes with what is returned.
///
/// # Errors
/// A socket that cannot be had.
pub(super) fn start<F>(
    path: &Path,
    answer: impl Fn(Ask) -> F + Clone + Send + Sync + 'static,
) -> anyhow::Result<RemoveAtEnd>
where
    F: Future<Output = Answer> + Send + 'static,
{
    let listener = csi::bind(path).with_context(|| format!("cannot serve on {}", path.display()))?;
    let file = RemoveAtEnd::of(&listener);
    tokio::spawn(serve(listener, answer));
    Ok(file)
}

async fn serve<F>(listener: UnixListener, answer: impl Fn(Ask) -> F + Clone + Send + Sync + 'static)
where
    F: Future<Output = Answer> + Send + 'static,
{
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            // Such as too many open descriptors.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let answer = answer.clone();
        tokio::spawn(tokio::time::timeout(PATIENCE, async move {
            let Ok(mut channel) = socket.into_std().and_then(Channel::new) else { return };
            let said = match channel.receive().await {
                Ok((ask, _)) => answer(ask).await,
                Err(error) => Answer::Refused(error.to_string()),
            };
            // Who has gone hears nothing.
            let _ = channel.send(&said).await;
        }));
    }
}

/// Asks the plugin whose socket is at `path`.
///
/// # Errors
/// Where nobody answers, or the answer is a refusal.
pub(super) async fn ask(path: &Path, ask: &Ask) -> anyhow::Result<Answer> {
    let shown = path.display();
    let talk = async {
        let socket = UnixStream::connect(path).await.with_context(|| {
            format!("no plugin answers at {shown}: run this where one runs, as its user, with its socket in --socket")
        })?;
        let mut channel = Channel::new(socket.into_std()?)?;
        channel.send(ask).await?;
        Ok::<_, anyhow::Error>(channel.receive::<Answer>().await?.0)
    };
    match tokio::time::timeout(PATIENCE, talk).await {
        Ok(Ok(Answer::Refused(why))) => bail!("{why}"),
        Ok(answer) => answer,
        Err(_) => bail!("the plugin at {shown} does not answer"),
    }
}
