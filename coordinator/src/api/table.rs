//! The table of operations. How to add one stands in `api.rs`.

use std::sync::LazyLock;

use shared::api::Apply;
use shared::api::ask::Nothing;

use super::operation::{Operation, Route};
use super::role::Role;
use super::services::Services;
use super::{agents, dead, events, queues, tasks};
use crate::{alerts, hooks, logs, recommend, scale};

/// All operations.
pub(crate) fn table() -> &'static [Operation] {
    static TABLE: LazyLock<Vec<Operation>> = LazyLock::new(|| {
        let parts = [
            mesh(),
            task_operations(),
            agent_operations(),
            queue_operations(),
            resources(),
            pools(),
            alerting(),
            webhooks(),
            dead_letters(),
        ];
        parts.into_iter().flatten().collect()
    });
    &TABLE
}

fn mesh() -> Vec<Operation> {
    vec![
        Operation::new("mesh", "status", agents::status)
            .says("Shows the mesh at a glance")
            .for_role(Role::Read)
            .by_leader_else_self()
            .at(Route::get("/v1/status")),
        Operation::new("event", "list", events::list)
            .says("Lists what happened, the newest first")
            .for_role(Role::Read)
            .by_anyone()
            .at(Route::get("/v1/events/past")),
    ]
}

fn task_operations() -> Vec<Operation> {
    vec![
        Operation::new("task", "submit", tasks::submit)
            .says("Submits a task; it is accepted when it is stored")
            .for_role(Role::Submit)
            .by_anyone()
            .at(Route::post("/v1/tasks").reads_json().accepts().keyed_by("idempotency_key"))
            .refuses(&[409, 413]),
        Operation::new("task", "batch", tasks::batch)
            .says("Submits up to 1000 tasks, and tells of each whether it was accepted")
            .for_role(Role::Submit)
            .by_anyone()
            .at(Route::post("/v1/batches").reads_json().accepts().keyed_by("idempotency_key"))
            .refuses(&[413]),
        Operation::new("task", "list", tasks::list)
            .says("Lists tasks: those that the coordinator has fetched, or those that are `queued` or `settled`")
            .for_role(Role::Read)
            .at(Route::get("/v1/tasks")),
        Operation::new("task", "get", tasks::get)
            .says("Shows one task, wherever it is: fetched, queued or settled")
            .for_role(Role::Read)
            .at(Route::get("/v1/tasks/{id}"))
            .refuses(&[404]),
        Operation::new("task", "result", tasks::result)
            .says("Shows a task's result with its body, and waits for it where that is wanted")
            .for_role(Role::Read)
            .by_anyone()
            .at(Route::get("/v1/tasks/{id}/result"))
            .refuses(&[404, 409]),
        Operation::new("task", "why", tasks::why)
            .says("Says why a task waits, or why its agent was chosen")
            .for_role(Role::Read)
            .at(Route::get("/v1/tasks/{id}/why"))
            .refuses(&[404]),
        Operation::new("task", "logs", |services: Services, asked| async move {
            logs::read(&services.handle, &services.store, &services.client, asked).await
        })
        .says("Shows what a task's attempt has written to its standard error, and waits for more where that is wanted")
        .for_role(Role::Read)
        .at(Route::get("/v1/tasks/{id}/logs"))
        .refuses(&[404]),
        Operation::new("task", "cancel", tasks::cancel)
            .says("Cancels a task: it is not started any more, or told to stop where it runs")
            .for_role(Role::Submit)
            .at(Route::post("/v1/tasks/{id}/cancel"))
            .refuses(&[404]),
    ]
}

fn agent_operations() -> Vec<Operation> {
    vec![
        Operation::new("agent", "list", agents::list)
            .says("Lists the agents with state, slots, load and usage")
            .for_role(Role::Read)
            .at(Route::get("/v1/agents")),
        Operation::new("agent", "get", agents::get)
            .says("Shows one agent")
            .for_role(Role::Read)
            .at(Route::get("/v1/agents/{id}"))
            .refuses(&[404]),
        Operation::new("agent", "drain", agents::drain)
            .says("Gives an agent no new work; it leaves when what it runs has ended")
            .for_role(Role::Operate)
            .at(Route::post("/v1/agents/{id}/drain"))
            .refuses(&[404]),
        Operation::new("agent", "quarantine", agents::quarantine)
            .says("Gives an agent no new work until it is resumed; what it runs goes on, and it stays")
            .for_role(Role::Operate)
            .at(Route::post("/v1/agents/{id}/quarantine"))
            .refuses(&[404, 409]),
        Operation::new("agent", "resume", agents::resume)
            .says("Ends the quarantine of an agent, whoever it was put there by")
            .for_role(Role::Operate)
            .at(Route::post("/v1/agents/{id}/resume"))
            .refuses(&[404, 409]),
    ]
}

