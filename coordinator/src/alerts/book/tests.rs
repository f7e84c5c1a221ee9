use std::time::Duration;

use shared::api::alerts::{Acknowledge, NewSilence};

use super::*;
use crate::alerts::settings::rules;

/// Longer than the grace of a takeover.
const LATER: u64 = 40;

#[test]
fn an_alert_fires_when_its_condition_has_lasted_and_resolves_when_it_is_over() {
    let mut world = World::with("[hot]\nmetric = \"heat\"\nabove = 3.0\nfor = \"10s\"\nkeep-firing-for = \"20s\"\n");

    assert!(world.at(0, &heat(4.0)).is_empty());
    assert_eq!(world.book.alerts(at(0))[0].state, AlertState::Pending);
    assert!(world.at(9, &heat(4.0)).is_empty());
    assert_eq!(world.at(10, &heat(5.0)), ["firing hot"]);
    assert!(world.at(60, &heat(9.0)).is_empty(), "it is told once");
    assert!(world.at(79, &heat(2.0)).is_empty());
    assert_eq!(world.at(80, &heat(2.0)), ["resolved hot"]);
    assert!(world.book.alerts(at(80)).is_empty());
}

#[test]
fn a_condition_that_is_not_met_in_between_begins_anew() {
    let mut world = World::with("[hot]\nmetric = \"heat\"\nabove = 3.0\nfor = \"10s\"\n");

    for (second, value) in [(0, 4.0), (5, 3.0), (9, 4.0), (18, 4.0)] {
        assert!(world.at(second, &heat(value)).is_empty(), "at {second}");
    }
    assert_eq!(world.at(19, &heat(4.0)), ["firing hot"]);
}

#[test]
fn a_value_that_sways_around_the_line_does_not_make_an_alert_come_and_go() {
    let mut world = World::with("[hot]\nmetric = \"heat\"\nabove = 3.0\nresolve = 1.0\n");

    let told: Vec<String> =
        (0..20).flat_map(|i| world.at(LATER + i, &heat(if i % 2 == 0 { 3.5 } else { 2.5 }))).collect();

    assert_eq!(told, ["firing hot"]);
    assert_eq!(world.at(90, &heat(1.0)), ["resolved hot"]);
}

#[test]
fn each_thing_has_an_alert_of_its_own_which_ends_when_the_thing_is_gone() {
    let mut world = World::with("[hot]\nmetric = \"heat\"\nby = [\"kind\"]\nabove = 3.0\n");
    let of = |kind, value| Sample::new("heat", &[("kind", kind)], value);

    assert_eq!(world.at(LATER, &[of("a", 4.0), of("b", 4.0), of("c", 1.0)]), ["firing hot:a", "firing hot:b"]);
    assert_eq!(world.at(LATER + 1, &[of("a", 4.0), of("c", 1.0)]), ["resolved hot:b"]);
}

#[test]
fn a_thousand_things_that_go_wrong_are_not_a_thousand_alerts() {
    let mut world = World::with("[hot]\nmetric = \"heat\"\nby = [\"kind\"]\nabove = 3.0\nfor = \"1s\"\n");
    let all: Vec<Sample> =
        (0..1000).map(|i| Sample::new("heat", &[("kind", format!("k{i:03}").as_str())], 4.0)).collect();

    world.at(LATER, &all);
    let told = world.at(LATER + 1, &all);

    let rule = world.rule("hot");
    assert_eq!((told.len(), rule.firing), (MOST, MOST as u32));
    assert_eq!(rule.problem.as_deref(), Some("it has no more than 50 alerts: 950 are left out"));
}

