//! Immutable shared lists that the geometry phase produces and ops read.

use std::ops::Deref;
use std::sync::Arc;

/// A shared immutable list. Cloning is free; on the host it reads as a slice.
#[derive(Debug, Clone)]
pub struct Array<T>(Arc<Vec<T>>);

impl<T> From<Vec<T>> for Array<T> {
    fn from(values: Vec<T>) -> Self {
        Array(Arc::new(values))
    }
}

impl<T> Default for Array<T> {
    fn default() -> Self {
        Array::from(Vec::new())
    }
}

impl<T> Deref for Array<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: PartialEq> PartialEq for Array<T> {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}
