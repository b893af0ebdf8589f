//! Files that are changed in place, by others too.

use proptest::prelude::*;

use super::*;
use crate::backend::faulty::{Fault, Faulty};
use crate::backend::{ErrorKind, Name};

fn volume() -> (Memory, Faulty, Vfs) {
    let memory = Memory::in_place();
    let faulty = Faulty::new(Arc::new(memory.clone()));
    let vfs = over(Arc::new(faulty.clone()), Config::default());
    (memory, faulty, vfs)
}

async fn write(vfs: &Vfs, handle: Handle, offset: u64, data: &'static str) -> Result<u32> {
    vfs.write(handle, offset, data.into(), Some(ME)).await
}

async fn hidden(memory: &Memory) -> usize {
    use futures::TryStreamExt;
    let all: Vec<_> = memory.list(&Path::root()).try_collect().await.unwrap();
    all.iter().filter(|entry| entry.name.is_hidden()).count()
}

#[tokio::test]
async fn a_write_is_in_the_store_at_once_and_keeps_its_inode() {
    let (memory, faulty, vfs) = volume();
    let (attr, opened) = vfs.create_with(Ino::ROOT, b"f", NEW, 0o600).await.unwrap();
    assert_eq!((attr.mode, stored(&memory, "f").await.unwrap()), (0o600, vec![]));
    write(&vfs, opened.handle, 3, "abc").await.unwrap();
    write(&vfs, opened.handle, 0, "xyz").await.unwrap();
    assert_eq!(stored(&memory, "f").await.unwrap(), b"xyzabc");
    assert_eq!(vfs.read(opened.handle, 2, 3).await.unwrap(), "zab");
    assert_eq!(vfs.getattr(attr.ino).unwrap().size, 6);
    assert_eq!(vfs.lookup(Ino::ROOT, b"f").await.unwrap().ino, attr.ino);
    assert_eq!(faulty.calls(Op::Publish), 0);
    vfs.flush(opened.handle, &[OTHER]).await.unwrap();
    assert_eq!(faulty.calls(Op::Publish), 0, "who wrote nothing waits for nothing");
    vfs.flush(opened.handle, &[ME]).await.unwrap();
    vfs.flush(opened.handle, &[ME]).await.unwrap();
    vfs.release(opened.handle).await.unwrap();
    assert_eq!(faulty.calls(Op::Publish), 1, "what is lasting is not made so again");
    assert_eq!(read(&vfs, attr.ino).await.unwrap(), b"xyzabc");
}

#[tokio::test]
async fn a_sync_that_failed_is_told_and_made_again() {
    let (_, faulty, vfs) = volume();
    let (_, opened) = vfs.create(Ino::ROOT, b"f", NEW).await.unwrap();
    write(&vfs, opened.handle, 0, "x").await.unwrap();
    faulty.nth(Op::Publish, 1, Fault::Fail(ErrorKind::NoSpace));
    assert_eq!(vfs.fsync(opened.handle).await, Err(Error::NoSpace));
    vfs.fsync(opened.handle).await.unwrap();
    faulty.nth(Op::Write, 1, Fault::Fail(ErrorKind::OverQuota));
    assert_eq!(write(&vfs, opened.handle, 1, "y").await, Err(Error::OverQuota));
    write(&vfs, opened.handle, 1, "z").await.unwrap();
    vfs.release(opened.handle).await.unwrap();
}

