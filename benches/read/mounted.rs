//! Subjects that are a mounted directory: Millrace, and the peers that are on PATH.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use millrace::auth::Credential;
use millrace::backend;
use millrace::config::{CacheMode, VolumeOptions, VolumeSpec};
use millrace::mount::{CacheDir, Config, Consumer, Mounter, Publish, Workers};

use super::origin::{ACCESS_KEY, BUCKET, Counts, KEY_ID, Origin};
use super::process;

/// Other clients, by the names of their programs.
pub(crate) const PEERS: &[&str] = &["mount-s3", "geesefs", "goofys", "rclone", "s3fs"];

/// What a volume shows, and whom it is used as.
#[derive(Debug)]
pub(crate) struct Volume {
    pub(crate) backend: backend::Config,
    pub(crate) path: String,
    pub(crate) credential: Credential,
}

/// A store that counts what is asked of it.
pub(crate) trait Source {
    /// Since its start.
    fn counts(&self) -> Result<Counts>;

    /// `folder` over so many connections.
    fn volume(&self, folder: &str, connections: u32) -> Result<Volume>;
}

/// How a volume is mounted.
#[derive(Debug, Clone)]
pub(crate) struct How {
    pub(crate) connections: u32,
    /// Where a disk cache lies.
    pub(crate) cache: Option<PathBuf>,
    /// The kernel opens files without asking.
    pub(crate) skip_opens: bool,
}

impl How {
    /// As a volume is by default, with so many connections.
    pub(crate) fn of(connections: u32) -> How {
        How { connections, cache: None, skip_opens: false }
    }
}

/// A mount of the folder that a workload reads, in a process of its own.
pub(crate) enum Mounted {
    Millrace { workers: Arc<Workers>, target: PathBuf, pid: i32 },
    Peer { child: Child, target: PathBuf },
}

impl Mounted {
    /// A worker of its own for each mount. The volume's data never changes, which is what a training set's owner says.
    pub(crate) async fn millrace(dir: &Path, source: &impl Source, folder: &str, how: &How) -> Result<Mounted> {
        let workers = Workers::start(Config {
            state_dir: dir.join("state"),
            program: env!("CARGO_BIN_EXE_millrace").into(),
            worker_uid_base: 1_900_000_000,
            worker_uid_count: 100,
            ping_deadline: Duration::from_secs(10),
            isolate: true,
            log_filter: "warn".into(),
            log_json: false,
            cache: how.cache.clone().map(|path| CacheDir { path, free_percent: 1 }),
        })
        .await?;
        let target = dir.join("pod");
        let Volume { backend, path, credential } = source.volume(folder, how.connections)?;
        let options = VolumeOptions {
            immutable: true,
            skip_opens: how.skip_opens,
            cache: if how.cache.is_some() { CacheMode::Disk } else { CacheMode::None },
            ..VolumeOptions::default()
        };
        let before = process::children();
        workers
            .publish(Publish {
                target: target.clone(),
                spec: VolumeSpec {
                    volume_id: "bench-volume".into(),
                    store: "bench".into(),
                    backend,
                    path,
                    generation: None,
                    snapshot: None,
                    quota: false,
                    read_only: true,
                    most_memory: 1 << 30,
                    options,
                },
                credential,
                arguments: "bench".into(),
                single_writer: false,
                namespace: how.cache.is_some().then(|| "bench".into()),
                pod: None,
                service_account: None,
                fs_group: None,
                consumer: Consumer::default(),
            })
            .await?;
        let pid = process::children().into_iter().find(|pid| !before.contains(pid)).context("no worker is running")?;
        Ok(Mounted::Millrace { workers, target, pid })
    }

    /// A peer with the fast settings that its documentation names; `None` where it is not installed.
    pub(crate) fn peer(
        dir: &Path,
        origin: &Origin,
        program: &str,
        folder: &str,
        connections: u32,
    ) -> Result<Option<Mounted>> {
        let target = dir.join(program);
        fs::create_dir_all(&target)?;
        let (endpoint, at, many) = (&origin.endpoint, target.display(), connections);
        let words = match program {
            "mount-s3" => format!(
                "-f {BUCKET} {at} --prefix {folder}/ --endpoint-url {endpoint} --force-path-style --region us-east-1 \
                 --no-log --memory-target 1024 --metadata-ttl 3600 --read-only"
            ),
            "geesefs" => format!(
                "-f --endpoint {endpoint} --region us-east-1 --list-type 2 --no-detect --memory-limit 1000 \
                 --max-flushers 32 --stat-cache-ttl 1h {BUCKET}:{folder} {at}"
            ),
            "goofys" => format!(
                "-f --endpoint {endpoint} --region us-east-1 --stat-cache-ttl 1h --type-cache-ttl 1h {BUCKET}:{folder} {at}"
            ),
            "rclone" => format!(
                "mount :s3:{BUCKET}/{folder} {at} --s3-provider Other --s3-env-auth --s3-region us-east-1 \
                 --s3-force-path-style --s3-endpoint {endpoint} --vfs-cache-mode off --vfs-read-chunk-size 128M \
                 --dir-cache-time 1h --attr-timeout 1h --buffer-size 64M --no-modtime --no-checksum --max-read-ahead 4M"
            ),
            "s3fs" => {
                let keys = dir.join("s3fs.keys");
                fs::write(&keys, format!("{KEY_ID}:{ACCESS_KEY}"))?;
                fs::set_permissions(&keys, fs::Permissions::from_mode(0o600))?;
                format!(
                    "{BUCKET}:/{folder} {at} -f -o url={endpoint},use_path_request_style,passwd_file={},sigv4,\
                     endpoint=us-east-1,umask=0022,parallel_count={many},multipart_size=10,multireq_max=50,\
                     max_stat_cache_size=100000,stat_cache_expire=3600",
                    keys.display()
                )
            }
            other => bail!("no way is known to mount with {other}"),
        };
        let child = Command::new(program)
            .args(words.split_whitespace())
            .env("AWS_ACCESS_KEY_ID", KEY_ID)
            .env("AWS_SECRET_ACCESS_KEY", ACCESS_KEY)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = match child {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            child => child?,
        };
        let mounted = Mounted::Peer { child, target: target.clone() };
        let begun = Instant::now();
        while !is_mount_point(&target)? {
            if begun.elapsed() > Duration::from_secs(20) {
                bail!("{program} did not mount in 20 s");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(Some(mounted))
    }

    pub(crate) fn root(&self) -> &Path {
        match self {
            Mounted::Millrace { target, .. } | Mounted::Peer { target, .. } => target,
        }
    }

    /// The process that serves it.
    pub(crate) fn pid(&self) -> i32 {
        match self {
            Mounted::Millrace { pid, .. } => *pid,
            Mounted::Peer { child, .. } => i32::try_from(child.id()).unwrap_or_default(),
        }
    }

    pub(crate) async fn unmount(self) -> Result<()> {
        match self {
            Mounted::Millrace { workers, target, .. } => Ok(workers.unpublish("bench-volume", &target).await?),
            Mounted::Peer { mut child, target } => {
                nix::mount::umount2(&target, nix::mount::MntFlags::MNT_DETACH)?;
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(i32::try_from(child.id())?),
                    nix::sys::signal::Signal::SIGTERM,
                );
                child.wait()?;
                Ok(())
            }
        }
    }
}

fn is_mount_point(path: &Path) -> Result<bool> {
    Ok(procfs::process::Process::myself()?.mountinfo()?.into_iter().any(|mount| mount.mount_point == path))
}
