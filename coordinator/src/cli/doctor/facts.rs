//! What the servers say of themselves. Nothing is judged here, and a question that is not answered is a fact as well.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream;
use async_nats::{HeaderMap, RequestErrorKind, StatusCode};
use futures_util::{StreamExt as _, TryStreamExt as _, future::join_all};
use serde::Deserialize;
use shared::api::{Event, Mesh};
use shared::connect::{Counters, Patience, Settings};
use shared::subject::{AgentVerb, InboxVerb};
use shared::{AgentId, Client, Epoch, Kind, Priority, TaskId};

use crate::cli::api::{self, Api};
use crate::monitor::{self, Varz};
use crate::store::{Config, Store};

/// How long a server that does not answer is asked again.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// How long an answer may take; a refusal for lack of permission is never answered.
const ANSWER: Duration = Duration::from_secs(2);
/// After so much silence no further server answers.
const SILENCE: Duration = Duration::from_millis(300);
/// No stream has this name, so a message that expects it is refused by whatever stream takes its subject.
const NO_STREAM: &str = "hivemesh-doctor-stores-nothing";

/// A question's answer, or in words why there is none.
pub(super) type Answer<T> = Result<T, String>;

/// What is known.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) mesh: String,
    pub(super) url: String,
    pub(super) server: Answer<Server>,
    pub(super) jetstream: Answer<JetStream>,
    pub(super) streams: Vec<Stream>,
    /// The bucket of the leader's lease; `None` if there is none.
    pub(super) lease: Answer<Option<Found>>,
    pub(super) monitors: Answer<Vec<Varz>>,
    pub(super) clock: Answer<Clock>,
    pub(super) leader: Answer<Mesh>,
    pub(super) lanes: Answer<Vec<String>>,
    pub(super) probes: Vec<(Role, String, Probe)>,
    /// Whether these credentials may hear agents.
    pub(super) hears_agents: Answer<bool>,
    /// Errors that the server told us while we asked: permission violations, above all.
    pub(super) server_errors: u64,
}

/// The server that we are connected to.
#[derive(Clone, Debug, Default)]
pub(super) struct Server {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) cluster: Option<String>,
    pub(super) max_payload: usize,
    /// `None` if the question was not answered.
    pub(super) round_trip: Option<Duration>,
}

/// JetStream, as our account sees it.
#[derive(Clone, Debug, Default)]
pub(super) struct JetStream {
    pub(super) storage: u64,
    pub(super) max_storage: Option<i64>,
    pub(super) streams: usize,
    pub(super) max_streams: Option<i64>,
    pub(super) consumers: usize,
    pub(super) max_consumers: Option<i64>,
    pub(super) api_level: usize,
}

/// A stream as the mesh makes it, and as it is; `None` if there is none.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    pub(super) wanted: stream::Config,
    pub(super) found: Answer<Option<Found>>,
}

/// A stream that is there.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) config: stream::Config,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// Whether somebody leads it; always so on a single server.
    pub(super) has_leader: bool,
    /// Its copies that lag behind or are gone.
    pub(super) stale_copies: Vec<String>,
}

/// The server's clock against ours.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Clock {
    /// Milliseconds that the server's is ahead.
    pub(super) ahead_ms: i64,
    /// How far that may be wrong: half of the time that the question took.
    pub(super) uncertain_ms: i64,
}

/// Who needs to be allowed to publish something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Client,
    Coordinator,
}

/// What became of a message that every stream refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    /// Whom it is for got it and refused it, or the server says that nobody is there: so it may be published.
    Reached,
    /// No stream takes its subject.
    NoStream,
    /// No answer: it is not allowed.
    Silence,
    /// Something else.
    Other(String),
}

/// Asks everything that there is to ask.
pub(super) async fn gather(connection: &Settings, monitors: &[String]) -> Facts {
    let mut facts = Facts::unknown(connection);
    let connected = connection.connect_counted("coordinator doctor", Patience::Limited(CONNECT_PATIENCE)).await;
    let (nats, counters) = match connected {
        Ok(connected) => connected,
        Err(error) => {
            facts.server = Err(told(&error));
            facts.monitors = monitor::read(monitors).await;
            return facts;
        }
    };
    let client = Client::new(nats, connection.mesh.clone());
    let examiner = Examiner { client, url: connection.url_without_secrets(), counters };
    examiner.examine(&mut facts, monitors).await;
    facts
}

