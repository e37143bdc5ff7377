//! Reads pictures from an Arrow IPC stream, and writes their embeddings as another such stream, batch by batch.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use anyhow::{Context, Result, anyhow};
use arrow::cast::AsArray;
use arrow::{Array, ArrayRef, FixedSizeListArray, Float32Array, ListArray, RecordBatch, StringArray};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Schema};
use image::RgbImage;
use rayon::prelude::*;

use crate::base::signal;
use crate::damaged;
use crate::learning::images::{Unreadable, Wanted, decode_for, is_no_fault_of_it};
use crate::learning::model::Model;
use crate::retrieval::embeddings;

/// Number of pictures that are decoded and then embedded together.
const AT_ONCE: usize = 64;
/// Number of batches that are read before they are needed, so that the program that writes them does not have to wait.
const AHEAD: usize = 1;

const ID: &str = "id";
const IMAGE: &str = "image";
const WANTED: &str = "a column `id` of any type and a binary column `image` whose pictures are PNG, JPEG or WebP";

/// How embeddings are written.
pub struct Options {
    /// Write embeddings as lists, for programs that do not know lists of a fixed size.
    pub list: bool,
    /// Stop at a picture that cannot be decoded.
    pub strict: bool,
}

/// How many pictures were read and answered.
#[derive(Debug, Default, PartialEq)]
pub struct Passed {
    pub pictures: usize,
    /// How many of the pictures have no embedding.
    pub bad: usize,
}

/// Turns columns `id` and `image` into columns `id`, `embedding` and `error`, in the same order. It reads and writes
/// one batch at a time. For each batch, it calls `passing` with the number of pictures.
///
/// # Errors
/// If the columns are not as expected, the stream breaks off, or, with `strict`, a picture cannot be decoded. Then the
/// output has no end marker. A reader that accepts the end of the file as the end of the stream must check the exit
/// status too.
pub fn filter(
    model: &Model,
    input: impl Read + Send + 'static,
    output: impl Write,
    options: &Options,
    passing: impl Fn(usize),
) -> Result<Passed> {
    let reader = StreamReader::try_new_buffered(input, None)
        .map_err(|error| damaged!("the input is not an Arrow IPC stream ({error}); it must have {WANTED}"))?;
    let id = id_column(&reader.schema())?;
    let schema = Arc::new(schema(model, id, options)?);
    let failed = "cannot write the embeddings";
    let mut writer = StreamWriter::try_new_buffered(output, &schema).context(failed)?;
    // So readers get the schema before the first batch is ready.
    writer.flush().context(failed)?;
    let mut passed = Passed::default();
    let (sender, batches) = sync_channel(AHEAD);
    // On its own thread: if this side fails, that thread may still wait for a batch that never comes.
    std::thread::spawn(move || {
        for batch in reader {
            let broken = batch.is_err();
            // The other side no longer receives batches once it has failed.
            if sender.send(batch.map(Some)).is_err() || broken {
                return;
            }
        }
        drop(sender.send(Ok(None)));
    });
    loop {
        let broken = |why: &str| damaged!("the input breaks off after {} rows: {why}", passed.pictures);
        let batch = match batches.recv() {
            Ok(Ok(Some(batch))) => batch,
            Ok(Ok(None)) => break,
            Ok(Err(error)) => return Err(broken(&said(&error))),
            // The Arrow reader panics on some damage.
            Err(_) => return Err(broken("it is damaged")),
        };
        let embedded = embed(model, &batch, &schema, options, &mut passed)?;
        writer.write(&embedded).and_then(|()| writer.flush()).context(failed)?;
        passing(batch.num_rows());
    }
    writer.finish().context(failed)?;
    Ok(passed)
}

fn said(error: &ArrowError) -> String {
    let said = error.to_string();
    if said.contains("IPC decompression requires") {
        return "it is compressed; write it without compression".to_owned();
    }
    said
}

