//! What goes wrong, and how it ends.

use crate::clock::{ms, secs};
use crate::event::{Event, Micros, Owner};
use crate::options::Fault;
use crate::world::World;

impl World {
    /// Plans the next fault of a class.
    pub(crate) fn plan_fault(&mut self, fault: Fault, every: Micros) {
        let at = self.ctx.now + self.ctx.rng.u64(..=2 * every);
        self.ctx.queue.push(at, Event::Fault(fault));
    }

    /// A fault strikes.
    pub(crate) fn strike(&mut self, fault: Fault) {
        if self.ctx.calm {
            return;
        }
        let every = self.ctx.options.faults.iter().find(|(other, _)| *other == fault).map(|(_, every)| *every);
        self.plan_fault(fault, every.expect("only what was drawn strikes"));
        self.ctx.trace(|| format!("fault: {fault:?}"));
        if !fault.is_of_coordinators() {
            self.ctx.last_fault = self.ctx.last_fault.max(self.ctx.now);
        }
        let agent = Owner::Agent(self.ctx.rng.usize(..self.agents.len()));
        let coordinator = self.some_coordinator();
        match fault {
            Fault::AgentCrash => self.crash(agent),
            Fault::AgentPause => self.pause(agent),
            Fault::AgentCut => self.cut(agent),
            Fault::AgentDrain => self.drain(agent),
            Fault::CoordinatorCrash => self.crash(coordinator),
            Fault::CoordinatorPause => self.pause(coordinator),
            Fault::CoordinatorCut => self.cut(coordinator),
            Fault::CoordinatorStop => self.stop_coordinator(coordinator),
            Fault::BrokerRestart => self.restart_broker(),
            Fault::Election => {
                let until = self.ctx.now + self.ctx.rng.u64(secs(4)..secs(9));
                self.broker.silent_until = until;
                self.note_fault_until(until);
            }
            Fault::Reset => {
                let link = self.ctx.rng.usize(..self.ctx.links.len());
                self.ctx.break_link(crate::event::LinkId(link));
            }
            Fault::LeaseLost => self.broker.drop_lease(),
            Fault::LaneLost => self.broker.drop_lane(&mut self.ctx),
        }
    }

    /// Mostly the one that leads: that is where it hurts.
    fn some_coordinator(&mut self) -> Owner {
        let leader = self.coordinators.iter().position(crate::coordinator::Coordinator::leads);
        match leader {
            Some(place) if self.ctx.rng.u8(..4) > 0 => Owner::Coordinator(place),
            _ => Owner::Coordinator(self.ctx.rng.usize(..self.coordinators.len())),
        }
    }

    fn note_fault_until(&mut self, until: Micros) {
        self.ctx.last_fault = self.ctx.last_fault.max(until);
    }

    fn crash(&mut self, owner: Owner) {
        let at = self.ctx.now + self.ctx.rng.u64(ms(100)..secs(5));
        // A process that is killed is noticed at once, a host that fails is not.
        let notice = if self.ctx.rng.u8(..4) > 0 { ms(1)..ms(10) } else { secs(5)..secs(20) };
        self.end(owner, at, notice);
    }

    fn pause(&mut self, owner: Owner) {
        let longest = if self.ctx.rng.bool() { secs(2) } else { secs(20) };
        let until = self.ctx.now + self.ctx.rng.u64(ms(100)..longest);
        match owner {
            Owner::Coordinator(place) => {
                let Some(node) = &mut self.coordinators[place].node else { return };
                node.paused_until = node.paused_until.max(until);
            }
            Owner::Agent(place) => {
                let Some(process) = &mut self.agents[place].process else { return };
                process.paused_until = process.paused_until.max(until);
                // Nobody can end what it runs while it is paused.
                self.ctx.oracle.excuse(process.instance);
            }
            Owner::Client => return,
        }
        self.note_fault_until(until);
        self.ctx.queue.push(until, Event::Resume(owner));
    }

    fn cut(&mut self, owner: Owner) {
        let longest = if self.ctx.rng.bool() { secs(3) } else { secs(25) };
        let until = self.ctx.now + self.ctx.rng.u64(ms(50)..longest);
        let (up, down) = [(true, true), (true, false), (false, true)][self.ctx.rng.usize(..3)];
        let links = self.links_of(owner);
        let spared = if self.ctx.rng.u8(..3) == 0 { self.ctx.rng.usize(..links.len()) } else { links.len() };
        for (place, link) in links.into_iter().enumerate() {
            if place != spared || matches!(owner, Owner::Coordinator(_)) {
                self.ctx.cut(link, up, down, until);
            }
        }
        self.note_fault_until(until);
    }

    fn drain(&mut self, owner: Owner) {
        let Owner::Agent(place) = owner else { return };
        if self.ctx.rng.bool() {
            self.agents[place].drain(self.places.of_agent(place), &mut self.ctx);
        } else {
            self.client.drain(place, &mut self.ctx);
        }
    }

    fn stop_coordinator(&mut self, owner: Owner) {
        if let Owner::Coordinator(place) = owner {
            self.coordinators[place].stop(&mut self.ctx);
        }
    }

    fn restart_broker(&mut self) {
        self.broker.stop(&mut self.ctx);
        let at = self.ctx.now + self.ctx.rng.u64(ms(50)..secs(2));
        self.note_fault_until(at);
        self.ctx.queue.push(at, Event::BrokerStarts);
    }

    /// All faults end, and everything that is gone is started again.
    pub(crate) fn calm_down(&mut self) {
        let now = self.ctx.now;
        self.ctx.trace(|| "calm".to_owned());
        self.calm_since = Some(now);
        self.ctx.calm = true;
        self.ctx.last_fault = now;
        self.ctx.mend();
        (self.broker.up, self.broker.silent_until) = (true, 0);
        for coordinator in &mut self.coordinators {
            if let Some(node) = &mut coordinator.node {
                node.paused_until = now;
            }
        }
        for agent in &mut self.agents {
            if let Some(process) = &mut agent.process {
                process.paused_until = now;
            }
        }
        let coordinators = (0..self.coordinators.len()).map(Owner::Coordinator);
        let owners: Vec<Owner> = coordinators.chain((0..self.agents.len()).map(Owner::Agent)).collect();
        for owner in owners {
            self.ctx.queue.push(now + ms(1), Event::Resume(owner));
            self.ctx.queue.push(now + ms(100), Event::Start(owner));
        }
    }
}
