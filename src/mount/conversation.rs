//! What a node plugin and a worker that serves say to each other, until one of them is gone.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use super::broker::Errand;
use super::handover::{self, Channel, FromWorker, MOST_CALLERS, Refusal, ToWorker};
use super::live::Place;
use super::process::being_killed;
use super::{Usage, kernel};
use crate::auth::Credential;
use crate::observability::metrics::Numbers;

/// A worker is pinged this often within the deadline. Pings are counted, not seconds, so that a machine that slept
/// ends no worker.
pub(super) const PINGS: u32 = 5;

/// Something to ask a worker. Questions of one kind are answered in turn, those of different kinds in any order.
#[derive(Debug)]
pub(super) enum Question {
    Ping(oneshot::Sender<()>),
    Usage(oneshot::Sender<Usage>),
    Numbers(oneshot::Sender<Numbers>),
    Credential {
        credential: Credential,
        same_principal: bool,
        tell: oneshot::Sender<Result<(), Refusal>>,
    },
    Reload(oneshot::Sender<Result<(), Refusal>>),
    /// Not answered.
    Log(String),
}

/// How a conversation ended.
#[derive(Debug)]
pub(super) enum Parting {
    /// The worker's mount is gone, and it has nothing to do any more.
    Finished,
    /// Without a word.
    Closed,
    /// The worker must be ended, and why.
    Wrong(String),
}

/// Who waits for an answer. One who has given up keeps the place.
#[derive(Debug, Default)]
struct Waiting {
    /// `None` for a ping of the watch's own.
    pings: VecDeque<Option<oneshot::Sender<()>>>,
    usages: VecDeque<oneshot::Sender<Usage>>,
    numbers: VecDeque<oneshot::Sender<Numbers>>,
    credentials: VecDeque<oneshot::Sender<Result<(), Refusal>>>,
    reloads: VecDeque<oneshot::Sender<Result<(), Refusal>>>,
    /// Pings since the last answer to one.
    unanswered: u32,
    finished: bool,
}

/// Talks with the worker of the mount at `place` until it is gone, pinging it once a `pulse`.
pub(super) async fn converse(
    mut channel: Channel,
    mut asked: mpsc::Receiver<Question>,
    pulse: Duration,
    place: &Place,
) -> Parting {
    let mut ticks = tokio::time::interval(pulse);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut waiting = Waiting::default();
    let mut member = place.sums.member(&place.volume_id);
    let (answers, mut found) = mpsc::unbounded_channel();
    let broker = place.broker.as_ref().map(|broker| broker.serve(answers.clone()));
    let looks = look_for_killed(answers);
    loop {
        let step = tokio::select! {
            biased;
            // Before what the worker says next, so that they do not pile up where it says much.
            Some(answer) = found.recv() => channel.send(&answer).await,
            message = channel.receive::<FromWorker>() => match message {
                // What it says to a node plugin that has found it.
                Ok((FromWorker::Ready { version }, _)) => {
                    channel.set_peer(&version);
                    Ok(())
                }
                Ok((FromWorker::Waiting { callers }, _)) if callers.len() > MOST_CALLERS => {
                    return Parting::Wrong(format!("it asked for {} callers at once", callers.len()));
                }
                Ok((FromWorker::Waiting { callers }, _)) => {
                    // Where the look before is not done, it asks again.
                    let _ = looks.try_send(callers);
                    Ok(())
                }
                Ok((FromWorker::Tally(tally), _)) => {
                    member.hear(tally);
                    Ok(())
                }
                Ok((FromWorker::Borrow { ticket, name }, device)) => {
                    let errand = device.map(|device| Errand::Borrow { ticket, name, device });
                    let taken = errand.zip(broker.as_ref()).is_some_and(|(errand, to)| to.try_send(errand).is_ok());
                    if taken { Ok(()) } else { channel.send(&ToWorker::Lent { ticket, id: None }).await }
                }
                Ok((FromWorker::Return { id }, device)) => {
                    if let (Some(device), Some(broker)) = (device, &broker) {
                        // Where there are too many, it ends with the connection.
                        let _ = broker.try_send(Errand::Return { id, device });
                    }
                    Ok(())
                }
                Ok((message, _)) => match waiting.hear(message, place) {
                    Ok(()) => Ok(()),
                    Err(why) => return Parting::Wrong(why),
                },
                Err(error) => Err(error),
            },
            Some(question) = asked.recv() => channel.send(&waiting.put(question)).await,
            () = member.called() => channel.send(&ToWorker::Tally(member.news())).await,
            _ = ticks.tick() => {
                if waiting.unanswered == PINGS {
                    return Parting::Wrong(format!("it did not answer for {:?}", pulse * PINGS));
                }
                waiting.unanswered += 1;
                waiting.pings.push_back(None);
                channel.send(&ToWorker::Ping).await
            }
        };
        match step {
            Ok(()) => {}
            Err(handover::Error::Closed) if waiting.finished => return Parting::Finished,
            Err(handover::Error::Closed) => return Parting::Closed,
            Err(error) => return Parting::Wrong(error.to_string()),
        }
    }
}

impl Waiting {
    /// The question as it is sent.
    fn put(&mut self, question: Question) -> ToWorker {
        match question {
            Question::Ping(tell) => {
                self.pings.push_back(Some(tell));
                ToWorker::Ping
            }
            Question::Usage(tell) => {
                self.usages.push_back(tell);
                ToWorker::Usage
            }
            Question::Numbers(tell) => {
                self.numbers.push_back(tell);
                ToWorker::Numbers
            }
            Question::Credential { credential, same_principal, tell } => {
                self.credentials.push_back(tell);
                ToWorker::Credential { credential, same_principal }
            }
            Question::Log(filter) => ToWorker::Log { filter },
            Question::Reload(tell) => {
                self.reloads.push_back(tell);
                ToWorker::Reload
            }
        }
    }

