//! Servers to run against on one machine: the embedded S3 server of `try` and of the tests, and starters of real ones; and a
//! Kubernetes API server that knows Nodes.

pub mod computed;
pub mod ganesha;
pub mod hadoop;
pub mod kubernetes;
mod process;
pub mod raw;
pub mod requirement;
pub mod s3;
mod tls;
pub mod versitygw;
