//! What is to be undone where this process dies: noted in a file before it is done, erased when it is over, and read by
//! who comes next for the same volume and identity.
//!
//! The file holds names and numbers, no secret. It is not forced onto the disk: it outlives the process, not a machine that
//! loses power. A disk that does not take a note keeps nothing from being done.

mod pages;
pub(in crate::backend) mod replay;

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::watch;

use self::pages::Pages;
use super::{Error, ErrorKind, Path};

/// Something that is to be undone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Note {
    /// What lies under this name of the driver's own is to be removed.
    Hidden {
        /// Its path, whose last name no mount shows or takes.
        path: Path,
        /// Which file it is, as [`Version::file`](super::Version::file) says, where the store had told; no other is removed.
        file: Option<Arc<str>>,
    },
    /// A file is being made here, and may be left open.
    Made(Path),
    /// The file of that number is open to be written.
    Written {
        /// The store's number of it.
        id: u64,
        /// When it was last changed, as the store said once it was open (milliseconds since 1970); `None` before.
        since: Option<u64>,
    },
}

impl Note {
    /// What is noted of a name of the driver's own, under which `file` is to lie; of another name nothing is.
    pub fn hidden(path: &Path, file: Option<Arc<str>>) -> Option<Note> {
        path.split_last()?.1.is_hidden().then(|| Note::Hidden { path: path.clone(), file })
    }

    /// What is noted once at a time.
    fn key(&self) -> Note {
        match self {
            Note::Hidden { path, .. } => Note::Hidden { path: path.clone(), file: None },
            Note::Made(path) => Note::Made(path.clone()),
            Note::Written { id, .. } => Note::Written { id: *id, since: None },
        }
    }
}

/// A store's failure, as far as a journal has to know it.
pub(in crate::backend) trait Failed: fmt::Display {
    /// Of what kind it is.
    fn kind(&self) -> ErrorKind;

    /// Whether nobody took what was asked, whatever its kind says.
    fn is_passing(&self) -> bool {
        false
    }

    /// What failed was not done, and nobody will do it later.
    fn is_sure(&self) -> bool {
        self.is_passing() || !matches!(self.kind(), ErrorKind::Unavailable | ErrorKind::Corrupt | ErrorKind::Other)
    }
}

impl Failed for Error {
    fn kind(&self) -> ErrorKind {
        self.kind
    }
}

/// See the module. Cloning shares it. Without a file nothing is kept.
#[derive(Debug, Clone, Default)]
pub struct Journal(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    pages: OnceLock<Mutex<Pages>>,
    /// What others left, as far as it is not undone.
    left: watch::Sender<Vec<Note>>,
}

impl Journal {
    /// Keeps notes in `file` from now on, once. What stands there, and in the files that `others` who died left, is left to be
    /// undone; theirs are emptied. Waits for the disk.
    ///
    /// # Errors
    /// Where a file cannot be read or written.
    pub fn keep_in(&self, file: File, others: Vec<File>) -> io::Result<()> {
        let (mut pages, mut left) = Pages::read(file)?;
        for other in others {
            let (mut theirs, notes) = Pages::read(other)?;
            for note in notes {
                pages.write(&note.key(), &note)?;
                left.push(note);
            }
            theirs.clear()?;
        }
        if self.0.pages.set(Mutex::new(pages)).is_ok() {
            self.0.left.send_replace(left);
        }
        Ok(())
    }

    /// Notes something that is about to be done, in the place of what was noted of it before or is left of it.
    pub async fn note(&self, note: Note) {
        self.note_anew(note).await;
    }

    /// As [`Journal::note`]. False where something was noted of it before.
    async fn note_anew(&self, note: Note) -> bool {
        let inner = self.0.clone();
        let noted = self.change(move |pages| {
            let key = note.key();
            inner.forget(&key);
            let is_new = !pages.has(&key);
            pages.write(&key, &note).map(|()| is_new)
        });
        noted.await.unwrap_or(true)
    }

    /// It is over.
    pub async fn erase(&self, note: Note) {
        self.change(move |pages| pages.erase(&note.key())).await;
    }

