//! What the facts mean. No I/O: the same facts give the same findings.

use std::time::Duration;

use async_nats::jetstream::stream::{self, DiscardPolicy, PersistenceMode, RetentionPolicy, StorageType};

use super::facts::{Answer, Clock, Facts, Found, JetStream, Probe, Role, Server, Stream};
use super::{Finding, Level};
use crate::cli::output::span;
use crate::monitor::Varz;

/// Oldest server that has what the mesh needs.
const NEEDED: (u32, u32) = (2, 12);
/// Since this one a replicated stream syncs its log in batches, which makes `sync_interval: always` cheap.
const RECOMMENDED: (u32, u32) = (2, 15);
/// How long our client repeats a publish that was not confirmed, with some room.
const RETRIES: Duration = Duration::from_secs(60);
/// A dead connection should be noticed by the server within this.
const STALE: Duration = Duration::from_secs(60);
/// Results that are kept for less do not outlast the repetition of a careful client.
const SHORT_RESULTS: Duration = Duration::from_secs(3600);
/// Clocks that differ by more make deadlines wrong.
const SKEW_WARN_MS: i64 = 1_000;
/// Clocks that differ by more make every age and deadline meaningless.
const SKEW_FAIL_MS: i64 = 60_000;
/// Shares of an account's storage above which it is nearly full.
const NEARLY_FULL: f64 = 0.8;
/// Most lanes that a leader makes: four that kinds share, and those that kinds have for themselves.
const LANES: i32 = 52;
/// What the server must have room for beside what it holds: the events keep that much for themselves.
const ROOM: u64 = 1 << 30;
const SEE_STREAMS: &str = "see what is said of the streams";
const SMALL_PAYLOAD: usize = 64 << 10;
/// The server's own advice (nats.conf, `max_payload`).
const LARGE_PAYLOAD: usize = 8 << 20;

/// Judges the facts, the most basic first.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let server = match &facts.server {
        Ok(server) => server,
        Err(error) => return vec![fail("server", error.clone(), "start a nats-server, or set --nats to where it is")],
    };
    let mut findings = vec![reached(server, &facts.url), version(server), payload(server)];
    match &facts.jetstream {
        Ok(account) => {
            findings.push(jetstream(account));
            findings.extend(facts.streams.iter().map(settings));
            findings.push(lease(facts));
            findings.extend([process_death(&facts.streams), power_cut(facts), server_loss(facts, server)]);
            findings.extend([duplicates(&facts.streams), results(&facts.streams), clock(&facts.clock)]);
            findings.push(lanes(&facts.lanes, &facts.leader));
            findings.extend([submitting(facts), coordinating(facts)]);
        }
        Err(error) => findings.push(fail(
            "jetstream",
            format!("JetStream does not answer: {error}"),
            "start the server with `-js`, enable JetStream for this account, or let these credentials publish to \
             `$JS.API.>`",
        )),
    }
    findings.extend([leader(facts), agents(facts)]);
    findings.extend(monitored(facts, server));
    findings
}

fn ok(check: &str, found: impl Into<String>) -> Finding {
    Finding { check: check.to_owned(), level: Level::Ok, found: found.into(), advice: String::new() }
}

fn finding(check: &str, level: Level, found: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { check: check.to_owned(), level, found: found.into(), advice: advice.into() }
}

fn warn(check: &str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
    finding(check, Level::Warn, found, advice)
}

fn fail(check: &str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
    finding(check, Level::Fail, found, advice)
}

fn unverified(check: &str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
    finding(check, Level::Unverified, found, advice)
}

fn reached(server: &Server, url: &str) -> Finding {
    let found = format!("`{}` answers at {url}", server.name);
    let Some(round_trip) = server.round_trip else { return ok("server", found) };
    let found = format!("{found}, round trip {:.1}ms", round_trip.as_secs_f64() * 1000.0);
    if round_trip > Duration::from_millis(250) {
        return warn("server", found, "run coordinators near their NATS server: each task takes several round trips");
    }
    ok("server", found)
}

fn version(server: &Server) -> Finding {
    let found = format!("nats-server {}", server.version);
    let mut numbers = server.version.split(['.', '-']).map(|part| part.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) if (major, minor) >= RECOMMENDED => ok("version", found),
        (Some(major), Some(minor)) if (major, minor) >= NEEDED => warn(
            "version",
            found,
            format!(
                "use {}.{} or later: it makes `sync_interval: always` cheap for copies",
                RECOMMENDED.0, RECOMMENDED.1
            ),
        ),
        _ => fail("version", found, format!("use {}.{} or later: the mesh does not start on it", NEEDED.0, NEEDED.1)),
    }
}

fn payload(server: &Server) -> Finding {
    let found = format!("a message may have {}", bytes(server.max_payload as u64));
    match server.max_payload {
        ..SMALL_PAYLOAD => warn("max_payload", found, "raise max_payload: larger tasks and results are refused"),
        SMALL_PAYLOAD..=LARGE_PAYLOAD => ok("max_payload", found),
        _ => warn("max_payload", found, "keep max_payload at 8 MiB or less, and pass references to what is larger"),
    }
}

