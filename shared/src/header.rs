//! Names of the headers of the contract.

/// The task's id where the subject has none; JetStream's own window against duplicates.
pub const MSG_ID: &str = "Nats-Msg-Id";
/// Limit of one attempt's run.
pub const TIMEOUT: &str = "Hive-Timeout";
/// When the task is not started any more.
pub const DEADLINE: &str = "Hive-Deadline";
/// How often it may be started because it failed.
pub const MAX_ATTEMPTS: &str = "Hive-Max-Attempts";
/// How long to wait between attempts.
pub const BACKOFF: &str = "Hive-Backoff";
/// Labels that its agent must have.
pub const NEEDS: &str = "Hive-Needs";
/// CPU reserved while it runs.
pub const CPU: &str = "Hive-Cpu";
/// Memory reserved while it runs.
pub const MEMORY: &str = "Hive-Memory";
/// Disk reserved while it runs.
pub const DISK: &str = "Hive-Disk";
/// Bandwidth reserved while it runs.
pub const NETWORK: &str = "Hive-Network";
/// Countable resources reserved while it runs.
pub const RESOURCES: &str = "Hive-Resources";
/// Whom the work is for.
pub const TENANT: &str = "Hive-Tenant";
/// Tasks with the same key prefer the same agent.
pub const AFFINITY: &str = "Hive-Affinity";
/// Subject that gets a copy of the result.
pub const REPLY_TO: &str = "Hive-Reply-To";
/// `keep` or `discard`.
pub const RESULT: &str = "Hive-Result";
/// `stream`: what its attempts write to their logs is told as it comes, whoever listens.
pub const LOG: &str = "Hive-Log";
/// W3C trace context.
pub const TRACEPARENT: &str = "traceparent";
/// What tracing systems add to it.
pub const TRACESTATE: &str = "tracestate";
/// The media type of a message of the mesh itself.
pub const CONTENT_TYPE: &str = "Content-Type";

/// The task a message is about.
pub const TASK: &str = "Hive-Task";
/// The task's sequence in the task stream; an agent echoes it.
pub const SEQUENCE: &str = "Hive-Sequence";
/// The task's kind.
pub const KIND: &str = "Hive-Kind";
/// The attempt's number, 1 for the first.
pub const ATTEMPT: &str = "Hive-Attempt";
/// The epoch of the leader that ordered the attempt.
pub const EPOCH: &str = "Hive-Epoch";
/// The process of the agent that the attempt is meant for.
pub const INCARNATION: &str = "Hive-Incarnation";
/// How an attempt or a task ended.
pub const OUTCOME: &str = "Hive-Outcome";
/// How often the task was started.
pub const ATTEMPTS: &str = "Hive-Attempts";
/// The agent that ran it last.
pub const AGENT: &str = "Hive-Agent";
/// Why it failed, in words.
pub const ERROR: &str = "Hive-Error";
/// How an attempt of a dead task ended, in words; once for each of the last ten.
pub const HISTORY: &str = "Hive-History";
/// Milliseconds from acceptance to the last start.
pub const QUEUED_MS: &str = "Hive-Queued-Ms";
/// Milliseconds that the last attempt ran.
pub const RUN_MS: &str = "Hive-Run-Ms";
/// Milliseconds of CPU time that the attempt used.
pub const CPU_MS: &str = "Hive-Cpu-Ms";
/// The most memory that it had at a time, in bytes.
pub const MEMORY_PEAK: &str = "Hive-Memory-Peak";
/// Bytes that it read from disks and wrote to them.
pub const IO_BYTES: &str = "Hive-Io-Bytes";
/// How far an attempt is, 0 to 1.
pub const PROGRESS: &str = "Hive-Progress";
/// What it is doing, in words.
pub const PROGRESS_TEXT: &str = "Hive-Progress-Text";
/// How many bytes of the attempt's log come before the ones in the message.
pub const LOG_OFFSET: &str = "Hive-Log-Offset";
/// How many bytes the log has, for now.
pub const LOG_END: &str = "Hive-Log-End";
/// `running`, `ended` or `gone`: whether the log will grow, or is not kept.
pub const LOG_STATE: &str = "Hive-Log-State";

/// Headers that the mesh itself writes or uses up between coordinator and agent. Any other header of a task
/// is carried through to its handler.
pub const OWN: [&str; 8] = [TASK, SEQUENCE, KIND, ATTEMPT, EPOCH, INCARNATION, TIMEOUT, REPLY_TO];

/// The longest `Hive-Error`, in bytes; what is longer is cut.
pub const MAX_ERROR_BYTES: usize = 1024;

/// The names as async-nats takes them, made once: from a text it would copy and check them each time.
#[cfg(feature = "nats")]
pub mod name {
    use async_nats::header::HeaderName;

    macro_rules! names {
        ($($name:ident),*) => {
            $(
                #[doc = concat!("[`super::", stringify!($name), "`]")]
                pub const $name: HeaderName = HeaderName::from_static(super::$name);
            )*
        };
    }

    names!(
        MSG_ID,
        TIMEOUT,
        REPLY_TO,
        LOG,
        TRACEPARENT,
        TRACESTATE,
        CONTENT_TYPE,
        TASK,
        SEQUENCE,
        KIND,
        ATTEMPT,
        EPOCH,
        INCARNATION,
        OUTCOME,
        ATTEMPTS,
        AGENT,
        ERROR,
        HISTORY,
        QUEUED_MS,
        RUN_MS,
        CPU,
        MEMORY,
        DISK,
        NETWORK,
        RESOURCES,
        CPU_MS,
        MEMORY_PEAK,
        IO_BYTES,
        PROGRESS,
        PROGRESS_TEXT,
        LOG_OFFSET,
        LOG_END,
        LOG_STATE
    );
}

/// Whether a header of this name says something to the mesh about a task.
pub fn concerns_task(name: &str) -> bool {
    name.starts_with("Hive-") || name == MSG_ID
}

/// A text as a header's value: control characters become spaces, and it is cut to `limit` bytes.
///
/// async-nats panics on a CR or LF in a header's value, and whoever writes an error message to us may have
/// put some in.
pub fn clean(text: &str, limit: usize) -> String {
    let mut cleaned: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if cleaned.len() > limit {
        let end = (0..=limit.saturating_sub('…'.len_utf8())).rev().find(|&i| cleaned.is_char_boundary(i));
        cleaned.truncate(end.unwrap_or(0));
        cleaned.push('…');
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cleaned_text_has_no_line_breaks_and_fits() {
        assert_eq!(clean("no\r\nsuch\tfile\n", 100), "no  such file");
        let cut = clean(&"ä".repeat(1000), 11);
        assert!(cut.len() <= 11 && cut.ends_with('…'), "{cut}");
    }
}
