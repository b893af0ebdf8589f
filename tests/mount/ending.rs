//! What ends: a program that is killed, a store that hangs, a connection that is cut.

use super::*;

/// A store that never answers for names that begin with `stuck`.
#[derive(Debug)]
struct Stuck(Memory);

impl Stuck {
    async fn wait(path: &backend::Path) {
        if path.split_last().is_some_and(|(_, name)| name.as_bytes().starts_with(b"stuck")) {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait::async_trait]
impl Backend for Stuck {
    fn traits(&self) -> backend::Traits {
        self.0.traits()
    }

    async fn stat(&self, path: &backend::Path) -> backend::Result<backend::Meta> {
        Stuck::wait(path).await;
        self.0.stat(path).await
    }

    fn list(&self, dir: &backend::Path) -> BoxStream<'static, backend::Result<backend::Entry>> {
        self.0.list(dir)
    }

    async fn read(
        &self,
        file: &backend::Version,
        range: Range<u64>,
        why: Intent,
    ) -> backend::Result<BoxStream<'static, backend::Result<Bytes>>> {
        if file.path.as_bytes() == b"unread" {
            std::future::pending::<()>().await;
        }
        self.0.read(file, range, why).await
    }

    async fn fetch(
        &self,
        path: &backend::Path,
        longest: u64,
        known: Option<&backend::Version>,
    ) -> backend::Result<backend::Fetched> {
        self.0.fetch(path, longest, known).await
    }

    async fn create(
        &self,
        path: &backend::Path,
        how: backend::CreateOptions,
    ) -> backend::Result<Box<dyn backend::Upload>> {
        self.0.create(path, how).await
    }

    async fn make_dir(&self, path: &backend::Path) -> backend::Result<backend::Meta> {
        self.0.make_dir(path).await
    }

    async fn remove(&self, path: &backend::Path, kind: backend::Kind) -> backend::Result<()> {
        self.0.remove(path, kind).await
    }

    async fn rename(
        &self,
        from: &backend::Path,
        to: &backend::Path,
        how: backend::RenameOptions,
    ) -> backend::Result<backend::Meta> {
        self.0.rename(from, to, how).await
    }
}

#[test]
fn a_store_that_hangs_fails_its_callers_and_nobody_else() {
    let store = Memory::new();
    let serve = fuse::Config { timeout: Duration::from_secs(3).into(), threads: 2, ..fuse::Config::default() };
    let backend = Arc::new(Stuck(store.clone()));
    let Some(mount) = Mount::over(backend, store, vfs::Config::default(), &serve) else { return };
    mount.put("f", "content");
    mount.put("unread", "never");
    mount.put("d/other", "x");
    fs::metadata(mount.path("d")).unwrap();
    let begun = Instant::now();
    let stuck: Vec<_> = (0..8)
        .map(|i| {
            let path = mount.path(&if i == 0 { "unread".into() } else { format!("stuck-{i}") });
            std::thread::spawn(move || errno(fs::read(path)))
        })
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    // More callers hang than threads read requests, in this very directory.
    assert_eq!(fs::read(mount.path("f")).unwrap(), b"content");
    assert_eq!(fs::read_dir(&mount.dir).unwrap().count(), 3);
    // In a directory of its own: the kernel makes no name where one is being looked up.
    fs::write(mount.path("d/g"), "new").unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3), "they waited for the deadline of others");
    for caller in stuck {
        assert_eq!(caller.join().unwrap(), Errno::EIO);
    }
}

#[test]
fn a_killed_program_counts_as_closed() {
    let Some(mount) = Mount::new() else { return };
    let mut child = Command::new("sh")
        .args(["-c", "exec > f; echo begun; read forever"])
        .stdin(std::process::Stdio::piped())
        .current_dir(&mount.dir)
        .spawn()
        .unwrap();
    mount.wait_for("the program to write", || fs::metadata(mount.path("f")).is_ok_and(|meta| meta.len() == 6));
    assert_eq!(mount.stored("f"), None);
    child.kill().unwrap();
    child.wait().unwrap();
    mount.wait_for("its file", || mount.stored("f").is_some_and(|content| content == b"begun\n"));
}

#[test]
fn an_aborted_connection_ends_the_session() {
    let Some(mount) = Mount::new() else { return };
    let mut file = File::create(mount.path("f")).unwrap();
    file.write_all(b"in the middle of").unwrap();
    let minor = nix::sys::stat::minor(fs::metadata(&mount.dir).unwrap().dev());
    let abort = format!("/sys/fs/fuse/connections/{minor}/abort");
    if fs::metadata(&abort).is_err() {
        eprintln!("skipped: no {abort}");
        return;
    }
    fs::write(abort, "1").unwrap();
    assert!(file.write_all(b"something").is_err());
    mount.runtime.block_on(mount.session.ended()).unwrap();
    drop(file);
    // Half a file is not a file.
    assert_eq!(mount.stored("f"), None);
}
