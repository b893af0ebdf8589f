//! What HDFS answered, by its RPC or by WebHDFS, in words a pod's events can carry.
//!
//! Both give the Java class of what was thrown. Its text is the server's own and goes no further than this module: it
//! may tell apart what one class stands for.

use std::fmt;
use std::time::Duration;

use hdfs_native::HdfsError;

use super::kerberos;
use crate::backend::journal::Failed;
use crate::backend::{Error, ErrorKind, Op, Path};

pub(super) type Outcome<T> = std::result::Result<T, Failure>;

/// What is said of a file that another client is writing.
pub(super) const HELD: &str = "another client holds the file's lease: it is writing it, or died without closing it";

/// What is said of a name node that answers and takes no changes.
pub(super) const SAFE_MODE: &str = "the name node is in safe mode: it takes no changes";

/// What is said of a token that is none.
const NO_TOKEN: &str = "the name node does not accept the mount's credential: the token was cancelled, has expired, or is \
                        another cluster's";

/// What is said of changes to a snapshot.
const IN_SNAPSHOT: &str = "a snapshot does not change";

/// A call that failed, before it is known for which operation and path it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) kind: ErrorKind,
    pub(super) message: String,
    /// For the log: the class of what was thrown.
    pub(super) detail: String,
    /// Another name node, or this one later, may do it: it was surely not done.
    pub(super) passing: bool,
}

impl Failure {
    pub(super) fn new(kind: ErrorKind, message: impl Into<String>) -> Failure {
        Failure { kind, message: message.into(), detail: String::new(), passing: false }
    }

    /// An answer that is not the one to what was asked.
    pub(super) fn corrupt(message: impl Into<String>) -> Failure {
        Failure::new(ErrorKind::Corrupt, message)
    }

    /// Nothing lies there.
    pub(super) fn absent() -> Failure {
        Failure::new(ErrorKind::NotFound, "nothing lies there")
    }

    /// The file is another one now, or holds other bytes.
    pub(super) fn changed() -> Failure {
        Failure::new(ErrorKind::Stale, "the file was replaced, removed or cut by another client")
    }

    /// What lies in a snapshot stays as it is.
    pub(super) fn in_snapshot() -> Failure {
        Failure::new(ErrorKind::ReadOnly, IN_SNAPSHOT)
    }

    /// No answer came in time.
    pub(super) fn late(after: Duration) -> Failure {
        Failure::new(ErrorKind::Unavailable, format!("no answer within {} s", after.as_secs_f32()))
    }

    /// As the seam's error.
    pub(super) fn at(self, op: Op, path: &Path) -> Error {
        Error::new(self.kind, op, path, self.message).with_detail(self.detail)
    }

    /// What a server threw: the class of it, and its text.
    pub(super) fn thrown(class: &str, text: &str) -> Failure {
        let (kind, message) = meaning(class, text);
        let passing = matches!(simple(class), "StandbyException" | "RetriableException" | "SafeModeException");
        Failure { kind, message: message.to_owned(), detail: simple(class).to_owned(), passing }
    }
}

impl Failed for Failure {
    fn kind(&self) -> ErrorKind {
        self.kind
    }

    fn is_passing(&self) -> bool {
        self.passing
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.detail.as_str() {
            "" => f.write_str(&self.message),
            detail => write!(f, "{} ({detail})", self.message),
        }
    }
}

/// A file that is looked for by its id and not found was removed.
pub(super) fn gone(failure: Failure) -> Failure {
    match failure.kind {
        ErrorKind::NotFound => Failure::changed(),
        _ => failure,
    }
}

/// The name of a Java class without its package, and of an inner one without the outer.
fn simple(class: &str) -> &str {
    class.rsplit(['.', '$']).next().unwrap_or(class)
}

