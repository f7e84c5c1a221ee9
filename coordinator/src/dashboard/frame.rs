//! What stands around every page: where one is, whose mesh it is, who leads, what is wrong.

use async_nats::connection::State;

use super::{Dashboard, assets, show};

/// The sections of the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Overview,
    Queues,
    Agents,
    Tasks,
    Scaling,
    Resources,
    Dead,
    Events,
    Help,
    /// None of them.
    None,
}

impl Section {
    /// Those in the navigation: path, name, and the key that leads there after `g`.
    const ALL: [(Section, &'static str, &'static str, char); 9] = [
        (Section::Overview, "/", "Overview", 'o'),
        (Section::Queues, "/queues", "Queues", 'q'),
        (Section::Agents, "/agents", "Agents", 'a'),
        (Section::Tasks, "/tasks", "Tasks", 't'),
        (Section::Scaling, "/scaling", "Scaling", 's'),
        (Section::Resources, "/resources", "Resources", 'r'),
        (Section::Dead, "/dead", "Dead letters", 'd'),
        (Section::Events, "/events", "Events", 'e'),
        (Section::Help, "/help", "Help", 'h'),
    ];
}

/// A link in the navigation.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) path: &'static str,
    pub(super) name: &'static str,
    pub(super) key: char,
    pub(super) is_here: bool,
}

/// What stands around a page.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) title: String,
    pub(super) mesh: String,
    pub(super) instance: String,
    pub(super) version: String,
    pub(super) epoch: u64,
    pub(super) is_leading: bool,
    /// Whether there is a connection to the NATS server.
    pub(super) is_connected: bool,
    /// Who leads, if it is another and known.
    pub(super) leader: Option<String>,
    /// Where the leader's pages are, as it sees that itself.
    pub(super) leader_address: Option<String>,
    /// How many alerts have fired, in words.
    pub(super) alerts: Option<String>,
    pub(super) places: Vec<Place>,
    /// What was done a moment ago.
    pub(super) done: Option<String>,
    /// After how many milliseconds the page is looked at again; not at all if it is zero.
    pub(super) refresh_ms: u32,
    /// Changes with the files that belong to the pages, so that browsers never keep old ones.
    pub(super) assets: &'static str,
}

impl Frame {
    /// The page is kept up to date.
    pub(super) fn live(self) -> Self {
        Self { refresh_ms: 2000, ..self }
    }

    /// The same for one that takes more to make.
    pub(super) fn live_slowly(self) -> Self {
        Self { refresh_ms: 10_000, ..self }
    }

    /// Says what was done a moment ago.
    pub(super) fn after(self, done: Option<String>) -> Self {
        Self { done, ..self }
    }
}

impl Dashboard {
    /// The frame of a page that somebody looks at.
    pub(super) fn frame(&self, section: Section, title: impl Into<String>) -> Frame {
        self.note_look();
        let status = self.handle.status();
        let seen = self.seen.lock();
        let other = seen.leader().filter(|leader| leader.instance != status.instance);
        let place = |(of, path, name, key): (Section, &'static str, &'static str, char)| Place {
            path,
            name,
            key,
            is_here: of == section,
        };
        let alerts = seen.alerts.iter().filter(|alert| !alert.is_acknowledged).count() as u64;
        Frame {
            title: title.into(),
            mesh: status.mesh,
            version: status.version,
            epoch: status.epoch.0,
            is_leading: status.leading,
            is_connected: self.client.nats().connection_state() == State::Connected,
            leader: other.map(|leader| leader.instance.clone()),
            leader_address: other.and_then(|leader| leader.http).map(|address| format!("http://{address}/")),
            alerts: (alerts > 0).then(|| show::several(alerts, "alert", "alerts")),
            places: Section::ALL.map(place).into(),
            instance: status.instance,
            done: None,
            refresh_ms: 0,
            assets: assets::version(),
        }
    }
}
