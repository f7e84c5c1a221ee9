//! `coordinator auth`: users for a NATS server, each with what its role needs and nothing else; and tokens for the API.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use serde::Serialize;
use serde_json::json;
use shared::connect::Settings;
use shared::{AgentId, Role};

use super::output::{self, Usage};
use crate::auth::server::account;
use crate::auth::{Directory, SERVER, User, certificates, nsc, server};
use crate::http;

/// Make users for a NATS server: keys, and settings that give each no more than its role needs. Make tokens for the API.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// Directory that keeps them.
    #[arg(long, value_name = "DIR", default_value = "nats-auth", global = true)]
    out: PathBuf,
    /// Print a JSON document.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Begin: a server's settings, and a user of each role. What is there already stays.
    Init(Init),
    /// Add agents, each under its own id.
    AddAgent {
        /// Their ids.
        #[arg(required = true, value_name = "ID")]
        agents: Vec<AgentId>,
    },
    /// Add another user.
    AddUser {
        /// Its name.
        name: String,
        /// What it may do: submitter, reader, agent, coordinator or operator.
        #[arg(long)]
        role: Role,
    },
    /// List the users and the files that they need.
    List,
    /// Print commands for `nsc` that make the same users on a server with an operator (accounts with JWTs).
    Jwt,
    /// Make a token for the API over HTTP: it goes to stdout, and is told this once; its line of the settings to stderr.
    Token {
        /// What it lets do: read, submit, operate or admin; each may do what those before it may.
        #[arg(long)]
        role: http::Role,
        /// Whose it is.
        #[arg(long, value_parser = NonEmptyStringValueParser::new())]
        name: String,
    },
    /// Make new certificates for the server and for those who connect, by the authority that is there.
    Renew {
        #[command(flatten)]
        hosts: Hosts,
    },
}

#[derive(Debug, clap::Args)]
struct Init {
    /// Ids of agents, separated by commas.
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    agents: Vec<AgentId>,
    /// Encrypt connections: makes an authority, and a certificate of the server.
    #[arg(long)]
    tls: bool,
    /// Let nobody connect without a certificate of that authority, either.
    #[arg(long, requires = "tls")]
    mutual: bool,
    #[command(flatten)]
    hosts: Hosts,
    /// Where the server listens [default: 127.0.0.1:4222, and 0.0.0.0:4222 with --tls].
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Hosts {
    /// Names and addresses that the server is reached by, separated by commas; its certificate is for them.
    #[arg(
        long = "hosts",
        value_name = "HOSTS",
        value_delimiter = ',',
        default_value = "localhost,127.0.0.1,::1",
        value_parser = NonEmptyStringValueParser::new()
    )]
    names: Vec<String>,
}

/// The users that every mesh has.
const FIRST: [Role; 4] = [Role::Coordinator, Role::Operator, Role::Submitter, Role::Reader];

/// Carries out the subcommand.
pub fn run(args: Args, connection: &Settings) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Init(init) => {
            let mut directory = Directory::create(&args.out, &connection.mesh)?;
            for role in FIRST {
                directory.add(role, role.as_str())?;
            }
            for agent in &init.agents {
                directory.add(Role::Agent, agent.as_str())?;
            }
            begin_server(&directory, init)?;
            directory.save()?;
            show(&directory, args.json)?;
        }
        Command::AddAgent { agents } => {
            let mut directory = Directory::open(&args.out)?;
            for agent in agents {
                add(&mut directory, Role::Agent, agent.as_str())?;
            }
            directory.save()?;
            show(&directory, args.json)?;
        }
        Command::AddUser { name, role } => {
            let mut directory = Directory::open(&args.out)?;
            add(&mut directory, role, &name)?;
            directory.save()?;
            show(&directory, args.json)?;
        }
        Command::Token { role, name } => token(role, name, args.json)?,
        Command::List => show(&Directory::open(&args.out)?, args.json)?,
        Command::Jwt => {
            let directory = Directory::open(&args.out)?;
            output::line(nsc::script(directory.users(), &directory.seeds()).trim_end())?;
        }
        Command::Renew { hosts } => {
            let directory = Directory::open(&args.out)?;
            if !directory.path().join(certificates::AUTHORITY_KEY).exists() {
                let problem = "there is no authority in that directory: begin with `coordinator auth init --tls`";
                return Err(Usage(problem.to_owned()).into());
            }
            certificates::make(directory.path(), &directory.users().mesh, &hosts.names)?;
            eprintln!("the server takes its new certificate at: nats-server --signal reload");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Tells a new token, and what the coordinator has to know of it.
fn token(role: http::Role, name: String, as_json: bool) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Settings {
        http: Section,
    }
    #[derive(Serialize)]
    struct Section {
        tokens: [http::Token; 1],
    }
    let new = http::NewToken::generate()?;
    let token = http::Token { name, role, sha256: new.hash };
    if as_json {
        return output::json(&json!({ "token": new.secret, "settings": token }));
    }
    let settings = toml::to_string(&Settings { http: Section { tokens: [token] } })?;
    output::line(&new.secret)?;
    eprintln!(
        "add this to the settings of each coordinator, which takes it over by itself if it has tokens already:\n"
    );
    eprintln!("{settings}\nsend the token as `Authorization: Bearer TOKEN`; nobody keeps it but you");
    Ok(())
}

