//! Dead letters: listed, shown, replayed, discarded.
//!
//! A dead letter is known by its sequence in its stream. A replay submits the original body and headers as a *new*
//! task, because the outcome of the old one is recorded and stays. The new id is made from the old one and from what
//! the dead letter was buried as, so a replay that is repeated, after a crash between submitting and removing, finds
//! what it has submitted instead of submitting it twice.

use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_nats::HeaderMap;
use async_nats::header::HeaderValue;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use shared::api::{
    DeadFilter, DeadLetter, DeadLetterContent, DeadPage, DeadSelection, Discarded, Refusal, Replay, ReplayRefusal,
    Replays,
};
use shared::client::{Client, NewTask, SubmitError};
use shared::subject::{Subjects, TaskSubject};
use shared::task::Deadline;
use shared::{Kind, TaskId, TaskOptions, header};

use crate::node::unavailable;
use crate::store::{Store, Stored};

/// The task whose dead letter was replayed as the task that carries this header.
pub const REPLAY_OF: &str = "Hive-Replay-Of";
/// The subject that the task of a dead letter was submitted under.
const SUBJECT: &str = "Hive-Subject";

/// What the mesh writes on a dead letter beside what was submitted.
const WRITTEN_BY_MESH: [&str; 15] = [
    SUBJECT,
    REPLAY_OF,
    header::TASK,
    header::KIND,
    header::SEQUENCE,
    header::ATTEMPT,
    header::EPOCH,
    header::INCARNATION,
    header::OUTCOME,
    header::ATTEMPTS,
    header::AGENT,
    header::ERROR,
    header::HISTORY,
    header::QUEUED_MS,
    header::RUN_MS,
];

/// Most dead letters on one page.
const PAGE_LIMIT: usize = 1000;
/// Dead letters on a page whose length nobody asked for.
const PAGE_DEFAULT: usize = 100;
/// Most dead letters that one request replays.
const REPLAY_LIMIT: usize = 500;
/// How long one request goes on replaying: whoever asks waits 5 s for the answer.
const REPLAY_TIME: Duration = Duration::from_secs(2);
/// How many dead letters are looked through for one task whose result is gone.
const SEARCH_LIMIT: usize = 2000;
/// Requests to the broker on their way at once.
const AT_ONCE: usize = 16;
/// Bytes of a body, and of all headers, that are shown. In JSON a byte may become six, and an answer must fit
/// into a message of 1 MiB.
const SHOWN_BYTES: usize = 64 << 10;

/// The dead letters of a mesh.
#[derive(Clone, Debug)]
pub struct DeadLetters {
    store: Store,
    client: Client,
}

/// The dead letter that an operator names by its number, or by the id of its task.
pub fn named(text: &str) -> Result<DeadSelection, shared::names::BadName> {
    Ok(match text.parse() {
        Ok(id) => DeadSelection { id: Some(id), ..DeadSelection::default() },
        Err(_) => DeadSelection { task: Some(TaskId::new(text)?), ..DeadSelection::default() },
    })
}

/// Which dead letters something is done to.
enum Selection {
    One(Which),
    /// All that match this filter of subjects.
    Many(String),
}

/// How one dead letter is named.
enum Which {
    Id(u64),
    Task(TaskId),
}

impl DeadLetters {
    /// The dead letters behind these connections.
    pub fn new(store: Store, client: Client) -> Self {
        Self { store, client }
    }

