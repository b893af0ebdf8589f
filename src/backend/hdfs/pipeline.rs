//! The library's writer of a file: HDFS' pipeline of DataNodes, with a bound on its silence. Where a DataNode dies at the
//! wrong moment the library waits for ever.

use std::time::Duration;

use bytes::Bytes;
use hdfs_native::file::FileWriter;

use super::calls::bounded;
use super::error::Outcome;
use crate::tunable::Span;

/// It may always be silent for so long.
const LEAST_SILENCE: Duration = Duration::from_secs(3);

/// A file's writer, which holds its lease. One that failed is of no more use.
pub(super) struct Pipeline {
    writer: FileWriter,
    /// What a whole call may take. What mends a failed writer needs most of it.
    timeout: Span,
}

impl Pipeline {
    pub(super) fn new(writer: FileWriter, timeout: &Span) -> Pipeline {
        Pipeline { writer, timeout: timeout.clone() }
    }

    fn silence(&self) -> Duration {
        let whole = self.timeout.get();
        (whole / 4).max(LEAST_SILENCE).min(whole)
    }

    /// Writes at the end.
    pub(super) async fn write(&mut self, data: Bytes) -> Outcome<()> {
        bounded(self.silence(), self.writer.write_bytes(data)).await.map(drop)
    }

    /// Makes all of it lasting. `Unsupported`, with nothing broken, where the file is striped.
    pub(super) async fn hsync(&mut self) -> Outcome<()> {
        bounded(self.silence(), self.writer.hsync()).await
    }

    /// Makes all of it lasting, and gives the lease back.
    pub(super) async fn close(&mut self) -> Outcome<()> {
        bounded(self.silence(), self.writer.close()).await
    }

    /// As [`Pipeline::close`] where nothing else is to be done in the time of a whole call.
    pub(super) async fn close_at_leisure(&mut self) -> Outcome<()> {
        bounded(self.timeout.get(), self.writer.close()).await
    }
}
