//! Who the agent says it is, and when.

use std::time::Duration;

use shared::Kind;
use shared::subject::AgentVerb;

use super::candidate::{Candidate, SOON};
use super::ear::Mark;
use super::{Checked, require};

pub(super) async fn first(candidate: &mut Candidate) -> Checked {
    let hello = &candidate.hello;
    require(hello.incarnation.0 > 0, "its `incarnation` is 0")?;
    require(hello.slots > 0, "its `slots` are 0")?;
    require(!hello.draining, "it is `draining` although nobody has asked it to")?;
    require(hello.holds.is_empty(), "it `holds` something although it was given nothing")?;
    let kinds = hello.kinds.iter().map(Kind::as_str).collect::<Vec<_>>().join(", ");
    let asked = "an agent is checked by kinds that return their body, sleep, and fail; see --kind";
    let found = candidate.echo().is_ok();
    require(found, format!("of its `kinds` ({kinds}) none is called as the one that returns its body: {asked}"))
}

/// Nobody has welcomed it yet.
pub(super) async fn repeated(candidate: &mut Candidate) -> Checked {
    let hellos = candidate.several(Mark::START, AgentVerb::Hello, 2, SOON).await;
    candidate.welcome_from_now_on().await;
    require(hellos.len() == 2, "it was not repeated, although nobody has answered")?;
    let gap = hellos[1].at - hellos[0].at;
    require(gap > Duration::from_millis(300), format!("it was repeated after {gap:?}"))?;
    require(gap < Duration::from_secs(3), format!("it was repeated after no less than {gap:?}"))?;
    // One may have been on its way when it was welcomed.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mark = candidate.mark();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    require(candidate.said(mark, AgentVerb::Hello).is_empty(), "it goes on saying hello although it was welcomed")
}

pub(super) async fn asked(candidate: &mut Candidate) -> Checked {
    let mark = candidate.mark();
    candidate.welcome(true).await;
    let (_, hello) = candidate.hello_since(mark, SOON).await?;
    let (now, before) = (hello.incarnation, candidate.hello.incarnation);
    require(now == before, format!("its `incarnation` has changed from {before} to {now} without a restart"))
}

pub(super) async fn standby(candidate: &mut Candidate) -> Checked {
    let mark = candidate.mark();
    let mut heard = require(false, "it was not asked");
    // It asks again with every beat of one that it does not know: what it asked first may have crossed a hello.
    for _ in 0..SOON.as_secs() {
        candidate.stand_by().await;
        heard = candidate.hello_since(mark, Duration::from_secs(1)).await.map(drop);
        if heard.is_ok() {
            break;
        }
    }
    heard
}
