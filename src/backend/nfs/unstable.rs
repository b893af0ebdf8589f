//! WRITEs that the server may still lose, kept until it vouches for them (RFC 1813, sections 3.3.7 and 3.3.21).
//!
//! An UNSTABLE write lies in the server's memory. Its answer carries a verifier that changes when the server restarts;
//! a COMMIT whose verifier is another one means that what was written before may be gone, and it is sent again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nfs3_types::nfs3::{COMMIT3resok, fattr3, nfs_fh3, stable_how, writeverf3};

use super::calls::{Outcome, option};
use super::error::Failure;
use super::mounting::Mounted;
use super::tree::Tree;
use crate::backend::{ErrorKind, Path};
use crate::budget::Lease;

/// How often what was written is sent again to a server that keeps restarting.
const ATTEMPTS: usize = 5;

/// The file that is written.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) tree: &'a Tree,
    /// Where it lay when its handle was learnt.
    pub(super) path: &'a Path,
    pub(super) handle: &'a nfs_fh3,
}

/// What was written to one file and not committed yet, and what was written since.
#[derive(Debug, Default)]
pub(super) struct Unstable {
    kept: Vec<Kept>,
    /// How long a call may take; as long as any other without it.
    patience: Option<Duration>,
}

#[derive(Debug)]
struct Kept {
    offset: u64,
    data: Bytes,
    /// `None` where the server vouched for it at once: what it lies over may have to be sent again, and then it, too.
    verifier: Option<writeverf3>,
    /// Pays for `data`.
    _lease: Option<Lease>,
}

impl Unstable {
    /// One whose calls wait longer for their answers than others.
    pub(super) fn patient(patience: Duration) -> Unstable {
        Unstable { patience: Some(patience), ..Unstable::default() }
    }

    /// Bytes that are kept.
    pub(super) fn bytes(&self) -> u64 {
        self.kept.iter().map(|kept| kept.data.len() as u64).sum()
    }

    /// Writes `data` at `offset`; the file's attributes after it. `lease` pays for what has to be kept of it.
    pub(super) async fn write(
        &mut self,
        file: Target<'_>,
        offset: u64,
        data: Bytes,
        mut lease: Option<Lease>,
    ) -> Outcome<Option<fattr3>> {
        let mut written = Written::default();
        let outcome = file.send(offset, data, self.patience, &mut written).await;
        for (offset, data, verifier) in written.parts {
            if verifier.is_some() || !self.kept.is_empty() {
                let lease = lease.as_mut().map(|lease| lease.split(data.len() as u64));
                self.kept.push(Kept { offset, data, verifier, _lease: lease });
            }
        }
        outcome.map(|()| written.attributes)
    }

    /// The file was cut to `size`: nothing is written again behind that.
    pub(super) fn cut(&mut self, size: u64) {
        self.kept.retain_mut(|kept| {
            kept.data.truncate(usize::try_from(size.saturating_sub(kept.offset)).unwrap_or(usize::MAX));
            !kept.data.is_empty()
        });
    }

    /// Makes all of it lasting; the file's attributes after it, where there was anything to do.
    pub(super) async fn commit(&mut self, file: Target<'_>) -> Outcome<Option<fattr3>> {
        for _ in 0..ATTEMPTS {
            if self.kept.is_empty() {
                return Ok(None);
            }
            let committed = file.commit(self.patience).await?;
            if self.kept.iter().all(|kept| kept.verifier.is_none_or(|verifier| verifier == committed.verf)) {
                self.kept.clear();
                return Ok(option(committed.file_wcc.after));
            }
            tracing::info!(
                writes = self.kept.len(),
                "the server restarted: what it had not committed is written again"
            );
            // All of it, in the order in which it was written: what was lost may lie beneath what was not.
            for kept in &mut self.kept {
                let mut written = Written::default();
                file.send(kept.offset, kept.data.clone(), self.patience, &mut written).await?;
                // Where its parts fell into two lives of the server, the first decides: the next COMMIT tells.
                kept.verifier = written.parts.iter().find_map(|(_, _, verifier)| *verifier);
            }
        }
        Err(Failure::new(ErrorKind::Unavailable, "the server restarted again and again before it committed"))
    }
}

#[derive(Default)]
struct Written {
    /// In order, as [`Kept`] has them.
    parts: Vec<(u64, Bytes, Option<writeverf3>)>,
    attributes: Option<fattr3>,
}

