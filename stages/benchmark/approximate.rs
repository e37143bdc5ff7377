//! How near the approximate index comes to exact search, and at what cost.

use std::time::Instant;

use anyhow::Result;
use serde::Serialize;
use similiai::engine::stage::{Context, Input};
use similiai::retrieval::search::{self, FlatIndex, Graph, Parameters, Query};

use super::runs::Run;

/// Neighbours by which an index is judged.
pub const K: usize = 10;
/// Candidates looked at for a query.
const WIDTHS: [usize; 6] = [10, 16, 32, 64, 128, 256];

/// A point of the curve.
#[derive(Serialize)]
pub struct Point {
    pub ef: usize,
    /// Share of the nearest [`K`] that it found.
    pub recall: f64,
    /// Distances measured for a query, on average: what it costs, whatever the machine.
    pub distances: f64,
}

#[derive(Serialize)]
pub struct Curve {
    pub parameters: Parameters,
    pub queries: usize,
    pub gallery: usize,
    pub points: Vec<Point>,
}

/// Of the run's index among the inputs, if there is one: `queries` are asked for their neighbours among all. What it
/// takes in time is told, but stands nowhere: it is another one on every run.
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
            // As near as the last of them: of equally near ones any will do.
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