/// Returns the column `id` of the input, which is written to the output unchanged.
fn id_column(schema: &Schema) -> Result<FieldRef> {
    let found = || -> String {
        let column = |field: &FieldRef| format!("`{}` of {}", field.name(), field.data_type());
        let columns: Vec<String> = schema.fields().iter().map(column).collect();
        if columns.is_empty() { "none".to_owned() } else { columns.join(", ") }
    };
    let one = |name: &str| {
        let mut columns = schema.fields().iter().filter(|field| field.name() == name);
        columns.next().filter(|_| columns.next().is_none())
    };
    let binary = |field: &&FieldRef| {
        matches!(field.data_type(), DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
    };
    match (one(ID), one(IMAGE).filter(binary)) {
        (Some(id), Some(_)) => Ok(id.clone()),
        _ => Err(damaged!("the input has the columns {}; it must have {WANTED}", found())),
    }
}

fn schema(model: &Model, id: FieldRef, options: &Options) -> Result<Schema> {
    let item = Arc::new(Field::new_list_field(DataType::Float32, false));
    let embedding = match options.list {
        true => DataType::List(item),
        false => DataType::FixedSizeList(item, model.configuration.dimension as i32),
    };
    let (embedding, error) = (Field::new("embedding", embedding, true), Field::new("error", DataType::Utf8, true));
    let schema = Schema::new(vec![id, Arc::new(embedding), Arc::new(error)]);
    Ok(schema.with_metadata(embeddings::facts_of(model)?.into_iter().collect::<HashMap<_, _>>()))
}

/// The bytes of each picture.
fn pictures(column: &ArrayRef) -> Result<Vec<Option<&[u8]>>> {
    Ok(match column.data_type() {
        DataType::Binary => column.as_binary::<i32>().iter().collect(),
        DataType::LargeBinary => column.as_binary::<i64>().iter().collect(),
        DataType::BinaryView => column.as_binary_view().iter().collect(),
        other => return Err(anyhow!("a column of {other} has no pictures")),
    })
}

fn embed(
    model: &Model,
    batch: &RecordBatch,
    schema: &Arc<Schema>,
    options: &Options,
    passed: &mut Passed,
) -> Result<RecordBatch> {
    let column = |name: &str| batch.column_by_name(name).with_context(|| format!("a batch has no column `{name}`"));
    let pictures = pictures(column(IMAGE)?)?;
    let dimension = model.configuration.dimension;
    let mut rows: Vec<Result<Vec<f32>, String>> = Vec::with_capacity(pictures.len());
    for pictures in pictures.chunks(AT_ONCE) {
        signal::check()?;
        let first = passed.pictures;
        let wanted = Wanted { preparation: Some(model.configuration.preparation.clone()), ..Wanted::default() };
        let prepare = |(place, bytes): (usize, &Option<&[u8]>)| -> Result<RgbImage> {
            let name = format!("row {}", first + place);
            let bytes = bytes.ok_or_else(|| damaged!("{name} is null"))?;
            let decoded = decode_for(bytes, &name, &wanted).map_err(|why| match why {
                Unreadable::NoDecoder(_) => why.into(),
                why => damaged!("{why}"),
            })?;
            decoded.prepared.context("it was not prepared")
        };
        let prepared: Vec<Result<RgbImage>> = pictures.par_iter().enumerate().map(prepare).collect();
        passed.pictures += pictures.len();
        let (mut good, mut errors) = (Vec::new(), Vec::new());
        for image in prepared {
            match image {
                Ok(image) => {
                    good.push(image);
                    errors.push(None);
                }
                Err(error) if options.strict || is_no_fault_of_it(&error) => return Err(error),
                Err(error) => errors.push(Some(format!("{error:#}"))),
            }
        }
        passed.bad += pictures.len() - good.len();
        let embedded = model.embed(good)?;
        let mut embedded = embedded.chunks_exact(dimension);
        let row = |error: Option<String>| error.map_or_else(|| Ok(embedded.next().unwrap_or_default().to_vec()), Err);
        rows.extend(errors.into_iter().map(row));
    }
    let nulls = NullBuffer::from_iter(rows.iter().map(Result::is_ok));
    let item = Arc::new(Field::new_list_field(DataType::Float32, false));
    let errors = StringArray::from_iter(rows.iter().map(|row| row.as_ref().err()));
    let embeddings: ArrayRef = if options.list {
        let offsets = OffsetBuffer::from_lengths(rows.iter().map(|row| row.as_ref().map_or(0, Vec::len)));
        let values = Float32Array::from_iter_values(rows.into_iter().flatten().flatten());
        Arc::new(ListArray::try_new(item, offsets, Arc::new(values), Some(nulls))?)
    } else {
        let row = |row: Result<Vec<f32>, String>| row.unwrap_or_else(|_| vec![0.0; dimension]);
        let values = Float32Array::from_iter_values(rows.into_iter().flat_map(row));
        Arc::new(FixedSizeListArray::try_new(item, dimension as i32, Arc::new(values), Some(nulls))?)
    };
    Ok(RecordBatch::try_new(schema.clone(), vec![column(ID)?.clone(), embeddings, Arc::new(errors)])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::{BinaryArray, BinaryViewArray, Int64Array, LargeBinaryArray};

    fn schema_of(columns: &[(&str, DataType)]) -> Schema {
        Schema::new(columns.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true)).collect::<Vec<_>>())
    }

    #[test]
    fn only_an_id_and_a_binary_image_are_accepted() {
        let id = ("id", DataType::Int64);
        for kind in [DataType::Binary, DataType::LargeBinary, DataType::BinaryView] {
            let schema = schema_of(&[id.clone(), ("image", kind), ("other", DataType::Utf8)]);
            assert_eq!(id_column(&schema).unwrap().data_type(), &DataType::Int64);
        }
        for columns in [
            &[][..],
            std::slice::from_ref(&id),
            &[("image", DataType::Binary)],
            &[id.clone(), ("image", DataType::Utf8)],
            &[id.clone(), id.clone(), ("image", DataType::Binary)],
            &[id.clone(), ("image", DataType::Binary), ("image", DataType::Binary)],
        ] {
            let error = id_column(&schema_of(columns)).unwrap_err().to_string();
            assert!(error.contains("a column `id` of any type"), "{error}");
        }
    }

    #[test]
    fn pictures_come_from_each_binary_type() {
        let values = [Some(&b"one"[..]), None];
        let columns: [ArrayRef; 3] = [
            Arc::new(BinaryArray::from_iter(values)),
            Arc::new(LargeBinaryArray::from_iter(values)),
            Arc::new(BinaryViewArray::from_iter(values)),
        ];
        for column in columns {
            assert_eq!(pictures(&column).unwrap(), values, "{}", column.data_type());
        }
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        assert!(pictures(&numbers).is_err());
    }
}
