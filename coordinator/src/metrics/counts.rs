//! What the coordinator's loop counts as it goes: plain numbers of its own, one look-up of the kind for each.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use scheduler::Settlement;
use shared::metrics::{BOUNDS, FINE_BOUNDS, Histogram};
use shared::subject::AgentVerb;
use shared::{Kind, Outcome};

/// So many kinds have numbers of their own. The rest are counted together: each has some ninety series, and anybody may
/// invent one.
pub(crate) const MOST_KINDS: usize = 1000;

/// How often it is looked which kinds are idle, when there are as many as may be.
const LOOK: Duration = Duration::from_secs(60);
/// A kind that was idle at so many looks makes room for another.
const IDLE_LOOKS: u8 = 10;

/// Everything that the loop counts.
#[derive(Clone, Debug)]
pub(crate) struct Counts {
    /// The first is of all kinds that have no numbers of their own.
    kinds: Vec<KindCounts>,
    by_kind: FxHashMap<Kind, usize>,
    next_look: Instant,
    /// From a task's delivery to the coordinator until it was first given to an agent.
    pub(crate) assignment: Histogram,
    /// Events that were told, by topic and what happened.
    pub(crate) events: BTreeMap<(&'static str, &'static str), u64>,
    messages: [u64; AgentVerb::ALL.len()],
}

/// What is counted of one kind.
#[derive(Clone, Debug)]
pub(crate) struct KindCounts {
    pub(crate) delivered: u64,
    pub(crate) started: u64,
    pub(crate) retried: u64,
    pub(crate) reassigned: u64,
    settled: [u64; Outcome::ALL.len()],
    pub(crate) wait: Histogram,
    pub(crate) run: Histogram,
    pub(crate) end_to_end: Histogram,
    is_idle: bool,
    idle_looks: u8,
}

impl Default for KindCounts {
    fn default() -> Self {
        let histogram = || Histogram::new(&BOUNDS);
        Self {
            delivered: 0,
            started: 0,
            retried: 0,
            reassigned: 0,
            settled: [0; Outcome::ALL.len()],
            wait: histogram(),
            run: histogram(),
            end_to_end: histogram(),
            is_idle: true,
            idle_looks: 0,
        }
    }
}

impl KindCounts {
    /// How many tasks ended so.
    pub(crate) fn settled(&self, outcome: Outcome) -> u64 {
        self.settled[outcome as usize]
    }
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            kinds: vec![KindCounts::default()],
            by_kind: FxHashMap::default(),
            next_look: Instant::now(),
            assignment: Histogram::new(&FINE_BOUNDS),
            events: BTreeMap::new(),
            messages: [0; AgentVerb::ALL.len()],
        }
    }
}

impl Counts {
    /// A task came from the stream.
    pub(crate) fn delivered(&mut self, kind: &Kind) {
        self.of(kind).delivered += 1;
    }

    /// An attempt was given to an agent, the task's first here if `waited` says since when it was here.
    pub(crate) fn started(&mut self, kind: &Kind, waited: Option<Duration>) {
        self.of(kind).started += 1;
        if let Some(waited) = waited {
            self.assignment.observe(waited);
        }
    }

    /// An outcome was decided, `age` after its task was accepted.
    pub(crate) fn settled(&mut self, settlement: &Settlement, age: Duration) {
        let counts = self.of(&settlement.kind);
        counts.settled[settlement.outcome as usize] += 1;
        counts.end_to_end.observe(age);
        // What no attempt has ended has no last one to be told of.
        if settlement.by.is_some() {
            counts.wait.observe(settlement.queued);
            counts.run.observe(settlement.run);
        }
    }

    /// Something was told to whoever listens.
    pub(crate) fn told(&mut self, topic: &'static str, what: &'static str, kind: Option<&Kind>) {
        *self.events.entry((topic, what)).or_default() += 1;
        match (topic, what, kind) {
            ("task", "failed", Some(kind)) => self.of(kind).retried += 1,
            ("task", "reassigned", Some(kind)) => self.of(kind).reassigned += 1,
            _ => {}
        }
    }

    /// An agent said something.
    pub(crate) fn heard(&mut self, verb: AgentVerb) {
        self.messages[verb as usize] += 1;
    }

    /// How much agents have said, by verb.
    pub(crate) fn messages(&self) -> impl Iterator<Item = (AgentVerb, u64)> {
        AgentVerb::ALL.into_iter().map(|verb| (verb, self.messages[verb as usize]))
    }

