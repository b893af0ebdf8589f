//! Files that the kernel opens without asking.

use super::*;

nix::ioctl_write_buf!(announce, b'M', 1, u8);

fn unopened() -> Option<Mount> {
    let store = Memory::new();
    let backend: Arc<dyn Backend> = Arc::new(store.clone());
    let config = vfs::Config { immutable: true, read_only: true, ..vfs::Config::default() };
    let serve = fuse::Config { skip_opens: true, passthrough: true, ..fuse::Config::default() };
    Mount::over(backend, store, config, &serve)
}

#[test]
fn files_are_read_without_a_handle() {
    let Some(mount) = unopened() else { return };
    assert!(!mount.session.passes());
    let large = pattern(9_000_001);
    mount.put("d/large", large.clone());
    mount.put("empty", "");
    for number in 0..600 {
        mount.put(&format!("small/{number}"), format!("content of {number}"));
    }
    for _ in 0..2 {
        assert!(fs::read(mount.path("d/large")).unwrap() == large);
        assert_eq!(fs::read(mount.path("empty")).unwrap(), b"");
        for number in 0..600 {
            let path = mount.path(&format!("small/{number}"));
            assert_eq!(fs::read_to_string(path).unwrap(), format!("content of {number}"));
        }
    }
    let file = File::open(mount.path("d/large")).unwrap();
    let mut part = [0; 100];
    file.read_exact_at(&mut part, 8_999_901).unwrap();
    assert_eq!(part, large[8_999_901..]);
    assert_eq!((&file).seek(SeekFrom::End(0)).unwrap(), 9_000_001);
    let seek = |at, what| nix::unistd::lseek(&file, at, what).unwrap();
    assert_eq!(seek(5, nix::unistd::Whence::SeekHole), 9_000_001);
    assert_eq!(seek(5, nix::unistd::Whence::SeekData), 5);
    file.sync_all().unwrap();
    assert_eq!(errno(fs::read(mount.path("small/none"))), Errno::ENOENT);
    // One program holds it open while others come and go; a mapping is read too.
    assert_eq!(mount.sh_ok("for i in 1 2 3; do cmp d/large d/large && tail -c 3 small/599; done"), "599599599");
}

/// Nobody else's order is changed by who has no handle, and the directory's handle says whose it is.
#[test]
#[expect(unsafe_code, reason = "an ioctl has no safe wrapper")]
fn an_order_is_announced_on_the_opened_directory() {
    let Some(mount) = unopened() else { return };
    for number in 0..50 {
        mount.put(&format!("f{number:02}"), pattern(1000));
    }
    let said = |path: &str| {
        let opened = File::open(mount.path(path)).unwrap();
        // SAFETY: the kernel reads the length that the request names, of a slice that lives on.
        (unsafe { announce(opened.as_raw_fd(), b"f10\nf20\n") }, opened)
    };
    let (taken, order) = said(".millrace");
    assert_eq!(taken, Ok(8));
    assert_eq!(said(".millrace/ahead").0, Err(Errno::ENOTTY));
    assert_eq!(said("f00").0, Err(Errno::ENOTTY));
    for number in [10, 20, 0, 30] {
        assert_eq!(fs::read(mount.path(&format!("f{number:02}"))).unwrap(), pattern(1000));
    }
    drop(order);
}
