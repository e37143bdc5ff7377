//! Marks of classes on a map: a shape and a colour for each.

use plotters::style::RGBColor;

use super::{BLUE, GREEN, GREY, ORANGE, PURPLE};

const COLORS: [RGBColor; 5] = [BLUE, ORANGE, GREEN, PURPLE, GREY];
/// SVG paths around the origin, about ten pixels wide. Of the last two, only the outlines are drawn.
pub const SHAPES: [&str; 10] = [
    "M4.5 0A4.5 4.5 0 1 1 -4.5 0A4.5 4.5 0 1 1 4.5 0Z",
    "M-4 -4H4V4H-4Z",
    "M0 -5L5 4H-5Z",
    "M0 -5.5L5.5 0L0 5.5L-5.5 0Z",
    "M0 5L5 -4H-5Z",
    "M-1.6 -5H1.6V-1.6H5V1.6H1.6V5H-1.6V1.6H-5V-1.6H-1.6Z",
    "M-4.6 -2.4L-2.4 -4.6L0 -2.2L2.4 -4.6L4.6 -2.4L2.2 0L4.6 2.4L2.4 4.6L0 2.2L-2.4 4.6L-4.6 2.4L-2.2 0Z",
    "M0 -6L1.6 -2L5.8 -1.8L2.5 .8L3.6 4.9L0 2.6L-3.6 4.9L-2.5 .8L-5.8 -1.8L-1.6 -2Z",
    "M4 0A4 4 0 1 1 -4 0A4 4 0 1 1 4 0Z",
    "M-3.6 -3.6H3.6V3.6H-3.6Z",
];
const FILLED: usize = 8;

pub struct ClassMark {
    /// Position in [`SHAPES`].
    pub shape: usize,
    pub color: RGBColor,
    /// If false, only the outline is drawn.
    pub filled: bool,
}

impl ClassMark {
    /// The mark of the class at position `place` among all classes. The marks of 50 classes are different.
    pub fn of(place: usize) -> Self {
        let shape = place % SHAPES.len();
        let color = COLORS[(place + place / SHAPES.len()) % COLORS.len()];
        Self { shape, color, filled: shape < FILLED }
    }
}
