//! A TCP proxy that stands for a bad network: it delays, limits, stalls, swallows and resets, and changes no byte.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Bytes taken at once.
const CHUNK: usize = 16 << 10;
/// Chunks that are on their way at once in one direction.
const ON_THE_WAY: usize = 256;

/// What becomes of the bytes of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// They pass.
    Open,
    /// They wait, as packets do that are sent again and again.
    Stalled,
    /// They vanish. Such a connection is of no use any more: end it by [`Proxy::reset`].
    Vanishing,
}

/// How the network is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weather {
    /// How long each byte takes.
    pub delay: Duration,
    /// How much longer it may take.
    pub jitter: Duration,
    /// Bytes a second in each direction; not limited if `None`.
    pub rate: Option<f64>,
    /// From the client to the broker.
    pub up: Flow,
    /// From the broker to the client.
    pub down: Flow,
}

impl Weather {
    /// Nothing is in the way.
    pub const FAIR: Self =
        Self { delay: Duration::ZERO, jitter: Duration::ZERO, rate: None, up: Flow::Open, down: Flow::Open };

    /// Nothing passes in either direction.
    pub const CUT: Self = Self { up: Flow::Stalled, down: Flow::Stalled, ..Self::FAIR };

    /// Everything vanishes, and nobody is told.
    pub const HALF_OPEN: Self = Self { up: Flow::Vanishing, down: Flow::Vanishing, ..Self::FAIR };
}

/// How the connections there are shall end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    None,
    Reset(u64),
    /// After half of the next chunk, in the middle of a message most likely.
    MidFrame(u64),
}

/// A proxy; dropping it ends its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    end: watch::Sender<End>,
    listening: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
        self.reset();
    }
}

impl Proxy {
    /// A proxy on a free port before this port of this machine.
    pub async fn start(port: u16) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (weather, watched) = watch::channel(Weather::FAIR);
        let (end, ends) = watch::channel(End::None);
        let listening = tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                tokio::spawn(pass_on(client, port, watched.clone(), ends.clone()));
            }
        });
        Ok(Self { address, weather, end, listening })
    }

    /// Where it listens, as an address of a NATS server.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Changes the weather, for all connections and at once.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Ends all connections at once, by a reset.
    pub fn reset(&self) {
        self.end.send_modify(|end| *end = End::Reset(next(*end)));
    }

    /// Ends each connection by a reset in the middle of what it sends next.
    pub fn reset_mid_frame(&self) {
        self.end.send_modify(|end| *end = End::MidFrame(next(*end)));
    }
}

fn next(end: End) -> u64 {
    match end {
        End::None => 1,
        End::Reset(count) | End::MidFrame(count) => count + 1,
    }
}

