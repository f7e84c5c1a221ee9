//! The queue of what is going to happen, ordered by virtual time and then by the order in which it was planned.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use agent_worker::session::Key;

use crate::message::{Down, Up};
use crate::options::Fault;

/// Virtual time in microseconds.
pub type Micros = u64;

/// Names a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub usize);

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// The coordinator in this place.
    Coordinator(usize),
    /// The agent in this place.
    Agent(usize),
    /// All clients.
    Client,
}

/// Something that is going to happen.
#[derive(Debug)]
pub enum Event {
    /// A message reaches the broker.
    AtBroker(LinkId, u32, Up),
    /// A message reaches a process.
    AtProcess(LinkId, u32, Down),
    /// A process looks at its timers.
    Wake(Owner),
    /// A handler ends, unless it was planned anew.
    HandlerEnds {
        /// The agent's place.
        agent: usize,
        /// Its process.
        instance: u32,
        /// The start.
        key: Key,
        /// Which of the plans for it.
        plan: u32,
    },
    /// A connection is tried again.
    Connect(LinkId, u32, u32),
    /// A cut connection is given up.
    GiveUp(LinkId, u32),
    /// The broker notices that the other side of a connection is gone.
    Closed(LinkId, u32),
    /// The broker looks at its timers.
    BrokerTick,
    /// The broker is there again.
    BrokerStarts,
    /// A process is started in place of one that is gone.
    Start(Owner),
    /// A paused process goes on.
    Resume(Owner),
    /// A fault of this class is due.
    Fault(Fault),
    /// A client submits something.
    Submit,
    /// A client looks whether its submission was answered.
    Retry(u32),
    /// A client submits a task once more.
    Again(u32),
    /// A client asks for the cancellation of a task.
    Cancel(usize),
}

/// What is going to happen.
#[derive(Debug, Default)]
pub struct Queue {
    heap: BinaryHeap<Reverse<(Micros, u64, u32)>>,
    slab: Vec<Option<Event>>,
    free: Vec<u32>,
    planned: u64,
}

impl Queue {
    /// Plans an event.
    pub fn push(&mut self, at: Micros, event: Event) {
        self.planned += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.slab.push(None);
            u32::try_from(self.slab.len() - 1).expect("fewer than four billion events at once")
        });
        self.slab[place as usize] = Some(event);
        self.heap.push(Reverse((at, self.planned, place)));
    }

    /// Takes the next event.
    pub fn pop(&mut self) -> Option<(Micros, Event)> {
        let Reverse((at, _, place)) = self.heap.pop()?;
        self.free.push(place);
        let event = self.slab[place as usize].take().expect("an event is taken once");
        Some((at, event))
    }
}