fn jetstream(account: &JetStream) -> Finding {
    let found = format!(
        "API level {}, {} stored, {} streams, {} consumers",
        account.api_level,
        bytes(account.storage),
        account.streams,
        account.consumers
    );
    let share = |used: u64, limit: Option<i64>| match limit {
        Some(limit) if limit > 0 => used as f64 / limit as f64,
        _ => 0.0,
    };
    let used = [
        ("storage", share(account.storage, account.max_storage)),
        ("streams", share(account.streams as u64, account.max_streams)),
        ("consumers", share(account.consumers as u64, account.max_consumers)),
    ];
    match used.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)) {
        Some((what, share)) if share >= NEARLY_FULL => warn(
            "jetstream",
            format!("{found}; {:.0}% of the account's {what} are used", share * 100.0),
            format!("raise the account's limit of {what}: when it is reached, tasks are refused and results wait"),
        ),
        _ => ok("jetstream", found),
    }
}

/// One stream: whether it is there and does what the mesh relies on.
fn settings(stream: &Stream) -> Finding {
    let check = format!("stream {}", stream.wanted.name);
    let found = match &stream.found {
        Ok(Some(found)) => found,
        Ok(None) => return fail(&check, "there is none", "start `coordinator serve`, which makes it"),
        Err(error) => {
            return unverified(&check, error.clone(), "let these credentials publish to `$JS.API.STREAM.INFO.>`");
        }
    };
    let mut problems = deviations(&stream.wanted, found);
    problems.sort_by_key(|(level, ..)| std::cmp::Reverse(*level));
    match problems.first() {
        None => ok(&check, format!("as the mesh makes it; {} messages, {}", found.messages, bytes(found.bytes))),
        Some((level, ..)) => {
            let join = |parts: Vec<&str>| parts.join("; ");
            let found = join(problems.iter().map(|(_, found, _)| found.as_str()).collect());
            finding(&check, *level, found, join(problems.iter().map(|(.., advice)| *advice).collect()))
        }
    }
}

/// What differs from how the mesh makes it, as far as it matters.
fn deviations(wanted: &stream::Config, found: &Found) -> Vec<(Level, String, &'static str)> {
    let config = &found.config;
    let holds_tasks = wanted.retention == RetentionPolicy::WorkQueue;
    let limited = config.max_bytes > 0 || config.max_messages > 0;
    let sorted = |subjects: &[String]| {
        let mut subjects = subjects.to_vec();
        subjects.sort();
        subjects
    };
    let mut problems = Vec::new();
    let mut problem = |is: bool, level, found: String, advice| {
        if is {
            problems.push((level, found, advice));
        }
    };
    problem(
        config.retention != wanted.retention,
        Level::Fail,
        format!("its retention is {:?} and not {:?}", config.retention, wanted.retention),
        "it is not a stream of the mesh: use another --mesh, or delete it",
    );
    problem(
        sorted(&config.subjects) != sorted(&wanted.subjects),
        Level::Fail,
        format!("it takes {}", config.subjects.join(", ")),
        "restart the coordinator, which puts the subjects right",
    );
    problem(
        !config.allow_direct,
        Level::Fail,
        "it does not allow direct gets".to_owned(),
        "restart the coordinator, which puts it right",
    );
    problem(
        config.sealed || config.deny_delete || config.deny_purge,
        Level::Fail,
        "it is sealed, or denies deletions".to_owned(),
        "delete it and let a coordinator make it: these settings cannot be taken back",
    );
    problem(
        config.no_ack,
        Level::Fail,
        "it confirms nothing (no_ack)".to_owned(),
        "set no_ack to false: a task that is not confirmed may be lost",
    );
    problem(
        holds_tasks && config.max_age > Duration::ZERO,
        Level::Fail,
        format!("tasks vanish after {} (max_age)", span(config.max_age)),
        "set max_age to 0, and give tasks that grow stale a `Hive-Deadline`",
    );
    problem(
        holds_tasks && config.discard != DiscardPolicy::New,
        if limited { Level::Fail } else { Level::Warn },
        "when it is full it drops the oldest tasks (discard: old)".to_owned(),
        "set discard to new: a full stream then refuses what is submitted",
    );
    problem(
        !holds_tasks && limited && config.discard == DiscardPolicy::New,
        Level::Fail,
        "when it is full it refuses what is new (discard: new), and no task can be settled".to_owned(),
        "set discard to old, or take its limits away",
    );
    problem(
        config.max_bytes > 0 && found.bytes as f64 >= config.max_bytes as f64 * NEARLY_FULL && holds_tasks,
        Level::Warn,
        format!("{} of {} are used", bytes(found.bytes), bytes(config.max_bytes.cast_unsigned())),
        "raise max_bytes, or add agents: when it is full, tasks are refused",
    );
    problem(
        config.max_message_size > 0 && config.max_message_size.cast_unsigned() as usize <= SMALL_PAYLOAD,
        Level::Warn,
        format!("it refuses messages of more than {}", bytes(u64::from(config.max_message_size.cast_unsigned()))),
        "set max_msg_size to -1: the server's max_payload is limit enough",
    );
    problem(
        holds_tasks && config.max_consumers > 0 && config.max_consumers < LANES,
        Level::Warn,
        format!("it takes no more than {} consumers", config.max_consumers),
        "make it anew without max_consumers: busy kinds get lanes of their own, which are consumers",
    );
    problem(
        !found.has_leader,
        Level::Fail,
        "none of its servers leads it".to_owned(),
        "bring the cluster's servers back: more than half of a stream's copies are needed",
    );
    problem(
        !found.stale_copies.is_empty(),
        Level::Warn,
        format!("copies lag or are gone: {}", found.stale_copies.join(", ")),
        "look after these servers: another loss may stop the stream",
    );
    problems
}

