//! A body on its way to the client: paced, counted, and broken where a fault says so.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, Stream};
use http_body::Frame;
use http_body_util::BodyExt;

use super::counters::InFlight;
use super::faults::Fault;
use super::wire::{Connection, Wire};

/// How a body is told apart from the true one.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Flaws {
    cut: Option<u64>,
    reset: bool,
    stall: Option<u64>,
    slow: Option<u64>,
    corrupt: Option<u64>,
    /// Where the body ends, though more was promised.
    pub(super) end: Option<u64>,
}

impl Flaws {
    pub(super) fn of(faults: &[Fault]) -> Flaws {
        let mut flaws = Flaws::default();
        for fault in faults {
            match fault {
                Fault::Cut(at) => flaws.cut = Some(*at),
                Fault::Reset(at) => (flaws.cut, flaws.reset) = (Some(*at), true),
                Fault::Stall(at) => flaws.stall = Some(*at),
                Fault::Slow(rate) => flaws.slow = Some(*rate),
                Fault::Corrupt(at) => flaws.corrupt = Some(*at),
                _ => {}
            }
        }
        flaws
    }
}

struct Sending {
    body: s3s::Body,
    /// The rest of a frame that was cut in two, so that a fault falls on its byte.
    rest: Option<Bytes>,
    sent: u64,
    flaws: Flaws,
    wire: Arc<Wire>,
    connection: Arc<Connection>,
    _in_flight: InFlight,
}

/// The frames of `body` as the conditions and `flaws` let them through; counted where it is an object's.
pub(super) fn send(
    body: s3s::Body,
    flaws: Flaws,
    wire: Arc<Wire>,
    connection: Arc<Connection>,
    in_flight: InFlight,
    is_object: bool,
) -> impl Stream<Item = io::Result<Frame<Bytes>>> + Send {
    let sending = Sending { body, rest: None, sent: 0, flaws, wire, connection, _in_flight: in_flight };
    stream::try_unfold(sending, move |mut sending| async move {
        let Some(chunk) = sending.next().await? else { return Ok(None) };
        sending.pace(chunk.len() as u64).await;
        sending.sent += chunk.len() as u64;
        if is_object {
            sending.wire.ledger.sent(chunk.len() as u64);
        }
        Ok(Some((Frame::data(chunk), sending)))
    })
}

impl Sending {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.flaws.end == Some(self.sent) {
            return Ok(None);
        }
        if self.flaws.stall == Some(self.sent) {
            self.flaws.stall = None;
            self.wire.faults.released().await;
        }
        if self.flaws.cut == Some(self.sent) {
            if self.flaws.reset {
                self.connection.reset_on_close();
            }
            // What was sent must leave before the connection goes.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            return Err(io::Error::from(io::ErrorKind::ConnectionAborted));
        }
        let Some(mut chunk) = self.whole().await? else { return Ok(None) };
        let edges = [self.flaws.end, self.flaws.stall, self.flaws.cut];
        let nearest = edges.into_iter().flatten().filter(|at| *at > self.sent).min();
        let room = nearest.map_or(usize::MAX, |at| usize::try_from(at - self.sent).unwrap_or(usize::MAX));
        // A slow body trickles; in one piece it would come after one long wait.
        let room = self.flaws.slow.map_or(room, |rate| room.min((rate / 20).max(1) as usize));
        if room < chunk.len() {
            self.rest = Some(chunk.split_off(room));
        }
        let place = self.flaws.corrupt.and_then(|at| at.checked_sub(self.sent)).map(|at| at as usize);
        if let Some(at) = place.filter(|at| *at < chunk.len()) {
            let mut wrong = chunk.to_vec();
            wrong[at] ^= 0xff;
            chunk = wrong.into();
        }
        Ok(Some(chunk))
    }

    async fn whole(&mut self) -> io::Result<Option<Bytes>> {
        if let Some(rest) = self.rest.take() {
            return Ok(Some(rest));
        }
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(io::Error::other)?;
            if let Ok(data) = frame.into_data()
                && !data.is_empty()
            {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    async fn pace(&self, bytes: u64) {
        let (total, one) = {
            let conditions = self.wire.faults.load();
            (conditions.total, conditions.per_connection)
        };
        self.wire.total.carry(bytes, total).await;
        self.connection.pace.carry(bytes, one).await;
        self.connection.slow.carry(bytes, self.flaws.slow).await;
    }
}
