//! A directory's entries, a page of keys at a time.
//!
//! The store lists keys in the order of their bytes, objects and common prefixes mixed. An object `a` comes before
//! `a/`, with whatever begins with `a` and a byte below `/` between them, perhaps pages later; so it is held back until
//! the listing has passed `a/`, and dropped if that came. What is held at any time are beginnings of one name: at most
//! 254. What ends one page and begins the next, too, is shown once.

use std::sync::Arc;

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::{EncodingType, Object, OptionalObjectAttributes};
use futures::stream::BoxStream;

use super::client::Client;
use super::error::Failure;
use super::{keys, stat};
use crate::backend::{Entry, ErrorKind, Meta, Name, Op, Path, Result, reading};

/// `Backend::list`.
pub(super) fn list(client: Arc<Client>, dir: &Path) -> BoxStream<'static, Result<Entry>> {
    let listing = Listing { client, dir: dir.clone(), next: Next::First, merge: Merge::default() };
    reading::pages(listing, async |mut listing| {
        let page = listing.page().await.map_err(|failure| failure.at(Op::List, &listing.dir))?;
        Ok(page.map(|page| (page, listing)))
    })
}

struct Listing {
    client: Arc<Client>,
    dir: Path,
    next: Next,
    merge: Merge,
}

enum Next {
    First,
    After(String),
    Done,
}

impl Listing {
    /// What the next page decides on; `None` behind the last.
    async fn page(&mut self) -> std::result::Result<Option<Vec<Entry>>, Failure> {
        let token = match std::mem::replace(&mut self.next, Next::Done) {
            Next::Done => return Ok(None),
            Next::First => None,
            Next::After(token) => Some(token),
        };
        let prefix = self.client.keys.directory(&self.dir)?;
        let client = &self.client;
        let page = client
            .ask(async || {
                let list = client.sdk.list_objects_v2().bucket(&client.bucket).prefix(&prefix).delimiter("/");
                let list = list.encoding_type(EncodingType::Url).set_continuation_token(token.clone());
                let list = list.optional_object_attributes(OptionalObjectAttributes::RestoreStatus);
                Ok(list.set_request_payer(client.payer.clone()).send().await?)
            })
            .await?;
        let next = stat::follows(token.as_deref(), page.is_truncated(), page.next_continuation_token())?;
        self.next = next.map_or(Next::Done, Next::After);
        let mut ready = Vec::new();
        for (text, object) in found(&page, &prefix) {
            let meta = match object {
                None => Some(stat::directory()),
                Some(object) => self.file(&text, object).await?,
            };
            self.merge.take(&text, meta, &mut ready);
        }
        if matches!(self.next, Next::Done) {
            self.merge.finish(&mut ready);
        }
        Ok(Some(ready))
    }

    /// The file that an object is; `None` where it is hidden, or gone by now. One of which the listing does not say enough
    /// is asked for apart: what a listing leaves out counts as absent.
    async fn file(&self, text: &[u8], object: &Object) -> std::result::Result<Option<Meta>, Failure> {
        let Some(name) = keys::shown(text) else { return Ok(None) };
        let path = self.dir.join(&name);
        if let Ok(meta) = file(&path, object) {
            return Ok(Some(meta));
        }
        match stat::head(&self.client, &self.client.keys.file(&path)?).await {
            Ok(head) => stat::file(&path, &head).map(Some),
            Err(failure) if failure.kind == ErrorKind::NotFound => Ok(None),
            Err(failure) => Err(failure),
        }
    }
}

/// One page, in the order of the keys: names in the directory (raw), and objects or `None` for a common prefix.
fn found<'a>(page: &'a ListObjectsV2Output, prefix: &str) -> Vec<(Vec<u8>, Option<&'a Object>)> {
    let name = |key: &str| {
        let key = keys::listed(key, page.encoding_type());
        // A key from elsewhere would be a server's fault; it is none of this directory's.
        key.strip_prefix(prefix.as_bytes()).map(<[u8]>::to_vec)
    };
    let objects = page.contents().iter().filter_map(|object| Some((name(object.key()?)?, Some(object))));
    let directories = page.common_prefixes().iter().filter_map(|common| Some((name(common.prefix()?)?, None)));
    let mut all: Vec<_> = objects.chain(directories).collect();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    all
}

/// Keeps each name once.
#[derive(Default)]
struct Merge {
    /// Objects whose `name/` may still come, each the beginning of the next.
    held: Vec<(Name, Entry)>,
    /// What came last.
    last: Vec<u8>,
}

