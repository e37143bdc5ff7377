//! Reads a Parquet file of embeddings from any program, for example pyarrow, pandas, DuckDB, Spark, or this program.
//!
//! The Parquet crate (60.1) trusts many numbers of a file: the schema's `num_children` (`schema/types.rs`), the counts
//! of pages and dictionaries (`encodings/decoding.rs`, `arrow/array_reader/byte_array.rs`), and the lengths of delta
//! encodings. So a [worker](crate::base::worker) reads files from others. Its memory and time are bounded by the file's
//! length.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use anyhow::Result;
use arrow::cast::AsArray;
use arrow::{Array, ArrayRef, RecordBatch};
use arrow_schema::DataType;
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use serde::{Deserialize, Serialize};

use super::{COLUMNS, EMBEDDING, Embeddings, columns};
use crate::base::files;
use crate::base::worker::{Allowance, Lost, Task, call};
use crate::damaged;

/// Memory of a worker: a fixed number of bytes, and a multiple of the file's length for the data unpacked, as arrays,
/// and as a reply. The reply itself has the same kind of limit.
const MEMORY: u64 = 512 << 20;
const MEMORY_TIMES: u64 = 24;
const REPLY: u64 = 64 << 20;
const REPLY_TIMES: u64 = 16;
/// Seconds on one core: a fixed number, and one more for each [`BYTES_A_SECOND`] bytes.
const SECONDS: u32 = 20;
const BYTES_A_SECOND: u64 = 8 << 20;

/// Everything that was read except the vectors, which follow it as raw values.
#[derive(Serialize, Deserialize)]
struct Head {
    dimension: usize,
    paths: Vec<String>,
    labels: Vec<i32>,
    label_names: Vec<String>,
    splits: Vec<String>,
    facts: BTreeMap<String, String>,
    renumbered: bool,
}

impl Embeddings {
    /// Reads a file that this pipeline made and whose digest was checked.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = Bytes::from(files::read(path)?);
        let read = catch_unwind(AssertUnwindSafe(|| parse(bytes)));
        let read = read.unwrap_or_else(|_| Err("its reader failed".to_owned()));
        read.map(|(embeddings, _)| embeddings).map_err(|why| damaged!("{}: {why}", path.display()))
    }

    /// Reads a file from any source.
    ///
    /// # Errors
    /// If the column `path` or `embedding` is missing, or the file is damaged. Other columns may be missing.
    pub fn read_foreign(path: &Path) -> Result<Self> {
        let wrong = |why: &str| damaged!("{}: {why}", path.display());
        // A file that is not Parquet is not read further, because it may have any length.
        if !files::begins_with(path, b"PAR1")? {
            return Err(wrong("it is not a Parquet file"));
        }
        let bytes = files::read(path)?;
        let length = bytes.len() as u64;
        let allowance = Allowance {
            memory: MEMORY + MEMORY_TIMES * length,
            seconds: SECONDS + (length / BYTES_A_SECOND) as u32,
            reply: REPLY + REPLY_TIMES * length,
        };
        let reply = call(&TASK, &[], &bytes, allowance).map_err(|lost| match lost {
            Lost::Unavailable(_) => anyhow::anyhow!("cannot read {}: the reader process {lost}", path.display()),
            lost => wrong(&format!("it is not a valid Parquet file: its reader {lost}")),
        })?;
        let read = parse_reply(&reply).ok_or_else(|| wrong(&format!("its reader {}", Lost::Nonsense)))?;
        let (embeddings, renumbered) = read.map_err(|why| wrong(&why))?;
        if renumbered {
            tracing::info!("{}: its ids do not count from 0, so row numbers are used instead", path.display());
        }
        Ok(embeddings)
    }
}

/// The task of the workers.
pub static TASK: Task = Task { name: "embeddings", work };

