//! Connections that the node plugin makes for a worker, which may bind no privileged port.
//!
//! They are asked for on a socket of their own, so that they are to be had while the worker starts, and beside whatever
//! else is said. A worker is not trusted: it is given connections to the one server that its volume names, from ports
//! that are of no use with any other ([`nfs::dial`]), so many at once, and one a second once it has had those. For each
//! server a node has some 350 such ports, which all its mounts share and of which each is held for a minute after its
//! connection. What an earlier node plugin gave is not counted.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{FuturesUnordered, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use super::handover::{Channel, Error};
use crate::backend::nfs::{self, Dialer, MayNot, Service};

/// Between two connections of a worker that has had as many as it may have at once.
const PACE: Duration = Duration::from_secs(1);

/// An answer that there is none comes no sooner.
const PAUSE: Duration = Duration::from_millis(100);

/// From a worker.
#[derive(Debug, Serialize, Deserialize)]
struct Wanted {
    ticket: u64,
    service: Service,
}

/// From the node plugin. The connection rides on the frame, unless it failed.
#[derive(Debug, Serialize, Deserialize)]
struct Made {
    ticket: u64,
    failed: Option<Failed>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Failed {
    MayNot(String),
    Unreachable(String),
}

/// Makes connections to `server` for the worker that is given what is returned, until that closes it; within a tokio
/// runtime.
pub(super) fn offer(server: &nfs::Config) -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    let (channel, server) = (Channel::new(ours)?, server.clone());
    tokio::spawn(async move {
        let ended = serve(channel, &server, most(&server)).await;
        if !matches!(ended, Error::Closed) {
            tracing::warn!(server = server.server, "a worker gets no more connections: {ended}");
        }
    });
    Ok(theirs.into())
}

/// How many a worker may have at once: for the principal in force and for one that is being proved, each with one to
/// MOUNT.
fn most(server: &nfs::Config) -> usize {
    2 * (server.connections as usize + 1)
}

async fn serve(mut channel: Channel, server: &nfs::Config, most: usize) -> Error {
    let mut given = Given { held: VecDeque::new(), most, due: Instant::now() };
    let mut dialing = FuturesUnordered::new();
    loop {
        let sent = tokio::select! {
            wanted = channel.receive::<Wanted>() => match wanted {
                Ok((Wanted { ticket, .. }, _)) if dialing.len() >= most => {
                    let failed = Some(Failed::Unreachable("too many connections are asked for at once".into()));
                    channel.send(&Made { ticket, failed }).await
                }
                Ok((Wanted { ticket, service }, _)) => {
                    let wait = given.wait();
                    dialing.push(async move {
                        sleep(wait).await;
                        let made = nfs::dial(server, service).await;
                        if made.is_err() {
                            sleep(PAUSE).await;
                        }
                        (ticket, made)
                    });
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Some((ticket, made)) = dialing.next() => match made.and_then(|stream| given.hold(stream)) {
                Ok(stream) => channel.send_with(&Made { ticket, failed: None }, stream.as_fd()).await,
                Err(error) => {
                    given.due -= PACE;
                    let is_forbidden = error.get_ref().is_some_and(|inner| inner.is::<MayNot>());
                    let failed = if is_forbidden { Failed::MayNot } else { Failed::Unreachable };
                    channel.send(&Made { ticket, failed: Some(failed(error.to_string())) }).await
                }
            },
        };
        if let Err(error) = sent {
            return error;
        }
    }
}

/// What a worker was given by this node plugin.
struct Given {
    /// Copies, oldest first, so that the worker's can be ended.
    held: VecDeque<TcpStream>,
    most: usize,
    /// When all that was asked for would have been had at [`PACE`].
    due: Instant,
}

impl Given {
    /// How long the next one is to wait.
    fn wait(&mut self) -> Duration {
        let now = Instant::now();
        self.due = self.due.max(now) + PACE;
        self.due.saturating_duration_since(now + PACE * self.most as u32)
    }

    /// Notes a connection, and ends the oldest where there are too many.
    fn hold(&mut self, stream: TcpStream) -> io::Result<TcpStream> {
        self.held.retain(is_connected);
        if self.held.len() >= self.most
            && let Some(oldest) = self.held.pop_front()
        {
            // It fails where it has just ended by itself.
            let _ = oldest.shutdown(Shutdown::Both);
        }
        self.held.push_back(stream.try_clone()?);
        Ok(stream)
    }
}

/// Whether the server may still send anything on it.
fn is_connected(stream: &TcpStream) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(stream, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut fds, Some(&now)), Ok(0))
}

/// The worker's side: asks whichever node plugin there is.
#[derive(Debug, Default)]
pub struct ByNodePlugin(Mutex<Option<mpsc::UnboundedSender<Ask>>>);

type Ask = (Service, oneshot::Sender<io::Result<TcpStream>>);

impl ByNodePlugin {
    /// Asks on `socket` from now on; within a tokio runtime.
    ///
    /// # Errors
    /// A socket that cannot be used in this runtime.
    pub fn ask_on(&self, socket: OwnedFd) -> io::Result<()> {
        let channel = Channel::new(UnixStream::from(socket))?;
        let (asks, asked) = mpsc::unbounded_channel();
        tokio::spawn(ask(channel, asked));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(asks);
        Ok(())
    }
}