    /// Passes on what the worker said. An error is what it must not say.
    fn hear(&mut self, message: FromWorker, place: &Place) -> Result<(), String> {
        match message {
            FromWorker::Pong => {
                self.unanswered = 0;
                if let Some(Some(tell)) = self.pings.pop_front() {
                    let _ = tell.send(());
                }
            }
            FromWorker::Usage(usage) => tell(&mut self.usages, usage),
            FromWorker::Numbers(numbers) => tell(&mut self.numbers, numbers),
            FromWorker::CredentialAccepted => tell(&mut self.credentials, Ok(())),
            FromWorker::CredentialRefused(refusal) => tell(&mut self.credentials, Err(refusal)),
            FromWorker::Reloaded(refusal) => tell(&mut self.reloads, refusal.map_or(Ok(()), Err)),
            FromWorker::ReadAhead { kib } => drop(tokio::spawn(set_read_ahead(place.clone(), kib))),
            FromWorker::Memory { bytes } => allow(place, bytes),
            FromWorker::Ended => self.finished = true,
            other => return Err(format!("it said {other:?} out of turn")),
        }
        Ok(())
    }
}

/// Looks who of those that are sent is being killed, one look after the other, and tells `answers`.
fn look_for_killed(answers: mpsc::UnboundedSender<ToWorker>) -> mpsc::Sender<Vec<u32>> {
    let (ask, mut asked) = mpsc::channel::<Vec<u32>>(1);
    tokio::spawn(async move {
        while let Some(callers) = asked.recv().await {
            let found = kernel::within(kernel::PROMPT, move || being_killed(&callers)).await;
            if let Ok(Some(callers)) = found
                && !callers.is_empty()
            {
                let _ = answers.send(ToWorker::Killed { callers });
            }
        }
    });
    ask
}

fn tell<T>(waiting: &mut VecDeque<oneshot::Sender<T>>, answer: T) {
    if let Some(tell) = waiting.pop_front() {
        let _ = tell.send(answer);
    }
}

/// What it asks for is bounded here, too: it is not trusted.
fn allow(place: &Place, memory: u64) {
    let Some(cgroup) = &place.cgroup else { return };
    if let Err(error) = cgroup.raise(memory.min(place.most_memory)) {
        tracing::warn!(volume = place.volume_id, "the worker's memory limit stays as it was: {error}");
    }
}

async fn set_read_ahead(place: Place, kib: u32) {
    let Place { volume_id, device, .. } = place;
    match kernel::within(kernel::PROMPT, move || kernel::set_read_ahead(&device, kib)).await {
        Ok(Some(Ok(()))) => tracing::info!(volume = volume_id, kib, "the kernel's read-ahead was changed"),
        Ok(Some(Err(error))) => tracing::warn!(volume = volume_id, "the kernel's read-ahead stays as it was: {error}"),
        Ok(None) => tracing::warn!(volume = volume_id, "the kernel's read-ahead could not be changed in time"),
        Err(error) => tracing::warn!(volume = volume_id, "no thread to change the kernel's read-ahead on: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixStream;

    use tokio::task::JoinHandle;

    use super::*;
    use crate::mount::cgroup::Cgroup;
    use crate::mount::tally::Sums;

    const PULSE: Duration = Duration::from_secs(1);

    fn place(cgroup: Option<Cgroup>) -> Place {
        Place {
            volume_id: "v".into(),
            point: "/nowhere".into(),
            device: "0:0".into(),
            cgroup,
            most_memory: 1 << 30,
            sums: Sums::default(),
            broker: None,
        }
    }

    /// A conversation, the worker's end of it, and how to have something asked.
    fn begin(place: Place) -> (JoinHandle<Parting>, Channel, mpsc::Sender<Question>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (ours, theirs) = (Channel::new(ours).unwrap(), Channel::new(theirs).unwrap());
        let (ask, asked) = mpsc::channel(16);
        (tokio::spawn(async move { converse(ours, asked, PULSE, &place).await }), theirs, ask)
    }

    #[tokio::test]
    async fn no_worker_is_allowed_more_memory_than_its_store_allows() {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in [("memory.max", "1"), ("memory.oom.group", "0")] {
            fs::write(dir.path().join(file), text).unwrap();
        }
        let (parting, worker, _ask) = begin(place(Some(Cgroup::of_version_2(dir.path()))));
        worker.send(&FromWorker::Memory { bytes: u64::MAX }).await.unwrap();
        drop(worker);
        assert!(matches!(parting.await.unwrap(), Parting::Closed));
        let most: u64 = fs::read_to_string(dir.path().join("memory.max")).unwrap().parse().unwrap();
        assert!((1 << 30..2 << 30).contains(&most), "{most}");
    }

    #[tokio::test]
    async fn only_so_many_callers_are_looked_for_at_once() {
        for (count, is_fine) in [(MOST_CALLERS, true), (MOST_CALLERS + 1, false)] {
            let (parting, worker, _ask) = begin(place(None));
            worker.send(&FromWorker::Waiting { callers: vec![u32::MAX; count] }).await.unwrap();
            drop(worker);
            let parting = parting.await.unwrap();
            assert_eq!(matches!(parting, Parting::Closed), is_fine, "{parting:?}");
        }
    }
}
