//! What the broker holds and promises. It is asked no more often than it can bear, however often somebody looks.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use scheduler::Figures;
use shared::Kind;
use shared::metrics::Exposition;
use tokio::sync::Mutex;
use tracing::debug;

use super::families;
use crate::monitor::{self, Varz};
use crate::store::{Contents, Queues, Store, StoreError};

/// How long an answer is good for.
const FRESH: Duration = Duration::from_secs(5);
/// And so many times as long as it took: to count a million tasks costs the broker a third of a second.
const REST: u32 = 50;
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of so many kinds that nobody can do the oldest task is looked up.
const MOST_UNSERVED: usize = 100;
/// Copies of a stream from which on one of its servers may be lost.
const SURVIVING_COPIES: u64 = 3;

/// Looks at the broker, and remembers what it saw.
#[derive(Debug)]
pub(super) struct Broker {
    store: Store,
    /// Addresses of the servers' monitoring, if they are known.
    monitors: Vec<String>,
    seen: Mutex<Option<(Instant, Arc<Seen>)>>,
}

/// What a look at the broker has found.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The streams; nothing if JetStream did not answer.
    pub(super) streams: Option<Vec<Contents>>,
    pub(super) queues: Queues,
    /// Whether every server syncs each message before it confirms it, if that can be seen.
    pub(super) syncs_always: Option<bool>,
}

impl Broker {
    pub(super) fn new(store: Store, monitors: Vec<String>) -> Self {
        Self { store, monitors, seen: Mutex::new(None) }
    }

    /// What was seen of late, or is seen now.
    pub(super) async fn look(&self, figures: &Figures) -> Arc<Seen> {
        let mut seen = self.seen.lock().await;
        if let Some((_, seen)) = seen.as_ref().filter(|(until, _)| Instant::now() < *until) {
            return seen.clone();
        }
        let began = Instant::now();
        let looked = tokio::time::timeout(PATIENCE, self.ask(figures)).await;
        let found = match looked {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                debug!(error = %crate::chain(&error), "what the streams hold cannot be read");
                Seen::default()
            }
            Err(_) => Seen::default(),
        };
        let found = Arc::new(found);
        *seen = Some((Instant::now() + FRESH.max(began.elapsed() * REST), found.clone()));
        found
    }

    async fn ask(&self, figures: &Figures) -> Result<Seen, StoreError> {
        let (streams, syncs_always) = tokio::join!(self.store.contents(), self.ask_monitors());
        let streams = streams?;
        let tasks = streams.iter().find(|contents| contents.stream == "tasks");
        let (messages, subjects) = tasks.map_or((0, 0), |tasks| (tasks.messages, tasks.subjects));
        let known: Vec<Kind> = figures.kinds.iter().map(|kind| kind.kind.clone()).collect();
        let served: BTreeSet<&Kind> = figures.kinds.iter().filter(|f| f.agents > 0).map(|f| &f.kind).collect();
        let is_unserved = |kind: &Kind| !served.contains(kind);
        let queues = self.store.queues(messages, subjects, known, is_unserved, MOST_UNSERVED).await?;
        Ok(Seen { streams: Some(streams), queues, syncs_always })
    }

    async fn ask_monitors(&self) -> Option<bool> {
        if self.monitors.is_empty() {
            return None;
        }
        let servers = monitor::read(&self.monitors).await;
        servers.map_err(|error| debug!(error, "the servers' monitoring cannot be read")).ok().and_then(|s| sync(&s))
    }
}

/// Whether all of these servers sync each message before they confirm it.
fn sync(servers: &[Varz]) -> Option<bool> {
    let mut configs = servers.iter().filter_map(|server| server.jetstream.config.as_ref()).peekable();
    configs.peek()?;
    Some(configs.all(|config| config.sync_always))
}

impl Seen {
    pub(super) fn add(&self, samples: &mut Exposition) {
        samples.add(&families::BROKER_ANSWERS, &[], self.streams.is_some());
        let Some(streams) = &self.streams else { return };
        for contents in streams {
            let stream = &[contents.stream];
            samples.add(&families::STREAM_MESSAGES, stream, contents.messages);
            samples.add(&families::STREAM_BYTES, stream, contents.bytes);
            samples.add(&families::STREAM_REPLICAS, stream, contents.copies);
            samples.add(&families::STREAM_STALE, stream, contents.stale_copies);
            if let Some(most) = contents.most_bytes {
                samples.add(&families::STREAM_LIMIT, stream, most);
            }
            match contents.stream {
                "tasks" => samples.add(&families::TASKS_SUBMITTED, &[], contents.taken),
                "dead" => samples.add(&families::DEAD_LETTERS, &[], contents.taken),
                _ => {}
            }
        }
        for (what, survives) in durability(streams, self.syncs_always) {
            samples.add(&families::BROKER_DURABLE, &[what], survives);
        }
    }
}

/// What of that which was accepted survives: the judgement of `coordinator doctor`, as far as it can be made from here.
fn durability(streams: &[Contents], syncs_always: Option<bool>) -> Vec<(&'static str, bool)> {
    let crash = streams.iter().all(|contents| contents.is_on_disk);
    let server_loss = streams.iter().all(|contents| contents.copies >= SURVIVING_COPIES);
    let mut durability = vec![("crash", crash), ("server-loss", server_loss)];
    match (crash, syncs_always) {
        (false, _) => durability.push(("power-cut", false)),
        (true, Some(true)) => durability.push(("power-cut", true)),
        // Copies survive it unless their servers lose power together, which nobody can see from here.
        (true, Some(false)) if !server_loss => durability.push(("power-cut", false)),
        (true, _) => {}
    }
    durability
}

/// The time since 1970, by the wall clock.
pub(super) fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::{JetStreamConfig, JetStreamVarz};

    fn streams(copies: u64, is_on_disk: bool) -> Vec<Contents> {
        let contents = |stream| Contents {
            stream,
            messages: 0,
            bytes: 0,
            most_bytes: None,
            taken: 0,
            subjects: 0,
            copies,
            stale_copies: 0,
            is_on_disk,
        };
        vec![contents("tasks"), contents("results")]
    }

    #[test]
    fn what_is_promised_depends_on_disk_copies_and_sync() {
        let judged = |copies, is_on_disk, syncs| durability(&streams(copies, is_on_disk), syncs);
        let all = |crash, loss, cut| vec![("crash", crash), ("server-loss", loss), ("power-cut", cut)];

        assert_eq!(judged(1, true, Some(true)), all(true, false, true));
        assert_eq!(judged(1, true, Some(false)), all(true, false, false));
        assert_eq!(judged(3, true, Some(true)), all(true, true, true));
        assert_eq!(judged(1, false, Some(true)), all(false, false, false));
        for unseen in [judged(3, true, Some(false)), judged(1, true, None)] {
            assert!(!unseen.iter().any(|(what, _)| *what == "power-cut"), "{unseen:?}");
        }
    }

    #[test]
    fn one_server_that_does_not_sync_is_enough() {
        let server = |sync_always| Varz {
            jetstream: JetStreamVarz {
                config: Some(JetStreamConfig { sync_always, ..JetStreamConfig::default() }),
                ..JetStreamVarz::default()
            },
            ..Varz::default()
        };

        assert_eq!(sync(&[server(true), server(true)]), Some(true));
        assert_eq!(sync(&[server(true), server(false)]), Some(false));
        assert_eq!(sync(&[Varz::default()]), None);
    }
}
