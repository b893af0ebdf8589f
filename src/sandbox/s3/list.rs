//! Listings: pages of keys in byte order, folded at a delimiter.

use std::ops::Bound;
use std::sync::Arc;

use s3s::dto::{
    CommonPrefix, DeleteMarkerEntry, EncodingType, ListMultipartUploadsInput, ListMultipartUploadsOutput,
    ListObjectVersionsInput, ListObjectVersionsOutput, ListObjectsV2Input, ListObjectsV2Output, MultipartUpload,
    Object, ObjectStorageClass, ObjectVersion,
};
use s3s::{S3Result, s3_error};

use super::objects::{Contents, Object as Held};

const MOST: i32 = 1000;

/// ListObjectsV2. The continuation token is opaque to the client: the last key or folded prefix, in hex.
pub(super) fn objects(contents: &Contents, input: ListObjectsV2Input) -> S3Result<ListObjectsV2Output> {
    let encode = encoder(input.encoding_type.as_ref());
    let max_keys = input.max_keys.unwrap_or(MOST).clamp(0, MOST);
    let prefix = input.prefix.as_deref().unwrap_or_default();
    let after = match &input.continuation_token {
        Some(token) => Some(decode_token(token)?),
        None => input.start_after.clone(),
    };
    let page = page(contents, prefix, input.delimiter.as_deref(), after, max_keys as usize);
    Ok(ListObjectsV2Output {
        name: Some(input.bucket),
        key_count: Some((page.keys.len() + page.prefixes.len()) as i32),
        max_keys: Some(max_keys),
        is_truncated: Some(page.last.is_some()),
        next_continuation_token: page.last.map(|last| super::objects::hex(last.as_bytes())),
        contents: Some(page.keys.into_iter().map(|(key, object)| entry(encode(&key), &object)).collect()),
        common_prefixes: Some(
            page.prefixes.iter().map(|prefix| CommonPrefix { prefix: Some(encode(prefix)) }).collect(),
        ),
        prefix: Some(encode(prefix)),
        delimiter: input.delimiter.as_deref().map(encode),
        start_after: input.start_after.as_deref().map(encode),
        continuation_token: input.continuation_token,
        encoding_type: input.encoding_type,
        ..ListObjectsV2Output::default()
    })
}

/// Before the first of all keys.
const BEFORE_ALL: &str = "!";

/// A first page with nothing on it, and more behind it.
pub(super) fn no_objects(input: ListObjectsV2Input) -> ListObjectsV2Output {
    ListObjectsV2Output {
        name: Some(input.bucket),
        is_truncated: Some(true),
        next_continuation_token: Some(super::objects::hex(BEFORE_ALL.as_bytes())),
        encoding_type: input.encoding_type,
        ..ListObjectsV2Output::default()
    }
}

/// As [`no_objects`].
pub(super) fn no_versions(input: ListObjectVersionsInput) -> ListObjectVersionsOutput {
    ListObjectVersionsOutput {
        name: Some(input.bucket),
        is_truncated: Some(true),
        next_key_marker: Some(BEFORE_ALL.to_owned()),
        encoding_type: input.encoding_type,
        ..ListObjectVersionsOutput::default()
    }
}

/// As [`no_objects`].
pub(super) fn no_uploads(input: ListMultipartUploadsInput) -> ListMultipartUploadsOutput {
    ListMultipartUploadsOutput {
        bucket: Some(input.bucket),
        is_truncated: Some(true),
        next_key_marker: Some(BEFORE_ALL.to_owned()),
        encoding_type: input.encoding_type,
        ..ListMultipartUploadsOutput::default()
    }
}

struct Page {
    keys: Vec<(String, Arc<Held>)>,
    prefixes: Vec<String>,
    /// The last entry of the page, where there are more.
    last: Option<String>,
}

