//! The rules, one by one.

use std::collections::BTreeSet;
use std::time::Duration;

use scheduler::Timestamp;
use scheduler::scaling::signals::{Agent, Backlog, Measured, Slots};
use scheduler::scaling::{Arbiter, Decision, Policy, Rule, Share, Signals, Standing, WaitsFor};
use shared::api::AgentState;
use shared::{AgentId, Kind};

use crate::secs;

/// As many looks as are remembered at the defaults: five minutes.
const ALL_THAT_IS_REMEMBERED: usize = 61;

#[test]
fn a_calm_pool_stays_as_it_is_and_every_rule_says_what_it_waits_for() {
    let decision = pool(5).looks(ALL_THAT_IS_REMEMBERED, |_| {});

    assert!(decision.is_no_change(), "{decision:?}");
    assert_eq!(decision.findings.len(), 10);
    assert!(decision.findings.iter().all(|finding| finding.waits_for.is_some()), "{decision:?}");
    assert!(decision.findings.iter().all(|finding| finding.value.is_some()), "{decision:?}");
}

#[test]
fn many_tasks_for_each_agent_are_a_step_up() {
    let decision = pool(5).looks(1, |signals| set_backlog(signals, 500, 500, 1));

    assert_grows(&decision, Rule::QueueDepth, 6);
    assert!(pool(5).looks(1, |signals| set_backlog(signals, 499, 499, 1)).is_no_change());
}

#[test]
fn waits_beyond_the_target_are_a_step_up() {
    let decision = pool(5).looks(1, |signals| set_backlog(signals, 60, 60_000, 6));

    assert_grows(&decision, Rule::Wait, 6);
}

#[test]
fn busy_hosts_are_a_step_up() {
    let busy = |signals: &mut Signals| set(&mut signals.utilisation, share(0.81));

    assert_grows(&pool(5).looks(1, busy), Rule::BusyHosts, 6);
    assert!(pool(5).looks(1, |signals| set(&mut signals.utilisation, share(0.8))).is_no_change());
}

#[test]
fn less_throughput_is_a_step_up_only_while_tasks_wait() {
    let fall = |pool: &mut Bench, oldest| {
        pool.looks(2, |signals| set_backlog(signals, 10, 100, oldest));
        pool.looks(1, |signals| {
            set_backlog(signals, 10, 100, oldest);
            set(&mut signals.throughput, 7.9);
        })
    };

    assert_grows(&fall(&mut pool(5), 3), Rule::ThroughputDrop, 6);
    assert!(fall(&mut pool(5), 1).is_no_change());
}

#[test]
fn queued_work_asks_for_as_many_as_get_it_done_in_time() {
    let mut pool = pool(5);
    pool.policy.max_agents = 200;

    let decision = pool.looks(1, |signals| set_backlog(signals, 1000, 1_000_000, 4));

    // 15 taken at 90 %, and of 1000 s of work what goes beyond half of 5 s for each of 20 slots, in 5 s; 4 slots each.
    assert_grows(&decision, Rule::QueuedWork, 52);
}

#[test]
fn a_few_long_tasks_get_a_slot_each_and_not_more() {
    let mut pool = pool(5);
    pool.policy.max_agents = 200;

    let decision = pool.looks(1, |signals| set_backlog(signals, 8, 8_000_000, 4));

    assert_grows(&decision, Rule::QueuedWork, 7);
}

#[test]
fn agents_that_are_starting_count() {
    let mut pool = pool(60);
    pool.policy.max_agents = 200;
    pool.standing.present = 5;
    pool.standing.starting = 55;
    pool.standing.starting_since = Some(pool.now);

    let decision = pool.looks(1, |signals| {
        set_taken(signals, 20, 15.0);
        set_backlog(signals, 1000, 1_000_000, 4);
    });

    assert!(decision.is_no_change(), "{decision:?}");
    assert_eq!(waits_for(&decision, Rule::Wait), WaitsFor::Threshold);
}

#[test]
fn a_step_waits_until_the_last_one_has_had_its_effect() {
    let mut pool = pool(5);
    pool.standing.grown = Some(pool.now - secs(5));

    let decision = pool.looks(1, |signals| set(&mut signals.utilisation, share(0.9)));

    assert_eq!(waits_for(&decision, Rule::BusyHosts), WaitsFor::Cooldown(secs(20)));
}

#[test]
fn a_pool_is_never_larger_than_it_may_be_nor_smaller_than_it_must() {
    let mut large = pool(10);
    let mut small = pool(1);

    let decision = large.looks(1, |signals| set(&mut signals.utilisation, share(0.9)));

    assert_eq!(waits_for(&decision, Rule::BusyHosts), WaitsFor::Bounds);
    assert_grows(&small.looks(1, |_| {}), Rule::Minimum, 2);
    large.policy.max_agents = 7;
    let decision = large.looks(1, |_| {});
    assert_eq!((decision.wished, decision.cause.map(|cause| cause.rule)), (7, Some(Rule::Maximum)));
}