    /// A page of dead letters, the newest first. Reads one letter for each that is shown, and one a kind.
    pub async fn list(&self, filter: &DeadFilter) -> Result<DeadPage, Refusal> {
        let limit = filter.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_LIMIT);
        let counts = self.counts(filter.kind.as_ref()).await?;
        let total = counts.iter().map(|(_, count)| *count as u64).sum();
        let subjects = counts.into_iter().map(|(subject, _)| subject).collect();
        let mut walk = Walk::begin(&self.store, subjects, filter.before.unwrap_or(u64::MAX)).await?;
        let mut items = Vec::new();
        while items.len() < limit
            && let Some(letter) = walk.next().await?
        {
            items.push(letter);
        }
        let next = if walk.is_over() { None } else { items.last().map(|letter: &DeadLetter| letter.id) };
        Ok(DeadPage { items, total, next })
    }

    async fn counts(&self, kind: Option<&Kind>) -> Result<Vec<(String, usize)>, Refusal> {
        let wanted = kind.map(|kind| self.subjects().dead(kind));
        let mut counts = self.store.dead_subjects().await.map_err(|e| unavailable(&e))?;
        counts.retain(|(subject, _)| wanted.as_ref().is_none_or(|wanted| wanted == subject));
        Ok(counts)
    }

    /// One dead letter with what was submitted.
    pub async fn get(&self, selection: &DeadSelection) -> Result<DeadLetterContent, Refusal> {
        match self.select(selection)? {
            Selection::One(which) => Ok(content(&self.find(which).await?)),
            Selection::Many(_) => Err(bad_request("one dead letter is shown at a time: give its `id` or its `task`")),
        }
    }

    /// Submits dead letters again, the oldest first, each as a new task, and removes them.
    pub async fn replay(&self, selection: &DeadSelection) -> Result<Replays, Refusal> {
        match self.select(selection)? {
            Selection::One(which) => {
                let replay = self.replay_one(&self.find(which).await?).await?;
                Ok(Replays { items: vec![replay], ..Replays::default() })
            }
            Selection::Many(filter) => self.replay_many(selection, &filter).await,
        }
    }

    /// Replays what there is now: what dies in the meantime, perhaps of the same cause, is left for another time.
    async fn replay_many(&self, selection: &DeadSelection, filter: &str) -> Result<Replays, Refusal> {
        let started = Instant::now();
        let until = match selection.until {
            Some(until) => until,
            None => self.store.last_dead().await.map_err(|e| unavailable(&e))?,
        };
        let mut left = selection.limit.unwrap_or(REPLAY_LIMIT).clamp(1, REPLAY_LIMIT);
        let mut after = selection.after.unwrap_or(0);
        let mut done = Replays::default();
        while left > 0 && started.elapsed() < REPLAY_TIME {
            let letters = self.read_some(filter, after, until, left.min(AT_ONCE)).await?;
            let Some(last) = letters.last() else { return Ok(done) };
            (after, left) = (last.sequence, left - letters.len());
            self.replay_some(letters, &mut done).await;
        }
        done.next = Some(DeadSelection { after: Some(after), until: Some(until), ..selection.clone() });
        Ok(done)
    }

    async fn read_some(&self, filter: &str, after: u64, until: u64, limit: usize) -> Result<Vec<Stored>, Refusal> {
        let mut letters: Vec<Stored> = Vec::new();
        while letters.len() < limit {
            let from = letters.last().map_or(after, |letter| letter.sequence).saturating_add(1);
            match self.store.dead_from(filter, from).await.map_err(|e| unavailable(&e))? {
                Some(letter) if letter.sequence <= until => letters.push(letter),
                _ => break,
            }
        }
        Ok(letters)
    }

    async fn replay_some(&self, letters: Vec<Stored>, done: &mut Replays) {
        let replay = |letter: Stored| async move {
            let replay = self.replay_one(&letter).await;
            (letter, replay)
        };
        let mut replays = stream::iter(letters).map(replay).buffered(AT_ONCE);
        while let Some((letter, replay)) = replays.next().await {
            match replay {
                Ok(replay) => done.items.push(replay),
                Err(Refusal { error, .. }) => {
                    done.refused.push(ReplayRefusal { id: letter.sequence, task: task_of(&letter), error });
                }
            }
        }
    }

    /// Submits, and only when the broker has it removes. What is interrupted between the two is repeated under the
    /// same id, and is then found to be submitted.
    async fn replay_one(&self, letter: &Stored) -> Result<Replay, Refusal> {
        let task = new_task(self.subjects(), letter, SystemTime::now()).map_err(|problem| problem.refusal(letter))?;
        let repeated = self.is_settled(&task, letter).await? || self.submit(&task, letter).await?;
        self.remove(letter, &task.id).await?;
        Ok(Replay { id: letter.sequence, task: task_of(letter), new_task: task.id, repeated })
    }

    /// Whether an earlier replay of the letter has a result already.
    async fn is_settled(&self, task: &NewTask, letter: &Stored) -> Result<bool, Refusal> {
        match self.store.result(&task.id).await.map_err(|e| unavailable(&e))? {
            None => Ok(false),
            Some(result) if result.stored >= letter.stored => Ok(true),
            // Whatever left it, it was not this letter: streams that were made anew count from 1 again.
            Some(_) => Err(Problem::Taken(task.id.clone()).refusal(letter)),
        }
    }

    /// Submits the task; answers whether an earlier replay had done so.
    async fn submit(&self, task: &NewTask, letter: &Stored) -> Result<bool, Refusal> {
        match self.client.submit(task).await {
            Ok(_) => Ok(false),
            Err(SubmitError::Duplicate(_)) => {
                let subject = self.subjects().task(&task.kind, task.priority, &task.id);
                let queued = self.store.queued_by_subject(&subject).await.map_err(|e| unavailable(&e))?;
                let is_ours = queued.is_none_or(|queued| get(&queued.headers, REPLAY_OF) == Some(&task_of(letter)));
                if is_ours { Ok(true) } else { Err(Problem::Taken(task.id.clone()).refusal(letter)) }
            }
            Err(error) => Err(Refusal { error: crate::chain(&error), code: 503 }),
        }
    }

    async fn remove(&self, letter: &Stored, new_task: &TaskId) -> Result<(), Refusal> {
        self.store.remove_dead(letter.sequence).await.map(drop).map_err(|error| Refusal {
            error: format!(
                "dead letter {} is replayed as task `{new_task}`, but could not be removed: replay it again, which \
                 submits nothing twice ({})",
                letter.sequence,
                crate::chain(&error)
            ),
            code: 503,
        })
    }

    /// Removes dead letters without doing anything about their tasks.
    pub async fn discard(&self, selection: &DeadSelection) -> Result<Discarded, Refusal> {
        let discarded = match self.select(selection)? {
            Selection::One(which) => {
                let letter = self.find(which).await?;
                u64::from(self.store.remove_dead(letter.sequence).await.map_err(|e| unavailable(&e))?)
            }
            Selection::Many(filter) => {
                let last = self.store.last_dead().await.map_err(|e| unavailable(&e))?;
                let until = selection.until.map_or(last, |until| until.min(last));
                self.store.purge_dead(&filter, until).await.map_err(|e| unavailable(&e))?
            }
        };
        Ok(Discarded { discarded })
    }

    fn select(&self, selection: &DeadSelection) -> Result<Selection, Refusal> {
        match selection {
            DeadSelection { id: Some(id), task: None, kind: None, all: false, .. } => {
                Ok(Selection::One(Which::Id(*id)))
            }
            DeadSelection { id: None, task: Some(task), kind: None, all: false, .. } => {
                Ok(Selection::One(Which::Task(task.clone())))
            }
            DeadSelection { id: None, task: None, kind: Some(kind), all: false, .. } => {
                Ok(Selection::Many(self.subjects().dead(kind)))
            }
            DeadSelection { id: None, task: None, kind: None, all: true, .. } => {
                Ok(Selection::Many(self.subjects().all_dead()))
            }
            _ => Err(bad_request(
                "which dead letters? Give exactly one of `id` (a number), `task`, `kind` and `\"all\": true`",
            )),
        }
    }

    async fn find(&self, which: Which) -> Result<Stored, Refusal> {
        match which {
            Which::Id(id) => {
                let letter = self.store.dead_letter(id).await.map_err(|e| unavailable(&e))?;
                letter.ok_or_else(|| not_found(format!("there is no dead letter {id}, or not any more: see dead.list")))
            }
            Which::Task(task) => self.find_by_task(&task).await,
        }
    }

    /// A task's id stands in no subject of a dead letter. But its result tells the kind and the time after which it
    /// was buried; without a result, the newest are looked through.
    async fn find_by_task(&self, task: &TaskId) -> Result<Stored, Refusal> {
        if let Some(letter) = self.find_by_result(task).await? {
            return Ok(letter);
        }
        let counts = self.counts(None).await?;
        let subjects = counts.into_iter().map(|(subject, _)| subject).collect();
        let mut walk = Walk::begin(&self.store, subjects, u64::MAX).await?;
        let started = Instant::now();
        for _ in 0..SEARCH_LIMIT {
            match walk.next().await? {
                Some(letter) if letter.task == task.as_str() => return Box::pin(self.find(Which::Id(letter.id))).await,
                Some(_) if started.elapsed() < REPLAY_TIME => {}
                Some(_) => break,
                None => return Err(not_found(format!("there is no dead letter of task `{task}`"))),
            }
        }
        let problem = "has no result and is not among the newest dead letters: name its dead letter by its number";
        Err(not_found(format!("task `{task}` {problem} (see dead.list)")))
    }

    async fn find_by_result(&self, task: &TaskId) -> Result<Option<Stored>, Refusal> {
        let Some(result) = self.store.result(task).await.map_err(|e| unavailable(&e))? else { return Ok(None) };
        let Some(Ok(kind)) = get(&result.headers, header::KIND).map(Kind::new) else { return Ok(None) };
        let subject = self.subjects().dead(&kind);
        let mut letter = self.store.dead_since(&subject, result.stored).await.map_err(|e| unavailable(&e))?;
        for _ in 0..SEARCH_LIMIT / 4 {
            match letter {
                Some(found) if task_of(&found) == task.as_str() => return Ok(Some(found)),
                Some(other) => {
                    letter = self.store.dead_from(&subject, other.sequence + 1).await.map_err(|e| unavailable(&e))?;
                }
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    fn subjects(&self) -> &Subjects {
        self.client.subjects()
    }
}

/// Goes from the newest dead letter to older ones, across kinds. It holds the newest of each kind that it has not
/// passed yet, without its body.
struct Walk<'a> {
    store: &'a Store,
    heads: BinaryHeap<Head>,
}

struct Head {
    letter: DeadLetter,
    subject: String,
}

impl<'a> Walk<'a> {
    async fn begin(store: &'a Store, subjects: Vec<String>, before: u64) -> Result<Self, Refusal> {
        // Beyond the last one that there has been the broker finds nothing, rather than the last.
        let before = before.min(store.last_dead().await.map_err(|e| unavailable(&e))? + 1);
        let heads = stream::iter(subjects).map(|subject| head(store, subject, before)).buffer_unordered(AT_ONCE);
        let heads: Vec<Option<Head>> = heads.try_collect().await?;
        Ok(Self { store, heads: heads.into_iter().flatten().collect() })
    }

    async fn next(&mut self) -> Result<Option<DeadLetter>, Refusal> {
        let Some(Head { letter, subject }) = self.heads.pop() else { return Ok(None) };
        self.heads.extend(head(self.store, subject, letter.id).await?);
        Ok(Some(letter))
    }

    fn is_over(&self) -> bool {
        self.heads.is_empty()
    }
}

async fn head(store: &Store, subject: String, before: u64) -> Result<Option<Head>, Refusal> {
    let stored = store.dead_up_to(&subject, before.saturating_sub(1)).await.map_err(|e| unavailable(&e))?;
    Ok(stored.map(|stored| Head { letter: summary(&stored, SystemTime::now()), subject }))
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.letter.id.cmp(&other.letter.id)
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.letter.id == other.letter.id
    }
}

