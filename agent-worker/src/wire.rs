//! The headers of `run` and `done`: read and written.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::{HeaderName, HeaderValue};
use shared::header;
use shared::header::name::{
    ATTEMPT, CPU, CPU_MS, DISK, EPOCH, ERROR, INCARNATION, IO_BYTES, KIND, MEMORY, MEMORY_PEAK, NETWORK, OUTCOME,
    RESOURCES, RUN_MS, SEQUENCE, TASK, TIMEOUT,
};
use shared::message::Needed;
use shared::quantity::{parse_bandwidth, parse_bytes, parse_cpu};
use shared::{Countables, Resources, Used};

use crate::session::{Done, Order};

/// Bytes of a message that are kept for the headers of `done`: names and numbers, and the longest error.
pub const ROOM_FOR_HEADERS: usize = 2048 + header::MAX_ERROR_BYTES;

/// Why a `run` cannot be read. What cannot be read cannot be answered either.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRun {
    /// A header is missing.
    #[error("`run` has no header `{0}`")]
    Missing(&'static str),
    /// A header's value is none.
    #[error("`run` has `{name}: {value}`, which is none")]
    Unreadable {
        /// The header.
        name: &'static str,
        /// Its value, cleaned and cut.
        value: String,
    },
}

/// Reads what `run` orders.
pub fn read_run(headers: &HeaderMap) -> Result<Order, BadRun> {
    Ok(Order {
        task: read(headers, TASK, header::TASK)?,
        sequence: read(headers, SEQUENCE, header::SEQUENCE)?,
        kind: read(headers, KIND, header::KIND)?,
        attempt: read(headers, ATTEMPT, header::ATTEMPT)?,
        epoch: read(headers, EPOCH, header::EPOCH)?,
        incarnation: read(headers, INCARNATION, header::INCARNATION)?,
        timeout: read_if_present(headers, TIMEOUT, header::TIMEOUT, humantime::parse_duration)?,
        reserved: read_reserved(headers)?,
    })
}

fn read_reserved(headers: &HeaderMap) -> Result<Needed, BadRun> {
    let resources = Resources {
        cpu_millis: read_if_present(headers, CPU, header::CPU, parse_cpu)?.unwrap_or(0),
        memory_bytes: read_if_present(headers, MEMORY, header::MEMORY, parse_bytes)?.unwrap_or(0),
        disk_bytes: read_if_present(headers, DISK, header::DISK, parse_bytes)?.unwrap_or(0),
        network_bps: read_if_present(headers, NETWORK, header::NETWORK, parse_bandwidth)?.unwrap_or(0),
    };
    let countable = read_if_present(headers, RESOURCES, header::RESOURCES, str::parse::<Countables>)?;
    Ok(Needed { resources, countable: countable.unwrap_or_default() })
}

fn read<T: std::str::FromStr>(headers: &HeaderMap, name: HeaderName, text: &'static str) -> Result<T, BadRun> {
    let value = headers.get(name).ok_or(BadRun::Missing(text))?;
    value.as_str().parse().map_err(|_| unreadable(text, value))
}

fn read_if_present<T, E>(
    headers: &HeaderMap,
    name: HeaderName,
    text: &'static str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>, BadRun> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    parse(value.as_str()).map(Some).map_err(|_| unreadable(text, value))
}

fn unreadable(name: &'static str, value: &HeaderValue) -> BadRun {
    BadRun::Unreadable { name, value: header::clean(value.as_str(), 80) }
}

/// Writes the headers of `done`.
pub fn write_done(done: &Done) -> HeaderMap {
    let Done { order, ended } = done;
    let mut headers = HeaderMap::new();
    // Names of the mesh and numbers are single words: none of these values has a line break in it.
    headers.insert(TASK, order.task.as_str());
    headers.insert(SEQUENCE, HeaderValue::from(order.sequence));
    headers.insert(KIND, order.kind.as_str());
    headers.insert(ATTEMPT, HeaderValue::from(order.attempt));
    headers.insert(EPOCH, HeaderValue::from(order.epoch.0));
    headers.insert(INCARNATION, HeaderValue::from(order.incarnation.0));
    headers.insert(OUTCOME, ended.outcome.as_str());
    headers.insert(RUN_MS, HeaderValue::from(millis(ended.run)));
    write_used(&ended.used, &mut headers);
    if !ended.error.is_empty() {
        headers.insert(ERROR, HeaderValue::from(header::clean(&ended.error, header::MAX_ERROR_BYTES)));
    }
    headers
}

