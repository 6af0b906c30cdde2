//! What is printed: the machine, tables in Markdown, and each figure beside its target.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;

/// A table under construction.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    title: String,
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with a title and its column heads.
    pub(crate) fn new(title: impl Into<String>, head: &[&str]) -> Self {
        let head = head.iter().map(|&name| name.to_owned()).collect();
        Self { title: title.into(), head, rows: Vec::new() }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table in Markdown; columns after the first are aligned to the right.
    pub(crate) fn render(&self) -> String {
        let mut out = format!("\n### {}\n\n", self.title);
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        out += &line(&self.head);
        let rule = |index| if index == 0 { "---" } else { "---:" };
        let _ = writeln!(out, "|{}|", (0..self.head.len()).map(rule).collect::<Vec<_>>().join("|"));
        for row in &self.rows {
            out += &line(row);
        }
        out
    }
}

/// A figure beside what was promised. A missed target is printed, never an error: machines differ.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    /// What is compared.
    pub(crate) what: String,
    /// The target in words.
    pub(crate) target: String,
    /// The figure in words.
    pub(crate) measured: String,
    /// Whether it was reached; none = it could not be measured.
    pub(crate) met: Option<bool>,
}

impl Verdict {
    /// A figure that must not be above its target.
    pub(crate) fn at_most(what: &str, limit: f64, measured: Option<f64>, unit: &str) -> Self {
        Self::compare(what, "≤", limit, measured, unit, |figure| figure <= limit)
    }

    /// A figure that must not be below its target.
    pub(crate) fn at_least(what: &str, limit: f64, measured: Option<f64>, unit: &str) -> Self {
        Self::compare(what, "≥", limit, measured, unit, |figure| figure >= limit)
    }

    fn compare(
        what: &str,
        sign: &str,
        limit: f64,
        measured: Option<f64>,
        unit: &str,
        met: impl Fn(f64) -> bool,
    ) -> Self {
        Self {
            what: what.to_owned(),
            target: format!("{sign} {} {unit}", number(limit)),
            measured: measured.map_or_else(|| "not measured".to_owned(), |m| format!("{} {unit}", number(m))),
            met: measured.map(met),
        }
    }
}

/// All verdicts in one table.
pub(crate) fn verdicts(verdicts: &[Verdict]) -> String {
    let mut table = Table::new("Targets", &["what", "target", "measured", ""]);
    for verdict in verdicts {
        let met = match verdict.met {
            Some(true) => "met",
            Some(false) => "missed",
            None => "–",
        };
        let Verdict { what, target, measured, .. } = verdict.clone();
        table.row([what, target, measured, met.to_owned()]);
    }
    table.render()
}

/// The machine, the date and the versions: without them a figure means nothing.
pub(crate) fn header(versions: &[(String, String)]) -> String {
    let mut table = Table::new("Machine and versions", &["", "value"]);
    let file = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let after = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key)).and_then(|line| line.split_once(':'));
        line.map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpuinfo = file("/proc/cpuinfo");
    let processor = format!("{}, {cores} cores", after(&cpuinfo, "model name"));
    let virtual_machine =
        cpuinfo.lines().any(|line| line.starts_with("flags") && line.contains(" hypervisor"));
    let kernel = file("/proc/sys/kernel/osrelease");
    let kernel = format!("{}{}", kernel.trim(), if virtual_machine { " (virtual machine)" } else { "" });
    let mut pair = |name: &str, value: &str| table.row([name.to_owned(), value.to_owned()]);
    pair("date", &first_line("date", &["-u", "+%Y-%m-%d %H:%M UTC"]));
    pair("processor", &processor);
    pair("memory", &after(&file("/proc/meminfo"), "MemTotal"));
    pair("kernel", &kernel);
    pair("load before the start", file("/proc/loadavg").get(..14).unwrap_or("unknown"));
    for (name, value) in versions {
        pair(name, value);
    }
    table.render()
}

/// The first line a program prints; "unknown" if it cannot be run or does not end.
pub(crate) fn first_line(program: impl AsRef<Path>, arguments: &[&str]) -> String {
    let text = output_of(program.as_ref(), arguments).unwrap_or_default();
    text.lines().next().filter(|line| !line.is_empty()).unwrap_or("unknown").to_owned()
}

fn output_of(program: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    let mut child =
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let deadline = Instant::now() + Duration::from_secs(5);
    while child.try_wait()?.is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    // An error means that it has ended, as it should have.
    let _ = child.kill();
    Ok(String::from_utf8_lossy(&child.wait_with_output()?.stdout).into_owned())
}

/// The median; none of nothing.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        1 => values.get(middle).copied(),
        _ => Some((values.get(middle.checked_sub(1)?)? + values.get(middle)?) / 2.0),
    }
}

/// Microseconds.
pub(crate) fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// A number with as many digits as matter: three significant ones, or all before the point.
pub(crate) fn number(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 100.0 || value == value.trunc() => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    let plain = format!("{value:.decimals$}");
    let (whole, fraction) = plain.split_once('.').unwrap_or((&plain, ""));
    let (sign, digits) = whole.split_at(usize::from(whole.starts_with('-')));
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{sign}{grouped}{point}{fraction}")
}

/// A number, or a dash.
pub(crate) fn maybe(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), number)
}

/// A difference with its sign, or a dash.
pub(crate) fn signed(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |v| if v > 0.0 { format!("+{}", number(v)) } else { number(v) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_ignore_order() {
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median([]), None);
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in
            [(0.1234, "0.12"), (12.34, "12.3"), (1234.5, "1,234"), (-1234567.0, "-1,234,567"), (40.0, "40")]
        {
            assert_eq!(number(value), text);
        }
        assert_eq!((signed(Some(3.0)), maybe(None)), ("+3".to_owned(), "–".to_owned()));
    }

    #[test]
    fn versions_are_asked_for_without_waiting_for_ever() {
        assert_eq!(first_line("echo", &["one\ntwo"]), "one");
        assert_eq!(first_line("/no/such/program", &[]), "unknown");
    }

    #[test]
    fn verdicts_say_met_missed_or_unknown() {
        let all = [
            Verdict::at_most("a", 50.0, Some(51.0), "µs"),
            Verdict::at_least("b", 0.85, Some(0.9), ""),
            Verdict::at_least("c", 2.0, None, "×"),
        ];
        assert_eq!(all.clone().map(|v| v.met), [Some(false), Some(true), None]);
        assert!(verdicts(&all).contains("| a | ≤ 50 µs | 51 µs | missed |"));
    }
}