impl Eq for Head {}

/// Why a dead letter cannot be replayed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Problem {
    #[error("it does not say where it was submitted: submit its body anew, then discard it")]
    NoSubject,
    #[error("`{0}` is not the subject of a task: submit its body anew, then discard it")]
    BadSubject(String),
    #[error("it would die again: {0}; submit its body anew without that header, then discard it")]
    BadHeader(String),
    #[error("its deadline has passed ({0}), so it would not be started: submit its body anew, or discard it")]
    Late(String),
    #[error("there is another task `{0}`: submit its body anew under an id of your own, then discard it")]
    Taken(TaskId),
}

impl Problem {
    fn refusal(&self, letter: &Stored) -> Refusal {
        Refusal { error: format!("dead letter {} cannot be replayed: {self}", letter.sequence), code: 409 }
    }
}

/// The task that a dead letter is replayed as.
fn new_task(subjects: &Subjects, letter: &Stored, now: SystemTime) -> Result<NewTask, Problem> {
    let subject = get(&letter.headers, SUBJECT).ok_or(Problem::NoSubject)?;
    let TaskSubject { kind, priority, .. } =
        TaskSubject::parse(subjects, subject).map_err(|_| Problem::BadSubject(subject.escape_debug().to_string()))?;
    let headers = submitted_headers(&letter.headers);
    let options = TaskOptions::parse(|name| get(&headers, name)).map_err(|e| Problem::BadHeader(e.to_string()))?;
    if let Some(Deadline::At(moment)) = options.deadline
        && moment <= now
    {
        return Err(Problem::Late(humantime::format_rfc3339_seconds(moment).to_string()));
    }
    let mut task = NewTask { kind, priority, id: new_id(letter), headers, body: letter.body.clone() };
    let old = header::clean(&task_of(letter), TaskId::MAX_LEN);
    task.headers.insert(REPLAY_OF, old.as_str());
    Ok(task)
}

