//! The Parquet file of embeddings: its schema, writing in batches, and reading.

mod columns;
mod reading;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use arrow::{ArrayRef, FixedSizeListArray, Float32Array, Int32Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

pub use reading::TASK as READING;

use crate::base::files;
use crate::damaged;
use crate::learning::dataset::Split;
use crate::learning::model::Model;

/// File name of a pipeline's embeddings.
pub const FILE: &str = "embeddings.parquet";

const EMBEDDING: &str = "embedding";
/// Number of rows of users' own pictures that are written at a time.
const ROWS: usize = 256;
/// Key of the footer's fact with the digest of the model.
pub const MODEL: &str = "similiai.model";

/// The facts about the embeddings of `model` in the metadata of their file.
pub fn facts_of(model: &Model) -> Result<BTreeMap<String, String>> {
    let configuration = &model.configuration;
    let facts = [
        (MODEL, model.digest.clone()),
        ("similiai.dimension", configuration.dimension.to_string()),
        ("similiai.metric", "euclidean".to_owned()),
        ("similiai.preparation", serde_json::to_string(&configuration.preparation)?),
        ("similiai.preprocessing", serde_json::to_string(&configuration.preprocessing)?),
        ("similiai.mirrored", configuration.mirrored.to_string()),
        ("similiai.shift", configuration.shift.to_string()),
    ];
    Ok(facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// Name, type and meaning of each column.
pub const COLUMNS: [(&str, &str, &str); 6] = [
    ("id", "int32", "position in the sorted list of paths, from 0"),
    ("path", "string", "path of the picture, below the folder of all pictures"),
    ("label", "int32", "number of the class; -1 if there is none"),
    ("label_name", "string", "name of the class; empty if there is none"),
    ("split", "string", "train: learned from; test: never seen in training; empty: not part of the pipeline"),
    (EMBEDDING, "list of float32", "the vector, without a unit; a small Euclidean distance means similar pictures"),
];

fn schema(dimension: usize) -> Schema {
    let item = Arc::new(Field::new("element", DataType::Float32, false));
    Schema::new(vec![
        Field::new("id", DataType::Int32, false),
        Field::new("path", DataType::Utf8, false),
        Field::new("label", DataType::Int32, false),
        Field::new("label_name", DataType::Utf8, false),
        Field::new("split", DataType::Utf8, false),
        Field::new(EMBEDDING, DataType::FixedSizeList(item, dimension as i32), false),
    ])
}

/// The columns of a row except its id and its embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub path: String,
    pub label: i32,
    pub label_name: String,
    /// `train`, `test`, or empty.
    pub split: String,
}

impl From<&Split> for Row {
    fn from(row: &Split) -> Self {
        let Split { path, label, label_name, split } = row.clone();
        Self { path, label, label_name, split: split.name().to_owned() }
    }
}

/// Writes rows. Their ids count from 0, in the order of writing.
pub struct Writer<W: Write + Send> {
    writer: ArrowWriter<W>,
    schema: Arc<Schema>,
    dimension: usize,
    next: i32,
}

impl<W: Write + Send> Writer<W> {
    /// Begins to write into `file`. `facts` go into its footer.
    pub fn new(file: W, dimension: usize, facts: BTreeMap<String, String>) -> Result<Self> {
        let floats = ColumnPath::from(vec![EMBEDDING.to_owned(), "list".to_owned(), "element".to_owned()]);
        let facts = facts.into_iter().map(|(key, value)| KeyValue::new(key, value)).collect();
        let properties = WriterProperties::builder()
            .set_created_by(concat!("similiai ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_compression(Compression::ZSTD(Default::default()))
            .set_column_dictionary_enabled(floats.clone(), false)
            .set_column_encoding(floats, Encoding::PLAIN)
            .set_key_value_metadata(Some(facts))
            .build();
        let schema = Arc::new(schema(dimension));
        let writer = ArrowWriter::try_new(file, schema.clone(), Some(properties));
        let writer = writer.context("cannot write the embeddings")?;
        Ok(Self { writer, schema, dimension, next: 0 })
    }

    /// Writes `rows` with their `embeddings`, (rows, dimension).
    pub fn write(&mut self, rows: &[Row], embeddings: Vec<f32>) -> Result<()> {
        let ids = Int32Array::from_iter_values(self.next..self.next + rows.len() as i32);
        self.next += rows.len() as i32;
        let text = |pick: fn(&'_ Row) -> &'_ str| StringArray::from_iter_values(rows.iter().map(pick));
        let item = Arc::new(Field::new("element", DataType::Float32, false));
        let floats = Arc::new(Float32Array::from(embeddings));
        let lists = FixedSizeListArray::try_new(item, self.dimension as i32, floats, None)?;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(ids),
            Arc::new(text(|row| &row.path)),
            Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.label))),
            Arc::new(text(|row| &row.label_name)),
            Arc::new(text(|row| &row.split)),
            Arc::new(lists),
        ];
        let batch = RecordBatch::try_new(self.schema.clone(), columns)?;
        self.writer.write(&batch).context("cannot write the embeddings")
    }

    /// Finishes the file and returns it.
    pub fn finish(self) -> Result<W> {
        self.writer.into_inner().context("cannot write the embeddings")
    }
}

/// All embeddings of a file, by id.
#[derive(Debug, Default)]
pub struct Embeddings {
    pub dimension: usize,
    pub paths: Vec<String>,
    pub labels: Vec<i32>,
    pub label_names: Vec<String>,
    pub splits: Vec<String>,
    /// (rows, dimension)
    pub values: Vec<f32>,
    /// The footer's facts.
    pub facts: BTreeMap<String, String>,
}

impl Embeddings {
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Appends `others`, which must be of the same model. Their ids come after those that are already there.
    pub fn append(&mut self, others: Self) {
        self.paths.extend(others.paths);
        self.labels.extend(others.labels);
        self.label_names.extend(others.label_names);
        self.splits.extend(others.splits);
        self.values.extend(others.values);
    }