/// What a server means by what it throws.
fn meaning(class: &str, text: &str) -> (ErrorKind, &'static str) {
    match simple(class) {
        "FileNotFoundException" => (ErrorKind::NotFound, "nothing lies there"),
        "FileAlreadyExistsException" => (ErrorKind::AlreadyExists, "something lies there already"),
        "ParentNotDirectoryException" => (ErrorKind::NotADirectory, "what lies above it is no directory"),
        "PathIsNotDirectoryException" => (ErrorKind::NotADirectory, "it is no directory"),
        "UnresolvedPathException" | "UnresolvedLinkException" => {
            (ErrorKind::NotADirectory, "a symbolic link lies there or above it, and this driver follows none")
        }
        "PathIsNotEmptyDirectoryException" => (ErrorKind::NotEmpty, "the directory is not empty"),
        // To a path below a file it says that the file cannot be passed.
        "AccessControlException" if text.contains("is not a directory") => {
            (ErrorKind::NotADirectory, "what lies above it is no directory")
        }
        "AccessControlException" if text.contains("not the owner") || text.contains("super user") => {
            (ErrorKind::NotPermitted, "only its owner or the superuser may do that")
        }
        "AccessControlException" => (ErrorKind::Denied, "HDFS refuses it to the mount's user"),
        "SnapshotAccessControlException" => (ErrorKind::ReadOnly, IN_SNAPSHOT),
        "SnapshotException" => snapshots(text),
        "DSQuotaExceededException" | "QuotaByStorageTypeExceededException" => (
            ErrorKind::OverQuota,
            "the directory's space quota in HDFS is used up (a block counts whole, once a replica)",
        ),
        "NSQuotaExceededException" => (ErrorKind::OverQuota, "the directory's quota of names in HDFS is used up"),
        "NotReplicatedYetException" => (ErrorKind::Unavailable, "a block of the file has not arrived yet"),
        "SafeModeException" => (ErrorKind::Unavailable, SAFE_MODE),
        "StandbyException" => (ErrorKind::Unavailable, "the name node is a standby, and no active one answered"),
        "RetriableException" => (ErrorKind::Unavailable, "the name node is starting or in safe mode"),
        "AlreadyBeingCreatedException" | "RecoveryInProgressException" => (ErrorKind::Busy, HELD),
        "LeaseExpiredException" => (ErrorKind::Stale, "the file was removed, or another client took its lease"),
        "PathComponentTooLongException" => (ErrorKind::NameTooLong, "HDFS does not take so long a name"),
        "MaxDirectoryItemsExceededException" => (ErrorKind::NoSpace, "the directory holds as much as HDFS allows"),
        "InvalidPathException" | "HadoopIllegalArgumentException" | "IllegalArgumentException" => {
            (ErrorKind::InvalidName, "HDFS does not take this name or argument")
        }
        "InvalidToken" => (ErrorKind::Unauthenticated, NO_TOKEN),
        // As WebHDFS has it.
        "SecurityException" if text.contains("InvalidToken") => (ErrorKind::Unauthenticated, NO_TOKEN),
        "AuthenticationException" | "AuthorizationException" | "SaslException" | "GSSException" => {
            (ErrorKind::Unauthenticated, "the name node does not accept the mount's credential")
        }
        "UnsupportedOperationException" | "UnsupportedActionException" => {
            (ErrorKind::Unsupported, "HDFS does not do that to this file")
        }
        _ if text.contains("could only be written to") => {
            (ErrorKind::NoSpace, "no DataNode has space for a block, or none can be reached from the name node")
        }
        _ if text.contains("Invalid path name") || text.contains("Invalid file name") => {
            (ErrorKind::InvalidName, "HDFS does not take this name")
        }
        _ if text.contains("cannot rename a parent to child") || text.contains("is a child of") => {
            (ErrorKind::Unsupported, "a directory cannot move into itself")
        }
        _ => (ErrorKind::Other, "HDFS failed"),
    }
}

/// What a name node means by what it throws about snapshots.
fn snapshots(text: &str) -> (ErrorKind, &'static str) {
    match text {
        _ if text.contains("already has snapshots") => {
            (ErrorKind::NotEmpty, "the directory has snapshots, and HDFS removes none that has")
        }
        _ if text.contains("already a snapshot with") => (ErrorKind::AlreadyExists, "there is a snapshot of that name"),
        _ if text.contains("does not exist") => (ErrorKind::NotFound, "there is no such snapshot"),
        _ if text.contains("not a snapshottable") => {
            (ErrorKind::Unsupported, "no snapshots may be taken of the directory (hdfs dfsadmin -allowSnapshot)")
        }
        _ if text.contains("ested snapshottable") => (
            ErrorKind::Misconfigured,
            "a directory above or below has snapshots of its own in HDFS, which takes none of one in the other: disallow \
             those (hdfs dfsadmin -disallowSnapshot)",
        ),
        _ if text.contains("limit") => (ErrorKind::NoSpace, "the directory has as many snapshots as HDFS allows"),
        _ => (ErrorKind::Other, "HDFS failed to take, to find or to remove a snapshot"),
    }
}

impl From<HdfsError> for Failure {
    /// Total over the library's errors.
    fn from(error: HdfsError) -> Failure {
        let of = |kind, message: &str| Failure::new(kind, message);
        match error {
            HdfsError::RPCError(class, text) | HdfsError::FatalRPCError(class, text) => Failure::thrown(&class, &text),
            HdfsError::FileNotFound(_) => Failure::absent(),
            HdfsError::AlreadyExists(_) => of(ErrorKind::AlreadyExists, "something lies there already"),
            HdfsError::IsADirectoryError(_) => of(ErrorKind::IsADirectory, "it is a directory"),
            HdfsError::IOError(error) => io(&error),
            HdfsError::DataTransferError(_) | HdfsError::BlocksNotFound(_) => {
                of(ErrorKind::Unavailable, "no DataNode with the bytes answered")
            }
            HdfsError::ChecksumError => of(ErrorKind::Corrupt, "the bytes do not match their checksum"),
            HdfsError::OperationFailed(text) if text.contains("hsync is not supported") => {
                of(ErrorKind::Unsupported, "an erasure-coded file cannot be synced before it is closed")
            }
            HdfsError::OperationFailed(_) => of(ErrorKind::Unavailable, "the file could not be completed in time"),
            HdfsError::UnsupportedErasureCodingPolicy(_) => {
                of(ErrorKind::Unsupported, "the file has an erasure coding policy that this driver does not know")
            }
            HdfsError::UnsupportedFeature(_) => {
                of(ErrorKind::Unsupported, "the file lies in an encryption zone, which this driver cannot read")
            }
            HdfsError::InvalidPath(_) | HdfsError::InvalidArgument(_) | HdfsError::UrlParseError(_) => {
                of(ErrorKind::InvalidName, "HDFS does not take this name or argument")
            }
            HdfsError::GSSAPIError(_, minor, _) => kerberos::meaning(minor),
            HdfsError::SASLError(_) | HdfsError::NoSASLMechanism => {
                of(ErrorKind::Unauthenticated, "the name node and this driver found no way to prove who the user is")
            }
            HdfsError::InvalidRPCResponse(_) => Failure::corrupt("the name node's answer cannot be understood"),
            HdfsError::ErasureCodingError(_)
            | HdfsError::TrashNotEnabled
            | HdfsError::InternalError(_)
            | HdfsError::XmlParseError(_) => of(ErrorKind::Other, "the HDFS library failed"),
        }
    }
}

