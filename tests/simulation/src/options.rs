//! What a seed draws: the shape of the mesh, what clients do, and which faults there are.

use std::fmt;

use fastrand::Rng;
use scheduler::placement::Strategy;

use crate::clock::{ms, secs};
use crate::event::Micros;
use crate::plant::Plant;

/// A class of fault that strikes from time to time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// An agent's process ends without a word.
    AgentCrash,
    /// An agent is stopped for a while.
    AgentPause,
    /// An agent is cut off, one way or both, with one of its connections or both.
    AgentCut,
    /// An agent is told to leave, by its host or through the mesh.
    AgentDrain,
    /// A coordinator's process ends without a word.
    CoordinatorCrash,
    /// A coordinator is stopped for a while.
    CoordinatorPause,
    /// A coordinator is cut off, one way or both.
    CoordinatorCut,
    /// A coordinator is told to stop.
    CoordinatorStop,
    /// The broker is killed and started again.
    BrokerRestart,
    /// The streams answer nothing for a while.
    Election,
    /// One connection breaks.
    Reset,
    /// The lease is taken away from the leader, who does not know it.
    LeaseLost,
    /// Somebody deletes a lane's consumer.
    LaneLost,
}

impl Fault {
    /// Every class.
    pub const ALL: [Fault; 13] = [
        Fault::AgentCrash,
        Fault::AgentPause,
        Fault::AgentCut,
        Fault::AgentDrain,
        Fault::CoordinatorCrash,
        Fault::CoordinatorPause,
        Fault::CoordinatorCut,
        Fault::CoordinatorStop,
        Fault::BrokerRestart,
        Fault::Election,
        Fault::Reset,
        Fault::LeaseLost,
        Fault::LaneLost,
    ];

    /// Whether it strikes coordinators only.
    pub fn is_of_coordinators(self) -> bool {
        use Fault::{CoordinatorCrash, CoordinatorStop, LaneLost, LeaseLost};
        matches!(self, CoordinatorCrash | CoordinatorStop | LeaseLost | LaneLost)
    }
}

/// What a seed draws.
#[derive(Clone, Debug)]
pub struct Options {
    /// The seed.
    pub seed: u64,
    /// Steps of the first phase, in which there are faults.
    pub steps: u64,
    /// A bug put in on purpose.
    pub plant: Option<Plant>,
    /// How many coordinators.
    pub coordinators: usize,
    /// How many agents.
    pub agents: usize,
    /// How many kinds.
    pub kinds: u8,
    /// How tasks are placed.
    pub strategy: Strategy,
    /// Most slots of an agent.
    pub slots: u32,
    /// Most attempts an agent queues.
    pub queue: u32,
    /// Mean time between submissions.
    pub submit_every: Micros,
    /// Most tasks that are open at once.
    pub open_tasks: usize,
    /// Longest run of an ordinary handler.
    pub run: Micros,
    /// How much a lane keeps at hand at least.
    pub window: usize,
    /// How often each class of fault strikes; those that are off are absent.
    pub faults: Vec<(Fault, Micros)>,
    /// Share of messages that vanish.
    pub lost: f64,
    /// Share of messages that are late, and how late at most.
    pub late: (f64, Micros),
    /// Share of JetStream's answers that vanish after their effect.
    pub answers_lost: f64,
    /// Share of publishes that JetStream refuses.
    pub refused: f64,
    /// Share of a coordinator's turns that take long, and how long at most.
    pub slow_turns: (f64, Micros),
    /// Share of beats that show an older state.
    pub stale_beats: f64,
    /// How much faster or slower clocks run, in millionths, and how far they are off.
    pub drift: (i64, i64),
    /// Share of handlers that fail.
    pub failing: f64,
    /// Share that hang until their time is over.
    pub hanging: f64,
    /// Share that do not end when they are told to.
    pub stubborn: f64,
    /// Share that take their agent down.
    pub poison: f64,
    /// Share of tasks that are submitted again.
    pub resubmitted: f64,
    /// Share that somebody wants to cancel.
    pub cancelled: f64,
    /// Share with a deadline.
    pub deadlines: f64,
    /// Share of submissions with something wrong.
    pub garbage: f64,
    /// Share whose result is not kept.
    pub discarded: f64,
    /// Whether the broker tells of closed connections.
    pub advisories: bool,
}

/// A planted bug is looked for with the simplest strategy: one of placing must not be taken for it.
fn draw_strategy(rng: &mut Rng, plant: Option<Plant>) -> Strategy {
    let drawn = Strategy::ALL[rng.usize(..Strategy::ALL.len())];
    if plant.is_some() { Strategy::LeastConnections } else { drawn }
}

/// Thirty in a hundred seeds do without.
fn is_on(rng: &mut Rng) -> bool {
    rng.f64() >= 0.3
}

/// Between the limits, small ones as often as large ones.
fn log_uniform(rng: &mut Rng, from: Micros, to: Micros) -> Micros {
    let (low, high) = ((from as f64).ln(), (to as f64).ln());
    (low + (high - low) * rng.f64()).exp() as Micros
}

impl Options {
    /// What this seed draws.
    pub fn draw(seed: u64, steps: u64, plant: Option<Plant>) -> Self {
        let rng = &mut Rng::with_seed(seed ^ 0x0bad_5eed);
        let share = |rng: &mut Rng, most: f64| if is_on(rng) { rng.f64() * most } else { 0.0 };
        let harsh = Self::draw_harshness(rng);
        let faults = {
            let on: Vec<Fault> = Fault::ALL.into_iter().filter(|_| is_on(rng)).collect();
            on.into_iter().map(|fault| (fault, harsh(rng))).collect()
        };
        Self {
            seed,
            steps,
            plant,
            coordinators: rng.usize(1..=3),
            agents: rng.usize(1..=5),
            kinds: rng.u8(1..=4),
            strategy: draw_strategy(rng, plant),
            slots: rng.u32(1..=4),
            queue: rng.u32(0..=4),
            submit_every: log_uniform(rng, ms(5), ms(300)),
            open_tasks: rng.usize(10..=80),
            run: log_uniform(rng, ms(2), secs(3)),
            window: [4, 16, 128][rng.usize(..3)],
            faults,
            lost: if rng.f64() < 0.4 { rng.f64() * 0.01 } else { 0.0 },
            late: (share(rng, 0.05), log_uniform(rng, ms(1), ms(400))),
            answers_lost: share(rng, 0.03),
            refused: share(rng, 0.03),
            slow_turns: (share(rng, 0.01), ms(500)),
            stale_beats: share(rng, 0.2),
            drift: if is_on(rng) { (50_000, 2_000_000) } else { (0, 0) },
            failing: share(rng, 0.3),
            hanging: share(rng, 0.03),
            stubborn: share(rng, 0.3),
            poison: share(rng, 0.02),
            resubmitted: share(rng, 0.2),
            cancelled: share(rng, 0.1),
            deadlines: share(rng, 0.1),
            garbage: share(rng, 0.03),
            discarded: share(rng, 0.1),
            advisories: rng.bool(),
        }
    }

    /// Some seeds have a fault now and then, others one after the other.
    fn draw_harshness(rng: &mut Rng) -> impl Fn(&mut Rng) -> Micros + use<> {
        let (from, to) = [(secs(20), secs(90)), (secs(8), secs(60)), (secs(3), secs(30))][rng.usize(..3)];
        move |rng: &mut Rng| log_uniform(rng, from, to)
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:#?}")
    }
}
