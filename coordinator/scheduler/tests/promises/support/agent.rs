//! An agent that does what `docs/protocol.md` asks of one, and the oracle of what it holds.

use std::collections::BTreeMap;
use std::time::Duration;

use scheduler::{Dispatch, Done, Sequence};
use shared::message::{AttemptRef, Beat, Bye, Held, HeldState, Hello, Needed, Report};
use shared::needs::Labels;
use shared::task::AttemptOutcome;
use shared::{AgentId, Countables, Epoch, Incarnation, Kind, Resources};

/// An agent, and what it has been given.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    pub(crate) id: AgentId,
    pub(crate) incarnation: u64,
    pub(crate) slots: u32,
    pub(crate) queue: u32,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) labels: Labels,
    pub(crate) capacity: Resources,
    pub(crate) countables: Countables,
    /// What its handlers' settings say that an attempt needs.
    pub(crate) declared: BTreeMap<Kind, Needed>,
    /// Its process is there.
    pub(crate) alive: bool,
    /// Nothing that it says arrives, and nothing that it is told.
    pub(crate) muted: bool,
    /// The next order to it gets lost.
    pub(crate) loses_orders: bool,
    pub(crate) draining: bool,
    /// Kinds that it runs at most once.
    pub(crate) at_most_once: Vec<Kind>,
    pub(crate) wants_answers: bool,
    pub(crate) holds: Vec<Holding>,
    beats: u64,
    epoch: Epoch,
}

/// An attempt that an agent holds, in the order of arrival.
#[derive(Clone, Debug)]
pub(crate) struct Holding {
    pub(crate) attempt: AttemptRef,
    pub(crate) sequence: Sequence,
    pub(crate) kind: Kind,
    pub(crate) told_to_stop: bool,
    pub(crate) done: Option<Done>,
}

/// One slot, no queue, and handlers for `resize` and `count`.
pub(crate) fn agent(id: &str) -> Agent {
    Agent {
        id: AgentId::new(id).expect("tests name agents well"),
        incarnation: 1,
        slots: 1,
        queue: 0,
        kinds: Vec::new(),
        labels: Labels::new(),
        capacity: Resources::ZERO,
        countables: Countables::ZERO,
        declared: BTreeMap::new(),
        alive: true,
        muted: false,
        loses_orders: false,
        draining: false,
        at_most_once: Vec::new(),
        wants_answers: false,
        holds: Vec::new(),
        beats: 0,
        epoch: Epoch(0),
    }
    .kinds(&["resize", "count"])
}

impl From<&str> for Agent {
    fn from(id: &str) -> Self {
        agent(id)
    }
}

impl Agent {
    pub(crate) fn slots(mut self, slots: u32) -> Self {
        self.slots = slots;
        self
    }

    pub(crate) fn queue(mut self, queue: u32) -> Self {
        self.queue = queue;
        self
    }

    pub(crate) fn kinds(mut self, kinds: &[&str]) -> Self {
        self.kinds = kinds.iter().map(|kind| Kind::new(kind).expect("tests name kinds well")).collect();
        self
    }

    /// All that it can do it runs at most once.
    pub(crate) fn at_most_once(mut self) -> Self {
        self.at_most_once = self.kinds.clone();
        self.wants_answers = true;
        self
    }

    pub(crate) fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn cpu(mut self, millis: u64) -> Self {
        self.capacity.cpu_millis = millis;
        self
    }

    pub(crate) fn memory(mut self, bytes: u64) -> Self {
        self.capacity.memory_bytes = bytes;
        self
    }

    pub(crate) fn countable(mut self, name: &str, amount: u64) -> Self {
        self.countables = self.countables.plus(&Countables::new([(name, amount)]).expect("tests name them well"));
        self
    }

    /// Its handler of the kind says that an attempt needs so much memory.
    pub(crate) fn declares(mut self, kind: &str, memory_bytes: u64) -> Self {
        let resources = Resources { memory_bytes, ..Resources::ZERO };
        let needed = Needed { resources, countable: Countables::ZERO };
        self.declared.insert(Kind::new(kind).expect("tests name kinds well"), needed);
        self
    }

    /// Whether what it says arrives.
    pub(crate) fn is_heard(&self) -> bool {
        self.alive && !self.muted
    }

    /// A new process under the old name, which knows nothing of the old one's work.
    pub(crate) fn restart(&mut self) {
        self.incarnation += 1;
        self.beats = 0;
        self.holds.clear();
        (self.alive, self.muted, self.draining, self.loses_orders) = (true, false, false, false);
    }

    pub(crate) fn hello(&self) -> Hello {
        Hello {
            incarnation: Incarnation(self.incarnation),
            version: "test".to_owned(),
            host: "here".to_owned(),
            slots: self.slots,
            queue: self.queue,
            labels: self.labels.clone(),
            kinds: self.kinds.clone(),
            at_most_once: self.at_most_once.clone(),
            capacity: self.capacity,
            resources: self.countables.clone(),
            needs: self.declared.clone(),
            holds: self.held(),
            draining: self.draining,
            ..Hello::default()
        }
    }

