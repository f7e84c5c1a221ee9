//! What the figures were measured on.

use serde::Serialize;

/// The machine that the measurement ran on.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Cores that this process may use.
    pub cores: usize,
    /// Model of the processor, or `unknown`.
    pub cpu: String,
    /// Runnable processes before the measurement, averaged over a minute; absent where it cannot be told.
    pub load_before: Option<f64>,
    /// Operating system and architecture.
    pub system: String,
}

impl Machine {
    /// The one that this process runs on, as it is now.
    pub fn here() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: cpu_model(&read("/proc/cpuinfo")).unwrap_or("unknown").to_owned(),
            load_before: read("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        }
    }
}

/// The processor's name in the text of `/proc/cpuinfo`.
fn cpu_model(cpuinfo: &str) -> Option<&str> {
    let named = cpuinfo.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == "model name");
    named.map(|(_, name)| name.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_found_in_cpuinfo() {
        let text = "processor\t: 0\nvendor_id\t: X\nmodel name\t: Fast CPU @ 3 GHz\nmodel name\t: other\n";

        assert_eq!(cpu_model(text), Some("Fast CPU @ 3 GHz"));
        assert_eq!(cpu_model("processor : 0"), None);
    }
}
