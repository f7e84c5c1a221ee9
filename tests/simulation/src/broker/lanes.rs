//! Durable pull consumers of the work queue: each delivers in order, looks back only to what was not acknowledged
//! in time, and starts at the beginning when it is made.

use std::collections::{BTreeMap, VecDeque};

use scheduler::Sequence;
use shared::Priority;

use super::Broker;
use crate::clock::ms;
use crate::context::Context;
use crate::event::Micros;
use crate::marks::Mark;
use crate::message::{Answer, Down, Garbage, LaneName, Reply, Scope, Stored};

/// How long it takes at least until something that was sent back is delivered again.
const SHORTEST_DELAY: Micros = ms(10);

/// A consumer.
#[derive(Debug)]
pub(super) struct Lane {
    kinds: Vec<u8>,
    priority: Priority,
    /// The first message that it has not looked at.
    next: Sequence,
    /// What is delivered and not acknowledged.
    out: BTreeMap<Sequence, Out>,
    /// What is to be delivered again, in the order in which its time was over.
    again: VecDeque<Sequence>,
    pulls: VecDeque<Pull>,
    /// Whether it has to look for something to deliver. What it does not take does not wake it.
    is_awake: bool,
}

/// A message that is delivered and not acknowledged.
#[derive(Clone, Copy, Debug)]
struct Out {
    /// When it is delivered again.
    due: Micros,
    /// Whether that time is over.
    is_late: bool,
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

    /// Whether it has the message, or will have it.
    fn wants(&self, stored: &Stored) -> bool {
        self.takes(stored) && (stored.sequence >= self.next || self.out.contains_key(&stored.sequence))
    }

    /// A message is stored.
    pub(super) fn hear_of(&mut self, stored: &Stored) {
        self.is_awake |= self.takes(stored);
    }

    /// The message is gone. A lane whose kinds it is no more of hears that only when it is to deliver it again.
    pub(super) fn hear_of_removal(&mut self, stored: &Stored) {
        if self.takes(stored) {
            self.forget(stored.sequence);
        }
    }

    fn forget(&mut self, sequence: Sequence) {
        if self.out.remove(&sequence).is_some_and(|out| out.is_late) {
            self.again.retain(|other| *other != sequence);
        }
    }

    /// What has waited long enough is to be delivered again.
    fn time_out(&mut self, now: Micros) {
        let mut late: Vec<(Micros, Sequence)> = Vec::new();
        for (sequence, out) in self.out.iter_mut().filter(|(_, out)| !out.is_late && out.due <= now) {
            out.is_late = true;
            late.push((out.due, *sequence));
        }
        late.sort_unstable();
        self.is_awake |= !late.is_empty();
        self.again.extend(late.into_iter().map(|(_, sequence)| sequence));
    }

    /// When something is delivered again, or a pull ends.
    pub(super) fn timers(&self) -> impl Iterator<Item = Micros> + '_ {
        let out = self.out.values().filter(|out| !out.is_late).map(|out| out.due);
        out.chain(self.pulls.iter().map(|pull| pull.expires))
    }

    /// The broker is killed: pulls are forgotten, and sometimes the last deliveries are, too.
    pub(super) fn interrupt(&mut self, ack_wait: Micros, ctx: &mut Context) {
        self.pulls.clear();
        if ctx.rng.f64() < 0.3 {
            let recent = self.out.values_mut().filter(|out| out.due > ctx.now + ack_wait - ms(100));
            recent.for_each(|out| out.due = ctx.now);
            self.time_out(ctx.now);
        }
    }
}

/// A lane in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Messages that it has to deliver for the first time.
    pub to_deliver: usize,
    /// Messages that it has delivered, and that are not acknowledged.
    pub out: usize,
    /// Of these, those that it delivers again as soon as it may.
    pub again: usize,
    /// Pulls that wait.
    pub pulls: usize,
}

