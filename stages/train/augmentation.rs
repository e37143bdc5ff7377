//! Random changes to a picture that do not change what it shows.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use similiai::engine::stage::{Invalid, require};
use similiai::learning::model::{Preprocessing, View};

use super::data::Mix;

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Mirror half of the pictures, drawn at random.
    flip: bool,
    /// Move each picture by up to this number of pixels in each direction, and fill the gap with the reflected
    /// border.
    shift: usize,
    /// Change the brightness of the picture and of each channel by at most half of this share of the full range.
    jitter: f64,
    /// Side of a square that is filled with grey, in pixels (DeVries and Taylor 2017).
    cutout: usize,
}

impl Default for Augment {
    fn default() -> Self {
        Self { flip: true, shift: 4, jitter: 0.3, cutout: 8 }
    }
}

impl Augment {
    pub fn check(&self) -> Result<(), Invalid> {
        let sound = self.shift <= 16 && (0.0..=1.0).contains(&self.jitter) && self.cutout <= 32;
        require(sound, "augment", "needs a shift of 0 to 16, a jitter of 0 to 1 and a cutout of 0 to 32")
    }

    /// Writes an augmented copy of `from` to `to`. Both hold preprocessed values of shape (side, side, 3).
    pub fn apply(&self, from: &[f32], to: &mut [f32], preprocessing: &Preprocessing, rng: &mut ChaCha8Rng) {
        let &Preprocessing { side, mean, deviation } = preprocessing;
        let mirrored = self.flip && rng.gen_bool(0.5);
        let shift = |rng: &mut ChaCha8Rng| rng.gen_range(0..=2 * self.shift) as isize - self.shift as isize;
        let (down, right) = (shift(rng), shift(rng));
        View { down, right, mirrored }.show(from, to, side);
        let mut amount = |share: f64| share as f32 / deviation * (rng.gen_range(0.0f32..1.0) - 0.5);
        let brightness = amount(self.jitter);
        let offsets: [f32; 3] = std::array::from_fn(|_| brightness + amount(self.jitter));
        for pixel in to.chunks_exact_mut(3) {
            pixel.iter_mut().zip(offsets).for_each(|(value, offset)| *value += offset);
        }
        if self.cutout > 0 {
            let (top, left) = (rng.gen_range(0..side), rng.gen_range(0..side));
            let span =
                |centre: usize| centre.saturating_sub(self.cutout / 2)..(centre + self.cutout.div_ceil(2)).min(side);
            for y in span(top) {
                let row = span(left);
                to[(y * side + row.start) * 3..(y * side + row.end) * 3].fill((0.5 - mean) / deviation);
            }
        }
    }
}

impl Mix {
    /// Mixes `other` into `image`, both of shape (side, side, 3).
    pub fn apply(&self, side: usize, image: &mut [f32], other: &[f32]) {
        let Some(((top, left), length)) = self.square else {
            image.iter_mut().zip(other).for_each(|(a, b)| *a = self.share * *a + (1.0 - self.share) * b);
            return;
        };
        let pixels = |start: f32| {
            let place = |value: f32| (value * side as f32).round() as usize;
            place(start)..place(start + length).min(side)
        };
        let row = pixels(left);
        for y in pixels(top) {
            let values = (y * side + row.start) * 3..(y * side + row.end) * 3;
            image[values.clone()].copy_from_slice(&other[values]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use similiai::base::seed::rng;

    const PLAIN: Preprocessing = Preprocessing { side: 8, mean: 0.0, deviation: 1.0 };

    #[test]
    fn nothing_on_changes_nothing() {
        let from: Vec<f32> = (0..8 * 8 * 3).map(|i| i as f32).collect();
        let mut to = vec![-1.0; from.len()];
        let off = Augment { flip: false, shift: 0, jitter: 0.0, cutout: 0 };
        off.apply(&from, &mut to, &PLAIN, &mut rng(1, "test"));
        assert_eq!(from, to);
    }

    #[test]
    fn a_flip_mirrors_rows_and_a_cutout_greys_a_square() {
        let from: Vec<f32> = (0..8 * 8 * 3).map(|i| 1.0 + i as f32).collect();
        let mut to = vec![0.0; from.len()];
        let flip = Augment { flip: true, shift: 0, jitter: 0.0, cutout: 0 };
        let mirrored = (0..20).any(|draw| {
            flip.apply(&from, &mut to, &PLAIN, &mut rng(draw, "test"));
            to[..3] == from[7 * 3..8 * 3] && to[7 * 3..8 * 3] == from[..3]
        });
        assert!(mirrored);
        let cutout = Augment { flip: false, shift: 0, jitter: 0.0, cutout: 4 };
        cutout.apply(&from, &mut to, &PLAIN, &mut rng(1, "test"));
        let grey = to.chunks(3).filter(|pixel| *pixel == [0.5; 3]).count();
        assert!((4..=16).contains(&grey), "{grey}");
    }

    #[test]
    fn two_pictures_are_blended_or_one_is_set_into_the_other() {
        let (black, white) = (vec![0.0f32; 8 * 8 * 3], vec![1.0f32; 8 * 8 * 3]);
        let mixed = |square| {
            let mut image = black.clone();
            Mix { place: 0, share: 0.75, square }.apply(8, &mut image, &white);
            image
        };
        assert!(mixed(None).iter().all(|value| *value == 0.25));
        let set_in = mixed(Some(((0.5, 0.25), 0.5)));
        assert_eq!(set_in.iter().sum::<f32>(), 4.0 * 4.0 * 3.0);
        assert_eq!((set_in[(4 * 8 + 2) * 3], set_in[(3 * 8 + 2) * 3], set_in[(4 * 8 + 6) * 3]), (1.0, 0.0, 0.0));
    }
}