fn queue_operations() -> Vec<Operation> {
    vec![
        Operation::new("queue", "list", queues::list)
            .says("Lists for each kind what is stored, waits and runs, and how many agents can do it")
            .for_role(Role::Read)
            .at(Route::get("/v1/queues")),
        Operation::new("queue", "get", queues::get)
            .says("Shows one kind with the settings that hold for it")
            .for_role(Role::Read)
            .at(Route::get("/v1/queues/{id}")),
        Operation::new("queue", "set", queues::set)
            .says("Changes settings of a kind while the mesh runs: strategy, limits, what is reserved")
            .for_role(Role::Admin)
            .by_anyone()
            .at(Route::patch("/v1/queues/{id}", "settings"))
            .refuses(&[409]),
        Operation::new("queue", "pause", queues::pause)
            .says("Pauses a kind: nothing of it is fetched or started, and what runs goes on")
            .for_role(Role::Operate)
            .at(Route::post("/v1/queues/{id}/pause"))
            .refuses(&[409]),
        Operation::new("queue", "resume", queues::resume)
            .says("Resumes a kind that is paused")
            .for_role(Role::Operate)
            .at(Route::post("/v1/queues/{id}/resume"))
            .refuses(&[409]),
        Operation::new("queue", "purge", queues::purge)
            .says("Ends every task of a kind that does not run: each is recorded as `cancelled`")
            .for_role(Role::Operate)
            .at(Route::post("/v1/queues/{id}/purge")),
        Operation::new("tenant", "list", queues::tenants)
            .says("Lists tenants that tasks have named, with weight, limits and what runs")
            .for_role(Role::Read)
            .at(Route::get("/v1/tenants")),
        Operation::new("tenant", "set", queues::set_tenant)
            .says("Changes settings of a tenant while the mesh runs: weight, limits")
            .for_role(Role::Admin)
            .by_anyone()
            .at(Route::patch("/v1/tenants/{id}", "settings"))
            .refuses(&[409]),
    ]
}

fn resources() -> Vec<Operation> {
    vec![
        Operation::new("resource", "list", agents::resources)
            .says("Shows what is reserved and used of what there is")
            .for_role(Role::Read)
            .at(Route::get("/v1/resources")),
        Operation::new("resource", "recommend", agents::recommendations)
            .says("Lists what should be reserved or offered instead, each with its evidence")
            .for_role(Role::Read)
            .at(Route::get("/v1/recommendations")),
        Operation::new("resource", "apply", |services: Services, asked: Apply| async move {
            recommend::apply(&services.handle, &services.store, asked).await
        })
        .says("Follows what is recommended for a kind, by one step")
        .for_role(Role::Admin)
        .at(Route::post("/v1/recommendations/{id}"))
        .refuses(&[409]),
    ]
}

fn pools() -> Vec<Operation> {
    vec![
        Operation::new("scale", "status", |services: Services, _: Nothing| async move {
            scale::status(&services.handle).await
        })
        .says("Lists the pools with what is wished for and what is there")
        .for_role(Role::Read)
        .at(Route::get("/v1/pools")),
        Operation::new(
            "scale",
            "get",
            |services: Services, asked| async move { scale::get(&services.handle, asked).await },
        )
        .says("Shows one pool with its agents, its settings, and what was done, counted")
        .for_role(Role::Read)
        .at(Route::get("/v1/pools/{id}"))
        .refuses(&[404]),
        Operation::new("scale", "history", |services: Services, asked| async move {
            scale::history(&services.handle, asked).await
        })
        .says("Lists what was done about a pool in this leader's reign, the oldest first")
        .for_role(Role::Read)
        .at(Route::get("/v1/pools/{id}/history"))
        .refuses(&[404]),
        Operation::new("scale", "explain", |services: Services, asked| async move {
            scale::explain(&services.handle, asked).await
        })
        .says("Says why a pool has as many agents as it has: what each rule found, and what it waits for")
        .for_role(Role::Read)
        .at(Route::get("/v1/pools/{id}/why"))
        .refuses(&[404]),
        Operation::new("scale", "set", |services: Services, asked| async move {
            scale::set(&services.handle, &services.store, asked).await
        })
        .says("Changes settings of a pool while the mesh runs, or says how many agents it shall have")
        .for_role(Role::Operate)
        .at(Route::post("/v1/pools/{id}").reads_json())
        .refuses(&[404, 409]),
        Operation::new("scale", "pause", |services: Services, asked| async move {
            scale::pause(&services.handle, &services.store, asked).await
        })
        .says("Pauses a pool: its number of agents stays as it is")
        .for_role(Role::Operate)
        .at(Route::post("/v1/pools/{id}/pause"))
        .refuses(&[404, 409]),
        Operation::new("scale", "resume", |services: Services, asked| async move {
            scale::resume(&services.handle, &services.store, asked).await
        })
        .says("Resumes a pool that is paused")
        .for_role(Role::Operate)
        .at(Route::post("/v1/pools/{id}/resume"))
        .refuses(&[404, 409]),
    ]
}

