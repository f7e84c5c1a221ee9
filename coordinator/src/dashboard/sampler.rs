//! Looks at the mesh once a second, and at the broker every few: what it sees is what the pages show.

use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use super::Dashboard;
use super::samples::{Broker, StoredByKind};
use crate::roll_call;

/// How often the mesh is looked at.
const SECOND: Duration = Duration::from_secs(1);
/// How often the broker is asked, and the coordinators, and for alerts.
const BROKER: Duration = Duration::from_secs(2);
/// How long after somebody has looked at a page it still counts as looked at.
const WATCHED: Duration = Duration::from_secs(60);
/// How often what is stored is counted by kind, at most. That goes through every subject of the task stream: so it is
/// done while somebody looks only, and takes up no more than this share of the time.
const COUNT: Duration = Duration::from_secs(5);
const COUNT_SHARE: u32 = 50;

/// Samples for as long as the process lives.
pub(super) async fn run(dashboard: Dashboard) {
    tokio::spawn(ask_the_broker(dashboard.clone()));
    tokio::spawn(count_by_kind(dashboard.clone()));
    let mut second = tokio::time::interval(SECOND);
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        second.tick().await;
        // The coordinator is stopping.
        let Ok(pulse) = dashboard.handle.look(|scheduler, _| scheduler.pulse()).await else { return };
        dashboard.seen.lock().take(pulse, Instant::now());
    }
}

async fn ask_the_broker(dashboard: Dashboard) {
    loop {
        let broker = broker(&dashboard).await;
        let coordinators = roll_call::call(dashboard.client.nats(), dashboard.client.subjects()).await;
        let alerts = dashboard.sources.alerts().await;
        {
            let mut seen = dashboard.seen.lock();
            (seen.broker, seen.coordinators) = (broker, coordinators);
            if let Ok(alerts) = alerts {
                seen.alerts = alerts;
            }
        }
        tokio::time::sleep(BROKER).await;
    }
}

async fn broker(dashboard: &Dashboard) -> Broker {
    let asked = Instant::now();
    match dashboard.store.fills().await {
        // It was asked once for each stream.
        Ok(fills) => {
            let answered_in = Some(asked.elapsed() / u32::try_from(fills.len().max(1)).unwrap_or(1));
            Broker { fills, answered_in, problem: None }
        }
        Err(error) => Broker { problem: Some(crate::chain(&error)), ..Broker::default() },
    }
}

async fn count_by_kind(dashboard: Dashboard) {
    loop {
        let looked_at = dashboard.seen.lock().looked_at;
        let mut pause = SECOND;
        if looked_at.is_some_and(|at| at.elapsed() < WATCHED) {
            let began = Instant::now();
            if let Ok(counts) = dashboard.store.stored_by_kind().await {
                dashboard.seen.lock().stored = StoredByKind { counts, at: Some(Instant::now()) };
            }
            pause = COUNT.max(began.elapsed() * COUNT_SHARE);
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // Somebody looks who did not a moment ago.
            () = dashboard.first_look(), if pause == SECOND => {}
        }
    }
}

impl Dashboard {
    /// Somebody looks at a page.
    pub(super) fn note_look(&self) {
        let before = self.seen.lock().looked_at.replace(Instant::now());
        if before.is_none_or(|before| before.elapsed() >= WATCHED) {
            self.looked.notify_one();
        }
    }

    async fn first_look(&self) {
        self.looked.notified().await;
    }
}
