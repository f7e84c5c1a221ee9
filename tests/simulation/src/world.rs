//! The world: everything that is simulated, and the one loop that lets time pass.

use std::collections::VecDeque;

use shared::{AgentId, Kind};

use crate::agent::{Agent, Offer};
use crate::broker::Broker;
use crate::client::Client;
use crate::clock::{ms, secs};
use crate::context::Context;
use crate::coordinator::Coordinator;
use crate::event::{Event, LinkId, Micros, Owner};
use crate::marks::Marks;
use crate::message::Down;
use crate::net::Link;
use crate::options::Options;

/// How long everything may take to come to rest once the faults have ended.
const PATIENCE: Micros = secs(420);
/// How long it may take even then from one settled task to the next: one agent with one slot may have been left with more
/// work than can be done in that time.
const PAUSE: Micros = secs(120);
/// The kind that agents run at most once.
const AT_MOST_ONCE: u8 = 3;
/// How many steps lie between two looks at everything.
const FULL_LOOK: u64 = 256;

/// Which connection is whose.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// How many coordinators there are.
    pub coordinators: usize,
    /// How many agents there are.
    pub agents: usize,
}

impl Places {
    /// A coordinator's connection.
    pub fn coordinator(&self, place: usize) -> LinkId {
        LinkId(place)
    }

    /// The connection of an agent's session.
    pub fn session(&self, agent: usize) -> LinkId {
        LinkId(self.coordinators + 2 * agent)
    }

    /// Both connections of an agent: its session's, and that of its beats.
    pub fn of_agent(&self, agent: usize) -> [LinkId; 2] {
        let session = self.session(agent);
        [session, LinkId(session.0 + 1)]
    }

    /// The connection of all clients.
    pub fn client(&self) -> LinkId {
        LinkId(self.coordinators + 2 * self.agents)
    }
}

/// Everything that is simulated.
#[derive(Debug)]
pub struct World {
    pub(crate) ctx: Context,
    pub(crate) places: Places,
    pub(crate) broker: Broker,
    pub(crate) coordinators: Vec<Coordinator>,
    pub(crate) agents: Vec<Agent>,
    pub(crate) client: Client,
    pub(crate) calm_since: Option<Micros>,
    /// The fewest tasks that were open since, and since when.
    fewest_open: Option<(usize, Micros)>,
    steps: u64,
    at_rest: bool,
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// How many steps there were.
    pub steps: u64,
    /// How much time passed, virtually.
    pub time: Micros,
    /// How many messages were accepted.
    pub accepted: u64,
    /// How many handlers were started.
    pub starts: u64,
    /// Rare states reached.
    pub marks: Marks,
    /// Two runs of the same seed have the same.
    pub hash: u64,
    /// What is wrong.
    pub violation: Option<String>,
    /// The last events, if they were kept.
    pub log: Vec<String>,
}