#[test]
fn a_change_of_leader_does_not_fire_again_what_fires_nor_resolve_it_too_early() {
    let text = "[hot]\nmetric = \"heat\"\nabove = 3.0\n";
    let mut world = World::with(text);
    assert_eq!(world.at(100, &heat(4.0)), ["firing hot"]);

    let mut next = World::after(&world, text, 200);

    assert!(next.at(201, &[]).is_empty(), "the new leader has not seen it yet");
    assert!(next.at(205, &heat(4.0)).is_empty(), "it was told before");
    assert!(next.at(229, &heat(0.0)).is_empty());
    assert_eq!(next.at(230, &heat(0.0)), ["resolved hot"]);
}

#[test]
fn what_was_not_told_before_the_leader_went_is_there_for_the_next_one_to_tell() {
    let text = "[hot]\nmetric = \"heat\"\nabove = 3.0\n";
    let mut world = World::with(text);
    world.book.evaluate(&heat(4.0), at(100));

    let next = World::after(&world, text, 200);

    let untold: Vec<(u64, &str)> = next.book.kept.untold.iter().map(|news| (news.number, news.what.as_str())).collect();
    assert_eq!(untold, [(1, "firing")]);
}

#[test]
fn what_is_kept_is_read_as_it_was_written() {
    let mut world = World::with("[hot]\nmetric = \"heat\"\nabove = 3.0\n");
    world.silence("rule=cold", "1h", 99).unwrap();
    world.book.evaluate(&heat(4.25), at(100));

    let again: Kept = serde_json::from_slice(&serde_json::to_vec(&world.book.kept).unwrap()).unwrap();

    assert_eq!(again, world.book.kept);
}

#[test]
fn what_fires_on_is_told_again_until_somebody_knows_of_it() {
    let mut world = World::with("[hot]\nmetric = \"heat\"\nabove = 3.0\n");
    world.book.settings.notify_every = Duration::from_secs(60);
    assert_eq!(world.at(0, &heat(4.0)), ["firing hot"]);
    assert!(world.at(59, &heat(4.0)).is_empty());
    assert_eq!(world.at(60, &heat(4.0)), ["firing hot"]);

    let asked = Acknowledge { id: "hot".into(), by: "ada".into(), comment: "on it".into() };
    let shown = world.book.acknowledge(&asked, at(61)).unwrap();

    assert_eq!(shown.acknowledged.unwrap().by, "ada");
    assert_eq!(world.told(), ["acknowledged hot"]);
    assert!(world.at(300, &heat(4.0)).is_empty(), "somebody knows");
    assert_eq!(world.at(301, &heat(0.0)), ["resolved hot"]);
    assert_eq!(world.at(302, &heat(4.0)), ["firing hot"], "this is another one, and nobody knows of it");
    assert_eq!(world.book.acknowledge(&Acknowledge { id: "cold".into(), ..asked }, at(303)).unwrap_err().code, 404);
}

#[test]
fn what_is_silenced_is_told_when_the_silence_ends_if_it_fires_still() {
    let mut world = World::with("[hot]\nmetric = \"heat\"\nby = [\"kind\"]\nabove = 3.0\n");
    let hot = [Sample::new("heat", &[("kind", "a")], 4.0), Sample::new("heat", &[("kind", "b")], 4.0)];
    let silence = world.silence("kind=a", "1m", LATER).unwrap();
    assert_eq!(world.told(), [format!("silenced {}: kind=a", silence.id)]);

    assert_eq!(world.at(LATER + 1, &hot), ["firing hot:b"]);
    assert_eq!(world.book.alerts(at(LATER + 1))[0].silenced_by, [silence.id.as_str()]);
    assert_eq!(world.book.silences(at(LATER + 1))[0].alerts, 1);
    assert!(world.at(LATER + 59, &hot).is_empty());

    let told = world.at(LATER + 60, &hot);
    assert_eq!(told, [format!("unsilenced {}: kind=a", silence.id), "firing hot:a".to_owned()]);
}

