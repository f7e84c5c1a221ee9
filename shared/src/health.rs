//! Asks a program on this host whether it is well: what `healthcheck` does, in images that have no shell and no `curl`.
//!
//! The little HTTP that this takes is written out here. A client that can do TLS reads all certificates of the host
//! before its first request, and a health check begins anew every few seconds.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long the answer may take.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// How much of an answer is read, in bytes.
const LONGEST_ANSWER: u64 = 64 << 10;

/// Why a program is not well.
#[derive(Debug, thiserror::Error)]
pub enum Unwell {
    /// Nobody is there.
    #[error("nobody answers on {address}")]
    Gone {
        /// Where.
        address: SocketAddr,
        /// What went wrong.
        source: io::Error,
    },
    /// Somebody is there, and says nothing.
    #[error("no answer from {0} within {seconds} s", seconds = PATIENCE.as_secs())]
    Silent(SocketAddr),
    /// It says so itself.
    #[error("{said}")]
    Says {
        /// The status of HTTP.
        status: u16,
        /// Its words, on one line.
        said: String,
    },
    /// Somebody else is there.
    #[error("what answers on {0} does not speak HTTP")]
    Foreign(SocketAddr),
}

/// Asks who listens on this address, and gives its words on one line if it is well.
pub async fn ask(address: SocketAddr, path: &str) -> Result<String, Unwell> {
    let answer = tokio::time::timeout(PATIENCE, exchange(address, path)).await;
    let answer = answer.map_err(|_| Unwell::Silent(address))?.map_err(|source| Unwell::Gone { address, source })?;
    let (status, said) = read(&String::from_utf8_lossy(&answer)).ok_or(Unwell::Foreign(address))?;
    if (200..300).contains(&status) { Ok(said) } else { Err(Unwell::Says { status, said }) }
}

/// Where a program that listens on this address is asked from its own host: one that listens everywhere, on loopback.
pub fn from_here(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

async fn exchange(address: SocketAddr, path: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    // HTTP/1.0: then the answer comes in one piece, and ends where the connection does.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// The status and the words of an answer.
fn read(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some((status, in_words(body)))
}

/// A body on one line; of problem details (RFC 9457) what they say to a person.
fn in_words(body: &str) -> String {
    let problem: Option<serde_json::Value> = serde_json::from_str(body).ok();
    let detail = problem.as_ref().and_then(|problem| problem.get("detail")?.as_str());
    detail.unwrap_or(body).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn who_is_well_says_so_on_one_line() {
        let address = who_answers("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nleading in epoch 3\n\n").await;

        assert_eq!(ask(address, "/readyz").await.ok().as_deref(), Some("leading in epoch 3"));
    }

    #[tokio::test]
    async fn who_is_not_says_why() {
        let problem = r#"{"title": "Service Unavailable", "status": 503, "detail": "there is no connection"}"#;
        let address = who_answers(&format!("HTTP/1.1 503 Service Unavailable\r\n\r\n{problem}")).await;

        let unwell = ask(address, "/readyz").await;

        assert!(
            matches!(&unwell, Err(Unwell::Says { status: 503, said }) if said == "there is no connection"),
            "{unwell:?}"
        );
    }

    #[tokio::test]
    async fn who_is_gone_silent_or_somebody_else_is_not_well() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let foreign = who_answers("INFO {}\r\n").await;

        assert!(matches!(ask(closed, "/").await, Err(Unwell::Gone { .. })));
        assert!(matches!(ask(silent.local_addr().unwrap(), "/").await, Err(Unwell::Silent(_))));
        assert!(matches!(ask(foreign, "/").await, Err(Unwell::Foreign(_))));
    }

    #[test]
    fn who_listens_everywhere_is_asked_on_loopback() {
        let here = |address: &str| from_here(address.parse().unwrap()).to_string();

        assert_eq!(here("0.0.0.0:8080"), "127.0.0.1:8080");
        assert_eq!(here("[::]:8080"), "[::1]:8080");
        assert_eq!(here("10.1.2.3:8080"), "10.1.2.3:8080");
    }

    /// Somebody who reads one request and answers it with this.
    async fn who_answers(answer: &str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, answer) = (listener.local_addr().unwrap(), answer.to_owned());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        address
    }
}
