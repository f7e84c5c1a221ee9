//! What an agent can do by itself: `echo`, `sleep` and `fail`, for trying out and measuring the mesh.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shared::header;

use super::{Assignment, Failure, Work, within};

/// A handler that comes with the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Builtin {
    /// Returns the body.
    Echo,
    /// Takes as long as the body says, such as `50ms`, and returns nothing.
    Sleep,
    /// Fails with the body as its error.
    Fail,
}

impl Builtin {
    /// Every one of them.
    pub const ALL: [Builtin; 3] = [Builtin::Echo, Builtin::Sleep, Builtin::Fail];

    /// Its name in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Builtin::Echo => "echo",
            Builtin::Sleep => "sleep",
            Builtin::Fail => "fail",
        }
    }

    /// The result, where it takes no time to get it.
    pub(super) fn run_at_once(self, work: &Work) -> Option<Result<Bytes, Failure>> {
        match self {
            Builtin::Echo => Some(Ok(work.body.clone())),
            Builtin::Fail => Some(Err(Failure::Failed(String::from_utf8_lossy(&work.body).into_owned()))),
            Builtin::Sleep => None,
        }
    }

    pub(super) async fn run(self, assignment: &mut Assignment) -> Result<Bytes, Failure> {
        if let Some(result) = self.run_at_once(&assignment.work) {
            return result;
        }
        let span = parse_span(&assignment.work.body)?;
        within(assignment.timeout, &mut assignment.stop, async {
            tokio::time::sleep(span).await;
            Ok(Bytes::new())
        })
        .await
    }
}

fn parse_span(body: &[u8]) -> Result<Duration, Failure> {
    let text = String::from_utf8_lossy(body);
    humantime::parse_duration(text.trim())
        .map_err(|_| Failure::Failed(format!("`{}` is not a duration: write `50ms` or `2s`", header::clean(&text, 80))))
}

#[cfg(test)]
mod tests {
    use shared::task::AttemptOutcome::{Cancelled, Failed, Succeeded, Timeout};

    use super::super::Run;
    use super::super::tests::{Attempt, run};
    use super::*;

    #[tokio::test]
    async fn echo_returns_the_body_at_once() {
        let mut started = Attempt::of(Run::Builtin(Builtin::Echo), "hello").start();

        assert!(started.ended_at_once());
        let ended = started.end().await;
        assert_eq!((ended.outcome, &*ended.output), (Succeeded, &b"hello"[..]));
    }

    #[tokio::test]
    async fn fail_fails_with_the_body_as_its_error() {
        let ended = run(Run::Builtin(Builtin::Fail), "no\r\nway").await;

        assert_eq!((ended.outcome, ended.error.as_str()), (Failed, "no  way"));
    }

    #[tokio::test(start_paused = true)]
    async fn sleep_takes_as_long_as_the_body_says() {
        let before = tokio::time::Instant::now();

        let ended = run(Run::Builtin(Builtin::Sleep), " 50ms\n").await;

        assert_eq!((ended.outcome, ended.output.len()), (Succeeded, 0));
        assert!(before.elapsed() >= Duration::from_millis(50));
    }

    #[tokio::test]
    async fn a_span_that_cannot_be_read_is_told() {
        let ended = run(Run::Builtin(Builtin::Sleep), "soon").await;

        assert_eq!(ended.outcome, Failed);
        assert!(ended.error.contains("`soon`"), "{}", ended.error);
    }

    #[tokio::test(start_paused = true)]
    async fn sleep_ends_when_its_time_is_over_or_it_is_cancelled() {
        let too_long = run(Run::Builtin(Builtin::Sleep), "1h").await;
        let mut cancelled = Attempt::of(Run::Builtin(Builtin::Sleep), "1h").start();
        cancelled.stop();

        assert_eq!(too_long.outcome, Timeout);
        assert_eq!(cancelled.end().await.outcome, Cancelled);
    }
}