fn write_used(used: &Used, headers: &mut HeaderMap) {
    for (name, amount) in [(CPU_MS, used.cpu.map(millis)), (MEMORY_PEAK, used.memory_peak), (IO_BYTES, used.io_bytes)] {
        if let Some(amount) = amount {
            headers.insert(name, HeaderValue::from(amount));
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shared::task::AttemptOutcome;
    use shared::{Epoch, Incarnation};

    use super::*;
    use crate::session::Ended;

    #[test]
    fn a_run_is_read_from_its_headers() {
        let order = read_run(&run_headers()).unwrap();

        assert_eq!(order, an_order());
    }

    #[test]
    fn a_run_that_cannot_be_read_is_told_with_its_header() {
        let mut without_kind = HeaderMap::new();
        without_kind.insert("Hive-Task", "t");
        without_kind.insert("Hive-Sequence", "7");
        assert_eq!(read_run(&without_kind), Err(BadRun::Missing("Hive-Kind")));

        let mut bad_epoch = run_headers();
        bad_epoch.insert("Hive-Epoch", "new");
        assert!(matches!(read_run(&bad_epoch), Err(BadRun::Unreadable { name: "Hive-Epoch", .. })));

        let mut bad_memory = run_headers();
        bad_memory.insert("Hive-Memory", "lots");
        assert!(matches!(read_run(&bad_memory), Err(BadRun::Unreadable { name: "Hive-Memory", .. })));
    }

    #[test]
    fn what_is_reserved_is_read_where_it_is_said() {
        let mut headers = run_headers();
        headers.insert("Hive-Cpu", "500m");
        headers.insert("Hive-Resources", "gpus=2");

        let reserved = read_run(&headers).unwrap().reserved;

        assert_eq!(reserved.resources, Resources { cpu_millis: 500, ..Resources::ZERO });
        assert_eq!(reserved.countable.get("gpus"), 2);
    }

    #[test]
    fn what_was_not_measured_is_not_told() {
        let mut ended = Ended::without_output(AttemptOutcome::Failed, "", Duration::ZERO);
        ended.used.memory_peak = Some(50 << 20);

        let headers = write_done(&Done { order: Arc::new(an_order()), ended });

        assert_eq!(headers.get("Hive-Memory-Peak").unwrap().as_str(), "52428800");
        assert!(headers.get("Hive-Cpu-Ms").is_none() && headers.get("Hive-Io-Bytes").is_none());
    }

    #[test]
    fn an_error_with_line_breaks_is_told_on_one_line() {
        let ended = Ended::without_output(AttemptOutcome::Failed, "no\r\nsuch file", Duration::from_millis(12));

        let headers = write_done(&Done { order: Arc::new(an_order()), ended });

        assert_eq!(headers.get("Hive-Error").unwrap().as_str(), "no  such file");
        assert_eq!(headers.get("Hive-Run-Ms").unwrap().as_str(), "12");
        assert_eq!(headers.get("Hive-Outcome").unwrap().as_str(), "failed");
    }

    fn an_order() -> Order {
        Order {
            task: "t".parse().unwrap(),
            sequence: 7,
            kind: "resize".parse().unwrap(),
            attempt: 2,
            epoch: Epoch(3),
            incarnation: Incarnation(4),
            timeout: Some(Duration::from_secs(30)),
            reserved: Needed::default(),
        }
    }

    fn run_headers() -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("Hive-Task", "t"),
            ("Hive-Sequence", "7"),
            ("Hive-Kind", "resize"),
            ("Hive-Attempt", "2"),
            ("Hive-Epoch", "3"),
            ("Hive-Incarnation", "4"),
            ("Hive-Timeout", "30s"),
        ] {
            headers.insert(name, value);
        }
        headers
    }
}
