//! The same users for a server with an operator: commands of `nsc`, which signs accounts and users as JWTs.

use std::fmt::Write as _;
use std::path::Path;

use shared::role::Permissions;
use shared::subject::Subjects;
use shared::{MeshName, Role};

use super::server::{Exports, SYSTEM, account};
use super::{User, Users};

/// A script for a shell. `seeds` is the directory with the seeds of the users, which `nsc` takes over.
pub fn script(users: &Users, seeds: &Path) -> String {
    let Users { mesh, users: all } = users;
    let home = account(mesh, Role::Coordinator);
    let mut text = format!(
        "#!/bin/sh\n\
         # Users of mesh `{mesh}` for a NATS server with an operator, which `nsc` knows already.\n\
         set -eu\n\
         nsc import keys --dir {}\n\
         nsc add account --name {home}\n\
         nsc edit account --name {home} --js-mem-storage -1 --js-disk-storage -1 --js-streams -1 --js-consumer -1\n\
         # The mesh hears when a connection of it is closed. `{SYSTEM}` exports that, as `nsc` makes it.\n\
         key=$(nsc describe account --name {home} --field sub | tr -d '\"')\n\
         nsc add import --account {home} --name disconnects --src-account {SYSTEM} \
         --remote-subject \"\\$SYS.ACCOUNT.$key.DISCONNECT\" --local-subject \"\\$SYS.ACCOUNT.$key.DISCONNECT\"\n",
        quoted(&seeds.to_string_lossy()),
    );
    for role in Role::ALL.into_iter().filter(|role| role.is_guest()) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "nsc add account --name {}", account(mesh, role));
    }
    write_exports(&mut text, users, mesh, &home);
    let subjects = Subjects::new(mesh.clone());
    for user in all {
        let User { role, public_key, .. } = user;
        let (account, name) = (account(mesh, *role), user.title());
        let Permissions { publish, subscribe } = user.permissions(&subjects);
        let _ = writeln!(
            text,
            "nsc add user --account {account} --name {name} --public-key {public_key} --allow-pub {} --allow-sub {}\n\
             nsc generate creds --account {account} --name {name} --output-file {name}.creds",
            quoted(&publish.join(",")),
            quoted(&subscribe.join(",")),
        );
    }
    text.push_str("nsc push --all\n");
    text
}

fn write_exports(text: &mut String, users: &Users, mesh: &MeshName, home: &str) {
    let exports = Exports::of(users);
    let kinds = [("--service", "service", &exports.services), ("", "stream", &exports.streams)];
    for (flag, what, subjects) in kinds {
        for (number, (subject, to)) in subjects.iter().enumerate() {
            let (name, subject) = (format!("{what}-{number}"), quoted(subject));
            let limit = Exports::threshold(subject.trim_matches('\''), mesh);
            let limit = limit.map(|limit| format!(" --response-threshold {limit}")).unwrap_or_default();
            // Writing to a string cannot fail.
            let _ = writeln!(text, "nsc add export --account {home} --name {name} --subject {subject} {flag}{limit}");
            for guest in to {
                let _ = writeln!(
                    text,
                    "nsc add import --account {guest} --name {name} --src-account {home} --remote-subject {subject} \
                     --local-subject {subject} {flag}"
                );
            }
        }
    }
}

/// A word of the shell in which nothing means anything.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_user_gets_the_permissions_of_its_role() {
        let user = |role, name: &str, key: &str| User { name: name.to_owned(), role, public_key: key.to_owned() };
        let users = Users {
            mesh: MeshName::default(),
            users: vec![user(Role::Agent, "ada", "UADA"), user(Role::Submitter, "submitter", "UWEB")],
        };

        let script = script(&users, Path::new("/etc/hive/it's"));

        assert!(script.contains(r"--dir '/etc/hive/it'\''s'"), "{script}");
        assert!(script.contains("--account HIVE --name agent-ada --public-key UADA"), "{script}");
        assert!(script.contains("--allow-pub 'hive.agent.ada.*,_INBOX.*.*.probe.ada' --allow-sub 'hive.inbox.ada.*'"));
        assert!(script.contains("--account HIVE_SUBMITTERS --name submitter --public-key UWEB"), "{script}");
        assert!(script.contains("--subject 'hive.call.*' --service --response-threshold 24h"), "{script}");
    }
}