impl Facts {
    fn unknown(connection: &Settings) -> Self {
        let unknown = || "there is no connection".to_owned();
        Self {
            mesh: connection.mesh.to_string(),
            url: connection.url_without_secrets(),
            server: Err(unknown()),
            jetstream: Err(unknown()),
            streams: Vec::new(),
            lease: Err(unknown()),
            monitors: Err(unknown()),
            clock: Err(unknown()),
            leader: Err(unknown()),
            lanes: Err(unknown()),
            probes: Vec::new(),
            hears_agents: Err(unknown()),
            server_errors: 0,
        }
    }
}

struct Examiner {
    client: Client,
    url: String,
    counters: Arc<Counters>,
}

impl Examiner {
    async fn examine(&self, facts: &mut Facts, monitors: &[String]) {
        facts.server = Ok(self.server().await);
        facts.monitors = if monitors.is_empty() { self.ask_servers().await } else { monitor::read(monitors).await };
        (facts.jetstream, facts.leader) = tokio::join!(self.jetstream(), self.leader());
        // The rest would only find the same again, each after its own time.
        if facts.jetstream.is_ok() {
            (facts.streams, facts.lease) = tokio::join!(self.streams(), self.lease());
            // By itself: what it hears are refusals, which could be those of others.
            facts.hears_agents = self.hears_agents().await;
            (facts.clock, facts.lanes, facts.probes) = tokio::join!(self.clock(), self.lanes(), self.probes());
        }
        facts.server_errors = self.counters.server_errors.load(Ordering::Relaxed);
    }

    async fn server(&self) -> Server {
        let info = self.client.nats().server_info();
        let started = Instant::now();
        // Nobody listens there, which the server itself says at once.
        let nobody = self.client.subjects().coordinator("doctor");
        let answer = self.client.nats().request(nobody, "".into()).await;
        let refused = answer.err().is_some_and(|error| error.kind() == RequestErrorKind::NoResponders);
        Server {
            id: info.server_id,
            name: info.server_name,
            version: info.version,
            cluster: info.cluster,
            max_payload: info.max_payload,
            round_trip: refused.then(|| started.elapsed()),
        }
    }

    async fn jetstream(&self) -> Answer<JetStream> {
        let account = self.client.jetstream().query_account().await.map_err(|e| told(&e))?;
        Ok(JetStream {
            storage: account.storage,
            max_storage: account.limits.max_storage,
            streams: account.streams,
            max_streams: account.limits.max_streams,
            consumers: account.consumers,
            max_consumers: account.limits.max_consumers,
            api_level: account.requests.level,
        })
    }

    async fn leader(&self) -> Answer<Mesh> {
        let api = Api::over(self.client.clone(), self.url.clone());
        let answer = api.ask("mesh", "status", &serde_json::json!({})).await.map_err(|e| told(&e))?;
        api::read("mesh.status", answer).map_err(|e| told(&e))
    }

    async fn streams(&self) -> Vec<Stream> {
        let subjects = self.client.subjects().clone();
        let wanted = Store::new(self.client.nats().clone(), subjects, Config::default()).streams();
        join_all(wanted.map(|wanted| self.stream(wanted))).await
    }

    async fn stream(&self, wanted: stream::Config) -> Stream {
        let found = self.find(&wanted.name).await;
        Stream { wanted, found }
    }

    async fn lease(&self) -> Answer<Option<Found>> {
        self.find(&format!("KV_{}", self.client.subjects().lease_bucket())).await
    }

