//! `similiai metrics history`

use std::collections::BTreeSet;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Result;
use serde_json::{Value, json};

use super::{has_figures, stored_file};
use crate::engine::cache::{KeyDocument, Reason};
use crate::interfaces::cli::{ManifestOptions, Session};
use crate::report::results::{self, Protocol, Results};
use crate::retrieval::metrics::{METRICS, PRECISION_AT_5, Score};

/// The bars of a trend, from low to high.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

#[derive(clap::Args)]
pub struct Arguments {
    /// Metric to show
    #[arg(long, value_name = "NAME", default_value = METRICS[PRECISION_AT_5].name,
          value_parser = clap::builder::PossibleValuesParser::new(METRICS.iter().map(|metric| metric.name)))]
    metric: String,
    #[command(flatten)]
    manifest: ManifestOptions,
    /// Print JSON on stdout
    #[arg(long)]
    json: bool,
}

/// A past run.
struct Past {
    /// The name of the instance; `None` if the history has lost it.
    instance: Option<String>,
    /// When the run ended, in seconds since 1970; `None` if the history has lost it.
    at: Option<u64>,
    key: String,
    /// Scores by protocol.
    scores: Vec<(String, Score)>,
    /// Key documents of the instance and of those it depends on, with the name of each instance.
    documents: Vec<(String, KeyDocument)>,
}

pub fn run(session: &Session, arguments: &Arguments) -> Result<()> {
    let project = session.project_or_last(&arguments.manifest)?;
    let history = project.store.history();
    let mut pasts = Vec::new();
    for stored in project.store.results()?.into_iter().filter(|stored| has_figures(session, stored)) {
        let read = stored_file(&project, &stored, results::FILE).and_then(|text| Ok(serde_json::from_slice(&text)?));
        let results: Results = match read {
            Ok(results) => results,
            Err(error) => {
                tracing::warn!("{} is left out: {error:#}", &stored.key[..12]);
                continue;
            }
        };
        let finished = history.iter().rev().find(|finished| finished.key == stored.key);
        let (instance, at) = finished.map(|finished| (finished.instance.clone(), finished.at)).unzip();
        let protocols = results.protocols.into_iter();
        let score = |(name, protocol): (String, Protocol)| Some((name, *protocol.metrics.get(&arguments.metric)?));
        let scores = protocols.filter_map(score).collect();
        let own = (instance.clone().unwrap_or_else(|| stored.document.stage.clone()), stored.document.clone());
        let documents = results.lineage.into_iter().map(|it| (it.instance, it.document)).chain([own]).collect();
        pasts.push(Past { instance, at, key: stored.key, scores, documents });
    }
    pasts.sort_by(|a, b| (&a.at, &a.key).cmp(&(&b.at, &b.key)));
    // Each run is compared with the previous run of the same instance.
    let before = |place: usize| pasts[..place].iter().rev().find(|past| past.instance == pasts[place].instance);
    let changes = (0..pasts.len()).map(|place| before(place).map_or(Vec::new(), |before| pasts[place].since(before)));
    let changes: Vec<Vec<String>> = changes.collect();
    if arguments.json {
        let run = |(past, changes): (&Past, &Vec<String>)| {
            let score = |(name, it): &(String, Score)| {
                (name.clone(), json!({"value": it.value, "low": it.low, "high": it.high}))
            };
            let scores: serde_json::Map<_, _> = past.scores.iter().map(score).collect();
            json!({"instance": past.instance, "at": past.at, "key": past.key, "metric": arguments.metric, "protocols": scores, "changes": changes})
        };
        let runs: Vec<Value> = pasts.iter().zip(&changes).map(run).collect();
        return session.print_json(&json!({"runs": runs}));
    }
    if pasts.is_empty() {
        tracing::info!("the store holds no run that measured anything yet; run `similiai run all`");
    }
    let print = |line: String| session.screen.print(&line);
    for (past, changes) in pasts.iter().zip(&changes) {
        let scores: Vec<String> = past.scores.iter().map(|(name, score)| format!("{name} {score}")).collect();
        let (name, scores) = (past.name(), scores.join("  "));
        let line = format!("{}  {}  {name}  {scores}  {}", past.time(), &past.key[..12], changes.join("; "));
        print(line.trim_end().to_owned());
    }
    let series: BTreeSet<(&str, &str)> = pasts
        .iter()
        .flat_map(|past| past.scores.iter().map(|(protocol, _)| (past.name(), protocol.as_str())))
        .collect();
    for (name, protocol) in series {
        let of = |past: &Past| past.scores.iter().find(|(other, _)| other == protocol).map(|(_, score)| score.value);
        let values: Vec<f64> = pasts.iter().filter(|past| past.name() == name).filter_map(of).collect();
        if values.len() > 1 {
            print(format!("{name}  {protocol:14} {} {}", arguments.metric, trend(&values)));
        }
    }
    Ok(())
}

impl Past {
    fn name(&self) -> &str {
        self.instance.as_deref().unwrap_or("-")
    }

    fn time(&self) -> String {
        let at = self.at.map(|at| UNIX_EPOCH + Duration::from_secs(at));
        at.map_or_else(|| format!("{:20}", "-"), |at| humantime::format_rfc3339_seconds(at).to_string())
    }

    /// Returns what was changed since the previous run, without changed inputs, which only follow from it.
    fn since(&self, before: &Self) -> Vec<String> {
        let change = |(name, document): &(String, KeyDocument)| {
            let Some((_, earlier)) = before.documents.iter().find(|(other, _)| other == name) else {
                return Some(format!("{name} is new"));
            };
            let follows = |reason: &Reason| {
                matches!(reason, Reason::InputAdded(_) | Reason::InputRemoved(_) | Reason::InputChanged { .. })
            };
            let mut reasons = document.changes_since(earlier, |_, _| None);
            reasons.retain(|reason| !follows(reason));
            (!reasons.is_empty()).then(|| format!("{name}: {}", Reason::all(&reasons)))
        };
        let is_here = |name: &String| self.documents.iter().any(|(other, _)| other == name);
        let gone =
            before.documents.iter().filter(|(name, _)| !is_here(name)).map(|(name, _)| format!("{name} is gone"));
        self.documents.iter().filter_map(change).chain(gone).collect()
    }
}

/// Formats values as bars with their range, such as `▁▄█ 0.409 to 0.725`.
fn trend(values: &[f64]) -> String {
    let (low, high) =
        values.iter().fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(*value), high.max(*value)));
    let most = (BARS.len() - 1) as f64;
    let bar = |value: &f64| match high > low {
        true => BARS[((value - low) / (high - low) * most).round() as usize],
        false => BARS[BARS.len() / 2],
    };
    let bars: String = values.iter().map(bar).collect();
    format!("{bars} {low:.3} to {high:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trend_reaches_from_the_lowest_to_the_highest() {
        assert_eq!(trend(&[0.4, 0.55, 0.7]), "▁▅█ 0.400 to 0.700");
        assert_eq!(trend(&[0.5, 0.5]), "▅▅ 0.500 to 0.500");
    }
}
