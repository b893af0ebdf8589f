//! One connection, made anew whenever it breaks.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustix::net::sockopt;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::message::{Credential, decode, encode, padding};
use super::{Address, Call, Reply, Trouble, record};
use crate::backend::nfs::privileged::{DIAL, Dialer, MayNot, Service};

/// A dialer has that long: it may be another process, which has to be asked.
const DIALED: Duration = DIAL.saturating_mul(2);

/// Bytes that the other machine does not acknowledge for so long end a connection; a server that is only slow, or
/// stopped, has a machine that acknowledges.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

/// Pauses between two attempts to connect.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Small calls are gathered up to this size for one write.
const GATHER: usize = 64 << 10;

/// How a connection is made.
#[derive(Debug, Clone)]
pub(super) struct Route {
    pub(super) address: Address,
    /// Makes it, where the server wants privileged source ports.
    pub(super) dialer: Option<(Arc<dyn Dialer>, Service)>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Lane {
    shared: Arc<Shared>,
    route: Route,
    credential: Credential,
    calls: mpsc::UnboundedSender<u32>,
    /// What the driving task takes over when it is started.
    queue: Mutex<Option<mpsc::UnboundedReceiver<u32>>>,
    started: AtomicBool,
    next: AtomicU32,
}

#[derive(Debug, Default)]
struct Shared {
    pending: Mutex<HashMap<u32, Pending>>,
    /// What the connection last met, until something is heard again.
    trouble: Mutex<Option<String>>,
}

/// A call that nobody has answered yet.
#[derive(Debug)]
struct Pending {
    head: Bytes,
    data: Bytes,
    reply: oneshot::Sender<Result<Reply, Trouble>>,
    /// The number of the connection that it was last sent on; 0 for none.
    sent_on: u64,
    sent: u32,
}

/// Takes a call out when its caller is answered or gone.
struct Waiting<'a> {
    shared: &'a Shared,
    xid: u32,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.pending().remove(&self.xid);
    }
}

/// Why a connection is over.
enum End {
    /// Nobody can call any more.
    Unused,
    Broken(String),
}

