//! ONC RPC (RFC 5531) over TCP: many calls in flight on each of a few connections.
//!
//! A call belongs to a connection by its transaction id (xid) until it is answered, given up or late. A connection that
//! breaks is made anew, and what still waits for an answer is sent again under the same xid, so that a server that
//! remembers calls answers one that it carried out already. A call may be dropped at any time: an answer to it that
//! comes later is thrown away.

mod lane;
mod message;
mod record;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use self::lane::{Lane, Route};
pub(super) use self::message::{Credential, Refusal, TOO_WEAK};
use super::privileged::{Dialer, Service};

/// One remote procedure call.
#[derive(Debug, Clone)]
pub(super) struct Call {
    /// Program, version and procedure.
    pub(super) procedure: (u32, u32, u32),
    /// The arguments as XDR, without a long opaque at their end.
    pub(super) arguments: Vec<u8>,
    /// The bytes of a long opaque at the arguments' end, whose length stands in `arguments`. Not padded.
    pub(super) data: Bytes,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    /// The results as XDR.
    pub(super) results: Bytes,
    /// The call was sent more than once: an answer may be to its second execution.
    pub(super) resent: bool,
}

/// Why a call has no results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// No answer within this time; the words say what the connection last met.
    Late(Duration, Option<String>),
    /// The server answered that it does not carry it out.
    Refused(Refusal),
    /// No connection can be made from here.
    NoPort(String),
    /// What came is no answer.
    Garbled(&'static str),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Late(after, None) => write!(f, "no answer within {} s", after.as_secs_f32()),
            Trouble::Late(after, Some(why)) => write!(f, "no answer within {} s ({why})", after.as_secs_f32()),
            Trouble::Refused(refusal) => refusal.fmt(f),
            Trouble::NoPort(why) => f.write_str(why),
            Trouble::Garbled(why) => write!(f, "the server's answer is no RPC reply: {why}"),
        }
    }
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// A name or an address.
    pub(super) host: String,
    /// TCP port.
    pub(super) port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Address { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// A client of one server as one principal.
#[derive(Debug)]
pub(super) struct Client {
    lanes: Vec<Lane>,
    turn: AtomicUsize,
}

impl Client {
    /// A client with so many connections, each made when it is first needed.
    pub(super) fn new(address: &Address, credential: &Credential, connections: usize) -> Client {
        Client::by(None, address, credential, connections)
    }

    /// As [`new`](Self::new), with connections to a service at `address` that a dialer makes.
    pub(super) fn by(
        dialer: Option<(Arc<dyn Dialer>, Service)>,
        address: &Address,
        credential: &Credential,
        connections: usize,
    ) -> Client {
        let route = Route { address: address.clone(), dialer };
        let lanes = (0..connections.max(1)).map(|_| Lane::new(route.clone(), credential.clone())).collect();
        Client { lanes, turn: AtomicUsize::new(0) }
    }

    /// Makes a call on the connection that has the fewest calls in flight. To be called inside a runtime.
    ///
    /// # Errors
    /// [`Trouble`]; `Late` once `patience` is over.
    pub(super) async fn call(&self, call: &Call, patience: Duration) -> Result<Reply, Trouble> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = (0..self.lanes.len()).map(|at| &self.lanes[(first + at) % self.lanes.len()]);
        let Some(lane) = in_turn.min_by_key(|lane| lane.in_flight()) else {
            return Err(Trouble::Garbled("there is no connection"));
        };
        lane.call(call, Instant::now() + patience, patience).await
    }
}

#[cfg(test)]
mod tests;
