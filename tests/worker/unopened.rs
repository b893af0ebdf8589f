//! Immutable volumes whose files the kernel opens without asking the worker.

use std::sync::mpsc;

use super::*;

#[test]
fn what_was_read_is_opened_and_read_again_without_the_worker() {
    let Some(rig) = Rig::new() else { return };
    let files: Vec<_> = (0..20).map(|at| (format!("f-{at}"), rig.put_random(&format!("f-{at}"), 30_000))).collect();
    let workers = rig.caching_workers();
    // Also in the place of passthrough, where there is a disk cache.
    for cached in [false, true] {
        let mut request = if cached { rig.cached("a") } else { rig.request("a") };
        request.spec.read_only = true;
        (request.spec.options.immutable, request.spec.options.skip_opens) = (true, true);
        rig.publish(&workers, request).unwrap();
        let root = rig.target("a");
        // As `ls -l` and `cp` ask of each file.
        let has_no_attributes = |file: &Path| {
            let mut value = [0_u8; 64];
            rustix::fs::getxattr(file, "security.capability", &mut value) == Err(rustix::io::Errno::OPNOTSUPP)
        };
        let read_all = move |root: &Path, files: &[(String, Vec<u8>)]| {
            files
                .iter()
                .map(|(name, bytes)| (root.join(name), bytes))
                .all(|(file, bytes)| fs::read(&file).unwrap() == *bytes && has_no_attributes(&file))
        };
        assert!(read_all(&root, &files));
        let worker = rig.worker();
        freeze(worker);
        let (tell, told) = mpsc::channel();
        let again = files.clone();
        std::thread::spawn(move || tell.send(read_all(&root, &again)));
        let heard = told.recv_timeout(SOON);
        kill(worker, Signal::SIGCONT).unwrap();
        assert_eq!(heard, Ok(true), "cached: {cached}");
        assert_eq!(errno(fs::File::options().write(true).open(rig.target("a").join("f-0"))), Errno::EROFS);
        rig.unpublish(&workers, "a").unwrap();
    }
}
