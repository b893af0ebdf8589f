//! Programs that write a file to their standard output.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use millrace::sandbox::computed;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

use crate::process::Used;
use crate::reader::Outcome;
use crate::workload::Workload;

/// What is taken from a pipe at once.
const CHUNK: usize = 1 << 20;

/// A program, and what each of its processes at once is called with, one call after the other.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// Where it is, if it is here.
    pub(crate) program: Option<PathBuf>,
    pub(crate) environment: Vec<(&'static str, &'static str)>,
    pub(crate) lanes: Vec<Vec<Call>>,
}

/// One process, and the objects that it writes one after the other.
pub(crate) struct Call {
    pub(crate) words: Vec<String>,
    pub(crate) objects: Vec<usize>,
}

/// Deals the objects of a workload out to as many processes as there are connections.
pub(crate) fn dealt(workload: &Workload, connections: u32, calls: impl Fn(Vec<usize>) -> Vec<Call>) -> Vec<Vec<Call>> {
    let (count, lanes) = (workload.objects.len(), connections as usize);
    (0..lanes.min(count)).map(|lane| calls((lane..count).step_by(lanes).collect())).collect()
}

/// Has a peer read until it is done or `cut` is over. The clock starts with the first byte: starting it is not reading.
pub(crate) fn run(peer: &Peer, workload: &Workload, cut: Duration) -> Result<(Outcome, Used)> {
    let program = peer.program.as_ref().context("it is not here")?;
    let (begun, before) = (OnceLock::new(), children()?);
    let lane = |calls: &[Call]| {
        let mut sum = Outcome::default();
        for call in calls {
            let mut command = Command::new(program);
            command.args(&call.words).envs(peer.environment.iter().copied());
            let over = one(command, &call.objects, workload, &begun, cut, &mut sum)
                .with_context(|| format!("{} {}", peer.name, call.words.join(" ")))?;
            if over {
                break;
            }
        }
        sum.seconds = begun.get().map_or(0.0, |begun: &Instant| begun.elapsed().as_secs_f64());
        anyhow::Ok(sum)
    };
    let sum = std::thread::scope(|scope| {
        let running: Vec<_> = peer.lanes.iter().map(|calls| scope.spawn(|| lane(calls))).collect();
        running.into_iter().try_fold(Outcome::default(), |sum, lane| {
            anyhow::Ok(sum.with(lane.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??))
        })
    })?;
    Ok((sum, Used { cpu: children()? - before, peak: 0 }))
}

/// Whether the time is over.
fn one(
    mut command: Command,
    objects: &[usize],
    workload: &Workload,
    begun: &OnceLock<Instant>,
    cut: Duration,
    sum: &mut Outcome,
) -> Result<bool> {
    let mut errors = tempfile::tempfile()?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors.try_clone()?);
    let mut child = command.spawn()?;
    let mut stdout = child.stdout.take().context("no output")?;
    let mut buffer = vec![0; CHUNK];
    let outcome = (|| {
        for object in objects.iter().map(|at| &workload.objects[*at]) {
            let mut at = 0;
            while at < object.size {
                let most = CHUNK.min(usize::try_from(object.size - at).unwrap_or(CHUNK));
                let length = stdout.read(&mut buffer[..most])?;
                let begun = begun.get_or_init(Instant::now);
                if length == 0 {
                    anyhow::bail!("{} ends at {at}: {}", object.name, said(&mut errors)?);
                }
                ensure!(
                    computed::matches(object.seed, at, &buffer[..length]),
                    "{} has wrong bytes at {at}",
                    object.name
                );
                at += length as u64;
                sum.bytes += length as u64;
                if begun.elapsed() > cut {
                    return Ok(true);
                }
            }
            sum.steps += 1;
        }
        ensure!(stdout.read(&mut buffer)? == 0, "it writes more than the objects hold");
        Ok(false)
    })();
    // What is left of it is not wanted.
    let _ = child.kill();
    child.wait()?;
    outcome
}

fn said(errors: &mut File) -> Result<String> {
    errors.rewind()?;
    let mut text = Vec::new();
    errors.read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Processor seconds of all children that have ended.
fn children() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}
