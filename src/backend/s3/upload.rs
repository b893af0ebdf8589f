//! A file being written.
//!
//! Bytes gather in `tail`. While all of the file is there, a publish is one PUT of it and the bytes stay, so that the
//! file can go on. When the tail has the size of a part it is sent off and an [`Assembly`] exists; a publish then sends
//! the rest and completes it. What is written after that begins a new assembly, which takes the published object over
//! by copies pinned to its ETag.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use super::assembly::{Assembly, Source};
use super::client::Client;
use super::error::Failure;
use super::object::{self, Condition};
use super::schedule::SMALLEST;
use super::{rename, stat};
use crate::backend::{Attributes, CreateOptions, ErrorKind, Meta, Op, Path, Result, Upload, Version};
use crate::budget::Lease;

/// Memory is paid for in steps that grow with the file, from here to there. Beyond that all that a part needs is paid for
/// at once: of many writers who each held some of it, none could send anything.
const STEPS: Range<u64> = 64 << 10..1 << 20;

/// See the module.
#[derive(Debug)]
pub(super) struct Writer {
    client: Arc<Client>,
    path: Path,
    condition: Condition,
    written: u64,
    tail: BytesMut,
    paid: Paid,
    assembly: Option<Assembly>,
    /// What was last published and with which attributes, as long as nothing was written since.
    clean: Option<(Version, Attributes)>,
    /// The published object whose bytes are the file's first ones, where they are no longer in memory.
    source: Option<Source>,
    /// Why no publish can succeed any more.
    broken: Option<Failure>,
}

impl Writer {
    /// # Errors
    /// `InvalidName`, `NameTooLong`.
    pub(super) fn new(client: Arc<Client>, path: &Path, how: &CreateOptions) -> Result<Writer> {
        client.keys.file(path).map_err(|failure| failure.at(Op::Write, path))?;
        Ok(Writer {
            client,
            path: path.clone(),
            condition: Condition::of(&how.base),
            written: 0,
            tail: BytesMut::new(),
            paid: Paid::default(),
            assembly: None,
            clean: None,
            source: None,
            broken: None,
        })
    }

    fn expect_room(&self, more: usize) -> std::result::Result<(), Failure> {
        let largest = self.client.schedule().largest();
        if self.written + more as u64 <= largest {
            return Ok(());
        }
        Err(Failure::new(
            ErrorKind::TooLarge,
            format!(
                "a file of this volume has at most {largest} bytes, since parts of it wait in memory: more `memory` \
                 allows larger ones"
            ),
        ))
    }

    async fn append(&mut self, mut data: Bytes) -> std::result::Result<(), Failure> {
        while !data.is_empty() {
            let number = self.assembly.as_ref().map_or(1, Assembly::next);
            let room = self.client.schedule().part(number).saturating_sub(self.tail.len() as u64);
            if room == 0 {
                self.send_tail().await?;
                continue;
            }
            let paid = self.paid.bytes.saturating_sub(self.tail.len() as u64);
            let wanted = room.min(data.len() as u64);
            if paid == 0 {
                self.pay(wanted).await?;
                continue;
            }
            let piece = data.split_to(usize::try_from(wanted.min(paid)).unwrap_or(usize::MAX));
            if self.tail.is_empty() && self.assembly.is_some() {
                // The part will most likely be full; memory that is not touched costs nothing.
                self.tail.reserve(usize::try_from(room).unwrap_or_default());
            }
            self.clean = None;
            self.written += piece.len() as u64;
            self.tail.extend_from_slice(&piece);
        }
        Ok(())
    }

