//! Files written in order: what is in the store, and when.

use super::*;

#[test]
fn what_is_written_in_order_is_stored_whole() {
    let Some(mount) = Mount::new() else { return };
    let content = pattern(5_000_001);
    fs::write(mount.path("f"), &content).unwrap();
    assert_eq!(mount.stored("f").unwrap(), content);
    assert_eq!(fs::read(mount.path("f")).unwrap(), content);

    // A good file stays until its successor is whole.
    let mut file = File::create(mount.path("f")).unwrap();
    file.write_all(b"new").unwrap();
    assert_eq!(mount.stored("f").unwrap(), content);
    assert_eq!(fs::metadata(mount.path("f")).unwrap().len(), 3);
    assert_eq!(fs::read(mount.path("f")).unwrap(), b"new");
    file.sync_all().unwrap();
    assert_eq!(mount.stored("f").unwrap(), b"new");
    file.write_all(b"er").unwrap();
    drop(file);
    assert_eq!(mount.stored("f").unwrap(), b"newer");
    assert_eq!(fs::read(mount.path("f")).unwrap(), b"newer");
}

#[test]
fn a_file_being_written_is_listed_with_its_size() {
    let Some(mount) = Mount::new() else { return };
    mount.put("d/old", "old");
    let mut file = File::create(mount.path("d/new")).unwrap();
    file.write_all(b"12345").unwrap();
    assert_eq!(mount.sh_ok("ls d"), "new\nold\n");
    assert_eq!(mount.sh_ok("stat -c '%n %s' d/*"), "d/new 5\nd/old 3\n");
    assert_eq!(mount.stored("d/new"), None);
    assert_eq!(errno(fs::remove_dir(mount.path("d"))), Errno::ENOTEMPTY);
}

#[test]
fn an_empty_file_is_published_at_last() {
    let Some(mount) = Mount::new() else { return };
    File::create(mount.path("touched")).unwrap();
    mount.wait_for("the empty file", || mount.stored("touched").is_some());
    let file = File::create(mount.path("synced")).unwrap();
    assert_eq!(mount.stored("synced"), None);
    file.sync_all().unwrap();
    assert_eq!(mount.stored("synced").unwrap(), b"");
    mount.put("full", "full");
    mount.sh_ok(": > full");
    mount.wait_for("the truncated file", || mount.stored("full").is_some_and(|content| content.is_empty()));
    mount.put("cut", "something");
    mount.sh_ok("truncate -s 0 cut");
    assert_eq!(mount.stored("cut").unwrap(), b"");
}

#[test]
fn a_shells_redirections_share_one_file() {
    let Some(mount) = Mount::new() else { return };
    mount.sh_ok("(echo a; /bin/echo b; echo c) > f");
    assert_eq!(mount.stored("f").unwrap(), b"a\nb\nc\n");
    mount.sh_ok("{ echo one; sh -c 'exit 0'; (exit 0); echo two; } > g");
    assert_eq!(mount.stored("g").unwrap(), b"one\ntwo\n");
    mount.sh_ok("echo x >> new && cat new");
    assert_eq!(mount.stored("new").unwrap(), b"x\n");
    // A stored file cannot be continued.
    assert!(!mount.sh("/bin/echo y >> new").status.success());
    assert_eq!(mount.stored("new").unwrap(), b"x\n");
}

#[test]
fn another_owners_close_publishes_nothing() {
    let Some(mount) = Mount::new() else { return };
    let mut file = File::create(mount.path("f")).unwrap();
    file.write_all(b"first").unwrap();
    // The child has a copy of the descriptor, and closes it when it starts its program.
    assert!(Command::new("true").status().unwrap().success());
    assert_eq!(mount.stored("f"), None);
    file.write_all(b", second").unwrap();
    // A descriptor of the writer's own publishes.
    drop(file.try_clone().unwrap());
    assert_eq!(mount.stored("f").unwrap(), b"first, second");
    file.write_all(b", third").unwrap();
    drop(file);
    assert_eq!(mount.stored("f").unwrap(), b"first, second, third");
}

#[test]
fn truncation_over_open_readers_shows_nothing_old() {
    let Some(mount) = Mount::new() else { return };
    let old = vec![b'o'; 1 << 20];
    mount.put("f", old);
    let before = File::open(mount.path("f")).unwrap();
    let mut head = [0; 4096];
    before.read_exact_at(&mut head, 0).unwrap();
    let mut writer = File::create(mount.path("f")).unwrap();
    assert_eq!(before.metadata().unwrap().len(), 0);
    assert_eq!(before.read_at(&mut head, 0).unwrap(), 0);
    writer.write_all(&[b'n'; 10_000]).unwrap();
    let during = File::open(mount.path("f")).unwrap();
    let mut content = Vec::new();
    (&during).read_to_end(&mut content).unwrap();
    assert_eq!(content, vec![b'n'; 10_000]);
    // Through the old descriptor the kernel keeps pages: whole ones are right, the last one may not be kept yet.
    before.read_exact_at(&mut head, 0).unwrap();
    assert_eq!(head, [b'n'; 4096]);
    assert!(before.read_at(&mut head, 8192).is_err());
    writer.write_all(&[b'm'; 10_000]).unwrap();
    drop(writer);
    let mut expected = vec![b'n'; 10_000];
    expected.extend_from_slice(&[b'm'; 10_000]);
    assert_eq!(mount.stored("f").unwrap(), expected);
    for file in [before, during, File::open(mount.path("f")).unwrap()] {
        let mut content = Vec::new();
        (&file).seek(SeekFrom::Start(0)).unwrap();
        (&file).read_to_end(&mut content).unwrap();
        assert!(content == expected);
    }
}

