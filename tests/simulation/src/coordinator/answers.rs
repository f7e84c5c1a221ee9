//! What comes back to the coordinator's own inbox, and what agents say.

use std::rc::Rc;

use scheduler::{Action, Event, Sequence};
use shared::message::AttemptRef;
use shared::{AgentId, Outcome};

use super::{Node, Stage};
use crate::context::Context;
use crate::marks::Mark;
use crate::message::{Answer, LaneName, Output, Record, Said, Token};
use crate::plant::Plant;

impl Node {
    pub(super) fn on_answer(&mut self, token: Token, answer: Answer, ctx: &mut Context) {
        match token {
            Token::Pull(lane, id) => self.on_pull_ended(lane, id, &answer, ctx),
            Token::Run(agent) | Token::Probe(agent) if matches!(answer, Answer::NoResponders) => {
                self.on_unreachable(agent, ctx);
            }
            Token::Probe(agent) => {
                if let Answer::Pong(beat) = answer {
                    // An answer to a probe is not counted among the beats.
                    let beat = shared::message::Beat { sequence: 0, ..Rc::unwrap_or_clone(beat) };
                    let agent = ctx.agents[agent as usize].clone();
                    self.tell_scheduler(Event::AgentBeat(agent, beat), ctx);
                }
            }
            Token::Canary => self.tell_scheduler(Event::CanaryHeard, ctx),
            Token::LookUp(sequence) => {
                if let Answer::Result(result) = answer {
                    self.on_looked_up(sequence, result, ctx);
                }
            }
            Token::Remember(sequence, attempts) if matches!(answer, Answer::Stored(_)) => {
                self.unremembered.retain(|other, (_, history)| *other != sequence || history.attempts != attempts);
            }
            Token::Record(sequence) => self.on_recorded(sequence, &answer, ctx),
            Token::Bury(sequence) if self.stage_of(sequence) == Some(Stage::Burying) => {
                if matches!(answer, Answer::Stored(_) | Answer::Already) {
                    self.remove(sequence, ctx);
                }
            }
            Token::Ack(sequence) => self.on_ack_answered(sequence, &answer, ctx),
            Token::Remove(sequence) => {
                if matches!(answer, Answer::Gone) {
                    self.forget(sequence, ctx);
                }
            }
            _ => {}
        }
    }

    fn on_pull_ended(&mut self, lane: LaneName, id: u64, answer: &Answer, ctx: &mut Context) {
        let Some(reign) = &mut self.reign else { return };
        reign.lanes.pull_ended(lane, id);
        if matches!(answer, Answer::NoResponders) && !ctx.planted(Plant::LaneNotMadeAgain) && reign.lanes.vanished(lane)
        {
            ctx.reach(Mark::LaneVanished);
            self.pass_jobs(ctx);
        }
    }

    fn on_unreachable(&mut self, agent: u8, ctx: &mut Context) {
        let agent = ctx.agents[agent as usize].clone();
        self.tell_scheduler(Event::AgentUnreachable(agent), ctx);
    }

    fn on_looked_up(&mut self, sequence: Sequence, result: Option<Rc<Record>>, ctx: &mut Context) {
        if self.stage_of(sequence) != Some(Stage::LookingUp) {
            return;
        }
        let Some(result) = result else {
            // What was there when ours was refused is gone again, by its age: it was recorded all the same.
            let has_settled = self.envelope(sequence).is_some_and(|envelope| envelope.settlement.is_some());
            return if has_settled { self.remove(sequence, ctx) } else { self.admit(sequence, ctx) };
        };
        ctx.reach(Mark::FoundSettled);
        let Some(reign) = &self.reign else { return };
        let Some(envelope) = reign.envelopes.get(&sequence) else { return };
        // A coordinator may have gone between the record and the dead letter, or two led at once.
        let maybe_unburied = reign.may_have_been_tried(sequence) || envelope.settlement.is_some();
        let bury = maybe_unburied && matches!(result.outcome, Outcome::Failed | Outcome::Dead);
        if envelope.reply_to && envelope.settlement.is_none() {
            ctx.send(self.link, crate::message::Up::Copy(result.clone()));
        }
        if bury && !ctx.planted(Plant::NoLateDeadLetter) {
            self.bury_settled(sequence, &result, ctx);
        } else {
            self.remove(sequence, ctx);
        }
    }

    pub(super) fn on_agent(&mut self, agent: u8, said: &Said, ctx: &mut Context) {
        let id = ctx.agents[agent as usize].clone();
        match said {
            Said::Hello(hello) => self.tell_scheduler(Event::AgentHello(id, hello.clone()), ctx),
            Said::Beat(beat) => self.tell_scheduler(Event::AgentBeat(id, beat.clone()), ctx),
            Said::Report(report) => self.tell_scheduler(Event::AgentReport(id, report.clone()), ctx),
            Said::Bye(bye) => self.tell_scheduler(Event::AgentBye(id, bye.clone()), ctx),
            Said::Done(done, output) => {
                if self.reign.is_none() {
                    return;
                }
                let by = (id.clone(), done.attempt.clone());
                self.tell_scheduler(Event::AttemptDone(id, done.clone()), ctx);
                self.keep_output(done.sequence, &by, *output, ctx);
            }
        }
    }

    /// The output belongs to the record that the `done` led to, if it led to one.
    fn keep_output(&mut self, sequence: Sequence, by: &(AgentId, AttemptRef), output: Output, ctx: &mut Context) {
        let whosoever = ctx.planted(Plant::OutputOfLastDone);
        let led_to_record = self.actions.iter().rev().any(|action| {
            let Action::Record(settlement) = action else { return false };
            let is_its = settlement.by.as_ref().is_some_and(|ended_by| whosoever || ended_by == by);
            settlement.sequence == sequence && is_its
        });
        let Some(reign) = &mut self.reign else { return };
        if ctx.planted(Plant::OutputOfAnother) {
            if let Some(envelope) = reign.envelopes.values_mut().find(|envelope| envelope.settlement.is_none()) {
                envelope.output = output;
            }
        } else if led_to_record && let Some(envelope) = reign.envelopes.get_mut(&sequence) {
            envelope.output = output;
        }
    }
}