    /// Writes all embeddings to the file at `path`.
    pub fn write(&self, path: &Path) -> Result<()> {
        let row = |id: usize| Row {
            path: self.paths[id].clone(),
            label: self.labels[id],
            label_name: self.label_names[id].clone(),
            split: self.splits[id].clone(),
        };
        let mut writer = Writer::new(files::create(path)?, self.dimension, self.facts.clone())?;
        let ids: Vec<usize> = (0..self.len()).collect();
        for ids in ids.chunks(ROWS) {
            let rows: Vec<Row> = ids.iter().map(|id| row(*id)).collect();
            writer.write(&rows, ids.iter().flat_map(|id| self.row(*id)).copied().collect())?;
        }
        writer.finish().map(drop)
    }

    /// Refuses embeddings of another model than the one with the digest `model`; `fix` says what to run.
    pub fn must_be_of(&self, model: &str, name: &str, fix: &str) -> Result<()> {
        let made_by = self.facts.get(MODEL).map(String::as_str).unwrap_or_default();
        if made_by == model {
            return Ok(());
        }
        if made_by.is_empty() {
            return Err(damaged!(
                "{name} does not say which model made it: its footer has no `{MODEL}`; if the current model made it, \
                 write it: `COPY … (FORMAT parquet, KV_METADATA {{'{MODEL}': '{model}'}})` in DuckDB, \
                 `table.replace_schema_metadata({{'{MODEL}': '{model}'}})` in pyarrow; otherwise, {fix}"
            ));
        }
        let (has, wants) = (made_by.get(..12).unwrap_or("none"), model.get(..12).unwrap_or(model));
        Err(damaged!("{name} was made by another model ({has}…) than the current one ({wants}…); {fix}"))
    }

    /// Refuses embeddings of another length than `dimension`.
    pub fn must_have(&self, dimension: usize, name: &str) -> Result<()> {
        match self.dimension {
            0 => Ok(()),
            own if own == dimension => Ok(()),
            own => Err(damaged!("{name} has embeddings of {own} values, but the current model gives {dimension}")),
        }
    }