fn page(contents: &Contents, prefix: &str, delimiter: Option<&str>, after: Option<String>, max_keys: usize) -> Page {
    let mut page = Page { keys: Vec::new(), prefixes: Vec::new(), last: None };
    if max_keys == 0 {
        return page;
    }
    let fold = |key: &str| {
        let delimiter = delimiter.filter(|delimiter| !delimiter.is_empty())?;
        let rest = key.strip_prefix(prefix)?;
        rest.find(delimiter).map(|at| key[..prefix.len() + at + delimiter.len()].to_owned())
    };
    // A page that ended with a folded prefix goes on behind everything under it.
    let mut start = match after {
        Some(after) if after.as_str() >= prefix => match fold(&after) {
            Some(folded) if folded == after => Bound::Included(successor(&after)),
            _ => Bound::Excluded(after),
        },
        _ => Bound::Included(prefix.to_owned()),
    };
    let mut last = String::new();
    loop {
        let Some((key, object)) = contents.current_from(start).next() else { return page };
        if !key.starts_with(prefix) {
            return page;
        }
        if page.keys.len() + page.prefixes.len() == max_keys {
            page.last = Some(last);
            return page;
        }
        (last, start) = match fold(key) {
            Some(folded) => {
                page.prefixes.push(folded.clone());
                let next = successor(&folded);
                (folded, Bound::Included(next))
            }
            None => {
                page.keys.push((key.clone(), Arc::clone(object)));
                (key.clone(), Bound::Excluded(key.clone()))
            }
        };
    }
}

/// The least string that is greater than every string beginning with `prefix`.
fn successor(prefix: &str) -> String {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        if let Some(next) = (last as u32 + 1..=char::MAX as u32).find_map(char::from_u32) {
            chars.push(next);
            return chars.into_iter().collect();
        }
    }
    // Nothing is greater than all strings of U+10FFFF: a string longer than any key comes after them all.
    char::MAX.to_string().repeat(1024)
}

fn entry(key: String, object: &Held) -> Object {
    let class = object.attributes.storage_class.clone().unwrap_or_else(|| "STANDARD".to_owned());
    Object {
        key: Some(key),
        e_tag: Some(object.etag()),
        size: Some(object.content.len() as i64),
        last_modified: Some(object.modified.into()),
        storage_class: Some(ObjectStorageClass::from(class)),
        ..Object::default()
    }
}

/// ListObjectVersions, without a delimiter.
pub(super) fn versions(contents: &Contents, input: ListObjectVersionsInput) -> S3Result<ListObjectVersionsOutput> {
    if input.delimiter.is_some() {
        return Err(s3_error!(NotImplemented, "ListObjectVersions with a delimiter"));
    }
    let encode = encoder(input.encoding_type.as_ref());
    let max_keys = input.max_keys.unwrap_or(MOST).clamp(1, MOST);
    let prefix = input.prefix.as_deref().unwrap_or_default();
    let key_marker = input.key_marker.as_deref().unwrap_or_default();
    // Ids grow, and a key's newest version comes first.
    let behind_marker = |key: &str, id: &str| match key.cmp(key_marker) {
        std::cmp::Ordering::Greater => true,
        std::cmp::Ordering::Equal => input.version_id_marker.as_deref().is_some_and(|marker| id < marker),
        std::cmp::Ordering::Less => false,
    };
    let mut rest = contents
        .history(prefix.max(key_marker))
        .take_while(|(key, _, _)| key.starts_with(prefix))
        .filter(|(key, version, _)| behind_marker(key, &version.id))
        .peekable();
    let mut output = ListObjectVersionsOutput::default();
    let (mut found, mut markers, mut last) = (Vec::new(), Vec::new(), None);
    while found.len() + markers.len() < max_keys as usize {
        let Some((key, version, is_latest)) = rest.next() else { break };
        last = Some((key, &version.id));
        match &version.object {
            Some(object) => found.push(ObjectVersion {
                key: Some(encode(key)),
                version_id: Some(version.id.clone()),
                is_latest: Some(is_latest),
                e_tag: Some(object.etag()),
                size: Some(object.content.len() as i64),
                last_modified: Some(version.modified.into()),
                ..ObjectVersion::default()
            }),
            None => markers.push(DeleteMarkerEntry {
                key: Some(encode(key)),
                version_id: Some(version.id.clone()),
                is_latest: Some(is_latest),
                last_modified: Some(version.modified.into()),
                ..DeleteMarkerEntry::default()
            }),
        }
    }
    output.is_truncated = Some(rest.peek().is_some());
    if let (Some(_), Some((key, id))) = (rest.peek(), last) {
        output.next_key_marker = Some(encode(key));
        output.next_version_id_marker = Some(id.clone());
    }
    output.versions = Some(found);
    output.delete_markers = Some(markers);
    output.name = Some(input.bucket);
    output.prefix = Some(encode(prefix));
    output.max_keys = Some(max_keys);
    output.encoding_type = input.encoding_type;
    Ok(output)
}

