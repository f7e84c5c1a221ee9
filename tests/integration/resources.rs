//! What agents offer, what a command may take of it, and what it has used.

use async_nats::{HeaderMap, Message, Subscriber};
use futures_util::StreamExt as _;
use mesh_tests::{BUILTINS, Mesh, agent, command_handler, new_task, task};
use shared::Outcome;
use shared::client::NewTask;
use shared::codec::Format;
use shared::message::Hello;

/// Takes 200 MiB and keeps them, which no command here may.
const HOG: &str = "@x = map { q(x) x (1048576 + @ARGV) } 1..200; sleep 600";

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_says_what_it_offers_and_what_its_handlers_need() {
    let mut mesh = Mesh::builder().start().await;
    let mut said = listen(&mesh, "hive.agent.ada.hello").await;
    let of_the_agent = "[agent]\ncpu = \"1500m\"\nmemory = \"3Gi\"\nresources = { gpus = 2, licences = 1 }\n";
    let of_a_handler = "memory = \"64Mi\"\nresources = { gpus = 1 }\n";

    mesh.add_agent("ada", 2, &format!("{of_the_agent}{BUILTINS}{}{of_a_handler}", command_handler("train", &["cat"])));

    let hello: Hello = Format::MessagePack.decode(&said.next().await.unwrap().payload).unwrap();
    assert_eq!((hello.capacity.cpu_millis, hello.capacity.memory_bytes), (1500, 3 << 30));
    assert_eq!(hello.resources.to_string(), "gpus=2, licences=1");
    let [(kind, needed)] = Vec::from_iter(&hello.needs)[..] else { panic!("{hello:?}") };
    assert_eq!((kind.as_str(), needed.resources.memory_bytes, needed.countable.get("gpus")), ("train", 64 << 20, 1));
    assert!(["cgroup", "watch"].contains(&hello.enforcement.as_str()), "{hello:?}");
    mesh.until(agent("ada").healthy()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_takes_more_memory_than_its_handler_says_is_ended_and_its_neighbours_go_on() {
    let notes = tempfile::tempdir().unwrap();
    let over = notes.path().join("over");
    let neighbour = format!("while ! test -e {}; do sleep 0.02; done; cat", over.display());
    let config = [
        command_handler("neighbour", &["sh", "-c", &neighbour]),
        format!("{}memory = \"64Mi\"\n", command_handler("hog", &["perl", "-e", HOG])),
    ];
    let mesh = Mesh::builder().agent("ada", 4, &config.concat()).start().await;
    let neighbours: Vec<NewTask> = ["a", "b", "c"].map(|body| new_task("neighbour", body)).into();
    mesh.submit_all(neighbours.clone()).await;
    for neighbour in &neighbours {
        mesh.until(task(&neighbour.id).running()).await;
    }

    let result = mesh.run_task(once(new_task("hog", ""))).await;
    std::fs::write(over, "").unwrap();

    let error = result.error.unwrap();
    assert_eq!((result.outcome, result.attempts), (Outcome::Failed, 1), "{error}");
    assert!(error.starts_with("out of memory: ") && error.contains("the limit is 64.0 MiB"), "{error}");
    for neighbour in neighbours {
        let result = mesh.wait(&neighbour.id).await;
        assert_eq!((result.outcome, result.attempts, result.body), (Outcome::Succeeded, 1, neighbour.body));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_task_says_that_it_needs_is_what_it_may_take_wherever_its_processes_go() {
    let script = format!("setsid -f perl -e '{HOG}'; exec sleep 600");
    let mesh = Mesh::builder().agent("ada", 4, &command_handler("hog", &["sh", "-c", &script])).start().await;

    let result = mesh.run_task(once(new_task("hog", "")).header("Hive-Memory", "100Mi").unwrap()).await;

    let error = result.error.unwrap();
    assert!(error.starts_with("out of memory: ") && error.contains("the limit is 100.0 MiB"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_with_more_processes_than_it_may_have_is_ended() {
    let script = "for i in 1 2 3 4 5 6 7 8; do sleep 600 & done; wait; wait";
    let config = format!("{}processes = 6\n", command_handler("many", &["sh", "-c", script]));
    let mesh = Mesh::builder().agent("ada", 4, &config).start().await;

    let result = mesh.run_task(once(new_task("many", ""))).await;

    assert!(result.error.as_ref().unwrap().starts_with("too many processes: "), "{result:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn done_says_what_a_command_has_used() {
    let script = "@x = map { q(x) x (1048576 + @ARGV) } 1..50; 1 while (times)[0] < 0.2";
    let config = format!("{BUILTINS}{}", command_handler("work", &["perl", "-e", script]));
    let mesh = Mesh::builder().agent("ada", 4, &config).start().await;
    let mut said = listen(&mesh, "hive.agent.ada.done").await;

    mesh.run("work", "").await;
    let work = said.next().await.unwrap().headers.unwrap();
    mesh.run("echo", "").await;
    let echo = of_kind("echo", &mut said).await;

    let used = |name: &str| work.get(name).unwrap().as_str().parse::<u64>().unwrap();
    assert!((200..5_000).contains(&used("Hive-Cpu-Ms")), "{work:?}");
    assert!((50 << 20..100 << 20).contains(&used("Hive-Memory-Peak")), "{work:?}");
    used("Hive-Io-Bytes");
    assert!(["Hive-Cpu-Ms", "Hive-Memory-Peak", "Hive-Io-Bytes"].iter().all(|name| echo.get(*name).is_none()));
}

async fn listen(mesh: &Mesh, subject: &'static str) -> Subscriber {
    let client = mesh.plain_client().await;
    let said = client.subscribe(subject).await.unwrap();
    client.flush().await.unwrap();
    said
}

/// A `done` may be said again.
async fn of_kind(kind: &str, said: &mut Subscriber) -> HeaderMap {
    loop {
        let Message { headers, .. } = said.next().await.unwrap();
        if let Some(headers) = headers.filter(|headers| headers.get("Hive-Kind").is_some_and(|is| is.as_str() == kind))
        {
            return headers;
        }
    }
}

fn once(task: NewTask) -> NewTask {
    task.header("Hive-Max-Attempts", "1").unwrap()
}
