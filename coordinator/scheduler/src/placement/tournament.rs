//! Knockout trees: of every group of agents the least of something, so that the best of them all is found by looking
//! at few.
//!
//! The leaves are the seats of a cohort. A node knows the least of what is below it, and a change climbs only as far
//! as it changes anything.

/// An agent's place in the trees of its cohort.
pub(crate) type Seat = u32;

/// A tree of the least.
#[derive(Clone, Debug)]
pub(crate) struct Least<T> {
    /// The root is 1, the children of `n` are `2n` and `2n + 1`, and the second half are the leaves.
    nodes: Vec<T>,
}

impl<T: Copy + PartialOrd> Least<T> {
    /// A tree for so many seats, a power of two, each of this value.
    pub(crate) fn new(seats: usize, value: T) -> Self {
        Self { nodes: vec![value; seats * 2] }
    }

    pub(crate) fn at(&self, node: usize) -> T {
        self.nodes[node]
    }

    pub(crate) fn get(&self, seat: Seat) -> T {
        self.nodes[self.nodes.len() / 2 + seat as usize]
    }

    pub(crate) fn set(&mut self, seat: Seat, value: T) {
        climb(&mut self.nodes, seat, value, |left, right| if right < left { right } else { left });
    }

    /// The same values in a tree with twice as many seats, the new ones of this value.
    pub(crate) fn doubled(&self, value: T) -> Self {
        let seats = self.nodes.len() / 2;
        let mut tree = Self::new(seats * 2, value);
        (0..seats).for_each(|seat| tree.set(seat as Seat, self.get(seat as Seat)));
        tree
    }
}

/// A tree of the most, in each of four dimensions by itself.
#[derive(Clone, Debug)]
pub(crate) struct Most {
    nodes: Vec<[u64; 4]>,
}

impl Most {
    pub(crate) fn new(seats: usize) -> Self {
        Self { nodes: vec![[0; 4]; seats * 2] }
    }

    pub(crate) fn set(&mut self, seat: Seat, value: [u64; 4]) {
        climb(&mut self.nodes, seat, value, |left, right| std::array::from_fn(|i| left[i].max(right[i])));
    }

    /// Whether somebody below the node may have as much of everything. (One may have enough of this and another of
    /// that.)
    pub(crate) fn may_have(&self, node: usize, wanted: &[u64; 4]) -> bool {
        wanted.iter().zip(&self.nodes[node]).all(|(wanted, most)| wanted <= most)
    }

    pub(crate) fn doubled(&self) -> Self {
        let seats = self.nodes.len() / 2;
        let mut tree = Self::new(seats * 2);
        (0..seats).for_each(|seat| tree.set(seat as Seat, self.nodes[seats + seat]));
        tree
    }
}

/// Gives a leaf a value, and the nodes above it what follows from their children, as far up as anything changes.
fn climb<T: Copy + PartialEq>(nodes: &mut [T], seat: Seat, value: T, of_both: impl Fn(T, T) -> T) {
    let mut node = nodes.len() / 2 + seat as usize;
    let mut value = value;
    while nodes[node] != value {
        nodes[node] = value;
        if node == 1 {
            return;
        }
        node /= 2;
        value = of_both(nodes[node * 2], nodes[node * 2 + 1]);
    }
}

/// Which nodes have somebody below them that is meant.
#[derive(Clone, Debug)]
pub(crate) struct Marks {
    words: Vec<u64>,
    seats: usize,
}

impl Marks {
    pub(crate) fn new(seats: usize) -> Self {
        Self { words: vec![0; (seats * 2).div_ceil(64)], seats }
    }

    pub(crate) fn has(&self, node: usize) -> bool {
        self.words[node / 64] & (1 << (node % 64)) != 0
    }

    pub(crate) fn set(&mut self, seat: Seat, marked: bool) {
        let mut node = self.seats + seat as usize;
        let mut marked = marked;
        while self.has(node) != marked {
            self.words[node / 64] ^= 1 << (node % 64);
            if node == 1 {
                return;
            }
            node /= 2;
            marked = self.has(node * 2) || self.has(node * 2 + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_knows_the_least_below_it() {
        let mut tree = Least::new(8, u64::MAX);
        for seat in 0..8u32 {
            tree.set(seat, u64::from((seat * 5 + 3) % 8));
        }
        assert_eq!(tree.at(1), 0);

        tree.set(1, 9);

        assert_eq!((tree.at(1), tree.get(1)), (1, 9));
        assert_eq!(tree.doubled(u64::MAX).at(1), 1);
    }

    #[test]
    fn of_several_dimensions_each_counts_by_itself() {
        let mut tree = Most::new(2);
        tree.set(0, [4, 0, 0, 0]);
        tree.set(1, [0, 4, 0, 0]);

        assert!(tree.may_have(1, &[4, 4, 0, 0]));
        assert!(!tree.may_have(2, &[4, 4, 0, 0]));
        assert!(!tree.may_have(1, &[5, 0, 0, 0]));
    }

    #[test]
    fn marks_come_and_go() {
        let mut marks = Marks::new(64);
        marks.set(5, true);
        marks.set(6, true);
        marks.set(5, false);

        assert!(marks.has(1) && marks.has(64 + 6) && !marks.has(64 + 5));
        marks.set(6, false);
        assert!(!marks.has(1));
    }
}