/// What the submitter said: not what the mesh wrote, and not what was meant for the broker.
fn submitted_headers(headers: &HeaderMap) -> HeaderMap {
    let mut submitted = HeaderMap::new();
    for (name, values) in headers.iter() {
        let text: &str = name.as_ref();
        let is_mesh = WRITTEN_BY_MESH.iter().any(|own| own.eq_ignore_ascii_case(text));
        if !is_mesh && !is_brokers(text) {
            values.iter().for_each(|value| submitted.append(name.clone(), value.clone()));
        }
    }
    submitted
}

fn is_brokers(name: &str) -> bool {
    name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("Nats-"))
}

/// `<old id>-r<n>`, where n is the sequence the task had in the task stream: so two dead letters of one burial, which
/// a crash can leave, have one new id. A replay of a replay changes its n and does not grow.
fn new_id(letter: &Stored) -> TaskId {
    let old = task_of(letter);
    let burial = get(&letter.headers, header::MSG_ID).and_then(|id| id.strip_prefix("dead.")?.split('.').next());
    let suffix = match burial.filter(|n| n.parse::<u64>().is_ok()) {
        Some(task_sequence) => format!("-r{task_sequence}"),
        None => format!("-d{}", letter.sequence),
    };
    let is_replay = get(&letter.headers, REPLAY_OF).is_some();
    let root = if is_replay { without_suffix(&old) } else { &old };
    let root: String = root.chars().take(TaskId::MAX_LEN - suffix.len()).collect();
    TaskId::new(format!("{root}{suffix}")).unwrap_or_else(|_| TaskId::generate())
}

