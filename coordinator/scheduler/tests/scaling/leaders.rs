//! A leader that is replaced while agents start.

use scheduler::scaling::Wish;
use scheduler::scaling::history::Outcome;
use scheduler::scaling::world::{Actuator, Curve, Mishap, Run, World};

use crate::{curve, secs};

/// The pool grows at the look at 305 s, by agents that take 30 s to come. This is the look after it.
fn taken_over(knows_the_last: bool) -> Run {
    let curve = Curve { end: secs(600), ..curve::step(secs(300), 1) };
    let mishap = Mishap::Takeover { knows_the_last, stored };
    World::new(&curve, Actuator::Works(secs(30)), 1).with_mishap(secs(310), mishap).run()
}

/// As it comes from where it is stored.
fn stored(wish: &Wish) -> Wish {
    let text = serde_json::to_string(wish).expect("a wish can be written");
    serde_json::from_str(&text).expect("a wish can be read")
}

#[test]
fn a_new_leader_does_not_order_what_the_old_one_has() {
    let run = taken_over(true);

    let before = run.looks.iter().rfind(|look| look.at < secs(310)).expect("it was looked at");
    let after = run.looks.iter().find(|look| look.at >= secs(310)).expect("it was looked at");
    assert!(before.wished > before.present, "agents are starting\n{}", run.story());
    let added: u32 = run.ordered.iter().map(|ordered| ordered.count).sum();
    assert!(after.wished >= before.wished, "{}", run.story());
    let most = run.looks.iter().map(|look| look.wished).max().unwrap_or_default();
    assert!(added + 6 <= most, "{added} were ordered for {most}\n{}", run.story());
}

#[test]
fn what_came_of_an_order_is_told_by_the_leader_after_the_one_that_gave_it() {
    let run = taken_over(true);

    let first = run.events.first().expect("the new leader knows what is under way");
    assert!(first.at.since_origin() < secs(310), "{}", run.story());
    assert_eq!(first.outcome, Outcome::Succeeded, "{}", run.story());
    assert!(first.before < first.wished && first.after >= Some(first.wished), "{}", run.story());
}

#[test]
fn what_two_leaders_have_ordered_is_put_right() {
    let run = taken_over(false);

    let added: u32 = run.ordered.iter().map(|ordered| ordered.count).sum();
    let most = run.looks.iter().map(|look| look.wished).max().unwrap_or_default();
    assert!(added + 6 > most, "the second did not know of the first: {added} for {most}\n{}", run.story());
    assert_eq!(run.last().present, run.last().wished, "{}", run.story());
}
