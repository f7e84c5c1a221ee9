//! `coordinator doctor` tells what is wrong with a broker, and what to do: each finding on one that is set so.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::{consumer, kv, stream};
use coordinator::cli::doctor::{Finding, Level, Report};
use coordinator::local::{Broker, Launcher, broker};
use futures_util::TryStreamExt as _;
use mesh_tests::{BUILTINS, Mesh, mesh, program};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// The monitoring of a broker, on a port that it chooses.
const MONITORED: &str = "http: \"127.0.0.1:-1\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_of_our_own_is_well_but_for_what_one_server_cannot_promise() {
    let mesh = Mesh::builder().agent("ada", 1, BUILTINS).broker(MONITORED).start().await;

    let report = examine(&mesh, &["--monitor", &monitoring(&mesh)]).await;

    let wrong: Vec<&str> = report.0.values().filter(|f| f.level != Level::Ok).map(|f| f.check.as_str()).collect();
    assert_eq!(wrong, ["loss of a server", "power cut"], "{report:?}");
    report.says("kill -9 of the server", Level::Ok, "survived");
    report.says("power cut", Level::Warn, "the last 2m");
    report.says("loss of a server", Level::Warn, "a single server");
}

#[tokio::test(flavor = "multi_thread")]
async fn whether_a_power_cut_is_survived_is_seen_where_the_server_may_be_asked() {
    let mesh = Mesh::builder().sync_always().broker(&accounts("", ASKS_SERVERS)).start().await;

    let asked = examine(&mesh, &[]).await;

    asked.says("power cut", Level::Ok, "sync_interval: always");
    let mesh = Mesh::builder().sync_always().broker(MONITORED).start().await;
    examine(&mesh, &["--monitor", &monitoring(&mesh)]).await.says("power cut", Level::Ok, "sync_interval: always");

    let blind = examine(&mesh, &[]).await;
    blind.says("power cut", Level::Unverified, "cannot be seen");
    assert!(blind["power cut"].advice.contains("--monitor"), "{blind:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_somebody_has_changed_are_told() {
    let mesh = Mesh::builder().start().await;
    change(&mesh, "TASKS", |config| {
        (config.duplicate_window, config.max_bytes) = (Duration::from_secs(1), 4096);
    })
    .await;
    change(&mesh, "RESULTS", |config| {
        (config.duplicate_window, config.max_age) = (Duration::from_secs(9), Duration::from_secs(60));
    })
    .await;
    change(&mesh, "DEAD", |config| (config.discard, config.max_bytes) = (stream::DiscardPolicy::New, 1 << 20)).await;
    change(&mesh, "EVENTS", |config| (config.allow_direct, config.max_message_size) = (false, 1000)).await;
    foreign_consumer(&mesh).await;
    mesh.submit("nobody", &"x".repeat(3500)).await;

    let report = examine(&mesh, &[]).await;

    report.says("stream HIVE_TASKS", Level::Warn, "of 4 KiB are used");
    report.says("duplicate window", Level::Warn, "recognised for 1.0s");
    report.says("results", Level::Warn, "kept for 1m");
    report.says("stream HIVE_DEAD", Level::Fail, "refuses what is new");
    report.says("stream HIVE_EVENTS", Level::Fail, "direct gets");
    report.says("stream HIVE_EVENTS", Level::Fail, "more than 1000 B");
    report.says("lanes", Level::Warn, "thief");
    report.says("agents", Level::Warn, "none");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_were_made_otherwise_are_told() {
    let mesh = Mesh::builder().start().await;
    make_anew(&mesh, "DEAD", |config| config.storage = stream::StorageType::Memory).await;
    make_anew(&mesh, "RESULTS", |config| config.deny_purge = true).await;
    make_anew(&mesh, "TASKS", |config| {
        (config.duplicate_window, config.max_age) = (Duration::from_secs(9), Duration::from_secs(9));
        config.max_consumers = 10;
    })
    .await;
    let jetstream = mesh.client().jetstream();
    jetstream.delete_stream("HIVE_EVENTS").await.unwrap();
    jetstream.delete_key_value("HIVE_LEASE").await.unwrap();
    let bucket = kv::Config { bucket: "HIVE_LEASE".to_owned(), ..kv::Config::default() };
    jetstream.create_key_value(bucket).await.unwrap();

    let report = examine(&mesh, &[]).await;

    report.says("kill -9 of the server", Level::Fail, "`HIVE_DEAD` is kept in memory");
    report.says("power cut", Level::Fail, "not even kill -9");
    report.says("stream HIVE_RESULTS", Level::Fail, "denies deletions");
    report.says("stream HIVE_TASKS", Level::Fail, "tasks vanish after 9.0s");
    report.says("stream HIVE_TASKS", Level::Fail, "10 consumers");
    report.says("stream HIVE_EVENTS", Level::Fail, "there is none");
    report.says("lease", Level::Fail, "nobody can take it");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_the_server_and_of_the_account_are_told() {
    let limits = "max_payload: 32KB\nmax_connections: 3\nping_interval: \"2m\"\n";
    let account = accounts("", "").replace("jetstream: enabled", "jetstream: { max_file: 4GB, max_streams: 8 }");
    let mesh = Mesh::builder().broker(&[MONITORED, limits, &account].concat()).start().await;

    let report = examine(&mesh, &["--monitor", &monitoring(&mesh)]).await;

    report.says("max_payload", Level::Warn, "32 KiB");
    report.says("connections", Level::Warn, "of 3 that");
    report.says("ping_interval", Level::Warn, "6m");
    report.says("jetstream", Level::Warn, "of the account's streams");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_room_for_the_streams_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let mut options = broker::Options::new(mesh::nats_server().await, directory.path());
    let store = options.store_dir();
    options.extra_config = format!("{MONITORED}jetstream {{ store_dir: {store:?}, max_file_store: 500MB }}\n");
    let broker = Broker::start(&Launcher::new(program::exe()), options).await.unwrap();

    let monitoring = monitoring_in(directory.path());
    let report = examine_at(&broker.url(), &["--monitor", &monitoring]).await;

    report.says("room for streams", Level::Fail, "need 1.0 GiB");
    report.says("stream HIVE_TASKS", Level::Fail, "there is none");
    report.says("lease", Level::Fail, "no bucket");
    report.says("submitting", Level::Fail, "no stream takes tasks");
    report.says("leader", Level::Fail, "");
    let other = Mesh::builder().broker(MONITORED).start().await;
    let report = examine(&other, &["--monitor", &monitoring]).await;
    report.says("monitoring", Level::Fail, "another server");
}

#[tokio::test(flavor = "multi_thread")]
async fn permissions_that_are_missing_are_told_by_subject() {
    let looks = r#""$JS.API.INFO", "$JS.API.STREAM.INFO.>", "$JS.API.CONSUMER.NAMES.>", "hive.api.>""#;
    let users = format!(
        r#"{{ user: client, password: secret, permissions: {{ publish: [{looks}, "hive.task.>"], subscribe: "_INBOX.>" }} }},
           {{ user: guest, password: secret, permissions: {{ publish: [{looks}], subscribe: "_INBOX.>" }} }},"#
    );
    let mesh = Mesh::builder().broker(&accounts(&users, "")).start().await;

    let client = examine_as("client", &mesh).await;
    let guest = examine_as("guest", &mesh).await;
    let coordinator = examine(&mesh, &[]).await;

    client.says("submitting", Level::Ok, "may publish tasks");
    for denied in [
        "publish to hive.result.doctor",
        "publish to $JS.API.CONSUMER.CREATE.HIVE_TASKS",
        "publish to $JS.API.CONSUMER.MSG.NEXT.HIVE_TASKS",
        "publish to hive.history.0.0",
        "publish to $JS.API.STREAM.PURGE.HIVE_HISTORY",
        "publish to $JS.API.STREAM.MSG.DELETE.HIVE_TASKS",
        "publish to $JS.API.DIRECT.GET.HIVE_RESULTS",
        "publish to $JS.ACK.HIVE_TASKS",
        "publish to $KV.HIVE_LEASE",
        "publish to hive.inbox.doctor.ping",
        "subscribe to hive.agent.*.*",
    ] {
        client.says("coordinating", Level::Warn, denied);
    }
    client.says("clocks", Level::Unverified, "not read");
    guest.says("submitting", Level::Fail, "is not answered");
    coordinator.says("coordinating", Level::Ok, "may do what a coordinator must");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_wrong_is_told() {
    let mesh = Mesh::builder().start().await;
    let now = humantime_year();
    let url = through_another_time(&mesh.nats_url(), &now, "1999").await;

    let report = examine_at(&url, &[]).await;

    report.says("clocks", Level::Fail, "behind ours");
    examine(&mesh, &[]).await.says("clocks", Level::Ok, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_copy_in_a_cluster_is_told_and_three_are_well() {
    let directory = tempfile::tempdir().unwrap();
    let brokers = cluster(directory.path()).await;
    let url = brokers[0].url();
    let serve = ["serve", "--nats", &url, "--http", "127.0.0.1:0"];
    let _coordinator = program::command(&serve).spawn().unwrap();
    let jetstream = async_nats::jetstream::new(async_nats::connect(&url).await.unwrap());
    until_streams_are_there(&jetstream).await;

    let one = examine_at(&url, &[]).await;
    let names: Vec<String> = jetstream.stream_names().try_collect().await.unwrap();
    for name in names.iter().filter(|name| name.starts_with("HIVE_")) {
        let mut config = jetstream.get_stream(name).await.unwrap().cached_info().config.clone();
        config.num_replicas = 3;
        jetstream.update_stream(config).await.unwrap();
    }
    let three = examine_at(&url, &[]).await;

    one.says("loss of a server", Level::Warn, "one copy in cluster `c`");
    three.says("loss of a server", Level::Ok, "survived: 3 copies");
    three.says("lease", Level::Warn, "fewer copies (1) than the streams (3)");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_too_old_or_not_there_is_told() {
    let old = examine_at(&crate::bad_surroundings::old_server().await, &[]).await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();

    let absent = examine_at(&format!("nats://{nobody}"), &[]).await;

    old.says("version", Level::Fail, "2.9.10");
    old.says("jetstream", Level::Fail, "does not answer");
    assert_eq!(absent.0.keys().collect::<Vec<_>>(), ["server"], "{absent:?}");
    assert_eq!(absent["server"].level, Level::Fail);
}

/// What the doctor found, by check.
#[derive(Debug)]
struct Found(BTreeMap<String, Finding>);

impl Found {
    /// Checks that it was found, and that there is something to be done about it.
    fn says(&self, check: &str, level: Level, words: &str) {
        let finding = &self[check];
        assert!(finding.level == level && finding.found.contains(words), "{level:?} `{words}`, but {finding:?}");
        assert!(level == Level::Ok || !finding.advice.is_empty(), "nothing is advised: {finding:?}");
    }
}

impl std::ops::Index<&str> for Found {
    type Output = Finding;

    fn index(&self, check: &str) -> &Finding {
        self.0.get(check).unwrap_or_else(|| panic!("nothing is said of `{check}`: {:?}", self.0))
    }
}

async fn examine(mesh: &Mesh, args: &[&str]) -> Found {
    examine_at(&mesh.nats_url(), args).await
}

async fn examine_at(url: &str, args: &[&str]) -> Found {
    found(program::command(&[&["doctor", "--json", "--nats", url], args].concat())).await
}

async fn examine_as(user: &str, mesh: &Mesh) -> Found {
    let mut command = program::command(&["doctor", "--json", "--nats", &mesh.nats_url(), "--user", user]);
    command.env("NATS_PASSWORD", "secret");
    found(command).await
}

async fn found(command: tokio::process::Command) -> Found {
    let output = program::finish(command).await;
    let report: Report = serde_json::from_value(output.json()).unwrap();
    assert_eq!(output.code, i32::from(report.worst == Level::Fail), "{output:?}");
    Found(report.items.into_iter().map(|finding| (finding.check.clone(), finding)).collect())
}

fn monitoring(mesh: &Mesh) -> String {
    monitoring_in(mesh.broker().store_dir().parent().unwrap())
}

/// Where a broker's monitoring listens, as it has written it.
fn monitoring_in(data_dir: &std::path::Path) -> String {
    let file = std::fs::read_dir(data_dir.join("ports")).unwrap().next().unwrap().unwrap();
    let ports: serde_json::Value = serde_json::from_slice(&std::fs::read(file.path()).unwrap()).unwrap();
    ports["monitoring"][0].as_str().unwrap().to_owned()
}

/// Lets the mesh's account ask the servers.
const ASKS_SERVERS: &str = r#"imports: [ { service: { account: SYS, subject: "$SYS.REQ.SERVER.PING.VARZ" } } ]"#;

/// Accounts in the place of those that a broker of ours has, with more users and more in the mesh's account.
fn accounts(users: &str, more: &str) -> String {
    format!(
        "accounts {{\n\
           SYS {{ exports: [ {{ service: \"$SYS.REQ.SERVER.PING.VARZ\", response_type: stream }} ] }}\n\
           MESH {{ jetstream: enabled\n users: [ {users} {{ user: mesh, password: mesh }} ]\n {more} }}\n\
         }}\n"
    )
}

async fn change(mesh: &Mesh, name: &str, change: impl FnOnce(&mut stream::Config)) {
    let jetstream = mesh.client().jetstream();
    let mut config = jetstream.get_stream(format!("HIVE_{name}")).await.unwrap().cached_info().config.clone();
    change(&mut config);
    jetstream.update_stream(config).await.unwrap();
}

/// For what cannot be changed in a stream that is there.
async fn make_anew(mesh: &Mesh, name: &str, change: impl FnOnce(&mut stream::Config)) {
    let jetstream = mesh.client().jetstream();
    let mut config = jetstream.get_stream(format!("HIVE_{name}")).await.unwrap().cached_info().config.clone();
    change(&mut config);
    jetstream.delete_stream(&config.name).await.unwrap();
    jetstream.create_stream(config).await.unwrap();
}

async fn foreign_consumer(mesh: &Mesh) {
    let config = consumer::pull::Config {
        durable_name: Some("thief".to_owned()),
        filter_subject: "hive.task.rare".to_owned(),
        ..Default::default()
    };
    let tasks = mesh.client().jetstream().get_stream("HIVE_TASKS").await.unwrap();
    tasks.create_consumer(config).await.unwrap();
}

async fn until_streams_are_there(jetstream: &async_nats::jetstream::Context) {
    let all_there = async {
        while jetstream.get_stream("HIVE_DEAD").await.is_err() || jetstream.get_key_value("HIVE_LEASE").await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(mesh::PATIENCE, all_there).await.expect("a coordinator makes the streams");
}

/// Three servers that know each other.
async fn cluster(directory: &std::path::Path) -> Vec<Broker> {
    let mut listeners = Vec::new();
    for _ in 0..3 {
        listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let ports: Vec<u16> = listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
    drop(listeners);
    let routes: Vec<String> = ports.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
    let start = async |port: u16| {
        let mut options = broker::Options::new(mesh::nats_server().await, directory.join(port.to_string()));
        options.extra_config =
            format!("cluster {{ name: c, listen: \"127.0.0.1:{port}\", routes: [{}] }}\n", routes.join(", "));
        Broker::start(&Launcher::new(program::exe()), options).await.unwrap()
    };
    futures_util::future::join_all(ports.iter().copied().map(start)).await
}

fn humantime_year() -> String {
    let now = std::process::Command::new("date").args(["-u", "+%Y"]).output().unwrap();
    String::from_utf8(now.stdout).unwrap().trim().to_owned()
}

/// A way to a server that tells another year of whatever the server has stored.
async fn through_another_time(url: &str, year: &str, other: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = url.replace("nats://", "");
    let [from, to] = [year, other].map(|year| format!("Nats-Time-Stamp: {year}"));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&server).await.unwrap();
            tokio::spawn(pass(client, server, from.clone(), to.clone()));
        }
    });
    format!("nats://{address}")
}

async fn pass(client: TcpStream, server: TcpStream, from: String, to: String) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
        let mut bytes = buffer[..length].to_vec();
        let places: Vec<usize> =
            bytes.windows(from.len()).enumerate().filter(|(_, w)| *w == from.as_bytes()).map(|(i, _)| i).collect();
        for place in places {
            bytes[place..place + to.len()].copy_from_slice(to.as_bytes());
        }
        if to_client.write_all(&bytes).await.is_err() {
            return;
        }
    }
}
