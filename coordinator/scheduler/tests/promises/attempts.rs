//! Attempts that fail, are refused, take agents down, get lost or come too late.

use scheduler::{Delivery, Event, Sequence};
use shared::Outcome;
use shared::message::Beat;
use shared::task::AttemptOutcome::{Cancelled, Rejected, Succeeded, Timeout};

use crate::support::{LONGER_THAN_ANY_VERDICT, Mesh, agent, ms, task};

#[test]
fn a_failed_task_is_tried_again_after_a_pause_until_its_attempts_are_used_up() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver(task("resize").max_attempts(3).backoff(ms(1000), ms(2000)));

    assert_eq!(mesh.fail("ada", "1"), ["settled 1#1 to ada"]);
    assert_eq!(mesh.pass(ms(1050)), ["start 1#2 on ada"]);
    assert_eq!(mesh.done("ada", "1", Timeout), ["settled 1#2 to ada"]);
    assert_eq!(mesh.pass(ms(2050)), ["start 1#3 on ada"]);
    assert_eq!(mesh.fail("ada", "1"), ["record 1 failed", "settled 1#3 to ada"]);

    let record = &mesh.records[0];
    assert_eq!((record.attempts, record.dead_letter, record.error.is_some()), (3, true, true));
}

#[test]
fn pauses_between_attempts_are_drawn_from_the_whole_span() {
    let mut mesh = Mesh::with_agents([agent("ada").slots(100)]);
    for _ in 0..100 {
        mesh.deliver(task("resize").backoff(ms(1000), ms(1000)));
    }
    for sequence in 1..=100 {
        mesh.fail("ada", &sequence.to_string());
    }

    let restarts: Vec<usize> = (0..4).map(|_| mesh.pass(ms(250)).len()).collect();

    assert!(restarts.iter().all(|n| (10..=40).contains(n)), "{restarts:?} of 100 in each quarter of the span");
}

#[test]
fn a_refusal_is_not_charged() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver(task("resize").max_attempts(1));

    for number in 1..=5 {
        assert_eq!(mesh.done("ada", "1", Rejected), [format!("settled 1#{number} to ada")]);
        assert!(mesh.view("1").expect("it waits").reason.is_some(), "what waits can be explained");
        assert_eq!(mesh.pass(ms(150)), [format!("start 1#{} on ada", number + 1)]);
    }

    assert_eq!(mesh.succeed("ada", "1"), ["record 1 succeeded", "settled 1#6 to ada"]);
}

#[test]
fn an_attempt_that_ended_as_cancelled_though_nobody_wanted_it_starts_again_after_a_pause() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver(task("resize").max_attempts(1));

    assert_eq!(mesh.done("ada", "1", Cancelled), ["settled 1#1 to ada"]);

    assert_eq!(mesh.pass(ms(150)), ["start 1#2 on ada"]);
}

#[test]
fn a_task_that_took_three_agents_down_is_dead() {
    let mut mesh = Mesh::with_agents(["ada", "bob", "cyd", "dan"]);
    mesh.deliver("resize");

    assert_eq!(mesh.silence("ada", LONGER_THAN_ANY_VERDICT), ["start 1#2 on bob"]);
    assert_eq!(mesh.silence("bob", LONGER_THAN_ANY_VERDICT), ["start 1#3 on cyd"]);
    assert_eq!(mesh.silence("cyd", LONGER_THAN_ANY_VERDICT), ["record 1 dead"]);

    assert!(mesh.records[0].dead_letter);
}

#[test]
fn losses_are_counted_apart_from_failures() {
    let mut mesh = Mesh::with_agents(["ada", "bob"]);
    mesh.deliver(task("resize").max_attempts(2).backoff(ms(1), ms(1)));

    mesh.silence("ada", LONGER_THAN_ANY_VERDICT);
    assert_eq!(mesh.fail("bob", "1"), ["settled 1#2 to bob"]);
    assert_eq!(mesh.pass(ms(50)), ["start 1#3 on bob"]);
    assert_eq!(mesh.fail("bob", "1"), ["record 1 failed", "settled 1#3 to bob"]);
}

