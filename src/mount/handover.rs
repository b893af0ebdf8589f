//! What node plugin and worker say to each other: frames of JSON over one socket pair.
//!
//! The worker inherits its end as standard input, so that neither argv nor environment holds a word of it. A frame is
//! a length (u32, little endian) and that many bytes of JSON; the `/dev/fuse` descriptor rides on the frame that
//! announces it (`SCM_RIGHTS`, unix(7)), and on the first one the socket where the worker listens for the next node
//! plugin ([`super::line`]).
//!
//! ```text
//! node    Begin+fd       [Dialer+fd] Volume                  [Journal+fd ..]  Part+fd|NoPart  Device+fd
//! worker          Ready                      Accepted|Refused                                           Serving
//!
//! node    Ping      Usage       Numbers
//! worker       Pong       Usage         Numbers       ...  Ended
//!
//! node    Credential                               Reload                       Lent
//! worker         CredentialAccepted|-Refused              Reloaded    Borrow+fd        Return+fd
//!
//! worker  ReadAhead, Memory at any time
//!
//! both    Tally at any time
//! ```
//!
//! The first frame of each side names its version. Both normally come from one binary; where they do not, a word that
//! one side does not know is an error naming both.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixStream;
use zeroize::Zeroizing;

use super::Usage;
use super::tally::Tally;
use crate::auth::Credential;
use crate::backend::{self, ErrorKind};
use crate::config::VolumeSpec;
use crate::observability::metrics::Numbers;

/// This binary's version, as the first frames carry it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The most threads that a `Waiting` names.
pub const MOST_CALLERS: usize = 512;

/// The longest frame in bytes: a volume with a CA bundle of the system's size fits many times.
const MAX_FRAME: usize = 4 << 20;
const HEADER: usize = size_of::<u32>();

/// From the node plugin.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToWorker {
    /// The first frame: who to be. Holds no secret, since the worker is still what its parent was.
    Begin(Begin),
    /// Connections from privileged ports are asked for on the socket that rides on this frame ([`super::dialing`]). Before
    /// `Volume`, if the volume's server wants such, and from each node plugin that finds the worker.
    Dialer,
    /// What to serve, and as whom.
    Volume(Box<Volume>),
    /// What is to be undone where the worker dies stands in the file that rides on this frame: the first is its own, to be
    /// written, each further one was left by an earlier worker. After `Accepted`, and before `Device`, of a volume that is
    /// written, if its store wants them.
    Journal,
    /// What was read may be kept in this part of the node's disk, whose directory rides on this frame. After `Accepted`,
    /// and before `Device`, if the volume wants one.
    Part {
        /// Of a hundred bytes of the disk, how many are to stay free.
        free_percent: u8,
    },
    /// In place of `Part`: there is none.
    NoPart {
        /// For the volume's health.
        why: String,
    },
    /// The answer to `Borrow`.
    Lent {
        /// The question's.
        ticket: u64,
        /// How the kernel calls the file (a FUSE backing id); `None` where it is not lent.
        id: Option<u32>,
    },
    /// The mount is made; its `/dev/fuse` descriptor rides on this frame.
    Device,
    /// Answered by `Pong`.
    Ping,
    /// Answered by `Usage`.
    Usage,
    /// Answered by `Numbers`.
    Numbers,
    /// Another credential for the volume. Answered, in turn, by `CredentialAccepted` or `CredentialRefused`; pings and
    /// usages are answered meanwhile. Another principal's is accepted only when the kernel has dropped every page that
    /// the earlier one read, which waits for reads in flight.
    Credential {
        /// What is to be in force.
        credential: Credential,
        /// It proves the principal that is in force already.
        same_principal: bool,
    },
    /// The volume's own file may have changed (size, mutable parameters): it is read at once. Answered by `Reloaded`.
    Reload,
    /// Log by this filter from now on.
    Log {
        /// As in [`Log`].
        filter: String,
    },
    /// What the volume's other workers on this node did with it. To those that have said what they do alone.
    Tally(Tally),
    /// Of the threads that a `Waiting` named, those that are being killed.
    Killed {
        /// Thread ids.
        callers: Vec<u32>,
    },
}