    /// Does `work` once `note` of it stands here, from where it is taken if the work was surely not done. What was noted of
    /// an attempt before may have been done all the same, and stays.
    pub(in crate::backend) async fn noted<T, E: Failed>(
        &self,
        note: impl Into<Option<Note>>,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let note = note.into();
        let is_new = match &note {
            Some(note) => self.note_anew(note.clone()).await,
            None => false,
        };
        let outcome = work.await;
        if is_new && outcome.as_ref().is_err_and(Failed::is_sure) {
            self.over(note).await;
        }
        outcome
    }

    /// Of what was noted nothing is to be undone any more.
    pub(in crate::backend) async fn over(&self, note: impl Into<Option<Note>>) {
        if let Some(note) = note.into() {
            self.erase(note).await;
        }
    }

    /// What others left that is not undone.
    pub fn left(&self) -> Vec<Note> {
        self.0.left.borrow().clone()
    }

    /// Whether that is left.
    pub fn is_left(&self, note: &Note) -> bool {
        self.0.left.borrow().contains(note)
    }

    /// What was left there is undone, or needs to be no more.
    pub async fn settle(&self, note: &Note) {
        let (inner, key) = (self.0.clone(), note.key());
        self.change(move |pages| if inner.forget(&key) { pages.erase(&key) } else { Ok(()) }).await;
    }

    /// Of what was left there it is not known any more whose it is.
    pub fn doubt(&self, note: &Note) -> Note {
        let key = note.key();
        self.0.left.send_modify(|left| left.iter_mut().filter(|one| *one == note).for_each(|one| one.clone_from(&key)));
        key
    }

    /// Whether a hold on the file of that number is left that is known to be one to be ended.
    pub fn is_held(&self, id: u64) -> bool {
        holds(&self.0.left.borrow(), id)
    }

    /// Waits until it is ended.
    pub async fn is_free(&self, id: u64) {
        // Its sender is in this.
        let _ = self.0.left.subscribe().wait_for(|left| !holds(left, id)).await;
    }

    /// What the change gives, where there is a file and it took it.
    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Pages) -> io::Result<T> + Send + 'static,
    ) -> Option<T> {
        self.0.pages.get()?;
        let inner = self.0.clone();
        let changed = tokio::task::spawn_blocking(move || {
            let pages = inner.pages.get()?;
            Some(change(&mut pages.lock().unwrap_or_else(PoisonError::into_inner)))
        });
        match changed.await.ok()?? {
            Ok(changed) => Some(changed),
            Err(error) => {
                tracing::warn!(%error, "what is to be undone where this worker dies is not noted");
                None
            }
        }
    }
}

impl Inner {
    /// False where nothing of that key is left.
    fn forget(&self, key: &Note) -> bool {
        self.left.send_if_modified(|left| {
            let before = left.len();
            left.retain(|one| one.key() != *key);
            left.len() < before
        })
    }
}

fn holds(left: &[Note], id: u64) -> bool {
    left.iter().any(|note| matches!(note, Note::Written { id: one, since: Some(_) } if *one == id))
}

