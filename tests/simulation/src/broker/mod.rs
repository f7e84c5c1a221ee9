//! The broker: who hears what, and the streams. It forgets nothing that it has stored, as nats-server does when it
//! is killed; what is on its way is lost when it is.

mod lanes;

use std::collections::BTreeMap;
use std::rc::Rc;

use rustc_hash::FxHashMap;
use scheduler::{History, Sequence};
use shared::TaskId;

use crate::clock::{ms, secs};
use crate::context::Context;
use crate::event::{Event, LinkId, Micros, Owner};
use crate::marks::Mark;
use crate::message::{Answer, Ask, Down, Instance, Letter, Record, Reply, Stored, Submission, Up};
use crate::plant::Plant;
use crate::world::Places;
pub use lanes::Counts;
use lanes::Lane;

/// How long the broker takes to do things by itself.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How often it looks at its timers.
    pub tick: Micros,
    /// How long a published id is remembered.
    pub window: Micros,
    /// How long a delivered message may stay unacknowledged.
    pub ack_wait: Micros,
    /// How long a pull waits.
    pub pull_expires: Micros,
    /// How long the lease lasts without being renewed.
    pub lease: Micros,
    /// How long it can be seen that it has expired.
    pub marker: Micros,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            tick: ms(200),
            window: secs(120),
            ack_wait: secs(30),
            pull_expires: secs(30),
            lease: secs(15),
            marker: secs(1),
        }
    }
}

/// The lease.
#[derive(Clone, Copy, Debug)]
struct Lease {
    revision: u64,
    holder: Option<Instance>,
    expires: Micros,
}

/// The broker.
#[derive(Debug)]
pub struct Broker {
    /// Whether it is there.
    pub up: bool,
    /// Until when the streams answer nothing.
    pub silent_until: Micros,
    timing: Timing,
    places: Places,
    tasks: BTreeMap<Sequence, Rc<Stored>>,
    last_sequence: u64,
    recent: FxHashMap<TaskId, (u64, Micros)>,
    results: BTreeMap<TaskId, Rc<Record>>,
    letters: BTreeMap<Sequence, Rc<Letter>>,
    histories: BTreeMap<(Sequence, u64), History>,
    lanes: BTreeMap<crate::message::LaneName, Lane>,
    lease: Option<Lease>,
    revisions: u64,
}

impl Broker {
    /// A broker with empty streams.
    pub fn new(places: Places, ctx: &mut Context) -> Self {
        Self::with_timing(Timing::default(), places, ctx)
    }

    /// The same, faster or slower.
    pub fn with_timing(timing: Timing, places: Places, ctx: &mut Context) -> Self {
        ctx.queue.push(timing.tick, Event::BrokerTick);
        Self {
            up: true,
            silent_until: 0,
            timing,
            places,
            tasks: BTreeMap::new(),
            last_sequence: 0,
            recent: FxHashMap::default(),
            results: BTreeMap::new(),
            letters: BTreeMap::new(),
            histories: BTreeMap::new(),
            lanes: BTreeMap::new(),
            lease: None,
            revisions: 0,
        }
    }

    /// The sequence of the last task there has been.
    pub fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    /// When something will happen by itself.
    pub fn timers(&self) -> Vec<Micros> {
        let remembered = self.recent.values().map(|(_, at)| at + self.timing.window);
        self.lane_timers().chain(remembered).chain(self.lease_expires()).collect()
    }

