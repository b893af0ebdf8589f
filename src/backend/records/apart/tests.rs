use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::TryStreamExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::clerk::{Kept, keep};
use super::words::{Failed, FromClerk, ToClerk, Told};
use super::*;
use crate::backend::records::contract::{self, Same};
use crate::backend::records::memory::MemoryRecords;
use crate::backend::{Error, ErrorKind, Name, Op, Path};

const SHORT: Duration = Duration::from_millis(300);

/// Both ends of a line to one that could build its client.
async fn ready() -> io::Result<(Line, Line)> {
    let (ours, theirs) = tokio::net::UnixStream::pair()?;
    let mut far = Line::new(theirs);
    far.send(&FromClerk::Ready(Ok(()))).await?;
    Ok((Line::new(ours), far))
}

fn kept(records: &Arc<MemoryRecords>) -> Kept {
    Kept { records: records.clone(), snapshots: Some(records.clone()) }
}

/// `records`, kept at the other end of a socket in this process.
fn apart(records: &Arc<MemoryRecords>) -> Apart {
    let records = records.clone();
    Apart::new(SHORT, move || {
        let records = records.clone();
        Box::pin(async move {
            let (near, far) = ready().await?;
            tokio::spawn(keep(far, kept(&records)));
            Ok((near, None))
        })
    })
}

/// One whose first life `is_bad`, and whose next ones are as they should be. Counts them.
fn reborn<F>(is_bad: impl Fn(Line) -> F + Send + Sync + 'static) -> (Apart, Arc<AtomicUsize>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let lives = Arc::new(AtomicUsize::new(0));
    let (count, records, is_bad) = (lives.clone(), Arc::new(MemoryRecords::default()), Arc::new(is_bad));
    let apart = Apart::new(SHORT, move || {
        let (first, records, is_bad) = (count.fetch_add(1, Ordering::SeqCst) == 0, records.clone(), is_bad.clone());
        Box::pin(async move {
            let (near, far) = ready().await?;
            match first {
                true => drop(tokio::spawn(is_bad(far))),
                false => drop(tokio::spawn(keep(far, kept(&records)))),
            }
            Ok((near, None))
        })
    });
    (apart, lives)
}

fn at(text: &str) -> Path {
    Path::parse(text).unwrap()
}

#[tokio::test]
async fn records_kept_apart_pass_the_suite() {
    let apart = apart(&Arc::default());
    contract::records(&apart, &Same(&apart)).await;
}

#[tokio::test]
async fn a_list_of_many_pages_comes_whole_and_an_error_as_it_was() {
    let (records, dir) = (Arc::new(MemoryRecords::default()), at("many"));
    let apart = apart(&records);
    let all: Vec<_> = (0..2500).map(|number| at(&format!("many/{number:04}"))).collect();
    all.iter().for_each(|path| records.put(path.as_str().unwrap()));
    assert_eq!(apart.list(&dir, None).try_collect::<Vec<_>>().await.unwrap(), all);
    let rest: Vec<_> = apart.list(&dir, Some(&all[1200])).try_collect().await.unwrap();
    assert_eq!(rest, all[1201..]);
    let missing = at("many/none");
    assert_eq!(apart.get(&missing).await, records.get(&missing).await);
    // What this process cannot pass on it does not ask.
    let odd = Path::root().join(&Name::new(&[0xff]).unwrap());
    assert_eq!(apart.get(&odd).await.unwrap_err().kind, ErrorKind::InvalidName);
}

#[tokio::test]
async fn a_quota_is_set_by_who_may() {
    let records = Arc::new(MemoryRecords::default());
    let apart = apart(&records);
    for may in [true, false] {
        records.keep_quotas(may);
        assert_eq!(apart.set_quota(&at("a/b"), 7).await, Ok(may));
        assert_eq!(records.quota("a/b"), may.then_some(7));
    }
}