/// How a worker is to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// The node plugin's version.
    pub version: String,
    /// The uid and gid to become; `None` to stay (a user namespace with one uid).
    pub uid: Option<u32>,
    /// It will have to log in by Kerberos, whose library is out of sight once it is confined.
    pub kerberos: bool,
    /// How to log.
    pub log: Log,
}

/// A worker's log: the node plugin's own words, since the environment is empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// A filter as `tracing_subscriber::EnvFilter` reads it.
    pub filter: String,
    /// JSON rather than text.
    pub json: bool,
}

/// A volume and the identity that reads it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Volume {
    /// The volume.
    pub spec: VolumeSpec,
    /// The identity.
    pub credential: Credential,
}

/// From the worker.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromWorker {
    /// The first frame: confined, and ready for the secret.
    Ready {
        /// The worker's version.
        version: String,
    },
    /// The store accepted the credential.
    Accepted {
        /// The store decides who may do what, not the mode bits: no `default_permissions`.
        own_permissions: bool,
    },
    /// It did not, or the volume cannot be shown. The worker ends.
    Refused(Refusal),
    /// The kernel's FUSE handshake is done.
    Serving,
    /// The answer to `Ping`.
    Pong,
    /// The answer to `Usage`.
    Usage(Usage),
    /// The answer to `Numbers`: what the worker has counted since it began.
    Numbers(Numbers),
    /// Every request from now on is made with the credential that was sent.
    CredentialAccepted,
    /// The store does not accept it: the one before stays in force.
    CredentialRefused(Refusal),
    /// The volume's own file was read, or why that was not possible; what it said before stays in force then.
    Reloaded(Option<Refusal>),
    /// How far the kernel is to read ahead of a sequential reader from now on.
    ReadAhead {
        /// In KiB.
        kib: u32,
    },
    /// Requests of these threads have waited long. Answered by `Killed` where one of them is being killed, which the
    /// worker cannot see.
    Waiting {
        /// Thread ids in the node plugin's pid namespace, at most [`MOST_CALLERS`].
        callers: Vec<u32>,
    },
    /// What this worker did with its volume, which has a limit. The first one to a node plugin says what it knew before,
    /// and is answered by a `Tally`.
    Tally(Tally),
    /// The mount is to be read from this file of the worker's part where it opens one. The worker's `/dev/fuse` rides on
    /// this frame. Answered by `Lent`.
    Borrow {
        /// Tells the answer from others.
        ticket: u64,
        /// The file, from the part's directory.
        name: String,
    },
    /// Nothing is opened with this any more. The worker's `/dev/fuse` rides on this frame.
    Return {
        /// As it was lent.
        id: u32,
    },
    /// What the worker's buffers may hold from now on.
    Memory {
        /// In bytes.
        bytes: u64,
    },
    /// The mount is gone. The worker finishes what it has begun, and ends.
    Ended,
}

/// Why a worker does not serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// The volume's directory is not the one that CreateVolume made.
    NoSuchVolume(String),
    /// What the store answered.
    Store {
        /// Its kind.
        kind: ErrorKind,
        /// For the pod's events.
        message: String,
    },
    /// Something else went wrong in the worker.
    Worker(String),
}

impl From<backend::Error> for Refusal {
    fn from(error: backend::Error) -> Refusal {
        // What a pod's events may not hold.
        tracing::warn!(%error, "the store refused");
        Refusal::Store { kind: error.kind, message: error.message }
    }
}

