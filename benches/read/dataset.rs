//! What is read: named objects of computed bytes, one folder a workload.

/// One object, whose bytes are those of `computed` for its seed.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    /// Its path below the workload's folder.
    pub(crate) name: String,
    pub(crate) seed: u64,
    pub(crate) size: u64,
}

/// `count` objects of `size` bytes.
pub(crate) fn equal(stem: &str, count: u64, size: u64) -> Vec<Object> {
    (0..count).map(|at| Object { name: format!("{stem}-{at:03}"), seed: at + 1, size }).collect()
}

/// `folders` of 1,000 files of about 100 KB: 50,000 to 149,999 bytes, whose sum does not depend on chance.
pub(crate) fn small(folders: u64) -> Vec<Object> {
    (0..folders * 1000)
        .map(|at| {
            let size = 50_000 + at * 7_919 % 100_000;
            Object { name: format!("{:02}/{:04}", at / 1000, at % 1000), seed: at + 1, size }
        })
        .collect()
}

/// Numbers that look like chance and are the same each time (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at as u64 + 1) as usize);
        }
    }
}
