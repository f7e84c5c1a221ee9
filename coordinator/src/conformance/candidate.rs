//! The agent that is checked, and the coordinator's side of the talk with it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use async_nats::header::HeaderValue;
use async_nats::{HeaderMap, jetstream};
use bytes::Bytes;
use serde::Serialize;
use shared::codec::Format;
use shared::connect::Patience;
use shared::header;
use shared::message::{AttemptRef, Beat, Cancel, Drain, HeldState, Hello, Pong, Settled, Welcome};
use shared::subject::{AgentVerb, InboxVerb, Subjects};
use shared::task::AttemptOutcome;
use shared::{AgentId, Epoch, Kind, TaskId};

use super::checks::Check;
use super::ear::{Ear, Manners, Mark, Said, Voice};
use super::host::Host;
use super::order::{Order, is_done_of, state_of};
use super::{Checked, Kinds, Options, Trouble, require};

/// How long whatever is due at once may take, on a busy machine.
pub(super) const SOON: Duration = Duration::from_secs(5);
/// How often the agent is asked to beat.
pub(super) const BEAT: Duration = Duration::from_millis(250);
/// How often it is asked to report.
pub(super) const REPORT: Duration = Duration::from_secs(1);
/// The body of a task that sleeps longer than any check takes.
pub(super) const FOR_LONG: &str = "120000ms";
/// How long an agent may take to say hello after its start.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long somebody may take to start an agent by hand.
const PATIENCE: Duration = Duration::from_secs(120);
/// The epoch to begin with: there are older ones.
const FIRST_EPOCH: Epoch = Epoch(100);
/// How often it is looked whether a state has come.
const LOOK: Duration = Duration::from_millis(50);

/// The agent.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) host: Option<Host>,
    pub(super) id: AgentId,
    /// What it said of itself last.
    pub(super) hello: Hello,
    ear: Ear,
    voice: Arc<Voice>,
    format: Format,
    kinds: Kinds,
    tasks: u64,
    /// What was ordered in this check.
    ordered: Vec<AttemptRef>,
}

impl Candidate {
    /// Starts the agent, or waits for it, until it has said hello. The text is why there is none.
    pub(super) async fn meet(options: Options, dir: &Path) -> anyhow::Result<Result<Self, String>> {
        let Options { connection, agent, command, nats_server, kinds } = options;
        let (mut host, settings) = if command.is_empty() {
            (None, connection)
        } else {
            let (host, settings) = Host::start(command, agent.as_ref(), nats_server.as_deref(), dir).await?;
            (Some(host), settings)
        };
        let nats = settings.connect("conformance", Patience::Limited(Duration::from_secs(10))).await?;
        let subjects = Subjects::new(settings.mesh.clone());
        if host.is_none() && jetstream::new(nats.clone()).get_stream(subjects.tasks_stream()).await.is_ok() {
            bail!("mesh `{}` has coordinators: choose a name for a mesh of the agent's own by --mesh", settings.mesh);
        }
        let manners = Manners { epoch: FIRST_EPOCH, beat_interval: BEAT, report_interval: REPORT, welcomes: false };
        let voice = Arc::new(Voice::new(nats, subjects, manners));
        let ear = Ear::listen(voice.clone()).await.context("failed to listen to agents")?;
        match &mut host {
            Some(host) => host.start_agent().await?,
            None => eprintln!("waiting for the hello of an agent: start it on mesh `{}`", settings.mesh),
        }
        let limit = if host.is_some() { START_LIMIT } else { PATIENCE };
        let Some(said) = first_hello(&ear, agent.as_ref(), host.as_ref(), limit).await else {
            return Ok(Err(nobody(&ear, agent.as_ref(), host.as_ref(), limit)));
        };
        Ok(read_hello(&said).map(|(format, hello)| Self {
            host,
            id: said.agent.clone(),
            hello,
            ear,
            voice,
            format,
            kinds,
            tasks: 0,
            ordered: Vec::new(),
        }))
    }

