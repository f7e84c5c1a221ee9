//! What a submitter may say about a task in its headers, and how a task can end.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::header;
use crate::names::{BadName, TaskId, excerpt};
use crate::needs::{BadNeeds, Needs};
use crate::quantity::{BadQuantity, Countables, parse_bandwidth, parse_bytes, parse_cpu};

/// What a submitter said about a task. What is `None` comes from the kind's settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskOptions {
    /// The id from `Nats-Msg-Id`.
    pub id: Option<TaskId>,
    /// Limit of one attempt's run.
    pub timeout: Option<Duration>,
    /// After which the task is not started any more.
    pub deadline: Option<Deadline>,
    /// How often it may be started because it failed; at least 1.
    pub max_attempts: Option<u32>,
    /// How long to wait between attempts.
    pub backoff: Option<Backoff>,
    /// Labels that its agent must have.
    pub needs: Needs,
    /// Thousandths of a core, reserved while it runs.
    pub cpu_millis: Option<u64>,
    /// Bytes of memory, reserved while it runs.
    pub memory_bytes: Option<u64>,
    /// Bytes of disk, reserved while it runs.
    pub disk_bytes: Option<u64>,
    /// Bits per second, reserved while it runs.
    pub network_bps: Option<u64>,
    /// Countable resources, reserved while it runs.
    pub countables: Option<Countables>,
    /// Whom the work is for.
    pub tenant: Option<CompactString>,
    /// Tasks with the same key prefer the same agent.
    pub affinity: Option<CompactString>,
    /// Subject that gets a copy of the result.
    pub reply_to: Option<CompactString>,
    /// Whether the result is not kept.
    pub discard_result: bool,
}

/// When a task is not started any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// At this moment.
    At(SystemTime),
    /// So long after it was accepted.
    After(Duration),
}

impl Deadline {
    /// The moment, for a task accepted at `accepted`.
    pub fn resolve(self, accepted: SystemTime) -> SystemTime {
        match self {
            Deadline::At(moment) => moment,
            Deadline::After(span) => accepted + span,
        }
    }
}

/// How long to wait between attempts: exponential from `first` to `limit`, with full jitter
/// (AWS Architecture Blog, "Exponential Backoff And Jitter", 2015).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Backoff {
    /// Longest wait after the first failure.
    pub first: Duration,
    /// Longest wait after any.
    pub limit: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), limit: Duration::from_secs(60) }
    }
}

impl Backoff {
    /// The longest wait after the given number of failures (1 for the first).
    pub fn ceiling(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.first.saturating_mul(1 << doublings).min(self.limit)
    }
}

