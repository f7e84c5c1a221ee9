//! What gets an agent, when, and in which order.

use scheduler::placement::Strategy;
use scheduler::{Config, KindConfig};
use shared::Priority;

use crate::support::{LONGER_THAN_ANY_VERDICT, Mesh, agent, ms, task};

#[test]
fn an_agent_is_given_as_much_as_its_slots_and_its_queue_take() {
    let mut mesh = Mesh::with_agents([agent("ada").slots(2).queue(1)]);

    mesh.deliver_all(["resize"; 5]);

    assert_eq!(mesh.given_to("ada"), ["1", "2", "3"]);
    let shown = &mesh.leader.agents(mesh.now)[0];
    assert_eq!((shown.running, shown.queued), (2, 1));
}

#[test]
fn what_an_agent_has_reserved_never_exceeds_its_capacity() {
    let mut mesh = Mesh::with_agents([agent("ada").slots(10).cpu(1000).memory(100)]);

    mesh.deliver_all([task("resize").cpu(600), task("resize").cpu(600), task("resize").cpu(300)]);
    assert_eq!(mesh.given_to("ada"), ["1", "3"]);
    mesh.deliver_all([task("resize").memory(101), task("resize").memory(100)]);
    assert_eq!(mesh.given_to("ada"), ["1", "3", "5"]);

    assert_eq!(mesh.succeed("ada", "1"), ["record 1 succeeded", "start 2#1 on ada", "settled 1#1 to ada"]);
    let reserved = mesh.leader.agents(mesh.now)[0].reserved;
    assert_eq!((reserved.cpu_millis, reserved.memory_bytes), (900, 100));
}

#[test]
fn a_kind_reserves_what_its_settings_say() {
    let mut config = Config::default();
    config.kinds.insert("resize".into(), KindConfig { cpu: Some(500), ..KindConfig::default() });
    let mut mesh = Mesh::with_config(config, [agent("ada").slots(10).cpu(1000)]);

    mesh.deliver_all(["resize"; 3]);

    assert_eq!(mesh.given_to("ada"), ["1", "2"]);
}

#[test]
fn a_task_goes_only_to_an_agent_that_can_do_its_kind_and_has_its_labels() {
    let agents = [
        agent("ada").kinds(&["count"]).label("gpu", "a100"),
        agent("bob").label("gpu", "h100"),
        agent("cyd").label("gpu", "a100"),
    ];
    let mut mesh = Mesh::with_agents(agents);

    assert_eq!(mesh.deliver(task("resize").needs("gpu=a100")), ["start 1#1 on cyd"]);
    assert_eq!(mesh.deliver(task("resize").needs("gpu=a100")), [""; 0]);
}

#[test]
fn what_asks_for_more_than_a_task_may_have_is_dead_at_once() {
    let mut mesh = Mesh::with_agents(["ada"]);

    assert_eq!(mesh.deliver(task("resize").memory((8 << 30) + 1)), ["record 1 dead"]);

    let error = mesh.results.values().next().unwrap().error.clone().unwrap();
    assert!(error.starts_with("it asks for memory 8 GiB: a task may reserve at most 8 GiB"), "{error}");
    assert_eq!(mesh.deliver(task("resize").memory(8 << 30)), ["start 2#1 on ada"]);
}

#[test]
fn a_task_that_nobody_can_take_does_not_hold_up_those_behind_it() {
    let mut mesh = Mesh::with_agents(["ada"]);

    let impossible = [task("resize").needs("gpu=a100"), task("paint"), task("resize").cpu(8000)];
    let urgent = impossible.map(|task| task.priority(Priority::Urgent));
    assert_eq!(mesh.deliver_all(urgent.clone()), ["start 3#1 on ada"], "what is not limited takes anything");
    mesh.succeed("ada", "3");
    mesh.deliver_all(urgent[..2].to_vec());

    assert_eq!(mesh.deliver("resize"), ["start 6#1 on ada"]);
}

#[test]
fn what_waits_can_be_explained() {
    let mut mesh = Mesh::with_agents([agent("ada").cpu(1000)]);
    mesh.deliver_all([task("paint"), task("resize").needs("gpu"), task("resize").cpu(1001)]);
    mesh.deliver_all(["resize", "resize"]);

    let reason = |task: &str| mesh.view(task).and_then(|task| task.reason).unwrap_or_default();
    assert!(reason("1").contains("no agent can do `paint`"), "{}", reason("1"));
    assert!(reason("2").contains("ada does not meet `gpu`"), "{}", reason("2"));
    assert!(reason("3").contains("ada has 1 core of cpu altogether"), "{}", reason("3"));
    assert!(reason("5").contains("ada has 1 attempts for 1 slots"), "{}", reason("5"));
}

#[test]
fn the_urgent_goes_before_the_old() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver("resize");
    for (kind, priority) in [
        ("resize", Priority::Low),
        ("count", Priority::Normal),
        ("resize", Priority::Normal),
        ("count", Priority::High),
        ("resize", Priority::Urgent),
    ] {
        mesh.deliver(task(kind).priority(priority));
    }

    mesh.finish_all();

    let order: Vec<u64> = mesh.dispatches.iter().map(|dispatch| dispatch.sequence.0).collect();
    // Of the same priority, the kind goes first whose turn is longer ago.
    assert_eq!(order, [1, 6, 5, 4, 3, 2]);
}

#[test]
fn tasks_of_a_kind_start_in_the_order_they_came() {
    let mut mesh = Mesh::with_agents([agent("ada").slots(2)]);
    mesh.deliver_all(["resize"; 20]);

    mesh.finish_all();

    assert!(mesh.dispatches.is_sorted_by_key(|dispatch| dispatch.sequence));
}

