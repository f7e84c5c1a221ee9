//! A leader goes, a standby leads.

use scheduler::{Event, Sequence};
use shared::api::AgentState;
use shared::message::AttemptRef;
use shared::task::AttemptOutcome;
use shared::{Epoch, TaskId};

use crate::support::{LONGER_THAN_ANY_VERDICT, Mesh, agent, ms, task};

#[test]
fn what_runs_is_not_started_again() {
    let mut mesh = Mesh::with_agents(["ada", "bob"]);
    mesh.deliver_all(["resize", "resize"]);
    mesh.pass(ms(600));

    mesh.take_over();
    mesh.redeliver();
    assert_eq!(mesh.pass(ms(3000)), [""; 0]);

    assert_eq!(mesh.succeed("ada", "1"), ["record 1 succeeded", "settled 1#1 to ada"]);
    assert_eq!(mesh.succeed("bob", "2"), ["record 2 succeeded", "settled 2#1 to bob"]);
}

#[test]
fn what_was_not_started_starts_when_every_agent_has_said_what_it_holds() {
    let mut mesh = Mesh::with_agents(["ada", "bob"]);
    mesh.deliver_all(["resize", "resize", "resize"]);
    mesh.pass(ms(600));

    mesh.agent("bob").muted = true;
    mesh.take_over();
    mesh.redeliver();
    mesh.succeed("ada", "1");
    assert_eq!(mesh.dispatches.len(), 2, "an agent of which nothing is known yet may have it");

    assert_eq!(mesh.unmute("bob"), ["start 3#1 on ada"]);
}

#[test]
fn a_standby_that_knows_every_agent_waits_for_nothing_but_their_answers() {
    let mut mesh = Mesh::with_agents(["ada", "bob"]);
    mesh.pass(ms(700));

    mesh.take_over();

    assert_eq!(mesh.deliver("resize"), ["start 1#1 on ada"]);
}

#[test]
fn a_standby_that_may_have_missed_something_waits_for_a_beat_of_those_it_may_not_know() {
    let mut mesh = Mesh::with_agents(["ada", "bob"]);
    mesh.tell(Event::LinkRestored);
    mesh.take_over();

    assert_eq!(mesh.deliver("resize"), [""; 0]);
    assert_eq!(mesh.pass(ms(500)), [""; 0]);

    assert_eq!(mesh.pass(ms(150)), ["start 1#1 on ada"]);
}

#[test]
fn an_agent_that_stays_silent_is_awaited_for_a_second_at_most() {
    let mut mesh = Mesh::with_agents(["ada", "bob"]);
    mesh.agent("ada").muted = true;
    mesh.take_over();
    mesh.deliver("resize");

    assert_eq!(mesh.pass(ms(950)), [""; 0]);
    assert_eq!(mesh.pass(ms(100)), ["start 1#1 on bob"]);
}

#[test]
fn an_attempt_that_was_begun_since_the_last_beat_is_adopted_too() {
    let mut mesh = Mesh::with_agents(["ada", "bob"]);
    mesh.pass(ms(600));
    mesh.deliver("resize");

    mesh.take_over();
    mesh.redeliver();
    assert_eq!(mesh.pass(ms(3000)), [""; 0]);

    assert_eq!(mesh.given_to("ada"), ["1"]);
}

#[test]
fn a_later_attempt_that_the_standby_saw_no_beat_between_is_the_one_adopted() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver(task("resize").max_attempts(2).backoff(ms(1), ms(1)));
    mesh.beat("ada");
    mesh.fail("ada", "1");
    mesh.tell(Event::DeadlineReached);
    mesh.now = mesh.now + ms(10);
    mesh.tell(Event::DeadlineReached);
    assert_eq!(mesh.dispatches.len(), 2);
    mesh.beat("ada");

    mesh.take_over();
    mesh.log.clear();
    mesh.redeliver();
    mesh.pass(ms(1000));

    // Its failure is taken for the failure of the attempt that runs, not of one that was replaced; and the one before
    // is not forgotten.
    assert_eq!(mesh.fail("ada", "1"), ["record 1 failed", "settled 1#2 to ada"]);
}

#[test]
fn a_later_attempt_that_only_the_answer_to_the_new_leader_shows_is_the_one_adopted() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver(task("resize").max_attempts(2).backoff(ms(1), ms(1)));
    mesh.beat("ada");
    mesh.fail("ada", "1");
    mesh.now = mesh.now + ms(10);
    mesh.tell(Event::DeadlineReached);
    assert_eq!(mesh.dispatches.len(), 2);

    // The standby has heard the first attempt in a beat, and nothing of the second.
    mesh.take_over();
    mesh.redeliver();
    mesh.pass(ms(1000));

    assert_eq!(mesh.dispatches.len(), 2, "what runs is not ordered again");
    assert_eq!(mesh.fail("ada", "1"), ["record 1 failed", "settled 1#2 to ada"]);
}