impl Lane {
    pub(super) fn new(route: Route, credential: Credential) -> Lane {
        let (calls, queue) = mpsc::unbounded_channel();
        Lane {
            shared: Arc::default(),
            route,
            credential,
            calls,
            queue: Mutex::new(Some(queue)),
            started: AtomicBool::new(false),
            next: AtomicU32::new(rand::random()),
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.shared.pending().len()
    }

    pub(super) async fn call(&self, call: &Call, until: Instant, patience: Duration) -> Result<Reply, Trouble> {
        self.start();
        let xid = self.next.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        let head = encode(xid, call, &self.credential);
        let pending = Pending { head, data: call.data.clone(), reply, sent_on: 0, sent: 0 };
        self.shared.pending().insert(xid, pending);
        let _waiting = Waiting { shared: &self.shared, xid };
        // The driving task lives as long as this.
        let _ = self.calls.send(xid);
        match timeout_at(until, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(Trouble::Garbled("the connection's task ended")),
            Err(_) => Err(Trouble::Late(patience, self.shared.trouble().clone())),
        }
    }

    fn start(&self) {
        if self.started.swap(true, Ordering::Relaxed) {
            return;
        }
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(queue) = queue {
            tokio::spawn(drive(self.route.clone(), self.shared.clone(), queue));
        }
    }
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, HashMap<u32, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a connection up while there is anything to send on it.
async fn drive(route: Route, shared: Arc<Shared>, mut queue: mpsc::UnboundedReceiver<u32>) {
    let mut pause = PAUSES.0;
    let address = &route.address;
    for number in 1.. {
        while shared.pending().is_empty() {
            if queue.recv().await.is_none() {
                return;
            }
        }
        let why = match dial(&route).await {
            Ok(stream) => {
                let begun = Instant::now();
                let (read, write) = stream.into_split();
                let end = tokio::select! {
                    end = hear(read, &shared) => end,
                    end = speak(write, &mut queue, &shared, number) => end,
                };
                if begun.elapsed() > PAUSES.1 {
                    pause = PAUSES.0;
                }
                match end {
                    End::Unused => return,
                    End::Broken(why) => format!("the connection to {address} broke: {why}"),
                }
            }
            // Nothing that waiting would mend.
            Err(error) if error.get_ref().is_some_and(|inner| inner.is::<MayNot>()) => {
                for (_, call) in std::mem::take(&mut *shared.pending()) {
                    let _ = call.reply.send(Err(Trouble::NoPort(error.to_string())));
                }
                continue;
            }
            Err(error) => format!("no connection to {address}: {error}"),
        };
        tracing::debug!(why, waiting = shared.pending().len(), "a connection to the server is to be made anew");
        *shared.trouble() = Some(why);
        if queue.is_closed() && shared.pending().is_empty() {
            return;
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

async fn dial(route: &Route) -> io::Result<TcpStream> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "it was not accepted");
    let stream = match &route.dialer {
        None => {
            let dialing = TcpStream::connect((route.address.host.as_str(), route.address.port));
            timeout(DIAL, dialing).await.map_err(late)??
        }
        Some((dialer, service)) => TcpStream::from_std(timeout(DIALED, dialer.dial(*service)).await.map_err(late)??)?,
    };
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, UNACKNOWLEDGED / 2)?;
    sockopt::set_tcp_keepintvl(&stream, UNACKNOWLEDGED / 4)?;
    let millis = u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(&stream, millis)?;
    Ok(stream)
}

/// Hands out what comes in.
async fn hear(stream: OwnedReadHalf, shared: &Shared) -> End {
    let mut stream = BufReader::with_capacity(GATHER, stream);
    loop {
        let message = match record::read(&mut stream).await {
            Ok(Some(message)) => message,
            Ok(None) => return End::Broken("the server closed it".into()),
            Err(error) => return End::Broken(error.to_string()),
        };
        *shared.trouble() = None;
        let Some((xid, outcome)) = decode(message) else {
            return End::Broken("the server sent what is no RPC reply".into());
        };
        // Else it is an answer that nobody waits for any more.
        if let Some(call) = shared.pending().remove(&xid) {
            let outcome = outcome.map(|reply| Reply { resent: call.sent > 1, ..reply });
            let _ = call.reply.send(outcome);
        }
    }
}

/// Sends again what an earlier connection left unanswered, and then what is called.
async fn speak(
    mut stream: OwnedWriteHalf,
    queue: &mut mpsc::UnboundedReceiver<u32>,
    shared: &Shared,
    number: u64,
) -> End {
    let mut left: Vec<u32> = shared.pending().keys().copied().collect();
    // In the order in which they were called, newest last, so that `pop` gives them backwards.
    left.sort_unstable_by(|a, b| b.cmp(a));
    let mut gathered = BytesMut::new();
    loop {
        let next = match left.pop() {
            Some(xid) => Some(xid),
            None => match queue.try_recv() {
                Ok(xid) => Some(xid),
                Err(_) if !gathered.is_empty() => None,
                Err(_) => match queue.recv().await {
                    Some(xid) => Some(xid),
                    None => return End::Unused,
                },
            },
        };
        let message = next.and_then(|xid| {
            let mut pending = shared.pending();
            let call = pending.get_mut(&xid).filter(|call| call.sent_on != number)?;
            call.sent_on = number;
            call.sent += 1;
            Some((call.head.clone(), call.data.clone()))
        });
        let data = match message {
            Some((head, data)) => {
                gathered.extend_from_slice(&head);
                data
            }
            None if next.is_some() => continue,
            None => Bytes::new(),
        };
        if next.is_some() && data.is_empty() && gathered.len() < GATHER {
            continue;
        }
        let sent = async {
            stream.write_all(&gathered).await?;
            if !data.is_empty() {
                stream.write_all(&data).await?;
                stream.write_all(padding(data.len())).await?;
            }
            Ok::<_, io::Error>(())
        };
        if let Err(error) = sent.await {
            return End::Broken(error.to_string());
        }
        gathered.clear();
    }
}
