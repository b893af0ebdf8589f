//! The image's root file system, which the Dockerfile and `pack` both take from `deploy/image/collect`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use millrace::sandbox::requirement::{self, Requirement};

const BINARY: &str = env!("CARGO_BIN_EXE_millrace");
/// What is there beside the binary and the libraries it loads.
const FILES: &[&str] =
    &["etc/group", "etc/nsswitch.conf", "etc/passwd", "etc/ssl/certs/ca-certificates.crt", "usr/bin/millrace"];
/// Of libraries, certificates and words.
const MOST_BESIDE_THE_BINARY: u64 = 8 << 20;
/// Of all, with a binary that is not optimized and has the embedded server.
const MOST: u64 = 128 << 20;

fn image_folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/image"))
}

fn collected(root: &Path) {
    let status = Command::new(image_folder().join("collect")).arg(BINARY).arg(root).status().unwrap();
    assert!(status.success(), "collect: {status}");
}

/// Every file below `root` by its path there: mode and size.
fn files(root: &Path, dir: &Path, found: &mut BTreeMap<String, (u32, u64)>) {
    for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            files(root, &path, found);
        } else {
            assert!(meta.is_file(), "{} is neither file nor directory", path.display());
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            found.insert(name, (meta.mode() & 0o7777, meta.size()));
        }
    }
}

#[test]
fn the_image_holds_the_binary_what_it_loads_and_little_else() {
    let dir = tempfile::tempdir().unwrap();
    collected(dir.path());
    let mut found = BTreeMap::new();
    files(dir.path(), dir.path(), &mut found);
    let (libraries, others): (Vec<_>, Vec<_>) = found.keys().partition(|name| name.contains(".so"));
    assert_eq!(others, FILES);
    for name in ["libc.so", "libgssapi_krb5.so.2", "libkrb5.so"] {
        assert!(libraries.iter().any(|library| library.contains(name)), "{name}: {libraries:?}");
    }
    assert!(libraries.iter().all(|name| name.starts_with("lib")), "{libraries:?}");
    for (name, (mode, size)) in &found {
        println!("{mode:o} {size:>9} {name}");
        assert_eq!(mode & 0o7022, 0, "{name} is setuid, or others may write it");
    }
    let whole: u64 = found.values().map(|(_, size)| size).sum();
    assert!(whole <= MOST, "{whole} bytes in the image");
    assert!(found["usr/bin/millrace"].1 < fs::metadata(BINARY).unwrap().len(), "the binary is not stripped");
    let beside: u64 = found.iter().filter(|(name, _)| *name != "usr/bin/millrace").map(|(_, (_, size))| size).sum();
    assert!(beside <= MOST_BESIDE_THE_BINARY, "{beside} bytes beside the binary");
}

#[test]
fn the_binary_starts_in_the_image_as_its_user() {
    if !requirement::met(&[Requirement::Root]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    collected(dir.path());
    let output = Command::new("chroot")
        .args(["--userspec", "65532:65532"])
        .arg(dir.path())
        .args(["/usr/bin/millrace", "--version"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn both_ways_to_an_image_take_what_collect_gives() {
    let text = |name: &str| fs::read_to_string(image_folder().join(name)).unwrap();
    let (dockerfile, pack) = (text("Dockerfile"), text("pack"));
    let build = "cargo build --release --locked --no-default-features --bin millrace";
    for (name, text) in [("Dockerfile", &dockerfile), ("pack", &pack)] {
        assert!(text.contains(build), "{name} builds something else");
        assert!(text.contains("/usr/bin/millrace") && text.contains("65532:65532"), "{name}: entry point or user");
    }
    let copied: Vec<_> =
        dockerfile.lines().filter(|line| line.starts_with("COPY --from") || line.starts_with("ADD")).collect();
    assert_eq!(copied, ["COPY --from=build /root-fs /"]);
    assert!(dockerfile.contains("RUN deploy/image/collect target/release/millrace /root-fs"));
    assert!(pack.contains("\"$here/collect\" \"$target/release/millrace\" \"$root/fs\""));
}