#[test]
fn an_attempt_that_a_leader_knows_nothing_of_is_told_to_stop() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.records_at_once = false;
    mesh.deliver("resize");
    let message = Sequence(1);

    mesh.stored.remove(&message);
    assert_eq!(mesh.tell(Event::TaskRemoved(message)), ["cancel 1#1 on ada"]);

    assert_eq!(mesh.beat("ada"), ["cancel 1#1 on ada"]);
    assert_eq!(mesh.leader.agents(mesh.now)[0].running, 0, "it takes no slot in the leader's picture");
}

#[test]
fn an_attempt_of_an_older_epoch_is_not_adopted_for_ever() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver("resize");
    mesh.agent("ada").muted = true;
    mesh.stored.clear();
    mesh.take_over();
    mesh.pass(ms(11_000));

    assert_eq!(mesh.unmute("ada"), ["cancel 1#1 on ada", "cancel 1#1 on ada"]);
}

#[test]
fn a_task_settled_by_the_old_leader_gives_its_slot_back() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver("resize");
    mesh.beat("ada");
    // The old leader records it and removes its message; the word to the agent is lost with it.
    mesh.records_at_once = false;
    mesh.succeed("ada", "1");
    mesh.stored.clear();
    let ada = mesh.agent("ada").id.clone();

    mesh.take_over();
    mesh.pass(ms(1100));

    assert_eq!(mesh.repeat_done(&ada), ["check 1#1 of ada"]);
    mesh.pass(ms(2000));
    assert_eq!(mesh.leader.agents(mesh.now)[0].running, 0);
    assert_eq!(mesh.deliver("resize"), ["start 2#1 on ada"]);
}

#[test]
fn a_task_found_settled_when_its_message_comes_gives_its_slot_back() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver("resize");
    mesh.beat("ada");
    // The old leader recorded it, and went before it removed the message.
    mesh.records_at_once = false;
    mesh.succeed("ada", "1");

    mesh.take_over();
    mesh.redeliver();
    let ada = mesh.agent("ada").id.clone();
    mesh.repeat_done(&ada);
    mesh.pass(ms(3000));

    assert_eq!(mesh.leader.agents(mesh.now)[0].running, 0);
    assert_eq!(mesh.deliver("resize"), ["start 2#1 on ada"]);
}

#[test]
fn a_duplicate_of_an_adopted_task_whose_message_is_gone_is_not_held_for_ever() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver(task("resize").id("x"));
    mesh.beat("ada");
    mesh.stored.clear();

    mesh.take_over();
    mesh.deliver(task("resize").id("x"));
    mesh.kill("ada");
    let orders = mesh.pass(ms(3000));

    assert_eq!(orders, ["settle duplicate 2"]);
    assert_eq!(mesh.restart("ada"), ["start x#1 on ada"]);
}

#[test]
fn a_task_handed_back_before_its_message_comes_starts_when_it_comes() {
    let mut mesh = Mesh::with_agents([agent("ada").queue(1), agent("bob").kinds(&["count"])]);
    mesh.deliver_all(["resize", "resize"]);
    mesh.beat("ada");

    mesh.take_over();
    mesh.leave("ada");
    mesh.join("cyd");
    mesh.pass(ms(2000));
    assert_eq!(mesh.dispatches.len(), 2, "nothing is started that cannot be sent");

    mesh.redeliver();
    assert_eq!(mesh.given_to("cyd"), ["1"]);
    assert_eq!(mesh.succeed("cyd", "1")[0], "record 1 succeeded");
    assert_eq!(mesh.succeed("cyd", "2")[0], "record 2 succeeded");
}

#[test]
fn a_cancellation_survives_until_the_message_comes() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver("resize");
    mesh.beat("ada");

    mesh.take_over();
    assert_eq!(mesh.cancel(1), ["cancel 1#1 on ada"]);
    mesh.redeliver();

    assert_eq!(mesh.done("ada", "1", AttemptOutcome::Cancelled)[0], "record 1 cancelled");
}

#[test]
fn a_deadline_is_kept_by_a_leader_that_adopted_the_task() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver(task("resize").deadline(ms(8000)));
    mesh.beat("ada");
    mesh.take_over();
    mesh.redeliver();

    assert_eq!(mesh.silence("ada", ms(3000)), [""; 0]);
    assert_eq!(mesh.pass(ms(6000)), ["record 1 expired"]);
}

