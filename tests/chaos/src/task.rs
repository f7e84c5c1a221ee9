//! The tasks of the scenarios: how long they take stands in their body, and their output is another text than their
//! body, so that nobody can pass one off as the other.

use std::time::Duration;

use bytes::Bytes;

/// The kind that the agents of the scenarios handle in their own process.
pub const KIND: &str = "work";
/// The kind whose command takes its agent down.
pub const POISON: &str = "poison";

/// A task to be submitted.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its id.
    pub id: String,
    /// What is to be done.
    pub kind: &'static str,
    /// How long its first attempt takes.
    pub first: Duration,
    /// How long each later one takes.
    pub later: Duration,
}

impl Job {
    /// A task that always takes this long.
    pub fn new(id: impl Into<String>, takes: Duration) -> Self {
        Self { id: id.into(), kind: KIND, first: takes, later: takes }
    }

    /// A task that kills each agent that it meets.
    pub fn poison(id: impl Into<String>) -> Self {
        Self { kind: POISON, ..Self::new(id, Duration::ZERO) }
    }

    /// The same, with later attempts that take this long.
    #[must_use]
    pub fn later(mut self, takes: Duration) -> Self {
        self.later = takes;
        self
    }

    /// Its body.
    pub fn body(&self) -> Bytes {
        format!("{} {} {}", self.first.as_millis(), self.later.as_millis(), self.id).into()
    }

    /// What must come back.
    pub fn output(&self) -> Bytes {
        output(&self.body())
    }
}

/// What becomes of a body.
fn output(body: &[u8]) -> Bytes {
    body.iter().rev().copied().collect::<Vec<u8>>().into()
}

/// What the handler does.
pub async fn work(body: &[u8], attempt: u32) -> Result<Bytes, String> {
    let text = std::str::from_utf8(body).map_err(|error| error.to_string())?;
    let mut words = text.split(' ').map(str::parse::<u64>);
    let (Some(Ok(first)), Some(Ok(later))) = (words.next(), words.next()) else {
        return Err(format!("`{text}` does not say how long it takes"));
    };
    let takes = if attempt <= 1 { first } else { later };
    tokio::time::sleep(Duration::from_millis(takes)).await;
    Ok(output(body))
}
