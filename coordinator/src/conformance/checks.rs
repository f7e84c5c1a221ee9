//! The table of checks, in the order in which they are made.

use futures_util::future::LocalBoxFuture;

use super::candidate::Candidate;
use super::{Checked, beats, ends, hello, leaving, logs, noise, orders, reconnect, stopping};

/// Makes a check.
type Run = for<'a> fn(&'a mut Candidate) -> LocalBoxFuture<'a, Checked>;

/// One thing that an agent should do.
#[derive(Clone, Copy)]
pub(super) struct Check {
    /// Its name.
    pub(super) name: &'static str,
    /// What an agent does that passes.
    pub(super) promise: &'static str,
    /// The heading in the document under which it is said.
    pub(super) section: &'static str,
    /// Checks without which this one can find nothing out.
    pub(super) needs: &'static [&'static str],
    /// Whether it takes an agent that is started by us.
    pub(super) needs_process: bool,
    /// Whether the agent has left afterwards.
    pub(super) ends_agent: bool,
    pub(super) run: Run,
}

impl Check {
    const fn new(name: &'static str, section: &'static str, promise: &'static str, run: Run) -> Self {
        Self { name, promise, section, needs: &[], needs_process: false, ends_agent: false, run }
    }

    const fn needs(self, needs: &'static [&'static str]) -> Self {
        Self { needs, ..self }
    }

    const fn needs_process(self) -> Self {
        Self { needs_process: true, ..self }
    }

    const fn ends_agent(self) -> Self {
        Self { ends_agent: true, ..self }
    }
}

