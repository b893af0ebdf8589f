//! Multipart uploads: parts are kept beside the object and become it in one step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use s3s::crypto::{Checksum as _, Md5};
use s3s::dto::{Checksum, ChecksumAlgorithm, ChecksumType, CompletedPart, Part};
use s3s::{S3Result, s3_error};

use super::checksum;
use super::content::Content;
use super::objects::{Attributes, Object, hex, now};

/// The least size of a part that is not the last.
const LEAST_PART: u64 = 5 * 1024 * 1024;
/// The greatest part number.
const MOST_PARTS: i32 = 10_000;

#[derive(Debug)]
pub(super) struct Upload {
    pub(super) key: String,
    pub(super) begun: SystemTime,
    attributes: Attributes,
    algorithm: Option<ChecksumAlgorithm>,
    kind: Option<ChecksumType>,
    parts: BTreeMap<i32, Arc<Object>>,
}

impl Upload {
    pub(super) fn new(
        key: String,
        attributes: Attributes,
        algorithm: Option<ChecksumAlgorithm>,
        kind: Option<ChecksumType>,
    ) -> Upload {
        Upload { key, begun: now(), attributes, algorithm, kind, parts: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, number: i32, part: Object) -> S3Result<()> {
        if !(1..=MOST_PARTS).contains(&number) {
            return Err(s3_error!(InvalidArgument, "Part number must be an integer between 1 and 10000, inclusive"));
        }
        self.parts.insert(number, Arc::new(part));
        Ok(())
    }

    /// The parts after number `marker`, at most `most`, and whether there are more.
    pub(super) fn list(&self, marker: i32, most: usize) -> (Vec<Part>, bool) {
        let mut rest = self.parts.iter().filter(|(number, _)| **number > marker);
        let parts = rest.by_ref().take(most).map(|(number, part)| {
            let mut listed = Part {
                part_number: Some(*number),
                e_tag: Some(part.etag()),
                size: Some(part.content.len() as i64),
                last_modified: Some(part.modified.into()),
                ..Part::default()
            };
            checksum::fill!(listed, part.checksum);
            listed
        });
        (parts.collect(), rest.next().is_some())
    }

    /// The object that the parts of `request` make, in their order.
    ///
    /// # Errors
    /// As S3 refuses: no part, a part that is not there or has another ETag, parts out of order, one that is too small.
    pub(super) fn assemble(&self, request: &[CompletedPart]) -> S3Result<Object> {
        if request.is_empty() {
            return Err(s3_error!(MalformedXML, "The XML you provided was not well-formed"));
        }
        let numbers: Vec<i32> = request.iter().map(|part| part.part_number.unwrap_or_default()).collect();
        if !numbers.is_sorted_by(|a, b| a < b) {
            return Err(s3_error!(InvalidPartOrder, "The list of parts was not in ascending order."));
        }
        let (mut content, mut etags, mut checksums) = (Content::default(), Md5::new(), Vec::<&Checksum>::new());
        for (at, (number, named)) in numbers.iter().zip(request).enumerate() {
            let part =
                self.parts.get(number).filter(|part| named.e_tag.as_ref().is_some_and(|e| e.value() == part.etag));
            let part = part.ok_or_else(|| s3_error!(InvalidPart, "Part {number} could not be found."))?;
            if at + 1 < request.len() && part.content.len() < LEAST_PART {
                return Err(s3_error!(EntityTooSmall, "Your proposed upload is smaller than the minimum allowed size"));
            }
            content.append(part.content.clone());
            etags.update(&data_encoding::HEXLOWER.decode(part.etag.as_bytes()).unwrap_or_default());
            checksums.push(&part.checksum);
        }
        let etag = format!("{}-{}", hex(&etags.finalize()), request.len());
        let checksum = self.checksum(&content, &checksums);
        Ok(Object::new(etag, content, self.attributes.clone(), checksum))
    }

    fn checksum(&self, content: &Content, parts: &[&Checksum]) -> Checksum {
        let full = match &self.kind {
            Some(kind) => kind.as_str() == ChecksumType::FULL_OBJECT,
            None => self.algorithm.as_ref().is_none_or(|a| a.as_str() == ChecksumAlgorithm::CRC64NVME),
        };
        match full {
            true if content.is_held() => checksum::full(content, &checksum::using(self.algorithm.as_ref())),
            true => Checksum::default(),
            false => checksum::composite(parts).unwrap_or_default(),
        }
    }
}
