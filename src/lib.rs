//! Millrace: a Kubernetes CSI driver that shows object storage as POSIX volumes, fast enough to feed training, with
//! each mount holding one identity's credential and nothing else.
//!
//! One binary, several roles: `millrace controller` and `millrace node` speak CSI; `millrace worker`, a child of the
//! node plugin without privileges, serves one FUSE connection; `millrace clerk`, a child of the controller, speaks to one
//! HDFS store for it; `millrace try` plays all of it on one machine.
//!
//! ```text
//!      CONTROL PLANE: Kubernetes speaks, slowly             DATA PLANE: the kernel speaks, hot
//!      millrace controller      millrace node               millrace worker, one a mount
//!
//!  provisioner, kubelet                                        a pod's open() read() write()
//!        | gRPC, Unix socket                                      | kernel VFS
//!        v                                                        v /dev/fuse
//!  +-----------------------------+                   +----------------------------------------+
//!  | csi                         |                   | fuse     request <-> call; reply       |
//!  |   identity controller node  |                   |   errno.rs: vfs::Error -> errno, total |
//!  |   volumes   records, paths  |                   +-------------------+--------------------+
//!  |   status.rs  -> gRPC Status |                                       v  inode, name, handle
//!  +--+-----------------------+--+                   +----------------------------------------+
//!     |                       v                      | vfs      inodes, directories, handles, |
//!     |     +-----------------------------+ process  |          POSIX meaning, TTLs           |
//!     |     | mount   mountinfo, workers, +--------->+--------+---------------------+---------+
//!     |     | spec, secret, descriptors   | boundary |  reads |                     | stat, list,
//!     |     +-----------------------------+          |        v                     | write, rename
//!     |                                              |    +----------------------+  |
//!     |                                              |    | prefetch   patterns, |  |
//!     |                                              |    | windows, next files  |  |
//!     |                                              |    +--------+-------------+  |
//!     |                                              |             v                v
//!     |  records: make, change, list, delete         |    +----------------------------------------+
//!     +--------------------------------------------->|    | dyn Backend           <== THE SEAM     |
//!        HDFS: through millrace clerk, one a store   |    |   cache::Cached over one of            |
//!                                                    |    |   backend::{s3, hdfs, nfs, memory}     |
//!                                                    +----+---------------+------------------------+
//!                                                       ^ auth            v
//!                                                   credentials       S3, HDFS, NFS servers
//!
//!  app            the composition root: builds the parts from config, joins them, drains them
//!  topology       where nodes are, and where a store's data may be shown: one rule, asked by csi
//!  cluster        what is asked of the Kubernetes API: this node's own labels
//!  config         the operator's words -> each module's own Config, and VolumeSpec
//!  budget         the worker's one byte budget        observability   logs and metric names: leaves
//!  tunable        what may be changed while a mount is served: a leaf
//!  sandbox        the embedded S3 server of `try` and of the tests; starters of real servers
//! ```
//!
//! Calls go down, bytes come up. No module names one above it: `layering.rs` holds the table and fails on the rest.
//!
//! # Where this differs from the sketch it began as
//!
//! - The node plugin keeps no copy of a mount's `/dev/fuse` descriptor once the worker has it: nothing could take a
//!   mount over yet, and a kept copy turns a worker's death into a hang. The keeper comes with the takeover.
//! - [`backend::Backend`] has two halves: what every store does, and what only stores do that change files in place
//!   ([`backend::Traits::append`]), keep attributes or have links. The second half answers `Unsupported` by itself; a
//!   store with `append` and without `random_write` takes writes at a file's end alone.
//!   The file that the kernel may read by itself is asked of [`cache::Cached`] and reaches [`vfs`] by a trait of its own
//!   ([`vfs::Lender`]), since only the worker's root knows that there is a cache.
//! - Objects of S3 are got without the SDK's machinery around each request, which takes three times the processor time of the
//!   request itself; by its rules for endpoints, its signatures and its checksums ([`backend::s3`]).
//! - Records of a store without compare-and-swap are directories of numbered versions ([`backend::records`]): that one
//!   room serves every store that can make a whole file appear where nothing lies.
//! - What an AUTH_SYS store's controller acts as stands in the stores file, and is no secret: nodes must know it to refuse
//!   it.
//! - The controller's process for an HDFS store ([`backend::records::apart`]) is started when something is first asked of
//!   the store, not when the stores file names it, and with the same words for each: with Kerberos or without.
//! - A confined worker has no `/proc`, so that its keytab and Kerberos' configuration lie in a file system in memory of its
//!   own rather than in a memfd, which only an unconfined one uses.
//! - Privileged source ports of NFS are not only bound by the node plugin and passed: it connects them and locks a filter
//!   onto each ([`mount`]), since whoever holds a connected socket can disconnect it and use its port elsewhere.
//! - What a worker that dies leaves hidden on NFS, and open or hidden in HDFS, stands in a journal that the node plugin
//!   hands it ([`backend::journal`]), and the next one undoes it.
//! - `auth`, `backend` and `prefetch` own their configuration; `config` fills it and nothing below reads a word of it.

pub mod app;
pub mod auth;
pub mod backend;
pub mod budget;
pub mod cache;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod csi;
pub mod fuse;
#[cfg(test)]
mod layering;
pub mod mount;
pub mod observability;
pub mod prefetch;
#[cfg(feature = "sandbox")]
pub mod sandbox;
pub mod topology;
pub mod tunable;
pub mod vfs;
