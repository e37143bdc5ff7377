//! compare: compares variants of a training by the precision on held-out pictures after the last epoch.

use anyhow::{Context as _, Result, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use similiai::engine::stage::{Context, Inputs, Invalid, Need, Stage, require};
use similiai::learning::dataset;

use similiai::report::training_log::{self, Epoch};

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Compare {
    /// The variant that the others are compared with. Instances must have names like `<variant>-<run>`.
    baseline: String,
}

/// One variant: a row of the table.
#[derive(Debug, PartialEq, Serialize)]
struct Row {
    variant: String,
    runs: usize,
    /// Mean held-out precision@5 of the runs, with its standard deviation.
    mean: f64,
    deviation: f64,
    /// Mean difference from the baseline's run of the same name, with its standard deviation.
    difference: f64,
    difference_deviation: f64,
}

/// Held-out precision of one training run.
struct Run {
    variant: String,
    run: String,
    precision: f64,
}

impl Stage for Compare {
    const NAME: &'static str = "compare";
    const VERSION: u32 = 1;
    const DRAWS: bool = false;
    const ABOUT: &'static str = "compares variants of a training by held-out pictures";
    const NEEDS: &'static [&'static str] = &["train"];
    const MANY: &'static [&'static str] = &["train"];

    fn check(&self) -> Result<(), Invalid> {
        require(
            !self.baseline.is_empty(),
            "baseline",
            "must be the name of a variant, such as `full` for instances `full-1`, `full-2`, …",
        )
    }

    /// Checks the names before any variant is trained.
    fn precheck(&self, ready: &Inputs) -> Result<()> {
        let run = |need: &Need| {
            let (variant, run) = parts(&need.instance)?;
            Ok(Run { variant: variant.to_owned(), run: run.to_owned(), precision: 0.0 })
        };
        rows(&self.baseline, &ready.needs.iter().map(run).collect::<Result<Vec<Run>>>()?).map(drop)
    }

    fn run(&self, context: &Context) -> Result<()> {
        let mut runs = Vec::new();
        for input in &context.inputs.results {
            let name = &input.instance;
            let (variant, run) = parts(name)?;
            let epochs: Vec<Epoch> = dataset::read(&input.folder.join(training_log::FILE))?;
            let precision = epochs.last().and_then(|epoch| epoch.validation_precision);
            let precision = precision.with_context(|| format!("the log of `{name}` does not end with a precision"))?;
            runs.push(Run { variant: variant.to_owned(), run: run.to_owned(), precision });
        }
        let rows = rows(&self.baseline, &runs)?;
        context.outputs.write("comparison.csv", &dataset::to_bytes(&rows)?)?;
        context.outputs.write("comparison.md", page(&self.baseline, &rows).as_bytes())
    }
}

/// Variant and run, from the name of an instance.
fn parts(name: &str) -> Result<(&str, &str)> {
    name.rsplit_once('-').with_context(|| format!("the name of instance `{name}` is not like `<variant>-<run>`"))
}

/// One row for each variant: first the baseline, then from the best to the worst.
fn rows(baseline: &str, runs: &[Run]) -> Result<Vec<Row>> {
    let of = |variant: &str, run: &str| runs.iter().find(|found| found.variant == variant && found.run == run);
    let mut names: Vec<&str> = runs.iter().map(|run| run.variant.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    if !names.contains(&baseline) {
        bail!("no instance is called `{baseline}-…`, as the baseline must be; the variants are {}", names.join(", "));
    }
    let row = |variant: &str| -> Result<Row> {
        let these: Vec<&Run> = runs.iter().filter(|run| run.variant == variant).collect();
        let values: Vec<f64> = these.iter().map(|run| run.precision).collect();
        let difference = |run: &&Run| -> Result<f64> {
            let base = of(baseline, &run.run).with_context(|| format!("there is no `{baseline}-{}`", run.run))?;
            Ok(run.precision - base.precision)
        };
        let differences = these.iter().map(difference).collect::<Result<Vec<f64>>>()?;
        let ((mean, deviation), (difference, difference_deviation)) = (moments(&values), moments(&differences));
        let (variant, runs) = (variant.to_owned(), values.len());
        Ok(Row { variant, runs, mean, deviation, difference, difference_deviation })
    };
    let mut rows = names.into_iter().map(row).collect::<Result<Vec<Row>>>()?;
    rows.sort_by(|a, b| (b.variant == baseline).cmp(&(a.variant == baseline)).then(b.mean.total_cmp(&a.mean)));
    Ok(rows)
}

/// Mean and sample standard deviation, rounded to millionths.
fn moments(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count.max(1.0);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let rounded = |value: f64| (value * 1e6).round() / 1e6;
    (rounded(mean), rounded((squares / (count - 1.0).max(1.0)).sqrt()))
}

fn page(baseline: &str, rows: &[Row]) -> String {
    let mut page = format!(
        "| variant | runs | held-out precision@5 | difference from `{baseline}`, run by run |\n| --- | --- | --- | --- |\n"
    );
    for Row { variant, runs, mean, deviation, difference, difference_deviation } in rows {
        let difference = match variant == baseline {
            true => String::new(),
            false => format!("{difference:+.3} ± {difference_deviation:.3}"),
        };
        page += &format!("| {variant} | {runs} | {mean:.3} ± {deviation:.3} | {difference} |\n");
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(variant: &str, run: &str, precision: f64) -> Run {
        Run { variant: variant.into(), run: run.into(), precision }
    }

    #[test]
    fn differences_are_taken_run_by_run() {
        let runs =
            [run("b", "1", 0.5), run("full", "2", 0.8), run("full", "1", 0.4), run("b", "2", 0.9), run("a", "1", 0.1)];
        let rows = rows("full", &runs).unwrap();
        let names: Vec<&str> = rows.iter().map(|row| row.variant.as_str()).collect();
        assert_eq!(names, ["full", "b", "a"]);
        assert_eq!((rows[1].runs, rows[1].mean, rows[1].deviation), (2, 0.7, 0.282843));
        assert_eq!((rows[1].difference, rows[1].difference_deviation), (0.1, 0.0));
        assert!(page("full", &rows).contains("| b | 2 | 0.700 ± 0.283 | +0.100 ± 0.000 |"));
    }

    #[test]
    fn a_run_without_its_baseline_is_an_error() {
        let error = rows("full", &[run("full", "1", 0.5), run("a", "2", 0.5)]).unwrap_err().to_string();
        assert!(error.contains("`full-2`"), "{error}");
        assert!(rows("all", &[run("full", "1", 0.5)]).unwrap_err().to_string().contains("the variants are full"));
    }
}
