//! What each strategy makes of the agents it may choose among.

use scheduler::placement::Strategy;
use shared::task::AttemptOutcome;

use crate::support::{Mesh, agent, ms, starts_by_agent, task};

const NAMES: [&str; 4] = ["ada", "bob", "cyd", "dan"];

#[test]
fn round_robin_gives_each_its_turn() {
    let mut mesh = Mesh::with_strategy(Strategy::RoundRobin, NAMES.map(|name| agent(name).slots(4)));

    mesh.deliver_all(["resize"; 8]);

    let order: Vec<&str> = mesh.dispatches.iter().map(|dispatch| dispatch.agent.as_str()).collect();
    assert_eq!(order, ["ada", "bob", "cyd", "dan", "ada", "bob", "cyd", "dan"]);
}

#[test]
fn round_robin_leaves_out_who_has_no_room_and_goes_on_where_it_was() {
    let agents = [agent("ada").slots(1), agent("bob").slots(3), agent("cyd").slots(3)];
    let mut mesh = Mesh::with_strategy(Strategy::RoundRobin, agents);

    mesh.deliver_all(["resize"; 6]);

    let order: Vec<&str> = mesh.dispatches.iter().map(|dispatch| dispatch.agent.as_str()).collect();
    assert_eq!(order, ["ada", "bob", "cyd", "bob", "cyd", "bob"]);
}

#[test]
fn round_robin_is_even_over_many_short_tasks() {
    let mut mesh = Mesh::with_strategy(Strategy::RoundRobin, NAMES.map(|name| agent(name).slots(2)));

    for _ in 0..250 {
        mesh.deliver_all(["resize"; 4]);
        mesh.finish_all();
    }

    assert!(starts_by_agent(&mesh).values().all(|starts| *starts == 250), "{:?}", starts_by_agent(&mesh));
}

#[test]
fn least_connections_gives_to_whom_has_least_for_its_slots() {
    let slots = [1, 2, 4, 8];
    let agents = NAMES.iter().zip(slots).map(|(name, slots)| agent(name).slots(slots));
    let mut mesh = Mesh::with_strategy(Strategy::LeastConnections, agents);
    let loads = |mesh: &Mesh| [0, 1, 2, 3].map(|i| mesh.given_to(NAMES[i]).len() as f64 / f64::from(slots[i]));

    for _ in 0..15 {
        let before = loads(&mesh);
        mesh.deliver("resize");
        let chosen = loads(&mesh).iter().zip(&before).position(|(now, before)| now > before).expect("there was room");
        assert!(before.iter().all(|load| *load >= before[chosen]), "{} was given more: {before:?}", NAMES[chosen]);
    }
}

#[test]
fn least_connections_stays_within_one_slot_of_even() {
    let mut mesh = Mesh::with_strategy(Strategy::LeastConnections, NAMES.map(|name| agent(name).slots(4)));
    let spread = |mesh: &Mesh| {
        let given = NAMES.map(|name| mesh.given_to(name).len());
        given.iter().max().copied().unwrap_or(0) - given.iter().min().copied().unwrap_or(0)
    };

    for _ in 0..14 {
        mesh.deliver("resize");
        assert!(spread(&mesh) <= 1);
    }
    // Gaps are filled where they are.
    for name in ["bob", "bob", "ada"] {
        let task = mesh.given_to(name)[0].clone();
        mesh.succeed(name, &task);
    }
    mesh.deliver_all(["resize"; 3]);
    assert!(spread(&mesh) <= 1);
}

#[test]
fn least_connections_is_even_over_many_short_tasks() {
    let mut mesh = Mesh::with_strategy(Strategy::LeastConnections, NAMES.map(|name| agent(name).slots(4)));

    for _ in 0..1000 {
        mesh.deliver("resize");
        mesh.finish_all();
    }

    assert!(starts_by_agent(&mesh).values().all(|starts| *starts == 250), "{:?}", starts_by_agent(&mesh));
}

#[test]
fn weighted_shares_follow_speed() {
    let mut mesh = Mesh::with_strategy(Strategy::Weighted, ["ada", "bob"].map(|name| agent(name).slots(2)));

    for _ in 0..500 {
        mesh.deliver("resize");
        end_running(&mut mesh, |agent| (AttemptOutcome::Succeeded, ms(if agent == "ada" { 20 } else { 60 })));
    }

    let starts = starts_by_agent(&mesh);
    let ratio = starts["ada"] as f64 / starts["bob"] as f64;
    assert!((2.2..5.0).contains(&ratio), "three times as fast, {ratio:.1} times as many: {starts:?}");
}

#[test]
fn weighted_gives_an_agent_that_fails_half_its_tasks_clearly_less() {
    let mut mesh = Mesh::with_strategy(Strategy::Weighted, NAMES.map(|name| agent(name).slots(2)));

    let mut turn = 0;
    for _ in 0..1000 {
        mesh.deliver(task("resize").max_attempts(1));
        end_running(&mut mesh, |agent| {
            turn += usize::from(agent == "dan");
            let fails = agent == "dan" && turn % 2 == 0;
            (if fails { AttemptOutcome::Failed } else { AttemptOutcome::Succeeded }, ms(10))
        });
    }

    let starts = starts_by_agent(&mesh);
    assert!((80..200).contains(&starts["dan"]), "{starts:?}");
    for name in ["ada", "bob", "cyd"] {
        assert!(starts[name] as f64 > 1.4 * starts["dan"] as f64, "{starts:?}");
    }
}

