//! The figures of `results.json` as lines for people.

use serde_json::Value;

use super::{METRICS, PRECISION_AT_5};

/// A value with its interval.
pub struct Shown {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

impl Shown {
    pub fn of(score: &Value) -> Option<Self> {
        let number = |name: &str| score[name].as_f64();
        Some(Self { value: number("value")?, low: number("low")?, high: number("high")? })
    }
}

impl std::fmt::Display for Shown {
    fn fmt(&self, to: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(to, "{:.3} ({:.3}–{:.3})", self.value, self.low, self.high)
    }
}

/// A line for each metric of each protocol, what was reached without learning, and other trainings beside this one.
pub fn table(results: &Value) -> Vec<String> {
    let precision = METRICS[PRECISION_AT_5].name;
    let mut lines = Vec::new();
    for (name, protocol) in results["protocols"].as_object().into_iter().flatten() {
        lines.push(format!("{name}: {} queries, gallery of {}", protocol["queries"], protocol["gallery"]));
        for metric in &METRICS {
            let score = &protocol["metrics"][metric.name];
            let (Some(shown), Some(chance)) = (Shown::of(score), score["chance"].as_f64()) else { continue };
            lines.push(format!("  {:12} {shown}, chance {chance:.3}", metric.name));
        }
        for (baseline, reached) in protocol["baselines"].as_object().into_iter().flatten() {
            let Some(shown) = Shown::of(&reached[precision]) else { continue };
            lines.push(format!("  {precision:12} {shown} with {baseline}"));
        }
        for other in results["comparisons"].as_array().into_iter().flatten() {
            let difference = &other["protocols"][name][precision];
            let number = |name: &str| difference[name].as_f64().unwrap_or(0.0);
            let (run, verdict) = (other["run"].as_str(), difference["verdict"].as_str());
            lines.push(format!(
                "  {precision:12} {:.3}, {:+.3} ({:+.3} to {:+.3}), {} in {}",
                number("after"),
                number("difference"),
                number("low"),
                number("high"),
                verdict.unwrap_or_default(),
                run.unwrap_or_default()
            ));
        }
    }
    lines
}
