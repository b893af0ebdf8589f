//! Whether the identity may still read: asked of the store again and again while the kernel holds anything, since pages
//! and cached blocks are given out without asking anybody.
//!
//! Where the store refuses, all that was read is dropped and every call is EACCES until it accepts again. Where it does
//! not answer for longer than the volume's `authGrace`, the same with EIO.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::served::Served;
use crate::backend::{Backend, Closed, Error, ErrorKind, Path};

/// Files that are asked about before the store's answer counts as a refusal: of one that is gone, a store says the same
/// to who may not list.
pub(super) const PROOFS: usize = 3;

/// What is known of the right.
#[derive(Debug)]
pub(super) struct Right {
    /// The volume's client, as whoever is in force.
    pub(super) client: Arc<dyn Backend>,
    /// When the store last accepted a request that needs the right.
    pub(super) proven: Instant,
    /// Files that were read, to ask about: nobody reads while nothing is given out.
    files: Vec<Path>,
    /// Why nothing is given out.
    closed: Option<ErrorKind>,
}

impl Right {
    /// Just proven, with `client`.
    pub(super) fn proven(client: Arc<dyn Backend>) -> Right {
        Right { client, proven: Instant::now(), files: Vec::new(), closed: None }
    }

    /// Nothing is given out.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    /// What to ask about, where these were read last.
    fn files(&mut self, read: Vec<Path>) -> Vec<Path> {
        if !read.is_empty() {
            self.files = read;
        }
        self.files.clone()
    }
}

/// What a store says to who may not read.
fn is_refusal(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::Denied | ErrorKind::Unauthenticated)
}

/// Asks the store for what only a reader gets of files that it had; what is gone is no refusal. `None` where there is
/// nothing to ask about.
pub(super) async fn may_read(client: &dyn Backend, files: &[Path]) -> Option<Result<(), Error>> {
    let mut last = None;
    for file in files {
        match client.stat(file).await {
            Err(error) if is_refusal(&error) => last = Some(Err(error)),
            Err(error) if !matches!(error.kind, ErrorKind::NotFound) => return Some(Err(error)),
            _ => return Some(Ok(())),
        }
    }
    last
}

/// Proves the right every `every` for as long as it is polled.
pub(super) async fn prove(served: Arc<Served>, every: Duration, grace: Duration) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = served.renewed.notified() => {}
        }
        prove_once(&served, grace).await;
    }
}