    pub(crate) fn beat(&mut self) -> Beat {
        self.beats += 1;
        self.beat_numbered(self.beats)
    }

    /// The answer to a probe.
    pub(crate) fn pong(&self) -> Beat {
        self.beat_numbered(0)
    }

    fn beat_numbered(&self, sequence: u64) -> Beat {
        let incarnation = Incarnation(self.incarnation);
        Beat {
            incarnation,
            sequence,
            holds: self.held(),
            draining: self.draining,
            lag_ms: 0,
            answer: self.wants_answers,
        }
    }

    pub(crate) fn report(&self, cpu: f64) -> Report {
        Report { incarnation: Incarnation(self.incarnation), cpu, ..Report::default() }
    }

    /// It leaves at once, and hands back what it has not started.
    pub(crate) fn bye(&self) -> Bye {
        let queued = self.held().into_iter().filter(|held| held.state == HeldState::Queued);
        let returned = queued.map(|h| AttemptRef { task: h.task, attempt: h.attempt, epoch: h.epoch }).collect();
        Bye { incarnation: Incarnation(self.incarnation), returned }
    }

    fn held(&self) -> Vec<Held> {
        let mut running = 0;
        let state = |holding: &Holding| {
            if holding.done.is_some() {
                return HeldState::Done;
            }
            running += 1;
            if running <= self.slots { HeldState::Running } else { HeldState::Queued }
        };
        let states: Vec<HeldState> = self.holds.iter().map(state).collect();
        let held = |(holding, state): (&Holding, HeldState)| Held {
            task: holding.attempt.task.clone(),
            sequence: holding.sequence.0,
            kind: holding.kind.clone(),
            attempt: holding.attempt.attempt,
            epoch: holding.attempt.epoch,
            state,
        };
        self.holds.iter().zip(states).map(held).collect()
    }

    /// What runs in its slots now.
    pub(crate) fn running(&self) -> Vec<AttemptRef> {
        let running = self.holds.iter().filter(|holding| holding.done.is_none());
        running.take(self.slots as usize).map(|holding| holding.attempt.clone()).collect()
    }

    /// A `run` came. A refusal is returned.
    pub(crate) fn run(&mut self, dispatch: &Dispatch, kind: &Kind) -> Option<Done> {
        if std::mem::take(&mut self.loses_orders) || !self.is_heard() || dispatch.attempt.epoch < self.epoch {
            return None;
        }
        self.epoch = dispatch.attempt.epoch;
        if dispatch.incarnation.0 != self.incarnation {
            return None;
        }
        let held = self.holds.iter_mut().find(|holding| holding.attempt.task == dispatch.attempt.task);
        if let Some(held) = held {
            let newer = dispatch.attempt.epoch > held.attempt.epoch && dispatch.attempt.attempt >= held.attempt.attempt;
            if newer && held.done.is_none() {
                held.attempt = dispatch.attempt.clone();
            }
            return None;
        }
        self.holds.push(Holding {
            attempt: dispatch.attempt.clone(),
            sequence: dispatch.sequence,
            kind: kind.clone(),
            told_to_stop: false,
            done: None,
        });
        if self.draining { self.end(&dispatch.attempt, AttemptOutcome::Rejected) } else { None }
    }

    pub(crate) fn stop(&mut self, attempt: &AttemptRef) {
        let named = |held: &&mut Holding| {
            held.attempt.task == attempt.task
                && attempt.attempt >= held.attempt.attempt
                && attempt.epoch >= held.attempt.epoch
        };
        if let Some(held) = self.holds.iter_mut().find(named) {
            held.told_to_stop = true;
        }
    }

    pub(crate) fn settled(&mut self, attempt: &AttemptRef) {
        self.holds.retain(|held| held.attempt != *attempt);
    }

    /// An attempt ends; `done` says so. One that was told to stop ends as cancelled, whatever was planned for it.
    pub(crate) fn end(&mut self, attempt: &AttemptRef, outcome: AttemptOutcome) -> Option<Done> {
        let held = self.holds.iter_mut().find(|held| held.attempt == *attempt && held.done.is_none())?;
        let outcome = if held.told_to_stop { AttemptOutcome::Cancelled } else { outcome };
        let error = (outcome != AttemptOutcome::Succeeded).then(|| "the test wants it so".into());
        let done = Done {
            sequence: held.sequence,
            attempt: attempt.clone(),
            incarnation: Incarnation(self.incarnation),
            outcome,
            error,
            run: Duration::from_millis(10),
            used: shared::Used::default(),
        };
        held.done = Some(done.clone());
        Some(done)
    }

    /// Every `done` that has not been answered.
    pub(crate) fn unsettled(&self) -> Vec<Done> {
        self.holds.iter().filter_map(|held| held.done.clone()).collect()
    }
}
