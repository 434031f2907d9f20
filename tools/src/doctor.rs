//! `sealed doctor`: what this kernel, this sandbox and this user have, and what it means for the library.

mod probed;
mod surroundings;

use anyhow::Result;
use clap::Args;
use sealed_mmap::Support;
use serde::Serialize;

use crate::Outcome;
use crate::text;

const MORE_HELP: &str = "\
Levels:
  ok       as it should be
  unknown  it could not be tried
  note     few programs need what is missing, or a setting is good to know
  warning  what programs may rely on fails, or others could get around seals
  problem  no file can be mapped safely here

Exit status:
  0  there is no problem; with --strict, no warning either
  1  there is
  2  trouble, such as a wrong option";

/// Say what this kernel, this sandbox and this user have and enforce, what it means, and what to change.
///
/// Seals are tried on files of this process, not guessed from the version of the kernel. A socket of the crypto API is
/// tried as well, which can make the kernel load the module af_alg.
#[derive(Args)]
#[command(after_long_help = MORE_HELP)]
pub(crate) struct Arguments {
    /// Explain the findings that are ok, too.
    #[arg(short, long)]
    verbose: bool,
    /// Exit with 1 for a warning, too.
    #[arg(long)]
    strict: bool,
    /// Print one JSON object, with everything explained.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Unknown,
    Note,
    Warning,
    Problem,
}

impl Level {
    const ALL: [Self; 5] = [Self::Ok, Self::Unknown, Self::Note, Self::Warning, Self::Problem];

    fn name(self) -> &'static str {
        ["ok", "unknown", "note", "warning", "problem"][self as usize]
    }

    /// As SGR of ECMA-48.
    fn color(self) -> &'static str {
        ["32", "36", "36", "33", "1;31"][self as usize]
    }
}

#[derive(Debug, Serialize)]
struct Finding {
    /// For scripts; does not change.
    id: String,
    level: Level,
    found: String,
    /// For the library and its users.
    meaning: String,
    /// What to do about it, if something should be done.
    change: Option<String>,
}

#[derive(Serialize)]
struct Report {
    kernel: String,
    uid: u32,
    findings: Vec<Finding>,
}

pub(crate) fn main(arguments: &Arguments) -> Result<Outcome> {
    let kernel = rustix::system::uname();
    let mut findings = probed::findings(&Support::probe());
    findings.extend(surroundings::findings());
    let report = Report {
        kernel: [kernel.sysname(), kernel.release(), kernel.machine()]
            .map(|part| part.to_string_lossy().into_owned())
            .join(" "),
        uid: rustix::process::geteuid().as_raw(),
        findings,
    };
    let output = if arguments.json { text::json(&report)? } else { report.text(arguments.verbose) };
    text::print(&output)?;
    let worst = report.findings.iter().map(|finding| finding.level).max();
    let bad = if arguments.strict { Level::Warning } else { Level::Problem };
    Ok(if worst >= Some(bad) { Outcome::Bad } else { Outcome::Good })
}

impl Report {
    fn text(&self, verbose: bool) -> String {
        let terminal = text::terminal();
        let width = terminal.map_or(100, |(columns, _)| columns.clamp(40, 110));
        let mut lines = vec![format!("{}, uid {}", text::printable(&self.kernel), self.uid)];
        let has_color = terminal.is_some() && std::env::var_os("NO_COLOR").is_none();
        for Finding { id, level, found, meaning, change } in &self.findings {
            let name = format!("{:7}", level.name());
            let label = if has_color {
                format!("\x1b[{}m{name}\x1b[m", level.color())
            } else {
                name.clone()
            };
            let found = text::printable(found);
            let indent = " ".repeat(name.len() + 1);
            let wrap = |text: &str| {
                let options = textwrap::Options::new(width.into())
                    .initial_indent(&indent)
                    .subsequent_indent(&indent);
                textwrap::wrap(text, options)
                    .into_iter()
                    .map(|line| line.into_owned())
                    .collect::<Vec<_>>()
            };
            let mut paragraph = wrap(&format!("{id}: {found}"));
            paragraph[0] = format!("{label} {}", paragraph[0].trim_start());
            lines.extend(paragraph);
            if verbose || *level != Level::Ok {
                lines.extend(wrap(&format!("means: {meaning}")));
                lines.extend(change.iter().flat_map(|change| wrap(&format!("change: {change}"))));
            }
        }
        let count = |level| self.findings.iter().filter(|finding| finding.level == level).count();
        let counts = Level::ALL.map(|level| format!("{} {}", count(level), level.name()));
        lines.push(counts.join(", "));
        lines.join("\n")
    }
}
