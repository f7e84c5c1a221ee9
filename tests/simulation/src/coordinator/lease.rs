//! Who leads, as `coordinator::lease` decides it: the same steps, each a state instead of an await.

use std::time::Duration;

use scheduler::STEP_DOWN;

use super::calls::Purpose;
use super::{Change, Heard, Node};
use crate::context::Context;
use crate::event::Owner;
use crate::marks::Mark;
use crate::message::{Answer, Ask, Instance, Reply, Token, Up};
use crate::plant::Plant;

/// How long the broker keeps a lease that is not renewed.
pub(super) const LIFETIME: Duration = Duration::from_secs(15);
const RENEWAL: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(150);
const ANSWER: Duration = Duration::from_millis(400);
const GONE: Duration = Duration::from_millis(600);
const HUNG: Duration = Duration::from_secs(2);

/// Contends for the lease.
#[derive(Debug)]
pub(super) struct Contender {
    step: Step,
    /// The request whose answer is awaited.
    call: u64,
    silent_since: Option<Duration>,
    absent_since: Option<Duration>,
    held: Option<Held>,
    /// When the lease was last written, if it was: its lifetime began no earlier.
    asked: Duration,
    resigned: bool,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    revision: u64,
    /// Until then nobody else can have it, by our own clock.
    until: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    /// Until then; then it looks again, or renews.
    Sleeping(Duration),
    Reading,
    Looking {
        revision: u64,
    },
    Canary {
        revision: u64,
    },
    Taking {
        evident: bool,
    },
    Renewing,
    Rereading,
    GivingBack,
    Over,
}

impl Contender {
    pub(super) fn start() -> Self {
        Self {
            step: Step::Sleeping(Duration::ZERO),
            call: 0,
            silent_since: None,
            absent_since: None,
            held: None,
            asked: Duration::ZERO,
            resigned: false,
        }
    }

    pub(super) fn due(&self) -> Option<Duration> {
        let looks = if let Step::Sleeping(until) = self.step { Some(until) } else { None };
        let outlived = self.held.map(|held| held.until);
        looks.into_iter().chain(outlived).min()
    }
}

#[derive(Clone, Copy)]
enum Presence {
    Leads,
    Absent,
    Silent,
}

impl Node {
    pub(super) fn contend_if_due(&mut self, ctx: &mut Context) {
        let now = self.instant(ctx);
        if self.contender.due().is_none_or(|due| due > now) {
            return;
        }
        match self.contender.held {
            Some(held) if held.until <= now => self.lost(ctx),
            Some(held) => self.write_lease(held.revision, Step::Renewing, ctx),
            None => self.read_lease(Step::Reading, ctx),
        }
    }

    fn read_lease(&mut self, step: Step, ctx: &mut Context) {
        self.contender.step = step;
        self.contender.call = self.call(Ask::ReadLease, Purpose::Contend, ctx);
    }

    fn write_lease(&mut self, revision: u64, step: Step, ctx: &mut Context) {
        self.contender.step = step;
        self.contender.asked = self.instant(ctx);
        self.contender.call = self.call(Ask::WriteLease(self.instance, revision), Purpose::Contend, ctx);
    }

    fn sleep(&mut self, span: Duration, ctx: &Context) {
        self.contender.step = Step::Sleeping(self.instant(ctx) + span);
    }

    pub(super) fn contend(&mut self, call: u64, answer: Option<Answer>, ctx: &mut Context) {
        if call != self.contender.call {
            return;
        }
        match (self.contender.step, answer) {
            (Step::Reading, Some(Answer::Lease(Some((revision, Some(holder)))))) => {
                self.look_after(holder, revision, ctx);
            }
            (Step::Reading, Some(Answer::Lease(entry))) => {
                let revision = entry.map_or(0, |(revision, _)| revision);
                self.write_lease(revision, Step::Taking { evident: false }, ctx);
            }
            (Step::Looking { revision }, answer) => {
                let presence = match answer {
                    Some(Answer::Present) => Presence::Leads,
                    Some(Answer::NoResponders) => Presence::Absent,
                    _ => Presence::Silent,
                };
                self.judge(presence, revision, ctx);
            }
            (Step::Canary { revision }, answer) => {
                let now = self.instant(ctx);
                match answer {
                    Some(Answer::Present) => drop(self.contender.silent_since.get_or_insert(now)),
                    _ => self.contender.silent_since = None,
                }
                self.take_if_gone(revision, ctx);
            }
            (Step::Taking { evident }, Some(Answer::Written(revision))) => self.taken(revision, evident, ctx),
            (Step::Renewing, Some(Answer::Written(revision))) => self.renewed(revision, ctx),
            (Step::Renewing, _) => self.read_lease(Step::Rereading, ctx),
            // Our own renewal may have been stored although its confirmation was lost. When is not known.
            (Step::Rereading, Some(Answer::Lease(Some((revision, Some(holder)))))) if holder == self.instance => {
                if let Some(held) = &mut self.contender.held {
                    held.revision = revision;
                }
                self.sleep(RENEWAL, ctx);
            }
            (Step::Rereading, Some(Answer::Lease(_))) => self.lost(ctx),
            (Step::Rereading, _) => self.sleep(RENEWAL, ctx),
            (Step::GivingBack, answer) => {
                if answer.is_some() {
                    ctx.reach(Mark::GivenBack);
                }
                self.end(ctx);
            }
            _ => self.rest(ctx),
        }
    }