/// Whether nothing is to be undone by what stands in `file`.
///
/// # Errors
/// Where it cannot be read.
pub fn is_empty(file: File) -> io::Result<bool> {
    Ok(Pages::read(file)?.1.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Op;

    fn hidden(name: &str) -> Note {
        let path = Path::parse(&format!("{name}/.millrace.tmp-1-a")).unwrap();
        Note::Hidden { path, file: Some(format!("file of {name}").into()) }
    }

    async fn reopened(file: &File, others: &[&File]) -> (Journal, Vec<Note>) {
        let journal = Journal::default();
        let others = others.iter().map(|other| other.try_clone().unwrap()).collect();
        journal.keep_in(file.try_clone().unwrap(), others).unwrap();
        let mut left = journal.left();
        left.sort_by_key(|note| format!("{note:?}"));
        (journal, left)
    }

    #[tokio::test]
    async fn what_was_noted_and_not_erased_is_left_to_who_comes_next() {
        let (file, other) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let (journal, left) = reopened(&file, &[]).await;
        assert!(left.is_empty() && is_empty(file.try_clone().unwrap()).unwrap());
        let long = hidden(&["d".repeat(200), "e".repeat(250), "f".repeat(240)].join("/"));
        let written = Note::Written { id: 7, since: Some(1_700_000_000_000) };
        for note in [Note::Written { id: 7, since: None }, hidden("a"), long.clone(), hidden("b"), written.clone()] {
            journal.note(note).await;
        }
        journal.erase(hidden("a")).await;
        journal.erase(hidden("nowhere")).await;
        drop(journal);

        let (journal, left) = reopened(&other, &[&file]).await;
        assert_eq!(left, [hidden("b"), long.clone(), written.clone()]);
        assert!(is_empty(file).unwrap(), "it was taken over");
        journal.settle(&written).await;
        journal.settle(&hidden("b")).await;
        assert_eq!(journal.left(), std::slice::from_ref(&long));
        drop(journal);
        assert_eq!(reopened(&other, &[]).await.1, [long]);
    }

    #[tokio::test]
    async fn a_file_is_free_when_the_lease_that_was_left_is_ended() {
        let file = tempfile::tempfile().unwrap();
        let (journal, _) = reopened(&file, &[]).await;
        let written = Note::Written { id: 7, since: Some(1) };
        journal.note(written.clone()).await;
        journal.note(Note::Written { id: 8, since: None }).await;
        drop(journal);
        let (journal, _) = reopened(&file, &[]).await;
        // Of this nobody knows whose it is.
        journal.is_free(8).await;
        let waiting = tokio::spawn({
            let journal = journal.clone();
            async move { journal.is_free(7).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        assert_eq!(journal.doubt(&written), Note::Written { id: 7, since: None });
        waiting.await.unwrap();
        // What is noted anew is not taken for what was left.
        journal.note(Note::Written { id: 7, since: Some(2) }).await;
        journal.settle(&Note::Written { id: 7, since: None }).await;
        assert_eq!(journal.left(), [Note::Written { id: 8, since: None }]);
        drop(journal);
        assert!(reopened(&file, &[]).await.1.contains(&Note::Written { id: 7, since: Some(2) }));
    }

    #[tokio::test]
    async fn what_was_surely_not_done_is_not_noted_any_more() {
        let fails = |kind| async move { Err::<(), _>(Error::new(kind, Op::Rename, &Path::root(), "why")) };
        let file = tempfile::tempfile().unwrap();
        let (journal, _) = reopened(&file, &[]).await;
        journal.noted(hidden("done"), async { Ok::<_, Error>(()) }).await.unwrap();
        for (name, kind) in [("unknown", ErrorKind::Unavailable), ("refused", ErrorKind::Denied)] {
            journal.noted(hidden(name), fails(kind)).await.unwrap_err();
        }
        // The first attempt may have been carried out, whatever the second one is told.
        for kind in [ErrorKind::Unavailable, ErrorKind::Busy] {
            journal.noted(Note::Written { id: 7, since: None }, fails(kind)).await.unwrap_err();
        }
        assert_eq!(Note::hidden(&Path::parse("user/file").unwrap(), None), None);
        journal.noted(None, fails(ErrorKind::Denied)).await.unwrap_err();
        drop(journal);
        let (journal, left) = reopened(&file, &[]).await;
        assert_eq!(left, [hidden("done"), hidden("unknown"), Note::Written { id: 7, since: None }]);
        // By its name, whichever file it is.
        let path = Path::parse("done/.millrace.tmp-1-a").unwrap();
        journal.over(Note::hidden(&path, None)).await;
        drop(journal);
        assert_eq!(reopened(&file, &[]).await.1, [hidden("unknown"), Note::Written { id: 7, since: None }]);
    }

    #[tokio::test]
    async fn without_a_file_nothing_is_kept() {
        let journal = Journal::default();
        journal.note(hidden("a")).await;
        journal.erase(hidden("a")).await;
        assert!(journal.left().is_empty());
        journal.is_free(1).await;
    }
}