#[test]
fn weighted_keeps_to_its_shares_under_a_backlog() {
    let mut mesh = Mesh::with_strategy(Strategy::Weighted, NAMES.map(|name| agent(name).slots(2)));

    let mut turn = 0;
    mesh.deliver_all((0..600).map(|_| task("resize").max_attempts(1)));
    for _ in 0..150 {
        end_running(&mut mesh, |agent| {
            turn += usize::from(agent == "dan");
            let fails = agent == "dan" && turn % 2 == 0;
            (if fails { AttemptOutcome::Failed } else { AttemptOutcome::Succeeded }, ms(10))
        });
    }

    let starts = starts_by_agent(&mesh);
    for name in ["ada", "bob", "cyd"] {
        assert!(starts[name] as f64 > 1.2 * starts["dan"] as f64, "{starts:?}");
    }
}

#[test]
fn weighted_goes_back_to_an_agent_that_has_recovered() {
    let mut mesh = Mesh::with_strategy(Strategy::Weighted, ["ada", "bob"]);
    for round in 0..1000 {
        // Long enough for one that was ejected to be let in again.
        mesh.pass(ms(500));
        mesh.deliver(task("resize").max_attempts(1));
        let fails = |agent: &str| agent == "bob" && round < 300;
        end_running(&mut mesh, |agent| {
            (if fails(agent) { AttemptOutcome::Failed } else { AttemptOutcome::Succeeded }, ms(10))
        });
    }

    let late = mesh.dispatches[800..].iter().filter(|dispatch| dispatch.agent.as_str() == "bob").count();
    assert!((80..=120).contains(&late), "{late} of the last 200");
}

#[test]
fn capability_based_prefers_the_specialist() {
    let agents = [agent("gen").slots(4), agent("spec").kinds(&["resize"]).slots(4)];
    let mut mesh = Mesh::with_strategy(Strategy::CapabilityBased, agents);

    mesh.deliver_all(["resize"; 4]);

    assert_eq!((mesh.given_to("spec").len(), mesh.given_to("gen").len()), (4, 0));
}

#[test]
fn capability_based_keeps_a_quarter_of_a_generalist_for_what_only_it_can_do() {
    let agents = [agent("gen").slots(8), agent("spec").kinds(&["resize"]).slots(2)];
    let mut mesh = Mesh::with_strategy(Strategy::CapabilityBased, agents);

    mesh.deliver_all(["resize"; 20]);
    assert_eq!((mesh.given_to("spec").len(), mesh.given_to("gen").len()), (2, 6));

    mesh.deliver_all(["count"; 3]);
    assert_eq!(mesh.given_to("gen").len(), 8);
}

#[test]
fn capability_based_is_even_among_equals() {
    let mut mesh = Mesh::with_strategy(Strategy::CapabilityBased, NAMES.map(|name| agent(name).slots(4)));

    for _ in 0..400 {
        mesh.deliver("resize");
        mesh.finish_all();
    }

    assert!(starts_by_agent(&mesh).values().all(|starts| *starts == 100), "{:?}", starts_by_agent(&mesh));
}

#[test]
fn resource_based_prefers_the_idle_host() {
    let mut mesh = Mesh::with_strategy(Strategy::ResourceBased, NAMES.map(|name| agent(name).slots(4)));
    for (name, cpu) in NAMES.iter().zip([0.7, 0.1, 0.5, 0.85]) {
        mesh.report(name, cpu);
    }

    assert_eq!(mesh.deliver("resize"), ["start 1#1 on bob"]);
}

#[test]
fn resource_based_avoids_a_busy_host_while_another_can_do_the_kind() {
    let mut mesh = Mesh::with_strategy(Strategy::ResourceBased, ["ada", "bob"].map(|name| agent(name).slots(2)));
    mesh.report("ada", 0.95);
    mesh.report("bob", 0.5);

    mesh.deliver_all(["resize"; 4]);
    assert_eq!((mesh.given_to("ada").len(), mesh.given_to("bob").len()), (0, 2));

    mesh.report("bob", 0.95);
    assert_eq!((mesh.given_to("ada").len(), mesh.given_to("bob").len()), (2, 2), "no better one is left");
}

#[test]
fn resource_based_feeds_its_own_assignments_back() {
    let mut mesh = Mesh::with_strategy(Strategy::ResourceBased, NAMES.map(|name| agent(name).slots(8)));
    for name in NAMES {
        mesh.report(name, if name == "ada" { 0.05 } else { 0.1 });
    }

    mesh.deliver_all(["resize"; 16]);

    for name in NAMES {
        assert!((3..=5).contains(&mesh.given_to(name).len()), "{name} has {:?}", mesh.given_to(name));
    }
}

#[test]
fn resource_based_counts_reservations() {
    let agents = ["ada", "bob"].map(|name| agent(name).slots(100).cpu(10_000).memory(1000));
    let mut mesh = Mesh::with_strategy(Strategy::ResourceBased, agents);

    mesh.deliver(task("resize").memory(900));
    mesh.deliver_all([task("resize").memory(50), task("resize").memory(50), task("resize").memory(50)]);

    assert_eq!((mesh.given_to("ada"), mesh.given_to("bob").len()), (vec!["1".to_owned()], 3));
}

/// Every attempt that runs ends, each as is said of its agent.
fn end_running(mesh: &mut Mesh, mut how: impl FnMut(&str) -> (AttemptOutcome, std::time::Duration)) {
    for name in NAMES {
        let id: shared::AgentId = name.parse().expect("a good name");
        let Some(agent) = mesh.agents.get(&id) else { continue };
        for attempt in agent.running() {
            let (outcome, run) = how(name);
            let done = mesh.end(name, attempt.task.as_str(), outcome);
            mesh.tell(scheduler::Event::AttemptDone(mesh.agents[&id].id.clone(), scheduler::Done { run, ..done }));
        }
    }
}
