//! What a program tells the supervisor that has started it, systemd above all: that it is ready, that it still works,
//! and that it is about to end.
//!
//! That it works is for the loop to say that does the work, not for a thread beside it: what has stopped working says
//! nothing any more, and is started anew. Without a supervisor (no `NOTIFY_SOCKET`), nothing is told to anybody.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tracing::debug;

/// Told so many times in the span after which it takes us for dead: a loop that is late once is not dead.
const SIGNS_OF_LIFE: u32 = 3;

/// Who has started this process and wants to know how it is doing.
#[derive(Debug)]
pub struct Supervisor {
    is_there: bool,
    is_ready: bool,
    /// How often it is told that we work, if it wants to know.
    interval: Option<Duration>,
    next: Instant,
}

impl Supervisor {
    /// That of this process, if it has one.
    pub fn of_this_process() -> Self {
        let is_there = std::env::var_os("NOTIFY_SOCKET").is_some();
        let interval = sd_notify::watchdog_enabled().map(|limit| limit / SIGNS_OF_LIFE);
        Self { is_there, interval, ..Self::none() }
    }

    /// None: what is only a part of a process does not speak for it.
    pub fn none() -> Self {
        Self { is_there: false, is_ready: false, interval: None, next: Instant::now() }
    }

    /// Says in words what we are doing.
    pub fn status(&self, words: &str) {
        self.tell(&[NotifyState::Status(words)]);
    }

    /// Says that we do what we are there for. From then on it waits for [`Self::alive`].
    pub fn ready(&mut self, words: &str) {
        if self.is_ready {
            return self.status(words);
        }
        self.is_ready = true;
        self.tell(&[NotifyState::Ready, NotifyState::Status(words)]);
    }

    /// Says that we work, if that is due. Costs nothing if it is not.
    pub fn alive(&mut self) {
        let Some(interval) = self.interval else { return };
        let now = Instant::now();
        if now >= self.next {
            self.next = now + interval;
            self.tell(&[NotifyState::Watchdog]);
        }
    }

    /// Says that we are about to end of our own accord.
    pub fn stopping(&self) {
        self.tell(&[NotifyState::Stopping]);
    }

    fn tell(&self, state: &[NotifyState<'_>]) {
        if !self.is_there {
            return;
        }
        // If it does not listen, it will do without.
        if let Err(error) = sd_notify::notify(state) {
            debug!(%error, "the supervisor was not told");
        }
    }
}
