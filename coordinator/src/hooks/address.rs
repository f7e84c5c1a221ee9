//! Where a webhook may be sent: to public addresses, and to those that the settings allow.
//!
//! The check is made of the very address that is connected to: a name is resolved here, by [`Guarded`], and what it
//! resolves to is what the connection is made with. So a name that means another address a moment later, or a second
//! address among good ones, does not get through. Redirects are not followed at all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, LazyLock};

use ipnet::IpNet;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Networks that are nobody's public hosts, by the registries of special-purpose addresses of IANA; and metadata services
/// of clouds that have public addresses.
const REFUSED: [(&str, &str); 31] = [
    ("0.0.0.0/8", "an address of this host"),
    ("10.0.0.0/8", "a private address"),
    ("100.64.0.0/10", "a shared address of a provider"),
    ("127.0.0.0/8", "a loopback address"),
    ("168.63.129.16/32", "a metadata service"),
    ("169.254.0.0/16", "a link-local address, as metadata services have"),
    ("172.16.0.0/12", "a private address"),
    ("192.0.0.0/24", "an address of the protocol itself"),
    ("192.0.2.0/24", "an address for documentation"),
    ("192.31.196.0/24", "an address of the protocol itself"),
    ("192.52.193.0/24", "an address of the protocol itself"),
    ("192.88.99.0/24", "an address of a relay"),
    ("192.168.0.0/16", "a private address"),
    ("192.175.48.0/24", "an address of the protocol itself"),
    ("198.18.0.0/15", "an address for benchmarks"),
    ("198.51.100.0/24", "an address for documentation"),
    ("203.0.113.0/24", "an address for documentation"),
    ("224.0.0.0/4", "a multicast address"),
    ("240.0.0.0/4", "a reserved address"),
    ("::/96", "an address of this host"),
    ("64:ff9b:1::/48", "a private address"),
    ("100::/64", "an address that leads nowhere"),
    ("2001::/23", "an address of the protocol itself"),
    ("2001:db8::/32", "an address for documentation"),
    ("2620:4f:8000::/48", "an address of the protocol itself"),
    ("3fff::/20", "an address for documentation"),
    ("5f00::/16", "an address of segment routing"),
    ("fc00::/7", "a private address"),
    ("fe80::/10", "a link-local address"),
    ("fec0::/10", "a private address"),
    ("ff00::/8", "a multicast address"),
];

/// Why something is not sent there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{address} is {why}: webhooks are sent to public addresses; `[webhooks] allow` in the coordinator's settings names others"
)]
pub(crate) struct Refused {
    address: IpAddr,
    why: &'static str,
}

/// Which addresses may be connected to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    allowed: Arc<[IpNet]>,
}

impl Rules {
    /// Public addresses, and those in these networks.
    pub(crate) fn new(allowed: &[IpNet]) -> Self {
        Self { allowed: allowed.into() }
    }

    /// Whether it may be connected to.
    pub(crate) fn check(&self, address: IpAddr) -> Result<(), Refused> {
        let allowed = |meant: IpAddr| self.allowed.iter().any(|network| network.contains(&meant));
        let meant = innermost(address);
        if allowed(address) || allowed(meant) {
            return Ok(());
        }
        match why_refused(meant) {
            Some(why) => Err(Refused { address, why }),
            None => Ok(()),
        }
    }

    /// The same of the host in a URL, if it is an address: a name is checked when it is resolved.
    pub(crate) fn check_url(&self, url: &Url) -> Result<(), Refused> {
        let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        host.parse().map_or(Ok(()), |address| self.check(address))
    }
}

fn why_refused(address: IpAddr) -> Option<&'static str> {
    static NETWORKS: LazyLock<Vec<(IpNet, &str)>> = LazyLock::new(|| {
        let network = |text: &str| text.parse().expect("the table holds networks");
        REFUSED.iter().map(|(text, why)| (network(text), *why)).collect()
    });
    NETWORKS.iter().find(|(network, _)| network.contains(&address)).map(|(_, why)| *why)
}

/// The IPv4 address that an IPv6 address stands for, if it is of a kind that does (mapped, translated, 6to4); such an
/// address reaches the other, so it is as good or bad.
fn innermost(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => embedded(v6, 12),
        [0x2002, ..] => embedded(v6, 2),
        _ => address,
    }
}

