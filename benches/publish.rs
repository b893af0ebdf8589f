//! What a mount costs: a real node plugin, asked over its socket, publishes volumes of the embedded S3 server, which
//! answers in 5 ms. Needs root and `/dev/fuse`.
//!
//! 100 identities publish one after the other, which gives the time of a publish; then the memory of the node plugin
//! and of its idle workers is read, all are unpublished, and 500 more publishes and unpublishes must leave descriptors,
//! processes, mounts, control groups and files as they were.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use millrace::csi::v1::node_client::NodeClient;
use millrace::csi::v1::volume_capability::access_mode::Mode;
use millrace::csi::v1::volume_capability::{AccessMode, AccessType, MountVolume};
use millrace::csi::v1::{NodePublishVolumeRequest, NodeUnpublishVolumeRequest, VolumeCapability};
use millrace::sandbox::requirement::{self, Requirement};
use millrace::sandbox::s3::{Conditions, Options, Server, User};
use tokio::process::{Child, Command};
use tonic::transport::{Channel, Endpoint};

const MOUNTS: usize = 100;
const CYCLES: usize = 500;
const FIRST_BYTE: Duration = Duration::from_millis(5);
const MIB: u64 = 1 << 20;
const CONTENT: &str = "hello, world";

#[tokio::main]
async fn main() -> Result<()> {
    if !requirement::met(&[Requirement::Root, Requirement::Fuse]) {
        bail!("this bench needs root and /dev/fuse");
    }
    let users: Vec<_> = (0..MOUNTS).map(|at| User::new(format!("user-{at}"), format!("secret-of-{at}"))).collect();
    let conditions = Conditions { first_byte: FIRST_BYTE, ..Conditions::default() };
    let options = Options { users: users.clone(), buckets: vec!["data".into()], conditions, ..Options::default() };
    let server = Server::start(options).await?;
    server.put("data", "set/hello", CONTENT);

    let mut stage = Stage::build(&server).await?;
    let mut times = Vec::new();
    for (at, user) in users.iter().enumerate() {
        let begun = Instant::now();
        stage.publish(at, user).await?;
        times.push(begun.elapsed());
        ensure!(fs::read_to_string(stage.target(at).join("hello"))? == CONTENT, "mount {at} shows something else");
    }
    times.sort();
    let of = |share: usize| times[(times.len() * share).div_ceil(100) - 1].as_secs_f64() * 1000.0;
    println!("publish of {MOUNTS}    p50 {:.0} ms (wanted 150), p99 {:.0} ms (wanted 500)", of(50), of(99));

    // Idle is after what a start leaves running.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut workers = Vec::new();
    for pid in stage.workers()? {
        workers.push(private(pid)?);
    }
    workers.sort_unstable();
    ensure!(workers.len() == MOUNTS, "{} workers serve {MOUNTS} mounts", workers.len());
    let mib = |bytes: u64| bytes as f64 / MIB as f64;
    let (median, most) = (mib(workers[MOUNTS / 2]), mib(workers[MOUNTS - 1]));
    println!("idle worker       {median:.1} MiB private, at most {most:.1} (wanted 15)");
    println!("node plugin       {:.1} MiB resident with {MOUNTS} mounts (wanted 40)", mib(resident(stage.pid()?)?));

    for at in 0..MOUNTS {
        stage.unpublish(at).await?;
    }
    let before = stage.settled(None).await?;
    let begun = Instant::now();
    for cycle in 0..CYCLES {
        stage.publish(cycle % 7, &users[cycle % MOUNTS]).await?;
        stage.unpublish(cycle % 7).await?;
    }
    let each = begun.elapsed().as_secs_f64() * 1000.0 / CYCLES as f64;
    let after = stage.settled(Some(&before)).await?;
    println!("{CYCLES} cycles        {each:.0} ms each; before: {before:?}");
    println!("                  after:  {after:?}");
    println!("node plugin       {:.1} MiB resident after them", mib(resident(stage.pid()?)?));
    ensure!(before == after, "something was left behind");
    stage.strike().await
}

/// What a node plugin has, as numbers that must not grow.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holdings {
    descriptors: usize,
    processes: usize,
    mounts: usize,
    cgroups: usize,
    files: usize,
}

struct Stage {
    dir: tempfile::TempDir,
    node: Child,
    client: NodeClient<Channel>,
}

