//! `queries.csv`: the scores of each query, so that two runs can be compared query by query.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::{COUNT, Difference, METRICS};
use crate::base::seed::rng;
use crate::damaged;

/// A mean of scores may be above 1 by this much, because of rounding.
const ROUNDING: f64 = 1e-9;

/// The scores of one query under one protocol.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// The instance that made the embeddings.
    pub run: String,
    pub protocol: String,
    /// The path of the query's picture.
    pub path: String,
    pub label_name: String,
    /// In the order of [`METRICS`].
    pub values: [f64; COUNT],
}

fn header() -> impl Iterator<Item = &'static str> {
    ["run", "protocol", "path", "label_name"].into_iter().chain(METRICS.iter().map(|metric| metric.name))
}

/// Writes rows as CSV, so that [`parse`] can read them.
pub fn to_bytes(rows: &[Scored]) -> Result<Vec<u8>> {
    let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(Vec::new());
    writer.write_record(header())?;
    for Scored { run, protocol, path, label_name, values } in rows {
        writer.serialize((run, protocol, path, label_name, values))?;
    }
    writer.into_inner().context("cannot write the queries")
}

/// Reads the CSV of [`to_bytes`]. `name` appears in errors.
pub fn parse(bytes: &[u8], name: &str) -> Result<Vec<Scored>> {
    let mut reader = csv::Reader::from_reader(bytes);
    let wrong = |what: String| damaged!("{name}: {what}");
    if !reader.headers().map_err(|error| wrong(error.to_string()))?.iter().eq(header()) {
        return Err(wrong("its columns are from another version; run the benchmark again".to_owned()));
    }
    let row = |row: csv::Result<(String, String, String, String, [f64; COUNT])>| {
        let (run, protocol, path, label_name, values) = row.map_err(|error| wrong(error.to_string()))?;
        if let Some(value) = values.iter().find(|value| !(-ROUNDING..=1.0 + ROUNDING).contains(*value)) {
            return Err(wrong(format!("{path} has the score {value}, and scores go from 0 to 1")));
        }
        Ok(Scored { run, protocol, path, label_name, values })
    };
    reader.deserialize().map(row).collect()
}

/// For each metric, how the run `after` differs from the run `before`, under one protocol and over the queries that
/// both have. The same rows always give the same result.
pub fn differences(before: &[Scored], after: &[Scored], protocol: &str) -> BTreeMap<String, Difference> {
    let of = |rows: &'_ [Scored]| -> BTreeMap<String, [f64; COUNT]> {
        let rows = rows.iter().filter(|row| row.protocol == protocol);
        rows.map(|row| (row.path.clone(), row.values)).collect()
    };
    let (before, after) = (of(before), of(after));
    let difference = |(place, metric): (usize, &super::Metric)| {
        let pairs = before.iter().filter_map(|(path, values)| Some((values[place], after.get(path)?[place])));
        (metric.name.to_owned(), Difference::paired(&pairs.collect::<Vec<_>>(), &mut rng(0, "paired bootstrap")))
    };
    METRICS.iter().enumerate().map(difference).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_paired_by_their_picture() {
        let row = |protocol: &str, path: &str, value: f64| Scored {
            run: "embed".into(),
            protocol: protocol.into(),
            path: path.into(),
            label_name: String::new(),
            values: [value; COUNT],
        };
        let before = [row("p", "a", 0.0), row("p", "b", 1.0), row("q", "a", 1.0), row("p", "c", 1.0)];
        let after = [row("p", "b", 1.0), row("p", "d", 0.0), row("p", "a", 1.0)];
        let found = differences(&before, &after, "p");
        assert_eq!(found.len(), COUNT);
        let it = found["map@r"];
        assert_eq!((it.queries, it.before, it.after, it.difference), (2, 0.5, 1.0, 0.5));
        assert_eq!(differences(&before, &after, "q")["map@r"].queries, 0);
    }

    #[test]
    fn what_is_written_is_read_to_the_last_bit() {
        let row = |i: u32| Scored {
            run: "embed".into(),
            protocol: "test-vs-train".into(),
            path: format!("a, b/{i}.png"),
            label_name: "a, b".into(),
            values: std::array::from_fn(|at| 1.0 / f64::from(i + 3 + at as u32)),
        };
        let rows: Vec<Scored> = (0..5).map(row).collect();
        let bytes = to_bytes(&rows).unwrap();
        assert_eq!(parse(&bytes, "it").unwrap(), rows);
        let cut = String::from_utf8(bytes).unwrap().replace("map@r", "map");
        assert!(parse(cut.as_bytes(), "it").unwrap_err().to_string().contains("it: its columns"));
        for value in [f64::NAN, f64::INFINITY, -0.1, 1.1] {
            let mut wrong = row(1);
            wrong.values[2] = value;
            let error = parse(&to_bytes(&[row(0), wrong]).unwrap(), "it").unwrap_err().to_string();
            assert!(error.contains("scores go from 0 to 1"), "{error}");
        }
    }
}
