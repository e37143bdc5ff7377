//! prepare: turns images of any size into square, sharpened PNG files.

mod originals;

use std::collections::BTreeMap;

use anyhow::Result;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use similiai::base::error::first_of;
use similiai::damaged;
use similiai::engine::cache::ItemResult;
use similiai::engine::stage::{ArtifactKind, Context, Inputs, Invalid, Stage, require};
use similiai::learning::dataset::{self, Listed, SKIPPED, SOURCES, Skipped};
use similiai::learning::images::{
    Filter, Ground, OnBadImage, Preparation, Sharpen, Unreadable, encode_png, image_path,
};
use similiai::retrieval::artifacts;

use originals::{Original, Originals, Selection};

/// Number of pictures prepared before their results are kept.
const BATCH: usize = 512;
/// Number of unusable pictures that an error names.
const NAMED: usize = 5;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Prepare {
    /// Number of pictures of each class, in the order of the archive or of names; null: all of them.
    images_per_class: Option<usize>,
    /// Number of pictures of each class to skip first.
    skip_per_class: usize,
    /// Side of the square PNG, in pixels.
    size: u32,
    filter: Filter,
    sharpen: Sharpen,
    on_bad_image: OnBadImage,
}

impl Default for Prepare {
    fn default() -> Self {
        Self {
            images_per_class: Some(200),
            skip_per_class: 0,
            size: 64,
            filter: Filter::Lanczos,
            sharpen: Sharpen::default(),
            on_bad_image: OnBadImage::Fail,
        }
    }
}

/// A row of `sources.csv`.
#[derive(Serialize)]
struct Source<'a> {
    path: String,
    source: &'a str,
}

impl Stage for Prepare {
    const NAME: &'static str = "prepare";
    const VERSION: u32 = 6;
    const DRAWS: bool = false;
    const ABOUT: &'static str = "crops, resizes and sharpens the images and writes them as PNG";
    const NEEDS: &'static [&'static str] = &["fetch"];
    const PROVIDES: Option<ArtifactKind> = Some(artifacts::PICTURES);

    fn check(&self) -> Result<(), Invalid> {
        let count = self.images_per_class.is_none_or(|count| (1..=1_000_000).contains(&count));
        require(count, "images_per_class", "must be 1 to 1000000, or null for all")?;
        require(self.skip_per_class <= 1_000_000, "skip_per_class", "must be 0 to 1000000")?;
        self.preparation().check().map_err(|(parameter, message)| Invalid { parameter, message: message.to_owned() })
    }

    fn items(&self) -> Option<f64> {
        self.images_per_class.map(|count| count as f64)
    }

    /// Reads only the selected images, so that the full archive and a sample of it give the same key.
    fn reads(&self, inputs: &Inputs) -> Result<BTreeMap<String, String>> {
        let fetched = inputs.result("fetch")?;
        let pictures = inputs.fact("pictures", &(fetched.contents.digest(), self.selection()), || {
            originals::digest(fetched, self.selection())
        })?;
        Ok([("pictures".to_owned(), pictures)].into())
    }

    fn run(&self, context: &Context) -> Result<()> {
        let preparation = self.preparation();
        let Originals { originals, classes } = originals::load(context.inputs.result("fetch")?, self.selection())?;
        let prepare = |original: &&Original| match original.prepared(&preparation) {
            Ok(image) => encode_png(&image, &BTreeMap::new()),
            Err(error) if matches!(error.downcast_ref(), Some(Unreadable::NoDecoder(_))) => Err(error),
            // This failure is not kept, because another machine may have enough memory for the picture.
            Err(error)
                if matches!(error.downcast_ref(), Some(Unreadable::Demanding(_)))
                    && self.on_bad_image == OnBadImage::Fail =>
            {
                Err(damaged!("{error:#}; remove it, or skip it with on_bad_image: skip"))
            }
            Err(error) if error.is::<Unreadable>() => Ok(format!("{BAD}{error:#}").into_bytes()),
            Err(error) => Err(error),
        };
        let pictures = context.map(("images", BATCH), &preparation, &originals, Original::digest, |originals| {
            originals.par_iter().map(prepare).collect()
        })?;
        let (mut listed, mut sources, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
        for (original, picture) in originals.iter().zip(&pictures) {
            if let Some(why) = fault(picture) {
                skipped.push(Skipped { source: original.name().to_owned(), why: why.to_owned() });
                continue;
            }
            let label_name = classes[usize::from(original.label)].clone();
            let path = image_path(&label_name, original.place);
            context.add_item(path.clone(), picture)?;
            if !original.name().is_empty() {
                sources.push(Source { path: path.clone(), source: original.name() });
            }
            listed.push(Listed { path, label: original.label.into(), label_name, part: original.part });
        }
        self.judge(&skipped)?;
        if let Some(empty) = classes.iter().find(|class| !listed.iter().any(|row| row.label_name == **class)) {
            return Err(damaged!("no picture of class `{empty}` can be read; repair them, or remove the class"));
        }
        let outputs = &context.outputs;
        listed.sort_by(|a, b| a.path.cmp(&b.path));
        outputs.write(dataset::IMAGES, &dataset::to_bytes(&listed)?)?;
        if !sources.is_empty() {
            outputs.write(SOURCES, &dataset::to_bytes(&sources)?)?;
        }
        if !skipped.is_empty() {
            outputs.write(SKIPPED, &dataset::to_bytes(&skipped)?)?;
        }
        outputs.write(dataset::PREPARATION, (serde_json::to_string_pretty(&preparation)? + "\n").as_bytes())
    }
}

/// Start of the result for a picture that cannot be read; the reason follows. No PNG file starts like this.
const BAD: &str = "bad: ";

fn fault(picture: &ItemResult) -> Option<&str> {
    match picture {
        ItemResult::Bytes(bytes) => std::str::from_utf8(bytes).ok()?.strip_prefix(BAD),
        ItemResult::Blob { .. } => None,
    }
}

impl Prepare {
    fn preparation(&self) -> Preparation {
        Preparation { size: self.size, filter: self.filter, sharpen: self.sharpen, ground: Ground::default() }
    }

    fn selection(&self) -> Selection {
        Selection { skip: self.skip_per_class, per_class: self.images_per_class }
    }

    fn judge(&self, skipped: &[Skipped]) -> Result<()> {
        let reasons: Vec<String> = skipped.iter().map(|bad| format!("{}: {}", bad.source, bad.why)).collect();
        let (count, named) = (skipped.len(), first_of(NAMED, &reasons));
        match (count, self.on_bad_image) {
            (0, _) => Ok(()),
            (_, OnBadImage::Skip) => {
                tracing::warn!("{count} pictures cannot be read and are skipped; {SKIPPED} lists them:{named}");
                Ok(())
            }
            (_, OnBadImage::Fail) => Err(damaged!(
                "{count} pictures cannot be read; repair or remove them, or skip them with on_bad_image: \
                 skip:{named}"
            )),
        }
    }
}
