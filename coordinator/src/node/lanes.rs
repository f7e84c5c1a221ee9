//! Lanes: durable consumers of the task stream, and how much is pulled from each.
//!
//! The kinds that agents can do share one lane per priority, a consumer with all their subjects as filters. A kind
//! that holds up the others, because more of it comes than can be placed, gets a lane of its own. A lane whose
//! filters would grow is made anew: a consumer does not look back for what a new filter matches, and a new one
//! delivers again what is still held, which is recognised by its sequence.
//!
//! [`Lanes`] decides; [`Keeper`] makes and removes the consumers, apart from the leader's loop.

use std::collections::{BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use shared::subject::Subjects;
use shared::{Epoch, Kind, Priority};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use super::Command;
use crate::store::{Store, StoreError};

/// How long a pull waits at the broker.
pub(crate) const PULL_EXPIRES: Duration = Duration::from_secs(30);

/// Lanes of their own at most: a consumer that waits costs the broker something at each publish.
const MAX_OWN: usize = 48;

/// Fewest and most tasks that a lane keeps at hand.
const WINDOW: std::ops::RangeInclusive<usize> = 128..=4096;

/// What a lane delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Scope {
    /// All kinds that have no lane of their own, of one priority.
    Shared(Priority),
    /// One kind of one priority.
    Own(Kind, Priority),
}

#[derive(Debug)]
struct Lane {
    scope: Scope,
    name: String,
    /// Whether its consumer is there.
    ready: bool,
    /// Tasks that it delivered and that no agent has been given yet.
    waiting: usize,
    pulls: VecDeque<Pull>,
    /// When it last delivered something.
    busy: Instant,
}

#[derive(Debug)]
struct Pull {
    id: u64,
    left: usize,
    expires: Instant,
}

/// Names a lane as long as a leader leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LaneKey(usize);

/// A kind got a lane of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) kind: Kind,
    pub(crate) priority: Priority,
    pub(crate) to: LaneKey,
}

/// A pull to be sent: on which lane, for how many, and under which number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PullOrder {
    pub(crate) lane: String,
    pub(crate) batch: usize,
    pub(crate) id: u64,
}

/// The lanes of one leader.
#[derive(Debug)]
pub(crate) struct Lanes {
    subjects: Subjects,
    epoch: Epoch,
    lanes: Vec<Option<Lane>>,
    by_name: FxHashMap<String, LaneKey>,
    kinds: BTreeSet<Kind>,
    generation: u64,
    pulls: u64,
    own_lanes: usize,
    window: usize,
    jobs: mpsc::UnboundedSender<Job>,
}

/// How many lanes there are, and what they keep at hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LaneFigures {
    /// Lanes that kinds share.
    pub(crate) shared: u64,
    /// Lanes that kinds have for themselves.
    pub(crate) own: u64,
    /// Tasks that they have delivered and that no agent has been given yet.
    pub(crate) waiting: u64,
}

/// Something the keeper is to do, in order.
#[derive(Debug)]
pub(crate) enum Job {
    /// Remove all consumers that former leaders left.
    Clear,
    /// Make a consumer, or give it fewer filters.
    Put { name: String, filters: Vec<String> },
    /// Remove a consumer.
    Remove { name: String },
}

impl Lanes {
    /// No lanes yet; `jobs` reaches the [`Keeper`].
    pub(crate) fn new(subjects: Subjects, epoch: Epoch, jobs: mpsc::UnboundedSender<Job>) -> Self {
        let mut lanes = Self {
            subjects,
            epoch,
            lanes: Vec::new(),
            by_name: FxHashMap::default(),
            kinds: BTreeSet::new(),
            generation: 0,
            pulls: 0,
            own_lanes: 0,
            window: *WINDOW.start(),
            jobs,
        };
        lanes.order(Job::Clear);
        lanes
    }

    /// The kinds that agents can do now. Those that are new get their tasks, the old backlog too; a kind that
    /// nobody can do any more stays in the stream.
    pub(crate) fn serve(&mut self, kinds: BTreeSet<Kind>) {
        if kinds == self.kinds {
            return;
        }
        let gone: Vec<LaneKey> = self
            .keys()
            .filter(|key| matches!(&self.lane(*key).scope, Scope::Own(kind, _) if !kinds.contains(kind)))
            .collect();
        for key in gone {
            self.remove(key);
        }
        self.kinds = kinds;
        for priority in Priority::ALL {
            self.renew_shared(priority);
        }
    }

