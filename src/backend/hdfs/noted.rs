//! What is noted in the mount's journal before it is done, and erased when it is over.

use super::Tree;
use super::error::Outcome;
use crate::backend::Path;
use crate::backend::journal::Note;

/// What is noted of a name of the driver's own; of another nothing is.
pub(super) fn hidden(path: &Path) -> Option<Note> {
    let (_, name) = path.split_last()?;
    name.is_hidden().then(|| Note::Hidden(path.clone()))
}

/// Does `work` once `note` of it stands in the journal, from which it is taken where the work was surely not done.
pub(super) async fn noted<T>(
    tree: &Tree,
    note: impl Into<Option<Note>>,
    work: impl Future<Output = Outcome<T>>,
) -> Outcome<T> {
    let note = note.into();
    if let Some(note) = &note {
        tree.limits.journal.note(note.clone()).await;
    }
    let outcome = work.await;
    if outcome.as_ref().is_err_and(|failure| failure.is_sure()) {
        over(tree, note).await;
    }
    outcome
}

/// Of what was noted nothing is to be undone any more.
pub(super) async fn over(tree: &Tree, note: impl Into<Option<Note>>) {
    if let Some(note) = note.into() {
        tree.limits.journal.erase(note).await;
    }
}