impl World {
    /// The world of a seed. `log` keeps the last events, `verbose` prints all.
    pub fn new(options: Options, log: bool, verbose: bool) -> Self {
        let places = Places { coordinators: options.coordinators, agents: options.agents };
        let kinds = (0..options.kinds).map(|i| Kind::new(format!("k{i}")).expect("a good name")).collect();
        let agents = (0..options.agents).map(|i| AgentId::new(format!("a{i}")).expect("a good name")).collect();
        let mut ctx = Context::new(options, make_links(places));
        (ctx.kinds, ctx.agents) = (kinds, agents);
        (ctx.log, ctx.verbose) = (log.then(VecDeque::new), verbose);
        let broker = Broker::new(places, &mut ctx);
        let agents: Vec<Agent> =
            (0..places.agents).map(|place| Agent::new(place, draw_offer(place, &mut ctx))).collect();
        ctx.offers = agents.iter().map(|a| (a.offer.slots + a.offer.queue, a.offer.cpu_millis)).collect();
        let mut world = Self {
            ctx,
            places,
            broker,
            coordinators: (0..places.coordinators).map(Coordinator::new).collect(),
            agents,
            client: Client::new(places.client()),
            calm_since: None,
            fewest_open: None,
            steps: 0,
            at_rest: false,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        let now = self.ctx.now;
        for place in 0..self.places.coordinators {
            self.ctx.queue.push(now + ms(1), Event::Start(Owner::Coordinator(place)));
        }
        for place in 0..self.places.agents {
            let at = now + self.ctx.rng.u64(..secs(1));
            self.ctx.queue.push(at, Event::Start(Owner::Agent(place)));
        }
        self.ctx.queue.push(now, Event::Connect(self.places.client(), 0, 0));
        self.ctx.queue.push(now + ms(50), Event::Submit);
        for (fault, every) in self.ctx.options.clone().faults.iter().copied() {
            self.plan_fault(fault, every);
        }
    }

    /// Lets time pass until everything is at rest, or something is wrong.
    pub fn run(mut self) -> Report {
        while self.ctx.oracle.violation.is_none() && !self.at_rest {
            let Some((at, event)) = self.ctx.queue.pop() else { break };
            self.ctx.now = at.max(self.ctx.now);
            self.steps += 1;
            self.step(event);
            self.start_anew_what_ended();
            self.look();
            if self.calm_since.is_none() && self.steps >= self.ctx.options.steps {
                self.calm_down();
            }
        }
        self.report()
    }

    fn report(mut self) -> Report {
        let hash = self.ctx.rng.u64(..) ^ self.ctx.now.rotate_left(17) ^ self.steps.rotate_left(40);
        Report {
            seed: self.ctx.options.seed,
            steps: self.steps,
            time: self.ctx.now,
            accepted: self.ctx.oracle.accepted,
            starts: self.ctx.oracle.starts.len() as u64,
            marks: self.ctx.marks,
            hash,
            violation: self.ctx.oracle.violation,
            log: self.ctx.log.map(Vec::from).unwrap_or_default(),
        }
    }

    fn step(&mut self, event: Event) {
        let ctx = &mut self.ctx;
        match event {
            Event::AtBroker(link, generation, up) => {
                if self.broker.up && ctx.links[link.0].generation == generation {
                    self.broker.receive(link, up, ctx);
                }
            }
            Event::AtProcess(link, generation, down) => {
                if ctx.links[link.0].generation == generation {
                    self.receive(link, down);
                }
            }
            Event::Wake(Owner::Coordinator(place)) => self.coordinators[place].wake(ctx),
            Event::Wake(Owner::Agent(place)) => self.agents[place].wake(self.places.of_agent(place), ctx),
            Event::Wake(Owner::Client) => {}
            Event::HandlerEnds { agent, instance, key, plan } => {
                self.agents[agent].handler_ends(instance, key, plan, self.places.of_agent(agent), ctx);
            }
            Event::Connect(link, generation, tries) => self.connect(link, generation, tries),
            Event::GiveUp(link, generation) => {
                if ctx.links[link.0].generation == generation {
                    ctx.break_link(link);
                }
            }
            Event::Closed(link, generation) => {
                if ctx.links[link.0].generation == generation {
                    ctx.close_link(link);
                    self.broker.closed(link, ctx);
                }
            }
            Event::BrokerTick => self.broker.tick(ctx),
            Event::BrokerStarts => self.broker.up = true,
            Event::Start(owner) => self.start(owner),
            Event::Resume(owner) => self.resume(owner),
            Event::Fault(fault) => self.strike(fault),
            Event::Submit if !ctx.calm => self.client.submit(ctx),
            Event::Submit => {}
            Event::Retry(number) => self.client.retry(number, ctx),
            Event::Again(number) => self.client.again(number, ctx),
            Event::Cancel(task) => self.client.cancel(task, ctx),
        }
    }

    fn receive(&mut self, link: LinkId, down: Down) {
        match self.ctx.links[link.0].owner {
            Owner::Coordinator(place) => self.coordinators[place].receive(down, &mut self.ctx),
            Owner::Agent(place) => self.agents[place].receive(down, self.places.of_agent(place), &mut self.ctx),
            Owner::Client => self.client.receive(&down, &mut self.ctx),
        }
    }

    fn connect(&mut self, link: LinkId, generation: u32, tries: u32) {
        if self.ctx.links[link.0].generation != generation || self.ctx.links[link.0].up {
            return;
        }
        let owner = self.ctx.links[link.0].owner;
        if !self.lives(owner) {
            return;
        }
        let may = self.broker.up && self.paused_until(owner) <= self.ctx.now;
        if self.ctx.connect(link, tries, may)
            && let Owner::Agent(place) = owner
        {
            self.agents[place].connected(link, self.places.of_agent(place), &mut self.ctx);
        }
    }

    fn lives(&self, owner: Owner) -> bool {
        match owner {
            Owner::Coordinator(place) => self.coordinators[place].node.is_some(),
            Owner::Agent(place) => self.agents[place].process.is_some(),
            Owner::Client => true,
        }
    }

    fn paused_until(&self, owner: Owner) -> Micros {
        match owner {
            Owner::Coordinator(place) => self.coordinators[place].node.as_ref().map_or(0, |node| node.paused_until),
            Owner::Agent(place) => self.agents[place].process.as_ref().map_or(0, |process| process.paused_until),
            Owner::Client => 0,
        }
    }

    pub(crate) fn links_of(&self, owner: Owner) -> Vec<LinkId> {
        match owner {
            Owner::Coordinator(place) => vec![self.places.coordinator(place)],
            Owner::Agent(place) => self.places.of_agent(place).to_vec(),
            Owner::Client => vec![self.places.client()],
        }
    }

    fn start(&mut self, owner: Owner) {
        if self.lives(owner) {
            return;
        }
        match owner {
            Owner::Coordinator(place) => {
                self.coordinators[place].start(self.places.coordinator(place), &mut self.ctx);
            }
            Owner::Agent(place) => self.agents[place].start(self.places.of_agent(place), &mut self.ctx),
            Owner::Client => {}
        }
    }

    pub(crate) fn resume(&mut self, owner: Owner) {
        match owner {
            Owner::Coordinator(place) => self.coordinators[place].go_on(&mut self.ctx),
            Owner::Agent(place) => self.agents[place].go_on(self.places.of_agent(place), &mut self.ctx),
            Owner::Client => {}
        }
    }

    fn start_anew_what_ended(&mut self) {
        while let Some((owner, at)) = self.ctx.ended.pop() {
            self.end(owner, at, ms(1)..ms(10));
        }
    }

    /// A process ends; the broker notices after a while, and another is started later.
    pub(crate) fn end(&mut self, owner: Owner, start_at: Micros, notice: std::ops::Range<Micros>) {
        if !self.lives(owner) {
            return;
        }
        match owner {
            Owner::Coordinator(place) => {
                let link = self.places.coordinator(place);
                self.ctx.serving.retain(|serving| *serving != link);
                self.coordinators[place].node = None;
            }
            Owner::Agent(place) => {
                let ended = self.agents[place].process.take();
                ended.iter().for_each(|process| self.ctx.oracle.excuse(process.instance));
            }
            Owner::Client => return,
        }
        self.ctx.trace(|| format!("{owner:?} ends"));
        for link in self.links_of(owner) {
            let at = self.ctx.now + self.ctx.rng.u64(notice.clone());
            let generation = self.ctx.links[link.0].generation;
            self.ctx.queue.push(at, Event::Closed(link, generation));
        }
        let start_at = if self.ctx.calm { self.ctx.now + ms(200) } else { start_at };
        self.ctx.queue.push(start_at, Event::Start(owner));
    }

    /// What is looked at after each step.
    fn look(&mut self) {
        self.check_orders();
        if self.steps.is_multiple_of(FULL_LOOK) {
            self.check_everything();
        }
        let Some(since) = self.calm_since else { return };
        if self.ctx.oracle.open.is_empty() && self.steps.is_multiple_of(16) {
            self.at_rest = self.is_at_rest();
        }
        let open = self.ctx.oracle.open.len();
        if self.fewest_open.is_none_or(|(fewest, _)| open < fewest) {
            self.fewest_open = Some((open, self.ctx.now));
        }
        let progress = self.fewest_open.map_or(since, |(_, at)| at);
        if self.ctx.now > (since + PATIENCE).max(progress + PAUSE) {
            let unrest = self.unrest();
            self.ctx.oracle.fail(format!("it does not come to rest: {unrest}"));
        }
    }
}

fn make_links(places: Places) -> Vec<Link> {
    let coordinators = (0..places.coordinators).map(|place| Link::new(Owner::Coordinator(place), true));
    let agents = (0..2 * places.agents).map(|i| Link::new(Owner::Agent(i / 2), false));
    coordinators.chain(agents).chain([Link::new(Owner::Client, true)]).collect()
}

fn draw_offer(place: usize, ctx: &mut Context) -> Offer {
    let all = ctx.options.kinds;
    // The first can do everything, so that nothing waits for ever.
    let kinds: Vec<u8> = (0..all).filter(|_| place == 0 || ctx.rng.bool()).collect();
    let kinds = if kinds.is_empty() { vec![0] } else { kinds };
    Offer {
        at_most_once: kinds.iter().copied().filter(|kind| *kind == AT_MOST_ONCE).collect(),
        slots: ctx.rng.u32(1..=ctx.options.slots),
        queue: ctx.rng.u32(0..=ctx.options.queue),
        kinds,
        cpu_millis: if place != 0 && ctx.rng.bool() { ctx.rng.u64(5..=30) * 100 } else { 0 },
    }
}
