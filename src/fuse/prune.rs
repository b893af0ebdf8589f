//! Has the kernel give inodes back that nobody uses: FUSE_NOTIFY_PRUNE (code 9 since Linux 6.18), which fuser 0.18 does
//! not know. What is open, mounted upon or somebody's working directory stays, unlike with an invalidated entry.
//!
//! `fuse_out_header` with the code in the place of the error and no `unique`, `fuse_notify_prune_out` with how many
//! there are, and their numbers (include/uapi/linux/fuse.h).

use std::fs::File;
use std::io::{self, Write};

use crate::vfs::Ino;

const CODE: i32 = 9;
/// Length of both headers.
const HEADERS: usize = 32;

/// Tells the kernel, until it turns out that it does not understand.
#[derive(Debug)]
pub(super) struct Prune(Option<File>);

impl Prune {
    /// On `device`, the connection's descriptor.
    pub(super) fn on(device: File) -> Prune {
        Prune(Some(device))
    }

    /// Asks for `inos` back.
    ///
    /// # Errors
    /// What the kernel says, the first time that it does not understand: nothing is asked from then on.
    pub(super) fn ask(&mut self, inos: &[Ino]) -> io::Result<()> {
        let Some(device) = &mut self.0 else { return Ok(()) };
        match device.write(&message(inos)) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                self.0 = None;
                Err(error)
            }
            told => told.map(drop),
        }
    }
}

fn message(inos: &[Ino]) -> Vec<u8> {
    let length = HEADERS + 8 * inos.len();
    let mut message = Vec::with_capacity(length);
    message.extend((length as u32).to_ne_bytes());
    message.extend(CODE.to_ne_bytes());
    message.extend(0u64.to_ne_bytes());
    message.extend((inos.len() as u32).to_ne_bytes());
    // Padding and what is spare.
    message.extend([0; 12]);
    message.extend(inos.iter().flat_map(|ino| ino.0.to_ne_bytes()));
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_inode_takes_forty_bytes() {
        let message = message(&[Ino(0x0102_0304_0506_0708)]);
        assert_eq!((message.len(), u32::from_ne_bytes(message[..4].try_into().unwrap())), (40, 40));
        assert_eq!(i32::from_ne_bytes(message[4..8].try_into().unwrap()), 9);
        assert_eq!(u32::from_ne_bytes(message[16..20].try_into().unwrap()), 1);
        assert_eq!(u64::from_ne_bytes(message[32..].try_into().unwrap()), 0x0102_0304_0506_0708);
    }
}
