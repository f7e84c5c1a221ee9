//! How the commands speak: results to stdout, everything else to stderr, and an exit code for each way to end.
//!
//! A text that came from the mesh may have been written by anybody, so it is escaped before a terminal sees it.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use shared::Outcome;
use shared::api::logs::TaskProgress;
use shared::client::{SubmitError, TaskResult, WaitError};
use shared::connect::ConnectError;

use super::api;

/// The task did not succeed, or the operation was refused.
pub const FAILED: u8 = 1;
/// The command line asks for something that cannot be.
pub const USAGE: u8 = 2;
/// There is no connection, or no coordinator on the mesh.
pub const UNREACHABLE: u8 = 3;
/// It took longer than it may.
pub const TIMED_OUT: u8 = 4;
/// Ended by Ctrl-C, as shells count it.
pub const INTERRUPTED: u8 = 130;

/// The exit codes, for the help of the commands that scripts depend on.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  the task succeeded (or was accepted, where it is not waited for)
  1  it did not succeed, or was refused
  2  wrong usage: nothing was sent
  3  no connection, or no coordinator on the mesh
  4  no result in time; the task may still run";

/// Into how many steps a bar is divided.
const STEPS: u64 = 1000;
/// How often a wait without a terminal says how far it is.
const NOTICE_INTERVAL: Duration = Duration::from_secs(2);

/// Whether a command speaks to a program.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct Json {
    /// Print JSON: one document, or one a line for several.
    #[arg(long, global = true)]
    pub json: bool,
}

/// Something on the command line that only shows when its parts are seen together.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// Prints an error with its causes, once, and gives the exit code that belongs to it.
pub fn report(error: &anyhow::Error) -> ExitCode {
    // Whoever reads us has read enough: `coordinator events | head`.
    let closed = error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe);
    if closed {
        return ExitCode::SUCCESS;
    }
    let lines: Vec<String> = chain(error).lines().map(escape).collect();
    eprintln!("error: {}", lines.join("\n"));
    ExitCode::from(exit_code(error))
}

/// An error with its causes, without those that the one before has told already.
fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// The exit code of an error, by the first cause that has one.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<Usage>() {
        return USAGE;
    }
    error.chain().find_map(code_of).unwrap_or(FAILED)
}

fn code_of(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if cause.is::<crate::bench::Interrupted>() {
        Some(INTERRUPTED)
    } else if cause.is::<ConnectError>() {
        Some(UNREACHABLE)
    } else if let Some(error) = cause.downcast_ref::<SubmitError>() {
        Some(code_of_submit(error))
    } else if let Some(error) = cause.downcast_ref::<WaitError>() {
        Some(match error {
            WaitError::Timeout { .. } => TIMED_OUT,
            WaitError::Subscribe(_) | WaitError::Read(_) => UNREACHABLE,
            WaitError::Submit(error) => code_of_submit(error),
        })
    } else {
        cause.downcast_ref::<api::Error>().map(api::Error::exit_code)
    }
}

fn code_of_submit(error: &SubmitError) -> u8 {
    match error {
        SubmitError::BadHeader { .. } | SubmitError::TooLarge { .. } => USAGE,
        SubmitError::Duplicate(_) => FAILED,
        SubmitError::NoStream(_) | SubmitError::Store { .. } => UNREACHABLE,
    }
}

/// The exit code of a command that waited for a task.
pub fn outcome_code(outcome: Outcome) -> ExitCode {
    if outcome == Outcome::Succeeded { ExitCode::SUCCESS } else { ExitCode::from(FAILED) }
}

/// Prints a line to stdout.
pub fn line(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()
}

/// Prints one JSON document, laid out for reading.
pub fn json(document: &impl Serialize) -> anyhow::Result<()> {
    Ok(line(&serde_json::to_string_pretty(document)?)?)
}

/// Prints one JSON document on a line of its own, for streams of them.
pub fn json_line(document: &impl Serialize) -> anyhow::Result<()> {
    Ok(line(&serde_json::to_string(document)?)?)
}

/// Prints a body as it is; only a terminal gets its control characters escaped.
pub fn body(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    if stdout.is_terminal() {
        stdout.write_all(escape_body(&String::from_utf8_lossy(bytes)).as_bytes())?;
    } else {
        stdout.write_all(bytes)?;
    }
    stdout.flush()
}

