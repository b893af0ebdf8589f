//! Counting what a volume's files take, in the background.

use std::time::Duration;

use futures::StreamExt;
use tokio::time::Instant;

use super::ledger::Amount;
use super::{Usage, Vfs};
use crate::backend::{self, ErrorKind, Kind, Path};

/// Entries between two rests: a page of a store's listing.
const PAGE: usize = 1000;
/// The longest rest.
const REST: Duration = Duration::from_secs(5);

impl Vfs {
    /// The size that the files may have, in bytes, from now on. One that is passed already stops writes alone.
    pub fn set_limit(&self, limit: Option<u64>) {
        self.ledger().set_limit(limit);
    }

    /// What is known of the volume's use: nothing is asked for it.
    pub fn usage(&self) -> Usage {
        let (bytes, inodes) = self.inodes().usage();
        let ledger = self.ledger();
        match ledger.counted() {
            Some(began) => Usage {
                bytes: ledger.used_bytes(),
                inodes: ledger.used_inodes(),
                limit: ledger.limit(),
                counted: Some(began.elapsed()),
            },
            None => Usage {
                bytes: bytes.max(ledger.used_bytes()),
                inodes: inodes.max(ledger.used_inodes()),
                limit: ledger.limit(),
                counted: None,
            },
        }
    }

    /// Lists the whole volume, one page after the other, and rests after each for as long as it took: what is counted
    /// then is what [`Vfs::usage`] rests on.
    ///
    /// # Errors
    /// The store's. An earlier count stands then.
    pub async fn count(&self) -> backend::Result<()> {
        self.ledger().begin();
        let counted = self.walk().await;
        match counted {
            Ok(()) => self.ledger().finish(),
            Err(_) => self.ledger().abandon(),
        }
        counted
    }

    async fn walk(&self) -> backend::Result<()> {
        let mut unlisted = vec![Path::root()];
        let (mut since, mut entries) = (Instant::now(), 0);
        while let Some(dir) = unlisted.pop() {
            self.ledger().begin_directory(&dir);
            let mut listing = self.backend.list(&dir);
            let mut found = Amount::default();
            while let Some(entry) = listing.next().await {
                let entry = match entry {
                    Ok(entry) => entry,
                    // It went meanwhile.
                    Err(error) if error.kind == ErrorKind::NotFound && !dir.is_root() => break,
                    Err(error) => return Err(error),
                };
                if entry.name.is_reserved() {
                    continue;
                }
                found.add(Amount::file(entry.meta.size(), 1));
                if entry.meta.kind() == Kind::Directory {
                    unlisted.push(dir.join(&entry.name));
                }
                entries += 1;
                if entries % PAGE == 0 {
                    tokio::time::sleep(since.elapsed().min(REST)).await;
                    since = Instant::now();
                }
            }
            self.ledger().found(found);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use crate::vfs::tests::{ME, NEW, path, stored, volume};
    use crate::vfs::*;

    async fn write(vfs: &Vfs, handle: Handle, offset: u64, length: usize) -> Result<u32> {
        vfs.write(handle, offset, Bytes::from(vec![7; length]), Some(ME)).await
    }

    async fn create(vfs: &Vfs, name: &[u8]) -> Handle {
        vfs.create(Ino::ROOT, name, NEW).await.unwrap().1.handle
    }

    #[tokio::test]
    async fn a_write_that_would_pass_the_limit_is_refused_and_the_file_lives_on() {
        let (memory, vfs) = volume();
        memory.put(&path("d/old"), vec![0; 60]);
        memory.put(&path(".millrace/volume.json"), vec![0; 1000]);
        vfs.count().await.unwrap();
        vfs.set_limit(Some(100));
        let file = create(&vfs, b"f").await;
        assert_eq!(write(&vfs, file, 0, 30).await, Ok(30));
        assert_eq!((write(&vfs, file, 30, 11).await, write(&vfs, file, 30, 10).await), (Err(Error::NoSpace), Ok(10)));
        let usage = vfs.usage();
        assert_eq!((usage.bytes, usage.limit), (100, Some(100)));
        assert_eq!(write(&vfs, file, 40, 1).await, Err(Error::NoSpace));
        vfs.flush(file, &[ME]).await.unwrap();
        vfs.release(file).await.unwrap();
        assert_eq!(stored(&memory, "f").await.unwrap().len(), 40);
        // Room is made by removal, and a larger limit counts at once.
        let dir = vfs.lookup(Ino::ROOT, b"d").await.unwrap().ino;
        vfs.lookup(dir, b"old").await.unwrap();
        vfs.unlink(dir, b"old").await.unwrap();
        let file = create(&vfs, b"g").await;
        assert_eq!(write(&vfs, file, 0, 61).await, Err(Error::NoSpace));
        vfs.set_limit(Some(101));
        assert_eq!(write(&vfs, file, 0, 61).await, Ok(61));
    }

    #[tokio::test]
    async fn a_file_may_be_replaced_by_one_of_its_size_in_a_full_volume() {
        let (memory, vfs) = volume();
        memory.put(&path("f"), vec![0; 100]);
        vfs.count().await.unwrap();
        vfs.set_limit(Some(100));
        let ino = vfs.lookup(Ino::ROOT, b"f").await.unwrap().ino;
        let handle = vfs.open(ino, NEW).await.unwrap().handle;
        assert_eq!(
            (write(&vfs, handle, 0, 100).await, write(&vfs, handle, 100, 1).await),
            (Ok(100), Err(Error::NoSpace))
        );
        vfs.fsync(handle).await.unwrap();
        assert_eq!(write(&vfs, handle, 100, 1).await, Err(Error::NoSpace));
        vfs.release(handle).await.unwrap();
        assert_eq!((vfs.usage().bytes, vfs.usage().inodes), (100, 1));
    }

    #[tokio::test]
    async fn what_is_never_published_is_given_back() {
        let (memory, vfs) = volume();
        vfs.set_limit(Some(100));
        let file = create(&vfs, b"f").await;
        write(&vfs, file, 0, 100).await.unwrap();
        vfs.unlink(Ino::ROOT, b"f").await.unwrap();
        vfs.release(file).await.unwrap();
        let file = create(&vfs, b"g").await;
        write(&vfs, file, 0, 100).await.unwrap();
        // Another client was first: this content can never be published.
        memory.put(&path("g"), "theirs");
        assert_eq!(vfs.fsync(file).await, Err(Error::Stale));
        vfs.release(file).await.unwrap();
        let file = create(&vfs, b"h").await;
        assert_eq!(write(&vfs, file, 0, 100).await, Ok(100));
    }

    #[tokio::test]
    async fn before_the_first_count_only_what_is_known_counts() {
        let (memory, vfs) = volume();
        memory.put(&path("unknown"), vec![0; 1000]);
        vfs.set_limit(Some(100));
        assert_eq!(vfs.usage().counted, None);
        let file = create(&vfs, b"f").await;
        assert_eq!((write(&vfs, file, 0, 100).await, write(&vfs, file, 100, 1).await), (Ok(100), Err(Error::NoSpace)));
        vfs.fsync(file).await.unwrap();
        vfs.count().await.unwrap();
        assert!(vfs.usage().counted.is_some());
        assert_eq!((vfs.usage().bytes, vfs.usage().inodes), (1100, 2));
    }
}
