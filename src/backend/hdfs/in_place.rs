//! Files that are written at their end, and the handles that wait for what is done to them.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use hdfs_native::WriteOptions;

use super::error::{Failure, Outcome, gone};
use super::open::recovery::{end_lease, give_back};
use super::open::{Open, to_its_end};
use super::pipeline::Pipeline;
use super::snapshots::Place;
use super::{Tree, changes};
use crate::backend::journal::Note;
use crate::backend::{Error, ErrorKind, InPlace, Meta, Op, Path, Result, Version};

/// `Backend::make_file`.
pub(super) async fn make_file(tree: &Arc<Tree>, path: &Path, mode: u32) -> Outcome<Meta> {
    let (journal, note) = (&tree.limits.journal, Note::Made(path.clone()));
    let mut writer = journal.noted(note.clone(), create(tree, path, mode)).await?;
    if let Err(failure) = writer.close_at_leisure().await {
        drop(writer);
        end_lease_later(tree, tree.at(path)?);
        return Err(failure);
    }
    journal.over(note).await;
    tree.meta(path).await
}

/// Makes a file, and keeps it open to be written.
pub(super) async fn begin(tree: &Arc<Tree>, path: &Path, mode: u32) -> Outcome<Writing> {
    let writer = create(tree, path, mode).await?;
    let at = tree.at(path)?;
    match tree.web.status(&at).await {
        Ok(status) => Ok(Writing(tree.writers.get_or(status.file_id, || Open::begun(tree, path, writer, status)))),
        Err(failure) => {
            give_back(tree, writer, &at).await;
            Err(gone(failure))
        }
    }
}

/// Nobody waits for it: the caller is told what failed.
fn end_lease_later(tree: &Arc<Tree>, at: String) {
    let tree = tree.clone();
    tokio::spawn(async move { end_lease(&tree, &at).await });
}

async fn create(tree: &Tree, path: &Path, mode: u32) -> Outcome<Pipeline> {
    changes::new_name(path)?;
    let at = &tree.at(path)?;
    let options = &WriteOptions::default().permission(mode & 0o7777).create_parent(false);
    let made = tree.library.act("write", |client| async move { client.create(at, options).await }).await;
    let made = made.map_err(|failure| match failure.kind {
        // Who makes it holds its lease.
        ErrorKind::Busy => Failure { kind: ErrorKind::AlreadyExists, ..failure },
        _ => failure,
    })?;
    Ok(Pipeline::new(made, &tree.limits.timeout))
}

/// `Backend::open_write`. Asks nothing of HDFS before the first write.
pub(super) fn open_write(tree: &Arc<Tree>, file: &Version) -> Outcome<Writing> {
    let Place { id, frozen: None, .. } = tree.place(file)? else { return Err(Failure::in_snapshot()) };
    Ok(Writing(tree.writers.get_or(id, || Open::new(tree, id, &file.path))))
}

/// A handle on a file that is written.
#[derive(Debug)]
pub(super) struct Writing(Arc<Open>);

impl Writing {
    /// The file's id.
    pub(super) fn id(&self) -> u64 {
        self.0.id()
    }

    /// Does `work` to its end, and waits for that end as long as a call may take. Who does not wait was not told that it
    /// succeeded, so that nothing after it may.
    fn wait<F>(&self, work: F) -> impl Future<Output = Outcome<Option<Meta>>>
    where
        F: Future<Output = Outcome<Option<Meta>>> + Send + 'static,
    {
        let patience = self.0.patience();
        let unheard = Unheard(Some((self.0.clone(), Failure::late(patience))));
        let ended = to_its_end(patience, work);
        async move {
            let outcome = ended.await;
            if outcome.is_some() {
                unheard.heard();
            }
            outcome.unwrap_or_else(|| Err(Failure::late(patience)))
        }
    }

    /// Writes behind the `offset` bytes that the file has.
    pub(super) async fn append(&self, offset: u64, data: Bytes) -> Outcome<Option<Meta>> {
        let open = self.0.clone();
        self.wait(async move { open.write(offset, data).await }).await
    }

    /// Makes all of it lasting, and lets the file go.
    pub(super) async fn close(&self) -> Outcome<Option<Meta>> {
        let open = self.0.clone();
        self.wait(async move { Box::pin(open.finish()).await }).await
    }

    fn at(&self, op: Op) -> impl FnOnce(Failure) -> Error + '_ {
        move |failure| failure.at(op, self.0.path())
    }
}

/// Notes on dropping that nobody heard how an operation ended.
struct Unheard(Option<(Arc<Open>, Failure)>);

impl Unheard {
    fn heard(mut self) {
        self.0 = None;
    }
}

impl Drop for Unheard {
    fn drop(&mut self) {
        if let Some((open, failure)) = self.0.take() {
            open.fail(&failure);
        }
    }
}

#[async_trait]
impl InPlace for Writing {
    async fn write(&self, offset: u64, data: Bytes) -> Result<Option<Meta>> {
        self.append(offset, data).await.map_err(self.at(Op::Write))
    }

    async fn sync(&self) -> Result<Option<Meta>> {
        let open = self.0.clone();
        self.wait(async move { open.sync().await }).await.map_err(self.at(Op::Publish))
    }

    async fn finish(&self) -> Result<Option<Meta>> {
        self.close().await.map_err(self.at(Op::Publish))
    }
}
