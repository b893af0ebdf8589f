//! A store in trouble: 503s, bodies that break off, lack their end or have wrong bytes, resets, answers that are of
//! something else, no answer at all. What is read is right or an error that says why, in time; with and without the disk cache.
//!
//! Everything follows from a seed, which a failure names and `MILLRACE_TEST_SEED` sets.

use std::os::unix::fs::FileExt;

use millrace::sandbox::s3::{Fault, Rule};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

const SEED: &str = "MILLRACE_TEST_SEED";
const READERS: u64 = 4;
const READS: usize = 60;
/// Requests among which the faults are spread.
const REQUESTS: u64 = 250;

fn fault(chance: &mut StdRng) -> Fault {
    let early = chance.random_range(0..60_000);
    match chance.random_range(0..9) {
        0 => Fault::error(503, "SlowDown"),
        1 => Fault::error(500, "InternalError"),
        2 => Fault::Cut(early),
        3 => Fault::Short(1 + early),
        4 => Fault::Reset(early),
        5 => Fault::Refuse,
        6 => Fault::ContentRange("bytes 7-1006/1007".into()),
        7 => Fault::ETag("\"of something else\"".into()),
        _ => Fault::IgnoreRange,
    }
}

/// Reads of random pieces of random files; which errors there were.
fn read(root: &Path, files: &[(String, Vec<u8>)], mut chance: StdRng) -> Vec<Errno> {
    let mut errors = Vec::new();
    for _ in 0..READS {
        let (name, bytes) = &files[chance.random_range(0..files.len())];
        let at = chance.random_range(0..bytes.len());
        let mut found = vec![0; chance.random_range(1..400_000).min(bytes.len() - at)];
        let begun = Instant::now();
        let outcome = fs::File::open(root.join(name)).and_then(|file| file.read_exact_at(&mut found, at as u64));
        assert!(begun.elapsed() < SOON, "{name} took {:?}", begun.elapsed());
        match outcome {
            Ok(()) => assert!(found == bytes[at..at + found.len()], "{name} has wrong bytes at {at}+{}", found.len()),
            Err(error) => errors.push(Errno::from_raw(error.raw_os_error().unwrap())),
        }
    }
    errors
}

#[test]
fn what_a_store_in_trouble_gives_is_right_or_an_error() {
    let seed = requirement::size(SEED, rand::random::<u32>() as usize) as u64;
    eprintln!("{SEED}={seed}");
    for cached in [false, true] {
        let Some(rig) = Rig::new() else { return };
        let sizes =
            (0..6).map(|at| (format!("large-{at}"), 3 << 20)).chain((0..30).map(|at| (format!("small-{at}"), 50_000)));
        let files: Vec<_> = sizes.map(|(name, size)| (name.clone(), rig.put_random(&name, size))).collect();
        let workers = rig.caching_workers();
        let mut request = if cached { rig.cached("a") } else { rig.request("a") };
        request.spec.options.timeout = Duration::from_secs(5);
        rig.publish(&workers, request).unwrap();
        let mut chance = StdRng::seed_from_u64(seed);
        let faults = rig.server.faults();
        for _ in 0..REQUESTS / 8 {
            let rule = Rule::on(Kind::GetObject, fault(&mut chance)).skip(chance.random_range(0..REQUESTS));
            faults.add(rule);
        }
        let staged = faults.pending();
        faults.adjust(|conditions| conditions.slow_down = 0.05);
        let root = rig.target("a");
        let errors = std::thread::scope(|scope| {
            let begin = |reader| {
                let (root, files, chance) = (&root, &files, StdRng::seed_from_u64(seed + 1 + reader));
                scope.spawn(move || read(root, files, chance))
            };
            let readers: Vec<_> = (0..READERS).map(begin).collect();
            readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(faults.pending() < staged, "nothing went wrong");
        assert!(errors.iter().all(|errno| matches!(errno, Errno::EIO | Errno::ESTALE)), "seed {seed}: {errors:?}");
        // Most of it is asked again until it is right.
        assert!(errors.len() < READS * READERS as usize / 4, "seed {seed}: {errors:?}");
        faults.clear();
        faults.set_conditions(Conditions::default());
        for (name, bytes) in &files {
            assert!(fs::read(root.join(name)).unwrap() == *bytes, "seed {seed}: {name}");
        }
        rig.unpublish(&workers, "a").unwrap();
    }
}

#[test]
fn wrong_bytes_of_a_whole_object_are_neither_read_nor_kept() {
    let seed = requirement::size(SEED, rand::random::<u32>() as usize) as u64;
    eprintln!("{SEED}={seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    for cached in [false, true] {
        let Some(rig) = Rig::new() else { return };
        let name = |number: usize| format!("small-{number}");
        let files: Vec<_> = (0..40).map(|number| rig.put_random(&name(number), 200_000)).collect();
        for number in 0..files.len() {
            let wrong = Fault::Corrupt(chance.random_range(0..200_000));
            let times = chance.random_range(1..3);
            rig.server
                .faults()
                .add(Rule::on(Kind::GetObject, wrong).key(format!("data/{}", name(number))).times(times));
        }
        let workers = rig.caching_workers();
        for round in 0..8 {
            rig.publish(&workers, if cached { rig.cached("a") } else { rig.request("a") }).unwrap();
            for (number, bytes) in files.iter().enumerate() {
                match fs::read(rig.target("a").join(name(number))) {
                    Ok(found) => assert!(found == *bytes, "seed {seed}: {number} in round {round}"),
                    Err(error) => assert_eq!(error.raw_os_error(), Some(Errno::EIO as i32)),
                }
            }
            rig.unpublish(&workers, "a").unwrap();
        }
        assert_eq!(rig.server.faults().pending(), 0);
    }
}

#[test]
fn a_store_that_says_nothing_is_an_error_in_time_that_says_why() {
    let Some(rig) = Rig::new() else { return };
    let bytes = rig.put_random("f", 3 << 20);
    let workers = rig.workers();
    let mut request = rig.request("a");
    request.spec.options.timeout = Duration::from_secs(1);
    rig.publish(&workers, request).unwrap();
    let file = fs::File::open(rig.target("a").join("f")).unwrap();
    let read = |at: usize| {
        let mut found = vec![0; 4096];
        file.read_exact_at(&mut found, at as u64).map(|()| found)
    };
    assert!(read(0).unwrap() == bytes[..4096]);
    rig.server.faults().adjust(|conditions| conditions.silent = true);
    let begun = Instant::now();
    assert_eq!(errno(read(2 << 20)), Errno::EIO);
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    eventually("it is said why", || replies::said("deadline") || replies::said("no answer"));
    rig.server.faults().set_conditions(Conditions::default());
    eventually("it answers again", || read(2 << 20).is_ok_and(|found| found == bytes[2 << 20..(2 << 20) + 4096]));
    drop(file);
    rig.unpublish(&workers, "a").unwrap();
}
