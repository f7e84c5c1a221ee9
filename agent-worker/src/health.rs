//! Says over HTTP whether the agent is well, to who asks on its host: `agent-worker healthcheck`, or the probe of
//! whatever runs it. Whoever asks for `/metrics` gets these.
//!
//! Every question is passed on to the loop that the agent is, and answered by that. So a loop that hangs is not well,
//! and nothing is remembered that could have become untrue.

use std::fmt;
use std::io;
use std::time::Duration;

use shared::Epoch;
use shared::metrics::Format;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tracing::debug;

use crate::metrics::{self, Figures};

/// How long who asks may take to do so.
const REQUEST_PATIENCE: Duration = Duration::from_secs(1);
/// How long the loop may take to answer; less than who asks waits.
const ANSWER_PATIENCE: Duration = Duration::from_millis(1500);
/// How many may ask at a time; who comes then waits.
const QUESTIONS: usize = 8;
/// How long to wait before the next one is let in, when there was no room for one.
const BREATHER: Duration = Duration::from_millis(100);

/// What the loop says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// Whether there is a connection to NATS.
    pub(crate) is_connected: bool,
    /// Who welcomed the agent last; `None` before anybody has.
    pub(crate) epoch: Option<Epoch>,
    /// How many attempts run.
    pub(crate) running: u32,
    /// Whether it takes no new work.
    pub(crate) draining: bool,
}

impl State {
    /// An agent that nobody has welcomed gets no work, and one without a connection neither.
    fn is_well(self) -> bool {
        self.is_connected && self.epoch.is_some()
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State { is_connected: false, .. } => f.write_str("there is no connection to the NATS server"),
            State { epoch: None, .. } => f.write_str("no coordinator has welcomed it"),
            State { epoch: Some(epoch), running, draining, .. } => {
                let leaving = if *draining { ", draining" } else { "" };
                write!(f, "welcomed in epoch {epoch}, {running} running{leaving}")
            }
        }
    }
}

/// Somebody wants to know.
#[derive(Debug)]
pub(crate) enum Question {
    /// How it is.
    Health(oneshot::Sender<State>),
    /// The same in numbers, and what has been counted.
    Figures(oneshot::Sender<Box<Figures>>),
}

impl Question {
    /// Answers with one of these. Who asked may have gone.
    pub(crate) fn answer(self, state: impl FnOnce() -> State, figures: impl FnOnce() -> Figures) {
        match self {
            Question::Health(answer) => drop(answer.send(state())),
            Question::Figures(answer) => drop(answer.send(Box::new(figures()))),
        }
    }
}

/// Answers on this address until the agent has left. What comes out is for the loop to answer.
pub(crate) fn serve(listener: TcpListener) -> mpsc::Receiver<Question> {
    let (ask, questions) = mpsc::channel(QUESTIONS);
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = ask.closed() => return,
            };
            match accepted {
                Ok((stream, _)) => drop(tokio::spawn(answer(stream, ask.clone()))),
                Err(error) => {
                    debug!(%error, "somebody who asks for the agent's health could not be let in");
                    tokio::time::sleep(BREATHER).await;
                }
            }
        }
    });
    questions
}

/// A loop that nobody asks.
pub(crate) fn unasked() -> mpsc::Receiver<Question> {
    mpsc::channel(1).1
}

async fn answer(mut stream: TcpStream, ask: mpsc::Sender<Question>) {
    if let Err(error) = converse(&mut stream, &ask).await {
        debug!(%error, "somebody who asks for the agent's health went away");
    }
}