fn present(streams: &[Stream]) -> impl Iterator<Item = &Found> {
    streams.iter().filter_map(|stream| stream.found.as_ref().ok()?.as_ref())
}

fn named(streams: &[Stream], suffix: &str) -> Option<stream::Config> {
    present(streams).map(|found| &found.config).find(|config| config.name.ends_with(suffix)).cloned()
}

/// The fewest copies of what must not be lost.
fn fewest_copies(streams: &[Stream]) -> Option<usize> {
    present(streams).map(|found| found.config.num_replicas.max(1)).min()
}

/// Whether what was accepted survives kill -9 of the server.
fn process_death(streams: &[Stream]) -> Finding {
    let check = "kill -9 of the server";
    let lossy = |config: &stream::Config| {
        if config.storage == StorageType::Memory {
            Some(format!("`{}` is kept in memory", config.name))
        } else if config.persist_mode == Some(PersistenceMode::Async) {
            Some(format!("`{}` confirms before it writes (persist_mode: async)", config.name))
        } else {
            None
        }
    };
    let lossy: Vec<String> = present(streams).filter_map(|found| lossy(&found.config)).collect();
    if !lossy.is_empty() {
        return fail(
            check,
            format!("loses what was accepted: {}", lossy.join(", ")),
            "make these streams anew, in files and without persist_mode: it cannot be changed",
        );
    }
    if present(streams).next().is_none() {
        return unverified(check, "no stream was seen", SEE_STREAMS);
    }
    ok(check, "survived: what was accepted is in the operating system's hands before it is confirmed")
}

/// Whether what was accepted survives a power cut.
fn power_cut(facts: &Facts) -> Finding {
    let check = "power cut";
    let copies = fewest_copies(&facts.streams).unwrap_or(1);
    if process_death(&facts.streams).level == Level::Fail {
        return fail(check, "loses what was accepted: not even kill -9 is survived", "see the check before this one");
    }
    let configs: Vec<_> = facts.monitors.iter().flatten().filter_map(|varz| varz.jetstream.config.as_ref()).collect();
    if configs.is_empty() {
        return unverified(
            check,
            format!(
                "whether the server runs with `sync_interval: always` cannot be seen{}; by default it does not, and what \
                 was accepted in the last 2 minutes may be lost",
                facts.monitors.as_ref().err().map(|why| format!(" ({why})")).unwrap_or_default()
            ),
            "set `http: \"127.0.0.1:8222\"` in the server's configuration and give --monitor http://127.0.0.1:8222; \
             or look for `sync_interval: always` in its `jetstream` block yourself",
        );
    }
    if configs.iter().all(|config| config.sync_always) {
        return ok(check, "survived: each message is on the disk before it is confirmed (sync_interval: always)");
    }
    let interval = configs.iter().filter(|c| !c.sync_always).map(|c| c.sync_interval).max().unwrap_or(0);
    let interval = span(Duration::from_nanos(interval));
    let advice = "set `sync_interval: always` in the server's `jetstream` block";
    if copies >= 3 {
        let found = format!(
            "survived by {copies} copies only if their servers do not lose power together (sync_interval: {interval})"
        );
        return unverified(check, found, format!("keep the servers in separate failure domains, or {advice}"));
    }
    let found = format!("loses what was accepted in the last {interval} before it (sync_interval: {interval})");
    warn(check, found, format!("{advice}, at about a tenth of the throughput, where that matters"))
}

/// Whether what was accepted survives that a server is gone for good, with its disk.
fn server_loss(facts: &Facts, server: &Server) -> Finding {
    let check = "loss of a server";
    let Some(copies) = fewest_copies(&facts.streams) else {
        return unverified(check, "no stream was seen", SEE_STREAMS);
    };
    let sizes = facts.monitors.iter().flatten().filter_map(|varz| Some(varz.jetstream.meta.as_ref()?.cluster_size));
    let servers = sizes.max().map_or(String::new(), |size| format!(" of {size} servers"));
    match (&server.cluster, copies) {
        (None, _) => warn(
            check,
            "not survived: there is a single server, and what was accepted is gone with its disk",
            "where that matters, run three servers as a cluster, and `coordinator serve --replicas 3`",
        ),
        (Some(cluster), 1) => warn(
            check,
            format!("not survived: one copy in cluster `{cluster}`{servers}, out of reach while its server is down"),
            "set the streams to 3 copies (`nats stream edit --replicas 3`), and run `coordinator serve --replicas 3`",
        ),
        (Some(_), 2) => warn(check, "two copies: both are needed for a write", "use 3: then one server may be lost"),
        (Some(cluster), n) => ok(check, format!("survived: {n} copies in cluster `{cluster}`{servers}")),
    }
}

