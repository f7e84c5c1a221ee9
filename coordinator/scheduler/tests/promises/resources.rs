//! What is reserved, what is used of it, and what follows from that.

use std::time::Duration;

use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};
use scheduler::{Action, Config, Done, Event, KindConfig};
use shared::api::{Finding, Recommendation};
use shared::task::AttemptOutcome;
use shared::{Resources, Used};

use crate::support::{Mesh, agent, ms, task};

const MIB: u64 = 1 << 20;

#[test]
fn of_what_is_counted_no_more_is_reserved_than_there_is() {
    let mut mesh = Mesh::with_agents([agent("ada").slots(8).countable("gpus", 3), agent("bob").slots(8)]);

    mesh.deliver_all([2, 2, 1].map(|gpus| task("resize").countable("gpus", gpus)));

    assert_eq!((mesh.given_to("ada"), mesh.given_to("bob").len()), (vec!["1".to_owned(), "3".to_owned()], 0));
    assert_eq!(
        mesh.succeed("ada", "3"),
        ["record 3 succeeded", "settled 3#1 to ada"],
        "one is free, and two are asked for"
    );
    assert_eq!(mesh.succeed("ada", "1"), ["record 1 succeeded", "start 2#1 on ada", "settled 1#1 to ada"]);
    assert_eq!(mesh.leader.agents(mesh.now)[0].countables_reserved.get("gpus"), 2);
}

#[test]
fn between_tenants_an_attempt_counts_by_what_it_reserves_most_of() {
    let large = [task("resize").memory(500), task("resize").countable("gpus", 2)];
    for large in large {
        let mut mesh = Mesh::with_agents([agent("ada").slots(8).memory(1000).countable("gpus", 4)]);
        let mut started = [0.0, 0.0];
        // One that takes half of something takes up four of the eight slots.
        mesh.deliver_all((0..60).map(|_| large.clone().tenant("large")));
        mesh.deliver_all((0..300).map(|_| task("resize").tenant("small")));
        for _ in 0..40 {
            mesh.pass(ms(1000));
            for one in mesh.given_to("ada") {
                let is_large = one.parse::<u32>().expect("ids are numbers") <= 60;
                started[usize::from(!is_large)] += 1.0;
                mesh.succeed("ada", &one);
            }
        }

        let ratio = started[1] / started[0];
        assert!((3.5..=4.5).contains(&ratio), "{started:?}");
    }
}

#[test]
fn what_the_agents_settings_say_is_reserved_where_nobody_else_says_anything() {
    let mut config = Config::default();
    config.kinds.insert("count".into(), KindConfig { memory: Some(30), ..KindConfig::default() });
    let agents = [
        agent("ada").slots(8).memory(100).declares("resize", 40).declares("count", 40),
        agent("bob").slots(8).declares("resize", 20),
    ];
    let mut mesh = Mesh::with_config(config, agents);
    let reserved = |mesh: &Mesh| mesh.dispatches.last().expect("it was ordered").reserved.resources.memory_bytes;

    mesh.deliver("resize");
    assert_eq!(reserved(&mesh), 40, "the most that an agent says");
    mesh.deliver(task("resize").memory(50));
    assert_eq!(reserved(&mesh), 50, "a task's headers go first");
    mesh.deliver("count");
    assert_eq!(reserved(&mesh), 30, "then the settings of the kind");
}

#[test]
fn what_nobody_can_run_is_told_once_and_shown_until_somebody_can() {
    let mut mesh = Mesh::with_agents([agent("ada").slots(2).countable("gpus", 2)]);
    mesh.deliver_all((0..3).map(|_| task("resize").countable("gpus", 4)));
    mesh.deliver("resize");

    let unmet = mesh.leader.resource_use(mesh.now).unmet;
    assert_eq!(unmet.len(), 1);
    assert_eq!((unmet[0].kind.as_str(), unmet[0].tasks, unmet[0].reserved.countable.get("gpus")), ("resize", 3, 4));
    assert_eq!(unmet[0].reason, "only one agent can do `resize`, and ada has 2 of gpus altogether");
    assert_eq!(told(&mesh), ["task unmet"]);
    mesh.join(agent("bob").countable("gpus", 4));
    assert_eq!(mesh.given_to("bob"), ["1"]);
    assert!(mesh.leader.resource_use(mesh.now).unmet.is_empty());
    assert_eq!(told(&mesh), ["task unmet", "task met"]);
}

