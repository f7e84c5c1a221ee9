//! Tasks on their way out of the stream: looked up, recorded, buried, removed.

use std::rc::Rc;

use scheduler::{Event, Sequence, Settlement};
use shared::Outcome;

use super::calls::Purpose;
use super::{Node, PATIENCE, Stage};
use crate::context::Context;
use crate::marks::Mark;
use crate::message::{Answer, Ask, Letter, Record, Token, Up};
use crate::plant::Plant;

impl Node {
    /// Finds out whether the task is settled already.
    pub(super) fn look_up(&mut self, sequence: Sequence, ctx: &mut Context) {
        if !self.enter(sequence, Stage::LookingUp, ctx) {
            return;
        }
        let Some(envelope) = self.envelope(sequence) else { return };
        let ask = Ask::LookUp(envelope.stored.id.clone());
        ctx.send(self.link, Up::Ask(ask, Some(self.reply(Token::LookUp(sequence)))));
    }

    pub(super) fn record(&mut self, settlement: Settlement, ctx: &mut Context) {
        mark_outcome(&settlement, ctx);
        let Some(reign) = &mut self.reign else { return };
        let sequence = settlement.sequence;
        let Some(envelope) = reign.envelopes.get_mut(&sequence) else { return };
        if envelope.discard_result {
            ctx.oracle.decided(sequence);
        }
        envelope.settlement = Some(Box::new(settlement));
        if envelope.discard_result {
            self.enter(sequence, Stage::Recording, ctx);
            return self.on_recorded(sequence, &Answer::Stored(1), ctx);
        }
        if ctx.planted(Plant::AckBeforeRecord) {
            let ack = self.envelope(sequence).and_then(|envelope| envelope.ack);
            let ask = ack.map_or(Ask::Remove(sequence), |lane| Ask::Ack(lane, sequence));
            ctx.send(self.link, Up::Ask(ask, None));
        }
        if ctx.planted(Plant::SettledBeforeRecord) {
            self.tell_scheduler(Event::TaskRecorded(sequence), ctx);
        }
        self.send_record(sequence, ctx);
    }

    fn send_record(&mut self, sequence: Sequence, ctx: &mut Context) {
        if !self.enter(sequence, Stage::Recording, ctx) {
            return;
        }
        let Some(envelope) = self.envelope(sequence) else { return };
        let Some(settlement) = &envelope.settlement else { return };
        let mut record = self.make_record(settlement, envelope.output);
        if ctx.planted(Plant::WrongOutcome) && record.outcome == Outcome::Cancelled {
            record.outcome = Outcome::Failed;
        }
        let ask = Ask::Record(Rc::new(record), !ctx.planted(Plant::RecordOverwrites));
        ctx.send(self.link, Up::Ask(ask, Some(self.reply(Token::Record(sequence)))));
    }

    fn make_record(&self, settlement: &Settlement, output: crate::message::Output) -> Record {
        Record {
            id: settlement.id.clone(),
            sequence: settlement.sequence,
            outcome: settlement.outcome,
            attempts: settlement.attempts,
            output,
            by_attempt: settlement.by.is_some(),
            error: settlement.error.clone(),
            decided_by: self.instance,
        }
    }

    pub(super) fn on_recorded(&mut self, sequence: Sequence, answer: &Answer, ctx: &mut Context) {
        let Some(reign) = &mut self.reign else { return };
        let Some(envelope) = reign.envelopes.get_mut(&sequence).filter(|e| e.stage == Stage::Recording) else { return };
        let stored = match answer {
            Answer::Stored(_) => true,
            Answer::Already => false,
            // It is put again when the answer has been out too long.
            _ if !ctx.planted(Plant::UnknownIsRecorded) => return,
            _ => true,
        };
        if !envelope.discard_result {
            reign.known.insert(envelope.stored.id.clone());
        }
        let copy = envelope.reply_to;
        let dead = envelope.settlement.as_ref().is_some_and(|settlement| settlement.dead_letter);
        self.tell_scheduler(Event::TaskRecorded(sequence), ctx);
        match (copy, stored) {
            (true, true) => self.send_copy(sequence, ctx),
            (true, false) => self.send_kept_copy(sequence, ctx),
            (false, _) => {}
        }
        match (dead && !ctx.planted(Plant::NoDeadLetter), stored) {
            (true, _) => self.bury(sequence, ctx),
            (false, true) => self.remove(sequence, ctx),
            // Somebody else's record stays, and it may be one that calls for a dead letter.
            (false, false) if !ctx.planted(Plant::OtherRecordNotLookedAt) => self.look_up(sequence, ctx),
            (false, false) => self.remove(sequence, ctx),
        }
    }

    fn send_copy(&self, sequence: Sequence, ctx: &mut Context) {
        let Some(envelope) = self.envelope(sequence) else { return };
        let Some(settlement) = &envelope.settlement else { return };
        let record = self.make_record(settlement, envelope.output);
        ctx.send(self.link, Up::Copy(Rc::new(record)));
    }

    fn send_kept_copy(&mut self, sequence: Sequence, ctx: &mut Context) {
        let Some(id) = self.envelope(sequence).map(|envelope| envelope.stored.id.clone()) else { return };
        self.call(Ask::LookUp(id), Purpose::KeptCopy, ctx);
    }

    fn bury(&mut self, sequence: Sequence, ctx: &mut Context) {
        self.enter(sequence, Stage::Burying, ctx);
        let Some(envelope) = self.envelope(sequence) else { return };
        let Some(settlement) = &envelope.settlement else { return };
        let (id, outcome) = (settlement.id.clone(), settlement.outcome);
        let letter = Letter { sequence, id, outcome, body: envelope.stored.task };
        ctx.send(self.link, Up::Ask(Ask::Bury(Rc::new(letter)), Some(self.reply(Token::Bury(sequence)))));
    }

