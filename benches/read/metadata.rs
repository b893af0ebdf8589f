//! R8: what a program costs that mostly looks: an import of a Python tree, a storm of stat calls, and a mount as such.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::dataset::Object;
use super::local;
use super::mounted::{How, Mounted};
use super::origin::{Contents, Counts, Origin, Wire};
use super::process::{self, Used};
use super::reader::Outcome;
use super::run;
use super::workload::{By, KIB, MIB, Scale, Step, Unit, Workload};

/// numpy 2 has about so many: packages, modules in each, and shared libraries of about so much in all.
const PACKAGES: u64 = 30;
const MODULES: u64 = 15;
const LIBRARIES: u64 = 8;
const LIBRARY: u64 = 4 * MIB;
/// Lines of a module: some 8 KB of source.
const LINES: u64 = 250;

/// A figure, and what it is compared with.
pub(crate) struct Looked {
    pub(crate) workload: Workload,
    pub(crate) limit: f64,
    pub(crate) subject: &'static str,
    pub(crate) outcome: Outcome,
    pub(crate) counts: Counts,
    pub(crate) used: Used,
}

/// An import of a tree with its bytecode, in an interpreter of its own each time.
pub(crate) async fn import(dir: &Path, wire: Wire, scale: Scale, how: &How) -> Result<Vec<Looked>> {
    let tree = dir.join("tree");
    let made = tree.clone();
    run::blocking(move || make_tree(&made, scale)).await?;
    let origin = Origin::serve(dir, Contents::Tree { folder: "set", root: &tree }, wire, false)?;
    let mounted = Mounted::millrace(dir, &origin, "set", how).await?;
    let named = [(how.cache.is_some(), ", disk cache"), (how.skip_opens, ", opens skipped")];
    let how: String = named.into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect();
    let mut looked = Vec::new();
    for time in ["first", "second", "third"] {
        let before = (origin.counts(), process::used(mounted.pid()).cpu);
        let local = importing(&tree).await?;
        let outcome = importing(mounted.root()).await?;
        let mut used = process::used(mounted.pid());
        used.cpu -= before.1;
        let workload = Workload {
            unit: Unit::Milliseconds,
            connections: 32,
            ..Workload::new("R8", format!("import, {time}{how}"), Vec::new(), Vec::new())
        };
        let (counts, limit) = (origin.counts().since(before.0), local.times[0]);
        looked.push(Looked { workload, limit, subject: "millrace", outcome, counts, used });
    }
    mounted.unmount().await?;
    Ok(looked)
}

async fn importing(root: &Path) -> Result<Outcome> {
    const PROGRAM: &str = "import sys, time; sys.path.insert(0, sys.argv[1]); begun = time.perf_counter(); \
                           import tree; print(tree.total, time.perf_counter() - begun)";
    let root = root.to_owned();
    run::blocking(move || {
        let output = Command::new("python3").args(["-I", "-S", "-B", "-c", PROGRAM]).arg(&root).output()?;
        let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "the import failed: {errors}");
        let (total, seconds) = said.trim().split_once(' ').context("the import said nothing")?;
        let (bytes, seconds): (u64, f64) = (total.parse()?, seconds.parse()?);
        ensure!(bytes > 0, "nothing was imported");
        Ok(Outcome { seconds, bytes, steps: 1, times: vec![seconds * 1000.0], checking: 0.0 })
    })
    .await
}

/// A package whose import reads every module and library of it.
fn make_tree(root: &Path, scale: Scale) -> Result<()> {
    let packages = (PACKAGES / scale.0).max(2);
    let top = root.join("tree");
    let mut init = String::from("total = 0\n");
    for package in 0..packages {
        let dir = top.join(format!("package_{package}"));
        fs::create_dir_all(&dir)?;
        let mut imports = String::from("total = 0\n");
        for module in 0..MODULES {
            let mut source = String::new();
            for line in 0..LINES {
                writeln!(source, "def function_{line}(a, b={line}): return a + b")?;
            }
            writeln!(source, "size = {}", source.len())?;
            fs::write(dir.join(format!("module_{module}.py")), source)?;
            writeln!(imports, "from . import module_{module}\ntotal += module_{module}.size")?;
        }
        fs::write(dir.join("__init__.py"), imports)?;
        writeln!(init, "from . import package_{package}\ntotal += package_{package}.total")?;
    }
    let libraries: Vec<_> = (0..(LIBRARIES / scale.0).max(1))
        .map(|at| Object { name: format!("library_{at}.bin"), seed: at + 1, size: LIBRARY })
        .collect();
    local::write(&top, &libraries)?;
    for Object { name, .. } in &libraries {
        writeln!(init, "total += len(open(__file__.replace('__init__.py', '{name}'), 'rb').read())")?;
    }
    fs::write(top.join("__init__.py"), init)?;
    // Bytecode that is believed whatever the times of its sources are, as an image or a wheel carries it.
    let compiled = Command::new("python3")
        .args(["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"])
        .arg(&top)
        .status()?;
    ensure!(compiled.success(), "the tree cannot be compiled");
    Ok(())
}