/// The bucket that says who leads: without it nobody does.
fn lease(facts: &Facts) -> Finding {
    let check = "lease";
    let found = match &facts.lease {
        Ok(Some(found)) => found,
        Ok(None) => return fail(check, "there is no bucket for it", "start `coordinator serve`, which makes it"),
        Err(error) => {
            return unverified(check, error.clone(), "let these credentials publish to `$JS.API.STREAM.INFO.>`");
        }
    };
    let config = &found.config;
    let remake = "delete the bucket and let a coordinator make it";
    if !config.allow_message_ttl {
        return fail(check, "its bucket refuses lifetimes, so that nobody can take it", remake);
    }
    if config.max_messages_per_subject > 1 {
        return warn(check, "its bucket keeps a history, which nobody reads", remake);
    }
    if !found.has_leader {
        return fail(check, "none of its servers leads its bucket", "bring the cluster's servers back");
    }
    let copies = config.num_replicas.max(1);
    match fewest_copies(&facts.streams) {
        Some(streams) if copies < streams => warn(
            check,
            format!(
                "its bucket has fewer copies ({copies}) than the streams ({streams}): with its server goes the leader"
            ),
            format!("set `{}` to {streams} copies (`nats stream edit --replicas {streams}`)", config.name),
        ),
        _ => ok(check, format!("kept in `{}`, copies: {copies}", config.name)),
    }
}

/// Whether a publish that is repeated is recognised.
fn duplicates(streams: &[Stream]) -> Finding {
    let check = "duplicate window";
    let Some(tasks) = named(streams, "_TASKS") else {
        return unverified(check, "the task stream was not seen", SEE_STREAMS);
    };
    let found = format!("a repeated `Nats-Msg-Id` is recognised for {}", span(tasks.duplicate_window));
    if tasks.duplicate_window >= RETRIES {
        return ok(check, found);
    }
    let advice = format!(
        "set duplicate_window to {} or more, or give the id in the subject, which is recognised as long as the task is \
         queued",
        span(RETRIES)
    );
    warn(check, found, advice)
}

/// How long an id is recognised after its task was settled.
fn results(streams: &[Stream]) -> Finding {
    let check = "results";
    let Some(results) = named(streams, "_RESULTS") else {
        return unverified(check, "the stream of results was not seen", SEE_STREAMS);
    };
    let age = results.max_age;
    if age == Duration::ZERO {
        return warn(check, "kept for ever: the stream only grows", "set `result-age` or the stream's max_age");
    }
    let found = format!("kept for {}; for so long a settled id is not run again", span(age));
    if age < SHORT_RESULTS {
        return warn(check, found, "keep them longer than clients may submit the same id again");
    }
    ok(check, found)
}

fn clock(clock: &Answer<Clock>) -> Finding {
    let check = "clocks";
    let Clock { ahead_ms, uncertain_ms } = match clock {
        Ok(clock) => *clock,
        Err(error) => {
            let found = format!("the server's clock was not read: {error}");
            return unverified(check, found, "run this with the credentials of a coordinator");
        }
    };
    let side = if ahead_ms < 0 { "behind" } else { "ahead of" };
    let found = format!("the server's is {} ms {side} ours, give or take {uncertain_ms} ms", ahead_ms.abs());
    let surely = ahead_ms.abs() - uncertain_ms;
    let advice = "synchronise both clocks (NTP): deadlines, ages and waiting times are wrong by that much";
    match surely {
        SKEW_FAIL_MS.. => fail(check, found, advice),
        SKEW_WARN_MS.. => warn(check, found, advice),
        _ => ok(check, found),
    }
}

/// Consumers of the task stream: those of the leader are named after its epoch.
fn lanes(names: &Answer<Vec<String>>, leader: &Answer<shared::api::Mesh>) -> Finding {
    let check = "lanes";
    let names = match names {
        Ok(names) => names,
        Err(error) => {
            return unverified(check, error.clone(), "let these credentials publish to `$JS.API.CONSUMER.NAMES.>`");
        }
    };
    let epoch = leader.as_ref().ok().map(|mesh| format!("e{}-", mesh.epoch));
    let is_lane = |name: &str| match &epoch {
        Some(epoch) => name.starts_with(epoch.as_str()),
        None => {
            name.strip_prefix('e').and_then(|rest| rest.split_once('-')).is_some_and(|(n, _)| n.parse::<u64>().is_ok())
        }
    };
    let (lanes, foreign): (Vec<_>, Vec<_>) = names.iter().partition(|name| is_lane(name));
    if !foreign.is_empty() {
        let foreign = foreign.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        return warn(
            check,
            format!("{} of the leader, and others on the task stream: {foreign}", lanes.len()),
            "remove them (`nats consumer rm`): they take tasks away that then nobody runs; the next leader does, too",
        );
    }
    ok(check, format!("{} of the leader on the task stream, and no other consumer", lanes.len()))
}

