//! Writing files in place, where the store can: every write is in the store when it returns, and lasting when the file is
//! synced or closed.
//!
//! Such a file is a stored file all the time. While it is open for writing here its version is what the store said after
//! the last write; what other clients write meanwhile is seen when it is asked for, as far as no write of ours came
//! between the question and its answer. A name that is removed or replaced while its file is open is renamed to a hidden
//! one, and goes with the last handle.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;

use super::changes::Outcome;
use super::handles::Open;
use super::inodes::Ino;
use super::ledger::{Amount, Full};
use super::read::{Opened, Pages};
use super::write::Owner;
use super::{Attr, Error, Invalidation, Result, Vfs};
use crate::backend::{ErrorKind, InPlace, Meta, Path, SetAttributes, Version};

/// So long a silent store is waited for by who asks about the root: what is entered there may need nothing of it.
pub(super) const ROOT: Duration = Duration::from_millis(500);

/// A file that is open to be changed in place.
#[derive(Debug)]
pub(super) struct Writing {
    file: Arc<dyn InPlace>,
    /// Something was written that is not known to be lasting.
    dirty: bool,
    /// Something was written since the store was last told that it is the end.
    open: bool,
    /// Who wrote it.
    owners: HashSet<Owner>,
    /// Writes so far: what the store answered before the last one is old.
    writes: u64,
    /// The file's mode, from the last close on.
    mode: Option<u32>,
}

/// The owner may write.
const WRITABLE: u32 = 0o200;

impl Vfs {
    /// Whether files are changed in place, by others too.
    pub fn in_place(&self) -> bool {
        self.backend.traits().append
    }

    /// Attributes of an inode as the store has them now, where files are changed in place. Of the root those that are known,
    /// where the store says nothing in time: `df` looks at it first.
    ///
    /// # Errors
    /// As [`Vfs::getattr`], and what the store failed with.
    pub async fn getattr_now(&self, ino: Ino) -> Result<Attr> {
        match ino {
            Ino::ROOT => {
                tokio::time::timeout(ROOT, self.ask_attributes(ino)).await.unwrap_or_else(|_| self.getattr(ino))
            }
            _ => self.ask_attributes(ino).await,
        }
    }

    async fn ask_attributes(&self, ino: Ino) -> Result<Attr> {
        loop {
            let (path, writes) = {
                let inodes = self.inodes();
                let inode = inodes.get(ino)?;
                if !inode.linked {
                    break;
                }
                (inode.path.clone(), inode.file().map(|file| file.in_place.as_ref().map(|writing| writing.writes)))
            };
            let asked = self.changes.ask();
            let it_is = match self.backend.stat(&path).await {
                Ok(_) if asked.changed(&path).is_some() => true,
                Ok(meta) => {
                    let mut inodes = self.inodes();
                    let now = inodes.get(ino)?.file().map(|file| file.in_place.as_ref().map(|writing| writing.writes));
                    let it_is = inodes.number(&path, &meta) == ino;
                    if it_is && now == writes {
                        inodes.take_in(ino, &meta);
                    }
                    it_is
                }
                Err(error) if error.kind == ErrorKind::NotFound => false,
                Err(error) => return Err(error.into()),
            };
            // Its only name went: the kernel hears of that when it looks it up.
            if it_is || !self.goes_by_another(ino, &path) {
                break;
            }
        }
        self.getattr(ino)
    }

    /// The store does not have the file under `path`: it goes by another of its names. False where none is known.
    pub(super) fn goes_by_another(&self, ino: Ino, path: &Path) -> bool {
        let mut inodes = self.inodes();
        if inodes.names_of(ino).len() < 2 || inodes.at(path) != Some(ino) {
            return false;
        }
        inodes.detach(path);
        if let Some((parent, name)) = path.split_last()
            && let Some(parent) = inodes.at(&parent)
        {
            self.invalidate(Invalidation::Entry { parent, name });
        }
        true
    }