/// Prints a part of a log; only a terminal gets its control characters escaped, unless they are wanted as they are.
pub fn log(text: &str, raw: bool) -> io::Result<()> {
    if !raw {
        return body(text.as_bytes());
    }
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Prints the result of a task: the body to stdout and, unless it succeeded or `verbose`, how it ended to stderr.
pub fn task_result(result: &TaskResult, as_json: bool, verbose: bool) -> anyhow::Result<ExitCode> {
    if as_json {
        json(&result_json(result))?;
    } else {
        body(&result.body)?;
        if verbose || result.outcome != Outcome::Succeeded {
            eprintln!("{}", summary(result));
        }
    }
    Ok(outcome_code(result.outcome))
}

/// How a task ended, in a line.
pub fn summary(result: &TaskResult) -> String {
    let mut text = format!("task {} {}", result.id, result.outcome);
    if let Some(agent) = &result.agent {
        text += &format!(" on {}", escape(agent));
    }
    if result.attempts != 1 {
        text += &format!(" after {} attempts", result.attempts);
    }
    text += &format!(" (queued {}, ran {})", span(result.queued), span(result.run));
    if let Some(error) = &result.error {
        text += &format!(": {}", escape(error));
    }
    text
}

/// A result as JSON: what `task.result` answers.
pub fn result_json(result: &TaskResult) -> serde_json::Value {
    serde_json::to_value(crate::api::shown(result)).unwrap_or_default()
}

/// A text with everything in it escaped that could steer a terminal or fake a line.
pub fn escape(text: &str) -> String {
    escape_but(text, |_| false)
}

/// The same for a body, whose lines and tabs are its own.
fn escape_body(text: &str) -> String {
    escape_but(text, |c| c == '\n' || c == '\t')
}

fn escape_but(text: &str, keep: impl Fn(char) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if !keep(c) && (c.is_control() || steers_direction(c)) {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    escaped
}

/// Whether a character changes the direction of the text around it, so that it reads as something else.
fn steers_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A span of time in a few characters: `340ms`, `2.5s`, `3m12s`, `5h03m`, `2d07h`.
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0 => format!("{}ms", span.as_millis()),
        1..60 => format!("{}.{}s", seconds, span.subsec_millis() / 100),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86400, seconds / 3600 % 24),
    }
}

/// The same for a number of milliseconds.
pub fn millis(millis: u64) -> String {
    span(Duration::from_millis(millis))
}

/// Prints a table: see [`table_text`].
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> io::Result<()> {
    line(&table_text(header, rows))
}