/// Why a frame could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The other side is gone.
    #[error("the other side closed the socket")]
    Closed,
    /// The socket failed.
    #[error("socket: {0}")]
    Io(#[from] std::io::Error),
    /// A frame is longer than any of ours.
    #[error("a message of {0} bytes; at most {MAX_FRAME} are allowed")]
    TooLong(usize),
    /// Not a word of this version. Says where, never what: a frame may hold a credential.
    #[error("a message that this side (version {VERSION}) does not know, from one of version {peer}: {at}")]
    Unknown {
        /// The other side's version, as far as it has said.
        peer: String,
        /// The kind of misfit and its place in the frame.
        at: String,
    },
}

/// One end of the socket pair.
#[derive(Debug)]
pub struct Channel {
    socket: UnixStream,
    /// The frame that is arriving: header, then body. Wiped, since it may hold a credential.
    inbox: Zeroizing<Vec<u8>>,
    filled: usize,
    /// The descriptor that came with it.
    descriptor: Option<OwnedFd>,
    peer: String,
}

impl Channel {
    /// Takes one end over; within a tokio runtime.
    pub fn new(socket: std::os::unix::net::UnixStream) -> std::io::Result<Channel> {
        socket.set_nonblocking(true)?;
        Ok(Channel {
            socket: UnixStream::from_std(socket)?,
            inbox: Zeroizing::new(vec![0; HEADER]),
            filled: 0,
            descriptor: None,
            peer: "unknown".into(),
        })
    }

    /// Gives the socket back, to go on in another runtime. Between two frames only.
    pub fn into_std(self) -> std::io::Result<std::os::unix::net::UnixStream> {
        self.socket.into_std()
    }

    /// Notes the other side's version, for errors.
    pub fn set_peer(&mut self, version: &str) {
        version.clone_into(&mut self.peer);
    }

    /// Sends a frame. Not to be cancelled: half a frame would be left on the way.
    pub async fn send<T: Serialize>(&self, message: &T) -> Result<(), Error> {
        self.send_frame(message, None).await
    }

    /// Sends a frame on which `descriptor` rides.
    pub async fn send_with<T: Serialize>(&self, message: &T, descriptor: BorrowedFd<'_>) -> Result<(), Error> {
        self.send_frame(message, Some(descriptor)).await
    }

