//! The original project's files for NumPy: embeddings, labels and paths of each subset
//! (<https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>, version 1.0).

use std::io::Write;

use anyhow::{Context, Result};
use similiai::engine::stage::{Output, Outputs};
use similiai::learning::dataset::{Split, Subset};

/// The arrays of both subsets, written row by row.
pub struct Arrays<'a> {
    subsets: [SubsetArrays<'a>; 2],
    dimension: usize,
    /// Number of characters of the longest path.
    longest: usize,
}

struct SubsetArrays<'a> {
    subset: Subset,
    embeddings: Output<'a>,
    labels: Output<'a>,
    paths: Output<'a>,
}

impl<'a> Arrays<'a> {
    /// Creates the files for all of `rows`.
    pub fn create(outputs: &'a Outputs, rows: &[Split], dimension: usize) -> Result<Self> {
        let longest = rows.iter().map(|row| row.path.chars().count()).max().unwrap_or(1);
        let subset = |subset: Subset| -> Result<SubsetArrays<'a>> {
            let count = rows.iter().filter(|row| row.split == subset).count();
            let open = |what: &str, kind: &str, shape: &str| -> Result<Output<'a>> {
                let name = format!("{}_{what}.npy", subset.name());
                let mut file = outputs.create(&name)?;
                let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}");
                // The values start at a multiple of 64 bytes, and the header ends with a line break.
                let length = (10 + header.len() + 1).next_multiple_of(64) - 10;
                let start = [&b"\x93NUMPY\x01\x00"[..], &(length as u16).to_le_bytes()].concat();
                let written =
                    file.write_all(&start).and_then(|()| writeln!(file, "{header:width$}", width = length - 1));
                written.with_context(|| format!("cannot write {name}"))?;
                Ok(file)
            };
            Ok(SubsetArrays {
                subset,
                embeddings: open("embeddings", "<f4", &format!("{count}, {dimension}"))?,
                labels: open("labels", "<i4", &format!("{count},"))?,
                paths: open("paths", &format!("<U{longest}"), &format!("{count},"))?,
            })
        };
        Ok(Self { subsets: [subset(Subset::Train)?, subset(Subset::Test)?], dimension, longest })
    }

    /// Writes `rows` with their `embeddings`, of shape (rows, dimension).
    pub fn write(&mut self, rows: &[Split], embeddings: &[f32]) -> Result<()> {
        for (row, embedding) in rows.iter().zip(embeddings.chunks_exact(self.dimension)) {
            let Some(to) = self.subsets.iter_mut().find(|to| to.subset == row.split) else { continue };
            let values: Vec<u8> = embedding.iter().flat_map(|value| value.to_le_bytes()).collect();
            // UTF-32, padded with zeros.
            let mut path: Vec<u8> = row.path.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect();
            path.resize(4 * self.longest, 0);
            let written = to.embeddings.write_all(&values).and_then(|()| to.labels.write_all(&row.label.to_le_bytes()));
            written.and_then(|()| to.paths.write_all(&path)).context("cannot write the .npy files")?;
        }
        Ok(())
    }

    pub fn finish(self) -> Result<()> {
        let files = self.subsets.into_iter().flat_map(|subset| [subset.embeddings, subset.labels, subset.paths]);
        files.into_iter().try_for_each(Output::finish)
    }
}
