//! Clients: they submit, submit again, ask for the end of tasks, and read copies of results.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use shared::task::Deadline;
use shared::{Priority, TaskId, TaskOptions};

use crate::clock::{ms, secs};
use crate::context::Context;
use crate::event::{Event, LinkId, Micros};
use crate::message::{Answer, Ask, Down, Garbage, Reply, Submission, Token, Up};
use crate::oracle::{Nature, Way};

/// How long a client waits for an answer.
const PATIENCE: Micros = secs(2);

/// All clients.
#[derive(Debug)]
pub struct Client {
    link: LinkId,
    submissions: Vec<Rc<Submission>>,
    unanswered: BTreeMap<u32, u32>,
}

impl Client {
    /// Clients over this connection.
    pub fn new(link: LinkId) -> Self {
        Self { link, submissions: Vec::new(), unanswered: BTreeMap::new() }
    }

    /// Submits something new, if not too much is open.
    pub fn submit(&mut self, ctx: &mut Context) {
        let gap = ctx.options.submit_every;
        let next = ctx.now + ctx.rng.u64(..=2 * gap);
        ctx.queue.push(next, Event::Submit);
        if ctx.oracle.open.len() >= ctx.options.open_tasks {
            return;
        }
        let submission = Rc::new(self.make_up(ctx));
        let number = submission.number;
        let task = submission.task;
        let known = submission.id_in_subject.is_some() || submission.message_id.is_some();
        let clean = submission.garbage == Garbage::No;
        self.submissions.push(submission);
        self.send(number, ctx);
        if known && clean && ctx.strikes(ctx.options.resubmitted) {
            let at = ctx.now + ctx.rng.u64(..secs(4));
            ctx.queue.push(at, Event::Again(number));
        }
        if known && ctx.strikes(ctx.options.cancelled) {
            let at = ctx.now + ctx.rng.u64(..secs(2));
            ctx.queue.push(at, Event::Cancel(task));
        }
    }

    fn make_up(&self, ctx: &mut Context) -> Submission {
        let number = u32::try_from(self.submissions.len()).expect("fewer than four billion submissions");
        let id = TaskId::new(format!("t{number}")).expect("a good id");
        // What the CLI does, what a plain publish with an id does, and what one without does.
        let (in_subject, as_header) = [(true, true), (true, false), (false, true), (false, false)][ctx.rng.usize(..4)];
        let garbage = match ctx.strikes(ctx.options.garbage) {
            false => Garbage::No,
            true if ctx.rng.u8(..3) == 0 => Garbage::Subject,
            true => Garbage::Header,
        };
        let in_subject = in_subject && garbage != Garbage::Subject;
        let nature = draw_nature(ctx);
        let known = (in_subject || as_header).then(|| id.clone());
        let task = ctx.oracle.invent(known, nature);
        Submission {
            task,
            id_in_subject: in_subject.then(|| id.clone()),
            expects_none: in_subject && ctx.rng.bool(),
            message_id: as_header.then_some(id),
            kind: ctx.rng.u8(..ctx.options.kinds),
            priority: if ctx.rng.u8(..4) == 0 { Priority::Urgent } else { Priority::Normal },
            options: draw_options(&nature, ctx),
            garbage,
            number,
        }
    }

    fn send(&mut self, number: u32, ctx: &mut Context) {
        *self.unanswered.entry(number).or_default() += 1;
        let submission = self.submissions[number as usize].clone();
        let reply = Reply { link: self.link, instance: 0, token: Token::Submission(number) };
        ctx.send(self.link, Up::Ask(Ask::Submit(submission), Some(reply)));
        ctx.queue.push(ctx.now + PATIENCE, Event::Retry(number));
    }

    /// Submits a task once more if its submission was not answered.
    pub fn retry(&mut self, number: u32, ctx: &mut Context) {
        let tries = self.unanswered.get(&number).copied();
        if tries.is_some_and(|tries| tries < 4) && self.is_named(number) {
            self.send(number, ctx);
        }
    }

    /// Without an id, a second submission would be a second task.
    fn is_named(&self, number: u32) -> bool {
        let submission = &self.submissions[number as usize];
        submission.id_in_subject.is_some() || submission.message_id.is_some()
    }

    /// Submits a task once more although it was answered.
    pub fn again(&mut self, number: u32, ctx: &mut Context) {
        let mut submission = (*self.submissions[number as usize]).clone();
        // Another client may say the same in another way.
        if submission.id_in_subject.is_some() && ctx.rng.bool() {
            submission.expects_none = false;
            submission.message_id = None;
        }
        submission.number = u32::try_from(self.submissions.len()).expect("fewer than four billion submissions");
        let number = submission.number;
        self.submissions.push(Rc::new(submission));
        self.send(number, ctx);
    }

    /// Asks for the end of a task.
    pub fn cancel(&mut self, task: usize, ctx: &mut Context) {
        let Some(id) = ctx.oracle.tasks[task].id.clone() else { return };
        ctx.oracle.tasks[task].cancel_asked = true;
        let reply = Reply { link: self.link, instance: 0, token: Token::Cancellation(task as u32) };
        ctx.send(self.link, Up::CancelTask(id, reply));
    }

    /// Asks for the departure of an agent.
    pub fn drain(&self, agent: usize, ctx: &mut Context) {
        ctx.send(self.link, Up::DrainAgent(agent as u8));
    }

    /// Something has come.
    pub fn receive(&mut self, down: &Down, ctx: &mut Context) {
        match down {
            Down::Answer(Token::Submission(number), Answer::Stored(_) | Answer::Already) => {
                self.unanswered.remove(number);
            }
            Down::Copy(copy) => ctx.oracle.copied(copy),
            _ => {}
        }
    }
}

fn draw_nature(ctx: &mut Context) -> Nature {
    let options = ctx.options.clone();
    let chance = ctx.rng.f64();
    let way = if chance < options.poison {
        Way::Poison
    } else if chance < options.poison + options.hanging {
        Way::Hangs
    } else if chance < options.poison + options.hanging + options.failing {
        Way::Fails(ctx.rng.u32(1..5))
    } else {
        Way::Succeeds
    };
    Nature {
        way,
        run: ctx.rng.u64(ms(1)..=options.run.max(ms(2))),
        stubborn: ctx.rng.f64() < options.stubborn,
        cpu_millis: if ctx.rng.bool() { 0 } else { ctx.rng.u64(1..=10) * 100 },
        discarded: ctx.rng.f64() < options.discarded,
        has_deadline: ctx.rng.f64() < options.deadlines,
    }
}

fn draw_options(nature: &Nature, ctx: &mut Context) -> TaskOptions {
    let rng = &mut ctx.rng;
    TaskOptions {
        timeout: (nature.way == Way::Hangs || rng.u8(..10) == 0).then(|| Duration::from_millis(rng.u64(50..4000))),
        deadline: nature.has_deadline.then(|| Deadline::After(Duration::from_millis(rng.u64(1..5000)))),
        max_attempts: rng.bool().then(|| rng.u32(1..5)),
        cpu_millis: (nature.cpu_millis > 0).then_some(nature.cpu_millis),
        reply_to: (rng.u8(..5) == 0).then(|| "copy".into()),
        discard_result: nature.discarded,
        ..TaskOptions::default()
    }
}
