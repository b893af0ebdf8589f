//! The embedded S3 server: an own implementation of the operations on the `s3s` crate, which checks signatures and
//! speaks the protocol.
//!
//! It runs in the process, on loopback, and holds everything in memory or computes it. What tests need of a server and
//! no real one gives is adjustable while it runs: latency, bandwidth, and staged faults ([`Faults`]); what it was asked
//! is counted ([`Counters`]).

mod body;
mod checksum;
mod content;
mod counters;
mod faults;
mod kind;
mod list;
mod multipart;
mod objects;
mod pace;
mod request;
mod service;
mod users;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use s3s::dto::Checksum;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

pub use counters::{Counters, Seen};
pub use faults::{Conditions, Fault, Faults, Rule};
pub use kind::Kind;
pub use objects::{Bucket, Stored};
pub use users::{Rights, User, Users};

use super::raw::Access;
use content::Content;
use counters::Ledger;
use objects::{Attributes, Contents, Object, Store};

/// How a server begins.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Who may sign requests.
    pub users: Vec<User>,
    /// Buckets that are there from the start.
    pub buckets: Vec<String>,
    /// How it behaves at first.
    pub conditions: Conditions,
    /// HTTPS with a certificate of its own ([`Server::ca_pem`]), which offers `h2` in ALPN as ingresses do.
    pub tls: bool,
    /// Keeps what every request asked ([`Server::seen`]).
    pub record: bool,
    /// Where to listen; a free port of 127.0.0.1 where there is none.
    pub listen: Option<SocketAddr>,
}

/// A running server. It ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    store: Arc<Store>,
    users: Users,
    faults: Faults,
    ledger: Arc<Ledger>,
    address: SocketAddr,
    ca_pem: Option<String>,
    accepting: AbortHandle,
    connections: tokio_util::sync::CancellationToken,
}

impl Server {
    /// Listens, and serves in tasks of the present runtime.
    ///
    /// # Errors
    /// Where it cannot listen.
    pub async fn start(options: Options) -> io::Result<Server> {
        let listener = TcpListener::bind(options.listen.unwrap_or(([127, 0, 0, 1], 0).into())).await?;
        let address = listener.local_addr()?;
        let (store, users) = (Arc::new(Store::default()), Users::default());
        for user in options.users {
            users.add(user);
        }
        for bucket in options.buckets {
            store.lock().insert(bucket, Contents::default());
        }
        let identity = options.tls.then(super::tls::Identity::generate).transpose()?;
        let (faults, ledger) = (Faults::new(options.conditions), Arc::<Ledger>::default());
        let connections = tokio_util::sync::CancellationToken::new();
        let wire = wire::Wire {
            service: service::build(store.clone(), &users),
            faults: faults.clone(),
            ledger: ledger.clone(),
            record: options.record,
            total: pace::Pace::default(),
        };
        let acceptor = identity.as_ref().map(|identity| identity.acceptor.clone());
        let accepting =
            tokio::spawn(wire::accept(listener, acceptor, Arc::new(wire), connections.clone())).abort_handle();
        let ca_pem = identity.map(|identity| identity.ca_pem);
        Ok(Server { store, users, faults, ledger, address, ca_pem, accepting, connections })
    }

    /// `http(s)://127.0.0.1:port`.
    pub fn endpoint(&self) -> String {
        let scheme = if self.ca_pem.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// The certificate to trust, where it speaks TLS.
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    /// How a user of it reaches one of its buckets.
    pub fn access(&self, bucket: &str, user: &User) -> Access {
        Access {
            endpoint: self.endpoint(),
            bucket: bucket.to_owned(),
            region: "us-east-1".to_owned(),
            key_id: user.key_id.clone(),
            secret: user.secret.clone(),
            session_token: user.session_token.clone(),
            ca_pem: self.ca_pem.clone(),
        }
    }

    /// Its users, to change while it runs.
    pub fn users(&self) -> &Users {
        &self.users
    }

    /// Its faults and conditions, to change while it runs.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// What it has done since the start or the last reset.
    pub fn counters(&self) -> Counters {
        self.ledger.read()
    }

    /// Begins to count anew.
    pub fn reset_counters(&self) {
        self.ledger.reset();
    }

    /// What every request asked since the last reset, where [`Options::record`].
    pub fn seen(&self) -> Vec<Seen> {
        self.ledger.seen()
    }

    /// Makes a bucket, or changes how it behaves.
    pub fn bucket(&self, name: &str, behaviour: Bucket) {
        self.store.lock().entry(name.to_owned()).or_default().behaviour = behaviour;
    }

    /// Puts an object there, as another client would. Its ETag.
    pub fn put(&self, bucket: &str, key: &str, bytes: impl Into<Bytes>) -> String {
        self.place(bucket, key, bytes.into().into(), Attributes::default())
    }

    /// Puts an object there whose storage class is `class`.
    pub fn put_class(&self, bucket: &str, key: &str, bytes: impl Into<Bytes>, class: &str) -> String {
        let attributes = Attributes { storage_class: Some(class.to_owned()), ..Attributes::default() };
        self.place(bucket, key, bytes.into().into(), attributes)
    }

    /// Puts an object of `size` bytes there that are those of [`super::computed`] for `seed`, kept nowhere.
    pub fn put_computed(&self, bucket: &str, key: &str, seed: u64, size: u64) -> String {
        self.place(bucket, key, Content::computed(seed, size), Attributes::default())
    }

    /// The current object of a key.
    pub fn get(&self, bucket: &str, key: &str) -> Option<Stored> {
        self.store.lock().get(bucket)?.current(key).map(|object| Stored::from(&**object))
    }

    /// Removes the current object of a key.
    pub fn remove(&self, bucket: &str, key: &str) {
        if let Some(contents) = self.store.lock().get_mut(bucket) {
            contents.delete(key);
        }
    }

    /// The keys of a bucket, in order.
    pub fn keys(&self, bucket: &str) -> Vec<String> {
        let buckets = self.store.lock();
        let Some(contents) = buckets.get(bucket) else { return Vec::new() };
        contents.current_from(std::ops::Bound::Unbounded).map(|(key, _)| key.clone()).collect()
    }

    /// How many versions and delete markers the keys that begin with `prefix` have.
    pub fn versions(&self, bucket: &str, prefix: &str) -> usize {
        let buckets = self.store.lock();
        let Some(contents) = buckets.get(bucket) else { return 0 };
        contents.history(prefix).take_while(|(key, ..)| key.starts_with(prefix)).count()
    }

    /// Uploads of a bucket that are neither completed nor aborted.
    pub fn open_uploads(&self, bucket: &str) -> usize {
        self.store.lock().get(bucket).map_or(0, |contents| contents.uploads.len())
    }

    fn place(&self, bucket: &str, key: &str, content: Content, attributes: Attributes) -> String {
        // As for PUTs, CRC64NVME; computed bytes are not read for it.
        let checksum = match content.is_held() {
            true => checksum::full(&content, &Checksum::default()),
            false => Checksum::default(),
        };
        let object = Object::new(content.etag(), content, attributes, checksum);
        let etag = object.etag.clone();
        self.store.lock().entry(bucket.to_owned()).or_default().put(key, object);
        etag
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
        self.connections.cancel();
    }
}

#[cfg(test)]
mod tests;
