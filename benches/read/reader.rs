//! Carries out a workload's steps on a mounted directory, and checks every byte.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use millrace::sandbox::computed;

use super::announced::Announced;
use super::workload::{By, Step, Workload};

/// Steps of a reader between two looks at whether more of an order has room.
const ANNOUNCE_EVERY: usize = 64;

/// What a run did until it was done or cut.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    pub(crate) seconds: f64,
    pub(crate) bytes: u64,
    pub(crate) steps: u64,
    /// Milliseconds of each step.
    pub(crate) times: Vec<f64>,
    /// Processor seconds of the check of bytes, where whoever checks is also whom the rest is counted of.
    pub(crate) checking: f64,
}

impl Outcome {
    /// Two readers of one run, which lasts as long as the longer.
    pub(crate) fn with(mut self, other: Outcome) -> Outcome {
        self.seconds = self.seconds.max(other.seconds);
        self.bytes += other.bytes;
        self.steps += other.steps;
        self.times.extend(other.times);
        self.checking += other.checking;
        self
    }
}

/// Lists what the workload says is listed before the clock.
pub(crate) fn prepare(root: &Path, workload: &Workload) -> Result<()> {
    if !workload.listed {
        return Ok(());
    }
    let mut folders: Vec<_> = workload.objects.iter().filter_map(|object| Path::new(&object.name).parent()).collect();
    folders.dedup();
    for folder in folders {
        let count = fs::read_dir(root.join(folder))?.count();
        ensure!(count > 0, "{} is empty", folder.display());
    }
    Ok(())
}

/// Runs all readers at once, until each is done or `cut` is over.
pub(crate) fn run(root: &Path, workload: &Workload, cut: Duration) -> Result<Outcome> {
    let begun = Instant::now();
    let announced = workload.announced.then(|| Announced::of(root, workload)).transpose()?.flatten().map(Mutex::new);
    std::thread::scope(|scope| {
        let announced = announced.as_ref();
        let readers = workload.readers.iter();
        let running: Vec<_> =
            readers.map(|steps| scope.spawn(move || one(root, workload, steps, announced, begun, cut))).collect();
        running.into_iter().try_fold(Outcome::default(), |sum, reader| {
            let outcome = reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??;
            Ok(sum.with(outcome))
        })
    })
}

fn one(
    root: &Path,
    workload: &Workload,
    steps: &[Step],
    announced: Option<&Mutex<Announced>>,
    begun: Instant,
    cut: Duration,
) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut files = HashMap::new();
    let mut buffer = Vec::new();
    let mut folder: Option<PathBuf> = None;
    for (number, step) in steps.iter().enumerate() {
        if let Some(announced) = announced.filter(|_| number.is_multiple_of(ANNOUNCE_EVERY)) {
            announced.lock().unwrap_or_else(PoisonError::into_inner).go_on()?;
        }
        if begun.elapsed() > cut {
            break;
        }
        let object = &workload.objects[step.object];
        let path = root.join(&object.name);
        let at = Instant::now();
        match workload.by {
            By::Stat => {
                if folder.as_deref() != path.parent() {
                    folder = path.parent().map(Path::to_owned);
                    fs::read_dir(folder.as_deref().unwrap_or(root))?.count();
                }
                let size = fs::symlink_metadata(&path).with_context(|| path.display().to_string())?.len();
                ensure!(size == object.size, "{} has {size} bytes", path.display());
            }
            By::WholeFile => {
                buffer = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
                ensure!(buffer.len() as u64 == object.size, "{} has {} bytes", path.display(), buffer.len());
            }
            By::Read | By::Mapping => {
                let file = match files.entry(step.object) {
                    std::collections::hash_map::Entry::Occupied(open) => open.into_mut(),
                    std::collections::hash_map::Entry::Vacant(free) => free.insert(Open::at(&path, workload.by)?),
                };
                file.read(*step, &mut buffer)?;
            }
        }
        outcome.times.push(at.elapsed().as_secs_f64() * 1000.0);
        ensure!(
            computed::matches(object.seed, step.at, &buffer),
            "{} has wrong bytes in {}+{}",
            path.display(),
            step.at,
            step.length
        );
        outcome.bytes += buffer.len() as u64;
        outcome.steps += 1;
    }
    outcome.seconds = begun.elapsed().as_secs_f64();
    Ok(outcome)
}

enum Open {
    File(File),
    Mapping(memmap2::Mmap),
}

impl Open {
    fn at(path: &Path, by: By) -> Result<Open> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        if by == By::Mapping {
            #[expect(unsafe_code, reason = "a mapping is what is measured")]
            // SAFETY: nothing changes or truncates the file while the bench runs.
            return Ok(Open::Mapping(unsafe { memmap2::Mmap::map(&file)? }));
        }
        Ok(Open::File(file))
    }

    fn read(&self, step: Step, buffer: &mut Vec<u8>) -> Result<()> {
        buffer.resize(step.length as usize, 0);
        match self {
            Open::File(file) => file.read_exact_at(buffer, step.at)?,
            Open::Mapping(map) => buffer.copy_from_slice(&map[step.at as usize..][..step.length as usize]),
        }
        Ok(())
    }
}
