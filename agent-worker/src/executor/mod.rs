//! Runs attempts: hands each to its kind's handler, limits its time and its output, stops it when it is told
//! to, and tells how it ended. A handler that panics has failed; the agent goes on.

pub mod builtin;
pub mod command;
mod control_groups;
pub mod http;
pub mod in_process;
pub mod limits;
mod mark;
mod measure;
mod span;
pub mod strays;
mod watcher;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use bytes::Bytes;
use futures_util::FutureExt as _;
use rustc_hash::FxHashMap;
use shared::message::Needed;
use shared::task::AttemptOutcome;
use shared::{AgentId, Kind, Used, header};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use crate::logs::{Log, Logs};
use crate::session::{Ended, Key, Order};
use limits::Enforcement;
use span::Account;
use strays::Strays;

pub use in_process::Task;
pub use mark::{BadOwner, Owner};

/// How long a handler that is told to stop may take before it is ended by force.
pub const GRACE: Duration = Duration::from_secs(2);

// What runs at most once must have stopped when another may start.
const _: () = assert!(GRACE.as_millis() < crate::session::STOP_PATIENCE.as_millis());

/// What a handler gets from a `run`.
#[derive(Clone, Debug, Default)]
pub struct Work {
    /// Every header of the `run`.
    pub headers: HeaderMap,
    /// The task's body.
    pub body: Bytes,
}

/// What runs the attempts of one kind.
#[derive(Debug)]
pub struct Handler {
    /// Limit of a run whose order names none.
    pub timeout: Duration,
    /// What an attempt needs, where its order does not say what is reserved for it.
    pub needs: Needed,
    /// How it runs.
    pub run: Run,
}

/// The ways to run an attempt.
#[derive(Debug)]
pub enum Run {
    /// A program of this host.
    Command(command::Command),
    /// A service that takes a POST.
    Http(http::Http),
    /// Something the agent can do by itself.
    Builtin(builtin::Builtin),
    /// A closure of the program that uses this crate as a library.
    InProcess(in_process::Closure),
}

/// One attempt on its way through a handler.
#[derive(Debug)]
pub struct Assignment {
    /// The attempt.
    pub order: Arc<Order>,
    /// Who runs it.
    pub agent: AgentId,
    /// What the handler gets.
    pub work: Work,
    /// Limit of the run.
    pub timeout: Duration,
    /// Most bytes of output that fit into one message.
    pub output_limit: usize,
    /// Whether it shall stop.
    pub stop: Stop,
    /// What is reserved for it.
    pub reserved: Needed,
    /// What it has used, once that is known.
    pub used: Used,
    /// The processes of this and all other attempts.
    pub strays: Arc<Strays>,
    /// What keeps commands to what is reserved for them.
    pub enforcement: Arc<Enforcement>,
    /// What it writes, and how far it is.
    pub(crate) log: Arc<Log>,
}

/// Tells a handler that it shall stop.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Ends when the handler shall stop.
    pub async fn wanted(&mut self) {
        // Whoever could want it is gone with the sender: that is a stop, too.
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}

/// Why there is no output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The handler could not do the work.
    Failed(String),
    /// It ran too long.
    Timeout(String),
    /// It was told to stop.
    Cancelled,
}

impl Failure {
    fn timeout(limit: Duration) -> Self {
        Failure::Timeout(format!("ran longer than {} and was ended", humantime::format_duration(limit)))
    }
}

#[derive(Debug)]
struct Running {
    kind: Kind,
    stop: watch::Sender<bool>,
    abort: AbortHandle,
}

/// Runs attempts, each as a task of the async runtime. Dropping it ends all of them by force.
#[derive(Debug)]
pub struct Executor {
    agent: AgentId,
    handlers: FxHashMap<Kind, Arc<Handler>>,
    output_limit: usize,
    running: FxHashMap<Key, Running>,
    strays: Arc<Strays>,
    enforcement: Arc<Enforcement>,
    logs: Arc<Logs>,
    watch: AbortHandle,
    ended: mpsc::UnboundedSender<(Key, Ended)>,
}

impl Executor {
    /// An executor with these handlers. How attempts end comes through the channel, except for those that
    /// [`Executor::start`] answers at once.
    pub fn new(
        agent: AgentId,
        handlers: FxHashMap<Kind, Arc<Handler>>,
        output_limit: usize,
        strays: Arc<Strays>,
        enforcement: Arc<Enforcement>,
    ) -> (Self, mpsc::UnboundedReceiver<(Key, Ended)>) {
        let (ended, receiver) = mpsc::unbounded_channel();
        let watch = tokio::spawn(strays.clone().watch()).abort_handle();
        let (running, logs) = (FxHashMap::default(), Arc::default());
        (Self { agent, handlers, output_limit, running, strays, enforcement, logs, watch, ended }, receiver)
    }

    /// What its attempts write.
    pub(crate) fn logs(&self) -> &Arc<Logs> {
        &self.logs
    }

