//! What an agent tells Prometheus, at `/metrics` of the address where it says whether it is well.
//!
//! The agent's loop counts in plain numbers; whoever asks gets a copy of them, and puts them into words.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashMap;
use shared::connect::Counters;
use shared::message::Report;
use shared::metrics::{BOUNDS, Exposition, Histogram, add_process};
use shared::task::AttemptOutcome;
use shared::{Kind, Resources};

use crate::session::Ended;

shared::metric_families! {
    BUILD = Gauge "hive_build_info" ["component", "version"] "Always 1; which program of which version this is";
    CONNECTED = Gauge "hive_agent_connected" [] "1 if there is a connection to a NATS server";
    WELCOMED = Gauge "hive_agent_welcomed" [] "1 if a coordinator has welcomed it";
    EPOCH = Gauge "hive_agent_epoch" [] "The epoch of the coordinator that welcomed it last; absent before";
    DRAINING = Gauge "hive_agent_draining" [] "1 if it takes no new work";
    SLOTS = Gauge "hive_agent_slots" [] "Attempts that it runs at once";
    SLOTS_TAKEN = Gauge "hive_agent_slots_taken" [] "Slots that have an attempt in them";
    QUEUED = Gauge "hive_agent_queued" [] "Attempts that wait for a slot";
    QUEUE = Gauge "hive_agent_queue_limit" [] "Attempts that it takes beyond its slots";
    STARTED = Counter "hive_agent_attempts_started_total" ["kind"] "Attempts that were started";
    ENDED = Counter "hive_agent_attempts_total" ["kind", "outcome"] "Attempts that were started and have ended";
    RUN = Histogram "hive_agent_attempt_run_seconds" ["kind"] "How long attempts ran";
    BEATS = Counter "hive_agent_beats_total" [] "Beats that were sent";
    REPORTS = Counter "hive_agent_reports_total" [] "Reports of how busy the host is that were sent";
    CONNECTS = Counter "hive_agent_nats_connects_total" [] "Connections made to a NATS server, the first one included";
    DISCONNECTS = Counter "hive_agent_nats_disconnects_total" [] "Connections to a NATS server that were lost";
    VIOLATIONS = Counter "hive_agent_nats_permission_violations_total" [] "What the NATS server did not let it do";
    SLOW = Counter "hive_agent_nats_slow_consumers_total" []
        "How often messages were dropped since they were not read in time";
    CPU = Gauge "hive_agent_cpu_cores" ["amount"] "CPU: what it offers, and what is used on its host";
    MEMORY = Gauge "hive_agent_memory_bytes" ["amount"] "Memory: what it offers, and what is used on its host";
    DISK = Gauge "hive_agent_disk_bytes" ["amount"] "Disk: what it offers, and what is used on its host";
    NETWORK = Gauge "hive_agent_network_bytes_per_second" ["amount"]
        "Network: what it offers, and what is used on its host";
}

/// What kinds are called that the agent has no handler for.
const OTHER: &str = "other";
const MILLIS_PER_CORE: f64 = 1000.0;
const BITS_PER_BYTE: f64 = 8.0;

/// What the agent's loop counts.
#[derive(Clone, Debug)]
pub(crate) struct Counts {
    /// Only kinds that it has a handler for, so that nobody else decides how many there are.
    kinds: FxHashMap<Kind, KindCounts>,
    other: KindCounts,
}

#[derive(Clone, Debug)]
struct KindCounts {
    started: u64,
    ended: [u64; AttemptOutcome::ALL.len()],
    run: Histogram,
}

impl Default for KindCounts {
    fn default() -> Self {
        Self { started: 0, ended: [0; AttemptOutcome::ALL.len()], run: Histogram::new(&BOUNDS) }
    }
}

impl Counts {
    /// Nothing yet of these kinds.
    pub(crate) fn new(kinds: &[Kind]) -> Self {
        let kinds = kinds.iter().map(|kind| (kind.clone(), KindCounts::default())).collect();
        Self { kinds, other: KindCounts::default() }
    }

