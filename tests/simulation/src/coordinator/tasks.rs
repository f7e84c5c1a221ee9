//! Tasks on their way from the stream to an agent.

use std::rc::Rc;
use std::time::Duration;

use agent_worker::session::Order;
use scheduler::{Delivery, Dispatch, Event, Sequence, Timestamp, Unreadable};
use shared::Kind;
use shared::message::Needed;
use shared::task::Deadline;

use super::calls::Purpose;
use super::lanes::Moved;
use super::{EXTENSION, Envelope, Node, Stage};
use crate::context::Context;
use crate::marks::Mark;
use crate::message::{Ask, Garbage, LaneName, Stored, Token, Told, Up, span};
use crate::plant::Plant;

/// How often kinds that nobody serves are looked for in the stream.
const SURVEY: Duration = Duration::from_secs(5);

impl Node {
    pub(super) fn on_delivery(&mut self, name: LaneName, stored: Rc<Stored>, ctx: &mut Context) {
        let now = self.instant(ctx);
        let Some(reign) = &mut self.reign else { return };
        let Some(lane) = reign.lanes.find(name) else { return };
        let held = reign.envelopes.get_mut(&stored.sequence);
        reign.lanes.delivered(lane, held.is_none(), now);
        if let Some(envelope) = held
            && !ctx.planted(Plant::RedeliveryForgetsEnvelope)
        {
            // The lane that the kind was moved from delivers again what it had out. An acknowledgement there would be
            // answered, and remove nothing.
            let own = reign.lanes.own_lane(stored.submission.kind, stored.submission.priority);
            if own.is_none_or(|own| own == lane) || ctx.planted(Plant::AckedAtFormerLane) {
                envelope.ack = Some(name);
            }
            return;
        }
        self.arrive(stored, Some(name), Some(lane), false, ctx);
    }

    /// Takes a message in that was read from the stream by its sequence.
    pub(super) fn on_fetched(&mut self, stored: Rc<Stored>, cancel_wanted: bool, ctx: &mut Context) {
        let Some(reign) = &self.reign else { return };
        if !reign.envelopes.contains_key(&stored.sequence) {
            self.arrive(stored, None, None, cancel_wanted, ctx);
        }
    }

    fn arrive(
        &mut self,
        stored: Rc<Stored>,
        ack: Option<LaneName>,
        lane: Option<super::LaneKey>,
        cancel_wanted: bool,
        ctx: &mut Context,
    ) {
        let sequence = stored.sequence;
        let delivery = read_task(&stored, ctx);
        let Some(reign) = &mut self.reign else { return };
        let submission = &stored.submission;
        let (lane, ack) = reign.lanes.belongs_to(submission.kind, submission.priority, lane, ack);
        let id = &stored.id;
        let id_is_own = id.as_str().parse() == Ok(sequence.0);
        // The product's filter says "maybe" too often now and then.
        let may_be_known = reign.known.contains(id) || ctx.rng.u8(..) < 3;
        let may_be_settled = reign.may_have_been_tried(sequence) || (!id_is_own && may_be_known);
        let looks_up = may_be_settled && !ctx.planted(Plant::NoLookUp);
        let stage = if delivery.is_ok() && looks_up { Stage::LookingUp } else { Stage::Held };
        let readable = delivery.is_ok();
        let options = &stored.submission.options;
        let envelope = Envelope {
            reply_to: options.reply_to.is_some(),
            discard_result: readable && options.discard_result,
            ack,
            lane,
            stage,
            settlement: None,
            output: None,
            cancel_wanted,
            delivery: delivery.as_ref().ok().cloned().map(Box::new),
            arrived: ctx.now,
            stored,
        };
        reign.envelopes.insert(sequence, envelope);
        match delivery {
            Err(unreadable) => {
                ctx.reach(Mark::Unreadable);
                self.tell_scheduler(Event::TaskUnreadable(unreadable), ctx);
            }
            Ok(_) if stage == Stage::LookingUp => self.look_up(sequence, ctx),
            Ok(_) => self.admit(sequence, ctx),
        }
    }

    /// Gives the task to the scheduler.
    pub(super) fn admit(&mut self, sequence: Sequence, ctx: &mut Context) {
        let now = self.instant(ctx);
        let Some(reign) = &mut self.reign else { return };
        let Some(envelope) = reign.envelopes.get_mut(&sequence) else { return };
        envelope.stage = Stage::Held;
        // One that waited for a task of the same id has been with the scheduler before.
        let delivery = match envelope.delivery.take() {
            Some(delivery) => *delivery,
            None => match read_task(&envelope.stored, ctx) {
                Ok(delivery) => delivery,
                Err(unreadable) => return self.tell_scheduler(Event::TaskUnreadable(unreadable), ctx),
            },
        };
        let (place, priority) = (envelope.stored.submission.kind, delivery.priority);
        let (cancel_wanted, id) = (envelope.cancel_wanted, envelope.stored.id.clone());
        let kind = delivery.kind.clone();
        self.tell_scheduler(Event::TaskDelivered(Delivery { cancelled: cancel_wanted, ..delivery }), ctx);
        if cancel_wanted {
            self.note_cancel_if_settled(&id, ctx);
        }
        let waiting = self.scheduler.waiting(&kind)[priority as usize];
        if let Some(reign) = &mut self.reign {
            let moved = reign.lanes.note_waiting(place, priority, waiting, now);
            self.move_held(moved, ctx);
        }
    }