    /// Whether its process is ours.
    pub(super) fn is_ours(&self) -> bool {
        self.host.is_some()
    }

    /// Its process and its broker, where they are ours.
    pub(super) fn host(&mut self) -> Result<&mut Host, Trouble> {
        self.host.as_mut().ok_or_else(|| Trouble::Skipped("it is not started here".to_owned()))
    }

    /// Makes sure that it is there, and has manners back that a check has changed.
    pub(super) async fn prepare(&mut self) -> Checked {
        if self.host.as_ref().is_some_and(|host| !host.agent_runs()) {
            self.restart().await?;
        }
        self.beat_every(BEAT).await;
        Ok(())
    }

    /// What the check has found, if the agent has not ended. Whatever it still holds is taken from it.
    pub(super) async fn conclude(&mut self, check: &Check, checked: Checked) -> Checked {
        if check.ends_agent {
            self.ordered.clear();
            if let Some(host) = &mut self.host {
                host.kill_agent().await;
            }
            return checked;
        }
        let Some(status) = self.host.as_ref().and_then(Host::agent_exit) else {
            self.clear().await;
            return checked;
        };
        self.ordered.clear();
        let ended = format!("the agent ended ({status}), and said last: {}", self.last_words());
        Err(match checked {
            Ok(()) | Err(Trouble::Skipped(_)) => Trouble::Failed(ended),
            Err(Trouble::Failed(found)) => Trouble::Failed(format!("{found}; {ended}")),
            Err(stuck) => stuck,
        })
    }

    fn last_words(&self) -> String {
        self.host.as_ref().map(Host::agent_said).unwrap_or_default()
    }

    /// Settles whatever was ordered. An agent that holds it nevertheless is started anew.
    async fn clear(&mut self) {
        let ordered = std::mem::take(&mut self.ordered);
        if ordered.is_empty() {
            return;
        }
        self.tell(InboxVerb::Settled, &Settled { attempts: ordered }).await;
        let holds_nothing = |beat: &Beat| beat.holds.is_empty();
        if self.until_looks(SOON, "that it holds nothing", holds_nothing).await.is_err()
            && let Some(host) = &mut self.host
        {
            host.kill_agent().await;
        }
    }

    /// Starts it again, as a new process, until that has said hello.
    pub(super) async fn restart(&mut self) -> Checked {
        let host = self.host()?;
        host.kill_agent().await;
        // What the process before has said has arrived by the time that the next one has connected.
        let mark = self.mark();
        self.host()?.start_agent().await?;
        let said = self.until(mark, START_LIMIT, "hello after its start", hello_of).await?;
        (self.format, self.hello) = read_hello(&said).map_err(Trouble::Failed)?;
        Ok(())
    }

    /// Ends what was started here.
    pub(super) async fn part(self) -> AgentId {
        if let Some(host) = self.host {
            host.stop().await;
        }
        self.id
    }

    // What it is told.

    pub(super) async fn tell<T: Serialize>(&self, verb: InboxVerb, message: &T) {
        self.voice.tell(&self.id, verb, self.format, message).await;
    }

    /// A standby wants a hello. It has no epoch, and having heard no hello it does not know which encoding the agent
    /// speaks either.
    pub(super) async fn stand_by(&self) {
        let Manners { beat_interval, report_interval, .. } = self.voice.manners();
        let welcome = Welcome { epoch: Epoch(0), beat_interval, report_interval, hello_wanted: true, hold: None };
        self.voice.tell(&self.id, InboxVerb::Welcome, Format::MessagePack, &welcome).await;
    }

    /// Says whatever is wanted on a subject of its inbox.
    pub(super) async fn babble(&self, verb: &str, headers: HeaderMap, body: Bytes) {
        let subject = self.voice.subjects().inbox_all(&self.id).replace('*', verb);
        self.voice.publish(subject, Some(self.voice.nats().new_inbox()), headers, body).await;
    }

