//! What an inode takes that the kernel holds and nobody uses.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use millrace::backend::memory::Memory;
use millrace::backend::{Backend, Path};
use millrace::budget::Budget;
use millrace::prefetch::{self, ReadAhead};
use millrace::vfs::{Config, Ino, Vfs};

/// Bytes that were allocated in this thread and not given back there.
struct Counting;

thread_local! {
    static HELD: Cell<i64> = const { Cell::new(0) };
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[expect(unsafe_code, reason = "an allocator is")]
// SAFETY: everything is the system's; a number is counted beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = HELD.try_with(|held| held.set(held.get() + layout.size() as i64));
        // SAFETY: as for this call.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        let _ = HELD.try_with(|held| held.set(held.get() - layout.size() as i64));
        // SAFETY: as for this call.
        unsafe { System.dealloc(place, layout) }
    }
}

#[tokio::test]
async fn an_inode_takes_at_most_three_hundred_bytes_and_its_name() {
    let memory = Memory::new();
    let names: Vec<_> = (0..60_000).map(|number| format!("file-{number:05}")).collect();
    for name in &names {
        memory.put(&Path::parse(name).unwrap(), "content");
    }
    let (backend, budget): (Arc<dyn Backend>, _) = (Arc::new(memory), Budget::new(1 << 30));
    let ahead = ReadAhead::new(backend.clone(), budget.clone(), prefetch::Config::for_budget(1 << 30));
    let vfs = Vfs::new(backend, ahead, budget, Config { read_only: true, ..Config::default() });
    let held = || HELD.with(Cell::get);
    let begun = held();
    // Where a table has just grown is the worst that there is.
    let mut worst = 0;
    for (number, name) in names.iter().enumerate() {
        vfs.lookup(Ino::ROOT, name.as_bytes()).await.unwrap();
        if number > 1000 {
            worst = worst.max((held() - begun) / (number as i64 + 1) - name.len() as i64);
        }
    }
    let last = (held() - begun) / names.len() as i64 - names[0].len() as i64;
    assert!(last > 50 && last <= 300, "{last} bytes; at worst {worst}");
    assert!(worst <= 360, "at worst {worst} bytes");
}
