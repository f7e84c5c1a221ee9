//! What attempts write while they run, and how far they are: kept for a while, and told to those who want it.
//!
//! Of each attempt the last 64 KiB are kept. They are told, and what is written from then on, only while somebody
//! follows the attempt (`follow` in the agent's inbox, for as long as it says) or if its submitter wants it so
//! (`Hive-Log: stream`): in pieces, no more than [`TICK_BYTES`] in a [`TICK`], whoever writes how much. How far an attempt is,
//! where its handler reports it, is told in any case, once in a second.

mod log;
mod report;
mod ring;
mod teller;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use shared::TaskId;
use shared::message::Follow;
use tokio::sync::Notify;

use crate::session::Order;
use log::Said;

pub(crate) use log::Log;
pub(crate) use teller::Teller;

/// How often something is told of an attempt, at most.
const TICK: Duration = Duration::from_millis(100);
/// How many bytes of all logs are told in that time.
const TICK_BYTES: usize = 256 << 10;
/// How many bytes of one log, and so of one message.
const PIECE_BYTES: usize = 32 << 10;

/// Of how many attempts that have ended the logs are kept, and how many bytes.
const ENDED: usize = 256;
const ENDED_BYTES: usize = 4 << 20;

/// The logs of an agent's attempts.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    bell: Arc<Notify>,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    running: FxHashMap<TaskId, Arc<Log>>,
    /// The newest last.
    ended: VecDeque<(Arc<Log>, usize)>,
    ended_bytes: usize,
}

impl Logs {
    /// An attempt begins; whether it is told what it writes, whoever listens.
    pub(crate) fn begin(&self, order: &Arc<Order>, is_streamed: bool) -> Arc<Log> {
        let log = Arc::new(Log::new(order.clone(), is_streamed, self.bell.clone()));
        self.lock().running.insert(order.task.clone(), log.clone());
        log
    }

    /// It has ended. Its log is kept while there is room.
    pub(crate) fn end(&self, log: &Arc<Log>) {
        log.end();
        let mut kept = self.lock();
        // The next attempt of the task may have begun while this one came to its end.
        if kept.running.get(&log.order().task).is_some_and(|running| Arc::ptr_eq(running, log)) {
            kept.running.remove(&log.order().task);
        }
        let bytes = log.len();
        kept.ended.push_back((log.clone(), bytes));
        kept.ended_bytes += bytes;
        while kept.ended.len() > ENDED || kept.ended_bytes > ENDED_BYTES {
            let Some((_, bytes)) = kept.ended.pop_front() else { break };
            kept.ended_bytes -= bytes;
        }
    }

    /// Somebody wants to see the log of an attempt; whether it is there.
    pub(crate) fn follow(&self, follow: &Follow, now: Instant) -> bool {
        let kept = self.lock();
        let is_meant = |log: &&Arc<Log>| log.order().task == follow.task;
        let is_named = |log: &&Arc<Log>| follow.attempt == log.order().attempt;
        let of_task = || kept.running.get(&follow.task).into_iter().chain(kept.newest_ended().filter(is_meant));
        let found = of_task().find(is_named).or_else(|| of_task().next());
        if let Some(log) = found {
            log.follow(follow, now);
        }
        found.is_some()
    }

    /// Lets it be told again how far all are: whoever was told may be gone.
    pub(crate) fn report_again(&self) {
        self.lock().running.values().for_each(|log| log.report_again());
    }

    /// Ends when there may be something to tell.
    async fn rung(&self) {
        self.bell.notified().await;
    }

    /// What is to be said now, those first who were silent longest; and whether there is more to say later.
    fn say(&self, now: Instant, piece_limit: usize) -> (Vec<Said>, bool) {
        let mut logs: Vec<Arc<Log>> = {
            let kept = self.lock();
            kept.running.values().chain(kept.newest_ended()).cloned().collect()
        };
        logs.sort_by_cached_key(|log| log.last_told());
        let (mut all_said, mut is_more, mut room) = (Vec::new(), false, TICK_BYTES);
        for log in logs {
            let (said, has_more) = log.say(now, if room < piece_limit { 0 } else { piece_limit });
            is_more |= has_more;
            if let Some(said) = said {
                room = room.saturating_sub(said.1.len());
                all_said.push(said);
            }
        }
        (all_said, is_more)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn newest_ended(&self) -> impl Iterator<Item = &Arc<Log>> {
        self.ended.iter().rev().map(|(log, _)| log)
    }
}

#[cfg(test)]
mod tests {
    use shared::message::Needed;
    use shared::{Epoch, Incarnation};