#[test]
fn what_came_and_went_in_silence_is_never_told() {
    let mut world = World::with("[hot]\nmetric = \"heat\"\nabove = 3.0\n");
    let silence = world.silence("rule=h*", "1h", LATER).unwrap();
    world.told();

    assert!(world.at(LATER + 1, &heat(4.0)).is_empty());
    assert!(world.at(LATER + 2, &heat(0.0)).is_empty());

    assert!(world.book.unsilence(&silence.id, at(LATER + 3)).is_ok());
    assert_eq!(world.book.unsilence(&silence.id, at(LATER + 3)).unwrap_err().code, 404);
}

#[test]
fn a_silence_that_cannot_be_is_refused_in_words() {
    let mut world = World::with("");
    for (matcher, lasts, why) in [
        ("kind", "1h", "is not a condition"),
        ("kind=a", "soon", "for:"),
        ("kind=a", "0s", "four weeks"),
        ("kind=a", "29days", "four weeks"),
    ] {
        let refusal = world.silence(matcher, lasts, 0).unwrap_err();
        assert!(refusal.code == 400 && refusal.error.contains(why), "{refusal:?}");
    }
    let nothing = NewSilence { lasts: "1h".into(), ..NewSilence::default() };
    assert!(world.book.silence(&nothing, at(0)).unwrap_err().error.contains("matchers"));
    let long = NewSilence { matchers: vec!["kind=a".into()], by: "x".repeat(65), ..nothing };
    assert!(world.book.silence(&long, at(0)).unwrap_err().error.contains("64 characters"));
}

#[test]
fn what_is_not_known_neither_fires_nor_resolves() {
    let mut world = World::with("[slow]\nmetric = \"done\"\nmeasure = \"rate\"\nover = \"1m\"\nbelow = 1.0\n");
    let done = |value| [Sample::new("done", &[], value)];

    assert!(world.at(100, &done(0.0)).is_empty());
    assert_eq!(world.rule("slow").problem.as_deref(), Some("its metrics were not seen for long enough yet"));
    assert_eq!(world.at(130, &done(0.0)), ["firing slow"]);

    let text = "[slow]\nmetric = \"done\"\nmeasure = \"rate\"\nover = \"10m\"\nbelow = 1.0\n";
    let mut next = World::after(&world, text, 200);
    assert!(next.at(260, &done(5000.0)).is_empty(), "it goes on while nothing is known");
    assert!(next.at(559, &done(9000.0)).is_empty());
    assert_eq!(next.at(560, &done(9000.0)), ["resolved slow"]);
}

#[test]
fn a_rule_that_is_gone_or_switched_off_ends_its_alerts() {
    let mut world = World::with("[hot]\nmetric = \"heat\"\nabove = 3.0\n[warm]\nmetric = \"heat\"\nabove = 2.0\n");
    assert_eq!(world.at(100, &heat(4.0)), ["firing hot", "firing warm"]);

    let mut next = World::after(&world, "[warm]\nmetric = \"heat\"\nabove = 2.0\nenabled = false\n", 200);

    assert_eq!(next.at(230, &heat(4.0)), ["resolved hot", "resolved warm"]);
}

#[test]
fn the_gravest_alerts_come_first() {
    let rule =
        |name: &str, severity: &str| format!("[{name}]\nmetric = \"heat\"\nabove = 3.0\nseverity = \"{severity}\"\n");
    let mut world = World::with(&(rule("a", "info") + &rule("b", "critical") + &rule("c", "warning")));

    world.at(0, &heat(4.0));

    let ids: Vec<String> = world.book.alerts(at(0)).into_iter().map(|alert| alert.id).collect();
    assert_eq!(ids, ["b", "c", "a"]);
}

// Each rule that is built in fires and resolves.

#[test]
fn tasks_that_nobody_can_do_fire() {
    let unmet = |tasks| [Sample::new("hive_unmet_tasks", &[("kind", "resize")], tasks)];
    let mut world = World::built_in();

    assert!(world.during(0..30, &unmet(3.0)).is_empty());
    assert_eq!(world.at(30, &unmet(3.0)), ["firing no-capable-agent:resize"]);
    let alert = &world.book.alerts(at(30))[0];
    assert_eq!(alert.summary, "3 tasks of kind resize wait that no agent could ever run");
    assert_eq!(world.during(31..70, &[]), ["resolved no-capable-agent:resize"]);
}

