//! Objects that are replaced under those who read and map them, with the disk cache in between.

use std::os::unix::process::ExitStatusExt;

use super::*;

/// Reads and maps the file at `argv[1]` until `argv[2]` seconds are over; each version of it is one word of eight bytes,
/// again and again. Prints a line for each version that it saw; ends with 3 where it saw two in one.
const READER: &str = r"
import mmap, os, sys, time
end = time.time() + float(sys.argv[2])
seen = set()
while time.time() < end:
    try:
        f = os.open(sys.argv[1], os.O_RDONLY)
    except OSError as e:
        assert e.errno == 116, e
        continue
    try:
        n = os.fstat(f).st_size
        m = mmap.mmap(f, 0, prot=mmap.PROT_READ)
        for b in (os.pread(f, n, 0), m[:], os.pread(f, n // 2, n // 4 // 8 * 8)):
            if b != b[:8] * (len(b) // 8):
                sys.exit(3)
            if b[:8] not in seen:
                seen.add(b[:8])
                print(flush=True)
    except OSError as e:
        assert e.errno == 116, e
    finally:
        os.close(f)
";

fn reader(rig: &Rig, seconds: f64) -> Child {
    Command::new("python3")
        .args(["-c", READER, rig.target("a").join("f").to_str().unwrap(), &seconds.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn rewritten(read_only: bool) {
    let Some(rig) = Rig::new() else { return };
    let put = |version: u64| {
        let words = (1 << 18) + (version as usize % 7) * 1000;
        rig.server.put("bucket", "data/f", version.to_le_bytes().repeat(words));
    };
    put(1);
    let workers = rig.caching_workers();
    let mut request = rig.cached("a");
    request.spec.read_only = read_only;
    request.spec.options.ttl = Duration::ZERO;
    rig.publish(&workers, request).unwrap();
    let end = Instant::now() + Duration::from_secs(6);
    let mut readers: Vec<_> = (0..4).map(|_| reader(&rig, 6.0)).collect();
    let mut seen = 0;
    let mut version = 1;
    // A page of a mapping that the store has no more is a SIGBUS.
    let mut end_of = |child: Child| {
        let output = child.wait_with_output().unwrap();
        let status = output.status;
        assert!(status.success() || status.signal() == Some(Signal::SIGBUS as i32), "{status}");
        seen += output.stdout.len();
    };
    while Instant::now() < end {
        version += 1;
        put(version);
        // Long enough that some of them are read whole, and the kernel comes to read them by itself.
        std::thread::sleep(Duration::from_millis(if version.is_multiple_of(4) { 1000 } else { 60 }));
        for child in &mut readers {
            if child.try_wait().unwrap().is_some() {
                let left = end.saturating_duration_since(Instant::now());
                end_of(std::mem::replace(child, reader(&rig, left.as_secs_f64())));
            }
        }
    }
    for mut child in readers {
        // Nobody waits for what never comes.
        eventually("a reader ends", || child.try_wait().unwrap().is_some());
        end_of(child);
    }
    assert!(seen > 1 && version > 8, "{seen} of {version}");
    let newest = fs::read(rig.target("a").join("f")).unwrap();
    assert_eq!(newest[..8], version.to_le_bytes());
    rig.unpublish(&workers, "a").unwrap();
}

#[test]
fn no_read_and_no_mapping_is_torn_on_a_writable_mount() {
    rewritten(false);
}

#[test]
fn no_read_and_no_mapping_is_torn_where_the_kernel_reads_the_cache() {
    rewritten(true);
}
