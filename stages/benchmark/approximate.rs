//! Recall and cost of the approximate index, compared with exact search.

use std::time::Instant;

use anyhow::Result;
use serde::Serialize;
use similiai::engine::stage::{Context, Input};
use similiai::retrieval::search::{self, FlatIndex, Graph, Parameters, Query};

use super::runs::Run;

/// Number of neighbours for which recall is measured.
pub const K: usize = 10;
/// Values of `ef`: the number of candidates that a search keeps.
const WIDTHS: [usize; 6] = [10, 16, 32, 64, 128, 256];

/// A point of the curve.
#[derive(Serialize)]
pub struct Point {
    pub ef: usize,
    /// Share of the nearest [`K`] that the index found.
    pub recall: f64,
    /// Mean number of distances computed for a query. This cost does not depend on the machine.
    pub distances: f64,
}

#[derive(Serialize)]
pub struct Curve {
    pub parameters: Parameters,
    pub queries: usize,
    pub gallery: usize,
    pub points: Vec<Point>,
}

/// Measures the index of `run`, if there is one among the inputs, by searching for the neighbours of `queries` among
/// all pictures. Speeds are printed but not stored, because they differ from run to run.
pub fn curve(run: &Run, queries: &[usize], context: &Context) -> Result<Option<Curve>> {
    let Run { embeddings, digest, .. } = run;
    let lineage = &context.inputs.lineage;
    let of_run = |input: &&Input| {
        let own = lineage.iter().find(|ancestor| ancestor.instance == input.instance);
        input.stage == "index" && own.is_some_and(|own| own.needs.contains(&run.name))
    };
    let Some(input) = context.inputs.results.iter().find(of_run) else { return Ok(None) };
    let graph = Graph::load(&input.folder.join(search::INDEX), digest)?;
    let exact = FlatIndex::of_rows(embeddings.dimension, &embeddings.values)?;
    let asked: Vec<Query> = queries.iter().map(|id| Query::nearest(embeddings.row(*id), K).without(*id)).collect();
    let start = Instant::now();
    let expected = exact.search(&asked)?;
    let speed = |start: Instant| queries.len() as f64 / start.elapsed().as_secs_f64();
    let mut told = vec![format!("exact search: {:.0} queries/s; approximate:", speed(start))];
    let wanted: usize = expected.iter().map(Vec::len).sum();
    let mut points = Vec::new();
    for ef in WIDTHS {
        let start = Instant::now();
        let found = graph.search_all(&exact, &asked, ef)?;
        let speed = speed(start);
        let hits = found.iter().zip(&expected).map(|((found, _), expected)| {
            // Counts all neighbours that are as near as the last expected one: any of several equally near pictures
            // is right.
            let last = expected.last().map_or(0.0, |neighbour| neighbour.distance);
            found.iter().filter(|neighbour| neighbour.distance <= last).count()
        });
        let recall = hits.sum::<usize>() as f64 / wanted.max(1) as f64;
        let distances = found.iter().map(|(_, measured)| *measured).sum::<usize>() as f64 / found.len().max(1) as f64;
        told.push(format!("  ef {ef:4}  recall@{K} {recall:.4}  {distances:6.0} distances, {speed:8.0} queries/s"));
        points.push(Point { ef, recall, distances });
    }
    context.progress.tell(&told.join("\n"));
    Ok(Some(Curve { parameters: graph.parameters(), queries: queries.len(), gallery: exact.len(), points }))
}
