//! `millrace try`: the whole path on one machine, as Kubernetes would walk it.
//!
//! It starts a store (the embedded S3 server, an NFS server or an HDFS where that is asked for) and both plugins as processes, plays provisioner
//! and kubelet over their sockets, puts a data set into the volume by another client, reads it through the mount,
//! and clears everything away: after success, a failure and Ctrl-C alike.

mod dataset;
mod files;
mod hdfs;
mod kubelet;
mod namespace;
mod nfs;
mod reading;
mod report;
mod s3;
mod stage;
mod store;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use rustix::fs::{StatVfsMountFlags, statvfs};
use tokio_util::sync::CancellationToken;

use crate::cli;
use crate::csi::v1::Volume;
use dataset::Dataset;
use kubelet::Kubelet;
use report::Report;
use stage::Stage;
use store::Store;

/// Name of the store in the stores file, and of the claim that is made.
const STORE: &str = "try";

/// Runs to the end, or until Ctrl-C.
///
/// # Errors
/// Whatever did not work; what was started is cleared away before.
pub(super) fn run(words: &cli::Try) -> Result<()> {
    let single_uid = !nix::unistd::geteuid().is_root();
    can_open_fuse()?;
    if single_uid {
        namespace::enter()?;
        println!("not root: running in a user namespace with one uid; the kernel reads ahead 128 KiB only");
    }
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let outcome = runtime.block_on(play(words, single_uid));
    runtime.shutdown_background();
    outcome
}

/// Says early, and how to mend it, where no FUSE file system can be served.
fn can_open_fuse() -> Result<()> {
    let cure = "load the module (modprobe fuse), or make the node as root: mknod -m 666 /dev/fuse c 10 229";
    std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .map(drop)
        .with_context(|| format!("cannot open /dev/fuse, without which nothing can be mounted; {cure}"))
}

async fn play(words: &cli::Try, single_uid: bool) -> Result<()> {
    let stop = CancellationToken::new();
    tokio::spawn({
        let stop = stop.clone();
        async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                stop.cancel();
            }
        }
    });
    let mut stage = Stage::build()?;
    let outcome = Scene { words, single_uid, stop }.act(&mut stage).await;
    let log = if outcome.is_err() { stage.log_tail() } else { String::new() };
    let struck = tokio::task::spawn_blocking(move || stage.strike()).await?;
    match outcome {
        Ok(()) => struck,
        Err(error) if log.is_empty() => Err(error),
        Err(error) => {
            Err(error.context(format!("`try` did not succeed; the plugins' last log lines:\n{log}\nbecause")))
        }
    }
}

/// What does not change while `try` runs.
struct Scene<'a> {
    words: &'a cli::Try,
    single_uid: bool,
    /// Cancelled by Ctrl-C.
    stop: CancellationToken,
}

/// A volume in use.
struct Used<'a> {
    store: &'a Store,
    volume: &'a Volume,
    /// Where its directory lies in the store.
    dir: String,
    target: PathBuf,
}