/// The IPv4 address that begins at this byte.
fn embedded(address: Ipv6Addr, at: usize) -> IpAddr {
    let bytes = address.octets();
    Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]).into()
}

/// Resolves names to those of their addresses that may be connected to.
#[derive(Clone, Debug)]
pub(crate) struct Guarded(pub(crate) Rules);

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let rules = self.0.clone();
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            let allowed = rules.only_allowed(found)?;
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

impl Rules {
    /// Those of the addresses of a name that may be connected to; it must have one.
    fn only_allowed(&self, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Refused> {
        let mut refused = None;
        let mut allowed = found;
        allowed.retain(|address| match self.check(address.ip()) {
            Ok(()) => true,
            Err(why) => {
                refused.get_or_insert(why);
                false
            }
        });
        match refused {
            Some(refused) if allowed.is_empty() => Err(refused),
            _ => Ok(allowed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(rules: &Rules, url: &str) -> bool {
        rules.check_url(&url.parse().unwrap()).is_err()
    }

    #[test]
    fn what_is_not_public_is_refused_however_it_is_written() {
        let rules = Rules::default();

        for url in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://0177.0.0.1/",
            "http://127.0.0.1./",
            "http://0/",
            "http://0.0.0.0:8080/",
            "http://10.1.2.3/",
            "http://172.31.255.255/",
            "http://192.168.0.1/",
            "http://100.100.100.200/",
            "http://169.254.169.254/latest/meta-data/",
            "http://168.63.129.16/",
            "http://192.0.0.192/",
            "http://198.19.0.1/",
            "http://224.0.0.1/",
            "http://255.255.255.255/",
            "http://[::]/",
            "http://[::1]/",
            "http://[::127.0.0.1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:a9fe:a9fe]/",
            "http://[::ffff:0:169.254.169.254]/",
            "http://[64:ff9b::10.0.0.1]/",
            "http://[64:ff9b:1::1]/",
            "http://[2002:7f00:1::]/",
            "http://[2002:a9fe:a9fe::1]/",
            "http://[2001:0:1::1]/",
            "http://[2001:db8::1]/",
            "http://[fd00:ec2::254]/",
            "http://[fe80::1]/",
            "http://[fec0::1]/",
            "http://[ff02::1]/",
        ] {
            assert!(refused(&rules, url), "{url}");
        }
    }

    #[test]
    fn what_is_public_is_not() {
        let rules = Rules::default();

        for url in [
            "http://1.1.1.1/",
            "https://172.32.0.1/",
            "https://192.0.1.1/",
            "https://100.128.0.1/",
            "https://[2606:4700::1111]/",
            "https://[::ffff:8.8.8.8]/",
            "https://[64:ff9b::808:808]/",
            "https://[2002:808:808::1]/",
            "https://example.org/",
        ] {
            assert!(!refused(&rules, url), "{url}");
        }
    }

    #[test]
    fn the_settings_allow_what_they_name_and_no_more() {
        let rules = Rules::new(&["10.0.0.0/24".parse().unwrap(), "::1/128".parse().unwrap()]);

        assert!(!refused(&rules, "http://10.0.0.7/"));
        assert!(!refused(&rules, "http://[::1]/"));
        assert!(!refused(&rules, "http://[::ffff:10.0.0.7]/"));
        assert!(refused(&rules, "http://10.0.1.7/"));
        assert!(refused(&rules, "http://127.0.0.1/"));
    }

    #[test]
    fn of_a_names_addresses_only_the_good_ones_are_left() {
        let rules = Rules::default();
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();

        let mixed = rules.only_allowed(addresses(&["127.0.0.1:0", "8.8.8.8:0", "[fe80::1]:0"]));
        let bad = rules.only_allowed(addresses(&["127.0.0.1:0", "[::1]:0"]));

        assert_eq!(mixed, Ok(addresses(&["8.8.8.8:0"])));
        assert!(bad.unwrap_err().to_string().contains("127.0.0.1 is a loopback address"));
    }

    #[tokio::test]
    async fn a_name_is_checked_when_it_is_resolved() {
        let guarded = Guarded(Rules::default());

        let Err(error) = guarded.resolve("localhost".parse().unwrap()).await else { panic!("it is resolved") };

        assert!(error.to_string().contains("loopback"), "{error}");
    }
}
