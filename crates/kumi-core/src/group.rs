//! Tasks that belong together, as the elements of a map do: the first that fails may end the others.
//!
//! The same rule in the brain, for tasks of the owner's, and in a worker, for what its tasks have submitted.

/// What is known of a group while somebody holds it. `I` names a task.
#[derive(Debug)]
pub(crate) struct Group<I> {
    failed: Option<I>,
    united: bool,
    over: bool,
}

impl<I> Default for Group<I> {
    fn default() -> Self {
        Self { failed: None, united: false, over: false }
    }
}

impl<I: Copy> Group<I> {
    /// From now on a failure ends the group. Whether one has.
    pub fn unite(&mut self) -> bool {
        self.united = true;
        self.failed.is_some()
    }

    /// A task of it did not succeed. Whether that ends the group.
    pub fn fail(&mut self, task: I) -> bool {
        let first = self.failed.is_none();
        self.failed.get_or_insert(task);
        first && self.united
    }

    /// The first of its tasks that did not succeed.
    pub fn first_failure(&self) -> Option<I> {
        self.failed
    }

    /// It takes no more tasks.
    pub fn end(&mut self) {
        self.over = true;
    }

    /// Whether it takes no more tasks.
    pub fn is_over(&self) -> bool {
        self.over
    }
}