    /// What is held of a kind that got a lane of its own belongs to that lane.
    pub(super) fn move_held(&mut self, moved: Option<Moved>, ctx: &mut Context) {
        let (Some(moved), Some(reign)) = (moved, &mut self.reign) else { return };
        ctx.reach(Mark::OwnLane);
        let mut leaving = Vec::new();
        for (sequence, envelope) in &mut reign.envelopes {
            let submission = &envelope.stored.submission;
            if submission.kind != moved.kind || submission.priority != moved.priority {
                continue;
            }
            if let Some(from) = envelope.lane {
                envelope.lane = Some(moved.to);
                reign.lanes.hand_over(from, moved.to);
            }
            envelope.ack = None;
            if envelope.stage == Stage::Removing {
                leaving.push(*sequence);
            }
        }
        for sequence in leaving {
            self.remove(sequence, ctx);
        }
        self.pass_jobs(ctx);
    }

    /// Sends a task back to the stream, which delivers it again after the delay.
    pub(super) fn release(&mut self, sequence: Sequence, delay: Duration, ctx: &mut Context) {
        let Some(reign) = &mut self.reign else { return };
        let Some(envelope) = reign.envelopes.remove(&sequence) else { return };
        ctx.reach(Mark::Released);
        if let Some(lane) = envelope.lane {
            reign.lanes.placed(lane);
        }
        if let Some(lane) = envelope.ack {
            ctx.send(self.link, Up::Ask(Ask::Nak(lane, sequence, delay.as_micros() as u64), None));
        }
    }

    pub(super) fn dispatch(&mut self, dispatch: Dispatch, ctx: &mut Context) {
        let Some(reign) = &self.reign else { return };
        let arrived = reign.envelopes.get(&dispatch.sequence).map_or(reign.began, |envelope| envelope.arrived);
        ctx.oracle.dispatched(&dispatch, reign.began, arrived, reign.histories_known);
        self.order(dispatch, ctx);
    }

    /// The same order may be sent again: it is no other start.
    pub(super) fn order(&mut self, dispatch: Dispatch, ctx: &mut Context) {
        let Some(reign) = &mut self.reign else { return };
        let Some(envelope) = reign.envelopes.get_mut(&dispatch.sequence) else { return };
        if let Some(lane) = envelope.lane.take() {
            reign.lanes.placed(lane);
        }
        let order = Order {
            task: dispatch.attempt.task,
            sequence: dispatch.sequence.0,
            kind: ctx.kinds[envelope.stored.submission.kind as usize].clone(),
            attempt: dispatch.attempt.attempt,
            epoch: dispatch.attempt.epoch,
            incarnation: dispatch.incarnation,
            timeout: dispatch.timeout,
            reserved: Needed::default(),
        };
        let task = envelope.stored.task;
        let place = ctx.place_of(&dispatch.agent);
        let reply = self.reply(Token::Run(place));
        ctx.send(self.link, Up::Tell(place, Told::Run(order, task), Some(reply)));
    }

    /// Fetches what there is room for.
    pub(super) fn pull(&mut self, ctx: &mut Context) {
        let now = self.instant(ctx);
        let Some(reign) = &mut self.reign else { return };
        for order in reign.lanes.pulls(now) {
            let reply = self.reply(Token::Pull(order.lane, order.id));
            ctx.send(self.link, Up::Ask(Ask::Pull(order.lane, order.batch), Some(reply)));
        }
    }

    /// Tells the broker that what is held is still being worked on.
    pub(super) fn extend_held(&mut self, ctx: &mut Context) {
        let now = self.instant(ctx);
        let Some(reign) = &mut self.reign else { return };
        if now < reign.next_extension {
            return;
        }
        reign.next_extension = now + EXTENSION;
        for (sequence, envelope) in &reign.envelopes {
            if let Some(lane) = envelope.ack {
                ctx.send(self.link, Up::Ask(Ask::Extend(lane, *sequence), None));
            }
        }
    }

    /// Looks for messages that no lane delivers because what they ask for is no kind.
    pub(super) fn survey(&mut self, ctx: &mut Context) {
        let now = self.instant(ctx);
        let Some(reign) = &mut self.reign else { return };
        if now >= reign.next_survey {
            reign.next_survey = now + SURVEY;
            self.call(Ask::ListForeign, Purpose::Survey, ctx);
        }
    }
}

/// What the subject and the headers say, or why they cannot be read.
fn read_task(stored: &Stored, ctx: &Context) -> Result<Delivery, Unreadable> {
    let submission = &stored.submission;
    let accepted = Timestamp::from_origin(span(stored.at));
    let (sequence, id) = (stored.sequence, stored.id.clone());
    let kind = ctx.kinds[submission.kind as usize].clone();
    let unreadable =
        |kind, reason: &str| Unreadable { sequence, id: id.clone(), kind, accepted, reason: reason.to_owned() };
    match submission.garbage {
        Garbage::Header => Err(unreadable(kind, "a header")),
        Garbage::Subject => Err(unreadable(Kind::new("unreadable").expect("it is a good name"), "the subject")),
        Garbage::No => {
            let deadline = submission.options.deadline.map(|deadline| match deadline {
                Deadline::After(span) => accepted + span,
                Deadline::At(_) => accepted,
            });
            let (priority, options) = (submission.priority, submission.options.clone());
            Ok(Delivery { sequence, id, kind, priority, accepted, deadline, options, cancelled: false })
        }
    }
}
