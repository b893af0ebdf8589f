//! The messages, clients and service traits of CSI v1.13.0, generated from `proto/csi.proto`.
//!
//! `Debug` of messages that hold secrets is in [`super::redact`].

#![expect(missing_docs, clippy::allow_attributes_without_reason, reason = "generated")]

tonic::include_proto!("csi.v1");

/// The descriptors of `csi.proto` and of what it imports, `csi_secret` options included, as an encoded
/// `google.protobuf.FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/csi.desc"));

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::FILE_DESCRIPTOR_SET;
    use crate::sandbox::requirement::{self, Requirement};

    const GO: Requirement = Requirement::Program { variable: "GO", name: "go" };

    /// A program with the published descriptors in it compares every name, number, type and option.
    #[test]
    fn our_text_says_what_the_published_one_says() {
        if !requirement::met(&[GO]) {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("csi.desc");
        std::fs::write(&file, FILE_DESCRIPTOR_SET).unwrap();
        let output = Command::new(requirement::program("GO", "go").unwrap())
            .args(["run", "./descriptors"])
            .arg(&file)
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("csi-sanity"))
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(output.status.success(), "{text}");
    }
}