fn submitting(facts: &Facts) -> Finding {
    let check = "submitting";
    let Some((_, subject, probe)) = facts.probes.iter().find(|(role, ..)| *role == Role::Client) else {
        return unverified(check, "it was not tried", "");
    };
    match probe {
        Probe::Reached => ok(check, format!("these credentials may publish tasks (`{subject}`)")),
        Probe::NoStream => fail(check, "no stream takes tasks", "start `coordinator serve`, which makes it"),
        Probe::Silence => fail(
            check,
            format!("a publish to `{subject}` is not answered{}", refusals(facts)),
            format!("let these credentials publish to `{}.task.>` and subscribe to their inbox", facts.mesh),
        ),
        Probe::Other(answer) => warn(check, format!("a publish to `{subject}` is answered: {answer}"), ""),
    }
}

/// Clients need none of this, so that it is not allowed is no failure.
fn coordinating(facts: &Facts) -> Finding {
    let check = "coordinating";
    let probes: Vec<_> = facts.probes.iter().filter(|(role, ..)| *role == Role::Coordinator).collect();
    if probes.is_empty() {
        return unverified(check, "it was not tried", "");
    }
    if probes.iter().any(|(.., probe)| *probe == Probe::NoStream) {
        return unverified(check, "a stream is missing", SEE_STREAMS);
    }
    let mut denied: Vec<String> = probes
        .iter()
        .filter(|(.., probe)| *probe != Probe::Reached)
        .map(|(_, subject, _)| format!("publish to {subject}"))
        .collect();
    if facts.hears_agents == Ok(false) {
        denied.push(format!("subscribe to {}.agent.*.*", facts.mesh));
    }
    if denied.is_empty() {
        return ok(check, "these credentials may do what a coordinator must");
    }
    warn(
        check,
        format!("these credentials cannot {}{}", denied.join(", "), refusals(facts)),
        "right for a client's credentials; a coordinator's must be allowed to (role coordinator of `coordinator auth`)",
    )
}

fn refusals(facts: &Facts) -> String {
    match facts.server_errors {
        0 => String::new(),
        n => format!(" (the server told {n} refusals)"),
    }
}

fn leader(facts: &Facts) -> Finding {
    let check = "leader";
    match &facts.leader {
        Err(error) => fail(check, error.clone(), "start `coordinator serve`: tasks are kept, but not run"),
        Ok(mesh) if !mesh.leading => {
            warn(check, format!("`{}` answers and does not lead", mesh.instance), "wait for a takeover, and look again")
        }
        Ok(mesh) if mesh.version != env!("CARGO_PKG_VERSION") => warn(
            check,
            format!("`{}` leads in epoch {}, and is version {}", mesh.instance, mesh.epoch, mesh.version),
            format!("use the same version everywhere: this program is {}", env!("CARGO_PKG_VERSION")),
        ),
        Ok(mesh) => ok(check, format!("`{}` leads in epoch {}", mesh.instance, mesh.epoch)),
    }
}

fn agents(facts: &Facts) -> Finding {
    let check = "agents";
    let Ok(mesh) = &facts.leader else {
        return unverified(check, "nobody knows them without a leader", "start `coordinator serve`");
    };
    let count = |state: &str| mesh.agents.get(state).copied().unwrap_or(0);
    let counts: Vec<String> =
        mesh.agents.iter().filter(|(_, n)| **n > 0).map(|(state, n)| format!("{n} {state}")).collect();
    let found =
        format!("{} with {} slots", if counts.is_empty() { "none".to_owned() } else { counts.join(", ") }, mesh.slots);
    if count("healthy") == 0 {
        return warn(check, found, "start an `agent-worker`: until then tasks wait");
    }
    if count("unhealthy") > 0 {
        return warn(check, found, "see `coordinator agents list` for those that do not answer");
    }
    ok(check, found)
}

/// What only the servers' monitoring shows.
fn monitored(facts: &Facts, server: &Server) -> Vec<Finding> {
    let servers = match &facts.monitors {
        Ok(servers) if !servers.is_empty() => servers,
        Ok(_) => return vec![unseen("no --monitor is given")],
        Err(why) => return vec![unseen(why)],
    };
    let mut findings = Vec::new();
    if server.cluster.is_none() && servers.iter().all(|varz| varz.server_id != server.id) {
        let names: Vec<&str> = servers.iter().map(|varz| varz.server_name.as_str()).collect();
        findings.push(fail(
            "monitoring",
            format!("--monitor is that of another server: `{}` and not `{}`", names.join("`, `"), server.name),
            "give the address of the server that --nats names; what is said here of its disk is not true of it",
        ));
    }
    findings.extend([room(facts, servers), connections(servers), pings(servers), slow_consumers(servers)]);
    findings
}

fn unseen(why: &str) -> Finding {
    unverified(
        "room, connections, ping_interval, slow consumers",
        format!("cannot be seen: {why}"),
        "give --monitor, as above",
    )
}

