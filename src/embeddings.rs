//! The Parquet file of embeddings: schema, writing by batches, reading.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use arrow::array::{Array, ArrayRef, FixedSizeListArray, Float32Array, Int32Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, Encoding};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

use crate::listing::Split;
use crate::{damaged, files};

/// The file of a pipeline's embeddings.
pub const FILE: &str = "embeddings.parquet";

const EMBEDDING: &str = "embedding";
/// Rows of people's own pictures written at a time.
const ROWS: usize = 256;
/// The footer's fact that names the model, by its digest.
pub const MODEL: &str = "similiai.model";

/// Name, type and meaning of each column.
pub const COLUMNS: [(&str, &str, &str); 6] = [
    ("id", "int32", "place in the list of paths, sorted; from 0"),
    ("path", "string", "of the picture, below the folder of all"),
    ("label", "int32", "of the class; -1 where there is none"),
    ("label_name", "string", "name of the class; empty where there is none"),
    ("split", "string", "train: learned from; test: never seen in training; empty: no part of the pipeline"),
    (EMBEDDING, "list of float32", "the vector, without a unit; Euclidean distances tell how alike two pictures are"),
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

/// What stands beside an embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub path: String,
    pub label: i32,
    pub label_name: String,
    /// `train`, `test`, or nothing.
    pub split: String,
}

impl From<&Split> for Row {
    fn from(row: &Split) -> Self {
        let Split { path, label, label_name, split } = row.clone();
        Self { path, label, label_name, split: split.name().to_owned() }
    }
}

/// Writes rows by id; ids count from 0 in the order of writing.
pub struct Writer {
    writer: ArrowWriter<File>,
    schema: Arc<Schema>,
    dimension: usize,
    next: i32,
}

impl Writer {
    /// `facts` go into the file's footer.
    pub fn create(path: &Path, dimension: usize, facts: BTreeMap<String, String>) -> Result<Self> {
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
        let writer = ArrowWriter::try_new(files::create(path)?, schema.clone(), Some(properties));
        let writer = writer.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { writer, schema, dimension, next: 0 })
    }

    /// `embeddings`: (rows, dimension)
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

    pub fn finish(self) -> Result<()> {
        self.writer.close().context("cannot write the embeddings")?;
        Ok(())
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

    /// Adds `others` of the same model; their ids come after.
    pub fn append(&mut self, others: Self) {
        self.paths.extend(others.paths);
        self.labels.extend(others.labels);
        self.label_names.extend(others.label_names);
        self.splits.extend(others.splits);
        self.values.extend(others.values);
    }

    /// Writes a file that takes the place of `path` once it is whole.
    pub fn write(self, path: &Path) -> Result<()> {
        let row = |id: usize| Row {
            path: self.paths[id].clone(),
            label: self.labels[id],
            label_name: self.label_names[id].clone(),
            split: self.splits[id].clone(),
        };
        files::replace(path, |path| {
            let mut writer = Writer::create(path, self.dimension, self.facts.clone())?;
            let ids: Vec<usize> = (0..self.len()).collect();
            for ids in ids.chunks(ROWS) {
                let rows: Vec<Row> = ids.iter().map(|id| row(*id)).collect();
                writer.write(&rows, ids.iter().flat_map(|id| self.row(*id)).copied().collect())?;
            }
            writer.finish()
        })
    }

    /// Refuses embeddings of another model than the one with the digest `model`; `mend` says what to run.
    pub fn must_be_of(&self, model: &str, name: &str, mend: &str) -> Result<()> {
        let made_by = self.facts.get(MODEL).map(String::as_str).unwrap_or_default();
        if made_by == model {
            return Ok(());
        }
        let (has, wants) = (made_by.get(..12).unwrap_or("none"), model.get(..12).unwrap_or(model));
        Err(damaged!("{name} was made by another model ({has}…) than the one that is here ({wants}…); {mend}"))
    }

    pub fn row(&self, id: usize) -> &[f32] {
        &self.values[id * self.dimension..(id + 1) * self.dimension]
    }

    pub fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let wrong = |what: String| damaged!("{}: {what}", path.display());
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| wrong(error.to_string()))?;
        let mut all = Self::default();
        let facts = builder.metadata().file_metadata().key_value_metadata();
        for fact in facts.into_iter().flatten().filter(|fact| !fact.key.starts_with("ARROW:")) {
            all.facts.insert(fact.key.clone(), fact.value.clone().unwrap_or_default());
        }
        for batch in builder.build().map_err(|error| wrong(error.to_string()))? {
            let batch = batch.map_err(|error| wrong(error.to_string()))?;
            all.append_batch(&batch)
                .ok_or_else(|| wrong("its columns are not those of an embeddings file".to_owned()))?;
        }
        Ok(all)
    }

    fn append_batch(&mut self, batch: &RecordBatch) -> Option<()> {
        let text = |name: &str| -> Option<Vec<String>> {
            let column = batch.column_by_name(name)?.as_any().downcast_ref::<StringArray>()?;
            column.iter().map(|text| text.map(str::to_owned)).collect()
        };
        let whole = |name: &str| batch.column_by_name(name)?.as_any().downcast_ref::<Int32Array>();
        let lists = batch.column_by_name(EMBEDDING)?.as_any().downcast_ref::<FixedSizeListArray>()?;
        let floats = lists.values().as_any().downcast_ref::<Float32Array>()?;
        if !whole("id")?.values().iter().copied().eq(self.len() as i32..(self.len() + batch.num_rows()) as i32) {
            return None;
        }
        self.dimension = lists.value_length() as usize;
        self.paths.extend(text("path")?);
        self.labels.extend(whole("label")?.values());
        self.label_names.extend(text("label_name")?);
        self.splits.extend(text("split")?);
        self.values.extend(floats.values());
        Some(())
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
        let mut writer = Writer::create(&path, 2, [("seed".to_owned(), "7".to_owned())].into())?;
        writer.write(&[row(0), row(1)], vec![0.0, 1.0, 2.0, 3.0])?;
        writer.write(&[row(2)], vec![4.0, 5.0])?;
        writer.finish()?;
        let read = Embeddings::read(&path)?;
        assert!(schema(2).fields().iter().map(|field| field.name().as_str()).eq(COLUMNS.map(|column| column.0)));
        assert_eq!((read.len(), read.dimension, read.row(2)), (3, 2, &[4.0, 5.0][..]));
        assert_eq!((read.labels, read.splits[0].as_str(), read.facts["seed"].as_str()), (vec![0, 1, 0], "train", "7"));
        Ok(())
    }
}
