//! Memory for feature maps, which is used again instead of being allocated at every step.

use std::ops::{Deref, DerefMut};

use parking_lot::Mutex;

/// Free memory is kept up to this many values (1 GiB).
const MOST: usize = 1 << 28;

static FREE: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// Values that go back to the free memory when dropped.
#[derive(Debug)]
pub struct Buffer {
    memory: Vec<f32>,
    length: usize,
}

impl Buffer {
    pub(super) const EMPTY: Self = Self { memory: Vec::new(), length: 0 };

    /// `length` arbitrary values: write them before you read them. With debug assertions, they are NaN.
    pub fn stale(length: usize) -> Self {
        let mut free = FREE.lock();
        // Take the smallest buffer that is large enough. Of equal ones, take the latest, which may still be in the
        // cache.
        let fits = |memory: &Vec<f32>| memory.len() >= length && memory.len() / 2 <= length;
        let best = (0..free.len()).rev().filter(|place| fits(&free[*place])).min_by_key(|place| free[*place].len());
        let found = best.map(|place| free.remove(place));
        drop(free);
        let mut buffer = Self { memory: found.unwrap_or_else(|| vec![0.0; length]), length };
        if cfg!(debug_assertions) {
            buffer.fill(f32::NAN);
        }
        buffer
    }

    pub fn zeros(length: usize) -> Self {
        let mut buffer = Self::stale(length);
        buffer.fill(0.0);
        buffer
    }
}

impl From<Vec<f32>> for Buffer {
    /// Copies the values. If each use added memory from elsewhere to the free memory, it would grow without end.
    fn from(values: Vec<f32>) -> Self {
        let mut buffer = Self::stale(values.len());
        buffer.copy_from_slice(&values);
        buffer
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        let mut copy = Self::stale(self.length);
        copy.copy_from_slice(self);
        copy
    }
}

impl PartialEq for Buffer {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.memory[..self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.memory[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.memory.is_empty() {
            return;
        }
        let mut free = FREE.lock();
        free.push(std::mem::take(&mut self.memory));
        let mut kept: usize = free.iter().map(Vec::len).sum();
        while kept > MOST {
            kept -= free.remove(0).len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_does_not_grow_with_use() {
        const LENGTH: usize = 12_347;
        (0..50).for_each(|_| drop(Buffer::from(vec![1.0; LENGTH])));
        let free = FREE.lock();
        assert!(free.iter().filter(|memory| memory.len() == LENGTH).count() <= 1);
    }
}
