//! Standard output: tables for people, JSON for programs.

use std::{
    io::{self, IsTerminal, Write},
    ops::ControlFlow,
};

use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use serde::Serialize;

use super::text::{printable, printable_json};
use crate::error::{Error, Kind, Result};

/// How facts are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::Args)]
pub(super) struct Style {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Style {
    /// JSON, whatever was asked for: with [`Style::next`], an object on each line.
    pub(super) const LINES: Self = Self { json: true };

    /// Not JSON.
    pub(super) fn is_for_people(self) -> bool {
        !self.json
    }

    /// Prints one thing: as `name: value` lines, or as a JSON object.
    pub(super) fn one<T: Serialize>(self, thing: &T, lines: &[(&str, String)]) -> Result<()> {
        if self.json {
            return json(thing);
        }
        let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or_default() + 1;
        let mut text = String::new();
        for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
            text.push_str(&format!("{:width$} {}\n", format!("{name}:"), printable(value)));
        }
        print(&text).map(drop)
    }

    /// Prints a text of several lines, or a JSON object.
    pub(super) fn text<T: Serialize>(self, thing: &T, text: &str) -> Result<()> {
        if self.json {
            return json(thing);
        }
        let lines: String = text.lines().map(|line| printable(line).into_owned() + "\n").collect();
        print(&lines).map(drop)
    }

    /// Prints several: as a table, or as a JSON array.
    pub(super) fn many<T: Serialize>(
        self,
        things: &[T],
        header: &[&str],
        row: impl Fn(&T) -> Vec<String>,
    ) -> Result<()> {
        if self.json {
            return json(&things);
        }
        let rows: Vec<_> = things.iter().map(row).collect();
        print(&table(header, &rows)).map(drop)
    }

    /// Prints the next one of an endless list: as a line, or as a JSON object on one line.
    pub(super) fn next<T: Serialize>(
        self,
        thing: &T,
        line: impl Fn(&T) -> String,
    ) -> Result<ControlFlow<()>> {
        if self.json {
            let text = serde_json::to_string(thing).map_err(cannot)?;
            return print(&(printable_json(&text) + "\n"));
        }
        print(&(printable(&line(thing)).into_owned() + "\n"))
    }
}

/// A table without frame or colours. On a terminal, long cells are broken to its width.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.to_vec());
    if let Some(width) = terminal_width() {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell).into_owned()).collect::<Vec<_>>());
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt() + "\n"
}

/// Writes to standard output. Breaks if nobody reads any more, which is no failure.
pub(super) fn print(text: &str) -> Result<ControlFlow<()>> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(cannot(error)),
    }
}

fn json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(cannot)?;
    print(&(printable_json(&text) + "\n")).map(drop)
}

fn cannot(error: impl std::fmt::Display) -> Error {
    Error::new(Kind::Local, "cannot write to standard output", error)
}

fn terminal_width() -> Option<u16> {
    let out = io::stdout();
    if !out.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&out).ok()?;
    (size.ws_col >= 40).then_some(size.ws_col)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piped_table_is_plain_text_one_line_a_row() {
        let rows = [vec!["laptop-7".into(), "a\nb".into()], vec!["x".into(), "y".repeat(300)]];
        let text = table(&["ID", "REASON"], &rows);
        assert_eq!(text.lines().count(), 3);
        assert!(text.starts_with("ID        REASON\n"), "{text:?}");
        assert!(text.contains("laptop-7  a\\u{a}b\n"), "{text:?}");
        assert!(!text.contains('\x1b'));
    }
}