impl Target<'_> {
    /// Writes all of `data`, in as many WRITEs as the server's sizes ask for.
    async fn send(
        self,
        mut offset: u64,
        mut rest: Bytes,
        patience: Option<Duration>,
        written: &mut Written,
    ) -> Outcome<()> {
        let most = self.tree.mounted().await?.write_size as usize;
        while !rest.is_empty() {
            let data = &rest.slice(..rest.len().min(most));
            let writing = |mounted: Arc<Mounted>| async move {
                mounted.server.write(self.handle, offset, data.clone(), patience).await
            };
            let wrote = self.tree.by_handle(self.path, self.handle, writing).await?;
            if wrote.count == 0 {
                return Err(Failure::new(ErrorKind::Other, "the server wrote nothing of what it was given"));
            }
            let data = rest.split_to(wrote.count as usize);
            written.attributes = option(wrote.file_wcc.after);
            let is_unstable = wrote.committed == stable_how::UNSTABLE;
            written.parts.push((offset, data, is_unstable.then_some(wrote.verf)));
            offset += u64::from(wrote.count);
        }
        Ok(())
    }

    async fn commit(self, patience: Option<Duration>) -> Outcome<COMMIT3resok> {
        let committing = |mounted: Arc<Mounted>| async move { mounted.server.commit(self.handle, patience).await };
        self.tree.by_handle(self.path, self.handle, committing).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use nfs3_types::xdr_codec::Opaque;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::backend::Limits;
    use crate::backend::nfs::Config;
    use crate::backend::nfs::rpc::Credential;

    const MOUNT: u32 = 100_005;
    const WRITE: u32 = 7;
    const FSINFO: u32 = 19;
    const COMMIT: u32 = 21;

    /// A server that answers a WRITE as is told for it, and forgets at its restart what it did not vouch for.
    #[derive(Debug, Default)]
    struct Disk {
        /// Whether it vouches for the writes to come.
        stable: Vec<bool>,
        lasting: Vec<u8>,
        memory: Vec<u8>,
        life: u32,
    }

    impl Disk {
        fn restart(&mut self) {
            self.life += 1;
            self.memory = self.lasting.clone();
        }

        /// The results of a call with these arguments.
        fn answer(&mut self, program: u32, procedure: u32, arguments: &[u8]) -> Vec<u32> {
            let word = |at: usize| u32::from_be_bytes(arguments[at * 4..at * 4 + 4].try_into().unwrap());
            match (program, procedure) {
                // A handle of one word, and AUTH_SYS.
                (MOUNT, _) => vec![0, 4, 7, 1, 1],
                (_, FSINFO) => vec![0, 0, 8192, 8192, 8, 8192, 8192, 8, 8192, 0, 1 << 20, 0, 1, 0x1b],
                (_, WRITE) => {
                    // Handle, offset, count, how, and the data.
                    let (offset, count) = (word(3) as usize, word(4) as usize);
                    let is_stable = self.stable.remove(0);
                    let data = &arguments[28..28 + count];
                    let all = [Some(&mut self.memory), is_stable.then_some(&mut self.lasting)];
                    for bytes in all.into_iter().flatten() {
                        bytes.resize(bytes.len().max(offset + count), 0);
                        bytes[offset..offset + count].copy_from_slice(data);
                    }
                    vec![0, 0, 0, word(4), if is_stable { 2 } else { 0 }, self.life, 0]
                }
                (_, COMMIT) => {
                    self.lasting = self.memory.clone();
                    vec![0, 0, 0, self.life, 0]
                }
                other => panic!("{other:?}"),
            }
        }
    }

    async fn serve(mut client: TcpStream, disk: Arc<Mutex<Disk>>) {
        while let Ok(mark) = client.read_u32().await {
            let mut call = vec![0; (mark & !(1 << 31)) as usize];
            client.read_exact(&mut call).await.unwrap();
            let word = |at: usize| u32::from_be_bytes(call[at * 4..at * 4 + 4].try_into().unwrap());
            // Without a credential.
            let results = disk.lock().unwrap().answer(word(3), word(5), &call[40..]);
            let reply = [&[(1 << 31) | (24 + 4 * results.len() as u32), word(0), 1, 0, 0, 0, 0], &results[..]].concat();
            let reply: Vec<u8> = reply.iter().flat_map(|word| word.to_be_bytes()).collect();
            client.write_all(&reply).await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_is_sent_again_never_hides_what_was_written_over_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let disk = Arc::new(Mutex::new(Disk::default()));
        let serving = disk.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, serving.clone()));
            }
        });
        let limits = Limits::alone(1 << 20, Duration::from_secs(20));
        let tree = Tree::new(&Config::at("127.0.0.1", "/", port, port), Credential::None, Path::root(), limits);
        let (path, handle) = (Path::parse("file").unwrap(), nfs_fh3 { data: Opaque::owned(vec![0, 0, 0, 7]) });
        let file = Target { tree: &tree, path: &path, handle: &handle };
        let mut unstable = Unstable::default();

        // The last two are the first two, sent again.
        disk.lock().unwrap().stable = vec![true, false, true, false, true];
        for (offset, data) in [(0, "alone"), (0, "older"), (1, "NEW")] {
            unstable.write(file, offset, data.into(), None).await.unwrap();
        }
        assert_eq!(unstable.bytes(), 8);
        disk.lock().unwrap().restart();
        unstable.commit(file).await.unwrap();
        assert_eq!((unstable.bytes(), disk.lock().unwrap().lasting.as_slice()), (0, &b"oNEWr"[..]));
    }
}
