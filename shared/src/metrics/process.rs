//! What every program says of its own process, under the names that Prometheus has for it.

use procfs::process::{LimitValue, Process};
use procfs::{ProcResult, boot_time_secs, page_size, ticks_per_second};

use super::{Exposition, Family, Measures};

static CPU: Family = family("process_cpu_seconds_total", Measures::Counter, "CPU time used, of user and system");
static MEMORY: Family = family("process_resident_memory_bytes", Measures::Gauge, "Resident memory");
static FILES: Family = family("process_open_fds", Measures::Gauge, "Open file descriptors");
static MOST_FILES: Family = family("process_max_fds", Measures::Gauge, "Most file descriptors that may be open");
static THREADS: Family = family("process_threads", Measures::Gauge, "Threads");
static STARTED: Family =
    family("process_start_time_seconds", Measures::Gauge, "When the process started, in seconds since 1970");

/// Every family that is said of a process.
pub static ALL: [&Family; 6] = [&CPU, &MEMORY, &FILES, &MOST_FILES, &THREADS, &STARTED];

const fn family(name: &'static str, measures: Measures, help: &'static str) -> Family {
    Family { name, measures, labels: &[], help }
}

/// Adds what this process is and has. What the host does not show of it is left out.
pub fn add(samples: &mut Exposition) {
    let Ok(process) = Process::myself() else { return };
    // Each says something by itself: a host that keeps one back shows the others.
    let _ = add_stat(&process, samples);
    if let Ok(open) = process.fd_count() {
        samples.add(&FILES, &[], open as u64);
    }
    if let Ok(limits) = process.limits()
        && let LimitValue::Value(most) = limits.max_open_files.soft_limit
    {
        samples.add(&MOST_FILES, &[], most);
    }
}

fn add_stat(process: &Process, samples: &mut Exposition) -> ProcResult<()> {
    let stat = process.stat()?;
    let seconds = |ticks: u64| ticks as f64 / ticks_per_second() as f64;
    samples.add(&CPU, &[], seconds(stat.utime + stat.stime));
    samples.add(&MEMORY, &[], stat.rss * page_size());
    samples.add(&THREADS, &[], stat.num_threads.unsigned_abs());
    samples.add(&STARTED, &[], boot_time_secs()? as f64 + seconds(stat.starttime));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Format;

    #[test]
    fn the_documentation_says_of_each_what_is_said_here() {
        let docs = include_str!("../../../docs/metrics.md");
        let section = docs.split("\n## ").find_map(|section| section.strip_prefix("Of each process\n")).unwrap();

        let documented: Vec<&str> = section.lines().filter(|line| line.starts_with("| `")).collect();

        assert_eq!(documented, ALL.map(Family::row));
    }

    #[test]
    fn this_process_has_all_that_is_said_of_one() {
        let mut samples = Exposition::default();
        add(&mut samples);

        let text = samples.write(Format::Text);

        for family in ALL.iter().filter(|family| family.name != MOST_FILES.name) {
            let named = |line: &&str| line.split_once(' ').is_some_and(|(name, _)| name == family.name);
            let sample = text.lines().find(named).unwrap_or_else(|| panic!("{} is not in {text}", family.name));
            assert!(sample.rsplit(' ').next().unwrap().parse::<f64>().unwrap() >= 0.0, "{sample}");
        }
    }
}
