//! Requests of the helpers of a coordinator's process: what in the product is a task that awaits an answer.

use std::time::Duration;

use scheduler::Sequence;
use shared::AgentId;
use shared::message::AttemptRef;

use super::Node;
use super::commands::Command;
use crate::context::Context;
use crate::event::Micros;
use crate::marks::Mark;
use crate::message::{Answer, Ask, Reply, Token, Up};
use crate::plant::Plant;

/// How long JetStream may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A request that is out.
#[derive(Debug)]
pub(super) struct Call {
    purpose: Purpose,
    deadline: Duration,
}

/// What a request is for.
#[derive(Clone, Debug)]
pub(super) enum Purpose {
    /// Whether a reign can begin.
    Begin,
    /// Which tasks have results.
    Learn(u64),
    /// How attempts ended under leaders before.
    LearnHistories(u64),
    /// The lease.
    Contend,
    /// The lanes, by this keeper.
    Keep(u64),
    /// Whether a task has a result whose attempt an agent reports.
    CheckResult(AgentId, AttemptRef, Sequence),
    /// Whether its message is gone.
    CheckQueued(AgentId, AttemptRef),
    /// A result for a submitter, recorded before ours.
    KeptCopy,
    /// A task to be cancelled that is not fetched.
    FindToCancel(Reply),
    /// Messages that are no task.
    Survey,
}

impl Node {
    /// Asks JetStream.
    pub(super) fn call(&mut self, ask: Ask, purpose: Purpose, ctx: &mut Context) -> u64 {
        let call = self.begin_call(purpose, TIMEOUT, ctx);
        ctx.send(self.link, Up::Ask(ask, Some(self.reply(Token::Call(call)))));
        call
    }

    pub(super) fn begin_call(&mut self, purpose: Purpose, timeout: Duration, ctx: &Context) -> u64 {
        self.next_call += 1;
        let deadline = self.instant(ctx) + timeout;
        self.calls.insert(self.next_call, Call { purpose, deadline });
        self.next_call
    }

    /// When a helper has to look at something.
    pub(super) fn next_timer(&self) -> Micros {
        let calls = self.calls.values().map(|call| call.deadline);
        let keepers = self.keepers.values().filter_map(super::keeper::Keeper::due);
        let due = calls.chain(keepers).chain(self.contender.due()).min();
        due.map_or(Micros::MAX, |due| self.clock.at(due))
    }

    pub(super) fn look_at_timers(&mut self, ctx: &mut Context) {
        let now = self.instant(ctx);
        let late: Vec<u64> = self.calls.iter().filter(|(_, call)| call.deadline <= now).map(|(id, _)| *id).collect();
        for call in late {
            self.call_answered(call, None, ctx);
        }
        self.contend_if_due(ctx);
        self.keep_if_due(ctx);
    }

    /// An answer has come, or has stayed out too long.
    pub(super) fn call_answered(&mut self, id: u64, answer: Option<Answer>, ctx: &mut Context) {
        let Some(call) = self.calls.remove(&id) else { return };
        match (call.purpose, answer) {
            (Purpose::Begin, answer) => {
                let last = if let Some(Answer::Last(last)) = answer { Some(last) } else { None };
                self.begin_reign(last, ctx);
            }
            (Purpose::Learn(epoch), Some(Answer::Results(ids, last))) => {
                self.command(Command::ResultsKnown(epoch, ids, last));
            }
            (Purpose::LearnHistories(epoch), Some(Answer::Histories(kept))) => {
                self.command(Command::HistoriesKnown(epoch, kept));
            }
            (Purpose::LearnHistories(epoch), _) if self.leads_in(epoch) => {
                self.call(Ask::ListHistories, Purpose::LearnHistories(epoch), ctx);
            }
            (Purpose::Contend, answer) => self.contend(id, answer, ctx),
            (Purpose::Keep(keeper), answer) => self.keep(keeper, answer, ctx),
            (Purpose::CheckResult(agent, attempt, _), Some(Answer::Result(Some(_)))) => {
                self.command(Command::Confirm(agent, attempt));
            }
            (Purpose::CheckResult(agent, attempt, sequence), _) => {
                self.call(Ask::Queued(sequence), Purpose::CheckQueued(agent, attempt), ctx);
            }
            (Purpose::CheckQueued(agent, attempt), Some(Answer::Messages(messages))) if messages.is_empty() => {
                self.command(Command::Confirm(agent, attempt));
            }
            // Its message may stand behind what waits for the very slot that it seems to take up.
            (Purpose::CheckQueued(..), Some(Answer::Messages(messages))) if !ctx.planted(Plant::ReportedNotFetched) => {
                for stored in messages {
                    self.command(Command::TakeIn(stored));
                }
            }
            (Purpose::KeptCopy, Some(Answer::Result(Some(record)))) => ctx.send(self.link, Up::Copy(record)),
            (Purpose::FindToCancel(reply), Some(Answer::Messages(messages))) => match messages.into_iter().next() {
                Some(stored) => self.command(Command::CancelStored(stored, reply)),
                None => ctx.send(self.link, Up::Answer(reply, Answer::Ok)),
            },
            (Purpose::Survey, Some(Answer::Messages(messages))) => {
                for stored in messages {
                    self.command(Command::TakeIn(stored));
                }
            }
            _ => {}
        }
    }

    /// An agent repeats the end of an attempt that nobody here knows: if the task is settled, it is told so.
    pub(super) fn check_settled(&mut self, agent: AgentId, attempt: AttemptRef, sequence: Sequence, ctx: &mut Context) {
        if ctx.planted(Plant::NoCheckSettled) {
            return;
        }
        ctx.reach(Mark::Confirmed);
        let ask = Ask::LookUp(attempt.task.clone());
        self.call(ask, Purpose::CheckResult(agent, attempt, sequence), ctx);
    }
}