#[test]
fn a_leader_that_was_deposed_without_knowing_it_leaves_the_new_ones_attempts_alone() {
    let mut mesh = Mesh::with_agents(["ada", "bob"]);
    mesh.deliver("resize");
    let bob = mesh.agent("bob").id.clone();
    let mut beat = mesh.agent("bob").beat();
    let attempt = AttemptRef { task: TaskId::from_sequence(9), attempt: 1, epoch: Epoch(2) };
    let held = |attempt: &AttemptRef, sequence| shared::message::Held {
        task: attempt.task.clone(),
        sequence,
        kind: "resize".parse().expect("a good kind"),
        attempt: attempt.attempt,
        epoch: attempt.epoch,
        state: shared::message::HeldState::Running,
    };
    let moved = AttemptRef { task: TaskId::from_sequence(1), attempt: 2, epoch: Epoch(2) };
    beat.holds = vec![held(&attempt, 9), held(&moved, 1)];

    assert_eq!(mesh.tell(Event::AgentBeat(bob, beat)), [""; 0]);
}

#[test]
fn a_leader_with_nothing_to_do_has_nothing_to_do() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.take_over();
    mesh.pass(LONGER_THAN_ANY_VERDICT);

    assert!(mesh.leader.next_deadline() > mesh.now);
}

#[test]
fn a_standby_notices_dead_agents_and_orders_nothing() {
    let mut mesh = Mesh::with_agents(["ada", "bob"]);
    mesh.deliver("resize");
    mesh.silence("ada", LONGER_THAN_ANY_VERDICT);

    mesh.take_over();

    assert_eq!(mesh.state_of("ada"), AgentState::Offline);
}

#[test]
fn an_attempt_that_is_reported_after_its_message_came_is_shown_with_its_agent() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver("resize");
    mesh.agent("ada").muted = true;
    mesh.take_over();
    mesh.redeliver();

    mesh.unmute("ada");

    assert_eq!(mesh.given_to("ada"), ["1"]);
}

#[test]
fn failures_are_counted_on_by_the_next_leader() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver(task("resize").max_attempts(2).backoff(ms(1), ms(1)));
    mesh.fail("ada", "1");

    mesh.take_over();
    mesh.redeliver();
    mesh.pass(ms(1000));
    assert_eq!(mesh.fail("ada", "1"), ["record 1 failed", "settled 1#2 to ada"]);

    let ends: Vec<u32> = mesh.records[0].history.iter().map(|end| end.attempt).collect();
    assert_eq!(ends, [1, 2], "the dead letter tells of both");
    assert!(mesh.histories.is_empty(), "what was kept goes with the task");
}

#[test]
fn a_task_that_takes_agents_down_is_known_to_the_next_leader() {
    let mut mesh = Mesh::with_agents(["ada", "bob", "cyd", "dan"]);
    mesh.deliver("resize");
    mesh.silence("ada", LONGER_THAN_ANY_VERDICT);
    mesh.silence("bob", LONGER_THAN_ANY_VERDICT);

    mesh.take_over();
    mesh.redeliver();
    mesh.pass(ms(1000));

    assert_eq!(mesh.silence("cyd", LONGER_THAN_ANY_VERDICT + ms(2000)), ["record 1 dead"]);
    assert_eq!(mesh.records[0].history.len(), 3);
}

#[test]
fn an_attempt_that_ended_under_the_old_leader_is_not_started_again() {
    let mut mesh = Mesh::with_agents(["ada", "bob"]);
    mesh.deliver("resize");
    mesh.end("ada", "1", AttemptOutcome::Succeeded);

    mesh.take_over();
    mesh.redeliver();
    assert_eq!(mesh.pass(ms(1500)), [""; 0]);

    let ada = agent("ada").id;
    assert_eq!(mesh.repeat_done(&ada), ["record 1 succeeded", "settled 1#1 to ada"]);
}

#[test]
fn of_two_messages_with_one_id_only_one_attempt_goes_on() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver(task("resize").id("twin"));
    mesh.deliver(task("resize").id("twin"));

    mesh.take_over();
    mesh.tell(Event::AgentUnreachable(agent("ada").id));
    let later = mesh.stored[&Sequence(2)].clone();
    mesh.tell(Event::TaskDelivered(later));
    let said = mesh.pass(ms(1500));

    assert!(said.iter().all(|order| !order.starts_with("cancel")), "{said:?}");
    assert_eq!(mesh.given_to("ada").len(), 1);
}

#[test]
fn a_cancellation_outlives_the_attempt_that_was_adopted() {
    let mut mesh = Mesh::with_agents(["ada", "bob"]);
    mesh.deliver("resize");
    mesh.take_over();
    assert_eq!(mesh.cancel(1), ["cancel 1#1 on ada"]);
    mesh.silence("ada", LONGER_THAN_ANY_VERDICT + ms(2000));

    assert_eq!(mesh.redeliver(), ["record 1 cancelled"]);
}

#[test]
fn a_cancellation_holds_although_the_attempt_that_was_adopted_had_failed_before() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver(task("resize").max_attempts(3).backoff(ms(60_000), ms(60_000)));
    mesh.beat("ada");
    mesh.fail("ada", "1");

    mesh.agent("ada").muted = true;
    mesh.take_over();
    mesh.cancel(1);

    assert_eq!(mesh.redeliver(), ["record 1 cancelled"]);
}
