//! The numbered versions against a model: several writers, interleaved step by step, whose replies get lost and whose
//! calls are carried out twice.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use futures::future::poll_fn;
use futures::stream::{self, BoxStream, StreamExt};
use proptest::prelude::*;

use super::*;

/// Directories in memory. Each call lets others go first, and then happens in one step.
#[derive(Debug, Default)]
pub(super) struct Tree {
    things: Mutex<Things>,
}

#[derive(Debug, Default)]
struct Things {
    /// `None` is a directory.
    at: BTreeMap<Path, (Option<Bytes>, SystemTime)>,
    now: Duration,
    /// What happens to the next calls of `place`.
    faults: Vec<Fault>,
    /// It is listed, and who asks for it is told that nothing lies there.
    ghost: Option<Path>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// It is carried out, and nobody hears of it.
    LostReply,
    /// It never gets there.
    LostCall,
    /// It is carried out twice, and what the second one met is heard.
    Twice,
}

impl Tree {
    fn things(&self) -> MutexGuard<'_, Things> {
        self.things.lock().unwrap()
    }

    fn pass(&self, time: Duration) {
        self.things().now += time;
    }

    fn files(&self) -> Vec<String> {
        self.things().at.iter().filter(|(_, (body, _))| body.is_some()).map(|(path, _)| path.to_string()).collect()
    }
}

impl Things {
    fn since(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000) + self.now
    }

    fn is_dir(&self, path: &Path) -> bool {
        path.is_root() || matches!(self.at.get(path), Some((None, _)))
    }

    fn put(&mut self, path: &Path, body: Option<Bytes>) -> Result<()> {
        let above = path.split_last().map_or_else(Path::root, |(above, _)| above);
        if !self.is_dir(&above) {
            return Err(fail(ErrorKind::NotFound, path, "no directory"));
        }
        if self.at.contains_key(path) {
            return Err(fail(ErrorKind::AlreadyExists, path, "it is there"));
        }
        self.now += Duration::from_millis(1);
        let since = self.since();
        self.at.insert(path.clone(), (body, since));
        Ok(())
    }
}