fn work(_: &[u8], bytes: &[u8]) -> Vec<u8> {
    let bytes = Bytes::copy_from_slice(bytes);
    let read = catch_unwind(AssertUnwindSafe(|| parse(bytes)));
    let read = read.unwrap_or_else(|_| Err("it is not a valid Parquet file: its reader failed".to_owned()));
    let (head, values) = match read {
        Ok((all, renumbered)) => {
            let Embeddings { dimension, paths, labels, label_names, splits, values, facts } = all;
            (Ok(Head { dimension, paths, labels, label_names, splits, facts, renumbered }), values)
        }
        Err(why) => (Err(why), Vec::new()),
    };
    let head = serde_json::to_vec(&head).unwrap_or_default();
    let mut reply = (head.len() as u64).to_le_bytes().to_vec();
    reply.extend(head);
    reply.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    reply
}

/// Reads the reply of [`work`]: the embeddings, and whether ids were replaced by row numbers. Returns `None` if the
/// reply is not valid.
fn parse_reply(reply: &[u8]) -> Option<Result<(Embeddings, bool), String>> {
    let (length, rest) = reply.split_first_chunk::<8>()?;
    let (head, values) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let head = match serde_json::from_slice::<Result<Head, String>>(head).ok()? {
        Ok(head) => head,
        Err(why) => return Some(Err(why)),
    };
    let Head { dimension, paths, labels, label_names, splits, facts, renumbered } = head;
    let (values, []) = values.as_chunks::<4>() else { return None };
    let rows = [labels.len(), label_names.len(), splits.len()];
    let fits =
        rows.iter().all(|count| *count == paths.len()) && Some(values.len()) == paths.len().checked_mul(dimension);
    let values = values.iter().map(|value| f32::from_le_bytes(*value)).collect();
    let embeddings = Embeddings { dimension, paths, labels, label_names, splits, values, facts };
    fits.then_some(Ok((embeddings, renumbered)))
}

/// Returns the embeddings, and whether their ids differ from the row numbers.
fn parse(bytes: Bytes) -> Result<(Embeddings, bool), String> {
    // Use the types of the Parquet file. Some writers add their own notes about types, which may be wrong.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(bytes, options);
    let builder = builder.map_err(|error| why(&error.to_string()))?;
    let mut all = Embeddings::default();
    let facts = builder.metadata().file_metadata().key_value_metadata();
    for fact in facts.into_iter().flatten().filter(|fact| !fact.key.starts_with("ARROW:")) {
        all.facts.insert(fact.key.clone(), fact.value.clone().unwrap_or_default());
    }
    let schema = builder.parquet_schema();
    let has = |name: &str| schema.root_schema().get_fields().iter().any(|field| field.name() == name);
    if let Some(missing) = ["path", EMBEDDING].into_iter().find(|name| !has(name)) {
        return Err(format!("it has no column `{missing}`; expected {WANTED}"));
    }
    let mask = ProjectionMask::columns(schema, COLUMNS.iter().map(|column| column.0));
    let reader = builder.with_projection(mask).build().map_err(|error| why(&error.to_string()))?;
    let mut renumbered = false;
    for batch in reader {
        let batch = batch.map_err(|error| why(&error.to_string()))?;
        renumbered |= append(&mut all, &batch)?;
    }
    Ok((all, renumbered))
}

/// Largest sum of the squares of an embedding's values. For the difference of two embeddings, this sum is at most four
/// times as large. So every distance is finite.
const MOST_SQUARES: f64 = f32::MAX as f64 / 8.0;

const WANTED: &str = "a column `path` of strings and a column `embedding` of lists of floats, all of the same length";

/// The crate's message, or what to write instead if the file is valid.
fn why(said: &str) -> String {
    match said.split_once("Disabled feature at compile time: ") {
        Some((_, codec)) => {
            format!("it is compressed by {codec}, which is not supported; write it with compression=\"zstd\"")
        }
        None => said.to_owned(),
    }
}