    pub(super) async fn welcome(&self, hello_wanted: bool) {
        self.voice.welcome(&self.id, self.format, hello_wanted).await;
    }

    /// From now on its hellos are answered.
    pub(super) async fn welcome_from_now_on(&self) {
        self.voice.behave(|manners| manners.welcomes = true);
        self.welcome(false).await;
    }

    /// Wants a beat so often, if it has been welcomed at all.
    pub(super) async fn beat_every(&self, interval: Duration) {
        self.voice.behave(|manners| manners.beat_interval = interval);
        if self.voice.manners().welcomes {
            self.welcome(false).await;
        }
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.voice.manners().epoch
    }

    /// Another leader begins, of whom the agent does not know yet.
    pub(super) fn newer_epoch(&self) -> Epoch {
        self.voice.behave(|manners| manners.epoch.0 += 1);
        self.epoch()
    }

    /// The kind whose tasks come back as they are.
    pub(super) fn echo(&self) -> Result<Kind, Trouble> {
        self.offered(&self.kinds.echo)
    }

    /// The kind whose tasks take as long as they say.
    pub(super) fn sleep(&self) -> Result<Kind, Trouble> {
        self.offered(&self.kinds.sleep)
    }

    /// The kind whose tasks fail with what they say.
    pub(super) fn fail(&self) -> Result<Kind, Trouble> {
        self.offered(&self.kinds.fail)
    }

    fn offered(&self, kind: &Kind) -> Result<Kind, Trouble> {
        let missing = || Trouble::Skipped(format!("it has no kind `{kind}`"));
        if self.hello.kinds.contains(kind) { Ok(kind.clone()) } else { Err(missing()) }
    }

    /// An order for a new task, which is not given yet.
    pub(super) fn order(&mut self, kind: &Kind, body: impl Into<Bytes>) -> Order {
        self.tasks += 1;
        let task = TaskId::new(format!("conformance-{}", self.tasks)).expect("it is a good id");
        Order {
            attempt: AttemptRef { task, attempt: 1, epoch: self.epoch() },
            sequence: self.tasks,
            kind: kind.clone(),
            incarnation: self.hello.incarnation,
            timeout: None,
            body: body.into(),
        }
    }

    /// Gives an order.
    pub(super) async fn run(&mut self, order: &Order) {
        self.note(order);
        self.babble(InboxVerb::Run.as_str(), order.headers(), order.body.clone()).await;
    }

    /// Orders a new task.
    pub(super) async fn run_new(&mut self, kind: &Kind, body: impl Into<Bytes>) -> Order {
        let order = self.order(kind, body);
        self.run(&order).await;
        order
    }

    /// Remembers that the agent may hold it.
    pub(super) fn note(&mut self, order: &Order) {
        self.ordered.push(order.attempt.clone());
    }

    pub(super) async fn cancel(&self, attempt: &AttemptRef) {
        self.tell(InboxVerb::Cancel, &Cancel { attempt: attempt.clone(), reason: "it is a check".into() }).await;
    }

    pub(super) async fn settle(&self, attempt: &AttemptRef) {
        self.tell(InboxVerb::Settled, &Settled { attempts: vec![attempt.clone()] }).await;
    }

    pub(super) async fn drain(&self, epoch: Epoch) {
        self.tell(InboxVerb::Drain, &Drain { epoch }).await;
    }

    /// The most bytes that the broker takes in a message, headers included.
    pub(super) fn max_payload(&self) -> usize {
        self.voice.nats().max_payload()
    }

    // What it says.

    pub(super) fn mark(&self) -> Mark {
        self.ear.mark()
    }

    /// Waits for something that it says.
    pub(super) async fn until<T>(
        &self,
        from: Mark,
        limit: Duration,
        what: &str,
        wanted: impl Fn(&Arc<Said>) -> Option<T>,
    ) -> Result<T, Trouble> {
        let of_it = |said: &Arc<Said>| if said.agent == self.id { wanted(said) } else { None };
        let found = self.ear.until(from, limit, of_it).await;
        found.ok_or_else(|| Trouble::Failed(format!("no {what} came within {limit:?}")))
    }

