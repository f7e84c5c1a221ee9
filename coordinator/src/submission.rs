//! What somebody who submits a task may say in its headers: checked before anything goes out, at every door alike.

use bytes::Bytes;
use shared::client::NewTask;
use shared::{Kind, TaskOptions, header};

/// Headers of the contract that a submitter may set, in their spelling.
const SETTABLE: [&str; 18] = [
    header::TIMEOUT,
    header::DEADLINE,
    header::MAX_ATTEMPTS,
    header::BACKOFF,
    header::NEEDS,
    header::CPU,
    header::MEMORY,
    header::DISK,
    header::NETWORK,
    header::RESOURCES,
    header::TENANT,
    header::AFFINITY,
    header::REPLY_TO,
    header::RESULT,
    header::LOG,
    header::TRACEPARENT,
    header::TRACESTATE,
    header::CONTENT_TYPE,
];

/// A header in its own spelling, checked as the coordinator would check it.
pub(crate) fn checked_header(name: &str, value: &str) -> Result<(String, String), String> {
    let starts_with = |prefix: &str| name.get(..prefix.len()).is_some_and(|p| p.eq_ignore_ascii_case(prefix));
    if starts_with("Nats-") {
        return Err(format!("`{name}` is a header of the NATS server's own; an id is given as `id` or by --id"));
    }
    // Header names are compared letter by letter on the wire, so one of the contract gets its own spelling.
    let known = SETTABLE.into_iter().find(|known| known.eq_ignore_ascii_case(name));
    if starts_with("Hive-") && known.is_none() {
        return Err(format!("the mesh has no header `{name}` that a task may set"));
    }
    let name = known.unwrap_or(name);
    let probe = NewTask::new(Kind::new("probe").map_err(|e| e.to_string())?, Bytes::new());
    probe.header(name, value).map_err(|e| e.to_string())?;
    TaskOptions::parse(|asked| (asked == name).then_some(value)).map_err(|e| e.to_string())?;
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_of_the_contract_gets_its_own_spelling() {
        let checked = |name, value| checked_header(name, value).map(|(name, _)| name);

        assert_eq!(checked("hive-max-attempts", "3").as_deref(), Ok("Hive-Max-Attempts"));
        assert_eq!(checked("TRACEPARENT", "00-1-2-01").as_deref(), Ok("traceparent"));
        assert_eq!(checked("X-Mine", "a").as_deref(), Ok("X-Mine"));
        assert!(checked("Hive-Timeuot", "3s").unwrap_err().contains("no header `Hive-Timeuot`"));
        assert!(checked("hive-timeout", "soon").unwrap_err().contains("Hive-Timeout"));
        assert!(checked("Nats-Msg-Id", "x").is_err());
        assert!(checked("X-Mine", "a\r\nB: c").is_err());
    }
}
