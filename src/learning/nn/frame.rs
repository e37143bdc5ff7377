//! Images with a border of zeros, so that each kernel finds full tiles.

use super::kernels::{LANES, ROWS, Window};
use super::winograd;

/// The positions of the pixels of one image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Frame {
    pub height: usize,
    pub width: usize,
    border: usize,
    /// Values from a pixel to the next.
    pub pixel: usize,
    /// Values from a row to the next.
    pub row: usize,
    pub length: usize,
}

impl Frame {
    /// A frame for kernels that reach 1 pixel beyond the image. Each pixel has `pixel` values.
    pub fn new((height, width): (usize, usize), pixel: usize) -> Self {
        let row = (width.next_multiple_of(ROWS) + 2) * pixel;
        // The last tile of channels may reach beyond the last pixel.
        let length = row * (height.next_multiple_of(winograd::SIDE) + 2) + LANES;
        Self { height, width, border: 1, pixel, row, length }
    }

    /// A frame without a border.
    pub fn dense(height: usize, width: usize, channels: usize) -> Self {
        let row = width * channels;
        Self { height, width, border: 0, pixel: channels, row, length: height * row }
    }

    /// Position of the first value of a pixel of the image.
    pub fn place(&self, row: usize, column: usize) -> usize {
        (row + self.border) * self.row + (column + self.border) * self.pixel
    }

    /// The window of a kernel of `size`×`size` at the first pixel of a row.
    pub fn window(&self, row: usize, size: usize) -> Window {
        let start = self.place(row, 0) - size / 2 * (self.row + self.pixel);
        Window { start, row: self.row, pixel: self.pixel }
    }
}
