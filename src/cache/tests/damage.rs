//! Whatever happens to the disk, and whenever the process ends: right bytes, or the store's.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::*;

/// All files below a part, of one ending.
fn files(rig: &Rig, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![rig.dir.path().to_owned()];
    while let Some(dir) = dirs.pop() {
        for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                dirs.push(path);
            } else if path.to_str().unwrap().ends_with(suffix) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Files of all kinds of lengths, read whole and in part.
fn fill(rig: &Rig) -> Vec<Version> {
    [("a", 3 * 4096), ("b", 3 * 4096), ("c", 9000), ("d", 1), ("e", 2 * MIB)]
        .map(|(name, size)| rig.put(name, size))
        .into()
}

async fn read_all(cached: &Cached, files: &[Version]) {
    for file in files {
        check(cached, file, 0..file.size).await;
    }
    cached.settle().await;
}

/// Fills a part, does `harm` to it, and reads it again, then once more from what was mended.
async fn survives(what: &str, harm: impl Fn(&Rig)) {
    let rig = Rig::new();
    let all = fill(&rig);
    read_all(&rig.open().await, &all).await;
    harm(&rig);
    let cached = rig.open().await;
    read_all(&cached, &all).await;
    let requests = rig.requests();
    read_all(&cached, &all).await;
    assert_eq!(rig.requests(), requests, "{what} was not mended");
    read_all(&rig.open().await, &all).await;
    assert_eq!(rig.requests(), requests, "{what} was not mended on the disk");
}

#[tokio::test]
async fn flipped_bytes_are_never_given_out() {
    for suffix in [".data", ".map"] {
        for step in [1, 4093] {
            survives(&format!("{suffix} {step}"), |rig| {
                for path in files(rig, suffix) {
                    let mut bytes = fs::read(&path).unwrap();
                    let first = step.min(bytes.len() - 1) / 2;
                    bytes.iter_mut().skip(first).step_by(step).for_each(|byte| *byte ^= 0x10);
                    fs::write(&path, bytes).unwrap();
                }
            })
            .await;
        }
    }
}

#[tokio::test]
async fn one_flipped_bit_anywhere_costs_a_block_at_most() {
    let rig = Rig::new();
    let file = rig.put("f", 5 * 4096 + 100);
    read_all(&rig.open().await, std::slice::from_ref(&file)).await;
    for suffix in [".data", ".map"] {
        let path = files(&rig, suffix).remove(0);
        let whole = fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(if suffix == ".map" { 1 } else { 997 }) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(&path, bytes).unwrap();
            let cached = rig.open().await;
            check(&cached, &file, 0..file.size).await;
            cached.settle().await;
            // A damaged head makes another file of it.
            if let [now] = &files(&rig, suffix)[..] {
                fs::write(now, &whole).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn cut_and_grown_files_are_never_given_out() {
    for suffix in [".data", ".map"] {
        for (what, length) in [("empty", 0), ("begun", 50), ("a block", 4096), ("grown", 10 << 20)] {
            survives(&format!("{suffix} {what}"), |rig| {
                for path in files(rig, suffix) {
                    File::options().write(true).open(path).unwrap().set_len(length).unwrap();
                }
            })
            .await;
        }
        survives(&format!("{suffix} gone"), |rig| {
            files(rig, suffix).iter().for_each(|path| fs::remove_file(path).unwrap());
        })
        .await;
    }
}

#[tokio::test]
async fn a_file_that_is_cut_or_rots_while_it_is_read_is_fetched() {
    let rig = Rig::new();
    let file = rig.put("f", 3 * MIB);
    let cached = rig.open().await;
    read_all(&cached, std::slice::from_ref(&file)).await;
    let path = files(&rig, ".data").remove(0);
    let data = File::options().write(true).open(&path).unwrap();
    data.write_all_at(b"rot", MIB + 5000).unwrap();
    read_all(&cached, std::slice::from_ref(&file)).await;
    data.set_len(2 * MIB).unwrap();
    read_all(&cached, std::slice::from_ref(&file)).await;
    let requests = rig.requests();
    read_all(&cached, std::slice::from_ref(&file)).await;
    assert_eq!(rig.requests(), requests);
}

#[tokio::test]
async fn blocks_and_files_that_changed_places_are_never_given_out() {
    // Two blocks of a file, with their sums.
    survives("blocks", |rig| {
        for path in files(rig, ".data") {
            let mut bytes = fs::read(&path).unwrap();
            if bytes.len() >= 2 * 4096 {
                let (one, other) = bytes.split_at_mut(4096);
                one.swap_with_slice(&mut other[..4096]);
                fs::write(&path, bytes).unwrap();
                let map = path.with_extension("map");
                let mut bytes = fs::read(&map).unwrap();
                let first = bytes.len() - 8 * (fs::metadata(&path).unwrap().len().div_ceil(4096) as usize);
                let (one, other) = bytes[first..].split_at_mut(8);
                one.swap_with_slice(&mut other[..8]);
                fs::write(&map, bytes).unwrap();
            }
        }
    })
    .await;
    // Two files of equal length: their bytes, their maps, both.
    for suffixes in [&[".data"][..], &[".map"], &[".data", ".map"]] {
        survives(&format!("{suffixes:?}"), |rig| {
            for suffix in suffixes {
                let same: Vec<_> = files(rig, ".data")
                    .into_iter()
                    .filter(|path| fs::metadata(path).unwrap().len() == 3 * 4096)
                    .map(|path| path.with_extension(&suffix[1..]))
                    .collect();
                let [one, other] = &same[..] else { panic!("not two: {same:?}") };
                let (first, second) = (fs::read(one).unwrap(), fs::read(other).unwrap());
                fs::write(one, second).unwrap();
                fs::write(other, first).unwrap();
            }
        })
        .await;
    }
}

/// What a machine that lost its power may leave: pages of either file that were never written.
#[tokio::test]
async fn pages_that_never_reached_the_disk_are_misses() {
    for round in 0..8_u64 {
        survives(&format!("round {round}"), |rig| {
            for path in files(rig, ".data").into_iter().chain(files(rig, ".map")) {
                let mut bytes = fs::read(&path).unwrap();
                for (number, page) in bytes.chunks_mut(4096).enumerate() {
                    if (number as u64 * 7 + round).is_multiple_of(3) {
                        page.fill(0);
                    }
                }
                fs::write(&path, bytes).unwrap();
            }
        })
        .await;
    }
}

#[tokio::test]
async fn the_process_may_end_at_every_change_of_the_disk() {
    let mut steps = 0;
    loop {
        let rig = Rig { config: Config { capacity: 3 * MIB, free_percent: 0 }, ..Rig::new() };
        let mut all = fill(&rig);
        all.push(rig.put("f", MIB));
        rig.stage(|staged| staged.changes_left = Some(steps));
        let cached = rig.open().await;
        read_all(&cached, &all).await;
        // Once more, so that some displace others.
        read_all(&cached, &all[3..]).await;
        drop(cached);
        let mut ended = false;
        rig.stage(|staged| {
            ended = staged.changes_left == Some(0);
            *staged = Staged::default();
        });
        let cached = rig.open().await;
        read_all(&cached, &all).await;
        assert!(cached.used() <= 3 * MIB + 64 * 1024, "after {steps}: {}", cached.used());
        assert_eq!(files(&rig, ".new").len(), 0, "after {steps}");
        if !ended {
            break;
        }
        steps += 1;
    }
    assert!(steps > 30, "{steps}");
}

#[tokio::test]
async fn what_is_nobodys_is_removed() {
    let rig = Rig::new();
    let file = rig.put("f", 10_000);
    read_all(&rig.open().await, std::slice::from_ref(&file)).await;
    let shard = files(&rig, ".map").remove(0).parent().unwrap().to_owned();
    let old = std::time::SystemTime::now() - Duration::from_secs(3600);
    for name in ["0123.data", "0123.new", "4567.map", "notes.txt", "89.seal"] {
        let file = File::create(shard.join(name)).unwrap();
        file.set_modified(old).unwrap();
    }
    let before = rig.requests();
    let cached = rig.open().await;
    assert_eq!(fs::read_dir(&shard).unwrap().count(), 2);
    read_all(&cached, std::slice::from_ref(&file)).await;
    assert_eq!(rig.requests(), before);
}

#[tokio::test]
async fn a_file_under_whose_name_another_lies_is_not_given_out_by_it() {
    let rig = Rig::new();
    let file = rig.put("f", 2 * MIB);
    for moved in [false, true] {
        let cached = rig.open().await;
        read_all(&cached, std::slice::from_ref(&file)).await;
        if moved {
            let name = files(&rig, ".data").remove(0);
            let other = name.with_extension("other");
            fs::write(&other, vec![0; 2 * MIB as usize]).unwrap();
            fs::rename(&other, &name).unwrap();
        }
        cached.prepare_local();
        // What is not known to be right is looked at, and may be given out the next time.
        assert!(cached.local(&file).await.is_none());
        cached.settle().await;
        assert_eq!(cached.local(&file).await.is_some(), !moved);
    }
}
