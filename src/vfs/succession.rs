//! Another principal's credential in force, under open files and mappings.

use std::sync::PoisonError;

use super::{Invalidation, Vfs};

impl Vfs {
    /// Puts another principal in force by `change`, after which the backend asks as whom it should. What was read
    /// before is not answered any more: not by a call that is under way, not from what was read ahead, and when this
    /// returns not from the kernel's pages either, so that mappings fault anew. Open files read on. No answer waits
    /// for this, but this waits for reads that the kernel has open.
    pub async fn succeed(&self, change: impl FnOnce()) {
        self.reign
            .end(|| {
                change();
                self.read_ahead.forget();
                self.recent.forget();
                self.passing.forget();
            })
            .await;
        // After the change: a page that is being filled meanwhile is waited for, and dropped.
        let known = self.inodes().suspect_all();
        for ino in known {
            self.invalidate(Invalidation::Inode(ino));
        }
        self.forgotten().await;
    }

    /// Waits until the kernel has forgotten what it was told to forget before this.
    pub(super) async fn forgotten(&self) {
        let mut passed = self.fences.subscribe();
        let fence = self.fence();
        if self.invalidate(Invalidation::Fence(fence)) {
            // It ends with the value it is of, at the latest.
            let _ = passed.wait_for(|passed| *passed >= fence).await;
        }
    }

    /// Everything that was to be forgotten before `fence` is forgotten.
    pub fn passed(&self, fence: u64) {
        self.fences.send_if_modified(|passed| {
            let further = fence > *passed;
            *passed = fence.max(*passed);
            further
        });
    }

