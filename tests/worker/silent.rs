//! A store that says nothing: nobody hangs who is killed, and what asks nothing of it goes on.

use std::fs::File;

use millrace::sandbox::versitygw::{ROOT, Versitygw};

use super::*;

/// A caller who is killed is to be gone within this.
pub(super) const GONE: Duration = Duration::from_secs(2);
/// Statfs, statistics and unpublishing are to be done within this.
pub(super) const ANSWERED: Duration = Duration::from_secs(1);

/// Waits in the kernel: for a reply of the file system, or for somebody who waits for one.
pub(super) fn waits(child: &Child) -> bool {
    let place = fs::read_to_string(format!("/proc/{}/wchan", child.id())).unwrap_or_default();
    let words = ["request_wait_answer", "folio_wait", "filename_create", "walk_component", "path_openat"];
    words.iter().any(|word| place.starts_with(word))
}

pub(super) fn quietly(command: &mut Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Kills them all, and waits until they are gone.
pub(super) fn killed(mut all: Vec<Child>) -> Duration {
    let begun = Instant::now();
    all.iter_mut().for_each(|one| one.kill().unwrap());
    for one in &mut all {
        one.wait().unwrap();
    }
    begun.elapsed()
}

const FILES: usize = 8;
const LENGTH: usize = 1 << 20;

#[test]
fn killed_readers_are_gone_while_the_store_is_silent() {
    let Some(rig) = Rig::new() else { return };
    for number in 0..FILES {
        rig.server.put("bucket", &format!("data/file{number}"), vec![7; LENGTH]);
    }
    let silence = |silent: bool| rig.server.faults().adjust(|conditions| conditions.silent = silent);
    killed_readers_are_gone(&rig, &|target| rig.request_of("team", target), &silence);
}

#[test]
fn killed_readers_are_gone_while_a_real_store_is_frozen() {
    let Some(rig) = Rig::new() else { return };
    let store = rig.runtime.block_on(async {
        let store = Versitygw::start().await.unwrap()?;
        store.create_bucket("bucket").await.unwrap();
        let root = store.client("bucket", ROOT).unwrap();
        for number in 0..FILES {
            root.put(&format!("data/file{number}"), vec![7; LENGTH].into()).await.unwrap();
        }
        root.put("data/hello", "hello, world".into()).await.unwrap();
        Some(store)
    });
    let Some(store) = store else { return };
    let (key_id, secret) = ROOT;
    let secret_key = Secret::new(secret.into());
    let credential = Credential::S3 { key_id: key_id.into(), secret_key, session_token: None };
    let of_team = |target: &str| Publish {
        credential: credential.clone(),
        namespace: Some("team".into()),
        ..request(store.endpoint(), &rig.target(target))
    };
    killed_readers_are_gone(&rig, &of_team, &|frozen| store.freeze(frozen).unwrap());
}

/// With a store that can be made silent.
fn killed_readers_are_gone(rig: &Rig, request: &dyn Fn(&str) -> Publish, silence: &dyn Fn(bool)) {
    let workers = rig.workers();
    for target in ["a", "b"] {
        rig.publish(&workers, request(target)).unwrap();
    }
    let at = rig.target("a");
    // Opened before, so that reads wait, and not the opening.
    let open: Vec<File> = (0..FILES).map(|number| File::open(at.join(format!("file{number}"))).unwrap()).collect();
    silence(true);

    let mut readers = Vec::new();
    for (number, file) in open.into_iter().enumerate().skip(1) {
        let direct = if number % 2 == 0 { "iflag=direct" } else { "iflag=fullblock" };
        readers.push(quietly(Command::new("dd").args([direct, "bs=1M"]).stdin(file)));
    }
    for number in 0..13 {
        readers.push(quietly(Command::new("stat").arg(at.join(format!("absent{number}")))));
    }
    let mut survivor = Command::new("cat").arg(at.join("file0")).stdout(Stdio::piped()).spawn().unwrap();
    assert!(readers.len() >= 20, "{}", readers.len());
    eventually("all readers wait", || readers.iter().chain([&survivor]).all(waits));
    assert!(killed(readers) < GONE);

    // Who changes a directory waits for its lock, and everybody after him: one is let go after the other.
    let mut queue = Vec::new();
    for number in 0..5 {
        queue.push(quietly(Command::new("stat").arg(at.join(format!("missing{number}")))));
        queue.push(quietly(Command::new("mkdir").arg(at.join(format!("made{number}")))));
    }
    eventually("all of the queue wait", || queue.iter().all(waits));
    assert!(killed(queue) < GONE * 2);

    let begun = Instant::now();
    nix::sys::statvfs::statvfs(&at).unwrap();
    rig.usage(&workers, "a").unwrap();
    rig.unpublish(&workers, "b").unwrap();
    assert!(begun.elapsed() < ANSWERED, "they took {:?}", begun.elapsed());

    // Who was not killed has waited all the while, and goes on.
    assert!(survivor.try_wait().unwrap().is_none());
    silence(false);
    let output = survivor.wait_with_output().unwrap();
    assert!(output.status.success() && output.stdout == vec![7; LENGTH]);
    assert_eq!(rig.hello("a").unwrap(), "hello, world");
    rig.unpublish(&workers, "a").unwrap();
    rig.assert_clean(&[]);
}
