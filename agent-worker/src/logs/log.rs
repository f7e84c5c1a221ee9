//! What one attempt has written, and who wants to see it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::header::HeaderValue;
use bytes::Bytes;
use shared::header::name::{ATTEMPT, EPOCH, LOG_END, LOG_OFFSET, LOG_STATE, PROGRESS, PROGRESS_TEXT, TASK};
use shared::message::Follow;
use tokio::sync::Notify;

use super::report::Report;
use super::ring::{Lines, Ring};
use crate::session::Order;

/// How often it is told how far an attempt is whom nobody follows, and one that somebody does.
const REPORT_INTERVALS: [Duration; 2] = [Duration::from_secs(1), Duration::from_millis(200)];

/// The log of an attempt.
pub(crate) struct Log {
    order: Arc<Order>,
    /// Rung when there is something to tell.
    bell: Arc<Notify>,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    lines: Lines,
    ring: Ring,
    has_ended: bool,
    /// How far the attempt is, and whether that was told.
    report: Option<Report>,
    is_report_told: bool,
    report_told: Option<Instant>,
    followed: Followed,
    /// How many bytes were told to those who follow.
    told: u64,
    /// Whether somebody waits to hear that there is nothing new.
    is_asked: bool,
    last_told: Option<Instant>,
}

/// Whether somebody wants to see what is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Followed {
    #[default]
    No,
    /// Unless it is asked again.
    Until(Instant),
    /// The submitter wants it so.
    Always,
}

/// What is said of an attempt: the headers of `progress`, and its body.
pub(super) type Said = (HeaderMap, Bytes);

impl Log {
    pub(super) fn new(order: Arc<Order>, is_streamed: bool, bell: Arc<Notify>) -> Self {
        let followed = if is_streamed { Followed::Always } else { Followed::No };
        Self { order, bell, kept: Mutex::new(Kept { followed, ..Kept::default() }) }
    }

    pub(super) fn order(&self) -> &Order {
        &self.order
    }

    /// Takes in what was written, in any parts.
    pub(crate) fn write(&self, bytes: &[u8]) {
        let mut kept = self.lock();
        let Kept { lines, ring, report, is_report_told, .. } = &mut *kept;
        lines.write(bytes, |line, is_whole| match Report::parse(line).filter(|_| is_whole) {
            Some(new) => (*report, *is_report_told) = (Some(new), false),
            None => ring.push(line),
        });
        self.ring_if_wanted(&kept);
    }

    /// A line that was begun is one, though nothing follows it.
    pub(crate) fn close_line(&self) {
        let mut kept = self.lock();
        let Kept { lines, ring, report, is_report_told, .. } = &mut *kept;
        lines.close(|line, is_whole| match Report::parse(line).filter(|_| is_whole) {
            Some(new) => (*report, *is_report_told) = (Some(new), false),
            None => ring.push(line),
        });
        self.ring_if_wanted(&kept);
    }

    /// Takes note of how far the attempt is. What is no share from 0 to 1 is ignored.
    pub(crate) fn report(&self, fraction: f64, text: &str) {
        let Some(report) = Report::new(fraction, text) else { return };
        let mut kept = self.lock();
        (kept.report, kept.is_report_told) = (Some(report), false);
        self.ring_if_wanted(&kept);
    }

    /// The last bytes that were written.
    pub(crate) fn tail(&self, count: usize) -> Vec<u8> {
        self.lock().ring.tail(count)
    }

    pub(super) fn end(&self) {
        self.close_line();
        let mut kept = self.lock();
        kept.has_ended = true;
        // How far it is, its `done` tells better.
        kept.is_report_told = true;
        self.ring_if_wanted(&kept);
    }

    /// How many bytes are kept.
    pub(super) fn len(&self) -> usize {
        self.lock().ring.len()
    }