    /// When a lane delivers again, or one of its pulls ends.
    pub fn lane_timers(&self) -> impl Iterator<Item = Micros> + '_ {
        self.lanes.values().flat_map(Lane::timers)
    }

    /// When the lease, or what is left of it, expires.
    pub fn lease_expires(&self) -> Option<Micros> {
        self.lease.map(|lease| lease.expires).filter(|at| *at < Micros::MAX)
    }

    /// What is in the task stream.
    pub fn tasks(&self) -> impl Iterator<Item = &Rc<Stored>> {
        self.tasks.values()
    }

    /// Whether the message is in the task stream.
    pub fn holds(&self, sequence: Sequence) -> bool {
        self.tasks.contains_key(&sequence)
    }

    /// The result of a task.
    pub fn result(&self, id: &TaskId) -> Option<&Rc<Record>> {
        self.results.get(id)
    }

    /// The dead letter of a message.
    pub fn letter(&self, sequence: Sequence) -> Option<&Rc<Letter>> {
        self.letters.get(&sequence)
    }

    /// Who holds the lease.
    pub fn leader(&self) -> Option<Instance> {
        self.lease.and_then(|lease| lease.holder)
    }

    /// At which revision the lease can be written.
    pub fn lease_revision(&self) -> u64 {
        self.lease.map_or(0, |lease| lease.revision)
    }

    /// It is killed: all connections break, pulls are forgotten.
    pub fn stop(&mut self, ctx: &mut Context) {
        self.up = false;
        for lane in self.lanes.values_mut() {
            lane.interrupt(self.timing.ack_wait, ctx);
        }
        for id in 0..ctx.links.len() {
            ctx.break_link(LinkId(id));
        }
    }

    /// The lease vanishes under its holder.
    pub fn drop_lease(&mut self) {
        self.lease = None;
    }

    /// A message has come.
    pub fn receive(&mut self, from: LinkId, up: Up, ctx: &mut Context) {
        match up {
            Up::Says(agent, said) => {
                for place in 0..self.places.coordinators {
                    ctx.deliver(self.places.coordinator(place), Down::Says(agent, said.clone()));
                }
            }
            Up::Tell(agent, told, reply) => {
                let link = self.places.session(agent as usize);
                if ctx.links[link.0].up {
                    ctx.deliver(link, Down::Told(told, reply));
                } else if let Some(reply) = reply {
                    ctx.reach(Mark::NoResponders);
                    self.answer(reply, Answer::NoResponders, ctx);
                }
            }
            Up::Answer(reply, answer) => self.answer(reply, answer, ctx),
            Up::LookAfter(instance, reply) => self.look_after(instance, reply, ctx),
            Up::CancelTask(id, reply) => match self.any_service(ctx) {
                Some(link) => ctx.deliver(link, Down::CancelTask(id, reply)),
                None => self.answer(reply, Answer::NoResponders, ctx),
            },
            Up::DrainAgent(agent) => {
                if let Some(link) = self.any_service(ctx) {
                    ctx.deliver(link, Down::DrainAgent(agent));
                }
            }
            Up::Ask(ask, reply) => self.ask(ask, reply, ctx),
            Up::Copy(record) => ctx.deliver(self.places.client(), Down::Copy(record)),
        }
        let _ = from;
    }

    fn any_service(&self, ctx: &mut Context) -> Option<LinkId> {
        let there: Vec<LinkId> = ctx.serving.iter().copied().filter(|link| ctx.links[link.0].up).collect();
        (!there.is_empty()).then(|| there[ctx.rng.usize(..there.len())])
    }

    fn answer(&self, reply: Reply, answer: Answer, ctx: &mut Context) {
        if ctx.links[reply.link.0].hears(reply.instance) {
            ctx.deliver(reply.link, Down::Answer(reply.token, answer));
        }
    }

    fn look_after(&self, instance: Instance, reply: Reply, ctx: &mut Context) {
        let place = (0..self.places.coordinators).find(|p| ctx.links[self.places.coordinator(*p).0].hears(instance));
        match place {
            Some(place) => ctx.deliver(self.places.coordinator(place), Down::LookAfter(reply)),
            None => self.answer(reply, Answer::NoResponders, ctx),
        }
    }

    /// A connection was closed by its other side.
    pub fn closed(&mut self, id: LinkId, ctx: &mut Context) {
        let Owner::Agent(agent) = ctx.links[id.0].owner else { return };
        if ctx.options.advisories && id == self.places.session(agent) {
            ctx.reach(Mark::Advisory);
            for place in 0..self.places.coordinators {
                ctx.deliver(self.places.coordinator(place), Down::Disconnected(agent as u8));
            }
        }
    }

    fn ask(&mut self, ask: Ask, reply: Option<Reply>, ctx: &mut Context) {
        let publishes = matches!(ask, Ask::Submit(_) | Ask::Record(..) | Ask::Bury(_) | Ask::Remember(..));
        let changes = publishes || matches!(ask, Ask::Ack(..) | Ask::Remove(_) | Ask::WriteLease(..));
        if ctx.now < self.silent_until {
            if publishes && ctx.rng.f64() < 0.3 {
                self.carry_out(ask, reply, ctx);
            }
            return;
        }
        if publishes && ctx.strikes(ctx.options.refused) {
            ctx.reach(Mark::Refused);
            return self.answer_if(reply, Some(Answer::Refused), ctx);
        }
        let answer = self.carry_out(ask, reply, ctx);
        if changes && ctx.strikes(ctx.options.answers_lost) {
            ctx.reach(Mark::AnswerLost);
            return;
        }
        self.answer_if(reply, answer, ctx);
    }

    fn answer_if(&self, reply: Option<Reply>, answer: Option<Answer>, ctx: &mut Context) {
        if let (Some(reply), Some(answer)) = (reply, answer) {
            self.answer(reply, answer, ctx);
        }
    }

    fn carry_out(&mut self, ask: Ask, reply: Option<Reply>, ctx: &mut Context) -> Option<Answer> {
        Some(match ask {
            Ask::Submit(submission) => self.store(submission, ctx),
            Ask::Pull(lane, batch) => return self.pull(lane, batch, reply?, ctx),
            Ask::LookUp(id) => Answer::Result(self.results.get(&id).cloned()),
            Ask::Record(record, expects_none) => self.record(record, expects_none, ctx),
            Ask::Bury(letter) => {
                ctx.oracle.buried(&letter);
                self.letters.entry(letter.sequence).or_insert(letter);
                Answer::Stored(1)
            }
            Ask::Ack(lane, sequence) => return self.ack(lane, sequence, ctx),
            Ask::Nak(lane, sequence, delay) => {
                self.nak(lane, sequence, delay, ctx.now);
                return None;
            }
            Ask::Extend(lane, sequence) => {
                self.extend(lane, sequence, ctx.now + self.timing.ack_wait);
                return None;
            }
            Ask::Remove(sequence) => {
                self.remove(sequence, ctx);
                Answer::Gone
            }
            Ask::LastSequence => Answer::Last(self.last_sequence),
            Ask::ListLanes => Answer::Lanes(self.lanes.keys().copied().collect()),
            Ask::PutLane(name, kinds) => self.put_lane(name, kinds, ctx),
            Ask::DeleteLane(name) => self.delete_lane(name, ctx),
            Ask::Remember(sequence, epoch, history) => {
                ctx.oracle.remembered(sequence, epoch, &history, ctx.now);
                self.histories.insert((sequence, epoch), history);
                Answer::Stored(1)
            }
            Ask::ForgetHistory(sequence) => {
                self.histories.retain(|(other, _), _| *other != sequence);
                return None;
            }
            Ask::ListHistories => {
                // Of several leaders the last one has followed those before.
                let newest: BTreeMap<_, _> = self.histories.iter().map(|((s, _), h)| (*s, h.clone())).collect();
                Answer::Histories(newest.into_iter().collect())
            }
            Ask::ListResults => Answer::Results(self.results.keys().cloned().collect(), self.last_sequence),
            Ask::Queued(sequence) => Answer::Messages(self.tasks.get(&sequence).cloned().into_iter().collect()),
            Ask::QueuedById(id) => Answer::Messages(self.queued_by_id(&id).into_iter().collect()),
            Ask::ListForeign => Answer::Messages(self.foreign()),
            Ask::ReadLease => Answer::Lease(self.lease.map(|lease| (lease.revision, lease.holder))),
            Ask::WriteLease(holder, revision) => self.write_lease(Some(holder), revision, ctx),
            Ask::PurgeLease(revision) => self.write_lease(None, revision, ctx),
        })
    }

    fn store(&mut self, submission: Rc<Submission>, ctx: &mut Context) -> Answer {
        // What is expected is checked first, so that a repetition of both is refused and not recognised.
        if submission.expects_none && self.has_subject_of(&submission) {
            return Answer::Already;
        }
        let remembered = submission.message_id.as_ref().and_then(|id| self.recent.get(id));
        if let Some((sequence, at)) = remembered
            && ctx.now - at < self.timing.window
        {
            return Answer::Stored(*sequence);
        }
        if let Some(id) = &submission.message_id {
            self.recent.insert(id.clone(), (self.last_sequence + 1, ctx.now));
        }
        self.last_sequence += 1;
        let sequence = Sequence(self.last_sequence);
        let id = submission.id_in_subject.clone().or_else(|| submission.message_id.clone());
        let id = id.unwrap_or_else(|| TaskId::from_sequence(sequence.0));
        let task = ctx.oracle.accepted(&submission, &id, sequence, ctx.now);
        let stored = Rc::new(Stored { sequence, submission, task, id, at: ctx.now });
        self.lanes.values_mut().for_each(|lane| lane.hear_of(&stored));
        self.tasks.insert(sequence, stored);
        self.pump(ctx);
        Answer::Stored(sequence.0)
    }

    fn has_subject_of(&self, submission: &Submission) -> bool {
        self.tasks.values().any(|stored| {
            let other = &stored.submission;
            other.id_in_subject == submission.id_in_subject
                && (other.kind, other.priority) == (submission.kind, submission.priority)
        })
    }

    fn record(&mut self, record: Rc<Record>, expects_none: bool, ctx: &mut Context) -> Answer {
        if expects_none && self.results.contains_key(&record.id) {
            ctx.reach(Mark::RecordedBefore);
            return Answer::Already;
        }
        ctx.oracle.recorded(&record, ctx.now);
        self.results.insert(record.id.clone(), record);
        Answer::Stored(1)
    }

    pub(crate) fn remove(&mut self, sequence: Sequence, ctx: &mut Context) {
        let Some(stored) = self.tasks.remove(&sequence) else { return };
        for lane in self.lanes.values_mut() {
            lane.hear_of_removal(&stored);
        }
        ctx.oracle.removed(&stored, self.results.get(&stored.id), self.letters.get(&sequence));
    }

    fn queued_by_id(&self, id: &TaskId) -> Option<Rc<Stored>> {
        let mut with_id = self.tasks.values().rev();
        let by_subject = with_id.find(|stored| stored.submission.id_in_subject.as_ref() == Some(id)).cloned();
        by_subject.or_else(|| {
            let sequence = id.as_str().parse().map(Sequence).ok()?;
            self.tasks.get(&sequence).cloned()
        })
    }

    fn foreign(&self) -> Vec<Rc<Stored>> {
        let is_foreign = |stored: &&Rc<Stored>| stored.submission.garbage == crate::message::Garbage::Subject;
        self.tasks.values().filter(is_foreign).cloned().collect()
    }

    fn write_lease(&mut self, holder: Option<Instance>, expected: u64, ctx: &mut Context) -> Answer {
        if self.lease_revision() != expected && !ctx.planted(Plant::LeaseWithoutCompare) {
            return Answer::Already;
        }
        self.revisions += 1;
        ctx.oracle.lease_written(holder, self.revisions);
        // That it was given back can be seen until it is taken again; that it has expired, for a while only.
        let expires = if holder.is_some() { ctx.now + self.timing.lease } else { Micros::MAX };
        self.lease = Some(Lease { revision: self.revisions, holder, expires });
        Answer::Written(self.revisions)
    }

    /// What is left of a lease that has expired: a marker, once.
    fn expire(&mut self, lease: Lease, ctx: &Context) -> Option<Lease> {
        lease.holder?;
        self.revisions += 1;
        Some(Lease { revision: self.revisions, holder: None, expires: ctx.now + self.timing.marker })
    }

    /// Looks at the timers.
    pub fn tick(&mut self, ctx: &mut Context) {
        ctx.queue.push(ctx.now + self.timing.tick, Event::BrokerTick);
        if !self.up {
            return;
        }
        if let Some(lease) = self.lease.take_if(|lease| lease.expires <= ctx.now) {
            self.lease = self.expire(lease, ctx);
        }
        self.time_out(ctx);
        if ctx.now >= self.silent_until {
            self.pump(ctx);
        }
    }
}
