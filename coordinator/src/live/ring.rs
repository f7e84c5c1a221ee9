//! The newest events, of which all readers take.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Told;

/// The most events that it keeps, and about how much memory they may take.
const MOST_EVENTS: usize = 4096;
const MOST_BYTES: usize = 16 << 20;

/// The newest events of the stream, without any left out between them.
#[derive(Debug)]
pub(crate) struct Ring {
    events: VecDeque<Arc<Told>>,
    bytes: usize,
    /// All events from this sequence on are here, as far as they have come.
    from: u64,
    /// The sequence that is expected next.
    next: u64,
    /// How often the stream was made anew: its sequences begin again then.
    life: u64,
}

/// What a reader finds.
#[derive(Debug)]
pub(crate) enum Look {
    /// Events that it has not seen, in their order.
    Found(Vec<Arc<Told>>),
    /// It has seen all.
    UpToDate,
    /// What it has not seen begins before the ring.
    Behind {
        /// The last sequence that it finds in the stream only.
        until: u64,
    },
    /// The stream was made anew, and its sequences have begun again.
    Anew {
        /// Which of its lives this is.
        life: u64,
        /// The sequence of the first event that there is now.
        first: u64,
    },
}

impl Ring {
    /// A ring that begins at this sequence.
    pub(crate) fn new(from: u64) -> Self {
        Self { events: VecDeque::new(), bytes: 0, from, next: from, life: 0 }
    }

    /// The sequence that is expected next.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Which of the stream's lives this is of.
    pub(crate) fn life(&self) -> u64 {
        self.life
    }

    /// Takes the next event in. One that is here already, or was, is not taken again.
    pub(crate) fn push(&mut self, told: Told) {
        if told.sequence < self.next {
            return;
        }
        self.next = told.sequence + 1;
        self.bytes += told.size();
        self.events.push_back(Arc::new(told));
        while self.events.len() > MOST_EVENTS || self.bytes > MOST_BYTES {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= oldest.size();
            self.from = oldest.sequence + 1;
        }
    }

    /// The stream was made anew, and begins at this sequence.
    pub(crate) fn begin_anew(&mut self, from: u64) {
        *self = Self { life: self.life + 1, ..Self::new(from) };
    }

    /// What a reader finds that has seen everything up to `position` in this life of the stream; at most `limit` events.
    pub(crate) fn after(&self, position: u64, life: u64, limit: usize) -> Look {
        if life != self.life {
            return Look::Anew { life: self.life, first: self.from };
        }
        if position + 1 < self.from {
            return Look::Behind { until: self.from - 1 };
        }
        let begin = self.events.partition_point(|told| told.sequence <= position);
        let found: Vec<_> = self.events.iter().skip(begin).take(limit).cloned().collect();
        if found.is_empty() { Look::UpToDate } else { Look::Found(found) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(sequence: u64) -> Told {
        Told::new(sequence, b"{}")
    }

    fn ring(sequences: std::ops::Range<u64>) -> Ring {
        let mut ring = Ring::new(sequences.start);
        sequences.for_each(|sequence| ring.push(told(sequence)));
        ring
    }

    fn found(ring: &Ring, position: u64, limit: usize) -> Vec<u64> {
        match ring.after(position, ring.life(), limit) {
            Look::Found(events) => events.iter().map(|told| told.sequence).collect(),
            Look::UpToDate => Vec::new(),
            look => panic!("{look:?}"),
        }
    }

    #[test]
    fn a_reader_gets_what_it_has_not_seen_in_order() {
        let ring = ring(5..9);

        assert_eq!(found(&ring, 4, 10), [5, 6, 7, 8]);
        assert_eq!(found(&ring, 6, 10), [7, 8]);
        assert_eq!(found(&ring, 4, 2), [5, 6]);
        assert_eq!(found(&ring, 8, 10), [0; 0]);
        // It comes from another coordinator, which was a moment ahead of us.
        assert_eq!(found(&ring, 12, 10), [0; 0]);
    }

    #[test]
    fn a_reader_behind_the_ring_is_told_how_far_to_look_in_the_stream() {
        let ring = ring(5..9);

        assert!(matches!(ring.after(3, 0, 10), Look::Behind { until: 4 }));
        assert!(matches!(Ring::new(5).after(3, 0, 10), Look::Behind { until: 4 }));
        assert!(matches!(Ring::new(5).after(4, 0, 10), Look::UpToDate));
    }

    #[test]
    fn the_oldest_go_and_nothing_is_lost_between_the_ring_and_the_stream() {
        let last = MOST_EVENTS as u64 + 100;
        let ring = ring(1..last + 1);

        let Look::Behind { until } = ring.after(0, 0, 1) else { panic!("it keeps everything") };

        assert_eq!(until, 100);
        assert_eq!(found(&ring, until, 1), [101]);
        assert_eq!(found(&ring, last - 1, 10), [last]);
    }

    #[test]
    fn large_events_do_not_fill_the_memory() {
        let body = format!(
            r#"{{"time":"","topic":"task","what":"dead","epoch":1,"detail":"{}"}}"#,
            "x".repeat(MOST_BYTES / 16)
        );
        let mut ring = Ring::new(1);

        (1..=64).for_each(|sequence| ring.push(Told::new(sequence, body.as_bytes())));

        assert!(ring.bytes <= MOST_BYTES, "{}", ring.bytes);
        assert_eq!(found(&ring, 63, 10), [64]);
    }

    #[test]
    fn what_comes_twice_is_taken_once() {
        let mut ring = ring(5..9);

        ring.push(told(7));
        ring.push(told(9));

        assert_eq!(found(&ring, 6, 10), [7, 8, 9]);
        assert_eq!(ring.next(), 10);
    }

    #[test]
    fn a_stream_that_is_made_anew_is_told_to_those_who_follow() {
        let mut ring = ring(500..600);

        ring.begin_anew(1);
        ring.push(told(1));

        assert!(matches!(ring.after(550, 0, 10), Look::Anew { life: 1, first: 1 }));
        assert!(matches!(ring.after(0, 1, 10), Look::Found(events) if events.len() == 1));
    }
}
