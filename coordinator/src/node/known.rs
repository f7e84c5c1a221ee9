//! Which task ids may have a recorded result.
//!
//! A layered Bloom filter (Almeida et al., "Scalable Bloom Filters", 2007): it grows with what is put in, never
//! forgets, and is wrong only in saying "maybe" too often, which costs a look into the stream.

use std::hash::{BuildHasher as _, RandomState};

/// Bits per id for about one wrong "maybe" in a hundred.
const BITS_PER_ID: usize = 10;
const HASHES: u64 = 7;
const FIRST_LAYER: usize = 1 << 13;

/// A set of task ids that says "certainly not" or "maybe".
#[derive(Debug, Default)]
pub(crate) struct KnownIds {
    layers: Vec<Layer>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Layer {
    bits: Vec<u64>,
    capacity: usize,
    count: usize,
}

impl KnownIds {
    pub(crate) fn insert(&mut self, id: &str) {
        let hash = self.hasher.hash_one(id);
        if self.layers.last().is_none_or(|layer| layer.count >= layer.capacity) {
            let capacity = self.layers.last().map_or(FIRST_LAYER, |layer| layer.capacity * 2);
            let words = (capacity * BITS_PER_ID).div_ceil(64);
            self.layers.push(Layer { bits: vec![0; words], capacity, count: 0 });
        }
        let layer = self.layers.last_mut().expect("there is a layer now");
        layer.count += 1;
        let words = layer.bits.len();
        for (word, bit) in positions(hash, words) {
            layer.bits[word] |= bit;
        }
    }

    pub(crate) fn may_contain(&self, id: &str) -> bool {
        let hash = self.hasher.hash_one(id);
        self.layers.iter().any(|layer| positions(hash, layer.bits.len()).all(|(word, bit)| layer.bits[word] & bit != 0))
    }
}

/// Double hashing (Kirsch and Mitzenmacher, 2006): all positions from two halves of one hash.
fn positions(hash: u64, words: usize) -> impl Iterator<Item = (usize, u64)> {
    let (first, step) = (hash & 0xffff_ffff, (hash >> 32) | 1);
    (0..HASHES).map(move |i| {
        let position = first.wrapping_add(i.wrapping_mul(step)) % (words as u64 * 64);
        ((position / 64) as usize, 1 << (position % 64))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_is_always_found_and_little_else() {
        let mut known = KnownIds::default();
        for i in 0..100_000 {
            known.insert(&format!("task-{i}"));
        }

        assert!((0..100_000).all(|i| known.may_contain(&format!("task-{i}"))));
        let wrong = (0..10_000).filter(|i| known.may_contain(&format!("other-{i}"))).count();
        assert!(wrong < 1_500, "{wrong} of 10000 unknown ids were taken for known");
    }
}
