//! Somebody who follows the events over HTTP, as a browser does.

use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;

/// How long the next event is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server-sent event.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Its id: the event's sequence in the stream.
    pub id: u64,
    /// `message`, or `gap`.
    pub name: String,
    /// What it says.
    pub data: Value,
}

impl Frame {
    /// The number that [`Mesh::tell`](crate::Mesh::tell) has given the event.
    ///
    /// # Panics
    /// If it was told by somebody else.
    pub fn number(&self) -> u64 {
        let detail = self.data["detail"].as_str().and_then(|detail| detail.parse().ok());
        detail.unwrap_or_else(|| panic!("{self:?} has no number"))
    }
}

/// A connection on which events come, and where to go on when it breaks.
#[derive(Debug)]
pub struct EventSource {
    response: reqwest::Response,
    unread: Vec<u8>,
    last_id: Option<u64>,
}

impl EventSource {
    /// Follows what is at this address, after this event or from now on.
    ///
    /// # Panics
    /// If the server does not let it.
    pub async fn open(url: &str, after: Option<u64>) -> Self {
        Self::try_open(url, after).await.unwrap_or_else(|error| panic!("{url} cannot be followed: {error}"))
    }

    /// The same, unless the server does not let it or is not there.
    pub async fn try_open(url: &str, after: Option<u64>) -> Result<Self, String> {
        let mut request = reqwest::Client::new().get(url).header("Accept", "text/event-stream");
        if let Some(after) = after {
            request = request.header("Last-Event-ID", after);
        }
        let response = request.send().await.map_err(|error| error.to_string())?;
        if !response.status().is_success() {
            return Err(format!("{}: {}", response.status(), response.text().await.unwrap_or_default()));
        }
        let mut source = Self { response, unread: Vec::new(), last_id: after };
        // The server says at once from where it goes on.
        source.block().await.ok_or("the connection broke before it began")?;
        Ok(source)
    }

    /// After which event to go on when it has broken.
    pub fn last_id(&self) -> Option<u64> {
        self.last_id
    }

    /// The next event; nothing if the connection broke.
    ///
    /// # Panics
    /// If none comes for long.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            let lines = self.block().await?;
            let field = |name: &str| lines.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            if let Some(data) = field("data") {
                return Some(Frame {
                    id: self.last_id.expect("every event has an id"),
                    name: field("event").unwrap_or("message").to_owned(),
                    data: serde_json::from_str(data).unwrap_or_else(|error| panic!("{error} in {data}")),
                });
            }
        }
    }

    /// The next events, so many.
    ///
    /// # Panics
    /// If the connection breaks.
    pub async fn take(&mut self, count: usize) -> Vec<Frame> {
        let mut frames = Vec::with_capacity(count);
        while frames.len() < count {
            frames.push(self.next().await.expect("the connection holds"));
        }
        frames
    }

    /// The lines up to the next empty one.
    async fn block(&mut self) -> Option<Vec<String>> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.unread.drain(..end + 2).collect();
                let lines: Vec<String> = String::from_utf8_lossy(&block).lines().map(str::to_owned).collect();
                let id = lines.iter().find_map(|line| line.strip_prefix("id: ")?.parse().ok());
                self.last_id = id.or(self.last_id);
                return Some(lines);
            }
            let chunk = timeout(PATIENCE, self.response.chunk()).await.expect("something comes, if only a heartbeat");
            self.unread.extend_from_slice(&chunk.ok()??);
        }
    }
}