    /// The first messages of a verb: as many as wanted, or as have come when the time is over.
    pub(super) async fn several(&self, from: Mark, verb: AgentVerb, count: usize, limit: Duration) -> Vec<Arc<Said>> {
        let mut seen = Vec::new();
        let enough = |said: &Arc<Said>| {
            if said.agent == self.id && said.verb == verb {
                seen.push(said.clone());
            }
            (seen.len() >= count).then_some(())
        };
        let _ = self.ear.until(from, limit, enough).await;
        seen
    }

    /// What it has said since then by this verb.
    pub(super) fn said(&self, from: Mark, verb: AgentVerb) -> Vec<Arc<Said>> {
        self.ear.since(from).into_iter().filter(|said| said.agent == self.id && said.verb == verb).collect()
    }

    /// Its next hello.
    pub(super) async fn hello_since(&self, from: Mark, limit: Duration) -> Result<(Arc<Said>, Hello), Trouble> {
        let said = self.until(from, limit, "hello", hello_of).await?;
        let (_, hello) = read_hello(&said).map_err(Trouble::Failed)?;
        Ok((said, hello))
    }

    /// The `done` of an attempt.
    pub(super) async fn done(&self, from: Mark, attempt: &AttemptRef, limit: Duration) -> Result<Arc<Said>, Trouble> {
        let what = format!("`done` of attempt {} of epoch {} of a task", attempt.attempt, attempt.epoch);
        self.until(from, limit, &what, |said| is_done_of(said, attempt).then(|| said.clone())).await
    }

    /// The `done` of an attempt, with this outcome.
    pub(super) async fn ends(
        &self,
        from: Mark,
        order: &Order,
        outcome: AttemptOutcome,
        limit: Duration,
    ) -> Result<Arc<Said>, Trouble> {
        let done = self.done(from, &order.attempt, limit).await?;
        let (named, error) = (done.header(header::OUTCOME).unwrap_or_default(), done.header(header::ERROR));
        let error = error.map(|error| format!(" ({error})")).unwrap_or_default();
        let kind = &order.kind;
        require(named == outcome.as_str(), format!("a `{kind}` ended as `{named}`{error}, not as `{outcome}`"))?;
        Ok(done)
    }

    /// Every `done` of any attempt of a task.
    pub(super) fn dones(&self, from: Mark, task: &TaskId) -> Vec<Arc<Said>> {
        let all = self.said(from, AgentVerb::Done).into_iter();
        all.filter(|said| said.header(header::TASK) == Some(task.as_str())).collect()
    }

    /// Asks whether it is there.
    pub(super) async fn ping(&self) -> Result<Pong, String> {
        let subject = self.voice.subjects().inbox(&self.id, InboxVerb::Ping);
        let asked = self.voice.nats().request(subject, Bytes::new()).await;
        let answer = asked.map_err(|error| format!("it does not answer a `ping`: {error}"))?;
        let named = answer.headers.as_ref().and_then(|headers| headers.get(header::CONTENT_TYPE));
        let format = Format::from_content_type(named.map(HeaderValue::as_str));
        let pong = format.and_then(|format| format.decode(&answer.payload));
        pong.map_err(|error| format!("its answer to a `ping` cannot be read: {}", crate::chain(&error)))
    }

    /// What it holds, by its answer to a `ping`, or else by its next beat.
    pub(super) async fn look(&self) -> Result<Beat, Trouble> {
        let mark = self.mark();
        let silent = match self.ping().await {
            Ok(pong) => return Ok(pong.beat),
            Err(silent) => silent,
        };
        let beat = self.until(mark, BEAT * 8, "beat", |said| {
            if said.verb == AgentVerb::Beat { said.read::<Beat>().ok() } else { None }
        });
        beat.await.map_err(|_| Trouble::Failed(format!("{silent}, and it does not beat either")))
    }

