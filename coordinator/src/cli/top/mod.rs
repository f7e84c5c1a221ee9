//! `coordinator top`: the mesh at a terminal, live.
//!
//! The `model` is what is shown and `update` what keys do to it; both are pure. `view` and `overview` draw it, and `fetch`
//! asks the mesh beside all that, so that a mesh that does not answer holds up no key. Here they are put together.

mod details;
mod fetch;
mod model;
mod overview;
mod page;
mod update;
mod view;

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEvent};
use shared::connect::Settings;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::api::{self, Api};
use super::output::Usage;
use fetch::Fetcher;
use model::{Model, News};
use page::Page;
use update::Effect;
use view::Theme;

/// How often it is drawn although nothing has come: spans of time grow.
const TICK: Duration = Duration::from_secs(1);
/// It is drawn no more often than this, however much comes.
const FRAME: Duration = Duration::from_millis(50);
/// So much that has come waits to be drawn; of events, what is more is left out.
const WAITING: usize = 1024;

/// Look at the mesh live, at a terminal: what waits and runs, who does it, what went wrong. `?` tells the keys.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How often the mesh is asked.
    #[arg(long, value_name = "INTERVAL", default_value = "1s", value_parser = super::watch::interval)]
    interval: Duration,
}

/// What comes from the terminal.
enum Input {
    Key(KeyEvent),
    Resized,
}

/// Shows the mesh until the user has seen enough.
pub async fn run(args: Args, connection: &Settings) -> anyhow::Result<ExitCode> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        let error = "this takes a terminal: `coordinator status --watch` and the lists with `--watch` do not";
        return Err(Usage(error.to_owned()).into());
    }
    let client = api::connect(connection).await?;
    let api = Api::over(client.clone(), connection.url_without_secrets());
    let (news, comes) = mpsc::channel(WAITING);
    let (turn, page) = watch::channel(Page::Overview);
    let fetcher = Fetcher::new(api, client, news);
    tokio::spawn(fetcher.clone().watch(page, args.interval));
    tokio::spawn(fetcher.clone().hear());
    tokio::spawn(fetcher.clone().call_the_roll());
    let mut screen = Screen::open().context("the terminal cannot be drawn on")?;
    let ended = screen.show(fetcher, turn, comes).await;
    drop(screen);
    ended
}

/// The terminal, for as long as we draw on it. However we end, it is left as it was: when this is dropped, or by a hook if
/// the program panics.
struct Screen {
    terminal: DefaultTerminal,
    theme: Theme,
}

impl Screen {
    fn open() -> io::Result<Self> {
        // https://no-color.org: set and not empty.
        let has_colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let terminal = ratatui::try_init().inspect_err(|_| ratatui::restore())?;
        Ok(Self { terminal, theme: Theme { has_colours } })
    }

    async fn show(
        &mut self,
        fetcher: Fetcher,
        turn: watch::Sender<Page>,
        mut comes: mpsc::Receiver<News>,
    ) -> anyhow::Result<ExitCode> {
        let mut inputs = inputs();
        let mut signals = Signals::listen()?;
        let (mut model, mut drawn) = (Model::new(), None);
        loop {
            self.draw(&mut model, &mut drawn)?;
            tokio::select! {
                code = signals.next() => return Ok(ExitCode::from(code)),
                input = inputs.recv() => match input {
                    Some(Input::Key(key)) => match model.press(key) {
                        Some(Effect::Quit) => return Ok(ExitCode::SUCCESS),
                        Some(effect) => carry_out(effect, &fetcher, &turn),
                        None => {}
                    },
                    Some(Input::Resized) => {}
                    None => anyhow::bail!("the terminal is gone"),
                },
                Some(news) = comes.recv() => {
                    wait_for_frame(drawn).await;
                    take_in(&mut model, news, &mut comes);
                }
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }

    fn draw(&mut self, model: &mut Model, drawn: &mut Option<Instant>) -> io::Result<()> {
        let now = Instant::now();
        model.pass(now);
        self.terminal.draw(|frame| view::draw(frame, model, self.theme, now))?;
        *drawn = Some(now);
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Takes in what has come, and all that came with it.
fn take_in(model: &mut Model, news: News, comes: &mut mpsc::Receiver<News>) {
    let now = Instant::now();
    model.take_in(news, now);
    // As many as there can be: what comes meanwhile has its turn later.
    for _ in 0..WAITING {
        let Ok(news) = comes.try_recv() else { return };
        model.take_in(news, now);
    }
}

/// A burst of events is drawn once.
async fn wait_for_frame(drawn: Option<Instant>) {
    if let Some(drawn) = drawn {
        tokio::time::sleep(FRAME.saturating_sub(drawn.elapsed())).await;
    }
}

fn carry_out(effect: Effect, fetcher: &Fetcher, turn: &watch::Sender<Page>) {
    match effect {
        Effect::Look(page) => {
            turn.send_replace(page);
        }
        Effect::Details(page, id) => drop(tokio::spawn(fetcher.clone().details(page, id))),
        Effect::Carry(order) => drop(tokio::spawn(fetcher.clone().carry(order))),
        Effect::Quit => {}
    }
}

/// Keys and changes of size, read by a thread of its own, which ends with the program.
fn inputs() -> mpsc::Receiver<Input> {
    let (send, receive) = mpsc::channel(64);
    std::thread::spawn(move || {
        loop {
            let input = match event::read() {
                Ok(Event::Key(key)) => Input::Key(key),
                Ok(Event::Resize(..)) => Input::Resized,
                Ok(_) => continue,
                Err(_) => return,
            };
            if send.blocking_send(input).is_err() {
                return;
            }
        }
    });
    receive
}

/// What ends programs from outside.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The exit code that belongs to the next one.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            // As Ctrl-C does, which comes as a key.
            _ = self.interrupt.recv() => 0,
            _ = self.terminate.recv() => 128 + 15,
            _ = self.hangup.recv() => 128 + 1,
        }
    }
}