#[test]
fn a_late_success_of_a_replaced_attempt_is_the_result_and_the_other_is_told_to_stop() {
    let mut mesh = Mesh::with_agents(["ada", "bob"]);
    mesh.deliver("resize");
    mesh.silence("ada", LONGER_THAN_ANY_VERDICT);
    mesh.agent("ada").muted = false;

    assert_eq!(mesh.succeed("ada", "1"), ["cancel 1#2 on bob", "record 1 succeeded", "settled 1#1 to ada"]);

    let (agent, attempt) = mesh.records[0].by.clone().expect("an attempt ended it");
    assert_eq!((agent.as_str(), attempt.attempt), ("ada", 1));
    // What the other says now changes nothing.
    assert_eq!(mesh.fail("bob", "1"), ["check 1#2 of bob"]);
    assert_eq!(mesh.records.len(), 1);
}

#[test]
fn a_late_success_of_a_task_that_waits_again_is_its_result() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver("resize");
    mesh.silence("ada", LONGER_THAN_ANY_VERDICT);
    mesh.agent("ada").muted = false;

    assert_eq!(mesh.succeed("ada", "1"), ["record 1 succeeded", "settled 1#1 to ada"]);
    assert_eq!(mesh.leader.queues()[1].waiting, 0);
}

#[test]
fn a_late_failure_of_a_replaced_attempt_is_no_failure_of_the_new_one() {
    let mut mesh = Mesh::with_agents(["ada", "bob"]);
    mesh.deliver(task("resize").max_attempts(1));
    mesh.silence("ada", LONGER_THAN_ANY_VERDICT);
    mesh.agent("ada").muted = false;

    assert_eq!(mesh.fail("ada", "1"), ["settled 1#1 to ada"]);

    assert_eq!(mesh.given_to("bob"), ["1"]);
    assert_eq!(mesh.succeed("bob", "1"), ["record 1 succeeded", "settled 1#2 to bob"]);
}

#[test]
fn a_task_is_not_started_after_its_deadline() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver("resize");
    mesh.deliver(task("resize").deadline(ms(1000)));

    assert_eq!(mesh.pass(ms(975)), [""; 0]);
    assert_eq!(mesh.pass(ms(50)), ["record 2 expired"]);
    assert_eq!(mesh.succeed("ada", "1"), ["record 1 succeeded", "settled 1#1 to ada"]);
}

#[test]
fn a_task_that_comes_after_its_deadline_expires_at_once() {
    let mut mesh = Mesh::with_agents(["ada"]);

    assert_eq!(mesh.deliver(task("resize").deadline(ms(0))), ["record 1 expired"]);
}

#[test]
fn a_task_that_runs_at_its_deadline_runs_on() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver(task("resize").deadline(ms(1000)));

    assert_eq!(mesh.pass(ms(5000)), [""; 0]);
    assert_eq!(mesh.succeed("ada", "1"), ["record 1 succeeded", "settled 1#1 to ada"]);
}

#[test]
fn a_task_whose_agent_is_lost_after_its_deadline_expires() {
    let mut mesh = Mesh::with_agents(["ada", "bob"]);
    mesh.deliver(task("resize").deadline(ms(1000)));

    assert_eq!(mesh.silence("ada", LONGER_THAN_ANY_VERDICT), ["record 1 expired"]);
}

#[test]
fn a_task_that_is_refused_after_its_deadline_expires() {
    let mut mesh = Mesh::with_agents(["ada", "bob"]);
    mesh.deliver(task("resize").deadline(ms(1000)));
    mesh.pass(ms(2000));

    mesh.done("ada", "1", Rejected);

    assert_eq!(mesh.pass(ms(500)), ["record 1 expired"]);
}