#[test]
fn little_to_do_for_five_minutes_halves_a_pool() {
    let mut pool = pool(8);
    let idle = |signals: &mut Signals| set_taken(signals, 32, 4.0);

    let before = pool.looks(30, idle);
    let after = pool.looks(31, idle);

    assert_eq!(waits_for(&before, Rule::LowDemand), WaitsFor::Samples(30, 60));
    assert_eq!((after.wished, after.cause.map(|cause| cause.rule)), (4, Some(Rule::LowDemand)));
}

#[test]
fn idle_hosts_give_one_agent_up() {
    let mut pool = pool(12);
    pool.policy.max_agents = 20;

    let decision = pool.looks(ALL_THAT_IS_REMEMBERED, |signals| {
        // 11 agents have 39.6 slots at 90 %: one fewer is no surplus that is worth a change by itself.
        set_taken(signals, 48, 38.0);
        set(&mut signals.utilisation, share(0.29));
    });

    assert_eq!((decision.wished, decision.cause.map(|cause| cause.rule)), (11, Some(Rule::IdleHosts)));
}

#[test]
fn nothing_shrinks_while_waits_are_long_or_go_up_and_down() {
    let mut pool = pool(8);
    pool.looks(ALL_THAT_IS_REMEMBERED, |signals| set_taken(signals, 32, 4.0));

    let decision = pool.looks(1, |signals| {
        set_taken(signals, 32, 4.0);
        set(&mut signals.wait_p95, secs(3));
    });

    assert_eq!(waits_for(&decision, Rule::LowDemand), WaitsFor::Stability);
}

#[test]
fn nothing_shrinks_while_the_load_rises() {
    let mut pool = pool(8);
    pool.looks(45, |signals| set_taken(signals, 32, 4.0));

    let decision = pool.looks(16, |signals| set_taken(signals, 32, 8.0));

    assert_eq!(waits_for(&decision, Rule::LowDemand), WaitsFor::LoadToStopRising);
}

#[test]
fn nothing_shrinks_without_room_in_the_flap_budget_nor_too_soon() {
    let mut pool = pool(8);
    pool.standing.may_shrink = false;
    let decision = pool.looks(ALL_THAT_IS_REMEMBERED, |signals| set_taken(signals, 32, 4.0));
    assert_eq!(waits_for(&decision, Rule::LowDemand), WaitsFor::FlapBudget);

    pool.standing.shrunk = Some(pool.now - secs(95));
    let decision = pool.looks(1, |signals| set_taken(signals, 32, 4.0));
    assert_eq!(waits_for(&decision, Rule::LowDemand), WaitsFor::Cooldown(secs(200)));
}

#[test]
fn what_was_too_few_for_a_load_is_not_tried_again_before_there_is_less() {
    let mut pool = pool(5);
    let grown = pool.looks(ALL_THAT_IS_REMEMBERED, |signals| {
        set_taken(signals, 20, 19.6);
        set(&mut signals.wait_p95, secs(2));
    });
    assert_grows(&grown, Rule::BusySlots, 6);
    (pool.standing.wished, pool.standing.present) = (6, 6);

    let about_the_same = pool.looks(ALL_THAT_IS_REMEMBERED, |signals| set_taken(signals, 24, 17.0));
    let less = pool.looks(ALL_THAT_IS_REMEMBERED, |signals| set_taken(signals, 24, 10.0));

    assert_eq!(waits_for(&about_the_same, Rule::LowDemand), WaitsFor::LessLoad);
    assert_eq!((less.wished, less.cause.map(|cause| cause.rule)), (3, Some(Rule::LowDemand)));
}

#[test]
fn an_empty_pool_gets_its_first_agent_for_its_first_task() {
    let mut pool = pool(0);
    pool.policy.min_agents = 0;

    let decision = pool.looks(1, |signals| set_backlog(signals, 1, 0, 0));

    assert_grows(&decision, Rule::QueuedWork, 1);
}

#[test]
fn the_last_agent_goes_only_when_nothing_was_done_at_all() {
    let mut used = pool(1);
    used.policy.min_agents = 0;
    let mut unused = pool(1);
    unused.policy.min_agents = 0;

    used.looks(30, |signals| set_taken(signals, 4, 0.01));

    assert!(used.looks(31, |signals| set_taken(signals, 4, 0.0)).is_no_change());
    assert_eq!(unused.looks(ALL_THAT_IS_REMEMBERED, |signals| set_taken(signals, 4, 0.0)).wished, 0);
}

#[test]
fn more_agents_would_only_fail_more() {
    let decision = pool(5).looks(1, |signals| {
        set(&mut signals.utilisation, share(0.9));
        set(&mut signals.failures, share(0.6));
    });

    assert_eq!(waits_for(&decision, Rule::BusyHosts), WaitsFor::FewerFailures);
}

#[test]
fn what_is_not_known_changes_nothing() {
    let forget: [fn(&mut Signals); 4] = [
        |signals| signals.backlog = None,
        |signals| signals.slots = None,
        |signals| signals.wait_p95 = None,
        |signals| signals.agents = None,
    ];
    for forget in forget {
        let mut pool = pool(5);

        let decision = pool.looks(ALL_THAT_IS_REMEMBERED, |signals| {
            set_backlog(signals, 1000, 1_000_000, 60);
            set_taken(signals, 20, 20.0);
            forget(signals);
        });

        assert!(decision.is_no_change(), "{decision:?}");
        assert_eq!(waits_for(&decision, Rule::QueuedWork), WaitsFor::Signal);
    }
}

