//! The training part in memory, and the batches drawn from it.

use anyhow::Result;
use image::RgbImage;
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use similiai::damaged;
use similiai::images::read_png;
use similiai::listing::{self, Side, Split};
use similiai::model::Preprocessing;
use similiai::nn::Triplets;
use similiai::stage::Context;

use super::{Mining, Train};

/// Decoded images with their labels.
pub struct Set {
    pub images: Vec<RgbImage>,
    pub labels: Vec<u8>,
    /// The images of each class.
    pub classes: Vec<Vec<usize>>,
}

pub struct Data {
    pub preprocessing: Preprocessing,
    pub learned: Set,
    /// Held out of the training part; the test part is never looked at here.
    pub held_out: Set,
}

/// What a step learns from.
pub struct Batch {
    /// Places in [`Data::learned`].
    pub images: Vec<usize>,
    pub triplets: Triplets,
}

pub fn load(train: &Train, context: &Context, preprocessing: Preprocessing) -> Result<Data> {
    let folder = context.input("prepare")?;
    let rows: Vec<Split> = listing::read(&context.input("split")?.join(crate::stages::split::LIST))?;
    let rows: Vec<Split> = rows.into_iter().filter(|row| row.split == Side::Train).collect();
    let bar = context.bar("reading images", rows.len() as u64);
    let read = |row: &Split| -> Result<RgbImage> {
        bar.inc(1);
        Ok(preprocessing.fit(read_png(&folder.join(&row.path))?))
    };
    let mut images = rows.par_iter().map(read).collect::<Result<Vec<_>>>()?;
    let mut names: Vec<i32> = rows.iter().map(|row| row.label).collect();
    names.sort_unstable();
    names.dedup();
    let mut held_out = vec![false; rows.len()];
    for name in &names {
        let mut members: Vec<usize> = (0..rows.len()).filter(|place| rows[*place].label == *name).collect();
        members.shuffle(&mut context.rng(&format!("held out of class {name}")));
        let count = ((members.len() as f64 * train.validation).round() as usize).max(2);
        if members.len() < count + 2 {
            let name = &rows[members[0]].label_name;
            return Err(damaged!("class `{name}` has {} training pictures; at least 4 are needed", members.len()));
        }
        members[..count].iter().for_each(|place| held_out[*place] = true);
    }
    if names.len() < 2 {
        return Err(damaged!("triplets need at least 2 classes, and there are {}", names.len()));
    }
    let mut set = |held: bool| {
        let places: Vec<usize> = (0..rows.len()).filter(|place| held_out[*place] == held).collect();
        let class = |place: &usize| names.iter().position(|name| *name == rows[*place].label).unwrap_or_default();
        let labels: Vec<u8> = places.iter().map(|place| class(place) as u8).collect();
        let of_class = |class| (0..labels.len()).filter(|place| usize::from(labels[*place]) == class).collect();
        let classes = (0..names.len()).map(of_class).collect();
        // Taken, not copied: all images together may fill much of the memory.
        let images = places.iter().map(|place| std::mem::take(&mut images[*place])).collect();
        Set { images, labels, classes }
    };
    let (learned, held_out) = (set(false), set(true));
    Ok(Data { preprocessing, learned, held_out })
}

impl Data {
    /// The batches of all epochs are known beforehand from the seed.
    pub fn batches(&self, train: &Train, context: &Context, epoch: usize) -> Vec<Batch> {
        match train.mining {
            Mining::BatchAll => {
                self.class_batches(train.images_per_class, &mut context.rng(&format!("batches of epoch {epoch}")))
            }
            Mining::Drawn => {
                let mut triplets = self.learned.draw(train.triplets.train, &mut context.rng("training triplets"));
                triplets.shuffle(&mut context.rng(&format!("batches of epoch {epoch}")));
                let batch =
                    |triplets: &[[usize; 3]]| Batch { images: side_by_side(triplets), triplets: Triplets::Given };
                triplets.chunks(train.triplets.batch).map(batch).collect()
            }
        }
    }

