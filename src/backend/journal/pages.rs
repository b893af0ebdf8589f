//! The file of a journal: notes in pages of one size, each note in as many as it needs, written in one piece behind its
//! checksum. One that was half written tells nothing, nor does one of another version.
//!
//! ```text
//! 0 checksum of the rest (u32)   4 length of the rest (u32)   8 version   9 kind   10 what is noted
//! ```

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use crc_fast::{CrcAlgorithm, checksum};

use super::Note;
use crate::backend::{Name, Path};

/// Bytes of a page.
const PAGE: usize = 512;

/// Pages of a file at most.
const MOST: usize = 8192;

const HEADER: usize = 8;
const VERSION: u8 = 1;

/// See the module.
#[derive(Debug)]
pub(super) struct Pages {
    file: File,
    /// Those that are in use.
    taken: Vec<bool>,
    /// Where each note stands.
    places: HashMap<Note, Range<usize>>,
}

impl Pages {
    /// What stands in `file`.
    pub(super) fn read(file: File) -> io::Result<(Pages, Vec<Note>)> {
        let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX).min(MOST * PAGE);
        let mut content = vec![0; length];
        file.read_exact_at(&mut content, 0)?;
        let (mut pages, mut found) = (Pages { file, taken: Vec::new(), places: HashMap::new() }, Vec::new());
        let mut page = 0;
        while page * PAGE < length {
            let Some((note, size)) = decode(&content[page * PAGE..]) else {
                page += 1;
                continue;
            };
            let place = page..page + size.div_ceil(PAGE);
            page = place.end;
            if pages.places.contains_key(&note.key()) {
                continue;
            }
            pages.take(&place);
            pages.places.insert(note.key(), place);
            found.push(note);
        }
        Ok((pages, found))
    }

    /// Whether a note of that key stands here.
    pub(super) fn has(&self, key: &Note) -> bool {
        self.places.contains_key(key)
    }

    /// Writes a note, over the one of its `key`.
    pub(super) fn write(&mut self, key: &Note, note: &Note) -> io::Result<()> {
        let bytes = encode(note);
        let pages = bytes.len().div_ceil(PAGE);
        let place = match self.places.get(key).filter(|place| place.len() == pages) {
            Some(place) => place.clone(),
            None => {
                self.erase(key)?;
                self.free(pages).ok_or_else(|| io::Error::other("the journal is full"))?
            }
        };
        self.file.write_all_at(&bytes, (place.start * PAGE) as u64)?;
        self.take(&place);
        self.places.insert(key.clone(), place);
        Ok(())
    }

    /// Erases the note of that key, if there is one.
    pub(super) fn erase(&mut self, key: &Note) -> io::Result<()> {
        let Some(place) = self.places.remove(key) else { return Ok(()) };
        self.file.write_all_at(&[0; HEADER], (place.start * PAGE) as u64)?;
        self.taken[place].fill(false);
        Ok(())
    }

    /// Erases all of them.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        (self.taken, self.places) = Default::default();
        self.file.set_len(0)
    }

    fn take(&mut self, place: &Range<usize>) {
        let length = self.taken.len().max(place.end);
        self.taken.resize(length, false);
        self.taken[place.clone()].fill(true);
    }

    /// The first place for so many pages.
    fn free(&self, pages: usize) -> Option<Range<usize>> {
        let is_taken = |page: usize| self.taken.get(page).copied().unwrap_or(false);
        let mut start = 0;
        while start + pages <= MOST {
            match (start..start + pages).rev().find(|page| is_taken(*page)) {
                Some(taken) => start = taken + 1,
                None => return Some(start..start + pages),
            }
        }
        None
    }
}

