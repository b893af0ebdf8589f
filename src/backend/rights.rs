//! What may be done with a file or a directory, as access(2) asks.

/// Some of the three rights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rights {
    /// Read a file, list a directory.
    pub read: bool,
    /// Change a file; make, move and remove what lies in a directory.
    pub write: bool,
    /// Execute a file, pass a directory.
    pub execute: bool,
}

impl Rights {
    /// None of them.
    pub const NONE: Rights = Rights { read: false, write: false, execute: false };

    /// All of them.
    pub const ALL: Rights = Rights { read: true, write: true, execute: true };

    /// Of three permission bits of a mode, those in `mode`.
    pub const fn of_mode(mode: u32) -> Rights {
        Rights { read: mode & 4 != 0, write: mode & 2 != 0, execute: mode & 1 != 0 }
    }

    /// As three permission bits of a mode: 0 to 7.
    pub fn mode(self) -> u32 {
        4 * u32::from(self.read) + 2 * u32::from(self.write) + u32::from(self.execute)
    }

    /// Those that both have.
    #[must_use]
    pub fn and(self, other: Rights) -> Rights {
        Rights::of_mode(self.mode() & other.mode())
    }

    /// Each of them alone.
    pub fn each(self) -> impl Iterator<Item = Rights> {
        [4, 2, 1].into_iter().map(move |bit| Rights::of_mode(self.mode() & bit)).filter(|one| *one != Rights::NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_three_bits_of_a_mode() {
        for mode in 0..8 {
            let rights = Rights::of_mode(mode);
            assert_eq!((rights.mode(), Rights::of_mode(mode | 0o640)), (mode, rights));
            assert_eq!(rights.each().map(Rights::mode).sum::<u32>(), mode);
            assert_eq!((rights.and(Rights::ALL), rights.and(Rights::NONE)), (rights, Rights::NONE));
        }
        let read = Rights { read: true, ..Rights::NONE };
        assert_eq!((Rights::of_mode(6).and(Rights::of_mode(5)), read.each().count()), (read, 1));
    }
}
