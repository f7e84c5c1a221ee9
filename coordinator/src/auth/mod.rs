//! Users of a NATS server for one mesh: their keys, and the settings by which the server tells them apart.
//!
//! What a role may do is said by [`shared::role`]; here it is written down, as settings of nats-server ([`server`]) or
//! as commands for accounts with JWTs ([`nsc`]). [`certificates`] makes what TLS needs. A directory keeps it all, and is
//! added to: nothing secret that is there is ever overwritten.

pub mod certificates;
pub mod nsc;
pub mod server;

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shared::names::BadName;
use shared::role::{Permissions, inbox_prefix};
use shared::subject::Subjects;
use shared::{AgentId, MeshName, Role};

/// Lists the users, without anything secret.
const USERS: &str = "users.json";
/// Holds a file with the seed of each user.
const SEEDS: &str = "seeds";
/// What of the server's settings is written anew whenever a user is added.
pub const ACCOUNTS: &str = "accounts.conf";
/// The rest of the server's settings, which are the operator's to change.
pub const SERVER: &str = "nats.conf";

/// Why the directory could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("failed to read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("failed to write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The list of users is not one.
    #[error("`{}` is not a list of users", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// Nothing was made there yet.
    #[error("there are no users in `{}`: run `coordinator auth init --out {}` first", .0.display(), .0.display())]
    Empty(PathBuf),
    /// It is another mesh's.
    #[error("`{}` is for mesh `{found}`, not `{wanted}`: use another directory", path.display())]
    OtherMesh {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: MeshName,
        /// Whose it should be.
        wanted: MeshName,
    },
    /// The mesh's account would have the name of the server's own.
    #[error(
        "a mesh named `{0}` cannot have users of its own: its account would be the server's; choose another --mesh"
    )]
    Reserved(MeshName),
    /// The name is none.
    #[error(transparent)]
    Name(#[from] BadName),
    /// A key could not be made.
    #[error("failed to make a key")]
    Key(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Somebody whom the server knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Its name; an agent's is its id.
    pub name: String,
    /// What it is to the mesh.
    #[serde(with = "role_as_text")]
    pub role: Role,
    /// The public half of its NKey.
    pub public_key: String,
}

impl User {
    /// What it may do.
    pub fn permissions(&self, subjects: &Subjects) -> Permissions {
        Permissions::of(self.role, subjects, &self.name, &inbox_prefix(&self.public_key))
    }

    /// What its files are called: the role, and the name where that says more.
    pub fn title(&self) -> String {
        if self.name == self.role.as_str() { self.name.clone() } else { format!("{}-{}", self.role, self.name) }
    }
}

mod role_as_text {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use shared::Role;

    pub(super) fn serialize<S: Serializer>(role: &Role, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(role.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Role, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// All users of a mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Users {
    /// The mesh.
    pub mesh: MeshName,
    /// They, in the order they were added.
    pub users: Vec<User>,
}

/// A directory with users, their seeds and a server's settings.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    users: Users,
}

impl Directory {
    /// Opens one, or begins it where there is none.
    pub fn create(path: &Path, mesh: &MeshName) -> Result<Self, Error> {
        if mesh.as_str().eq_ignore_ascii_case(server::SYSTEM) {
            return Err(Error::Reserved(mesh.clone()));
        }
        match Self::open(path) {
            Ok(directory) if directory.users.mesh == *mesh => Ok(directory),
            Ok(Self { users, .. }) => {
                Err(Error::OtherMesh { path: path.to_owned(), found: users.mesh, wanted: mesh.clone() })
            }
            Err(Error::Empty(_)) => {
                let path = absolute(path)?;
                make_private(&path)?;
                make_private(&path.join(SEEDS))?;
                Ok(Self { path, users: Users { mesh: mesh.clone(), users: Vec::new() } })
            }
            Err(error) => Err(error),
        }
    }

    /// Opens one that there is.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let path = absolute(path)?;
        let file = path.join(USERS);
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::Empty(path)),
            Err(source) => return Err(Error::Read { path: file, source }),
        };
        let users = serde_json::from_str(&text).map_err(|source| Error::Shape { path: file, source })?;
        Ok(Self { path, users })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who is in it.
    pub fn users(&self) -> &Users {
        &self.users
    }

    /// Where the seeds are.
    pub fn seeds(&self) -> PathBuf {
        self.path.join(SEEDS)
    }

    /// The file with the seed of a user.
    pub fn seed_file(&self, user: &User) -> PathBuf {
        self.seeds().join(format!("{}.nk", user.title()))
    }

    /// Adds a user with a key of its own; one that is there already stays as it is. Whether it is new.
    pub fn add(&mut self, role: Role, name: &str) -> Result<bool, Error> {
        // Every name obeys the rules of an agent's id, so that it can stand in files and settings.
        let name = AgentId::new(name)?.to_string();
        if self.users.users.iter().any(|user| user.role == role && user.name == name) {
            return Ok(false);
        }
        let keys = nkeys::KeyPair::new_user();
        let seed = keys.seed().map_err(|error| Error::Key(error.into()))?;
        let user = User { name, role, public_key: keys.public_key() };
        write_secret(&self.seed_file(&user), &format!("{seed}\n"))?;
        self.users.users.push(user);
        Ok(true)
    }

    /// Writes who is in it, and the accounts of the server.
    pub fn save(&self) -> Result<(), Error> {
        let list = serde_json::to_string_pretty(&self.users).expect("a list of users is JSON");
        write(&self.path.join(USERS), &format!("{list}\n"))?;
        write(&self.path.join(ACCOUNTS), &server::accounts(&self.users))
    }

    /// Writes the server's other settings, unless they are there. Whether they were written.
    pub fn write_server(&self, settings: &server::Settings) -> Result<bool, Error> {
        let path = self.path.join(SERVER);
        if path.exists() {
            return Ok(false);
        }
        write(&path, &settings.text(&self.path, &self.users.mesh))?;
        Ok(true)
    }
}

fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

fn make_private(path: &Path) -> Result<(), Error> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| Error::Write { path: path.to_owned(), source })
}

/// Written beside its place and moved there, so that a server that reads it meanwhile finds all of it.
fn write(path: &Path, text: &str) -> Result<(), Error> {
    let fresh = path.with_extension("new");
    fs::write(&fresh, text)
        .and_then(|()| fs::rename(&fresh, path))
        .map_err(|source| Error::Write { path: path.to_owned(), source })
}

/// Writes a file that only its owner can read, and that was not there before.
fn write_secret(path: &Path, text: &str) -> Result<(), Error> {
    let opened = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    opened
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|source| Error::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn directory(path: &Path) -> Directory {
        Directory::create(path, &MeshName::default()).unwrap()
    }

    #[test]
    fn a_seed_is_for_its_owner_only_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = directory(dir.path());
        assert!(first.add(Role::Agent, "ada").unwrap());
        first.save().unwrap();
        let file = first.seed_file(&first.users().users[0]);
        let seed = fs::read_to_string(&file).unwrap();

        let mut again = directory(dir.path());

        assert!(!again.add(Role::Agent, "ada").unwrap());
        assert!(again.add(Role::Agent, "bob").unwrap());
        assert_eq!(again.users().users[0], first.users().users[0]);
        assert_eq!(fs::read_to_string(&file).unwrap(), seed);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(file.ends_with("seeds/agent-ada.nk"));
    }

    #[test]
    fn a_seed_without_its_user_is_not_overwritten_either() {
        let dir = tempfile::tempdir().unwrap();
        directory(dir.path()).add(Role::Reader, "reader").unwrap();

        let error = directory(dir.path()).add(Role::Reader, "reader").unwrap_err();

        assert!(matches!(error, Error::Write { .. }), "{error}");
    }

    #[test]
    fn nothing_secret_stands_in_what_the_server_gets() {
        let dir = tempfile::tempdir().unwrap();
        let mut users = directory(dir.path());
        for role in Role::ALL {
            users.add(role, role.as_str()).unwrap();
        }
        users.save().unwrap();

        for name in [USERS, ACCOUNTS] {
            let text = fs::read_to_string(dir.path().join(name)).unwrap();
            for user in &users.users().users {
                let seed = fs::read_to_string(users.seed_file(user)).unwrap();
                assert!(!text.contains(seed.trim()), "{name}");
                assert!(text.contains(&user.public_key), "{name}");
            }
        }
    }

    #[test]
    fn a_directory_belongs_to_one_mesh() {
        let dir = tempfile::tempdir().unwrap();
        directory(dir.path()).save().unwrap();

        let other = Directory::create(dir.path(), &"other".parse().unwrap()).unwrap_err();
        assert!(matches!(other, Error::OtherMesh { .. }), "{other}");
        let reserved = Directory::create(dir.path(), &"sys".parse().unwrap()).unwrap_err();
        assert!(matches!(reserved, Error::Reserved(_)), "{reserved}");
        let empty = Directory::open(&dir.path().join("nothing")).unwrap_err();
        assert!(matches!(empty, Error::Empty(_)), "{empty}");
    }
}