    use super::*;

    #[test]
    fn what_nobody_follows_is_not_told() {
        let logs = Logs::default();
        logs.begin(&order("t", 1), false).write(b"one\n");

        assert!(said(&logs).is_empty());
    }

    #[test]
    fn who_follows_late_sees_the_beginning_and_then_what_is_new() {
        let logs = Logs::default();
        let log = logs.begin(&order("t", 1), false);
        log.write(b"one\n");

        assert!(logs.follow(&follow("t", 0, 0), Instant::now()));
        let first = said(&logs);
        log.write(b"two\n");
        let second = said(&logs);

        assert_eq!(pieces(&first), [("0 4 running".to_owned(), "one\n".to_owned())]);
        assert_eq!(pieces(&second), [("4 8 running".to_owned(), "two\n".to_owned())]);
        assert!(said(&logs).is_empty(), "all is told");
    }

    #[test]
    fn who_asks_is_answered_though_there_is_nothing_new() {
        let logs = Logs::default();
        logs.begin(&order("t", 1), false).write(b"one\n");

        logs.follow(&follow("t", 1, 4), Instant::now());

        assert_eq!(pieces(&said(&logs)), [("4 4 running".to_owned(), String::new())]);
    }

    #[test]
    fn who_knows_another_attempt_sees_this_one_from_its_beginning() {
        let logs = Logs::default();
        logs.begin(&order("t", 2), false).write(b"again\n");

        logs.follow(&follow("t", 1, 4), Instant::now());

        assert_eq!(pieces(&said(&logs)), [("0 6 running".to_owned(), "again\n".to_owned())]);
    }

    #[test]
    fn nobody_follows_any_more_when_the_time_is_over() {
        let logs = Logs::default();
        let log = logs.begin(&order("t", 1), false);
        let now = Instant::now();
        logs.follow(&follow("t", 0, 0), now);
        said(&logs);

        log.write(b"too late\n");

        assert!(logs.say(now + Duration::from_secs(60), PIECE_BYTES).0.is_empty());
    }

    #[test]
    fn the_end_of_a_log_is_told_and_kept() {
        let logs = Logs::default();
        let log = logs.begin(&order("t", 1), true);
        log.write(b"no newline");

        logs.end(&log);

        assert_eq!(pieces(&said(&logs)), [("0 10 ended".to_owned(), "no newline".to_owned())]);
        assert!(said(&logs).is_empty());
        assert!(logs.follow(&follow("t", 1, 3), Instant::now()));
        assert_eq!(pieces(&said(&logs)), [("3 10 ended".to_owned(), "newline".to_owned())]);
        assert!(!logs.follow(&follow("other", 0, 0), Instant::now()));
    }

    #[test]
    fn a_flood_is_told_in_limits_and_what_is_lost_shows_in_the_offsets() {
        let logs = Logs::default();
        let log = logs.begin(&order("t", 1), true);
        let line = [b"flood ".repeat(20), b"\n".to_vec()].concat();
        (0..10_000).for_each(|_| log.write(&line));

        let (mut told, mut known, mut lost) = (0, 0, 0);
        loop {
            let all = said(&logs);
            let Some((headers, body)) = all.first() else { break };
            assert!(body.len() <= PIECE_BYTES && body.ends_with(b"\n"));
            let offset: u64 = headers.get("Hive-Log-Offset").unwrap().as_str().parse().unwrap();
            lost += offset - known;
            known = offset + body.len() as u64;
            told += body.len() as u64;
        }

        assert!(told >= 64 << 10, "{told}");
        assert_eq!(told + lost, 10_000 * line.len() as u64);
    }

