//! A cold sequential read through a mount beside a raw client, on the embedded server at 15 ms and 100 MB/s a connection.
//!
//! Both read 4 objects of 256 MiB and check every byte: the raw client by 8 MiB ranges over 8 connections, the mount by
//! 1 MiB reads, one file after the other, from a worker of its own each time. They run as adjacent pairs, so that what
//! else the machine does meets both. Needs root and `/dev/fuse`.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use millrace::auth::{Credential, Secret};
use millrace::backend;
use millrace::backend::s3::Config as S3;
use millrace::config::{VolumeOptions, VolumeSpec};
use millrace::mount::{Config, Consumer, Mounter, Publish, Workers};
use millrace::sandbox::computed;
use millrace::sandbox::raw::Raw;
use millrace::sandbox::s3::{Conditions, Kind, Options, Server, User};

const BUCKET: &str = "bench";
const OBJECTS: u64 = 4;
const SIZE: u64 = 256 << 20;
const CONNECTIONS: usize = 8;
const PART: u64 = 8 << 20;
const CHUNK: usize = 1 << 20;
const PAIRS: usize = 7;

/// What one pass through the mount showed.
struct Pass {
    seconds: f64,
    /// Bytes that left the store, over bytes read.
    over_read: f64,
    gets: u64,
    /// Peak resident memory of the worker in bytes.
    peak: u64,
    /// Processor seconds of the worker.
    cpu: f64,
}

#[tokio::main]
async fn main() -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "this bench mounts, so it needs root");
    let user = User::new("bench", "bench-secret");
    let conditions = Conditions {
        first_byte: Duration::from_millis(15),
        per_connection: Some(100_000_000),
        ..Conditions::default()
    };
    let options = Options { users: vec![user.clone()], buckets: vec![BUCKET.into()], conditions, ..Options::default() };
    let server = Server::start(options).await?;
    let objects: Vec<_> = (0..OBJECTS).map(|seed| (format!("object-{seed}"), SIZE)).collect();
    for (seed, (key, size)) in (0..).zip(&objects) {
        server.put_computed(BUCKET, key, seed, *size);
    }
    let raw = Raw::new(server.access(BUCKET, &user))?;
    let dir = tempfile::tempdir()?;
    let workers = Workers::start(Config {
        state_dir: dir.path().join("state"),
        program: env!("CARGO_BIN_EXE_millrace").into(),
        worker_uid_base: 1_900_000_000,
        worker_uid_count: 100,
        ping_deadline: Duration::from_secs(10),
        isolate: true,
        log_filter: "warn".into(),
        log_json: false,
        cache: None,
    })
    .await?;
    let bytes = (OBJECTS * SIZE) as f64;
    let budget = VolumeOptions::default().memory;
    let mut ratios = Vec::new();
    println!("pair   raw MB/s   mount MB/s   ratio   over-read   GETs   worker peak MiB   CPU-s/GiB");
    for pair in 1..=PAIRS {
        let begun = Instant::now();
        raw.read_all(&objects, CONNECTIONS, PART, check).await?;
        let raw_seconds = begun.elapsed().as_secs_f64();
        let pass = through_mount(&workers, &server, &user, &dir.path().join("pod")).await?;
        let ratio = raw_seconds / pass.seconds;
        println!(
            "{pair:>4} {:>10.0} {:>12.0} {ratio:>7.2} {:>11.3} {:>6} {:>17.0} {:>11.2}",
            bytes / 1e6 / raw_seconds,
            bytes / 1e6 / pass.seconds,
            pass.over_read,
            pass.gets,
            pass.peak as f64 / f64::from(1 << 20),
            pass.cpu / (bytes / f64::from(1 << 30)),
        );
        ensure!(pass.over_read <= 1.02, "fetched {:.3} times what was read; wanted at most 1.02", pass.over_read);
        let most = budget + (64 << 20);
        ensure!(pass.peak <= most, "the worker took {} bytes; wanted at most {most}", pass.peak);
        ratios.push(ratio);
    }
    ratios.sort_by(f64::total_cmp);
    let (least, median, most) = (ratios[0], ratios[PAIRS / 2], ratios[PAIRS - 1]);
    println!("median ratio {median:.2} ({least:.2} to {most:.2} in {PAIRS} pairs; wanted 0.60)");
    Ok(())
}

fn check(index: usize, at: u64, bytes: &[u8]) -> io::Result<()> {
    match computed::matches(index as u64, at, bytes) {
        true => Ok(()),
        false => Err(io::Error::other(format!("object {index} has wrong bytes at {at}"))),
    }
}

async fn through_mount(workers: &Arc<Workers>, server: &Server, user: &User, target: &Path) -> Result<Pass> {
    let volume_id = "bench-volume".to_owned();
    let spec = VolumeSpec {
        volume_id: volume_id.clone(),
        store: "bench".into(),
        backend: backend::Config::S3(S3::at(&server.endpoint(), BUCKET)),
        path: String::new(),
        generation: None,
        snapshot: None,
        quota: false,
        read_only: true,
        most_memory: 1 << 30,
        options: VolumeOptions::default(),
    };
    let credential = Credential::S3 {
        key_id: user.key_id.clone(),
        secret_key: Secret::new(user.secret.clone()),
        session_token: None,
    };
    let target = target.to_owned();
    let arguments = "bench".to_owned();
    let request = Publish {
        target: target.clone(),
        spec,
        credential,
        arguments,
        single_writer: false,
        namespace: None,
        pod: None,
        service_account: None,
        fs_group: None,
        consumer: Consumer::default(),
    };
    workers.publish(request).await?;
    server.reset_counters();
    let begun = Instant::now();
    let root = target.clone();
    let outcome = tokio::task::spawn_blocking(move || read_all(&root)).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let counters = server.counters();
    let (peak, cpu) = of_worker().unwrap_or_default();
    workers.unpublish(&volume_id, &target).await?;
    outcome?;
    let over_read = counters.body_bytes as f64 / (OBJECTS * SIZE) as f64;
    Ok(Pass { seconds, over_read, gets: counters.of(Kind::GetObject), peak, cpu })
}

fn read_all(root: &Path) -> Result<()> {
    let mut buffer = vec![0; CHUNK];
    for index in 0..OBJECTS {
        let mut file =
            File::open(root.join(format!("object-{index}"))).context("cannot open an object in the mount")?;
        let mut at = 0;
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            check(index as usize, at, &buffer[..count])?;
            at += count as u64;
        }
        ensure!(at == SIZE, "object {index} ends at {at}");
    }
    Ok(())
}

/// Peak resident bytes and processor seconds of this process's child, the worker.
fn of_worker() -> Option<(u64, f64)> {
    let me = i32::try_from(std::process::id()).ok()?;
    let stat = |process: &procfs::process::Process| process.stat().ok().filter(|stat| stat.ppid == me);
    let worker = procfs::process::all_processes().ok()?.filter_map(Result::ok).find(|one| stat(one).is_some())?;
    let (stat, peak) = (stat(&worker)?, worker.status().ok()?.vmhwm? * 1024);
    Some((peak, (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64))
}
