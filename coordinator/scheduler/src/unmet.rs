//! What waits for an agent that is not there: it is told and shown, and most of it is sent back to the stream, so that it
//! takes up no room.

use std::collections::BTreeSet;
use std::time::Duration;

use rustc_hash::FxHashMap;
use shared::Priority;
use shared::api::UnmetDemand;

use crate::browse::Page;
use crate::event::{Action, Actions, Notice, Sequence};
use crate::kinds::{Demand, KindKey};
use crate::lines::LineKey;
use crate::{Scheduler, Timestamp, placement};

/// Tasks of one demand that are kept at hand although no agent could run them: enough to tell why they wait.
const KEPT: usize = 8;
/// And of one kind, however many demands there are: they may not fill what is fetched of it.
const KEPT_OF_KIND: usize = 32;

/// How long the others are sent back at least.
const DELAY: Duration = Duration::from_secs(60);
/// However many there are, they come back no faster than one in so long.
const SPACING: Duration = Duration::from_millis(5);

/// So many different demands are remembered, told and shown.
const DEMANDS: usize = 1000;
/// How often what asks for others is wanted again when agents come.
const LOOK_BACK: Duration = Duration::from_secs(60);

/// How often it is looked whether agents have gone that lines wait for, and for how many lines at a time.
const LOOK: Duration = Duration::from_secs(1);
const LINES: usize = 32;

/// What no agent could ever run that is there.
#[derive(Debug, Default)]
pub(crate) struct Unmet {
    demands: FxHashMap<Demand, Waiting>,
    /// Kinds of which more was sent back than is remembered.
    others: FxHashMap<KindKey, Others>,
    /// How many tasks are kept at hand of each kind, as far as is known since the last look.
    kept: FxHashMap<KindKey, usize>,
    next_look: Timestamp,
    /// How many of the lines have been looked at in this round.
    looked_at: usize,
}

/// What is known of the tasks that ask for it.
#[derive(Debug)]
struct Waiting {
    since: Timestamp,
    sent_back: SentBack,
}

/// What is known of tasks whose demands are not remembered.
#[derive(Debug, Default)]
struct Others {
    sent_back: SentBack,
    /// Whether an agent has come that may be the one they wait for, and when they may be wanted again.
    wanted: bool,
    not_before: Timestamp,
}

/// How many tasks were sent back to the stream, each counted once: they come in the order of their sequences, those of one
/// priority by themselves.
#[derive(Clone, Copy, Debug, Default)]
struct SentBack {
    count: u64,
    last: [Sequence; 4],
}

impl SentBack {
    fn add(&mut self, sequence: Sequence, priority: Priority) {
        let last = &mut self.last[priority as usize];
        if sequence > *last {
            *last = sequence;
            self.count += 1;
        }
    }

    /// For how long the next one is sent back.
    fn delay(self) -> Duration {
        DELAY.max(SPACING.mul_f64(self.count as f64))
    }
}

impl Unmet {
    /// Whether so many of these may be kept at hand.
    pub(crate) fn may_keep(&self, demand: &Demand, in_line: usize) -> bool {
        let of_kind = self.kept.get(&demand.kind).copied().unwrap_or(0);
        in_line <= KEPT && of_kind <= KEPT_OF_KIND && self.demands.contains_key(demand)
    }

    /// Whether nobody that is there could ever run this, as far as is known.
    pub(crate) fn contains(&self, demand: &Demand) -> bool {
        self.demands.contains_key(demand)
    }

    /// How many tasks of a kind were sent back to the stream for want of somebody who could ever run them.
    pub(crate) fn sent_back(&self, kind: KindKey) -> u64 {
        let of_kind = self.demands.iter().filter(|(demand, _)| demand.kind == kind);
        let remembered: u64 = of_kind.map(|(_, waiting)| waiting.sent_back.count).sum();
        remembered + self.others.get(&kind).map_or(0, |others| others.sent_back.count)
    }

    /// The demands, as they are asked.
    pub(crate) fn demands(&self) -> impl Iterator<Item = &Demand> {
        self.demands.keys()
    }
}

impl Scheduler {
    /// Nobody that is there could ever run this task.
    pub(crate) fn note_unmet(&mut self, demand: &Demand, sequence: Sequence, now: Timestamp, actions: &mut Actions) {
        if self.unmet.demands.contains_key(demand) {
            return;
        }
        *self.unmet.kept.entry(demand.kind).or_default() += 1;
        if self.unmet.demands.len() < DEMANDS {
            self.unmet.demands.insert(demand.clone(), Waiting { since: now, sent_back: SentBack::default() });
            let notice = self.task_notice("unmet", sequence).detail(self.why_placed(demand, now).summary);
            self.tell(notice, actions);
        }
    }

    /// Sends the head back to the stream, since nobody that is there could ever run it.
    pub(crate) fn send_back(&mut self, line: LineKey, demand: &Demand, actions: &mut Actions) {
        let Some((sequence, _)) = self.lines.head(line) else { return };
        let Some(priority) = self.tasks.get(sequence).map(|task| task.priority) else { return };
        let Unmet { demands, others, kept, .. } = &mut self.unmet;
        let sent_back = match demands.get_mut(demand) {
            Some(waiting) => &mut waiting.sent_back,
            None => &mut others.entry(demand.kind).or_default().sent_back,
        };
        sent_back.add(sequence, priority);
        let delay = sent_back.delay();
        if self.lines.len(line) <= 1 {
            kept.entry(demand.kind).and_modify(|kept| *kept = kept.saturating_sub(1));
        }
        self.lines.pop(line);
        self.leave_line(sequence);
        self.forget_undelivered(sequence, actions);
        actions.push(Action::Release { sequence, delay });
    }

