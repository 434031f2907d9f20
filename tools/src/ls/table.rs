//! Rows as a table that fits the terminal.

use comfy_table::{
    Cell, CellAlignment, ColumnConstraint, ContentArrangement, Row as TableRow, Table, Width,
    presets,
};

use super::Row;
use crate::proc::Access;
use crate::text;

struct Column {
    title: &'static str,
    is_number: bool,
    /// To how few cells it may be cut. `None` if it is shown in full or not at all.
    shortest: Option<u16>,
    /// When it is left out of a narrow table: the first to go has 1, and 0 stays.
    goes: u8,
    content: fn(&Row) -> String,
}

const fn column(title: &'static str, goes: u8, content: fn(&Row) -> String) -> Column {
    Column { title, is_number: false, shortest: None, goes, content }
}

const fn number(title: &'static str, goes: u8, content: fn(&Row) -> String) -> Column {
    Column { is_number: true, ..column(title, goes, content) }
}

const fn text(title: &'static str, goes: u8, shortest: u16, content: fn(&Row) -> String) -> Column {
    Column { shortest: Some(shortest), ..column(title, goes, content) }
}

const UNKNOWN: &str = "?";

static COLUMNS: [Column; 10] = [
    number("PID", 0, |row| row.pid.to_string()),
    text("COMMAND", 6, 7, |row| text::printable(&row.command)),
    number("FD", 0, |row| row.fd.map_or_else(|| "map".to_owned(), |fd| fd.to_string())),
    text("NAME", 0, 9, |row| text::printable(&row.name)),
    number("SIZE", 5, |row| row.size.map_or_else(|| UNKNOWN.to_owned(), text::size)),
    number("MEMORY", 1, |row| row.memory.map_or_else(|| UNKNOWN.to_owned(), text::size)),
    column("SEALS", 4, |row| {
        row.seals.map_or_else(|| UNKNOWN.to_owned(), |seals| seals.to_string())
    }),
    column("MODE", 2, |row| row.access.map_or("", Access::in_short).to_owned()),
    column("MAPPED", 3, |row| match (row.mapped, row.mapped_writable) {
        (all, 0) => all.to_string(),
        (all, writable) => format!("{all} ({writable}w)"),
    }),
    text("SAFE TO MAP", 0, 22, |row| row.in_short.clone()),
];

const GAP: u16 = 2;

/// A column, and how many cells it has for its content.
struct Shown {
    column: &'static Column,
    natural: u16,
    cells: u16,
}

/// All columns in full, if there is no width to fit.
fn fit(rows: &[Row], width: Option<u16>) -> Vec<Shown> {
    let shown = COLUMNS.iter().map(|column| {
        let contents = rows.iter().map(column.content);
        let widest = contents.map(|content| textwrap::core::display_width(&content)).max();
        let title = column.title.len() as u16;
        let natural = (widest.unwrap_or(0) as u16).max(title);
        let least = column.shortest.map_or(natural, |shortest| natural.min(shortest.max(title)));
        Shown { column, natural, cells: if width.is_some() { least } else { natural } }
    });
    let mut shown: Vec<_> = shown.collect();
    let Some(width) = width else { return shown };

    let needed =
        |shown: &[Shown]| shown.iter().map(|one| one.cells + GAP).sum::<u16>().saturating_sub(GAP);
    while needed(&shown) > width {
        let first_to_go = shown.iter().map(|one| one.column.goes).filter(|goes| *goes > 0).min();
        if let Some(goes) = first_to_go {
            shown.retain(|one| one.column.goes != goes);
            continue;
        }
        let over = needed(&shown) - width;
        if let Some(last) = shown.last_mut() {
            last.cells = last.cells.saturating_sub(over).max(1);
        }
        break;
    }
    let mut left = width.saturating_sub(needed(&shown));
    // Those that need the least first: an endless name is cut, and takes nothing from the others.
    let mut by_need: Vec<_> = shown.iter_mut().collect();
    by_need.sort_by_key(|one| one.natural - one.cells);
    for one in by_need {
        let more = (one.natural - one.cells).min(left);
        one.cells += more;
        left -= more;
    }
    shown
}

/// With as many rows as the terminal has lines for, if there is a number of lines.
pub(super) fn table(rows: &[Row], width: Option<u16>, lines: Option<u16>) -> String {
    let shown = fit(rows, width);
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(shown.iter().map(|one| one.column.title));
    // The header, the summary, what was left out, and the line of the cursor.
    let room = lines.map_or(usize::MAX, |lines| usize::from(lines).saturating_sub(4));
    for row in rows.iter().take(room) {
        let mut cells: Vec<_> =
            shown.iter().map(|one| Cell::new((one.column.content)(row))).collect();
        if let Some(verdict) = cells.pop() {
            cells.push(match row.color() {
                Some(color) => verdict.fg(color),
                None => verdict,
            });
        }
        let mut cells = TableRow::from(cells);
        cells.max_height(1);
        table.add_row(cells);
    }
    let last = shown.len() - 1;
    for (index, (column, one)) in table.column_iter_mut().zip(&shown).enumerate() {
        let gap = if index == last { 0 } else { GAP };
        column.set_constraint(ColumnConstraint::Absolute(Width::Fixed(one.cells + gap)));
        // With a delimiter that does not occur, what is too long is cut to the cell, not to the word.
        column.set_padding((0, gap)).set_delimiter('\0');
        if one.column.is_number {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    // The columns have their widths.
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(u16::MAX);
    if width.is_none() {
        table.force_no_tty();
    }
    let mut text = table.trim_fmt();
    if rows.len() > room {
        text += &format!("\n… and {} more", rows.len() - room);
    }
    text
}
