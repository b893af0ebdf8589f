//! One multipart upload on its way: parts from memory and from other objects, then one completion under a condition.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_sdk_s3::operation::create_multipart_upload::builders::CreateMultipartUploadFluentBuilder;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use tokio::task::{JoinError, JoinSet};

use super::Checksums;
use super::client::{Client, quiet_for};
use super::error::Failure;
use super::object::{self, Condition};
use super::schedule::{MOST_PARTS, copies};
use super::stat;
use crate::backend::ErrorKind;
use crate::budget::Lease;

/// Parts of one upload on their way at once; the memory budget may allow fewer.
const FLYING: usize = 4;

/// A stored object that another one is made of.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) key: String,
    /// Without quotes; every copy is pinned to it.
    pub(super) etag: String,
    pub(super) size: u64,
}

impl Source {
    /// Whether it still is what it was. Who may not look is trusted to the store's own conditions.
    pub(super) async fn expect_unchanged(&self, client: &Client) -> Result<(), Failure> {
        match stat::head(client, &self.key).await {
            Ok(head) if head.e_tag().map(stat::bare) == Some(&self.etag) => Ok(()),
            Ok(_) => Err(object::overtaken()),
            Err(missing) if missing.kind == ErrorKind::NotFound => Err(object::overtaken()),
            Err(refused) if refused.kind == ErrorKind::Denied => Ok(()),
            Err(failure) => Err(failure),
        }
    }
}

/// See the module. Dropping it stops its requests and leaves the unfinished upload in the store.
#[derive(Debug)]
pub(super) struct Assembly {
    client: Arc<Client>,
    pub(super) key: String,
    upload: String,
    nonce: String,
    next: u32,
    size: u64,
    done: BTreeMap<u32, CompletedPart>,
    flying: JoinSet<Result<(u32, CompletedPart), Failure>>,
}

impl Assembly {
    /// Begins an upload to `key`; `dress` sets what the object is to carry beside its bytes, from the nonce.
    pub(super) async fn begin(
        client: Arc<Client>,
        key: String,
        dress: impl Fn(CreateMultipartUploadFluentBuilder, &str) -> CreateMultipartUploadFluentBuilder,
    ) -> Result<Assembly, Failure> {
        let nonce = object::nonce();
        let asked = &client;
        let begun = client
            .ask(async || {
                let begin = asked.sdk.create_multipart_upload().bucket(&asked.bucket).key(&key);
                let begin = begin.set_request_payer(asked.payer.clone()).set_checksum_algorithm(checksum(asked));
                let begin = begin.set_checksum_type(checksum(asked).map(|_| ChecksumType::FullObject));
                let begin =
                    begin.set_server_side_encryption(asked.encryption()).set_ssekms_key_id(asked.kms_key.clone());
                Ok(dress(begin.set_storage_class(asked.class()), &nonce).send().await?)
            })
            .await?;
        let Some(upload) = begun.upload_id else {
            return Err(Failure::corrupt("the store began an upload without an id"));
        };
        Ok(Assembly { client, key, upload, nonce, next: 1, size: 0, done: BTreeMap::new(), flying: JoinSet::new() })
    }

    /// The number that the next part gets.
    pub(super) fn next(&self) -> u32 {
        self.next
    }

    /// Whether parts are on their way.
    pub(super) fn is_busy(&self) -> bool {
        !self.flying.is_empty()
    }

    /// Sends `body` off as the next part. `paid` is given back when it has arrived.
    pub(super) async fn part(&mut self, body: Bytes, paid: Vec<Lease>) -> Result<(), Failure> {
        let number = self.take_number().await?;
        self.size += body.len() as u64;
        let (client, key, upload) = (self.client.clone(), self.key.clone(), self.upload.clone());
        self.flying.spawn(async move {
            let sent = client
                .ask_for(client.sending_budget(body.len()), async || {
                    let part = client.sdk.upload_part().bucket(&client.bucket).key(&key).upload_id(&upload);
                    let part = part.part_number(number.cast_signed()).body(ByteStream::from(body.clone()));
                    let part = part.set_checksum_algorithm(checksum(&client));
                    Ok(part.set_request_payer(client.payer.clone()).send().await?)
                })
                .await?;
            drop(paid);
            let part = CompletedPart::builder().part_number(number.cast_signed());
            let part = part.set_checksum_crc64_nvme(given(sent.checksum_crc64_nvme()));
            Ok((number, part.e_tag(stat::quoted(&object::etag(sent.e_tag())?)).build()))
        });
        Ok(())
    }

