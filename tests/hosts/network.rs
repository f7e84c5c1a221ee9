//! Hosts on this machine: a network namespace each, with an address of its own, joined by a switch that can cut any of
//! them off.
//!
//! The switch is a namespace too, so nothing of this can be reached from the machine's own network, and nothing of the
//! machine from here. A cut drops frames in the switch, where nobody's kernel notices: a host that drops what it sends
//! itself tells its TCP so, which then does not back off as it would on a real network.
//!
//! Names hold the id of the process that made them. What a killed one has left is removed by the next.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, ensure};
use coordinator::local::Program;
use nix::sched::{CloneFlags, setns};

/// What the names of all our namespaces begin with; then come the process, the network's number and the host.
const PREFIX: &str = "hivemesh-hosts-";
/// Where `ip netns` keeps namespaces.
const NAMESPACES: &str = "/run/netns";
/// The other end of a host's cable, within the host.
const CARD: &str = "eth0";
/// The switch, among the hosts of its network.
const SWITCH: &str = "switch";

/// What a cut takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Nothing reaches the host, and nothing comes from it.
    Both,
    /// Nothing reaches it.
    In,
    /// Nothing comes from it.
    Out,
}

/// Some hosts. Dropping it removes them.
#[derive(Debug)]
pub(crate) struct Network {
    prefix: String,
    hosts: Vec<Host>,
}

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    name: &'static str,
    address: Ipv4Addr,
    namespace: PathBuf,
}