    fn look_after(&mut self, holder: Instance, revision: u64, ctx: &mut Context) {
        if holder == self.instance {
            return self.judge(Presence::Absent, revision, ctx);
        }
        self.ask_for(holder, Step::Looking { revision }, ctx);
    }

    fn ask_for(&mut self, whom: Instance, step: Step, ctx: &mut Context) {
        let call = self.begin_call(Purpose::Contend, ANSWER, ctx);
        (self.contender.step, self.contender.call) = (step, call);
        let reply = Reply { link: self.link, instance: self.instance, token: Token::Call(call) };
        ctx.send(self.link, Up::LookAfter(whom, reply));
    }

    fn judge(&mut self, presence: Presence, revision: u64, ctx: &mut Context) {
        match presence {
            Presence::Leads => (self.contender.silent_since, self.contender.absent_since) = (None, None),
            Presence::Absent => {
                let now = self.instant(ctx);
                self.contender.absent_since.get_or_insert(now);
            }
            Presence::Silent => return self.ask_for(self.instance, Step::Canary { revision }, ctx),
        }
        self.take_if_gone(revision, ctx);
    }

    fn take_if_gone(&mut self, revision: u64, ctx: &mut Context) {
        let now = self.instant(ctx);
        let hung = self.contender.silent_since.is_some_and(|since| now - since >= HUNG);
        let gone = self.contender.absent_since.is_some_and(|since| now - since >= GONE);
        if gone || hung {
            return self.write_lease(revision, Step::Taking { evident: true }, ctx);
        }
        self.rest(ctx);
    }

    fn rest(&mut self, ctx: &Context) {
        self.sleep(LOOK, ctx);
    }

    fn taken(&mut self, revision: u64, evident: bool, ctx: &mut Context) {
        if evident {
            ctx.reach(Mark::TakenByEvidence);
        }
        (self.contender.silent_since, self.contender.absent_since) = (None, None);
        self.renewed(revision, ctx);
    }

    fn renewed(&mut self, revision: u64, ctx: &Context) {
        let until = self.contender.asked + STEP_DOWN;
        self.contender.held = Some(Held { revision, until });
        self.ears[4].push_back(Heard::Change(Change::Held { epoch: revision, until }));
        self.sleep(RENEWAL, ctx);
    }

    fn lost(&mut self, ctx: &Context) {
        if ctx.planted(Plant::NeverStepsDown) {
            if let Some(held) = &mut self.contender.held {
                held.until += STEP_DOWN;
            }
            return self.sleep(RENEWAL, ctx);
        }
        self.contender.held = None;
        self.ears[4].push_back(Heard::Change(Change::Lost));
        self.sleep(Duration::ZERO, ctx);
    }

    /// The process is about to end: it gives back what it holds.
    pub(super) fn resign(&mut self, ctx: &mut Context) {
        self.contender.resigned = true;
        match self.contender.held.take() {
            Some(held) => {
                self.contender.step = Step::GivingBack;
                self.contender.call = self.begin_call(Purpose::Contend, Duration::from_secs(3), ctx);
                let reply = self.reply(Token::Call(self.contender.call));
                ctx.send(self.link, Up::Ask(Ask::PurgeLease(held.revision), Some(reply)));
            }
            None => self.end(ctx),
        }
    }

    fn end(&mut self, ctx: &mut Context) {
        self.contender.step = Step::Over;
        let at = ctx.now + ctx.rng.u64(200_000..3_000_000);
        ctx.ended.push((Owner::Coordinator(self.place), at));
    }
}