#[test]
fn what_only_an_agent_could_run_that_has_gone_is_told_too() {
    let mut mesh = Mesh::with_agents([agent("ada").label("gpu", ""), agent("bob")]);
    mesh.deliver_all([task("resize").needs("gpu"), task("resize").needs("gpu")]);
    assert!(told(&mesh).is_empty(), "it only has to wait");

    mesh.drain("ada");
    mesh.succeed("ada", "1");
    mesh.leave("ada");
    mesh.pass(ms(2000));

    assert_eq!(told(&mesh), ["task unmet"]);
    mesh.cancel(2);
    mesh.pass(ms(2000));
    assert!(mesh.leader.resource_use(mesh.now).unmet.is_empty(), "nothing asks for it any more");
}

#[test]
fn however_much_nobody_can_run_little_of_it_is_kept_at_hand() {
    for count in [100, 1200] {
        let mut mesh = Mesh::with_agents([agent("ada").slots(2)]);
        mesh.deliver_all((0..count).map(|number| task("resize").needs(&format!("host=h{number}"))));

        let waiting: usize = mesh.leader.waiting(&"resize".parse().expect("it is a good name")).iter().sum();
        assert!(waiting <= 40, "{waiting} of {count}");
        mesh.deliver("resize");
        assert_eq!(mesh.given_to("ada"), [(count + 1).to_string()]);
        assert_eq!(times_looked_back(&mesh), 0);
        mesh.join(agent("bob").label("host", &format!("h{}", count - 1)));
        mesh.pass(ms(1100));
        assert_eq!(times_looked_back(&mesh), 1, "{count}: the last of them was sent back, and bob can run it");
    }
}

#[test]
fn far_more_than_is_used_is_too_much() {
    let mut mesh = reserving(Some(1000), Some(1024 * MIB));

    run(&mut mesh, 40, Duration::from_millis(120), 100 * MIB);

    let [cpu, memory] = &mesh.leader.recommendations(mesh.now)[..] else { panic!("both are too much") };
    assert_eq!((cpu.finding, cpu.resource.as_str(), cpu.now, cpu.samples), (Finding::OverAllocated, "cpu", 1000, 40));
    assert_eq!((cpu.suggested, cpu.step), (140, Some(500)), "{cpu:?}");
    assert_eq!((memory.suggested, memory.step, memory.peak), (115 * MIB, Some(512 * MIB), 100 * MIB), "{memory:?}");
    assert_eq!(memory.guard.as_deref(), Some("no more than half is taken away at once"));
    assert!(memory.effect.starts_with("frees 909 MiB an attempt"), "{}", memory.effect);
}

#[test]
fn less_than_is_used_is_too_little() {
    let mut mesh = reserving(Some(100), Some(64 * MIB));

    run(&mut mesh, 20, Duration::from_millis(400), 63 * MIB);

    let [cpu, memory] = &mesh.leader.recommendations(mesh.now)[..] else { panic!("both are too little") };
    assert_eq!((cpu.finding, cpu.suggested, cpu.step), (Finding::UnderAllocated, 460, Some(400)), "{cpu:?}");
    assert_eq!((memory.finding, memory.suggested), (Finding::UnderAllocated, 96 * MIB), "{memory:?}");
}

