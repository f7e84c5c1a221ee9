//! A ring of agents: which of them a key belongs to, so that few keys move when agents come and go.
//!
//! Consistent hashing (Karger et al., 1997), each agent at several points.

use std::collections::BTreeMap;

use shared::AgentId;

use crate::registry::AgentKey;

/// Points of each agent: with 64 the shares of the agents differ by about an eighth.
const POINTS: u64 = 64;

/// The points of the agents.
#[derive(Debug, Default)]
pub(crate) struct Ring(BTreeMap<u64, AgentKey>);

impl Ring {
    pub(crate) fn add(&mut self, key: AgentKey, id: &AgentId) {
        for point in 0..POINTS {
            self.0.insert(mix(hash(id.as_str()).wrapping_add(point)), key);
        }
    }

    pub(crate) fn remove(&mut self, key: AgentKey) {
        self.0.retain(|_, other| *other != key);
    }

    /// The agents from the key on, around the ring; one may come several times.
    pub(crate) fn from(&self, key: &str) -> impl Iterator<Item = AgentKey> + '_ {
        let start = mix(hash(key));
        self.0.range(start..).chain(self.0.range(..start)).map(|(_, agent)| *agent)
    }
}

/// FNV-1a (Fowler, Noll and Vo).
fn hash(text: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

/// The last steps of SplitMix64 (Steele, Lea and Flood, 2014): points that are neighbours come apart.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