impl Merge {
    /// Takes the next object or, where `text` ends in a slash, common prefix; without `meta` it is not shown.
    fn take(&mut self, text: &[u8], meta: Option<Meta>, ready: &mut Vec<Entry>) {
        if self.last == text {
            return;
        }
        self.last = text.to_vec();
        while let Some((name, _)) = self.held.last() {
            let slashed = [name.as_bytes(), b"/"].concat();
            match slashed.as_slice().cmp(text) {
                std::cmp::Ordering::Greater => break,
                std::cmp::Ordering::Less => ready.extend(self.held.pop().map(|(_, entry)| entry)),
                std::cmp::Ordering::Equal => drop(self.held.pop()),
            }
        }
        let (name, is_prefix) = text.strip_suffix(b"/").map_or((text, false), |name| (name, true));
        let (Some(name), Some(meta)) = (keys::shown(name), meta) else { return };
        match is_prefix {
            true => ready.push(Entry { name, meta }),
            false => self.held.push((name.clone(), Entry { name, meta })),
        }
    }

    fn finish(&mut self, ready: &mut Vec<Entry>) {
        ready.extend(self.held.drain(..).rev().map(|(_, entry)| entry));
    }
}

fn file(path: &Path, object: &Object) -> std::result::Result<Meta, Failure> {
    let archived = object.storage_class().is_some_and(|class| stat::is_archive(class.as_str()));
    let restored = object
        .restore_status()
        .is_some_and(|status| status.is_restore_in_progress() != Some(true) && status.restore_expiry_date().is_some());
    let version = stat::version(path, object.e_tag(), object.size())?;
    Ok(Meta { readable: !archived || restored, ..stat::of(version, stat::time(object.last_modified())) })
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::types::CommonPrefix;
    use proptest::prelude::*;

    use super::*;
    use crate::backend::Kind;

    /// What is shown of `keys` (sorted here) in a directory `d/`, listed in pages of `most` entries, of which each begins
    /// with the last `again` ones of the page before.
    fn shown(keys: &[&str], most: usize, again: usize) -> Vec<(String, Kind)> {
        let mut rows: Vec<(String, bool)> = keys
            .iter()
            .map(|key| match key.split_once('/') {
                Some((first, _)) => (format!("{first}/"), true),
                None => ((*key).to_owned(), false),
            })
            .collect();
        rows.sort();
        rows.dedup();
        let (mut merge, mut ready) = (Merge::default(), Vec::new());
        for at in (0..rows.len()).step_by(most) {
            let rows = &rows[at.saturating_sub(again)..rows.len().min(at + most)];
            let mut page = ListObjectsV2Output::builder();
            for (name, is_prefix) in rows {
                let key = format!("d/{name}");
                page = match is_prefix {
                    true => page.common_prefixes(CommonPrefix::builder().prefix(key).build()),
                    false => page.contents(Object::builder().key(key).e_tag("\"e\"").size(1).build()),
                };
            }
            for (text, object) in found(&page.build(), "d/") {
                let meta = object.map_or_else(|| Ok(stat::directory()), |object| file(&Path::root(), object)).ok();
                merge.take(&text, meta, &mut ready);
            }
        }
        merge.finish(&mut ready);
        ready.into_iter().map(|entry| (entry.name.to_string(), entry.meta.kind())).collect()
    }

    #[test]
    fn a_directory_wins_over_an_object_of_its_name_even_pages_apart() {
        let keys = ["a", "a+b", "a-", "a-b", "a.txt", "a/x", "a0", "b"];
        for (most, again) in (1..8).flat_map(|most| [(most, 0), (most, 1)]) {
            let mut all = shown(&keys, most, again);
            all.sort_by(|a, b| a.0.cmp(&b.0));
            let expected = [("a", Kind::Directory), ("a+b", Kind::File), ("a-", Kind::File), ("a-b", Kind::File)];
            let expected = expected.into_iter().chain([("a.txt", Kind::File), ("a0", Kind::File), ("b", Kind::File)]);
            let expected: Vec<_> = expected.map(|(name, kind)| (name.to_owned(), kind)).collect();
            assert_eq!(all, expected, "pages of {most}");
        }
    }

    #[test]
    fn odd_keys_are_left_out_and_spoil_nothing() {
        let long = "x".repeat(300);
        let keys = ["", "/b", "./c", "../d", ".", "..", &long, "plain", "back\\slash", "new\nline"];
        let mut names: Vec<_> = shown(&keys, 3, 0).into_iter().map(|(name, _)| name).collect();
        names.sort();
        assert_eq!(names, ["back\\slash", "new\nline", "plain"]);
    }

    proptest! {
        #[test]
        fn each_name_comes_once(keys in proptest::collection::vec("[a/+.-]{1,6}", 0..40), most in 1_usize..6, again in 0_usize..2) {
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            let names: Vec<_> = shown(&keys, most, again).into_iter().map(|(name, _)| name).collect();
            let mut once = names.clone();
            once.sort();
            once.dedup();
            prop_assert_eq!(once.len(), names.len());
            let firsts: std::collections::BTreeSet<_> = keys
                .iter()
                .map(|key| key.split('/').next().unwrap())
                .filter(|first| Name::new(first.as_bytes()).is_ok())
                .collect();
            prop_assert_eq!(once.len(), firsts.len());
        }
    }
}
