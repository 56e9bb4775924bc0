//! Tasks that wait, in the order of their numbers.
//!
//! New tasks have the highest number and go to the end. Those that come back after a loss or a recall have lower ones:
//! they wait in a tree of their own, which is empty nearly always. A cancelled task leaves its entry behind until the
//! entry reaches the front or half of all entries are of that sort; the owner says which entries still count.

use std::collections::{BTreeMap, VecDeque};

use crate::ids::TaskId;

/// See the head of this file.
#[derive(Debug, Default)]
pub struct Queue {
    new: VecDeque<(u64, TaskId)>,
    back: BTreeMap<u64, TaskId>,
    dead: usize,
}

impl Queue {
    /// A new task; `number` is higher than all before.
    pub fn push(&mut self, number: u64, task: TaskId) {
        self.new.push_back((number, task));
    }

    /// A task that had left the queue and comes back.
    pub fn put_back(&mut self, number: u64, task: TaskId) {
        self.back.insert(number, task);
    }

    /// The oldest task.
    pub fn front(&self) -> Option<TaskId> {
        match (self.new.front(), self.back.first_key_value()) {
            (Some((number, task)), Some((back_number, back_task))) => {
                Some(if number < back_number { *task } else { *back_task })
            }
            (Some((_, task)), None) | (None, Some((_, task))) => Some(*task),
            (None, None) => None,
        }
    }

    /// Takes out what [`Queue::front`] shows.
    pub fn pop(&mut self) -> Option<TaskId> {
        match (self.new.front(), self.back.first_key_value()) {
            (Some((number, _)), Some((back_number, _))) if number > back_number => {
                self.back.pop_first().map(|(_, task)| task)
            }
            (None, Some(_)) => self.back.pop_first().map(|(_, task)| task),
            (Some(_), _) => self.new.pop_front().map(|(_, task)| task),
            (None, None) => None,
        }
    }

    /// Says that one more entry counts no longer; when half of them do not, `live` chooses the ones to keep.
    pub fn forget_one(&mut self, live: impl Fn(TaskId) -> bool) {
        self.dead += 1;
        if self.dead > 64 && self.dead * 2 > self.entries() {
            self.new.retain(|(_, task)| live(*task));
            self.back.retain(|_, task| live(*task));
            self.dead = 0;
        }
    }

    /// Says that a dead entry was popped.
    pub fn popped_dead(&mut self) {
        self.dead = self.dead.saturating_sub(1);
    }

    /// All entries that `live` says still count, in order.
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn live(&self, live: impl Fn(TaskId) -> bool) -> Vec<(u64, TaskId)> {
        let back = self.back.iter().map(|(number, task)| (*number, *task));
        let mut all: Vec<_> = self.new.iter().copied().chain(back).filter(|(_, task)| live(*task)).collect();
        all.sort_unstable();
        all
    }

    /// Entries, dead ones included.
    pub fn entries(&self) -> usize {
        self.new.len() + self.back.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_goes_to_its_old_place() {
        let mut queue = Queue::default();
        let id = TaskId::from_number;
        for number in [3, 4, 9] {
            queue.push(number, id(number));
        }
        queue.put_back(5, id(5));
        queue.put_back(1, id(1));
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).map(TaskId::number).collect();
        assert_eq!(order, [1, 3, 4, 5, 9]);
    }

    #[test]
    fn dead_entries_are_swept_out() {
        let mut queue = Queue::default();
        for number in 0..1000 {
            queue.push(number, TaskId::from_number(number));
        }
        for _ in 0..600 {
            queue.forget_one(|task| task.number() >= 600);
        }
        assert!(queue.entries() < 700, "{}", queue.entries());
    }
}
