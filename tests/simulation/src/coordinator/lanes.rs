//! Lanes, as `coordinator::node::lanes` decides about them. (`Keeper` is in `keeper`.)

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use rustc_hash::FxHashMap;
use shared::Priority;

use super::keeper::Job;
use crate::message::{LaneName, Scope};

/// How long a pull waits at the broker.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// Lanes of their own at most.
const MAX_OWN: usize = 48;
/// Most tasks that a lane keeps at hand.
const WINDOW: usize = 4096;

#[derive(Debug)]
struct Lane {
    name: LaneName,
    ready: bool,
    waiting: usize,
    pulls: VecDeque<Pull>,
    busy: Duration,
}

#[derive(Debug)]
struct Pull {
    id: u64,
    left: usize,
    expires: Duration,
}

/// Names a lane as long as a leader leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct LaneKey(usize);

/// A kind got a lane of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moved {
    pub(super) kind: u8,
    pub(super) priority: Priority,
    pub(super) to: LaneKey,
}

/// A pull to be sent.
#[derive(Clone, Debug)]
pub(super) struct PullOrder {
    pub(super) lane: LaneName,
    pub(super) batch: usize,
    pub(super) id: u64,
}

/// The lanes of one leader.
#[derive(Debug)]
pub(super) struct Lanes {
    epoch: u64,
    lanes: Vec<Option<Lane>>,
    by_name: FxHashMap<LaneName, LaneKey>,
    kinds: BTreeSet<u8>,
    generation: u64,
    pulls: u64,
    least_window: usize,
    window: usize,
    jobs: Vec<Job>,
}

impl Lanes {
    pub(super) fn new(epoch: u64, least_window: usize, keeps_old: bool) -> Self {
        Self {
            epoch,
            lanes: Vec::new(),
            by_name: FxHashMap::default(),
            kinds: BTreeSet::new(),
            generation: 0,
            pulls: 0,
            least_window,
            window: least_window,
            jobs: if keeps_old { Vec::new() } else { vec![Job::Clear] },
        }
    }

    pub(super) fn show(&self) -> String {
        let show = |lane: &Lane| {
            let asked: usize = lane.pulls.iter().map(|pull| pull.left).sum();
            format!("{:?}: ready {}, {} waiting, {asked} asked for", lane.name, lane.ready, lane.waiting)
        };
        self.lanes.iter().flatten().map(show).collect::<Vec<_>>().join("; ")
    }

    pub(super) fn take_jobs(&mut self) -> Vec<Job> {
        std::mem::take(&mut self.jobs)
    }

    pub(super) fn serve(&mut self, kinds: BTreeSet<u8>, now: Duration) {
        if kinds == self.kinds {
            return;
        }
        let gone: Vec<LaneKey> = self
            .keys()
            .filter(|key| matches!(&self.lane(*key).name.scope, Scope::Own(kind, _) if !kinds.contains(kind)))
            .collect();
        for key in gone {
            self.remove(key);
        }
        self.kinds = kinds;
        for priority in Priority::ALL {
            self.renew_shared(priority, now);
        }
    }

    pub(super) fn kinds(&self) -> &BTreeSet<u8> {
        &self.kinds
    }

    pub(super) fn set_window(&mut self, total_slots: usize) {
        self.window = (total_slots * 2).clamp(self.least_window, WINDOW);
    }

    pub(super) fn ready(&mut self, name: LaneName) {
        if let Some(key) = self.find(name) {
            self.lane_mut(key).ready = true;
        }
    }

    /// A consumer is gone that should be there: it is made again. Whether there is anything to do is returned.
    pub(super) fn vanished(&mut self, name: LaneName) -> bool {
        let Some(key) = self.find(name) else { return false };
        if !self.lane(key).ready {
            return false;
        }
        let filters = self.filters(name.scope);
        let lane = self.lane_mut(key);
        lane.ready = false;
        lane.pulls.clear();
        self.jobs.push(Job::Put(name, filters));
        true
    }

    pub(super) fn find(&self, name: LaneName) -> Option<LaneKey> {
        self.by_name.get(&name).copied()
    }

    pub(super) fn delivered(&mut self, key: LaneKey, fresh: bool, now: Duration) {
        let Some(lane) = self.lanes[key.0].as_mut() else { return };
        lane.busy = now;
        if fresh {
            lane.waiting += 1;
        }
        if let Some(pull) = lane.pulls.front_mut() {
            pull.left -= 1;
            if pull.left == 0 {
                lane.pulls.pop_front();
            }
        }
    }

    /// The lane that a new message belongs to, and where it is acknowledged.
    pub(super) fn belongs_to(
        &mut self,
        kind: u8,
        priority: Priority,
        lane: Option<LaneKey>,
        ack: Option<LaneName>,
    ) -> (Option<LaneKey>, Option<LaneName>) {
        match (lane, self.own_lane(kind, priority)) {
            (Some(from), Some(own)) if own != from => {
                self.hand_over(from, own);
                (Some(own), None)
            }
            _ => (lane, ack),
        }
    }

    /// The lane that a kind has for itself.
    pub(super) fn own_lane(&self, kind: u8, priority: Priority) -> Option<LaneKey> {
        self.keys().find(|key| self.lane(*key).name.scope == Scope::Own(kind, priority))
    }

    pub(super) fn placed(&mut self, key: LaneKey) {
        if let Some(lane) = self.lanes[key.0].as_mut() {
            lane.waiting = lane.waiting.saturating_sub(1);
        }
    }