    /// An agent has come: what was sent back for want of one like it is wanted again.
    pub(crate) fn look_back(&mut self, actions: &mut Actions) {
        let Self { unmet, kinds, registry, .. } = self;
        registry.settle(kinds);
        let (mut met, mut wanted) = (Vec::new(), BTreeSet::new());
        unmet.demands.retain(|demand, waiting| {
            let kind = kinds.get_mut(demand.kind);
            let able = placement::anybody_able(demand, kind, registry);
            if able {
                met.push(format!("an agent is there that can run `{}` {}", kind.kind, demand.words()));
                if waiting.sent_back.count > 0 {
                    wanted.insert(kind.kind.clone());
                }
            }
            !able
        });
        unmet.others.values_mut().for_each(|others| others.wanted = true);
        for detail in met {
            let notice = Notice { topic: "task", what: "met", agent: None, task: None, detail: Some(detail) };
            self.tell(notice, actions);
        }
        actions.extend(wanted.into_iter().map(Action::LookBack));
    }

    /// Looks whether the last agent has gone that could run what waits, and whether anything waits still of what was found
    /// so.
    pub(crate) fn look_for_unmet(&mut self, now: Timestamp, actions: &mut Actions) {
        if now < self.unmet.next_look {
            return;
        }
        self.unmet.next_look = now + LOOK;
        let Self { unmet, lines, tasks, .. } = self;
        unmet.demands.retain(|demand, waiting| {
            waiting.sent_back.count > 0 || lines.waiting(demand).any(|sequence| tasks.is_waiting(sequence))
        });
        for (kind, others) in &mut unmet.others {
            if others.wanted && now >= others.not_before {
                *others = Others { wanted: false, not_before: now + LOOK_BACK, ..*others };
                actions.push(Action::LookBack(self.kinds.get(*kind).kind.clone()));
            }
        }
        unmet.kept.clear();
        for demand in unmet.demands.keys() {
            *unmet.kept.entry(demand.kind).or_default() += lines.waiting(demand).count();
        }
        let heads = lines.blocked_heads().skip(unmet.looked_at).take(LINES);
        let heads: Vec<(Demand, Sequence)> = heads.map(|(demand, sequence)| (demand.clone(), sequence)).collect();
        unmet.looked_at = if heads.len() < LINES { 0 } else { unmet.looked_at + LINES };
        self.registry.settle(&self.kinds);
        for (demand, sequence) in heads {
            if self.tasks.is_waiting(sequence)
                && !placement::anybody_able(&demand, self.kinds.get_mut(demand.kind), &self.registry)
            {
                self.note_unmet(&demand, sequence, now, actions);
            }
        }
    }

    /// What waits for an agent that is not there, the oldest first.
    pub(crate) fn show_unmet(&self, now: Timestamp) -> Vec<UnmetDemand> {
        let shown = self.unmet.demands.iter().map(|(demand, waiting)| self.show_one_unmet(demand, waiting, now));
        let mut shown: Vec<UnmetDemand> = shown.collect();
        shown.sort_by(|a, b| b.since_ms.cmp(&a.since_ms).then_with(|| a.kind.cmp(&b.kind)));
        shown
    }

    /// The first of what waits for an agent that is not there, the oldest first.
    pub fn unmet_page(&self, limit: usize, now: Timestamp) -> Page<UnmetDemand> {
        let mut waiting: Vec<(&Demand, &Waiting)> = self.unmet.demands.iter().collect();
        waiting.sort_unstable_by_key(|(demand, waiting)| (waiting.since, demand.kind));
        let total = waiting.len();
        let shown = waiting.into_iter().take(limit);
        Page { items: shown.map(|(demand, waiting)| self.show_one_unmet(demand, waiting, now)).collect(), total }
    }

    /// How many tasks wait for an agent that is not there, by kind.
    pub(crate) fn unmet_tasks(&self) -> FxHashMap<KindKey, u64> {
        let mut tasks = FxHashMap::default();
        for (demand, waiting) in &self.unmet.demands {
            *tasks.entry(demand.kind).or_default() += self.count_unmet(demand, waiting);
        }
        tasks
    }

    fn count_unmet(&self, demand: &Demand, waiting: &Waiting) -> u64 {
        let is_waiting = |sequence: &Sequence| self.tasks.is_waiting(*sequence);
        waiting.sent_back.count + self.lines.waiting(demand).filter(is_waiting).count() as u64
    }

    fn show_one_unmet(&self, demand: &Demand, waiting: &Waiting, now: Timestamp) -> UnmetDemand {
        UnmetDemand {
            kind: self.kinds.get(demand.kind).kind.clone(),
            needs: demand.needs.to_string(),
            reserved: demand.reserved.clone(),
            tasks: self.count_unmet(demand, waiting),
            since_ms: now.since(waiting.since).as_millis() as u64,
            reason: self.why_placed(demand, now).summary,
        }
    }
}