    async fn send_frame<T: Serialize>(&self, message: &T, mut rider: Option<BorrowedFd<'_>>) -> Result<(), Error> {
        let mut frame = Zeroizing::new(vec![0; HEADER]);
        serde_json::to_writer(&mut *frame, message).map_err(std::io::Error::from)?;
        let length = frame.len() - HEADER;
        let header = u32::try_from(length).ok().filter(|_| length <= MAX_FRAME).ok_or(Error::TooLong(length))?;
        frame[..HEADER].copy_from_slice(&header.to_le_bytes());
        let mut sent = 0;
        while sent < frame.len() {
            let step = self.socket.async_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                let riders: Vec<BorrowedFd<'_>> = rider.into_iter().collect();
                if !riders.is_empty() {
                    control.push(SendAncillaryMessage::ScmRights(&riders));
                }
                let rest = [IoSlice::new(&frame[sent..])];
                Ok(rustix::net::sendmsg(&self.socket, &rest, &mut control, SendFlags::NOSIGNAL)?)
            });
            match step.await {
                Ok(count) => sent += count,
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Err(Error::Closed),
                Err(error) => return Err(error.into()),
            }
            // It went with the first byte.
            rider = None;
        }
        Ok(())
    }

    /// The next frame, and the descriptor that rode on it. May be cancelled and called again: what has arrived stays.
    pub async fn receive<T: DeserializeOwned>(&mut self) -> Result<(T, Option<OwnedFd>), Error> {
        self.fill().await?;
        let length = u32::from_le_bytes([self.inbox[0], self.inbox[1], self.inbox[2], self.inbox[3]]) as usize;
        if length > MAX_FRAME {
            return Err(Error::TooLong(length));
        }
        self.inbox.resize(HEADER + length, 0);
        self.fill().await?;
        let body = std::mem::replace(&mut self.inbox, Zeroizing::new(vec![0; HEADER]));
        self.filled = 0;
        let message = serde_json::from_slice(&body[HEADER..]).map_err(|error| Error::Unknown {
            peer: self.peer.clone(),
            at: format!("{:?} error at byte {}", error.classify(), error.column()),
        })?;
        Ok((message, self.descriptor.take()))
    }

    /// Reads until the inbox is full. Never past it, so that a descriptor belongs to the frame it rode on.
    async fn fill(&mut self) -> Result<(), Error> {
        while self.filled < self.inbox.len() {
            let (inbox, socket) = (&mut self.inbox[self.filled..], &self.socket);
            let descriptor = &mut self.descriptor;
            let read = socket.async_io(Interest::READABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let mut into = [IoSliceMut::new(inbox)];
                let got = rustix::net::recvmsg(socket.as_fd(), &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(riders) = message {
                        *descriptor = riders.last();
                    }
                }
                Ok(got.bytes)
            });
            match read.await {
                Ok(0) => return Err(Error::Closed),
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Err(Error::Closed),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::time::Duration;

    use super::*;

    fn pair() -> (Channel, Channel) {
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        (Channel::new(a).unwrap(), Channel::new(b).unwrap())
    }

    #[tokio::test]
    async fn frames_arrive_whole_with_their_descriptor() {
        let (node, mut worker) = pair();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"the device").unwrap();
        node.send(&ToWorker::Ping).await.unwrap();
        node.send_with(&ToWorker::Device, file.as_fd()).await.unwrap();
        node.send(&ToWorker::Usage).await.unwrap();

        let (message, rider) = worker.receive::<ToWorker>().await.unwrap();
        assert!(matches!(message, ToWorker::Ping) && rider.is_none());
        let (message, rider) = worker.receive::<ToWorker>().await.unwrap();
        assert!(matches!(message, ToWorker::Device));
        let mut received = File::from(rider.unwrap());
        let mut text = String::new();
        std::io::Seek::rewind(&mut received).unwrap();
        received.read_to_string(&mut text).unwrap();
        assert_eq!(text, "the device");
        let (message, rider) = worker.receive::<ToWorker>().await.unwrap();
        assert!(matches!(message, ToWorker::Usage) && rider.is_none());
        drop(node);
        assert!(matches!(worker.receive::<ToWorker>().await, Err(Error::Closed)));
    }

    #[tokio::test]
    async fn a_frame_longer_than_the_socket_holds_survives_a_cancelled_receive() {
        let (node, mut worker) = pair();
        let message = FromWorker::Refused(Refusal::Worker("x".repeat(3 << 20)));
        let sending = async { node.send(&message).await.unwrap() };
        let receiving = async {
            loop {
                // A worker's end is polled between pings and requests: each turn drops the call.
                match tokio::time::timeout(Duration::from_micros(50), worker.receive::<FromWorker>()).await {
                    Ok(received) => break received.unwrap().0,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        let ((), received) = tokio::join!(sending, receiving);
        assert_eq!(received, message);
    }

    #[tokio::test]
    async fn what_is_too_long_or_unknown_is_refused_without_repeating_it() {
        let (node, mut worker) = pair();
        let long = FromWorker::Refused(Refusal::Worker("x".repeat(MAX_FRAME)));
        assert!(matches!(node.send(&long).await, Err(Error::TooLong(_))));

        worker.set_peer("9.9.9");
        node.send(&serde_json::json!({ "volume": { "spec": "canary", "credential": "canary" } })).await.unwrap();
        let error = worker.receive::<ToWorker>().await.unwrap_err().to_string();
        assert!(error.contains("9.9.9") && error.contains(VERSION) && !error.contains("canary"), "{error}");

        let (raw, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        (&raw).write_all(&u32::MAX.to_le_bytes()).unwrap();
        let error = Channel::new(theirs).unwrap().receive::<ToWorker>().await.unwrap_err();
        assert!(matches!(error, Error::TooLong(_)));
    }
}