/// `lstat` of every file of 50 folders, as `git status` does.
pub(crate) async fn storm(dir: &Path, wire: Wire, scale: Scale) -> Result<Vec<Looked>> {
    let folders = (50 / scale.0).max(2);
    let objects: Vec<_> = (0..folders * 1000)
        .map(|at| Object { name: format!("{:02}/{:03}", at / 1000, at % 1000), seed: at + 1, size: 1000 + at % 5000 })
        .collect();
    let local = dir.join("disk");
    let (root, all) = (local.clone(), objects.clone());
    run::blocking(move || local::lay_out(&root, &all)).await?;
    let origin = Origin::start(dir, "set", &objects, wire, false)?;
    let mounted = Mounted::millrace(dir, &origin, "set", &How::of(32)).await?;
    let mut looked = Vec::new();
    for time in ["first", "second"] {
        let steps = (0..objects.len()).map(|object| Step { object, at: 0, length: objects[object].size }).collect();
        let workload = Workload {
            by: By::Stat,
            unit: Unit::FilesPerSecond,
            connections: 32,
            ..Workload::new("R8", format!("stat of {} files, {time}", objects.len()), objects.clone(), vec![steps])
        };
        let workload = Arc::new(workload);
        let limit = run::on(&local, &workload, Duration::from_secs(60)).await?;
        let (outcome, counts, used) = run::through(&origin, &mounted, &workload, Duration::from_secs(60)).await?;
        let limit = limit.steps as f64 / limit.seconds;
        looked.push(Looked { workload: Workload::clone(&workload), limit, subject: "millrace", outcome, counts, used });
    }
    mounted.unmount().await?;
    Ok(looked)
}

/// What a mount costs, and what it takes once 1,000 files were read, by how many keys lie in the volume. The limit of each
/// is what the smallest volume took.
pub(crate) async fn volumes(dir: &Path, wire: Wire, keys: &[u64]) -> Result<Vec<Looked>> {
    const FILES: u64 = 1000;
    let (mut looked, mut least) = (Vec::new(), None);
    for count in keys {
        let dir = dir.join(count.to_string());
        fs::create_dir(&dir)?;
        let contents = Contents::Series { folder: "set", count: *count, size: 4 * KIB };
        let origin = Origin::serve(&dir, contents, wire, false)?;
        let before = origin.counts();
        let begun = Instant::now();
        let mounted = Mounted::millrace(&dir, &origin, "set", &How::of(32)).await?;
        let took = begun.elapsed().as_secs_f64();
        let root: PathBuf = mounted.root().to_owned();
        // Spread over the whole volume.
        let names: Vec<_> = (0..FILES).map(|at| Origin::name_in_series(at * (count / FILES))).collect();
        let bytes = run::blocking(move || {
            names.iter().try_fold(0, |sum, name| Ok(sum + fs::read(root.join(name))?.len() as u64))
        })
        .await?;
        ensure!(bytes == FILES * 4 * KIB, "{bytes} bytes were read");
        let used = process::used(mounted.pid());
        mounted.unmount().await?;
        let workload = Workload {
            unit: Unit::Milliseconds,
            connections: 32,
            ..Workload::new("R8", format!("mount of {count} keys, 1000 files read"), Vec::new(), Vec::new())
        };
        let times = vec![took * 1000.0];
        let outcome = Outcome { seconds: took, bytes, steps: 1, times, checking: 0.0 };
        let limit = *least.get_or_insert(took * 1000.0);
        looked.push(Looked {
            workload,
            limit,
            subject: "millrace",
            outcome,
            counts: origin.counts().since(before),
            used,
        });
    }
    Ok(looked)
}
