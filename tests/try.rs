//! `millrace try` as a new user runs it: it works, and leaves nothing behind however it ends.
#![cfg(feature = "sandbox")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use millrace::sandbox::requirement::{self, Requirement};
use millrace::sandbox::versitygw::Versitygw;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const BINARY: &str = env!("CARGO_BIN_EXE_millrace");

/// A folder for one run's temporary files, and a small data set.
struct Ground {
    dir: tempfile::TempDir,
}

impl Ground {
    fn new() -> Ground {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let ground = Ground { dir };
        std::fs::create_dir(ground.tmp()).unwrap();
        std::fs::set_permissions(ground.tmp(), std::fs::Permissions::from_mode(0o1777)).unwrap();
        std::fs::create_dir_all(ground.data().join("deep/er")).unwrap();
        for (name, length) in [("a", 1_000_000), ("deep/b", 70_000), ("deep/er/empty", 0)] {
            let bytes: Vec<u8> = (0..length).map(|at: u32| (at ^ (at >> 8)) as u8).collect();
            std::fs::write(ground.data().join(name), bytes).unwrap();
        }
        ground
    }

    fn tmp(&self) -> PathBuf {
        self.dir.path().join("tmp")
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.arg("try").arg("--data").arg(self.data()).args(arguments).env("TMPDIR", self.tmp());
        command.stdin(Stdio::null());
        command
    }

    /// No file, mount or process of the run is left.
    fn is_clean(&self) {
        let left: Vec<_> = std::fs::read_dir(self.tmp()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.is_empty(), "files are left: {left:?}");
        let tmp = self.tmp().to_string_lossy().into_owned();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&tmp), "a mount is left");
        for process in procfs::process::all_processes().unwrap().filter_map(Result::ok) {
            let words = process.cmdline().unwrap_or_default().join(" ");
            assert!(!words.contains(&tmp), "a process is left: {words}");
        }
    }
}

fn can_mount() -> bool {
    requirement::met(&[Requirement::Root, Requirement::Fuse])
}

