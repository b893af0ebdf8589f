//! Names and paths, checked once and then trusted.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use data_encoding::HEXLOWER;

/// The name that is the driver's own at every depth of every volume.
pub const RESERVED: &str = ".millrace";

/// What begins the name of a file of the driver's own beside a user's: one that has not got its name yet, or has lost it
/// and is still open. No listing shows it.
const HIDDEN: &str = ".millrace.tmp-";

/// One segment of a path: 1 to 255 bytes, no `/`, no NUL, neither `.` nor `..` (POSIX.1-2024 3.254, NAME_MAX of Linux).
///
/// Bytes, not text: Linux and NFS allow any. A store whose names are text answers `InvalidName`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<[u8]>);

impl Name {
    /// Checks `bytes`.
    pub fn new(bytes: &[u8]) -> Result<Name, BadName> {
        match bytes {
            b"" => Err(BadName::Empty),
            b"." | b".." => Err(BadName::Dots),
            _ if bytes.len() > 255 => Err(BadName::TooLong),
            _ if bytes.iter().any(|b| matches!(b, b'/' | 0)) => Err(BadName::Separator),
            _ => Ok(Name(bytes.into())),
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The name as text, where it is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// A new name for a file of the driver's own, which nobody else uses.
    pub fn hidden() -> Name {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let nonce = HEXLOWER.encode(&rand::random::<[u8; 12]>());
        Name(format!("{HIDDEN}{:x}-{nonce}", now.as_secs()).as_bytes().into())
    }

    /// Whether this begins as [`Name::hidden`] does.
    pub fn is_hidden(&self) -> bool {
        self.0.starts_with(HIDDEN.as_bytes())
    }

    /// How long ago [`Name::hidden`] made this; `None` for another name.
    pub fn hidden_since(&self) -> Option<Duration> {
        let (seconds, _) = self.as_str()?.strip_prefix(HIDDEN)?.split_once('-')?;
        let seconds = Duration::from_secs(u64::from_str_radix(seconds, 16).ok()?);
        let made = SystemTime::UNIX_EPOCH.checked_add(seconds)?;
        SystemTime::now().duration_since(made).ok()
    }

    /// Whether [`Name::hidden`] made this longer than `after` ago.
    pub fn is_left_behind(&self, after: Duration) -> bool {
        self.hidden_since().is_some_and(|age| age > after)
    }

    /// Whether this is the driver's own name.
    pub fn is_reserved(&self) -> bool {
        *self.0 == *RESERVED.as_bytes()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        String::from_utf8_lossy(&self.0).fmt(f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// Why a name cannot be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Empty segment.
    #[error("a name cannot be empty")]
    Empty,
    /// `.` or `..`.
    #[error("'.' and '..' are not names")]
    Dots,
    /// Over 255 bytes.
    #[error("a name has at most 255 bytes")]
    TooLong,
    /// `/` or NUL inside.
    #[error("a name holds neither '/' nor a zero byte")]
    Separator,
}

/// A path below a volume's directory: names joined by `/`, no leading or trailing `/`; empty for the directory itself.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Path(Arc<[u8]>);

impl Path {
    /// The volume's own directory.
    pub fn root() -> Path {
        Path::default()
    }

    /// Checks every segment of `text`; `""` is the root.
    pub fn parse(text: &str) -> Result<Path, BadName> {
        if !text.is_empty() {
            for segment in text.split('/') {
                Name::new(segment.as_bytes())?;
            }
        }
        Ok(Path(text.as_bytes().into()))
    }

    /// Whether this is the volume's own directory.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path as text, where it is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// `name` in this directory.
    pub fn join(&self, name: &Name) -> Path {
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.0.len());
        if !self.is_root() {
            bytes.extend_from_slice(&self.0);
            bytes.push(b'/');
        }
        bytes.extend_from_slice(&name.0);
        Path(bytes.into())
    }

    /// The directory this lies in and its name there; `None` for the root.
    pub fn split_last(&self) -> Option<(Path, Name)> {
        if self.is_root() {
            return None;
        }
        let (parent, name) = match self.0.iter().rposition(|b| *b == b'/') {
            Some(slash) => (&self.0[..slash], &self.0[slash + 1..]),
            None => (&[][..], &self.0[..]),
        };
        Some((Path(parent.into()), Name(name.into())))
    }

    /// The segments, from the top.
    pub fn names(&self) -> impl Iterator<Item = Name> + '_ {
        self.0.split(|b| *b == b'/').filter(|s| !s.is_empty()).map(|s| Name(s.into()))
    }

    /// Whether this is `other` or lies below it.
    pub fn starts_with(&self, other: &Path) -> bool {
        other.is_root()
            || *self.0 == *other.0
            || (self.0.starts_with(&other.0) && self.0.get(other.0.len()) == Some(&b'/'))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        String::from_utf8_lossy(&self.0).fmt(f)
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cannot_be_are_refused() {
        for (bytes, why) in [
            (&b""[..], BadName::Empty),
            (b".", BadName::Dots),
            (b"..", BadName::Dots),
            (b"a/b", BadName::Separator),
            (b"a\0", BadName::Separator),
            (&[b'x'; 256], BadName::TooLong),
        ] {
            assert_eq!(Name::new(bytes), Err(why));
        }
        assert!(Name::new(&[b'x'; 255]).is_ok());
        assert!(Name::new(b"...").is_ok());
        assert!(Name::new(b"\xff").is_ok());
    }

    #[test]
    fn a_hidden_name_is_known_with_its_age() {
        let name = Name::hidden();
        assert!(name.is_hidden() && !name.is_reserved() && name != Name::hidden());
        assert!(name.hidden_since().unwrap() < Duration::from_secs(60));
        let old = Name::new(b".millrace.tmp-5f5e1000-x").unwrap();
        let week = Duration::from_secs(7 * 24 * 3600);
        assert!(old.is_left_behind(week) && !name.is_left_behind(week));
        for other in ["file", ".millrace", ".millrace.tmp-", ".millrace.tmp-zz-1", ".millrace.tmp-ffffffffffffffff-1"] {
            let other = Name::new(other.as_bytes()).unwrap();
            assert!(other.hidden_since().is_none() && !other.is_left_behind(Duration::ZERO), "{other}");
        }
    }

    #[test]
    fn a_path_splits_where_it_was_joined() {
        let name = |s: &str| Name::new(s.as_bytes()).unwrap();
        let path = Path::root().join(&name("a")).join(&name("b"));
        assert_eq!(path, Path::parse("a/b").unwrap());
        assert_eq!(path.split_last(), Some((Path::parse("a").unwrap(), name("b"))));
        assert_eq!(Path::parse("a").unwrap().split_last(), Some((Path::root(), name("a"))));
        assert_eq!(Path::root().split_last(), None);
        assert!(Path::parse("a//b").is_err() && Path::parse("/a").is_err() && Path::parse("a/").is_err());
    }

    #[test]
    fn below_means_at_a_slash() {
        let path = |s: &str| Path::parse(s).unwrap();
        assert!(path("a/b").starts_with(&path("a")));
        assert!(path("a").starts_with(&path("a")) && path("a").starts_with(&Path::root()));
        assert!(!path("ab").starts_with(&path("a")));
    }
}
