//! The broker is killed and restarted under load.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::ensure;
use tokio::net::TcpStream;

use super::up_to;
use crate::client::Pace;
use crate::clock::Moment;
use crate::figures::{Limits, Row};
use crate::task::Job;
use crate::witness::Deed;
use crate::world::{Setup, World};
use crate::{Context, oracle};

/// Tasks a second.
const RATE: f64 = 200.0;
/// What has not resumed by then never will.
const LIMIT: Duration = Duration::from_secs(60);
/// The promise.
const RESUMED: Limits = Limits { max: Some(Duration::from_secs(2)), ..Limits::NONE };

pub(super) async fn run(context: &Context) -> anyhow::Result<Vec<Row>> {
    // Nothing is given in advance: so what starts after the broker is back was ordered after it was.
    let setup = Setup { agents: 4, slots: 8, queue: 0, coordinators: 2, ..Setup::default() };
    let mut world = World::start(context, setup).await?;
    let pace = Pace::steady(RATE, 2000);
    let load = world.client.load(pace, |number| Job::new(format!("t{number}"), Duration::from_millis(10)));
    let kills = context.times(100, 3);
    let mut random = context.random("broker");
    let mut spans = Vec::new();
    for kill in 0..kills {
        tokio::time::sleep(Duration::from_millis(500) + up_to(&mut random, Duration::from_secs(1))).await;
        world.local.broker().kill9().await;
        tokio::time::sleep(up_to(&mut random, Duration::from_millis(1500))).await;
        let back = tokio::spawn(listening(world.local.broker().port()));
        world.local.broker_mut().restart().await?;
        let back = back.await?;
        spans.push(first_start_after(&mut world, back).await?.since(back));
        if kill % 25 == 24 {
            context.tell("broker", format_args!("{} of {kills}", kill + 1));
        }
    }
    load.stop().await?;
    let verdict = oracle::judge(&mut world, context.patience(180)).await?;
    let promise = format!("{kills} SIGKILLs and restarts of the broker under load: dispatch resumes < 2 s");
    Ok(vec![verdict.put_into(Row::new(promise, kills)).timed(&spans, context.limits(RESUMED))])
}

/// When somebody listens on a port.
async fn listening(port: u16) -> Moment {
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Moment::now()
}

async fn first_start_after(world: &mut World, moment: Moment) -> anyhow::Result<Moment> {
    let started = Instant::now();
    let mut from = world.witness.notes().len();
    loop {
        world.witness.read()?;
        let notes = &world.witness.notes()[from..];
        let first = notes.iter().filter(|note| note.deed == Deed::Start && note.at > moment).map(|note| note.at).min();
        if let Some(first) = first {
            return Ok(first);
        }
        from += notes.len();
        ensure!(started.elapsed() < LIMIT, "nothing was started for {LIMIT:?} after the broker was back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
