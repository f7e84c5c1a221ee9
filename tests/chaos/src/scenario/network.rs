//! The network delays, loses and resets, between everybody and the broker.

use std::collections::BTreeMap;
use std::time::Duration;

use shared::AgentId;

use super::{log_uniform, up_to};
use crate::client::Pace;
use crate::figures::Row;
use crate::proxy::{Flow, Weather};
use crate::task::Job;
use crate::world::{Deed, Proxied, Setup, World};
use crate::{Context, oracle};

/// How long a fault lasts.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// Somebody who does not lead by then never will.
const LIMIT: Duration = Duration::from_secs(60);

/// What happens to a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    Cut,
    HalfOpen,
    UpVanishes,
    DownVanishes,
    Reset,
    ResetMidFrame,
    Slow,
    Narrow,
}

const TROUBLES: [Trouble; 8] = [
    Trouble::Cut,
    Trouble::HalfOpen,
    Trouble::UpVanishes,
    Trouble::DownVanishes,
    Trouble::Reset,
    Trouble::ResetMidFrame,
    Trouble::Slow,
    Trouble::Narrow,
];

/// Whose link it is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Link {
    Agent(AgentId),
    Coordinator(usize),
}

pub(super) async fn run(context: &Context) -> anyhow::Result<Vec<Row>> {
    let cycles = context.times(200, 8);
    let setup = Setup { agents: 6, slots: 4, coordinators: 2, proxied: Proxied::Everybody, ..Setup::default() };
    let mut world = World::start(context, setup).await?;
    let pace = Pace::steady(100.0, 2000);
    let load = world.client.load(pace, |number| Job::new(format!("t{number}"), Duration::from_millis(20)));
    let mut random = context.random("network");
    let mut done: BTreeMap<String, u64> = BTreeMap::new();
    for cycle in 0..cycles {
        let trouble = TROUBLES[cycle % TROUBLES.len()];
        let mut links = choose(&world, &mut random);
        if (cycle / TROUBLES.len()).is_multiple_of(2) {
            // The leader's is the one that matters most.
            let leader = Link::Coordinator(world.leader_within(LIMIT).await?);
            links.retain(|link| *link != leader);
            links.push(leader);
        }
        *done.entry(format!("{trouble:?}")).or_default() += 1;
        for link in &links {
            begin(&mut world, link, trouble, &mut random)?;
        }
        tokio::time::sleep(log_uniform(&mut random, SHORTEST, context.pick(LONGEST, LONGEST / 4))).await;
        for link in &links {
            end(&world, link, trouble)?;
        }
        tokio::time::sleep(up_to(&mut random, Duration::from_secs(1))).await;
        if cycle % 50 == 49 {
            context.tell("network", format_args!("{} of {cycles}", cycle + 1));
        }
    }
    load.stop().await?;
    let verdict = oracle::judge(&mut world, context.patience(240)).await?;
    let row = verdict.put_into(Row::new(format!("{cycles} times trouble with links under load"), cycles));
    Ok(vec![row.note(format!("{done:?}; {} takeovers", verdict.event("mesh.led").saturating_sub(1)))])
}

/// One link, a few, or all.
fn choose(world: &World, random: &mut fastrand::Rng) -> Vec<Link> {
    let agents = world.living().into_iter().map(Link::Agent);
    let mut all: Vec<Link> = agents.chain((0..world.coordinator_proxies.len()).map(Link::Coordinator)).collect();
    random.shuffle(&mut all);
    let count = match random.u8(..10) {
        0 => all.len(),
        1..4 => 2,
        _ => 1,
    };
    all.truncate(count);
    all
}

fn begin(world: &mut World, link: &Link, trouble: Trouble, random: &mut fastrand::Rng) -> anyhow::Result<()> {
    if let Link::Agent(id) = link {
        world.note(Deed::Cut, id)?;
    }
    let delay = log_uniform(random, Duration::from_millis(5), Duration::from_millis(400));
    let proxy = proxy(world, link)?;
    match trouble {
        Trouble::Cut => proxy.set(Weather::CUT),
        Trouble::HalfOpen => proxy.set(Weather::HALF_OPEN),
        Trouble::UpVanishes => proxy.set(Weather { up: Flow::Vanishing, ..Weather::FAIR }),
        Trouble::DownVanishes => proxy.set(Weather { down: Flow::Vanishing, ..Weather::FAIR }),
        Trouble::Reset => proxy.reset(),
        Trouble::ResetMidFrame => proxy.reset_mid_frame(),
        Trouble::Slow => proxy.set(Weather { delay, jitter: delay, ..Weather::FAIR }),
        Trouble::Narrow => proxy.set(Weather { rate: Some(20_000.0), ..Weather::FAIR }),
    }
    Ok(())
}

fn end(world: &World, link: &Link, trouble: Trouble) -> anyhow::Result<()> {
    let proxy = proxy(world, link)?;
    proxy.set(Weather::FAIR);
    // A connection that lost bytes in the middle is of no use to anybody.
    if matches!(trouble, Trouble::HalfOpen | Trouble::UpVanishes | Trouble::DownVanishes) {
        proxy.reset();
    }
    Ok(())
}

fn proxy<'a>(world: &'a World, link: &Link) -> anyhow::Result<&'a crate::proxy::Proxy> {
    match link {
        Link::Agent(id) => world.proxy(id),
        Link::Coordinator(index) => Ok(&world.coordinator_proxies[*index]),
    }
}