    /// Starts an attempt. One that takes no time has ended when this returns, and its end is the answer.
    pub fn start(&mut self, key: Key, order: Arc<Order>, mut work: Work) -> Option<Ended> {
        let Some(handler) = self.handlers.get(&order.kind) else {
            let why = format!("no handler for kind `{}`", order.kind);
            return Some(Ended::without_output(AttemptOutcome::Rejected, why, Duration::ZERO));
        };
        let account = Account::open(&self.agent, &order, &mut work.headers);
        if let Run::Builtin(builtin) = &handler.run
            && let Some(result) = builtin.run_at_once(&work)
        {
            let ended = to_ended(result, self.output_limit, Duration::ZERO);
            account.close(&ended);
            return Some(ended);
        }
        let is_streamed = work.headers.get(header::name::LOG).is_some_and(|value| value.as_str() == "stream");
        let (logs, log) = (self.logs.clone(), self.logs.begin(&order, is_streamed));
        let (stop, stopped) = watch::channel(false);
        let mut assignment = Assignment {
            agent: self.agent.clone(),
            timeout: order.timeout.unwrap_or(handler.timeout),
            reserved: order.reserved.or(&handler.needs),
            used: Used::default(),
            order,
            work,
            output_limit: self.output_limit,
            stop: Stop(stopped),
            strays: self.strays.clone(),
            enforcement: self.enforcement.clone(),
            log,
        };
        let (handler, ended, kind) = (handler.clone(), self.ended.clone(), assignment.order.kind.clone());
        let task = tokio::spawn(async move {
            let started = Instant::now();
            let result = AssertUnwindSafe(handler.run(&mut assignment)).catch_unwind().await;
            let result = result.unwrap_or_else(|panic| Err(Failure::Failed(panic_text(&*panic))));
            let end = to_ended(result, assignment.output_limit, started.elapsed());
            let end = Ended { used: assignment.used, ..end };
            account.close(&end);
            logs.end(&assignment.log);
            // Nobody listens any more only when the agent leaves by force.
            let _ = ended.send((key, end));
        });
        self.running.insert(key, Running { kind, stop, abort: task.abort_handle() });
        None
    }

    /// Tells an attempt to stop; its end comes through the channel.
    pub fn stop(&mut self, key: Key) {
        if let Some(running) = self.running.get(&key) {
            running.stop.send_replace(true);
        }
    }

    /// Forgets an attempt whose end has come through the channel; its kind, if it was known.
    pub fn forget(&mut self, key: Key) -> Option<Kind> {
        self.running.remove(&key).map(|running| running.kind)
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.running.values().for_each(|running| running.abort.abort());
        self.watch.abort();
        self.strays.end_all_behind();
    }
}

impl Handler {
    async fn run(&self, assignment: &mut Assignment) -> Result<Bytes, Failure> {
        match &self.run {
            Run::Command(command) => command.run(assignment).await,
            Run::Http(http) => http.run(assignment).await,
            Run::Builtin(builtin) => builtin.run(assignment).await,
            Run::InProcess(closure) => closure.run(assignment).await,
        }
    }
}

/// Lets work go on until it ends, or its time is over, or it shall stop.
async fn within<T>(
    limit: Duration,
    stop: &mut Stop,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        result = work => result,
        () = tokio::time::sleep(limit) => Err(Failure::timeout(limit)),
        () = stop.wanted() => Err(Failure::Cancelled),
    }
}

fn to_ended(result: Result<Bytes, Failure>, output_limit: usize, run: Duration) -> Ended {
    let failed =
        |outcome, error: &str| Ended::without_output(outcome, header::clean(error, header::MAX_ERROR_BYTES), run);
    match result {
        Ok(output) if output.len() > output_limit => {
            failed(AttemptOutcome::Failed, &too_much_output(output.len(), output_limit))
        }
        Ok(output) => {
            let (error, used) = (String::new(), Used::default());
            Ended { outcome: AttemptOutcome::Succeeded, output, error, run, used }
        }
        Err(Failure::Failed(error)) => failed(AttemptOutcome::Failed, &error),
        Err(Failure::Timeout(error)) => failed(AttemptOutcome::Timeout, &error),
        Err(Failure::Cancelled) => failed(AttemptOutcome::Cancelled, "cancelled"),
    }
}

fn too_much_output(bytes: usize, limit: usize) -> String {
    format!(
        "output of {bytes} bytes is more than the {limit} that fit into one message: \
         store it elsewhere and return a reference, or raise the broker's max_payload"
    )
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("the handler panicked: {}", text.unwrap_or("without a message"))
}

