//! Small files that somebody said come next.

use super::*;
use crate::backend::Backend;

#[tokio::test(start_paused = true)]
async fn what_was_read_or_passed_over_before_its_turn_is_not_fetched_after_it() {
    const FILES: usize = 300;
    let (memory, content) = (Memory::new(), pattern(10_000));
    let path = |number: usize| Path::parse(&format!("d/{number:03}")).unwrap();
    let mut versions = Vec::new();
    for number in 0..FILES {
        versions.push(memory.put(&path(number), content.clone()));
    }
    let store = Faulty::new(Arc::new(memory));
    store.every(Op::Read, 1, Fault::Pace(Duration::from_millis(15), 100_000_000));
    let backend: Arc<dyn Backend> = Arc::new(store.clone());
    let ahead = ReadAhead::new(backend, Budget::new(256 * MIB), Config::for_budget(256 * MIB));
    let source = ahead.source();
    let wanted = || versions.iter().cloned().map(Target::Version);
    // Said twice, and asked for once.
    ahead.want(source, wanted());
    ahead.want(source, wanted());
    ahead.pass_over([&path(298), &path(299)]);
    for version in versions[200..298].iter().rev() {
        let (reader, _) = ahead.open(version.clone());
        check(&reader, &content, 0..10_000).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    for version in &versions[..200] {
        let (reader, found) = ahead.open(version.clone());
        assert_eq!(found, Ahead::There);
        check(&reader, &content, 0..10_000).await;
    }
    assert_eq!(store.calls(Op::Read), 298);
}