    /// Pays for some of `more` bytes behind a tail that fills what was paid for. Where memory is short, what is there
    /// goes ahead as a part of its own.
    async fn pay(&mut self, more: u64) -> std::result::Result<(), Failure> {
        let (budget, step) = (self.client.limits.budget.clone(), self.paid.step(more));
        let lease = match budget.try_acquire(step) {
            Some(lease) => lease,
            None if self.tail.len() as u64 >= SMALLEST => return self.send_tail().await,
            None => match tokio::time::timeout(self.client.limits.timeout.get(), budget.acquire(step)).await {
                Ok(lease) => lease,
                // Parts on their way have deadlines of their own, and give back what they hold.
                Err(_) if self.assembly.as_ref().is_some_and(Assembly::is_busy) => return Ok(()),
                Err(_) => {
                    return Err(Failure::new(
                        ErrorKind::Unavailable,
                        "the volume's memory is used up by other files that are read and written: give it more \
                         `memory`, or write fewer files at once",
                    ));
                }
            },
        };
        self.paid.add(lease, step);
        Ok(())
    }

    /// What came of an operation. What can never be published any more takes no memory.
    fn settle(&mut self, broken: Option<Failure>) {
        self.broken = broken;
        if self.broken.is_some() {
            self.tail = BytesMut::new();
            drop(self.paid.take());
        }
    }

    /// Sends the tail off as a part.
    async fn send_tail(&mut self) -> std::result::Result<(), Failure> {
        if self.assembly.is_none() {
            let key = self.client.keys.file(&self.path)?;
            let mut assembly = begin(&self.client, key, &Attributes::default()).await?;
            if let Some(source) = &self.source {
                assembly.take(source).await?;
            }
            self.assembly = Some(assembly);
        }
        if let (Some(assembly), false) = (&mut self.assembly, self.tail.is_empty()) {
            let body = self.tail.split().freeze();
            assembly.part(body, self.paid.take()).await?;
        }
        Ok(())
    }

    async fn put_in_place(&mut self, attributes: &Attributes) -> std::result::Result<Meta, Failure> {
        let key = self.client.keys.file(&self.path)?;
        let whole = self.tail.len() as u64 == self.written;
        // The attributes of an upload in parts were fixed when it began.
        if let Some((version, _)) = self.clean.take().filter(|(_, kept)| !whole || kept == attributes) {
            let head = stat::head(&self.client, &key).await.and_then(|head| stat::file(&self.path, &head));
            if let Some(meta) = head.ok().filter(|meta| meta.version() == Some(&version)) {
                self.clean = Some((version, attributes.clone()));
                return Ok(meta);
            }
        }
        let etag = if whole {
            let body = self.tail.split().freeze();
            let put = object::put(&self.client, &key, &body, &self.condition, attributes).await;
            self.tail = body.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
            put?
        } else {
            self.assemble(&key).await?
        };
        self.condition = self.condition.after(&etag);
        let meta = object::written(&self.client, &self.path, &key, &etag, self.written).await;
        self.clean = meta.version().map(|version| (version.clone(), attributes.clone()));
        Ok(meta)
    }

    /// Completes the assembly as the object `key`.
    async fn assemble(&mut self, key: &str) -> std::result::Result<String, Failure> {
        self.send_tail().await?;
        let Some(mut assembly) = self.assembly.take() else {
            return Err(Failure::new(ErrorKind::Other, "nothing was written"));
        };
        let moved = assembly.key != key;
        // An upload cannot change its key. One that began under another name is completed there, where nothing lies
        // since the rename, and taken over to its own.
        let condition = if moved { &Condition::Absent } else { &self.condition };
        let completed = match assembly.complete(condition).await {
            Ok(etag) => etag,
            Err(failure) => {
                assembly.abort().await;
                return Err(failure);
            }
        };
        let source = Source { key: assembly.key.clone(), etag: completed, size: self.written };
        self.source = Some(source.clone());
        if !moved {
            return Ok(source.etag);
        }
        let mut assembly = begin(&self.client, key.to_owned(), &Attributes::default()).await?;
        let taken = match assembly.take(&source).await {
            Ok(()) => assembly.complete(&self.condition).await,
            Err(failure) => Err(failure),
        };
        match &taken {
            Ok(etag) => {
                self.source = Some(Source { key: key.to_owned(), etag: etag.clone(), size: self.written });
            }
            Err(failure) => {
                assembly.abort().await;
                if failure.kind != ErrorKind::Stale {
                    // Under the old name the bytes are not lost.
                    return taken;
                }
            }
        }
        if let Err(failure) = rename::delete_version(&self.client, &source.key, &source.etag).await {
            tracing::warn!(
                code = failure.code,
                key = source.key,
                "a file stays under the name it had before its rename"
            );
        }
        taken
    }
}

