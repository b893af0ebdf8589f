//! Errors as gRPC statuses: the only place that makes one. Each translation is total, without a `_` arm.
//!
//! The texts end up in the events of a pod or claim, so they are written for its owner.

#![expect(clippy::disallowed_methods, reason = "this is the one place")]

use tonic::{Code, Status};

use super::capability::BadCapability;
use super::inflight::Busy;
use super::volume_id::{BadId, BadPath};
use super::volumes;
use crate::auth::keys::BadSecret;
use crate::backend::{self, ErrorKind};
use crate::config::parameters::BadWord;
use crate::mount;

/// The longest message in bytes. It repeats what callers wrote, and travels as a header, of which clients take so much.
const LONGEST: usize = 2048;

fn status(code: Code, message: impl Into<String>) -> Status {
    let mut message = message.into();
    message.truncate(clipped(&message, LONGEST).len());
    Status::new(code, message)
}

/// The beginning of `text`, of at most `most` bytes.
pub(super) fn clipped(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or_default()]
}

/// A request that no retry mends: what is wrong and what would be right.
pub fn invalid(message: impl Into<String>) -> Status {
    status(Code::InvalidArgument, message)
}

/// What was named is not there.
pub fn not_found(message: impl Into<String>) -> Status {
    status(Code::NotFound, message)
}

/// The request is right, and the driver, the store or the volume is not in a state for it.
pub fn failed_precondition(message: impl Into<String>) -> Status {
    status(Code::FailedPrecondition, message)
}

/// The same name or target, with other arguments.
pub fn already_exists(message: impl Into<String>) -> Status {
    status(Code::AlreadyExists, message)
}

/// Something else is at work there; the same call may succeed later.
pub fn aborted(message: impl Into<String>) -> Status {
    status(Code::Aborted, message)
}

/// A size that the driver or the store cannot give.
pub fn out_of_range(message: impl Into<String>) -> Status {
    status(Code::OutOfRange, message)
}

/// What was asked for is not to be had here, and may be elsewhere.
pub fn resource_exhausted(message: impl Into<String>) -> Status {
    status(Code::ResourceExhausted, message)
}

/// Whoever asks may not.
pub fn permission_denied(message: impl Into<String>) -> Status {
    status(Code::PermissionDenied, message)
}

/// Something is not there yet; the same call may succeed later.
pub fn unavailable(message: impl Into<String>) -> Status {
    status(Code::Unavailable, message)
}

/// What no store that is configured can do.
pub fn unimplemented(message: impl Into<String>) -> Status {
    status(Code::Unimplemented, message)
}

/// A fault of the driver's own.
pub fn internal(message: impl Into<String>) -> Status {
    status(Code::Internal, message)
}

/// What a store's error is to the orchestrator.
pub fn code_of(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::Denied | ErrorKind::NotPermitted => Code::PermissionDenied,
        ErrorKind::Unauthenticated => Code::Unauthenticated,
        ErrorKind::Stale => Code::Aborted,
        ErrorKind::InvalidName | ErrorKind::NameTooLong => Code::InvalidArgument,
        ErrorKind::TooLarge => Code::OutOfRange,
        ErrorKind::NoSpace | ErrorKind::OverQuota => Code::ResourceExhausted,
        ErrorKind::Throttled | ErrorKind::Unavailable | ErrorKind::Busy => Code::Unavailable,
        ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::NotEmpty
        | ErrorKind::Unsupported
        | ErrorKind::ReadOnly
        | ErrorKind::Misconfigured => Code::FailedPrecondition,
        ErrorKind::Corrupt | ErrorKind::Other => Code::Internal,
    }
}

impl From<backend::Error> for Status {
    fn from(error: backend::Error) -> Status {
        tracing::warn!(%error, "a store refused");
        status(code_of(error.kind), mended(error.kind, &error.message))
    }
}

/// What a store's error says, and what to do about it where it does not say so itself.
pub fn mended(kind: ErrorKind, message: &str) -> String {
    let mend = match kind {
        ErrorKind::NotFound => "the volume's directory must be there: look at the path in its attributes",
        ErrorKind::Denied => {
            "the store's administrator must let this key list, read and write what lies below the volume's directory"
        }
        ErrorKind::Unauthenticated => "put the right keys into the volume's Secret",
        ErrorKind::Throttled => "it is tried again",
        ErrorKind::Unavailable => "look whether it runs and whether this node reaches it; it is tried again",
        ErrorKind::NoSpace | ErrorKind::OverQuota => "ask the store's administrator for more",
        // These say so themselves, or nobody can say it.
        ErrorKind::Misconfigured
        | ErrorKind::NotPermitted
        | ErrorKind::ReadOnly
        | ErrorKind::Busy
        | ErrorKind::AlreadyExists
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::NotEmpty
        | ErrorKind::Stale
        | ErrorKind::Unsupported
        | ErrorKind::InvalidName
        | ErrorKind::NameTooLong
        | ErrorKind::TooLarge
        | ErrorKind::Corrupt
        | ErrorKind::Other => return message.to_owned(),
    };
    format!("{message}: {mend}")
}

