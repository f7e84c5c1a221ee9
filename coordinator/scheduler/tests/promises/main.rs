//! What the scheduler promises, shown through its public interface: events in, actions and views out.
//!
//! Rules are one promise a test, in the module of what they are about. `properties` runs random scripts and looks
//! at invariants after every step.

mod attempts;
mod browse;
mod by_hand;
mod doubt;
mod figures;
mod gauges;
mod liveness;
mod load;
mod placing;
mod properties;
mod resources;
mod settling;
mod shares;
mod strategies;
mod support;
mod takeover;
mod why;
