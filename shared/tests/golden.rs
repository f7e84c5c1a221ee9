//! The bytes of the mesh's own messages, pinned by the files in `golden/`, which agents in other languages read
//! too. Changing one means asking what an old agent does with new bytes, and a new coordinator with old.
//!
//! `UPDATE_GOLDEN=1 cargo test -p shared --test golden` writes them anew.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use shared::codec::Format;
use shared::message::{
    AttemptRef, Beat, Bye, Cancel, Drain, Follow, Heard, Held, HeldState, Hello, Needed, Pong, Report, Settled, Welcome,
};
use shared::needs::Labels;
use shared::{Countables, Epoch, Incarnation, Resources};

#[test]
fn hello_is_as_pinned() {
    assert_pinned("hello", &hello());
}

#[test]
fn beat_is_as_pinned() {
    assert_pinned("beat", &beat());
}

#[test]
fn report_is_as_pinned() {
    let report = Report {
        incarnation: Incarnation(1_795_353_890_306),
        cpu: 0.25,
        memory: 0.5,
        disk: 0.75,
        network: 0.125,
        network_bytes_per_second: 1024.0,
        agent_memory_bytes: 64 << 20,
    };

    assert_pinned("report", &report);
}

#[test]
fn bye_is_as_pinned() {
    assert_pinned("bye", &Bye { incarnation: Incarnation(1_795_353_890_306), returned: vec![attempt()] });
}

#[test]
fn welcome_is_as_pinned() {
    let (beat_interval, report_interval) = (Duration::from_millis(500), Duration::from_secs(5));

    let welcome = Welcome { epoch: Epoch(7), beat_interval, report_interval, hello_wanted: true, hold: None };
    assert_pinned("welcome", &welcome);
}

#[test]
fn what_concerns_work_that_runs_at_most_once_is_as_pinned() {
    let (beat_interval, report_interval) = (Duration::from_millis(500), Duration::from_secs(5));
    let hold = Some(Duration::from_secs(6));

    assert_pinned("hello-at-most-once", &Hello { at_most_once: vec!["resize".parse().unwrap()], ..hello() });
    let welcome = Welcome { epoch: Epoch(7), beat_interval, report_interval, hello_wanted: false, hold };
    assert_pinned("welcome-at-most-once", &welcome);
    assert_pinned("beat-at-most-once", &Beat { answer: true, ..beat() });
    assert_pinned("heard", &Heard { epoch: Epoch(7), sequence: 9 });
}

#[test]
fn what_concerns_resources_is_as_pinned() {
    let of_a_handler = Needed {
        resources: Resources { memory_bytes: 256 << 20, ..Resources::ZERO },
        countable: Countables::new([("gpus", 1)]).unwrap(),
    };
    let counts_nothing = Needed { resources: Resources { cpu_millis: 500, ..Resources::ZERO }, ..Needed::default() };

    let hello = Hello {
        resources: Countables::new([("gpus", 2), ("licences", 1)]).unwrap(),
        needs: BTreeMap::from([("echo".parse().unwrap(), counts_nothing), ("resize".parse().unwrap(), of_a_handler)]),
        enforcement: "cgroup".to_owned(),
        ..hello()
    };
    assert_pinned("hello-resources", &hello);
}

#[test]
fn settled_is_as_pinned() {
    assert_pinned("settled", &Settled { attempts: vec![attempt()] });
}

#[test]
fn cancel_is_as_pinned() {
    assert_pinned("cancel", &Cancel { attempt: attempt(), reason: "the task was cancelled".into() });
}

#[test]
fn drain_is_as_pinned() {
    assert_pinned("drain", &Drain { epoch: Epoch(7) });
}

#[test]
fn follow_is_as_pinned() {
    let lasting = Duration::from_secs(15);

    assert_pinned("follow", &Follow { task: "t-1".parse().unwrap(), attempt: 2, after: 1024, lasting });
}

#[test]
fn pong_is_as_pinned() {
    assert_pinned("pong", &Pong { agent: "ada".parse().unwrap(), beat: beat() });
}

#[test]
fn what_an_older_version_leaves_out_has_a_default() {
    let hello: Hello = in_both_formats(&json!({ "incarnation": 4, "slots": 2, "kinds": ["echo"] }));
    let beat: Beat = in_both_formats(&json!({ "incarnation": 4, "sequence": 9 }));
    let report: Report =
        in_both_formats(&json!({ "incarnation": 4, "cpu": 0.5, "memory": 0.5, "disk": 0.5, "network": 0.0 }));
    let bye: Bye = in_both_formats(&json!({ "incarnation": 4 }));
    let welcome: Welcome = in_both_formats(&json!({ "epoch": 7, "beat_interval": "500ms", "report_interval": "5s" }));
    let cancel: Cancel = in_both_formats(&json!({ "task": "t-1", "attempt": 2, "epoch": 7 }));
    let follow: Follow = in_both_formats(&json!({ "task": "t-1" }));

    let expected = Hello {
        incarnation: Incarnation(4),
        version: String::new(),
        host: String::new(),
        slots: 2,
        queue: 0,
        labels: Labels::new(),
        kinds: vec!["echo".parse().unwrap()],
        at_most_once: Vec::new(),
        capacity: Resources::ZERO,
        resources: Countables::ZERO,
        needs: BTreeMap::new(),
        enforcement: String::new(),
        holds: Vec::new(),
        draining: false,
    };
    assert_eq!(hello, expected);
    let expected =
        Beat { incarnation: Incarnation(4), sequence: 9, holds: Vec::new(), draining: false, lag_ms: 0, answer: false };
    assert_eq!(beat, expected);
    assert_eq!((report.network_bytes_per_second, report.agent_memory_bytes), (0.0, 0));
    assert_eq!(bye.returned, []);
    assert_eq!((welcome.hello_wanted, welcome.hold), (false, None));
    assert_eq!(cancel.reason, "");
    assert_eq!((follow.attempt, follow.after, follow.lasting), (0, 0, Duration::ZERO));
}

