//! The S3 operations on the store.

use std::sync::Arc;

use s3s::dto::*;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};

use super::checksum::{self, fill, sent};
use super::list;
use super::multipart::Upload;
use super::objects::{Attributes, Contents, Object, ReadConditions, Store, may_write, unique};
use super::request::{
    attributes, copy_range, describe, ignored, pins, receive, refuse, requester_pays, source, unless, upload,
};
use super::users::{Rights, Users};

#[derive(Debug)]
struct Service {
    store: Arc<Store>,
}

/// The operations on `store`, for those whose signature `users` can check.
pub(super) fn build(store: Arc<Store>, users: &Users) -> S3Service {
    let mut builder = S3ServiceBuilder::new(Service { store });
    builder.set_auth(users.clone());
    builder.set_access(users.clone());
    builder.build()
}

type Reply<T> = S3Result<S3Response<T>>;

fn reply<T>(output: T) -> Reply<T> {
    Ok(S3Response::new(output))
}

/// What GetObject and HeadObject share, whose inputs and outputs have the same fields: the output, the object, the range.
macro_rules! read {
    ($store:expr, $request:ident, $output:ident) => {{
        let input = &$request.input;
        let ignored = ignored(&$request.extensions);
        let (object, version) = $store.with(&input.bucket, |contents| {
            requester_pays(contents, input.request_payer.as_ref())?;
            contents.find(&input.key, input.version_id.as_deref())
        })?;
        let conditions = ReadConditions {
            if_match: unless(ignored, &input.if_match),
            if_none_match: unless(ignored, &input.if_none_match),
            if_modified_since: unless(ignored, &input.if_modified_since),
            if_unmodified_since: unless(ignored, &input.if_unmodified_since),
        };
        conditions.judge(&object).map_err(|refused| refuse(refused, &object))?;
        let length = object.content.len();
        let part = input.range.filter(|_| !ignored.range).map(|range| range.check(length)).transpose()?;
        let mut output = $output::default();
        describe!(output, object, version);
        if part.is_none() && input.checksum_mode.as_ref().is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED) {
            fill!(output, object.checksum);
            output.checksum_type = object.checksum.checksum_type.clone();
        }
        output.content_range = part.as_ref().map(|part| format!("bytes {}-{}/{length}", part.start, part.end - 1));
        let range = part.unwrap_or(0..length);
        output.content_length = Some((range.end - range.start) as i64);
        (output, object, range)
    }};
}

#[async_trait::async_trait]
impl S3 for Service {
    async fn list_buckets(&self, _: S3Request<ListBucketsInput>) -> Reply<ListBucketsOutput> {
        let listed = |name: &String| s3s::dto::Bucket { name: Some(name.clone()), ..Default::default() };
        let buckets = self.store.lock().keys().map(listed).collect();
        reply(ListBucketsOutput { buckets: Some(buckets), ..Default::default() })
    }

    async fn create_bucket(&self, request: S3Request<CreateBucketInput>) -> Reply<CreateBucketOutput> {
        let bucket = request.input.bucket;
        let mut buckets = self.store.lock();
        if buckets.contains_key(&bucket) {
            return Err(s3_error!(BucketAlreadyOwnedByYou));
        }
        let location = Some(format!("/{bucket}"));
        buckets.insert(bucket, Contents::default());
        reply(CreateBucketOutput { location })
    }

    async fn delete_bucket(&self, request: S3Request<DeleteBucketInput>) -> Reply<DeleteBucketOutput> {
        let bucket = request.input.bucket;
        self.store.with(&bucket, |contents| match contents.history("").next() {
            Some(_) => Err(s3_error!(BucketNotEmpty, "The bucket you tried to delete is not empty")),
            None => Ok(()),
        })?;
        self.store.lock().remove(&bucket);
        reply(DeleteBucketOutput {})
    }

    async fn head_bucket(&self, request: S3Request<HeadBucketInput>) -> Reply<HeadBucketOutput> {
        self.store.with(&request.input.bucket, |_| reply(HeadBucketOutput::default()))
    }