#[test]
fn a_task_whose_deadline_passes_just_before_room_is_made_is_not_started() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver("resize");
    mesh.deliver(task("resize").deadline(ms(1000)));
    mesh.pass(ms(990));
    // The end of the first comes before the shell tells of the deadline.
    mesh.now = mesh.now + ms(20);

    let orders = mesh.succeed("ada", "1");

    assert!(orders.contains(&"record 2 expired".to_owned()), "{orders:?}");
    assert_eq!(mesh.dispatches.len(), 1);
}

#[test]
fn an_order_lost_on_the_way_is_repeated_when_two_beats_lack_it() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.agent("ada").loses_orders = true;
    mesh.deliver(task("resize").max_attempts(1));

    mesh.pass(ms(700));
    assert_eq!(mesh.beat("ada"), [""; 0]);
    assert_eq!(mesh.beat("ada"), ["repeat 1#1 on ada"]);

    assert_eq!(mesh.succeed("ada", "1"), ["record 1 succeeded", "settled 1#1 to ada"]);
}

#[test]
fn an_attempt_that_ended_is_not_taken_back_because_a_beat_is_out_of_date() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver(task("resize").backoff(ms(60_000), ms(60_000)));
    let stale = mesh.agent("ada").pong();
    mesh.fail("ada", "1");

    mesh.tell(Event::AgentBeat(agent("ada").id, stale));

    assert_eq!(mesh.given_to("ada"), [""; 0]);
}

#[test]
fn an_agent_whose_loop_is_late_has_not_missed_what_it_has_not_come_to() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.agent("ada").loses_orders = true;
    mesh.deliver("resize");
    mesh.pass(ms(700));

    for _ in 0..4 {
        let late = Beat { lag_ms: 600, ..mesh.agent("ada").beat() };
        assert_eq!(mesh.tell(Event::AgentBeat(agent("ada").id, late)), [""; 0]);
    }
}

#[test]
fn a_task_whose_orders_never_come_is_placed_anew() {
    let mut mesh = Mesh::with_agents([agent("ada").slots(2), agent("bob")]);
    mesh.deliver_all(["resize", "resize"]);
    mesh.succeed("bob", "2");
    mesh.agent("ada").holds.clear();

    let mut said = Vec::new();
    for _ in 0..30 {
        mesh.agent("ada").loses_orders = true;
        said.extend(mesh.pass(ms(250)));
    }

    assert_eq!(said[..3], ["repeat 1#1 on ada", "repeat 1#1 on ada", "start 1#2 on ada"]);
}

#[test]
fn while_our_own_messages_do_not_come_through_an_order_is_repeated_and_its_task_is_not_placed_anew() {
    let mut mesh = Mesh::with_agents(["ada", "bob"]);
    mesh.tell(Event::CanaryHeard);
    mesh.deliver("resize");
    let first = mesh.holder_of("1").expect("it was placed");
    mesh.agent(&first).holds.clear();

    // Beats come, and what we send ourselves does not.
    for _ in 0..20 {
        mesh.agent(&first).loses_orders = true;
        mesh.now = mesh.now + ms(500);
        ["ada", "bob"].iter().for_each(|name| drop(mesh.beat(name)));
    }
    assert_eq!((mesh.dispatches.len(), mesh.holder_of("1")), (1, Some(first.clone())));

    mesh.agent(&first).loses_orders = false;
    mesh.tell(Event::CanaryHeard);
    mesh.pass(ms(7000));
    assert!(mesh.dispatches.len() == 1 && mesh.agent(&first).holds.len() == 1, "it got the order after all");
}

#[test]
fn an_order_that_crossed_a_beat_is_not_repeated() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.agent("ada").loses_orders = true;
    mesh.deliver("resize");

    for _ in 0..5 {
        assert_eq!(mesh.beat("ada"), [""; 0]);
    }
}