#[test]
fn the_loser_of_two_writers_is_told() {
    let Some(mount) = Mount::new() else { return };
    mount.put("f", "base");
    let mut file = File::create(mount.path("f")).unwrap();
    file.write_all(b"mine").unwrap();
    mount.put("f", "theirs");
    assert_eq!(errno(file.sync_all()), Errno::ESTALE);
    drop(file);
    assert_eq!(mount.stored("f").unwrap(), b"theirs");
    mount.wait_for("the winner's content", || fs::read(mount.path("f")).is_ok_and(|content| content == b"theirs"));
    // A file that somebody else made first.
    let mut file = File::create(mount.path("g")).unwrap();
    file.write_all(b"mine").unwrap();
    mount.put("g", "theirs");
    assert_eq!(errno(file.sync_all()), Errno::ESTALE);
    drop(file);
    mount.wait_for("the winner's content", || fs::read(mount.path("g")).is_ok_and(|content| content == b"theirs"));
}

#[test]
fn a_file_follows_its_name() {
    let Some(mount) = Mount::new() else { return };
    // Never published, renamed, written on.
    let mut file = File::create(mount.path("tmp")).unwrap();
    file.write_all(b"one").unwrap();
    fs::rename(mount.path("tmp"), mount.path("final")).unwrap();
    file.write_all(b" two").unwrap();
    drop(file);
    assert_eq!((mount.stored("tmp"), mount.stored("final").unwrap()), (None, b"one two".to_vec()));
    // Over a file that is there.
    mount.put("there", "old");
    let mut file = File::create(mount.path("tmp")).unwrap();
    file.write_all(b"successor").unwrap();
    fs::rename(mount.path("tmp"), mount.path("there")).unwrap();
    assert_eq!(fs::read(mount.path("there")).unwrap(), b"successor");
    drop(file);
    assert_eq!(mount.stored("there").unwrap(), b"successor");
    // Published, then renamed, then written on.
    let mut file = File::create(mount.path("log")).unwrap();
    file.write_all(b"a").unwrap();
    file.sync_all().unwrap();
    let ino = file.metadata().unwrap().ino();
    fs::rename(mount.path("log"), mount.path("log.1")).unwrap();
    assert_eq!(fs::metadata(mount.path("log.1")).unwrap().ino(), ino);
    file.write_all(b"b").unwrap();
    drop(file);
    assert_eq!((mount.stored("log"), mount.stored("log.1").unwrap()), (None, b"ab".to_vec()));
    // An open reader goes on.
    let held = File::open(mount.path("log.1")).unwrap();
    fs::rename(mount.path("log.1"), mount.path("log.2")).unwrap();
    let mut content = String::new();
    (&held).read_to_string(&mut content).unwrap();
    assert_eq!(content, "ab");
    // A directory with what is in it, a file being written too.
    fs::create_dir(mount.path("d")).unwrap();
    let mut file = File::create(mount.path("d/x")).unwrap();
    file.write_all(b"x").unwrap();
    fs::rename(mount.path("d"), mount.path("e")).unwrap();
    file.write_all(b"y").unwrap();
    drop(file);
    assert_eq!(mount.stored("e/x").unwrap(), b"xy");
    assert_eq!(errno(fs::metadata(mount.path("d"))), Errno::ENOENT);
    assert!(mount.sh("mv -nT e final; test -d e").status.success());
}

#[test]
fn an_unlinked_file_is_never_published() {
    let Some(mount) = Mount::new() else { return };
    let mut file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(mount.path("f")).unwrap();
    file.write_all(b"scratch").unwrap();
    fs::remove_file(mount.path("f")).unwrap();
    assert_eq!(errno(fs::metadata(mount.path("f"))), Errno::ENOENT);
    file.write_all(b" space").unwrap();
    file.sync_all().unwrap();
    let mut content = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut content).unwrap();
    assert_eq!(content, "scratch space");
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    drop(file);
    // A second file of the name has nothing to do with it.
    fs::write(mount.path("f"), "second").unwrap();
    assert_eq!(mount.stored("f").unwrap(), b"second");
    let mut file = File::create(mount.path("f")).unwrap();
    file.write_all(b"third").unwrap();
    fs::remove_file(mount.path("f")).unwrap();
    drop(file);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(mount.stored("f"), None);
}

#[test]
fn closed_files_are_published_before_the_session_ends() {
    let Some(mount) = Mount::new() else { return };
    for i in 0..50 {
        File::create(mount.path(&format!("f{i}"))).unwrap();
    }
    umount2(&mount.dir, MntFlags::empty()).unwrap();
    mount.runtime.block_on(mount.session.ended()).unwrap();
    for i in 0..50 {
        assert!(mount.stored(&format!("f{i}")).is_some(), "f{i}");
    }
}