#[test]
fn a_burst_of_one_kind_leaves_turns_to_another() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver_all(["resize"; 100]);
    mesh.deliver_all(["count"; 3]);

    mesh.finish_all();

    let counts: Vec<usize> = (0..mesh.dispatches.len()).filter(|i| mesh.dispatches[*i].sequence.0 > 100).collect();
    assert!(counts.iter().all(|place| *place < 8), "the three of the other kind came in places {counts:?}");
}

#[test]
fn what_waits_starts_when_an_agent_joins() {
    let mut mesh = Mesh::with_agents([agent("ada").kinds(&[])]);
    mesh.deliver_all(["resize", "count"]);

    assert_eq!(mesh.join(agent("bob").slots(2)), ["start 1#1 on bob", "start 2#1 on bob"]);
}

#[test]
fn what_waits_starts_when_an_agent_learns_its_kind() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver("paint");

    assert_eq!(mesh.join(agent("ada").kinds(&["paint"])), ["start 1#1 on ada"]);
}

#[test]
fn every_free_slot_is_used_though_the_first_in_line_do_not_fit_together() {
    let mut mesh = Mesh::with_agents([agent("ada").kinds(&[])]);
    // Each asks for something else, so that each stands in a line of its own.
    mesh.deliver_all((0..8).map(|i| task("resize").cpu(1000).memory(i)));
    mesh.deliver("count");

    mesh.join(agent("bob").slots(3).cpu(1000).memory(100));

    assert_eq!(mesh.given_to("bob"), ["1", "9"]);
}

#[test]
fn a_free_slot_is_used_though_the_first_in_line_were_cancelled() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver("resize");
    mesh.deliver_all((0..5).map(|i| task("resize").memory(i + 1)));
    for sequence in 2..=5 {
        mesh.cancel(sequence);
    }

    mesh.succeed("ada", "1");

    assert_eq!(mesh.given_to("ada"), ["6"]);
}

#[test]
fn what_only_generalists_can_do_is_not_starved_by_what_may_not_have_their_reserve() {
    let agents = [agent("ada").kinds(&["resize"]).slots(1), agent("gen").slots(4)];
    let mut mesh = Mesh::with_strategy(Strategy::CapabilityBased, agents);
    mesh.deliver_all((0..10).map(|i| task("resize").memory(i)));
    assert_eq!(mesh.given_to("gen").len(), 3);
    mesh.deliver_all(["count", "count"]);
    assert_eq!(mesh.given_to("gen").len(), 4);

    mesh.succeed("gen", "11");

    assert!(mesh.given_to("gen").contains(&"12".to_owned()), "{:?}", mesh.given_to("gen"));
}

#[test]
fn what_only_one_agent_can_do_is_not_weighed_against_agents_that_cannot() {
    for strategy in Strategy::ALL {
        let agents = [agent("ada").kinds(&["resize"]), agent("gpu").label("gpu", "a100")];
        let mut mesh = Mesh::with_strategy(strategy, agents);
        // By every measure there is, `ada` is the better one.
        mesh.report("gpu", 0.99);
        for sequence in 1..=30 {
            mesh.deliver(task("resize").backoff(ms(1), ms(1)).max_attempts(1));
            let holder = if mesh.given_to("ada").is_empty() { "gpu" } else { "ada" };
            let sequence = sequence.to_string();
            if holder == "gpu" {
                mesh.fail("gpu", &sequence)
            } else {
                mesh.succeed("ada", &sequence)
            };
        }

        let orders = mesh.deliver(task("resize").needs("gpu=a100"));

        assert_eq!(orders, ["start 31#1 on gpu"], "{}", strategy.as_str());
    }
}

#[test]
fn what_a_lost_agent_leaves_starts_on_those_whose_share_grows_by_that() {
    for strategy in Strategy::ALL {
        let agents = [agent("ada").kinds(&["resize"]).slots(2), agent("gen").slots(2)];
        let mut mesh = Mesh::with_strategy(strategy, agents);
        mesh.report("gen", 0.99);
        mesh.deliver_all(["resize"; 4]);

        mesh.silence("ada", LONGER_THAN_ANY_VERDICT);

        assert_eq!(mesh.given_to("gen").len(), 2, "{}", strategy.as_str());
    }
}

#[test]
fn what_nobody_could_ever_run_goes_back_to_the_stream_but_for_a_few() {
    let mut mesh = Mesh::with_agents([agent("ada").slots(2)]);

    mesh.deliver_all((0..100).map(|_| task("resize").needs("gpu=a100")));
    assert_eq!(mesh.sent_back.len(), 92);
    assert_eq!(mesh.leader.task_count(), 8);

    // It holds up nobody meanwhile.
    assert_eq!(mesh.deliver("resize"), ["start 101#1 on ada"]);
}

#[test]
fn what_went_back_to_the_stream_comes_again_when_somebody_can_run_it() {
    let mut mesh = Mesh::with_agents([agent("ada").slots(2)]);
    mesh.deliver_all((0..100).map(|_| task("resize").needs("gpu=a100")));

    mesh.join(agent("gpu").label("gpu", "a100").slots(200));

    assert_eq!(mesh.sent_back.len(), 0);
    assert_eq!(mesh.given_to("gpu").len(), 100);
}

#[test]
fn what_went_back_to_the_stream_is_looked_at_again_after_its_delay() {
    let mut mesh = Mesh::with_agents([agent("ada").slots(2)]);
    mesh.deliver_all((0..20).map(|_| task("resize").needs("gpu=a100").deadline(ms(30_000))));

    mesh.pass(ms(61_000));

    assert_eq!(mesh.records.len(), 20);
    assert!(mesh.records.iter().all(|record| record.outcome == shared::Outcome::Expired));
}