async fn pass_on(client: TcpStream, port: u16, weather: watch::Receiver<Weather>, mut ends: watch::Receiver<End>) {
    ends.mark_unchanged();
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else {
        let _ = client.set_zero_linger();
        return;
    };
    for stream in [&client, &server] {
        let _ = stream.set_nodelay(true);
        // Closing is a reset: what is on its way is lost, as it is when a host is gone.
        let _ = stream.set_zero_linger();
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let up = Direction { weather: weather.clone(), ends: ends.clone(), flow: |weather| weather.up };
    let down = Direction { weather, ends: ends.clone(), flow: |weather| weather.down };
    let reset = async {
        loop {
            if ends.changed().await.is_err() || matches!(*ends.borrow_and_update(), End::Reset(_)) {
                return;
            }
        }
    };
    tokio::select! {
        () = up.run(from_client, to_server) => {}
        () = down.run(from_server, to_client) => {}
        () = reset => {}
    }
}

#[derive(Clone)]
struct Direction {
    weather: watch::Receiver<Weather>,
    ends: watch::Receiver<End>,
    flow: fn(&Weather) -> Flow,
}

impl Direction {
    async fn run(self, from: OwnedReadHalf, to: OwnedWriteHalf) {
        let (send, receive) = mpsc::channel(ON_THE_WAY);
        tokio::select! {
            () = self.clone().take(from, send) => {}
            () = self.give(to, receive) => {}
        }
    }

    async fn take(mut self, mut from: OwnedReadHalf, on_the_way: mpsc::Sender<(Instant, Vec<u8>)>) {
        let mut last = Instant::now();
        loop {
            let mut chunk = vec![0; CHUNK];
            let count = match from.read(&mut chunk).await {
                Ok(count) if count > 0 => count,
                _ => break,
            };
            chunk.truncate(count);
            let weather = *self.weather.borrow_and_update();
            if (self.flow)(&weather) == Flow::Vanishing {
                continue;
            }
            let mut due = Instant::now() + weather.delay + weather.jitter.mul_f64(fastrand::f64());
            if let Some(rate) = weather.rate {
                due = due.max(last) + Duration::from_secs_f64(count as f64 / rate);
            }
            last = last.max(due);
            if on_the_way.send((last, chunk)).await.is_err() {
                break;
            }
        }
        // What is on its way still arrives: the other half ends when it has given everything.
        drop(on_the_way);
        std::future::pending::<()>().await;
    }

    async fn give(mut self, mut to: OwnedWriteHalf, mut on_the_way: mpsc::Receiver<(Instant, Vec<u8>)>) {
        while let Some((due, chunk)) = on_the_way.recv().await {
            tokio::time::sleep_until(due).await;
            let flow = self.flow;
            if self.weather.wait_for(|weather| flow(weather) != Flow::Stalled).await.is_err() {
                return;
            }
            if flow(&self.weather.borrow()) == Flow::Vanishing {
                continue;
            }
            let mid_frame =
                self.ends.has_changed().unwrap_or(true) && matches!(*self.ends.borrow_and_update(), End::MidFrame(_));
            let part = if mid_frame { &chunk[..chunk.len().div_ceil(2)] } else { &chunk[..] };
            if to.write_all(part).await.is_err() || mid_frame {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pair() -> anyhow::Result<(Proxy, TcpStream, TcpStream)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let proxy = Proxy::start(listener.local_addr()?.port()).await?;
        let client = TcpStream::connect(proxy.address).await?;
        let (server, _) = listener.accept().await?;
        Ok((proxy, client, server))
    }

    async fn silent(stream: &mut TcpStream, span: Duration) -> bool {
        tokio::time::timeout(span, stream.peek(&mut [0])).await.is_err()
    }

    #[tokio::test]
    async fn what_is_stalled_arrives_when_the_link_is_healed() -> anyhow::Result<()> {
        let (proxy, mut client, mut server) = pair().await?;
        proxy.set(Weather::CUT);
        client.write_all(b"hello").await?;
        assert!(silent(&mut server, Duration::from_millis(50)).await);

        proxy.set(Weather::FAIR);
        let mut text = [0; 5];
        server.read_exact(&mut text).await?;

        assert_eq!(&text, b"hello");
        Ok(())
    }

    #[tokio::test]
    async fn what_vanishes_never_arrives_and_nobody_is_told() -> anyhow::Result<()> {
        let (proxy, mut client, mut server) = pair().await?;
        proxy.set(Weather::HALF_OPEN);
        client.write_all(b"gone").await?;
        assert!(silent(&mut server, Duration::from_millis(50)).await);

        proxy.set(Weather::FAIR);
        client.write_all(b"here").await?;
        let mut text = [0; 4];
        server.read_exact(&mut text).await?;

        assert_eq!(&text, b"here");
        Ok(())
    }

    #[tokio::test]
    async fn a_reset_in_the_middle_lets_half_of_a_message_through() -> anyhow::Result<()> {
        let (proxy, mut client, mut server) = pair().await?;
        proxy.reset_mid_frame();
        client.write_all(b"12345678").await?;

        let mut text = Vec::new();
        let ended = server.read_to_end(&mut text).await;

        assert!(text.len() <= 4 && (ended.is_err() || text == b"1234"), "{text:?} {ended:?}");
        Ok(())
    }
}