#[test]
fn a_task_cancelled_while_it_waits_is_settled_at_once() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver_all(["resize", "resize", "resize"]);

    assert_eq!(mesh.cancel(2), ["record 2 cancelled"]);

    let orders = mesh.succeed("ada", "1");
    assert!(orders.contains(&"start 3#1 on ada".to_owned()), "{orders:?}");
}

#[test]
fn a_task_cancelled_between_attempts_is_settled_at_once() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver("resize");
    mesh.fail("ada", "1");

    assert_eq!(mesh.cancel(1), ["record 1 cancelled"]);
    assert_eq!(mesh.pass(ms(2000)), [""; 0]);
}

#[test]
fn a_task_cancelled_while_it_runs_is_stopped_and_then_settled() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver("resize");

    assert_eq!(mesh.cancel(1), ["cancel 1#1 on ada"]);
    assert_eq!(mesh.done("ada", "1", Cancelled), ["record 1 cancelled", "settled 1#1 to ada"]);
}

#[test]
fn a_task_that_succeeds_in_spite_of_its_cancellation_has_succeeded() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver("resize");
    let done = mesh.end("ada", "1", shared::task::AttemptOutcome::Succeeded);
    mesh.cancel(1);

    let ada = mesh.agent("ada").id.clone();
    assert_eq!(mesh.tell(Event::AttemptDone(ada, done)), ["record 1 succeeded", "settled 1#1 to ada"]);
}

#[test]
fn a_task_cancelled_while_it_is_settled_keeps_its_outcome() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.records_at_once = false;
    mesh.deliver("resize");
    mesh.succeed("ada", "1");

    assert_eq!(mesh.cancel(1), [""; 0]);
    assert_eq!(mesh.records[0].outcome, Outcome::Succeeded);
}

#[test]
fn a_cancelled_task_is_not_started_again_when_its_agent_is_lost() {
    let mut mesh = Mesh::with_agents(["ada", "bob"]);
    mesh.deliver("resize");
    mesh.agent("ada").muted = true;
    mesh.cancel(1);

    assert_eq!(mesh.pass(LONGER_THAN_ANY_VERDICT), ["record 1 cancelled"]);
}

#[test]
fn a_cancelled_task_is_not_started_again_when_its_order_was_lost() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.agent("ada").loses_orders = true;
    mesh.deliver("resize");
    mesh.cancel(1);

    assert_eq!(mesh.pass(ms(2000)), ["record 1 cancelled"]);
}

#[test]
fn a_cancelled_task_is_not_started_again_when_its_agent_hands_it_back() {
    let mut mesh = Mesh::with_agents([agent("ada").queue(1)]);
    mesh.deliver_all(["resize", "resize"]);
    mesh.cancel(2);
    mesh.leave("ada");

    let outcomes: Vec<_> = mesh.records.iter().map(|record| (record.sequence, record.outcome)).collect();
    assert_eq!(outcomes, [(Sequence(2), Outcome::Cancelled)]);
}

#[test]
fn an_agent_that_was_only_silent_is_not_held_against_its_task() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver("resize");

    for _ in 0..4 {
        assert_eq!(mesh.silence("ada", LONGER_THAN_ANY_VERDICT), [""; 0], "there is no other agent");
        mesh.unmute("ada");
        mesh.pass(ms(61_000));
    }

    assert_eq!(mesh.succeed("ada", "1"), ["record 1 succeeded", "settled 1#1 to ada"]);
}

#[test]
fn a_task_whose_end_was_wanted_before_it_came_is_never_started() {
    let mut mesh = Mesh::with_agents(["ada"]);
    let delivery = task("resize").delivery(Sequence(1), mesh.now);

    assert_eq!(mesh.tell(Event::TaskDelivered(Delivery { cancelled: true, ..delivery })), ["record 1 cancelled"]);

    assert_eq!(mesh.dispatches, []);
}