#[tokio::test]
async fn snapshots_are_taken_listed_restored_and_removed() {
    let records = Arc::new(MemoryRecords::default());
    let (apart, dir, copy) = (apart(&records), at("a/b"), at("a/c"));
    records.put("a/b/x");
    records.put("a/b/y/z");
    assert_eq!(apart.permitted().await, Ok(true));
    for name in ["one", "two"] {
        apart.take(&dir, name).await.unwrap();
    }
    assert_eq!(apart.names(&dir).await.unwrap(), ["one", "two"]);
    apart.discard(&dir, "two").await.unwrap();
    assert_eq!(apart.names(&dir).await.unwrap(), ["one"]);
    assert_eq!(apart.restore(&dir, "one", &copy).try_collect::<Vec<u64>>().await.unwrap(), [4, 4]);
    assert!(records.keys().contains(&"a/c/y/z".to_owned()));
    let missing = apart.restore(&dir, "two", &copy).try_collect::<Vec<u64>>().await.unwrap_err();
    assert_eq!(missing.kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn one_that_ends_or_hangs_is_unavailable_and_the_next_call_has_another() {
    let ends = |mut far: Line| async move {
        let _ = far.receive::<ToClerk>().await;
    };
    let hangs = |far: Line| async move {
        std::future::pending::<()>().await;
        drop(far);
    };
    for (apart, lives) in [reborn(ends), reborn(hangs)] {
        let begun = Instant::now();
        let dir = dir();
        let calls = (0..3).map(|_| apart.is_vacant(&dir));
        for outcome in futures::future::join_all(calls).await {
            let error = outcome.unwrap_err();
            assert!(error.kind == ErrorKind::Unavailable && error.message.contains("started anew"), "{error}");
        }
        assert!(begun.elapsed() < 10 * SHORT, "{:?}", begun.elapsed());
        assert!(apart.is_vacant(&dir).await.unwrap());
        assert_eq!(lives.load(Ordering::SeqCst), 2);
    }
}

fn dir() -> Path {
    at("dir")
}

#[tokio::test]
async fn one_that_says_so_may_take_its_time() {
    let (apart, lives) = reborn(|mut far: Line| async move {
        let Some(ToClerk::Ask { number, .. }) = far.receive().await.unwrap() else { panic!("nothing was asked") };
        let until = Instant::now() + 3 * SHORT;
        while let Ok(asked) = tokio::time::timeout_at(until, far.receive::<ToClerk>()).await {
            assert!(matches!(asked, Ok(Some(ToClerk::Ping))), "{asked:?}");
            far.send(&FromClerk::Pong).await.unwrap();
        }
        far.send(&FromClerk::Told { number, what: Ok(Told::Is(true)) }).await.unwrap();
        let _ = far.receive::<ToClerk>().await;
    });
    assert!(apart.is_vacant(&dir()).await.unwrap());
    assert_eq!(lives.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_nobody_waits_for_is_given_up() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let (apart, _) = reborn(move |mut far: Line| {
        let tell = tell.clone();
        async move {
            while let Ok(Some(frame)) = far.receive::<ToClerk>().await {
                if !matches!(frame, ToClerk::Ping) {
                    let _ = tell.send(frame);
                }
            }
        }
    });
    let at = dir();
    let waited = timeout(SHORT / 10, apart.get(&at)).await;
    assert!(waited.is_err());
    let Some(ToClerk::Ask { number: asked, .. }) = told.recv().await else { panic!("it is asked first") };
    let Some(ToClerk::GiveUp { number }) = told.recv().await else { panic!("then it is given up") };
    assert_eq!(asked, number);
}

#[tokio::test]
async fn no_client_and_no_process_are_told_with_the_reason() {
    let refused = Apart::new(SHORT, || {
        Box::pin(async {
            let (ours, theirs) = tokio::net::UnixStream::pair()?;
            let error = Error::new(ErrorKind::Misconfigured, Op::Connect, &Path::root(), "a bad word");
            Line::new(theirs).send(&FromClerk::Ready(Err(Failed::of(error)))).await?;
            Ok((Line::new(ours), None))
        })
    });
    let error = refused.get(&dir()).await.unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Misconfigured, "a bad word"));
    let clerks = Clerks { program: "/nowhere/millrace".into(), log_filter: "info".into(), log_json: false };
    let hdfs = crate::backend::hdfs::Config::at("127.0.0.1:1", "http://127.0.0.1:1");
    let credential = Credential::Hadoop { user: "canary".into() };
    let error = clerks.open(&Config::Hdfs(hdfs), &credential).0.get(&dir()).await.unwrap_err();
    assert!(error.kind == ErrorKind::Unavailable && error.message.contains("cannot be started"), "{error}");
}
