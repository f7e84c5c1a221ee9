//! What was found: the figures, how they compare, and what they were measured with.

use std::collections::BTreeMap;

use serde::Serialize;
use shared::connect::Settings;

use super::load::LatencyHistogram;
use super::{Figures, Machine, Measured, Plan};

/// A measurement, as `bench --json` prints it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Tasks a second.
    pub throughput: Throughput,
    /// From the publish to the result.
    pub latency: Latency,
    /// CPU time of a task, where the processes are of this machine.
    pub cpu: Cpu,
    /// What was measured.
    pub settings: Plan,
    /// The mesh that was measured.
    pub mesh: String,
    /// Where it is.
    pub nats: String,
    /// Version of the server.
    pub nats_server_version: String,
    /// Version of this program.
    pub hivemesh_version: &'static str,
    /// The machine that this program ran on.
    pub machine: Machine,
    /// What the raw path consists of.
    pub raw_path: &'static str,
}

/// Tasks a second, from the first publish to the last result; medians of the rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Throughput {
    /// Of the mesh.
    pub tasks_per_second: f64,
    /// Of the raw path.
    pub raw_tasks_per_second: Option<f64>,
    /// The mesh's by the raw path's.
    pub ratio_to_raw: Option<f64>,
    /// Of a plain mesh: one kind known, nothing else queued.
    pub plain_tasks_per_second: Option<f64>,
    /// The mesh's by the plain mesh's.
    pub ratio_to_plain: Option<f64>,
    /// Of the mesh, by round.
    pub rounds: Vec<f64>,
    /// Of the raw path, by round.
    pub raw_rounds: Vec<f64>,
    /// Of the plain mesh, by round.
    pub plain_rounds: Vec<f64>,
}

/// Microseconds of CPU time for each task, by whose they are; medians of the rounds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cpu {
    /// Of the mesh.
    pub mesh: BTreeMap<&'static str, f64>,
    /// Of the raw path.
    pub raw: BTreeMap<&'static str, f64>,
}

/// Milliseconds from the publish to the result at the client; medians of the rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// Half of the mesh's tasks were as fast.
    pub p50_ms: f64,
    /// 99 of 100 of the mesh's tasks were as fast.
    pub p99_ms: f64,
    /// Half of the raw path's.
    pub raw_p50_ms: Option<f64>,
    /// 99 of 100 of the raw path's.
    pub raw_p99_ms: Option<f64>,
    /// The mesh's by the raw path's.
    pub p50_ratio_to_raw: Option<f64>,
    /// The mesh's by the raw path's.
    pub p99_ratio_to_raw: Option<f64>,
    /// Of the mesh, by round.
    pub rounds: Vec<LatencyRound>,
    /// Of the raw path, by round.
    pub raw_rounds: Vec<LatencyRound>,
}

/// The latencies of one round.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LatencyRound {
    /// Half were as fast.
    pub p50_ms: f64,
    /// 99 of 100 were as fast.
    pub p99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
    /// How many there were.
    pub tasks: u64,
}

impl From<&LatencyHistogram> for LatencyRound {
    fn from(histogram: &LatencyHistogram) -> Self {
        let ms = |nanos: u64| rounded(nanos as f64 / 1e6);
        Self {
            p50_ms: ms(histogram.value_at_quantile(0.5)),
            p99_ms: ms(histogram.value_at_quantile(0.99)),
            max_ms: ms(histogram.max()),
            tasks: histogram.len(),
        }
    }
}

impl Report {
    pub(super) fn new(
        plan: &Plan,
        connection: &Settings,
        server_version: &str,
        machine: Machine,
        measured: &Measured,
    ) -> Self {
        let Measured { mesh, raw, plain } = measured;
        Self {
            throughput: Throughput::new(mesh, raw.as_ref(), plain.as_ref()),
            latency: Latency::new(mesh, raw.as_ref()),
            cpu: Cpu { mesh: cpu(mesh), raw: raw.as_ref().map(cpu).unwrap_or_default() },
            settings: plan.clone(),
            mesh: connection.mesh.to_string(),
            nats: connection.url_without_secrets(),
            nats_server_version: server_version.to_owned(),
            hivemesh_version: env!("CARGO_PKG_VERSION"),
            machine,
            raw_path: "JetStream publish, pull, forward over core NATS to a worker and back, record the result, \
                       ack by request; forwarder and worker are tasks of this process on connections of their own",
        }
    }

    /// The figures side by side: what is measured, the mesh, the raw path, the ratio.
    pub fn rows(&self) -> Vec<[String; 4]> {
        let (throughput, latency) = (&self.throughput, &self.latency);
        let row = |name: &str, digits: usize, mesh: f64, raw: Option<f64>, ratio: Option<f64>| {
            let show = |figure: Option<f64>, digits| figure.map_or("-".to_owned(), |f| format!("{f:.digits$}"));
            [name.to_owned(), show(Some(mesh), digits), show(raw, digits), show(ratio, 2)]
        };
        let plain = throughput.plain_tasks_per_second.map(|plain| {
            row("tasks/s, by a plain mesh", 0, throughput.tasks_per_second, Some(plain), throughput.ratio_to_plain)
        });
        let rows = vec![
            row("tasks/s", 0, throughput.tasks_per_second, throughput.raw_tasks_per_second, throughput.ratio_to_raw),
            row("latency p50, ms", 2, latency.p50_ms, latency.raw_p50_ms, latency.p50_ratio_to_raw),
            row("latency p99, ms", 2, latency.p99_ms, latency.raw_p99_ms, latency.p99_ratio_to_raw),
        ];
        let sum = |parts: &BTreeMap<&str, f64>| (!parts.is_empty()).then(|| parts.values().sum::<f64>());
        let cpu = sum(&self.cpu.mesh).map(|mesh| {
            let raw = sum(&self.cpu.raw);
            row("CPU of a task, µs", 1, mesh, raw, raw.map(|raw| mesh / raw))
        });
        let part = |(name, mesh): (&&str, &f64)| row(name, 1, *mesh, self.cpu.raw.get(name).copied(), None);
        let parts = self.cpu.mesh.iter().map(part);
        rows.into_iter().chain(plain).chain(cpu).chain(parts).collect()
    }
}