fn without_suffix(id: &str) -> &str {
    let is_suffix = |text: &str| {
        let number = text.strip_prefix(['r', 'd']).unwrap_or_default();
        !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
    };
    id.rsplit_once('-').filter(|(_, text)| is_suffix(text)).map_or(id, |(root, _)| root)
}

fn get<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(HeaderValue::as_str)
}

fn task_of(letter: &Stored) -> String {
    get(&letter.headers, header::TASK).unwrap_or_default().to_owned()
}

/// What is known of a dead letter.
fn summary(letter: &Stored, now: SystemTime) -> DeadLetter {
    let text = |name| get(&letter.headers, name).map(str::to_owned);
    let buried = UNIX_EPOCH + letter.stored;
    let kind = text(header::KIND).unwrap_or_else(|| letter.subject.rsplit('.').next().unwrap_or_default().to_owned());
    DeadLetter {
        id: letter.sequence,
        task: task_of(letter),
        kind,
        outcome: get(&letter.headers, header::OUTCOME).and_then(|outcome| outcome.parse().ok()),
        attempts: get(&letter.headers, header::ATTEMPTS).and_then(|n| n.parse().ok()).unwrap_or(0),
        agent: text(header::AGENT),
        error: text(header::ERROR),
        subject: text(SUBJECT),
        replay_of: text(REPLAY_OF),
        time: humantime::format_rfc3339_millis(buried).to_string(),
        age_ms: now.duration_since(buried).unwrap_or_default().as_millis() as u64,
        body_bytes: letter.body.len() as u64,
    }
}

