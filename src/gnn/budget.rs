//! How many bytes graphs and what is computed from them may take: `gnn.max_bytes`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Trouble;

/// Bytes in use of all that there may be.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    used: AtomicUsize,
    most: AtomicUsize,
}

/// Bytes that somebody has; they are free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Reserved {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    /// So many there may be.
    pub(crate) fn limit(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// Bytes in use.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Nothing yet.
    pub(crate) fn reserve(self: &Arc<Self>) -> Reserved {
        Reserved { budget: Arc::clone(self), bytes: 0 }
    }

    /// So much, at once.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Result<Reserved, Trouble> {
        let mut reserved = self.reserve();
        reserved.set(bytes)?;
        Ok(reserved)
    }
}

impl Reserved {
    /// Bytes that it has.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Has so many from now on.
    pub(crate) fn set(&mut self, bytes: usize) -> Result<(), Trouble> {
        let (used, most) = (&self.budget.used, self.budget.most.load(Ordering::Relaxed));
        if bytes <= self.bytes {
            used.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
            self.bytes = bytes;
            return Ok(());
        }
        let more = bytes - self.bytes;
        let grown = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(more).filter(|sum| *sum <= most)
        });
        match grown {
            Ok(_) => {
                self.bytes = bytes;
                Ok(())
            }
            Err(used) => Err(Trouble::wrong(format!(
                "It needs {bytes} bytes or more, but of the {most} bytes of gnn.max_bytes {} are in use by others: drop graphs that are not \
                 needed (gnn.graph.list(), gnn.graph.drop()), ask for fewer labels, properties or rows, or raise gnn.max_bytes.",
                used.saturating_sub(self.bytes)
            ))),
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_free_and_more_than_there_is_refused() {
        let budget = Arc::new(Budget::default());
        budget.limit(100);
        let mut one = budget.take(60).unwrap();
        let two = budget.take(40).unwrap();
        let Err(Trouble::Wrong(words)) = one.set(61) else { panic!("more than there is") };
        assert!(words.contains("gnn.max_bytes") && words.contains("40 are in use by others"), "{words}");
        assert_eq!((one.bytes(), budget.used()), (60, 100));
        drop(two);
        one.set(100).unwrap();
        one.set(10).unwrap();
        assert_eq!(budget.used(), 10);
        drop(one);
        assert_eq!(budget.used(), 0);
    }
}
