//! How a list is shown: once or again and again, to people or to programs. Every command that lists something says what it
//! asks for and how that reads; the rest is here.

use std::io::{self, IsTerminal as _, Write};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use ratatui::crossterm::QueueableCommand as _;
use ratatui::crossterm::cursor::{MoveTo, MoveToColumn, MoveUp};
use ratatui::crossterm::terminal::{self, Clear, ClearType, DisableLineWrap, EnableLineWrap};
use serde_json::Value;

use super::api;
use super::output::{self, Json, escape};

/// The shortest interval: below that a list is more of a load than of a help.
const SHORTEST: Duration = Duration::from_millis(100);

/// Whether a list is shown again and again.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct Watch {
    /// Show it again every 2s, or as often as is said, until Ctrl-C (exit code 0).
    ///
    /// A terminal is painted anew in place. Elsewhere each look is printed below the one before, under a line with the
    /// time; with `--json` each is a JSON document on a line of its own.
    #[arg(
        long,
        value_name = "INTERVAL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "2s",
        value_parser = interval
    )]
    watch: Option<Duration>,
}

/// Reads an interval, such as `500ms`.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| format!("{error}: write `2s` or `500ms`"))?;
    if interval < SHORTEST { Err("write 100ms or more".to_owned()) } else { Ok(interval) }
}

/// What a person reads: a table, and what there is to say about it.
pub struct Text {
    table: String,
    note: Option<String>,
}

impl Text {
    /// A table, and a note where there is one.
    pub fn new(table: String, note: Option<String>) -> Self {
        Self { table, note }
    }
}

impl From<String> for Text {
    fn from(table: String) -> Self {
        Self { table, note: None }
    }
}

/// Shows an answer once, or again and again.
pub async fn show<T: Into<Text>>(
    json: Json,
    watch: Watch,
    ask: impl AsyncFn() -> Result<Value, api::Error>,
    read: impl Fn(Value) -> Result<T, api::Error>,
) -> anyhow::Result<ExitCode> {
    let Some(interval) = watch.watch else {
        print_once(json, ask().await?, read)?;
        return Ok(ExitCode::SUCCESS);
    };
    tokio::select! {
        ended = look_on(json, interval, ask, read) => ended,
        _ = tokio::signal::ctrl_c() => Ok(ExitCode::SUCCESS),
    }
}

/// Looks until there is no answer to the first look, or one that no other look would change.
async fn look_on<T: Into<Text>>(
    json: Json,
    interval: Duration,
    ask: impl AsyncFn() -> Result<Value, api::Error>,
    read: impl Fn(Value) -> Result<T, api::Error>,
) -> anyhow::Result<ExitCode> {
    let (mut screen, mut was_answered) = (Screen::new(json), false);
    loop {
        match ask().await {
            Ok(answer) if json.json => output::json_line(&answer)?,
            Ok(answer) => screen.show(interval, read(answer)?.into())?,
            // Who watches wants to see what comes when the mesh answers again.
            Err(error) if was_answered && is_passing(&error) => screen.complain(&error)?,
            Err(error) => return Err(error.into()),
        }
        was_answered = true;
        tokio::time::sleep(interval).await;
    }
}

fn print_once<T: Into<Text>>(
    json: Json,
    answer: Value,
    read: impl Fn(Value) -> Result<T, api::Error>,
) -> anyhow::Result<()> {
    if json.json {
        return output::json(&answer);
    }
    let Text { table, note } = read(answer)?.into();
    if !table.is_empty() {
        output::line(&table)?;
    }
    if let Some(note) = note {
        eprintln!("{note}");
    }
    Ok(())
}

/// Whether it may be otherwise with the next look.
fn is_passing(error: &api::Error) -> bool {
    [output::UNREACHABLE, output::TIMED_OUT].contains(&error.exit_code())
}

/// Where looks are shown one after the other.
struct Screen {
    /// Whether it is a terminal that is painted anew.
    is_painted: bool,
    /// The lines of the last look.
    lines: Vec<String>,
    size: (u16, u16),
}

impl Screen {
    fn new(json: Json) -> Self {
        Self { is_painted: !json.json && io::stdout().is_terminal(), lines: Vec::new(), size: (0, 0) }
    }

    fn show(&mut self, interval: Duration, text: Text) -> io::Result<()> {
        let Text { table, note } = text;
        let note = note.map(|note| format!("\n{note}")).unwrap_or_default();
        let table = format!("{table}{note}");
        if self.is_painted {
            let head = format!("every {}, {}; Ctrl-C ends", humantime::format_duration(interval), now());
            self.paint(&[head.as_str(), ""].into_iter().chain(table.lines()).collect::<Vec<_>>())
        } else {
            output::line(&format!("{}\n{table}\n", now()))
        }
    }

