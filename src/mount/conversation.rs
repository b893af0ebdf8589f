//! What a node plugin and a worker that serves say to each other, until one of them is gone.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, timeout};

use super::broker::Errand;
use super::handover::{self, Channel, FromWorker, MOST_CALLERS, Refusal, ToWorker};
use super::live::Place;
use super::process::{Process, being_killed};
use super::tally::Member;
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

/// What a conversation stands on.
struct Talk<'a> {
    place: &'a Place,
    waiting: Waiting,
    member: Member,
    broker: Option<mpsc::Sender<Errand>>,
    looks: mpsc::Sender<Vec<u32>>,
    /// The worker had ended at the last pulse.
    was_gone: bool,
}

/// Talks with the worker of the mount at `place` until it is gone, pinging it once a `pulse`.
pub(super) async fn converse(
    mut channel: Channel,
    mut asked: mpsc::Receiver<Question>,
    pulse: Duration,
    process: &Process,
    place: &Place,
) -> Parting {
    let deadline = pulse * PINGS;
    let mut ticks = tokio::time::interval(pulse);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (answers, mut found) = mpsc::unbounded_channel();
    let mut talk = Talk {
        place,
        waiting: Waiting::default(),
        member: place.sums.member(&place.volume_id),
        broker: place.broker.as_ref().map(|broker| broker.serve(answers.clone())),
        looks: look_for_killed(answers),
        was_gone: false,
    };
    loop {
        let word = tokio::select! {
            biased;
            // Before what the worker says next, so that they do not pile up where it says much.
            Some(answer) = found.recv() => Some(answer),
            heard = channel.receive() => match heard {
                Ok((message, rider)) => {
                    // What it says to a node plugin that has found it.
                    if let FromWorker::Ready { version } = &message {
                        channel.set_peer(version);
                    }
                    match talk.hear(message, rider) {
                        Ok(word) => word,
                        Err(why) => return Parting::Wrong(why),
                    }
                }
                Err(error) => return talk.parting(error),
            },
            Some(question) = asked.recv() => Some(talk.waiting.put(question)),
            () = talk.member.called() => Some(ToWorker::Tally(talk.member.news())),
            _ = ticks.tick() => {
                if talk.was_gone {
                    return talk.parting(handover::Error::Closed);
                }
                // Its socket closes with it, unless others have that too. What it said last is heard first.
                talk.was_gone = !process.is_running();
                if talk.waiting.unanswered == PINGS {
                    return Parting::Wrong(format!("it did not answer for {deadline:?}"));
                }
                Some(talk.waiting.ping())
            }
        };
        let Some(word) = word else { continue };
        match timeout(deadline, channel.send(&word)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return talk.parting(error),
            // Half a message may be on its way.
            Err(_) => return Parting::Wrong(format!("it did not take what it was told for {deadline:?}")),
        }
    }
}

impl Talk<'_> {
    /// Does what the worker said; returns what is said to that at once. A descriptor on a message that may have none is
    /// closed. An error is what it must not say.
    fn hear(&mut self, message: FromWorker, rider: Option<OwnedFd>) -> Result<Option<ToWorker>, String> {
        match message {
            FromWorker::Ready { .. } => {}
            FromWorker::Waiting { callers } if callers.len() > MOST_CALLERS => {
                return Err(format!("it asked for {} callers at once", callers.len()));
            }
            FromWorker::Waiting { callers } => {
                // Where the look before is not done, it asks again.
                let _ = self.looks.try_send(callers);
            }
            FromWorker::Tally(tally) => self.member.hear(tally),
            FromWorker::Borrow { ticket, name } => {
                let errand = rider.map(|device| Errand::Borrow { ticket, name, device });
                let taken = errand.zip(self.broker.as_ref()).is_some_and(|(errand, to)| to.try_send(errand).is_ok());
                return Ok((!taken).then_some(ToWorker::Lent { ticket, id: None }));
            }
            FromWorker::Return { id } => {
                if let (Some(device), Some(broker)) = (rider, &self.broker) {
                    // Where there are too many, it ends with the connection.
                    let _ = broker.try_send(Errand::Return { id, device });
                }
            }
            message => self.waiting.hear(message, self.place)?,
        }
        Ok(None)
    }

    /// How a conversation ended whose socket failed so.
    fn parting(&self, error: handover::Error) -> Parting {
        match error {
            handover::Error::Closed if self.waiting.finished => Parting::Finished,
            handover::Error::Closed => Parting::Closed,
            error => Parting::Wrong(error.to_string()),
        }
    }
}

impl Waiting {
    /// A ping of the watch's own.
    fn ping(&mut self) -> ToWorker {
        self.unanswered += 1;
        self.pings.push_back(None);
        ToWorker::Ping
    }

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
    let most = if place.most_memory == 0 { u64::MAX } else { place.most_memory };
    if let Err(error) = cgroup.raise(memory.min(most)) {
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
    use crate::mount::process;
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
        let process = Process::own();
        (tokio::spawn(async move { converse(ours, asked, PULSE, &process, &place).await }), theirs, ask)
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

    /// Answers as a worker does.
    async fn answer(mut worker: Channel) {
        loop {
            if let (ToWorker::Ping, _) = worker.receive().await.unwrap() {
                worker.send(&FromWorker::Pong).await.unwrap();
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_takes_nothing_is_ended() {
        let (parting, _worker, ask) = begin(place(None));
        // More than a socket holds.
        ask.send(Question::Log("x".repeat(3 << 20))).await.unwrap();
        let parting = timeout(10 * PINGS * PULSE, parting).await.expect("it ends").unwrap();
        assert!(matches!(&parting, Parting::Wrong(why) if why.contains("did not take")), "{parting:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_conversation_ends_with_the_process_though_somebody_holds_its_socket() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (process, _socket, mut exit) = process::spawn("/bin/true".as_ref(), false).unwrap();
        exit.words().await;
        tokio::spawn(answer(Channel::new(theirs).unwrap()));
        let (_ask, asked) = mpsc::channel(16);
        let place = place(None);
        let talk = converse(Channel::new(ours).unwrap(), asked, PULSE, &process, &place);
        let parting = timeout(10 * PINGS * PULSE, talk).await.expect("it ends");
        assert!(matches!(parting, Parting::Closed), "{parting:?}");
    }
}
