//! What Prometheus is told: that it is true, that Prometheus can read it, and that rules and dashboard ask for what there is.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use coordinator::local::AgentSpec;
use mesh_tests::prometheus::{Scrape, prometheus, promtool, scrape};
use mesh_tests::state::{dead_letters, that};
use mesh_tests::{BUILTINS, Mesh, agent, new_task, results};
use serde_json::Value;

const RULES: &str = "compose/rules/hivemesh.rules.yaml";
const RULE_TESTS: &str = "compose/rules/hivemesh.test.yaml";
const DASHBOARD: &str = "compose/grafana/dashboards/hivemesh.json";
/// As many kinds have numbers of their own, and one for the others.
const MOST_KINDS: usize = 1000 + 1;

#[tokio::test(flavor = "multi_thread")]
async fn after_known_work_the_numbers_are_right() {
    let mesh = Mesh::builder().agent("ada", 2, BUILTINS).start().await;
    mesh.submit_all((0..20).map(|_| new_task("echo", "hello"))).await;
    let failing = (0..3).map(|_| new_task("fail", "why not").header("Hive-Max-Attempts", "1").unwrap());
    mesh.submit_all(failing).await;
    mesh.until(results(23)).await;
    mesh.until(dead_letters(3)).await;

    let is_stored = |told: &Scrape| {
        told.sum("hive_tasks_submitted_total", &[]) == 23.0 && told.sum("hive_dead_letters_total", &[]) == 3.0
    };
    let told = until_told(&mesh, 0, is_stored).await;

    let of = |name, labels: &[(&str, &str)]| told.sum(name, labels);
    assert_eq!(of("hive_tasks_delivered_total", &[("kind", "echo")]), 20.0);
    assert_eq!(of("hive_tasks_settled_total", &[("kind", "echo"), ("outcome", "succeeded")]), 20.0);
    assert_eq!(of("hive_tasks_settled_total", &[("kind", "fail"), ("outcome", "failed")]), 3.0);
    assert_eq!(of("hive_tasks_settled_total", &[]), 23.0);
    assert_eq!(of("hive_attempts_started_total", &[]), 23.0);
    assert_eq!(of("hive_attempts_ended_total", &[("outcome", "succeeded")]), 20.0);
    for histogram in ["hive_task_wait_seconds", "hive_task_run_seconds", "hive_task_end_to_end_seconds"] {
        assert_eq!(told.sum(&format!("{histogram}_count"), &[("kind", "echo")]), 20.0, "{histogram}");
    }
    assert_eq!(of("hive_assignment_seconds_count", &[]), 23.0);
    assert_eq!(of("hive_placements_total", &[("strategy", "least-connections")]), 23.0);
    assert_eq!((of("hive_leading", &[]), of("hive_agents", &[("state", "healthy")])), (1.0, 1.0));
    assert_eq!((of("hive_slots", &[]), of("hive_kind_agents", &[("kind", "echo")])), (2.0, 1.0));
    assert_eq!((of("hive_queue_depth", &[]), of("hive_tasks_running", &[])), (0.0, 0.0));
    assert_eq!(of("hive_broker_durable", &[("survives", "crash")]), 1.0);
    assert!(of("hive_jetstream_calls_total", &[("operation", "record")]) >= 23.0);
    assert!(of("hive_beats_total", &[]) > 0.0 && of("hive_agent_messages_total", &[("verb", "hello")]) > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_told_by_kind_and_priority_and_what_nobody_can_do_with_its_age() {
    let mesh = Mesh::builder().agent("ada", 1, BUILTINS).start().await;
    mesh.submit("knit", "a scarf").await;
    let busy = mesh.submit("sleep", "60s").await;
    mesh.until(mesh_tests::task(&busy).running_on("ada")).await;
    mesh.submit_all((0..4).map(|_| new_task("sleep", "1ms"))).await;

    // One may stand in the agent's queue already.
    let is_seen = |told: &Scrape| {
        let depth = told.sum("hive_queue_depth", &[("kind", "sleep"), ("priority", "normal")]);
        depth + told.sum("hive_tasks_running", &[("kind", "sleep")]) == 5.0
            && told.sum("hive_queue_oldest_age_seconds", &[("kind", "knit")]) > 1.0
    };
    let told = until_told(&mesh, 0, is_seen).await;

    assert_eq!(told.sum("hive_queue_depth", &[("kind", "knit"), ("priority", "normal")]), 1.0);
    assert_eq!(told.sum("hive_kind_agents", &[("kind", "knit")]), 0.0);
    assert_eq!(told.sum("hive_slots_taken", &[]), 1.0);
    assert!(told.sum("hive_tasks_blocked", &[("filter", "slots")]) >= 1.0, "{}", told.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_kinds_there_are_the_labels_are_bounded() {
    let mesh = Mesh::builder().start().await;
    let kinds = (0..1500).map(|number| new_task(&format!("kind-{number}"), "nobody can do this"));
    mesh.submit_all(kinds).await;

    let told = until_told(&mesh, 0, |told| told.sum("hive_queue_depth", &[]) == 1500.0).await;

    assert_eq!(told.values("hive_queue_depth", "kind").len(), MOST_KINDS);
    assert_eq!(told.sum("hive_queue_depth", &[("kind", "other")]), (1500 + 1 - MOST_KINDS) as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_tells_of_itself_and_leaves_the_mesh_to_the_leader() {
    let mesh = Mesh::builder().coordinators(2).agent("ada", 1, BUILTINS).start().await;
    let leader = mesh.leader().await;
    mesh.run("echo", "hello").await;

    let standby = until_told(&mesh, 1 - leader, |told| told.sum("hive_beats_total", &[]) > 0.0).await;

    assert_eq!(standby.sum("hive_leading", &[]), 0.0);
    let families = standby.families();
    for absent in ["hive_epoch", "hive_queue_depth", "hive_agents", "hive_tasks_submitted_total"] {
        assert!(!families.contains(absent), "{absent} in {}", standby.0);
    }
    assert_eq!(standby.sum("hive_tasks_settled_total", &[]), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_tells_of_its_slots_and_attempts_where_it_says_whether_it_is_well() {
    let (mesh, address) = mesh_with_a_scraped_agent().await;
    mesh.run("echo", "hello").await;
    mesh.run("sleep", "50ms").await;

    let told = until(&mesh, address, |told| told.sum("hive_agent_reports_total", &[]) > 0.0).await;

    for kind in ["echo", "sleep"] {
        let ended = [("kind", kind), ("outcome", "succeeded")];
        assert_eq!(told.sum("hive_agent_attempts_total", &ended), 1.0, "{}", told.0);
    }
    assert!(told.sum("hive_agent_attempt_run_seconds_sum", &[("kind", "sleep")]) >= 0.05);
    assert_eq!((told.sum("hive_agent_slots", &[]), told.sum("hive_agent_slots_taken", &[])), (3.0, 0.0));
    assert_eq!((told.sum("hive_agent_welcomed", &[]), told.sum("hive_agent_connected", &[])), (1.0, 1.0));
    assert!(told.sum("hive_agent_memory_bytes", &[("amount", "used")]) > 0.0);
    assert!(!told.0.contains("\"ada\""), "the agent's id is no label");
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_accepts_what_both_say_and_the_documentation_names_all_of_it() {
    let (mesh, address) = mesh_with_a_scraped_agent().await;
    mesh.run("echo", "hello").await;
    mesh.run("fail", "why not").await;
    let coordinator = until_told(&mesh, 0, |told| told.sum("hive_tasks_submitted_total", &[]) == 2.0).await;
    let agent = until(&mesh, address, |told| told.sum("hive_agent_reports_total", &[]) > 0.0).await;

    let documented = documented();
    for told in [&coordinator, &agent] {
        assert!(told.families().is_subset(&documented), "{:?}", told.families().difference(&documented));
        if let Some(checked) = promtool(&["check", "metrics"], &told.0).await {
            assert_eq!((checked.code, checked.stdout.as_str(), checked.stderr.as_str()), (0, "", ""), "{}", told.0);
        }
    }

    // What there is not always: what waits for nobody, is not limited, or is the business of another part.
    let told: BTreeSet<String> = &coordinator.families() | &agent.families();
    let untold: Vec<&String> = documented.difference(&told).collect();
    let seldom = [
        "hive_agent_network_bytes_per_second",
        "hive_resource_countable",
        "hive_stream_limit_bytes",
        "hive_tasks_blocked",
    ];
    assert!(
        untold.iter().all(|name| name.starts_with("hive_scaling_") || seldom.contains(&name.as_str())),
        "documented, and not told: {untold:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_accepts_the_rules_and_sees_each_alert_fire_and_resolve() {
    let (rules, tests) = (path(RULES).display().to_string(), path(RULE_TESTS).display().to_string());

    for args in [["check", "rules", rules.as_str()], ["test", "rules", tests.as_str()]] {
        if let Some(output) = promtool(&args, "").await {
            assert!(output.code == 0 && output.stdout.contains("SUCCESS"), "{output:?}");
        }
    }

    let (tests, docs) = (read(RULE_TESTS), read("docs/metrics.md"));
    let rules = read(RULES);
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(!alerts.is_empty());
    for alert in alerts {
        let looks: Vec<&str> = tests.split("- alertname: ").filter(|look| look.lines().next() == Some(alert)).collect();
        assert!(looks.iter().any(|look| look.contains("exp_labels")), "{alert} is never seen to fire");
        assert!(looks.iter().any(|look| look.contains("exp_alerts: []")), "{alert} is never seen to resolve");
        assert!(docs.contains(&format!("\n### {alert}\n")), "docs/metrics.md does not say what to do about {alert}");
        let runbook = format!("runbook: docs/metrics.md#{}\n", alert.to_lowercase());
        assert!(rules.contains(&runbook), "{alert} does not name its place in docs/metrics.md");
    }
}

#[test]
fn rules_and_dashboard_ask_only_for_what_there_is() {
    let documented = documented();
    for file in [RULES, RULE_TESTS, DASHBOARD] {
        let text = read(file);
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let names: BTreeSet<&str> =
            words.filter(|word| word.starts_with("hive_") || word.starts_with("process_")).collect();
        assert!(names.len() > 10, "{file} names nothing");
        for name in names {
            let suffixes = ["_bucket", "_sum", "_count"].into_iter().filter_map(|suffix| name.strip_suffix(suffix));
            let mut families = suffixes.chain([name]);
            assert!(families.any(|family| documented.contains(family)), "{file} asks for {name}, which there is not");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prometheus_scrapes_both_and_understands_all_that_the_dashboard_asks() {
    let (mesh, agent) = mesh_with_a_scraped_agent().await;
    mesh.run("echo", "hello").await;
    let (listen, coordinator) = (free_address(), mesh.http_address(0));
    let settings = format!(
        "global: {{ scrape_interval: 1s }}\nrule_files: [{}]\nscrape_configs:\n\
         - {{ job_name: hivemesh-coordinator, static_configs: [{{ targets: ['{coordinator}'] }}] }}\n\
         - {{ job_name: hivemesh-agent, static_configs: [{{ targets: ['{agent}'] }}] }}\n",
        path(RULES).display()
    );
    let Some(_running) = prometheus(mesh.dir(), &settings, listen).await else { return };

    // Both are up, by what they say of themselves in OpenMetrics.
    mesh.until(that("that Prometheus has scraped both", async move |_: &Mesh| {
        let up = query(listen, "sum(up) + sum(hive_leading) + sum(hive_agent_welcomed)").await?;
        if up["data"]["result"][0]["value"][1] == "4" { Ok(()) } else { Err(up.to_string()) }
    }))
    .await;
    for expression in expressions() {
        let answer = query(listen, &expression).await;
        assert!(answer.as_ref().is_ok_and(|answer| answer["status"] == "success"), "{expression}: {answer:?}");
    }
}

/// A mesh with the agent `ada`, and where that can be scraped.
async fn mesh_with_a_scraped_agent() -> (Mesh, SocketAddr) {
    let mut mesh = Mesh::builder().start().await;
    let address = free_address();
    let mut spec = AgentSpec::new("ada".parse().unwrap(), 3, BUILTINS);
    spec.env.push(("HIVE_HEALTH".to_owned(), address.to_string()));
    mesh.local().add_agent(spec).unwrap();
    mesh.until(agent("ada").healthy()).await;
    (mesh, address)
}

/// What a coordinator tells once this is so.
async fn until_told(mesh: &Mesh, coordinator: usize, test: impl Fn(&Scrape) -> bool) -> Scrape {
    until(mesh, mesh.http_address(coordinator), test).await
}

async fn until(mesh: &Mesh, address: SocketAddr, test: impl Fn(&Scrape) -> bool) -> Scrape {
    let look = async |_: &Mesh| {
        let told = scrape(address).await?;
        if test(&told) { Ok(told) } else { Err(told.0) }
    };
    mesh.until(that("that the metrics tell it", look)).await
}

/// What Prometheus answers to an expression.
async fn query(prometheus: SocketAddr, expression: &str) -> Result<Value, String> {
    let url = reqwest::Url::parse_with_params(&format!("http://{prometheus}/api/v1/query"), [("query", expression)]);
    let answer = reqwest::get(url.unwrap()).await.map_err(|error| error.to_string())?;
    let body = answer.text().await.map_err(|error| error.to_string())?;
    serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))
}

/// Everything that the dashboard asks for, with its variables filled in.
fn expressions() -> BTreeSet<String> {
    fn collect(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(expression)) = fields.get("expr") {
                    found.insert(expression.replace("$__rate_interval", "1m").replace("$kind", ".*"));
                }
                fields.values().for_each(|value| collect(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    collect(&serde_json::from_str(&read(DASHBOARD)).unwrap(), &mut found);
    assert!(found.len() > 30, "the dashboard asks for little: {found:?}");
    found
}

/// The names in the tables of the documentation.
fn documented() -> BTreeSet<String> {
    let rows = read("docs/metrics.md");
    let names = rows.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    names.map(|(name, _)| name.to_owned()).collect()
}

fn read(file: &str) -> String {
    std::fs::read_to_string(path(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(file)
}

/// An address on which nobody listened a moment ago.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
