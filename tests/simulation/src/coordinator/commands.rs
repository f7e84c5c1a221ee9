//! What is asked of a coordinator's loop, and what its helpers report to it.

use std::rc::Rc;

use scheduler::{Event, History, Sequence};
use shared::message::AttemptRef;
use shared::{AgentId, TaskId};

use super::Node;
use super::calls::Purpose;
use crate::context::Context;
use crate::marks::Mark;
use crate::message::{Answer, Ask, Garbage, LaneName, Reply, Stored, Up};
use crate::plant::Plant;

/// Something for the loop to do.
#[derive(Clone, Debug)]
pub(super) enum Command {
    /// A lane's consumer is there.
    LaneReady(LaneName),
    /// A message was read from the stream that no lane delivers.
    TakeIn(Rc<Stored>),
    /// An attempt's end is recorded although nobody here knew of it.
    Confirm(AgentId, AttemptRef),
    /// These tasks have results, as listed in this reign when so many messages had come into the task stream.
    ResultsKnown(u64, Vec<TaskId>, u64),
    /// How attempts ended under leaders before.
    HistoriesKnown(u64, Vec<(Sequence, History)>),
    /// End a task.
    Cancel(TaskId, Reply),
    /// End a task that was read from the stream for it.
    CancelStored(Rc<Stored>, Reply),
    /// Let an agent leave.
    Drain(u8),
    /// Stop working.
    Stop,
}

impl Node {
    pub(super) fn on_command(&mut self, command: Command, ctx: &mut Context) {
        match command {
            Command::LaneReady(name) => {
                if let Some(reign) = &mut self.reign {
                    reign.lanes.ready(name);
                }
            }
            Command::TakeIn(stored) => {
                if stored.submission.garbage == Garbage::Subject {
                    ctx.reach(Mark::Foreign);
                }
                self.on_fetched(stored, false, ctx);
            }
            Command::HistoriesKnown(epoch, _) if !self.leads_in(epoch) => {}
            Command::HistoriesKnown(_, kept) => {
                if let Some(reign) = &mut self.reign {
                    reign.histories_known = true;
                }
                if !ctx.planted(Plant::HistoriesForgotten) {
                    self.tell_scheduler(Event::HistoriesKnown(kept), ctx);
                }
            }
            Command::Confirm(agent, attempt) => self.settled.entry(agent).or_default().push(attempt),
            Command::ResultsKnown(epoch, ..) if !self.leads_in(epoch) => {}
            Command::ResultsKnown(_, ids, last) => {
                if let Some(reign) = &mut self.reign {
                    reign.known.extend(ids);
                    reign.inherited = last;
                    reign.known_complete = true;
                }
            }
            Command::Cancel(id, reply) => self.cancel(id, reply, ctx),
            Command::CancelStored(stored, reply) => self.cancel_stored(stored, reply, ctx),
            Command::Drain(agent) => {
                let agent = ctx.agents[agent as usize].clone();
                self.tell_scheduler(Event::AgentDrained(agent), ctx);
            }
            Command::Stop => {
                self.carry_out(ctx);
                self.confirm_settled(ctx);
                self.stopped = true;
                self.resign(ctx);
            }
        }
    }

    fn cancel(&mut self, id: TaskId, reply: Reply, ctx: &mut Context) {
        match self.scheduler.sequence_of(&id) {
            Some(sequence) => {
                self.note_cancel(&id, ctx);
                self.tell_scheduler(Event::TaskCancelled(sequence), ctx);
                ctx.send(self.link, Up::Answer(reply, Answer::Ok));
            }
            None => {
                self.call(Ask::QueuedById(id), Purpose::FindToCancel(reply), ctx);
            }
        }
    }

    fn cancel_stored(&mut self, stored: Rc<Stored>, reply: Reply, ctx: &mut Context) {
        ctx.reach(Mark::CancelledStored);
        let (sequence, id) = (stored.sequence, stored.id.clone());
        self.on_fetched(stored, true, ctx);
        // It may have been fetched since it was looked for: then the scheduler has it, or it is looked up.
        if let Some(envelope) = self.reign.as_mut().and_then(|reign| reign.envelopes.get_mut(&sequence)) {
            envelope.cancel_wanted = true;
        }
        self.tell_scheduler(Event::TaskCancelled(sequence), ctx);
        self.note_cancel_if_settled(&id, ctx);
        ctx.send(self.link, Up::Answer(reply, Answer::Ok));
    }

    /// One that was not fetched may have been given to an agent before its cancellation was looked at.
    pub(super) fn note_cancel_if_settled(&self, id: &TaskId, ctx: &mut Context) {
        let now = self.now(ctx);
        let state = self.scheduler.task(id, now).map(|task| task.state);
        if state == Some(shared::api::TaskState::Settled) {
            self.note_cancel(id, ctx);
        }
    }

    /// From now on, this leader must not start it any more.
    fn note_cancel(&self, id: &TaskId, ctx: &mut Context) {
        let now = self.now(ctx);
        let Some(epoch) = self.scheduler.epoch() else { return };
        if let Some(task) = self.scheduler.task(id, now) {
            use shared::api::TaskState::{Running, Waiting};
            match task.state {
                Waiting => ctx.reach(Mark::CancelledWaiting),
                Running => ctx.reach(Mark::CancelledRunning),
                _ => {}
            }
        }
        ctx.oracle.cancel_noted(id, epoch.0);
    }
}
