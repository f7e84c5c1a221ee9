//! What NATS servers tell of themselves by their monitoring (their setting `http`).

use std::time::Duration;

use futures_util::future::join_all;
use serde::Deserialize;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(3);

/// What a server tells of itself by its monitoring, or to the system account.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Varz {
    pub(crate) server_id: String,
    pub(crate) server_name: String,
    /// Nanoseconds.
    pub(crate) ping_interval: u64,
    pub(crate) ping_max: u32,
    pub(crate) slow_consumers: u64,
    pub(crate) stale_connections: u64,
    pub(crate) connections: u64,
    pub(crate) max_connections: u64,
    pub(crate) jetstream: JetStreamVarz,
}

/// Of that, what is about JetStream.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct JetStreamVarz {
    pub(crate) config: Option<JetStreamConfig>,
    pub(crate) stats: JetStreamStats,
    pub(crate) meta: Option<Meta>,
}

/// The settings of JetStream that hold.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct JetStreamConfig {
    /// Nanoseconds.
    pub(crate) sync_interval: u64,
    pub(crate) sync_always: bool,
    /// Bytes of streams in files that the server takes.
    pub(crate) max_storage: u64,
}

/// What JetStream holds on that server.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct JetStreamStats {
    /// Bytes in files.
    pub(crate) storage: u64,
    /// Bytes that streams with a limit keep free for themselves.
    pub(crate) reserved_storage: u64,
}

/// The cluster of JetStream servers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Meta {
    pub(crate) cluster_size: usize,
}

/// Asks each of these addresses, such as `http://127.0.0.1:8222`; an error says in words why one cannot be read.
pub(crate) async fn read(urls: &[String]) -> Result<Vec<Varz>, String> {
    let read = join_all(urls.iter().map(|url| read_one(url))).await;
    read.into_iter().collect()
}

async fn read_one(url: &str) -> Result<Varz, String> {
    let problem =
        |e: reqwest::Error| format!("the monitoring at {url} cannot be read: {}", crate::chain(&e.without_url()));
    let client = reqwest::Client::builder().timeout(ANSWER).build().map_err(problem)?;
    let address = format!("{}/varz", url.trim_end_matches('/'));
    let answer = client.get(address).send().await.and_then(reqwest::Response::error_for_status).map_err(problem)?;
    let body = answer.bytes().await.map_err(problem)?;
    serde_json::from_slice(&body)
        .map_err(|e| format!("the monitoring at {url} does not answer like a NATS server: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_tells_of_its_disk_is_read() {
        let varz = r#"{"server_id":"A","ping_interval":120000000000,"ping_max":2,"version":"2.15.1",
            "jetstream":{"config":{"sync_interval":120000000000,"sync_always":true},"stats":{}}}"#;

        let varz: Varz = serde_json::from_str(varz).unwrap();

        assert!(varz.jetstream.config.is_some_and(|config| config.sync_always));
        assert_eq!((varz.ping_interval, varz.ping_max, varz.slow_consumers), (120_000_000_000, 2, 0));
    }
}
