//! Files that the kernel opened without asking, and that so have no handle whose end could be seen: those read last.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use super::inode::Content;
use super::read::Of;
use super::{Answer, Error, Ino, Result, Vfs};

/// So many of them keep what was read ahead.
const MOST: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Unopened(Mutex<VecDeque<Ino>>);

impl Unopened {
    /// Notes that a file is read. Returns the one that was not read for longest, where they are too many.
    fn note(&self, ino: Ino) -> Option<Ino> {
        let mut read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if read.back() != Some(&ino) {
            read.retain(|other| *other != ino);
            read.push_back(ino);
        }
        if read.len() > MOST { read.pop_front() } else { None }
    }
}

impl Vfs {
    /// As [`Vfs::answer`], of a file that was opened without asking.
    ///
    /// # Errors
    /// As [`Vfs::answer`]; `Denied` also for an object in an archive class, which an open would have refused.
    pub async fn answer_unopened(&self, ino: Ino, offset: u64, size: u32) -> Result<Answer> {
        if !self.inodes().get(ino)?.file()?.readable {
            return Err(Error::Denied);
        }
        if let Some(idle) = self.unopened.note(ino) {
            self.leave_unopened(idle);
        }
        self.answer_of(Of::Unopened(ino), offset, size).await
    }

    /// Nothing is kept that was fetched ahead of who reads a file no more.
    fn leave_unopened(&self, ino: Ino) {
        if let Ok(inode) = self.inodes().get_mut(ino)
            && let Content::File(file) = &mut inode.content
        {
            let _ = file.closed();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::backend::Backend;
    use crate::backend::memory::Memory;
    use crate::budget::Budget;
    use crate::prefetch::{self, ReadAhead};
    use crate::vfs::tests::path;
    use crate::vfs::{Config, Error, Seek};

    #[tokio::test]
    async fn files_are_read_by_their_inodes_and_few_keep_a_reader() {
        let memory = Memory::new();
        let count = MOST as u64 + 50;
        for number in 0..count {
            memory.put(&path(&format!("{number}")), number.to_le_bytes().repeat(1000));
        }
        let (backend, budget): (Arc<dyn Backend>, _) = (Arc::new(memory), Budget::new(32 << 20));
        let ahead = ReadAhead::new(backend.clone(), budget.clone(), prefetch::Config::for_budget(32 << 20));
        let config = Config { read_only: true, immutable: true, ..Config::default() };
        let vfs = Vfs::new(backend, ahead, budget, config);
        let mut inos = Vec::new();
        for round in 0..2 {
            for number in 0..count {
                let ino = vfs.lookup(Ino::ROOT, number.to_string().as_bytes()).await.unwrap().ino;
                let answer = vfs.answer_unopened(ino, 16, 8).await.unwrap();
                assert_eq!(answer.data.into_bytes(), number.to_le_bytes()[..], "{round}");
                inos.push(ino);
            }
        }
        let readers = |vfs: &Vfs| {
            let inodes = vfs.inodes();
            inos[..count as usize]
                .iter()
                .filter(|ino| inodes.get(**ino).unwrap().file().unwrap().reader.is_some())
                .count()
        };
        assert_eq!(readers(&vfs), MOST);
        assert_eq!(vfs.seek_unopened(inos[0], 10, Seek::Hole), Ok(8000));
        assert_eq!(vfs.seek_unopened(inos[0], 8000, Seek::Data), Err(Error::NoData));
        assert_eq!(vfs.answer_unopened(Ino(7), 0, 1).await.unwrap_err(), Error::Stale);
    }
}
