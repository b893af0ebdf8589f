//! What is agreed with the kernel when a mount begins (FUSE_INIT).

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use fuser::{InitFlags, KernelConfig};

/// Asks for what the calls rely on, and, where files are changed `in_place` by others too, for pages that go with their
/// file's old attributes. Where files are to be read past this process, `passes` says from then on whether the kernel can,
/// and where they are to be opened without asking, `skips` says it.
///
/// # Errors
/// A kernel without what nothing can stand in for.
pub(super) fn negotiate(
    config: &mut KernelConfig,
    max_background: u16,
    passes: &AtomicBool,
    skips: &mut bool,
    in_place: bool,
) -> io::Result<()> {
    // Without it `> f` arrives as a truncation by path, indistinguishable from truncate(2).
    config
        .add_capabilities(InitFlags::FUSE_ATOMIC_O_TRUNC)
        .map_err(|_| io::Error::new(io::ErrorKind::Unsupported, "this kernel has no FUSE_ATOMIC_O_TRUNC"))?;
    for wanted in [
        // Lookups and listings of one directory go side by side.
        InitFlags::FUSE_PARALLEL_DIROPS,
        InitFlags::FUSE_DO_READDIRPLUS,
        InitFlags::FUSE_READDIRPLUS_AUTO,
        // Set-id bits are kept nowhere, or by servers that clear them at a write: none needs to ask for them.
        InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    ]
    .into_iter()
    .chain(in_place.then_some(InitFlags::FUSE_AUTO_INVAL_DATA))
    {
        if let Err(missing) = config.add_capabilities(wanted) {
            tracing::info!(?missing, "this kernel's FUSE lacks a capability");
        }
    }
    // Files of the node that lie on no stacked file system themselves.
    let mut can_pass =
        || config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok() && config.set_max_stack_depth(1).is_ok();
    if passes.load(Ordering::Relaxed) && !can_pass() {
        tracing::info!("this kernel's FUSE has no passthrough");
        passes.store(false, Ordering::Relaxed);
    }
    *skips = *skips && config.add_capabilities(InitFlags::FUSE_NO_OPEN_SUPPORT).is_ok();
    let _ = config.set_max_background(max_background);
    Ok(())
}
