//! What the node plugin asks of a worker that serves. A ping is answered at once, whatever else is under way.

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::served::Served;
use super::sharing::Telling;
use crate::auth::Credential;
use crate::fuse::Session;
use crate::mount::handover::{FromWorker, MOST_CALLERS, ToWorker};
use crate::mount::line::{Caller, Line};
use crate::observability;

/// What the worker says of itself, without being asked.
pub(super) type Words = mpsc::UnboundedReceiver<FromWorker>;

/// Whose request has waited for so long may be being killed, and is asked for. A killed caller is to be gone within
/// 2 s.
const PATIENCE: Duration = Duration::from_millis(500);

/// What takes a while, done one after the other.
enum Errand {
    Credential { credential: Credential, same_principal: bool },
    Reload,
}

/// Answers whichever node plugin there is, and passes on what is said, with the worker's device where that is to go along,
/// and what is to be told of the volume's use.
pub(super) async fn talk(
    line: &mut Line,
    served: &Arc<Served>,
    session: &Session,
    telling: &mut Telling,
    (mut words, device): (Words, OwnedFd),
) -> Infallible {
    let (errands, queue) = mpsc::unbounded_channel();
    let (tell, mut answers) = mpsc::unbounded_channel();
    // What has begun goes on to its end, also when the node plugin is gone.
    tokio::spawn(run_errands(served.clone(), queue, tell));
    loop {
        let connected = line.connected();
        let reply = tokio::select! {
            // What a change brings along is said before that it is done.
            biased;
            Some(word) = words.recv() => match word {
                FromWorker::Borrow { ticket, .. } => {
                    if !line.send_with(&word, device.as_fd()).await {
                        served.kept.answer(ticket, None);
                    }
                    continue;
                }
                FromWorker::Return { .. } => {
                    line.send_with(&word, device.as_fd()).await;
                    continue;
                }
                word => word,
            },
            // The others' turn comes when these have gone.
            callers = session.long_waiting(PATIENCE, MOST_CALLERS) => FromWorker::Waiting { callers },
            Some((caller, answer)) = answers.recv() => {
                // The next node plugin would take it for the answer to a question of its own.
                if caller == line.caller() {
                    answer
                } else {
                    continue;
                }
            }
            () = telling.called(connected) => telling.word(line.caller()),
            (message, rider) = line.receive() => {
                let errand = match message {
                    ToWorker::Ping => {
                        line.send(&FromWorker::Pong).await;
                        continue;
                    }
                    ToWorker::Usage => {
                        let space = served.vfs.space().await;
                        line.send(&FromWorker::Usage(served.usage(space))).await;
                        continue;
                    }
                    ToWorker::Numbers => {
                        line.send(&FromWorker::Numbers(served.numbers())).await;
                        continue;
                    }
                    ToWorker::Log { filter } => {
                        if let Err(error) = observability::refilter(&filter) {
                            tracing::warn!("{error}");
                        }
                        continue;
                    }
                    ToWorker::Credential { credential, same_principal } => {
                        Errand::Credential { credential, same_principal }
                    }
                    ToWorker::Reload => Errand::Reload,
                    ToWorker::Tally(tally) => {
                        served.hear(tally);
                        continue;
                    }
                    ToWorker::Lent { ticket, id } => {
                        served.kept.answer(ticket, id);
                        continue;
                    }
                    ToWorker::Killed { callers } => {
                        session.let_go(&callers);
                        continue;
                    }
                    ToWorker::Dialer => {
                        if let Some(Err(error)) = rider.map(|socket| served.dialer.ask_on(socket)) {
                            tracing::error!("the node plugin cannot be asked for connections: {error}");
                        }
                        continue;
                    }
                    ToWorker::Begin(_)
                    | ToWorker::Journal
                    | ToWorker::Volume(_)
                    | ToWorker::Part { .. }
                    | ToWorker::NoPart { .. }
                    | ToWorker::Device => continue,
                };
                // Received for as long as this side sends.
                let _ = errands.send((line.caller(), errand));
                continue;
            }
        };
        line.send(&reply).await;
    }
}

async fn run_errands(
    served: Arc<Served>,
    mut queue: mpsc::UnboundedReceiver<(Caller, Errand)>,
    tell: mpsc::UnboundedSender<(Caller, FromWorker)>,
) {
    while let Some((caller, errand)) = queue.recv().await {
        let answer = match errand {
            Errand::Credential { credential, same_principal } => {
                match served.take_over(&credential, same_principal).await {
                    Ok(()) => FromWorker::CredentialAccepted,
                    Err(refusal) => FromWorker::CredentialRefused(refusal),
                }
            }
            Errand::Reload => FromWorker::Reloaded(served.reload().await.err()),
        };
        // Nobody hears it where the mount is gone.
        let _ = tell.send((caller, answer));
    }
}