#[test]
fn a_task_that_waits_too_long_fires() {
    let oldest = |seconds| [Sample::new("hive_queue_oldest_age_seconds", &[("kind", "resize")], seconds)];
    let mut world = World::built_in();

    assert!(world.during(0..100, &oldest(600.0)).is_empty());
    assert_eq!(world.during(100..200, &oldest(601.0)), ["firing oldest-task:resize"]);
    assert!(world.during(200..300, &oldest(301.0)).is_empty());
    assert_eq!(world.during(300..400, &oldest(300.0)), ["resolved oldest-task:resize"]);
}

#[test]
fn new_dead_letters_fire_and_old_ones_do_not() {
    let dead = |ever| [Sample::new("hive_dead_letters_total", &[], ever)];
    let mut world = World::built_in();

    assert!(world.during(0..1000, &dead(70.0)).is_empty());
    assert_eq!(world.at(1000, &dead(72.0)), ["firing dead-letters"]);
    assert_eq!(world.book.alerts(at(1000))[0].summary, "2 tasks became dead letters within ten minutes");
    assert!(world.during(1001..1600, &dead(72.0)).is_empty());
    assert_eq!(world.during(1600..1700, &dead(72.0)), ["resolved dead-letters"]);
}

#[test]
fn a_share_of_failures_fires_if_there_are_enough_of_them() {
    let settled = |succeeded, failed| {
        [("succeeded", succeeded), ("failed", failed), ("cancelled", 1e6)].map(|(outcome, count)| {
            Sample::new("hive_tasks_settled_total", &[("kind", "resize"), ("outcome", outcome)], count)
        })
    };
    let mut world = World::built_in();

    assert!(world.during(0..400, &settled(0.0, 0.0)).is_empty());
    assert!(world.during(400..600, &settled(0.0, 19.0)).is_empty(), "nineteen are no trend");
    assert_eq!(world.during(600..699, &settled(50.0, 39.0)), ["firing error-rate:resize"]);
    assert_eq!(world.during(699..1100, &settled(1000.0, 39.0)), ["resolved error-rate:resize"]);
}

#[test]
fn agents_that_are_lost_fire_until_they_are_back() {
    let lost = |agents| [Sample::new("hive_agents_missing", &[], agents)];
    let mut world = World::built_in();

    assert_eq!(world.during(0..31, &lost(2.0)), ["firing agents-lost"]);
    assert_eq!(world.during(31..100, &lost(0.0)), ["resolved agents-lost"]);
}

#[test]
fn slots_that_are_taken_all_the_time_fire() {
    let taken = |taken| [Sample::new("hive_slots_taken", &[], taken), Sample::new("hive_slots", &[], 10.0)];
    let mut world = World::built_in();

    assert!(world.during(0..700, &taken(9.0)).is_empty());
    assert_eq!(world.during(700..1301, &taken(9.5)), ["firing utilisation"]);
    assert!(world.during(1301..1500, &taken(8.5)).is_empty());
    assert_eq!(world.during(1500..1600, &taken(8.0)), ["resolved utilisation"]);
}

#[test]
fn a_broker_that_does_not_write_at_once_fires() {
    let durable = |is| {
        [("crash", 1.0), ("server-loss", 0.0), ("power-cut", is)]
            .map(|(survives, is)| Sample::new("hive_broker_durable", &[("survives", survives)], is))
    };
    let mut world = World::built_in();

    assert!(world.during(0..100, &[]).is_empty(), "nothing is known of it");
    assert_eq!(world.during(100..701, &durable(0.0)), ["firing broker-power-cut"]);
    assert_eq!(world.during(701..900, &durable(1.0)), ["resolved broker-power-cut"]);

    let in_memory = [Sample::new("hive_broker_durable", &[("survives", "crash")], 0.0)];
    assert_eq!(world.during(900..961, &in_memory), ["firing broker-not-durable"]);
    assert_eq!(world.during(961..1100, &durable(1.0)), ["resolved broker-not-durable"]);
}

