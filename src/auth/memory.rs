//! Memory that is wiped when it is given back: what a plugin read for others is then gone with the call, in whatever
//! library's buffer it was.
//!
//! [`crate::auth::Secret`] wipes what is known to be a secret. Before it is known, the same bytes have been in the
//! buffers of a socket, of HTTP/2, of gRPC and of a message, none of which wipes. So the whole process does, once
//! [`wipe_what_is_freed`] was called; before that it costs one look at a flag.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};

static WIPES: AtomicBool = AtomicBool::new(false);

/// From now on, all memory of this process is wiped when it is freed, if [`Wiping`] is its allocator. For processes that
/// carry messages, not data.
pub fn wipe_what_is_freed() {
    WIPES.store(true, Ordering::Relaxed);
}

/// The system's allocator, wiping where told to.
#[derive(Debug, Clone, Copy)]
pub struct Wiping;

#[expect(unsafe_code, reason = "an allocator is made of pointers")]
// SAFETY: every block comes from `System` and goes back to it with the layout that it was asked for.
unsafe impl GlobalAlloc for Wiping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if WIPES.load(Ordering::Relaxed) {
            // SAFETY: the block has that many bytes, and nobody else uses it any more. A compiler does not leave this
            // call out, as it may a plain write before a free.
            unsafe { libc::explicit_bzero(block.cast(), layout.size()) };
        }
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !WIPES.load(Ordering::Relaxed) {
            // SAFETY: as the caller promises.
            return unsafe { System.realloc(block, layout, size) };
        }
        // SAFETY: the caller promises that this is a layout. The new block is another one, and both have as many bytes as
        // are copied.
        unsafe {
            let moved = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(block, layout.size().min(size));
                self.dealloc(block, layout);
            }
            moved
        }
    }
}