fn alerting() -> Vec<Operation> {
    vec![
        Operation::new("alert", "list", |services: Services, asked| async move {
            alerts::list(&services.handle, asked).await
        })
        .says("Lists alerts that fire or are about to")
        .for_role(Role::Read)
        .at(Route::get("/v1/alerts")),
        Operation::new("alert", "get", |services: Services, asked| async move {
            alerts::get(&services.handle, asked).await
        })
        .says("Shows one alert")
        .for_role(Role::Read)
        .at(Route::get("/v1/alerts/{id}"))
        .refuses(&[404]),
        Operation::new("alert", "acknowledge", |services: Services, asked| async move {
            alerts::acknowledge(&services.handle, asked).await
        })
        .says("Notes that somebody knows of an alert that fires")
        .for_role(Role::Operate)
        .at(Route::post("/v1/alerts/{id}/acknowledge").reads_json())
        .refuses(&[404, 409]),
        Operation::new("alert", "silence", |services: Services, asked| async move {
            alerts::silence(&services.handle, asked).await
        })
        .says("Keeps those alerts quiet for a while that the matchers match")
        .for_role(Role::Operate)
        .at(Route::post("/v1/silences").reads_json())
        .refuses(&[409]),
        Operation::new("alert", "unsilence", |services: Services, asked| async move {
            alerts::unsilence(&services.handle, asked).await
        })
        .says("Ends a silence")
        .for_role(Role::Operate)
        .at(Route::delete("/v1/silences/{id}"))
        .refuses(&[404]),
        Operation::new("alert", "silences", |services: Services, _: Nothing| async move {
            alerts::silences(&services.handle).await
        })
        .says("Lists the silences there are")
        .for_role(Role::Read)
        .at(Route::get("/v1/silences")),
        Operation::new("alert", "rules", |services: Services, _: Nothing| async move {
            alerts::rules(&services.handle).await
        })
        .says("Lists the rules that alerts go by, and how they are")
        .for_role(Role::Read)
        .at(Route::get("/v1/alert-rules")),
    ]
}

fn webhooks() -> Vec<Operation> {
    vec![
        Operation::new(
            "hook",
            "list",
            |services: Services, _: Nothing| async move { hooks::list(&services.hooks).await },
        )
        .says("Lists the webhooks: where they go, and how they do")
        .for_role(Role::Admin)
        .at(Route::get("/v1/webhooks")),
        Operation::new(
            "hook",
            "get",
            |services: Services, asked| async move { hooks::get(&services.hooks, asked).await },
        )
        .says("Shows one webhook with its last attempts")
        .for_role(Role::Admin)
        .at(Route::get("/v1/webhooks/{id}"))
        .refuses(&[404]),
        Operation::new(
            "hook",
            "set",
            |services: Services, asked| async move { hooks::set(&services.hooks, asked).await },
        )
        .says("Makes a webhook or changes it; its secret is shown once")
        .for_role(Role::Admin)
        .at(Route::post("/v1/webhooks/{id}").reads_json())
        .refuses(&[404, 409]),
        Operation::new("hook", "delete", |services: Services, asked| async move {
            hooks::delete(&services.hooks, asked).await
        })
        .says("Ends a webhook")
        .for_role(Role::Admin)
        .at(Route::delete("/v1/webhooks/{id}"))
        .refuses(&[404]),
        Operation::new(
            "hook",
            "test",
            |services: Services, asked| async move { hooks::test(&services.hooks, asked).await },
        )
        .says("Sends a test to a webhook, and says what came of it")
        .for_role(Role::Admin)
        .at(Route::post("/v1/webhooks/{id}/test"))
        .refuses(&[404]),
        Operation::new("hook", "redeliver", |services: Services, asked| async move {
            hooks::redeliver(&services.hooks, asked).await
        })
        .says("Sends events to a webhook again: one, or all from a moment on")
        .for_role(Role::Admin)
        .at(Route::post("/v1/webhooks/{id}/redeliver").reads_json())
        .refuses(&[404, 409]),
        Operation::new("hook", "enable", |services: Services, asked| async move {
            hooks::enable(&services.hooks, asked).await
        })
        .says("Lets a webhook go on that was disabled, or disables it")
        .for_role(Role::Admin)
        .at(Route::post("/v1/webhooks/{id}/enable").reads_json())
        .refuses(&[404, 409]),
        Operation::new("intake", "list", |services: Services, _: Nothing| async move {
            hooks::list_intakes(&services.hooks).await
        })
        .says("Lists the intakes: what signed requests become tasks")
        .for_role(Role::Admin)
        .at(Route::get("/v1/intakes")),
        Operation::new("intake", "get", |services: Services, asked| async move {
            hooks::get_intake(&services.hooks, asked).await
        })
        .says("Shows one intake")
        .for_role(Role::Admin)
        .at(Route::get("/v1/intakes/{id}"))
        .refuses(&[404]),
        Operation::new("intake", "set", |services: Services, asked| async move {
            hooks::set_intake(&services.hooks, asked).await
        })
        .says("Makes an intake or changes it; its secret is shown once")
        .for_role(Role::Admin)
        .at(Route::post("/v1/intakes/{id}").reads_json())
        .refuses(&[404, 409]),
        Operation::new("intake", "delete", |services: Services, asked| async move {
            hooks::delete_intake(&services.hooks, asked).await
        })
        .says("Ends an intake")
        .for_role(Role::Admin)
        .at(Route::delete("/v1/intakes/{id}"))
        .refuses(&[404]),
    ]
}

