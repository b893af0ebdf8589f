//! A flag for each of many blocks. Pure.

use std::ops::Range;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Bits {
    words: Vec<u64>,
    length: u64,
    set: u64,
}

impl Bits {
    pub(super) fn none(length: u64) -> Bits {
        Bits { words: vec![0; length.div_ceil(64) as usize], length, set: 0 }
    }

    pub(super) fn get(&self, at: u64) -> bool {
        at < self.length && self.words[(at / 64) as usize] & (1 << (at % 64)) != 0
    }

    /// How many are set.
    #[cfg(test)]
    fn count(&self) -> u64 {
        self.set
    }

    pub(super) fn all(&self) -> bool {
        self.set == self.length
    }

    pub(super) fn set(&mut self, range: Range<u64>) {
        for at in range.start..range.end.min(self.length) {
            let (word, bit) = (&mut self.words[(at / 64) as usize], 1 << (at % 64));
            self.set += u64::from(*word & bit == 0);
            *word |= bit;
        }
    }

    pub(super) fn clear(&mut self, at: u64) {
        if self.get(at) {
            self.words[(at / 64) as usize] &= !(1 << (at % 64));
            self.set -= 1;
        }
    }

    /// Bytes of memory that it takes.
    pub(super) fn weight(&self) -> usize {
        self.words.len() * size_of::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_counted_once() {
        let mut bits = Bits::none(130);
        bits.set(60..70);
        bits.set(65..200);
        assert_eq!(
            (bits.count(), bits.get(59), bits.get(60), bits.get(129), bits.get(130)),
            (70, false, true, true, false)
        );
        bits.clear(60);
        bits.clear(60);
        bits.clear(999);
        assert_eq!((bits.count(), bits.all()), (69, false));
        bits.set(0..130);
        assert!(bits.all() && Bits::none(0).all());
    }
}