/// A table without borders that fits the terminal. Its cells are escaped.
pub fn table_text<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(header);
    for row in rows {
        table.add_row(row.map(|cell| escape(&cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// Prints what is known of one thing: see [`facts_text`].
pub fn facts(facts: &[(&str, String)]) -> io::Result<()> {
    line(&facts_text(facts))
}

/// What is known of one thing, a line each.
pub fn facts_text(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines = facts.iter().map(|(name, value)| format!("{name:width$}  {}", escape(value)));
    lines.collect::<Vec<_>>().join("\n")
}

/// Shows on stderr that something is waited for: a spinner on a terminal, otherwise one line if it takes long.
pub struct Waiting {
    spinner: Option<ProgressBar>,
    notice: Option<tokio::task::JoinHandle<()>>,
}

impl Waiting {
    /// Begins to wait for what the text names.
    pub fn start(text: String) -> Self {
        if io::stderr().is_terminal() {
            let spinner = ProgressBar::new_spinner().with_message(text);
            spinner.set_style(style("{spinner} {msg} {elapsed}"));
            spinner.enable_steady_tick(Duration::from_millis(100));
            return Self { spinner: Some(spinner), notice: None };
        }
        let notice = tokio::spawn(async move {
            tokio::time::sleep(NOTICE_INTERVAL).await;
            eprintln!("{text}");
        });
        Self { spinner: None, notice: Some(notice) }
    }

    /// Whether somebody sees more of it than a line.
    pub fn is_seen(&self) -> bool {
        self.spinner.is_some()
    }

    /// Shows how far that is which is waited for: the spinner becomes a bar.
    pub fn progress(&self, progress: &TaskProgress) {
        let Some(bar) = &self.spinner else { return };
        if bar.length() != Some(STEPS) {
            bar.set_style(style("{spinner} {msg} {wide_bar} {percent}% {elapsed}"));
            bar.set_length(STEPS);
        }
        bar.set_position((progress.fraction.clamp(0.0, 1.0) * STEPS as f64) as u64);
        if let Some(text) = &progress.text {
            bar.set_message(escape(text));
        }
    }

    /// Does something with the terminal, with what is shown out of the way.
    pub fn aside<T>(&self, act: impl FnOnce() -> T) -> T {
        match &self.spinner {
            Some(bar) => bar.suspend(act),
            None => act(),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
        if let Some(notice) = &self.notice {
            notice.abort();
        }
    }
}

/// Shows on stderr how far a count has got: a bar on a terminal, otherwise a line every two seconds.
pub struct Progress {
    bar: Option<ProgressBar>,
    what: &'static str,
    done: u64,
    total: u64,
    told: Instant,
}

impl Progress {
    /// Begins at 0 of `total`.
    pub fn start(what: &'static str, total: u64) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            // What goes to the same terminal by stdout shows the progress by itself, and a bar would garble it.
            let bar = if io::stdout().is_terminal() { ProgressBar::hidden() } else { ProgressBar::new(total) };
            bar.with_style(style("{msg} {wide_bar} {pos}/{len} {eta}")).with_message(what)
        });
        Self { bar, what, done: 0, total, told: Instant::now() }
    }

    /// One more is done.
    pub fn step(&mut self) {
        self.done += 1;
        if let Some(bar) = &self.bar {
            bar.inc(1);
        } else if self.told.elapsed() >= NOTICE_INTERVAL {
            eprintln!("{} {} of {}", self.what, self.done, self.total);
            self.told = Instant::now();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_from_the_mesh_cannot_steer_the_terminal() {
        assert_eq!(escape("plain ä 文"), "plain ä 文");
        assert_eq!(escape("a\u{1b}[2Jb\r\nc\u{9b}d"), "a\\u{1b}[2Jb\\r\\nc\\u{9b}d");
        assert_eq!(escape("ab\u{202e}cd"), "ab\\u{202e}cd");
        assert_eq!(escape_body("a\tb\n\u{7}"), "a\tb\n\\u{7}");
    }

    #[test]
    fn spans_are_short() {
        let shown = [0, 340, 2_550, 192_000, 18_180_000, 198_000_000].map(millis);

        assert_eq!(shown, ["0ms", "340ms", "2.5s", "3m12s", "5h03m", "2d07h"]);
    }

    #[test]
    fn each_way_to_end_has_its_exit_code() {
        let timeout = || WaitError::Timeout { id: shared::TaskId::generate(), waited: Duration::ZERO };
        let wrapped = anyhow::Error::new(timeout()).context("failed to wait");

        assert_eq!(exit_code(&wrapped), TIMED_OUT);
        assert_eq!(exit_code(&WaitError::Submit(SubmitError::NoStream(Default::default())).into()), UNREACHABLE);
        assert_eq!(exit_code(&Usage("no".into()).into()), USAGE);
        assert_eq!(exit_code(&anyhow::anyhow!("anything else")), FAILED);
    }

    #[test]
    fn a_cause_is_told_once() {
        let error = anyhow::anyhow!("refused").context("connection: refused").context("no server");

        assert_eq!(chain(&error), "no server: connection: refused");
    }

    #[test]
    fn a_result_that_is_not_text_is_given_in_base64() {
        let result = |body: &'static [u8]| TaskResult {
            id: shared::TaskId::new("t").unwrap(),
            kind: "echo".into(),
            outcome: Outcome::Succeeded,
            attempts: 1,
            agent: None,
            error: None,
            queued: Duration::ZERO,
            run: Duration::ZERO,
            body: bytes::Bytes::from_static(body),
        };

        assert_eq!(result_json(&result(b"hi"))["body"], "hi");
        assert_eq!(result_json(&result(b"\xff"))["body_base64"], "/w==");
    }
}
