//! Tasks as tests write them.

use std::time::Duration;

use scheduler::{Delivery, Sequence, Timestamp};
use shared::task::Backoff;
use shared::{Countables, Kind, Priority, TaskId, TaskOptions};

/// A task to be delivered. Its id is its sequence unless it is given one.
#[derive(Clone, Debug)]
pub(crate) struct TaskSpec {
    kind: Kind,
    id: Option<TaskId>,
    priority: Priority,
    deadline: Option<Duration>,
    options: TaskOptions,
}

pub(crate) fn task(kind: &str) -> TaskSpec {
    TaskSpec {
        kind: Kind::new(kind).expect("tests name kinds well"),
        id: None,
        priority: Priority::Normal,
        deadline: None,
        options: TaskOptions::default(),
    }
}

impl From<&str> for TaskSpec {
    fn from(kind: &str) -> Self {
        task(kind)
    }
}

impl TaskSpec {
    pub(crate) fn id(mut self, id: &str) -> Self {
        self.id = Some(TaskId::new(id).expect("tests name tasks well"));
        self
    }

    pub(crate) fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    pub(crate) fn needs(mut self, needs: &str) -> Self {
        self.options.needs = needs.parse().expect("tests write needs well");
        self
    }

    pub(crate) fn cpu(mut self, millis: u64) -> Self {
        self.options.cpu_millis = Some(millis);
        self
    }

    pub(crate) fn memory(mut self, bytes: u64) -> Self {
        self.options.memory_bytes = Some(bytes);
        self
    }

    pub(crate) fn countable(mut self, name: &str, amount: u64) -> Self {
        self.options.countables = Some(Countables::new([(name, amount)]).expect("tests name them well"));
        self
    }

    pub(crate) fn tenant(mut self, name: &str) -> Self {
        self.options.tenant = Some(name.into());
        self
    }

    pub(crate) fn affinity(mut self, key: &str) -> Self {
        self.options.affinity = Some(key.into());
        self
    }

    pub(crate) fn max_attempts(mut self, attempts: u32) -> Self {
        self.options.max_attempts = Some(attempts);
        self
    }

    pub(crate) fn backoff(mut self, first: Duration, limit: Duration) -> Self {
        self.options.backoff = Some(Backoff { first, limit });
        self
    }

    pub(crate) fn timeout(mut self, limit: Duration) -> Self {
        self.options.timeout = Some(limit);
        self
    }

    /// So long after its delivery.
    pub(crate) fn deadline(mut self, after: Duration) -> Self {
        self.deadline = Some(after);
        self
    }

    pub(crate) fn delivery(self, sequence: Sequence, now: Timestamp) -> Delivery {
        Delivery {
            cancelled: false,
            sequence,
            id: self.id.unwrap_or_else(|| TaskId::from_sequence(sequence.0)),
            kind: self.kind,
            priority: self.priority,
            accepted: now,
            deadline: self.deadline.map(|after| now + after),
            options: self.options,
        }
    }
}