    /// What was asked before about any name of the file is old.
    pub(super) fn record_names(&self, ino: Ino) {
        let names = self.inodes().names_of(ino);
        names.iter().for_each(|name| self.changes.record(name, Outcome::Uncertain));
    }

    /// Makes the file `path`, which was seen not to be there, and opens it. Counts a lookup. `None` where somebody else
    /// made it meanwhile.
    pub(super) async fn make_in_place(&self, path: &Path, mode: u32) -> Result<Option<(Attr, Opened)>> {
        // Whoever makes a file may write it whatever its mode, and some stores ask for the right at every beginning to write.
        let traits = self.backend.traits();
        let later = (mode & WRITABLE == 0 && traits.own_permissions && !traits.random_write).then_some(mode);
        let made = self.backend.make_file(path, later.map_or(mode, |mode| mode | WRITABLE)).await;
        self.progressed();
        self.changes.record(path, Outcome::Uncertain);
        let meta = match made {
            Ok(meta) => meta,
            Err(error) if error.kind == ErrorKind::AlreadyExists => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        self.counts(path, Amount::file(0, 1));
        let ino = self.inodes().enter(path, &meta);
        match self.open_in_place(ino, false).await.and_then(|opened| Ok((self.getattr(ino)?, opened))) {
            Ok(made) => {
                if let Some(writing) = self.inodes().get_mut(ino)?.file_mut()?.in_place.as_mut() {
                    writing.mode = later;
                }
                Ok(Some(made))
            }
            Err(error) => {
                self.forget(ino, 1);
                Err(error)
            }
        }
    }

    /// Opens a file to be written, which becomes empty where `truncate`.
    pub(super) async fn open_in_place(&self, ino: Ino, truncate: bool) -> Result<Opened> {
        let stored = self.inodes().get(ino)?.file()?.stored.clone().ok_or(Error::Stale)?;
        let begun = self.backend.open_write(&stored).await?;
        if truncate {
            self.set_in_place(ino, SetAttributes { size: Some(0), ..SetAttributes::default() }).await?;
        }
        let mut inodes = self.inodes();
        inodes.open(ino, true)?;
        let file = inodes.get_mut(ino)?.file_mut()?;
        // All who write share what is not lasting yet.
        file.in_place.get_or_insert_with(|| {
            Box::new(Writing { file: begun, dirty: false, open: false, owners: HashSet::new(), writes: 0, mode: None })
        });
        Ok(Opened { handle: self.handles.insert(Open::Writing { ino }), pages: Pages::None, backing: None })
    }

    /// Writes at any offset that the store takes.
    pub(super) async fn write_in_place(&self, ino: Ino, offset: u64, data: Bytes, owner: Option<Owner>) -> Result<u32> {
        let length = u32::try_from(data.len()).map_err(|_| Error::Invalid)?;
        let end = offset.checked_add(u64::from(length)).ok_or(Error::TooLarge)?;
        let (file, grows) = {
            let mut inodes = self.inodes();
            let inode = inodes.get_mut(ino)?;
            let grows = end.saturating_sub(inode.size());
            let writing = inode.file_mut()?.in_place.as_mut().ok_or(Error::BadHandle)?;
            (writing.dirty, writing.open) = (true, true);
            writing.owners.extend(owner);
            (writing.file.clone(), grows)
        };
        self.ledger().take(grows).map_err(|Full| Error::NoSpace)?;
        let wrote = file.write(offset, data).await;
        self.progressed();
        self.ledger().give_back(grows);
        let told = wrote?;
        let path = {
            let mut inodes = self.inodes();
            let inode = inodes.get_mut(ino)?;
            let path = inode.path.clone();
            if let Some(writing) = inode.file_mut()?.in_place.as_mut() {
                writing.writes += 1;
            }
            path
        };
        self.counts(&path, Amount { bytes: grows.cast_signed(), inodes: 0 });
        match told {
            Some(meta) => self.changed_here(ino, &meta),
            None => self.changed_here(ino, &self.backend.stat(&path).await?),
        }
        Ok(length)
    }

    /// A descriptor was closed: makes lasting what was written, where `owner` wrote of it. A fork's exit and a spawned
    /// program's exec close descriptors too, and have nothing to wait for.
    pub(super) async fn flush_in_place(&self, ino: Ino, owners: &[Owner]) -> Result<()> {
        let wrote = {
            let inodes = self.inodes();
            let writing = inodes.get(ino)?.file()?.in_place.as_ref();
            writing.is_some_and(|writing| owners.iter().any(|owner| writing.owners.contains(owner)))
        };
        if wrote { self.make_lasting(ino, true).await } else { Ok(()) }
    }

    /// Makes lasting what was written through any handle.
    pub(super) async fn sync_in_place(&self, ino: Ino) -> Result<()> {
        self.make_lasting(ino, false).await
    }

    /// As [`Vfs::sync_in_place`]; `closing`, where it is for a descriptor that is closed: behind the last of them no more
    /// is expected to be written.
    async fn make_lasting(&self, ino: Ino, closing: bool) -> Result<()> {
        let (file, owners, last) = {
            let mut inodes = self.inodes();
            let file = inodes.get_mut(ino)?.file_mut()?;
            let last = closing && file.writers <= 1;
            let Some(writing) = file.in_place.as_mut() else { return Ok(()) };
            // What is written from now on need not be in it.
            let something = writing.dirty || (last && writing.open);
            if !something {
                return Ok(());
            }
            (writing.dirty, writing.open) = (false, writing.open && !last);
            // Who wrote waits at his close for the end, too.
            let owners = if last { std::mem::take(&mut writing.owners) } else { HashSet::new() };
            (writing.file.clone(), owners, last)
        };
        let synced = if last { file.finish().await } else { file.sync().await };
        self.progressed();
        match synced {
            Ok(told) => {
                if let Some(meta) = told {
                    self.changed_here(ino, &meta);
                }
                Ok(())
            }
            Err(error) => {
                if let Some(writing) = self.inodes().get_mut(ino)?.file_mut()?.in_place.as_mut() {
                    (writing.dirty, writing.open) = (true, true);
                    writing.owners.extend(owners);
                }
                Err(error.into())
            }
        }
    }

    /// The mount is gone: as far as can be, what was written lasts.
    pub(super) async fn sync_all_in_place(&self) {
        let open = self.inodes().all_in_place();
        for outcome in join_all(open.into_iter().map(|ino| self.make_lasting(ino, true))).await {
            if let Err(error) = outcome {
                tracing::error!(%error, "what was written to a file may be lost: it could not be made lasting");
            }
        }
    }

    /// The last descriptor of a handle that may write is gone.
    pub(super) async fn release_in_place(&self, ino: Ino) -> Result<()> {
        let synced = self.make_lasting(ino, true).await;
        let (path, mode) = {
            let mut inodes = self.inodes();
            let inode = inodes.get_mut(ino)?;
            let path = inode.path.clone();
            let file = inode.file_mut()?;
            file.writers = file.writers.saturating_sub(1);
            let ended = if file.writers == 0 { file.in_place.take() } else { None };
            (path, ended.and_then(|writing| writing.mode))
        };
        if let Some(mode) = mode
            && let Err(error) =
                self.set_in_place(ino, SetAttributes { mode: Some(mode), ..SetAttributes::default() }).await
        {
            tracing::warn!(%path, ?error, "a file that was made to be read only can still be written by its owner");
        }
        if let Err(error) = synced {
            tracing::error!(%path, %error, "what was written to a file may be lost: it could not be made lasting");
        }
        // What was asked while it was written may be answered with what it was before.
        self.changes.record(&path, Outcome::Uncertain);
        self.record_names(ino);
        self.closed(ino).await;
        synced
    }

    /// Changes attributes of what lies in the store.
    pub(super) async fn set_in_place(&self, ino: Ino, set: SetAttributes) -> Result<Attr> {
        loop {
            let (path, _locked) = self.lock_file(ino).await?;
            match self.set_by_name(ino, &path, set).await {
                Err(Error::NotFound) if self.goes_by_another(ino, &path) => {}
                outcome => return outcome,
            }
        }
    }

    async fn set_by_name(&self, ino: Ino, path: &Path, set: SetAttributes) -> Result<Attr> {
        let before = {
            let inodes = self.inodes();
            let inode = inodes.get(ino)?;
            if set.size.is_some() {
                inode.file()?;
            }
            if !inode.linked && inode.file().is_ok_and(|file| file.hidden.is_none()) {
                return Err(Error::Stale);
            }
            inode.size()
        };
        if let Some(size) = set.size {
            let grows = size.saturating_sub(before);
            self.ledger().take(grows).map_err(|Full| Error::NoSpace)?;
            self.ledger().give_back(grows);
            // What is sent again after a restart of the server must not make a file longer that was cut meanwhile.
            self.sync_in_place(ino).await?;
        }
        let wanted = SetAttributes { mode: set.mode.map(|mode| mode & 0o7777), ..set };
        if set.mode.is_some()
            && let Ok(file) = self.inodes().get_mut(ino)?.file_mut()
            && let Some(writing) = &mut file.in_place
        {
            writing.mode = None;
        }
        let outcome = self.backend.set_attributes(path, &wanted).await;
        self.progressed();
        self.changes.record(path, Outcome::Uncertain);
        self.accesses.forget();
        self.record_names(ino);
        let meta = outcome?;
        if let Some(size) = set.size {
            let bytes = size.cast_signed().saturating_sub(before.cast_signed());
            self.counts(path, Amount { bytes, inodes: 0 });
        }
        self.changed_here(ino, &meta);
        self.getattr(ino)
    }

    /// Whether what lies at `path` is the file `ino` still, of which the store no longer has `version`: then its new
    /// version is known from now on.
    pub(super) async fn is_still(&self, ino: Ino, path: &Path, version: &Version) -> bool {
        let Ok(meta) = self.backend.stat(path).await else { return false };
        let same = meta.version().is_some_and(|now| now.file == version.file && now.bytes != version.bytes);
        if same {
            self.changed_here(ino, &meta);
            self.invalidate(Invalidation::Inode(ino));
        }
        same
    }

    /// Takes in what the store says of a file or directory that is the one that `ino` is.
    fn changed_here(&self, ino: Ino, meta: &Meta) {
        self.inodes().take_in(ino, meta);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::backend::faulty::{Fault, Faulty};
    use crate::backend::memory::Memory;
    use crate::backend::{Backend, Name, Op};
    use crate::vfs::tests::{ME, NEW, OTHER, Slow, names, over, path, read, stored};
    use crate::vfs::{Config, Handle, OpenOptions};

    const WRITE: OpenOptions = OpenOptions { write: true, truncate: false, exclusive: false };

    fn volume() -> (Memory, Faulty, Vfs) {
        let memory = Memory::in_place();
        let faulty = Faulty::new(Arc::new(memory.clone()));
        let vfs = over(Arc::new(faulty.clone()), Config::default());
        (memory, faulty, vfs)
    }

    async fn write(vfs: &Vfs, handle: Handle, offset: u64, data: &'static str) -> Result<u32> {
        vfs.write(handle, offset, data.into(), Some(ME)).await
    }

    async fn hidden(memory: &Memory) -> usize {
        use futures::TryStreamExt;
        let all: Vec<_> = memory.list(&Path::root()).try_collect().await.unwrap();
        all.iter().filter(|entry| entry.name.is_hidden()).count()
    }

    #[tokio::test]
    async fn a_write_is_in_the_store_at_once_and_keeps_its_inode() {
        let (memory, faulty, vfs) = volume();
        let (attr, opened) = vfs.create_with(Ino::ROOT, b"f", NEW, 0o600).await.unwrap();
        assert_eq!((attr.mode, stored(&memory, "f").await.unwrap()), (0o600, vec![]));
        write(&vfs, opened.handle, 3, "abc").await.unwrap();
        write(&vfs, opened.handle, 0, "xyz").await.unwrap();
        assert_eq!(stored(&memory, "f").await.unwrap(), b"xyzabc");
        assert_eq!(vfs.read(opened.handle, 2, 3).await.unwrap(), "zab");
        assert_eq!(vfs.getattr(attr.ino).unwrap().size, 6);
        assert_eq!(vfs.lookup(Ino::ROOT, b"f").await.unwrap().ino, attr.ino);
        assert_eq!(faulty.calls(Op::Publish), 0);
        vfs.flush(opened.handle, &[OTHER]).await.unwrap();
        assert_eq!(faulty.calls(Op::Publish), 0, "who wrote nothing waits for nothing");
        vfs.flush(opened.handle, &[ME]).await.unwrap();
        vfs.flush(opened.handle, &[ME]).await.unwrap();
        vfs.release(opened.handle).await.unwrap();
        assert_eq!(faulty.calls(Op::Publish), 1, "what is lasting is not made so again");
        assert_eq!(read(&vfs, attr.ino).await.unwrap(), b"xyzabc");
    }

    #[tokio::test]
    async fn a_sync_that_failed_is_told_and_made_again() {
        let (_, faulty, vfs) = volume();
        let (_, opened) = vfs.create(Ino::ROOT, b"f", NEW).await.unwrap();
        write(&vfs, opened.handle, 0, "x").await.unwrap();
        faulty.nth(Op::Publish, 1, Fault::Fail(ErrorKind::NoSpace));
        assert_eq!(vfs.fsync(opened.handle).await, Err(Error::NoSpace));
        vfs.fsync(opened.handle).await.unwrap();
        faulty.nth(Op::Write, 1, Fault::Fail(ErrorKind::OverQuota));
        assert_eq!(write(&vfs, opened.handle, 1, "y").await, Err(Error::OverQuota));
        write(&vfs, opened.handle, 1, "z").await.unwrap();
        vfs.release(opened.handle).await.unwrap();
    }

    #[tokio::test]
    async fn a_name_that_goes_leaves_its_open_file() {
        let (memory, _, vfs) = volume();
        for replaced in [false, true] {
            let (attr, opened) = vfs.create(Ino::ROOT, b"f", NEW).await.unwrap();
            write(&vfs, opened.handle, 0, "old").await.unwrap();
            if replaced {
                memory.put(&path("new"), "new");
                vfs.rename((Ino::ROOT, b"new"), (Ino::ROOT, b"f"), false).await.unwrap();
            } else {
                vfs.unlink(Ino::ROOT, b"f").await.unwrap();
                assert_eq!(vfs.lookup(Ino::ROOT, b"f").await, Err(Error::NotFound));
            }
            assert_eq!(hidden(&memory).await, 1);
            write(&vfs, opened.handle, 3, "er").await.unwrap();
            assert_eq!(vfs.read(opened.handle, 0, 10).await.unwrap(), "older");
            let set = SetAttributes { size: Some(2), ..SetAttributes::default() };
            assert_eq!(vfs.setattr(attr.ino, Some((opened.handle, Some(ME))), set).await.unwrap().size, 2);
            assert_eq!(vfs.getattr_now(attr.ino).await.unwrap().nlink, 0);
            vfs.release(opened.handle).await.unwrap();
            assert_eq!(hidden(&memory).await, 0);
        }
        assert_eq!(stored(&memory, "f").await.unwrap(), b"new");
        let name = Name::hidden();
        assert_eq!(vfs.lookup(Ino::ROOT, name.as_bytes()).await, Err(Error::NotFound));
        assert_eq!(vfs.create(Ino::ROOT, name.as_bytes(), NEW).await.err(), Some(Error::NotPermitted));
    }

    #[tokio::test(start_paused = true)]
    async fn a_directory_goes_from_around_files_that_were_removed_while_they_were_open() {
        let (memory, faulty, vfs) = volume();
        let dir = vfs.mkdir(Ino::ROOT, b"d").await.unwrap().ino;
        let (_, open) = vfs.create(dir, b"open", NEW).await.unwrap();
        let (_, closing) = vfs.create(dir, b"closing", NEW).await.unwrap();
        write(&vfs, open.handle, 0, "kept").await.unwrap();
        memory.put(&path("d/shown"), "");
        for name in [&b"open"[..], b"closing"] {
            vfs.unlink(dir, name).await.unwrap();
        }
        assert_eq!(vfs.rmdir(Ino::ROOT, b"d").await, Err(Error::NotEmpty));
        vfs.unlink(dir, b"shown").await.unwrap();
        // close(2) does not wait for this.
        faulty.nth(Op::Remove, 1, Fault::Delay(Duration::from_millis(50)));
        let (released, removed) = tokio::join!(vfs.release(closing.handle), vfs.rmdir(Ino::ROOT, b"d"));
        assert_eq!((released, removed), (Ok(()), Ok(())));
        assert_eq!(vfs.lookup(Ino::ROOT, b"d").await, Err(Error::NotFound));
        assert_eq!(hidden(&memory).await, 1);
        write(&vfs, open.handle, 4, " on").await.unwrap();
        assert_eq!(vfs.read(open.handle, 0, 10).await.unwrap(), "kept on");
        vfs.release(open.handle).await.unwrap();
        assert_eq!(hidden(&memory).await, 0);
        // Another node's is left where it is.
        let dir = vfs.mkdir(Ino::ROOT, b"d").await.unwrap().ino;
        memory.put(&path("d").join(&Name::hidden()), "theirs");
        assert_eq!(vfs.rmdir(Ino::ROOT, b"d").await, Err(Error::NotEmpty));
        assert!(names(&vfs, dir).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_closed_while_it_is_being_hidden_is_gone() {
        let (memory, faulty, vfs) = volume();
        let (_, opened) = vfs.create(Ino::ROOT, b"f", NEW).await.unwrap();
        // The kernel sends the release of a close(2) by itself.
        faulty.nth(Op::Rename, 1, Fault::Delay(Duration::from_millis(50)));
        let (removed, released) = tokio::join!(vfs.unlink(Ino::ROOT, b"f"), vfs.release(opened.handle));
        assert_eq!((removed, released), (Ok(()), Ok(())));
        assert_eq!(hidden(&memory).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_opened_while_its_name_goes_is_stale_at_once_or_stays() {
        let (memory, faulty, vfs) = volume();
        memory.put(&path("f"), "old");
        let ino = vfs.lookup(Ino::ROOT, b"f").await.unwrap().ino;
        memory.put(&path("new"), "new");
        faulty.nth(Op::Rename, 1, Fault::Delay(Duration::from_millis(50)));
        let replace = vfs.rename((Ino::ROOT, b"new"), (Ino::ROOT, b"f"), false);
        let (replaced, opened) = tokio::join!(replace, vfs.open(ino, OpenOptions::default()));
        // The kernel looks up anew.
        assert_eq!((replaced, opened.err()), (Ok(()), Some(Error::Stale)));
    }

    #[tokio::test]
    async fn what_others_change_is_read_and_what_they_replace_is_stale() {
        let (memory, _, vfs) = volume();
        memory.put(&path("f"), "one");
        let attr = vfs.lookup(Ino::ROOT, b"f").await.unwrap();
        let opened = vfs.open(attr.ino, OpenOptions::default()).await.unwrap();
        assert_eq!(vfs.read(opened.handle, 0, 10).await.unwrap(), "one");
        let theirs = memory.open_write(memory.stat(&path("f")).await.unwrap().version().unwrap()).await.unwrap();
        theirs.write(0, "two".into()).await.unwrap();
        assert_eq!(vfs.read(opened.handle, 0, 10).await.unwrap(), "two");
        theirs.write(3, " more".into()).await.unwrap();
        assert_eq!(vfs.getattr_now(attr.ino).await.unwrap().size, 8);
        assert_eq!(vfs.read(opened.handle, 0, 10).await.unwrap(), "two more");
        memory.put(&path("f"), "another");
        assert_eq!(vfs.read(opened.handle, 0, 10).await, Err(Error::Stale));
        assert_ne!(vfs.lookup(Ino::ROOT, b"f").await.unwrap().ino, attr.ino);
    }

    #[tokio::test]
    async fn an_old_answer_does_not_undo_a_write() {
        let slow = Slow::new(&Memory::in_place());
        let vfs = Arc::new(over(Arc::new(slow.clone()), Config::default()));
        let (attr, opened) = vfs.create(Ino::ROOT, b"f", NEW).await.unwrap();
        for op in ["getattr", "lookup"] {
            slow.hold();
            let asking = {
                let vfs = vfs.clone();
                tokio::spawn(async move {
                    match op {
                        "getattr" => vfs.getattr_now(attr.ino).await,
                        _ => vfs.lookup(Ino::ROOT, b"f").await,
                    }
                })
            };
            tokio::task::yield_now().await;
            let size = vfs.getattr(attr.ino).unwrap().size;
            write(&vfs, opened.handle, size, "more").await.unwrap();
            slow.let_go();
            assert_eq!(asking.await.unwrap().unwrap().size, size + 4, "{op}");
        }
    }

    #[tokio::test]
    async fn a_limit_holds_for_what_grows_and_not_for_what_is_written_over() {
        let (_, _, vfs) = volume();
        vfs.set_limit(Some(10));
        let (attr, opened) = vfs.create(Ino::ROOT, b"f", NEW).await.unwrap();
        write(&vfs, opened.handle, 0, "12345678").await.unwrap();
        assert_eq!(write(&vfs, opened.handle, 8, "901").await, Err(Error::NoSpace));
        write(&vfs, opened.handle, 0, "87654321").await.unwrap();
        let longer = SetAttributes { size: Some(11), ..SetAttributes::default() };
        assert_eq!(vfs.setattr(attr.ino, None, longer).await, Err(Error::NoSpace));
        vfs.setattr(attr.ino, None, SetAttributes { size: Some(1), ..SetAttributes::default() }).await.unwrap();
        write(&vfs, opened.handle, 1, "23456789").await.unwrap();
        assert_eq!(vfs.usage().bytes, 9);
        vfs.unlink(Ino::ROOT, b"f").await.unwrap();
        vfs.release(opened.handle).await.unwrap();
        vfs.forget(attr.ino, 1);
        assert_eq!(vfs.usage().bytes, 0);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Write(u64, Vec<u8>),
        Cut(u64),
        Sync,
        Reopen,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..300_u64, proptest::collection::vec(any::<u8>(), 1..100)).prop_map(|(at, data)| Step::Write(at, data)),
            1 => (0..300_u64).prop_map(Step::Cut),
            1 => Just(Step::Sync),
            1 => Just(Step::Reopen),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_file_holds_what_a_plain_one_would(steps in proptest::collection::vec(step(), 1..30)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (memory, _, vfs) = volume();
                let (attr, mut opened) = vfs.create(Ino::ROOT, b"f", NEW).await.unwrap();
                let mut model = Vec::new();
                for step in steps {
                    match step {
                        Step::Write(at, data) => {
                            let (begin, end) = (at as usize, at as usize + data.len());
                            model.resize(model.len().max(end), 0);
                            model[begin..end].copy_from_slice(&data);
                            vfs.write(opened.handle, at, data.into(), None).await.unwrap();
                        }
                        Step::Cut(size) => {
                            model.resize(size as usize, 0);
                            let set = SetAttributes { size: Some(size), ..SetAttributes::default() };
                            vfs.setattr(attr.ino, Some((opened.handle, Some(ME))), set).await.unwrap();
                        }
                        Step::Sync => vfs.fsync(opened.handle).await.unwrap(),
                        Step::Reopen => {
                            let next = vfs.open(attr.ino, WRITE).await.unwrap();
                            vfs.release(std::mem::replace(&mut opened, next).handle).await.unwrap();
                        }
                    }
                    assert_eq!(vfs.read(opened.handle, 0, 1 << 20).await.unwrap(), model);
                    assert_eq!(stored(&memory, "f").await.unwrap(), model);
                }
            });
        }
    }
}
