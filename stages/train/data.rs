//! The training subset in memory, and the batches drawn from it.

use std::path::Path;

use anyhow::{Context as _, Result};
use image::RgbImage;
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use similiai::damaged;
use similiai::engine::cache::Contents;
use similiai::engine::stage::Context;
use similiai::learning::dataset::{self, Split, Subset};
use similiai::learning::images::read_png;
use similiai::learning::model::Preprocessing;
use similiai::learning::nn::{Mixed, Triplets};

use super::{Mining, Train};

/// Decoded images with their labels.
pub struct Set {
    pub images: Vec<RgbImage>,
    pub labels: Vec<u8>,
    /// Positions of the images of each class.
    pub classes: Vec<Vec<usize>>,
}

pub struct Data {
    pub preprocessing: Preprocessing,
    pub learned: Set,
    /// Held out of the training subset. The test subset is not read here.
    pub held_out: Set,
    /// A fixed selection of held-out images, on which the loss of an epoch is measured.
    pub validation: (Vec<usize>, Triplets),
}

/// A batch: the input of one step.
pub struct Batch {
    pub pictures: Vec<Picture>,
    /// Targets of the first pictures, for the cross-entropy.
    pub targets: Vec<Mixed>,
    pub triplets: Triplets,
    /// Position of the first picture that the triplets use.
    pub from: usize,
}

/// One input of the network, before it is augmented.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Picture {
    /// Position in [`Data::learned`].
    pub place: usize,
    pub with: Option<Mix>,
}

/// How another picture is mixed in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mix {
    /// Position of the other picture in [`Data::learned`].
    pub place: usize,
    /// Share of the first picture.
    pub share: f32,
    /// Square in which the other picture replaces the first: (top, left) and side, if the picture has side 1. If
    /// `None`, the pictures are blended everywhere, by `share`.
    pub square: Option<((f32, f32), f32)>,
}

impl From<usize> for Picture {
    fn from(place: usize) -> Self {
        Self { place, with: None }
    }
}

/// The rows of the training subset.
fn rows(split: &Path) -> Result<Vec<Split>> {
    let rows: Vec<Split> = dataset::read(&split.join(dataset::SPLIT))?;
    Ok(rows.into_iter().filter(|row| row.split == Subset::Train).collect())
}

