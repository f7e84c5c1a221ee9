//! An agent of another make: it speaks JSON over core NATS, does what a test wants of it, and keeps what it was
//! told. What it knows of the protocol it knows from `docs/protocol.md`, not from the mesh's own code.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{Client, HeaderMap, Message};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::{Mesh, agent};

/// How often it beats.
const BEAT: Duration = Duration::from_millis(250);

/// What an agent claims to be, and how it behaves.
#[derive(Clone, Debug)]
pub struct Character {
    /// How many attempts it runs at once.
    pub slots: u32,
    /// What it claims to be able to do.
    pub kinds: Vec<String>,
    /// How busy it says its host's CPU is, 0.0 to 1.0.
    pub cpu: f64,
    /// How long it takes to echo a task; for ever if `None`.
    pub run: Option<Duration>,
}

impl Default for Character {
    /// Four slots, and `echo` at once, on an idle host.
    fn default() -> Self {
        Self { slots: 4, kinds: vec!["echo".to_owned()], cpu: 0.1, run: Some(Duration::ZERO) }
    }
}

/// The process number that every fake agent gives.
pub const INCARNATION: u64 = 4;

/// An agent of another make. Dropping it lets it vanish without a word.
#[derive(Debug)]
pub struct FakeAgent {
    heard: Arc<Mutex<Vec<Message>>>,
    working: JoinHandle<()>,
}

impl FakeAgent {
    /// Joins the mesh, and waits until it counts as healthy and its report is known.
    pub async fn join(mesh: &Mesh, id: &str, character: Character) -> Self {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let busy = character.cpu;
        let worker = Worker {
            nats: mesh.plain_client().await,
            id: id.to_owned(),
            character,
            holds: Vec::new(),
            beats: 0,
            heard: heard.clone(),
        };
        let fake = Self { heard, working: tokio::spawn(worker.work()) };
        mesh.until(agent(id).healthy()).await;
        mesh.until(crate::state::that("that the agent's report is known", async |mesh: &Mesh| {
            let agents = mesh.look_at_agents().await?;
            let usage = agents.iter().find(|agent| agent.id.as_str() == id).and_then(|agent| agent.usage.get("cpu"));
            if usage == Some(&busy) { Ok(()) } else { Err(format!("{usage:?}")) }
        }))
        .await;
        fake
    }

    /// What it was told by one verb, in order.
    pub fn told(&self, verb: &str) -> Vec<Message> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.iter().filter(|message| message.subject.ends_with(&format!(".{verb}"))).cloned().collect()
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        self.working.abort();
    }
}

/// The agent's own side.
struct Worker {
    nats: Client,
    id: String,
    character: Character,
    holds: Vec<Value>,
    beats: u64,
    heard: Arc<Mutex<Vec<Message>>>,
}

impl Worker {
    async fn work(mut self) {
        let inbox = self.nats.subscribe(format!("hive.inbox.{}.*", self.id)).await;
        let mut inbox = inbox.expect("the broker is there");
        let hello = self.hello();
        self.say("hello", &hello).await;
        let mut beat = tokio::time::interval(BEAT);
        loop {
            tokio::select! {
                Some(message) = inbox.next() => self.hear(message).await,
                _ = beat.tick() => {
                    let (beat, report) = (self.beat(), self.report());
                    self.say("beat", &beat).await;
                    self.say("report", &report).await;
                }
            }
        }
    }

    async fn hear(&mut self, message: Message) {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).push(message.clone());
        match message.subject.rsplit('.').next() {
            Some("run") => self.run(message).await,
            Some("settled") => self.forget(&message),
            Some("ping") => {
                let pong = json!({ "agent": self.id, "beat": self.beat() });
                if let Some(reply) = message.reply {
                    self.send(reply.to_string(), json_header(), pong.to_string().into()).await;
                }
            }
            Some("welcome") if said(&message)["hello_wanted"] == true => {
                let hello = self.hello();
                self.say("hello", &hello).await;
            }
            _ => {}
        }
    }

    async fn run(&mut self, message: Message) {
        let order = message.headers.clone().unwrap_or_default();
        let get = |name: &str| order.get(name).map(|value| value.as_str().to_owned()).unwrap_or_default();
        let number = |name: &str| get(name).parse::<u64>().unwrap_or_default();
        self.holds.push(json!({
            "task": get("Hive-Task"),
            "sequence": number("Hive-Sequence"),
            "kind": get("Hive-Kind"),
            "attempt": number("Hive-Attempt"),
            "epoch": number("Hive-Epoch"),
            "state": "running",
        }));
        let Some(span) = self.character.run else { return };
        let mut headers = HeaderMap::new();
        for name in ["Hive-Task", "Hive-Sequence", "Hive-Kind", "Hive-Attempt", "Hive-Epoch", "Hive-Incarnation"] {
            headers.insert(name, get(name).as_str());
        }
        headers.insert("Hive-Outcome", "succeeded");
        headers.insert("Hive-Run-Ms", span.as_millis().to_string().as_str());
        let (nats, subject) = (self.nats.clone(), format!("hive.agent.{}.done", self.id));
        tokio::spawn(async move {
            tokio::time::sleep(span).await;
            let _ = nats.publish_with_headers(subject, headers, message.payload).await;
        });
    }

    fn forget(&mut self, settled: &Message) {
        let settled = said(settled);
        let named = settled["attempts"].as_array().cloned().unwrap_or_default();
        let is = |held: &Value, named: &Value| ["task", "attempt", "epoch"].iter().all(|key| held[key] == named[key]);
        self.holds.retain(|held| !named.iter().any(|named| is(held, named)));
    }

    fn hello(&self) -> Value {
        let Character { slots, kinds, .. } = &self.character;
        json!({ "incarnation": INCARNATION, "slots": slots, "kinds": kinds, "holds": self.holds })
    }

    fn beat(&mut self) -> Value {
        self.beats += 1;
        json!({ "incarnation": INCARNATION, "sequence": self.beats, "holds": self.holds })
    }

    fn report(&self) -> Value {
        let cpu = self.character.cpu;
        json!({ "incarnation": INCARNATION, "cpu": cpu, "memory": 0.1, "disk": 0.1, "network": 0.0 })
    }

    async fn say(&self, verb: &str, what: &Value) {
        self.send(format!("hive.agent.{}.{verb}", self.id), json_header(), what.to_string().into()).await;
    }

    async fn send(&self, subject: String, headers: HeaderMap, body: bytes::Bytes) {
        self.nats.publish_with_headers(subject, headers, body).await.expect("the connection is open");
    }
}

fn json_header() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Content-Type", "application/json");
    headers
}

fn said(message: &Message) -> Value {
    serde_json::from_slice(&message.payload).unwrap_or_default()
}