/// A mount's error, of a volume of `store`.
pub fn of_mount(store: &str, error: mount::Error) -> Status {
    match error {
        mount::Error::Store { kind, message } => {
            status(code_of(kind), format!("store {store:?}: {}", mended(kind, &message)))
        }
        other => other.into(),
    }
}

impl From<mount::Error> for Status {
    fn from(error: mount::Error) -> Status {
        let code = match &error {
            mount::Error::AlreadyPublished(_) => Code::AlreadyExists,
            mount::Error::SecondWriter(_) | mount::Error::NotInForce(_) => Code::FailedPrecondition,
            mount::Error::Unfinished(_) => Code::Aborted,
            mount::Error::NotMounted(_) | mount::Error::NoSuchVolume(_) => Code::NotFound,
            mount::Error::Store { kind, .. } | mount::Error::ChangeRefused { kind, .. } => code_of(*kind),
            mount::Error::Worker(_) => Code::Unavailable,
            mount::Error::System(_) => Code::Internal,
        };
        status(code, error.to_string())
    }
}

impl From<volumes::Error> for Status {
    fn from(error: volumes::Error) -> Status {
        let code = match &error {
            volumes::Error::Invalid(_) => Code::InvalidArgument,
            volumes::Error::Missing(_) => Code::NotFound,
            volumes::Error::OutOfRange(_) => Code::OutOfRange,
            volumes::Error::Exists(_) => Code::AlreadyExists,
            volumes::Error::Precondition(_) | volumes::Error::NewerFormat { .. } => Code::FailedPrecondition,
            volumes::Error::Full(_) => Code::ResourceExhausted,
            volumes::Error::Busy(_) => Code::Aborted,
            volumes::Error::Unreadable { .. } | volumes::Error::Internal(_) => Code::Internal,
            volumes::Error::Store(error) => return refused_us(error, ""),
        };
        status(code, error.to_string())
    }
}

/// The control plane's error, of a volume of `store`.
pub fn of_volumes(store: &str, error: volumes::Error) -> Status {
    match error {
        volumes::Error::Store(error) => refused_us(&error, &format!("store {store:?}, ")),
        other => other.into(),
    }
}

/// What a store refused the controller's own credential. Whoever made the claim cannot mend it.
fn refused_us(error: &backend::Error, of: &str) -> Status {
    tracing::warn!(%error, "a store refused the controller's own credential");
    let mend = match error.kind {
        ErrorKind::Unauthenticated | ErrorKind::Denied => {
            ": the store's administrator must look at its controllerCredential"
        }
        ErrorKind::Unavailable | ErrorKind::Throttled => ": it is tried again",
        _ => "",
    };
    let message = format!("{of}with the controller's own credential: {}{mend}", error.message);
    status(code_of(error.kind), message)
}

impl From<Busy> for Status {
    fn from(busy: Busy) -> Status {
        aborted(busy.to_string())
    }
}

impl From<BadCapability> for Status {
    fn from(error: BadCapability) -> Status {
        match &error {
            BadCapability::Malformed(_) | BadCapability::Unsupported(_) => invalid(error.to_string()),
        }
    }
}

impl From<BadWord> for Status {
    fn from(error: BadWord) -> Status {
        invalid(error.to_string())
    }
}

impl From<BadSecret> for Status {
    fn from(error: BadSecret) -> Status {
        invalid(error.to_string())
    }
}

impl From<BadPath> for Status {
    fn from(error: BadPath) -> Status {
        invalid(error.to_string())
    }
}

/// An id that is none of ours names nothing; one that no id could be is a mistake of the caller's.
impl From<BadId> for Status {
    fn from(error: BadId) -> Status {
        match error {
            BadId::Empty | BadId::TooLong | BadId::Control => invalid(error.to_string()),
            BadId::Form | BadId::Store | BadId::Generation | BadId::Path(_) => {
                not_found(format!("no volume of this driver has this id: {error}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_as_long_as_a_header_may_be() {
        for long in ["x".repeat(LONGEST + 1), "\u{1F30A}".repeat(LONGEST)] {
            let status = invalid(format!("{long:?}"));
            assert!((LONGEST - 4..=LONGEST).contains(&status.message().len()));
        }
        assert_eq!(invalid("short").message(), "short");
        assert_eq!((clipped("a\u{e9}", 2), clipped("a\u{e9}", 3), clipped("", 0)), ("a", "a\u{e9}", ""));
    }
}
