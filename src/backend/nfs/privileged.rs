//! Connections from privileged source ports, which some servers take as a sign that no mere user of a machine speaks.
//!
//! Only who has CAP_NET_BIND_SERVICE binds such a port. A worker has not, and is given its connections ([`Dialer`]).
//!
//! Whoever holds a connection may take it off the server and keep its port: connect(2) with AF_UNSPEC, then to somebody
//! else, or listen(2). So a filter that cannot be taken off again (SO_LOCK_FILTER, socket(7)) lets nothing in but what the
//! one service of the one server sends, which is enough for neither.

use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use socket2::{SockFilter, SockRef};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::timeout;

use super::Config;
use super::mounting::port_of;

/// Who does not accept a connection by then is not there.
pub(super) const DIAL: Duration = Duration::from_secs(5);

/// As the kernel's own client has them: those below are asked for by other services.
const PORTS: RangeInclusive<u16> = 665..=1023;

/// What of a server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// MOUNT, version 3.
    Mount,
    /// NFS, version 3.
    Nfs,
}

/// Makes connections to the server of one store.
#[async_trait]
pub trait Dialer: Debug + Send + Sync + 'static {
    /// A connection from a privileged port, in non-blocking mode.
    ///
    /// # Errors
    /// As [`dial`].
    async fn dial(&self, service: Service) -> io::Result<std::net::TcpStream>;
}

/// This process binds such ports itself.
#[derive(Debug)]
pub(super) struct Own(pub(super) Config);

#[async_trait]
impl Dialer for Own {
    async fn dial(&self, service: Service) -> io::Result<std::net::TcpStream> {
        dial(&self.0, service, &source_ports()).await
    }
}

/// Nobody here may bind such a port: why, and how to mend it. Inside an [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct MayNot(pub String);

/// All such ports, each once; who begins where differs.
pub fn source_ports() -> Vec<u16> {
    let first = rand::random_range(PORTS);
    (first..=*PORTS.end()).chain(*PORTS.start()..first).collect()
}

/// Connects to a service of the server from the first of these privileged ports that is free, by [`DIAL`]. What comes of
/// it hears that service alone, whoever holds it.
///
/// # Errors
/// A [`MayNot`] inside where this process may not; else that the server cannot be reached, or no port is free.
pub async fn dial(config: &Config, service: Service, from: &[u16]) -> io::Result<std::net::TcpStream> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "it was not accepted");
    timeout(DIAL, dialed(config, service, from)).await.map_err(late)?
}

async fn dialed(config: &Config, service: Service, from: &[u16]) -> io::Result<std::net::TcpStream> {
    let port = port_of(config, service, DIAL).await.map_err(|failure| io::Error::other(failure.to_string()))?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for server in lookup_host((config.server.as_str(), port)).await? {
        // An IPv4 address in the form of an IPv6 one is spoken to by IPv4, whose packets look otherwise.
        match connect(SocketAddr::new(server.ip().to_canonical(), server.port()), from).await {
            Ok(stream) => return stream.into_std(),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// From the first port that is free.
async fn connect(server: SocketAddr, from: &[u16]) -> io::Result<TcpStream> {
    for port in from {
        match connect_from(*port, server).await {
            Err(error) if matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable) => {}
            outcome => return outcome,
        }
    }
    Err(io::Error::other(format!("the {} source ports that there are for it are all in use", from.len())))
}

async fn connect_from(port: u16, server: SocketAddr) -> io::Result<TcpStream> {
    let (socket, any) = match server {
        SocketAddr::V4(_) => (TcpSocket::new_v4()?, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        SocketAddr::V6(_) => (TcpSocket::new_v6()?, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    };
    // One port serves for several servers, and keeps no service from listening on it.
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::new(any, port)).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => io::Error::new(error.kind(), may_not()),
        _ => error,
    })?;
    hear_only(&socket, server)?;
    socket.connect(server).await
}

fn may_not() -> MayNot {
    MayNot(
        "the store wants privileged source ports (privilegedPorts), and this process may bind none: give its pod the \
         sysctl net.ipv4.ip_unprivileged_port_start=0 (securityContext.sysctls), or run it as root with \
         CAP_NET_BIND_SERVICE"
            .into(),
    )
}

/// Drops for good whatever does not come from `server`.
fn hear_only(socket: &TcpSocket, server: SocketAddr) -> io::Result<()> {
    SockRef::from(socket).attach_filter(&filter(server))?;
    let on: libc::c_int = 1;
    let length = size_of_val(&on) as libc::socklen_t;
    #[expect(unsafe_code, reason = "no wrapper knows this option")]
    // SAFETY: the value outlives the call, and its length is its own.
    let locked = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LOCK_FILTER, (&raw const on).cast(), length)
    };
    if locked == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A program of the classic packet filter: accepts segments from the address and port of `server`. The kernel shows it a
