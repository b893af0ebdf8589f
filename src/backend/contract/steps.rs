//! What tests of a store do again and again.

use super::*;

pub(crate) const MIB: usize = 1 << 20;

pub(crate) fn path(text: &str) -> Path {
    Path::parse(text).unwrap()
}

/// Bytes that differ everywhere.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    (0..length as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

pub(crate) async fn begin(store: &dyn Backend, at: &str, base: Base) -> Box<dyn Upload> {
    store.create(&path(at), CreateOptions { base }).await.unwrap()
}

pub(crate) async fn publish(upload: &mut Box<dyn Upload>) -> Version {
    upload.publish(&Attributes::default()).await.unwrap().version().unwrap().clone()
}

pub(crate) async fn put(store: &dyn Backend, at: &str, data: impl Into<Bytes>) -> Version {
    let mut upload = begin(store, at, Base::Any).await;
    upload.write(data.into()).await.unwrap();
    publish(&mut upload).await
}

/// The version that lies there.
pub(crate) async fn version(store: &dyn Backend, at: &str) -> Version {
    store.stat(&path(at)).await.unwrap().version().unwrap().clone()
}

pub(crate) async fn part(store: &dyn Backend, file: &Version, range: Range<u64>) -> Result<Vec<u8>> {
    let body = store.read(file, range, Intent::Demand).await?;
    body.try_fold(Vec::new(), async |mut all, piece| {
        all.extend_from_slice(&piece);
        Ok(all)
    })
    .await
}

pub(crate) async fn content(store: &dyn Backend, file: &Version) -> Result<Vec<u8>> {
    part(store, file, 0..file.size).await
}

pub(crate) async fn error_of<T>(outcome: impl Future<Output = Result<T>>) -> ErrorKind {
    outcome.await.err().unwrap().kind
}
