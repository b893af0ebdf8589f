//! The lengths inside an answer, checked before it is unpacked: the codec reserves as many bytes as the server says that
//! there are.

use nfs3_types::nfs3::{NFS_PROGRAM, NFS3_FHSIZE};

use super::calls::Outcome;
use super::error::Failure;

/// Bytes of `fattr3` (RFC 1813, section 2.6).
const ATTRIBUTES: usize = 84;

/// The longest name, and the longest text of a symbolic link, of any server.
const LONGEST_NAME: usize = 4096;
const LONGEST_TARGET: usize = 64 << 10;

/// Whether every length in the results of `procedure` is one that they can have, and within them.
pub(super) fn checked(procedure: u32, results: &[u8]) -> Outcome<()> {
    let is = |one: NFS_PROGRAM| procedure == one as u32;
    let mut rest = Rest(results);
    // What is said of a failure has no lengths.
    if rest.word()? != 0 {
        return Ok(());
    }
    if is(NFS_PROGRAM::NFSPROC3_LOOKUP) {
        rest.opaque(NFS3_FHSIZE)
    } else if is(NFS_PROGRAM::NFSPROC3_CREATE)
        || is(NFS_PROGRAM::NFSPROC3_MKDIR)
        || is(NFS_PROGRAM::NFSPROC3_SYMLINK)
        || is(NFS_PROGRAM::NFSPROC3_MKNOD)
    {
        rest.handle()
    } else if is(NFS_PROGRAM::NFSPROC3_READLINK) {
        rest.attributes()?;
        rest.opaque(LONGEST_TARGET)
    } else if is(NFS_PROGRAM::NFSPROC3_READDIR) {
        rest.entries(false)
    } else if is(NFS_PROGRAM::NFSPROC3_READDIRPLUS) {
        rest.entries(true)
    } else {
        Ok(())
    }
}

/// What of the results has not been looked at.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn skip(&mut self, bytes: usize) -> Outcome<()> {
        self.0 = self.0.get(bytes..).ok_or_else(|| Failure::corrupt("the server's answer ends too early"))?;
        Ok(())
    }

    fn word(&mut self) -> Outcome<u32> {
        let word = self.0.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
        self.skip(4)?;
        Ok(word.unwrap_or_default())
    }

    fn opaque(&mut self, most: usize) -> Outcome<()> {
        let length = self.word()? as usize;
        if length > most {
            return Err(Failure::corrupt(format!(
                "the server's answer has {length} bytes where at most {most} can be"
            )));
        }
        self.skip(length.next_multiple_of(4))
    }

    fn attributes(&mut self) -> Outcome<()> {
        if self.word()? == 0 { Ok(()) } else { self.skip(ATTRIBUTES) }
    }

    fn handle(&mut self) -> Outcome<()> {
        if self.word()? == 0 { Ok(()) } else { self.opaque(NFS3_FHSIZE) }
    }

    fn entries(&mut self, plus: bool) -> Outcome<()> {
        self.attributes()?;
        // The verifier.
        self.skip(8)?;
        while self.word()? != 0 {
            // File id, name, cookie.
            self.skip(8)?;
            self.opaque(LONGEST_NAME)?;
            self.skip(8)?;
            if plus {
                self.attributes()?;
                self.handle()?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use nfs3_types::nfs3::{self as wire, Nfs3Option, Nfs3Result, nfs_fh3};
    use nfs3_types::xdr_codec::{List, Opaque, Pack, Unpack};
    use proptest::prelude::*;

    use super::*;

    fn packed(value: &impl Pack) -> Vec<u8> {
        let mut bytes = Vec::new();
        value.pack(&mut bytes).unwrap();
        bytes
    }

    fn check(procedure: NFS_PROGRAM, results: &[u8]) -> Result<(), String> {
        checked(procedure as u32, results).map_err(|failure| failure.message)
    }

    fn handle(length: usize) -> nfs_fh3 {
        nfs_fh3 { data: Opaque::owned(vec![7; length]) }
    }

    fn attributes() -> wire::fattr3 {
        let mut bytes = [0; ATTRIBUTES];
        // A regular file.
        bytes[3] = 1;
        wire::fattr3::unpack(&mut &bytes[..]).unwrap().0
    }

    fn page() -> Vec<u8> {
        let entry = |name: &'static [u8], handle| wire::entryplus3 {
            fileid: 1,
            name: name.into(),
            cookie: 2,
            name_attributes: Nfs3Option::Some(attributes()),
            name_handle: handle,
        };
        let entries = vec![entry(b"one", Nfs3Option::Some(handle(33))), entry(b"two", Nfs3Option::None)];
        let reply = wire::dirlistplus3 { entries: List(entries), eof: true };
        let (dir_attributes, cookieverf) = (Nfs3Option::Some(attributes()), wire::cookieverf3::default());
        let page = wire::READDIRPLUS3resok { dir_attributes, cookieverf, reply };
        packed(&Nfs3Result::<_, wire::READDIRPLUS3resfail>::Ok(page))
    }

    #[test]
    fn what_a_server_may_say_passes_and_what_it_cannot_mean_does_not() {
        let page = page();
        check(NFS_PROGRAM::NFSPROC3_READDIRPLUS, &page).unwrap();
        for end in 0..page.len() - 8 {
            check(NFS_PROGRAM::NFSPROC3_READDIRPLUS, &page[..end]).unwrap_err();
        }
        let found = |length| {
            let object = wire::LOOKUP3resok {
                object: handle(length),
                obj_attributes: Nfs3Option::None,
                dir_attributes: Nfs3Option::None,
            };
            packed(&Nfs3Result::<_, wire::LOOKUP3resfail>::Ok(object))
        };
        check(NFS_PROGRAM::NFSPROC3_LOOKUP, &found(64)).unwrap();
        assert!(check(NFS_PROGRAM::NFSPROC3_LOOKUP, &found(65)).unwrap_err().contains("at most 64"));
        let huge = [0, u32::MAX, 0].map(u32::to_be_bytes).concat();
        check(NFS_PROGRAM::NFSPROC3_LOOKUP, &huge).unwrap_err();
        for (procedure, words) in [
            (NFS_PROGRAM::NFSPROC3_CREATE, &[0, 1, u32::MAX][..]),
            (NFS_PROGRAM::NFSPROC3_READLINK, &[0, 0, u32::MAX - 3]),
            (NFS_PROGRAM::NFSPROC3_READDIR, &[0, 0, 0, 0, 1, 0, 0, u32::MAX]),
        ] {
            let words: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).chain([0; 64]).collect();
            check(procedure, &words).unwrap_err();
        }
        // A failure, and an answer in which nothing has a length.
        check(NFS_PROGRAM::NFSPROC3_LOOKUP, &2u32.to_be_bytes()).unwrap();
        check(NFS_PROGRAM::NFSPROC3_GETATTR, &huge).unwrap();
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(procedure in 0u32..22, bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = checked(procedure, &bytes);
        }
    }
}
