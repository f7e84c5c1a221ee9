//! Results that are recorded together.
//!
//! A broker that has each message on the disk before it confirms it syncs the disk for each, one after the other; for an
//! atomic batch it does so a few times, whatever is in it (measured: 82 times for 20 batches of 100). Elsewhere a batch
//! costs more than its messages by themselves. Which it is shows in how long records take while many are on their way.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use bytes::Bytes;
use scheduler::Sequence;
use shared::client;

use super::answers::Topic;
use super::envelope::{Stage, result_headers};
use super::{Node, PATIENCE};
use crate::store::Recorded;

/// How many must be on their way beside one for its time to tell what one costs. With fewer, most of it is the way.
const CROWD: u32 = 32;
/// What a record may cost before they are recorded together. Measured with nats-server 2.15: 10 to 40 µs without a sync,
/// 155 µs and more with one.
const COSTLY: Duration = Duration::from_micros(120);
/// How long that is taken for granted; then some are recorded one by one again, to see.
const VALIDITY: Duration = Duration::from_secs(10);
/// How many are recorded one by one rather than as a batch: that has a price of its own.
const FEWEST: usize = 8;
/// How many go into a batch. (The server takes 1,000.)
const MOST: usize = 500;
/// How many bytes of results go into a batch, but for the last of them: the server holds them until they are complete.
const MOST_BYTES: usize = 4 << 20;

/// Results on their way into the stream.
#[derive(Debug, Default)]
pub(super) struct Records {
    /// How many are on their way by themselves.
    alone: u32,
    /// What one of them costs, when many are on their way, and when that was seen.
    cost: Option<(Duration, Instant)>,
    /// What is to be recorded with others.
    waiting: VecDeque<Sequence>,
    /// The batch that is on its way.
    group: Option<Group>,
    groups: u64,
}

/// A batch on its way.
#[derive(Debug)]
struct Group {
    number: u64,
    sent: Instant,
    members: Vec<Sequence>,
}

impl Records {
    /// One goes by itself. How many others are on their way is to be kept for [`Self::came_alone`].
    pub(super) fn goes_alone(&mut self) -> u32 {
        self.alone += 1;
        self.alone - 1
    }

    /// One that went by itself beside so many others is answered after this time.
    pub(super) fn came_alone(&mut self, beside: u32, took: Duration, now: Instant) {
        self.alone = self.alone.saturating_sub(1);
        if beside < CROWD {
            return;
        }
        let cost = took / (beside + 1);
        let before = self.cost.map_or(cost, |(before, _)| before);
        self.cost = Some(((before * 7 + cost) / 8, now));
    }

    /// Whether it is cheaper to record some together.
    fn go_together(&self, now: Instant) -> bool {
        self.cost.is_some_and(|(cost, seen)| cost > COSTLY && now.duration_since(seen) < VALIDITY)
    }

    /// Who goes next, if nobody is on the way who must be waited for: meanwhile more come together.
    fn next(&mut self, now: Instant, size: impl Fn(Sequence) -> usize) -> Vec<Sequence> {
        if self.waiting.is_empty() || self.group.as_ref().is_some_and(|group| now < group.sent + PATIENCE) {
            return Vec::new();
        }
        let (mut members, mut bytes) = (Vec::new(), 0);
        while members.len() < MOST
            && bytes < MOST_BYTES
            && let Some(sequence) = self.waiting.pop_front()
        {
            bytes += size(sequence);
            members.push(sequence);
        }
        members
    }

    fn sent(&mut self, members: Vec<Sequence>, now: Instant) {
        self.groups += 1;
        self.group = Some(Group { number: self.groups, sent: now, members });
    }

    /// Who was in the batch of this number, if it is the one that is on its way.
    fn answered(&mut self, number: u64) -> Vec<Sequence> {
        self.group.take_if(|group| group.number == number).map(|group| group.members).unwrap_or_default()
    }
}

impl Node {
    /// Records a result, by itself or with others.
    pub(super) async fn send_record(&mut self, sequence: Sequence) {
        let Some(reign) = &mut self.reign else { return };
        if reign.records.go_together(Instant::now()) {
            reign.records.waiting.push_back(sequence);
            self.enter(sequence, Stage::Recording);
            return;
        }
        self.send_record_alone(sequence).await;
    }

    pub(super) async fn send_record_alone(&mut self, sequence: Sequence) {
        self.enter(sequence, Stage::Recording);
        let Some((subject, headers, output)) = self.record_of(sequence) else { return };
        if let Some(reign) = &mut self.reign
            && let Some(envelope) = reign.envelopes.get_mut(&sequence)
            && envelope.recording.is_none()
        {
            envelope.recording = Some((Instant::now(), reign.records.goes_alone()));
        }
        let reply = self.reply_to(Topic::Record, sequence);
        self.publish(subject, Some(reply), Some(headers), output).await;
    }

