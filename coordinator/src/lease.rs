//! Who leads: a lease in a key-value bucket, taken and renewed by compare-and-set.
//!
//! The lease buys speed, not safety: two leaders at once would do work twice, but every order carries its epoch,
//! agents refuse an older one than they have seen, and a result is written once. Its lifetime outlasts an election
//! of the broker's, so a standby does not wait for it to expire: when the leader demonstrably is not there, the
//! standby takes the lease at once.

use std::time::{Duration, Instant};

use async_nats::jetstream::kv;
use async_nats::jetstream::message::PublishMessage;
use async_nats::{RequestErrorKind, Subscriber};
use futures_util::StreamExt as _;
use scheduler::STEP_DOWN;
use serde::{Deserialize, Serialize};
use shared::Epoch;
use shared::subject::Subjects;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::store::{Call, Store};

/// How long the lease lasts without being renewed; longer than a broker's election (4–9 s). However it was lost, by then
/// its former holder leads no more.
pub(crate) const LIFETIME: Duration = Duration::from_secs(15);
/// How often it is renewed.
const RENEWAL: Duration = Duration::from_secs(2);
/// How long the broker may take to confirm that, and when it is tried again if it does not. Brokers that elect a leader
/// twice within seconds are at work in between for a moment only, which must not be missed.
const CONFIRMATION: Duration = Duration::from_secs(1);
const NEXT_TRY: Duration = Duration::from_millis(250);
/// How often a standby looks after the leader.
const LOOK: Duration = Duration::from_millis(150);
/// How long a leader may take to answer.
const ANSWER: Duration = Duration::from_millis(400);
/// A leader on whose inbox nobody listens for this long is gone; one whose connection broke is back before.
const GONE: Duration = Duration::from_millis(600);
/// A leader that answers nothing for this long is hung or cut off.
const HUNG: Duration = Duration::from_secs(2);

const KEY: &str = "leader";

/// What becomes of the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is ours, newly or still.
    Held {
        /// What a reign that begins now has for its epoch.
        epoch: Epoch,
        /// Until then nobody else can have it, by our own clock.
        until: Instant,
    },
    /// It is not ours any more.
    Lost,
}

/// Who holds the lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    instance: String,
}

/// Contends for the lease for as long as it lives.
#[derive(Debug)]
pub struct Contender {
    nats: async_nats::Client,
    store: Store,
    bucket: kv::Store,
    subjects: Subjects,
    instance: String,
    changes: mpsc::Sender<Change>,
    /// Before then it may not know every agent, and another is the better leader.
    informed_at: Instant,
}

impl Contender {
    /// A contender under the name of this process, which begins to listen to the agents now and has heard all of them
    /// after a beat's interval.
    pub fn new(
        nats: async_nats::Client,
        store: Store,
        bucket: kv::Store,
        subjects: Subjects,
        instance: String,
        changes: mpsc::Sender<Change>,
        beat_interval: Duration,
    ) -> Self {
        let informed_at = Instant::now() + beat_interval + Duration::from_millis(100);
        Self { nats, store, bucket, subjects, instance, changes, informed_at }
    }

    /// Contends until it is told to resign; then gives the lease back if it holds it.
    pub async fn run(self, mut resign: oneshot::Receiver<()>) {
        // Without it, a lease that is given back is found a little later.
        let mut given_back = self.nats.subscribe(self.subjects.resignations()).await.ok();
        loop {
            let mut held = tokio::select! {
                held = self.stand_by(&mut given_back) => held,
                _ = &mut resign => return,
            };
            info!(epoch = held.revision, instance = self.instance, "leading the mesh");
            if self.changes.send(held.into()).await.is_err() {
                return;
            }
            tokio::select! {
                () = self.hold(&mut held) => {}
                _ = &mut resign => return self.give_back(held.revision).await,
            }
            warn!(instance = self.instance, "not leading the mesh any more");
            if self.changes.send(Change::Lost).await.is_err() {
                return;
            }
        }
    }

    /// Waits until the lease is ours.
    async fn stand_by(&self, given_back: &mut Option<Subscriber>) -> Held {
        let mut silent_since: Option<Instant> = None;
        let mut absent_since: Option<Instant> = None;
        loop {
            match self.bucket.entry(KEY).await {
                Ok(Some(entry)) if entry.operation == kv::Operation::Put => {
                    let holder = serde_json::from_slice::<Holder>(&entry.value).ok();
                    match self.look_after(holder).await {
                        Presence::Leads => (silent_since, absent_since) = (None, None),
                        Presence::Absent => drop(absent_since.get_or_insert_with(Instant::now)),
                        Presence::Silent if self.canary_sings().await => {
                            silent_since.get_or_insert_with(Instant::now);
                        }
                        Presence::Silent => silent_since = None,
                    }
                    let hung = silent_since.is_some_and(|since| since.elapsed() >= HUNG);
                    let gone = absent_since.is_some_and(|since| since.elapsed() >= GONE);
                    if (gone || hung)
                        && let Some(held) = self.write(entry.revision).await
                    {
                        info!(hung, "the leader is gone");
                        return held;
                    }
                }
                // It was given back, and who has listened for longer can go on at once.
                Ok(Some(_)) if Instant::now() < self.informed_at => {
                    tokio::time::sleep_until(self.informed_at.into()).await;
                    continue;
                }
                Ok(entry) => {
                    let revision = entry.map_or(0, |entry| entry.revision);
                    if let Some(held) = self.write(revision).await {
                        return held;
                    }
                }
                Err(error) => debug!(%error, "the lease cannot be read"),
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = next_resignation(given_back) => {}
            }
        }
    }