/// The headers that a handler sees: the submitter's, without those the mesh uses up between its parts.
fn passed_through(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let named = headers.iter().map(|(name, values)| (AsRef::<str>::as_ref(name), values));
    named
        .filter(|(name, _)| !header::OWN.iter().any(|own| own.eq_ignore_ascii_case(name)))
        .flat_map(|(name, values)| values.iter().map(move |value| (name, value.as_str())))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::limits::Setting;
    use super::*;
    use shared::{Epoch, Incarnation};

    #[tokio::test]
    async fn a_handler_that_panics_has_failed() {
        let closure = in_process::Closure::new(|_: Task| async { Err::<Bytes, String>(panic_please()) });

        let ended = run(Run::InProcess(closure), "").await;

        assert_eq!(ended.outcome, AttemptOutcome::Failed);
        assert_eq!(ended.error, "the handler panicked: as it was asked to");
    }

    #[tokio::test]
    async fn a_closure_gets_the_task_and_gives_its_output() {
        let closure = in_process::Closure::new(|task: Task| async move {
            Ok::<_, String>(format!("{} {} {}", task.kind, task.attempt, String::from_utf8_lossy(&task.body)))
        });

        let ended = run(Run::InProcess(closure), "body").await;

        assert_eq!((ended.outcome, &*ended.output), (AttemptOutcome::Succeeded, &b"k 1 body"[..]));
    }

    #[tokio::test]
    async fn a_closure_is_told_when_its_time_is_over() {
        let (told, was_told) = tokio::sync::oneshot::channel();
        let told = std::sync::Mutex::new(Some(told));
        let closure = in_process::Closure::new(move |task: Task| {
            let told = told.lock().unwrap().take();
            async move {
                task.cancelled().await;
                told.unwrap().send(()).unwrap();
                Ok::<_, String>("too late")
            }
        });

        let mut attempt = Attempt::of(Run::InProcess(closure), "");
        attempt.timeout = Duration::from_millis(20);
        let ended = attempt.start().end().await;

        assert_eq!((ended.outcome, ended.output.len()), (AttemptOutcome::Timeout, 0));
        was_told.await.unwrap();
    }

    #[tokio::test]
    async fn output_that_fits_no_message_is_a_failure() {
        let closure = in_process::Closure::new(|_: Task| async { Ok::<_, String>(vec![0; OUTPUT_LIMIT + 1]) });

        let ended = run(Run::InProcess(closure), "").await;

        assert_eq!((ended.outcome, ended.output.len()), (AttemptOutcome::Failed, 0));
        assert!(ended.error.starts_with(&format!("output of {} bytes", OUTPUT_LIMIT + 1)), "{}", ended.error);
    }

    pub(crate) const OUTPUT_LIMIT: usize = 2 << 20;

    fn panic_please() -> String {
        panic!("as it was asked to")
    }

    /// Runs one attempt with the defaults of these tests.
    pub(crate) async fn run(handler: Run, body: impl Into<Bytes>) -> Ended {
        Attempt::of(handler, body).start().end().await
    }

    /// An attempt in the making.
    pub(crate) struct Attempt {
        pub(crate) handler: Run,
        pub(crate) work: Work,
        pub(crate) timeout: Duration,
        pub(crate) reserved: Needed,
        pub(crate) strays: Arc<Strays>,
        pub(crate) enforcement: Arc<Enforcement>,
    }

    /// An attempt that runs.
    pub(crate) struct Started {
        executor: Executor,
        ended: mpsc::UnboundedReceiver<(Key, Ended)>,
        key: Key,
        order: Arc<Order>,
        at_once: Option<Ended>,
    }

    impl Attempt {
        pub(crate) fn of(handler: Run, body: impl Into<Bytes>) -> Self {
            let work = Work { headers: HeaderMap::new(), body: body.into() };
            Self {
                handler,
                work,
                timeout: Duration::from_secs(20),
                reserved: Needed::default(),
                strays: Strays::of_a_guest(),
                enforcement: Enforcement::of_a_guest(Setting::Enforce),
            }
        }

        pub(crate) fn start(self) -> Started {
            let order = Order {
                task: "t-1".parse().unwrap(),
                sequence: 1,
                kind: "k".parse().unwrap(),
                attempt: 1,
                epoch: Epoch(1),
                incarnation: Incarnation(1),
                timeout: Some(self.timeout),
                reserved: self.reserved,
            };
            let handler = Handler { timeout: Duration::from_secs(20), needs: Needed::default(), run: self.handler };
            let order = Arc::new(order);
            let handlers = [(order.kind.clone(), Arc::new(handler))].into_iter().collect();
            let (strays, enforcement) = (self.strays, self.enforcement);
            let (mut executor, ended) =
                Executor::new("ada".parse().unwrap(), handlers, OUTPUT_LIMIT, strays, enforcement);
            let key = Key::default();
            let at_once = executor.start(key, order.clone(), self.work);
            Started { executor, ended, key, order, at_once }
        }
    }

    impl Started {
        pub(crate) fn stop(&mut self) {
            self.executor.stop(self.key);
        }

        /// Starts the same once more, without a body, after its end.
        pub(crate) fn start_again(&mut self) {
            self.executor.forget(self.key);
            self.at_once = self.executor.start(self.key, self.order.clone(), Work::default());
        }

        pub(crate) fn ended_at_once(&self) -> bool {
            self.at_once.is_some()
        }

        pub(crate) async fn end(&mut self) -> Ended {
            match self.at_once.take() {
                Some(ended) => ended,
                None => self.ended.recv().await.unwrap().1,
            }
        }
    }
}
