//! The control plane's traits, asked of a clerk.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use super::carrier::Apart;
use super::words::{Ask, Body, Told, path, text};
use crate::backend::records::{Directory, Extent, Measured, Records, Removed, Tag};
use crate::backend::snapshots::Snapshots;
use crate::backend::{Error, Path, Result};

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Records for Apart {
    async fn excludes(&self) -> Result<bool> {
        self.ask(&Path::root(), Ask::Excludes, Told::is).await
    }

    async fn create(&self, at: &Path, body: Bytes) -> Result<Tag> {
        self.ask(at, Ask::Create { at: text(at)?, body: Body(body) }, Told::tag).await
    }

    async fn get(&self, at: &Path) -> Result<(Bytes, Tag)> {
        self.ask(at, Ask::Get { at: text(at)? }, Told::record).await
    }

    async fn replace(&self, at: &Path, tag: &Tag, body: Bytes) -> Result<Tag> {
        self.ask(at, Ask::Replace { at: text(at)?, tag: tag.0.clone(), body: Body(body) }, Told::tag).await
    }

    async fn remove(&self, at: &Path) -> Result<()> {
        self.ask(at, Ask::Remove { at: text(at)? }, Told::done).await
    }

    fn list(&self, dir: &Path, after: Option<&Path>) -> BoxStream<'static, Result<Path>> {
        let (apart, dir, after) = (self.clone(), dir.clone(), after.map(text).transpose());
        let begin = async move {
            let what = Ask::List { dir: text(&dir)?, after: after? };
            let answers = apart.ask_many(&dir, what).await?;
            Ok::<_, Error>(stream::try_unfold(answers, async |mut answers| match answers.next().await? {
                Told::Paths(page) => Ok(Some((stream::iter(page.into_iter().map(|one| path(&one))), answers))),
                Told::Done => Ok(None),
                _ => Err(answers.strange()),
            }))
        };
        stream::once(begin).try_flatten().try_flatten().boxed()
    }

    async fn measure(&self, dir: &Path, from: Option<String>) -> Result<Measured> {
        self.ask(dir, Ask::Measure { dir: text(dir)?, from }, Told::measured).await
    }

    async fn is_vacant(&self, path: &Path) -> Result<bool> {
        self.ask(path, Ask::IsVacant { path: text(path)? }, Told::is).await
    }

    async fn remove_page(&self, dir: &Path, extent: Extent) -> Result<Removed> {
        self.ask(dir, Ask::RemovePage { dir: text(dir)?, extent }, Told::removed).await
    }

    async fn make_directory(&self, at: &Path, how: &Directory) -> Result<Option<String>> {
        self.ask(at, Ask::MakeDirectory { at: text(at)?, how: *how }, Told::text).await
    }

    async fn directory(&self, at: &Path) -> Result<Option<String>> {
        self.ask(at, Ask::Directory { at: text(at)? }, Told::text).await
    }

    async fn set_quota(&self, at: &Path, bytes: u64) -> Result<bool> {
        self.ask(at, Ask::SetQuota { at: text(at)?, bytes }, Told::is).await
    }

    async fn exposure(&self) -> Result<Option<String>> {
        self.ask(&Path::root(), Ask::Exposure, Told::text).await
    }

    async fn halted(&self) -> Result<Option<String>> {
        self.ask(&Path::root(), Ask::Halted, Told::text).await
    }

    async fn clear(&self) -> Result<u64> {
        self.ask(&Path::root(), Ask::Clear, Told::count).await
    }
}

#[async_trait]
impl Snapshots for Apart {
    async fn permitted(&self) -> Result<bool> {
        self.ask(&Path::root(), Ask::Permitted, Told::is).await
    }

    async fn take(&self, dir: &Path, name: &str) -> Result<()> {
        self.ask(dir, Ask::Take { dir: text(dir)?, name: name.to_owned() }, Told::done).await
    }

    async fn discard(&self, dir: &Path, name: &str) -> Result<()> {
        self.ask(dir, Ask::Discard { dir: text(dir)?, name: name.to_owned() }, Told::done).await
    }

    async fn names(&self, dir: &Path) -> Result<Vec<String>> {
        self.ask(dir, Ask::Names { dir: text(dir)? }, Told::names).await
    }

    fn restore(&self, dir: &Path, name: &str, to: &Path) -> BoxStream<'static, Result<u64>> {
        let (apart, dir, name, to) = (self.clone(), dir.clone(), name.to_owned(), to.clone());
        let begin = async move {
            let answers = apart.ask_many(&dir, Ask::Restore { dir: text(&dir)?, name, to: text(&to)? }).await?;
            Ok::<_, Error>(stream::try_unfold(answers, async |mut answers| match answers.next().await? {
                Told::Copied(bytes) => Ok(Some((bytes, answers))),
                Told::Done => Ok(None),
                _ => Err(answers.strange()),
            }))
        };
        stream::once(begin).try_flatten().boxed()
    }
}