async fn converse(stream: &mut TcpStream, ask: &mpsc::Sender<Question>) -> io::Result<()> {
    let request = tokio::time::timeout(REQUEST_PATIENCE, read_request(stream)).await??;
    let answer = if wants_metrics(&request) {
        let figures = tokio::time::timeout(ANSWER_PATIENCE, look(ask, Question::Figures)).await.ok().flatten();
        exposition(figures.as_deref(), Format::accepted(header(&request, "accept")))
    } else {
        response(tokio::time::timeout(ANSWER_PATIENCE, look(ask, Question::Health)).await.ok().flatten())
    };
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// The head of a request. Of its path only `/metrics` matters: to every other there is the same answer.
async fn read_request(stream: &mut TcpStream) -> io::Result<String> {
    let mut request = Vec::new();
    let mut part = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < 16 * part.len() {
        let length = stream.read(&mut part).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        request.extend_from_slice(&part[..length]);
    }
    Ok(String::from_utf8_lossy(&request).into_owned())
}

fn wants_metrics(request: &str) -> bool {
    let target = request.split_whitespace().nth(1).unwrap_or_default();
    target.split('?').next() == Some("/metrics")
}

/// A header of a request, whose name is given in small letters.
fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    let mut headers = request.lines().skip(1).filter_map(|line| line.split_once(':'));
    headers.find(|(named, _)| named.trim().eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

async fn look<T>(ask: &mpsc::Sender<Question>, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Option<T> {
    let (send, answer) = oneshot::channel();
    ask.send(question(send)).await.ok()?;
    answer.await.ok()
}

fn response(state: Option<State>) -> String {
    let is_well = state.is_some_and(State::is_well);
    let status = if is_well { "200 OK" } else { "503 Service Unavailable" };
    let said = match state {
        Some(state) => state.to_string(),
        None => "it does not get to answer: it waits for the NATS server still, or hangs".to_owned(),
    };
    http(status, "text/plain", &format!("{said}\n"))
}

/// A loop that hangs has no figures, and is scraped all the same: that its process is there is worth to be known.
fn exposition(figures: Option<&Figures>, format: Format) -> String {
    http("200 OK", format.content_type(), &metrics::samples(figures).write(format))
}

fn http(status: &str, content_type: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

#[cfg(test)]
mod tests {
    use shared::health::{self, Unwell};

    use super::*;

    const WELL: State = State { is_connected: true, epoch: Some(Epoch(7)), running: 2, draining: false };

    #[tokio::test]
    async fn an_agent_is_well_when_it_is_connected_and_welcomed() {
        assert_eq!(asked(Some(WELL)).await.ok().as_deref(), Some("welcomed in epoch 7, 2 running"));
        assert!(asked(Some(State { draining: true, ..WELL })).await.is_ok());

        for state in [State { is_connected: false, ..WELL }, State { epoch: None, ..WELL }] {
            assert!(matches!(asked(Some(state)).await, Err(Unwell::Says { status: 503, .. })), "{state:?}");
        }
    }

    #[tokio::test]
    async fn a_loop_that_hangs_is_not_well() {
        assert!(matches!(asked(None).await, Err(Unwell::Says { status: 503, .. })));
    }

    #[test]
    fn who_asks_for_metrics_gets_them_in_a_format_that_it_takes() {
        let request = "GET /metrics?a=b HTTP/1.1\r\nHost: x\r\nACCEPT: application/openmetrics-text\r\n\r\n";

        assert!(wants_metrics(request) && !wants_metrics("GET / HTTP/1.0\r\n\r\n"));
        assert_eq!(header(request, "accept"), Some("application/openmetrics-text"));
        let answer = exposition(None, Format::OpenMetrics);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("openmetrics-text; version=1.0.0") && body.ends_with("# EOF\n"), "{answer}");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
    }

    /// What who asks is told by a loop in this state, or by one that does nothing.
    async fn asked(state: Option<State>) -> Result<String, Unwell> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut questions = serve(listener);
        let a_loop = async {
            let mut unanswered = Vec::new();
            while let Some(question) = questions.recv().await {
                match state {
                    Some(state) => question.answer(|| state, || unreachable!("nobody asks for figures")),
                    None => unanswered.push(question),
                }
            }
        };
        tokio::select! {
            said = health::ask(address, "/") => said,
            () = a_loop => unreachable!("somebody can still ask"),
        }
    }
}