    async fn find(&self, name: &str) -> Answer<Option<Found>> {
        match self.client.jetstream().get_stream(name).await {
            Ok(stream) => Ok(Some(read_stream(stream.cached_info().clone()))),
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(e) if e.code() == 404 => Ok(None),
                _ => Err(told(&error)),
            },
        }
    }

    /// Stores an event and reads when the server says that it was.
    async fn clock(&self) -> Answer<Clock> {
        let event = Event {
            time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            topic: "mesh".to_owned(),
            what: "examined".to_owned(),
            epoch: Epoch(0),
            agent: None,
            task: None,
            kind: None,
            attempt: None,
            detail: Some("by `coordinator doctor`".to_owned()),
            data: None,
        };
        let body = serde_json::to_vec(&event).map_err(|e| e.to_string())?;
        let subject = self.client.subjects().event("mesh", "examined");
        let (before, started) = (SystemTime::now(), Instant::now());
        let ack = self.client.jetstream().publish(subject, body.into()).await.map_err(|e| told(&e))?;
        let ack = tokio::time::timeout(ANSWER, ack.into_future()).await.map_err(|_| "no answer".to_owned())?;
        let took = started.elapsed();
        let sequence = ack.map_err(|e| told(&e))?.sequence;
        let name = self.client.subjects().events_stream();
        let stream = self.client.jetstream().get_stream_no_info(name).await.map_err(|e| told(&e))?;
        let stored = stream.direct_get(sequence).await.map_err(|e| told(&e))?.time.unix_timestamp_nanos();
        let middle = (before + took / 2).duration_since(SystemTime::UNIX_EPOCH).map_err(|e| e.to_string())?;
        let ahead = stored - i128::try_from(middle.as_nanos()).unwrap_or_default();
        Ok(Clock { ahead_ms: (ahead / 1_000_000) as i64, uncertain_ms: took.as_millis() as i64 / 2 + 1 })
    }

    async fn lanes(&self) -> Answer<Vec<String>> {
        let name = self.client.subjects().tasks_stream();
        let stream = self.client.jetstream().get_stream_no_info(name).await.map_err(|e| told(&e))?;
        stream.consumer_names().try_collect().await.map_err(|e| told(&e))
    }

    async fn probes(&self) -> Vec<(Role, String, Probe)> {
        let subjects = self.client.subjects();
        let kind = Kind::new("doctor").expect("it is a good name");
        let id = TaskId::new("doctor").expect("it is a good name");
        let agent = AgentId::new("doctor").expect("it is a good name");
        let (tasks, results) = (subjects.tasks_stream(), subjects.results_stream());
        let stored = [
            (Role::Client, subjects.task(&kind, Priority::Normal, &id)),
            (Role::Coordinator, subjects.result(&id)),
            (Role::Coordinator, subjects.dead(&kind)),
            (Role::Coordinator, subjects.event("mesh", "doctor")),
            (Role::Coordinator, subjects.history(0, Epoch(0))),
            (Role::Coordinator, format!("$KV.{}.doctor", subjects.lease_bucket())),
        ];
        // Each is about something that there is not, so that it can only be refused.
        let purge = format!(r#"{{"filter":"{}"}}"#, subjects.histories_of(0));
        let asked = [
            (format!("$JS.API.STREAM.PURGE.{}", subjects.history_stream()), &*purge),
            (format!("$JS.API.CONSUMER.CREATE.{tasks}.{NO_STREAM}"), r#"{"stream_name":"","config":{}}"#),
            (format!("$JS.API.CONSUMER.DELETE.{tasks}.{NO_STREAM}"), ""),
            (format!("$JS.API.CONSUMER.MSG.NEXT.{tasks}.{NO_STREAM}"), "1"),
            (format!("$JS.API.STREAM.MSG.DELETE.{tasks}"), r#"{"seq":18446744073709551615}"#),
            (format!("$JS.API.DIRECT.GET.{results}.{}", subjects.result(&id)), ""),
            (format!("$JS.ACK.{tasks}.{NO_STREAM}.1.1.1.1.0"), "+WPI"),
            (subjects.inbox(&agent, InboxVerb::Ping), ""),
        ];
        let store = |(role, subject): (Role, String)| async move {
            let probe = self.probe(&subject).await;
            (role, subject, probe)
        };
        let ask = |(subject, body): (String, String)| async move {
            let probe = self.ask(&subject, body).await;
            (Role::Coordinator, subject, probe)
        };
        let (mut probes, more) = tokio::join!(
            join_all(stored.map(store)),
            join_all(asked.map(|(subject, body)| ask((subject, body.to_owned()))))
        );
        probes.extend(more);
        probes
    }

    /// Publishes what every stream refuses.
    async fn probe(&self, subject: &str) -> Probe {
        let mut headers = HeaderMap::new();
        headers.insert(async_nats::header::NATS_EXPECTED_STREAM, NO_STREAM);
        let request = self.client.nats().request_with_headers(subject.to_owned(), headers, "".into());
        match tokio::time::timeout(ANSWER, request).await {
            Ok(Ok(answer)) => read_probe(&answer.payload),
            Ok(Err(error)) => unanswered(&error, Probe::NoStream),
            Err(_) => Probe::Silence,
        }
    }

    /// Asks what can only be refused. Whatever the answer is: what is not allowed is not answered.
    async fn ask(&self, subject: &str, body: String) -> Probe {
        let request = self.client.nats().request(subject.to_owned(), body.into());
        match tokio::time::timeout(ANSWER, request).await {
            Ok(Ok(_)) => Probe::Reached,
            Ok(Err(error)) => unanswered(&error, Probe::Reached),
            Err(_) => Probe::Silence,
        }
    }

    /// The server says only on the connection itself that a subscription is refused, before its next answer.
    async fn hears_agents(&self) -> Answer<bool> {
        let agent = AgentId::new("doctor").expect("it is a good name");
        let refusals = || self.counters.server_errors.load(Ordering::Relaxed);
        let before = refusals();
        let subject = self.client.subjects().agent(&agent, AgentVerb::Beat);
        let subscribed = self.client.nats().subscribe(subject).await.map_err(|e| e.to_string())?;
        self.client.jetstream().query_account().await.map_err(|e| told(&e))?;
        drop(subscribed);
        Ok(refusals() == before)
    }

    /// What the servers tell the system account, and accounts that import this question from it.
    async fn ask_servers(&self) -> Answer<Vec<Varz>> {
        let (nats, inbox) = (self.client.nats(), self.client.nats().new_inbox());
        let mut answers = nats.subscribe(inbox.clone()).await.map_err(|e| e.to_string())?;
        let asked = nats.publish_with_reply("$SYS.REQ.SERVER.PING.VARZ", inbox, "".into()).await;
        asked.map_err(|e| e.to_string())?;
        let mut servers = Vec::new();
        while let Ok(Some(answer)) = tokio::time::timeout(SILENCE, answers.next()).await {
            if answer.status == Some(StatusCode::NO_RESPONDERS) {
                break;
            }
            #[derive(Deserialize)]
            struct Envelope {
                data: Varz,
            }
            servers.extend(serde_json::from_slice::<Envelope>(&answer.payload).ok().map(|envelope| envelope.data));
        }
        if servers.is_empty() {
            Err("no --monitor is given, and this account may not ask the servers".into())
        } else {
            Ok(servers)
        }
    }
}

/// An error with its causes, without those that the one before has told already.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

fn read_stream(info: stream::Info) -> Found {
    let copies = info.cluster.as_ref().map(|cluster| cluster.replicas.as_slice()).unwrap_or_default();
    Found {
        messages: info.state.messages,
        bytes: info.state.bytes,
        has_leader: info.cluster.as_ref().is_none_or(|cluster| cluster.leader.as_ref().is_some_and(|l| !l.is_empty())),
        stale_copies: copies.iter().filter(|c| !c.current || c.offline).map(|c| c.name.clone()).collect(),
        config: info.config,
    }
}

fn unanswered(error: &async_nats::RequestError, nobody: Probe) -> Probe {
    match error.kind() {
        RequestErrorKind::NoResponders => nobody,
        RequestErrorKind::TimedOut => Probe::Silence,
        _ => Probe::Other(told(error)),
    }
}

/// Reads the answer to a probe: error 10060 is a stream's that it is not the one expected.
fn read_probe(answer: &[u8]) -> Probe {
    let answer: serde_json::Value = serde_json::from_slice(answer).unwrap_or_default();
    match answer["error"]["err_code"].as_u64() {
        Some(10060) => Probe::Reached,
        _ => Probe::Other(answer["error"]["description"].as_str().unwrap_or("it was not refused").to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_refusal_that_was_asked_for_shows_that_a_stream_was_reached() {
        let refused = br#"{"error":{"code":400,"err_code":10060,"description":"expected stream does not match"}}"#;

        assert_eq!(read_probe(refused), Probe::Reached);
        assert!(matches!(read_probe(br#"{"stream":"HIVE_TASKS","seq":1}"#), Probe::Other(_)));
        assert!(
            matches!(read_probe(br#"{"error":{"err_code":10077,"description":"full"}}"#), Probe::Other(text) if text == "full")
        );
    }
}
