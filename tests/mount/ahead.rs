//! Files fetched before they are read, through the kernel: what of it the store sees, and `.millrace/ahead`.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Output;

use millrace::auth::{self, Credential, Secret};
use millrace::backend::Limits;
use millrace::backend::s3::Config as S3;
use millrace::sandbox::computed;
use millrace::sandbox::s3::{Conditions, Counters, Kind, Options, Server, User};

use super::*;

const BUCKET: &str = "data";
const SIZE: u64 = 100_000;
const NOBODY: u32 = 65_534;

/// A mount of the embedded server, 15 ms away, with `files` files in each of `dirs` directories.
struct OverS3 {
    mount: Mount,
    server: Server,
    _runtime: Runtime,
}

fn over_s3(dirs: u64, files: u64, config: vfs::Config) -> Option<OverS3> {
    if !requirement::met(&[Requirement::Root, Requirement::Fuse]) {
        return None;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let user = User::new("reader", "reader-secret");
    let conditions = Conditions { first_byte: Duration::from_millis(15), ..Conditions::default() };
    let options = Options { users: vec![user.clone()], buckets: vec![BUCKET.into()], conditions, ..Options::default() };
    let server = runtime.block_on(Server::start(options)).unwrap();
    for dir in 0..dirs {
        for file in 0..files {
            server.put_computed(BUCKET, &format!("{dir:02}/{file:05}"), dir * files + file, SIZE);
        }
    }
    let credential = Credential::S3 { key_id: user.key_id, secret_key: Secret::new(user.secret), session_token: None };
    let limits = Limits::alone(BUDGET, Duration::from_secs(60));
    let store = backend::Config::S3(S3::at(&server.endpoint(), BUCKET));
    let root = backend::Path::root();
    let backend = backend::connect(&store, auth::Current::from(&credential), &root, limits).unwrap();
    let mount = Mount::over(backend, Memory::new(), config, &fuse::Config::default())?;
    Some(OverS3 { mount, server, _runtime: runtime })
}

fn immutable() -> vfs::Config {
    vfs::Config { immutable: true, read_only: true, ..vfs::Config::default() }
}

fn read_whole(path: &Path, seed: u64) {
    let content = fs::read(path).unwrap();
    assert!(content.len() as u64 == SIZE && computed::matches(seed, 0, &content), "{path:?}");
}

fn metadata(counters: &Counters) -> (u64, u64) {
    (counters.of(Kind::HeadObject), counters.of(Kind::ListObjectsV2))
}

#[test]
fn a_directory_is_listed_by_its_pages_and_then_known() {
    const FILES: u64 = 20_000;
    let Some(rig) = over_s3(1, FILES, immutable()) else { return };
    let OverS3 { mount, server, .. } = &rig;
    mount.sh_ok("ls");
    server.reset_counters();
    let listed = mount.sh_ok("ls -l 00 | wc -l");
    assert_eq!(listed.trim(), (FILES + 1).to_string());
    let (heads, lists) = metadata(&server.counters());
    assert!(heads == 0 && lists <= 22, "{heads} HEAD, {lists} LIST");
    server.reset_counters();
    for file in (0..FILES).step_by(997) {
        read_whole(&mount.path(&format!("00/{file:05}")), file);
    }
    assert_eq!(metadata(&server.counters()), (0, 0));
    assert_eq!(server.counters().of(Kind::GetObject), FILES.div_ceil(997));
}

#[test]
fn names_without_attributes_are_enough_to_open_without_a_look() {
    const FILES: u64 = 3000;
    let config = vfs::Config { ttl: Duration::from_secs(600).into(), ..vfs::Config::default() };
    let Some(rig) = over_s3(1, FILES, config) else { return };
    let OverS3 { mount, server, .. } = &rig;
    // The kernel asks for attributes in the first reply of a listing, then no more.
    assert_eq!(fs::read_dir(mount.path("00")).unwrap().count() as u64, FILES);
    server.reset_counters();
    for file in (0..FILES).step_by(101) {
        read_whole(&mount.path(&format!("00/{file:05}")), file);
    }
    assert_eq!(metadata(&server.counters()), (0, 0));
}

#[test]
fn files_in_order_are_fetched_once_each_and_many_at_once() {
    const FILES: u64 = 600;
    let Some(rig) = over_s3(1, FILES, immutable()) else { return };
    let OverS3 { mount, server, .. } = &rig;
    mount.sh_ok("ls 00");
    server.reset_counters();
    let begun = Instant::now();
    for file in 0..FILES {
        read_whole(&mount.path(&format!("00/{file:05}")), file);
    }
    eprintln!("in order: {:.0} files/s", FILES as f64 / begun.elapsed().as_secs_f64());
    let counters = server.counters();
    assert_eq!((counters.of(Kind::GetObject), metadata(&counters)), (FILES, (0, 0)));
    assert_eq!(counters.body_bytes, FILES * SIZE);
}

/// Runs the Python module's own test against a mount, as a user who can see nothing of the checkout: from copies in
/// `place`.
fn python(place: &Path, mount: &Path, arguments: &[&str], uid: u32) -> Output {
    let modules = place.join("python");
    fs::create_dir_all(&modules).unwrap();
    for name in ["millrace_ahead.py", "check_on_mount.py"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(name);
        fs::copy(from, modules.join(name)).unwrap();
    }
    // The first on PATH may be in somebody's home.
    let program = Path::new("/usr/bin/python3");
    let mut command = Command::new(if program.exists() { program } else { Path::new("python3") });
    command.arg("-B").arg(modules.join("check_on_mount.py")).arg(mount).args(arguments);
    command.current_dir(place).uid(uid).gid(uid).output().unwrap()
}

#[test]
fn an_announced_shuffle_is_fetched_ahead_by_a_stranger_on_a_read_only_bind_mount() {
    const PYTHON: Requirement = Requirement::Program { variable: "MILLRACE_PYTHON", name: "python3" };
    const FILES: u64 = 400;
    if !requirement::met(&[PYTHON]) {
        return;
    }
    let config = vfs::Config { announce: true, ..vfs::Config::default() };
    let Some(rig) = over_s3(2, FILES / 2, config) else { return };
    let OverS3 { mount, server, .. } = &rig;
    let parent = tempfile::tempdir().unwrap();
    fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let bind = parent.path().join("bind");
    fs::create_dir(&bind).unwrap();
    let none: Option<&str> = None;
    nix::mount::mount(Some(&mount.dir), &bind, none, MsFlags::MS_BIND, none).unwrap();
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    nix::mount::mount(none, &bind, none, flags, none).unwrap();
    let refused = OpenOptions::new().write(true).open(bind.join(".millrace/ahead"));
    let shuffled = python(parent.path(), &bind, &["OnMount.test_a_shuffle_is_read_ahead_of"], NOBODY);
    let gets = server.counters().of(Kind::GetObject);
    // The rest: what was read once lies in the kernel's pages, of which no shuffle is read ahead.
    let others = [
        "OnMount.test_batches_are_announced_file_by_file",
        "OnMount.test_what_has_no_room_is_left",
        "OnMount.test_a_mount_without_it_is_read_all_the_same",
        "OnMount.test_the_directory_takes_orders_too_and_other_files_none",
    ];
    let all = python(parent.path(), &bind, &others, NOBODY);
    umount2(&bind, MntFlags::empty()).unwrap();
    assert_eq!(errno(refused), Errno::EROFS);
    for output in [shuffled, all] {
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{out}{err}");
        eprint!("{out}");
    }
    assert!(gets <= FILES + FILES / 50, "{gets} GETs for {FILES} files");
}

#[test]
fn the_control_file_is_there_for_who_knows_and_nothing_else_of_its_name() {
    let Some(mount) = Mount::new() else { return };
    mount.put(".millrace/volume.json", "{}");
    for file in 0..100 {
        mount.put(&format!("d/{file:02}"), "content");
    }
    assert_eq!(mount.sh_ok("ls -A"), "d\n");
    assert_eq!(mount.sh_ok("ls -A .millrace"), "ahead\n");
    assert_eq!(errno(fs::metadata(mount.path(".millrace/volume.json"))), Errno::ENOENT);
    assert_eq!(errno(fs::metadata(mount.path("d/.millrace"))), Errno::ENOENT);
    for refused in [
        "mkdir .millrace/x",
        "touch .millrace/x",
        "rm .millrace/ahead",
        "rmdir .millrace",
        "mv d .millrace/d",
        "mv .millrace d/x",
        "mv .millrace/ahead x",
        "mkdir .millrace",
        "chmod 600 .millrace/ahead",
    ] {
        assert!(!mount.sh(refused).status.success(), "{refused}");
    }
    // Lines may be written where the mount takes writes; their end may come later.
    let mut file = OpenOptions::new().read(true).write(true).open(mount.path(".millrace/ahead")).unwrap();
    file.write_all(b"d/00\n/d/01\n./d/02\n\nno/such/file\nd/.millrace/x\na//b\nd/0").unwrap();
    file.write_all(b"3\nd/04").unwrap();
    let progress = |file: &File, word: &str| -> u64 {
        let mut text = [0; 4096];
        let length = file.read_at(&mut text, 0).unwrap();
        let text = String::from_utf8_lossy(&text[..length]).into_owned();
        let line = text.lines().find_map(|line| line.strip_prefix(word)).unwrap_or_else(|| panic!("{word}: {text}"));
        line.trim().parse().unwrap()
    };
    assert_eq!((progress(&file, "announced"), progress(&file, "refused")), (5, 2));
    drop(file.try_clone().unwrap());
    mount.wait_for("the last line", || progress(&file, "announced") == 6);
    for name in ["d/00", "d/02"] {
        assert_eq!(fs::read(mount.path(name)).unwrap(), b"content");
    }
    assert_eq!((progress(&file, "read"), progress(&file, "position"), progress(&file, "ahead")), (2, 3, 6));
    // Bounded: a list that is too long is taken in part, and told so.
    let long: String = (0..50_000).map(|line| format!("some/directory/of/files/{line:06}\n")).collect();
    assert_eq!(errno(file.write_all(long.as_bytes())), Errno::ENOSPC);
    assert!(progress(&file, "announced") > 3000 && progress(&file, "room") < 200);
    // Another's order is his own, and a shell can announce.
    mount.sh_ok("printf 'd/10\\nd/11\\n' > .millrace/ahead");
    assert_eq!(progress(&File::open(mount.path(".millrace/ahead")).unwrap(), "announced"), 0);

    let Some(mount) = Mount::with(vfs::Config { announce: false, ..vfs::Config::default() }) else { return };
    assert_eq!(errno(fs::metadata(mount.path(".millrace"))), Errno::ENOENT);
    assert_eq!(errno(fs::create_dir(mount.path(".millrace"))), Errno::EPERM);
}
