//! The CSI edge: gRPC on a Unix socket, and what the orchestrator's words mean here.

mod redact;
pub mod v1;
pub mod volume_id;