fn encode(note: &Note) -> Vec<u8> {
    let (kind, body) = match note {
        Note::Hidden { path, file: None } => (b'h', path.as_bytes().to_vec()),
        Note::Hidden { path, file: Some(file) } => (b'f', [path.as_bytes(), &[0], file.as_bytes()].concat()),
        Note::Made(path) => (b'm', path.as_bytes().to_vec()),
        Note::Written { id, since } => {
            let since = since.unwrap_or(u64::MAX);
            (b'w', [id.to_le_bytes(), since.to_le_bytes()].concat())
        }
    };
    let mut bytes = vec![0; 4];
    bytes.extend(u32::try_from(2 + body.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend([VERSION, kind]);
    bytes.extend(body);
    let sum = sum(&bytes[4..]);
    bytes[..4].copy_from_slice(&sum);
    bytes
}

/// The note at the beginning of `bytes`, and how many it has.
fn decode(bytes: &[u8]) -> Option<(Note, usize)> {
    let (header, rest) = bytes.split_at_checked(HEADER)?;
    let (told, length) = header.split_at(4);
    let length = usize::try_from(u32::from_le_bytes(length.try_into().ok()?)).ok()?;
    let [VERSION, kind, body @ ..] = rest.get(..length)? else { return None };
    if sum(&bytes[4..HEADER + length]) != told {
        return None;
    }
    let number = |at: usize| Some(u64::from_le_bytes(body.get(at..at + 8)?.try_into().ok()?));
    let note = match kind {
        b'h' => Note::hidden(&path(body)?, None)?,
        b'f' => {
            let end = body.iter().position(|byte| *byte == 0)?;
            let file = std::str::from_utf8(&body[end + 1..]).ok()?;
            Note::hidden(&path(&body[..end])?, Some(file.into()))?
        }
        b'm' => Note::Made(path(body)?),
        b'w' => Note::Written { id: number(0)?, since: Some(number(8)?).filter(|since| *since != u64::MAX) },
        _ => return None,
    };
    Some((note, HEADER + length))
}

fn path(bytes: &[u8]) -> Option<Path> {
    bytes.split(|byte| *byte == b'/').try_fold(Path::root(), |path, name| Some(path.join(&Name::new(name).ok()?)))
}

fn sum(bytes: &[u8]) -> [u8; 4] {
    // It has 32 bits.
    (checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages() -> (Pages, File) {
        let file = tempfile::tempfile().unwrap();
        (Pages::read(file.try_clone().unwrap()).unwrap().0, file)
    }

    fn note(pages: &mut Pages, note: &Note) -> io::Result<()> {
        pages.write(&note.key(), note)
    }

    fn hidden(name: &str) -> Note {
        Note::Hidden { path: Path::parse(&format!("{name}/.millrace.tmp-1-a")).unwrap(), file: Some("a/b.7".into()) }
    }

    #[test]
    fn a_note_that_is_half_written_is_none_and_hides_no_other() {
        let long = hidden(&vec!["n".repeat(200); 8].join("/"));
        let whole = encode(&long);
        for cut in [1, 4, 7, 8, 9, 10, 511, 512, 1024, whole.len() - 1] {
            let (mut pages, file) = pages();
            for one in [&hidden("before"), &long, &hidden("after")] {
                note(&mut pages, one).unwrap();
            }
            // The rest of it was never written.
            let at = PAGE as u64;
            file.write_all_at(&vec![0; whole.len() - cut], at + cut as u64).unwrap();
            assert_eq!(Pages::read(file).unwrap().1, [hidden("before"), hidden("after")], "{cut}");
        }
        let (mut pages, file) = pages();
        note(&mut pages, &long).unwrap();
        file.set_len(700).unwrap();
        assert!(Pages::read(file).unwrap().1.is_empty());
    }

    #[test]
    fn no_name_but_the_drivers_own_is_ever_one_to_be_removed() {
        let (mut pages, file) = pages();
        let made = Note::Made(Path::parse("user/file").unwrap());
        for path in [Path::parse("user/file").unwrap(), Path::parse(".millrace.tmp-1-a/file").unwrap(), Path::root()] {
            for file in [None, Some("7".into())] {
                note(&mut pages, &Note::Hidden { path: path.clone(), file }).unwrap();
            }
        }
        note(&mut pages, &made).unwrap();
        assert_eq!(Pages::read(file).unwrap().1, [made]);
    }

    #[test]
    fn pages_are_used_again_and_there_is_an_end_of_them() {
        let (mut pages, file) = pages();
        for round in 0..3 {
            for number in 0..50 {
                note(&mut pages, &hidden(&format!("{round}-{number}"))).unwrap();
            }
            for number in 0..50 {
                pages.erase(&hidden(&format!("{round}-{number}")).key()).unwrap();
            }
        }
        assert!(file.metadata().unwrap().len() <= (50 * PAGE) as u64);
        let mut count = 0u64;
        let full = loop {
            match note(&mut pages, &Note::Written { id: count, since: None }) {
                Ok(()) => count += 1,
                Err(error) => break error,
            }
        };
        assert!(full.to_string().contains("full") && count == MOST as u64);
        assert!(file.metadata().unwrap().len() <= (MOST * PAGE) as u64);
        pages.erase(&Note::Written { id: 3, since: None }).unwrap();
        note(&mut pages, &hidden("last")).unwrap();
        let (mut pages, notes) = Pages::read(file.try_clone().unwrap()).unwrap();
        assert!(notes.len() == MOST && notes.contains(&hidden("last")));
        pages.clear().unwrap();
        assert!(Pages::read(file).unwrap().1.is_empty());
    }
}
