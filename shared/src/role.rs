//! Who may do what on a NATS server that tells users apart: for each role the subjects that it may publish to and
//! subscribe to, and nothing else.
//!
//! `coordinator auth` writes them into the settings of a server; [`crate::connect`] tells by them which role would have
//! been allowed what was refused. A request can name any subject for its answer, and the server or a coordinator then
//! writes there by its own right. So those who only submit or read live in accounts of their own, where an answer
//! reaches nobody else: see [`Role::is_guest`].

use std::fmt;
use std::str::FromStr;

use crate::names::excerpt;
use crate::subject::Subjects;

/// What a user of the NATS server is to the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Submits tasks, calls, and gets results.
    Submitter,
    /// Looks at everything and changes nothing.
    Reader,
    /// Runs tasks: under its own id and under no other.
    Agent,
    /// Places tasks, records results, and keeps the streams.
    Coordinator,
    /// A person who runs the mesh: all operations of the control service.
    Operator,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 5] = [Role::Submitter, Role::Reader, Role::Agent, Role::Coordinator, Role::Operator];

    /// How it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Submitter => "submitter",
            Role::Reader => "reader",
            Role::Agent => "agent",
            Role::Coordinator => "coordinator",
            Role::Operator => "operator",
        }
    }

    /// Whether it lives in an account of its own and reaches the mesh through what that account imports: each subject
    /// that it may publish to as a service, each that it may subscribe to as a stream.
    pub const fn is_guest(self) -> bool {
        matches!(self, Role::Submitter | Role::Reader)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a text is not a role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a role: use submitter, reader, agent, coordinator or operator")]
pub struct BadRole(String);

impl FromStr for Role {
    type Err = BadRole;
    fn from_str(text: &str) -> Result<Self, BadRole> {
        Role::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| BadRole(excerpt(text)))
    }
}

/// The subjects that a user may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// It may publish to these.
    pub publish: Vec<String>,
    /// It may subscribe to these.
    pub subscribe: Vec<String>,
}

/// What can be done with a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Send a message there.
    Publish,
    /// Hear what is sent there.
    Subscribe,
}

/// Operations of the control service that change nothing, by noun.
const READS: [(&str, &[&str]); 10] = [
    ("mesh", &["status"]),
    ("agent", &["list", "get"]),
    ("queue", &["list", "get"]),
    ("tenant", &["list"]),
    ("resource", &["list", "recommend"]),
    ("task", &["list", "get", "why", "result", "logs"]),
    ("dead", &["list", "get"]),
    ("event", &["list"]),
    ("scale", &["status", "get", "history", "explain"]),
    ("alert", &["list", "get", "rules", "silences"]),
];

/// Operations of the control service for who submits tasks, and about a task whose id one knows.
const OWN_TASKS: [&str; 7] = ["submit", "batch", "get", "result", "why", "cancel", "logs"];

impl Permissions {
    /// What a role needs on a mesh. `agent` is the id of an agent (`*` stands for any); `inbox` the prefix of the
    /// subjects by which the user gets its answers.
    pub fn of(role: Role, subjects: &Subjects, agent: &str, inbox: &str) -> Self {
        let own_inbox = format!("{inbox}.>");
        match role {
            Role::Submitter => submitter(subjects, own_inbox),
            Role::Reader => reader(subjects, own_inbox),
            Role::Agent => self::agent(subjects.mesh().as_str(), agent),
            Role::Coordinator => coordinator(subjects, own_inbox),
            Role::Operator => operator(subjects, own_inbox),
        }
    }

    /// Whether they allow it.
    pub fn allow(&self, operation: Operation, subject: &str) -> bool {
        let subjects = match operation {
            Operation::Publish => &self.publish,
            Operation::Subscribe => &self.subscribe,
        };
        subjects.iter().any(|pattern| covers(pattern, subject))
    }
}

/// The prefix of a user's inboxes, by its public key: nobody else may subscribe there.
pub fn inbox_prefix(public_key: &str) -> String {
    format!("_INBOX.{public_key}")
}

/// The roles that may do it, whoever has them.
pub fn roles_that_may(operation: Operation, subject: &str, subjects: &Subjects) -> Vec<Role> {
    let may = |role: &Role| Permissions::of(*role, subjects, "*", "_INBOX.*").allow(operation, subject);
    Role::ALL.into_iter().filter(may).collect()
}

fn submitter(subjects: &Subjects, own_inbox: String) -> Permissions {
    let mut publish = vec![subjects.all_tasks(), subjects.calls(), direct_get_by_subject(&subjects.results_stream())];
    publish.extend(OWN_TASKS.map(|verb| subjects.api("task", verb)));
    Permissions { publish, subscribe: vec![own_inbox, subjects.results()] }
}

fn reader(subjects: &Subjects, own_inbox: String) -> Permissions {
    let mut publish = vec![direct_get_by_subject(&subjects.results_stream()), subjects.roll_call()];
    publish.extend(READS.iter().flat_map(|(noun, verbs)| verbs.iter().map(move |verb| subjects.api(noun, verb))));
    Permissions { publish, subscribe: vec![own_inbox, subjects.results(), subjects.events()] }
}

