//! What a machine's console said.

use super::{CONFIGURATIONS, Configuration};

#[derive(Default)]
pub(super) struct Report {
    /// The kernel's own name, and Debian's version.
    pub(super) version: Option<(String, String)>,
    runs: Vec<Run>,
    /// Configurations whose setting the kernel does not have.
    not_there: Vec<String>,
    pub(super) complete: bool,
    pub(super) not_run: Option<&'static str>,
    pub(super) retried: bool,
    pub(super) seconds: u64,
}

/// A test binary in a configuration.
#[derive(Default)]
struct Run {
    configuration: String,
    name: String,
    output: String,
    counts: Counts,
    seconds: u64,
    ended: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Counts {
    pub(super) passed: u64,
    pub(super) failed: u64,
    ignored: u64,
}

impl Counts {
    /// By the last line "test result: …". There is none of an example, or of a test that died.
    fn of(output: &str, status: &str) -> Self {
        let line = output.lines().rev().find_map(|line| line.strip_prefix("test result: "));
        let count = |word: &str| {
            let before = line?.split_once(&format!(" {word}"))?.0;
            before.rsplit(' ').next()?.parse().ok()
        };
        match (count("passed"), count("failed"), count("ignored")) {
            // Every test passed, and yet the whole failed.
            (Some(passed), Some(0), Some(ignored)) if status != "0" => {
                Self { passed, failed: 1, ignored }
            }
            (Some(passed), Some(failed), Some(ignored)) => Self { passed, failed, ignored },
            _ if status == "0" => Self { passed: 1, failed: 0, ignored: 0 },
            _ => Self { passed: 0, failed: 1, ignored: 0 },
        }
    }

    pub(super) fn add(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            ignored: self.ignored + other.ignored,
        }
    }
}

impl Report {
    pub(super) fn not_run(reason: &'static str) -> Self {
        Self { not_run: Some(reason), ..Self::default() }
    }

    pub(super) fn of(console: &str) -> Self {
        let mut report = Self::default();
        for line in console.lines() {
            let line = line.trim_end_matches('\r');
            let words: Vec<_> = line.split(' ').collect();
            let open = report.runs.last_mut().filter(|run| !run.ended);
            match (words.as_slice(), open) {
                (["@", "kernel", release, version], _) => {
                    report.version = Some(((*release).to_owned(), (*version).to_owned()));
                }
                (["@", "not", "there", configuration], _) => {
                    report.not_there.push((*configuration).to_owned())
                }
                (["@", "complete"], _) => report.complete = true,
                (["@", "begin", configuration, name], _) => report.runs.push(Run {
                    configuration: (*configuration).to_owned(),
                    name: (*name).to_owned(),
                    ..Run::default()
                }),
                (["@", "end", configuration, name, status, seconds], Some(run))
                    if run.configuration == *configuration && run.name == *name =>
                {
                    run.counts = Counts::of(&run.output, status);
                    run.seconds = seconds.parse().unwrap_or_default();
                    run.ended = true;
                    if *status != "0" {
                        run.output += &format!("exit status {status}\n");
                    }
                }
                (_, Some(run)) => {
                    run.output += line;
                    run.output.push('\n');
                }
                _ => {}
            }
        }
        report
    }

    pub(super) fn counts(&self, configuration: Option<&str>) -> Option<Counts> {
        let of =
            |run: &&Run| run.ended && configuration.is_none_or(|name| run.configuration == name);
        self.runs.iter().filter(of).map(|run| run.counts).reduce(Counts::add)
    }

    pub(super) fn cell(&self, configuration: &str) -> String {
        match self.counts(Some(configuration)) {
            Some(Counts { passed, failed: 0, .. }) => format!("{passed} passed"),
            Some(Counts { passed, failed, .. }) => format!("{passed} passed, {failed} failed"),
            None if self.not_there.iter().any(|other| other == configuration) => {
                "not there".to_owned()
            }
            None if self.not_run.is_some() => "not run".to_owned(),
            None if !self.complete => "cut short".to_owned(),
            None => "no test".to_owned(),
        }
    }

    pub(super) fn failed(&self) -> bool {
        self.not_run.is_none()
            && (!self.complete || self.counts(None).unwrap_or_default().failed > 0)
    }

    /// The results, and the whole output of what failed.
    pub(super) fn shown(&self, name: &str) -> String {
        let mut text = match (&self.version, self.not_run) {
            (_, Some(reason)) => format!("== {name}: NOT RUN, {reason}\n"),
            (Some((release, version)), None) => format!("== {name}: Linux {release} ({version})\n"),
            (None, None) => format!("== {name}\n"),
        };
        for Configuration { name, .. } in CONFIGURATIONS {
            let seconds: u64 = self
                .runs
                .iter()
                .filter(|run| run.configuration == *name)
                .map(|run| run.seconds)
                .sum();
            if let Some(Counts { passed, failed, ignored }) = self.counts(Some(name)) {
                text += &format!(
                    "{name:14} {passed} passed, {failed} failed, {ignored} ignored, {seconds} s\n"
                );
            } else if self.not_there.iter().any(|other| other == name) {
                text += &format!("{name:14} not there\n");
            }
        }
        if self.retried {
            text += &format!("the first try stopped early, see {name}.first.log\n");
        }
        if self.not_run.is_none() && !self.complete {
            text += "FAILED: the machine stopped before the end of the tests\n";
        }
        text += &format!("took {} s\n", self.seconds);
        for run in self.runs.iter().filter(|run| !run.ended || run.counts.failed > 0) {
            let what = if run.ended { "failed" } else { "did not end" };
            text += &format!("---- {} in {} {what}:\n{}", run.name, run.configuration, run.output);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "booting\r\n@ kernel 6.1.0-50-cloud-amd64 6.1.192-2\r\n\
        @ begin default unit\r\nrunning 3 tests\r\n\
        test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out\r\n@ end default unit 0 4\r\n\
        @ begin default example:quickstart\r\nshared\r\n@ end default example:quickstart 0 1\r\n\
        @ not there noexec1\r\n";

    #[test]
    fn a_console_is_read_whole() {
        let report = Report::of(&format!("{CONSOLE}@ complete\r\n"));
        assert_eq!(
            report.counts(Some("default")),
            Some(Counts { passed: 3, failed: 0, ignored: 1 })
        );
        assert!(report.complete && !report.failed());
        assert_eq!(report.cell("default"), "3 passed");
        assert_eq!(report.cell("noexec1"), "not there");
        assert_eq!(report.cell("noexec2"), "no test");
    }

    #[test]
    fn a_machine_that_stops_early_has_failed() {
        let report = Report::of(&format!("{CONSOLE}@ begin default seals\r\nhalf"));
        assert!(report.failed());
        assert!(report.shown("6.1").contains("---- seals in default did not end:\nhalf\n"));
    }

    #[test]
    fn a_failure_is_counted_once_whatever_the_harness_says() {
        let line = |failed| {
            format!("noise\ntest result: X. 5 passed; {failed} failed; 1 ignored; 0 measured\n")
        };
        assert_eq!(Counts::of(&line(0), "0"), Counts { passed: 5, failed: 0, ignored: 1 });
        assert_eq!(Counts::of(&line(2), "101"), Counts { passed: 5, failed: 2, ignored: 1 });
        assert_eq!(Counts::of(&line(0), "124"), Counts { passed: 5, failed: 1, ignored: 1 });
        assert_eq!(Counts::of("", "137"), Counts { passed: 0, failed: 1, ignored: 0 });
    }
}
