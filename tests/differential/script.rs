//! Scripts: what is asked of a broker, drawn from a seed, and what the model answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;

use fastrand::Rng;
use scheduler::Sequence;
use shared::{Outcome, Priority, TaskId, TaskOptions};
use simulation::broker::Timing;
use simulation::clock::{ms, secs};
use simulation::event::Micros;
use simulation::message::{Ask, Garbage, LaneName, Record, Scope, Submission};

use crate::model::Model;

/// Kinds of tasks.
const KINDS: u8 = 3;
/// Ids of tasks.
const IDS: u32 = 12;
/// Between two asks, virtually.
const PACE: Micros = ms(5);
/// Most asks without a pause: in reality each takes a while, and the two clocks drift apart.
const MOST_AT_ONCE: usize = 12;
/// Nothing happens by itself so shortly before a pause ends, or after. In reality timers run out late, and asks come
/// late.
const CLEAR: (Micros, Micros) = (ms(120), ms(260));
/// Nothing that is asked after a pause runs out so shortly before something else does, or after.
const APART: (Micros, Micros) = (ms(60), ms(120));
/// How long what is sent back waits. Far from each other, from [`timing`]'s `pull_expires` and `ack_wait`, and from the
/// differences of these, so that no two timers run out at nearly the same time.
const DELAYS: [Micros; 3] = [0, ms(300), ms(1200)];

/// One ask, or a pause, and what the model makes of it.
#[derive(Debug)]
pub(crate) struct Step {
    /// When, from the beginning of the script.
    pub at: Micros,
    /// What is asked; nothing, if it is a pause that ends.
    pub ask: Option<Ask>,
    /// What becomes of that.
    pub seen: Seen,
    /// What the broker holds then, at the end of a pause.
    pub state: Option<State>,
}

/// What can be seen of a broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The answer, in words.
    pub answer: Option<String>,
    /// Sequences that were delivered since the last step, by lane.
    pub delivered: BTreeMap<LaneName, Vec<u64>>,
}

/// What a broker holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// How many tasks.
    pub messages: u64,
    /// The sequence of the first, or of the next if there is none.
    pub first: u64,
    /// The sequence of the last there has been.
    pub last: u64,
    /// Of each lane: how many messages it has to deliver, how many are out, how many pulls wait.
    pub lanes: BTreeMap<LaneName, (usize, usize, usize)>,
    /// Pulls that have ended without being filled, by their number.
    pub ended: BTreeSet<u64>,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9.3} s  ", self.at as f64 / 1e6)?;
        match &self.ask {
            Some(Ask::Submit(submission)) => {
                let Submission { id_in_subject, expects_none, message_id, kind, priority, garbage, .. } = &**submission;
                write!(
                    f,
                    "Submit k{kind} {priority} id {id_in_subject:?} (expects none: {expects_none}), message id \
                     {message_id:?}, garbage {garbage:?}"
                )?;
            }
            Some(Ask::Record(record, _)) => write!(f, "Record {} {}", record.id, record.attempts)?,
            Some(ask) => write!(f, "{ask:?}")?,
            None => write!(f, "(pause ends)")?,
        }
        if let Some(answer) = &self.seen.answer {
            write!(f, " -> {answer}")?;
        }
        for (lane, sequences) in &self.seen.delivered {
            write!(f, "; {} delivers {sequences:?}", lane_name(*lane))?;
        }
        Ok(())
    }
}

/// How a lane's consumer is called.
pub(crate) fn lane_name(lane: LaneName) -> String {
    let LaneName { epoch, scope, generation } = lane;
    match scope {
        Scope::Shared(priority) => format!("e{epoch}-shared-{priority}-{generation}"),
        Scope::Own(kind, priority) => format!("e{epoch}-own-{}-{priority}-{generation}", kind_name(kind)),
    }
}

/// How a kind is called.
pub(crate) fn kind_name(kind: u8) -> String {
    format!("k{kind}")
}

/// The broker's times, short enough to be waited for. A lifetime of a message is in whole seconds.
pub(crate) fn timing(scale: u64) -> Timing {
    Timing {
        tick: ms(1),
        window: ms(2400) * scale,
        ack_wait: ms(1600) * scale,
        pull_expires: ms(800) * scale,
        lease: secs(1) * scale,
        marker: secs(1) * scale,
    }
}