impl Scene<'_> {
    async fn act(&self, stage: &mut Stage) -> Result<()> {
        let set = match &self.words.data {
            Some(dir) => {
                let (set, left_out) = Dataset::of_directory(dir)?;
                if left_out > 0 {
                    println!("left out               {left_out} entries that are neither files nor directories");
                }
                set
            }
            None => Dataset::generated(),
        };
        let set = Arc::new(set);
        let store = Store::open(self.words, stage).await?;
        let mut arguments = vec![("--stores", store.file())];
        let controller = stage.start("controller", &arguments, &[])?;
        let state = stage.path("state");
        std::fs::create_dir(&state)?;
        arguments.push(("--state-dir", &state));
        let own = if self.single_uid { &["--node-id", "here", "--single-uid"][..] } else { &["--node-id", "here"][..] };
        let node = stage.start("node", &arguments, own)?;
        let mut kubelet = Kubelet::connect(&controller, &node).await?;
        let mut parameters: HashMap<_, _> = self.words.parameters.iter().cloned().collect();
        parameters.entry("store".to_owned()).or_insert_with(|| STORE.to_owned());
        let volume = kubelet.create(&format!("try-{}", std::process::id()), parameters).await?;
        println!("CreateVolume           {}", volume.volume_id);
        let used =
            Used { store: &store, volume: &volume, dir: store.place_of(&volume)?, target: stage.path("pod/mount") };
        let outcome = self.fill_and_publish(stage, &mut kubelet, &used, &set).await;
        kubelet.delete(&volume.volume_id).await?;
        println!("DeleteVolume           done");
        let report = outcome?;
        if let Some(left) = store.left_over().await? {
            bail!("DeleteVolume left something behind: {left}");
        }
        println!("\n{report}");
        Ok(())
    }

    /// Unpublishes whatever happened in between.
    async fn fill_and_publish(
        &self,
        stage: &Stage,
        kubelet: &mut Kubelet,
        used: &Used<'_>,
        set: &Arc<Dataset>,
    ) -> Result<Report> {
        let bar = progress(&format!("put by {}", used.store.client()), set.bytes());
        self.until_stopped(used.store.put(&used.dir, set, &bar)).await?;
        bar.finish_and_clear();
        println!(
            "{:22} {} files, {}",
            format!("{} put", used.store.client()),
            set.files.len(),
            HumanBytes(set.bytes())
        );
        std::fs::create_dir_all(stage.path("pod"))?;
        let began = Instant::now();
        kubelet.publish(used.volume, &used.target, used.store.secret()).await?;
        println!("NodePublishVolume      {} in {} ms", used.target.display(), began.elapsed().as_millis());
        let outcome = self.use_mount(stage, kubelet, used, set).await;
        // What ran in the mount may take a moment to leave it.
        let mut unpublished = kubelet.unpublish(&used.volume.volume_id, &used.target).await;
        let until = Instant::now() + Duration::from_secs(10);
        while unpublished.is_err() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(100)).await;
            unpublished = kubelet.unpublish(&used.volume.volume_id, &used.target).await;
        }
        unpublished?;
        println!("NodeUnpublishVolume    done");
        outcome
    }

    async fn use_mount(
        &self,
        stage: &Stage,
        kubelet: &mut Kubelet,
        used: &Used<'_>,
        set: &Arc<Dataset>,
    ) -> Result<Report> {
        let store = used.store;
        store.reset_counters();
        let bar = progress("read through the mount", set.bytes());
        let (target, files, shown, stop) = (used.target.clone(), set.clone(), bar.clone(), self.stop.clone());
        let mount = tokio::task::spawn_blocking(move || reading::read_all(&target, &files, &shown, &stop)).await??;
        bar.finish_and_clear();
        println!("read through the mount every byte is right");
        let gets = store.gets();
        let worker_peak = stage.pid("node").and_then(peak_of_worker);
        let raw = self.until_stopped(store.read_raw(&used.dir, set)).await?;
        if statvfs(&used.target)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
            println!("wrote no file          the mount is read-only");
        } else {
            self.until_stopped(write_and_read_back(store, &used.dir, &used.target)).await?;
            println!("wrote a file           {} reads the same bytes", store.client());
        }
        for usage in kubelet.stats(&used.volume.volume_id, &used.target).await? {
            println!("NodeGetVolumeStats     {} {} used", usage.used, usage.unit().as_str_name().to_lowercase());
        }
        if !self.words.command.is_empty() {
            self.until_stopped(run_command(&self.words.command, &used.target)).await?;
        }
        if self.words.keep {
            self.keep(&used.target).await;
        }
        Ok(Report {
            files: set.files.len(),
            bytes: set.bytes(),
            mount,
            raw,
            raw_name: store.raw_name(),
            gets,
            worker_peak,
        })
    }

    async fn keep(&self, target: &Path) {
        println!("\nmounted at {} until Ctrl-C", target.display());
        if self.single_uid {
            let pid = std::process::id();
            println!("from another shell:  nsenter --preserve-credentials -U -m -t {pid} -w{}", target.display());
        }
        self.stop.cancelled().await;
        println!();
    }

    async fn until_stopped<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            outcome = work => outcome,
            () = self.stop.cancelled() => bail!("interrupted"),
        }
    }
}

async fn write_and_read_back(store: &Store, dir: &str, target: &Path) -> Result<()> {
    let name = "written-through-the-mount.txt";
    let text: String = (0..100_000).map(|line| format!("line {line}\n")).collect();
    let path = target.join(name);
    let written = text.clone();
    // A write and its close wait for the store.
    tokio::task::spawn_blocking(move || std::fs::write(&path, written))
        .await?
        .context("cannot write into the mount")?;
    let found = store.get(dir, name).await.context("the written file is not in the store")?;
    if found != text.as_bytes() {
        bail!("the written file holds other bytes in the store ({} for {})", found.len(), text.len());
    }
    Ok(())
}

async fn run_command(command: &[std::ffi::OsString], target: &Path) -> Result<()> {
    let [program, arguments @ ..] = command else { return Ok(()) };
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .current_dir(target)
        .stdin(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let status = child.wait().await?;
    println!("{}           {status}", program.display());
    if status.success() { Ok(()) } else { bail!("{} failed: {status}", program.display()) }
}

fn progress(what: &str, bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(bytes);
    let shape = "{msg:24} {bar:30} {bytes:>11} of {total_bytes} {bytes_per_sec:>14}";
    bar.set_style(ProgressStyle::with_template(shape).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.with_message(what.to_owned())
}

/// VmHWM of the node plugin's child, in bytes.
fn peak_of_worker(node: u32) -> Option<u64> {
    let node = i32::try_from(node).ok()?;
    let processes = procfs::process::all_processes().ok()?.filter_map(Result::ok);
    let of_node = |process: &procfs::process::Process| process.stat().is_ok_and(|stat| stat.ppid == node);
    let peaks = processes.filter(of_node).filter_map(|worker| worker.status().ok()?.vmhwm);
    peaks.max().map(|kib| kib * 1024)
}
