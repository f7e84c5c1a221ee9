//! Placements a second, with completions in the loop, at 10 to 100,000 agents: each strategy by itself, the whole cycle
//! of a task through the scheduler, and for scale the algorithms that the original framework published, which look at
//! every agent each time.
//!
//! `cargo bench -p scheduler`; `docs/performance.md` has the table.

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use scheduler::measure::{Cycle, Fleet};
use scheduler::placement::Strategy;

const AGENTS: [usize; 4] = [10, 1_000, 10_000, 100_000];
const SLOTS: u32 = 8;

fn place(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("place");
    group.throughput(Throughput::Elements(1));
    for strategy in Strategy::ALL {
        for agents in AGENTS {
            let mut fleet = Fleet::new(strategy, agents);
            let id = BenchmarkId::new(strategy.as_str(), agents);
            group.bench_function(id, |bencher| bencher.iter(|| fleet.turn()));
        }
    }
    group.finish();
}

fn cycle(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cycle");
    group.throughput(Throughput::Elements(1));
    for agents in AGENTS {
        let mut cycle = Cycle::new(Strategy::LeastConnections, agents);
        let id = BenchmarkId::new(Strategy::LeastConnections.as_str(), agents);
        group.bench_function(id, |bencher| bencher.iter(|| cycle.turn()));
    }
    group.finish();
}

/// The shapes of the original's `select_agent`, written anew: a list of all agents, looked through for each task.
mod original {
    use super::{SLOTS, VecDeque};

    pub(crate) struct Agent {
        pub(crate) active: u32,
        pub(crate) usage: [f64; 4],
        pub(crate) weight: f64,
    }

    pub(crate) struct Coordinator {
        agents: Vec<Agent>,
        running: VecDeque<usize>,
        next: usize,
        select: Select,
    }

    pub(crate) type Select = fn(&mut Coordinator) -> usize;

    pub(crate) const STRATEGIES: [(&str, Select); 4] = [
        ("round-robin", round_robin),
        ("least-connections", least_connections),
        ("resource-based", resource_based),
        ("weighted", weighted),
    ];

    fn round_robin(coordinator: &mut Coordinator) -> usize {
        // The original makes a list of those that are healthy each time.
        let healthy: Vec<usize> = (0..coordinator.agents.len()).collect();
        coordinator.next += 1;
        healthy[coordinator.next % healthy.len()]
    }

    fn least_connections(coordinator: &mut Coordinator) -> usize {
        let agents = coordinator.agents.iter().enumerate();
        agents.min_by_key(|(_, agent)| agent.active).map_or(0, |(number, _)| number)
    }

    fn resource_based(coordinator: &mut Coordinator) -> usize {
        let score = |agent: &Agent| agent.usage.iter().zip([0.4, 0.3, 0.2, 0.1]).map(|(u, w)| u * w).sum::<f64>();
        let agents = coordinator.agents.iter().enumerate();
        agents.min_by(|a, b| score(a.1).total_cmp(&score(b.1))).map_or(0, |(number, _)| number)
    }

    fn weighted(coordinator: &mut Coordinator) -> usize {
        let agents = coordinator.agents.iter().enumerate();
        agents.max_by(|a, b| a.1.weight.total_cmp(&b.1.weight)).map_or(0, |(number, _)| number)
    }

    impl Coordinator {
        pub(crate) fn new(agents: usize, select: Select) -> Self {
            let agent = |i: usize| Agent { active: 0, usage: [i as f64 % 0.7; 4], weight: 1.0 / (i + 1) as f64 };
            let agents: Vec<Agent> = (0..agents).map(agent).collect();
            let mut coordinator = Self { agents, running: VecDeque::new(), next: 0, select };
            (0..coordinator.agents.len() * SLOTS as usize / 2).for_each(|_| coordinator.place());
            coordinator
        }

        pub(crate) fn turn(&mut self) {
            if let Some(number) = self.running.pop_front() {
                self.agents[number].active -= 1;
            }
            self.place();
        }

        fn place(&mut self) {
            let number = (self.select)(self);
            self.agents[number].active += 1;
            self.running.push_back(number);
        }
    }
}

fn scan(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("original");
    group.throughput(Throughput::Elements(1));
    for (name, select) in original::STRATEGIES {
        for agents in [10, 1_000, 10_000] {
            let mut coordinator = original::Coordinator::new(agents, select);
            let id = BenchmarkId::new(name, agents);
            group.bench_function(id, |bencher| bencher.iter(|| black_box(&mut coordinator).turn()));
        }
    }
    group.finish();
}

fn config() -> Criterion {
    Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
}

criterion_group!(name = benches; config = config(); targets = place, cycle, scan);
criterion_main!(benches);
