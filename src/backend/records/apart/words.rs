//! What the two processes say to each other: frames of JSON over a socket pair, each behind its length.
//!
//! ```text
//! starter  Opening         Ask  Ask  GiveUp  Ping
//! clerk            Ready             Told ...      Pong
//! ```
//!
//! Answers come in any order; a number says to which question. Both sides come from one binary, and the first frame says
//! its version.

use std::io;

use bytes::Bytes;
use data_encoding::BASE64;
use futures::{SinkExt, StreamExt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::auth::Credential;
use crate::backend::records::{Directory, Extent, Measured, Removed, Tag};
use crate::backend::{Config, Error, ErrorKind, Op, Path, Result};

/// This binary's version, as the first frame carries it.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The longest frame in bytes: a store with a CA bundle of the system's size, or a page of paths, fits many times.
const MAX_FRAME: usize = 4 << 20;

/// The first frame: which store, and as whom. Secret.
#[derive(Debug, Serialize, Deserialize)]
pub struct Opening {
    /// The version of whoever starts it.
    pub version: String,
    /// The store.
    pub store: Config,
    /// The controller's own.
    pub credential: Credential,
    /// What to log, as `tracing_subscriber::EnvFilter` reads it.
    pub log_filter: String,
    /// JSON rather than text.
    pub log_json: bool,
}

/// From whoever starts it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToClerk {
    Ask {
        number: u64,
        what: Ask,
    },
    /// Nobody waits for the answer any more.
    GiveUp {
        number: u64,
    },
    /// Answered by `Pong`.
    Ping,
}

/// From the clerk.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromClerk {
    /// A client could be built, or not.
    Ready(std::result::Result<(), Failed>),
    Told {
        number: u64,
        what: std::result::Result<Told, Failed>,
    },
    Pong,
}

/// A call of [`Records`](crate::backend::records::Records), or of [`Snapshots`](crate::backend::snapshots::Snapshots). Paths
/// are text.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Ask {
    Excludes,
    Create {
        at: String,
        body: Body,
    },
    Get {
        at: String,
    },
    Replace {
        at: String,
        tag: String,
        body: Body,
    },
    Remove {
        at: String,
    },
    /// Answered by some `Paths` and then `Done`.
    List {
        dir: String,
        after: Option<String>,
    },
    Measure {
        dir: String,
        from: Option<String>,
    },
    IsVacant {
        path: String,
    },
    RemovePage {
        dir: String,
        extent: Extent,
    },
    MakeDirectory {
        at: String,
        how: Directory,
    },
    Directory {
        at: String,
    },
    SetQuota {
        at: String,
        bytes: u64,
    },
    Exposure,
    Halted,
    Clear,
    Permitted,
    Take {
        dir: String,
        name: String,
    },
    Discard {
        dir: String,
        name: String,
    },
    Names {
        dir: String,
    },
    /// Answered by some `Copied` and then `Done`.
    Restore {
        dir: String,
        name: String,
        to: String,
    },
}

/// What a call came to.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Told {
    Done,
    Is(bool),
    Tag(String),
    Record { body: Body, tag: String },
    Paths(Vec<String>),
    Names(Vec<String>),
    Copied(u64),
    Measured(Measured),
    Removed(Removed),
    Text(Option<String>),
    Count(u64),
}

/// Each answer as what it has to be; `None` for another.
impl Told {
    pub(super) fn done(self) -> Option<()> {
        matches!(self, Told::Done).then_some(())
    }

    pub(super) fn is(self) -> Option<bool> {
        if let Told::Is(is) = self { Some(is) } else { None }
    }

    pub(super) fn tag(self) -> Option<Tag> {
        if let Told::Tag(tag) = self { Some(Tag(tag)) } else { None }
    }

    pub(super) fn record(self) -> Option<(Bytes, Tag)> {
        if let Told::Record { body, tag } = self { Some((body.0, Tag(tag))) } else { None }
    }

    pub(super) fn names(self) -> Option<Vec<String>> {
        if let Told::Names(names) = self { Some(names) } else { None }
    }

    pub(super) fn measured(self) -> Option<Measured> {
        if let Told::Measured(measured) = self { Some(measured) } else { None }
    }

    pub(super) fn removed(self) -> Option<Removed> {
        if let Told::Removed(removed) = self { Some(removed) } else { None }
    }

    pub(super) fn text(self) -> Option<Option<String>> {
        if let Told::Text(text) = self { Some(text) } else { None }
    }

    pub(super) fn count(self) -> Option<u64> {
        if let Told::Count(count) = self { Some(count) } else { None }
    }
}

/// A record's bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Body(pub(super) Bytes);

impl TryFrom<String> for Body {
    type Error = data_encoding::DecodeError;

    fn try_from(text: String) -> std::result::Result<Body, data_encoding::DecodeError> {
        BASE64.decode(text.as_bytes()).map(|bytes| Body(bytes.into()))
    }
}

impl From<Body> for String {
    fn from(body: Body) -> String {
        BASE64.encode(&body.0)
    }
}

/// An error of the store.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Failed {
    kind: ErrorKind,
    op: Op,
    path: String,
    message: String,
    detail: String,
}

impl Failed {
    pub(super) fn of(error: Error) -> Failed {
        let Error { kind, op, path, message, detail } = error;
        Failed { kind, op, path: path.to_string(), message, detail }
    }

    pub(super) fn error(self) -> Error {
        let Failed { kind, op, path, message, detail } = self;
        Error { kind, op, path: Path::parse(&path).unwrap_or_default(), message, detail }
    }
}

/// `path` as text.
///
/// # Errors
/// `InvalidName` for one that is none: such names are nobody's who keeps records apart.
pub(super) fn text(path: &Path) -> Result<String> {
    let why = "a name that is not UTF-8 is none of this store's";
    path.as_str().map(str::to_owned).ok_or_else(|| Error::new(ErrorKind::InvalidName, Op::Record, path, why))
}

/// The path that was written so.
///
/// # Errors
/// `Corrupt` where it is none.
pub(super) fn path(text: &str) -> Result<Path> {
    let wrong = |_| Error::new(ErrorKind::Corrupt, Op::Record, &Path::root(), "a path that is none was passed on");
    Path::parse(text).map_err(wrong)
}

/// One side's end.
#[derive(Debug)]
pub(super) struct Line(Framed<UnixStream, LengthDelimitedCodec>);

impl Line {
    pub(super) fn new(socket: UnixStream) -> Line {
        Line(LengthDelimitedCodec::builder().max_frame_length(MAX_FRAME).new_framed(socket))
    }

    pub(super) async fn send(&mut self, frame: &impl Serialize) -> io::Result<()> {
        self.0.send(Bytes::from(serde_json::to_vec(frame)?)).await
    }

    /// The next frame; `None` where the other side has ended.
    pub(super) async fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        match self.0.next().await {
            Some(frame) => Ok(Some(serde_json::from_slice(&frame?)?)),
            None => Ok(None),
        }
    }

    /// The socket, where nothing has come that was not received.
    pub(super) fn into_socket(self) -> UnixStream {
        self.0.into_inner()
    }
}