#[tokio::test]
async fn a_name_that_goes_leaves_its_open_file() {
    let (memory, _, vfs) = volume();
    let (_, beside) = vfs.create(Ino::ROOT, b"beside", NEW).await.unwrap();
    write(&vfs, beside.handle, 0, "bytes that stay").await.unwrap();
    let used = || {
        let ledger = vfs.ledger();
        (ledger.used_bytes(), ledger.used_inodes())
    };
    for replaced in [false, true] {
        let before = used();
        let (attr, opened) = vfs.create(Ino::ROOT, b"f", NEW).await.unwrap();
        write(&vfs, opened.handle, 0, "old").await.unwrap();
        if replaced {
            memory.put(&path("new"), "new");
            vfs.rename((Ino::ROOT, b"new"), (Ino::ROOT, b"f"), false).await.unwrap();
        } else {
            vfs.unlink(Ino::ROOT, b"f").await.unwrap();
            assert_eq!(vfs.lookup(Ino::ROOT, b"f").await, Err(Error::NotFound));
        }
        assert_eq!(hidden(&memory).await, 1);
        assert_eq!(used(), before, "what is hidden counts no more");
        write(&vfs, opened.handle, 3, "er").await.unwrap();
        assert_eq!(vfs.read(opened.handle, 0, 10).await.unwrap(), "older");
        let set = SetAttributes { size: Some(2), ..SetAttributes::default() };
        assert_eq!(vfs.setattr(attr.ino, Some((opened.handle, Some(ME))), set).await.unwrap().size, 2);
        assert_eq!(vfs.getattr_now(attr.ino).await.unwrap().nlink, 0);
        vfs.release(opened.handle).await.unwrap();
        assert_eq!(hidden(&memory).await, 0);
    }
    assert_eq!(stored(&memory, "f").await.unwrap(), b"new");
    let name = Name::hidden();
    assert_eq!(vfs.lookup(Ino::ROOT, name.as_bytes()).await, Err(Error::NotFound));
    assert_eq!(vfs.create(Ino::ROOT, name.as_bytes(), NEW).await.err(), Some(Error::NotPermitted));
}

