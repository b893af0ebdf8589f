//! What an NFS server or the way to it answered, in words a pod's events can carry.

use std::fmt;
use std::time::Duration;

use nfs3_types::nfs3::nfsstat3;

use super::rpc::{Refusal, TOO_WEAK, Trouble};
use crate::backend::journal::Failed;
use crate::backend::{Error, ErrorKind, Op, Path};

/// A call that failed, before it is known for which operation and path it was made.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) kind: ErrorKind,
    /// The server's status, where it answered with one.
    pub(super) status: Option<nfsstat3>,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(kind: ErrorKind, message: impl Into<String>) -> Failure {
        Failure { kind, status: None, message: message.into() }
    }

    /// An answer that is not the one to what was asked.
    pub(super) fn corrupt(message: impl Into<String>) -> Failure {
        Failure::new(ErrorKind::Corrupt, message)
    }

    /// Nothing lies there.
    pub(super) fn absent() -> Failure {
        Failure::new(ErrorKind::NotFound, "nothing lies there")
    }

    /// The server was busy for too long.
    pub(super) fn busy(after: Duration) -> Failure {
        let message = format!("the server asked for patience for {} s (NFS3ERR_JUKEBOX)", after.as_secs_f32());
        Failure { status: Some(nfsstat3::NFS3ERR_JUKEBOX), ..Failure::new(ErrorKind::Unavailable, message) }
    }

    /// Whether the file handle that was used names nothing any more.
    pub(super) fn is_stale(&self) -> bool {
        matches!(self.status, Some(nfsstat3::NFS3ERR_STALE | nfsstat3::NFS3ERR_BADHANDLE))
    }

    /// As the seam's error.
    pub(super) fn at(self, op: Op, path: &Path) -> Error {
        Error::new(self.kind, op, path, self.message)
    }
}

impl Failed for Failure {
    fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Failure {
        let kind = match &trouble {
            Trouble::Late(..) | Trouble::Refused(Refusal::System) => ErrorKind::Unavailable,
            // What the export demands, whoever asks.
            Trouble::Refused(Refusal::Authentication(TOO_WEAK)) => ErrorKind::Misconfigured,
            Trouble::Refused(Refusal::Authentication(_)) => ErrorKind::Unauthenticated,
            Trouble::Refused(Refusal::NoProcedure) => ErrorKind::Unsupported,
            Trouble::Refused(Refusal::NoProgram | Refusal::Versions(..) | Refusal::Rpc) | Trouble::NoPort(_) => {
                ErrorKind::Misconfigured
            }
            Trouble::Refused(Refusal::Arguments) | Trouble::Garbled(_) => ErrorKind::Corrupt,
        };
        Failure::new(kind, trouble.to_string())
    }
}

impl From<nfs3_types::xdr_codec::Error> for Failure {
    fn from(error: nfs3_types::xdr_codec::Error) -> Failure {
        Failure::corrupt(format!("the server's answer cannot be understood: {error}"))
    }
}

impl From<nfsstat3> for Failure {
    /// Total over RFC 1813, section 2.6.
    fn from(status: nfsstat3) -> Failure {
        let (kind, meaning) = match status {
            nfsstat3::NFS3_OK => (ErrorKind::Corrupt, "the server failed a call with success"),
            nfsstat3::NFS3ERR_PERM => (ErrorKind::NotPermitted, "only its owner or the superuser may do that"),
            nfsstat3::NFS3ERR_NOENT => (ErrorKind::NotFound, "nothing lies there"),
            nfsstat3::NFS3ERR_ACCES => (ErrorKind::Denied, "the server refuses it to the mount's user"),
            nfsstat3::NFS3ERR_EXIST => (ErrorKind::AlreadyExists, "something lies there already"),
            nfsstat3::NFS3ERR_XDEV => (ErrorKind::Unsupported, "it lies on another file system of the server"),
            nfsstat3::NFS3ERR_NOTDIR => (ErrorKind::NotADirectory, "it is no directory"),
            nfsstat3::NFS3ERR_ISDIR => (ErrorKind::IsADirectory, "it is a directory"),
            nfsstat3::NFS3ERR_INVAL => (ErrorKind::InvalidName, "the server does not take this name or argument"),
            nfsstat3::NFS3ERR_FBIG => (ErrorKind::TooLarge, "the file would be larger than the server's may be"),
            nfsstat3::NFS3ERR_NOSPC => (ErrorKind::NoSpace, "the server has no space left"),
            nfsstat3::NFS3ERR_DQUOT => (ErrorKind::OverQuota, "the user's quota on the server is used up"),
            nfsstat3::NFS3ERR_ROFS => (ErrorKind::ReadOnly, "the server's file system or export is read-only"),
            nfsstat3::NFS3ERR_MLINK => (ErrorKind::Unsupported, "the file has as many names as the server allows"),
            nfsstat3::NFS3ERR_NAMETOOLONG => (ErrorKind::NameTooLong, "the server does not take so long a name"),
            nfsstat3::NFS3ERR_NOTEMPTY => (ErrorKind::NotEmpty, "the directory is not empty"),
            nfsstat3::NFS3ERR_STALE | nfsstat3::NFS3ERR_BADHANDLE => {
                (ErrorKind::Stale, "the server no longer has that file")
            }
            nfsstat3::NFS3ERR_NOTSUPP | nfsstat3::NFS3ERR_BADTYPE => {
                (ErrorKind::Unsupported, "the server cannot do that")
            }
            nfsstat3::NFS3ERR_JUKEBOX => (ErrorKind::Unavailable, "the server asks for patience"),
            nfsstat3::NFS3ERR_IO
            | nfsstat3::NFS3ERR_NXIO
            | nfsstat3::NFS3ERR_NODEV
            | nfsstat3::NFS3ERR_REMOTE
            | nfsstat3::NFS3ERR_NOT_SYNC
            | nfsstat3::NFS3ERR_BAD_COOKIE
            | nfsstat3::NFS3ERR_TOOSMALL
            | nfsstat3::NFS3ERR_SERVERFAULT => (ErrorKind::Other, "the server failed"),
        };
        Failure { status: Some(status), ..Failure::new(kind, format!("{meaning} ({status})")) }
    }
}
