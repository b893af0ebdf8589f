//! Connections that the node plugin makes for a worker, which may bind no privileged port.
//!
//! They are asked for on a socket of their own, so that they are to be had while the worker starts, and beside whatever
//! else is said. A worker is not trusted: it is given connections to the one server that its volume names, from ports
//! that are of no use with any other ([`nfs::dial`]), so many at once, and one a second once it has had those. Whoever
//! holds a socket may connect it again when it was taken off, so that a port once given may be the worker's for its life:
//! it is given connections from so many ports and, when it has had those, from these alone. For each server a node has
//! some 350 such ports, which all its mounts share and of which each is held for a minute after its connection. What an
//! earlier node plugin gave is not counted.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
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
        let ended = serve(channel, &server).await;
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

/// From how many ports a worker is given connections: for those that it may have at once, and for one principal's that
/// wait out their minute.
fn most_ports(server: &nfs::Config) -> usize {
    3 * (server.connections as usize + 1)
}

async fn serve(mut channel: Channel, server: &nfs::Config) -> Error {
    let mut given = Given::new(server);
    let most = given.most;
    let mut dialing = FuturesUnordered::new();
    loop {
        let sent = tokio::select! {
            wanted = channel.receive::<Wanted>() => match wanted {
                Ok((Wanted { ticket, .. }, _)) if dialing.len() >= most => {
                    let failed = Some(Failed::Unreachable("too many connections are asked for at once".into()));
                    channel.send(&Made { ticket, failed }).await
                }
                Ok((Wanted { ticket, service }, _)) => {
                    let (wait, from) = (given.wait(), given.source());
                    dialing.push(async move {
                        sleep(wait).await;
                        let made = nfs::dial(server, service, &from.ports).await;
                        if made.is_err() {
                            sleep(PAUSE).await;
                        }
                        (ticket, from, made)
                    });
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Some((ticket, from, made)) = dialing.next() => match given.hold(&from, made) {
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
    /// From which it ever was given one.
    ports: Vec<u16>,
    most_ports: usize,
    /// Connections that are being made and may be from another.
    adding: usize,
    /// When all that was asked for would have been had at [`PACE`].
    due: Instant,
}

/// From where a connection may be.
struct Source {
    /// Those that the worker has had come first.
    ports: Vec<u16>,
    /// There are others.
    adds: bool,
}

impl Given {
    fn new(server: &nfs::Config) -> Given {
        let (most, most_ports) = (most(server), most_ports(server));
        Given { held: VecDeque::new(), most, ports: Vec::new(), most_ports, adding: 0, due: Instant::now() }
    }

    /// From where the next one is to be.
    fn source(&mut self) -> Source {
        let mut ports = self.ports.clone();
        let adds = ports.len() + self.adding < self.most_ports;
        if adds {
            self.adding += 1;
            ports.extend(nfs::source_ports());
        }
        Source { ports, adds }
    }

    /// How long the next one is to wait.
    fn wait(&mut self) -> Duration {
        let now = Instant::now();
        self.due = self.due.max(now) + PACE;
        self.due.saturating_duration_since(now + PACE * self.most as u32)
    }

    /// Notes what came of a connection, and ends the oldest where there are too many.
    fn hold(&mut self, from: &Source, made: io::Result<TcpStream>) -> io::Result<TcpStream> {
        self.adding -= usize::from(from.adds);
        let stream = made?;
        let port = stream.local_addr()?.port();
        if !self.ports.contains(&port) {
            self.ports.push(port);
        }
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

/// Whether neither side has begun to end it, as TCP knows: a socket that was told to read no more is still connected.
fn is_connected(stream: &TcpStream) -> bool {
    /// `tcpi_state`, the first byte of `tcp_info` (linux/tcp.h).
    const ESTABLISHED: u8 = 1;
    let mut state = 0_u8;
    let mut length = size_of_val(&state) as libc::socklen_t;
    #[expect(unsafe_code, reason = "no wrapper knows this option")]
    // SAFETY: the kernel writes no more than the length says, to what outlives the call.
    let asked = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut state).cast(),
            &raw mut length,
        )
    };
    asked == 0 && state == ESTABLISHED
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
        // One that it reads no more is still one of them.
        near[3].shutdown(Shutdown::Read).unwrap();
        for _ in 0..2 {
            let (dialed, accepted) = tokio::join!(worker.dial(Service::Nfs), listener.accept());
            far.push_back(accepted.unwrap().0);
            near.push_back(dialed.unwrap());
            let mut oldest = far.pop_front().unwrap();
            let ended = tokio::time::timeout(Duration::from_secs(10), oldest.read(&mut [0])).await;
            assert!(matches!(ended, Ok(Ok(0))), "{ended:?}");
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
        let mut given = Given::new(&server);
        let most = given.most;
        let waits: Vec<_> = (0..most + 3).map(|_| given.wait()).collect();
        assert_eq!(waits[..most], vec![Duration::ZERO; most]);
        assert!(waits[most] > PACE / 2 && waits[most + 2] > PACE * 2, "{waits:?}");
    }

    /// Each connection that was ended it makes again from the same port, as whoever holds the socket may.
    #[tokio::test]
    async fn a_worker_that_keeps_all_it_was_given_has_so_many_ports_and_no_more() {
        let Some((listener, server, _)) = stand().await else { return };
        let mut given = Given::new(&server);
        let mut kept = Vec::new();
        for _ in 0..most_ports(&server) {
            let from = given.source();
            let (dialed, accepted) = tokio::join!(nfs::dial(&server, Service::Nfs, &from.ports), listener.accept());
            kept.push((given.hold(&from, dialed).unwrap(), accepted.unwrap().0));
            // This node plugin thinks that it has none.
            given.held.clear();
        }
        let from = given.source();
        assert_eq!((from.ports.len(), given.ports.len()), (most_ports(&server), most_ports(&server)));
        let error = given.hold(&from, nfs::dial(&server, Service::Nfs, &from.ports).await).unwrap_err();
        assert!(error.to_string().contains("all in use"), "{error}");
        // The server ends one, and it is made anew from the same port.
        let (near, far) = kept.remove(2);
        let port = near.local_addr().unwrap().port();
        drop(far);
        let ended = tokio::net::TcpStream::from_std(near).unwrap().read(&mut [0]).await;
        assert!(matches!(ended, Ok(0)), "{ended:?}");
        let from = given.source();
        let dialed = nfs::dial(&server, Service::Nfs, &from.ports).await;
        assert_eq!(given.hold(&from, dialed).unwrap().local_addr().unwrap().port(), port);
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