fn ran(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

/// Waits for a line that holds `word`, and returns it.
fn line_with(child: &mut Child, word: &str) -> String {
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    lines.find(|line| line.as_ref().is_ok_and(|line| line.contains(word))).unwrap().unwrap()
}

#[test]
fn it_walks_and_ends_with_a_table() {
    if !can_mount() {
        return;
    }
    let ground = Ground::new();
    let script = "test -s a && test $(stat -c %a a) = 750 && cat deep/b | wc -c";
    let (success, text) = ran(&mut ground.command(&["--parameter", "fileMode=0750", "--", "sh", "-c", script]));
    assert!(success, "{text}");
    for word in ["CreateVolume", "every byte is right", "DeleteVolume", "70000", "ratio to raw", "worker's peak memory"]
    {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
    ground.is_clean();
}

#[test]
fn what_is_mounted_read_only_is_read_and_not_written() {
    if !can_mount() {
        return;
    }
    let ground = Ground::new();
    let (ok, text) = ran(&mut ground.command(&["--parameter", "immutable=true"]));
    assert!(ok && text.contains("every byte is right") && text.contains("wrote no file"), "{text}");
    ground.is_clean();
}

#[test]
fn it_walks_on_an_nfs_server_too() {
    if !can_mount() || !requirement::met(&[requirement::GANESHA]) {
        return;
    }
    let ground = Ground::new();
    let script = "test -s a && test $(stat -c %u a) = 1000 && cat deep/b | wc -c";
    let (success, text) = ran(&mut ground.command(&["--store", "nfs", "--", "sh", "-c", script]));
    assert!(success, "{text}");
    for word in ["nfs-ganesha", "an NFS client put", "every byte is right", "DeleteVolume", "70000", "ratio to raw"] {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
    ground.is_clean();
}

#[test]
fn it_walks_on_an_hdfs_too() {
    if !can_mount() || !requirement::met(&[requirement::HADOOP]) {
        return;
    }
    let ground = Ground::new();
    let script = "test -s a && test $(stat -c %u a) = 1000 && cat deep/b | wc -c";
    let (success, text) = ran(&mut ground.command(&["--store", "hdfs", "--", "sh", "-c", script]));
    assert!(success, "{text}");
    for word in ["Hadoop", "an HDFS client put", "every byte is right", "DeleteVolume", "70000", "ratio to raw"] {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
    ground.is_clean();
    let (success, text) =
        ran(ground.command(&["--store", "hdfs"]).env("PATH", "/nonexistent").env_remove("MILLRACE_HADOOP"));
    assert!(!success && text.contains("default-jdk-headless") && text.contains("install.sh"), "{text}");
    ground.is_clean();
}

#[test]
fn a_failure_is_told_and_leaves_nothing() {
    if !can_mount() {
        return;
    }
    let ground = Ground::new();
    let (success, text) = ran(&mut ground.command(&["--", "sh", "-c", "exit 7"]));
    assert!(!success && text.contains("exit status: 7"), "{text}");
    ground.is_clean();
}

#[test]
fn ctrl_c_ends_a_kept_mount() {
    if !can_mount() {
        return;
    }
    let ground = Ground::new();
    let mut child = ground.command(&["--keep"]).stdout(Stdio::piped()).spawn().unwrap();
    let line = line_with(&mut child, "mounted at");
    let mount = Path::new(line.split_whitespace().nth(2).unwrap()).to_owned();
    assert_eq!(std::fs::read(mount.join("a")).unwrap(), std::fs::read(ground.data().join("a")).unwrap());
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    assert!(child.wait().unwrap().success());
    ground.is_clean();
}

#[test]
fn ctrl_c_in_the_middle_leaves_nothing() {
    if !can_mount() {
        return;
    }
    let ground = Ground::new();
    let arguments = ["--", "sleep", "60"];
    let mut child = ground.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    line_with(&mut child, "NodeGetVolumeStats");
    let begun = Instant::now();
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    let status = child.wait().unwrap();
    let mut told = String::new();
    child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert!(!status.success() && told.contains("interrupted"), "{told}");
    assert!(begun.elapsed() < Duration::from_secs(50));
    ground.is_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_walks_on_a_real_store() {
    if !can_mount() {
        return;
    }
    let Some(gateway) = Versitygw::start().await.unwrap() else { return };
    gateway.create_bucket("walk").await.unwrap();
    let policy = r#"{"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "s3:*", "Resource": ["arn:aws:s3:::walk", "arn:aws:s3:::walk/*"]}]}"#;
    let (key_id, secret) = gateway.user("walker", policy).await.unwrap();
    let ground = Ground::new();
    let keys = ground.dir.path().join("keys.yaml");
    std::fs::write(&keys, format!("key_id: {key_id}\naccess_key: {secret}\n")).unwrap();
    let endpoint = gateway.endpoint().to_owned();
    let arguments = ["--endpoint", &endpoint, "--bucket", "walk", "--prefix", "some/where", "--credentials"];
    let (success, text) = ran(ground.command(&arguments).arg(&keys));
    assert!(success && text.contains("every byte is right"), "{text}");
    assert!(!text.contains(&secret));
    ground.is_clean();
}

#[test]
fn it_walks_on_a_server_of_its_own_process() {
    if !can_mount() {
        return;
    }
    let ground = Ground::new();
    let (file, keys) = (ground.dir.path().join("s3.yaml"), ground.dir.path().join("keys.yaml"));
    let words = "
listen: 127.0.0.1:0
buckets: [walk]
users: [{keyId: walker, accessKey: walkers-secret, under: [walk/here/]}]
";
    std::fs::write(&file, words).unwrap();
    std::fs::write(&keys, "key_id: walker\naccess_key: walkers-secret\n").unwrap();
    let mut server = Command::new(BINARY).arg("serve-s3").arg(&file).stdout(Stdio::piped()).spawn().unwrap();
    let told: serde_json::Value = serde_json::from_str(&line_with(&mut server, "endpoint")).unwrap();
    let walk = |prefix: &str| {
        let endpoint = told["endpoint"].as_str().unwrap();
        let arguments = ["--endpoint", endpoint, "--bucket", "walk", "--prefix", prefix, "--credentials"];
        ran(ground.command(&arguments).arg(&keys))
    };
    let (success, text) = walk("here");
    assert!(success && text.contains("every byte is right"), "{text}");
    let (success, text) = walk("elsewhere");
    assert!(!success && !text.contains("walkers-secret"), "{text}");
    kill(Pid::from_raw(i32::try_from(server.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert!(server.wait().unwrap().success());
    ground.is_clean();
}

#[test]
fn it_walks_without_root() {
    if !can_mount() {
        return;
    }
    let ground = Ground::new();
    let binary = ground.dir.path().join("millrace");
    std::fs::copy(BINARY, &binary).unwrap();
    let node = ground.dir.path().join("fuse");
    // A /dev/fuse that everybody may open, in a mount namespace of this test's own.
    let script = format!(
        "mknod -m 666 {node} c 10 229 && mount --bind {node} /dev/fuse && \
         exec setpriv --reuid 65534 --regid 65534 --clear-groups {binary} try --data {data}",
        node = node.display(),
        binary = binary.display(),
        data = ground.data().display(),
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script]).env("TMPDIR", ground.tmp());
    let (success, text) = ran(command.stdin(Stdio::null()).current_dir("/"));
    assert!(success, "{text}");
    assert!(text.contains("not root") && text.contains("every byte is right"), "{text}");
    ground.is_clean();
}