    fn fence(&self) -> u64 {
        let mut last = self.last_fence.lock().unwrap_or_else(PoisonError::into_inner);
        *last += 1;
        *last
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use crate::backend::faulty::{Fault, Faulty};
    use crate::backend::memory::Memory;
    use crate::backend::{ErrorKind, Op, Swappable};
    use crate::prefetch;
    use crate::vfs::tests::{names, path};
    use crate::vfs::*;

    const SIZE: usize = 8 << 20;

    /// A mount of two principals whose file of one name and version has other bytes for each.
    fn rig() -> (Faulty, Faulty, Swappable, Arc<Vfs>) {
        rig_of(Config::default())
    }

    fn rig_of(config: Config) -> (Faulty, Faulty, Swappable, Arc<Vfs>) {
        let [old, new] = [b'o', b'n'].map(|byte| {
            let memory = Memory::new();
            memory.put(&path("f"), vec![byte; SIZE]);
            for i in 0..10 {
                memory.put(&path(&format!("d/{i}")), "x");
            }
            Faulty::new(Arc::new(memory))
        });
        let swappable = Swappable::new(Arc::new(old.clone()));
        let backend: Arc<dyn Backend> = Arc::new(swappable.clone());
        let budget = Budget::new(32 << 20);
        let ahead = ReadAhead::new(backend.clone(), budget.clone(), prefetch::Config::for_budget(32 << 20));
        (old, new, swappable, Arc::new(Vfs::new(backend, ahead, budget, config)))
    }

    async fn open(vfs: &Vfs) -> Handle {
        let ino = vfs.lookup(Ino::ROOT, b"f").await.unwrap().ino;
        vfs.open(ino, OpenOptions::default()).await.unwrap().handle
    }

    async fn byte(vfs: &Vfs, handle: Handle, at: usize) -> Result<u8> {
        let bytes = vfs.read(handle, at as u64, 100_000).await?;
        assert!(bytes.iter().all(|byte| *byte == bytes[0]), "bytes of two principals in one answer");
        Ok(bytes[0])
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_waits_for_the_old_principal_is_asked_anew() {
        let (old, new, swappable, vfs) = rig();
        let handle = open(&vfs).await;
        old.every(Op::Read, 1, Fault::Hang);
        let reading = {
            let vfs = vfs.clone();
            tokio::spawn(async move { byte(&vfs, handle, 0).await })
        };
        while old.calls(Op::Read) == 0 {
            tokio::task::yield_now().await;
        }
        vfs.succeed(|| swappable.swap(Arc::new(new.clone()))).await;
        assert_eq!(reading.await.unwrap(), Ok(b'n'));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_of_the_old_principal_is_no_answer() {
        let (old, new, swappable, vfs) = rig();
        let handle = open(&vfs).await;
        old.every(Op::Read, 1, Fault::Pace(Duration::ZERO, 1_000_000));
        let reading = {
            let vfs = vfs.clone();
            tokio::spawn(async move { byte(&vfs, handle, 0).await })
        };
        // In its middle.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(old.reading() > 0 && !reading.is_finished());
        vfs.succeed(|| swappable.swap(Arc::new(new.clone()))).await;
        assert_eq!(reading.await.unwrap(), Ok(b'n'));
    }

    #[tokio::test]
    async fn what_was_read_ahead_is_forgotten() {
        let (old, new, swappable, vfs) = rig();
        let handle = open(&vfs).await;
        for at in (0..3).map(|index| index * 100_000) {
            assert_eq!(byte(&vfs, handle, at).await, Ok(b'o'));
        }
        assert!(old.bytes_asked() > 300_000, "nothing was read ahead");
        vfs.succeed(|| swappable.swap(Arc::new(new.clone()))).await;
        for at in (0..SIZE).step_by(100_000) {
            assert_eq!(byte(&vfs, handle, at).await, Ok(b'n'), "{at}");
        }
    }

    #[tokio::test]
    async fn a_refusal_of_the_new_principal_is_told() {
        let (_, new, swappable, vfs) = rig();
        let handle = open(&vfs).await;
        assert_eq!(byte(&vfs, handle, 0).await, Ok(b'o'));
        new.every(Op::Read, 1, Fault::Fail(ErrorKind::Denied));
        vfs.succeed(|| swappable.swap(Arc::new(new.clone()))).await;
        assert_eq!(byte(&vfs, handle, 0).await, Err(Error::Denied));
    }

    #[tokio::test]
    async fn a_listing_goes_on_with_what_was_not_told() {
        let (_, new, swappable, vfs) = rig_of(Config { immutable: true, read_only: true, ..Config::default() });
        let dir = vfs.lookup(Ino::ROOT, b"d").await.unwrap().ino;
        let handle = vfs.open_dir(dir).unwrap();
        let mut told = Vec::new();
        let mut offset = 0;
        loop {
            let listed = vfs.read_dir(handle, offset, 3).await.unwrap();
            let Some(last) = listed.last() else { break };
            offset = last.next;
            told.extend(listed.iter().map(|entry| String::from_utf8(entry.name.clone()).unwrap()));
            if told.len() == 6 {
                vfs.succeed(|| swappable.swap(Arc::new(new.clone()))).await;
            }
        }
        // What was told before is there, too.
        for name in told.iter().filter(|name| !name.starts_with('.')) {
            assert!(vfs.lookup(dir, name.as_bytes()).await.is_ok(), "{name}");
        }
        told.sort();
        assert_eq!(told, names(&vfs, dir).await.unwrap());
    }

    #[tokio::test]
    async fn every_page_is_to_be_dropped_before_it_returns() {
        let (_, new, swappable, vfs) = rig();
        let orders = vfs.invalidations();
        let ino = vfs.lookup(Ino::ROOT, b"f").await.unwrap().ino;
        let succeeding = {
            let (vfs, new) = (vfs.clone(), new.clone());
            tokio::spawn(async move { vfs.succeed(|| swappable.swap(Arc::new(new))).await })
        };
        let mut dropped = Vec::new();
        loop {
            match orders.try_recv() {
                Ok(Invalidation::Fence(fence)) => {
                    assert!(!succeeding.is_finished());
                    vfs.passed(fence);
                    break;
                }
                Ok(what) => dropped.push(what),
                Err(_) => tokio::task::yield_now().await,
            }
        }
        succeeding.await.unwrap();
        assert!(dropped.contains(&Invalidation::Inode(ino)));
        // The next open drops what may have been missed.
        assert_eq!(vfs.open(ino, OpenOptions::default()).await.unwrap().pages, Pages::Drop);
    }
}
