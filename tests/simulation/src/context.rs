//! What everybody in the simulation needs: time, chance, the connections, and the one who watches.

use std::collections::VecDeque;
use std::rc::Rc;

use fastrand::Rng;
use shared::{AgentId, Kind};

use crate::event::{Event, LinkId, Micros, Owner, Queue};
use crate::marks::{Mark, Marks};
use crate::net::Link;
use crate::options::Options;
use crate::oracle::Oracle;
use crate::plant::Plant;

/// How many of the last events a failure shows.
const SHOWN: usize = 200;

/// What everybody in the simulation needs.
#[derive(Debug)]
pub struct Context {
    /// Virtual time.
    pub now: Micros,
    /// What is going to happen.
    pub queue: Queue,
    /// Chance.
    pub rng: Rng,
    /// What the seed drew.
    pub options: Rc<Options>,
    /// All connections.
    pub links: Vec<Link>,
    /// Who watches.
    pub oracle: Oracle,
    /// Rare states that were reached.
    pub marks: Marks,
    /// Whether faults have ended.
    pub calm: bool,
    /// The kinds.
    pub kinds: Vec<Kind>,
    /// The agents' names.
    pub agents: Vec<AgentId>,
    /// The last events, if somebody wants to see them.
    pub log: Option<VecDeque<String>>,
    /// Whether each event is printed.
    pub verbose: bool,
    /// Numbers the processes.
    pub instances: u32,
    /// Processes that end now, and when they are to be started again.
    pub ended: Vec<(Owner, Micros)>,
    /// Until when something was wrong, other than with coordinators only.
    pub last_fault: Micros,
    /// Coordinators that offer the service.
    pub serving: Vec<LinkId>,
    /// How many attempts each agent takes at once, and how much of a core it has; zero is not limited.
    pub offers: Vec<(u32, u64)>,
    /// Agents that a leader has just declared lost.
    pub lost_agents: Vec<u8>,
}

impl Context {
    /// What everybody needs, one second after the beginning of time.
    pub fn new(options: Options, links: Vec<Link>) -> Self {
        Self {
            now: 1_000_000,
            queue: Queue::default(),
            rng: Rng::with_seed(options.seed),
            options: Rc::new(options),
            links,
            oracle: Oracle::default(),
            marks: Marks::default(),
            calm: false,
            kinds: Vec::new(),
            agents: Vec::new(),
            log: None,
            verbose: false,
            instances: 0,
            ended: Vec::new(),
            last_fault: 0,
            serving: Vec::new(),
            offers: Vec::new(),
            lost_agents: Vec::new(),
        }
    }

    /// Whether this bug was put in on purpose.
    pub fn planted(&self, plant: Plant) -> bool {
        self.options.plant == Some(plant)
    }

    /// Whether something happens that does so with this probability, as long as there are faults.
    pub fn strikes(&mut self, probability: f64) -> bool {
        !self.calm && probability > 0.0 && self.rng.f64() < probability
    }

    /// A rare state was reached.
    pub fn reach(&mut self, mark: Mark) {
        self.marks.set(mark);
    }

    /// Notes an event, if somebody wants to see it.
    pub fn trace(&mut self, what: impl FnOnce() -> String) {
        let Some(log) = &mut self.log else { return };
        let line = format!("{:>14.6} {}", self.now as f64 / 1e6, what());
        if self.verbose {
            println!("{line}");
        }
        if log.len() == SHOWN {
            log.pop_front();
        }
        log.push_back(line);
    }

    /// Wakes a process at this time, unless it is woken earlier anyway.
    pub fn wake(&mut self, owner: Owner, planned: &mut Micros, at: Micros) {
        let at = at.max(self.now);
        if at < *planned {
            *planned = at;
            self.queue.push(at, Event::Wake(owner));
        }
    }

    /// The place of an agent, by its name.
    pub fn place_of(&self, agent: &AgentId) -> u8 {
        self.agents.iter().position(|name| name == agent).expect("agents are named by the simulation") as u8
    }
}
