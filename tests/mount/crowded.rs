//! More files than a worker may remember: what the kernel holds of those that nobody uses is given back.

use std::process::Stdio;

use super::*;

const BUDGET: u64 = 8 << 20;
/// A quarter of the budget, at 360 bytes each.
const MOST: u64 = BUDGET / 4 / 360;

/// Linux 6.18 is the first that gives inodes back when it is asked.
fn kernel_prunes() -> bool {
    let release = nix::sys::utsname::uname().unwrap().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(18))
}

#[test]
fn inodes_that_nobody_uses_are_given_back_and_others_are_not() {
    let store = Memory::new();
    let (dirs, files) = (20, 1000);
    for dir in 0..dirs {
        for file in 0..files {
            store.put(&backend::Path::parse(&format!("{dir:02}/{file:03}")).unwrap(), format!("{dir} {file}"));
        }
    }
    let backend: Arc<dyn Backend> = Arc::new(store.clone());
    // Believed for ever, so that nothing but what is asked for makes the kernel forget.
    let config = vfs::Config { immutable: true, read_only: true, ..vfs::Config::default() };
    let Some(mount) = Mount::within(BUDGET, backend, store, config, &fuse::Config::default()) else { return };
    let open = File::open(mount.path("00/000")).unwrap();
    let bound = mount.path("01");
    let mut there = Command::new("sleep").arg("60").current_dir(&bound).stdin(Stdio::null()).spawn().unwrap();
    let number = open.metadata().unwrap().ino();
    for _ in 0..2 {
        mount.sh_ok("find . -type f -printf '%s\\n' | wc -l");
    }
    let held = || mount.vfs.usage().inodes;
    if kernel_prunes() {
        mount.wait_for("unused inodes to be given back", || held() <= MOST + 1024);
    } else {
        assert!(held() > dirs * files);
    }
    // What is in use is as it was: the file, and somebody's working directory.
    let mut text = String::new();
    (&open).read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), open.metadata().unwrap().ino()), ("0 0", number));
    let cwd = fs::read_link(format!("/proc/{}/cwd", there.id())).unwrap();
    assert_eq!(cwd, bound, "it is not (deleted)");
    assert!(fs::read_dir(format!("/proc/{}/cwd", there.id())).unwrap().count() as u64 == files);
    there.kill().unwrap();
    there.wait().unwrap();
    // And the others are found again.
    assert_eq!(fs::read_to_string(mount.path("19/999")).unwrap(), "19 999");
    assert_eq!(fs::read_to_string(mount.path("00/001")).unwrap(), "0 1");
}