impl Throughput {
    fn new(mesh: &Figures, raw: Option<&Figures>, plain: Option<&Figures>) -> Self {
        let rounds = |figures: &Figures| figures.rates.iter().copied().map(rounded).collect::<Vec<_>>();
        let (rounds, raw_rounds, plain_rounds) = (rounds(mesh), raw.map(rounds), plain.map(rounds));
        let (ours, raw, plain) =
            (median(&rounds), raw_rounds.as_deref().map(median), plain_rounds.as_deref().map(median));
        Self {
            tasks_per_second: rounded(ours),
            raw_tasks_per_second: raw.map(rounded),
            ratio_to_raw: raw.map(|raw| rounded(ours / raw)),
            plain_tasks_per_second: plain.map(rounded),
            ratio_to_plain: plain.map(|plain| rounded(ours / plain)),
            rounds,
            raw_rounds: raw_rounds.unwrap_or_default(),
            plain_rounds: plain_rounds.unwrap_or_default(),
        }
    }
}

impl Latency {
    fn new(mesh: &Figures, raw: Option<&Figures>) -> Self {
        let rounds = |figures: &Figures| figures.latencies.iter().map(LatencyRound::from).collect::<Vec<_>>();
        let (rounds, raw_rounds) = (rounds(mesh), raw.map(rounds));
        let p50 = |rounds: &[LatencyRound]| median(&rounds.iter().map(|round| round.p50_ms).collect::<Vec<_>>());
        let p99 = |rounds: &[LatencyRound]| median(&rounds.iter().map(|round| round.p99_ms).collect::<Vec<_>>());
        let (raw_p50, raw_p99) = (raw_rounds.as_deref().map(p50), raw_rounds.as_deref().map(p99));
        Self {
            p50_ms: rounded(p50(&rounds)),
            p99_ms: rounded(p99(&rounds)),
            raw_p50_ms: raw_p50.map(rounded),
            raw_p99_ms: raw_p99.map(rounded),
            p50_ratio_to_raw: raw_p50.map(|raw| rounded(p50(&rounds) / raw)),
            p99_ratio_to_raw: raw_p99.map(|raw| rounded(p99(&rounds) / raw)),
            rounds,
            raw_rounds: raw_rounds.unwrap_or_default(),
        }
    }
}

fn cpu(figures: &Figures) -> BTreeMap<&'static str, f64> {
    let mut rounds: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for (name, micros) in figures.cpu.iter().flatten() {
        rounds.entry(name).or_default().push(*micros);
    }
    rounds.into_iter().map(|(name, micros)| (name, rounded(median(&micros)))).collect()
}

/// The middle one, or the mean of the two in the middle; 0 of none.
fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle), sorted.len() % 2) {
        (None, _) => 0.0,
        (Some(figure), 1) => *figure,
        (Some(figure), _) => (sorted[middle - 1] + figure) / 2.0,
    }
}

/// To three places: more is noise.
fn rounded(figure: f64) -> f64 {
    (figure * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(rates: &[f64], millis: &[u64]) -> Figures {
        let histogram = |ms: &u64| {
            let mut histogram = LatencyHistogram::new_with_bounds(1, 60_000_000_000, 3).unwrap();
            histogram.record(ms * 1_000_000).unwrap();
            histogram
        };
        Figures { rates: rates.to_vec(), latencies: millis.iter().map(histogram).collect(), cpu: Vec::new() }
    }

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn ratios_compare_the_medians_of_the_rounds() {
        let (mesh, raw) = (figures(&[900.0, 50.0, 1000.0], &[2, 3, 9]), figures(&[1500.0, 1800.0, 9000.0], &[2, 2, 1]));

        let (throughput, latency) = (Throughput::new(&mesh, Some(&raw), None), Latency::new(&mesh, Some(&raw)));

        assert_eq!((throughput.tasks_per_second, throughput.ratio_to_raw), (900.0, Some(0.5)));
        assert!((latency.p50_ms - 3.0).abs() < 0.01, "{latency:?}");
        assert!(latency.p50_ratio_to_raw.is_some_and(|ratio| (ratio - 1.5).abs() < 0.01), "{latency:?}");
    }

    #[test]
    fn without_the_raw_path_there_is_no_ratio() {
        let throughput = Throughput::new(&figures(&[900.0], &[]), None, None);

        assert_eq!((throughput.raw_tasks_per_second, throughput.ratio_to_raw), (None, None));
    }
}
