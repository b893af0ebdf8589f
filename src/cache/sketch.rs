//! How often a version was visited lately, in a fixed space: a count-min sketch whose counts fade, as TinyLFU has it
//! (Einziger, Friedman, Manes 2017). Pure.
//!
//! It decides who may take another's place when the cache is full: who was visited more often. One pass over more than
//! fits displaces nothing, and of a data set that is read again and again and does not fit, a part stays.

/// Counters in a row; a power of two.
const WIDTH: usize = 1 << 14;
const ROWS: usize = 4;
/// All counts are halved after so many visits, so that what was visited long ago gives way.
const FADE: u32 = 10 * WIDTH as u32;

/// See the module.
#[derive(Debug)]
pub(super) struct Sketch {
    counts: Vec<u8>,
    visits: u32,
}

impl Default for Sketch {
    fn default() -> Sketch {
        Sketch { counts: vec![0; ROWS * WIDTH], visits: 0 }
    }
}

impl Sketch {
    /// Counts a visit of what has this number, which must be as good as random.
    pub(super) fn visit(&mut self, number: u64) {
        let least = self.count(number);
        for at in places(number) {
            // Only the smallest, which is the least wrong.
            if self.counts[at] == least {
                self.counts[at] = self.counts[at].saturating_add(1);
            }
        }
        self.visits += 1;
        if self.visits >= FADE {
            self.fade();
        }
    }

    /// Visits so far, less what faded; rather too many than too few.
    pub(super) fn count(&self, number: u64) -> u8 {
        places(number).map(|at| self.counts[at]).min().unwrap_or_default()
    }

    /// Halves all counts.
    pub(super) fn fade(&mut self) {
        self.counts.iter_mut().for_each(|count| *count /= 2);
        self.visits /= 2;
    }
}

fn places(number: u64) -> impl Iterator<Item = usize> {
    let step = number.rotate_left(32) | 1;
    (0..ROWS as u64).map(move |row| {
        let mixed = number.wrapping_add(row.wrapping_mul(step)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        row as usize * WIDTH + (mixed as usize) % WIDTH
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(of: u64) -> u64 {
        (of + 1).wrapping_mul(0xd6e8_feb8_6659_fd93).rotate_left(29).wrapping_mul(0xa076_1d64_78bd_642f)
    }

    #[test]
    fn visits_are_counted_rather_too_often_and_fade() {
        let mut sketch = Sketch::default();
        for of in 0..1000 {
            for _ in 0..=of % 5 {
                sketch.visit(number(of));
            }
        }
        let exact = (0..1000).filter(|of| u64::from(sketch.count(number(*of))) == of % 5 + 1).count();
        assert!((0..1000).all(|of| u64::from(sketch.count(number(of))) > of % 5));
        assert!(exact > 990, "{exact}");
        sketch.fade();
        assert_eq!((sketch.count(number(4)), sketch.count(number(5000))), (2, 0));
        (0..FADE).for_each(|of| sketch.visit(number(10_000 + u64::from(of) % 100)));
        assert!(sketch.count(number(4)) <= 1);
    }
}