    async fn get_bucket_versioning(
        &self,
        request: S3Request<GetBucketVersioningInput>,
    ) -> Reply<GetBucketVersioningOutput> {
        let versioned = self.store.with(&request.input.bucket, |contents| Ok(contents.behaviour.versioned))?;
        let status = versioned.then(|| BucketVersioningStatus::from_static(BucketVersioningStatus::ENABLED));
        reply(GetBucketVersioningOutput { status, ..Default::default() })
    }

    async fn put_bucket_versioning(
        &self,
        request: S3Request<PutBucketVersioningInput>,
    ) -> Reply<PutBucketVersioningOutput> {
        let status = request.input.versioning_configuration.status;
        if status.is_none_or(|status| status.as_str() != BucketVersioningStatus::ENABLED) {
            return Err(s3_error!(NotImplemented, "suspended versioning"));
        }
        self.store.with(&request.input.bucket, |contents| {
            contents.behaviour.versioned = true;
            reply(PutBucketVersioningOutput::default())
        })
    }

    async fn list_objects_v2(&self, request: S3Request<ListObjectsV2Input>) -> Reply<ListObjectsV2Output> {
        let (ignored, mut input) = (ignored(&request.extensions), request.input);
        input.encoding_type.take_if(|_| ignored.encoding);
        if ignored.empty_page && input.continuation_token.is_none() {
            return reply(list::no_objects(input));
        }
        let bucket = input.bucket.clone();
        self.store.with(&bucket, |contents| {
            requester_pays(contents, input.request_payer.as_ref())?;
            reply(list::objects(contents, input)?)
        })
    }

