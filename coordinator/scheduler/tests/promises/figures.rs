//! How much there is of everything, and what has been counted.

use scheduler::placement::Strategy;
use scheduler::{Figures, KindFigures};
use shared::Priority;
use shared::task::AttemptOutcome;

use crate::support::{LONGER_THAN_ANY_VERDICT, Mesh, agent, ms, task};

fn figures(mesh: &Mesh) -> Figures {
    mesh.leader.figures(mesh.now)
}

fn of_kind(figures: &Figures, kind: &str) -> KindFigures {
    let found = figures.kinds.iter().find(|figures| figures.kind.as_str() == kind);
    found.unwrap_or_else(|| panic!("there is nothing of {kind}")).clone()
}

#[test]
fn what_waits_and_runs_is_told_by_kind_and_priority() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver_all([task("resize").priority(Priority::High), task("resize"), task("count").priority(Priority::Low)]);
    mesh.pass(ms(1000));

    let figures = figures(&mesh);

    let resize = of_kind(&figures, "resize");
    assert_eq!((resize.running, resize.waiting, resize.agents), ([0, 1, 0, 0], [0, 0, 1, 0], 1));
    assert_eq!(resize.oldest, Some(ms(1000)));
    assert_eq!(of_kind(&figures, "count").waiting, [0, 0, 0, 1]);
    assert_eq!((figures.slots, figures.slots_taken, figures.in_hand), (1, 1, 3));
    assert_eq!(figures.blocked.get("slots"), Some(&2), "{:?}", figures.blocked);
}

#[test]
fn what_nobody_could_ever_run_is_told_apart() {
    let mut mesh = Mesh::with_agents([agent("ada").memory(100)]);
    mesh.deliver_all([task("resize").memory(700), task("resize").memory(700)]);

    let figures = figures(&mesh);

    assert_eq!(of_kind(&figures, "resize").unmet, 2);
    assert_eq!(figures.blocked.get("size"), Some(&2), "{:?}", figures.blocked);
}

#[test]
fn of_a_resource_it_is_told_what_there_is_and_what_is_reserved() {
    let mut mesh = Mesh::with_agents([agent("ada").cpu(4000).countable("gpus", 2), agent("bob").cpu(2000)]);
    mesh.deliver(task("resize").cpu(3000).countable("gpus", 1));
    mesh.report("bob", 0.5);

    let figures = figures(&mesh);

    let cpu = figures.resources[0];
    assert_eq!((cpu.capacity, cpu.reserved, cpu.used), (6000, 3000, 1000.0));
    assert_eq!((figures.countables["gpus"].capacity, figures.countables["gpus"].reserved), (2, 1));
}

#[test]
fn placements_ends_beats_and_verdicts_are_counted() {
    let mut mesh = Mesh::with_strategy(Strategy::RoundRobin, ["ada", "bob"]);
    mesh.deliver_all(["resize", "resize"]);
    let failed = mesh.given_to("ada")[0].clone();
    mesh.fail("ada", &failed);
    mesh.silence("bob", LONGER_THAN_ANY_VERDICT);

    let tally = figures(&mesh).tally;

    let placed: u64 = tally.placements().filter(|(by, _)| *by == Strategy::RoundRobin).map(|(_, count)| count).sum();
    assert!(placed >= 2, "{tally:?}");
    assert_eq!(tally.ended().find(|(outcome, _)| *outcome == AttemptOutcome::Failed).map(|(_, count)| count), Some(1));
    assert_eq!(tally.losses().find(|(why, _)| *why == "silent").map(|(_, count)| count), Some(1));
    assert!(tally.suspicions >= 1 && tally.beats >= 4, "{tally:?}");
}