/// An operation of the upload was dropped in its middle: nobody knows which bytes went where.
fn cut_off() -> Failure {
    Failure::new(ErrorKind::Unavailable, "an earlier write or publish of this file was cut off by its deadline")
}

/// Begins an upload that carries `attributes`.
async fn begin(client: &Arc<Client>, key: String, attributes: &Attributes) -> std::result::Result<Assembly, Failure> {
    Assembly::begin(client.clone(), key, |begin, nonce| begin.set_metadata(Some(object::metadata(nonce, attributes))))
        .await
}

#[async_trait]
impl Upload for Writer {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        let fail = |failure: Failure| failure.at(Op::Write, &self.path);
        if let Some(failure) = &self.broken {
            return Err(fail(failure.clone()));
        }
        self.expect_room(data.len()).map_err(fail)?;
        self.broken = Some(cut_off());
        let outcome = self.append(data).await;
        // A file that lost a piece in its middle is never published.
        self.settle(outcome.as_ref().err().cloned());
        outcome.map_err(|failure| failure.at(Op::Write, &self.path))
    }

    async fn publish(&mut self, attributes: &Attributes) -> Result<Meta> {
        if let Some(failure) = &self.broken {
            return Err(failure.clone().at(Op::Publish, &self.path));
        }
        self.broken = Some(cut_off());
        let outcome = self.put_in_place(attributes).await;
        // While all bytes are in memory the next publish may succeed; else they went with the upload.
        let lost = self.tail.len() as u64 != self.written;
        self.settle(outcome.as_ref().err().filter(|_| lost).cloned());
        outcome.map_err(|failure| failure.at(Op::Publish, &self.path))
    }

    fn written(&self) -> u64 {
        self.written
    }

    fn peek(&self, range: Range<u64>) -> Option<Bytes> {
        let begin = self.written - self.tail.len() as u64;
        let start = usize::try_from(range.start.checked_sub(begin)?).ok()?;
        let end = usize::try_from(range.end.min(self.written).checked_sub(begin)?).ok()?;
        self.tail.get(start..end).filter(|bytes| !bytes.is_empty()).map(Bytes::copy_from_slice)
    }

    fn moved(&mut self, to: Path, version: Option<Version>) {
        self.condition = match (&self.condition, &version) {
            (Condition::Any, _) => Condition::Any,
            (_, Some(version)) => Condition::Is(version.bytes.to_string()),
            (_, None) => Condition::Absent,
        };
        if let (Some(source), Some(version), Ok(key)) = (&mut self.source, &version, self.client.keys.file(&to)) {
            *source = Source { key, etag: version.bytes.to_string(), size: source.size };
        }
        self.clean = self.clean.take().and_then(|(_, attributes)| Some((version?, attributes)));
        self.path = to;
    }

    async fn abort(self: Box<Self>) {
        if let Some(assembly) = self.assembly {
            assembly.abort().await;
        }
    }
}

/// What was paid for the tail.
#[derive(Debug, Default)]
struct Paid {
    leases: Vec<Lease>,
    bytes: u64,
}

impl Paid {
    /// What to pay at once for `more` bytes.
    fn step(&self, more: u64) -> u64 {
        let step = more.max(self.bytes.clamp(STEPS.start, STEPS.end));
        let all = SMALLEST.saturating_sub(self.bytes);
        if self.bytes + step > STEPS.end { step.max(all) } else { step }
    }

    fn add(&mut self, lease: Lease, bytes: u64) {
        self.leases.push(lease);
        self.bytes += bytes;
    }

    fn take(&mut self) -> Vec<Lease> {
        self.bytes = 0;
        std::mem::take(&mut self.leases)
    }
}
