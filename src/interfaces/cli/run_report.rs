//! Reports of a run for people: a line for each instance, tables, and the exit status.

use anyhow::Result;

use super::duration;
use crate::base::error::Failure;
use crate::base::text::legible;
use crate::engine::cache::Reason;
use crate::engine::lock::Lock;
use crate::engine::pipeline::{Ran, Report};

/// Formats an instance, such as `train  ran 2m31s  parameter epochs: 40 → 80`.
pub fn line(report: &Report, width: usize) -> String {
    let state = match report.state {
        Ran::Ran => format!("ran {}", duration(report.seconds)),
        Ran::Cached => "cached".to_owned(),
        Ran::Failed => "failed".to_owned(),
        Ran::Skipped => "skipped".to_owned(),
        Ran::Pending => "would run".to_owned(),
    };
    let items = report.items.filter(|items| items.made < items.all);
    let items = items.map(|items| format!("{} of {} items; ", items.made, items.all)).unwrap_or_default();
    let estimate = report.estimated_seconds.map(|seconds| format!("(about {}) ", duration(seconds)));
    let why = Reason::all(&report.reasons);
    format!("{:width$}  {state:9}  {}{items}{why}", report.name, estimate.unwrap_or_default()).trim_end().to_owned()
}

/// Estimates from past runs how long the pending instances will take.
pub fn estimate(reports: &[Report]) -> Option<String> {
    let pending: Vec<&Report> = reports.iter().filter(|report| report.state == Ran::Pending).collect();
    let known: Vec<f64> = pending.iter().filter_map(|report| report.estimated_seconds).collect();
    if known.is_empty() {
        return None;
    }
    let new = pending.len() - known.len();
    let new = if new > 0 { format!("; instances that never ran: {new}") } else { String::new() };
    Some(format!("about {}, judging by past runs{new}", duration(known.iter().sum())))
}

/// Formats a table for `--locked`: what each instance did, and whether its result is the locked one.
pub fn compared(reports: &[Report], lock: &Lock) -> String {
    let width = reports.iter().map(|report| report.name.len()).max().unwrap_or(0).max("stage".len());
    let row = |name: &str, state: &str, verdict: &str| format!("{name:width$}  {state:7}  {verdict}");
    let rows = reports.iter().map(|report| row(&report.name, state(report), verdict(report, lock)));
    std::iter::once(row("stage", "", "as locked")).chain(rows).collect::<Vec<_>>().join("\n")
}

fn state(report: &Report) -> &'static str {
    match report.state {
        Ran::Ran => "ran",
        Ran::Cached => "cached",
        Ran::Failed => "failed",
        Ran::Skipped => "skipped",
        Ran::Pending => "pending",
    }
}

fn verdict(report: &Report, lock: &Lock) -> &'static str {
    match (&report.digest, &report.failure, lock.of(&report.name)) {
        (Some(digest), _, Ok(locked)) if *digest == locked.digest => "same",
        (Some(_), ..) | (_, Some(Failure::NotReproducible(_)), _) => "different",
        _ => "-",
    }
}

/// Formats the run as a Markdown table.
pub fn summary(reports: &[Report], lock: Option<&Lock>) -> String {
    let locked = |name: &'static str| if lock.is_some() { format!(" {name} |") } else { String::new() };
    let mut text =
        format!("| stage | state | time |{} why |\n| --- | --- | --- |{} --- |\n", locked("as locked"), locked("---"));
    for report in reports {
        let why = report.error.clone().unwrap_or_else(|| Reason::all(&report.reasons));
        let why = legible(&why).replace('|', "\\|").replace('\n', " ");
        let time = if report.state == Ran::Ran { duration(report.seconds) } else { String::new() };
        let same = lock.map(|lock| format!(" {} |", verdict(report, lock))).unwrap_or_default();
        text += &format!("| {} | {} | {time} |{same} {why} |\n", report.name, state(report));
    }
    text
}

/// Fails with the most important failure of the instances, which decides the exit status.
pub fn judge(reports: &[Report]) -> Result<()> {
    let failed = || reports.iter().filter(|report| report.state == Ran::Failed);
    let told = failed().map(|report| format!("{}: {}", report.name, report.error.as_deref().unwrap_or("failed")));
    let told = told.collect::<Vec<String>>().join("\n");
    if told.is_empty() {
        return Ok(());
    }
    let kinds = failed().filter_map(|report| report.failure.clone());
    // A signal comes first, because it may have caused the other failures. Then the worst failure comes.
    let worst = kinds.min_by_key(|failure| match failure {
        Failure::Interrupted(_) => 0,
        Failure::Damaged(_) => 1,
        Failure::NotReproducible(_) => 2,
        _ => 3,
    });
    Err(match worst {
        Some(Failure::Interrupted(signal)) => Failure::Interrupted(signal),
        Some(Failure::Damaged(_)) => Failure::Damaged(told),
        Some(Failure::NotReproducible(_)) => Failure::NotReproducible(told),
        _ => Failure::StagesFailed(told),
    }
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(failure: Option<Failure>) -> Report {
        let mut report = Report::new("train", Ran::Failed);
        (report.error, report.failure) = (Some("why".to_owned()), failure);
        report
    }

    #[test]
    fn the_worst_failure_gives_the_exit_status() {
        let status =
            |reports: &[Report]| crate::interfaces::cli::exit_status::exit_status(&judge(reports).unwrap_err());
        let (plain, different) = (failed(None), failed(Some(Failure::NotReproducible(String::new()))));
        let damaged = failed(Some(Failure::Damaged(String::new())));
        assert!(judge(&[Report::new("train", Ran::Ran)]).is_ok());
        assert_eq!(status(std::slice::from_ref(&plain)), 1);
        assert_eq!(status(&[plain.clone(), different.clone()]), 6);
        assert_eq!(status(&[different, damaged.clone()]), 4);
        assert_eq!(status(&[damaged, failed(Some(Failure::Interrupted(15)))]), 143);
    }

    #[test]
    fn a_summary_is_one_row_a_stage() {
        let mut report = failed(None);
        report.error = Some("a | b\nc".to_owned());
        let text = summary(&[report], None);
        assert_eq!(text.lines().nth(2), Some("| train | failed |  | a \\| b c |"));
    }
}
