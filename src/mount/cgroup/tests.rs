//! Where cgroups are found, as a table; version 2 on a directory that looks like one. Version 1 is proved by real kills
//! (tests/worker).

use super::*;

const V1: &str = "30 24 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                  31 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
const V2: &str = "29 23 0:25 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
/// A container without a cgroup namespace sees its own part alone.
const V1_CONTAINER: &str = "31 24 0:27 /kubepods/pod1/c1 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

#[test]
fn the_own_cgroup_is_found_where_it_is_mounted() {
    let hybrid = format!("{V1}{}", V2.replace("/sys/fs/cgroup rw", "/sys/fs/cgroup/unified rw"));
    let found: &[(&str, &str, Version, &str)] = &[
        ("5:cpu:/\n4:memory:/kubepods/a\n0::/\n", V1, Version::V1, "/sys/fs/cgroup/memory/kubepods/a"),
        ("4:hugetlb,memory:/a\n0::/b\n", &hybrid, Version::V1, "/sys/fs/cgroup/memory/a"),
        ("4:memory:/kubepods/pod1/c1\n", V1_CONTAINER, Version::V1, "/sys/fs/cgroup/memory"),
        ("4:memory:/kubepods/pod1/c1/in:side\n", V1_CONTAINER, Version::V1, "/sys/fs/cgroup/memory/in:side"),
        ("0::/\n", V2, Version::V2, "/sys/fs/cgroup"),
        ("0::/system.slice/kubelet.service\n", V2, Version::V2, "/sys/fs/cgroup/system.slice/kubelet.service"),
    ];
    for (cgroups, mounts, version, dir) in found {
        assert_eq!(find(cgroups, mounts), Ok((*version, PathBuf::from(dir))), "{cgroups}");
    }
    let not_found = [
        ("4:memory:/kubepods/pod2/c2\n", V1_CONTAINER, "/kubepods/pod2/c2"),
        // Left behind by a cgroup namespace.
        ("0::/../other\n", "29 23 0:25 /x /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "/../other"),
        ("4:memory:/a\n", V2, "not mounted"),
        ("5:cpu:/\n", V1, "no memory cgroup"),
        ("rubbish\n", "rubbish\n", "no memory cgroup"),
    ];
    for (cgroups, mounts, why) in not_found {
        let error = find(cgroups, mounts).unwrap_err();
        assert!(error.contains(why), "{cgroups}: {error}");
    }
}

/// A directory with the files that the kernel would make.
struct Fake(tempfile::TempDir);

impl Fake {
    fn new(controllers: &str) -> Fake {
        let fake = Fake(tempfile::tempdir().unwrap());
        for (name, text) in [
            ("cgroup.controllers", controllers),
            ("cgroup.subtree_control", ""),
            ("cgroup.procs", ""),
            ("memory.oom.group", "1\n"),
        ] {
            fs::write(fake.path(name), text).unwrap();
        }
        fake.child("millrace-plugin", &["cgroup.procs"]);
        fake
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn child(&self, name: &str, files: &[&str]) {
        fs::create_dir(self.path(name)).unwrap();
        for file in files {
            fs::write(self.path(name).join(file), "").unwrap();
        }
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }
}

const WORKER: [&str; 5] = ["cgroup.procs", "memory.max", "memory.swap.max", "memory.oom.group", "memory.events"];

#[tokio::test]
async fn version_2_moves_the_node_plugin_to_a_leaf_and_limits_each_worker() {
    let fake = Fake::new("cpu memory pids\n");
    let own = v2::prepare(fake.0.path()).unwrap();
    assert_eq!(own, fake.0.path());
    assert_eq!(fake.text("millrace-plugin/cgroup.procs"), "0");
    assert_eq!(fake.text("cgroup.subtree_control"), "+memory");
    // Of the worker alone.
    assert!(fake.text("memory.oom.group").starts_with('0'));
    // The next one, started in the leaf.
    assert_eq!(v2::prepare(&fake.path("millrace-plugin")).unwrap(), fake.0.path());

    let cgroups = Cgroups::at((Version::V2, own), Path::new("/state"));
    let mount = MountId::random();
    let name = format!("{}{mount}", cgroups.prefix);
    fake.child(&name, &WORKER);
    let cgroup = cgroups.make(&mount, 32 << 20).unwrap().unwrap();
    cgroup.take(4321).unwrap();
    let text = |file: &str| fake.text(&format!("{name}/{file}"));
    assert_eq!(text("memory.max"), (128u64 << 20).to_string());
    assert_eq!((text("memory.swap.max").as_str(), text("memory.oom.group").as_str()), ("0", "1"));
    assert_eq!(text("cgroup.procs"), "4321");

    cgroup.raise(16 << 20).unwrap();
    assert_eq!(text("memory.max"), (128u64 << 20).to_string());
    cgroup.raise(64 << 20).unwrap();
    assert_eq!(text("memory.max"), (160u64 << 20).to_string());

    let events = fake.path(&name).join("memory.events");
    fs::write(&events, "oom 1\noom_kill 0\noom_group_kill 0\n").unwrap();
    assert_eq!(cgroup.was_exceeded(), None);
    fs::write(&events, "oom 1\noom_kill 1\noom_group_kill 1\n").unwrap();
    assert_eq!(cgroup.was_exceeded(), Some(160 << 20));

    // Another node plugin's and the leaf are none of its own.
    let other = Cgroups::at((Version::V2, fake.0.path().to_owned()), Path::new("/other"));
    fake.child(&format!("{}{}", other.prefix, MountId::random()), &[]);
    assert_eq!(cgroups.mounts().unwrap(), std::slice::from_ref(&mount));
    // The kernel's files go with the cgroup; these do not.
    for file in WORKER {
        fs::remove_file(fake.path(&name).join(file)).unwrap();
    }
    cgroups.remove(&mount).await.unwrap();
    cgroups.remove(&mount).await.unwrap();
    assert!(cgroups.mounts().unwrap().is_empty() && !fake.path(&name).exists());
}

#[test]
fn where_memory_is_not_counted_or_nothing_may_be_written_there_are_none() {
    let error = v2::prepare(Fake::new("cpu pids\n").0.path()).unwrap_err();
    assert!(error.to_string().contains("no memory controller"), "{error}");
    let fake = Fake::new("memory\n");
    fs::remove_file(fake.path("cgroup.subtree_control")).unwrap();
    assert!(v2::prepare(fake.0.path()).is_err());
    // Put back to where it was.
    assert_eq!(fake.text("cgroup.procs"), "0");
    assert!(v1::prepare(Path::new("/nowhere/at/all")).is_err());
}
