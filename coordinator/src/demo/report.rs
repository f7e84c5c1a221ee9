//! What came of the demo, as a table and in words.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use shared::TaskId;
use shared::client::TaskResult;

use super::verify::Check;
use super::work::{HANDLERS, Task};
use super::{Killed, plural};

/// No more lines than this about what is wrong.
const MOST_COMPLAINTS: usize = 20;

/// Everything that is to be said in the end.
pub(super) struct Report<'a> {
    pub(super) tasks: &'a [Task<'a>],
    pub(super) results: &'a HashMap<TaskId, TaskResult>,
    pub(super) killed: Option<&'a Killed>,
    pub(super) took: Duration,
    /// How many attempts the mesh says it started again.
    pub(super) reassigned: Option<u64>,
    /// One for each task.
    pub(super) checks: Vec<Check>,
}

/// What one agent did.
#[derive(Default)]
struct Row {
    by_kind: [usize; HANDLERS.len()],
    run: Duration,
}

impl Row {
    fn tasks(&self) -> usize {
        self.by_kind.iter().sum()
    }

    fn mean_run(&self) -> Duration {
        self.run.checked_div(u32::try_from(self.tasks()).unwrap_or(u32::MAX)).unwrap_or_default()
    }
}

impl Report<'_> {
    /// Whether every result is there and right.
    pub(super) fn is_right(&self) -> bool {
        self.checks.iter().all(|check| *check == Check::Right)
    }

    fn rows(&self) -> BTreeMap<&str, Row> {
        let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
        for task in self.tasks {
            let Some(result) = self.results.get(&task.id) else { continue };
            let row = rows.entry(result.agent.as_deref().unwrap_or("-")).or_default();
            if let Some(kind) = HANDLERS.iter().position(|handler| handler == task.handler) {
                row.by_kind[kind] += 1;
            }
            row.run += result.run;
        }
        // It is shown even if it was killed before it got anything done.
        if let Some(killed) = self.killed {
            rows.entry(killed.agent.as_str()).or_default();
        }
        rows
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        let kinds = HANDLERS.iter().map(|handler| handler.kind);
        table.set_header(["agent", "tasks"].into_iter().chain(kinds).chain(["mean run", ""]));
        for (agent, row) in self.rows() {
            let was_killed = self.killed.is_some_and(|killed| killed.agent.as_str() == agent);
            let mut cells = vec![agent.to_owned(), row.tasks().to_string()];
            cells.extend(row.by_kind.iter().map(ToString::to_string));
            cells.push(format!("{:.1} ms", row.mean_run().as_secs_f64() * 1e3));
            cells.push(if was_killed { "killed half-way".to_owned() } else { String::new() });
            table.add_row(cells);
        }
        for column in table.column_iter_mut().skip(1).take(HANDLERS.len() + 2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }

    fn write_reassigned(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(killed) = self.killed else { return writeln!(f, "No agent was killed.") };
        let again = self.results.values().filter(|result| result.attempts > 1).count();
        write!(
            f,
            "{} was killed with SIGKILL half-way: {} started again elsewhere",
            killed.agent,
            plural(again as u64, "task")
        )?;
        match self.reassigned {
            Some(told) => writeln!(f, " (the mesh counts {} reassigned).", plural(told, "attempt")),
            None => writeln!(f, "."),
        }
    }

    fn write_verdict(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_right() {
            return write!(f, "Every result is there, and the same as without the mesh.");
        }
        let bad: Vec<_> = self.tasks.iter().zip(&self.checks).filter(|(_, check)| **check != Check::Right).collect();
        write!(f, "{} of {} are missing or wrong:", bad.len(), plural(self.tasks.len() as u64, "result"))?;
        for (task, check) in bad.iter().take(MOST_COMPLAINTS) {
            write!(f, "\n  {} of {} (task {}): {}", task.handler.kind, task.file.name, task.id, Complaint(check))?;
        }
        if bad.len() > MOST_COMPLAINTS {
            write!(f, "\n  … and {} more", bad.len() - MOST_COMPLAINTS)?;
        }
        Ok(())
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.table())?;
        let rate = self.results.len() as f64 / self.took.as_secs_f64().max(1e-3);
        let took = self.took.as_secs_f64();
        writeln!(
            f,
            "{} of {} done in {took:.1} s ({rate:.0}/s).",
            self.results.len(),
            plural(self.tasks.len() as u64, "task")
        )?;
        self.write_reassigned(f)?;
        self.write_verdict(f)
    }
}

/// A check in words.
struct Complaint<'a>(&'a Check);

impl fmt::Display for Complaint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Check::Right => f.write_str("right"),
            Check::Missing => f.write_str("no result"),
            Check::NotDone(outcome, reason) => write!(f, "{outcome}: {reason}"),
            Check::Wrong { got, expected } => write!(f, "`{got}` instead of `{expected}`"),
            Check::FileChanged => f.write_str("the file was changed while the demo ran; try again"),
        }
    }
}
