//! What a volume of every server of files does, whichever it is.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;

use super::silent::{ANSWERED, GONE, killed, quietly, waits};
use super::*;

/// A frozen server is given up on after this.
pub(super) const PATIENCE: Duration = Duration::from_secs(8);

/// Its file `large`, of so many bytes.
pub(super) const LARGE: usize = 4 << 20;

/// Freezes the server while `large` is read at target `a`: who is killed is gone, what asks nothing of the server goes
/// on, target `b` is unpublished, and who waits is told within [`PATIENCE`]. It stays frozen.
pub(super) fn holds_nobody_while_frozen(rig: &Rig, workers: &Workers, freeze: impl FnOnce()) {
    let large = rig.target("a").join("large");
    // Opened before, so that reads wait, and not the opening.
    let open: Vec<File> = (0..4).map(|_| File::open(&large).unwrap()).collect();
    freeze();
    let begun = Instant::now();
    let late = std::thread::spawn(move || {
        (errno(File::open(large).and_then(|file| file.read_at(&mut [0; 10], 1 << 20))), Instant::now())
    });
    let readers: Vec<_> =
        open.into_iter().map(|file| quietly(Command::new("dd").args(["iflag=direct", "bs=1M"]).stdin(file))).collect();
    eventually("all readers wait", || readers.iter().all(waits));
    assert!(killed(readers) < GONE);
    let asked = Instant::now();
    nix::sys::statvfs::statvfs(&rig.target("a")).unwrap();
    rig.usage(workers, "a").unwrap();
    rig.unpublish(workers, "b").unwrap();
    assert!(asked.elapsed() < ANSWERED, "they took {:?}", asked.elapsed());
    let (outcome, when) = late.join().unwrap();
    assert_eq!(outcome, Errno::EIO);
    // Once, though the kernel looks twice.
    assert!(when - begun < PATIENCE + Duration::from_secs(6), "{:?}", when - begun);
}

/// A file in `dir` is removed, and then replaced, while it is open: it is written and read on. `open` is called while it
/// still is, and `closed` afterwards.
pub(super) fn an_open_file_outlives_its_name(dir: &Path, open: impl Fn(), closed: impl Fn()) {
    let at = |name: &str| dir.join(name);
    for replaced in [false, true] {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(at("file")).unwrap();
        file.write_all(b"before").unwrap();
        if replaced {
            fs::write(at("new"), "another").unwrap();
            fs::rename(at("new"), at("file")).unwrap();
        } else {
            fs::remove_file(at("file")).unwrap();
            assert_eq!(errno(fs::metadata(at("file"))), Errno::ENOENT);
        }
        file.write_all(b" and after").unwrap();
        let mut content = vec![0; 16];
        file.read_exact_at(&mut content, 0).unwrap();
        assert_eq!(content, b"before and after");
        open();
        drop(file);
        closed();
    }
    assert_eq!(fs::read(at("file")).unwrap(), b"another");
}