#[test]
fn what_is_about_right_is_left_alone_and_so_is_what_is_hardly_known() {
    let mut mesh = reserving(Some(500), Some(128 * MIB));
    run(&mut mesh, 30, Duration::from_millis(400), 100 * MIB);
    assert_eq!(mesh.leader.recommendations(mesh.now), []);

    let mut mesh = reserving(Some(1000), Some(1024 * MIB));
    run(&mut mesh, 19, Duration::from_millis(10), 10 * MIB);
    assert_eq!(mesh.leader.recommendations(mesh.now), []);
}

#[test]
fn attempts_that_were_ended_for_their_memory_are_evidence_enough_until_they_may_take_more() {
    let mut mesh = reserving(None, Some(64 * MIB));
    mesh.deliver("resize");
    let done = mesh.end("ada", "1", AttemptOutcome::Failed);
    let used = Used { memory_peak: Some(64 * MIB), ..Used::default() };
    mesh.tell(Event::AttemptDone(id("ada"), Done { used, error: Some("out of memory: 70 MiB".into()), ..done }));

    let [memory] = &mesh.leader.recommendations(mesh.now)[..] else { panic!("it is too little") };
    assert_eq!((memory.suggested, memory.step), (128 * MIB, Some(128 * MIB)));
    let more = KindConfig { memory: memory.step, ..KindConfig::default() };
    mesh.tell(Event::KindConfigured("resize".to_owned(), more));

    assert_eq!(mesh.leader.recommendations(mesh.now), []);
}

#[test]
fn a_step_never_makes_a_task_too_big_for_every_agent() {
    let mut config = Config::default();
    config.kinds.insert("resize".into(), KindConfig { memory: Some(64 * MIB), ..KindConfig::default() });
    let mut mesh = Mesh::with_config(config, [agent("ada").slots(2).memory(80 * MIB)]);

    run(&mut mesh, 20, Duration::from_millis(1), 64 * MIB);

    let [memory] = &mesh.leader.recommendations(mesh.now)[..] else { panic!("it is too little") };
    assert_eq!((memory.suggested, memory.step), (96 * MIB, Some(80 * MIB)));
    assert_eq!(memory.guard.as_deref(), Some("no agent that can do it has more than 80 MiB"));
}

#[test]
fn an_agent_whose_host_cannot_carry_its_slots_has_too_many_and_one_that_idles_too_few() {
    let mut mesh = Mesh::with_agents([agent("ada").slots(8), agent("bob").slots(8), agent("cyd").slots(8)]);
    mesh.deliver_all(["resize"; 24]);
    for _ in 0..20 {
        for (name, cpu) in [("ada", 0.97), ("bob", 0.2), ("cyd", 0.7)] {
            mesh.beat(name);
            mesh.report(name, cpu);
        }
        mesh.pass(ms(400));
    }

    let found: Vec<(String, Finding, u64)> = mesh.leader.recommendations(mesh.now).into_iter().map(about).collect();

    assert_eq!(found, [("ada".into(), Finding::OverAllocated, 6), ("bob".into(), Finding::UnderAllocated, 16)]);
}

