//! Random changes to a picture that do not change what it shows.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use similiai::model::Preprocessing;
use similiai::stage::{Invalid, require};

#[derive(Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Mirror half of the pictures.
    flip: bool,
    /// Move by up to so many pixels each way, the border reflected.
    shift: usize,
    /// Brightness of the picture and of each channel, changed by up to this share of the full range, halved.
    jitter: f64,
    /// Side of a square that is greyed out (DeVries and Taylor 2017), in pixels.
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

    /// `from` and `to`: preprocessed values, (side, side, 3).
    pub fn apply(&self, from: &[f32], to: &mut [f32], preprocessing: &Preprocessing, rng: &mut ChaCha8Rng) {
        let &Preprocessing { side, mean, deviation } = preprocessing;
        let mirrored = self.flip && rng.gen_bool(0.5);
        let shift = |rng: &mut ChaCha8Rng| rng.gen_range(0..=2 * self.shift) as isize - self.shift as isize;
        let (down, right) = (shift(rng), shift(rng));
        let mut amount = |share: f64| share as f32 / deviation * (rng.gen_range(0.0f32..1.0) - 0.5);
        let brightness = amount(self.jitter);
        let offsets: [f32; 3] = std::array::from_fn(|_| brightness + amount(self.jitter));
        for y in 0..side {
            let source_y = reflected(y as isize + down, side);
            for x in 0..side {
                let source_x = reflected(x as isize + right, side);
                let source_x = if mirrored { side - 1 - source_x } else { source_x };
                let (source, target) = ((source_y * side + source_x) * 3, (y * side + x) * 3);
                for channel in 0..3 {
                    to[target + channel] = from[source + channel] + offsets[channel];
                }
            }
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

/// -1 → 1, side → side − 2.
fn reflected(place: isize, side: usize) -> usize {
    let last = side as isize - 1;
    let place = place.abs();
    (if place > last { 2 * last - place } else { place }) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use similiai::stage::rng;

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
    fn borders_are_reflected() {
        let places: Vec<usize> = (-2..6).map(|place| reflected(place, 4)).collect();
        assert_eq!(places, [2, 1, 0, 1, 2, 3, 2, 1]);
    }
}
