//! Chaos: whole meshes of real processes that are killed, paused and cut off while an oracle outside of them counts what
//! was promised.
//!
//! [`scenario`] has one module for each class of fault. Each stands on a [`world`] (a mesh of real processes, with a
//! [`proxy`] before the broker where the network is at stake, and a cluster of brokers where they are), a [`client`]
//! that knows nothing but NATS, and agents whose handlers ([`agent`]) note what they do in files ([`witness`]). The
//! [`oracle`] compares these with what the mesh's streams hold in the end. [`figures`] are kept and printed as a table.

use std::path::PathBuf;
use std::time::Duration;

pub mod agent;
pub mod burner;
pub mod client;
pub mod clock;
mod cluster;
pub mod figures;
pub mod oracle;
pub mod proxy;
pub mod scenario;
pub mod task;
pub mod witness;
pub mod world;

/// What all scenarios are given.
#[derive(Clone, Debug)]
pub struct Context {
    /// The program `chaos`, which is all the mesh's programs at once.
    pub exe: PathBuf,
    /// The broker.
    pub nats_server: PathBuf,
    /// What is drawn from.
    pub seed: u64,
    /// How much is done.
    pub size: Size,
}

/// How much is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Size {
    /// So little that it belongs into the tests.
    Small,
    /// The figures of the soak, times this.
    Full(f64),
}

impl Context {
    /// How often something is done: in the soak, and in the tests.
    pub fn times(&self, full: usize, small: usize) -> usize {
        match self.size {
            Size::Small => small,
            Size::Full(scale) => ((full as f64 * scale).round() as usize).max(1),
        }
    }

    /// One of two, by size; not scaled.
    pub fn pick<T>(&self, full: T, small: T) -> T {
        if self.is_small() { small } else { full }
    }

    /// How long everything may take to be settled when all faults have ended: so many seconds in the soak. The broker
    /// delivers again after half a minute what nobody acknowledged.
    pub fn patience(&self, seconds: u64) -> Duration {
        Duration::from_secs(self.pick(seconds, 60.min(seconds)))
    }

    /// Whether it is a part of the tests.
    pub fn is_small(&self) -> bool {
        self.size == Size::Small
    }

    /// Limits as they are promised, or those that a loaded machine in a test may take.
    pub fn limits(&self, promised: figures::Limits) -> figures::Limits {
        if self.is_small() { promised.generous() } else { promised }
    }

    /// A source of randomness of one scenario, or of one part of it.
    pub fn random(&self, part: &str) -> fastrand::Rng {
        let hash = part.bytes().fold(self.seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        fastrand::Rng::with_seed(hash)
    }

    /// Tells how far a scenario is.
    pub fn tell(&self, scenario: &str, text: impl std::fmt::Display) {
        eprintln!("[{scenario}] {text}");
    }
}