#[test]
fn efficiency_is_what_is_used_of_what_is_reserved_of_what_there_is() {
    let mut mesh = reserving(Some(1000), None);
    run(&mut mesh, 10, Duration::from_millis(250), MIB);
    mesh.deliver_all(["resize", "resize"]);
    mesh.report("ada", 0.5);

    let shown = mesh.leader.resource_use(mesh.now);

    assert_eq!((shown.slots.slots, shown.slots.taken), (8, 2));
    let cpu = &shown.mesh[0];
    assert_eq!((cpu.resource.as_str(), cpu.used, cpu.reserved, cpu.capacity), ("cpu", Some(4000), 2000, 8000));
    assert_eq!(shown.agents[0].resources[0], *cpu);
    let kind = &shown.kinds[0];
    assert_eq!((kind.kind.as_str(), kind.samples, kind.resources[0].efficiency), ("resize", 10, Some(0.25)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever was used: a suggestion of memory covers all of it, a suggestion of CPU most of it, a step goes the way that
    /// the finding says and no further than half or four times, and who follows the steps is told nothing more in the end.
    #[test]
    fn who_follows_the_recommendations_comes_to_rest(
        cpu in 1..4000u64, memory in 1..4096u64,
        samples in proptest::collection::vec((1..4000u64, 1..4096u64), 20..40),
    ) {
        let mut mesh = reserving(Some(cpu), Some(memory * MIB));
        for (cpu, memory) in &samples {
            run(&mut mesh, 1, Duration::from_millis(*cpu), memory * MIB);
        }
        let peak = samples.iter().map(|(_, memory)| memory * MIB).max().unwrap_or(0);

        for _ in 0..12 {
            let found = mesh.leader.recommendations(mesh.now);
            let mut settings = KindConfig { cpu: Some(now_reserved(&mesh).cpu_millis), memory: Some(now_reserved(&mesh).memory_bytes), ..KindConfig::default() };
            for one in &found {
                let step = one.step.expect("nothing bounds it here");
                prop_assert_eq!(one.finding == Finding::OverAllocated, step < one.now, "{:?}", one);
                prop_assert!(step >= one.now / 2 && step <= one.now * 4, "{:?}", one);
                if one.resource == "memory" {
                    prop_assert!(one.suggested >= peak && step.max(one.suggested) >= peak, "{:?}", one);
                    settings.memory = Some(step);
                } else {
                    prop_assert!(one.suggested >= one.p95, "{:?}", one);
                    settings.cpu = Some(step);
                }
            }
            if found.is_empty() {
                return Ok(());
            }
            mesh.tell(Event::KindConfigured("resize".to_owned(), settings));
        }
        prop_assert!(false, "there is always something to recommend: {:?}", mesh.leader.recommendations(mesh.now));
    }
}

/// What a task of `resize` reserves that says nothing.
fn now_reserved(mesh: &Mesh) -> Resources {
    let settings = mesh.leader.queue(&"resize".parse().expect("it is a good name")).settings;
    Resources { cpu_millis: settings.cpu.unwrap_or(0), memory_bytes: settings.memory.unwrap_or(0), ..Resources::ZERO }
}

/// One agent with eight slots and eight cores; a task of `resize` reserves so much.
fn reserving(cpu: Option<u64>, memory: Option<u64>) -> Mesh {
    let mut config = Config::default();
    config.kinds.insert("resize".into(), KindConfig { cpu, memory, ..KindConfig::default() });
    Mesh::with_config(config, [agent("ada").slots(8).cpu(8000)])
}

/// So many tasks of `resize` run for a second each, one after the other, and use so much.
fn run(mesh: &mut Mesh, count: usize, cpu: Duration, memory: u64) {
    for _ in 0..count {
        mesh.deliver("resize");
        let task = mesh.last_sequence().to_string();
        let done = mesh.end("ada", &task, AttemptOutcome::Succeeded);
        let used = Used { cpu: Some(cpu), memory_peak: Some(memory), io_bytes: None };
        mesh.tell(Event::AttemptDone(id("ada"), Done { run: Duration::from_secs(1), used, ..done }));
    }
}

fn about(recommendation: Recommendation) -> (String, Finding, u64) {
    let name = recommendation.agent.map(|agent| agent.to_string()).unwrap_or_default();
    (name, recommendation.finding, recommendation.suggested)
}

/// What was told about demands, in order, without what it is about.
fn told(mesh: &Mesh) -> Vec<String> {
    let notices = mesh.told().into_iter().filter(|notice| notice.starts_with("task"));
    let words = notices.map(|notice| notice.split(' ').take(2).collect::<Vec<_>>().join(" "));
    words.filter(|words| words.ends_with("met")).collect()
}

fn id(name: &str) -> shared::AgentId {
    name.parse().expect("it is a good name")
}

fn times_looked_back(mesh: &Mesh) -> usize {
    mesh.log.iter().filter(|action| matches!(action, Action::LookBack(_))).count()
}