    /// Waits until it looks as wanted.
    pub(super) async fn until_looks(
        &self,
        limit: Duration,
        what: &str,
        wanted: impl Fn(&Beat) -> bool,
    ) -> Result<Beat, Trouble> {
        let began = Instant::now();
        loop {
            let beat = self.look().await?;
            if wanted(&beat) {
                return Ok(beat);
            }
            let seen = || Trouble::Failed(format!("after {limit:?} it does not say {what}; it says {}", shown(&beat)));
            if began.elapsed() > limit {
                return Err(seen());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until it says that it holds an attempt in this state.
    pub(super) async fn until_held(&self, attempt: &AttemptRef, state: HeldState) -> Result<Beat, Trouble> {
        let what = format!("that {} is {state:?}", attempt.task);
        self.until_looks(SOON, &what, |beat| state_of(beat, attempt) == Some(state)).await
    }

    /// Gives an order that must lead to nothing, and one that must be done, so that the first has been dealt with.
    pub(super) async fn refuses(&mut self, order: &Order) -> Checked {
        let echo = self.echo()?;
        let mark = self.mark();
        self.run(order).await;
        let after = self.run_new(&echo, "after").await;
        self.ends(mark, &after, AttemptOutcome::Succeeded, SOON).await?;
        tokio::time::sleep(BEAT * 2).await;
        let dones = self.dones(mark, &order.attempt.task);
        if let Some(done) = dones.iter().find(|said| is_done_of(said, &order.attempt)) {
            let outcome = done.header(header::OUTCOME).unwrap_or_default();
            return Err(Trouble::Failed(format!("it took the order, and said `done` with outcome `{outcome}`")));
        }
        let beat = self.look().await?;
        require(state_of(&beat, &order.attempt).is_none(), "it took the order, and holds the attempt")
    }
}

fn shown(beat: &Beat) -> String {
    let held = beat.holds.iter().map(|held| format!("{} {:?}", held.task, held.state));
    let held: Vec<String> = held.take(8).collect();
    format!("that it holds [{}], draining: {}", held.join(", "), beat.draining)
}

fn hello_of(said: &Arc<Said>) -> Option<Arc<Said>> {
    (said.verb == AgentVerb::Hello).then(|| said.clone())
}

fn read_hello(said: &Said) -> Result<(Format, Hello), String> {
    let read = said.format().and_then(|format| Ok((format, said.read()?)));
    read.map_err(|error| format!("its `hello` cannot be read: {}", crate::chain(&error)))
}

/// The first hello of an agent, or of any; none if the process that should say it ends.
async fn first_hello(ear: &Ear, agent: Option<&AgentId>, host: Option<&Host>, limit: Duration) -> Option<Arc<Said>> {
    let wanted = |said: &Arc<Said>| hello_of(said).filter(|said| agent.is_none_or(|agent| *agent == said.agent));
    let ended = async {
        match host {
            Some(host) => {
                host.agent_exit_within(limit).await;
            }
            None => std::future::pending::<()>().await,
        }
    };
    tokio::select! {
        said = ear.until(Mark::START, limit, wanted) => said,
        () = ended => None,
    }
}

fn nobody(ear: &Ear, agent: Option<&AgentId>, host: Option<&Host>, limit: Duration) -> String {
    let mut others: Vec<String> = ear.since(Mark::START).iter().map(|said| said.agent.to_string()).collect();
    others.dedup();
    let whose = agent.map_or_else(|| "any agent".to_owned(), |agent| format!("agent `{agent}`"));
    let mut text = format!("no hello of {whose} came within {limit:?}");
    if !others.is_empty() {
        text += &format!("; heard were {}", others.join(", "));
    }
    if let Some(host) = host {
        let status = host.agent_exit().map(|status| format!(" ended ({status}) and")).unwrap_or_default();
        text += &format!("; the agent{status} said last: {}", host.agent_said());
    }
    text
}
