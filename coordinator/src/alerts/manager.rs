//! Looks at the rules while this coordinator leads, keeps what comes of it, and tells it.
//!
//! What has happened is written first, and told then; what was told is taken off with the next write. A leader that is gone
//! in between leaves it to the next one, whose event the broker refuses by its id if the first had come.

use std::time::{Duration, SystemTime};

use scheduler::Timestamp;
use shared::Epoch;
use shared::api::Event;
use shared::codec::Format;
use shared::subject::Subjects;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use super::Ask;
use super::book::Book;
use super::keeping::{KeepError, Keeper};
use super::kept::{News, show_time};
use super::rule::Rule;
use super::settings::Config;
use super::source::Source;
use crate::node::{Handle, unavailable};
use crate::store::{Store, StoreError};

/// The topic of what is told.
const TOPIC: &str = "alert";

/// What a manager is made of.
pub(crate) struct Parts {
    /// The coordinator's loop.
    pub(crate) handle: Handle,
    /// The streams.
    pub(crate) store: Store,
    /// The subjects of the mesh.
    pub(crate) subjects: Subjects,
    /// Where samples come from.
    pub(crate) source: Source,
    /// How it is looked at and told.
    pub(crate) settings: Config,
    /// The rules.
    pub(crate) rules: Vec<Rule>,
    /// What is asked.
    pub(crate) asks: mpsc::UnboundedReceiver<Ask>,
}

/// Looks at the rules, as long as the process runs.
pub(crate) struct Manager {
    parts: Parts,
    reign: Option<Reign>,
    /// Whether it was told that the book cannot be opened, so that it is told once.
    is_warned: bool,
}

/// What there is only while this coordinator leads.
struct Reign {
    epoch: Epoch,
    keeper: Keeper,
    book: Book,
}

impl Manager {
    pub(crate) fn new(parts: Parts) -> Self {
        Self { parts, reign: None, is_warned: false }
    }

    pub(crate) async fn run(mut self) {
        let mut ticks = interval(self.parts.settings.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                ask = self.parts.asks.recv() => match ask {
                    Some(ask) => self.answer(ask).await,
                    None => return,
                },
                _ = ticks.tick() => self.look().await,
            }
        }
    }

    /// One look at all rules.
    async fn look(&mut self) {
        self.follow_leadership().await;
        let Some(reign) = &mut self.reign else { return };
        let metrics = reign.book.metrics();
        match self.parts.source.samples(&metrics).await {
            Ok(samples) => {
                reign.book.evaluate(&samples, now());
                // A failure is told there; the next look goes by what is kept.
                let _ = self.settle().await;
            }
            // What is not known changes nothing.
            Err(refusal) => debug!(error = refusal.error, "the alerts could not be looked at"),
        }
    }

    async fn answer(&mut self, ask: Ask) {
        self.follow_leadership().await;
        // Whoever asks hears that nobody is there who could answer.
        let Some(reign) = &mut self.reign else { return };
        let reply = ask(&mut reign.book, now());
        let kept = self.settle().await;
        reply(kept);
    }

    /// Begins a reign, or ends it.
    async fn follow_leadership(&mut self) {
        let status = self.parts.handle.status();
        if !status.leading {
            self.reign = None;
            return;
        }
        if self.reign.as_ref().is_some_and(|reign| reign.epoch == status.epoch) {
            return;
        }
        self.reign = match self.begin(status.epoch).await {
            Ok(reign) => {
                self.is_warned = false;
                Some(reign)
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_warned, true) {
                    warn!(error = crate::chain(error.as_ref()), "the alerts are not looked at yet, trying again");
                }
                None
            }
        };
    }

    async fn begin(&self, epoch: Epoch) -> Result<Reign, Box<dyn std::error::Error + Send + Sync>> {
        let bucket = self.parts.store.settings_bucket().await?;
        let (mut keeper, kept) = Keeper::open(bucket).await?;
        // Whoever led before can write nothing from now on.
        keeper.write(&kept).await?;
        let book = Book::open(self.parts.settings.clone(), self.parts.rules.clone(), kept, now());
        Ok(Reign { epoch, keeper, book })
    }

    /// Writes what has changed, and tells what is to be told.
    async fn settle(&mut self) -> Result<(), shared::api::Refusal> {
        let Some(reign) = &mut self.reign else { return Ok(()) };
        if !reign.book.is_changed {
            return Ok(());
        }
        if let Err(error) = reign.keeper.write(&reign.book.kept).await {
            // What is kept is read again, by whoever leads.
            self.reign = None;
            if !matches!(error, KeepError::Replaced) {
                warn!(error = crate::chain(&error), "the alerts could not be kept");
            }
            return Err(shared::api::Refusal { error: crate::chain(&error), code: 503 });
        }
        reign.book.is_changed = false;
        let epoch = reign.epoch;
        let untold = reign.book.kept.untold.clone();
        for news in &untold {
            if let Err(error) = tell(&self.parts, epoch, news).await {
                warn!(error = unavailable(&error).error, "an alert could not be told, trying again");
                // With the next look, and under the same id.
                reign.book.kept.untold.retain(|other| other.number >= news.number);
                reign.book.is_changed = true;
                return Ok(());
            }
        }
        if !untold.is_empty() {
            reign.book.kept.untold.clear();
            reign.book.is_changed = true;
        }
        Ok(())
    }
}

/// Tells something as an event.
async fn tell(parts: &Parts, epoch: Epoch, news: &News) -> Result<(), StoreError> {
    let News { number, at, what, kind, detail, data } = news;
    info!(detail, "{TOPIC} {what}");
    let event = Event {
        time: show_time(*at),
        topic: TOPIC.to_owned(),
        what: what.clone(),
        epoch,
        agent: None,
        task: None,
        kind: kind.clone(),
        attempt: None,
        detail: Some(detail.clone()),
        data: Some(data.clone()),
    };
    let id = format!("alert-{number}-{}", at.since_origin().as_micros());
    parts.store.tell_once(parts.subjects.event(TOPIC, what), &id, Format::Json.encode(&event)).await
}

/// The moment, on a clock that all coordinators share more or less.
fn now() -> Timestamp {
    Timestamp::from_origin(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO))
}
