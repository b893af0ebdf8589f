//! Streams of one program that take turns in one file, as the kernel turns their records into reads: it asks for records
//! as they are until a stream has read three, and then for twice as much each time, up to 1 MiB, while the half of what it
//! has is not read (`page_cache_sync_ra`, `page_cache_async_ra`, Linux 6.18).

use super::*;

const RECORD: u64 = 128 * KIB;

/// One stream, and what the kernel has of it.
struct Stream {
    at: u64,
    there: u64,
    /// From where on the kernel asks for more.
    mark: u64,
    chunk: u64,
    records: u64,
    coming: Option<(tokio::task::JoinHandle<()>, u64)>,
}

impl Stream {
    async fn record(&mut self, rig: &Rig, end: u64) {
        self.records += 1;
        if self.there == self.at && self.coming.is_none() {
            self.chunk = if self.records <= 3 { RECORD } else { (2 * self.chunk).min(MIB) };
            self.there = (self.at + self.chunk).min(end);
            rig.check(self.at..self.there).await;
            self.mark = if self.records <= 3 { u64::MAX } else { self.at };
        }
        if self.there < self.at + RECORD
            && let Some((coming, until)) = self.coming.take()
        {
            coming.await.unwrap();
            (self.mark, self.there) = (self.there, until);
        }
        self.at += RECORD;
        if self.at > self.mark && self.there < end && self.coming.is_none() {
            self.chunk = (2 * self.chunk).min(MIB);
            let (reader, content, range) =
                (rig.reader.clone(), rig.content.clone(), self.there..(self.there + self.chunk).min(end));
            let until = range.end;
            self.coming = Some((tokio::spawn(async move { check(&reader, &content, range).await }), until));
        }
    }
}

/// How fast, beside 8 connections that are never idle, and how many times each byte was fetched.
async fn measure(streams: u64, length: u64, stride: u64) -> (f64, f64) {
    let rig = rig(vec![0; (streams * stride) as usize], 256 * MIB);
    rig.store.every(Op::Read, 1, Fault::Pace(Duration::from_millis(15), 100_000_000));
    let begin = |at: u64| Stream { at, there: at, mark: u64::MAX, chunk: RECORD, records: 0, coming: None };
    let mut all: Vec<_> = (0..streams).map(|stream| begin(stream * stride)).collect();
    let begun = Instant::now();
    for _ in 0..length / RECORD {
        for (number, stream) in (0..).zip(&mut all) {
            stream.record(&rig, number * stride + length).await;
        }
    }
    let read = streams * length;
    let raw = read as f64 / (8.0 * (8 << 20) as f64 / (0.015 + (8 << 20) as f64 / 100_000_000.0));
    (raw / begun.elapsed().as_secs_f64(), rig.store.bytes_asked() as f64 / read as f64)
}

#[tokio::test(start_paused = true)]
async fn streams_in_one_file_come_as_fast_as_one() {
    // How many there are, how far each goes and where the next one begins, how fast at least, and fetched at most.
    for (streams, length, stride, least, most) in [
        (8, 64 * MIB, 64 * MIB, 0.9, 1.0),
        (3, 60 * MIB, 80 * MIB, 0.6, 1.4),
        // As far as the kernel goes around a fault is no stream yet.
        (8, MIB, 32 * MIB, 0.02, 1.0),
    ] {
        let (share, fetched) = measure(streams, length, stride).await;
        assert!(share > least && fetched <= most, "{streams} of {length}: {share:.2} of raw, fetched {fetched:.3}");
    }
}