/// An agent answers only the probes that are meant for it: they come with `<inbox of a coordinator>.probe.<agent>`.
fn agent(mesh: &str, id: &str) -> Permissions {
    Permissions {
        publish: vec![format!("{mesh}.agent.{id}.*"), format!("_INBOX.*.*.probe.{id}")],
        subscribe: vec![format!("{mesh}.inbox.{id}.*")],
    }
}

fn coordinator(subjects: &Subjects, own_inbox: String) -> Permissions {
    let mesh = subjects.mesh();
    let [tasks, results, history] = [subjects.tasks_stream(), subjects.results_stream(), subjects.history_stream()];
    let [dead, events] = [subjects.dead_stream(), subjects.events_stream()];
    let [lease, settings, hooks] = [subjects.lease_bucket(), subjects.settings_bucket(), subjects.hooks_bucket()];
    let mut publish = vec![
        subjects.all_tasks(),
        subjects.results(),
        subjects.all_dead(),
        subjects.events(),
        subjects.histories(),
        format!("{mesh}.inbox.*.*"),
        format!("{mesh}.coordinator.>"),
        // One that stands by asks the leader what it is asked itself.
        format!("{mesh}.api.*.*"),
        format!("$KV.{lease}.>"),
        format!("$KV.{settings}.>"),
        format!("$KV.{hooks}.>"),
        // What is asked of a coordinator is answered where the asker wants it, or on the way back to its account.
        "_INBOX.>".to_owned(),
        "_R_.>".to_owned(),
        "$JS.API.INFO".to_owned(),
        format!("$JS.ACK.{tasks}.>"),
        format!("$JS.ACK.*.*.{tasks}.>"),
        // By their consumers webhooks know how far they are.
        format!("$JS.ACK.{events}.>"),
        format!("$JS.ACK.*.*.{events}.>"),
    ];
    for stream in streams(subjects) {
        publish.extend(["INFO", "CREATE", "UPDATE"].map(|verb| format!("$JS.API.STREAM.{verb}.{stream}")));
    }
    publish.extend([&tasks, &events].map(|stream| format!("$JS.API.CONSUMER.NAMES.{stream}")));
    publish.push(format!("$JS.API.STREAM.MSG.DELETE.{tasks}"));
    publish.push(format!("$JS.API.STREAM.MSG.DELETE.{dead}"));
    publish.push(format!("$JS.API.STREAM.PURGE.{history}"));
    publish.push(format!("$JS.API.STREAM.PURGE.{dead}"));
    for stream in [&tasks, &history, &events] {
        publish.extend(consumers(stream));
    }
    for bucket in [&settings, &hooks] {
        publish.extend(consumers(&format!("KV_{bucket}")));
        publish.push(format!("$JS.FC.KV_{bucket}.>"));
    }
    let buckets = [lease, settings, hooks].map(|bucket| format!("KV_{bucket}"));
    for stream in [tasks, results, dead, events].into_iter().chain(buckets) {
        publish.extend([direct_get(&stream), direct_get_by_subject(&stream)]);
    }
    let subscribe = vec![
        own_inbox,
        subjects.all_agents(),
        subjects.calls(),
        subjects.results(),
        format!("{mesh}.api.*.*"),
        format!("{mesh}.coordinator.>"),
        "$SRV.>".to_owned(),
        "$SYS.ACCOUNT.*.DISCONNECT".to_owned(),
    ];
    Permissions { publish, subscribe }
}

fn operator(subjects: &Subjects, own_inbox: String) -> Permissions {
    let mesh = subjects.mesh();
    let [tasks, results, events] = [subjects.tasks_stream(), subjects.results_stream(), subjects.events_stream()];
    let mut publish = vec![
        subjects.all_tasks(),
        subjects.calls(),
        format!("{mesh}.api.*.*"),
        // By it `coordinator doctor` compares the clocks.
        subjects.event("mesh", "examined"),
        // Nobody listens there: by it `coordinator doctor` measures the way to the server.
        subjects.coordinator("doctor"),
        subjects.roll_call(),
        "$SRV.>".to_owned(),
        "$JS.API.INFO".to_owned(),
        format!("$JS.API.CONSUMER.NAMES.{tasks}"),
    ];
    publish.extend(streams(subjects).iter().map(|stream| format!("$JS.API.STREAM.INFO.{stream}")));
    for stream in [&results, &events] {
        publish.extend(consumers(stream));
        publish.extend([direct_get(stream), direct_get_by_subject(stream)]);
    }
    Permissions { publish, subscribe: vec![own_inbox, subjects.results(), subjects.events()] }
}

/// The mesh's streams, those of its buckets as well.
fn streams(subjects: &Subjects) -> [String; 8] {
    [
        subjects.tasks_stream(),
        subjects.results_stream(),
        subjects.events_stream(),
        subjects.dead_stream(),
        subjects.history_stream(),
        format!("KV_{}", subjects.lease_bucket()),
        format!("KV_{}", subjects.settings_bucket()),
        format!("KV_{}", subjects.hooks_bucket()),
    ]
}