impl Network {
    /// Makes hosts of these names, joined and up. `None` if this machine has no namespaces for us; that is said loudly,
    /// and on CI (where `CI` is set) it is a failure.
    pub(crate) fn of_or_skip(names: &[&'static str]) -> Option<Self> {
        match Self::of(names) {
            Ok(network) => Some(network),
            Err(problem) => {
                eprintln!(
                    "SKIPPED: nothing was tried between hosts, because there are no network namespaces to be had \
                     (it takes root, iproute2, nftables and util-linux): {problem:#}"
                );
                assert!(std::env::var_os("CI").is_none(), "on CI nothing is skipped: {problem:#}");
                None
            }
        }
    }

    fn of(names: &[&'static str]) -> anyhow::Result<Self> {
        static NETWORKS: AtomicU32 = AtomicU32::new(0);
        sweep();
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let mut network = Self {
            prefix: format!("{PREFIX}{}-{number}-", std::process::id()),
            hosts: Vec::with_capacity(names.len()),
        };
        // From here on, what is there is removed when it is dropped.
        ip(&["netns", "add", &network.namespace(SWITCH)])?;
        network.in_switch(&["link", "add", "bridge", "type", "bridge", "forward_delay", "0"])?;
        network.in_switch(&["link", "set", "bridge", "up"])?;
        for (&name, last) in names.iter().zip(1..) {
            network.add(name, Ipv4Addr::new(10, 77, 0, last))?;
        }
        Ok(network)
    }

    fn add(&mut self, name: &'static str, address: Ipv4Addr) -> anyhow::Result<()> {
        let namespace = self.namespace(name);
        ip(&["netns", "add", &namespace])?;
        self.hosts.push(Host { name, address, namespace: Path::new(NAMESPACES).join(&namespace) });
        self.in_switch(&["link", "add", name, "type", "veth", "peer", "name", CARD, "netns", &namespace])?;
        self.in_switch(&["link", "set", name, "master", "bridge", "up"])?;
        ip(&["-n", &namespace, "address", "add", &format!("{address}/24"), "dev", CARD])?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        ip(&["-n", &namespace, "link", "set", CARD, "up"])
    }

    /// A host.
    ///
    /// # Panics
    /// If there is none of that name.
    pub(crate) fn host(&self, name: &str) -> &Host {
        self.hosts.iter().find(|host| host.name == name).unwrap_or_else(|| panic!("there is no host {name}"))
    }

    /// Cuts a host off; it stays so until it is healed.
    pub(crate) fn cut(&self, host: &Host, way: Way) -> anyhow::Result<()> {
        let name = host.name;
        let to = format!("oifname \"{name}\" drop");
        let from = format!("iifname \"{name}\" drop");
        let rules = match way {
            Way::Both => format!("{to}\n{from}"),
            Way::In => to,
            Way::Out => from,
        };
        self.nft(&format!(
            "table bridge cut-{name} {{\nchain forward {{\ntype filter hook forward priority 0;\n{rules}\n}}\n}}\n"
        ))
    }

    /// Undoes the cut of a host.
    pub(crate) fn heal(&self, host: &Host) -> anyhow::Result<()> {
        self.nft(&format!("delete table bridge cut-{}\n", host.name))
    }

    fn nft(&self, rules: &str) -> anyhow::Result<()> {
        let mut command = within(&Path::new(NAMESPACES).join(self.namespace(SWITCH)));
        command.args(["nft", "-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut nft = command.spawn().with_context(|| format!("{command:?}"))?;
        let mut input = nft.stdin.take().expect("it is piped");
        input.write_all(rules.as_bytes())?;
        drop(input);
        succeeded(&command, &nft.wait_with_output()?)
    }

    fn in_switch(&self, args: &[&str]) -> anyhow::Result<()> {
        ip(&[&["-n", &self.namespace(SWITCH)], args].concat())
    }

    fn namespace(&self, host: &str) -> String {
        format!("{}{host}", self.prefix)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // A cable goes with the namespace at either of its ends.
        for host in self.hosts.iter().map(|host| host.name).chain([SWITCH]) {
            let namespace = self.namespace(host);
            let is_there = Path::new(NAMESPACES).join(&namespace).exists();
            if is_there && let Err(error) = ip(&["netns", "delete", &namespace]) {
                eprintln!("a host is left behind: {error:#}");
            }
        }
    }
}

impl Host {
    /// Its name.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Its address.
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// A program as it is to be started in order to run there.
    pub(crate) fn program(&self, program: Program) -> Program {
        let net = OsString::from(format!("--net={}", self.namespace.display()));
        let args = [net, "--".into(), program.path.into_os_string()].into_iter().chain(program.args).collect();
        Program { path: "nsenter".into(), args, ..program }
    }

    /// Moves this thread there, and with it all threads and processes that it starts from now on.
    pub(crate) fn enter(&self) -> anyhow::Result<()> {
        let namespace = File::open(&self.namespace).with_context(|| format!("{}", self.namespace.display()))?;
        setns(namespace, CloneFlags::CLONE_NEWNET).with_context(|| format!("failed to enter the host {}", self.name))
    }
}

/// Removes what processes have left that were killed.
fn sweep() {
    let Ok(entries) = fs::read_dir(NAMESPACES) else { return };
    for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        if maker_of(&name).is_some_and(|maker| !Path::new("/proc").join(maker.to_string()).exists()) {
            // Another test program may be faster.
            let _ = ip(&["netns", "delete", &name]);
        }
    }
}

/// The process that made a namespace, if it is one of ours.
fn maker_of(namespace: &str) -> Option<u32> {
    namespace.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

fn ip(args: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("ip");
    command.args(args).stdin(Stdio::null());
    let output = command.output().with_context(|| format!("{command:?}"))?;
    succeeded(&command, &output)
}

/// A command that begins in a namespace, and wants to be told what to run.
fn within(namespace: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", namespace.display())).arg("--");
    command
}

fn succeeded(command: &Command, output: &Output) -> anyhow::Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}", said.trim());
    Ok(())
}

/// Whether somebody answers at this port of a host, or at least refuses: then the way there is open.
fn is_reached(host: &Host) -> bool {
    let address = (host.address, 9).into();
    match std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_millis(200)) {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
    }
}

/// Waits until one host reaches another, or does not, as seen from the thread's own host.
fn until_reached(host: &Host, expected: bool) {
    let began = std::time::Instant::now();
    while is_reached(host) != expected {
        assert!(began.elapsed().as_secs() < 30, "{}: reached is not {expected}", host.name);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Runs something on a host, in a thread of its own.
pub(crate) fn on<T: Send>(host: &Host, work: impl FnOnce() -> T + Send) -> T {
    let there = move || {
        host.enter().expect("the host is there");
        work()
    };
    std::thread::scope(|scope| scope.spawn(there).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[test]
fn a_cut_takes_away_what_it_says_and_healing_brings_it_back() {
    let Some(network) = Network::of_or_skip(&["ada", "bob", "cid"]) else { return };
    let [bob, cid] = ["bob", "cid"].map(|name| network.host(name));
    on(network.host("ada"), || {
        until_reached(bob, true);
        for way in [Way::Both, Way::In, Way::Out] {
            network.cut(bob, way).expect("a host can be cut off");
            // An answer takes both ways, so to ask from one side does not tell them apart.
            assert!(!is_reached(bob), "{way:?}");
            until_reached(cid, true);
            network.heal(bob).expect("a host can be healed");
            until_reached(bob, true);
        }
    });
}

#[test]
fn what_a_cut_in_one_direction_lets_through_is_the_other() {
    use std::net::UdpSocket;
    use std::time::Duration;
    let Some(network) = Network::of_or_skip(&["ada", "bob"]) else { return };
    let [ada, bob] = ["ada", "bob"].map(|name| network.host(name));
    let socket = |host: &Host| {
        on(host, || {
            let socket = UdpSocket::bind((host.address, 7000)).expect("nobody else is on this host");
            socket.set_read_timeout(Some(Duration::from_millis(300))).expect("it is not zero");
            socket
        })
    };
    // A socket stays on the host where it was made.
    let (at_ada, at_bob) = (socket(ada), socket(bob));
    let arrives = |from: &UdpSocket, to: &UdpSocket| {
        from.send_to(b"x", to.local_addr().expect("it is bound")).expect("it can be sent");
        to.recv(&mut [0]).is_ok()
    };
    on(ada, || until_reached(bob, true));

    network.cut(bob, Way::In).expect("a host can be cut off");
    let (to_bob, from_bob) = (arrives(&at_ada, &at_bob), arrives(&at_bob, &at_ada));
    network.heal(bob).expect("a host can be healed");
    assert_eq!((to_bob, from_bob), (false, true));

    network.cut(bob, Way::Out).expect("a host can be cut off");
    let (to_bob, from_bob) = (arrives(&at_ada, &at_bob), arrives(&at_bob, &at_ada));
    network.heal(bob).expect("a host can be healed");
    assert_eq!((to_bob, from_bob), (true, false));
}

#[test]
fn what_a_killed_process_has_left_is_removed_and_what_another_has_made_stays() {
    let mut ended = Command::new("true").spawn().expect("there is a program of this name");
    ended.wait().expect("it is our child");
    let Some(other) = Network::of_or_skip(&["ada"]) else { return };
    let left = format!("{PREFIX}{}-0-ada", ended.id());
    ip(&["netns", "add", &left]).expect("namespaces can be made, as has just been seen");

    sweep();

    assert!(!Path::new(NAMESPACES).join(left).exists());
    assert!(other.host("ada").namespace.exists());
}
