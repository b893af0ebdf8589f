//! Millrace: a CSI driver that shows S3, HDFS and NFS as POSIX volumes.

pub mod app;
pub mod auth;
pub mod backend;
pub mod budget;
pub mod cli;
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
pub mod vfs;