/// ListMultipartUploads, without a delimiter: by key, then in the order in which they were begun.
pub(super) fn uploads(contents: &Contents, input: ListMultipartUploadsInput) -> S3Result<ListMultipartUploadsOutput> {
    if input.delimiter.is_some() {
        return Err(s3_error!(NotImplemented, "ListMultipartUploads with a delimiter"));
    }
    let encode = encoder(input.encoding_type.as_ref());
    let max_uploads = input.max_uploads.unwrap_or(MOST).clamp(1, MOST);
    let prefix = input.prefix.as_deref().unwrap_or_default();
    let marker = (input.key_marker.as_deref().unwrap_or_default(), input.upload_id_marker.as_deref());
    let mut all: Vec<_> = contents
        .uploads
        .iter()
        .map(|(id, upload)| (upload.key.as_str(), id.as_str(), upload))
        .filter(|(key, id, _)| {
            key.starts_with(prefix)
                && (*key > marker.0 || (*key == marker.0 && marker.1.is_some_and(|last| *id > last)))
        })
        .collect();
    all.sort_by_key(|(key, id, _)| (*key, *id));
    let more = all.len() > max_uploads as usize;
    all.truncate(max_uploads as usize);
    let last = all.last().filter(|_| more).map(|(key, id, _)| (encode(key), (*id).to_owned()));
    let (next_key_marker, next_upload_id_marker) = last.unzip();
    let listed = all.iter().map(|(key, id, upload)| MultipartUpload {
        key: Some(encode(key)),
        upload_id: Some((*id).to_owned()),
        initiated: Some(upload.begun.into()),
        ..MultipartUpload::default()
    });
    Ok(ListMultipartUploadsOutput {
        uploads: Some(listed.collect()),
        is_truncated: Some(more),
        next_key_marker,
        next_upload_id_marker,
        bucket: Some(input.bucket),
        prefix: Some(encode(prefix)),
        max_uploads: Some(max_uploads),
        encoding_type: input.encoding_type,
        ..ListMultipartUploadsOutput::default()
    })
}

/// How keys are written into XML: as they are, or percent-encoded as a form, as S3 does for `encoding-type=url`.
fn encoder(encoding: Option<&EncodingType>) -> impl Fn(&str) -> String + Copy + use<> {
    let url = encoding.is_some_and(|encoding| encoding.as_str() == EncodingType::URL);
    move |key: &str| match url {
        true => key.split('/').map(form_encoded).collect::<Vec<_>>().join("/"),
        false => key.to_owned(),
    }
}

fn form_encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn decode_token(token: &str) -> S3Result<String> {
    let bytes = data_encoding::HEXLOWER.decode(token.as_bytes()).ok();
    let key = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    key.ok_or_else(|| s3_error!(InvalidArgument, "The continuation token provided is incorrect"))
}
