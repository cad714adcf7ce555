//! Enqueued work as a graph: an operation is ready when all operations that it depends on are done.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use retromae::random::{bounded, key, philox};

use super::work::Work;

pub(crate) type OperationId = u64;

struct Operation {
    work: Arc<Work>,
    after: Vec<OperationId>,
    /// Number of operations in `after` that are not done.
    missing: usize,
    /// Operations that depend on this one.
    before: Vec<OperationId>,
}

/// Operations that are enqueued and not done. An operation that is not in the queue is done.
pub(crate) struct Queue {
    next: OperationId,
    pending: HashMap<OperationId, Operation>,
    ready: BTreeSet<OperationId>,
    /// An operation has begun that never ends.
    hangs: bool,
    seed: u64,
    samples: u32,
}

impl Queue {
    pub(crate) fn new(seed: u64) -> Self {
        Self { next: 1, pending: HashMap::new(), ready: BTreeSet::new(), hangs: false, seed, samples: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }

    pub(crate) fn is_done(&self, operation: OperationId) -> bool {
        !self.pending.contains_key(&operation)
    }

    pub(crate) fn all(&self) -> Vec<OperationId> {
        self.pending.keys().copied().collect()
    }

    pub(crate) fn clear(&mut self) {
        self.pending.clear();
        self.ready.clear();
    }

    /// Returns the seed's next random number below `bound`.
    pub(crate) fn random(&mut self, bound: u32) -> u32 {
        self.samples = self.samples.wrapping_add(1);
        bounded(philox(key(self.seed), [self.samples, 0, 0, 0])[0], bound)
    }

    pub(crate) fn push(&mut self, work: Arc<Work>, after: &[OperationId]) -> OperationId {
        let id = self.next;
        self.next += 1;
        let mut after: Vec<OperationId> =
            after.iter().copied().filter(|&other| !self.is_done(other)).collect();
        after.sort_unstable();
        after.dedup();
        for other in &after {
            self.pending.get_mut(other).expect("is pending").before.push(id);
        }
        if after.is_empty() {
            self.ready.insert(id);
        }
        let missing = after.len();
        self.pending.insert(id, Operation { work, after, missing, before: Vec::new() });
        id
    }

    /// Returns `targets` and all operations that they depend on, without those that are done.
    pub(crate) fn needed(&self, targets: &[OperationId]) -> HashSet<OperationId> {
        let mut needed = HashSet::new();
        let mut open = targets.to_vec();
        while let Some(id) = open.pop() {
            if let Some(operation) = self.pending.get(&id)
                && needed.insert(id)
            {
                open.extend(&operation.after);
            }
        }
        needed
    }

    /// Samples one of the ready operations, only from `among` if given.
    pub(crate) fn choose(&mut self, among: Option<&HashSet<OperationId>>) -> Option<OperationId> {
        let fits = |id: &&OperationId| among.is_none_or(|among| among.contains(id));
        let count = self.ready.iter().filter(fits).count();
        if count == 0 {
            return None;
        }
        let index = self.random(count as u32) as usize;
        self.ready.iter().filter(fits).nth(index).copied()
    }

    pub(crate) fn work(&self, operation: OperationId) -> Option<Arc<Work>> {
        self.pending.get(&operation).map(|operation| operation.work.clone())
    }

    /// Marks a ready operation as begun and never to be done.
    pub(crate) fn hang(&mut self, operation: OperationId) {
        self.ready.remove(&operation);
        self.hangs = true;
    }

    /// Returns true if some operation will never be done.
    pub(crate) fn hangs(&self) -> bool {
        self.hangs
    }

    /// Marks a ready operation as done.
    pub(crate) fn finish(&mut self, operation: OperationId) {
        self.ready.remove(&operation);
        let Some(done) = self.pending.remove(&operation) else { return };
        for id in done.before {
            if let Some(later) = self.pending.get_mut(&id) {
                later.missing -= 1;
                if later.missing == 0 {
                    self.ready.insert(id);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_all(queue: &mut Queue) -> Vec<OperationId> {
        let mut order = Vec::new();
        while let Some(id) = queue.choose(None) {
            order.push(id);
            queue.finish(id);
        }
        order
    }

    /// Two streams of two operations each, joined by one: every order that respects both streams must occur with some seed.
    #[test]
    fn seeds_give_every_order_that_the_dependencies_allow() {
        let mut orders = HashSet::new();
        for seed in 0..200 {
            let mut queue = Queue::new(seed);
            let mut push = |after: &[OperationId]| queue.push(Arc::new(Work::Nothing), after);
            let (a, b) = (push(&[]), push(&[]));
            let (a, b) = (push(&[a]), push(&[b]));
            push(&[a, b]);
            let order = run_all(&mut queue);
            let place = |id| order.iter().position(|&other| other == id).unwrap();
            assert!(place(1) < place(3) && place(2) < place(4) && place(5) == 4, "{order:?}");
            orders.insert(order);
        }
        assert_eq!(orders.len(), 6);
    }

    #[test]
    fn only_what_a_target_comes_after_is_needed() {
        let mut queue = Queue::new(0);
        let first = queue.push(Arc::new(Work::Nothing), &[]);
        let other = queue.push(Arc::new(Work::Nothing), &[]);
        let last = queue.push(Arc::new(Work::Nothing), &[first, first]);
        assert_eq!(queue.needed(&[last]), HashSet::from([first, last]));
        queue.finish(first);
        queue.finish(last);
        assert!(queue.is_done(last) && !queue.is_done(other));
        assert_eq!(queue.all(), [other]);
    }
}