#[test]
fn what_was_measured_too_long_ago_is_not_known() {
    let mut pool = pool(5);
    let long_ago = pool.now - secs(16);

    let decision = pool.looks(1, |signals| {
        let backlog = Backlog { depth: 1000, oldest: secs(60), work: secs(1000) };
        signals.backlog = Some(Measured::new(backlog, long_ago));
    });

    assert!(decision.is_no_change(), "{decision:?}");
    assert_eq!(waits_for(&decision, Rule::QueuedWork), WaitsFor::Signal);
}

#[test]
fn nothing_is_decided_while_the_link_is_in_doubt() {
    let decision = pool(1).looks(1, |signals| {
        set_backlog(signals, 1000, 1_000_000, 60);
        signals.in_doubt = true;
    });

    assert!(decision.is_no_change(), "{decision:?}");
    assert!(decision.findings.iter().all(|finding| finding.waits_for == Some(WaitsFor::Certainty)), "{decision:?}");
}

#[test]
fn a_policy_is_read_with_units_and_nothing_else() {
    let policy: Policy = toml::from_str("max-agents = 40\ntarget-wait = \"30s\"\ntarget-busy = 0.8").unwrap();

    assert_eq!((policy.max_agents, policy.target_wait, policy.target_busy), (40, secs(30), share(0.8)));
    for wrong in ["target-busy = 80", "target-wait = 30", "max-agent = 4", "overdue = \"kill\""] {
        assert!(toml::from_str::<Policy>(wrong).is_err(), "{wrong}");
    }
}

/// An arbiter, and what it is told: three quarters of the slots are taken and nothing waits.
struct Bench {
    arbiter: Arbiter,
    policy: Policy,
    standing: Standing,
    now: Timestamp,
}

fn pool(agents: u32) -> Bench {
    let standing =
        Standing { wished: agents, present: agents, startup_time: secs(5), may_shrink: true, ..Standing::default() };
    Bench {
        arbiter: Arbiter::default(),
        policy: Policy::default(),
        standing,
        now: Timestamp::from_origin(secs(10_000)),
    }
}

impl Bench {
    /// Looks so often, an interval apart, at what is calm but for this change, and gives the last decision.
    fn looks(&mut self, count: usize, change: impl Fn(&mut Signals)) -> Decision {
        let mut last = None;
        for _ in 0..count {
            self.now = self.now + self.policy.interval;
            let mut signals = self.calm();
            change(&mut signals);
            last = Some(self.arbiter.evaluate(&self.policy, &signals, &self.standing, self.now));
        }
        last.expect("it was looked at least once")
    }

    fn calm(&self) -> Signals {
        let at = self.now;
        let total = self.standing.present * 4;
        let agents = (0..self.standing.present).map(|number| agent(number, at)).collect();
        Signals {
            agents: Some(Measured::new(agents, at)),
            backlog: Some(Measured::new(Backlog::default(), at)),
            wait_p95: Some(Measured::new(Duration::ZERO, at)),
            slots: Some(Measured::new(Slots { total, taken: f64::from(total) * 0.75, leaving: 0.0 }, at)),
            utilisation: Some(Measured::new(share(0.5), at)),
            throughput: Some(Measured::new(10.0, at)),
            failures: Some(Measured::new(Share::ZERO, at)),
            in_doubt: false,
        }
    }
}

fn agent(number: u32, registered: Timestamp) -> Agent {
    Agent {
        id: AgentId::new(format!("agent-{number}")).expect("a good name"),
        state: AgentState::Healthy,
        registered,
        slots: 4,
        running: 0,
        remaining: Duration::ZERO,
        kinds: BTreeSet::from([Kind::new("work").expect("a good name")]),
        pinned: false,
    }
}

fn share(share: f64) -> Share {
    Share::new(share).expect("a share")
}

fn set<T>(signal: &mut Option<Measured<T>>, value: T) {
    if let Some(measured) = signal {
        measured.value = value;
    }
}

fn set_backlog(signals: &mut Signals, depth: u64, work_ms: u64, oldest: u64) {
    set(&mut signals.backlog, Backlog { depth, oldest: secs(oldest), work: Duration::from_millis(work_ms) });
}

fn set_taken(signals: &mut Signals, total: u32, taken: f64) {
    set(&mut signals.slots, Slots { total, taken, leaving: 0.0 });
}

fn waits_for(decision: &Decision, rule: Rule) -> WaitsFor {
    let finding = decision.finding(rule).expect("every rule is asked");
    finding.waits_for.clone().expect("it waits for something")
}

fn assert_grows(decision: &Decision, rule: Rule, to: u32) {
    let cause = decision.cause.unwrap_or_else(|| panic!("nothing changes: {decision:?}"));
    assert_eq!((cause.rule, decision.wished), (rule, to), "{decision:?}");
}