    /// A message that waits belongs to another lane now.
    pub(super) fn hand_over(&mut self, from: LaneKey, to: LaneKey) {
        self.placed(from);
        if let Some(lane) = self.lanes[to.0].as_mut() {
            lane.waiting += 1;
        }
    }

    pub(super) fn pull_ended(&mut self, name: LaneName, id: u64) {
        if let Some(key) = self.find(name) {
            self.lane_mut(key).pulls.retain(|pull| pull.id != id);
        }
    }

    pub(super) fn forget_pulls(&mut self) {
        for lane in self.lanes.iter_mut().flatten() {
            lane.pulls.clear();
        }
    }

    pub(super) fn pulls(&mut self, now: Duration) -> Vec<PullOrder> {
        let mut orders = Vec::new();
        let window = self.window;
        for lane in self.lanes.iter_mut().flatten().filter(|lane| lane.ready) {
            while lane.pulls.front().is_some_and(|pull| pull.expires <= now) {
                lane.pulls.pop_front();
            }
            let room = window.saturating_sub(lane.waiting);
            let asked: usize = lane.pulls.iter().map(|pull| pull.left).sum();
            if asked < room && (asked == 0 || asked <= room / 2) {
                self.pulls += 1;
                let (id, batch) = (self.pulls, room - asked);
                lane.pulls.push_back(Pull { id, left: batch, expires: now + PULL_EXPIRES + Duration::from_secs(2) });
                orders.push(PullOrder { lane: lane.name, batch, id });
            }
        }
        orders
    }

    pub(super) fn note_waiting(
        &mut self,
        kind: u8,
        priority: Priority,
        waiting: usize,
        now: Duration,
    ) -> Option<Moved> {
        if waiting >= self.window / 4 { self.set_apart(kind, priority, now) } else { None }
    }

    pub(super) fn full_shared(&self) -> Vec<Priority> {
        let full = self.lanes.iter().flatten().filter(|lane| lane.waiting >= self.window);
        full.filter_map(|lane| if let Scope::Shared(p) = lane.name.scope { Some(p) } else { None }).collect()
    }

    pub(super) fn set_apart(&mut self, kind: u8, priority: Priority, now: Duration) -> Option<Moved> {
        if self.kinds.len() < 2 || !self.kinds.contains(&kind) {
            return None;
        }
        if self.lanes.iter().flatten().any(|lane| lane.name.scope == Scope::Own(kind, priority)) {
            return None;
        }
        let own = self.keys().filter(|key| matches!(self.lane(*key).name.scope, Scope::Own(..))).count();
        if own >= MAX_OWN {
            return None;
        }
        let name = LaneName { epoch: self.epoch, scope: Scope::Own(kind, priority), generation: 0 };
        self.add(name, now);
        self.narrow_shared(priority);
        let filters = self.filters(name.scope);
        self.jobs.push(Job::Put(name, filters));
        Some(Moved { kind, priority, to: LaneKey(self.lanes.len() - 1) })
    }

    /// Makes the lanes of a kind anew, so that they deliver again what was sent back for later.
    pub(super) fn look_back(&mut self, kind: u8, now: Duration) {
        for priority in Priority::ALL {
            let own = self.keys().find(|key| self.lane(*key).name.scope == Scope::Own(kind, priority));
            match own {
                None => self.renew_shared(priority, now),
                Some(key) => {
                    self.remove(key);
                    self.generation += 1;
                    let scope = Scope::Own(kind, priority);
                    let name = LaneName { epoch: self.epoch, scope, generation: self.generation };
                    self.add(name, now);
                    self.jobs.push(Job::Put(name, vec![kind]));
                }
            }
        }
    }

    fn narrow_shared(&mut self, priority: Priority) {
        let filters = self.filters(Scope::Shared(priority));
        let Some(key) = self.shared(priority) else { return };
        if filters.is_empty() {
            self.remove(key);
        } else {
            let name = self.lane(key).name;
            self.jobs.push(Job::Put(name, filters));
        }
    }

    fn renew_shared(&mut self, priority: Priority, now: Duration) {
        if let Some(key) = self.shared(priority) {
            self.remove(key);
        }
        let scope = Scope::Shared(priority);
        let filters = self.filters(scope);
        if filters.is_empty() {
            return;
        }
        self.generation += 1;
        let name = LaneName { epoch: self.epoch, scope, generation: self.generation };
        self.add(name, now);
        self.jobs.push(Job::Put(name, filters));
    }

    fn filters(&self, scope: Scope) -> Vec<u8> {
        match scope {
            Scope::Own(kind, _) => vec![kind],
            Scope::Shared(priority) => {
                let has_own =
                    |kind: &u8| self.lanes.iter().flatten().any(|l| l.name.scope == Scope::Own(*kind, priority));
                self.kinds.iter().copied().filter(|kind| !has_own(kind)).collect()
            }
        }
    }

    fn shared(&self, priority: Priority) -> Option<LaneKey> {
        self.keys().find(|key| self.lane(*key).name.scope == Scope::Shared(priority))
    }

    fn add(&mut self, name: LaneName, now: Duration) {
        self.by_name.insert(name, LaneKey(self.lanes.len()));
        self.lanes.push(Some(Lane { name, ready: false, waiting: 0, pulls: VecDeque::new(), busy: now }));
    }

    fn remove(&mut self, key: LaneKey) {
        let Some(lane) = self.lanes[key.0].take() else { return };
        self.by_name.remove(&lane.name);
        self.jobs.push(Job::Remove(lane.name));
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
}