/// A dead letter with its headers and its body, as far as they are shown.
fn content(letter: &Stored) -> DeadLetterContent {
    let (headers, headers_cut) = shown_headers(&letter.headers);
    let cut = letter.body.len() > SHOWN_BYTES;
    let shown = &letter.body[..letter.body.len().min(SHOWN_BYTES)];
    // A text that is cut within a character is still a text.
    let text = match std::str::from_utf8(shown) {
        Ok(text) => Some(text),
        Err(e) if cut && e.error_len().is_none() => std::str::from_utf8(&shown[..e.valid_up_to()]).ok(),
        Err(_) => None,
    };
    DeadLetterContent {
        letter: summary(letter, SystemTime::now()),
        headers,
        body: text.map(str::to_owned),
        body_base64: text.is_none().then(|| data_encoding::BASE64.encode(shown)),
        truncated: cut || headers_cut,
    }
}

fn shown_headers(headers: &HeaderMap) -> (BTreeMap<String, Vec<String>>, bool) {
    let mut room = SHOWN_BYTES;
    let mut shown: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, values) in headers.iter().filter(|(name, _)| !is_brokers(name.as_ref())) {
        for value in values {
            let name: &str = name.as_ref();
            let Some(left) = room.checked_sub(name.len() + value.as_str().len()) else { return (shown, true) };
            room = left;
            shown.entry(name.to_owned()).or_default().push(value.as_str().to_owned());
        }
    }
    (shown, false)
}

fn not_found(error: String) -> Refusal {
    Refusal { error, code: 404 }
}