    /// An attempt was started.
    pub(crate) fn started(&mut self, kind: &Kind) {
        self.of(kind).started += 1;
    }

    /// It has ended.
    pub(crate) fn ended(&mut self, kind: &Kind, ended: &Ended) {
        let counts = self.of(kind);
        counts.ended[ended.outcome as usize] += 1;
        counts.run.observe(ended.run);
    }

    fn of(&mut self, kind: &Kind) -> &mut KindCounts {
        self.kinds.get_mut(kind).unwrap_or(&mut self.other)
    }

    fn add(&self, samples: &mut Exposition) {
        let named = self.kinds.iter().map(|(kind, counts)| (kind.as_str(), counts));
        let other = Some((OTHER, &self.other)).filter(|(_, counts)| counts.started > 0);
        for (kind, counts) in named.chain(other) {
            samples.add(&STARTED, &[kind], counts.started);
            for outcome in AttemptOutcome::ALL {
                samples.add(&ENDED, &[kind, outcome.as_str()], counts.ended[outcome as usize]);
            }
            samples.add(&RUN, &[kind], &counts.run);
        }
    }
}

/// What the thread that beats has said, shared with whoever asks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told(Arc<ToldInner>);

#[derive(Debug, Default)]
struct ToldInner {
    beats: AtomicU64,
    reports: AtomicU64,
    last_report: Mutex<Option<Report>>,
}

