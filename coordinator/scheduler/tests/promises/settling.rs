//! One recorded outcome a task.

use scheduler::{Event, Sequence};

use crate::support::{Mesh, ms, task};

#[test]
fn a_second_done_of_a_task_that_is_being_settled_records_nothing() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.records_at_once = false;
    let ada = mesh.agent("ada").id.clone();
    mesh.deliver("resize");
    assert_eq!(mesh.succeed("ada", "1"), ["record 1 succeeded"]);

    assert_eq!(mesh.repeat_done(&ada), [""; 0], "it is confirmed when it is recorded, not before");
    assert_eq!(mesh.answer_records(), ["settled 1#1 to ada"]);
}

#[test]
fn a_done_of_a_task_that_nobody_knows_is_looked_up() {
    let mut mesh = Mesh::with_agents(["ada"]);
    let ada = mesh.agent("ada").id.clone();
    mesh.deliver("resize");
    let done = mesh.end("ada", "1", shared::task::AttemptOutcome::Succeeded);
    mesh.tell(Event::AttemptDone(ada.clone(), done.clone()));

    assert_eq!(mesh.tell(Event::AttemptDone(ada, done)), ["check 1#1 of ada"]);
    assert_eq!(mesh.records.len(), 1);
}

#[test]
fn a_message_delivered_again_starts_nothing() {
    let mut mesh = Mesh::with_agents(["ada", "bob"]);
    mesh.records_at_once = false;
    mesh.deliver("resize");

    assert_eq!(mesh.redeliver(), [""; 0]);
    mesh.succeed("ada", "1");
    let again = mesh.stored[&Sequence(1)].clone();
    assert_eq!(mesh.tell(Event::TaskDelivered(again)), [""; 0]);
}

#[test]
fn a_duplicate_waits_until_the_first_is_settled() {
    let mut mesh = Mesh::with_agents(["ada", "bob"]);
    mesh.deliver(task("resize").id("x"));

    assert_eq!(mesh.deliver(task("resize").id("x")), [""; 0]);
    assert_eq!(mesh.redeliver(), [""; 0]);
    assert_eq!(mesh.pass(ms(5000)), [""; 0]);

    let orders = mesh.succeed("ada", "x");
    assert_eq!(orders, ["record x succeeded", "settled x#1 to ada", "settle duplicate 2"]);
}

#[test]
fn a_duplicate_of_a_task_that_left_no_result_runs_after_it() {
    let mut mesh = Mesh::with_agents(["ada", "bob"]);
    mesh.records_at_once = false;
    mesh.deliver_all([task("resize").id("x"), task("resize").id("x"), task("resize").id("x")]);
    mesh.succeed("ada", "x");
    mesh.results.clear();

    let orders = mesh.answer_records();

    assert_eq!(orders, ["settled x#1 to ada", "settle duplicate 2", "settle duplicate 3", "start x#1 on bob"]);
}

#[test]
fn a_task_that_cannot_be_read_is_dead() {
    let mut mesh = Mesh::with_agents(["ada"]);

    assert_eq!(mesh.deliver_unreadable("resize", "x"), ["record x dead"]);

    let record = &mesh.records[0];
    assert!(record.dead_letter && record.error.as_deref().is_some_and(|error| error.contains("Hive-Cpu")));
}

#[test]
fn a_task_that_cannot_be_read_does_not_take_the_result_of_one_of_the_same_id() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver(task("resize").id("x"));

    assert_eq!(mesh.deliver_unreadable("resize", "x"), [""; 0]);
    assert_eq!(mesh.succeed("ada", "x"), ["record x succeeded", "settled x#1 to ada", "settle duplicate 2"]);
}

#[test]
fn what_is_settled_on_arrival_was_never_waiting() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver_all(["resize", "resize"]);

    mesh.deliver(task("resize").deadline(ms(0)));
    mesh.deliver_unreadable("resize", "x");

    assert_eq!(mesh.leader.waiting(&"resize".parse().expect("a good kind")), [0, 0, 1, 0]);
}
