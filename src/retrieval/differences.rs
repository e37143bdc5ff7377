//! Says how two pictures, tables or networks that should be equal differ, for `run --locked` and `hash diff`.

use std::path::Path;

use anyhow::{Result, anyhow};
use arrow::cast::AsArray;
use arrow::types::{Float32Type, Int32Type};
use arrow::{ArrayRef, RecordBatch};
use arrow_schema::DataType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use safetensors::tensor::SafeTensors;

use crate::base::files;
use crate::engine::diff::{FileDiff, FileDiffs, short};
use crate::learning::images;

/// One entry for each kind of file that results hold, except text.
pub const FILE_DIFFS: FileDiffs = &[
    FileDiff { ending: "parquet", compare: parquet },
    FileDiff { ending: "png", compare: pixels },
    FileDiff { ending: "safetensors", compare: tensors },
];

fn parquet(expected: &Path, found: &Path) -> Result<String> {
    let read = |path: &Path| -> Result<_> {
        let builder = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(path)?)?;
        let schema = builder.schema().clone();
        let facts = builder.metadata().file_metadata().key_value_metadata().cloned().unwrap_or_default();
        let batches = builder.build()?.collect::<Result<Vec<RecordBatch>, _>>()?;
        Ok((arrow_select::concat::concat_batches(&schema, &batches)?, facts))
    };
    let ((one, facts), (two, other_facts)) = (read(expected)?, read(found)?);
    if one.schema().fields() != two.schema().fields() {
        return Ok("its columns differ".to_owned());
    }
    for (column, field) in one.schema().fields().iter().enumerate() {
        let (a, b) = (one.column(column), two.column(column));
        let differs = |row: &usize| a.slice(*row, 1) != b.slice(*row, 1);
        if let Some(row) = (0..one.num_rows().min(two.num_rows())).find(differs) {
            let (a, b) = (shown(a, row), shown(b, row));
            return Ok(format!("column {}, row {row}: {} where {} is expected", field.name(), short(&b), short(&a)));
        }
    }
    if one.num_rows() != two.num_rows() {
        return Ok(format!("{} rows where {} are expected", two.num_rows(), one.num_rows()));
    }
    let fact =
        facts.iter().find(|fact| !other_facts.contains(fact)).or(other_facts.iter().find(|f| !facts.contains(f)));
    Ok(match fact {
        Some(fact) => format!("`{}` in the footer differs", fact.key),
        None => "the rows are the same, but stored in a different way".to_owned(),
    })
}

/// A value of a column of embeddings.
fn shown(column: &ArrayRef, row: usize) -> String {
    match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().value(row).to_owned(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(row).to_string(),
        DataType::FixedSizeList(..) => {
            let values = column.as_fixed_size_list().value(row);
            values
                .as_primitive_opt::<Float32Type>()
                .map_or_else(String::new, |values| format!("{:?}", &values.values()[..]))
        }
        other => format!("another value of {other}"),
    }
}

fn pixels(expected: &Path, found: &Path) -> Result<String> {
    let (one, two) = (images::read_png(expected)?, images::read_png(found)?);
    if one.dimensions() != two.dimensions() {
        let ((w, h), (x, y)) = (one.dimensions(), two.dimensions());
        return Ok(format!("{x}×{y} pixels where {w}×{h} are expected"));
    }
    let mut pairs = one.enumerate_pixels().zip(two.pixels());
    Ok(match pairs.find(|((.., a), b)| a != b) {
        Some(((x, y, a), b)) => format!("pixel ({x}, {y}): {:?} where {:?} is expected", b.0, a.0),
        None => "the pixels are the same, but the text or the compression differs".to_owned(),
    })
}

fn tensors(expected: &Path, found: &Path) -> Result<String> {
    let (one, two) = (files::read(expected)?, files::read(found)?);
    let open = |bytes| SafeTensors::deserialize(bytes).map_err(|error| anyhow!("{error}"));
    let (a, b) = (open(&one)?, open(&two)?);
    let mut names = a.names();
    names.sort();
    for name in names {
        let x = a.tensor(name).map_err(|error| anyhow!("{error}"))?;
        let Ok(y) = b.tensor(name) else { return Ok(format!("tensor {name} is missing")) };
        if x.shape() != y.shape() || x.dtype() != y.dtype() {
            return Ok(format!("tensor {name}: shape {:?} where {:?} is expected", y.shape(), x.shape()));
        }
        let values = |bytes: &[u8]| bytes.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect();
        let (x, y): (Vec<f32>, Vec<f32>) = (values(x.data()), values(y.data()));
        if let Some(place) = (0..x.len()).find(|place| x[*place].to_bits() != y[*place].to_bits()) {
            return Ok(format!("tensor {name}, value {place}: {:e} where {:e} is expected", y[place], x[place]));
        }
    }
    if a.len() != b.len() {
        return Ok(format!("{} tensors where {} are expected", b.len(), a.len()));
    }
    Ok("the tensors are the same, but the metadata differs".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retrieval::embeddings::{Row, Writer};
    use std::fs;

    fn how(ending: &str, write: impl Fn(&Path, f32)) -> String {
        let folder = tempfile::tempdir().unwrap();
        let [expected, found] = ["expected", "found"].map(|side| folder.path().join(side));
        write(&expected, 1.0);
        write(&found, 2.0);
        let diff = FILE_DIFFS.iter().find(|diff| diff.ending == ending).unwrap();
        (diff.compare)(&expected, &found).unwrap()
    }

    #[test]
    fn names_the_place_in_each_kind_of_file() {
        let table = how("parquet", |path, value| {
            let row = |i| Row { path: format!("{i}"), label: i, label_name: "a".into(), split: "train".into() };
            let mut writer = Writer::new(fs::File::create(path).unwrap(), 2, Default::default()).unwrap();
            writer.write(&[row(0), row(1)], vec![0.0, 0.0, 0.5, value]).unwrap();
            writer.finish().unwrap();
        });
        assert_eq!(table, "column embedding, row 1: [0.5, 2.0] where [0.5, 1.0] is expected");
        let picture = how("png", |path, value| {
            let image =
                image::RgbImage::from_fn(4, 3, |x, y| image::Rgb([if (x, y) == (2, 1) { value as u8 } else { 9 }; 3]));
            fs::write(path, images::encode_png(&image, &Default::default()).unwrap()).unwrap();
        });
        assert_eq!(picture, "pixel (2, 1): [2, 2, 2] where [1, 1, 1] is expected");
        let model = how("safetensors", |path, value| {
            let bytes: Vec<u8> = [0.0, value].iter().flat_map(|value: &f32| value.to_le_bytes()).collect();
            let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2], &bytes).unwrap();
            fs::write(path, safetensors::serialize([("w", view)], &None).unwrap()).unwrap();
        });
        assert_eq!(model, "tensor w, value 1: 2e0 where 1e0 is expected");
    }
}
