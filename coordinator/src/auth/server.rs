//! The settings of a nats-server: accounts and users, and what else it needs.
//!
//! Coordinators, agents and operators share the account of the mesh. Submitters and readers have accounts of their own,
//! which import exactly what their role may use: whatever subject a request of theirs names for its answer, the answer
//! stays in their account. In the mesh's account it could be a result, an order, or a purge.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use shared::role::Permissions;
use shared::subject::Subjects;
use shared::{MeshName, Role};

use super::{ACCOUNTS, User, Users};

/// The server's own account.
pub const SYSTEM: &str = "SYS";

/// How long a call may take across accounts; after that its answer finds the way back closed.
const LONGEST_CALL: &str = "24h";

/// The account that a role lives in.
pub fn account(mesh: &MeshName, role: Role) -> String {
    let mesh = mesh.as_str().to_ascii_uppercase();
    match role {
        Role::Submitter => format!("{mesh}_SUBMITTERS"),
        Role::Reader => format!("{mesh}_READERS"),
        Role::Agent | Role::Coordinator | Role::Operator => mesh,
    }
}

/// Which accounts get what from the mesh's account, by subject.
#[derive(Debug, Default)]
pub(super) struct Exports {
    /// Where they may ask.
    pub(super) services: BTreeMap<String, BTreeSet<String>>,
    /// What they may hear.
    pub(super) streams: BTreeMap<String, BTreeSet<String>>,
}

impl Exports {
    pub(super) fn of(users: &Users) -> Self {
        let subjects = Subjects::new(users.mesh.clone());
        let mut exports = Self::default();
        for user in users.users.iter().filter(|user| user.role.is_guest()) {
            let account = account(&users.mesh, user.role);
            let Permissions { publish, subscribe } = user.permissions(&subjects);
            for subject in publish {
                exports.services.entry(subject).or_default().insert(account.clone());
            }
            for subject in subscribe {
                exports.streams.entry(subject).or_default().insert(account.clone());
            }
        }
        exports
    }

    /// How long the answer of a service may take, where that is longer than usual.
    pub(super) fn threshold(subject: &str, mesh: &MeshName) -> Option<&'static str> {
        (subject == Subjects::new(mesh.clone()).calls()).then_some(LONGEST_CALL)
    }
}

/// The accounts with their users.
pub fn accounts(users: &Users) -> String {
    let home = account(&users.mesh, Role::Coordinator);
    let disconnects = quoted(&format!("$SYS.ACCOUNT.{home}.DISCONNECT"));
    let exports = Exports::of(users);
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "# Written by `coordinator auth` for mesh `{}`; changes are lost. Nothing in here is secret.\n\
         system_account: {SYSTEM}\n\
         accounts {{\n  \
           {SYSTEM}: {{\n    \
             # The mesh hears when a connection of it is closed: so the crash of an agent is noticed at once.\n    \
             exports: [ {{ stream: {disconnects}, accounts: [{home}] }} ]\n  \
           }}\n",
        users.mesh,
        home = quoted(&home),
    );
    let _ = write!(
        text,
        "  {home}: {{\n    \
           jetstream: enabled\n    \
           imports: [ {{ stream: {{ account: {SYSTEM}, subject: {disconnects} }} }} ]\n    \
           exports: [\n",
        home = quoted(&home),
    );
    for (subject, to) in &exports.services {
        let threshold = Exports::threshold(subject, &users.mesh);
        let threshold = threshold.map(|limit| format!(", response_threshold: \"{limit}\"")).unwrap_or_default();
        let _ = writeln!(text, "      {{ service: {}, accounts: [{}]{threshold} }}", quoted(subject), list(to));
    }
    for (subject, to) in &exports.streams {
        let _ = writeln!(text, "      {{ stream: {}, accounts: [{}] }}", quoted(subject), list(to));
    }
    text.push_str("    ]\n");
    write_users(&mut text, users, &home);
    text.push_str("  }\n");
    for role in Role::ALL.into_iter().filter(|role| role.is_guest()) {
        let guest = account(&users.mesh, role);
        let _ = write!(text, "  {}: {{\n    imports: [\n", quoted(&guest));
        write_imports(&mut text, "service", &exports.services, &home, &guest);
        write_imports(&mut text, "stream", &exports.streams, &home, &guest);
        text.push_str("    ]\n");
        write_users(&mut text, users, &guest);
        text.push_str("  }\n");
    }
    text.push_str("}\n");
    text
}

fn write_imports(text: &mut String, what: &str, exports: &BTreeMap<String, BTreeSet<String>>, home: &str, guest: &str) {
    for (subject, _) in exports.iter().filter(|(_, to)| to.contains(guest)) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "      {{ {what}: {{ account: {}, subject: {} }} }}", quoted(home), quoted(subject));
    }
}