/// All of them. The first makes sure that there is somebody to check; whatever ends the agent comes last.
#[rustfmt::skip]
pub(super) const CHECKS: &[Check] = &[
    Check::new("hello", "hello", "says who it is and what it can do", |c| Box::pin(hello::first(c))),
    Check::new("hello-repeated", "hello", "repeats hello every second until it is welcomed, and no longer",
        |c| Box::pin(hello::repeated(c))),
    Check::new("hello-asked", "welcome", "says hello again when a welcome wants it", |c| Box::pin(hello::asked(c))),
    Check::new("hello-standby", "welcome", "says hello when a standby wants it, in MessagePack and with epoch 0",
        |c| Box::pin(hello::standby(c))),

    Check::new("beat-interval", "beat", "beats as often as welcome says", |c| Box::pin(beats::interval(c))),
    Check::new("beat-sequence", "beat", "counts its beats", |c| Box::pin(beats::sequence(c)))
        .needs(&["beat-interval"]),
    Check::new("beat-holds", "beat", "lists what it holds: running, then done, until that is settled",
        |c| Box::pin(beats::holds(c))).needs(&["beat-interval"]),
    Check::new("ping", "ping", "answers a ping at once, with what it holds", |c| Box::pin(beats::ping(c))),
    Check::new("report", "report", "reports shares from 0 to 1", |c| Box::pin(beats::report(c))),

    Check::new("run", "done", "runs what is ordered, and says done with the required headers",
        |c| Box::pin(orders::run(c))),
    Check::new("done-repeated", "done", "repeats done until it is settled", |c| Box::pin(ends::repeated(c))),
    Check::new("failed", "done", "tells why a handler failed", |c| Box::pin(ends::failed(c))),
    Check::new("old-epoch", "run", "ignores an order of an older epoch than it has seen of a leader",
        |c| Box::pin(orders::old_epoch(c))),
    Check::new("other-incarnation", "run", "ignores an order for another process of it",
        |c| Box::pin(orders::other_incarnation(c))),
    Check::new("repeated-run", "run", "starts nothing twice that is ordered twice",
        |c| Box::pin(orders::repeated(c))),
    Check::new("adopted", "run", "goes on under the numbers of a newer leader", |c| Box::pin(orders::adopted(c))),
    Check::new("adopted-done", "run", "says done again under the numbers of a newer leader",
        |c| Box::pin(orders::adopted_when_done(c))).needs(&["done-repeated"]),
    Check::new("retried", "run", "starts a later attempt by a newer leader of what has failed",
        |c| Box::pin(orders::retried(c))).needs(&["failed"]),
    Check::new("unknown-kind", "run", "rejects a kind that it does not know", |c| Box::pin(orders::unknown_kind(c))),
    Check::new("slots", "run", "runs as many at once as it has slots, and queues the rest",
        |c| Box::pin(orders::slots(c))),

    Check::new("output-empty", "done", "gives an empty output as it is", |c| Box::pin(ends::output_empty(c))),
    Check::new("output-bytes", "done", "gives an output of all bytes as it is", |c| Box::pin(ends::output_bytes(c))),
    Check::new("output-big", "limits", "gives a big output as it is", |c| Box::pin(ends::output_big(c))),
    Check::new("output-limit", "limits", "says done even if the output leaves no room for headers",
        |c| Box::pin(ends::output_limit(c))),
    Check::new("timeout", "run", "ends what runs longer than it may", |c| Box::pin(ends::timeout(c))),
    Check::new("settled", "settled", "forgets what is settled", |c| Box::pin(ends::settled(c))),
    Check::new("settled-other", "settled", "forgets nothing when another attempt is settled",
        |c| Box::pin(ends::settled_other(c))),

    Check::new("follow", "follow", "tells what it has of the log that somebody follows, or that there is none",
        |c| Box::pin(logs::follow(c))),

    Check::new("cancel-running", "cancel", "ends what runs when it is cancelled",
        |c| Box::pin(stopping::running(c))),
    Check::new("cancel-queued", "cancel", "never starts what is cancelled in its queue",
        |c| Box::pin(stopping::queued(c))).needs(&["slots"]),
    Check::new("cancel-earlier", "cancel", "goes on when an earlier attempt, or by an older leader, is cancelled",
        |c| Box::pin(stopping::earlier(c))),
    Check::new("cancel-later", "cancel", "ends what it has of a task when a newer leader cancels it",
        |c| Box::pin(stopping::later(c))),
    Check::new("settled-running", "settled", "ends what runs and is settled", |c| Box::pin(stopping::settled(c))),

    Check::new("bad-run", "what-cannot-be-read", "takes no harm from a run that cannot be read",
        |c| Box::pin(noise::run(c))),
    Check::new("bad-messages", "what-cannot-be-read", "takes no harm from bytes that are no message",
        |c| Box::pin(noise::messages(c))),
    Check::new("unknown-verb", "what-cannot-be-read", "ignores a verb that it does not know",
        |c| Box::pin(noise::unknown_verb(c))),

    Check::new("reconnect-hello", "connection", "says hello with what it holds when the server is back",
        |c| Box::pin(reconnect::hello(c))).needs_process(),
    Check::new("reconnect-done", "connection", "says done of what ended while the server was away",
        |c| Box::pin(reconnect::done(c))).needs_process().needs(&["done-repeated", "reconnect-hello"]),

    Check::new("old-drain", "drain", "ignores a drain of an older epoch", |c| Box::pin(leaving::old_drain(c))),
    Check::new("drain", "drain", "takes nothing new, finishes what runs, hands back the rest by bye",
        |c| Box::pin(leaving::drain(c))).ends_agent(),
    Check::new("drain-unsettled", "drain", "leaves although its last done is never settled",
        |c| Box::pin(leaving::drain_unsettled(c))).needs_process().ends_agent(),
    Check::new("sigterm", "leaving", "drains when it is told to end", |c| Box::pin(leaving::sigterm(c)))
        .needs_process().ends_agent(),
    Check::new("incarnation", "hello", "has a greater incarnation when it is started again",
        |c| Box::pin(leaving::incarnation(c))).needs_process().ends_agent(),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const DOCUMENT: &str = include_str!("../../../docs/protocol.md");

    #[test]
    fn every_check_is_about_a_paragraph_that_is_there() {
        let anchor = |line: &str| line.trim_start_matches('#').trim().replace('`', "").to_lowercase().replace(' ', "-");
        let headings: BTreeSet<String> = DOCUMENT.lines().filter(|line| line.starts_with('#')).map(anchor).collect();

        for check in CHECKS {
            assert!(headings.contains(check.section), "{}: no heading `{}`", check.name, check.section);
        }
    }

    #[test]
    fn what_a_check_stands_on_is_checked_before() {
        let mut before = BTreeSet::new();
        for check in CHECKS {
            assert!(check.needs.iter().all(|need| before.contains(need)), "{}", check.name);
            assert!(before.insert(check.name), "{} is there twice", check.name);
        }
    }
}