    /// Takes a stored object as the next parts, pinned to its ETag, and waits for them: the object may then go.
    pub(super) async fn take(&mut self, source: &Source) -> Result<(), Failure> {
        for range in copies(source.size) {
            let number = self.take_number().await?;
            let length = range.end - range.start;
            self.size += length;
            let (client, key, upload) = (self.client.clone(), self.key.clone(), self.upload.clone());
            let source = source.clone();
            self.flying.spawn(async move {
                let budget = client.copy_budget(length);
                let copied = client
                    .ask_for(budget, async || {
                        let copy = client.sdk.upload_part_copy().bucket(&client.bucket).key(&key).upload_id(&upload);
                        let copy = copy.part_number(number.cast_signed()).copy_source(client.source(&source.key));
                        let copy = copy.copy_source_if_match(stat::quoted(&source.etag));
                        let copy = copy.copy_source_range(format!("bytes={}-{}", range.start, range.end - 1));
                        let copy = copy.set_request_payer(client.payer.clone());
                        Ok(copy.customize().config_override(quiet_for(budget)).send().await?)
                    })
                    .await;
                let copied = match copied {
                    Ok(copied) => copied,
                    Err(failure) => return Err(copy_failed(&client, &source, failure).await),
                };
                let Some(copied) = copied.copy_part_result else {
                    return Err(Failure::corrupt("the store's answer to a copy is empty"));
                };
                let part = CompletedPart::builder().part_number(number.cast_signed());
                let part = part.set_checksum_crc64_nvme(given(copied.checksum_crc64_nvme()));
                Ok((number, part.e_tag(stat::quoted(&object::etag(copied.e_tag())?)).build()))
            });
        }
        self.land_all().await?;
        // Some stores ignore the pin: what was copied would then be another's bytes.
        source.expect_unchanged(&self.client).await
    }

    async fn take_number(&mut self) -> Result<u32, Failure> {
        while self.flying.len() >= FLYING {
            self.land().await?;
        }
        // What has arrived meanwhile, and above all what has failed.
        while let Some(landed) = self.flying.try_join_next() {
            self.keep(landed)?;
        }
        if self.next > MOST_PARTS {
            return Err(Failure::new(ErrorKind::TooLarge, format!("an upload has at most {MOST_PARTS} parts")));
        }
        self.next += 1;
        Ok(self.next - 1)
    }

    async fn land_all(&mut self) -> Result<(), Failure> {
        while !self.flying.is_empty() {
            self.land().await?;
        }
        Ok(())
    }

    async fn land(&mut self) -> Result<(), Failure> {
        match self.flying.join_next().await {
            Some(landed) => self.keep(landed),
            None => Ok(()),
        }
    }

    fn keep(&mut self, landed: Result<Result<(u32, CompletedPart), Failure>, JoinError>) -> Result<(), Failure> {
        let (number, part) = landed.map_err(|died| Failure::new(ErrorKind::Other, died.to_string()))??;
        self.done.insert(number, part);
        Ok(())
    }

    /// Makes the parts the object, if `condition` holds, and returns its ETag.
    pub(super) async fn complete(&mut self, condition: &Condition) -> Result<String, Failure> {
        self.land_all().await?;
        // Some stores ignore conditions here, though not on PUT.
        self.expect(condition).await?;
        match self.ask_to_complete(condition).await {
            Err(failure) if failure.status == Some(409) => match stat::head(&self.client, &self.key).await {
                Ok(head) if object::made_by(&head, &self.nonce) => object::etag(head.e_tag()),
                found if still(condition, &found) => self.ask_to_complete(condition).await,
                Ok(_) => Err(object::overtaken()),
                Err(missing) if missing.kind == ErrorKind::NotFound => Err(object::overtaken()),
                Err(failure) => Err(failure),
            },
            other => other,
        }
    }

