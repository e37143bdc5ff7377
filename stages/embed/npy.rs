//! The original project's files for NumPy: embeddings, labels and paths of each side
//! (<https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>, version 1.0).

use std::io::Write;

use anyhow::{Context, Result};
use similiai::engine::stage::{Output, Outputs};
use similiai::learning::listing::{Side, Split};

/// The arrays of both sides, written row by row.
pub struct Arrays<'a> {
    sides: [SideArrays<'a>; 2],
    dimension: usize,
    /// Characters of the longest path.
    longest: usize,
}

struct SideArrays<'a> {
    side: Side,
    embeddings: Output<'a>,
    labels: Output<'a>,
    paths: Output<'a>,
}

impl<'a> Arrays<'a> {
    /// For all of `rows`.
    pub fn create(outputs: &'a Outputs, rows: &[Split], dimension: usize) -> Result<Self> {
        let longest = rows.iter().map(|row| row.path.chars().count()).max().unwrap_or(1);
        let side = |side: Side| -> Result<SideArrays<'a>> {
            let count = rows.iter().filter(|row| row.split == side).count();
            let open = |what: &str, kind: &str, shape: &str| -> Result<Output<'a>> {
                let name = format!("{}_{what}.npy", side.name());
                let mut file = outputs.create(&name)?;
                let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}");
                // The values begin at a multiple of 64 bytes; the header ends with a line break.
                let length = (10 + header.len() + 1).next_multiple_of(64) - 10;
                let start = [&b"\x93NUMPY\x01\x00"[..], &(length as u16).to_le_bytes()].concat();
                let written =
                    file.write_all(&start).and_then(|()| writeln!(file, "{header:width$}", width = length - 1));
                written.with_context(|| format!("cannot write {name}"))?;
                Ok(file)
            };
            Ok(SideArrays {
                side,
                embeddings: open("embeddings", "<f4", &format!("{count}, {dimension}"))?,
                labels: open("labels", "<i4", &format!("{count},"))?,
                paths: open("paths", &format!("<U{longest}"), &format!("{count},"))?,
            })
        };
        Ok(Self { sides: [side(Side::Train)?, side(Side::Test)?], dimension, longest })
    }

    /// `embeddings`: (rows, dimension)
    pub fn write(&mut self, rows: &[Split], embeddings: &[f32]) -> Result<()> {
        for (row, embedding) in rows.iter().zip(embeddings.chunks_exact(self.dimension)) {
            let Some(to) = self.sides.iter_mut().find(|to| to.side == row.split) else { continue };
            let values: Vec<u8> = embedding.iter().flat_map(|value| value.to_le_bytes()).collect();
            // UTF-32, filled up with zeros.
            let mut path: Vec<u8> = row.path.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect();
            path.resize(4 * self.longest, 0);
            let written = to.embeddings.write_all(&values).and_then(|()| to.labels.write_all(&row.label.to_le_bytes()));
            written.and_then(|()| to.paths.write_all(&path)).context("cannot write the .npy files")?;
        }
        Ok(())
    }

    pub fn finish(self) -> Result<()> {
        let files = self.sides.into_iter().flat_map(|side| [side.embeddings, side.labels, side.paths]);
        files.into_iter().try_for_each(Output::finish)
    }
}
