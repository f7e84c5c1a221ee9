//! Makes and removes lanes, one after the other, and goes on trying for as long as its leader leads.

use std::collections::VecDeque;
use std::time::Duration;

use super::Node;
use super::calls::Purpose;
use super::commands::Command;
use crate::context::Context;
use crate::message::{Answer, Ask, LaneName};
use crate::plant::Plant;

/// Something to be done, in order.
#[derive(Clone, Debug)]
pub(super) enum Job {
    /// Remove all consumers that former leaders left.
    Clear,
    /// Make a consumer, or give it fewer filters.
    Put(LaneName, Vec<u8>),
    /// Remove a consumer.
    Remove(LaneName),
}

/// The keeper of one reign.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    epoch: u64,
    jobs: VecDeque<Job>,
    /// Consumers that are still to be removed, once they are listed.
    to_remove: Option<Vec<LaneName>>,
    waiting: bool,
    delay: Option<Duration>,
    sleeps_until: Option<Duration>,
    closed: bool,
}

impl Keeper {
    /// When it tries again.
    pub(super) fn due(&self) -> Option<Duration> {
        self.sleeps_until
    }
}

impl Node {
    pub(super) fn open_keeper(&mut self, epoch: u64) -> u64 {
        self.next_call += 1;
        self.keepers.insert(self.next_call, Keeper { epoch, ..Keeper::default() });
        self.next_call
    }

    /// Its reign is over: it breaks off.
    pub(super) fn close_keeper(&mut self, id: u64, ctx: &Context) {
        if !ctx.planted(Plant::KeeperKnowsNoEpochs) {
            self.keepers.remove(&id);
        } else if let Some(keeper) = self.keepers.get_mut(&id) {
            keeper.closed = true;
            self.keepers.retain(|_, keeper| !keeper.closed || !keeper.jobs.is_empty());
        }
    }

    /// Hands over what the lanes want done.
    pub(super) fn pass_jobs(&mut self, ctx: &mut Context) {
        let Some(reign) = &mut self.reign else { return };
        let (jobs, id) = (reign.lanes.take_jobs(), reign.keeper);
        if jobs.is_empty() {
            return;
        }
        let Some(keeper) = self.keepers.get_mut(&id) else { return };
        keeper.jobs.extend(jobs);
        self.next_job(id, ctx);
    }

    fn next_job(&mut self, id: u64, ctx: &mut Context) {
        let Some(keeper) = self.keepers.get_mut(&id) else { return };
        if keeper.waiting || keeper.sleeps_until.is_some() {
            return;
        }
        let ask = match (keeper.jobs.front(), &mut keeper.to_remove) {
            (None, _) => {
                if keeper.closed {
                    self.keepers.remove(&id);
                }
                return;
            }
            (Some(Job::Clear), None) => Ask::ListLanes,
            (Some(Job::Clear), Some(names)) => match names.pop() {
                Some(name) => Ask::DeleteLane(name),
                None => return self.job_done(id, ctx),
            },
            (Some(Job::Put(name, kinds)), _) => Ask::PutLane(*name, kinds.clone()),
            (Some(Job::Remove(name)), _) => Ask::DeleteLane(*name),
        };
        keeper.waiting = true;
        self.call(ask, Purpose::Keep(id), ctx);
    }

    pub(super) fn keep(&mut self, id: u64, answer: Option<Answer>, ctx: &mut Context) {
        let Some(keeper) = self.keepers.get_mut(&id) else { return };
        keeper.waiting = false;
        match answer {
            Some(Answer::Lanes(names)) => self.clear(id, names, ctx),
            Some(Answer::Ok) if keeper.to_remove.is_some() => self.next_job(id, ctx),
            Some(Answer::Refused) if !ctx.planted(Plant::KeeperKnowsNoEpochs) && !ctx.planted(Plant::OldLanesStay) => {
                self.make_way(id, ctx);
            }
            Some(Answer::Ok) => self.job_done(id, ctx),
            _ => self.try_later(id, ctx),
        }
    }

    /// Removes the lanes of leaders before. Those of one after are not ours to remove: our reign is over.
    fn clear(&mut self, id: u64, mut names: Vec<LaneName>, ctx: &mut Context) {
        let Some(keeper) = self.keepers.get_mut(&id) else { return };
        if !ctx.planted(Plant::KeeperKnowsNoEpochs) {
            if names.iter().any(|name| name.epoch > keeper.epoch) {
                keeper.jobs.clear();
                return;
            }
            names.retain(|name| name.epoch < keeper.epoch);
        }
        keeper.to_remove = Some(names);
        self.next_job(id, ctx);
    }

    /// A lane of another leader's is in the way: those of leaders before are cleared away once more.
    fn make_way(&mut self, id: u64, ctx: &mut Context) {
        if let Some(keeper) = self.keepers.get_mut(&id) {
            keeper.jobs.push_front(Job::Clear);
        }
        self.try_later(id, ctx);
    }

    fn try_later(&mut self, id: u64, ctx: &Context) {
        let now = self.instant(ctx);
        let Some(keeper) = self.keepers.get_mut(&id) else { return };
        keeper.to_remove = None;
        let delay = keeper.delay.unwrap_or(Duration::from_millis(50));
        keeper.sleeps_until = Some(now + delay);
        keeper.delay = Some((delay * 2).min(Duration::from_secs(2)));
    }

    fn job_done(&mut self, id: u64, ctx: &mut Context) {
        let Some(keeper) = self.keepers.get_mut(&id) else { return };
        (keeper.to_remove, keeper.delay) = (None, None);
        if let Some(Job::Put(name, _)) = keeper.jobs.pop_front() {
            self.command(Command::LaneReady(name));
        }
        self.next_job(id, ctx);
    }

    pub(super) fn keep_if_due(&mut self, ctx: &mut Context) {
        let now = self.instant(ctx);
        let is_due = |keeper: &Keeper| keeper.sleeps_until.is_some_and(|until| until <= now);
        let due: Vec<u64> = self.keepers.iter().filter(|(_, keeper)| is_due(keeper)).map(|(id, _)| *id).collect();
        for id in due {
            if let Some(keeper) = self.keepers.get_mut(&id) {
                keeper.sleeps_until = None;
            }
            self.next_job(id, ctx);
        }
    }
}