    /// Whether `condition` holds now. Who may not look is trusted to the store's own conditions.
    async fn expect(&self, condition: &Condition) -> Result<(), Failure> {
        match condition {
            Condition::Any => Ok(()),
            Condition::Is(etag) => {
                let base = Source { key: self.key.clone(), etag: etag.clone(), size: 0 };
                base.expect_unchanged(&self.client).await
            }
            Condition::Absent => match stat::head(&self.client, &self.key).await {
                Ok(_) => Err(object::overtaken()),
                Err(failure) if matches!(failure.kind, ErrorKind::NotFound | ErrorKind::Denied) => Ok(()),
                Err(failure) => Err(failure),
            },
        }
    }

    async fn ask_to_complete(&self, condition: &Condition) -> Result<String, Failure> {
        let client = &self.client;
        let parts = CompletedMultipartUpload::builder().set_parts(Some(self.done.values().cloned().collect())).build();
        let budget = client.copy_budget(self.size);
        let completed = client
            .ask_for(budget, async || {
                let complete = client.sdk.complete_multipart_upload().bucket(&client.bucket).key(&self.key);
                let complete = complete.upload_id(&self.upload).multipart_upload(parts.clone());
                let complete = complete.set_if_match(condition.if_match()).set_if_none_match(condition.if_none_match());
                let complete = complete.set_request_payer(client.payer.clone());
                let completed = complete.customize().config_override(quiet_for(budget)).send().await;
                // A conflict is looked into before it is asked again.
                completed.map_err(|error| match Failure::from(error) {
                    conflict if conflict.status == Some(409) => conflict.once(),
                    failure => failure,
                })
            })
            .await;
        let failure = match completed.map(|completed| object::etag(completed.e_tag())) {
            Ok(Ok(etag)) => return Ok(etag),
            // A status of 200 may carry an error: only the object itself can tell.
            Ok(Err(failure)) | Err(failure) => failure,
        };
        object::settle(client, &self.key, &self.nonce, condition, failure).await
    }

    /// Throws the upload away.
    pub(super) async fn abort(mut self) {
        self.flying.shutdown().await;
        let client = &self.client;
        let aborted = client
            .ask(async || {
                let abort = client.sdk.abort_multipart_upload().bucket(&client.bucket).key(&self.key);
                let abort = abort.upload_id(&self.upload).set_request_payer(client.payer.clone());
                abort.send().await.map_err(Failure::from)
            })
            .await;
        if let Err(failure) = aborted.map(drop) {
            tracing::warn!(code = failure.code, status = failure.status, "an unfinished upload stays in the store");
        }
    }
}

/// Whether what HEAD found is what `condition` expects.
fn still(condition: &Condition, found: &Result<aws_sdk_s3::operation::head_object::HeadObjectOutput, Failure>) -> bool {
    match (condition, found) {
        (Condition::Any, _) => true,
        (Condition::Absent, Err(missing)) => missing.kind == ErrorKind::NotFound,
        (Condition::Is(etag), Ok(head)) => head.e_tag().map(stat::bare) == Some(etag),
        _ => false,
    }
}

/// Why a copy failed: its source is no longer that version, or gone, or `failure` stands. A store may look at the range
/// first, and find it to lie outside the source's successor.
pub(super) async fn copy_failed(client: &Client, source: &Source, failure: Failure) -> Failure {
    match (failure.kind, failure.status) {
        (ErrorKind::Stale | ErrorKind::NotFound, _) => return object::overtaken(),
        (ErrorKind::Other, Some(400..500)) => {}
        _ => return failure,
    }
    match source.expect_unchanged(client).await {
        Err(overtaken) if overtaken.kind == ErrorKind::Stale => overtaken,
        _ => failure,
    }
}

/// A part's checksum, where the store gave one: some demand it of the completion again.
fn given(sum: Option<&str>) -> Option<String> {
    sum.filter(|sum| !sum.is_empty()).map(str::to_owned)
}

/// CRC64NVME is a checksum of the whole object, which a later GET of all of it verifies.
fn checksum(client: &Client) -> Option<ChecksumAlgorithm> {
    (client.checksums == Checksums::Supported).then_some(ChecksumAlgorithm::Crc64Nvme)
}
