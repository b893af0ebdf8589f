//! How fast the embedded S3 server is: what it costs must not hide what the driver costs.
//!
//! A raw client reads 4 objects of 256 MiB by 8 MiB ranges over 8 connections and checks every byte: at 15 ms and
//! 100 MB/s a connection, where 8 MiB take 98.9 ms and 679 MB/s is the most that can be, and without limits.

use std::io;
use std::time::{Duration, Instant};

use millrace::sandbox::computed;
use millrace::sandbox::raw::Raw;
use millrace::sandbox::s3::{Conditions, Options, Server, User};

const BUCKET: &str = "bench";
const OBJECTS: u64 = 4;
const SIZE: u64 = 256 << 20;
const CONNECTIONS: usize = 8;
const PART: u64 = 8 << 20;
const ROUNDS: usize = 5;

#[tokio::main]
async fn main() -> io::Result<()> {
    let limited = Conditions {
        first_byte: Duration::from_millis(15),
        per_connection: Some(100_000_000),
        ..Conditions::default()
    };
    for (name, wanted, conditions) in
        [("15 ms, 100 MB/s a connection", 610.0, limited), ("no limits", 1500.0, Conditions::default())]
    {
        let mut rates = Vec::new();
        for _ in 0..ROUNDS {
            rates.push(rate(conditions.clone()).await?);
        }
        rates.sort_by(f64::total_cmp);
        let (least, median, most) = (rates[0], rates[ROUNDS / 2], rates[ROUNDS - 1]);
        println!("{name}: {median:.0} MB/s ({least:.0} to {most:.0} in {ROUNDS} rounds; wanted {wanted:.0})");
    }
    Ok(())
}

/// MB/s of one round, on a server and connections of its own.
async fn rate(conditions: Conditions) -> io::Result<f64> {
    let user = User::new("bench", "bench-secret");
    let options = Options { users: vec![user.clone()], conditions, ..Options::default() };
    let server = Server::start(options).await?;
    let objects: Vec<_> = (0..OBJECTS).map(|seed| (format!("object-{seed}"), SIZE)).collect();
    for (seed, (key, size)) in (0..).zip(&objects) {
        server.put_computed(BUCKET, key, seed, *size);
    }
    let raw = Raw::new(server.access(BUCKET, &user))?;
    let check = |index: usize, at, bytes: &[u8]| match computed::matches(index as u64, at, bytes) {
        true => Ok(()),
        false => Err(io::Error::other(format!("object {index} has wrong bytes at {at}"))),
    };
    let begun = Instant::now();
    raw.read_all(&objects, CONNECTIONS, PART, check).await?;
    Ok((OBJECTS * SIZE) as f64 / 1e6 / begun.elapsed().as_secs_f64())
}
