//! The broker's model of the simulation, by itself.

use std::collections::{BTreeMap, BTreeSet};

use scheduler::Sequence;
use shared::TaskId;
use simulation::Options;
use simulation::broker::{Broker, Timing};
use simulation::clock::ms;
use simulation::context::Context;
use simulation::event::{Event, LinkId, Micros, Owner};
use simulation::message::{Answer, Ask, Down, LaneName, Reply, Token, Up};
use simulation::net::Link;
use simulation::oracle::{Nature, Way};
use simulation::world::Places;

use crate::script::{Seen, State, lane_name};

/// The model, and one client of it.
pub(crate) struct Model {
    broker: Broker,
    ctx: Context,
    began: Micros,
    marker: Micros,
    asks: u64,
    seen: Seen,
    delivered: Vec<(LaneName, Sequence)>,
    ended: BTreeSet<u64>,
}

const LINK: LinkId = LinkId(0);

impl Model {
    pub(crate) fn new(timing: Timing) -> Self {
        let mut link = Link::new(Owner::Client, false);
        link.up = true;
        let mut ctx = Context::new(Options::draw(0, 0, None), vec![link]);
        // No faults.
        ctx.calm = true;
        // All messages are the same task's: nobody looks at what the oracle makes of that.
        let nature = Nature {
            way: Way::Succeeds,
            run: 0,
            stubborn: false,
            cpu_millis: 0,
            discarded: false,
            has_deadline: false,
        };
        ctx.oracle.invent(None, nature);
        let began = ctx.now;
        let broker = Broker::with_timing(timing, Places { coordinators: 0, agents: 0 }, &mut ctx);
        let marker = timing.marker;
        Self {
            broker,
            ctx,
            began,
            marker,
            asks: 0,
            seen: Seen::default(),
            delivered: Vec::new(),
            ended: BTreeSet::new(),
        }
    }

    pub(crate) fn now(&self) -> Micros {
        self.ctx.now - self.began
    }

    pub(crate) fn ask(&mut self, ask: Ask) {
        self.asks += 1;
        let reply = Reply { link: LINK, instance: 0, token: Token::Call(self.asks) };
        // A pull's answer is that it has ended; of other asks it is told apart by coming at once.
        self.broker.receive(LINK, Up::Ask(ask, Some(reply)), &mut self.ctx);
    }

    /// Lets time pass.
    pub(crate) fn advance(&mut self, to: Micros) {
        let to = to + self.began;
        while let Some((at, event)) = self.ctx.queue.pop() {
            if at > to {
                self.ctx.queue.push(at, event);
                break;
            }
            self.ctx.now = at;
            match event {
                Event::BrokerTick => self.broker.tick(&mut self.ctx),
                Event::AtProcess(_, _, down) => self.receive(down),
                _ => {}
            }
        }
        self.ctx.now = to;
    }

    fn receive(&mut self, down: Down) {
        match down {
            Down::Delivery(lane, stored) => {
                self.seen.delivered.entry(lane).or_default().push(stored.sequence.0);
                self.delivered.push((lane, stored.sequence));
            }
            Down::Answer(Token::Call(number), Answer::PullEnded) => drop(self.ended.insert(number)),
            Down::Answer(_, answer) => self.seen.answer = Some(in_words(&answer)),
            _ => {}
        }
    }

    /// What there was to see since the last look.
    pub(crate) fn seen(&mut self) -> Seen {
        std::mem::take(&mut self.seen)
    }

    pub(crate) fn state(&self) -> State {
        let sequences = || self.broker.tasks().map(|stored| stored.sequence.0);
        let last = self.broker.last_sequence();
        let lanes = self.broker.lanes().map(|(name, counts)| (name, (counts.to_deliver, counts.out, counts.pulls)));
        State {
            messages: sequences().count() as u64,
            // A stream that has never held anything says 0.
            first: sequences().next().unwrap_or(if last == 0 { 0 } else { last + 1 }),
            last,
            lanes: lanes.collect::<BTreeMap<_, _>>(),
            ended: self.ended.clone(),
        }
    }

    /// When something happens by itself. A server lets a lease that was renewed expire up to 250 ms late, and the
    /// marker that it leaves even later.
    pub(crate) fn timers(&self) -> Vec<Micros> {
        let late = |at: Micros| [at, at + ms(200), at + ms(400)];
        let lease = self.broker.lease_expires().into_iter().flat_map(|at| [late(at), late(at + self.marker)].concat());
        self.broker.timers().into_iter().chain(lease).map(|at| at.saturating_sub(self.began)).collect()
    }

    /// When a lane delivers again, or one of its pulls ends.
    pub(crate) fn lane_timers(&self) -> Vec<Micros> {
        self.broker.lane_timers().map(|at| at.saturating_sub(self.began)).collect()
    }

    pub(crate) fn lanes(&self) -> Vec<LaneName> {
        self.broker.lanes().map(|(name, _)| name).collect()
    }

    pub(crate) fn last_sequence(&self) -> u64 {
        self.broker.last_sequence()
    }

    /// Everything that was ever delivered.
    pub(crate) fn delivered(&self) -> &[(LaneName, Sequence)] {
        &self.delivered
    }

    pub(crate) fn revision(&self) -> u64 {
        self.broker.lease_revision()
    }
}

/// The same words as for what a server answers.
fn in_words(answer: &Answer) -> String {
    match answer {
        Answer::NoResponders => "nobody listens".to_owned(),
        Answer::Stored(sequence) => format!("stored {sequence}"),
        Answer::Already => "there was one before".to_owned(),
        Answer::Refused => "refused".to_owned(),
        Answer::Result(record) => format!("result {:?}", record.as_ref().map(|record| record.attempts)),
        Answer::Gone => "gone".to_owned(),
        Answer::Last(sequence) => format!("last {sequence}"),
        Answer::Lanes(lanes) => {
            let mut names: Vec<String> = lanes.iter().copied().map(lane_name).collect();
            names.sort();
            format!("lanes {names:?}")
        }
        Answer::Ok => "ok".to_owned(),
        Answer::Results(ids, _) => {
            let mut ids: Vec<&str> = ids.iter().map(TaskId::as_str).collect();
            ids.sort_unstable();
            format!("results {ids:?}")
        }
        Answer::Messages(messages) => {
            format!("messages {:?}", messages.iter().map(|stored| stored.sequence.0).collect::<Vec<_>>())
        }
        Answer::Lease(lease) => format!("lease {lease:?}"),
        Answer::Written(revision) => format!("written {revision}"),
        other => format!("{other:?}"),
    }
}
