//! Counts what programs ask of the volume, by how it ends.

use std::sync::{Arc, OnceLock};

use metrics::Counter;

use super::errno::word;
use crate::observability::metrics::{VOLUME_OPERATIONS, VOLUME_READ_BYTES, VOLUME_WRITTEN_BYTES};
use crate::vfs::{Error, Result};

/// A request of the kernel's, as far as it does something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Lookup,
    GetAttr,
    SetAttr,
    MkDir,
    Unlink,
    RmDir,
    Rename,
    /// Whatever makes or reads a link.
    Link,
    Open,
    Create,
    Read,
    Write,
    Flush,
    Release,
    Fsync,
    OpenDir,
    ReadDir,
    Ioctl,
    StatFs,
    Seek,
    Access,
}

impl Operation {
    const COUNT: usize = Operation::Access as usize + 1;

    fn word(self) -> &'static str {
        match self {
            Operation::Lookup => "lookup",
            Operation::GetAttr => "getattr",
            Operation::SetAttr => "setattr",
            Operation::MkDir => "mkdir",
            Operation::Unlink => "unlink",
            Operation::RmDir => "rmdir",
            Operation::Rename => "rename",
            Operation::Link => "link",
            Operation::Open => "open",
            Operation::Create => "create",
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Flush => "flush",
            Operation::Release => "release",
            Operation::Fsync => "fsync",
            Operation::OpenDir => "opendir",
            Operation::ReadDir => "readdir",
            Operation::Ioctl => "ioctl",
            Operation::StatFs => "statfs",
            Operation::Seek => "lseek",
            Operation::Access => "access",
        }
    }
}

/// Success, and every error.
const OUTCOMES: usize = Error::Io as usize + 2;

/// The counters of a connection, each looked up once: there are tens of thousands of requests a second.
#[derive(Debug, Clone)]
pub(super) struct Operations(Arc<Counters>);

#[derive(Debug)]
struct Counters {
    ended: [[OnceLock<Counter>; OUTCOMES]; Operation::COUNT],
    read: Counter,
    written: Counter,
}

impl Operations {
    pub(super) fn new() -> Operations {
        Operations(Arc::new(Counters {
            ended: Default::default(),
            read: metrics::counter!(VOLUME_READ_BYTES),
            written: metrics::counter!(VOLUME_WRITTEN_BYTES),
        }))
    }

    /// Counts a request that ended.
    pub(super) fn ended<T>(&self, what: Operation, outcome: &Result<T>) {
        let error = outcome.as_ref().err().copied();
        let counter = self.0.ended[what as usize][error.map_or(0, |error| error as usize + 1)].get_or_init(
            || metrics::counter!(VOLUME_OPERATIONS, "kind" => what.word(), "status" => error.map_or("ok", word)),
        );
        counter.increment(1);
    }

    /// `reply`, counted.
    pub(super) fn counted<T>(
        &self,
        what: Operation,
        reply: impl FnOnce(Result<T>) + Send + 'static,
    ) -> impl FnOnce(Result<T>) + Send + 'static {
        let operations = self.clone();
        move |outcome| {
            operations.ended(what, &outcome);
            reply(outcome);
        }
    }

    /// Counts bytes given to a program.
    pub(super) fn read(&self, bytes: usize) {
        self.0.read.increment(bytes as u64);
    }

    /// Counts bytes taken from a program.
    pub(super) fn written(&self, bytes: u32) {
        self.0.written.increment(bytes.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observability::metrics::ProcessRecorder;

    #[test]
    fn an_operation_is_counted_by_its_outcome() {
        let recorder = ProcessRecorder::default();
        metrics::with_local_recorder(&recorder, || {
            let operations = Operations::new();
            operations.counted(Operation::Seek, |_| {})(Ok(1));
            operations.counted(Operation::Seek, |_| {})(Err::<u64, _>(Error::Io));
            operations.ended(Operation::Lookup, &Err::<(), _>(Error::NotFound));
            operations.read(7);
            operations.written(8);
        });
        let numbers = recorder.numbers();
        let of = |kind, status| numbers.get(VOLUME_OPERATIONS, &[("kind", kind), ("status", status)]);
        assert_eq!((of("lseek", "ok"), of("lseek", "EIO"), of("lookup", "ENOENT")), (Some(1), Some(1), Some(1)));
        assert_eq!((numbers.get(VOLUME_READ_BYTES, &[]), numbers.get(VOLUME_WRITTEN_BYTES, &[])), (Some(7), Some(8)));
    }

    #[test]
    fn every_operation_has_a_word_of_its_own_in_the_table() {
        const ALL: [Operation; Operation::COUNT] = [
            Operation::Lookup,
            Operation::GetAttr,
            Operation::SetAttr,
            Operation::MkDir,
            Operation::Unlink,
            Operation::RmDir,
            Operation::Rename,
            Operation::Link,
            Operation::Open,
            Operation::Create,
            Operation::Read,
            Operation::Write,
            Operation::Flush,
            Operation::Release,
            Operation::Fsync,
            Operation::OpenDir,
            Operation::ReadDir,
            Operation::Ioctl,
            Operation::StatFs,
            Operation::Seek,
            Operation::Access,
        ];
        let recorder = ProcessRecorder::default();
        metrics::with_local_recorder(&recorder, || {
            let operations = Operations::new();
            ALL.iter().for_each(|what| operations.ended(*what, &Ok(())));
        });
        let counted = recorder.numbers().of(VOLUME_OPERATIONS);
        assert_eq!(counted.len(), Operation::COUNT, "{counted:?}");
    }
}
