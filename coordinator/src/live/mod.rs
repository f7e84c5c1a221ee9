//! Events as they happen, for any number of readers.
//!
//! One reader of the stream in this process fills a [`Ring`] of the newest events, each written once as it goes to the
//! readers; it begins with the first of them and ends a while after the last. Who follows takes from the ring at its own
//! pace. One that is behind it looks up what it has missed in the stream, so a slow reader costs nobody but itself, and
//! one that comes back goes on after the last event that it has seen. What the stream does not keep any more it is told
//! as a gap.

mod follower;
mod hub;
mod ring;
mod sse;
mod told;

pub(crate) use follower::{Follower, Item};
pub(crate) use hub::Hub;
pub(crate) use ring::{Look, Ring};
pub(crate) use sse::router;
pub(crate) use told::Told;