/// Writes a script of so many asks. The same seed gives the same.
pub(crate) fn write(seed: u64, asks: usize, scale: u64) -> Vec<Step> {
    let mut author =
        Author { rng: Rng::with_seed(seed), model: Model::new(timing(scale)), scale, lanes: Vec::new(), generation: 0 };
    let mut steps = Vec::new();
    let mut at_once = 0;
    for _ in 0..asks {
        if at_once == MOST_AT_ONCE || (at_once > 0 && author.rng.u8(..10) == 0) {
            steps.push(author.pause());
            at_once = 0;
        }
        let step = author.ask();
        // Such a timer is too short to ask anything before it runs out.
        let is_soon = matches!(&step.ask, Some(Ask::Nak(.., 0)));
        at_once = if is_soon { MOST_AT_ONCE } else { at_once + 1 };
        steps.push(step);
    }
    steps.push(author.pause());
    steps
}

/// Draws what comes next by what the model holds, so that most of it makes sense.
struct Author {
    rng: Rng,
    model: Model,
    scale: u64,
    lanes: Vec<LaneName>,
    generation: u64,
}

impl Author {
    fn pause(&mut self) -> Step {
        let (timers, of_lanes) = (self.model.timers(), self.model.lane_timers());
        let near = |timers: &[Micros], at: Micros, (before, after): (Micros, Micros)| {
            let from = at.saturating_sub(before * self.scale);
            timers.iter().any(|timer| (from..at + after * self.scale).contains(timer))
        };
        let Timing { ack_wait, pull_expires, .. } = timing(self.scale);
        let to_come = DELAYS.map(|delay| delay * self.scale).into_iter().chain([ack_wait, pull_expires]);
        let to_come: Vec<Micros> = to_come.filter(|delay| *delay > 0).collect();
        let disturbs =
            |at: Micros| near(&timers, at, CLEAR) || to_come.iter().any(|delay| near(&of_lanes, at + delay, APART));
        let mut at = self.model.now() + self.rng.u64(ms(50)..ms(1200)) * self.scale;
        while disturbs(at) {
            at += ms(20);
        }
        self.model.advance(at);
        // What was delivered meanwhile has started new timers.
        let again = near(&self.model.timers(), at, (0, CLEAR.1));
        let (seen, state) = (self.model.seen(), Some(self.model.state()));
        let step = Step { at, ask: None, seen, state };
        if !again {
            return step;
        }
        let later = self.pause();
        Step { seen: step.seen.and(later.seen), ..later }
    }

    fn ask(&mut self) -> Step {
        let ask = self.draw();
        let at = self.model.now();
        self.model.ask(ask.clone());
        if let Ask::PutLane(name, _) = &ask
            && !self.lanes.contains(name)
        {
            self.lanes.push(*name);
        }
        self.model.advance(at + PACE);
        Step { at, ask: Some(ask), seen: self.model.seen(), state: None }
    }

    fn draw(&mut self) -> Ask {
        match self.rng.u8(..100) {
            0..26 => Ask::Submit(Rc::new(self.submission())),
            26..44 => match self.lane() {
                Some(lane) => Ask::Pull(lane, self.rng.usize(1..=6)),
                None => self.put_lane(),
            },
            44..58 => self.of_delivered(Ask::Ack),
            58..65 => {
                let delay = DELAYS[self.rng.usize(..DELAYS.len())] * self.scale;
                self.of_delivered(|lane, sequence| Ask::Nak(lane, sequence, delay))
            }
            65..68 => self.of_delivered(Ask::Extend),
            68..71 => Ask::Remove(self.sequence()),
            71..77 => self.put_lane(),
            77..79 => match self.lane() {
                Some(lane) => Ask::DeleteLane(lane),
                None => Ask::ListLanes,
            },
            79 => Ask::ListLanes,
            80 => Ask::LastSequence,
            81..86 => Ask::Record(Rc::new(self.record()), true),
            86..89 => Ask::LookUp(self.id()),
            89 => Ask::ListResults,
            90 => Ask::Queued(self.sequence()),
            91..93 => {
                Ask::QueuedById(if self.rng.bool() { self.id() } else { TaskId::from_sequence(self.sequence().0) })
            }
            93 => Ask::ReadLease,
            94..99 => Ask::WriteLease(self.rng.u32(1..4), self.revision()),
            _ => Ask::PurgeLease(self.revision()),
        }
    }