/// Others go first.
async fn step() {
    let mut waited = false;
    poll_fn(|context| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[async_trait]
impl Directories for Tree {
    async fn prepare(&self) -> Result<()> {
        match self.make_dir(&Path::parse(RESERVED).unwrap()).await {
            Err(error) if error.kind != ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    fn entries(&self, dir: &Path) -> BoxStream<'static, Result<Item>> {
        let things = self.things();
        if !things.is_dir(dir) {
            let kind = if things.at.contains_key(dir) { ErrorKind::NotADirectory } else { ErrorKind::NotFound };
            return stream::iter([Err(fail(kind, dir, "no directory"))]).boxed();
        }
        let below = things.at.iter().filter_map(|(path, (body, since))| {
            let (_, name) = path.split_last().filter(|(above, _)| above == dir)?;
            let kind = if body.is_some() { Kind::File } else { Kind::Directory };
            Some(Item { name, kind, size: body.as_ref().map_or(0, |body| body.len() as u64), since: *since })
        });
        let below: Vec<_> = below.map(Ok).collect();
        stream::once(step()).flat_map(move |()| stream::iter(below.clone())).boxed()
    }

    async fn read(&self, file: &Path) -> Result<Bytes> {
        step().await;
        match self.things().at.get(file) {
            Some((Some(body), _)) => Ok(body.clone()),
            _ => Err(fail(ErrorKind::NotFound, file, "nothing lies there")),
        }
    }

    async fn place(&self, file: &Path, body: Bytes) -> Result<()> {
        step().await;
        let lost = fail(ErrorKind::Unavailable, file, "no answer");
        let fault = self.things().faults.pop().unwrap_or(Fault::None);
        let outcome = match fault {
            Fault::LostCall => Err(lost),
            Fault::LostReply => self.things().put(file, Some(body)).and(Err(lost)),
            Fault::None => self.things().put(file, Some(body)),
            Fault::Twice => {
                let _first = self.things().put(file, Some(body.clone()));
                step().await;
                self.things().put(file, Some(body))
            }
        };
        step().await;
        outcome
    }

    async fn make_dir(&self, dir: &Path) -> Result<()> {
        step().await;
        self.things().put(dir, None)
    }

    async fn remove(&self, at: &Path, _kind: Kind) -> Result<()> {
        step().await;
        let mut things = self.things();
        if things.ghost.as_ref() == Some(at) {
            return Err(fail(ErrorKind::NotFound, at, "nothing lies there"));
        }
        if things.at.keys().any(|path| path != at && path.starts_with(at)) {
            return Err(fail(ErrorKind::NotEmpty, at, "it holds something"));
        }
        things.at.remove(at).map(drop).ok_or_else(|| fail(ErrorKind::NotFound, at, "nothing lies there"))
    }

    async fn make_volume(&self, at: &Path, _how: &Directory) -> Result<String> {
        self.make_dir(at).await.map(|()| at.to_string())
    }

    async fn identity(&self, at: &Path) -> Result<Option<String>> {
        Ok(self.things().is_dir(at).then(|| at.to_string()))
    }

    async fn exposure(&self) -> Result<Option<String>> {
        Ok(None)
    }
}

/// Users' own files.
#[async_trait]
impl crate::backend::records::contract::Files for Tree {
    async fn put(&self, at: &Path, body: Bytes) {
        let names: Vec<Name> = at.names().collect();
        for depth in 1..names.len() {
            let dir = names[..depth].iter().fold(Path::root(), |dir, name| dir.join(name));
            let _there = self.things().put(&dir, None);
        }
        self.things().put(at, Some(body)).unwrap();
    }

    async fn remove(&self, at: &Path) {
        self.things().at.remove(at).unwrap();
    }

    async fn is_there(&self, at: &Path) -> bool {
        self.things().at.contains_key(at)
    }
}

fn records() -> (Arc<Tree>, Numbered<Tree>) {
    let tree = Arc::new(Tree::default());
    (tree.clone(), Numbered::new(tree))
}

fn at() -> Path {
    Path::parse(".millrace/volumes/one").unwrap()
}

#[tokio::test(start_paused = true)]
async fn directories_in_memory_keep_the_contract() {
    let (tree, records) = records();
    crate::backend::records::contract::records(&records, &*tree).await;
    assert!(tree.files().iter().any(|file| file.starts_with(".millrace/contract/")), "what is gone leaves its number");
    assert!(records.clear().await.unwrap() > 0);
    assert_eq!(tree.files(), Vec::<String>::new());
    assert_eq!(records.clear().await.unwrap(), 0);
}

#[tokio::test]
async fn superseded_versions_stay_as_long_as_a_writer_may_come_late() {
    let (tree, records) = records();
    let mut tag = records.create(&at(), "0".into()).await.unwrap();
    for number in 1..5 {
        tag = records.replace(&at(), &tag, number.to_string().into()).await.unwrap();
    }
    assert_eq!(tree.files().len(), 5);
    tree.pass(LINGER);
    for number in 5..8 {
        tree.pass(Duration::from_secs(1));
        tag = records.replace(&at(), &tag, number.to_string().into()).await.unwrap();
    }
    // The five old ones went, of which the last was superseded by the first of the new ones.
    let left: Vec<_> = (5..9).map(|number| at().join(&name_of(number)).to_string()).collect();
    assert_eq!(tree.files(), left);
    assert_eq!(records.get(&at()).await.unwrap().0, "7");
}

#[tokio::test(start_paused = true)]
async fn what_is_being_cleared_away_is_made_anew_later() {
    let (_, records) = records();
    records.create(&at(), "old".into()).await.unwrap();
    records.remove(&at()).await.unwrap();
    let again = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let early = records.create(&at(), "new".into()).await.unwrap_err().kind;
        tokio::time::sleep(Duration::from_secs(60)).await;
        (early, records.create(&at(), "new".into()).await.map(drop))
    };
    let (cleared, (early, late)) = tokio::join!(records.clear(), again);
    assert_eq!((cleared.unwrap(), early, late.is_ok()), (1, ErrorKind::Unavailable, true));
    assert_eq!(records.clear().await.unwrap(), 0);
    assert_eq!(records.get(&at()).await.unwrap().0, "new");
}

#[tokio::test]
async fn what_is_listed_and_cannot_be_removed_ends_the_removal() {
    let (tree, records) = records();
    let path = |text| Path::parse(text).unwrap();
    for at in ["volume/a", "volume/b/c"] {
        crate::backend::records::contract::Files::put(&*tree, &path(at), "x".into()).await;
    }
    tree.things().ghost = Some(path("volume/a"));
    assert!(!records.remove_page(&path("volume"), Extent::Current).await.unwrap().done);
    let error = records.remove_page(&path("volume"), Extent::Current).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    tree.things().ghost = None;
    assert!(records.remove_page(&path("volume"), Extent::Current).await.unwrap().done);
}

/// What a writer does, and what it learnt.
#[derive(Debug, Clone)]
enum Act {
    Create,
    Replace,
    Remove,
}

#[derive(Debug, Clone)]
enum Seen {
    Created(String),
    Replaced {
        from: Tag,
        body: String,
    },
    /// It did not happen.
    Refused(String),
    /// It may have happened.
    Unknown,
    Removed,
}

async fn act(records: &Numbered<Tree>, act: Act, body: String) -> Seen {
    let unless = |kinds: &[ErrorKind], error: Error, body: String| match kinds.contains(&error.kind) {
        true => Seen::Refused(body),
        false => Seen::Unknown,
    };
    match act {
        Act::Create => match records.create(&at(), body.clone().into()).await {
            Ok(_) => Seen::Created(body),
            Err(error) => unless(&[ErrorKind::AlreadyExists], error, body),
        },
        Act::Replace => match records.get(&at()).await {
            Err(_) => Seen::Refused(body),
            Ok((_, from)) => match records.replace(&at(), &from, body.clone().into()).await {
                Ok(_) => Seen::Replaced { from, body },
                Err(error) => unless(&[ErrorKind::Stale], error, body),
            },
        },
        Act::Remove => match records.remove(&at()).await {
            Ok(()) => Seen::Removed,
            Err(_) => Seen::Unknown,
        },
    }
}

/// Runs all of `futures`, each one step when `schedule` names it, and then all to their ends.
fn interleaved<T>(mut futures: Vec<Pin<Box<dyn Future<Output = T> + '_>>>, schedule: &[usize]) -> Vec<T> {
    let mut context = Context::from_waker(Waker::noop());
    let mut ends: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    let mut turns: Vec<usize> = schedule.to_vec();
    turns.extend((0..100_000).map(|turn| turn % futures.len()));
    for turn in turns {
        if let (None, Poll::Ready(end)) = (&ends[turn % ends.len()], poll(&mut futures, turn, &ends, &mut context)) {
            let at = turn % ends.len();
            ends[at] = Some(end);
        }
    }
    ends.into_iter().map(Option::unwrap).collect()
}

fn poll<T>(
    futures: &mut [Pin<Box<dyn Future<Output = T> + '_>>],
    turn: usize,
    ends: &[Option<T>],
    context: &mut Context<'_>,
) -> Poll<T> {
    let at = turn % futures.len();
    if ends[at].is_some() { Poll::Pending } else { futures[at].as_mut().poll(context) }
}

proptest! {
    /// Of all that writers did there is one order, in which each replaced what he says that he replaced, and each body that
    /// was acknowledged was the record's for a while.
    #[test]
    fn writers_take_turns_whatever_gets_lost(
        acts in prop::collection::vec(
            prop_oneof![Just(Act::Create), Just(Act::Replace), Just(Act::Replace), Just(Act::Remove)], 2..5),
        schedule in prop::collection::vec(0usize..4, 0..120),
        faults in prop::collection::vec(
            prop_oneof![Just(Fault::None), Just(Fault::LostReply), Just(Fault::LostCall), Just(Fault::Twice)], 0..8),
        is_there in any::<bool>(),
    ) {
        let (tree, records) = records();
        if is_there {
            interleaved(vec![Box::pin(act(&records, Act::Create, "first".into()))], &[]);
        }
        tree.things().faults = faults;
        let writers: Vec<Pin<Box<dyn Future<Output = Seen>>>> = acts
            .iter()
            .enumerate()
            .map(|(number, what)| Box::pin(act(&records, what.clone(), format!("body-{number}"))) as Pin<Box<_>>)
            .collect();
        let seen = interleaved(writers, &schedule);
        tree.things().faults.clear();

        // The versions are the order: nothing was freed.
        let things = tree.things();
        let versions: Vec<(u64, Bytes)> = things
            .at
            .iter()
            .filter_map(|(path, (body, _))| Some((path.split_last()?.1, body.clone()?)))
            .map(|(name, body)| (name.as_str().unwrap()[..20].parse().unwrap(), body))
            .collect();
        let numbers: Vec<u64> = versions.iter().map(|(number, _)| *number).collect();
        prop_assert_eq!(&numbers, &(1..=numbers.len() as u64).collect::<Vec<_>>());
        let body_of = |text: &Bytes| text.get(HEAD..).map(|body| String::from_utf8(body.to_vec()).unwrap());
        let place = |body: &str| {
            let found: Vec<_> = versions.iter().filter(|(_, text)| body_of(text).as_deref() == Some(body)).collect();
            assert!(found.len() <= 1, "{body} was written twice");
            found.first().map(|(number, _)| *number)
        };
        let before = |number: u64| versions.iter().find(|(other, _)| *other + 1 == number).map(|(_, text)| text.clone());
        for one in &seen {
            match one {
                Seen::Created(body) => {
                    let number = place(body);
                    prop_assert!(number.is_some(), "{} was lost: {:?}", body, versions);
                    prop_assert!(before(number.unwrap()).is_none_or(|text| text.is_empty()), "it was made over another");
                }
                Seen::Replaced { from, body } => {
                    let number = place(body);
                    prop_assert!(number.is_some(), "{} was lost: {:?}", body, versions);
                    let text = before(number.unwrap()).unwrap();
                    let nonce = std::str::from_utf8(&text[..NONCE]).unwrap();
                    prop_assert_eq!(&from.0, &format!("{}-{nonce}", number.unwrap() - 1));
                }
                Seen::Refused(body) => prop_assert_eq!(place(body), None, "it was refused, and it is there"),
                Seen::Unknown | Seen::Removed => {}
            }
        }
    }
}
