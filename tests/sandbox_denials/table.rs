//! Operation × call × errno → outcome.

use std::fmt::{self, Write};

use crate::denier::Denial;
use crate::trial::{Operation, Outcome, Report};
use crate::truth;

#[derive(Default)]
pub(crate) struct Table(Vec<Row>);

struct Row {
    operation: &'static str,
    call: String,
    errno: String,
    report: Report,
}

impl Table {
    pub(crate) fn add(&mut self, operation: &Operation, denial: Option<Denial>, report: Report) {
        let (call, errno) = denial.map_or(("nothing".to_owned(), "–".to_owned()), |denial| {
            let nth = denial.only.map_or(String::new(), |nth| format!(" #{nth}"));
            (denial.call.name(), truth::name(denial.errno).to_owned() + &nth)
        });
        self.0.push(Row { operation: operation.name, call, errno, report });
    }

    /// In the order of these operations.
    pub(crate) fn sort_as(&mut self, operations: &[Operation]) {
        self.0.sort_by_key(|row| operations.iter().position(|one| one.name == row.operation));
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn faults(&self) -> Vec<String> {
        // What differs by the errno alone stands in one line, with the first as the example.
        let mut faults: Vec<(&Row, &str, Vec<&str>)> = Vec::new();
        for row in &self.0 {
            for fault in &row.report.faults {
                let category = |fault: &str| fault.split(':').next().map(str::to_owned);
                let same = faults.iter_mut().find(|(known, text, _)| {
                    (known.operation, &known.call) == (row.operation, &row.call)
                        && category(text) == category(fault)
                });
                match same {
                    Some((.., errnos)) => errnos.push(&row.errno),
                    None => faults.push((row, fault, vec![&row.errno])),
                }
            }
        }
        // The worst first.
        faults.sort_by_key(|(_, fault, _)| *fault == truth::BARE);
        let line = |(row, fault, errnos): (&Row, _, Vec<_>)| {
            format!("{} × {} ({}): {fault}", row.operation, row.call, errnos.join(", "))
        };
        faults.into_iter().map(line).collect()
    }

    /// The rows of one operation and call, and their errnos by outcome.
    fn groups(&self) -> impl Iterator<Item = (&Row, [String; 3])> {
        let same = |a: &Row, b: &Row| (a.operation, &a.call) == (b.operation, &b.call);
        self.0.chunk_by(same).map(|rows| {
            let errnos = |of: fn(&Report) -> bool| {
                let rows = rows.iter().filter(|row| of(&row.report));
                rows.map(|row| row.errno.as_str()).collect::<Vec<_>>().join(", ")
            };
            let by_outcome = [
                errnos(|report| report.is_sound() && report.outcome == Outcome::Succeeded),
                errnos(|report| report.is_sound() && report.outcome != Outcome::Succeeded),
                errnos(|report| !report.is_sound()),
            ];
            (&rows[0], by_outcome)
        })
    }

    pub(crate) fn to_markdown(&self) -> String {
        let mut text = String::from(
            "| operation | denied | succeeds all the same | is a truthful error |\n\
             |---|---|---|---|\n",
        );
        for (row, [succeeded, failed, _]) in self.groups() {
            let Row { operation, call, .. } = row;
            writeln!(text, "| {operation} | `{call}` | {succeeded} | {failed} |").unwrap();
        }
        text
    }
}

impl FromIterator<Table> for Table {
    fn from_iter<I: IntoIterator<Item = Self>>(tables: I) -> Self {
        Self(tables.into_iter().flat_map(|table| table.0).collect())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (row, by_outcome) in self.groups() {
            write!(f, "{} × {}", row.operation, row.call)?;
            for (outcome, errnos) in ["success", "error", "FAULT"].iter().zip(by_outcome) {
                if !errnos.is_empty() {
                    write!(f, " | {outcome}: {errnos}")?;
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