/// Digest of everything that [`load`] reads: the training rows, their pictures in `prepared`, and how these were
/// prepared.
pub fn digest(prepared: &Contents, split: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(prepared.digest_of(dataset::PREPARATION)?.as_bytes());
    for Split { path, label, .. } in rows(split)? {
        let place = prepared.find(&path);
        let place =
            place.with_context(|| format!("{path} is not prepared; name the pictures of `split` in `needs`"))?;
        hasher.update(format!("{path}\0{label}\0{}\n", prepared.file(place).digest).as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

pub fn load(train: &Train, context: &Context, preprocessing: Preprocessing) -> Result<Data> {
    let folder = context.input("prepare")?;
    let rows = rows(context.input("split")?)?;
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
            let (has, needs) = (members.len(), count + 2);
            return Err(damaged!(
                "class `{name}` has {has} training pictures, and {needs} are needed: {count} are held out to measure \
                 the training, and 2 must be left to learn from; add pictures, or remove the class"
            ));
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
        // Moves the images instead of copying them: together they may need much of the memory.
        let images = places.iter().map(|place| std::mem::take(&mut images[*place])).collect();
        Set { images, labels, classes }
    };
    let (learned, held_out) = (set(false), set(true));
    let validation = match train.mining {
        Mining::Drawn => {
            let triplets = held_out.draw(train.triplets.validation, &mut context.rng("validation triplets"));
            (side_by_side(&triplets), Triplets::Given)
        }
        Mining::BatchAll => {
            let some = |class: &Vec<usize>| class.iter().copied().take(train.images_per_class).collect::<Vec<_>>();
            let images: Vec<usize> = held_out.classes.iter().flat_map(some).collect();
            let labels = images.iter().map(|place| held_out.labels[*place]).collect();
            (images, Triplets::All(labels))
        }
    };
    Ok(Data { preprocessing, learned, held_out, validation })
}

impl Data {
    /// The batches of `epoch`. They follow from the seed alone.
    pub fn batches(&self, train: &Train, context: &Context, epoch: usize) -> Vec<Batch> {
        let mut rng = context.rng(&format!("batches of epoch {epoch}"));
        match train.mining {
            Mining::BatchAll => {
                let batches = self.class_batches((train.classes_per_batch, train.images_per_class), &mut rng);
                batches.into_iter().map(|places| self.views(train, places, &mut rng)).collect()
            }
            Mining::Drawn => {
                let mut triplets = self.learned.draw(train.triplets.train, &mut context.rng("training triplets"));
                triplets.shuffle(&mut rng);
                let batch = |triplets: &[[usize; 3]]| {
                    let pictures = side_by_side(triplets).into_iter().map(Picture::from).collect();
                    Batch { pictures, targets: Vec::new(), triplets: Triplets::Given, from: 0 }
                };
                triplets.chunks(train.triplets.batch).map(batch).collect()
            }
        }
    }

    /// Batches with `each` images of every class, or of `most` classes in turn. The images of small classes are used
    /// more often.
    fn class_batches(&self, (most, each): (usize, usize), rng: &mut ChaCha8Rng) -> Vec<Vec<usize>> {
        let classes = &self.learned.classes;
        let most = most.min(classes.len());
        let steps = self.learned.labels.len().div_ceil(each * most);
        let mut orders: Vec<Vec<usize>> = classes.iter().map(|_| Vec::new()).collect();
        let mut turns: Vec<usize> = Vec::new();
        let steps = (0..steps).map(|_| {
            let mut chosen: Vec<usize> = (0..classes.len()).collect();
            if most < classes.len() {
                if turns.len() < most {
                    // The remaining classes come first. No class is twice in a batch.
                    let mut others = chosen;
                    others.retain(|class| !turns.contains(class));
                    others.shuffle(rng);
                    let last = std::mem::take(&mut turns);
                    turns = [others, last].concat();
                }
                chosen = turns.split_off(turns.len() - most);
                chosen.sort_unstable();
            }
            let mut images = Vec::new();
            for class in chosen {
                let (class, order) = (&classes[class], &mut orders[class]);
                let each = each.min(class.len());
                if order.len() < each {
                    *order = class.clone();
                    order.shuffle(rng);
                }
                images.extend(order.split_off(order.len() - each));
            }
            images
        });
        steps.collect()
    }

    /// The batch of `places`, each repeated for every view. With mixed pictures, the mixed view is only for the
    /// cross-entropy. The other views are only for the triplets, and have only some pictures of each class. Without
    /// mixed pictures, all views are for both.
    fn views(&self, train: &Train, places: Vec<usize>, rng: &mut ChaCha8Rng) -> Batch {
        let terms = &train.cross_entropy;
        let label = |place: usize| self.learned.labels[place];
        if terms.weight > 0.0 && terms.mixup > 0.0 {
            let mut partners = places.clone();
            partners.shuffle(rng);
            let mix = |(first, place): (&usize, usize)| {
                let share = beta(terms.mixup, rng) as f32;
                let side = (1.0 - share).sqrt();
                let square = rng.gen_bool(terms.cutmix).then(|| {
                    let mut corner = || rng.gen_range(0.0..=1.0 - side);
                    ((corner(), corner()), side)
                });
                Picture { place: *first, with: Some(Mix { place, share, square }) }
            };
            let mixed: Vec<Picture> = places.iter().zip(partners).map(mix).collect();
            let from = mixed.len();
            let target = |picture: &Picture| {
                let (other, share) = picture.with.map_or((picture.place, 1.0), |mix| (mix.place, mix.share));
                Mixed { labels: [label(picture.place), label(other)], share }
            };
            let targets = mixed.iter().map(target).collect();
            let mut taken = vec![0; self.learned.classes.len()];
            let some = places.iter().filter(|place| {
                let taken = &mut taken[usize::from(label(**place))];
                *taken += 1;
                *taken <= train.plain_per_class
            });
            let some: Vec<Picture> = some.copied().map(Picture::from).collect();
            let plain = (1..train.views).flat_map(|_| some.clone());
            let pictures: Vec<Picture> = mixed.into_iter().chain(plain).collect();
            let labels = pictures[from..].iter().map(|picture| label(picture.place)).collect();
            return Batch { pictures, targets, triplets: Triplets::All(labels), from };
        }
        let plain = |_| places.iter().copied().map(Picture::from);
        let pictures: Vec<Picture> = (0..train.views).flat_map(plain).collect();
        let labels: Vec<u8> = pictures.iter().map(|picture| label(picture.place)).collect();
        let target = |label: &u8| Mixed { labels: [*label; 2], share: 1.0 };
        let targets = if terms.weight > 0.0 { labels.iter().map(target).collect() } else { Vec::new() };
        Batch { pictures, targets, triplets: Triplets::All(labels), from: 0 }
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

/// All anchors, then all positives, then all negatives.
fn side_by_side(triplets: &[[usize; 3]]) -> Vec<usize> {
    (0..3).flat_map(|role| triplets.iter().map(move |triplet| triplet[role])).collect()
}

/// Beta(a, a) for 0 < a ≤ 1 (Jöhnk 1964).
fn beta(a: f64, rng: &mut ChaCha8Rng) -> f64 {
    loop {
        let [x, y] = [(); 2].map(|()| libm::pow(rng.gen_range(0.0..1.0), 1.0 / a));
        if x + y > 0.0 && x + y <= 1.0 {
            return x / (x + y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::CrossEntropy;
    use super::*;
    use similiai::base::seed::rng;

    fn data() -> Data {
        Data {
            preprocessing: Preprocessing { side: 0, mean: 0.0, deviation: 1.0 },
            learned: set(),
            held_out: set(),
            validation: (Vec::new(), Triplets::Given),
        }
    }

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
        let data = data();
        let batches = data.class_batches((16, 2), &mut rng(1, "test"));
        assert_eq!(batches.len(), 2);
        for batch in batches {
            let labels: Vec<u8> = batch.iter().map(|place| data.learned.labels[*place]).collect();
            assert_eq!(labels, [0, 0, 1, 1, 2, 2]);
            let mut places = batch;
            places.sort_unstable();
            places.dedup();
            assert_eq!(places.len(), 6);
        }
    }

    #[test]
    fn many_classes_take_turns() {
        let data = data();
        let batches = data.class_batches((2, 1), &mut rng(1, "test"));
        let classes: Vec<Vec<u8>> =
            batches.iter().map(|batch| batch.iter().map(|place| data.learned.labels[*place]).collect()).collect();
        assert_eq!(classes.len(), 5);
        for pair in classes.windows(2) {
            let [one, two] = [&pair[0], &pair[1]];
            assert!(one.len() == 2 && one[0] != one[1]);
            // A class that was left out of one batch is in the next.
            let left_out = (0..3).find(|class| !one.contains(class)).unwrap();
            assert!(two.contains(&left_out), "{classes:?}");
        }
    }

    #[test]
    fn mixed_pictures_are_for_the_cross_entropy_and_plain_ones_for_the_triplets() {
        let (data, train) = (data(), Train { plain_per_class: 2, ..Train::default() });
        let batch = data.views(&train, vec![0, 1, 2, 3, 5], &mut rng(1, "test"));
        assert_eq!((batch.pictures.len(), batch.targets.len(), batch.from), (9, 5, 5));
        for (picture, target) in batch.pictures.iter().zip(&batch.targets) {
            let Mix { place, share, .. } = picture.with.unwrap();
            let labels = [data.learned.labels[picture.place], data.learned.labels[place]];
            assert_eq!(*target, Mixed { labels, share });
            assert!((0.0..=1.0).contains(&share));
        }
        assert_eq!(batch.pictures[5..], [0, 1, 3, 5].map(Picture::from));
        assert!(matches!(batch.triplets, Triplets::All(labels) if labels == [0, 0, 1, 2]));

        let plain = Train { cross_entropy: CrossEntropy { mixup: 0.0, ..train.cross_entropy.clone() }, ..train };
        let batch = data.views(&plain, vec![0, 3, 5], &mut rng(1, "test"));
        assert_eq!((batch.pictures.len(), batch.targets.len(), batch.from), (6, 6, 0));
    }

    #[test]
    fn shares_have_the_moments_of_their_distribution() {
        let mut rng = rng(1, "test");
        for a in [0.2, 0.4, 1.0] {
            let shares: Vec<f64> = (0..20_000).map(|_| beta(a, &mut rng)).collect();
            let mean = shares.iter().sum::<f64>() / 20_000.0;
            let variance = shares.iter().map(|share| (share - mean).powi(2)).sum::<f64>() / 20_000.0;
            assert!(
                (mean - 0.5).abs() < 0.01 && (variance - 0.25 / (2.0 * a + 1.0)).abs() < 0.005,
                "{mean} {variance}"
            );
        }
    }
}
