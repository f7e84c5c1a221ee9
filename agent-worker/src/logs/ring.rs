//! The end of what an attempt has written, and the lines that it is made of.

use std::collections::VecDeque;

/// How much of the end is kept at least.
pub(super) const KEPT: usize = 64 << 10;
/// How much more it may become before it is cut.
const SLACK: usize = 16 << 10;
/// What is longer is no line any more, and taken in parts.
const LONGEST_LINE: usize = 8 << 10;

/// The end of a log. Bytes are numbered from the log's beginning, so who knows where the ones it has end knows what it
/// lacks.
#[derive(Debug, Default)]
pub(super) struct Ring {
    bytes: VecDeque<u8>,
    start: u64,
}

impl Ring {
    pub(super) fn push(&mut self, line: &[u8]) {
        self.bytes.extend(line);
        if self.bytes.len() > KEPT + SLACK {
            self.cut();
        }
    }

    /// Forgets the beginning, up to the beginning of a line if one is near.
    fn cut(&mut self) {
        let surplus = self.bytes.len() - KEPT;
        let near = surplus.saturating_sub(LONGEST_LINE);
        let newline = self.bytes.range(near..surplus).rposition(|byte| *byte == b'\n');
        let forgotten = newline.map_or(surplus, |place| near + place + 1);
        self.bytes.drain(..forgotten);
        self.start += forgotten as u64;
    }

    /// How many bytes there were.
    pub(super) fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// How many are kept.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// What comes after so many bytes, or after those that are forgotten, and where it begins: whole lines, as many as the
    /// limit allows.
    pub(super) fn after(&self, known: u64, limit: usize) -> (u64, Vec<u8>) {
        let offset = known.clamp(self.start, self.end());
        let from = (offset - self.start) as usize;
        let mut to = self.bytes.len().min(from + limit);
        if to < self.bytes.len() {
            let newline = self.bytes.range(from..to).rposition(|byte| *byte == b'\n');
            to = newline.map_or(to, |place| from + place + 1);
        }
        (offset, self.bytes.range(from..to).copied().collect())
    }

    /// The last bytes.
    pub(super) fn tail(&self, count: usize) -> Vec<u8> {
        self.bytes.range(self.bytes.len().saturating_sub(count)..).copied().collect()
    }
}

/// Makes lines of what comes in any parts.
#[derive(Debug, Default)]
pub(super) struct Lines {
    begun: Vec<u8>,
    /// Whether the beginning of the line was taken already.
    is_cut: bool,
}

impl Lines {
    /// Gives each line that is complete, with whether it is whole.
    pub(super) fn write(&mut self, mut bytes: &[u8], mut take: impl FnMut(&[u8], bool)) {
        while let Some(newline) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(newline + 1);
            bytes = rest;
            let is_whole = !std::mem::take(&mut self.is_cut);
            if self.begun.is_empty() {
                take(line, is_whole);
            } else {
                self.begun.extend_from_slice(line);
                take(&self.begun, is_whole);
                self.begun.clear();
            }
        }
        self.begun.extend_from_slice(bytes);
        if self.begun.len() >= LONGEST_LINE {
            take(&self.begun, false);
            self.begun.clear();
            self.is_cut = true;
        }
    }

    /// Gives what was begun and will not be completed.
    pub(super) fn close(&mut self, take: impl FnOnce(&[u8], bool)) {
        let is_whole = !std::mem::take(&mut self.is_cut);
        if !self.begun.is_empty() {
            take(&self.begun, is_whole);
            self.begun.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_kept_from_the_beginning_of_a_line() {
        let mut ring = Ring::default();
        for number in 0..20_000 {
            ring.push(format!("line {number}\n").as_bytes());
        }

        let (offset, kept) = ring.after(0, usize::MAX);

        assert!(kept.len() >= KEPT && kept.len() <= KEPT + SLACK, "{}", kept.len());
        assert_eq!(offset + kept.len() as u64, ring.end());
        assert!(kept.starts_with(b"line ") && kept.ends_with(b"line 19999\n"));
        assert_eq!(ring.end(), (0..20_000).map(|n: u32| n.to_string().len() as u64 + 6).sum::<u64>());
    }

    #[test]
    fn what_has_no_lines_is_cut_anywhere() {
        let mut ring = Ring::default();
        for _ in 0..100 {
            ring.push(&[b'x'; LONGEST_LINE]);
        }

        assert!(ring.len() >= KEPT && ring.len() <= KEPT + SLACK, "{}", ring.len());
        assert_eq!(ring.end(), 100 * LONGEST_LINE as u64);
    }

    #[test]
    fn a_piece_is_whole_lines_after_what_is_known() {
        let mut ring = Ring::default();
        ring.push(b"one\ntwo\nthree\n");

        assert_eq!(ring.after(0, 9), (0, b"one\ntwo\n".to_vec()));
        assert_eq!(ring.after(8, 99), (8, b"three\n".to_vec()));
        assert_eq!(ring.after(99, 9), (14, Vec::new()));
        assert_eq!(ring.tail(6), b"three\n");
    }

    #[test]
    fn lines_are_put_together_and_what_is_too_long_is_taken_in_parts() {
        let (mut lines, mut taken) = (Lines::default(), Vec::new());
        let mut take = |line: &[u8], is_whole| taken.push((line.len(), is_whole));

        lines.write(b"on", &mut take);
        lines.write(b"e\ntwo\nth", &mut take);
        lines.write(&[b'x'; LONGEST_LINE], &mut take);
        lines.write(b"rest\nlast", &mut take);
        lines.close(&mut take);

        assert_eq!(taken, [(4, true), (4, true), (LONGEST_LINE + 2, false), (5, false), (4, true)]);
    }
}