fn io(error: &std::io::Error) -> Failure {
    use std::io::ErrorKind::{
        AddrNotAvailable, ConnectionAborted, ConnectionRefused, HostUnreachable, NetworkUnreachable,
    };
    let unreached = Failure::new(
        ErrorKind::Unavailable,
        match error.kind() {
            ConnectionAborted => "the name node ended the connection instead of answering",
            _ => "the name node or a DataNode cannot be reached",
        },
    );
    // The library asks another name node only where the one before surely did nothing: so this is true of all of them.
    let passing = matches!(error.kind(), ConnectionRefused | AddrNotAvailable | HostUnreachable | NetworkUnreachable);
    Failure { detail: error.kind().to_string(), passing, ..unreached }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_thrown_is_told_in_fixed_words() {
        for (class, text, kind, word) in [
            ("java.io.FileNotFoundException", "canary", ErrorKind::NotFound, "nothing"),
            ("org.apache.hadoop.security.AccessControlException", "canary", ErrorKind::Denied, "refuses"),
            (
                "org.apache.hadoop.security.AccessControlException",
                "/canary (is not a directory)",
                ErrorKind::NotADirectory,
                "no directory",
            ),
            (
                "org.apache.hadoop.security.AccessControlException",
                "Permission denied. user=canary is not the owner of inode=canary",
                ErrorKind::NotPermitted,
                "owner",
            ),
            ("org.apache.hadoop.hdfs.protocol.DSQuotaExceededException", "canary", ErrorKind::OverQuota, "space"),
            ("org.apache.hadoop.hdfs.protocol.NSQuotaExceededException", "canary", ErrorKind::OverQuota, "names"),
            ("org.apache.hadoop.hdfs.server.namenode.SafeModeException", "canary", ErrorKind::Unavailable, "safe mode"),
            ("org.apache.hadoop.hdfs.protocol.AlreadyBeingCreatedException", "canary", ErrorKind::Busy, "lease"),
            (
                "org.apache.hadoop.hdfs.protocol.FSLimitException$PathComponentTooLongException",
                "canary",
                ErrorKind::NameTooLong,
                "long",
            ),
            (
                "org.apache.hadoop.security.token.SecretManager$InvalidToken",
                "canary",
                ErrorKind::Unauthenticated,
                "credential",
            ),
            (
                "java.lang.SecurityException",
                "Failed to obtain user group information: org.apache.hadoop.security.token.SecretManager$InvalidToken: canary",
                ErrorKind::Unauthenticated,
                "token",
            ),
            (
                "org.apache.hadoop.hdfs.protocol.SnapshotException",
                "Nested snapshottable directories not allowed: path=canary, the ancestor is already a snapshottable directory.",
                ErrorKind::Misconfigured,
                "disallow",
            ),
            ("java.io.IOException", "File canary could only be written to 0 of the 1", ErrorKind::NoSpace, "space"),
            ("java.lang.NullPointerException", "canary", ErrorKind::Other, "failed"),
        ] {
            let failure = Failure::thrown(class, text);
            assert_eq!(failure.kind, kind, "{class}");
            assert!(failure.message.contains(word) && !failure.to_string().contains("canary"), "{failure}");
            assert!(class.ends_with(&failure.detail));
        }
        assert!(Failure::thrown("org.apache.hadoop.ipc.StandbyException", "").passing);
        assert!(!Failure::thrown("java.io.IOException", "").passing);
    }

    #[test]
    fn what_nobody_took_may_be_sent_again() {
        for (kind, passing) in [
            (std::io::ErrorKind::ConnectionRefused, true),
            (std::io::ErrorKind::ConnectionReset, false),
            (std::io::ErrorKind::ConnectionAborted, false),
        ] {
            assert_eq!(Failure::from(HdfsError::IOError(kind.into())).passing, passing, "{kind}");
        }
    }
}