    /// Tells that there was no answer; what was shown before stays.
    fn complain(&mut self, error: &api::Error) -> io::Result<()> {
        let error = escape(&crate::chain(error));
        if !self.is_painted {
            eprintln!("{}: {error}; trying again", now());
            return Ok(());
        }
        let before = std::mem::take(&mut self.lines);
        let head = format!("{}: {error}; trying again. Before that:", now());
        let rest = before.iter().skip(1).map(String::as_str);
        let lines: Vec<&str> = std::iter::once(head.as_str()).chain(rest).collect();
        let painted = before.len();
        self.paint_over(painted, &lines)
    }

    fn paint(&mut self, lines: &[&str]) -> io::Result<()> {
        self.paint_over(self.lines.len(), lines)
    }

    /// Paints lines where so many were before.
    fn paint_over(&mut self, before: usize, lines: &[&str]) -> io::Result<()> {
        let size = terminal::size().unwrap_or((80, 24));
        let is_resized = std::mem::replace(&mut self.size, size) != size && before > 0;
        let shown = cut(lines, usize::from(size.1));
        let mut out = io::stdout().lock();
        paint(&mut out, if is_resized { None } else { Some(before) }, &shown)?;
        out.flush()?;
        self.lines = shown;
        Ok(())
    }
}

/// As many lines as fit on the screen, and how many do not.
fn cut(lines: &[&str], height: usize) -> Vec<String> {
    // The cursor stands below the last line.
    let room = height.saturating_sub(1).max(1);
    if lines.len() <= room {
        return lines.iter().map(|line| (*line).to_owned()).collect();
    }
    let left_out = lines.len() - (room - 1);
    let shown = lines.iter().take(room - 1).map(|line| (*line).to_owned());
    shown.chain([format!("… and {left_out} lines more")]).collect()
}

/// Writes lines over so many that were there before; over the whole screen if that is not known.
fn paint(out: &mut impl Write, before: Option<usize>, lines: &[String]) -> io::Result<()> {
    match before {
        Some(0) => {}
        Some(before) => {
            out.queue(MoveUp(u16::try_from(before).unwrap_or(u16::MAX)))?.queue(MoveToColumn(0))?;
        }
        None => {
            out.queue(MoveTo(0, 0))?;
        }
    }
    // A line that is longer than the terminal is wide is cut by it, so that a line is a line.
    out.queue(Clear(ClearType::FromCursorDown))?.queue(DisableLineWrap)?;
    for line in lines {
        out.write_all(line.as_bytes())?;
        out.write_all(b"\n")?;
    }
    out.queue(EnableLineWrap)?;
    Ok(())
}

fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Program {
        #[command(flatten)]
        watch: Watch,
        word: Option<String>,
    }

    fn watched(line: &[&str]) -> Result<Option<Duration>, String> {
        let program = Program::try_parse_from(["list"].iter().chain(line)).map_err(|error| error.to_string())?;
        Ok(program.watch.watch)
    }

    #[test]
    fn an_interval_is_said_or_is_two_seconds() {
        assert_eq!(watched(&[]), Ok(None));
        assert_eq!(watched(&["--watch"]), Ok(Some(Duration::from_secs(2))));
        assert_eq!(watched(&["--watch=500ms"]), Ok(Some(Duration::from_millis(500))));
        assert_eq!(watched(&["--watch", "word"]), Ok(Some(Duration::from_secs(2))), "a word of its own is not it");
        assert!(watched(&["--watch=1ms"]).unwrap_err().contains("100ms or more"));
        assert!(watched(&["--watch=often"]).unwrap_err().contains("write `2s`"));
    }

    #[test]
    fn what_does_not_fit_on_the_screen_is_counted() {
        assert_eq!(cut(&["a", "b"], 3), ["a", "b"]);
        assert_eq!(cut(&["a", "b", "c", "d"], 3), ["a", "… and 3 lines more"]);
        assert_eq!(cut(&["a", "b"], 0), ["… and 2 lines more"]);
    }

    #[test]
    fn a_look_is_painted_over_the_one_before() {
        let mut out = Vec::new();
        let lines = ["a".to_owned(), "b".to_owned()];

        paint(&mut out, Some(0), &lines).unwrap();
        paint(&mut out, Some(2), &lines[..1]).unwrap();

        let painted = String::from_utf8(out).unwrap();
        assert_eq!(painted, "\u{1b}[J\u{1b}[?7la\nb\n\u{1b}[?7h\u{1b}[2A\u{1b}[1G\u{1b}[J\u{1b}[?7la\n\u{1b}[?7h");
    }
}
