//! Actuators that are slow, fail, or lie; agents that die.

use scheduler::scaling::Rule;
use scheduler::scaling::history::Outcome;
use scheduler::scaling::world::{Actuator, Curve, Mishap, Run, World};

use crate::{curve, secs};

fn run(curve: &Curve, actuator: Actuator, seed: u64) -> Run {
    World::new(curve, actuator, seed).run()
}

/// Agents that 40 busy slots take.
const ENOUGH: u32 = 11;

fn assert_met(curve: &Curve, run: &Run) {
    let last = run.last();
    assert!(last.present >= ENOUGH, "{last:?}\n{}", run.story());
    let wait = run.wait_p95(curve.end - secs(600), curve.end);
    assert!(wait <= curve.policy.target_wait, "{wait:?}\n{}", run.story());
}

#[test]
fn slow_agents_are_waited_for() {
    let curve = curve::too_much(1);

    let run = run(&curve, Actuator::Works(secs(40)), 1);

    assert_met(&curve, &run);
    assert!(run.most_starts_in_an_hour() <= 2 * curve.policy.flap_budget as usize, "{}", run.story());
    assert!(run.reversals() <= 3, "{}", run.story());
}

#[test]
fn starts_that_are_refused_are_tried_again_later_and_told() {
    for seed in 1..=8 {
        let curve = curve::too_much(seed);

        let run = run(&curve, Actuator::RefusesHalf, seed);

        assert_met(&curve, &run);
        let refused: Vec<_> = run.events.iter().filter(|event| event.outcome == Outcome::Failed).collect();
        assert!(refused.iter().all(|event| event.error.as_deref() == Some("no room")), "{}", run.story());
        assert!(refused.len() <= 2 * curve.policy.flap_budget as usize, "{}", run.story());
    }
}

#[test]
fn what_came_of_a_start_is_kept_and_the_rest_tried_again() {
    for seed in 1..=8 {
        let curve = curve::too_much(seed);

        let run = run(&curve, Actuator::LosesHalf, seed);

        assert_met(&curve, &run);
    }
}

#[test]
fn an_actuator_that_lies_is_no_loop_of_starts() {
    let curve = curve::too_much(1);

    let run = run(&curve, Actuator::Lies, 1);

    assert!(run.most_starts_in_an_hour() <= curve.policy.flap_budget as usize, "{}", run.story());
    assert!(run.ordered.len() > 1, "it is tried again\n{}", run.story());
    let ended = run.events.iter().filter(|event| event.outcome != Outcome::Underway);
    assert!(
        ended.clone().count() > 0 && ended.clone().all(|event| event.outcome == Outcome::Failed),
        "{}",
        run.story()
    );
    assert!(ended.clone().all(|event| event.after == Some(2)), "nobody came\n{}", run.story());
    assert_eq!(run.reversals(), 0, "{}", run.story());
}

#[test]
fn agents_that_die_at_once_are_no_loop_of_starts_either() {
    let curve = curve::too_much(1);

    let run = run(&curve, Actuator::Crashes, 1);

    // One that has come and is about to die is not known to have failed.
    assert!(run.most_starts_in_an_hour() <= curve.policy.flap_budget as usize + 2, "{}", run.story());
    assert!(run.interrupted > 0);
}

#[test]
fn what_is_started_twice_is_noticed_and_put_right() {
    let curve = curve::too_much(1);

    let run = run(&curve, Actuator::StartsTwice, 1);

    assert_met(&curve, &run);
    assert!(run.events.iter().any(|event| event.cause.rule == Rule::Surplus), "{}", run.story());
    assert_eq!(run.last().present, run.last().wished, "{}", run.story());
    assert_eq!(run.interrupted, 0);
}

#[test]
fn dead_agents_are_replaced() {
    let curve = curve::steady(secs(1), 1);

    let run = World::new(&curve, Actuator::Works(secs(5)), 1).with_mishap(secs(600), Mishap::Deaths(5)).run();

    let replaced = run.events.iter().find(|event| event.cause.rule == Rule::Replacement).expect("they are replaced");
    assert_eq!(replaced.at.since_origin(), secs(600), "{}", run.story());
    assert_eq!(replaced.wished, replaced.before + 5, "{}", run.story());
    assert_eq!((replaced.after, replaced.outcome), (Some(replaced.wished), Outcome::Succeeded), "{}", run.story());
    assert_eq!(run.last().present, run.last().wished, "{}", run.story());
}