#[async_trait]
impl Dialer for ByNodePlugin {
    async fn dial(&self, service: Service) -> io::Result<TcpStream> {
        let away = || io::Error::other("the node plugin, which makes it, does not run");
        let asks = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(away)?;
        let (tell, told) = oneshot::channel();
        asks.send((service, tell)).map_err(|_| away())?;
        told.await.map_err(|_| away())?
    }
}

/// Passes questions on, and answers back, until one side has gone.
async fn ask(mut channel: Channel, mut asked: mpsc::UnboundedReceiver<Ask>) {
    let mut waiting = HashMap::new();
    for ticket in 0.. {
        let answered = tokio::select! {
            question = asked.recv() => {
                let Some((service, tell)) = question else { return };
                waiting.insert(ticket, tell);
                channel.send(&Wanted { ticket, service }).await
            }
            made = channel.receive::<Made>() => made.map(|(Made { ticket, failed }, rider)| {
                let outcome = match (failed, rider) {
                    (None, Some(stream)) => Ok(TcpStream::from(stream)),
                    (None, None) => Err(io::Error::other("the node plugin sent none")),
                    (Some(Failed::MayNot(why)), _) => {
                        Err(io::Error::new(io::ErrorKind::PermissionDenied, MayNot(format!("the node plugin: {why}"))))
                    }
                    (Some(Failed::Unreachable(why)), _) => Err(io::Error::other(why)),
                };
                // Whoever has given up closes it so.
                waiting.remove(&ticket).map(|tell| tell.send(outcome));
            }),
        };
        if answered.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::sandbox::requirement::{Requirement, met};

    async fn stand() -> Option<(TcpListener, nfs::Config, ByNodePlugin)> {
        if !met(&[Requirement::Root]) {
            return None;
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server =
            nfs::Config { connections: 1, privileged_ports: true, ..nfs::Config::at("127.0.0.1", "/", port, port) };
        let worker = ByNodePlugin::default();
        worker.ask_on(offer(&server).unwrap()).unwrap();
        Some((listener, server, worker))
    }

    #[tokio::test]
    async fn a_worker_has_so_many_at_once_and_its_end_is_theirs() {
        let Some((listener, server, worker)) = stand().await else { return };
        let (mut near, mut far) = (VecDeque::new(), VecDeque::new());
        for _ in 0..most(&server) + 1 {
            let (dialed, accepted) = tokio::join!(worker.dial(Service::Nfs), listener.accept());
            let (stream, from) = accepted.unwrap();
            assert!(from.port() < 1024);
            near.push_back(dialed.unwrap());
            far.push_back(stream);
        }
        // Though the worker has it still.
        let ended = far.pop_front().unwrap().read(&mut [0]).await;
        assert!(matches!(ended, Ok(0)), "{ended:?}");
        // One that it closes itself makes room.
        near[1].shutdown(Shutdown::Both).unwrap();
        assert!(matches!(far.pop_front().unwrap().read(&mut [0]).await, Ok(0)));
        let (dialed, accepted) = tokio::join!(worker.dial(Service::Mount), listener.accept());
        far.push_back(accepted.unwrap().0);
        near.push_back(dialed.unwrap());
        for stream in &mut far {
            let silent = tokio::time::timeout(Duration::from_millis(50), stream.read(&mut [0])).await;
            assert!(silent.is_err(), "{silent:?}");
        }
        // The worker dies: its socket closes, and its own copies.
        drop((worker, near));
        for stream in &mut far {
            assert!(matches!(stream.read(&mut [0]).await, Ok(0)));
        }
    }

    #[tokio::test]
    async fn who_had_many_waits_for_more() {
        let Some((_, server, _)) = stand().await else { return };
        let most = most(&server);
        let mut given = Given { held: VecDeque::new(), most, due: Instant::now() };
        let waits: Vec<_> = (0..most + 3).map(|_| given.wait()).collect();
        assert_eq!(waits[..most], vec![Duration::ZERO; most]);
        assert!(waits[most] > PACE / 2 && waits[most + 2] > PACE * 2, "{waits:?}");
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_and_a_plugin_that_is_gone_are_told_apart() {
        let Some((listener, server, worker)) = stand().await else { return };
        drop(listener);
        let error = worker.dial(Service::Nfs).await.unwrap_err();
        assert!(error.to_string().contains("refused"), "{error}");
        assert!(ByNodePlugin::default().dial(Service::Nfs).await.unwrap_err().to_string().contains("does not run"));
        let (ours, theirs) = UnixStream::pair().unwrap();
        worker.ask_on(theirs.into()).unwrap();
        drop(ours);
        let error = worker.dial(Service::Nfs).await.unwrap_err();
        assert!(error.to_string().contains("does not run"), "{error}");
        // The next one.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = Some(listener.local_addr().unwrap().port());
        worker.ask_on(offer(&nfs::Config { port, ..server }).unwrap()).unwrap();
        worker.dial(Service::Nfs).await.unwrap();
    }
}