fn dead_letters() -> Vec<Operation> {
    vec![
        Operation::new("dead", "list", dead::list)
            .says("Lists dead letters, the newest first")
            .for_role(Role::Read)
            .by_anyone()
            .at(Route::get("/v1/dead")),
        Operation::new("dead", "get", dead::get)
            .says("Shows one dead letter with its headers and its body")
            .for_role(Role::Read)
            .by_anyone()
            .at(Route::get("/v1/dead/{id}").placed_by(dead::named))
            .refuses(&[404]),
        Operation::new("dead", "replay", dead::replay)
            .says("Submits dead letters again as new tasks, and removes them")
            .for_role(Role::Operate)
            .by_anyone()
            .at(Route::post("/v1/dead/{id}/replay").placed_by(dead::named))
            .at(Route::post("/v1/replays").reads_json())
            .refuses(&[404, 409]),
        Operation::new("dead", "discard", dead::discard)
            .says("Removes dead letters for good")
            .for_role(Role::Operate)
            .by_anyone()
            .at(Route::delete("/v1/dead/{id}").placed_by(dead::named))
            .at(Route::delete("/v1/dead"))
            .refuses(&[404]),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_operation_has_one_name_and_each_place_one_operation() {
        let names: BTreeSet<String> = table().iter().map(Operation::name).collect();
        let places: Vec<String> = table()
            .iter()
            .flat_map(|operation| operation.routes.iter().map(|route| format!("{} {}", route.method, route.path)))
            .collect();

        assert_eq!(names.len(), table().len());
        assert_eq!(places.iter().collect::<BTreeSet<_>>().len(), places.len());
    }

    #[test]
    fn what_only_looks_is_for_readers_and_got_and_what_changes_is_not() {
        for operation in table() {
            let is_got = operation.routes.iter().all(|route| route.method == axum::http::Method::GET);
            // Where webhooks go, and what of, is for who sets them.
            let is_secret = ["hook", "intake"].contains(&operation.noun) && operation.role == Role::Admin;
            assert_eq!(operation.role == Role::Read, is_got && !is_secret, "{}", operation.name());
        }
    }

    #[test]
    fn a_path_names_fields_of_the_request() {
        for operation in table() {
            let schema = crate::api::schema::Schemas::request(operation);
            for field in operation.routes.iter().flat_map(Route::path_fields) {
                assert!(schema["properties"].get(field).is_some(), "{}: {field}", operation.name());
            }
        }
    }

    #[test]
    fn the_documentation_has_the_table() {
        let text = include_str!("../../../docs/api.md");
        let missing: Vec<String> = table().iter().map(row).filter(|row| !text.contains(row)).collect();
        let methods = ["GET", "POST", "PATCH", "DELETE"].map(|method| format!("` | `{method} /"));
        let is_row = |line: &&str| line.starts_with("| `") && methods.iter().any(|method| line.contains(method));
        let rows = text.lines().filter(is_row).count();

        assert!(missing.is_empty(), "add to docs/api.md:\n{}", missing.join("\n"));
        assert_eq!(rows, table().len(), "docs/api.md has operations that there are not");
    }

    fn row(operation: &Operation) -> String {
        let places = operation.routes.iter().map(|route| format!("`{} {}`", route.method, route.path));
        let places = places.collect::<Vec<_>>().join("<br>");
        format!("| `{}` | {places} | {} | {} |", operation.name(), operation.role, operation.summary)
    }
}
