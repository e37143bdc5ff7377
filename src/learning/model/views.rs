//! Views of a picture that show the same thing: moved by some pixels, or mirrored.

/// How a view is made from a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct View {
    /// Pixels by which the picture moves up. `right` moves it to the left. The border is reflected.
    pub down: isize,
    pub right: isize,
    pub mirrored: bool,
}

impl View {
    /// The picture itself, and the picture moved by `shift` pixels to each of the four sides. With `mirrored`, also the
    /// mirror image of each of them.
    pub fn all(shift: usize, mirrored: bool) -> Vec<Self> {
        let shift = shift as isize;
        let mut places = vec![(0, 0)];
        if shift > 0 {
            places.extend([(shift, 0), (-shift, 0), (0, shift), (0, -shift)]);
        }
        let sides = if mirrored { &[false, true][..] } else { &[false] };
        let view = |(down, right)| sides.iter().map(move |mirrored| Self { down, right, mirrored: *mirrored });
        places.into_iter().flat_map(view).collect()
    }

    /// Writes this view of `from` to `to`. Both are (side, side, 3).
    pub fn show(&self, from: &[f32], to: &mut [f32], side: usize) {
        for (y, row) in to.chunks_exact_mut(side * 3).enumerate() {
            let source_y = reflected(y as isize + self.down, side);
            for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
                let source_x = reflected(x as isize + self.right, side);
                let source_x = if self.mirrored { side - 1 - source_x } else { source_x };
                pixel.copy_from_slice(&from[(source_y * side + source_x) * 3..][..3]);
            }
        }
    }
}

/// Reflects a position outside the picture: -1 → 1, side → side − 2.
fn reflected(place: isize, side: usize) -> usize {
    let last = side as isize - 1;
    let place = place.abs();
    (if place > last { 2 * last - place } else { place }) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borders_are_reflected() {
        let places: Vec<usize> = (-2..6).map(|place| reflected(place, 4)).collect();
        assert_eq!(places, [2, 1, 0, 1, 2, 3, 2, 1]);
    }

    #[test]
    fn views_move_and_mirror() {
        assert_eq!([View::all(0, false).len(), View::all(0, true).len(), View::all(2, true).len()], [1, 2, 10]);
        let from: Vec<f32> = (0..4 * 4 * 3).map(|i| i as f32).collect();
        let first = |down, right, mirrored| {
            let mut to = vec![0.0; from.len()];
            View { down, right, mirrored }.show(&from, &mut to, 4);
            to[0] / 3.0
        };
        assert_eq!([first(0, 0, false), first(1, 0, false), first(0, 2, false)], [0.0, 4.0, 2.0]);
        assert_eq!([first(0, 0, true), first(0, 1, true), first(-1, 0, false)], [3.0, 2.0, 4.0]);
    }
}