#[test]
fn a_pool_that_does_not_get_what_it_wishes_fires() {
    let pool = |present, wished| {
        [("hive_scaling_present_agents", present), ("hive_scaling_wished_agents", wished)]
            .map(|(name, agents)| Sample::new(name, &[("pool", "workers")], agents))
    };
    let mut world = World::built_in();

    assert_eq!(world.during(0..301, &pool(1.0, 4.0)), ["firing scaling-stuck:workers"]);
    assert_eq!(world.book.alerts(at(300))[0].summary, "pool workers has 25% of the agents that are wished for");
    assert_eq!(world.during(301..400, &pool(4.0, 4.0)), ["resolved scaling-stuck:workers"]);
    assert_eq!(world.during(400..2300, &pool(1.0, 0.0)), ["firing scaling-surplus:workers"]);
    assert_eq!(world.during(2300..2400, &pool(0.0, 0.0)), ["resolved scaling-surplus:workers"]);
}

/// A book, and what it would have told.
struct World {
    book: Book,
}

impl World {
    fn built_in() -> Self {
        Self::open("", Kept::default(), 0, |_| true)
    }

    /// Only with these rules.
    fn with(text: &str) -> Self {
        Self::open(text, Kept::default(), 0, |rule| !rule.is_built_in)
    }

    /// The next leader, which goes on with what was kept.
    fn after(before: &World, text: &str, second: u64) -> Self {
        Self::open(text, before.book.kept.clone(), second, |rule| !rule.is_built_in)
    }

    fn open(text: &str, kept: Kept, second: u64, wanted: impl Fn(&Rule) -> bool) -> Self {
        let rules = rules(&toml::from_str(text).unwrap()).unwrap();
        let rules = rules.into_iter().filter(wanted).collect();
        Self { book: Book::open(Config::default(), rules, kept, at(second)) }
    }

    /// Looks at the rules at this second; what is told, in words.
    fn at(&mut self, second: u64, samples: &[Sample]) -> Vec<String> {
        self.book.evaluate(samples, at(second));
        self.told()
    }

    /// Looks every second.
    fn during(&mut self, seconds: std::ops::Range<u64>, samples: &[Sample]) -> Vec<String> {
        seconds.flat_map(|second| self.at(second, samples)).collect()
    }

    /// What is yet to be told, which it is by this.
    fn told(&mut self) -> Vec<String> {
        let news = std::mem::take(&mut self.book.kept.untold);
        let id = |news: &News| match news.what.as_str() {
            "silenced" | "unsilenced" => news.detail.split(" until").next().unwrap().to_owned(),
            _ => news.data["id"].as_str().unwrap().to_owned(),
        };
        news.iter().map(|news| format!("{} {}", news.what, id(news))).collect()
    }

    fn silence(
        &mut self,
        matcher: &str,
        lasts: &str,
        second: u64,
    ) -> Result<shared::api::alerts::Silence, shared::api::Refusal> {
        let asked = NewSilence { matchers: vec![matcher.to_owned()], lasts: lasts.to_owned(), ..NewSilence::default() };
        self.book.silence(&asked, at(second))
    }

    fn rule(&self, name: &str) -> ShownRule {
        self.book.rules().into_iter().find(|rule| rule.id == name).unwrap()
    }
}

fn heat(value: f64) -> [Sample; 1] {
    [Sample::new("heat", &[], value)]
}

fn at(second: u64) -> Timestamp {
    Timestamp::from_origin(Duration::from_secs(1_700_000_000 + second))
}