    /// Buries a task whose result was recorded by a leader that may have gone before it did so.
    pub(super) fn bury_settled(&mut self, sequence: Sequence, result: &Record, ctx: &mut Context) {
        ctx.reach(Mark::LateDeadLetter);
        let Some(reign) = &mut self.reign else { return };
        let Some(envelope) = reign.envelopes.get_mut(&sequence) else { return };
        envelope.settlement = Some(Box::new(Settlement {
            sequence,
            id: envelope.stored.id.clone(),
            kind: ctx.kinds[envelope.stored.submission.kind as usize].clone(),
            outcome: result.outcome,
            attempts: result.attempts,
            by: None,
            error: result.error.clone(),
            queued: std::time::Duration::ZERO,
            run: std::time::Duration::ZERO,
            dead_letter: true,
            history: Vec::new(),
        }));
        self.bury(sequence, ctx);
    }

    /// Takes the message out of the stream: by an acknowledgement, or by its sequence where that is not answered.
    pub(super) fn remove(&mut self, sequence: Sequence, ctx: &mut Context) {
        let repeated = self.stage_of(sequence) == Some(Stage::Removing);
        self.enter(sequence, Stage::Removing, ctx);
        let Some(envelope) = self.envelope(sequence) else { return };
        match envelope.ack {
            Some(lane) if !repeated => {
                let reply = self.reply(Token::Ack(sequence));
                ctx.send(self.link, Up::Ask(Ask::Ack(lane, sequence), Some(reply)));
            }
            _ => self.remove_by_sequence(sequence, ctx),
        }
    }

    fn remove_by_sequence(&self, sequence: Sequence, ctx: &mut Context) {
        ctx.send(self.link, Up::Ask(Ask::Remove(sequence), Some(self.reply(Token::Remove(sequence)))));
    }

    pub(super) fn on_ack_answered(&mut self, sequence: Sequence, answer: &Answer, ctx: &mut Context) {
        if matches!(answer, Answer::Gone) {
            self.forget(sequence, ctx);
        } else if self.stage_of(sequence) == Some(Stage::Removing) {
            // The consumer that delivered it is gone.
            self.remove_by_sequence(sequence, ctx);
        }
    }

    pub(super) fn forget(&mut self, sequence: Sequence, ctx: &mut Context) {
        let Some(reign) = &mut self.reign else { return };
        if reign.envelopes.get(&sequence).is_some_and(|envelope| envelope.stage == Stage::Removing) {
            if let Some(lane) = reign.envelopes.remove(&sequence).and_then(|envelope| envelope.lane) {
                reign.lanes.placed(lane);
            }
            self.tell_scheduler(Event::TaskRemoved(sequence), ctx);
        }
    }

    /// Reads which tasks have a result, when no leader before can record any more.
    pub(super) fn learn_results(&mut self, ctx: &mut Context) {
        let now = self.instant(ctx);
        let Some(epoch) = self.scheduler.epoch() else { return };
        let Some(reign) = &mut self.reign else { return };
        if reign.results_due.take_if(|due| *due <= now).is_some() {
            self.call(Ask::ListResults, Purpose::Learn(epoch.0), ctx);
        }
    }

    pub(super) fn envelope(&self, sequence: Sequence) -> Option<&super::Envelope> {
        self.reign.as_ref()?.envelopes.get(&sequence)
    }

    pub(super) fn stage_of(&self, sequence: Sequence) -> Option<Stage> {
        Some(self.envelope(sequence)?.stage)
    }

    /// Notes that an answer is awaited now. Whether the message is there is returned.
    fn enter(&mut self, sequence: Sequence, stage: Stage, ctx: &Context) -> bool {
        let now = self.instant(ctx);
        let Some(reign) = &mut self.reign else { return false };
        let Some(envelope) = reign.envelopes.get_mut(&sequence) else { return false };
        envelope.stage = stage;
        reign.awaited.push_back((now, sequence, stage));
        true
    }

    /// Puts questions again whose answers have been out too long.
    pub(super) fn ask_again(&mut self, ctx: &mut Context) {
        if ctx.planted(Plant::NeverAskAgain) {
            return;
        }
        let now = self.instant(ctx);
        let mut late = Vec::new();
        if let Some(reign) = &mut self.reign {
            while let Some((asked, sequence, stage)) = reign.awaited.front().copied() {
                if now.saturating_sub(asked) < PATIENCE {
                    break;
                }
                reign.awaited.pop_front();
                if reign.envelopes.get(&sequence).is_some_and(|envelope| envelope.stage == stage) {
                    late.push((sequence, stage));
                }
            }
        }
        for (sequence, stage) in late {
            ctx.reach(Mark::AskedAgain);
            match stage {
                Stage::LookingUp => self.look_up(sequence, ctx),
                Stage::Recording => self.send_record(sequence, ctx),
                Stage::Burying => self.bury(sequence, ctx),
                Stage::Removing => self.remove(sequence, ctx),
                Stage::Held => {}
            }
        }
    }
}

fn mark_outcome(settlement: &Settlement, ctx: &mut Context) {
    match settlement.outcome {
        Outcome::Failed => ctx.reach(Mark::Failed),
        Outcome::Dead if settlement.attempts > 0 => ctx.reach(Mark::Poison),
        Outcome::Expired => ctx.reach(Mark::Expired),
        _ => {}
    }
}
