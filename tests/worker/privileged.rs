//! A volume of nfs-ganesha that takes calls from privileged ports alone, which a worker may not bind.

use std::os::unix::fs::chown;

use super::*;
use millrace::backend::nfs as export;
use millrace::sandbox::ganesha::Ganesha;

const UID: u32 = 1000;

/// A call that waits longer has met nobody who makes a connection.
const PATIENCE: Duration = Duration::from_secs(3);

struct Filer {
    server: Ganesha,
    guarded: PathBuf,
}

impl Filer {
    fn start(rig: &Rig) -> Option<Filer> {
        let guarded = |home: &Path| {
            fs::create_dir_all(home.join("guarded/data")).unwrap();
            format!(
                "EXPORT {{ Export_Id = 3; Path = \"{}/guarded\"; Pseudo = /guarded; PrivilegedPort = true; \
                 FSAL {{ Name = VFS; }} }}",
                home.display()
            )
        };
        let server = rig.runtime.block_on(Ganesha::start_with(guarded)).unwrap()?;
        let guarded = server.root().with_file_name("guarded");
        chown(guarded.join("data"), Some(UID), Some(UID)).unwrap();
        Some(Filer { server, guarded })
    }

    fn request(&self, rig: &Rig, privileged_ports: bool) -> Publish {
        let (port, mount_port) = (self.server.port(), self.server.mount_port());
        let config = export::Config::at("127.0.0.1", self.guarded.to_str().unwrap(), port, mount_port);
        let mut request = rig.request_of("team", "a");
        request.spec.backend = backend::Config::Nfs(export::Config { privileged_ports, ..config });
        request.spec.options.timeout = PATIENCE;
        request.credential = Credential::Sys { uid: UID, gid: UID, groups: vec![] };
        request
    }
}

/// Writes a file through the mount, and looks at what arrives.
fn put(rig: &Rig, filer: &Filer, name: &str) -> std::io::Result<()> {
    fs::write(rig.target("a").join(name), noise(2_000_000))?;
    assert!(fs::read(filer.guarded.join("data").join(name)).unwrap() == noise(2_000_000));
    Ok(())
}

#[test]
fn a_worker_is_given_privileged_ports_and_keeps_being_given_them() {
    let Some(rig) = Rig::new() else { return };
    let Some(mut filer) = Filer::start(&rig) else { return };
    // A node plugin that ends when its runtime does.
    let first = Runtime::new().unwrap();
    let workers = first.block_on(Workers::start(config(&rig.state(), SOON))).unwrap();
    let refused = first.block_on(workers.publish(filer.request(&rig, false)));
    assert!(
        matches!(&refused, Err(Error::Store { kind: ErrorKind::Misconfigured, message }) if message.contains("privilegedPorts: true")),
        "{refused:?}"
    );
    first.block_on(workers.publish(filer.request(&rig, true))).unwrap();
    let worker = rig.worker();
    put(&rig, &filer, "first").unwrap();
    rig.runtime.block_on(filer.server.restart()).unwrap();
    put(&rig, &filer, "after the server's restart").unwrap();

    drop(workers);
    first.shutdown_timeout(SOON);
    // With the connections that are there.
    put(&rig, &filer, "without a node plugin").unwrap();
    rig.runtime.block_on(filer.server.restart()).unwrap();
    assert_eq!(errno(fs::metadata(rig.target("a").join("none"))), Errno::EIO);

    let workers = rig.workers();
    eventually("the next node plugin makes connections", || put(&rig, &filer, "next").is_ok());
    assert_eq!(rig.worker(), worker);
    rig.runtime.block_on(filer.server.restart()).unwrap();
    put(&rig, &filer, "and goes on").unwrap();
    rig.unpublish(&workers, "a").unwrap();
    rig.assert_clean(&[worker]);
}
