//! Durable pull consumers of the work queue: each delivers in order, looks back only to what was not acknowledged
//! in time, and starts at the beginning when it is made.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use scheduler::Sequence;
use shared::Priority;

use super::Broker;
use crate::clock::{ms, secs};
use crate::context::Context;
use crate::event::Micros;
use crate::marks::Mark;
use crate::message::{Answer, Down, Garbage, LaneName, Reply, Scope, Stored};

/// How long a delivered message may stay unacknowledged.
pub(super) const ACK_WAIT: Micros = secs(30);
/// How long a pull waits.
const PULL_EXPIRES: Micros = secs(30);

/// A consumer.
#[derive(Debug)]
pub(super) struct Lane {
    kinds: Vec<u8>,
    priority: Priority,
    /// The first message that it has not looked at.
    next: Sequence,
    /// What is delivered and not acknowledged, with when it is delivered again.
    pending: BTreeMap<Sequence, Micros>,
    /// What is to be delivered again.
    again: BTreeSet<Sequence>,
    pulls: VecDeque<Pull>,
}

#[derive(Debug)]
struct Pull {
    reply: Reply,
    left: usize,
    expires: Micros,
}

impl Lane {
    fn takes(&self, stored: &Stored) -> bool {
        let submission = &stored.submission;
        submission.garbage != Garbage::Subject
            && submission.priority == self.priority
            && self.kinds.contains(&submission.kind)
    }

    pub(super) fn forget(&mut self, sequence: Sequence) {
        self.pending.remove(&sequence);
        self.again.remove(&sequence);
    }

    /// The broker is killed: pulls are forgotten, and sometimes the last deliveries are, too.
    pub(super) fn interrupt(&mut self, ctx: &mut Context) {
        self.pulls.clear();
        if ctx.rng.f64() < 0.3 {
            let recent = self.pending.iter().filter(|(_, due)| **due > ctx.now + ACK_WAIT - ms(100));
            self.again.extend(recent.map(|(sequence, _)| *sequence));
        }
    }
}

impl Broker {
    /// The lanes, in words.
    pub fn show_lanes(&self) -> String {
        let show = |(name, lane): (&LaneName, &Lane)| {
            let left: usize = lane.pulls.iter().map(|pull| pull.left).sum();
            format!(
                "{name:?} of {:?}: next {}, {} pending, {left} asked for",
                lane.kinds,
                lane.next,
                lane.pending.len()
            )
        };
        self.lanes.iter().map(show).collect::<Vec<_>>().join("; ")
    }

    pub(super) fn put_lane(&mut self, name: LaneName, kinds: Vec<u8>, ctx: &mut Context) -> Answer {
        let (Scope::Shared(priority) | Scope::Own(_, priority)) = name.scope;
        let overlaps = |lane: &Lane| lane.priority == priority && lane.kinds.iter().any(|kind| kinds.contains(kind));
        if self.lanes.iter().any(|(other, lane)| *other != name && overlaps(lane)) {
            ctx.reach(Mark::LanesOverlapped);
            return Answer::Refused;
        }
        let new = || Lane {
            kinds: Vec::new(),
            priority,
            next: Sequence(0),
            pending: BTreeMap::new(),
            again: BTreeSet::new(),
            pulls: VecDeque::new(),
        };
        self.lanes.entry(name).or_insert_with(new).kinds = kinds;
        Answer::Ok
    }

    pub(super) fn delete_lane(&mut self, name: LaneName, ctx: &mut Context) -> Answer {
        if let Some(lane) = self.lanes.remove(&name) {
            for pull in lane.pulls {
                self.answer(pull.reply, Answer::PullEnded, ctx);
            }
        }
        Answer::Ok
    }

    /// A lane vanishes under its leader.
    pub fn drop_lane(&mut self, ctx: &mut Context) {
        let names: Vec<LaneName> = self.lanes.keys().copied().collect();
        if !names.is_empty() && self.up {
            let name = names[ctx.rng.usize(..names.len())];
            self.delete_lane(name, ctx);
        }
    }

    pub(super) fn pull(&mut self, name: LaneName, batch: usize, reply: Reply, ctx: &mut Context) -> Option<Answer> {
        let Some(lane) = self.lanes.get_mut(&name) else { return Some(Answer::NoResponders) };
        lane.pulls.push_back(Pull { reply, left: batch, expires: ctx.now + PULL_EXPIRES });
        self.pump(ctx);
        None
    }

    /// A work queue drops what is acknowledged. What lies beyond what was delivered is not answered.
    pub(super) fn ack(&mut self, name: LaneName, sequence: Sequence, ctx: &mut Context) -> Option<Answer> {
        let Some(lane) = self.lanes.get(&name) else { return Some(Answer::NoResponders) };
        if sequence >= lane.next {
            return None;
        }
        self.remove(sequence, ctx);
        Some(Answer::Gone)
    }

    pub(super) fn redeliver_at(&mut self, name: LaneName, sequence: Sequence, at: Micros) {
        if let Some(due) = self.lanes.get_mut(&name).and_then(|lane| lane.pending.get_mut(&sequence)) {
            *due = at;
        }
    }

    /// Ends pulls that waited long enough, and marks what was not acknowledged in time.
    pub(super) fn time_out(&mut self, ctx: &mut Context) {
        let mut ended = Vec::new();
        for lane in self.lanes.values_mut() {
            while lane.pulls.front().is_some_and(|pull| pull.expires <= ctx.now) {
                ended.extend(lane.pulls.pop_front());
            }
            let late = lane.pending.iter().filter(|(_, due)| **due <= ctx.now);
            lane.again.extend(late.map(|(sequence, _)| *sequence));
        }
        for pull in ended {
            self.answer(pull.reply, Answer::PullEnded, ctx);
        }
    }

    /// Delivers what can be delivered.
    pub(super) fn pump(&mut self, ctx: &mut Context) {
        for (name, lane) in &mut self.lanes {
            while let Some(pull) = lane.pulls.front_mut() {
                // The broker looks whether somebody listens before it delivers.
                if !ctx.links[pull.reply.link.0].hears(pull.reply.instance) {
                    lane.pulls.pop_front();
                    continue;
                }
                let link = pull.reply.link;
                let Some(sequence) = lane.again.pop_first().or_else(|| next_for(lane, &self.tasks)) else { break };
                let Some(stored) = self.tasks.get(&sequence) else { continue };
                if lane.pending.insert(sequence, ctx.now + ACK_WAIT).is_some() {
                    ctx.reach(Mark::Redelivered);
                }
                ctx.deliver(link, Down::Delivery(*name, stored.clone()));
                let pull = lane.pulls.front_mut().expect("it was there a moment ago");
                pull.left -= 1;
                if pull.left == 0 {
                    lane.pulls.pop_front();
                }
            }
        }
    }
}

/// The next message of the lane that it has not delivered.
fn next_for(lane: &mut Lane, tasks: &BTreeMap<Sequence, std::rc::Rc<Stored>>) -> Option<Sequence> {
    let found = tasks.range(lane.next..).find(|(_, stored)| lane.takes(stored)).map(|(sequence, _)| *sequence);
    match found {
        Some(sequence) => lane.next = Sequence(sequence.0 + 1),
        None => lane.next = tasks.last_key_value().map_or(lane.next, |(last, _)| lane.next.max(Sequence(last.0 + 1))),
    }
    found
}