fn add(directory: &mut Directory, role: Role, name: &str) -> anyhow::Result<()> {
    if !directory.add(role, name)? {
        eprintln!("{role} `{name}` is there already, and stays as it is");
    }
    Ok(())
}

fn begin_server(directory: &Directory, init: Init) -> anyhow::Result<()> {
    let Init { tls, mutual, hosts, listen, .. } = init;
    if tls && !directory.path().join(certificates::SERVER).exists() {
        certificates::make(directory.path(), &directory.users().mesh, &hosts.names)?;
    }
    // What is not encrypted does not leave this host unless somebody wants it to.
    let usual = if tls { "0.0.0.0:4222" } else { "127.0.0.1:4222" };
    let listen = listen.unwrap_or_else(|| usual.to_owned());
    if !directory.write_server(&server::Settings { listen, tls, mutual })? {
        eprintln!("`{SERVER}` is there already, and stays as it is");
    }
    Ok(())
}

/// Tells which file goes where.
fn show(directory: &Directory, as_json: bool) -> anyhow::Result<()> {
    let users = directory.users();
    let file = |user: &User| directory.seed_file(user).display().to_string();
    if as_json {
        let items: Vec<_> = users
            .users
            .iter()
            .map(|user| {
                json!({
                    "name": user.name,
                    "role": user.role.as_str(),
                    "account": account(&users.mesh, user.role),
                    "public_key": user.public_key,
                    "inbox_prefix": shared::role::inbox_prefix(&user.public_key),
                    "seed": file(user),
                })
            })
            .collect();
        return output::json(&json!({ "mesh": users.mesh, "directory": directory.path(), "items": items }));
    }
    let row = |user: &User| [user.role.to_string(), user.name.clone(), file(user), needed_by(user.role).to_owned()];
    output::table(["ROLE", "NAME", "SEED", "NEEDED BY"], users.users.iter().map(row))?;
    let path = directory.path().display();
    eprintln!("nats-server: {path}/{SERVER}, with the files beside it: nats-server --config {path}/{SERVER}");
    eprintln!("everybody else: its own seed, by NATS_NKEY=FILE; move it there, and keep no copy");
    if directory.path().join(certificates::AUTHORITY).exists() {
        eprintln!("everybody: {path}/{}, by NATS_CA=FILE", certificates::AUTHORITY);
        eprintln!(
            "where the server wants a certificate: {path}/{} and {path}/{}, by NATS_CERT and NATS_KEY",
            certificates::CLIENT,
            certificates::CLIENT_KEY
        );
    }
    Ok(())
}

fn needed_by(role: Role) -> &'static str {
    match role {
        Role::Submitter => "programs that submit tasks",
        Role::Reader => "dashboards and the curious",
        Role::Agent => "agent-worker --id NAME",
        Role::Coordinator => "coordinator serve, each of them",
        Role::Operator => "people who run the mesh",
    }
}