    /// The kinds whose tasks are fetched.
    pub(crate) fn kinds(&self) -> &BTreeSet<Kind> {
        &self.kinds
    }

    /// How many there are, and what they keep at hand.
    pub(crate) fn figures(&self) -> LaneFigures {
        let lanes = || self.lanes.iter().flatten();
        LaneFigures {
            shared: (lanes().count() - self.own_lanes) as u64,
            own: self.own_lanes as u64,
            waiting: lanes().map(|lane| lane.waiting as u64).sum(),
        }
    }

    /// How many tasks it makes sense to keep at hand, given how many attempts the agents can hold.
    pub(crate) fn set_window(&mut self, total_slots: usize) {
        self.window = (total_slots * 2).clamp(*WINDOW.start(), *WINDOW.end());
    }

    /// The keeper has made a consumer.
    pub(crate) fn ready(&mut self, name: &str) {
        if let Some(key) = self.by_name.get(name).copied() {
            self.lane_mut(key).ready = true;
        }
    }

    /// A consumer is gone that should be there: it is made again.
    pub(crate) fn vanished(&mut self, name: &str) {
        let Some(key) = self.by_name.get(name).copied() else { return };
        if !self.lane(key).ready {
            return;
        }
        let filters = self.filters(&self.lane(key).scope);
        let lane = self.lane_mut(key);
        lane.ready = false;
        lane.pulls.clear();
        self.order(Job::Put { name: name.to_owned(), filters });
    }

    /// The lane that a consumer belongs to.
    pub(crate) fn find(&self, name: &str) -> Option<LaneKey> {
        self.by_name.get(name).copied()
    }

    /// A message came on the lane; `fresh` if it is not one that is held already.
    pub(crate) fn delivered(&mut self, key: LaneKey, fresh: bool, now: Instant) {
        let Some(lane) = self.lanes[key.0].as_mut() else { return };
        lane.busy = now;
        if fresh {
            lane.waiting += 1;
        }
        // Pulls are served in the order in which they came.
        if let Some(pull) = lane.pulls.front_mut() {
            pull.left -= 1;
            if pull.left == 0 {
                lane.pulls.pop_front();
            }
        }
    }

    /// A message that the lane delivered has been given to an agent, or is settled.
    pub(crate) fn placed(&mut self, key: LaneKey) {
        if let Some(lane) = self.lanes[key.0].as_mut() {
            lane.waiting = lane.waiting.saturating_sub(1);
        }
    }

    /// The lane that a new message belongs to, and where it is acknowledged. One that the shared lane still delivered
    /// of a kind that has a lane of its own belongs there, and is acknowledged when that one has delivered it too.
    pub(crate) fn belongs_to(
        &mut self,
        kind: &Kind,
        priority: Priority,
        lane: Option<LaneKey>,
        ack: async_nats::Subject,
    ) -> (Option<LaneKey>, async_nats::Subject) {
        let Some(from) = lane.filter(|_| self.own_lanes > 0) else { return (lane, ack) };
        match self.own_lane(kind, priority) {
            Some(own) if own != from => {
                self.hand_over(from, own);
                (Some(own), async_nats::Subject::from_static(""))
            }
            _ => (lane, ack),
        }
    }

    /// The lane that a kind has for itself.
    pub(crate) fn own_lane(&self, kind: &Kind, priority: Priority) -> Option<LaneKey> {
        let is_own = |key: &LaneKey| matches!(&self.lane(*key).scope, Scope::Own(k, p) if k == kind && *p == priority);
        self.keys().find(is_own)
    }

    /// A message that waits belongs to another lane now.
    pub(crate) fn hand_over(&mut self, from: LaneKey, to: LaneKey) {
        self.placed(from);
        if let Some(lane) = self.lanes[to.0].as_mut() {
            lane.waiting += 1;
        }
    }

    /// The broker has ended a pull.
    pub(crate) fn pull_ended(&mut self, name: &str, id: u64) {
        if let Some(key) = self.find(name) {
            self.lane_mut(key).pulls.retain(|pull| pull.id != id);
        }
    }

    /// The connection was interrupted: the broker has forgotten our pulls.
    pub(crate) fn forget_pulls(&mut self) {
        for lane in self.lanes.iter_mut().flatten() {
            lane.pulls.clear();
        }
    }