    /// Records what has come together.
    pub(super) async fn send_records_together(&mut self) {
        let now = Instant::now();
        let Some(reign) = &mut self.reign else { return };
        let envelopes = &reign.envelopes;
        let size = |sequence| envelopes.get(&sequence).map_or(0, |envelope| envelope.output.len());
        let mut members = reign.records.next(now, size);
        // Some may have been recorded meanwhile, having waited too long.
        members.retain(|member| envelopes.get(member).is_some_and(|envelope| envelope.stage == Stage::Recording));
        if members.len() < FEWEST {
            for member in members {
                self.send_record_alone(member).await;
            }
            return;
        }
        let reign = self.reign.as_mut().expect("it was there a moment ago");
        reign.records.sent(members.clone(), now);
        let number = reign.records.groups;
        self.send_batch(number, &members).await;
    }

    async fn send_batch(&mut self, number: u64, members: &[Sequence]) {
        let batch = format!("{}-{number}", self.inbox.rsplit('.').next().unwrap_or_default());
        for (place, member) in members.iter().enumerate() {
            let Some((subject, mut headers, output)) = self.record_of(*member) else { continue };
            let is_last = place + 1 == members.len();
            client::add_to_batch(&mut headers, &batch, place as u64 + 1, is_last);
            let reply = is_last.then(|| self.reply_to(Topic::Batch, number));
            self.publish(subject, reply, Some(headers), output).await;
        }
    }

    pub(super) async fn on_batch_recorded(&mut self, number: u64, recorded: Recorded) {
        let Some(reign) = &mut self.reign else { return };
        for member in reign.records.answered(number) {
            match recorded {
                Recorded::Stored => self.on_recorded(member, Recorded::Stored).await,
                // All or none: if one has a result already, each is told of itself only by itself.
                Recorded::Already | Recorded::Unknown => {
                    if self.stage_of(member) == Some(Stage::Recording) {
                        self.send_record_alone(member).await;
                    }
                }
            }
        }
    }

    /// The message that records a result.
    fn record_of(&self, sequence: Sequence) -> Option<(String, HeaderMap, Bytes)> {
        let envelope = self.reign.as_ref()?.envelopes.get(&sequence)?;
        let mut headers = result_headers(envelope.settlement.as_ref()?);
        headers.insert("Nats-Expected-Last-Subject-Sequence", "0");
        Some((self.subjects.result(&envelope.id), headers, envelope.output.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// So many go by themselves at once, and are answered one after the other, each after this time more.
    fn burst(records: &mut Records, count: u32, each: Duration, now: Instant) {
        let beside: Vec<u32> = (0..count).map(|_| records.goes_alone()).collect();
        for beside in beside {
            records.came_alone(beside, each * (beside + 1), now);
        }
    }

    #[test]
    fn they_go_together_where_each_is_synced() {
        let (mut records, now) = (Records::default(), Instant::now());

        burst(&mut records, 100, Duration::from_micros(30), now);
        assert!(!records.go_together(now), "each costs little");

        burst(&mut records, 100, Duration::from_micros(250), now);
        assert!(records.go_together(now));
        assert!(!records.go_together(now + VALIDITY), "it is looked again whether that is still so");
    }

    #[test]
    fn a_slow_way_is_not_taken_for_a_slow_disk() {
        let (mut records, now) = (Records::default(), Instant::now());

        for _ in 0..1000 {
            let beside = records.goes_alone();
            records.came_alone(beside, 5 * MS, now);
        }

        assert!(!records.go_together(now));
    }

    #[test]
    fn the_next_batch_waits_for_the_one_before_and_takes_what_has_come_meanwhile() {
        let (mut records, now) = (Records::default(), Instant::now());
        records.waiting.extend((1..=3).map(Sequence));
        let first = records.next(now, |_| 1);
        records.sent(first.clone(), now);
        records.waiting.extend((4..=5).map(Sequence));

        assert_eq!(first, [1, 2, 3].map(Sequence));
        assert!(records.next(now, |_| 1).is_empty());
        assert!(records.answered(7).is_empty(), "it is another's answer");
        assert_eq!(records.answered(1), [1, 2, 3].map(Sequence));
        assert_eq!(records.next(now, |_| 1), [4, 5].map(Sequence));
    }

    #[test]
    fn a_batch_that_is_not_answered_holds_nobody_up_for_ever() {
        let (mut records, now) = (Records::default(), Instant::now());
        records.sent(vec![Sequence(1)], now);
        records.waiting.push_back(Sequence(2));

        assert!(records.next(now + PATIENCE - MS, |_| 1).is_empty());
        assert_eq!(records.next(now + PATIENCE, |_| 1), [Sequence(2)]);
    }

    #[test]
    fn a_batch_is_bounded_in_number_and_in_bytes() {
        let (mut records, now) = (Records::default(), Instant::now());
        records.waiting.extend((0..2000).map(Sequence));

        assert_eq!(records.next(now, |_| 1).len(), MOST);
        assert_eq!(records.next(now, |_| MOST_BYTES / 2).len(), 2);
    }
}
