//! What was counted, by place in the table: how a worker tells the node plugin, and how several tell of one volume.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::{Deserialize, Serialize};

use super::{Kind, Metric, TABLE, find, layout, width};

/// The numbers that are not nothing, by their place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbers {
    /// Of the table that the places are in.
    schema: u64,
    cells: BTreeMap<u32, u64>,
}

impl Default for Numbers {
    fn default() -> Numbers {
        Numbers { schema: schema(), cells: BTreeMap::new() }
    }
}

/// Tells one table from another: two binaries that differ here do not understand each other's numbers.
fn schema() -> u64 {
    let mut hasher = DefaultHasher::new();
    for Metric { name, labels, .. } in TABLE {
        name.hash(&mut hasher);
        labels.iter().for_each(|label| (label.name, label.values).hash(&mut hasher));
    }
    hasher.finish()
}

impl Numbers {
    /// As they come from another process; `None` where they are of another table, or of no place in this one.
    pub fn understood(self) -> Option<Numbers> {
        let fits = self.cells.keys().all(|at| (*at as usize) < width());
        (self.schema == schema() && fits).then_some(self)
    }

    pub(super) fn put(&mut self, at: usize, value: u64) {
        // The table is short of 2^32 numbers by far.
        self.cells.insert(at as u32, value);
    }

    pub(super) fn at(&self, at: usize) -> Option<u64> {
        self.cells.get(&(at as u32)).copied()
    }

    /// The number of a metric without buckets, with these values of its own labels; `None` where none was told.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<u64> {
        let (first, metric) = find(name)?;
        let value = |name: &str| labels.iter().find(|(label, _)| *label == name).map(|(_, value)| *value);
        self.at(first + metric.number(value) * metric.depth())
    }

    /// All series of a metric without buckets that were told, with the values of its own labels.
    pub fn of(&self, name: &str) -> Vec<(Vec<(&'static str, &'static str)>, u64)> {
        let Some((first, metric)) = find(name) else { return Vec::new() };
        let told = |number| Some((metric.values(number), self.at(first + number)?));
        (0..metric.series()).filter_map(told).collect()
    }

    /// Sets the number of a metric that has neither labels of its own nor buckets.
    pub fn set(&mut self, name: &str, value: u64) {
        if let Some((first, _)) = find(name) {
            self.put(first, value);
        }
    }

    /// Adds what another worker of the volume tells.
    pub fn add(&mut self, other: &Numbers) {
        self.merge(other, |_| true);
    }

    /// Adds what a worker of the volume had told that has ended: what it counted, and none of its levels.
    pub fn add_ended(&mut self, other: &Numbers) {
        self.merge(other, |kind| matches!(kind, Kind::Counter | Kind::Histogram));
    }

    fn merge(&mut self, other: &Numbers, counts: impl Fn(Kind) -> bool) {
        for (first, metric) in layout().filter(|(_, metric)| counts(metric.kind)) {
            for (at, value) in other.cells.range(first as u32..(first + metric.width()) as u32) {
                let there = self.cells.entry(*at).or_default();
                *there = match metric.kind {
                    Kind::Highest => (*there).max(*value),
                    Kind::Counter | Kind::Histogram | Kind::Sum => there.saturating_add(*value),
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{VOLUME_READ_BYTES, VOLUME_USED_BYTES, WORKER_MEMORY_BYTES};
    use super::*;

    fn told(read: u64, used: u64, memory: u64) -> Numbers {
        let mut numbers = Numbers::default();
        let values = [(VOLUME_READ_BYTES, read), (VOLUME_USED_BYTES, used), (WORKER_MEMORY_BYTES, memory)];
        values.iter().for_each(|(name, value)| numbers.set(name, *value));
        numbers
    }

    #[test]
    fn workers_of_one_volume_tell_of_it_together() {
        let mut all = Numbers::default();
        all.add(&told(10, 100, 5));
        all.add(&told(1, 99, 7));
        assert_eq!(all, told(11, 100, 12));
        all.add_ended(&told(4, 1000, 1000));
        assert_eq!(all, told(15, 100, 12));
        all.add(&told(u64::MAX, 0, 0));
        assert_eq!(all.get(VOLUME_READ_BYTES, &[]), Some(u64::MAX));
    }

    #[test]
    fn numbers_of_another_table_are_not_understood() {
        let wire =
            |numbers: &Numbers| serde_json::from_str::<Numbers>(&serde_json::to_string(numbers).unwrap()).unwrap();
        let good = told(1, 2, 3);
        assert_eq!(wire(&good).understood(), Some(good.clone()));
        assert_eq!(Numbers { schema: 7, ..good.clone() }.understood(), None);
        let mut beyond = good;
        beyond.put(width(), 1);
        assert_eq!(beyond.understood(), None);
    }
}