impl Told {
    /// A beat was sent.
    pub(crate) fn beat(&self) {
        self.0.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// A report was sent.
    pub(crate) fn report(&self, report: &Report) {
        self.0.reports.fetch_add(1, Ordering::Relaxed);
        *self.0.last_report.lock().unwrap_or_else(PoisonError::into_inner) = Some(report.clone());
    }

    fn last_report(&self) -> Option<Report> {
        self.0.last_report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What an agent is and has at a moment, in numbers.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    pub(crate) is_connected: bool,
    pub(crate) epoch: Option<u64>,
    pub(crate) draining: bool,
    pub(crate) slots: u32,
    pub(crate) taken: u32,
    pub(crate) queue: u32,
    pub(crate) queued: usize,
    /// What it offers; zero is not limited.
    pub(crate) capacity: Resources,
    pub(crate) counts: Counts,
    pub(crate) told: Told,
    pub(crate) connects: u64,
    pub(crate) connection: Arc<Counters>,
}

/// Puts it into words. Without any figures, as when the loop does not answer, there is still the process.
pub(crate) fn samples(figures: Option<&Figures>) -> Exposition {
    let mut samples = Exposition::default();
    add_process(&mut samples);
    samples.add(&BUILD, &["agent-worker", env!("CARGO_PKG_VERSION")], 1_u64);
    if let Some(figures) = figures {
        figures.add(&mut samples);
    }
    samples
}

impl Figures {
    fn add(&self, samples: &mut Exposition) {
        samples.add(&CONNECTED, &[], self.is_connected);
        samples.add(&WELCOMED, &[], self.epoch.is_some());
        if let Some(epoch) = self.epoch {
            samples.add(&EPOCH, &[], epoch);
        }
        samples.add(&DRAINING, &[], self.draining);
        samples.add(&SLOTS, &[], u64::from(self.slots));
        samples.add(&SLOTS_TAKEN, &[], u64::from(self.taken));
        samples.add(&QUEUE, &[], u64::from(self.queue));
        samples.add(&QUEUED, &[], self.queued as u64);
        self.counts.add(samples);
        samples.add(&CONNECTS, &[], self.connects);
        for (family, counter) in [
            (&BEATS, &self.told.0.beats),
            (&REPORTS, &self.told.0.reports),
            (&DISCONNECTS, &self.connection.disconnects),
            (&VIOLATIONS, &self.connection.violations),
            (&SLOW, &self.connection.slow_consumers),
        ] {
            samples.add(family, &[], counter.load(Ordering::Relaxed));
        }
        self.add_resources(samples);
    }

    fn add_resources(&self, samples: &mut Exposition) {
        let report = self.told.last_report();
        let shares = report.as_ref().map(|report| [report.cpu, report.memory, report.disk, report.network]);
        let units = [MILLIS_PER_CORE, 1.0, 1.0, BITS_PER_BYTE];
        let offered = self.capacity.dimensions().into_iter().zip(units).map(|(amount, unit)| amount as f64 / unit);
        for (i, (family, offered)) in [&CPU, &MEMORY, &DISK, &NETWORK].into_iter().zip(offered).enumerate() {
            // What is not limited cannot be used up by a share.
            if offered > 0.0 {
                samples.add(family, &["capacity"], offered);
                if let Some(shares) = shares {
                    samples.add(family, &["used"], shares[i] * offered);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shared::metrics::Format;

    use super::*;

    fn figures(counts: Counts) -> Figures {
        Figures {
            is_connected: true,
            epoch: Some(7),
            draining: false,
            slots: 4,
            taken: 2,
            queue: 4,
            queued: 1,
            capacity: Resources { cpu_millis: 2000, memory_bytes: 1024, ..Resources::ZERO },
            counts,
            told: Told::default(),
            connects: 1,
            connection: Arc::default(),
        }
    }

    fn text(figures: &Figures) -> String {
        samples(Some(figures)).write(Format::Text)
    }

    #[test]
    fn the_documentation_says_of_each_what_is_said_here() {
        let docs = include_str!("../../docs/metrics.md");
        let section = docs.split("\n## ").find_map(|section| section.strip_prefix("Of an agent\n")).unwrap();

        let documented: Vec<&str> = section.lines().filter(|line| line.starts_with("| `")).collect();

        assert_eq!(documented, ALL.iter().map(|family| family.row()).collect::<Vec<_>>());
    }

    #[test]
    fn attempts_are_told_by_kind_and_outcome_and_only_kinds_with_a_handler_by_name() {
        let [echo, strange] = ["echo", "strange"].map(|kind| Kind::new(kind).unwrap());
        let mut counts = Counts::new(std::slice::from_ref(&echo));

        for (kind, outcome) in [(&echo, AttemptOutcome::Succeeded), (&strange, AttemptOutcome::Rejected)] {
            counts.started(kind);
            counts.ended(kind, &Ended::without_output(outcome, "", Duration::from_millis(20)));
        }

        let text = text(&figures(counts));
        assert!(text.contains("hive_agent_attempts_total{kind=\"echo\",outcome=\"succeeded\"} 1\n"), "{text}");
        assert!(text.contains("hive_agent_attempts_total{kind=\"other\",outcome=\"rejected\"} 1\n"), "{text}");
        assert!(text.contains("hive_agent_attempt_run_seconds_count{kind=\"echo\"} 1\n"), "{text}");
        assert!(!text.contains("strange"), "{text}");
    }

    #[test]
    fn what_is_used_is_told_of_what_is_offered() {
        let figures = figures(Counts::new(&[]));
        figures.told.report(&Report { cpu: 0.25, memory: 0.5, ..Report::default() });

        let text = text(&figures);

        assert!(text.contains("hive_agent_cpu_cores{amount=\"used\"} 0.5\n"), "{text}");
        assert!(text.contains("hive_agent_memory_bytes{amount=\"capacity\"} 1024.0\n"), "{text}");
        assert!(!text.contains("hive_agent_disk_bytes"), "{text}");
    }

    #[test]
    fn a_loop_that_does_not_answer_leaves_the_process() {
        let text = samples(None).write(Format::Text);

        assert!(text.contains("process_start_time_seconds") && !text.contains("hive_agent_slots"), "{text}");
    }
}
