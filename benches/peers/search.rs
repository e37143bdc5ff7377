//! Our side of the comparison with other search libraries: reads commands from standard input, one a line, and
//! answers each with the seconds that it took.
//!
//! Start it as `search DIMENSION K GALLERY QUERIES`; the last two are files of little-endian 32-bit
//! floats. The commands are `arrange 0`, `batch 0` (all queries at once), `one COUNT` (the first COUNT queries, one
//! by one), `link M,EF_CONSTRUCTION` (build the approximate index), `graph EF` (all queries with this index), and
//! `dump FILE` (write the ids found by the last command, K in a row, as little-endian 64-bit integers).

use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use similiai::base::files;
use similiai::retrieval::search::{FlatIndex, Graph, Neighbour, Parameters, Query};

fn main() -> Result<()> {
    // `cargo bench` adds its own argument.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [dimension, k, gallery, queries] = &arguments[..] else {
        println!("usage: search DIMENSION K GALLERY QUERIES, then commands on standard input");
        return Ok(());
    };
    let (dimension, k) = (dimension.parse()?, k.parse()?);
    let (gallery, queries) = (floats(gallery)?, floats(queries)?);
    let queries: Vec<Query> = queries.chunks_exact(dimension).map(|row| Query::nearest(row, k)).collect();
    let (rows, gallery) = (&gallery, FlatIndex::of_rows(dimension, &gallery)?);
    let mut graph = None;
    let mut found = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (command, argument) = line.split_once(' ').context("a command and its argument")?;
        let start = Instant::now();
        match command {
            "arrange" => gallery.arrange(),
            "batch" => found = gallery.search(&queries)?,
            "one" => {
                found.clear();
                for query in &queries[..argument.parse()?] {
                    found.extend(gallery.search(&[*query])?);
                }
            }
            "link" => {
                let (m, ef_construction) = argument.split_once(',').context("link M,EF_CONSTRUCTION")?;
                let (m, ef_construction) = (m.parse()?, ef_construction.parse()?);
                let parameters = Parameters { m, ef_construction, ..Parameters::default() };
                graph = Some(Graph::build("", dimension, rows, parameters, || Ok(()))?);
            }
            "graph" => {
                let graph = graph.as_ref().context("link comes first")?;
                let answers = graph.search_all(&gallery, &queries, argument.parse()?)?;
                found = answers.into_iter().map(|(neighbours, _)| neighbours).collect();
            }
            "dump" => dump(&found, argument)?,
            other => bail!("unknown command {other}"),
        }
        println!("{}", start.elapsed().as_secs_f64());
        std::io::stdout().flush()?;
    }
    Ok(())
}

fn floats(path: &str) -> Result<Vec<f32>> {
    Ok(files::read(Path::new(path))?.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect())
}

fn dump(found: &[Vec<Neighbour>], path: &str) -> Result<()> {
    let ids: Vec<u8> = found.iter().flatten().flat_map(|neighbour| (neighbour.id as u64).to_le_bytes()).collect();
    files::write(Path::new(path), &ids)
}
