//! Which keys are files and directories, and under which names.
//!
//! A volume shows the keys below its prefix, split at `/`. A segment is shown if it is a [`Name`] in UTF-8: so a key
//! with an empty segment (`a//b`), a `.` or `..`, a zero byte, a segment over 255 bytes or invalid UTF-8 is hidden from
//! that segment on, and nothing else is. So is one with a control character that XML cannot carry (1.0, production 2):
//! a server that ignores `encoding-type` lists it under another name. Backslashes, newlines, `%` and `+` are ordinary
//! characters. A key that ends in
//! `/` marks a directory, whatever its content. Where a key `a` stands beside keys under `a/`, the directory is shown
//! and the object is not, in listings and look-ups alike.

use aws_sdk_s3::types::EncodingType;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, percent_decode_str, utf8_percent_encode};

use crate::backend::{ErrorKind, Name, Path};

use super::error::Failure;

/// The longest key, in bytes (S3 API, "Object key naming guidelines").
const LONGEST: usize = 1024;

/// A key as it stands in a URI (RFC 3986, unreserved characters, and the slash).
pub(super) fn encoded(key: &str) -> PercentEncode<'_> {
    const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    utf8_percent_encode(key, KEPT)
}

/// Maps paths to keys and back.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    /// Empty, or ends in `/`.
    root: String,
}

impl Keys {
    /// Keys below `prefix` (of the store) and `root` (of the volume). `None` where `root` is not UTF-8.
    pub(super) fn new(prefix: &str, root: &Path) -> Option<Keys> {
        let mut key = String::new();
        for part in [prefix.trim_matches('/'), root.as_str()?] {
            if !part.is_empty() {
                key.push_str(part);
                key.push('/');
            }
        }
        Some(Keys { root: key })
    }

    /// The key of the file at `path`.
    ///
    /// # Errors
    /// `InvalidName`, `NameTooLong` where no key can be that path.
    pub(super) fn file(&self, path: &Path) -> Result<String, Failure> {
        let text = path.as_str().ok_or_else(|| Failure::new(ErrorKind::InvalidName, "names in S3 are UTF-8"))?;
        if !is_listable(text) {
            let why = "a listing of S3 cannot carry control characters other than tab, newline and carriage return";
            return Err(Failure::new(ErrorKind::InvalidName, why));
        }
        // A byte is left for the `/` of a directory, so that whatever can be named can be either.
        if self.root.len() + text.len() >= LONGEST {
            return Err(Failure::new(ErrorKind::NameTooLong, format!("a key in S3 has at most {LONGEST} bytes")));
        }
        Ok(format!("{}{text}", self.root))
    }

    /// What the keys in the directory at `path` begin with: its marker's own key, but for an empty root.
    ///
    /// # Errors
    /// As [`Keys::file`].
    pub(super) fn directory(&self, path: &Path) -> Result<String, Failure> {
        let mut key = self.file(path)?;
        if !path.is_root() {
            key.push('/');
        }
        Ok(key)
    }
}

/// The name that an entry of a listing has in its directory; `None` hides it. `text` is what follows the directory's
/// prefix, without the `/` of a common prefix.
pub(super) fn shown(text: &[u8]) -> Option<Name> {
    Name::new(text).ok().filter(|name| name.as_str().is_some_and(is_listable))
}

fn is_listable(text: &str) -> bool {
    !text.chars().any(|c| c.is_ascii_control() && !matches!(c, '\t' | '\n' | '\r' | '\x7f'))
}

/// A key as a listing gives it. Where the listing says so it is url-encoded, with `+` for a space; a store that ignores
/// `encoding-type` gives it as it is.
pub(super) fn listed(key: &str, encoding: Option<&EncodingType>) -> Vec<u8> {
    match encoding {
        Some(EncodingType::Url) => percent_decode_str(&key.replace('+', " ")).collect(),
        _ => key.as_bytes().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        Path::parse(text).unwrap()
    }

    #[test]
    fn paths_have_one_key_each() {
        let keys = Keys::new("team/data", &path("v1")).unwrap();
        assert_eq!(keys.file(&path("a/b")).unwrap(), "team/data/v1/a/b");
        assert_eq!(keys.directory(&path("a")).unwrap(), "team/data/v1/a/");
        assert_eq!(keys.directory(&Path::root()).unwrap(), "team/data/v1/");
        let whole = Keys::new("", &Path::root()).unwrap();
        assert_eq!(whole.directory(&Path::root()).unwrap(), "");
        assert_eq!(whole.file(&path("a")).unwrap(), "a");
    }

    #[test]
    fn what_no_key_can_be_is_an_invalid_name() {
        let keys = Keys::new("", &Path::root()).unwrap();
        let bytes = Path::root().join(&Name::new(b"\xff").unwrap());
        assert_eq!(keys.file(&bytes).unwrap_err().kind, ErrorKind::InvalidName);
        assert_eq!(keys.file(&path("a\x01")).unwrap_err().kind, ErrorKind::InvalidName);
        assert!(keys.file(&path("a\n\x7f")).is_ok());
        let long = vec!["x".repeat(250); 4].join("/") + "/" + &"y".repeat(20);
        assert!(keys.file(&path(&long[..1023])).is_ok());
        assert_eq!(keys.file(&path(&long[..1024])).unwrap_err().kind, ErrorKind::NameTooLong);
    }

    #[test]
    fn odd_segments_are_hidden() {
        for hidden in [&b""[..], b".", b"..", b"\xff", b"a\0", &[b'x'; 256]] {
            assert_eq!(shown(hidden), None, "{hidden:?}");
        }
        for visible in [&b"a\\b"[..], b"a\nb", b"a+b %", &[b'x'; 255], "\u{e9}".as_bytes()] {
            assert!(shown(visible).is_some(), "{visible:?}");
        }
    }

    #[test]
    fn url_encoding_is_undone() {
        assert_eq!(listed("a%2Bb+c%0A%FF", Some(&EncodingType::Url)), b"a+b c\n\xff");
        assert_eq!(listed("a%2Bb+c", None), b"a%2Bb+c");
    }
}