    /// `each` images of every class a batch; small classes come round more often.
    fn class_batches(&self, each: usize, rng: &mut ChaCha8Rng) -> Vec<Batch> {
        let classes = &self.learned.classes;
        let steps = self.learned.labels.len().div_ceil(each * classes.len());
        let mut orders: Vec<Vec<usize>> = classes.iter().map(|_| Vec::new()).collect();
        let steps = (0..steps).map(|_| {
            let mut images = Vec::new();
            for (class, order) in classes.iter().zip(&mut orders) {
                let each = each.min(class.len());
                if order.len() < each {
                    *order = class.clone();
                    order.shuffle(rng);
                }
                images.extend(order.split_off(order.len() - each));
            }
            let labels = images.iter().map(|place| self.learned.labels[*place]).collect();
            Batch { images, triplets: Triplets::All(labels) }
        });
        steps.collect()
    }

    /// A fixed selection of held-out images, by which the loss of an epoch is measured.
    pub fn validation(&self, train: &Train, context: &Context) -> Batch {
        match train.mining {
            Mining::Drawn => {
                let triplets = self.held_out.draw(train.triplets.validation, &mut context.rng("validation triplets"));
                Batch { images: side_by_side(&triplets), triplets: Triplets::Given }
            }
            Mining::BatchAll => {
                let some = |class: &Vec<usize>| class.iter().copied().take(train.images_per_class).collect::<Vec<_>>();
                let images: Vec<usize> = self.held_out.classes.iter().flat_map(some).collect();
                let labels = images.iter().map(|place| self.held_out.labels[*place]).collect();
                Batch { images, triplets: Triplets::All(labels) }
            }
        }
    }
}

impl Set {
    /// Random triplets: any anchor, another image of its class, an image of another class.
    fn draw(&self, count: usize, rng: &mut ChaCha8Rng) -> Vec<[usize; 3]> {
        let all = self.labels.len();
        let draw = |_| {
            let anchor = rng.gen_range(0..all);
            let class = &self.classes[usize::from(self.labels[anchor])];
            let mut positive = class[rng.gen_range(0..class.len())];
            while positive == anchor {
                positive = class[rng.gen_range(0..class.len())];
            }
            let mut negative = rng.gen_range(0..all);
            while self.labels[negative] == self.labels[anchor] {
                negative = rng.gen_range(0..all);
            }
            [anchor, positive, negative]
        };
        (0..count).map(draw).collect()
    }
}

/// Anchors, then positives, then negatives.
fn side_by_side(triplets: &[[usize; 3]]) -> Vec<usize> {
    (0..3).flat_map(|role| triplets.iter().map(move |triplet| triplet[role])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use similiai::stage::rng;

    fn set() -> Set {
        let labels = vec![0, 0, 0, 1, 1, 2, 2, 2, 2];
        let classes = (0..3).map(|class| (0..9).filter(|place| labels[*place] == class).collect()).collect();
        Set { images: Vec::new(), labels, classes }
    }

    #[test]
    fn drawn_triplets_are_valid() {
        let set = set();
        for [anchor, positive, negative] in set.draw(500, &mut rng(1, "test")) {
            assert!(
                anchor != positive
                    && set.labels[anchor] == set.labels[positive]
                    && set.labels[anchor] != set.labels[negative]
            );
        }
    }

    #[test]
    fn class_batches_hold_each_class_without_repeats() {
        let data = Data {
            preprocessing: Preprocessing { side: 0, mean: 0.0, deviation: 1.0 },
            learned: set(),
            held_out: set(),
        };
        let batches = data.class_batches(2, &mut rng(1, "test"));
        assert_eq!(batches.len(), 2);
        for batch in batches {
            let mut images = batch.images.clone();
            images.sort_unstable();
            images.dedup();
            assert_eq!(images.len(), 6);
            assert!(matches!(batch.triplets, Triplets::All(labels) if labels == [0, 0, 1, 1, 2, 2]));
        }
    }
}