    /// What is to be pulled now, so that each lane has its window at hand.
    pub(crate) fn pulls(&mut self, now: Instant) -> Vec<PullOrder> {
        let mut orders = Vec::new();
        let window = self.window;
        for lane in self.lanes.iter_mut().flatten().filter(|lane| lane.ready) {
            while lane.pulls.front().is_some_and(|pull| pull.expires <= now) {
                lane.pulls.pop_front();
            }
            let room = window.saturating_sub(lane.waiting);
            let asked: usize = lane.pulls.iter().map(|pull| pull.left).sum();
            // A pull a message would cost as much as the message.
            if asked < room && (asked == 0 || asked <= room / 2) {
                self.pulls += 1;
                let (id, batch) = (self.pulls, room - asked);
                lane.pulls.push_back(Pull { id, left: batch, expires: now + PULL_EXPIRES + Duration::from_secs(2) });
                orders.push(PullOrder { lane: lane.name.clone(), batch, id });
            }
        }
        orders
    }

    /// A task of the kind waits, and `waiting` of its kind and priority do so already. If these take up a good
    /// part of what the shared lane may keep at hand, they hold up the others: the kind gets a lane of its own.
    pub(crate) fn note_waiting(
        &mut self,
        kind: &Kind,
        priority: Priority,
        waiting: usize,
        now: Instant,
    ) -> Option<Moved> {
        if waiting >= self.window / 4 { self.set_apart(kind, priority, now) } else { None }
    }

    /// Shared lanes that have all they may keep at hand: if that does not get less, something in them holds up
    /// the rest.
    pub(crate) fn full_shared(&self) -> Vec<Priority> {
        let full = self.lanes.iter().flatten().filter(|lane| lane.waiting >= self.window);
        full.filter_map(|lane| if let Scope::Shared(priority) = lane.scope { Some(priority) } else { None }).collect()
    }

    /// Gives the kind a lane of its own, if it has none and there is another to be protected from it.
    pub(crate) fn set_apart(&mut self, kind: &Kind, priority: Priority, now: Instant) -> Option<Moved> {
        if self.kinds.len() < 2 || !self.kinds.contains(kind) {
            return None;
        }
        if self.own_lane(kind, priority).is_some() {
            return None;
        }
        let own: Vec<LaneKey> = self.keys().filter(|key| matches!(self.lane(*key).scope, Scope::Own(..))).collect();
        if own.len() >= MAX_OWN {
            let idle = |key: &LaneKey| now.duration_since(self.lane(*key).busy) > Duration::from_secs(10);
            let longest_idle = own.into_iter().filter(idle).min_by_key(|key| self.lane(*key).busy)?;
            let Scope::Own(_, its_priority) = self.lane(longest_idle).scope.clone() else { return None };
            self.remove(longest_idle);
            self.renew_shared(its_priority);
        }
        debug!(%kind, %priority, "the kind gets a lane of its own");
        let name = format!("e{}-own-{kind}-{priority}", self.epoch);
        let scope = Scope::Own(kind.clone(), priority);
        self.add(name, scope, now);
        // First the shared lane lets go, then the new one takes: filters of two consumers may not overlap.
        self.narrow_shared(priority);
        let key = LaneKey(self.lanes.len() - 1);
        let (name, filters) = (self.lane(key).name.clone(), self.filters(&self.lane(key).scope));
        self.order(Job::Put { name, filters });
        Some(Moved { kind: kind.clone(), priority, to: key })
    }

    /// Makes the lanes of a kind anew, so that they deliver again what was sent back for later.
    pub(crate) fn look_back(&mut self, kind: &Kind) {
        for priority in Priority::ALL {
            let own = self
                .keys()
                .find(|key| matches!(&self.lane(*key).scope, Scope::Own(k, p) if k == kind && *p == priority));
            match own {
                None => self.renew_shared(priority),
                Some(key) => {
                    let scope = self.lane(key).scope.clone();
                    let filters = self.filters(&scope);
                    self.remove(key);
                    self.generation += 1;
                    let name = format!("e{}-own-{kind}-{priority}-{}", self.epoch, self.generation);
                    self.add(name.clone(), scope, Instant::now());
                    self.order(Job::Put { name, filters });
                }
            }
        }
    }

    fn narrow_shared(&mut self, priority: Priority) {
        let filters = self.filters(&Scope::Shared(priority));
        let Some(key) = self.shared(priority) else { return };
        if filters.is_empty() {
            self.remove(key);
        } else {
            let name = self.lane(key).name.clone();
            self.order(Job::Put { name, filters });
        }
    }

