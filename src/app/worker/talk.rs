//! What the node plugin asks of a worker that serves. A ping is answered at once, whatever else is under way.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::served::Served;
use crate::auth::Credential;
use crate::mount::handover::{self, Channel, FromWorker, ToWorker};

/// What the worker says of itself, without being asked.
pub(super) type Words = mpsc::UnboundedReceiver<FromWorker>;

/// What takes a while, done one after the other.
enum Errand {
    Credential { credential: Credential, same_principal: bool },
    Reload,
}

/// Answers the node plugin, and passes on `words`, until it is gone.
pub(super) async fn talk(channel: &mut Channel, served: &Arc<Served>, mut words: Words) {
    let (errands, queue) = mpsc::unbounded_channel();
    // What has begun goes on to its end, also when the node plugin is gone.
    tokio::spawn(run_errands(served.clone(), queue));
    while let Some(reply) = next(channel, served, &mut words, &errands).await {
        if let Some(reply) = reply
            && channel.send(&reply).await.is_err()
        {
            break;
        }
    }
}

/// The next thing to say, which may be nothing; `None` at the end.
async fn next(
    channel: &mut Channel,
    served: &Served,
    words: &mut Words,
    errands: &mpsc::UnboundedSender<Errand>,
) -> Option<Option<FromWorker>> {
    let message = tokio::select! {
        Some(word) = words.recv() => return Some(Some(word)),
        message = channel.receive() => message,
    };
    let errand = match message {
        Ok((ToWorker::Ping, _)) => return Some(Some(FromWorker::Pong)),
        Ok((ToWorker::Usage, _)) => return Some(Some(FromWorker::Usage(served.usage()))),
        Ok((ToWorker::Credential { credential, same_principal }, _)) => {
            Errand::Credential { credential, same_principal }
        }
        Ok((ToWorker::Reload, _)) => Errand::Reload,
        Ok((ToWorker::Begin(_) | ToWorker::Volume(_) | ToWorker::Device, _)) => return Some(None),
        Err(handover::Error::Closed) => return None,
        Err(error) => {
            tracing::error!(%error, "the node plugin's words cannot be understood");
            return None;
        }
    };
    // Received for as long as this side sends.
    let _ = errands.send(errand);
    Some(None)
}

async fn run_errands(served: Arc<Served>, mut queue: mpsc::UnboundedReceiver<Errand>) {
    while let Some(errand) = queue.recv().await {
        let answer = match errand {
            Errand::Credential { credential, same_principal } => {
                match served.take_over(&credential, same_principal).await {
                    Ok(()) => FromWorker::CredentialAccepted,
                    Err(refusal) => FromWorker::CredentialRefused(refusal),
                }
            }
            Errand::Reload => FromWorker::Reloaded(served.reload().await.err()),
        };
        served.say(answer);
    }
}
