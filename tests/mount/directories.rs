//! Directories: their entries, their offsets, their numbers.

use super::*;

#[test]
fn removing_twenty_thousand_entries_misses_none() {
    let Some(mount) = Mount::new() else { return };
    for i in 0..20_000 {
        mount.put(&format!("d/{i:05}"), "");
    }
    assert_eq!(fs::read_dir(mount.path("d")).unwrap().count(), 20_000);
    mount.sh_ok("rm -r d");
    assert_eq!(errno(fs::metadata(mount.path("d"))), Errno::ENOENT);
}

#[test]
fn a_directory_offset_keeps_its_meaning() {
    let Some(mount) = Mount::new() else { return };
    for i in 0..3_000 {
        mount.put(&format!("d/{i:05}"), "x");
    }
    let script = r#"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
class Dirent(ctypes.Structure):
    _fields_ = [('ino', ctypes.c_uint64), ('off', ctypes.c_int64), ('reclen', ctypes.c_uint16), ('type', ctypes.c_uint8), ('name', ctypes.c_char * 256)]
libc.opendir.restype = ctypes.c_void_p
libc.readdir.restype = ctypes.POINTER(Dirent)
for f in (libc.readdir, libc.telldir, libc.rewinddir): f.argtypes = [ctypes.c_void_p]
libc.telldir.restype = ctypes.c_long
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
d = libc.opendir(b'd')
names, marks = [], []
while True:
    mark = libc.telldir(d)
    e = libc.readdir(d)
    if not e: break
    names.append(e.contents.name); marks.append(mark)
assert len(names) == 3002 and len(set(names)) == 3002, len(names)
for n in names[10:1500]:
    if not n.startswith(b'.'): os.unlink(b'd/' + n)
for i in (2000, 5, 2999, 1600):
    libc.seekdir(d, marks[i])
    assert libc.readdir(d).contents.name == names[i], i
    os.stat(b'd/' + names[i])
libc.rewinddir(d)
again = 0
while libc.readdir(d): again += 1
assert again == 3002 - 1490, again
print('ok')
"#;
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("skipped: no python3");
        return;
    }
    let output = Command::new("python3").args(["-c", script]).current_dir(&mount.dir).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ok\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn numbers_of_entries_are_the_files_numbers() {
    let Some(mount) = Mount::new() else { return };
    mount.put("a", "1");
    mount.put("d/b", "2");
    for dir in [mount.dir.clone(), mount.path("d")] {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.ino(), fs::metadata(entry.path()).unwrap().ino(), "{:?}", entry.path());
        }
    }
}