    pub(super) fn follow(&self, follow: &Follow, now: Instant) {
        let mut kept = self.lock();
        // Of another attempt it is known what was written, not of this one.
        let known = if [0, self.order.attempt].contains(&follow.attempt) { follow.after } else { 0 };
        // Who follows already may be told once more what it knows; that is seen by its offset.
        kept.told = if kept.followed == Followed::No { known } else { kept.told.min(known) };
        kept.is_asked = true;
        kept.followed = kept.followed.extended(now + follow.lasting);
        self.bell.notify_one();
    }

    /// Lets it be told again how far the attempt is.
    pub(super) fn report_again(&self) {
        let mut kept = self.lock();
        kept.is_report_told = kept.has_ended;
        self.ring_if_wanted(&kept);
    }

    /// When something was told last.
    pub(super) fn last_told(&self) -> Option<Instant> {
        self.lock().last_told
    }

    /// What is to be said now, with no more than so many bytes of the log, and whether there is more to say later.
    pub(super) fn say(&self, now: Instant, limit: usize) -> (Option<Said>, bool) {
        let mut kept = self.lock();
        if matches!(kept.followed, Followed::Until(until) if until <= now) {
            kept.followed = Followed::No;
        }
        let report = kept.report_due(now);
        let wants_log = kept.wants_log() && limit > 0;
        if report.is_none() && !wants_log {
            return (None, kept.has_more());
        }
        let mut headers = HeaderMap::new();
        headers.insert(TASK, self.order.task.as_str());
        headers.insert(ATTEMPT, HeaderValue::from(self.order.attempt));
        headers.insert(EPOCH, HeaderValue::from(self.order.epoch.0));
        if let Some(report) = report {
            headers.insert(PROGRESS, report.fraction.to_string());
            if !report.text.is_empty() {
                headers.insert(PROGRESS_TEXT, report.text);
            }
        }
        let body = if wants_log { kept.next_piece(limit, &mut headers) } else { Bytes::new() };
        kept.last_told = Some(now);
        (Some((headers, body)), kept.has_more())
    }

    fn ring_if_wanted(&self, kept: &Kept) {
        if kept.followed != Followed::No || kept.has_unsaid_report() {
            self.bell.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn has_unsaid_report(&self) -> bool {
        self.report.is_some() && !self.is_report_told
    }

    /// How far the attempt is, if that is to be said now.
    fn report_due(&mut self, now: Instant) -> Option<Report> {
        let interval = REPORT_INTERVALS[usize::from(self.followed != Followed::No)];
        let is_due = self.report_told.is_none_or(|told| now >= told + interval);
        let report = self.report.clone().filter(|_| is_due && !self.is_report_told)?;
        (self.is_report_told, self.report_told) = (true, Some(now));
        Some(report)
    }

    fn wants_log(&self) -> bool {
        self.is_asked || (self.followed != Followed::No && (self.told < self.ring.end() || self.has_ended))
    }

    fn has_more(&self) -> bool {
        self.has_unsaid_report() || self.wants_log()
    }

    fn next_piece(&mut self, limit: usize, headers: &mut HeaderMap) -> Bytes {
        let (offset, bytes) = self.ring.after(self.told, limit);
        let end = self.ring.end();
        self.told = offset + bytes.len() as u64;
        self.is_asked = false;
        let has_ended = self.has_ended && self.told == end;
        if has_ended {
            self.followed = Followed::No;
        }
        headers.insert(LOG_OFFSET, HeaderValue::from(offset));
        headers.insert(LOG_END, HeaderValue::from(end));
        headers.insert(LOG_STATE, if has_ended { "ended" } else { "running" });
        bytes.into()
    }
}

impl Followed {
    fn extended(self, until: Instant) -> Self {
        match self {
            Followed::No => Followed::Until(until),
            Followed::Until(before) => Followed::Until(before.max(until)),
            Followed::Always => Followed::Always,
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not what was written: it may be anything.
        f.debug_struct("Log").field("order", &self.order).finish_non_exhaustive()
    }
}
