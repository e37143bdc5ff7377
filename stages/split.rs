//! split: which images are learned from and which are only asked about.

use std::collections::HashMap;
use std::hash::Hash;

use anyhow::{Result, bail};
use rand::seq::SliceRandom;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use similiai::engine::stage::{Context, Inputs, Invalid, Stage, require};
use similiai::learning::listing::{self, Listed, Side};

/// The list that says which side each image is on.
pub const LIST: &str = "split.csv";

/// A class with fewer pictures is too small to test by two of them.
const SMALL: usize = 6;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Split {
    method: Method,
    /// Share of each class that is for testing, of six pictures or more at least two (method `stratified`).
    test: f64,
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Method {
    /// The same share of each class, drawn from the seed.
    Stratified,
    /// The archive's own test batch.
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
    const ABOUT: &'static str = "parts the images into train and test, never the same picture on both sides";
    const NEEDS: &'static [&'static str] = &["prepare"];

    fn check(&self) -> Result<(), Invalid> {
        require(self.test > 0.0 && self.test < 1.0, "test", "must lie between 0 and 1")
    }

    fn run(&self, context: &Context) -> Result<()> {
        let folder = context.input("prepare")?;
        let images: Vec<Listed> = listing::read(&folder.join(super::prepare::LIST))?;
        let prepared = &context.inputs.result("prepare")?.contents;
        let digests = images.iter().map(|image| prepared.digest_of(&image.path)).collect::<Result<Vec<_>>>()?;
        let mut sides = match self.method {
            Method::Official => images.iter().map(|image| image.part).collect(),
            Method::Stratified => self.draw(context, &images),
        };
        for (one, other) in unite_equal(&digests, &mut sides) {
            tracing::warn!(
                "{} and {} are the same picture; both go to {}",
                images[one].path,
                images[other].path,
                sides[one].name()
            );
        }
        for side in [Side::Train, Side::Test] {
            if !sides.contains(&side) {
                bail!("no image would be for {}; take more images, another share or another method", side.name());
            }
        }
        let rows: Vec<listing::Split> = images
            .into_iter()
            .zip(sides)
            .map(|(image, split)| listing::Split {
                path: image.path,
                label: image.label,
                label_name: image.label_name,
                split,
            })
            .collect();
        context.outputs.write(LIST, &listing::to_bytes(&rows)?)
    }
}

impl Split {
    fn draw(&self, context: &Context, images: &[Listed]) -> Vec<Side> {
        let mut sides = vec![Side::Train; images.len()];
        let mut classes: Vec<i32> = images.iter().map(|image| image.label).collect();
        classes.sort_unstable();
        classes.dedup();
        for class in classes {
            let mut members: Vec<usize> = (0..images.len()).filter(|place| images[*place].label == class).collect();
            members.shuffle(&mut context.rng(&format!("split class {class}")));
            let share = (members.len() as f64 * self.test).round() as usize;
            // One alone would have no other of its class to find.
            let count = if members.len() < SMALL { share } else { share.max(2) };
            members[..count].iter().for_each(|place| sides[*place] = Side::Test);
        }
        sides
    }
}

/// Refuses early a split with pictures that the instance of `prepare` in `needs` does not have. `splits` are names of
/// instances; others are left alone.
pub fn must_be_prepared<'a>(ready: &Inputs, splits: impl IntoIterator<Item = &'a String>) -> Result<()> {
    let of = |name: &String| ready.results.iter().find(|input| input.instance == *name);
    let prepare = ready.needs.iter().find(|need| need.stage == "prepare");
    let Some(prepare) = prepare.and_then(|need| of(&need.instance)) else { return Ok(()) };
    for split in splits.into_iter().filter_map(of).filter(|input| input.stage == Split::NAME) {
        let rows: Vec<listing::Split> = listing::read(&split.folder.join(LIST))?;
        if let Some(row) = rows.iter().find(|row| prepare.contents.find(&row.path).is_none()) {
            let (path, split, prepare) = (&row.path, &split.instance, &prepare.instance);
            bail!("`{split}` has the picture {path}, and `{prepare}` has not; name in `needs` what `{split}` is of");
        }
    }
    Ok(())
}

/// Moves equal pictures to the side of the first of them; gives the pairs.
fn unite_equal<D: Copy + Eq + Hash>(digests: &[D], sides: &mut [Side]) -> Vec<(usize, usize)> {
    let mut first: HashMap<D, usize> = HashMap::new();
    let mut pairs = Vec::new();
    for (place, digest) in digests.iter().enumerate() {
        let one = *first.entry(*digest).or_insert(place);
        if one != place {
            sides[place] = sides[one];
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
        let mut sides = [Side::Test, Side::Train, Side::Train, Side::Test, Side::Train];
        assert_eq!(unite_equal(&digests, &mut sides), [(0, 2), (0, 4)]);
        assert_eq!(sides, [Side::Test, Side::Train, Side::Test, Side::Test, Side::Test]);
    }
}
