//! The messages, clients and service traits of CSI v1.13.0, generated from `proto/csi.proto`.
//!
//! `Debug` of messages that hold secrets is in [`super::redact`].

#![expect(missing_docs, reason = "generated")]

tonic::include_proto!("csi.v1");

/// The descriptors of `csi.proto` and of what it imports, `csi_secret` options included, as an encoded
/// `google.protobuf.FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/csi.desc"));
