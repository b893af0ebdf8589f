//! Why a store could not do it, as far as a caller can act on it.

use std::fmt;

use super::Path;

/// The result of an operation on a store.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed operation: what it was, where, and why.
///
/// `message` is written for the person who reads it in a pod's events, in fixed words and with names of the request.
/// `detail` is for the log: what is a server's own, an error code and a request id, and never more of its words, since
/// SignatureDoesNotMatch echoes the request that it refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Error {
    /// What the caller can act on.
    pub kind: ErrorKind,
    /// The operation that failed.
    pub op: Op,
    /// Where.
    pub path: Path,
    /// Why, and how to mend it where that is known.
    pub message: String,
    /// What else the log should know; empty where there is nothing.
    pub detail: String,
}

impl Error {
    /// An error of `kind` while doing `op` at `path`.
    pub fn new(kind: ErrorKind, op: Op, path: &Path, message: impl Into<String>) -> Self {
        Error { kind, op, path: path.clone(), message: message.into(), detail: String::new() }
    }

    /// The same, with more for the log.
    pub fn with_detail(self, detail: impl Into<String>) -> Self {
        Error { detail: detail.into(), ..self }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}: {}", self.op, self.path.to_string(), self.message)?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, " ({})", self.detail) }
    }
}

/// What a caller can do something about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum ErrorKind {
    /// Nothing lies there.
    NotFound,
    /// Something lies there already.
    AlreadyExists,
    /// A directory was needed.
    NotADirectory,
    /// A file was needed.
    IsADirectory,
    /// The directory holds something.
    NotEmpty,
    /// The store knows who asks, and refuses.
    Denied,
    /// Only the file's owner or a superuser may do that.
    NotPermitted,
    /// Another client is writing it.
    Busy,
    /// The store takes no changes there from anybody.
    ReadOnly,
    /// The store does not accept the credential itself.
    Unauthenticated,
    /// The file is no longer that version.
    Stale,
    /// This store cannot do that.
    Unsupported,
    /// The name cannot be one of this store's.
    InvalidName,
    /// The name, or the path to it, is longer than this store's may be.
    NameTooLong,
    /// The file would pass the store's largest.
    TooLarge,
    /// No space.
    NoSpace,
    /// The user's quota is used up.
    OverQuota,
    /// The store asks for less, still after all retries.
    Throttled,
    /// The store cannot be reached or does not answer in time.
    Unavailable,
    /// The store answered something other than what was asked.
    Corrupt,
    /// The store is set up wrongly (no such bucket, another region, an untrusted certificate, a skewed clock).
    Misconfigured,
    /// Anything else.
    Other,
}

/// An operation of the seam, as it stands in messages and metric labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Op {
    /// `Backend::stat`
    Stat,
    /// `Backend::list`
    List,
    /// `Backend::read`
    Read,
    /// `Backend::fetch`
    Fetch,
    /// `Backend::create`, `Upload::write`, `Backend::make_file`, `Backend::open_write`, `InPlace::write`
    Write,
    /// `Upload::publish`, `InPlace::sync`
    Publish,
    /// `Backend::make_dir`
    MakeDir,
    /// `Backend::remove`
    Remove,
    /// `Backend::rename`
    Rename,
    /// `Backend::set_attributes`
    SetAttributes,
    /// `Backend::make_symlink`, `Backend::read_symlink`, `Backend::link`
    Link,
    /// `Backend::access`
    Access,
    /// `Backend::space`
    Space,
    /// An operation on the control plane's records.
    Record,
    /// Setting up the client.
    Connect,
}

impl Op {
    /// The word used in messages and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Op::Stat => "stat",
            Op::List => "list",
            Op::Read => "read",
            Op::Fetch => "fetch",
            Op::Write => "write",
            Op::Publish => "publish",
            Op::MakeDir => "mkdir",
            Op::Remove => "remove",
            Op::Rename => "rename",
            Op::SetAttributes => "set attributes",
            Op::Link => "link",
            Op::Access => "access",
            Op::Space => "statfs",
            Op::Record => "record",
            Op::Connect => "connect",
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