/// Whether the servers have room for the streams.
fn room(facts: &Facts, servers: &[Varz]) -> Finding {
    let check = "room for streams";
    let of = |varz: &Varz| {
        let (config, stats) = (varz.jetstream.config.as_ref()?, &varz.jetstream.stats);
        let taken = stats.storage.max(stats.reserved_storage);
        Some((config.max_storage.saturating_sub(taken), config.max_storage))
    };
    let Some((left, all)) = servers.iter().filter_map(of).filter(|(_, all)| *all > 0).min() else {
        return unverified(check, "the server does not tell", "look at max_file_store in its `jetstream` block");
    };
    let found = format!("{} of {} are left", bytes(left), bytes(all));
    let advice = "raise max_file_store, or make room on the disk";
    let lacks_streams = facts.streams.iter().any(|stream| matches!(stream.found, Ok(None)));
    if lacks_streams && left < ROOM {
        return fail(check, format!("{found}, and the streams that are missing need {}", bytes(ROOM)), advice);
    }
    if (left as f64) < all as f64 * (1.0 - NEARLY_FULL) {
        return warn(check, found, format!("{advice}: when there is none, tasks are refused and results wait"));
    }
    ok(check, found)
}

fn connections(servers: &[Varz]) -> Finding {
    let check = "connections";
    let share = |varz: &Varz| varz.connections as f64 / varz.max_connections.max(1) as f64;
    let Some(fullest) = servers.iter().max_by(|a, b| share(a).total_cmp(&share(b))) else {
        return unverified(check, "no server was seen", "give --monitor");
    };
    let found = format!("{} of {} that `{}` takes", fullest.connections, fullest.max_connections, fullest.server_name);
    if share(fullest) >= NEARLY_FULL {
        return warn(check, found, "raise max_connections: an agent has two, and those beyond are refused");
    }
    ok(check, found)
}

fn pings(servers: &[Varz]) -> Finding {
    let noticed = |varz: &Varz| Duration::from_nanos(varz.ping_interval).saturating_mul(varz.ping_max + 1);
    let longest = servers.iter().map(noticed).max().unwrap_or_default();
    let found = format!("a connection that is cut off is noticed within {}", span(longest));
    if longest > STALE {
        return warn(
            "ping_interval",
            found,
            "set `ping_interval: \"10s\"` and `ping_max: 2` in the server's configuration",
        );
    }
    ok("ping_interval", found)
}

fn slow_consumers(servers: &[Varz]) -> Finding {
    let slow: u64 = servers.iter().map(|varz| varz.slow_consumers).sum();
    let stale: u64 = servers.iter().map(|varz| varz.stale_connections).sum();
    let found = format!("{slow} connections cut because they did not read, {stale} because they did not answer");
    if slow > 0 {
        let advice =
            "look in the server's log for `Slow Consumer`: its host or its link is too slow for what it is sent";
        return warn("slow consumers", found, advice);
    }
    ok("slow consumers", found)
}

