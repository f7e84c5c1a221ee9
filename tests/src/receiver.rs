//! A program that webhooks are sent to.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// How a request is answered, by how many came before it.
type Answer = dyn Fn(usize) -> Response + Send + Sync;

/// A request that came.
#[derive(Clone, Debug)]
pub struct Received {
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// How it was answered.
    pub status: StatusCode,
}

impl Received {
    /// A header's value.
    ///
    /// # Panics
    /// If it has none.
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_else(|| panic!("there is no header {name} in {:?}", self.headers))
    }

    /// The event that it says.
    ///
    /// # Panics
    /// If it is none.
    pub fn event(&self) -> shared::api::Event {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.body))
    }

    /// The number that [`Mesh::tell`](crate::Mesh::tell) has given the event, if it was told so.
    pub fn number(&self) -> Option<u64> {
        self.event().detail?.parse().ok()
    }
}

/// A program that webhooks are sent to. Dropping it ends it.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    serving: JoinHandle<()>,
}

#[derive(Clone)]
struct Shared {
    answer: Arc<Answer>,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Receiver {
    /// One that takes everything.
    pub async fn start() -> Self {
        Self::answering(|_| StatusCode::NO_CONTENT.into_response()).await
    }

    /// One that answers as it is told, by how many requests came before.
    ///
    /// # Panics
    /// If it finds no port.
    pub async fn answering(answer: impl Fn(usize) -> Response + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let address = listener.local_addr().expect("it is bound");
        let received = Arc::new(Mutex::new(Vec::new()));
        let shared = Shared { answer: Arc::new(answer), received: received.clone() };
        let router = Router::new().fallback(receive).with_state(shared);
        let serving = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Self { address, received, serving }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where webhooks are to be sent.
    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// All that came so far, in its order.
    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The numbers of the events that were taken, each once, in the order in which they first were.
    pub fn taken(&self) -> Vec<u64> {
        let mut taken = Vec::new();
        for request in self.received() {
            match request.number() {
                Some(number) if request.status.is_success() && !taken.contains(&number) => taken.push(number),
                _ => {}
            }
        }
        taken
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn receive(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let mut received = shared.received.lock().unwrap_or_else(PoisonError::into_inner);
    let response = (shared.answer)(received.len());
    received.push(Received { headers, body, status: response.status() });
    response
}
