//! `coordinator scale record`: writes down a load, for [`simulate`](super::simulate).
//!
//! The mesh tells no event for each task, but keeps the result of each, with the time that it waited and ran. So a load is
//! recorded already, for as long as results are kept.

use std::collections::VecDeque;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use shared::Client;
use shared::client::TaskResult;
use shared::connect::Settings;

use super::super::{api, output};
use super::recording::{SETTLED, Times};

/// Write down which tasks came, waited and ran, and which agents came and went: a JSON object a line, for `simulate`.
///
/// It reads the results that are kept (24 hours of them by default) and the events of agents.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Begin so long ago, such as `6h` [default: at the oldest result that is kept].
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    since: Option<Duration>,
}

/// Prints the lines, in the order of their times.
pub async fn run(args: Args, connection: &Settings) -> anyhow::Result<ExitCode> {
    let client = api::connect(connection).await?;
    let begin = args.since.and_then(|span| SystemTime::now().checked_sub(span));
    let subjects = client.subjects();
    let mut agents = VecDeque::new();
    let events = Stream { name: subjects.events_stream(), filter: subjects.event("agent", "*"), begin };
    events.read(&client, false, |message| agents.extend(event(&message))).await?;
    let results = Stream { name: subjects.results_stream(), filter: subjects.results(), begin };
    let mut lines = Ok(());
    results
        .read(&client, true, |message| {
            let Some((at, line)) = settled(&message) else { return };
            while lines.is_ok()
                && let Some((_, event)) = agents.pop_front_if(|(event_at, _)| *event_at <= at)
            {
                lines = output::json_line(&event);
            }
            if lines.is_ok() {
                lines = output::json_line(&line);
            }
        })
        .await?;
    lines?;
    for (_, event) in agents {
        output::json_line(&event)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What is to be read of a stream.
struct Stream {
    name: String,
    filter: String,
    begin: Option<SystemTime>,
}

impl Stream {
    /// Hands over all messages that are there now.
    async fn read(&self, client: &Client, headers_only: bool, mut take: impl FnMut(Message)) -> anyhow::Result<()> {
        let failed = || format!("failed to read stream `{}`", self.name);
        let stream = client.jetstream().get_stream_no_info(&self.name).await.with_context(failed)?;
        let deliver_policy = match self.begin {
            Some(start) => DeliverPolicy::ByStartTime { start_time: start.into() },
            None => DeliverPolicy::All,
        };
        let filter_subject = self.filter.clone();
        let config = OrderedConfig { filter_subject, deliver_policy, headers_only, ..Default::default() };
        let consumer = stream.create_consumer(config).await.with_context(failed)?;
        let mut left = consumer.cached_info().num_pending;
        let mut messages = consumer.messages().await.with_context(failed)?;
        while left > 0 {
            let message = messages.next().await.with_context(failed)?.with_context(failed)?;
            left = message.info().map_or(left - 1, |info| info.pending);
            take(message);
        }
        Ok(())
    }
}

fn stored_at(message: &Message) -> Option<SystemTime> {
    let nanos = message.info().ok()?.published.unix_timestamp_nanos();
    Some(UNIX_EPOCH + Duration::from_nanos(u64::try_from(nanos).ok()?))
}

/// An event as it was told.
fn event(message: &Message) -> Option<(SystemTime, Value)> {
    Some((stored_at(message)?, serde_json::from_slice(&message.payload).ok()?))
}

/// A result as an event that its task was settled.
fn settled(message: &Message) -> Option<(SystemTime, Value)> {
    let result = TaskResult::parse(message.headers.as_ref(), message.payload.clone())?;
    let at = stored_at(message)?;
    Some((at, line(&result, at)))
}

fn line(result: &TaskResult, at: SystemTime) -> Value {
    let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let times = Times { queued_ms: millis(result.queued), run_ms: millis(result.run) };
    let (topic, what) = SETTLED;
    json!({
        "time": humantime::format_rfc3339_millis(at).to_string(),
        "topic": topic,
        "what": what,
        "task": result.id,
        "kind": result.kind,
        "agent": result.agent,
        "attempt": result.attempts,
        "data": { "outcome": result.outcome, "queued_ms": times.queued_ms, "run_ms": times.run_ms },
    })
}

#[cfg(test)]
mod tests {
    use shared::{Outcome, TaskId};

    use super::super::recording::Recording;
    use super::*;

    #[test]
    fn what_is_recorded_can_be_replayed() {
        let result = TaskResult {
            id: TaskId::new("t1").unwrap(),
            kind: "resize".to_owned(),
            outcome: Outcome::Failed,
            attempts: 2,
            agent: Some("ada".to_owned()),
            error: None,
            queued: Duration::from_millis(1500),
            run: Duration::from_millis(250),
            body: bytes::Bytes::new(),
        };
        let line = line(&result, UNIX_EPOCH + Duration::from_secs(1_796_126_400));

        let recording = Recording::read(line.to_string().as_bytes(), &[]).unwrap();

        let task = recording.tasks[0];
        assert_eq!((task.waited.as_millis(), task.runs.as_millis(), recording.end.as_millis()), (1500, 250, 1750));
        assert_eq!(line["data"]["outcome"], "failed");
    }
}
