//! `coordinator events`: what happened on the mesh, as the leader told it.

use std::collections::VecDeque;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use async_nats::jetstream::consumer::{Consumer, DeliverPolicy};
use async_nats::jetstream::stream::ConsumerErrorKind;
use async_nats::jetstream::{ErrorCode, Message};
use futures_util::StreamExt as _;
use shared::api::Event;
use shared::connect::Settings;
use shared::{AgentId, Client, TaskId};

use super::{api, output};

/// Pause after an error of the stream while following it.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Tell what happened on the mesh.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Go on with what happens from now on, until Ctrl-C.
    #[arg(long, short)]
    follow: bool,
    /// Begin so long ago, such as `10m` [default: at the oldest event that is kept].
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    since: Option<Duration>,
    /// Only events of one topic.
    #[arg(long, value_parser = ["agent", "alert", "task", "scaling", "mesh"])]
    topic: Option<String>,
    /// Only events about this task.
    #[arg(long, value_name = "ID")]
    task: Option<TaskId>,
    /// Only events about this agent.
    #[arg(long, value_name = "ID")]
    agent: Option<AgentId>,
    /// At most so many of the past, the newest; what is followed is not limited.
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Print each event as JSON on a line of its own.
    #[arg(long)]
    json: bool,
}

/// Prints the events that the stream keeps, and with `--follow` those to come.
pub async fn run(args: Args, connection: &Settings) -> anyhow::Result<ExitCode> {
    tokio::select! {
        done = read(&args, connection) => done,
        _ = tokio::signal::ctrl_c() => Ok(ExitCode::SUCCESS),
    }
}

async fn read(args: &Args, connection: &Settings) -> anyhow::Result<ExitCode> {
    let client = api::connect(connection).await?;
    let consumer = consumer(args, &client, connection).await?;
    let pending = consumer.cached_info().num_pending;
    let mut messages = consumer.messages().await.context("failed to read the stream of events")?;
    for event in past(args, &mut messages, pending).await? {
        print(args, &event)?;
    }
    if args.follow { follow(args, &mut messages).await } else { Ok(ExitCode::SUCCESS) }
}

async fn follow(args: &Args, messages: &mut Ordered) -> anyhow::Result<ExitCode> {
    while let Some(message) = messages.next().await {
        match message {
            Ok(message) => {
                if let Some(event) = Told::read(args, &message) {
                    print(args, &event)?;
                }
            }
            Err(error) => {
                eprintln!("the stream of events was interrupted, trying again: {error}");
                tokio::time::sleep(RETRY_DELAY).await;
            }
        }
    }
    anyhow::bail!("the stream of events ended: the connection was closed")
}

async fn consumer(args: &Args, client: &Client, connection: &Settings) -> anyhow::Result<Consumer<OrderedConfig>> {
    let name = client.subjects().events_stream();
    let stream = client.jetstream().get_stream_no_info(&name).await.context("failed to reach the stream of events")?;
    let deliver_policy = match args.since.and_then(|span| SystemTime::now().checked_sub(span)) {
        Some(start) => DeliverPolicy::ByStartTime { start_time: start.into() },
        None => DeliverPolicy::All,
    };
    let filter_subject = client.subjects().event(args.topic.as_deref().unwrap_or("*"), "*");
    let config = OrderedConfig { filter_subject, deliver_policy, ..Default::default() };
    stream.create_consumer(config).await.map_err(|error| match error.kind() {
        ConsumerErrorKind::JetStream(cause) if cause.error_code() == ErrorCode::STREAM_NOT_FOUND => {
            api::Error::NoEvents { mesh: connection.mesh.clone(), url: connection.url_without_secrets() }.into()
        }
        _ => anyhow::Error::new(error).context(format!("failed to read stream `{name}`")),
    })
}

/// The newest of the events that are there already.
async fn past(args: &Args, messages: &mut Ordered, pending: u64) -> anyhow::Result<VecDeque<Told>> {
    let mut newest = VecDeque::new();
    let mut left = pending;
    while left > 0 {
        let message = messages.next().await.context("the stream of events ended too early")?;
        let message = message.context("failed to read the stream of events")?;
        left = message.info().map_or(left - 1, |info| info.pending);
        newest.extend(Told::read(args, &message));
        if newest.len() > args.limit {
            newest.pop_front();
        }
    }
    Ok(newest)
}

/// An event, with what this version does not know of it.
struct Told {
    event: Event,
    raw: serde_json::Value,
}

impl Told {
    /// Reads an event, if it is one that was asked for.
    fn read(args: &Args, message: &Message) -> Option<Self> {
        let raw: serde_json::Value = serde_json::from_slice(&message.payload).ok()?;
        let event: Event = serde_json::from_value(raw.clone()).ok()?;
        let about = |asked: Option<&str>, named: Option<&str>| asked.is_none() || asked == named;
        let wanted = about(args.task.as_ref().map(TaskId::as_str), event.task.as_deref())
            && about(args.agent.as_ref().map(AgentId::as_str), event.agent.as_deref());
        wanted.then_some(Self { event, raw })
    }
}

fn print(args: &Args, told: &Told) -> anyhow::Result<()> {
    if args.json { output::json_line(&told.raw) } else { Ok(output::line(&describe(&told.event))?) }
}

/// An event as a line: `time topic.what task=… agent=… detail`.
fn describe(event: &Event) -> String {
    let attempt = event.attempt.map(|n| n.to_string());
    let about = [("task", &event.task), ("kind", &event.kind), ("attempt", &attempt), ("agent", &event.agent)];
    let mut line = format!("{} {}.{}", event.time, event.topic, event.what);
    for (name, value) in about {
        if let Some(value) = value {
            line += &format!(" {name}={value}");
        }
    }
    if let Some(detail) = &event.detail {
        line += &format!(": {detail}");
    }
    output::escape(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_told_in_one_line() {
        let event = Event {
            time: "2026-12-01T12:00:00.000Z".into(),
            topic: "task".into(),
            what: "reassigned".into(),
            epoch: shared::Epoch(3),
            agent: Some("bob".into()),
            task: Some("t1".into()),
            kind: None,
            attempt: Some(2),
            detail: Some("ada is gone\u{1b}[2J\n".into()),
            data: None,
        };

        let line = describe(&event);

        assert_eq!(
            line,
            "2026-12-01T12:00:00.000Z task.reassigned task=t1 attempt=2 agent=bob: ada is gone\\u{1b}[2J\\n"
        );
    }
}