async fn prove_once(served: &Served, grace: Duration) {
    let mut right = served.right.lock().await;
    let files = right.files(served.vfs.last_read(PROOFS));
    let Some(outcome) = may_read(&*right.client, &files).await else { return };
    let closed = match &outcome {
        Ok(()) => {
            right.proven = Instant::now();
            None
        }
        Err(error) if is_refusal(error) => Some(error.kind),
        Err(_) if right.proven.elapsed() < grace => right.closed,
        Err(_) => right.closed.or(Some(ErrorKind::Unavailable)),
    };
    if let Err(error) = &outcome {
        served.note(error);
    }
    if closed == right.closed {
        return;
    }
    right.closed = closed;
    match (closed, outcome) {
        (Some(kind), Err(error)) => {
            tracing::error!(%error, "nothing is given out any more of what was read, until the store accepts this identity");
            served.kept.lend_if(false);
            let why = "the store refuses this identity by now, or has not answered for longer than authGrace";
            let shut: Arc<dyn Backend> = Arc::new(Closed::new(right.client.traits(), kind, why));
            served.vfs.succeed(|| served.backend.swap(shut)).await;
        }
        _ => {
            tracing::info!("the store accepts this identity again");
            let open = served.reading(&right.client);
            served.vfs.succeed(|| served.backend.swap(open)).await;
            served.kept.lend_if(true);
            served.recovered();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::upkeep::tests::served;
    use super::*;
    use crate::backend::faulty::{Fault, Faulty};
    use crate::backend::memory::Memory;
    use crate::backend::{Kind, Op};
    use crate::vfs::{self, Handle, Ino, OpenOptions};

    const TTL: Duration = Duration::from_secs(60);
    const GRACE: Duration = Duration::from_secs(600);

    /// A file that was opened and read once.
    async fn rig() -> (Memory, Faulty, Arc<Served>, Handle) {
        let memory = Memory::new();
        memory.put(&Path::parse("f").unwrap(), vec![7; 100_000]);
        let store = Faulty::new(Arc::new(memory.clone()));
        let served = served(&store);
        tokio::spawn(prove(served.clone(), TTL, GRACE));
        let ino = served.vfs.lookup(Ino::ROOT, b"f").await.unwrap().ino;
        let handle = served.vfs.open(ino, OpenOptions::default()).await.unwrap().handle;
        served.vfs.read(handle, 0, 10).await.unwrap();
        (memory, store, served, handle)
    }

    async fn after(time: Duration) {
        tokio::time::sleep(time).await;
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_proved_by_one_question_now_and_then_once_anything_was_read() {
        let (_, store, served, _) = rig().await;
        let asked = store.calls(Op::Stat);
        after(TTL * 10 + TTL / 2).await;
        assert_eq!(store.calls(Op::Stat) - asked, 10);
        served.vfs.succeed(|| ()).await;
        let asked = store.calls(Op::Stat);
        served.right.lock().await.files.clear();
        after(TTL * 10).await;
        assert_eq!(store.calls(Op::Stat), asked, "nobody has read anything");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_is_refused_until_it_is_accepted() {
        for kind in [ErrorKind::Denied, ErrorKind::Unauthenticated] {
            let (_, store, served, handle) = rig().await;
            store.every(Op::Stat, 1, Fault::Fail(kind));
            after(TTL / 2).await;
            assert!(served.vfs.read(handle, 0, 10).await.is_ok(), "it is believed for its time");
            after(TTL).await;
            assert_eq!(served.vfs.read(handle, 0, 10).await, Err(vfs::Error::Denied));
            assert_eq!(served.vfs.lookup(Ino::ROOT, b"f").await.unwrap_err(), vfs::Error::Denied);
            assert!(served.usage(None).health.credential.is_some());
            store.heal();
            after(TTL).await;
            assert!(served.vfs.read(handle, 0, 10).await.is_ok());
            assert_eq!(served.usage(None).health.credential, None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_borne_for_a_while() {
        let (_, store, served, handle) = rig().await;
        store.every(Op::Stat, 1, Fault::Fail(ErrorKind::Unavailable));
        after(GRACE).await;
        assert!(served.vfs.read(handle, 0, 10).await.is_ok());
        after(TTL * 2).await;
        assert_eq!(served.vfs.read(handle, 0, 10).await, Err(vfs::Error::Io));
        // A refusal is one, also then.
        store.heal();
        store.every(Op::Stat, 1, Fault::Fail(ErrorKind::Denied));
        after(TTL).await;
        assert_eq!(served.vfs.read(handle, 0, 10).await, Err(vfs::Error::Denied));
        store.heal();
        after(TTL).await;
        assert!(served.vfs.read(handle, 0, 10).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_gone_is_no_refusal_and_one_file_that_is_refused_is_not_all() {
        let (memory, store, served, _) = rig().await;
        memory.remove(&Path::parse("f").unwrap(), Kind::File).await.unwrap();
        after(TTL * 3).await;
        assert!(served.usage(None).health.credential.is_none() && !served.right.lock().await.is_closed());

        let files = ["a", "b", "c"].map(|name| Path::parse(name).unwrap());
        for name in &files {
            memory.put(name, "x");
        }
        store.nth(Op::Stat, 1, Fault::Fail(ErrorKind::Denied));
        assert!(matches!(may_read(&store, &files).await, Some(Ok(()))));
        store.every(Op::Stat, 1, Fault::Fail(ErrorKind::Denied));
        assert!(matches!(may_read(&store, &files).await, Some(Err(error)) if error.kind == ErrorKind::Denied));
        assert!(may_read(&store, &[]).await.is_none());
    }
}