    pub fn row(&self, id: usize) -> &[f32] {
        &self.values[id * self.dimension..(id + 1) * self.dimension]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("e.parquet");
        let row =
            |i: i32| Row { path: format!("a/{i}.png"), label: i % 2, label_name: "a".into(), split: "train".into() };
        let mut writer = Writer::new(files::create(&path)?, 2, [("seed".to_owned(), "7".to_owned())].into())?;
        writer.write(&[row(0), row(1)], vec![0.0, 1.0, 2.0, 3.0])?;
        writer.write(&[row(2)], vec![4.0, 5.0])?;
        writer.finish()?;
        let read = Embeddings::read(&path)?;
        assert!(schema(2).fields().iter().map(|field| field.name().as_str()).eq(COLUMNS.map(|column| column.0)));
        assert_eq!((read.len(), read.dimension, read.row(2)), (3, 2, &[4.0, 5.0][..]));
        assert_eq!(
            (&read.labels, read.splits[0].as_str(), read.facts["seed"].as_str()),
            (&vec![0, 1, 0], "train", "7")
        );
        let foreign = Embeddings::read_foreign(&path)?;
        assert_eq!((foreign.paths, foreign.values, foreign.facts), (read.paths, read.values, read.facts));
        Ok(())
    }

    #[test]
    fn what_is_no_number_or_no_list_of_one_length_is_refused() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("e.parquet");
        let message = |rows: Vec<Option<Vec<Option<f32>>>>| -> Result<String> {
            let paths = StringArray::from_iter_values((0..rows.len()).map(|row| row.to_string()));
            let lists = arrow::ListArray::from_iter_primitive::<arrow::types::Float32Type, _, _>(rows);
            let kinds = vec![
                Field::new("path", DataType::Utf8, false),
                Field::new(EMBEDDING, DataType::List(Arc::new(Field::new_list_field(DataType::Float32, true))), true),
            ];
            let schema = Arc::new(Schema::new(kinds));
            let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(paths), Arc::new(lists)])?;
            let mut writer = ArrowWriter::try_new(files::create(&path)?, schema, None)?;
            writer.write(&batch)?;
            writer.close()?;
            let read = Embeddings::read_foreign(&path);
            Ok(read.map_or_else(|error| error.to_string(), |all| format!("{:?}", all.values)))
        };
        assert_eq!(message(vec![Some(vec![Some(1.0), Some(2.0)])])?, "[1.0, 2.0]");
        assert_eq!(message(vec![])?, "[]");
        for (rows, said) in [
            (vec![Some(vec![Some(1.0)]), Some(vec![Some(1.0), Some(2.0)])], "row 1 has an embedding of 2 values"),
            (vec![Some(vec![Some(f32::NAN)])], "not a finite number"),
            (vec![Some(vec![None])], "not a finite number"),
            (vec![Some(vec![Some(1.0)]), Some(vec![Some(-3e38)])], "row 1 has an embedding with values so large"),
            (vec![None], "row 0 has no embedding"),
            (vec![Some(vec![])], "of 0 values"),
        ] {
            let message = message(rows)?;
            assert!(message.contains(said), "{message}");
        }
        Ok(())
    }

    #[test]
    fn damage_is_an_error_and_no_panic() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("e.parquet");
        let row = |i: i32| Row { path: format!("a/{i}.png"), label: 0, label_name: "a".into(), split: String::new() };
        let mut writer = Writer::new(files::create(&path)?, 2, Default::default())?;
        writer.write(&[row(0), row(1)], vec![0.0, 1.0, 2.0, 3.0])?;
        writer.finish()?;
        let good = files::read(&path)?;
        for length in [0, 4, 12, good.len() / 2, good.len() - 1] {
            files::write(&path, &good[..length])?;
            let error = Embeddings::read(&path).unwrap_err();
            assert!(error.is::<crate::base::error::Failure>(), "{error}");
        }
        Ok(())
    }
}