    /// What was counted of each kind, and with `None` of all that have no numbers of their own.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = (Option<&Kind>, &KindCounts)> {
        let named = self.by_kind.iter().map(|(kind, number)| (Some(kind), &self.kinds[*number]));
        named.chain([(None, &self.kinds[0])])
    }

    /// When there are as many kinds as may be, those make room that have been idle for ten minutes.
    pub(crate) fn make_room(&mut self, now: Instant) {
        if self.by_kind.len() < MOST_KINDS || now < self.next_look {
            return;
        }
        self.next_look = now + LOOK;
        for counts in &mut self.kinds[1..] {
            counts.idle_looks = if counts.is_idle { counts.idle_looks.saturating_add(1) } else { 0 };
            counts.is_idle = true;
        }
        let mut kept = vec![std::mem::take(&mut self.kinds[0])];
        let Self { kinds, by_kind, .. } = self;
        by_kind.retain(|_, number| {
            let counts = std::mem::take(&mut kinds[*number]);
            let stays = counts.idle_looks < IDLE_LOOKS;
            if stays {
                *number = kept.len();
                kept.push(counts);
            }
            stays
        });
        self.kinds = kept;
    }

    fn of(&mut self, kind: &Kind) -> &mut KindCounts {
        let number = match self.by_kind.get(kind) {
            Some(number) => *number,
            None if self.by_kind.len() >= MOST_KINDS => 0,
            None => {
                self.by_kind.insert(kind.clone(), self.kinds.len());
                self.kinds.push(KindCounts::default());
                self.kinds.len() - 1
            }
        };
        let counts = &mut self.kinds[number];
        counts.is_idle = false;
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(number: usize) -> Kind {
        Kind::new(format!("kind-{number}")).unwrap()
    }

    fn delivered(counts: &Counts, wanted: Option<&Kind>) -> Option<u64> {
        counts.kinds().find(|(kind, _)| *kind == wanted).map(|(_, counts)| counts.delivered)
    }

    #[test]
    fn however_many_kinds_there_are_no_more_than_so_many_have_numbers_of_their_own() {
        let mut counts = Counts::default();

        (0..5000).for_each(|number| counts.delivered(&kind(number)));

        assert_eq!(counts.kinds().count(), MOST_KINDS + 1);
        assert_eq!(delivered(&counts, Some(&kind(7))), Some(1));
        assert_eq!(delivered(&counts, None), Some(4000));
    }

    #[test]
    fn a_kind_that_is_long_idle_makes_room_for_another() {
        let mut counts = Counts::default();
        (0..MOST_KINDS + 1).for_each(|number| counts.delivered(&kind(number)));
        let began = Instant::now();

        for look in 0..=u32::from(IDLE_LOOKS) {
            counts.delivered(&kind(3));
            counts.make_room(began + LOOK * look);
        }
        counts.delivered(&kind(MOST_KINDS));

        assert_eq!(delivered(&counts, Some(&kind(3))), Some(2 + u64::from(IDLE_LOOKS)));
        assert_eq!(delivered(&counts, Some(&kind(4))), None);
        assert_eq!(delivered(&counts, Some(&kind(MOST_KINDS))), Some(1));
        assert_eq!(delivered(&counts, None), Some(1), "what was counted so stays so");
    }

    #[test]
    fn a_task_that_no_attempt_has_ended_has_neither_waited_nor_run() {
        let mut counts = Counts::default();
        let settlement = |outcome, by: Option<&str>| Settlement {
            sequence: scheduler::Sequence(1),
            id: "t".parse().unwrap(),
            kind: kind(1),
            outcome,
            attempts: 1,
            by: by.map(|agent| {
                let attempt =
                    shared::message::AttemptRef { task: "t".parse().unwrap(), attempt: 1, epoch: shared::Epoch(1) };
                (agent.parse().unwrap(), attempt)
            }),
            error: None,
            queued: Duration::from_millis(3),
            run: Duration::from_millis(5),
            dead_letter: false,
            history: Vec::new(),
        };

        counts.settled(&settlement(Outcome::Succeeded, Some("ada")), Duration::from_millis(8));
        counts.settled(&settlement(Outcome::Expired, None), Duration::from_secs(60));

        let (_, counted) = counts.kinds().find(|(named, _)| *named == Some(&kind(1))).unwrap();
        assert_eq!((counted.settled(Outcome::Succeeded), counted.settled(Outcome::Expired)), (1, 1));
        assert_eq!((counted.wait.count(), counted.run.count(), counted.end_to_end.count()), (1, 1, 2));
    }
}
