//! split: assigns each image to the training or the test subset.

use std::collections::HashMap;
use std::hash::Hash;

use anyhow::{Result, bail};
use rand::seq::SliceRandom;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use similiai::engine::stage::{Context, Invalid, Stage, require};
use similiai::learning::dataset::{self, Listed, Subset};

/// A class with fewer pictures is too small for two test pictures.
const SMALL: usize = 6;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Split {
    method: Method,
    /// Share of each class that goes into the test subset, for the method `stratified`. A class of six pictures or
    /// more has at least two test pictures.
    test: f64,
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Method {
    /// Draw the same share of each class at random.
    Stratified,
    /// Keep the split of the source: the test batch of the archive, or the folders `val` and `test`.
    Official,
}

impl Default for Split {
    fn default() -> Self {
        Self { method: Method::Stratified, test: 0.2 }
    }
}

impl Stage for Split {
    const NAME: &'static str = "split";
    const VERSION: u32 = 2;
    const ABOUT: &'static str = "splits the images into training and test subsets; equal pictures go into one subset";
    const NEEDS: &'static [&'static str] = &["prepare"];

    fn check(&self) -> Result<(), Invalid> {
        require(self.test > 0.0 && self.test < 1.0, "test", "must be above 0 and below 1")
    }

    fn run(&self, context: &Context) -> Result<()> {
        let folder = context.input("prepare")?;
        let images: Vec<Listed> = dataset::read(&folder.join(dataset::IMAGES))?;
        let prepared = &context.inputs.result("prepare")?.contents;
        let digests = images.iter().map(|image| prepared.digest_of(&image.path)).collect::<Result<Vec<_>>>()?;
        let mut subsets = match self.method {
            Method::Official => images.iter().map(|image| image.part).collect(),
            Method::Stratified => self.draw(context, &images),
        };
        for (one, other) in unite_equal(&digests, &mut subsets) {
            tracing::warn!(
                "{} and {} are the same picture; both go into the {} subset",
                images[one].path,
                images[other].path,
                subsets[one].name()
            );
        }
        for subset in [Subset::Train, Subset::Test] {
            if !subsets.contains(&subset) {
                bail!("the {} subset would be empty; use more images, or change `test` or `method`", subset.name());
            }
        }
        let rows: Vec<dataset::Split> = images
            .into_iter()
            .zip(subsets)
            .map(|(image, split)| dataset::Split {
                path: image.path,
                label: image.label,
                label_name: image.label_name,
                split,
            })
            .collect();
        context.outputs.write(dataset::SPLIT, &dataset::to_bytes(&rows)?)
    }
}

impl Split {
    fn draw(&self, context: &Context, images: &[Listed]) -> Vec<Subset> {
        let mut subsets = vec![Subset::Train; images.len()];
        let mut classes: Vec<i32> = images.iter().map(|image| image.label).collect();
        classes.sort_unstable();
        classes.dedup();
        for class in classes {
            let mut members: Vec<usize> = (0..images.len()).filter(|place| images[*place].label == class).collect();
            members.shuffle(&mut context.rng(&format!("split class {class}")));
            let share = (members.len() as f64 * self.test).round() as usize;
            // A single test picture would have no other picture of its class to find.
            let count = if members.len() < SMALL { share } else { share.max(2) };
            members[..count].iter().for_each(|place| subsets[*place] = Subset::Test);
        }
        subsets
    }
}

/// Moves equal pictures to the subset of the first of them. Returns the pairs.
fn unite_equal<D: Copy + Eq + Hash>(digests: &[D], subsets: &mut [Subset]) -> Vec<(usize, usize)> {
    let mut first: HashMap<D, usize> = HashMap::new();
    let mut pairs = Vec::new();
    for (place, digest) in digests.iter().enumerate() {
        let one = *first.entry(*digest).or_insert(place);
        if one != place {
            subsets[place] = subsets[one];
            pairs.push((one, place));
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_pictures_end_on_one_side() {
        let digests = ["a", "b", "a", "c", "a"];
        let mut subsets = [Subset::Test, Subset::Train, Subset::Train, Subset::Test, Subset::Train];
        assert_eq!(unite_equal(&digests, &mut subsets), [(0, 2), (0, 4)]);
        assert_eq!(subsets, [Subset::Test, Subset::Train, Subset::Test, Subset::Test, Subset::Test]);
    }
}