impl Stage {
    async fn build(server: &Server) -> Result<Stage> {
        let dir = tempfile::Builder::new().prefix("millrace-bench-").tempdir()?;
        // Workers have uids of their own and pass through.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711))?;
        let at = |name: &str| dir.path().join(name);
        let endpoint = server.endpoint();
        let store = format!("stores: [{{name: bench, backend: s3, endpoint: '{endpoint}', bucket: data}}]");
        fs::write(at("stores.yaml"), store)?;
        fs::create_dir(at("pods"))?;
        let socket = at("node.sock");
        let node = Command::new(env!("CARGO_BIN_EXE_millrace"))
            .args(["node", "--node-id", "bench", "--log-level", "warn,audit=off", "--endpoint"])
            .arg(&socket)
            .arg("--stores")
            .arg(at("stores.yaml"))
            .arg("--state-dir")
            .arg(at("state"))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?;
        let begun = Instant::now();
        let channel = loop {
            match endpoint.connect().await {
                Ok(channel) => break channel,
                Err(error) if begun.elapsed() > Duration::from_secs(20) => bail!("no node plugin: {error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        Ok(Stage { dir, node, client: NodeClient::new(channel) })
    }

    fn target(&self, at: usize) -> PathBuf {
        self.dir.path().join("pods").join(at.to_string())
    }

    fn pid(&self) -> Result<i32> {
        Ok(i32::try_from(self.node.id().context("the node plugin has ended")?)?)
    }

    async fn publish(&mut self, at: usize, user: &User) -> Result<()> {
        let secrets = [("key_id", &user.key_id), ("access_key", &user.secret)];
        let context = [("store", "bench"), ("path", "set")];
        let owned = |(word, value): (&str, &str)| (word.to_owned(), value.to_owned());
        let request = NodePublishVolumeRequest {
            volume_id: format!("pv-{at}"),
            target_path: self.target(at).to_string_lossy().into_owned(),
            volume_capability: Some(VolumeCapability {
                access_type: Some(AccessType::Mount(MountVolume::default())),
                access_mode: Some(AccessMode { mode: Mode::MultiNodeMultiWriter.into() }),
            }),
            volume_context: context.map(owned).into(),
            secrets: HashMap::from(secrets.map(|(word, value)| owned((word, value)))),
            ..Default::default()
        };
        self.client.node_publish_volume(request).await.with_context(|| format!("publish {at}"))?;
        Ok(())
    }

    async fn unpublish(&mut self, at: usize) -> Result<()> {
        let target_path = self.target(at).to_string_lossy().into_owned();
        let request = NodeUnpublishVolumeRequest { volume_id: format!("pv-{at}"), target_path };
        self.client.node_unpublish_volume(request).await.with_context(|| format!("unpublish {at}"))?;
        Ok(())
    }

    /// The node plugin's children, also those that ended and were not waited for.
    fn workers(&self) -> Result<Vec<i32>> {
        let node = self.pid()?;
        let processes = procfs::process::all_processes()?.filter_map(Result::ok).filter_map(|one| one.stat().ok());
        Ok(processes.filter(|stat| stat.ppid == node).map(|stat| stat.pid).collect())
    }

    /// What is held once nothing changes any more: workers end after the call that ends them. `wanted` ends the wait.
    async fn settled(&self, wanted: Option<&Holdings>) -> Result<Holdings> {
        let mut last = self.holdings()?;
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let now = self.holdings()?;
            if now == last && wanted.is_none_or(|wanted| *wanted == now) {
                break;
            }
            last = now;
        }
        Ok(last)
    }

    fn holdings(&self) -> Result<Holdings> {
        let node = procfs::process::Process::new(self.pid()?)?;
        let below = |mount: &procfs::process::MountInfo| mount.mount_point.starts_with(self.dir.path());
        Ok(Holdings {
            descriptors: node.fd_count()?,
            processes: self.workers()?.len(),
            mounts: node.mountinfo()?.into_iter().filter(below).count(),
            cgroups: cgroups_below(&node)?,
            files: entries(self.dir.path())?,
        })
    }

    async fn strike(mut self) -> Result<()> {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()?), nix::sys::signal::Signal::SIGTERM)?;
        ensure!(self.node.wait().await?.success(), "the node plugin ended with an error");
        Ok(())
    }
}

/// Control groups below the node plugin's own, in every hierarchy.
fn cgroups_below(node: &procfs::process::Process) -> Result<usize> {
    let mounts = node.mountinfo()?.into_iter().filter(|mount| mount.fs_type.starts_with("cgroup"));
    let roots: Vec<_> = mounts.map(|mount| mount.mount_point).collect();
    let own = node.cgroups()?;
    let dirs = own.into_iter().flat_map(|group| {
        let inside = group.pathname.trim_start_matches('/').to_owned();
        roots.iter().map(move |root| root.join(&inside)).collect::<Vec<_>>()
    });
    let mut all: Vec<_> = dirs.filter(|dir| dir.is_dir()).collect();
    all.sort();
    all.dedup();
    all.iter().map(|dir| Ok(directories(dir))).sum()
}

fn directories(dir: &Path) -> usize {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let below = entries.filter_map(Result::ok).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    below.map(|entry| 1 + directories(&entry.path())).sum()
}

/// Everything below `dir`.
fn entries(dir: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        count += 1;
        if entry.file_type()?.is_dir() {
            count += entries(&entry.path())?;
        }
    }
    Ok(count)
}

/// Bytes that are this process's alone.
fn private(pid: i32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let kib = text
        .lines()
        .filter(|line| line.starts_with("Private_"))
        .filter_map(|line| line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok()));
    Ok(kib.sum::<u64>() * 1024)
}

fn resident(pid: i32) -> Result<u64> {
    let status = procfs::process::Process::new(pid)?.status()?;
    Ok(status.vmrss.context("no VmRSS")? * 1024)
}
