//! The binary versions of CIFAR-10 and CIFAR-100 (<https://www.cs.toronto.edu/~kriz/cifar.html>).

use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context, Result};
use image::RgbImage;

use crate::base::files;
use crate::damaged;

const SIDE: u32 = 32;
const PIXELS: usize = (SIDE * SIDE) as usize;

/// The layout of an archive of records. Each record has its labels, and then 3,072 bytes: the red, green and blue
/// planes.
#[derive(Debug)]
pub struct Layout {
    pub classes: usize,
    /// Number of labels in a record. The last label is the class.
    labels: usize,
    /// The member that lists the names of the classes.
    pub names: &'static str,
    /// The members with images, in the order in which images are counted.
    pub batches: &'static [&'static str],
    /// The batch that the archive's makers set aside for testing.
    test: &'static str,
    /// The official batches have at most this many records. A smaller archive in the same layout may have fewer.
    pub most_records: usize,
}

pub static LAYOUTS: [Layout; 2] = [
    Layout {
        classes: 10,
        labels: 1,
        names: "batches.meta.txt",
        batches: &[
            "data_batch_1.bin",
            "data_batch_2.bin",
            "data_batch_3.bin",
            "data_batch_4.bin",
            "data_batch_5.bin",
            "test_batch.bin",
        ],
        test: "test_batch.bin",
        most_records: 10_000,
    },
    Layout {
        classes: 100,
        labels: 2,
        names: "fine_label_names.txt",
        batches: &["train.bin", "test.bin"],
        test: "test.bin",
        most_records: 50_000,
    },
];

/// One image of an archive.
pub struct Record {
    pub label: u8,
    /// Red, green and blue planes, each row by row.
    pub planes: Vec<u8>,
    /// Whether the image is from the archive's own test batch.
    pub official_test: bool,
}

impl Record {
    pub fn image(&self) -> RgbImage {
        let plane = |channel: usize| &self.planes[channel * PIXELS..];
        RgbImage::from_fn(SIDE, SIDE, |x, y| {
            let place = (y * SIDE + x) as usize;
            image::Rgb([plane(0)[place], plane(1)[place], plane(2)[place]])
        })
    }
}

impl Layout {
    /// The layout of the archive that was unpacked into `folder`, or `None` if `folder` holds folders of pictures.
    pub fn of(folder: &Path) -> Option<&'static Self> {
        LAYOUTS.iter().find(|layout| folder.join(layout.names).is_file())
    }

    /// Length of a record in bytes.
    pub fn record(&self) -> usize {
        self.labels + 3 * PIXELS
    }

    /// The class label of a record.
    pub fn label(&self, record: &[u8]) -> u8 {
        record[self.labels - 1]
    }

    /// Returns the class names in label order. Refuses names that cannot be the name of a folder.
    pub fn class_names(&self, text: &str, member: &str) -> Result<Vec<String>> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let names: Vec<String> = lines.map(str::to_owned).collect();
        if names.len() != self.classes {
            return Err(damaged!("{member}: {} class names, but the format has {}", names.len(), self.classes));
        }
        for (place, name) in names.iter().enumerate() {
            if !(name.len() <= 100 && name.chars().all(|c| c.is_alphanumeric() || " _-".contains(c))) {
                return Err(damaged!("{member}: the class name {name:?} cannot be the name of a folder"));
            }
            if names[..place].iter().any(|other| other.to_lowercase() == name.to_lowercase()) {
                return Err(damaged!("{member}: the class name {name:?} is listed twice"));
            }
        }
        Ok(names)
    }

    /// Reads the class names next to the batches in `folder`.
    pub fn names_in(&self, folder: &Path) -> Result<Vec<String>> {
        self.class_names(&files::read_to_string(&folder.join(self.names))?, self.names)
    }

    /// Reads the records in `folder` in archive order, until `visit` returns `Break`.
    fn read(&self, folder: &Path, mut visit: impl FnMut(Record) -> Result<ControlFlow<()>>) -> Result<()> {
        for member in self.batches {
            let path = folder.join(member);
            if !path.exists() {
                continue;
            }
            let unreadable = || format!("cannot read {}", path.display());
            let mut reader = BufReader::with_capacity(1 << 18, File::open(&path).with_context(unreadable)?);
            let mut bytes = vec![0; self.record()];
            let length = reader.get_ref().metadata().with_context(unreadable)?.len();
            for _ in 0..length / self.record() as u64 {
                reader.read_exact(&mut bytes).with_context(unreadable)?;
                let (label, planes) = (self.label(&bytes), bytes[self.labels..].to_vec());
                if visit(Record { label, planes, official_test: *member == self.test })?.is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Visits images of each class in archive order, with their positions in the class. Skips the first `skip`, and
    /// then visits `per_class` images, or all if it is `None`. Returns the class names.
    pub fn select(
        &self,
        folder: &Path,
        (skip, per_class): (usize, Option<usize>),
        mut visit: impl FnMut(Record, usize) -> Result<()>,
    ) -> Result<Vec<String>> {
        let names = self.names_in(folder)?;
        let mut counts = vec![0; names.len()];
        let wanted = per_class.map(|per_class| skip + per_class);
        self.read(folder, |record| {
            let count = counts.get_mut(usize::from(record.label));
            let count = count.with_context(|| format!("label {} in {} has no name", record.label, folder.display()))?;
            let place = *count;
            if wanted.is_none_or(|wanted| place < wanted) {
                *count += 1;
                if place >= skip {
                    visit(record, place)?;
                }
            }
            let done = wanted.is_some_and(|wanted| counts.iter().all(|count| *count == wanted));
            Ok(if done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_become_pixels() {
        let mut planes = vec![0; 3 * PIXELS];
        planes[1] = 10; // red of pixel (1, 0)
        planes[PIXELS + 32] = 20; // green of pixel (0, 1)
        planes[3 * PIXELS - 1] = 30; // blue of the last pixel
        let image = Record { label: 0, planes, official_test: false }.image();
        assert_eq!(image.get_pixel(1, 0).0, [10, 0, 0]);
        assert_eq!(image.get_pixel(0, 1).0, [0, 20, 0]);
        assert_eq!(image.get_pixel(31, 31).0, [0, 0, 30]);
    }

    #[test]
    fn class_names_are_different_plain_ones_and_as_many_as_the_format_has() {
        let good = "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n\n";
        let names = |text: &str| LAYOUTS[0].class_names(text, "m");
        assert_eq!(names(good).unwrap().len(), 10);
        let message = |text: &str| names(text).unwrap_err().to_string();
        assert!(message("a\nb\n").contains("2 class names"));
        assert!(message(&good.replace('j', "A")).contains("twice"));
        assert!(message(&good.replace('j', "../j")).contains("cannot be the name of a folder"));
    }

    #[test]
    fn the_fine_label_is_the_class() {
        let layout = &LAYOUTS[1];
        let mut record = vec![7; layout.record()];
        record[..2].copy_from_slice(&[3, 42]);
        assert_eq!((layout.record(), layout.label(&record)), (3074, 42));
    }
}
