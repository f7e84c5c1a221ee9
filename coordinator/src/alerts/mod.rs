//! Alerts, for those without Prometheus: rules over the metrics of the mesh, and what fires, is acknowledged and kept
//! quiet.
//!
//! What the rules say of the samples of a moment is decided by the `book`, which does no I/O: `settings` make `rule`s, whose
//! `expression`s it evaluates. The `manager` is the loop around it, which works while this coordinator leads: it takes
//! samples from the `source`, has `keeping` write what is `kept`, and tells what has happened on `hive.event.alert.…`. What
//! people say of alerts is in `quiet`, and what they ask for in `asked`.

mod asked;
mod book;
mod expression;
mod increases;
pub(crate) mod keeping;
mod kept;
mod manager;
mod matcher;
mod quiet;
mod rule;
mod sample;
mod settings;
mod source;

use scheduler::Timestamp;
use shared::api::Refusal;

pub use asked::{acknowledge, get, list, rules, silence, silences, unsilence};
pub use book::Book;
pub use expression::{Measure, Take};
pub(crate) use manager::{Manager, Parts};
pub use matcher::{BadMatcher, Matcher};
pub use settings::{Config, OperandConfig, RuleConfig};
pub(crate) use settings::{problems, rules as rules_of};
pub(crate) use source::{Exposition, Source};

/// Something to be looked up in the book of alerts, or to be done to it; what it returns answers when that is kept.
pub(crate) type Ask = Box<dyn FnOnce(&mut Book, Timestamp) -> Reply + Send>;

/// Answers, whether or not it could be kept.
pub(crate) type Reply = Box<dyn FnOnce(Result<(), Refusal>) + Send>;