fn append(all: &mut Embeddings, batch: &RecordBatch) -> Result<bool, String> {
    let column = |name: &str| batch.column_by_name(name);
    // A column without any value may have any type: pandas writes a column of `None` as a null type.
    let filled = |name: &str| column(name).filter(|found| found.logical_null_count() < found.len());
    let wrong = |name: &str, found: &ArrayRef, kind: DataType| {
        format!("column `{name}` is {}, and should be {kind}", found.data_type())
    };
    let texts = |name: &str| -> Result<Vec<Option<String>>, String> {
        let Some(found) = filled(name) else { return Ok(vec![None; batch.num_rows()]) };
        columns::texts(found).ok_or_else(|| wrong(name, found, DataType::Utf8))
    };
    let numbers = |name: &str| -> Result<Vec<Option<i32>>, String> {
        let Some(found) = filled(name) else { return Ok(vec![None; batch.num_rows()]) };
        columns::numbers(found).ok_or_else(|| wrong(name, found, DataType::Int32))
    };
    let first = all.len();
    let paths: Option<Vec<String>> = texts("path")?.into_iter().collect();
    all.paths.extend(paths.ok_or("column `path` has a row without a value")?);
    all.labels.extend(numbers("label")?.into_iter().map(|label| label.unwrap_or(-1)));
    all.label_names.extend(texts("label_name")?.into_iter().map(Option::unwrap_or_default));
    all.splits.extend(texts("split")?.into_iter().map(Option::unwrap_or_default));
    let lists = column(EMBEDDING).ok_or("it has no column `embedding`")?;
    append_vectors(all, lists, first)?;
    // Ids of another type are from another program. They are not needed.
    let ids = numbers("id").unwrap_or_else(|_| vec![Some(-1)]);
    let counted = ids.iter().zip(first..).all(|(id, row)| id.is_none_or(|id| usize::try_from(id) == Ok(row)));
    Ok(!counted)
}

fn append_vectors(all: &mut Embeddings, lists: &ArrayRef, first: usize) -> Result<(), String> {
    // The start of each row among the values, and the end of the last row.
    let (values, starts): (&ArrayRef, Vec<usize>) = match lists.data_type() {
        DataType::List(_) => {
            let lists = lists.as_list::<i32>();
            (lists.values(), lists.value_offsets().iter().map(|start| *start as usize).collect())
        }
        DataType::LargeList(_) => {
            let lists = lists.as_list::<i64>();
            (lists.values(), lists.value_offsets().iter().map(|start| *start as usize).collect())
        }
        DataType::FixedSizeList(_, length) => {
            let starts = (0..=lists.len()).map(|row| row * *length as usize);
            (lists.as_fixed_size_list().values(), starts.collect())
        }
        other => return Err(format!("column `embedding` is {other}: expected {WANTED}")),
    };
    if let Some(row) = (0..lists.len()).find(|row| lists.is_null(*row)) {
        return Err(format!("row {} has no embedding", first + row));
    }
    for (row, pair) in (first..).zip(starts.windows(2)) {
        let length = pair[1] - pair[0];
        if all.dimension == 0 {
            all.dimension = length;
        }
        if length != all.dimension || length == 0 {
            let others = all.dimension;
            return Err(format!("row {row} has an embedding of {length} values, but others have {others}"));
        }
    }
    let (Some(start), Some(end)) = (starts.first(), starts.last()) else { return Ok(()) };
    let floats = columns::numbers::<f32>(&values.slice(*start, end - start));
    let floats = floats.filter(|_| values.data_type().is_floating());
    let floats = floats.ok_or_else(|| format!("column `embedding` has {}: expected {WANTED}", values.data_type()))?;
    // A missing value is not finite either.
    let floats: Vec<f32> = floats.into_iter().map(|value| value.unwrap_or(f32::NAN)).collect();
    if let Some(at) = floats.iter().position(|value| !value.is_finite()) {
        return Err(format!(
            "row {} has an embedding with a value that is not a finite number",
            first + at / all.dimension
        ));
    }
    let squares = |row: &[f32]| row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>();
    if let Some(row) = floats.chunks_exact(all.dimension.max(1)).position(|row| squares(row) > MOST_SQUARES) {
        return Err(format!("row {} has an embedding with values so large that distances overflow", first + row));
    }
    all.values.extend(floats);
    Ok(())
}