#[test]
fn part_of_a_capacity_is_enough() {
    let hello = json!({ "incarnation": 4, "slots": 2, "kinds": [], "capacity": { "memory_bytes": 1024 } });

    let hello: Hello = in_both_formats(&hello);

    assert_eq!(hello.capacity, Resources { memory_bytes: 1024, ..Resources::ZERO });
}

#[test]
fn part_of_what_is_needed_is_enough() {
    let needs = json!({ "resize": { "memory_bytes": 1024 }, "train": { "countable": { "gpus": 1 } } });
    let hello = json!({ "incarnation": 4, "slots": 2, "kinds": [], "needs": needs, "resources": { "tapes": 0 } });

    let hello: Hello = in_both_formats(&hello);

    assert_eq!(hello.needs["resize"].resources, Resources { memory_bytes: 1024, ..Resources::ZERO });
    assert_eq!(hello.needs["train"].countable.get("gpus"), 1);
    assert!(hello.resources.is_empty());
}

#[test]
fn a_message_with_a_bad_name_in_it_is_refused() {
    for kind in ["a.b", "*", "", "ä"] {
        let hello = json!({ "incarnation": 4, "slots": 2, "kinds": [kind] });

        assert!(Format::Json.decode::<Hello>(hello.to_string().as_bytes()).is_err(), "{kind:?} was taken");
        assert!(Format::MessagePack.decode::<Hello>(&packed(&hello)).is_err(), "{kind:?} was taken");
    }
}

/// The message is these bytes, and these bytes are the message, whatever a newer version may add to them.
fn assert_pinned<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, message: &T) {
    let (json, packed) = (Format::Json.encode(message), Format::MessagePack.encode(message));
    let json = String::from_utf8(json.into()).unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(golden(&format!("{name}.json")), format!("{json}\n")).unwrap();
        std::fs::write(golden(&format!("{name}.msgpack.hex")), format!("{}\n", hex(&packed))).unwrap();
    }
    assert_eq!(json, read(&format!("{name}.json")));
    assert_eq!(hex(&packed), read(&format!("{name}.msgpack.hex")));

    assert_eq!(Format::Json.decode::<T>(json.as_bytes()).unwrap(), *message);
    assert_eq!(Format::MessagePack.decode::<T>(&packed).unwrap(), *message);

    let mut extended: Value = serde_json::from_str(&json).unwrap();
    extended["added_later"] = json!({ "nested": [1, "two", null] });
    assert_eq!(in_both_formats::<T>(&extended), *message);
}

/// Reads a message from JSON and from the same in MessagePack.
fn in_both_formats<T: DeserializeOwned + PartialEq + Debug>(message: &Value) -> T {
    let from_json: T = Format::Json.decode(message.to_string().as_bytes()).unwrap();
    let from_packed: T = Format::MessagePack.decode(&packed(message)).unwrap();
    assert_eq!(from_json, from_packed);
    from_json
}

fn packed(message: &Value) -> Vec<u8> {
    rmp_serde::to_vec_named(message).unwrap()
}

fn golden(file: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "golden", file].iter().collect()
}

fn read(file: &str) -> String {
    let path = golden(file);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim_end().to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attempt() -> AttemptRef {
    AttemptRef { task: "t-1".parse().unwrap(), attempt: 2, epoch: Epoch(7) }
}

fn held(task: &str, state: HeldState) -> Held {
    let (task, kind) = (task.parse().unwrap(), "resize".parse().unwrap());
    Held { task, sequence: 300, kind, attempt: 2, epoch: Epoch(7), state }
}

fn beat() -> Beat {
    let holds = vec![held("t-1", HeldState::Queued), held("t-2", HeldState::Running), held("t-3", HeldState::Done)];
    Beat { incarnation: Incarnation(1_795_353_890_306), sequence: 9, holds, draining: true, lag_ms: 12, answer: false }
}

fn hello() -> Hello {
    Hello {
        incarnation: Incarnation(1_795_353_890_306),
        version: "0.1.0".to_owned(),
        host: "vm".to_owned(),
        slots: 4,
        queue: 8,
        labels: BTreeMap::from([("region".to_owned(), "eu".to_owned()), ("ssd".to_owned(), String::new())]),
        kinds: vec!["echo".parse().unwrap(), "resize".parse().unwrap()],
        at_most_once: Vec::new(),
        capacity: Resources {
            cpu_millis: 2000,
            memory_bytes: 4 << 30,
            disk_bytes: 100 << 30,
            network_bps: 1_000_000_000,
        },
        resources: Countables::ZERO,
        needs: BTreeMap::new(),
        enforcement: String::new(),
        holds: vec![held("t-1", HeldState::Running)],
        draining: false,
    }
}