    async fn list_object_versions(
        &self,
        request: S3Request<ListObjectVersionsInput>,
    ) -> Reply<ListObjectVersionsOutput> {
        let (ignored, mut input) = (ignored(&request.extensions), request.input);
        input.encoding_type.take_if(|_| ignored.encoding);
        if ignored.empty_page && input.key_marker.is_none() {
            return reply(list::no_versions(input));
        }
        let bucket = input.bucket.clone();
        self.store.with(&bucket, |contents| reply(list::versions(contents, input)?))
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> Reply<ListMultipartUploadsOutput> {
        let (ignored, mut input) = (ignored(&request.extensions), request.input);
        input.encoding_type.take_if(|_| ignored.encoding);
        if ignored.empty_page && input.key_marker.is_none() {
            return reply(list::no_uploads(input));
        }
        let bucket = input.bucket.clone();
        self.store.with(&bucket, |contents| reply(list::uploads(contents, input)?))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> Reply<GetObjectOutput> {
        let (mut output, object, range) = read!(self.store, request, GetObjectOutput);
        if object.is_archived() {
            return Err(s3_error!(InvalidObjectState, "The operation is not valid for the object's storage class"));
        }
        output.body = Some(StreamingBlob::new(object.content.slice(range)));
        reply(output)
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> Reply<HeadObjectOutput> {
        let (output, _, _) = read!(self.store, request, HeadObjectOutput);
        let status = output.content_range.as_ref().map(|_| http::StatusCode::PARTIAL_CONTENT);
        Ok(S3Response { status, ..S3Response::new(output) })
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> Reply<PutObjectOutput> {
        let S3Request { mut input, extensions, trailing_headers, .. } = request;
        let ignored = ignored(&extensions);
        let content = receive(input.body.take(), input.content_md5.as_deref()).await?;
        let sent = checksum::with_trailers(sent!(input), trailing_headers.as_ref());
        let checksum = checksum::verify(&content, &sent)?;
        let object = Object::new(content.etag(), content, attributes!(input), checksum);
        let mut output = PutObjectOutput { e_tag: Some(object.etag()), ..Default::default() };
        fill!(output, object.checksum);
        output.checksum_type = object.checksum.checksum_type.clone();
        output.version_id = self.store.with(&input.bucket, |contents| {
            requester_pays(contents, input.request_payer.as_ref())?;
            let current = contents.current(&input.key);
            may_write(current, unless(ignored, &input.if_match), unless(ignored, &input.if_none_match))?;
            Ok(contents.put(&input.key, object))
        })?;
        reply(output)
    }

    async fn copy_object(&self, request: S3Request<CopyObjectInput>) -> Reply<CopyObjectOutput> {
        let S3Request { input, extensions, .. } = request;
        let conditions = pins!(input);
        let from = source(&self.store, &extensions, &input.copy_source, &conditions)?;
        if from.content.len() > MOST_COPIED {
            return Err(s3_error!(
                InvalidRequest,
                "The specified copy source is larger than the maximum allowable size"
            ));
        }
        let asked: Attributes = attributes!(input);
        let replace =
            input.metadata_directive.is_some_and(|directive| directive.as_str() == MetadataDirective::REPLACE);
        let kept = match replace {
            true => asked.clone(),
            false => from.attributes.clone(),
        };
        // The directive rules the metadata; class and encryption are always the request's.
        let attributes = Attributes {
            storage_class: asked.storage_class,
            encryption: asked.encryption,
            kms_key: asked.kms_key,
            ..kept
        };
        let object = Object::new(from.etag.clone(), from.content.clone(), attributes, from.checksum.clone());
        let mut result = CopyObjectResult {
            e_tag: Some(object.etag()),
            last_modified: Some(object.modified.into()),
            ..Default::default()
        };
        fill!(result, object.checksum);
        let version_id = self.store.with(&input.bucket, |contents| Ok(contents.put(&input.key, object)))?;
        reply(CopyObjectOutput { copy_object_result: Some(result), version_id, ..Default::default() })
    }

    async fn delete_object(&self, request: S3Request<DeleteObjectInput>) -> Reply<DeleteObjectOutput> {
        let ignored = ignored(&request.extensions);
        let input = request.input;
        self.store.with(&input.bucket, |contents| {
            may_write(contents.current(&input.key), unless(ignored, &input.if_match), None)?;
            let (delete_marker, version_id) = delete(contents, &input.key, input.version_id);
            reply(DeleteObjectOutput { delete_marker, version_id, ..Default::default() })
        })
    }

    async fn delete_objects(&self, request: S3Request<DeleteObjectsInput>) -> Reply<DeleteObjectsOutput> {
        let S3Request { input, extensions, .. } = request;
        if input.delete.objects.len() > 1000 {
            return Err(s3_error!(MalformedXML, "The XML you provided was not well-formed"));
        }
        let rights = extensions.get::<Rights>().cloned().unwrap_or_default();
        let quiet = input.delete.quiet.unwrap_or_default();
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        self.store.with(&input.bucket, |contents| {
            for named in input.delete.objects {
                if let Err(error) = rights.check(&input.bucket, &named.key) {
                    errors.push(Error {
                        code: Some(error.code().as_str().to_owned()),
                        key: Some(named.key),
                        message: error.message().map(str::to_owned),
                        version_id: named.version_id,
                    });
                    continue;
                }
                let (delete_marker, id) = delete(contents, &named.key, named.version_id.clone());
                deleted.push(DeletedObject {
                    key: Some(named.key),
                    version_id: named.version_id,
                    delete_marker,
                    delete_marker_version_id: id.filter(|_| delete_marker == Some(true)),
                });
            }
            Ok(())
        })?;
        reply(DeleteObjectsOutput {
            deleted: (!quiet).then_some(deleted),
            errors: (!errors.is_empty()).then_some(errors),
            ..Default::default()
        })
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> Reply<CreateMultipartUploadOutput> {
        let input = request.input;
        let begun = Upload::new(
            input.key.clone(),
            attributes!(input),
            input.checksum_algorithm.clone(),
            input.checksum_type.clone(),
        );
        let id = unique("u");
        self.store.with(&input.bucket, |contents| {
            contents.uploads.insert(id.clone(), begun);
            Ok(())
        })?;
        reply(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            checksum_algorithm: input.checksum_algorithm,
            checksum_type: input.checksum_type,
            ..Default::default()
        })
    }

    async fn upload_part(&self, request: S3Request<UploadPartInput>) -> Reply<UploadPartOutput> {
        let S3Request { mut input, trailing_headers, .. } = request;
        let content = receive(input.body.take(), input.content_md5.as_deref()).await?;
        let sent = checksum::with_trailers(sent!(input), trailing_headers.as_ref());
        let checksum = checksum::verify(&content, &sent)?;
        let part = Object::new(content.etag(), content, Attributes::default(), checksum);
        let mut output = UploadPartOutput { e_tag: Some(part.etag()), ..Default::default() };
        fill!(output, sent);
        self.store.with(&input.bucket, |contents| {
            upload(contents, &input.upload_id, &input.key)?.add(input.part_number, part)
        })?;
        reply(output)
    }

    async fn upload_part_copy(&self, request: S3Request<UploadPartCopyInput>) -> Reply<UploadPartCopyOutput> {
        let S3Request { input, extensions, .. } = request;
        let conditions = pins!(input);
        let from = source(&self.store, &extensions, &input.copy_source, &conditions)?;
        let length = from.content.len();
        let range = match &input.copy_source_range {
            Some(range) => copy_range(range, length)?,
            None => 0..length,
        };
        if range.end - range.start > MOST_COPIED {
            return Err(s3_error!(
                InvalidRequest,
                "The specified copy source is larger than the maximum allowable size"
            ));
        }
        let content = from.content.slice(range);
        let checksum = match content.is_held() {
            true => checksum::full(&content, &Checksum::default()),
            false => Checksum::default(),
        };
        let part = Object::new(content.etag(), content, Attributes::default(), checksum);
        let result = CopyPartResult {
            e_tag: Some(part.etag()),
            last_modified: Some(part.modified.into()),
            ..Default::default()
        };
        self.store.with(&input.bucket, |contents| {
            upload(contents, &input.upload_id, &input.key)?.add(input.part_number, part)
        })?;
        reply(UploadPartCopyOutput { copy_part_result: Some(result), ..Default::default() })
    }

    async fn list_parts(&self, request: S3Request<ListPartsInput>) -> Reply<ListPartsOutput> {
        let input = request.input;
        let most = input.max_parts.unwrap_or(1000).clamp(1, 1000);
        self.store.with(&input.bucket, |contents| {
            let marker = input.part_number_marker.unwrap_or_default();
            let (parts, more) = upload(contents, &input.upload_id, &input.key)?.list(marker, most as usize);
            let last = parts.last().and_then(|part| part.part_number);
            reply(ListPartsOutput {
                bucket: Some(input.bucket.clone()),
                key: Some(input.key),
                upload_id: Some(input.upload_id),
                max_parts: Some(most),
                is_truncated: Some(more),
                next_part_number_marker: last.filter(|_| more),
                parts: Some(parts),
                ..Default::default()
            })
        })
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> Reply<CompleteMultipartUploadOutput> {
        let ignored = ignored(&request.extensions);
        let input = request.input;
        let parts = input.multipart_upload.as_ref().and_then(|upload| upload.parts.as_deref()).unwrap_or_default();
        self.store.with(&input.bucket, |contents| {
            let object = upload(contents, &input.upload_id, &input.key)?.assemble(parts)?;
            if checksum::differ(&sent!(input), &object.checksum) {
                return Err(s3_error!(BadDigest, "The checksum you specified did not match the calculated checksum."));
            }
            let current = contents.current(&input.key);
            may_write(current, unless(ignored, &input.if_match), unless(ignored, &input.if_none_match))?;
            contents.uploads.remove(&input.upload_id);
            let mut output = CompleteMultipartUploadOutput {
                bucket: Some(input.bucket.clone()),
                key: Some(input.key.clone()),
                e_tag: Some(object.etag()),
                checksum_type: object.checksum.checksum_type.clone(),
                ..Default::default()
            };
            fill!(output, object.checksum);
            output.version_id = contents.put(&input.key, object);
            reply(output)
        })
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> Reply<AbortMultipartUploadOutput> {
        let input = request.input;
        self.store.with(&input.bucket, |contents| {
            upload(contents, &input.upload_id, &input.key)?;
            contents.uploads.remove(&input.upload_id);
            reply(AbortMultipartUploadOutput::default())
        })
    }
}

/// The most that one copy may take.
const MOST_COPIED: u64 = 5 * 1024 * 1024 * 1024;

/// Whether what was removed, or made, is a delete marker; and the version id of what was.
fn delete(contents: &mut Contents, key: &str, version: Option<String>) -> (Option<bool>, Option<String>) {
    match version {
        Some(id) => (contents.delete_version(key, &id).then_some(true), Some(id)),
        None => {
            let marker = contents.delete(key);
            (marker.as_ref().map(|_| true), marker)
        }
    }
}