/// What it takes to make consumers of a stream, read by them, and remove them.
fn consumers(stream: &str) -> [String; 5] {
    [
        format!("$JS.API.CONSUMER.CREATE.{stream}"),
        format!("$JS.API.CONSUMER.CREATE.{stream}.>"),
        format!("$JS.API.CONSUMER.INFO.{stream}.*"),
        format!("$JS.API.CONSUMER.DELETE.{stream}.*"),
        format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.*"),
    ]
}

/// Reading a message of a stream by anything: its sequence, a time, many at once.
fn direct_get(stream: &str) -> String {
    format!("$JS.API.DIRECT.GET.{stream}")
}

/// Reading the last message of a subject of a stream.
fn direct_get_by_subject(stream: &str) -> String {
    format!("$JS.API.DIRECT.GET.{stream}.>")
}

/// Whether all that a subject stands for, wildcards included, is among what a pattern stands for.
fn covers(pattern: &str, subject: &str) -> bool {
    let (mut pattern, mut subject) = (pattern.split('.'), subject.split('.'));
    loop {
        match (pattern.next(), subject.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(wanted), Some(token)) if wanted == token => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(role: Role) -> Permissions {
        Permissions::of(role, &Subjects::default(), "ada", "_INBOX.UKEY")
    }

    #[test]
    fn a_pattern_covers_what_it_stands_for_and_no_more() {
        for (pattern, subject) in [("a.*", "a.b"), ("a.>", "a.b.c"), ("a.>", "a.>"), ("a.*.c", "a.*.c"), ("a", "a")] {
            assert!(covers(pattern, subject), "{pattern} {subject}");
        }
        for (pattern, subject) in [("a.*", "a"), ("a.*", "a.b.c"), ("a.>", "a"), ("a.*", "a.>"), ("a.b", "a.*")] {
            assert!(!covers(pattern, subject), "{pattern} {subject}");
        }
    }

    #[test]
    fn only_coordinators_may_ack_record_and_order() {
        for subject in [
            "$JS.ACK.HIVE_TASKS.e1-own-echo-normal.1.1.1.1.0",
            "hive.result.t1",
            "hive.dead.echo",
            "hive.inbox.ada.run",
            "hive.history.1.1",
            "$KV.HIVE_LEASE.leader",
            "$KV.HIVE_SETTINGS.kinds.echo",
            "$KV.HIVE_HOOKS.out.pager",
            "$JS.ACK.HIVE_EVENTS.hook-pager-1.1.1.1.1.0",
        ] {
            let roles = roles_that_may(Operation::Publish, subject, &Subjects::default());
            assert_eq!(roles, [Role::Coordinator], "{subject}");
        }
    }

    #[test]
    fn an_agent_speaks_and_hears_under_its_own_id_only() {
        let ada = of(Role::Agent);

        assert!(ada.allow(Operation::Publish, "hive.agent.ada.done"));
        assert!(ada.allow(Operation::Subscribe, "hive.inbox.ada.*"));
        assert!(ada.allow(Operation::Publish, "_INBOX.UCOORDINATOR.abc.probe.ada"));
        for (operation, subject) in [
            (Operation::Publish, "hive.agent.bob.done"),
            (Operation::Publish, "_INBOX.UCOORDINATOR.abc.probe.bob"),
            (Operation::Subscribe, "hive.inbox.bob.*"),
            (Operation::Subscribe, "hive.inbox.*.run"),
            (Operation::Subscribe, "hive.>"),
        ] {
            assert!(!ada.allow(operation, subject), "{operation:?} {subject}");
        }
    }

    #[test]
    fn nobody_may_hear_the_answers_of_another() {
        for role in Role::ALL {
            assert!(!of(role).allow(Operation::Subscribe, "_INBOX.UOTHER.>"), "{role}");
            assert!(!of(role).allow(Operation::Subscribe, "_INBOX.>"), "{role}");
        }
    }

    #[test]
    fn a_reader_changes_nothing() {
        let reader = of(Role::Reader);

        let changing =
            ["agent.drain", "queue.set", "tenant.set", "resource.apply", "task.cancel", "dead.replay", "hook.set"];
        let of_others =
            ["scale.set", "scale.pause", "scale.resume", "alert.acknowledge", "alert.silence", "alert.unsilence"];
        for changing in changing.into_iter().chain(of_others) {
            assert!(!reader.allow(Operation::Publish, &format!("hive.api.{changing}")), "{changing}");
        }
        assert!(reader.allow(Operation::Publish, "hive.api.task.why"));
    }

    #[test]
    fn all_that_guests_may_ask_of_jetstream_is_a_result_by_its_subject() {
        for role in [Role::Submitter, Role::Reader] {
            let permissions = of(role);
            let jetstream: Vec<_> = permissions.publish.iter().filter(|subject| subject.starts_with("$JS.")).collect();
            assert_eq!(jetstream, ["$JS.API.DIRECT.GET.HIVE_RESULTS.>"], "{role}");
        }
    }

    #[test]
    fn a_role_is_read_as_it_is_written() {
        for role in Role::ALL {
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        assert!("root".parse::<Role>().unwrap_err().to_string().contains("`root` is not a role"));
    }
}