    #[test]
    fn many_logs_share_what_is_told_in_a_tick() {
        let logs = Logs::default();
        let all: Vec<_> = (0..20).map(|n| logs.begin(&order(&format!("t-{n}"), 1), true)).collect();
        all.iter().for_each(|log| log.write(&b"twenty bytes a line\n".repeat(2000)));

        let first = said(&logs);
        let second = said(&logs);

        let bytes = |said: &[Said]| said.iter().map(|(_, body)| body.len()).sum::<usize>();
        assert!(bytes(&first) <= TICK_BYTES && bytes(&second) <= TICK_BYTES);
        let task = |(headers, _): &Said| headers.get("Hive-Task").unwrap().to_string();
        let heard: std::collections::BTreeSet<String> = first.iter().chain(&second).map(task).collect();
        assert!(heard.len() >= 15, "{heard:?}");
    }

    #[test]
    fn how_far_an_attempt_is_is_told_unasked_and_not_too_often() {
        let logs = Logs::default();
        let log = logs.begin(&order("t", 1), false);
        log.write(b"::progress 0.1 begun\n::progress 0.2 read\nnot progress\n");
        let now = Instant::now();

        let (first, is_more) = logs.say(now, PIECE_BYTES);
        log.report(0.5, "");
        let (second, has_more) = logs.say(now + Duration::from_millis(500), PIECE_BYTES);
        let (third, _) = logs.say(now + Duration::from_millis(1500), PIECE_BYTES);

        let header = |said: &[Said], name: &str| said[0].0.get(name).map(ToString::to_string);
        assert_eq!(header(&first, "Hive-Progress").as_deref(), Some("0.2"));
        assert_eq!(header(&first, "Hive-Progress-Text").as_deref(), Some("read"));
        assert!(first[0].1.is_empty() && !is_more);
        assert!(second.is_empty() && has_more);
        assert_eq!(header(&third, "Hive-Progress").as_deref(), Some("0.5"));
        assert_eq!(log.tail(100), b"not progress\n");
        logs.report_again();
        assert_eq!(header(&logs.say(now + Duration::from_secs(9), 9).0, "Hive-Progress").as_deref(), Some("0.5"));
    }

    #[test]
    fn logs_that_have_ended_make_room_for_newer_ones() {
        let logs = Logs::default();
        for number in 0..300 {
            let log = logs.begin(&order(&format!("t-{number}"), 1), false);
            log.write(&[b'x'; 60_000]);
            logs.end(&log);
        }

        let bytes = logs.lock().ended_bytes;
        assert!(bytes <= ENDED_BYTES && bytes > ENDED_BYTES / 2, "{bytes}");
        assert!(!logs.follow(&follow("t-0", 0, 0), Instant::now()));
        assert!(logs.follow(&follow("t-299", 0, 0), Instant::now()));
    }

    fn said(logs: &Logs) -> Vec<Said> {
        logs.say(Instant::now(), PIECE_BYTES).0
    }

    /// Offset, end and state of each piece, and its text.
    fn pieces(said: &[Said]) -> Vec<(String, String)> {
        let piece = |(headers, body): &Said| {
            let get = |name: &str| headers.get(name).unwrap().to_string();
            let place = ["Hive-Log-Offset", "Hive-Log-End", "Hive-Log-State"].map(get).join(" ");
            (place, String::from_utf8(body.to_vec()).unwrap())
        };
        said.iter().map(piece).collect()
    }

    fn follow(task: &str, attempt: u32, after: u64) -> Follow {
        Follow { task: task.parse().unwrap(), attempt, after, lasting: Duration::from_secs(15) }
    }

    fn order(task: &str, attempt: u32) -> Arc<Order> {
        Arc::new(Order {
            task: task.parse().unwrap(),
            sequence: 1,
            kind: "k".parse().unwrap(),
            attempt,
            epoch: Epoch(1),
            incarnation: Incarnation(1),
            timeout: None,
            reserved: Needed::default(),
        })
    }
}
