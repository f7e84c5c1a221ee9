//! A terminal with the program under test on it, as somebody in front of it sees it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::mesh::PATIENCE;
use crate::program;

/// How many rows and columns it has.
const ROWS: u16 = 30;
const COLUMNS: u16 = 110;
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// A terminal, and the program that draws on it.
pub struct Terminal {
    keyboard: File,
    screen: Arc<Mutex<vt100::Parser>>,
    program: Child,
}

impl Terminal {
    /// Starts `coordinator` with these arguments and variables on a terminal of its own.
    ///
    /// # Panics
    /// If the host has no terminals, or the program cannot be started.
    pub fn start(args: &[&str], variables: &[(&str, &str)]) -> Self {
        let size = Winsize { ws_row: ROWS, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(&size, None).expect("a host has terminals");
        let stdio = || Stdio::from(pair.slave.try_clone().expect("a terminal can be opened twice"));
        let mut command = in_a_session(&program::command(args));
        command.env("TERM", "xterm-256color").env_remove("NO_COLOR").envs(variables.iter().copied());
        let program = command.stdin(stdio()).stdout(stdio()).stderr(stdio()).kill_on_drop(true).spawn();
        let master = File::from(pair.master);
        let keyboard = master.try_clone().expect("a terminal can be opened twice");
        let (rows, columns) = (ROWS.try_into().expect("there are some"), COLUMNS.try_into().expect("there are some"));
        let screen = Arc::new(Mutex::new(vt100::Parser::new(rows, columns, 0)));
        let drawn = screen.clone();
        std::thread::spawn(move || draw(master, &drawn));
        Self { keyboard, screen, program: program.expect("the program can be started") }
    }

    /// Presses keys.
    ///
    /// # Panics
    /// If the terminal is gone.
    pub fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("the terminal is there");
    }

    /// What can be read on it now.
    pub fn text(&self) -> String {
        self.look(vt100::Screen::contents)
    }

    /// Whether it is as a program found it: the usual screen, with a cursor.
    pub fn is_restored(&self) -> bool {
        self.look(|screen| !screen.alternate_screen() && !screen.hide_cursor())
    }

    fn look<T>(&self, look: impl Fn(&vt100::Screen) -> T) -> T {
        look(self.screen.lock().unwrap_or_else(PoisonError::into_inner).screen())
    }

    /// Waits until this can be read on it.
    ///
    /// # Panics
    /// If it does not come.
    pub async fn until_it_says(&self, text: &str) {
        self.until(|terminal| terminal.text().contains(text), text).await;
    }

    /// Waits until it is as the program found it.
    ///
    /// # Panics
    /// If that does not come.
    pub async fn until_restored(&self) {
        self.until(Self::is_restored, "that it is restored").await;
    }

    async fn until(&self, has_come: impl Fn(&Self) -> bool, what: &str) {
        let started = Instant::now();
        while !has_come(self) {
            assert!(started.elapsed() < PATIENCE, "after {PATIENCE:?} `{what}` has not come:\n{}", self.text());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Sends the program a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.program.id() {
            // It is reaped only by us, so the pid is its own for as long as it is not waited for.
            let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
        }
    }

    /// Waits until the program has ended; its exit code.
    ///
    /// # Panics
    /// If it does not end.
    pub async fn ended(&mut self) -> i32 {
        let ended = tokio::time::timeout(PATIENCE, self.program.wait()).await;
        let status = ended.unwrap_or_else(|_| panic!("it does not end:\n{}", self.text()));
        status.expect("it can be waited for").code().unwrap_or(-1)
    }
}

/// The same command in a session of its own, whose terminal is the one that it stands on: so Ctrl-C is a signal, where the
/// program does not take it for a key.
fn in_a_session(command: &Command) -> Command {
    let (inner, mut outer) = (command.as_std(), Command::new("setsid"));
    outer.arg("--ctty").arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer
}

/// Takes in what the program draws, until it is gone.
fn draw(mut master: File, screen: &Mutex<vt100::Parser>) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = master.read(&mut bytes) {
        screen.lock().unwrap_or_else(PoisonError::into_inner).process(&bytes[..count]);
    }
}