#[tokio::test(start_paused = true)]
async fn a_directory_goes_from_around_files_that_were_removed_while_they_were_open() {
    let (memory, faulty, vfs) = volume();
    let dir = vfs.mkdir(Ino::ROOT, b"d").await.unwrap().ino;
    let (_, open) = vfs.create(dir, b"open", NEW).await.unwrap();
    let (_, closing) = vfs.create(dir, b"closing", NEW).await.unwrap();
    write(&vfs, open.handle, 0, "kept").await.unwrap();
    memory.put(&path("d/shown"), "");
    for name in [&b"open"[..], b"closing"] {
        vfs.unlink(dir, name).await.unwrap();
    }
    assert_eq!(vfs.rmdir(Ino::ROOT, b"d").await, Err(Error::NotEmpty));
    vfs.unlink(dir, b"shown").await.unwrap();
    // close(2) does not wait for this.
    faulty.nth(Op::Remove, 1, Fault::Delay(Duration::from_millis(50)));
    let (released, removed) = tokio::join!(vfs.release(closing.handle), vfs.rmdir(Ino::ROOT, b"d"));
    assert_eq!((released, removed), (Ok(()), Ok(())));
    assert_eq!(vfs.lookup(Ino::ROOT, b"d").await, Err(Error::NotFound));
    assert_eq!(hidden(&memory).await, 1);
    write(&vfs, open.handle, 4, " on").await.unwrap();
    assert_eq!(vfs.read(open.handle, 0, 10).await.unwrap(), "kept on");
    vfs.release(open.handle).await.unwrap();
    assert_eq!(hidden(&memory).await, 0);
    // Another node's is left where it is.
    let dir = vfs.mkdir(Ino::ROOT, b"d").await.unwrap().ino;
    memory.put(&path("d").join(&Name::hidden()), "theirs");
    assert_eq!(vfs.rmdir(Ino::ROOT, b"d").await, Err(Error::NotEmpty));
    assert!(names(&vfs, dir).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_is_closed_while_it_is_being_hidden_is_gone() {
    let (memory, faulty, vfs) = volume();
    let (_, opened) = vfs.create(Ino::ROOT, b"f", NEW).await.unwrap();
    // The kernel sends the release of a close(2) by itself.
    faulty.nth(Op::Rename, 1, Fault::Delay(Duration::from_millis(50)));
    let (removed, released) = tokio::join!(vfs.unlink(Ino::ROOT, b"f"), vfs.release(opened.handle));
    assert_eq!((removed, released), (Ok(()), Ok(())));
    assert_eq!(hidden(&memory).await, 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_opened_while_its_name_goes_is_stale_at_once_or_stays() {
    let (memory, faulty, vfs) = volume();
    memory.put(&path("f"), "old");
    let ino = vfs.lookup(Ino::ROOT, b"f").await.unwrap().ino;
    memory.put(&path("new"), "new");
    faulty.nth(Op::Rename, 1, Fault::Delay(Duration::from_millis(50)));
    let replace = vfs.rename((Ino::ROOT, b"new"), (Ino::ROOT, b"f"), false);
    let (replaced, opened) = tokio::join!(replace, vfs.open(ino, OpenOptions::default()));
    // The kernel looks up anew.
    assert_eq!((replaced, opened.err()), (Ok(()), Some(Error::Stale)));
}

#[tokio::test]
async fn what_others_change_is_read_and_what_they_replace_is_stale() {
    let (memory, _, vfs) = volume();
    memory.put(&path("f"), "one");
    let attr = vfs.lookup(Ino::ROOT, b"f").await.unwrap();
    let opened = vfs.open(attr.ino, OpenOptions::default()).await.unwrap();
    assert_eq!(vfs.read(opened.handle, 0, 10).await.unwrap(), "one");
    let theirs = memory.open_write(memory.stat(&path("f")).await.unwrap().version().unwrap()).await.unwrap();
    theirs.write(0, "two".into()).await.unwrap();
    assert_eq!(vfs.read(opened.handle, 0, 10).await.unwrap(), "two");
    theirs.write(3, " more".into()).await.unwrap();
    assert_eq!(vfs.getattr_now(attr.ino).await.unwrap().size, 8);
    assert_eq!(vfs.read(opened.handle, 0, 10).await.unwrap(), "two more");
    memory.put(&path("f"), "another");
    assert_eq!(vfs.read(opened.handle, 0, 10).await, Err(Error::Stale));
    assert_ne!(vfs.lookup(Ino::ROOT, b"f").await.unwrap().ino, attr.ino);
}

#[tokio::test]
async fn an_old_answer_does_not_undo_a_write() {
    let slow = Slow::new(&Memory::in_place());
    let vfs = Arc::new(over(Arc::new(slow.clone()), Config::default()));
    let (attr, opened) = vfs.create(Ino::ROOT, b"f", NEW).await.unwrap();
    for op in ["getattr", "lookup"] {
        slow.hold();
        let asking = {
            let vfs = vfs.clone();
            tokio::spawn(async move {
                match op {
                    "getattr" => vfs.getattr_now(attr.ino).await,
                    _ => vfs.lookup(Ino::ROOT, b"f").await,
                }
            })
        };
        tokio::task::yield_now().await;
        let size = vfs.getattr(attr.ino).unwrap().size;
        write(&vfs, opened.handle, size, "more").await.unwrap();
        slow.let_go();
        assert_eq!(asking.await.unwrap().unwrap().size, size + 4, "{op}");
    }
}

#[tokio::test]
async fn a_limit_holds_for_what_grows_and_not_for_what_is_written_over() {
    let (_, _, vfs) = volume();
    vfs.set_limit(Some(10));
    let (attr, opened) = vfs.create(Ino::ROOT, b"f", NEW).await.unwrap();
    write(&vfs, opened.handle, 0, "12345678").await.unwrap();
    assert_eq!(write(&vfs, opened.handle, 8, "901").await, Err(Error::NoSpace));
    write(&vfs, opened.handle, 0, "87654321").await.unwrap();
    let longer = SetAttributes { size: Some(11), ..SetAttributes::default() };
    assert_eq!(vfs.setattr(attr.ino, None, longer).await, Err(Error::NoSpace));
    vfs.setattr(attr.ino, None, SetAttributes { size: Some(1), ..SetAttributes::default() }).await.unwrap();
    write(&vfs, opened.handle, 1, "23456789").await.unwrap();
    assert_eq!(vfs.usage().bytes, 9);
    vfs.unlink(Ino::ROOT, b"f").await.unwrap();
    vfs.release(opened.handle).await.unwrap();
    vfs.forget(attr.ino, 1);
    assert_eq!(vfs.usage().bytes, 0);
}

/// A volume where somebody has a file `f` open, which holds "old", to read and write.
async fn open_file() -> (Memory, Faulty, Arc<Vfs>, Ino, Handle) {
    let (memory, faulty, vfs) = volume();
    memory.put(&path("f"), "old");
    let ino = vfs.lookup(Ino::ROOT, b"f").await.unwrap().ino;
    let handle = vfs.open(ino, WRITE).await.unwrap().handle;
    (memory, faulty, Arc::new(vfs), ino, handle)
}

#[tokio::test(start_paused = true)]
async fn nobody_is_told_of_a_sync_that_has_not_ended() {
    let (_, faulty, vfs, ino, one) = open_file().await;
    let other = vfs.open(ino, WRITE).await.unwrap().handle;
    write(&vfs, one, 0, "one").await.unwrap();
    vfs.write(other, 3, "other".into(), Some(OTHER)).await.unwrap();
    faulty.nth(Op::Publish, 1, Fault::Delay(Duration::from_millis(50)));
    faulty.nth(Op::Publish, 2, Fault::Fail(ErrorKind::NoSpace));
    let closing = {
        let vfs = vfs.clone();
        tokio::spawn(async move { vfs.flush(one, &[ME]).await })
    };
    while faulty.calls(Op::Publish) == 0 {
        tokio::task::yield_now().await;
    }
    let begun = tokio::time::Instant::now();
    vfs.flush(other, &[OTHER]).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(50) && closing.is_finished());
    write(&vfs, one, 0, "two").await.unwrap();
    let (first, second) = tokio::join!(vfs.fsync(one), vfs.fsync(other));
    assert_eq!((first, second), (Err(Error::NoSpace), Ok(())), "the other one synced it after all");
}

#[tokio::test]
async fn what_a_rename_that_fails_was_to_replace_keeps_its_name() {
    for (fault, left) in [
        (Fault::Fail(ErrorKind::Denied), "old"),
        // It was done, and nobody heard of it.
        (Fault::LoseReply(ErrorKind::Unavailable), "new"),
    ] {
        let (memory, faulty, vfs, ino, handle) = open_file().await;
        memory.put(&path("new"), "new");
        faulty.nth(Op::Rename, 2, fault);
        assert!(vfs.rename((Ino::ROOT, b"new"), (Ino::ROOT, b"f"), false).await.is_err());
        assert_eq!(stored(&memory, "f").await.unwrap(), left.as_bytes());
        assert_eq!(vfs.read(handle, 0, 10).await.unwrap(), "old");
        assert_eq!(vfs.lookup(Ino::ROOT, b"f").await.unwrap().ino == ino, left == "old");
        vfs.release(handle).await.unwrap();
        assert_eq!((stored(&memory, "f").await.unwrap(), hidden(&memory).await), (left.into(), 0));
    }
}

#[tokio::test]
async fn what_another_client_put_in_a_files_place_is_not_taken_for_it() {
    let cut = SetAttributes { size: Some(0), ..SetAttributes::default() };
    let (memory, _, vfs, ino, handle) = open_file().await;
    memory.put(&path("f"), "theirs");
    assert_eq!(vfs.setattr(ino, Some((handle, Some(ME))), cut).await, Err(Error::Stale));
    assert_eq!(vfs.open(ino, OpenOptions { truncate: true, ..WRITE }).await.err(), Some(Error::Stale));
    assert_eq!(stored(&memory, "f").await.unwrap(), b"theirs");
    vfs.unlink(Ino::ROOT, b"f").await.unwrap();
    assert_eq!(vfs.read(handle, 0, 10).await, Err(Error::Stale));
    assert_eq!((stored(&memory, "f").await, hidden(&memory).await), (None, 0));
}

#[tokio::test]
async fn a_hidden_file_moves_with_its_directory() {
    let (memory, _, vfs) = volume();
    let dir = vfs.mkdir(Ino::ROOT, b"d").await.unwrap().ino;
    let (attr, opened) = vfs.create(dir, b"f", NEW).await.unwrap();
    write(&vfs, opened.handle, 0, "kept").await.unwrap();
    vfs.unlink(dir, b"f").await.unwrap();
    vfs.rename((Ino::ROOT, b"d"), (Ino::ROOT, b"e"), false).await.unwrap();
    let cut = SetAttributes { size: Some(2), ..SetAttributes::default() };
    assert_eq!(vfs.setattr(attr.ino, Some((opened.handle, Some(ME))), cut).await.unwrap().size, 2);
    vfs.release(opened.handle).await.unwrap();
    memory.remove(&path("e"), Kind::Directory).await.unwrap();
}

#[tokio::test]
async fn a_look_at_a_name_that_is_going_leaves_the_open_file_its_own() {
    let slow = Slow::new(&Memory::in_place());
    let vfs = Arc::new(over(Arc::new(slow.clone()), Config::default()));
    for moves in [false, true] {
        let (attr, opened) = vfs.create(Ino::ROOT, b"f", NEW).await.unwrap();
        write(&vfs, opened.handle, 0, "kept").await.unwrap();
        slow.hold_moves();
        let going = {
            let vfs = vfs.clone();
            tokio::spawn(async move {
                match moves {
                    true => vfs.rename((Ino::ROOT, b"f"), (Ino::ROOT, b"g"), false).await,
                    false => vfs.unlink(Ino::ROOT, b"f").await,
                }
            })
        };
        tokio::task::yield_now().await;
        assert_eq!(vfs.lookup(Ino::ROOT, b"f").await.err(), Some(Error::NotFound));
        slow.let_moves_go();
        going.await.unwrap().unwrap();
        let cut = SetAttributes { size: Some(2), ..SetAttributes::default() };
        assert_eq!(vfs.setattr(attr.ino, Some((opened.handle, Some(ME))), cut).await.unwrap().size, 2);
        if moves {
            assert_eq!(vfs.lookup(Ino::ROOT, b"g").await.unwrap().ino, attr.ino);
        }
        vfs.release(opened.handle).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_opened_to_be_written_while_its_name_goes_is_written() {
    let (memory, faulty, vfs, ino, handle) = open_file().await;
    vfs.release(handle).await.unwrap();
    faulty.nth(Op::Remove, 1, Fault::Delay(Duration::from_millis(50)));
    let (opened, removed) = tokio::join!(vfs.open(ino, WRITE), vfs.unlink(Ino::ROOT, b"f"));
    removed.unwrap();
    match opened {
        Ok(opened) => assert_eq!(write(&vfs, opened.handle, 0, "new").await, Ok(3)),
        Err(error) => assert_eq!(error, Error::Stale, "the kernel looks up anew"),
    }
    assert_eq!(stored(&memory, "f").await, None);
}

#[tokio::test]
async fn what_others_closed_is_seen_by_who_opens() {
    let (memory, _, vfs, ino, handle) = open_file().await;
    let theirs = memory.open_write(memory.stat(&path("f")).await.unwrap().version().unwrap()).await.unwrap();
    theirs.write(3, " and more".into()).await.unwrap();
    // The kernel has heard of the first three only.
    let appending = vfs.open(ino, WRITE).await.unwrap().handle;
    assert_eq!(vfs.append(appending, 3, "!".into(), Some(ME)).await, Ok(1));
    assert_eq!(vfs.append(appending, 4, "!".into(), Some(ME)).await, Ok(1));
    assert_eq!(stored(&memory, "f").await.unwrap(), b"old and more!!");
    assert_eq!(vfs.read(handle, 0, 100).await.unwrap(), "old and more!!");
    memory.put(&path("f"), "another");
    assert_eq!(vfs.open(ino, READ).await.err(), Some(Error::Stale));
}

#[derive(Debug, Clone)]
enum Step {
    Write(u64, Vec<u8>),
    Cut(u64),
    Sync,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..300_u64, proptest::collection::vec(any::<u8>(), 1..100)).prop_map(|(at, data)| Step::Write(at, data)),
        1 => (0..300_u64).prop_map(Step::Cut),
        1 => Just(Step::Sync),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_file_holds_what_a_plain_one_would(steps in proptest::collection::vec(step(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (memory, _, vfs) = volume();
            let (attr, mut opened) = vfs.create(Ino::ROOT, b"f", NEW).await.unwrap();
            let mut model = Vec::new();
            for step in steps {
                match step {
                    Step::Write(at, data) => {
                        let (begin, end) = (at as usize, at as usize + data.len());
                        model.resize(model.len().max(end), 0);
                        model[begin..end].copy_from_slice(&data);
                        vfs.write(opened.handle, at, data.into(), None).await.unwrap();
                    }
                    Step::Cut(size) => {
                        model.resize(size as usize, 0);
                        let set = SetAttributes { size: Some(size), ..SetAttributes::default() };
                        vfs.setattr(attr.ino, Some((opened.handle, Some(ME))), set).await.unwrap();
                    }
                    Step::Sync => vfs.fsync(opened.handle).await.unwrap(),
                    Step::Reopen => {
                        let next = vfs.open(attr.ino, WRITE).await.unwrap();
                        vfs.release(std::mem::replace(&mut opened, next).handle).await.unwrap();
                    }
                }
                assert_eq!(vfs.read(opened.handle, 0, 1 << 20).await.unwrap(), model);
                assert_eq!(stored(&memory, "f").await.unwrap(), model);
            }
        });
    }
}
