//! What the agent does about bytes that are no message of the mesh.

use async_nats::HeaderMap;
use async_nats::header::{HeaderName, HeaderValue};
use bytes::Bytes;
use shared::header;
use shared::message::HeldState;
use shared::subject::InboxVerb;
use shared::task::AttemptOutcome;

use super::candidate::{Candidate, SOON};
use super::order::state_of;
use super::{Checked, require};

/// Bodies that are neither JSON nor MessagePack of any message.
const GARBAGE: [&[u8]; 14] = [
    b"",
    b"\xc1",
    b"{",
    b"\"",
    b"null",
    b"7",
    b"[]",
    b"[[[[[[[[",
    b"{\"epoch\": \"new\", \"attempts\": 7, \"task\": [], \"attempt\": {}}",
    b"{\"epoch\": null, \"attempts\": [null, {\"task\": 1}], \"beat_interval\": 500}",
    b"{\"epoch\": -1, \"attempts\": {}, \"task\": \"t\", \"attempt\": \"1\", \"beat_interval\": \"soon\"}",
    b"\xff\xfe\x00\x00\xd8",
    b"\x81\xa5epoch\xc0",
    &[0x81; 300],
];

/// What may be said of them.
const TYPES: [Option<&str>; 4] = [None, Some("application/json"), Some("application/msgpack"), Some("text/plain")];

/// Values that no number has.
const NO_NUMBERS: [&str; 5] = ["", "new", "-1", "1.5", "99999999999999999999999"];

pub(super) async fn run(candidate: &mut Candidate) -> Checked {
    let echo = candidate.echo()?;
    let order = candidate.order(&echo, "no order");
    // Should it be taken after all, it is taken back.
    candidate.note(&order);
    let (all, run) = (order.headers(), InboxVerb::Run.as_str());
    candidate.babble(run, HeaderMap::new(), Bytes::new()).await;
    candidate.babble(run, HeaderMap::new(), Bytes::from_static(GARBAGE[1])).await;
    let required = [header::TASK, header::SEQUENCE, header::KIND, header::ATTEMPT, header::EPOCH, header::INCARNATION];
    for name in required {
        candidate.babble(run, without(&all, name), order.body.clone()).await;
    }
    for name in [header::SEQUENCE, header::ATTEMPT, header::EPOCH, header::INCARNATION] {
        for value in NO_NUMBERS {
            candidate.babble(run, with(&all, name, value), order.body.clone()).await;
        }
    }
    candidate.babble(run, with(&all, header::TIMEOUT, "soon"), order.body.clone()).await;
    still_works(candidate).await
}

pub(super) async fn messages(candidate: &mut Candidate) -> Checked {
    let echo = candidate.echo()?;
    let mark = candidate.mark();
    let held = candidate.run_new(&echo, "held").await;
    candidate.ends(mark, &held, AttemptOutcome::Succeeded, SOON).await?;
    for verb in InboxVerb::ALL.into_iter().filter(|verb| *verb != InboxVerb::Run) {
        for named in TYPES {
            for body in GARBAGE {
                candidate.babble(verb.as_str(), of_type(named), Bytes::from_static(body)).await;
            }
        }
    }
    still_works(candidate).await?;
    let beat = candidate.look().await?;
    require(!beat.draining, "it drains, although no drain could be read")?;
    let state = state_of(&beat, &held.attempt);
    require(state == Some(HeldState::Done), "it has forgotten what it holds, although no settled could be read")
}

pub(super) async fn unknown_verb(candidate: &mut Candidate) -> Checked {
    for body in GARBAGE {
        candidate.babble("sing", HeaderMap::new(), Bytes::from_static(body)).await;
    }
    still_works(candidate).await
}

async fn still_works(candidate: &mut Candidate) -> Checked {
    let echo = candidate.echo()?;
    let mark = candidate.mark();
    let order = candidate.run_new(&echo, "still here").await;
    candidate.ends(mark, &order, AttemptOutcome::Succeeded, SOON * 2).await?;
    Ok(())
}

fn of_type(named: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(named) = named {
        headers.insert(header::CONTENT_TYPE, named);
    }
    headers
}

fn with(headers: &HeaderMap, name: &'static str, value: &str) -> HeaderMap {
    let mut changed = headers.clone();
    changed.insert(name, value);
    changed
}

fn without(headers: &HeaderMap, name: &str) -> HeaderMap {
    let is_other = |(other, _): &(&HeaderName, &Vec<HeaderValue>)| AsRef::<str>::as_ref(*other) != name;
    let mut changed = HeaderMap::new();
    for (name, values) in headers.iter().filter(is_other) {
        values.iter().for_each(|value| changed.append(name.clone(), value.clone()));
    }
    changed
}