    fn id(&mut self) -> TaskId {
        TaskId::new(format!("t{}", self.rng.u32(..IDS))).expect("it is a good name")
    }

    fn priority(&mut self) -> Priority {
        if self.rng.u8(..4) == 0 { Priority::High } else { Priority::Normal }
    }

    /// One there is, most of the time.
    fn sequence(&mut self) -> Sequence {
        Sequence(self.rng.u64(1..=self.model.last_sequence() + 2))
    }

    fn submission(&mut self) -> Submission {
        let id_in_subject = self.rng.bool().then(|| self.id());
        let garbage = if self.rng.u8(..20) == 0 { Garbage::Subject } else { Garbage::No };
        Submission {
            task: 0,
            expects_none: id_in_subject.is_some() && garbage == Garbage::No && self.rng.bool(),
            id_in_subject: id_in_subject.filter(|_| garbage == Garbage::No),
            message_id: (self.rng.u8(..4) == 0).then(|| self.id()),
            kind: self.rng.u8(..KINDS),
            priority: self.priority(),
            options: TaskOptions::default(),
            garbage,
            number: 0,
        }
    }

    fn record(&mut self) -> Record {
        Record {
            id: self.id(),
            sequence: Sequence(1),
            outcome: Outcome::Succeeded,
            // Tells one from another.
            attempts: self.rng.u32(..),
            output: None,
            by_attempt: false,
            error: None,
            decided_by: 0,
        }
    }

    /// A lane that was made once; one that was deleted, now and then.
    fn lane(&mut self) -> Option<LaneName> {
        let there = self.model.lanes();
        let among = if self.rng.u8(..10) == 0 { &self.lanes } else { &there };
        (!among.is_empty()).then(|| among[self.rng.usize(..among.len())])
    }

    fn put_lane(&mut self) -> Ask {
        let there = self.model.lanes();
        let is_new = there.is_empty() || self.rng.u8(..3) != 0;
        let name = if is_new {
            self.generation += 1;
            let priority = self.priority();
            let own = self.rng.bool().then(|| self.rng.u8(..KINDS));
            let scope = own.map_or(Scope::Shared(priority), |kind| Scope::Own(kind, priority));
            LaneName { epoch: 1, scope, generation: self.generation }
        } else {
            there[self.rng.usize(..there.len())]
        };
        let mut kinds = match name.scope {
            Scope::Own(kind, _) => vec![kind],
            Scope::Shared(_) => (0..KINDS).filter(|_| self.rng.u8(..3) != 0).collect(),
        };
        if kinds.is_empty() {
            kinds.push(0);
        }
        Ask::PutLane(name, kinds)
    }

    /// Something about a message that was delivered by a lane.
    fn of_delivered(&mut self, ask: impl Fn(LaneName, Sequence) -> Ask) -> Ask {
        let delivered = self.model.delivered();
        if delivered.is_empty() {
            return Ask::Submit(Rc::new(self.submission()));
        }
        // The latest most of the time, for the older ones are gone.
        let from = if self.rng.u8(..5) == 0 { 0 } else { delivered.len().saturating_sub(12) };
        let (lane, sequence) = delivered[self.rng.usize(from..delivered.len())];
        ask(lane, sequence)
    }

    /// The one that there is, most of the time.
    fn revision(&mut self) -> u64 {
        let current = self.model.revision();
        if self.rng.u8(..4) == 0 { self.rng.u64(..=current + 1) } else { current }
    }
}

impl Seen {
    /// What was seen, and what was seen after that.
    pub(crate) fn and(mut self, later: Seen) -> Self {
        for (lane, sequences) in later.delivered {
            self.delivered.entry(lane).or_default().extend(sequences);
        }
        self
    }
}