    fn renew_shared(&mut self, priority: Priority) {
        if let Some(key) = self.shared(priority) {
            self.remove(key);
        }
        let scope = Scope::Shared(priority);
        let filters = self.filters(&scope);
        if filters.is_empty() {
            return;
        }
        self.generation += 1;
        let name = format!("e{}-shared-{priority}-{}", self.epoch, self.generation);
        self.add(name.clone(), scope, Instant::now());
        self.order(Job::Put { name, filters });
    }

    fn filters(&self, scope: &Scope) -> Vec<String> {
        match scope {
            Scope::Own(kind, priority) => self.subjects.task_filters(kind, *priority),
            Scope::Shared(priority) => {
                let own: BTreeSet<&Kind> = self
                    .lanes
                    .iter()
                    .flatten()
                    .filter_map(|lane| match &lane.scope {
                        Scope::Own(kind, p) if p == priority => Some(kind),
                        _ => None,
                    })
                    .collect();
                let shared = self.kinds.iter().filter(|kind| !own.contains(kind));
                shared.flat_map(|kind| self.subjects.task_filters(kind, *priority)).collect()
            }
        }
    }

    fn shared(&self, priority: Priority) -> Option<LaneKey> {
        self.keys().find(|key| self.lane(*key).scope == Scope::Shared(priority))
    }

    fn add(&mut self, name: String, scope: Scope, now: Instant) {
        self.own_lanes += usize::from(matches!(scope, Scope::Own(..)));
        self.by_name.insert(name.clone(), LaneKey(self.lanes.len()));
        self.lanes.push(Some(Lane { scope, name, ready: false, waiting: 0, pulls: VecDeque::new(), busy: now }));
    }

    fn remove(&mut self, key: LaneKey) {
        let Some(lane) = self.lanes[key.0].take() else { return };
        self.own_lanes -= usize::from(matches!(lane.scope, Scope::Own(..)));
        self.by_name.remove(&lane.name);
        self.order(Job::Remove { name: lane.name });
    }

    fn keys(&self) -> impl Iterator<Item = LaneKey> + '_ {
        self.lanes.iter().enumerate().filter(|(_, lane)| lane.is_some()).map(|(i, _)| LaneKey(i))
    }

    fn lane(&self, key: LaneKey) -> &Lane {
        self.lanes[key.0].as_ref().expect("only lanes that are there are looked up")
    }

    fn lane_mut(&mut self, key: LaneKey) -> &mut Lane {
        self.lanes[key.0].as_mut().expect("only lanes that are there are looked up")
    }

    fn order(&mut self, job: Job) {
        // The keeper ends with the leader; nobody is left to miss its work then.
        let _ = self.jobs.send(job);
    }
}

/// Makes and removes consumers, one after the other, and goes on trying for as long as its leader leads.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) store: Store,
    pub(crate) epoch: Epoch,
    pub(crate) jobs: mpsc::UnboundedReceiver<Job>,
    /// Told of each consumer that is there now.
    pub(crate) ready: mpsc::Sender<Command>,
}

impl Keeper {
    pub(crate) async fn run(mut self) {
        while let Some(job) = self.jobs.recv().await {
            if self.carry_out(&job).await.is_break() {
                return;
            }
            if let Job::Put { name, .. } = job
                && self.ready.send(Command::LaneReady(name)).await.is_err()
            {
                return;
            }
        }
    }

    /// Tries until it is done; breaks off when the reign is over.
    async fn carry_out(&self, job: &Job) -> ControlFlow<()> {
        let mut delay = Duration::from_millis(50);
        // A leader that is none any more must not put its lanes back: they would block those of the one after.
        while !self.jobs.is_closed() {
            let error = match self.try_once(job).await {
                Ok(flow) => return flow,
                Err(error) => error,
            };
            warn!(?job, error = %crate::chain(&error), "a lane could not be changed, trying again");
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(Duration::from_secs(2));
            // A lane of a leader before, which it made after we cleared them away, may be in the way.
            if matches!(job, Job::Put { .. })
                && let Ok(ControlFlow::Break(())) = self.clear().await
            {
                break;
            }
        }
        ControlFlow::Break(())
    }

