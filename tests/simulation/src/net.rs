//! Connections: in order within one direction of one connection, and with delays, cuts and ends of their own.

use crate::clock::{ms, secs};
use crate::context::Context;
use crate::event::{Event, LinkId, Micros, Owner};
use crate::message::{Down, Instance, Up};

/// Fastest and slowest way from a process to the broker.
const LATENCY: std::ops::Range<Micros> = 40..300;

/// A connection of a process to the broker.
#[derive(Debug)]
pub struct Link {
    /// Whose it is.
    pub owner: Owner,
    /// The process that holds it.
    pub instance: Instance,
    /// Counts the connections; what was sent over an earlier one is lost.
    pub generation: u32,
    /// Whether it is connected.
    pub up: bool,
    /// How often it was connected.
    pub connects: u32,
    /// How often it was lost.
    pub disconnects: u32,
    /// Whether messages are kept while it is down.
    pub keeps: bool,
    kept: Vec<Up>,
    last_up: Micros,
    last_down: Micros,
    cut_up: Micros,
    cut_down: Micros,
}

impl Link {
    /// A connection that is not made yet.
    pub fn new(owner: Owner, keeps: bool) -> Self {
        Self {
            owner,
            instance: 0,
            generation: 0,
            up: false,
            connects: 0,
            disconnects: 0,
            keeps,
            kept: Vec::new(),
            last_up: 0,
            last_down: 0,
            cut_up: 0,
            cut_down: 0,
        }
    }

    /// Whether a message to this process over this connection has somebody who listens, as the broker sees it.
    pub fn hears(&self, instance: Instance) -> bool {
        self.up && self.instance == instance
    }
}

impl Context {
    /// Sends a message to the broker. Without a connection it is kept, or lost.
    pub fn send(&mut self, id: LinkId, up: Up) {
        let link = &mut self.links[id.0];
        if !link.up {
            if link.keeps && link.kept.len() < 1 << 14 {
                link.kept.push(up);
            }
            return;
        }
        if self.is_lost() {
            return self.trace(|| format!("lost on its way to the broker: {up:?}"));
        }
        let delay = self.delay();
        let link = &mut self.links[id.0];
        link.last_up = link.last_up.max(self.now.max(link.cut_up) + delay);
        let (at, generation) = (link.last_up, link.generation);
        self.queue.push(at, Event::AtBroker(id, generation, up));
    }

    /// Sends a message from the broker to whoever holds the connection.
    pub fn deliver(&mut self, id: LinkId, down: Down) {
        if !self.links[id.0].up {
            return;
        }
        if self.is_lost() {
            return self.trace(|| format!("lost on its way from the broker: {down:?}"));
        }
        let delay = self.delay();
        let link = &mut self.links[id.0];
        link.last_down = link.last_down.max(self.now.max(link.cut_down) + delay);
        let (at, generation) = (link.last_down, link.generation);
        self.queue.push(at, Event::AtProcess(id, generation, down));
    }

    fn is_lost(&mut self) -> bool {
        !self.calm && self.options.lost > 0.0 && self.rng.f64() < self.options.lost
    }

    fn delay(&mut self) -> Micros {
        let (share, most) = self.options.late;
        let late = if !self.calm && share > 0.0 && self.rng.f64() < share { self.rng.u64(..=most) } else { 0 };
        self.rng.u64(LATENCY) + late
    }

    /// A new process holds the connection; it connects as soon as it can.
    pub fn begin_link(&mut self, id: LinkId, instance: Instance) {
        self.close_link(id);
        let link = &mut self.links[id.0];
        link.instance = instance;
        link.generation += 1;
        (link.connects, link.disconnects) = (0, 0);
        link.kept.clear();
        let generation = link.generation;
        let soon = self.now + self.rng.u64(ms(1)..ms(5));
        self.queue.push(soon, Event::Connect(id, generation, 0));
    }

    /// The connection breaks, and is made again.
    pub fn break_link(&mut self, id: LinkId) {
        if !self.links[id.0].up {
            return;
        }
        self.close_link(id);
        let generation = self.links[id.0].generation;
        let soon = self.now + self.rng.u64(ms(5)..ms(10));
        self.queue.push(soon, Event::Connect(id, generation, 1));
    }

    /// The broker forgets the connection.
    pub fn close_link(&mut self, id: LinkId) {
        let link = &mut self.links[id.0];
        if link.up {
            link.up = false;
            link.generation += 1;
            link.disconnects += 1;
        }
    }

    /// Tries to connect. Whether that worked is returned; if not, it is tried again.
    pub fn connect(&mut self, id: LinkId, tries: u32, may: bool) -> bool {
        let link = &self.links[id.0];
        let generation = link.generation;
        if !may || link.cut_up > self.now || link.cut_down > self.now {
            let most = ms(10 << tries.min(8)).min(secs(2));
            let at = self.now + self.rng.u64(most / 2..=most);
            self.queue.push(at, Event::Connect(id, generation, tries + 1));
            return false;
        }
        let link = &mut self.links[id.0];
        link.up = true;
        link.connects += 1;
        (link.last_up, link.last_down) = (self.now, self.now);
        for up in std::mem::take(&mut link.kept) {
            self.send(id, up);
        }
        true
    }

    /// Cuts a connection for a while: what is sent waits, and is lost if the connection is given up meanwhile.
    pub fn cut(&mut self, id: LinkId, up: bool, down: bool, until: Micros) {
        let link = &mut self.links[id.0];
        if up {
            link.cut_up = link.cut_up.max(until);
        }
        if down {
            link.cut_down = link.cut_down.max(until);
        }
        let generation = link.generation;
        // Pings every 5 s, and two of them may stay unanswered.
        let at = self.now + self.rng.u64(secs(10)..secs(15));
        if at < until {
            self.queue.push(at, Event::GiveUp(id, generation));
        }
    }

    /// All cuts end. What waited for that is lost with its connection.
    pub fn mend(&mut self) {
        for id in 0..self.links.len() {
            let link = &mut self.links[id];
            let was_cut = link.cut_up.max(link.cut_down) > self.now;
            (link.cut_up, link.cut_down) = (0, 0);
            if was_cut {
                self.break_link(LinkId(id));
            }
        }
    }
}