    async fn look_after(&self, holder: Option<Holder>) -> Presence {
        let Some(holder) = holder.filter(|holder| holder.instance != self.instance) else { return Presence::Absent };
        let subject = self.subjects.coordinator(&holder.instance);
        let request = async_nats::Request::new().timeout(Some(ANSWER));
        match self.nats.send_request(subject, request).await {
            // Whether it leads already or is just about to.
            Ok(_) => Presence::Leads,
            Err(error) if error.kind() == RequestErrorKind::NoResponders => Presence::Absent,
            Err(_) => Presence::Silent,
        }
    }

    /// Whether a request of ours to ourselves comes back: if not, it is our own link that is broken.
    async fn canary_sings(&self) -> bool {
        let request = async_nats::Request::new().timeout(Some(ANSWER));
        self.nats.send_request(self.subjects.coordinator(&self.instance), request).await.is_ok()
    }

    /// Renews the lease until it is lost. However long an answer takes to come, it is over when our own clock says
    /// so, before it can be anybody else's.
    async fn hold(&self, held: &mut Held) {
        let mut pause = RENEWAL;
        loop {
            let renewed = async {
                tokio::time::sleep(pause).await;
                self.renew(held.revision).await
            };
            match tokio::time::timeout_at(held.until.into(), renewed).await {
                Ok(Renewal::Done(renewed)) => {
                    (*held, pause) = (renewed, RENEWAL);
                    if self.changes.send(renewed.into()).await.is_err() {
                        return;
                    }
                }
                Ok(Renewal::Unknown { revision }) => (held.revision, pause) = (revision, NEXT_TRY),
                Ok(Renewal::Lost) | Err(_) => return,
            }
        }
    }

    async fn renew(&self, revision: u64) -> Renewal {
        if let Ok(Some(held)) = timeout(CONFIRMATION, self.write(revision)).await {
            return Renewal::Done(held);
        }
        match timeout(CONFIRMATION, self.bucket.entry(KEY)).await {
            // Our own renewal may have been stored although its confirmation was lost or is late. When is not known, so
            // that does not make it last longer; the next one will.
            Ok(Ok(Some(entry))) if self.is_ours(&entry) => Renewal::Unknown { revision: entry.revision },
            // A copy that lags behind says how it was before we had it.
            Ok(Ok(entry)) if entry.as_ref().is_none_or(|entry| entry.revision < revision) => {
                Renewal::Unknown { revision }
            }
            Ok(Ok(_)) => Renewal::Lost,
            Ok(Err(error)) => {
                warn!(%error, "the lease cannot be renewed");
                Renewal::Unknown { revision }
            }
            Err(_) => {
                debug!("the broker does not answer about the lease");
                Renewal::Unknown { revision }
            }
        }
    }

    fn is_ours(&self, entry: &kv::Entry) -> bool {
        let holder = serde_json::from_slice::<Holder>(&entry.value).ok();
        entry.operation == kv::Operation::Put && holder.is_some_and(|holder| holder.instance == self.instance)
    }

    /// Writes our name if the lease is still at this revision. `Store::update` would drop the lifetime, so the
    /// message is published directly.
    async fn write(&self, revision: u64) -> Option<Held> {
        // The lifetime begins when the broker stores it, which is later than now.
        let until = Instant::now() + STEP_DOWN;
        let holder = serde_json::to_vec(&Holder { instance: self.instance.clone() }).expect("a text is JSON");
        let message =
            PublishMessage::build().payload(holder.into()).expected_last_subject_sequence(revision).ttl(LIFETIME);
        let subject = format!("$KV.{}.{KEY}", self.subjects.lease_bucket());
        let ack = self.store.jetstream().send_publish(subject, message).await.ok()?.await;
        let written = self.store.calls().note(Call::Lease, ack).map(|ack| Held { revision: ack.sequence, until });
        written.map_err(|error| debug!(%error, "the lease was not written")).ok()
    }

    async fn give_back(&self, revision: u64) {
        match self.bucket.purge_expect_revision(KEY, Some(revision)).await {
            Ok(()) => info!("gave the lease back"),
            Err(error) => return debug!(%error, "the lease was not given back"),
        }
        // Whoever stands by need not wait until it looks again.
        let _ = self.nats.publish(self.subjects.resignations(), "".into()).await;
        let _ = self.nats.flush().await;
    }
}

async fn next_resignation(given_back: &mut Option<Subscriber>) {
    if let Some(subscriber) = given_back
        && subscriber.next().await.is_some()
    {
        return;
    }
    std::future::pending::<()>().await;
}

/// The lease, as its holder has it.
#[derive(Clone, Copy, Debug)]
struct Held {
    revision: u64,
    /// Until then nobody else can have it, by our own clock.
    until: Instant,
}

impl From<Held> for Change {
    fn from(held: Held) -> Self {
        Change::Held { epoch: Epoch(held.revision), until: held.until }
    }
}

/// What came of trying to renew the lease.
enum Renewal {
    /// It is ours for longer.
    Done(Held),
    /// It was ours a moment ago, at this revision.
    Unknown {
        /// The revision to renew from.
        revision: u64,
    },
    /// It is somebody else's, or nobody's.
    Lost,
}

/// Whether the leader is there.
enum Presence {
    /// It answers.
    Leads,
    /// Nobody listens where it would.
    Absent,
    /// No answer.
    Silent,
}