#[test]
fn an_attempt_that_its_agent_does_not_end_in_time_is_given_up() {
    let mut mesh = Mesh::with_agents([agent("ada").slots(1).queue(0), agent("bob").slots(1).queue(0)]);
    mesh.deliver(task("resize").timeout(ms(5_000)).backoff(ms(1), ms(1)));

    assert_eq!(mesh.pass(ms(19_000)), [""; 0], "the agent has the first word");
    assert_eq!(mesh.pass(ms(2_000))[..2], ["cancel 1#1 on ada", "start 1#2 on bob"]);

    // Its slot is not free before it says so.
    assert_eq!(mesh.deliver("resize"), [""; 0]);
    assert_eq!(mesh.succeed("bob", "1"), ["record 1 succeeded", "start 2#1 on bob", "settled 1#2 to bob"]);
    mesh.deliver("resize");
    assert_eq!(mesh.fail("ada", "1"), ["check 1#1 of ada"]);
    assert_eq!(mesh.beat("ada"), ["start 3#1 on ada"]);
}

#[test]
fn what_runs_at_most_once_is_not_given_up_while_its_agent_says_that_it_runs() {
    let agents = ["ada", "bob"].map(|id| agent(id).slots(1).queue(0).at_most_once());
    let mut mesh = Mesh::with_agents(agents);
    mesh.pass(ms(6_000));
    mesh.deliver(task("resize").timeout(ms(5_000)).backoff(ms(1), ms(1)).max_attempts(1));

    let orders = mesh.pass(ms(60_000));
    assert!(!orders.is_empty() && orders.iter().all(|order| order == "cancel 1#1 on ada"), "{orders:?}");

    // It has failed, and was not cancelled by anybody.
    assert_eq!(mesh.done("ada", "1", shared::task::AttemptOutcome::Cancelled)[..1], ["record 1 failed"]);
}

#[test]
fn an_attempt_that_has_ended_is_not_given_up_because_its_word_comes_late() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver(task("resize").timeout(ms(5_000)));
    mesh.pass(ms(1_000));
    mesh.end("ada", "1", Succeeded);

    assert_eq!(mesh.pass(ms(30_000)), [""; 0]);

    let ada = agent("ada").id;
    assert_eq!(mesh.repeat_done(&ada), ["record 1 succeeded", "settled 1#1 to ada"]);
}

#[test]
fn what_failed_leaves_room_for_what_has_not() {
    let mut mesh = Mesh::with_agents([agent("ada").slots(5).queue(0)]);
    let flaky = || task("resize").max_attempts(9).backoff(ms(1), ms(1));
    mesh.deliver_all((0..5).map(|_| flaky()));
    mesh.deliver_all((0..20).map(|_| task("resize")));
    for failing in ["1", "2", "3", "4", "5"] {
        mesh.fail("ada", failing);
    }

    mesh.pass(ms(200));
    let done: Vec<String> = mesh.given_to("ada");
    assert!(done.iter().all(|id| id.parse::<u64>().unwrap() > 5), "the slots went to others meanwhile: {done:?}");
    mesh.succeed("ada", &done[0]);
    mesh.pass(ms(100));
    mesh.succeed("ada", &done[1]);
    mesh.pass(ms(100));

    let retried = mesh.given_to("ada").iter().filter(|id| id.parse::<u64>().unwrap() <= 5).count();
    assert_eq!(retried, 1, "a fifth of what runs: {:?}", mesh.given_to("ada"));
    let reasons: Vec<String> = ["1", "2", "3", "4", "5"].into_iter().filter_map(|id| mesh.view(id)?.reason).collect();
    assert!(reasons.len() == 4 && reasons[0].contains("retry-share"), "{reasons:?}");
    mesh.finish_all();
    mesh.pass(ms(1000));
    mesh.finish_all();
    assert_eq!(mesh.records.len(), 25, "all of them come to their end");
}
