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
use lanes::Lane;

/// How often the broker looks at its timers.
const TICK: Micros = ms(200);
/// How long a published id is remembered.
const WINDOW: Micros = secs(120);
/// How long the lease lasts without being renewed.
const LEASE: Micros = secs(15);

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
        ctx.queue.push(TICK, Event::BrokerTick);
        Self {
            up: true,
            silent_until: 0,
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

    /// It is killed: all connections break, pulls are forgotten.
    pub fn stop(&mut self, ctx: &mut Context) {
        self.up = false;
        for lane in self.lanes.values_mut() {
            lane.interrupt(ctx);
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
                self.redeliver_at(lane, sequence, ctx.now + delay);
                return None;
            }
            Ask::Extend(lane, sequence) => {
                self.redeliver_at(lane, sequence, ctx.now + lanes::ACK_WAIT);
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
            Ask::ListResults => Answer::Results(self.results.keys().cloned().collect()),
            Ask::Queued(sequence) => Answer::Messages(self.tasks.get(&sequence).cloned().into_iter().collect()),
            Ask::QueuedById(id) => Answer::Messages(self.queued_by_id(&id).into_iter().collect()),
            Ask::ListForeign => Answer::Messages(self.foreign()),
            Ask::ReadLease => Answer::Lease(self.lease.map(|lease| (lease.revision, lease.holder))),
            Ask::WriteLease(holder, revision) => self.write_lease(Some(holder), revision, ctx),
            Ask::PurgeLease(revision) => self.write_lease(None, revision, ctx),
        })
    }

    fn store(&mut self, submission: Rc<Submission>, ctx: &mut Context) -> Answer {
        if submission.expects_none
            && self.tasks.values().any(|stored| {
                let other = &stored.submission;
                other.id_in_subject == submission.id_in_subject
                    && (other.kind, other.priority) == (submission.kind, submission.priority)
            })
        {
            return Answer::Already;
        }
        if let Some(id) = &submission.message_id {
            match self.recent.get(id) {
                Some((sequence, at)) if ctx.now - at < WINDOW => return Answer::Stored(*sequence),
                _ => drop(self.recent.insert(id.clone(), (self.last_sequence + 1, ctx.now))),
            }
        }
        self.last_sequence += 1;
        let sequence = Sequence(self.last_sequence);
        let id = submission.id_in_subject.clone().or_else(|| submission.message_id.clone());
        let id = id.unwrap_or_else(|| TaskId::from_sequence(sequence.0));
        let task = ctx.oracle.accepted(&submission, &id, sequence, ctx.now);
        let stored = Rc::new(Stored { sequence, submission, task, id, at: ctx.now });
        self.tasks.insert(sequence, stored);
        self.pump(ctx);
        Answer::Stored(sequence.0)
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
            lane.forget(sequence);
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
        let revision = self.lease.map_or(0, |lease| lease.revision);
        if revision != expected && !ctx.planted(Plant::LeaseWithoutCompare) {
            return Answer::Already;
        }
        self.revisions += 1;
        ctx.oracle.lease_written(holder, self.revisions);
        // A marker stays for a second where the lease was given back.
        let lifetime = if holder.is_some() { LEASE } else { secs(1) };
        self.lease = Some(Lease { revision: self.revisions, holder, expires: ctx.now + lifetime });
        Answer::Written(self.revisions)
    }

    /// Looks at the timers.
    pub fn tick(&mut self, ctx: &mut Context) {
        ctx.queue.push(ctx.now + TICK, Event::BrokerTick);
        if !self.up {
            return;
        }
        if let Some(lease) = &mut self.lease
            && lease.expires <= ctx.now
        {
            self.revisions += 1;
            let marker = Lease { revision: self.revisions, holder: None, expires: ctx.now + secs(1) };
            self.lease = lease.holder.is_some().then_some(marker);
        }
        self.time_out(ctx);
        if ctx.now >= self.silent_until {
            self.pump(ctx);
        }
    }
}
