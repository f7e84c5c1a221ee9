//! Every family that a coordinator exposes, declared once. `docs/metrics.md` is compared with this table, and the alert
//! rules and the dashboard with that.

shared::metric_families! {
    // About this coordinator: whether it leads or stands by.
    BUILD = Gauge "hive_build_info" ["component", "version"] "Always 1; which program of which version this is";
    LEADING = Gauge "hive_leading" [] "1 if this coordinator leads, 0 if it stands by";
    EPOCH = Gauge "hive_epoch" [] "The epoch in which it leads; absent if it does not";
    LEASE_LEFT = Gauge "hive_lease_remaining_seconds" [] "For how long the lease is still ours; absent if it is not";
    LOOP_ANSWER = Gauge "hive_loop_answer_seconds" [] "How long the coordinator's loop took to answer this scrape";
    TASKS_DELIVERED = Counter "hive_tasks_delivered_total" ["kind"]
        "Tasks that came from the stream to this coordinator, those included that a leader before had already";
    ATTEMPTS_STARTED = Counter "hive_attempts_started_total" ["kind"] "Attempts that were given to an agent";
    ATTEMPTS_ENDED = Counter "hive_attempts_ended_total" ["outcome"]
        "Attempts that ended as their agents said, while they were still their tasks'";
    TASKS_RETRIED = Counter "hive_tasks_retried_total" ["kind"] "Failed attempts after which the task is started again";
    TASKS_REASSIGNED = Counter "hive_tasks_reassigned_total" ["kind"]
        "Attempts that start elsewhere since their agent was lost";
    TASKS_SETTLED = Counter "hive_tasks_settled_total" ["kind", "outcome"] "Tasks whose outcome was decided";
    WAIT = Histogram "hive_task_wait_seconds" ["kind"] "From acceptance of a task to the start of its last attempt";
    RUN = Histogram "hive_task_run_seconds" ["kind"] "How long the last attempt of a task ran";
    END_TO_END = Histogram "hive_task_end_to_end_seconds" ["kind"]
        "From acceptance of a task until its outcome was decided";
    ASSIGNMENT = Histogram "hive_assignment_seconds" []
        "From a task's delivery to the coordinator to its first order to an agent";
    PLACEMENTS = Counter "hive_placements_total" ["strategy"] "Attempts that were placed, by what chose the agent";
    PLACEMENTS_IN_ADVANCE = Counter "hive_placements_in_advance_total" []
        "Of these, those into an agent's queue and not a free slot";
    ORDERS_REPEATED = Counter "hive_orders_repeated_total" []
        "Orders that were sent again since the agent did not list them";
    AGENT_MESSAGES = Counter "hive_agent_messages_total" ["verb"] "Messages of agents, by what they are";
    BEATS = Counter "hive_beats_total" [] "Beats and answers to probes that said something new";
    AGENTS_SUSPECTED = Counter "hive_agents_suspected_total" [] "How often an agent came under suspicion";
    AGENTS_LOST = Counter "hive_agents_lost_total" ["reason"] "Agents that were lost or left, by how that showed";
    EVENTS = Counter "hive_events_total" ["topic", "what"] "Events that this coordinator told";
    JETSTREAM_CALLS = Counter "hive_jetstream_calls_total" ["operation"]
        "What JetStream was asked for, answered or given up";
    JETSTREAM_FAILURES = Counter "hive_jetstream_failures_total" ["operation"]
        "Of these, what was refused or not answered in time";
    NATS_CONNECTED = Gauge "hive_nats_connected" [] "1 if there is a connection to a NATS server";
    NATS_CONNECTS = Counter "hive_nats_connects_total" [] "Connections made to a NATS server, the first one included";
    NATS_DISCONNECTS = Counter "hive_nats_disconnects_total" [] "Connections to a NATS server that were lost";
    NATS_VIOLATIONS = Counter "hive_nats_permission_violations_total" []
        "What the NATS server did not let this program do";
    NATS_ERRORS = Counter "hive_nats_server_errors_total" [] "Errors that the NATS server told, violations included";
    NATS_SLOW = Counter "hive_nats_slow_consumers_total" []
        "How often messages were dropped since they were not read in time";
    NATS_MESSAGES_IN = Counter "hive_nats_messages_received_total" [] "Messages received over the connection to NATS";
    NATS_MESSAGES_OUT = Counter "hive_nats_messages_sent_total" [] "Messages sent over the connection to NATS";
    NATS_BYTES_IN = Counter "hive_nats_received_bytes_total" []
        "Bytes of messages received over the connection to NATS";
    NATS_BYTES_OUT = Counter "hive_nats_sent_bytes_total" [] "Bytes of messages sent over the connection to NATS";

    // About the mesh: told by the leader alone, so that sums over coordinators are right.
    TASKS_SUBMITTED = Counter "hive_tasks_submitted_total" [] "Tasks that the task stream has ever accepted";
    QUEUE_DEPTH = Gauge "hive_queue_depth" ["kind", "priority"]
        "Tasks that no agent has, in the stream or at the coordinator";
    QUEUE_OLDEST = Gauge "hive_queue_oldest_age_seconds" ["kind"] "Age of the oldest task that waits for an agent";
    TASKS_WAITING = Gauge "hive_tasks_waiting" ["kind", "priority"]
        "Tasks that the coordinator has fetched and no agent has";
    TASKS_RUNNING = Gauge "hive_tasks_running" ["kind", "priority"] "Tasks that an agent has";
    TASKS_IN_HAND = Gauge "hive_tasks_in_hand" []
        "Tasks that the coordinator has fetched and not taken out of the stream";
    TASKS_BLOCKED = Gauge "hive_tasks_blocked" ["filter"]
        "Fetched tasks that wait, by the filter that keeps them from the agent that comes nearest";
    TASKS_UNMET = Gauge "hive_tasks_unmet" ["kind"] "Tasks that were seen and that no present agent could ever run";
    KIND_AGENTS = Gauge "hive_kind_agents" ["kind"] "Agents that can do the kind and are not offline";
    AGENTS = Gauge "hive_agents" ["state"] "Agents that are known, by how they are doing";
    SLOTS = Gauge "hive_slots" [] "Slots of the agents that get work";
    SLOTS_TAKEN = Gauge "hive_slots_taken" [] "Of these, those that have an attempt in them";
    CPU = Gauge "hive_resource_cpu_cores" ["amount"] "CPU of the agents that get work: capacity, reserved, used";
    MEMORY = Gauge "hive_resource_memory_bytes" ["amount"]
        "Memory of the agents that get work: capacity, reserved, used";
    DISK = Gauge "hive_resource_disk_bytes" ["amount"] "Disk of the agents that get work: capacity, reserved, used";
    NETWORK = Gauge "hive_resource_network_bytes_per_second" ["amount"]
        "Network of the agents that get work: capacity, reserved, used";
    COUNTABLE = Gauge "hive_resource_countable" ["resource", "amount"]
        "What is only counted, such as GPUs, of the agents that get work: capacity, reserved";
    LANES = Gauge "hive_lanes" ["scope"] "Lanes by whether kinds share them or one has it for itself";
    LANES_WAITING = Gauge "hive_lanes_waiting" []
        "Tasks that lanes have delivered and that no agent has been given yet";
    DEAD_LETTERS = Counter "hive_dead_letters_total" [] "Dead letters that have ever been kept";
    STREAM_MESSAGES = Gauge "hive_stream_messages" ["stream"] "Messages that a stream holds";
    STREAM_BYTES = Gauge "hive_stream_bytes" ["stream"] "Bytes that a stream holds";
    STREAM_LIMIT = Gauge "hive_stream_limit_bytes" ["stream"]
        "Bytes that a stream may hold; absent if it is not limited";
    STREAM_REPLICAS = Gauge "hive_stream_replicas" ["stream"] "Copies of a stream that there should be";
    STREAM_STALE = Gauge "hive_stream_stale_replicas" ["stream"] "Copies of a stream that lag behind or are gone";
    BROKER_ANSWERS = Gauge "hive_broker_answers" [] "1 if JetStream answered when it was last asked for its streams";
    BROKER_DURABLE = Gauge "hive_broker_durable" ["survives"]
        "1 if what was accepted survives this, 0 if not; absent where it cannot be told";
    SCALING_WISHED = Gauge "hive_scaling_wished_agents" ["pool"] "Agents that a pool is to have";
    SCALING_PRESENT = Gauge "hive_scaling_present_agents" ["pool"] "Agents that a pool has";
    SCALING_STARTING = Gauge "hive_scaling_starting_agents" ["pool"]
        "Agents that were ordered for a pool and are not there yet";
    SCALING_CHANGES = Counter "hive_scaling_changes_total" ["pool", "direction", "outcome"]
        "Changes of the number of a pool's agents, by direction and by what came of them";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_says_of_each_what_is_said_here() {
        let docs = include_str!("../../../docs/metrics.md");
        let section = docs.split("\n## ").find_map(|section| section.strip_prefix("Of a coordinator\n")).unwrap();

        let documented: Vec<&str> = section.lines().filter(|line| line.starts_with("| `")).collect();

        assert_eq!(documented, ALL.iter().map(|family| family.row()).collect::<Vec<_>>());
    }

    #[test]
    fn a_family_is_named_by_the_conventions_of_prometheus() {
        for family in ALL {
            assert!(family.name.starts_with("hive_"), "{}", family.name);
            let counts = family.measures == shared::metrics::Measures::Counter;
            assert_eq!(family.name.ends_with("_total"), counts, "{}", family.name);
            let unbounded = ["task", "agent", "id", "incarnation"];
            assert!(!family.labels.iter().any(|label| unbounded.contains(label)), "{}", family.name);
        }
    }
}
