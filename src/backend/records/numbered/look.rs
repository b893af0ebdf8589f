//! What lies in a record's directory, and what of it counts.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::{Directories, HEAD, Item, NONCE, fail};
use crate::backend::records::LARGEST_RECORD;
use crate::backend::{Backend, Entry, Error, ErrorKind, Fetched, Kind, Name, Op, Path, Result, Version};

/// Behind a version's number in its name.
const SUFFIX: &str = ".record";

/// What closes a record that is gone: fewer bytes than any version has, and more than a gone one.
pub(super) const CLOSED: &str = "closed\n";

/// A file of the driver's own that has not got its name for so long never will.
const LEFT_BEHIND: Duration = Duration::from_secs(24 * 3600);

/// The versions of one record, and what else lies beside them.
#[derive(Debug, Clone, Default)]
pub(super) struct Versions {
    /// By number, ascending.
    numbered: Vec<(u64, Item)>,
    /// Directories.
    pub(super) below: Vec<Name>,
    /// Files that have not got their names.
    pub(super) hidden: Vec<Name>,
    /// Something else lies there.
    pub(super) others: bool,
}

/// What the highest version says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// There is a record.
    Present,
    /// There is none, or none any more.
    Gone,
    /// There is none, and what is left of it is being removed.
    Closed,
}

/// The file of a version.
pub(super) fn name_of(number: u64) -> Name {
    // Never longer than a name may be.
    Name::new(format!("{number:020}{SUFFIX}").as_bytes()).unwrap_or_else(|_| Name::hidden())
}

fn number_of(name: &Name) -> Option<u64> {
    let digits = name.as_str()?.strip_suffix(SUFFIX)?;
    let number = digits.parse().ok()?;
    (name_of(number) == *name).then_some(number)
}

impl Versions {
    pub(super) fn add(&mut self, item: Item) {
        match (item.kind, number_of(&item.name)) {
            (Kind::File, Some(number)) => self.numbered.push((number, item)),
            (Kind::Directory, _) => self.below.push(item.name),
            (Kind::File, None) if item.name.is_hidden() => self.hidden.push(item.name),
            _ => self.others = true,
        }
    }

    /// Whether this is a record's directory.
    pub(super) fn is_record(&self) -> bool {
        !self.numbered.is_empty()
    }

    pub(super) fn state(&self) -> State {
        state_of(self.numbered.last().map_or(0, |(_, item)| item.size))
    }

    /// The number that counts; 0 for none.
    pub(super) fn highest(&self) -> u64 {
        self.numbered.last().map_or(0, |(number, _)| *number)
    }

    pub(super) fn next(&self) -> u64 {
        self.highest() + 1
    }

    /// All versions, in the order in which they may be removed: the one that counts goes last.
    pub(super) fn names(&self) -> impl Iterator<Item = &Name> {
        self.numbered.iter().map(|(_, item)| &item.name)
    }

    /// What nobody can want any more once another version is made: versions that were superseded longer than `linger`
    /// before the newest was made, so that the server's clock alone counts; and files left behind by who died.
    pub(super) fn freed(&self, linger: Duration) -> Vec<Name> {
        let now = self.numbered.last().map_or(SystemTime::UNIX_EPOCH, |(_, item)| item.since);
        let is_old = |since: SystemTime| now.duration_since(since).is_ok_and(|age| age > linger);
        let superseded = self.numbered.windows(2).take_while(|pair| is_old(pair[1].1.since));
        let left = self.hidden.iter().filter(|name| name.is_left_behind(LEFT_BEHIND));
        superseded.map(|pair| pair[0].1.name.clone()).chain(left.cloned()).collect()
    }
}

fn state_of(size: u64) -> State {
    match size {
        0 => State::Gone,
        _ if size == CLOSED.len() as u64 => State::Closed,
        _ => State::Present,
    }
}

/// The versions in `at`; `None` where there is no such directory.
pub(super) async fn versions(store: &dyn Directories, at: &Path) -> Result<Option<Versions>> {
    let mut found = Versions::default();
    let mut entries = store.entries(at);
    loop {
        match entries.try_next().await {
            Ok(Some(item)) => found.add(item),
            Ok(None) => break,
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    found.numbered.sort_by_key(|(number, _)| *number);
    Ok(Some(found))
}

/// A version's nonce and its body.
pub(super) fn parts(at: &Path, text: &Bytes) -> Result<(String, Bytes)> {
    let nonce = text.get(..NONCE).and_then(|nonce| std::str::from_utf8(nonce).ok());
    let is_hex = |nonce: &&str| nonce.bytes().all(|byte| byte.is_ascii_hexdigit());
    match nonce.filter(is_hex) {
        Some(nonce) if text.get(NONCE) == Some(&b'\n') => Ok((nonce.to_owned(), text.slice(HEAD..))),
        _ => Err(fail(ErrorKind::Corrupt, at, "this is no version of a record")),
    }
}

/// [`Backend::fetch`] of a record as a mount's own credential sees it, in whichever of both forms the store keeps it: a
/// file, or a directory of versions.
///
/// # Errors
/// As [`Backend::fetch`].
pub async fn fetch(backend: &dyn Backend, at: &Path, longest: u64, known: Option<&Version>) -> Result<Fetched> {
    match backend.fetch(at, longest, known).await {
        Err(error) if error.kind == ErrorKind::IsADirectory => {}
        fetched => return fetched,
    }
    let mut highest: Option<(u64, Entry)> = None;
    let mut entries = backend.list(at);
    while let Some(entry) = entries.next().await.transpose()? {
        let number = number_of(&entry.name).filter(|_| entry.meta.kind() == Kind::File);
        if let Some(number) = number.filter(|number| highest.as_ref().is_none_or(|(most, _)| number > most)) {
            highest = Some((number, entry));
        }
    }
    let is_there = |entry: &Entry| state_of(entry.meta.size()) == State::Present;
    let Some(entry) = highest.map(|(_, entry)| entry).filter(is_there) else {
        return Err(Error::new(ErrorKind::NotFound, Op::Fetch, at, "there is no such record"));
    };
    match backend.fetch(&at.join(&entry.name), longest + HEAD as u64, known).await? {
        Fetched::Same => Ok(Fetched::Same),
        Fetched::New { meta, bytes } => Ok(Fetched::New { meta, bytes: parts(at, &bytes)?.1 }),
    }
}

/// The longest file that a version is.
pub(super) const LONGEST_VERSION: u64 = (LARGEST_RECORD + HEAD) as u64;