/// packet of a TCP socket from the TCP header on, and the IP header below SKF_NET_OFF (linux/filter.h).
fn filter(server: SocketAddr) -> Vec<SockFilter> {
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const LOAD_HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
    const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let ip_header = libc::SKF_NET_OFF.cast_unsigned();
    // Of the source's address: RFC 791, section 3.1; RFC 8200, section 3.
    let (at, address) = match server.ip() {
        IpAddr::V4(address) => (12, address.octets().to_vec()),
        IpAddr::V6(address) => (8, address.octets().to_vec()),
    };
    let words = address.chunks_exact(4).map(|word| word.iter().fold(0, |all, byte| (all << 8) | u32::from(*byte)));
    let words = (0..).map(|number| ip_header.wrapping_add(at + 4 * number)).zip(words);
    let compared: Vec<(u16, u32, u32)> =
        words.map(|(from, word)| (LOAD_WORD, from, word)).chain([(LOAD_HALF, 0, u32::from(server.port()))]).collect();
    let mut program = Vec::new();
    for (number, (load, from, wanted)) in compared.iter().enumerate() {
        // Over what is left to compare, and over the acceptance.
        let to_refusal = (2 * (compared.len() - 1 - number) + 1) as u8;
        program.push(SockFilter::new(*load, 0, 0, *from));
        program.push(SockFilter::new(IF_EQUAL, 0, to_refusal, *wanted));
    }
    program.push(SockFilter::new(RETURN, 0, 0, u32::MAX));
    program.push(SockFilter::new(RETURN, 0, 0, 0));
    program
}

#[cfg(test)]
mod tests {
    use caps::{CapSet, Capability};
    use socket2::SockAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::sandbox::requirement::{Requirement, met};

    async fn listener(host: &str) -> (TcpListener, Config) {
        let listener = TcpListener::bind((host, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, Config { privileged_ports: true, ..Config::at(host, "/", port, 1) })
    }

    /// What was connected is connected no more, and may be used again: only connect(2) itself says it so.
    fn disconnect(stream: &std::net::TcpStream) {
        let nobody = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
        #[expect(unsafe_code, reason = "no wrapper passes an address of no family")]
        // SAFETY: the address outlives the call, and its length is its own.
        let outcome = unsafe { libc::connect(stream.as_raw_fd(), &raw const nobody, size_of_val(&nobody) as u32) };
        assert_eq!(outcome, 0);
    }

    #[tokio::test]
    async fn a_connection_is_from_a_low_port_and_carries_bytes() {
        if !met(&[Requirement::Root]) {
            return;
        }
        for host in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            let (listener, config) = listener(host).await;
            let from = source_ports();
            let (dialed, accepted) = tokio::join!(dial(&config, Service::Nfs, &from), listener.accept());
            let mut near = TcpStream::from_std(dialed.unwrap()).unwrap();
            let (mut far, from) = accepted.unwrap();
            assert!(PORTS.contains(&from.port()), "{from}");
            let data: Vec<u8> = (0..3_000_000_u32).map(|at| at as u8).collect();
            let (mut there, mut back) = (vec![0; data.len()], vec![0; data.len()]);
            let sending = async {
                near.write_all(&data).await.unwrap();
                near.read_exact(&mut back).await.unwrap();
            };
            let echoing = async {
                far.read_exact(&mut there).await.unwrap();
                far.write_all(&there).await.unwrap();
            };
            tokio::join!(sending, echoing);
            assert!(back == data, "{host}");
        }
    }

    #[tokio::test]
    async fn its_port_is_of_use_with_no_other_server() {
        if !met(&[Requirement::Root]) {
            return;
        }
        for host in ["127.0.0.1", "::1"] {
            let ((ours, config), (theirs, _)) = (listener(host).await, listener(host).await);
            let from = source_ports();
            let (dialed, accepted) = tokio::join!(dial(&config, Service::Nfs, &from), ours.accept());
            let (held, port) = (dialed.unwrap(), accepted.unwrap().1.port());
            let within = async |waited: &mut (dyn Future<Output = ()> + Unpin + Send)| {
                timeout(Duration::from_millis(500), waited).await.is_ok()
            };
            assert!(SockRef::from(&held).detach_filter().is_err());
            assert!(SockRef::from(&held).attach_filter(&[SockFilter::new(6, 0, 0, u32::MAX)]).is_err());

            disconnect(&held);
            let connects = |to: &TcpListener| {
                let begun = SockRef::from(&held).connect(&SockAddr::from(to.local_addr().unwrap()));
                assert_eq!(begun.unwrap_err().raw_os_error(), Some(libc::EINPROGRESS));
            };
            connects(&theirs);
            assert!(!within(&mut Box::pin(async { drop(theirs.accept().await) })).await, "it speaks to another");

            disconnect(&held);
            SockRef::from(&held).listen(5).unwrap();
            assert!(!within(&mut Box::pin(async { drop(TcpStream::connect((host, port)).await) })).await, "it listens");

            // With its own, it goes on.
            disconnect(&held);
            connects(&ours);
            assert_eq!(ours.accept().await.unwrap().1.port(), port);
        }
    }

    #[tokio::test]
    async fn whoever_may_bind_none_is_told_what_to_do() {
        if !met(&[Requirement::Root]) {
            return;
        }
        let (_listener, config) = listener("127.0.0.1").await;
        // Of this thread alone, on which all of this test runs.
        caps::drop(None, CapSet::Effective, Capability::CAP_NET_BIND_SERVICE).unwrap();
        let error = dial(&config, Service::Nfs, &source_ports()).await.unwrap_err();
        assert!(error.get_ref().is_some_and(|inner| inner.is::<MayNot>()), "{error:?}");
        assert!(error.to_string().contains("ip_unprivileged_port_start"), "{error}");
    }
}