fn write_users(text: &mut String, users: &Users, of: &str) {
    let subjects = Subjects::new(users.mesh.clone());
    text.push_str("    users: [\n");
    for user in users.users.iter().filter(|user| account(&users.mesh, user.role) == of) {
        let User { name, role, public_key } = user;
        let Permissions { publish, subscribe } = user.permissions(&subjects);
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "      # {role} {name}\n      \
             {{ nkey: {public_key}, permissions: {{\n        \
               publish: {{ allow: [{}] }}\n        \
               subscribe: {{ allow: [{}] }}\n      \
             }} }}\n",
            list(&publish),
            list(&subscribe),
        );
    }
    text.push_str("    ]\n");
}

/// What is not about users.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the server listens, as `address:port`.
    pub listen: String,
    /// Whether connections are encrypted, by the files that [`super::certificates`] makes.
    pub tls: bool,
    /// Whether who connects needs a certificate, too.
    pub mutual: bool,
}

impl Settings {
    pub(super) fn text(&self, directory: &Path, mesh: &MeshName) -> String {
        let file = |name: &str| quoted_path(&directory.join(name));
        let mut text = format!(
            "# Settings of nats-server for mesh `{mesh}`. They are yours to change: `coordinator auth` has written them\n\
             # once. Users are in {ACCOUNTS}; after a change to them: nats-server --signal reload\n\
             listen: {}\n\
             # Dead connections are noticed within thirty seconds instead of six minutes.\n\
             ping_interval: \"10s\"\n\
             ping_max: 2\n\
             # For no loss at a power cut add to it: sync_interval: always\n\
             jetstream {{ store_dir: {} }}\n",
            quoted(&self.listen),
            file("jetstream"),
        );
        if self.tls {
            let (certificate, key) = (file(super::certificates::SERVER), file(super::certificates::SERVER_KEY));
            // Writing to a string cannot fail.
            let _ = write!(text, "tls {{\n  cert_file: {certificate}\n  key_file: {key}\n  timeout: 5\n");
            if self.mutual {
                let _ = write!(text, "  ca_file: {}\n  verify: true\n", file(super::certificates::AUTHORITY));
            }
            text.push_str("}\n");
        }
        let _ = writeln!(text, "include {}", quoted(ACCOUNTS));
        text
    }
}

fn list<'a>(texts: impl IntoIterator<Item = &'a String>) -> String {
    texts.into_iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", ")
}

/// A text of the server's settings, which has the escapes of JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn quoted_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users() -> Users {
        let user = |role: Role, name: &str| User {
            name: name.to_owned(),
            role,
            public_key: format!("U{}", name.to_ascii_uppercase()),
        };
        let users = vec![
            user(Role::Coordinator, "coordinator"),
            user(Role::Agent, "ada"),
            user(Role::Submitter, "web"),
            user(Role::Reader, "eve"),
        ];
        Users { mesh: MeshName::default(), users }
    }

    #[test]
    fn guests_get_from_the_mesh_what_their_role_may_use_and_nothing_else() {
        let exports = Exports::of(&users());
        let of = |exports: &BTreeMap<String, BTreeSet<String>>, account: &str| {
            let mine = exports.iter().filter(|(_, to)| to.contains(account));
            mine.map(|(subject, _)| subject.clone()).collect::<BTreeSet<String>>()
        };
        let submitter = users().users[2].permissions(&Subjects::default());

        assert_eq!(of(&exports.services, "HIVE_SUBMITTERS"), submitter.publish.into_iter().collect());
        assert_eq!(of(&exports.streams, "HIVE_SUBMITTERS"), submitter.subscribe.into_iter().collect());
        assert!(!of(&exports.services, "HIVE_READERS").contains("hive.task.>"));
        assert!(of(&exports.streams, "HIVE_READERS").contains("hive.event.*.*"));
        assert!(!exports.streams.contains_key("_INBOX.UCOORDINATOR.>"));
    }

    #[test]
    fn each_user_is_in_the_account_of_its_role() {
        let text = accounts(&users());
        let (home, guests) = text.split_once("\"HIVE_SUBMITTERS\": {").unwrap();
        let (submitters, readers) = guests.split_once("\"HIVE_READERS\": {").unwrap();

        assert!(home.contains("nkey: UCOORDINATOR") && home.contains("nkey: UADA"), "{text}");
        assert!(submitters.contains("nkey: UWEB") && !submitters.contains("nkey: UEVE"), "{text}");
        assert!(readers.contains("nkey: UEVE"), "{text}");
        assert!(home.contains("\"hive.agent.ada.*\""), "{text}");
    }

    #[test]
    fn who_connects_needs_a_certificate_only_where_that_is_wanted() {
        let text = |tls, mutual| {
            let settings = Settings { listen: "127.0.0.1:4222".to_owned(), tls, mutual };
            settings.text(Path::new("/etc/hive"), &MeshName::default())
        };

        assert!(!text(false, false).contains("tls {"));
        assert!(text(true, false).contains(r#"cert_file: "/etc/hive/tls/server.pem""#));
        assert!(!text(true, false).contains("verify"));
        assert!(text(true, true).contains("verify: true"));
    }
}
