//! Each role against each subject: as it stands in one table, tried on a real server.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::{ConnectErrorKind, ConnectOptions, Event};
use futures_util::future::join_all;
use mesh_tests::mesh::PATIENCE;
use shared::connect::Violation;
use shared::role::{Operation, inbox_prefix};
use shared::subject::Subjects;
use tokio::sync::mpsc;

use crate::guard::Guard;

/// Who tries it: a letter in the table, and the user; nobody is not let in.
const COLUMNS: [(char, Option<&str>); 7] = [
    ('N', None),
    ('S', Some("submitter")),
    ('R', Some("reader")),
    ('A', Some("agent-ada")),
    ('B', Some("agent-bob")),
    ('C', Some("coordinator")),
    ('O', Some("operator")),
];

/// Nobody may publish there, so the server's refusal says that it has seen all that came before.
const END: &str = "matrix.end";

const PUBLISH: Operation = Operation::Publish;
const SUBSCRIBE: Operation = Operation::Subscribe;

/// What is tried, and who may: N(obody), S(ubmitter), R(eader), A(gent ada), B (agent bob), C(oordinator), O(perator).
#[rustfmt::skip]
const MATRIX: &[(Operation, &str, &str)] = &[
    // Tasks and results.
    (PUBLISH,   "hive.task.echo",                                        " S       C O"),
    (PUBLISH,   "hive.task.echo.urgent",                                 " S       C O"),
    (PUBLISH,   "hive.task.echo.urgent.t1",                              " S       C O"),
    (PUBLISH,   "hive.call.echo",                                        " S         O"),
    (PUBLISH,   "hive.result.t1",                                        "         C  "),
    (PUBLISH,   "hive.dead.echo",                                        "         C  "),
    (PUBLISH,   "hive.history.1.1",                                      "         C  "),
    (PUBLISH,   "hive.event.task.started",                               "         C  "),
    (PUBLISH,   "hive.event.mesh.examined",                              "         C O"),
    (SUBSCRIBE, "hive.result.t1",                                        " S R     C O"),
    (SUBSCRIBE, "hive.result.*",                                         " S R     C O"),
    (SUBSCRIBE, "hive.event.*.*",                                        "   R       O"),
    (SUBSCRIBE, "hive.task.>",                                           "            "),
    (SUBSCRIBE, "hive.task.echo",                                        "            "),
    (SUBSCRIBE, "hive.dead.*",                                           "            "),
    (SUBSCRIBE, "hive.call.*",                                           "         C  "),
    // Agents: each under its own id.
    (PUBLISH,   "hive.agent.ada.hello",                                  "     A      "),
    (PUBLISH,   "hive.agent.ada.beat",                                   "     A      "),
    (PUBLISH,   "hive.agent.ada.report",                                 "     A      "),
    (PUBLISH,   "hive.agent.ada.done",                                   "     A      "),
    (PUBLISH,   "hive.agent.ada.bye",                                    "     A      "),
    (PUBLISH,   "hive.agent.ada.progress",                               "     A      "),
    (PUBLISH,   "hive.agent.bob.hello",                                  "       B    "),
    (PUBLISH,   "hive.agent.bob.beat",                                   "       B    "),
    (PUBLISH,   "hive.agent.bob.done",                                   "       B    "),
    (PUBLISH,   "hive.agent.eve.hello",                                  "            "),
    (PUBLISH,   "hive.inbox.ada.run",                                    "         C  "),
    (PUBLISH,   "hive.inbox.ada.cancel",                                 "         C  "),
    (PUBLISH,   "hive.inbox.ada.follow",                                 "         C  "),
    (PUBLISH,   "hive.inbox.ada.settled",                                "         C  "),
    (PUBLISH,   "hive.inbox.bob.drain",                                  "         C  "),
    (PUBLISH,   "_INBOX.UCOORDINATOR.abc.probe.ada",                     "     A   C  "),
    (PUBLISH,   "_INBOX.UCOORDINATOR.abc.probe.bob",                     "       B C  "),
    (PUBLISH,   "_INBOX.UCOORDINATOR.abc.rec.7",                         "         C  "),
    (SUBSCRIBE, "hive.inbox.ada.*",                                      "     A      "),
    (SUBSCRIBE, "hive.inbox.ada.run",                                    "     A      "),
    (SUBSCRIBE, "hive.inbox.bob.*",                                      "       B    "),
    (SUBSCRIBE, "hive.inbox.*.*",                                        "            "),
    (SUBSCRIBE, "hive.agent.*.*",                                        "         C  "),
    (SUBSCRIBE, "hive.agent.ada.beat",                                   "         C  "),
    (SUBSCRIBE, "hive.agent.ada.progress",                               "         C  "),
    // Coordinators among themselves.
    (PUBLISH,   "hive.coordinator.c-1.ping",                             "         C  "),
    (PUBLISH,   "hive.coordinator.resigned",                             "         C  "),
    (PUBLISH,   "$KV.HIVE_LEASE.leader",                                 "         C  "),
    (PUBLISH,   "$KV.HIVE_SETTINGS.kinds.echo",                          "         C  "),
    (PUBLISH,   "$KV.HIVE_HOOKS.out.pager",                              "         C  "),
    (SUBSCRIBE, "hive.coordinator.c-1.ping",                             "         C  "),
    (SUBSCRIBE, "$KV.HIVE_LEASE.>",                                      "            "),
    (SUBSCRIBE, "$SYS.ACCOUNT.*.DISCONNECT",                             "         C  "),
    // The control service.
    (PUBLISH,   "hive.api.mesh.status",                                  "   R     C O"),
    (PUBLISH,   "hive.api.agent.list",                                   "   R     C O"),
    (PUBLISH,   "hive.api.agent.get",                                    "   R     C O"),
    (PUBLISH,   "hive.api.agent.drain",                                  "         C O"),
    (PUBLISH,   "hive.api.agent.quarantine",                             "         C O"),
    (PUBLISH,   "hive.api.queue.list",                                   "   R     C O"),
    (PUBLISH,   "hive.api.queue.set",                                    "         C O"),
    (PUBLISH,   "hive.api.queue.purge",                                  "         C O"),
    (PUBLISH,   "hive.api.tenant.list",                                  "   R     C O"),
    (PUBLISH,   "hive.api.tenant.set",                                   "         C O"),
    (PUBLISH,   "hive.api.resource.list",                                "   R     C O"),
    (PUBLISH,   "hive.api.resource.apply",                               "         C O"),
    (PUBLISH,   "hive.api.task.list",                                    "   R     C O"),
    (PUBLISH,   "hive.api.task.get",                                     " S R     C O"),
    (PUBLISH,   "hive.api.task.why",                                     " S R     C O"),
    (PUBLISH,   "hive.api.task.result",                                  " S R     C O"),
    (PUBLISH,   "hive.api.task.logs",                                    " S R     C O"),
    (PUBLISH,   "hive.api.task.submit",                                  " S       C O"),
    (PUBLISH,   "hive.api.task.cancel",                                  " S       C O"),
    (PUBLISH,   "hive.api.dead.list",                                    "   R     C O"),
    (PUBLISH,   "hive.api.dead.get",                                     "   R     C O"),
    (PUBLISH,   "hive.api.dead.replay",                                  "         C O"),
    (PUBLISH,   "hive.api.dead.discard",                                 "         C O"),
    (PUBLISH,   "hive.api.event.list",                                   "   R     C O"),
    (PUBLISH,   "hive.api.hook.list",                                    "         C O"),
    (PUBLISH,   "hive.api.hook.set",                                     "         C O"),
    (PUBLISH,   "hive.api.intake.set",                                   "         C O"),
    (PUBLISH,   "$SRV.PING",                                             "           O"),
    (SUBSCRIBE, "hive.api.queue.set",                                    "         C  "),
    (SUBSCRIBE, "$SRV.PING",                                             "         C  "),
    // JetStream.
    (PUBLISH,   "$JS.ACK.HIVE_TASKS.e1-shared-normal-1.1.1.1.1.0",       "         C  "),
    (PUBLISH,   "$JS.ACK.hub.hash.HIVE_TASKS.e1-own-echo-low.1.1.1.1.0", "         C  "),
    (PUBLISH,   "$JS.ACK.HIVE_EVENTS.hook-pager-1.1.1.1.1.0",            "         C  "),
    (PUBLISH,   "$JS.ACK.OTHER.consumer.1.1.1.1.0",                      "            "),
    (PUBLISH,   "$JS.API.INFO",                                          "         C O"),
    (PUBLISH,   "$JS.API.STREAM.INFO.HIVE_TASKS",                        "         C O"),
    (PUBLISH,   "$JS.API.STREAM.NAMES",                                  "            "),
    (PUBLISH,   "$JS.API.STREAM.CREATE.HIVE_TASKS",                      "         C  "),
    (PUBLISH,   "$JS.API.STREAM.CREATE.OTHER",                           "            "),
    (PUBLISH,   "$JS.API.STREAM.UPDATE.HIVE_RESULTS",                    "         C  "),
    (PUBLISH,   "$JS.API.STREAM.DELETE.HIVE_TASKS",                      "            "),
    (PUBLISH,   "$JS.API.STREAM.PURGE.HIVE_TASKS",                       "            "),
    (PUBLISH,   "$JS.API.STREAM.PURGE.HIVE_RESULTS",                     "            "),
    (PUBLISH,   "$JS.API.STREAM.PURGE.HIVE_HISTORY",                     "         C  "),
    (PUBLISH,   "$JS.API.STREAM.PURGE.HIVE_DEAD",                        "         C  "),
    (PUBLISH,   "$JS.API.STREAM.MSG.DELETE.HIVE_TASKS",                  "         C  "),
    (PUBLISH,   "$JS.API.STREAM.MSG.DELETE.HIVE_RESULTS",                "            "),
    (PUBLISH,   "$JS.API.STREAM.MSG.GET.HIVE_TASKS",                     "            "),
    (PUBLISH,   "$JS.API.CONSUMER.CREATE.HIVE_TASKS.thief",              "         C  "),
    (PUBLISH,   "$JS.API.CONSUMER.MSG.NEXT.HIVE_TASKS.lane",             "         C  "),
    (PUBLISH,   "$JS.API.CONSUMER.DELETE.HIVE_TASKS.lane",               "         C  "),
    (PUBLISH,   "$JS.API.CONSUMER.NAMES.HIVE_TASKS",                     "         C O"),
    (PUBLISH,   "$JS.API.CONSUMER.CREATE.HIVE_EVENTS.mine",              "         C O"),
    (PUBLISH,   "$JS.API.CONSUMER.NAMES.HIVE_EVENTS",                    "         C  "),
    (PUBLISH,   "$JS.API.DIRECT.GET.KV_HIVE_HOOKS.$KV.HIVE_HOOKS.out.a", "         C  "),
    (PUBLISH,   "$JS.API.CONSUMER.CREATE.HIVE_RESULTS.mine",             "           O"),
    (PUBLISH,   "$JS.API.DIRECT.GET.HIVE_RESULTS.hive.result.t1",        " S R     C O"),
    (PUBLISH,   "$JS.API.DIRECT.GET.HIVE_RESULTS",                       "         C O"),
    (PUBLISH,   "$JS.API.DIRECT.GET.HIVE_TASKS.hive.task.echo",          "         C  "),
    (PUBLISH,   "$JS.API.DIRECT.GET.HIVE_DEAD",                          "         C  "),
    (SUBSCRIBE, "$JS.>",                                                 "            "),
    // What is nobody's, and what belongs to others.
    (PUBLISH,   "other.task.echo",                                       "            "),
    (PUBLISH,   "$KV.OTHER.key",                                         "            "),
    (PUBLISH,   "$SYS.REQ.SERVER.PING",                                  "            "),
    (PUBLISH,   "_INBOX.UOTHER.abc",                                     "         C  "),
    (SUBSCRIBE, "_INBOX.UOTHER.>",                                       "            "),
    (SUBSCRIBE, "_INBOX.>",                                              "            "),
    (SUBSCRIBE, "hive.>",                                                "            "),
    (SUBSCRIBE, "$SYS.>",                                                "            "),
    (SUBSCRIBE, ">",                                                     "            "),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_role_may_do_what_stands_in_the_table_and_nothing_else() {
    let guard = Guard::new(&[]).await;
    let broker = guard.broker().await;

    let tried = join_all(COLUMNS.map(|(letter, title)| try_column(&guard, broker.url(), letter, title))).await;

    let tried: Vec<Cell> = tried.into_iter().flatten().collect();
    let wrong: Vec<&Cell> = tried.iter().filter(|cell| cell.wanted != cell.allowed).collect();
    assert!(wrong.is_empty(), "{} of {} cells: {wrong:#?}", wrong.len(), tried.len());
    assert_eq!(tried.len(), MATRIX.len() * COLUMNS.len());
    assert!(tried.len() >= 200, "{} cells", tried.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_user_hears_its_own_answers() {
    let guard = Guard::new(&[]).await;
    let broker = guard.broker().await;

    for title in ["submitter", "reader", "coordinator", "operator"] {
        let mut user = connect(&guard, &broker.url(), title).await;
        let inbox = user.nats.new_inbox();
        let _answers = user.nats.subscribe(inbox.clone()).await.unwrap();
        assert!(!user.refusals().await.contains(&("subscribe".to_owned(), inbox)), "{title}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_server_does_not_know_is_not_let_in() {
    let (guard, other) = (Guard::new(&[]).await, Guard::new(&[]).await);
    let broker = guard.broker().await;

    let stranger = ConnectOptions::with_nkey(other.seed("coordinator")).connect(broker.url()).await;

    assert_eq!(stranger.unwrap_err().kind(), ConnectErrorKind::AuthorizationViolation);
}

/// One try.
#[derive(Debug)]
#[expect(dead_code, reason = "they are told when a cell is wrong")]
struct Cell {
    who: char,
    operation: &'static str,
    subject: &'static str,
    wanted: bool,
    allowed: bool,
}

async fn try_column(guard: &Guard, url: String, letter: char, title: Option<&str>) -> Vec<Cell> {
    let refused: Option<BTreeSet<(String, String)>> = match title {
        Some(title) => Some(try_all(&mut connect(guard, &url, title).await).await),
        None => {
            let nobody = ConnectOptions::new().connect(url.as_str()).await;
            assert_eq!(nobody.unwrap_err().kind(), ConnectErrorKind::AuthorizationViolation);
            None
        }
    };
    let cell = |(operation, subject, who): &(Operation, &'static str, &'static str)| {
        let (operation, subject) = (name(*operation), *subject);
        let tried = (operation.to_owned(), subject.to_owned());
        let allowed = refused.as_ref().is_some_and(|refused| !refused.contains(&tried));
        Cell { who: letter, operation, subject, wanted: who.contains(letter), allowed }
    };
    MATRIX.iter().map(cell).collect()
}

async fn try_all(user: &mut User) -> BTreeSet<(String, String)> {
    let (mut subscribers, mut refused) = (Vec::new(), BTreeSet::new());
    // The client keeps no more than 128 of the server's errors for whoever listens.
    for rows in MATRIX.chunks(32) {
        for (operation, subject, _) in rows {
            match operation {
                Operation::Publish => user.nats.publish(*subject, "".into()).await.unwrap(),
                Operation::Subscribe => subscribers.push(user.nats.subscribe(*subject).await.unwrap()),
            }
        }
        refused.extend(user.refusals().await);
    }
    refused
}

/// A connection, and what the server refuses on it.
struct User {
    nats: async_nats::Client,
    refused: mpsc::UnboundedReceiver<Violation>,
}

impl User {
    /// All that was refused so far: the server answers in order.
    async fn refusals(&mut self) -> BTreeSet<(String, String)> {
        self.nats.publish(END, "".into()).await.unwrap();
        let mut refused = BTreeSet::new();
        let all = async {
            while let Some(violation) = self.refused.recv().await {
                if violation.subject == END {
                    break;
                }
                refused.insert((name(violation.operation).to_owned(), violation.subject));
            }
        };
        tokio::time::timeout(PATIENCE, all).await.expect("the server refuses the end of the matrix");
        refused
    }
}

fn name(operation: Operation) -> &'static str {
    match operation {
        Operation::Publish => "publish",
        Operation::Subscribe => "subscribe",
    }
}

async fn connect(guard: &Guard, url: &str, title: &str) -> User {
    let seed = guard.seed(title);
    let public_key = nkeys::KeyPair::from_seed(&seed).unwrap().public_key();
    let (tell, refused) = mpsc::unbounded_channel();
    let options = ConnectOptions::with_nkey(seed)
        .custom_inbox_prefix(inbox_prefix(&public_key))
        .connection_timeout(Duration::from_secs(10))
        .event_callback(move |event| {
            if let Event::ServerError(error) = event
                && let Some(violation) = Violation::parse(&error.to_string(), &Subjects::default())
            {
                let _ = tell.send(violation);
            }
            std::future::ready(())
        });
    User { nats: options.connect(url).await.unwrap(), refused }
}
