//! The wire before a real server: what it answers comes a round trip later and no faster than a connection carries.
//!
//! Requests pass at once. Of each connection one thread takes what comes from the server and says when, another gives it
//! away when its time has come: threads, since the sleep of a task is a millisecond or two long.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType};
use serde::{Deserialize, Serialize};

/// What is taken from a connection at once.
const CHUNK: usize = 64 << 10;
/// Chunks that are under way on a connection: more than its rate moves in a round trip.
const UNDER_WAY: usize = 64;
/// How late a sender may come back from its sleep and still be on time. A wire that was idle for longer saves nothing up.
const LATE: Duration = Duration::from_millis(10);

/// How a client's requests are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Requests {
    /// Each follows an answer.
    Turns,
    /// Each is a record of RPC, many on their way at once.
    Records,
}

/// Where is listened, and who is behind it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Link {
    /// Port 0 for any.
    pub(crate) from: SocketAddrV4,
    pub(crate) to: SocketAddrV4,
    pub(crate) requests: Requests,
}

/// What every answer waits for, and how many of its bytes a connection carries in a second.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Pace {
    pub(crate) delay: Duration,
    pub(crate) bytes_per_second: u64,
}

/// Since the start: requests, and bytes of answers.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Counters {
    pub(crate) requests: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

/// Listens at each of `links`, and says where.
pub(crate) fn listen(links: &[Link], pace: Pace, counters: &Arc<Counters>) -> io::Result<Vec<SocketAddrV4>> {
    links.iter().map(|link| one(link.clone(), pace, counters.clone())).collect()
}

fn one(link: Link, pace: Pace, counters: Arc<Counters>) -> io::Result<SocketAddrV4> {
    let listener = TcpListener::bind(link.from)?;
    let at = SocketAddrV4::new(*link.from.ip(), listener.local_addr()?.port());
    thread::spawn(move || {
        while let Ok((client, _)) = listener.accept() {
            // Who cannot be reached behind it is not there.
            let _ = join(client, &link, pace, &counters);
        }
    });
    Ok(at)
}

/// Leads a connection on, from the address that it came to: so no server takes the client for one beside it.
fn join(client: TcpStream, link: &Link, pace: Pace, counters: &Arc<Counters>) -> io::Result<()> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(*link.from.ip(), 0))?;
    rustix::net::connect(&socket, &link.to)?;
    let server = TcpStream::from(socket);
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
    }
    let answered = Arc::new(AtomicBool::new(true));
    let (up, down) = ((client.try_clone()?, server.try_clone()?), (server, client));
    let (requests, counted, heard) = (link.requests, counters.clone(), answered.clone());
    thread::spawn(move || {
        let mut seen = Seen { requests, left: 0, mark: Vec::new() };
        let (mut from, mut to) = up;
        let mut buffer = vec![0; CHUNK];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let more = seen.count(&buffer[..length], &heard);
            counted.requests.fetch_add(more, Ordering::Relaxed);
            if to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
    let (full, queue) = sync_channel(UNDER_WAY);
    let (empty, spare) = channel();
    let (from, to) = down;
    let counted = counters.clone();
    thread::spawn(move || take(from, &full, &spare, &answered));
    thread::spawn(move || {
        give(&to, &queue, pace, &counted, |buffer| drop(empty.send(buffer)));
        let _ = to.shutdown(Shutdown::Both);
    });
    Ok(())
}

/// Some bytes, and when they came.
type Chunk = (Instant, Vec<u8>, usize);

fn take(mut from: TcpStream, full: &SyncSender<Chunk>, spare: &Receiver<Vec<u8>>, answered: &AtomicBool) {
    loop {
        let mut buffer = spare.try_recv().unwrap_or_else(|_| vec![0; CHUNK]);
        let Ok(length @ 1..) = from.read(&mut buffer) else { return };
        answered.store(true, Ordering::Relaxed);
        if full.send((Instant::now(), buffer, length)).is_err() {
            return;
        }
    }
}

fn give(mut to: &TcpStream, queue: &Receiver<Chunk>, pace: Pace, counters: &Counters, done: impl Fn(Vec<u8>)) {
    let mut free = Instant::now();
    for (came, buffer, length) in queue {
        let now = Instant::now();
        let begin = if free + LATE < now { came.max(now - LATE) } else { free.max(came) };
        free = begin + Duration::from_secs_f64(length as f64 / pace.bytes_per_second as f64);
        thread::sleep((free + pace.delay).saturating_duration_since(now));
        counters.bytes.fetch_add(length as u64, Ordering::Relaxed);
        if to.write_all(&buffer[..length]).is_err() {
            return;
        }
        done(buffer);
    }
}

/// What a client has sent.
struct Seen {
    requests: Requests,
    /// Bytes of the fragment that has begun.
    left: usize,
    /// What is there of the word before the next one.
    mark: Vec<u8>,
}

impl Seen {
    /// Requests that these bytes begin, or of records that they end with.
    fn count(&mut self, mut bytes: &[u8], answered: &AtomicBool) -> u64 {
        if self.requests == Requests::Turns {
            return u64::from(answered.swap(false, Ordering::Relaxed));
        }
        let mut records = 0;
        while !bytes.is_empty() {
            if self.left > 0 {
                let skipped = self.left.min(bytes.len());
                self.left -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let missing = (4 - self.mark.len()).min(bytes.len());
            self.mark.extend_from_slice(&bytes[..missing]);
            bytes = &bytes[missing..];
            if let Ok(mark) = <[u8; 4]>::try_from(self.mark.as_slice()) {
                let mark = u32::from_be_bytes(mark);
                self.mark.clear();
                self.left = (mark & 0x7fff_ffff) as usize;
                records += u64::from(mark >> 31);
            }
        }
        records
    }
}