fn bad_request(error: &str) -> Refusal {
    Refusal { error: error.to_owned(), code: 400 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_has_what_was_submitted_and_nothing_else() {
        let letter = letter(&[
            ("Hive-Subject", "hive.task.resize.high.order-1"),
            ("Nats-Msg-Id", "dead.50.order-1"),
            ("Nats-Expected-Last-Subject-Sequence", "0"),
            ("Hive-Task", "order-1"),
            ("Hive-Kind", "resize"),
            ("Hive-Outcome", "failed"),
            ("Hive-Attempts", "3"),
            ("Hive-Error", "no"),
            ("Hive-Queued-Ms", "1"),
            ("Hive-Timeout", "30s"),
            ("Hive-Reply-To", "_INBOX.a"),
            ("traceparent", "00-1-2-01"),
            ("X-Mine", "a"),
            ("X-Mine", "b"),
        ]);

        let task = replay(&letter).unwrap();

        assert_eq!((task.kind.as_str(), task.priority), ("resize", shared::Priority::High));
        assert_eq!(task.body, "body");
        let mut headers: Vec<String> = task
            .headers
            .iter()
            .flat_map(|(name, values)| values.iter().map(move |value| format!("{name}: {value}")))
            .collect();
        headers.sort();
        assert_eq!(
            headers,
            [
                "Hive-Replay-Of: order-1",
                "Hive-Reply-To: _INBOX.a",
                "Hive-Timeout: 30s",
                "X-Mine: a",
                "X-Mine: b",
                "traceparent: 00-1-2-01"
            ]
        );
    }

    #[test]
    fn the_same_burial_always_has_the_same_new_id() {
        let burial = [("Hive-Task", "order-1"), ("Nats-Msg-Id", "dead.50.order-1")];
        let twin = Stored { sequence: 99, ..letter(&burial) };

        assert_eq!(new_id(&letter(&burial)).as_str(), "order-1-r50");
        assert_eq!(new_id(&twin), new_id(&letter(&burial)));
        assert_eq!(new_id(&letter(&[("Hive-Task", "order-1")])).as_str(), "order-1-d17");
    }

    #[test]
    fn the_id_of_a_replay_of_a_replay_does_not_grow() {
        let again =
            [("Hive-Task", "order-1-r50"), ("Hive-Replay-Of", "order-1"), ("Nats-Msg-Id", "dead.60.order-1-r50")];
        let named_like_one = [("Hive-Task", "order-r2"), ("Nats-Msg-Id", "dead.60.order-r2")];
        let long = "x".repeat(TaskId::MAX_LEN);

        assert_eq!(new_id(&letter(&again)).as_str(), "order-1-r60");
        assert_eq!(new_id(&letter(&named_like_one)).as_str(), "order-r2-r60");
        let id = new_id(&letter(&[("Hive-Task", &long), ("Nats-Msg-Id", "dead.60.x")]));
        assert!(id.as_str().len() == TaskId::MAX_LEN && id.as_str().ends_with("x-r60"), "{id}");
    }

    #[test]
    fn what_could_not_run_anyway_is_not_replayed() {
        let with = |name, value| replay(&letter(&[("Hive-Subject", "hive.task.resize"), (name, value)])).unwrap_err();

        assert!(matches!(with("Hive-Timeout", "soon"), Problem::BadHeader(_)));
        assert!(matches!(with("Hive-Deadline", "2020-01-01T00:00:00Z"), Problem::Late(_)));
        assert_eq!(replay(&letter(&[])).unwrap_err(), Problem::NoSubject);
        assert!(matches!(
            replay(&letter(&[("Hive-Subject", "hive.task.a.soon")])).unwrap_err(),
            Problem::BadSubject(_)
        ));
        assert!(replay(&letter(&[("Hive-Subject", "hive.task.resize"), ("Hive-Deadline", "10m")])).is_ok());
    }

    #[test]
    fn a_body_is_shown_as_text_or_else_in_base64_and_never_beyond_its_limit() {
        let shown = |body: Vec<u8>| content(&Stored { body: body.into(), ..letter(&[]) });

        assert_eq!(shown(b"hi".to_vec()).body.as_deref(), Some("hi"));
        assert_eq!(shown(vec![0xff]).body_base64.as_deref(), Some("/w=="));
        let cut = shown(["x", &"ä".repeat(SHOWN_BYTES)].concat().into());
        assert!(cut.truncated && cut.body.is_some_and(|text| text.len() == SHOWN_BYTES - 1));
        assert_eq!(cut.letter.body_bytes, 2 * SHOWN_BYTES as u64 + 1);
    }

    #[test]
    fn an_answer_fits_into_a_message_whatever_the_letter_holds() {
        let value = "\u{1}".repeat(SHOWN_BYTES).replace('\u{1}', "\"");
        let mut letter = letter(&[("X-A", &value[..SHOWN_BYTES / 2]), ("X-B", &value)]);
        letter.body = vec![1; 900_000].into();

        let answer = serde_json::to_vec(&content(&letter)).unwrap();

        assert!(answer.len() < 1 << 20, "{} bytes", answer.len());
    }

    fn replay(letter: &Stored) -> Result<NewTask, Problem> {
        new_task(&Subjects::default(), letter, SystemTime::now())
    }

    fn letter(headers: &[(&str, &str)]) -> Stored {
        let mut map = HeaderMap::new();
        headers.iter().for_each(|(name, value)| map.append(*name, *value));
        Stored {
            sequence: 17,
            subject: "hive.dead.resize".to_owned(),
            headers: map,
            body: "body".into(),
            stored: Duration::from_secs(1_700_000_000),
        }
    }
}
