//! Handlers that are closures of the program that uses this crate as a library.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use async_nats::HeaderMap;
use async_nats::header::HeaderValue;
use bytes::Bytes;
use shared::{AgentId, Kind, TaskId};

use super::{Assignment, Failure, GRACE, Stop};
use crate::logs::Log;

/// What a closure gets.
#[derive(Debug)]
pub struct Task {
    /// The task.
    pub id: TaskId,
    /// What is to be done.
    pub kind: Kind,
    /// The attempt's number, 1 for the first.
    pub attempt: u32,
    /// The agent that runs it.
    pub agent: AgentId,
    /// The submitter's headers, among those the mesh adds.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    stop: Stop,
    log: Arc<Log>,
}

impl Task {
    /// Ends when the handler shall stop, because the task is cancelled or its time is over. A handler that goes
    /// on regardless is dropped at its next `.await`, after a short grace.
    pub fn cancelled(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stop = self.stop.clone();
        async move { stop.wanted().await }
    }

    /// Tells how far it is, 0.0 to 1.0, and what it does: whoever looks at the task sees it. Anything else is ignored.
    ///
    /// It may be called as often as you like; once in a second it is told.
    pub fn progress(&self, fraction: f64, text: &str) {
        self.log.report(fraction, text);
    }

    /// Adds a line to the attempt's log, which can be followed while it runs.
    pub fn log(&self, line: &str) {
        self.log.write(line.as_bytes());
        self.log.write(b"\n");
    }

    /// A header of the task.
    pub fn header(&self, name: &str) -> Option<&str> {
        // The lookup of async-nats panics on what cannot be a header's name.
        let name: async_nats::header::HeaderName = name.parse().ok()?;
        self.headers.get(name).map(HeaderValue::as_str)
    }
}

type Boxed = Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send>>;

/// A closure that handles tasks.
pub struct Closure(Box<dyn Fn(Task) -> Boxed + Send + Sync>);

impl fmt::Debug for Closure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Closure")
    }
}

impl Closure {
    /// Wraps an async closure. What its error displays, with its causes, becomes the attempt's error.
    pub fn new<F, R, O, E>(handle: F) -> Self
    where
        F: Fn(Task) -> R + Send + Sync + 'static,
        R: Future<Output = Result<O, E>> + Send + 'static,
        O: Into<Bytes>,
        E: fmt::Display,
    {
        Self(Box::new(move |task| {
            let work = handle(task);
            Box::pin(async move { work.await.map(Into::into).map_err(|error| format!("{error:#}")) })
        }))
    }

    pub(super) async fn run(&self, assignment: &mut Assignment) -> Result<Bytes, Failure> {
        // A stop of its own, since a handler is told of its timeout as well.
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let order = &assignment.order;
        let task = Task {
            id: order.task.clone(),
            kind: order.kind.clone(),
            attempt: order.attempt,
            agent: assignment.agent.clone(),
            headers: std::mem::take(&mut assignment.work.headers),
            body: std::mem::take(&mut assignment.work.body),
            stop: Stop(stopped),
            log: assignment.log.clone(),
        };
        let mut work = (self.0)(task);
        let why = tokio::select! {
            result = &mut work => return result.map_err(Failure::Failed),
            () = tokio::time::sleep(assignment.timeout) => Failure::timeout(assignment.timeout),
            () = assignment.stop.wanted() => Failure::Cancelled,
        };
        stop.send_replace(true);
        let _ = tokio::time::timeout(GRACE, work).await;
        Err(why)
    }
}
