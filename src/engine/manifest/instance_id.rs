//! Ids of instances, and lists that hold a value for each instance.

use std::ops::{Index, IndexMut};

/// The number of an instance in the manifest. Each instance has a higher number than those it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(usize);

/// A value for each instance, in the order of the manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct PerInstance<T>(Vec<T>);

impl<T> PerInstance<T> {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn ids(&self) -> impl DoubleEndedIterator<Item = InstanceId> + use<T> {
        (0..self.0.len()).map(InstanceId)
    }

    pub fn iter(&self) -> std::slice::Iter<'_, T> {
        self.0.iter()
    }

    pub fn enumerate(&self) -> impl Iterator<Item = (InstanceId, &T)> {
        self.ids().zip(&self.0)
    }

    /// A list of the same length with `value` for every instance.
    pub fn filled<V: Clone>(&self, value: V) -> PerInstance<V> {
        PerInstance(vec![value; self.0.len()])
    }
}

impl<T> Default for PerInstance<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Index<InstanceId> for PerInstance<T> {
    type Output = T;

    fn index(&self, id: InstanceId) -> &T {
        &self.0[id.0]
    }
}

impl<T> IndexMut<InstanceId> for PerInstance<T> {
    fn index_mut(&mut self, id: InstanceId) -> &mut T {
        &mut self.0[id.0]
    }
}

impl<T> FromIterator<T> for PerInstance<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

impl<T> IntoIterator for PerInstance<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a PerInstance<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}