/// A number of bytes in a few characters.
fn bytes(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes / 1024),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::monitor::{JetStreamConfig, JetStreamStats, JetStreamVarz, Meta};

    #[test]
    fn nothing_is_wrong_with_a_mesh_that_is_set_up_well() {
        let facts = healthy();

        let wrong: Vec<_> = judge(&facts).into_iter().filter(|finding| finding.level != Level::Ok).collect();

        assert_eq!(wrong, []);
    }

    #[test]
    fn a_server_that_does_not_answer_is_all_that_is_told() {
        let facts = Facts { server: Err("no NATS server answers".into()), ..healthy() };

        assert_eq!(levels(&facts), [("server".to_owned(), Level::Fail)]);
    }

    #[test]
    fn what_survives_a_power_cut_depends_on_when_the_disk_is_written() {
        let power_cut = |sync_always, copies| {
            let mut facts = healthy();
            facts.monitors = Ok(vec![varz(sync_always)]);
            alter(&mut facts, "_", |config| config.num_replicas = copies);
            level(&facts, "power cut")
        };

        assert_eq!(power_cut(true, 1), Level::Ok);
        assert_eq!(power_cut(false, 1), Level::Warn);
        assert_eq!(power_cut(false, 3), Level::Unverified);
        assert_eq!(level(&Facts { monitors: Err("not seen".into()), ..healthy() }, "power cut"), Level::Unverified);
    }

    #[test]
    fn a_stream_that_confirms_before_it_writes_survives_nothing() {
        let with = |change: fn(&mut stream::Config)| {
            let mut facts = healthy();
            alter(&mut facts, "_RESULTS", change);
            (level(&facts, "kill -9 of the server"), level(&facts, "power cut"))
        };

        assert_eq!(with(|config| config.persist_mode = Some(PersistenceMode::Async)), (Level::Fail, Level::Fail));
        assert_eq!(with(|config| config.storage = StorageType::Memory), (Level::Fail, Level::Fail));
    }

    #[test]
    fn a_stream_that_loses_or_refuses_in_the_wrong_place_is_found() {
        let with = |stream: &str, change: fn(&mut stream::Config)| {
            let mut facts = healthy();
            alter(&mut facts, stream, change);
            level(&facts, &format!("stream HIVE{stream}"))
        };

        assert_eq!(with("_TASKS", |config| config.max_age = Duration::from_secs(1)), Level::Fail);
        assert_eq!(with("_TASKS", |config| config.discard = DiscardPolicy::Old), Level::Warn);
        assert_eq!(with("_TASKS", |config| (config.discard, config.max_bytes) = (DiscardPolicy::Old, 1)), Level::Fail);
        assert_eq!(
            with("_RESULTS", |config| (config.discard, config.max_bytes) = (DiscardPolicy::New, 1)),
            Level::Fail
        );
        assert_eq!(with("_DEAD", |config| config.retention = RetentionPolicy::Interest), Level::Fail);
        assert_eq!(with("_TASKS", |config| config.subjects.truncate(1)), Level::Fail);
        assert_eq!(with("_TASKS", |config| config.subjects.reverse()), Level::Ok);
        assert_eq!(with("_EVENTS", |config| config.allow_direct = false), Level::Fail);
    }

    #[test]
    fn one_copy_is_too_few_where_there_are_several_servers() {
        let mut facts = healthy();
        alter(&mut facts, "_", |config| config.num_replicas = 1);
        assert_eq!(level(&facts, "loss of a server"), Level::Warn);
        alter(&mut facts, "_", |config| config.num_replicas = 3);
        assert_eq!(level(&facts, "loss of a server"), Level::Ok);

        let single = Server { cluster: None, ..server() };
        assert_eq!(level(&Facts { server: Ok(single), ..facts }, "loss of a server"), Level::Warn);
    }

    #[test]
    fn a_lease_that_could_not_be_taken_or_would_be_lost_first_is_found() {
        let with = |change: fn(&mut stream::Config)| {
            let mut facts = healthy();
            let Ok(Some(found)) = &mut facts.lease else { panic!("it is there") };
            change(&mut found.config);
            level(&facts, "lease")
        };

        assert_eq!(with(|config| config.allow_message_ttl = false), Level::Fail);
        assert_eq!(with(|config| config.num_replicas = 1), Level::Warn);
        assert_eq!(with(|config| config.max_messages_per_subject = 5), Level::Warn);
        assert_eq!(level(&Facts { lease: Ok(None), ..healthy() }, "lease"), Level::Fail);
    }

    #[test]
    fn limits_that_are_nearly_reached_are_told() {
        let with = |change: fn(&mut Varz)| {
            let mut facts = healthy();
            facts.monitors.iter_mut().flatten().for_each(change);
            facts
        };
        let nearly_full = with(|varz| varz.jetstream.stats.reserved_storage = 9 << 30);

        assert_eq!(level(&with(|varz| varz.connections = 60_000), "connections"), Level::Warn);
        assert_eq!(level(&nearly_full, "room for streams"), Level::Warn);
        assert_eq!(level(&with(|varz| varz.jetstream.stats.storage = 9 << 30), "room for streams"), Level::Warn);

        let mut without = with(|varz| varz.jetstream.stats.reserved_storage = (10 << 30) - 1);
        without.streams[2].found = Ok(None);
        assert_eq!(level(&without, "room for streams"), Level::Fail);
    }

    #[test]
    fn a_version_is_compared_by_its_numbers() {
        let of = |version: &str| super::version(&Server { version: version.into(), ..server() }).level;

        assert_eq!(["2.15.1", "3.0.0", "2.16.0-dev"].map(of), [Level::Ok; 3]);
        assert_eq!(["2.12.0", "2.14.9"].map(of), [Level::Warn; 2]);
        assert_eq!(["2.9.10", "1.99.0", "", "new"].map(of), [Level::Fail; 4]);
    }

    #[test]
    fn clocks_differ_only_beyond_what_the_measurement_leaves_open() {
        let of = |ahead_ms, uncertain_ms| super::clock(&Ok(Clock { ahead_ms, uncertain_ms })).level;

        assert_eq!(of(900, 1), Level::Ok);
        assert_eq!(of(-3_000, 2_500), Level::Ok);
        assert_eq!(of(-3_000, 1), Level::Warn);
        assert_eq!(of(61_000, 1), Level::Fail);
    }

    #[test]
    fn a_consumer_that_is_not_the_leaders_is_told() {
        let of =
            |names: &[&str], leader| super::lanes(&Ok(names.iter().map(ToString::to_string).collect()), leader).level;
        let (here, nobody) = (&healthy().leader, &Err(String::new()));

        assert_eq!(of(&["e7-shared-normal-1", "e7-own-echo-low"], here), Level::Ok);
        assert_eq!(of(&["e6-shared-normal-1"], here), Level::Warn);
        assert_eq!(of(&["e6-shared-normal-1"], nobody), Level::Ok);
        assert_eq!(of(&["e7-shared-normal-1", "mine"], here), Level::Warn);
        assert_eq!(of(&["ear-own"], nobody), Level::Warn);
    }

    #[test]
    fn the_credentials_of_a_client_need_not_be_able_to_coordinate() {
        let mut facts = healthy();
        facts.probes[1].2 = Probe::Silence;

        assert_eq!((level(&facts, "submitting"), level(&facts, "coordinating")), (Level::Ok, Level::Warn));
        assert_eq!(level(&Facts { hears_agents: Ok(false), ..healthy() }, "coordinating"), Level::Warn);

        facts.probes[0].2 = Probe::Silence;
        assert_eq!(level(&facts, "submitting"), Level::Fail);
    }

    #[test]
    fn the_monitoring_of_another_server_is_not_believed() {
        let other = Varz { server_id: "B".into(), ..varz(true) };
        let single = Server { cluster: None, ..server() };
        let facts = Facts { monitors: Ok(vec![other]), server: Ok(single), ..healthy() };

        assert_eq!(level(&facts, "monitoring"), Level::Fail);
    }

    #[test]
    fn a_mesh_that_does_not_run_says_what_is_missing() {
        let mut facts = Facts { leader: Err("no coordinator answers".into()), ..healthy() };
        facts.streams[0].found = Ok(None);

        assert_eq!(level(&facts, "leader"), Level::Fail);
        assert_eq!(level(&facts, "agents"), Level::Unverified);
        assert_eq!(level(&facts, "stream HIVE_TASKS"), Level::Fail);
        assert!(judge(&facts).iter().all(|finding| finding.level == Level::Ok || !finding.advice.is_empty()));
    }

    fn levels(facts: &Facts) -> Vec<(String, Level)> {
        judge(facts).into_iter().map(|finding| (finding.check, finding.level)).collect()
    }

    fn level(facts: &Facts, check: &str) -> Level {
        let found = levels(facts).into_iter().find(|(name, _)| name == check);
        found.unwrap_or_else(|| panic!("there is no check `{check}`")).1
    }

    fn alter(facts: &mut Facts, name: &str, change: impl Fn(&mut stream::Config)) {
        for stream in facts.streams.iter_mut().filter(|stream| stream.wanted.name.contains(name)) {
            if let Ok(Some(found)) = &mut stream.found {
                change(&mut found.config);
            }
        }
    }

    fn healthy() -> Facts {
        let coordinator = |what: &str| (Role::Coordinator, format!("hive.{what}.doctor"), Probe::Reached);
        Facts {
            mesh: "hive".into(),
            url: "nats://a:4222".into(),
            server: Ok(server()),
            jetstream: Ok(JetStream { max_storage: Some(1 << 40), ..JetStream::default() }),
            streams: vec![
                stream("HIVE_TASKS", RetentionPolicy::WorkQueue, DiscardPolicy::New),
                stream("HIVE_RESULTS", RetentionPolicy::Limits, DiscardPolicy::Old),
                stream("HIVE_EVENTS", RetentionPolicy::Limits, DiscardPolicy::Old),
                stream("HIVE_DEAD", RetentionPolicy::Limits, DiscardPolicy::Old),
            ],
            lease: Ok(Some(bucket())),
            monitors: Ok(vec![varz(true)]),
            clock: Ok(Clock { ahead_ms: 1, uncertain_ms: 1 }),
            leader: Ok(mesh()),
            lanes: Ok(vec!["e7-shared-normal-1".into()]),
            probes: vec![
                (Role::Client, "hive.task.doctor".into(), Probe::Reached),
                coordinator("result"),
                coordinator("dead"),
            ],
            hears_agents: Ok(true),
            server_errors: 0,
        }
    }

    fn bucket() -> Found {
        let config = stream::Config {
            name: "KV_HIVE_LEASE".into(),
            num_replicas: 3,
            allow_message_ttl: true,
            max_messages_per_subject: 1,
            ..stream::Config::default()
        };
        Found { config, messages: 1, bytes: 100, has_leader: true, stale_copies: Vec::new() }
    }

    fn server() -> Server {
        Server {
            id: "A".into(),
            name: "a".into(),
            version: "2.15.1".into(),
            cluster: Some("c".into()),
            max_payload: 1 << 20,
            round_trip: Some(Duration::from_millis(1)),
        }
    }

    fn varz(sync_always: bool) -> Varz {
        let config = JetStreamConfig { sync_interval: 120_000_000_000, sync_always, max_storage: 10 << 30 };
        Varz {
            server_id: "A".into(),
            ping_interval: 10_000_000_000,
            ping_max: 2,
            connections: 3,
            max_connections: 65_536,
            jetstream: JetStreamVarz {
                config: Some(config),
                stats: JetStreamStats::default(),
                meta: Some(Meta { cluster_size: 3 }),
            },
            ..Varz::default()
        }
    }

    fn stream(name: &str, retention: RetentionPolicy, discard: DiscardPolicy) -> Stream {
        let wanted = stream::Config {
            name: name.into(),
            subjects: vec![format!("{name}.a"), format!("{name}.b")],
            retention,
            discard,
            storage: StorageType::File,
            num_replicas: 3,
            allow_direct: true,
            max_age: if name == "HIVE_RESULTS" { Duration::from_secs(86_400) } else { Duration::ZERO },
            duplicate_window: Duration::from_secs(120),
            ..stream::Config::default()
        };
        let config = wanted.clone();
        let found = Found { config, messages: 0, bytes: 0, has_leader: true, stale_copies: Vec::new() };
        Stream { wanted, found: Ok(Some(found)) }
    }

    fn mesh() -> shared::api::Mesh {
        shared::api::Mesh {
            mesh: "hive".into(),
            instance: "c1".into(),
            leading: true,
            epoch: shared::Epoch(7),
            version: env!("CARGO_PKG_VERSION").into(),
            agents: BTreeMap::from([("healthy".to_owned(), 1)]),
            slots: 4,
            running: 0,
            waiting: 0,
            settled: BTreeMap::new(),
            reassigned: 0,
            refused: 0,
        }
    }
}
