//! The file that audit lines are appended to, by a thread of its own: a disk that hangs holds up no call for longer
//! than [`PATIENCE`].

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tokio::sync::oneshot;

use super::super::metrics::AUDIT_WRITE_FAILURES;

/// How long a call waits for its line to be in the file.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many lines may wait for the disk.
const WAITING: usize = 1024;

/// A file that only grows. Cloning shares it.
#[derive(Debug, Clone)]
pub(super) struct File(SyncSender<Order>);

#[derive(Debug)]
enum Order {
    /// And where to say how it went: the line comes back where it is not in the file.
    Append(String, oneshot::Sender<Result<(), String>>),
    Reopen,
}

impl File {
    pub(super) fn open(path: &Path) -> io::Result<File> {
        let mut writer = Writer { path: path.to_owned(), open: None, failing: false };
        writer.ready()?;
        let (orders, taken) = sync_channel(WAITING);
        std::thread::Builder::new().name("audit".into()).spawn(move || writer.run(&taken))?;
        Ok(File(orders))
    }

    pub(super) fn reopen(&self) {
        // A full queue means a disk that hangs, and a moved file is noticed at the next line anyway.
        let _ = self.0.try_send(Order::Reopen);
    }

    /// # Errors
    /// The line, where it is not in the file.
    pub(super) async fn append(&self, line: String) -> Result<(), String> {
        let (tell, told) = oneshot::channel();
        let copy = line.clone();
        let late = match self.0.try_send(Order::Append(line, tell)) {
            Err(_) => "too many lines wait for it",
            Ok(()) => match tokio::time::timeout(PATIENCE, told).await {
                Ok(Ok(outcome)) => return outcome,
                Ok(Err(_)) => "its thread is gone",
                // It may still be written: better in two places than in none.
                Err(_) => "it takes too long",
            },
        };
        metrics::counter!(AUDIT_WRITE_FAILURES).increment(1);
        tracing::error!("the audit log does not take lines: {late}; they stand here instead");
        Err(copy)
    }
}

#[derive(Debug)]
struct Writer {
    path: PathBuf,
    open: Option<fs::File>,
    /// The last line did not get in, and why was told.
    failing: bool,
}

impl Writer {
    fn run(mut self, orders: &Receiver<Order>) {
        while let Ok(order) = orders.recv() {
            match order {
                Order::Reopen => self.open = None,
                Order::Append(line, tell) => {
                    let outcome = self.append(&line).map_err(|error| {
                        self.failed(&error);
                        line
                    });
                    // Nobody waits any more where it took too long.
                    let _ = tell.send(outcome);
                }
            }
        }
    }

    fn append(&mut self, line: &str) -> io::Result<()> {
        let file = self.ready()?;
        // A line that a full disk or a crash broke off is ended first.
        let length = file.metadata()?.len();
        let mut last = [b'\n'];
        if length > 0 {
            file.read_exact_at(&mut last, length - 1)?;
        }
        let begin = if last == *b"\n" { "" } else { "\n" };
        file.write_all(format!("{begin}{line}\n").as_bytes())?;
        self.failing = false;
        Ok(())
    }

    /// The file that lies at the path now.
    fn ready(&mut self) -> io::Result<&mut fs::File> {
        let same = |open: &fs::File, found: &fs::Metadata| {
            open.metadata().is_ok_and(|open| (open.dev(), open.ino()) == (found.dev(), found.ino()))
        };
        let found = fs::metadata(&self.path).ok();
        let open = self.open.take().filter(|open| found.as_ref().is_some_and(|found| same(open, found)));
        let open = match open {
            Some(open) => open,
            None => {
                // A pipe would block, and a device forget.
                if found.is_some_and(|found| !found.is_file()) {
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
                }
                OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&self.path)?
            }
        };
        Ok(self.open.insert(open))
    }

    fn failed(&mut self, error: &io::Error) {
        metrics::counter!(AUDIT_WRITE_FAILURES).increment(1);
        if !std::mem::replace(&mut self.failing, true) {
            let file = self.path.display();
            tracing::error!(%error, %file, "the audit log cannot be written; its lines stand here until it can");
        }
        self.open = None;
    }
}
