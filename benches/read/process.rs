//! What a process and those below it have used.

use nix::time::{ClockId, clock_gettime};
use procfs::process::{Process, all_processes};

/// Processor seconds and peak resident bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Used {
    pub(crate) cpu: f64,
    pub(crate) peak: u64,
}

/// What the process `pid` has used, with all its descendants.
pub(crate) fn used(pid: i32) -> Used {
    let all: Vec<_> = all_processes().into_iter().flatten().filter_map(Result::ok).collect();
    let parents: Vec<_> = all.iter().filter_map(|one| Some((one.pid, one.stat().ok()?.ppid))).collect();
    let mut family = vec![pid];
    let mut at = 0;
    while let Some(parent) = family.get(at).copied() {
        family.extend(parents.iter().filter(|(_, ppid)| *ppid == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    let of = |pid: i32| {
        let process = Process::new(pid).ok()?;
        let stat = process.stat().ok()?;
        let peak = process.status().ok()?.vmhwm.unwrap_or_default() * 1024;
        Some(Used { cpu: (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64, peak })
    };
    family
        .into_iter()
        .filter_map(of)
        .fold(Used::default(), |sum, one| Used { cpu: sum.cpu + one.cpu, peak: sum.peak + one.peak })
}

/// The children of this process.
pub(crate) fn children() -> Vec<i32> {
    let me = i32::try_from(std::process::id()).unwrap_or_default();
    let mine = |one: &Process| one.stat().is_ok_and(|stat| stat.ppid == me);
    all_processes().into_iter().flatten().filter_map(Result::ok).filter(mine).map(|one| one.pid).collect()
}

/// Processor seconds of this process, its threads and nobody else's.
pub(crate) fn own_cpu() -> f64 {
    let stat = Process::myself().and_then(|me| me.stat());
    stat.map_or(0.0, |stat| (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64)
}

/// Processor seconds of this thread.
pub(crate) fn thread_cpu() -> nix::Result<f64> {
    let spent = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(spent.tv_sec() as f64 + spent.tv_nsec() as f64 / 1e9)
}
