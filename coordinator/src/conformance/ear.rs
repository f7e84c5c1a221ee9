//! What agents say is written down as it comes, and what cannot wait is answered at once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::header::HeaderValue;
use async_nats::{Client, HeaderMap, SubscribeError, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::codec::{DecodeError, Format};
use shared::header;
use shared::message::{Beat, Heard, Welcome};
use shared::subject::{AgentSubject, AgentVerb, InboxVerb, Subjects};
use shared::{AgentId, Epoch};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What `welcome` promises to agents with work that runs at most once.
const HOLD: Duration = Duration::from_secs(6);

/// A message of an agent.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) agent: AgentId,
    pub(super) verb: AgentVerb,
    pub(super) at: Instant,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Said {
    pub(super) fn header(&self, name: &'static str) -> Option<&str> {
        self.headers.get(name).map(HeaderValue::as_str)
    }

    /// What its header says; nothing that was said before counts.
    pub(super) fn format(&self) -> Result<Format, DecodeError> {
        Format::from_content_type(self.header(header::CONTENT_TYPE))
    }

    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        self.format()?.decode(&self.body)
    }
}

/// How the coordinator that we play behaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manners {
    pub(super) epoch: Epoch,
    pub(super) beat_interval: Duration,
    pub(super) report_interval: Duration,
    /// Whether it answers a hello.
    pub(super) welcomes: bool,
}

/// Speaks for the coordinator that we play.
#[derive(Debug)]
pub(super) struct Voice {
    nats: Client,
    subjects: Subjects,
    manners: Mutex<Manners>,
}

impl Voice {
    pub(super) fn new(nats: Client, subjects: Subjects, manners: Manners) -> Self {
        Self { nats, subjects, manners: Mutex::new(manners) }
    }

    pub(super) fn nats(&self) -> &Client {
        &self.nats
    }

    pub(super) fn subjects(&self) -> &Subjects {
        &self.subjects
    }

    pub(super) fn manners(&self) -> Manners {
        *self.manners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn behave(&self, change: impl FnOnce(&mut Manners)) {
        change(&mut self.manners.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) async fn welcome(&self, agent: &AgentId, format: Format, hello_wanted: bool) {
        let Manners { epoch, beat_interval, report_interval, .. } = self.manners();
        let welcome = Welcome { epoch, beat_interval, report_interval, hello_wanted, hold: Some(HOLD) };
        self.tell(agent, InboxVerb::Welcome, format, &welcome).await;
    }

    pub(super) async fn tell<T: Serialize>(&self, agent: &AgentId, verb: InboxVerb, format: Format, message: &T) {
        let mut headers = HeaderMap::new();
        if format != Format::default() {
            headers.insert(header::CONTENT_TYPE, format.content_type());
        }
        self.publish(self.subjects.inbox(agent, verb), None, headers, format.encode(message)).await;
    }

    /// What cannot be sent is not heard, and that is noticed.
    pub(super) async fn publish(&self, subject: String, reply: Option<String>, headers: HeaderMap, body: Bytes) {
        let _ = match (reply, headers.is_empty()) {
            (None, true) => self.nats.publish(subject, body).await,
            (None, false) => self.nats.publish_with_headers(subject, headers, body).await,
            (Some(reply), true) => self.nats.publish_with_reply(subject, reply, body).await,
            (Some(reply), false) => self.nats.publish_with_reply_and_headers(subject, reply, headers, body).await,
        };
    }

    async fn answer(&self, said: &Said) {
        let (manners, Ok(format)) = (self.manners(), said.format()) else { return };
        match said.verb {
            AgentVerb::Hello if manners.welcomes => self.welcome(&said.agent, format, false).await,
            AgentVerb::Beat => {
                if let Ok(Beat { answer: true, sequence, .. }) = said.read() {
                    let heard = Heard { epoch: manners.epoch, sequence };
                    self.tell(&said.agent, InboxVerb::Heard, format, &heard).await;
                }
            }
            _ => {}
        }
    }
}

/// A place in what was said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark(usize);

impl Mark {
    /// Before everything.
    pub(super) const START: Mark = Mark(0);
}

/// Hears all agents of the mesh.
#[derive(Debug)]
pub(super) struct Ear {
    record: Arc<Record>,
    listening: JoinHandle<()>,
}

#[derive(Debug)]
struct Record {
    said: Mutex<Vec<Arc<Said>>>,
    count: watch::Sender<usize>,
}

impl Record {
    fn since(&self, mark: Mark) -> Vec<Arc<Said>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)[mark.0..].to_vec()
    }

    fn add(&self, said: Arc<Said>) {
        let mut all = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(said);
        self.count.send_replace(all.len());
    }
}

impl Ear {
    /// Listens, and answers by `voice`, until it is dropped.
    pub(super) async fn listen(voice: Arc<Voice>) -> Result<Self, SubscribeError> {
        let messages = voice.nats.subscribe(voice.subjects.all_agents()).await?;
        let record = Arc::new(Record { said: Mutex::default(), count: watch::channel(0).0 });
        let listening = tokio::spawn(listen(messages, voice, record.clone()));
        Ok(Self { record, listening })
    }

    /// What comes from now on comes after it.
    pub(super) fn mark(&self) -> Mark {
        Mark(*self.record.count.borrow())
    }

    /// What was said after a mark.
    pub(super) fn since(&self, mark: Mark) -> Vec<Arc<Said>> {
        self.record.since(mark)
    }

    /// Waits for the first message after a mark that gives something wanted.
    pub(super) async fn until<T>(
        &self,
        from: Mark,
        limit: Duration,
        mut wanted: impl FnMut(&Arc<Said>) -> Option<T>,
    ) -> Option<T> {
        let deadline = tokio::time::Instant::now() + limit;
        let mut count = self.record.count.subscribe();
        let mut next = from;
        loop {
            for said in self.record.since(next) {
                next = Mark(next.0 + 1);
                if let Some(found) = wanted(&said) {
                    return Some(found);
                }
            }
            let more = tokio::time::timeout_at(deadline, count.wait_for(|count| *count > next.0)).await.is_ok();
            if !more {
                return None;
            }
        }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn listen(mut messages: Subscriber, voice: Arc<Voice>, record: Arc<Record>) {
    while let Some(message) = messages.next().await {
        let Some(AgentSubject { agent, verb }) = AgentSubject::parse(&voice.subjects, &message.subject) else {
            continue;
        };
        let (headers, body) = (message.headers.unwrap_or_default(), message.payload);
        let said = Arc::new(Said { agent, verb, at: Instant::now(), headers, body });
        record.add(said.clone());
        voice.answer(&said).await;
    }
}