impl FromStr for Backoff {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{}` is not a backoff: write `1s..60s`, or `5s` for a steady one", excerpt(text));
        let parse = |part: &str| humantime::parse_duration(part.trim()).map_err(|_| bad());
        let (first, limit) = match text.split_once("..") {
            Some((first, limit)) => (parse(first)?, parse(limit)?),
            None => (parse(text)?, parse(text)?),
        };
        if first <= limit { Ok(Self { first, limit }) } else { Err(bad()) }
    }
}

impl TryFrom<String> for Backoff {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Backoff> for String {
    fn from(backoff: Backoff) -> String {
        format!("{}..{}", humantime::format_duration(backoff.first), humantime::format_duration(backoff.limit))
    }
}

/// Why a task's headers could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("header `{name}`: {problem}")]
pub struct BadHeader {
    /// The header.
    pub name: &'static str,
    /// What is wrong with its value.
    pub problem: String,
}

impl TaskOptions {
    /// Reads the headers of a task; `get` gives the value of a header by its name.
    ///
    /// Every header of the mesh's own is read, so that one bad value is told whatever stands beside it; the
    /// first one in the order of the contract's table is the one that is reported.
    pub fn parse<'a>(get: impl Fn(&'static str) -> Option<&'a str>) -> Result<Self, BadHeader> {
        /// Reads one header, where it is present.
        fn read<'a, T, E: fmt::Display>(
            get: impl Fn(&'static str) -> Option<&'a str>,
            name: &'static str,
            parse: impl FnOnce(&str) -> Result<T, E>,
        ) -> Result<Option<T>, BadHeader> {
            let Some(value) = get(name) else { return Ok(None) };
            parse(value.trim()).map(Some).map_err(|e| BadHeader { name, problem: e.to_string() })
        }
        let options = Self {
            id: read(&get, header::MSG_ID, |v| -> Result<_, BadName> { TaskId::new(v) })?,
            timeout: read(&get, header::TIMEOUT, parse_timeout)?,
            deadline: read(&get, header::DEADLINE, parse_deadline)?,
            max_attempts: read(&get, header::MAX_ATTEMPTS, parse_max_attempts)?,
            backoff: read(&get, header::BACKOFF, str::parse)?,
            needs: read(&get, header::NEEDS, |v| -> Result<Needs, BadNeeds> { v.parse() })?.unwrap_or_default(),
            cpu_millis: read(&get, header::CPU, |v| -> Result<_, BadQuantity> { parse_cpu(v) })?,
            memory_bytes: read(&get, header::MEMORY, parse_bytes)?,
            disk_bytes: read(&get, header::DISK, parse_bytes)?,
            network_bps: read(&get, header::NETWORK, parse_bandwidth)?,
            countables: read(&get, header::RESOURCES, str::parse::<Countables>)?,
            tenant: read(&get, header::TENANT, |v| parse_word(v, 64))?,
            affinity: read(&get, header::AFFINITY, |v| parse_word(v, 128))?,
            reply_to: read(&get, header::REPLY_TO, parse_reply_to)?,
            discard_result: read(&get, header::RESULT, parse_discard)?.unwrap_or(false),
        };
        // It is for the agent, and only looked at here.
        read(&get, header::LOG, parse_log)?;
        Ok(options)
    }
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(timeout) if !timeout.is_zero() => Ok(timeout),
        _ => Err(format!("`{}` is not a duration: write `30s` or `5m`", excerpt(text))),
    }
}

fn parse_deadline(text: &str) -> Result<Deadline, String> {
    if let Ok(moment) = humantime::parse_rfc3339_weak(text) {
        return Ok(Deadline::At(moment));
    }
    match humantime::parse_duration(text) {
        Ok(span) => Ok(Deadline::After(span)),
        Err(_) => Err(format!(
            "`{}` is neither a time such as `2026-12-01T12:00:00Z` nor a duration such as `10m`",
            excerpt(text)
        )),
    }
}

fn parse_max_attempts(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(n @ 1..=1000) => Ok(n),
        _ => Err(format!("`{}` is not a number of attempts: write 1 to 1000", excerpt(text))),
    }
}

fn parse_word(text: &str, limit: usize) -> Result<CompactString, String> {
    if (1..=limit).contains(&text.len()) && !text.chars().any(char::is_control) {
        Ok(text.into())
    } else {
        Err(format!("`{}` is not 1 to {limit} printable characters", excerpt(text)))
    }
}

fn parse_reply_to(text: &str) -> Result<CompactString, String> {
    let tokens_are_good = text
        .split('.')
        .all(|t| !t.is_empty() && t != "*" && t != ">" && !t.contains(|c: char| c.is_whitespace() || c.is_control()));
    // `$` opens the broker's own subjects: the coordinator may use them, so it must not be sent there.
    if text.len() <= 512 && tokens_are_good && !text.starts_with('$') {
        Ok(text.into())
    } else {
        Err(format!("`{}` is not a subject that a result can be sent to", excerpt(text)))
    }
}

fn parse_discard(text: &str) -> Result<bool, String> {
    match text {
        "keep" => Ok(false),
        "discard" => Ok(true),
        _ => Err(format!("`{}` is neither `keep` nor `discard`", excerpt(text))),
    }
}

fn parse_log(text: &str) -> Result<(), String> {
    if text == "stream" { Ok(()) } else { Err(format!("`{}` is not `stream`", excerpt(text))) }
}

/// How a task ended. It ends once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Outcome {
    /// An attempt did the work; the result's body is its output.
    Succeeded,
    /// The last attempt allowed failed.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
    /// Its deadline passed before it was started.
    Expired,
    /// It could not be run at all, or took several agents down.
    Dead,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Outcome; 5] =
        [Outcome::Succeeded, Outcome::Failed, Outcome::Cancelled, Outcome::Expired, Outcome::Dead];

    /// How it is written in headers and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Succeeded => "succeeded",
            Outcome::Failed => "failed",
            Outcome::Cancelled => "cancelled",
            Outcome::Expired => "expired",
            Outcome::Dead => "dead",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a text is not an outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an outcome")]
pub struct BadOutcome(String);

impl FromStr for Outcome {
    type Err = BadOutcome;
    fn from_str(text: &str) -> Result<Self, BadOutcome> {
        Outcome::ALL.into_iter().find(|o| o.as_str() == text).ok_or_else(|| BadOutcome(excerpt(text)))
    }
}

/// How one attempt ended, as its agent tells it in `done`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttemptOutcome {
    /// The handler did the work.
    Succeeded,
    /// The handler said that it could not.
    Failed,
    /// It ran longer than it may, and was ended.
    Timeout,
    /// It was told to stop, and did.
    Cancelled,
    /// The agent could not take it; nothing was started.
    Rejected,
}

impl AttemptOutcome {
    /// Every outcome of an attempt.
    pub const ALL: [AttemptOutcome; 5] = [
        AttemptOutcome::Succeeded,
        AttemptOutcome::Failed,
        AttemptOutcome::Timeout,
        AttemptOutcome::Cancelled,
        AttemptOutcome::Rejected,
    ];

    /// How it is written in `Hive-Outcome` of a `done`.
    pub const fn as_str(self) -> &'static str {
        match self {
            AttemptOutcome::Succeeded => "succeeded",
            AttemptOutcome::Failed => "failed",
            AttemptOutcome::Timeout => "timeout",
            AttemptOutcome::Cancelled => "cancelled",
            AttemptOutcome::Rejected => "rejected",
        }
    }
}

impl fmt::Display for AttemptOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for AttemptOutcome {
    type Err = BadOutcome;
    fn from_str(text: &str) -> Result<Self, BadOutcome> {
        AttemptOutcome::ALL.into_iter().find(|o| o.as_str() == text).ok_or_else(|| BadOutcome(excerpt(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(headers: &[(&str, &'static str)]) -> Result<TaskOptions, BadHeader> {
        TaskOptions::parse(|name| headers.iter().find(|(n, _)| *n == name).map(|(_, v)| *v))
    }

    #[test]
    fn every_header_of_the_contract_is_read() {
        let options = parse(&[
            ("Nats-Msg-Id", "t1"),
            ("Hive-Timeout", "30s"),
            ("Hive-Deadline", "10m"),
            ("Hive-Max-Attempts", "5"),
            ("Hive-Backoff", "1s..60s"),
            ("Hive-Needs", "gpu=a100, ssd"),
            ("Hive-Cpu", "500m"),
            ("Hive-Memory", "512Mi"),
            ("Hive-Disk", "1Gi"),
            ("Hive-Network", "10Mbps"),
            ("Hive-Resources", "gpus=2, licences=1"),
            ("Hive-Tenant", "acme"),
            ("Hive-Affinity", "user 7"),
            ("Hive-Reply-To", "_INBOX.abc.1"),
            ("Hive-Result", "discard"),
        ])
        .unwrap();

        assert_eq!(
            options,
            TaskOptions {
                id: Some(TaskId::new("t1").unwrap()),
                timeout: Some(Duration::from_secs(30)),
                deadline: Some(Deadline::After(Duration::from_secs(600))),
                max_attempts: Some(5),
                backoff: Some(Backoff::default()),
                needs: "gpu=a100, ssd".parse().unwrap(),
                cpu_millis: Some(500),
                memory_bytes: Some(512 << 20),
                disk_bytes: Some(1 << 30),
                network_bps: Some(10_000_000),
                countables: Some(Countables::new([("gpus", 2), ("licences", 1)]).unwrap()),
                tenant: Some("acme".into()),
                affinity: Some("user 7".into()),
                reply_to: Some("_INBOX.abc.1".into()),
                discard_result: true,
            }
        );
        assert_eq!(parse(&[]).unwrap(), TaskOptions::default());
    }

    #[test]
    fn a_bad_value_is_told_with_its_header() {
        for (name, value) in [
            ("Nats-Msg-Id", "a.b"),
            ("Hive-Timeout", "soon"),
            ("Hive-Timeout", "0s"),
            ("Hive-Deadline", "tomorrow"),
            ("Hive-Max-Attempts", "0"),
            ("Hive-Backoff", "60s..1s"),
            ("Hive-Needs", "=x"),
            ("Hive-Cpu", "-1"),
            ("Hive-Memory", "lots"),
            ("Hive-Network", "10Mi"),
            ("Hive-Resources", "gpus"),
            ("Hive-Tenant", ""),
            ("Hive-Reply-To", "a..b"),
            ("Hive-Reply-To", "$JS.API.STREAM.DELETE.HIVE_TASKS"),
            ("Hive-Result", "burn"),
            ("Hive-Log", "loud"),
        ] {
            let error = parse(&[(name, value)]).unwrap_err();
            assert_eq!(error.name, name);
            assert!(error.to_string().contains(&format!("`{value}`")), "{error}");
        }
    }

    #[test]
    fn backoff_doubles_up_to_its_limit() {
        let ceilings: Vec<u64> = [1, 2, 3, 7, 100].map(|n| Backoff::default().ceiling(n).as_secs()).into();

        assert_eq!(ceilings, [1, 2, 4, 60, 60]);
    }
}