impl Broker {
    /// The lanes in numbers.
    pub fn lanes(&self) -> impl Iterator<Item = (LaneName, Counts)> + '_ {
        self.lanes.iter().map(|(name, lane)| {
            let counts = Counts {
                to_deliver: self.tasks.range(lane.next..).filter(|(_, stored)| lane.takes(stored)).count(),
                out: lane.out.len(),
                again: lane.again.len(),
                pulls: lane.pulls.len(),
            };
            (*name, counts)
        })
    }

    /// The lanes, in words.
    pub fn show_lanes(&self) -> String {
        let show = |(name, lane): (&LaneName, &Lane)| {
            let left: usize = lane.pulls.iter().map(|pull| pull.left).sum();
            format!("{name:?} of {:?}: next {}, {} pending, {left} asked for", lane.kinds, lane.next, lane.out.len())
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
            out: BTreeMap::new(),
            again: VecDeque::new(),
            pulls: VecDeque::new(),
            is_awake: false,
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
        lane.is_awake = true;
        lane.pulls.push_back(Pull { reply, left: batch, expires: ctx.now + self.timing.pull_expires });
        self.pump(ctx);
        None
    }

    /// A work queue drops what is acknowledged, unless another lane has it or will have it. (A kind that has moved to
    /// another lane.) What lies beyond what was delivered is not answered.
    pub(super) fn ack(&mut self, name: LaneName, sequence: Sequence, ctx: &mut Context) -> Option<Answer> {
        let Some(lane) = self.lanes.get_mut(&name) else { return Some(Answer::NoResponders) };
        if sequence >= lane.next {
            return None;
        }
        lane.forget(sequence);
        let stored = self.tasks.get(&sequence);
        if stored.is_some_and(|stored| !self.lanes.values().any(|lane| lane.wants(stored))) {
            self.remove(sequence, ctx);
        }
        Some(Answer::Gone)
    }

    /// What is sent back is delivered again later, even if its time was over.
    pub(super) fn nak(&mut self, name: LaneName, sequence: Sequence, delay: Micros, now: Micros) {
        let due = now + delay.max(SHORTEST_DELAY);
        let Some(lane) = self.lanes.get_mut(&name) else { return };
        let Some(out) = lane.out.get_mut(&sequence) else { return };
        if out.is_late {
            lane.again.retain(|other| *other != sequence);
        }
        *out = Out { due, is_late: false };
    }

    /// What is worked on has more time, unless its time was over.
    pub(super) fn extend(&mut self, name: LaneName, sequence: Sequence, due: Micros) {
        let out = self.lanes.get_mut(&name).and_then(|lane| lane.out.get_mut(&sequence));
        if let Some(out) = out.filter(|out| !out.is_late) {
            out.due = due;
        }
    }

    /// Ends pulls that waited long enough, and marks what was not acknowledged in time.
    pub(super) fn time_out(&mut self, ctx: &mut Context) {
        let mut ended = Vec::new();
        for lane in self.lanes.values_mut() {
            let (over, left): (VecDeque<Pull>, _) =
                std::mem::take(&mut lane.pulls).into_iter().partition(|pull| pull.expires <= ctx.now);
            lane.pulls = left;
            lane.is_awake |= !over.is_empty();
            ended.extend(over);
            lane.time_out(ctx.now);
        }
        for pull in ended {
            self.answer(pull.reply, Answer::PullEnded, ctx);
        }
    }

    /// Delivers what can be delivered.
    pub(super) fn pump(&mut self, ctx: &mut Context) {
        for (name, lane) in &mut self.lanes {
            if !std::mem::take(&mut lane.is_awake) {
                continue;
            }
            while let Some(pull) = lane.pulls.front_mut() {
                // The broker looks whether somebody listens before it delivers.
                if !ctx.links[pull.reply.link.0].hears(pull.reply.instance) {
                    lane.pulls.pop_front();
                    continue;
                }
                let link = pull.reply.link;
                let Some(sequence) = lane.again.pop_front().or_else(|| next_for(lane, &self.tasks)) else { break };
                let Some(stored) = self.tasks.get(&sequence) else {
                    lane.out.remove(&sequence);
                    continue;
                };
                let out = Out { due: ctx.now + self.timing.ack_wait, is_late: false };
                if lane.out.insert(sequence, out).is_some() {
                    ctx.reach(Mark::Redelivered);
                }
                ctx.deliver(link, Down::Delivery(*name, stored.clone()));
                // The pulls take turns.
                let mut pull = lane.pulls.pop_front().expect("it was there a moment ago");
                pull.left -= 1;
                if pull.left > 0 {
                    lane.pulls.push_back(pull);
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
