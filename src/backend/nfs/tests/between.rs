//! A proxy between client and server that answers some calls itself; and a portmapper, on an address of its own.

use std::collections::HashMap;
use std::io;
use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::*;

const LOOKUP: u32 = 3;
const SETATTR: u32 = 2;
const READLINK: u32 = 5;
const READ: u32 = 6;
const WRITE: u32 = 7;
const READDIRPLUS: u32 = 17;
const COMMIT: u32 = 21;
const ESTALE: u32 = 70;
const BAD_COOKIE: u32 = 10003;
const NOTSUPP: u32 = 10004;
const JUKEBOX: u32 = 10008;
/// No status: the call goes to the server when there is no such rule any more.
const HELD: u32 = u32::MAX;

/// By procedure: the status that calls of it are answered with, and how many more of them.
type Rules = Arc<Mutex<HashMap<u32, (u32, usize)>>>;

/// The port of a proxy of `port` with these rules.
async fn proxy(port: u16, rules: &Rules) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (own, rules) = (listener.local_addr().unwrap().port(), rules.clone());
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            tokio::spawn(between(client, server, rules.clone()));
        }
    });
    own
}

async fn between(client: TcpStream, server: TcpStream, rules: Rules) {
    let ((mut calls, mut to_client), (mut replies, mut to_server)) = (client.into_split(), server.into_split());
    let (sender, mut all) = mpsc::unbounded_channel::<Vec<u8>>();
    let (forward, mut forwarded) = mpsc::unbounded_channel::<Vec<u8>>();
    let answers = sender.clone();
    tokio::spawn(async move {
        while let Some(call) = forwarded.recv().await {
            to_server.write_all(&call).await.unwrap_or_default();
        }
    });
    tokio::spawn(async move {
        while let Ok(reply) = record(&mut replies).await {
            let _ = sender.send(reply);
        }
    });
    tokio::spawn(async move {
        while let Some(reply) = all.recv().await {
            to_client.write_all(&reply).await.unwrap_or_default();
        }
    });
    while let Ok(call) = record(&mut calls).await {
        let word = |at: usize| u32::from_be_bytes(call[at * 4..at * 4 + 4].try_into().unwrap());
        let own = {
            let mut rules = rules.lock().unwrap();
            let applies = |status: u32, left: usize| left > 0 && (status != BAD_COOKIE || cookie(&call) != 0);
            let rule = rules.get_mut(&word(6)).filter(|(status, left)| applies(*status, *left));
            rule.map(|(status, left)| {
                *left -= 1;
                *status
            })
        };
        match own {
            Some(HELD) => {
                let (procedure, rules, forward) = (word(6), rules.clone(), forward.clone());
                tokio::spawn(async move {
                    while rules.lock().unwrap().contains_key(&procedure) {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    let _ = forward.send(call);
                });
            }
            Some(status) => drop(answers.send(message(&[word(1), 1, 0, 0, 0, 0, status, 0, 0]))),
            None => drop(forward.send(call)),
        }
    }
}

/// That of a READDIR or READDIRPLUS: behind credential, verifier and handle.
fn cookie(call: &[u8]) -> u64 {
    let word = |at: usize| u32::from_be_bytes(call[at..at + 4].try_into().unwrap()) as usize;
    let verifier = 36 + word(32);
    let handle = verifier + 8 + word(verifier + 4);
    let cookie = handle + 4 + word(handle).next_multiple_of(4);
    u64::from_be_bytes(call[cookie..cookie + 8].try_into().unwrap())
}

/// One record of one fragment, with its mark.
async fn record(stream: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
    let mut whole = vec![0; 4];
    stream.read_exact(&mut whole).await?;
    let length = u32::from_be_bytes(whole[..].try_into().unwrap()) & !(1 << 31);
    whole.resize(4 + length as usize, 0);
    stream.read_exact(&mut whole[4..]).await?;
    Ok(whole)
}

fn message(words: &[u32]) -> Vec<u8> {
    let mark = (1 << 31) | (words.len() as u32 * 4);
    [&[mark], words].concat().iter().flat_map(|word| word.to_be_bytes()).collect()
}

async fn stand_between() -> Option<(Arc<dyn Backend>, Rules, Ganesha)> {
    let server = ganesha().await?;
    let rules = Rules::default();
    let port = Some(proxy(server.port(), &rules).await);
    Some((connect(&Config { port, ..config(&server) }, UID, limits()), rules, server))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_readdirplus_is_listed_all_the_same() {
    let Some((store, rules, _server)) = stand_between().await else { return };
    store.make_dir(&path("dir")).await.unwrap();
    for number in 0..50 {
        put(&*store, &format!("file-{number:02}"), "x").await;
    }
    let listed = async || {
        let mut all: Vec<_> = store.list(&Path::root()).try_collect().await.unwrap();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    };
    let before = listed().await;
    assert_eq!(before.len(), 51);
    rules.lock().unwrap().insert(READDIRPLUS, (NOTSUPP, usize::MAX));
    assert_eq!(listed().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_server_is_asked_again() {
    let Some((store, rules, server)) = stand_between().await else { return };
    put(&*store, "file", "x").await;
    rules.lock().unwrap().insert(LOOKUP, (JUKEBOX, 3));
    assert_eq!(version(&*store, "file").await.size, 1);
    let hasty = Limits { timeout: Duration::from_secs(1).into(), ..limits() };
    let port = Some(proxy(server.port(), &rules).await);
    let store = connect(&Config { port, ..config(&server) }, UID, hasty);
    rules.lock().unwrap().insert(LOOKUP, (JUKEBOX, usize::MAX));
    assert_eq!(error_of(store.stat(&path("file"))).await, ErrorKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handle_that_was_forgotten_for_a_moment_is_read_on() {
    let Some((store, rules, _server)) = stand_between().await else { return };
    let file = put(&*store, "file", "content").await;
    rules.lock().unwrap().insert(READ, (ESTALE, 1));
    assert_eq!(content(&*store, &file).await.unwrap(), b"content");
    rules.lock().unwrap().insert(READ, (ESTALE, usize::MAX));
    assert_eq!(error_of(content(&*store, &file)).await, ErrorKind::Stale);

    let forgets = |procedure| rules.lock().unwrap().insert(procedure, (ESTALE, 1));
    let writing = store.open_write(&file).await.unwrap();
    forgets(WRITE);
    writing.write(0, "CON".into()).await.unwrap();
    forgets(COMMIT);
    writing.sync().await.unwrap();
    forgets(SETATTR);
    let size = SetAttributes { size: Some(6), ..SetAttributes::default() };
    assert_eq!(store.set_attributes(&path("file"), &size).await.unwrap().size(), 6);
    store.make_symlink(&path("link"), b"target").await.unwrap();
    forgets(READLINK);
    assert_eq!(store.read_symlink(&path("link")).await.unwrap(), b"target"[..]);
    rules.lock().unwrap().clear();
    assert_eq!(content(&*store, &version(&*store, "file").await).await.unwrap(), b"CONten");
    // One that is gone is not asked for twice.
    let gone = store.open_write(&file).await.unwrap();
    store.remove(&path("file"), Kind::File).await.unwrap();
    assert_eq!(error_of(gone.write(0, "x".into())).await, ErrorKind::Stale);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_or_cut_waits_for_an_older_write_whoever_made_it() {
    let Some(server) = ganesha().await else { return };
    let rules = Rules::default();
    let port = Some(proxy(server.port(), &rules).await);
    let hasty = Limits { timeout: Duration::from_secs(2).into(), ..limits() };
    let store = connect(&Config { port, ..config(&server) }, UID, hasty);
    let cut = SetAttributes { size: Some(2), ..SetAttributes::default() };
    for then in ["write", "cut"] {
        let file = put(&*store, "file", "content").await;
        let old = store.open_write(&file).await.unwrap();
        rules.lock().unwrap().insert(WRITE, (HELD, 1));
        assert_eq!(error_of(old.write(0, "older!!".into())).await, ErrorKind::Unavailable);
        drop(old);
        let later = {
            let (store, file) = (store.clone(), file.clone());
            tokio::spawn(async move {
                match then {
                    "write" => store.open_write(&file).await?.write(0, "newer!!".into()).await.map(drop),
                    _ => store.set_attributes(&path("file"), &cut).await.map(drop),
                }
            })
        };
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!later.is_finished(), "{then}");
        rules.lock().unwrap().clear();
        later.await.unwrap().unwrap();
        let is = content(&*store, &version(&*store, "file").await.any_bytes()).await.unwrap();
        assert_eq!(is, if then == "write" { &b"newer!!"[..] } else { b"ol" });
        store.remove(&path("file"), Kind::File).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_loses_its_place_begins_anew_and_not_for_ever() {
    let Some((store, rules, server)) = stand_between().await else { return };
    let names: Vec<_> = (0..3_000).map(|number| format!("{number:0>200}")).collect();
    for name in &names {
        std::fs::write(server.root().join("volume").join(name), "").unwrap();
    }
    rules.lock().unwrap().insert(READDIRPLUS, (BAD_COOKIE, 5));
    let mut listed: Vec<_> = store.list(&Path::root()).try_collect().await.unwrap();
    assert_eq!(rules.lock().unwrap()[&READDIRPLUS].1, 0, "it came in one page");
    listed.sort_by(|one, other| one.name.cmp(&other.name));
    assert!(listed.iter().map(|entry| entry.name.to_string()).eq(names));

    rules.lock().unwrap().insert(READDIRPLUS, (BAD_COOKIE, usize::MAX));
    let listing = async { store.list(&Path::root()).try_collect::<Vec<_>>().await };
    let told = tokio::time::timeout(Duration::from_secs(30), listing).await.unwrap().unwrap_err();
    assert!(told.kind == ErrorKind::Unavailable && told.message.contains("changes faster"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_portmapper_tells_the_ports() {
    let Some(server) = ganesha().await else { return };
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let host = &format!("127.66.{high}.{}", low.clamp(1, 254));
    let portmapper = TcpListener::bind((host.as_str(), 111)).await.unwrap();
    let ports = HashMap::from([(100_003, server.port()), (100_005, server.mount_port())]);
    for port in [server.port(), server.mount_port()] {
        let listener = TcpListener::bind((host.as_str(), port)).await.unwrap();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
            }
        });
    }
    let known = Arc::new(Mutex::new(ports));
    let told = known.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = portmapper.accept().await {
            let (mut calls, mut replies) = client.into_split();
            while let Ok(call) = record(&mut calls).await {
                let word = |at: usize| u32::from_be_bytes(call[at * 4..at * 4 + 4].try_into().unwrap());
                let port = told.lock().unwrap().get(&word(11)).copied().unwrap_or_default();
                replies.write_all(&message(&[word(1), 1, 0, 0, 0, 0, port.into()])).await.unwrap();
            }
        }
    });
    let config = Config { server: host.clone(), port: None, mount_port: None, ..config(&server) };
    let store = connect(&config, UID, limits());
    assert_eq!(store.stat(&Path::root()).await.unwrap().kind(), Kind::Directory);
    // A server of another version.
    known.lock().unwrap().clear();
    let error = connect(&config, UID, limits()).stat(&Path::root()).await.unwrap_err();
    assert!(error.kind == ErrorKind::Misconfigured && error.message.contains("NFSv4"), "{error}");
}