    async fn try_once(&self, job: &Job) -> Result<ControlFlow<()>, StoreError> {
        match job {
            Job::Clear => return self.clear().await,
            Job::Put { name, filters } => self.store.put_lane(name, filters.clone()).await?,
            Job::Remove { name } => self.store.remove_lane(name).await?,
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Removes the lanes of leaders before. What they had fetched and not settled is delivered again by the lanes
    /// that follow. Where there is one of a leader after, our reign is over.
    async fn clear(&self) -> Result<ControlFlow<()>, StoreError> {
        let names = self.store.lanes().await?;
        if names.iter().any(|name| epoch_of(name) > Some(self.epoch)) {
            info!(epoch = %self.epoch, "there are lanes of a newer leader: these are not kept any more");
            return Ok(ControlFlow::Break(()));
        }
        for name in names.iter().filter(|name| epoch_of(name) != Some(self.epoch)) {
            self.store.remove_lane(name).await?;
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// The epoch in a lane's name: `e<epoch>-…`. A consumer that is called otherwise is none of ours.
fn epoch_of(name: &str) -> Option<Epoch> {
    name.strip_prefix('e')?.split_once('-')?.0.parse().ok().map(Epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes() -> (Lanes, mpsc::UnboundedReceiver<Job>) {
        let (jobs, orders) = mpsc::unbounded_channel();
        (Lanes::new(Subjects::default(), Epoch(1), jobs), orders)
    }

    fn kinds(names: &[&str]) -> BTreeSet<Kind> {
        names.iter().map(|name| Kind::new(name).unwrap()).collect()
    }

    /// Plays the keeper: which consumers there are, with their filters.
    fn consumers(orders: &mut mpsc::UnboundedReceiver<Job>) -> std::collections::BTreeMap<String, Vec<String>> {
        let mut consumers = std::collections::BTreeMap::new();
        while let Ok(job) = orders.try_recv() {
            match job {
                Job::Clear => consumers.clear(),
                Job::Put { name, filters } => {
                    let others = consumers.iter().filter(|(other, _)| **other != name);
                    let taken: Vec<&String> = others.flat_map(|(_, f): (_, &Vec<String>)| f).collect();
                    assert!(filters.iter().all(|filter| !taken.contains(&filter)), "filters overlap");
                    consumers.insert(name, filters);
                }
                Job::Remove { name } => drop(consumers.remove(&name)),
            }
        }
        consumers
    }

    #[test]
    fn a_lane_tells_whose_it_is() {
        assert_eq!(epoch_of("e12-shared-normal-3"), Some(Epoch(12)));
        assert_eq!(epoch_of("e7-own-resize-low"), Some(Epoch(7)));
        assert_eq!(epoch_of("everything-else"), None);
    }

    #[test]
    fn kinds_share_a_lane_per_priority() {
        let (mut lanes, mut orders) = lanes();

        lanes.serve(kinds(&["a", "b"]));

        let consumers = consumers(&mut orders);
        assert_eq!(consumers.len(), 4);
        assert_eq!(consumers.values().map(Vec::len).sum::<usize>(), 18);
    }

    #[test]
    fn a_kind_that_holds_up_the_others_gets_a_lane_of_its_own() {
        let (mut lanes, mut orders) = lanes();
        lanes.serve(kinds(&["a", "b"]));

        lanes.note_waiting(&Kind::new("a").unwrap(), Priority::Normal, 1000, Instant::now());

        let consumers = consumers(&mut orders);
        assert_eq!(consumers.len(), 5);
        assert_eq!(consumers["e1-own-a-normal"].len(), 3);
    }

    #[test]
    fn a_lane_asks_for_no_more_than_its_window() {
        let (mut lanes, _orders) = lanes();
        lanes.serve(kinds(&["a"]));
        let names: Vec<String> = lanes.by_name.keys().cloned().collect();
        names.iter().for_each(|name| lanes.ready(name));
        let now = Instant::now();
        let first = lanes.pulls(now);
        assert_eq!(first.iter().map(|order| order.batch).collect::<Vec<_>>(), [128; 4]);

        let key = lanes.find(&first[0].lane).unwrap();
        for _ in 0..128 {
            lanes.delivered(key, true, now);
        }
        assert_eq!(lanes.pulls(now), []);

        for _ in 0..100 {
            lanes.placed(key);
        }
        assert_eq!(lanes.pulls(now).iter().map(|order| order.batch).collect::<Vec<_>>(), [100]);
    }
}
