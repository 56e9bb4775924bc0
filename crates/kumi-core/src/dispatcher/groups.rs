//! Groups of the owner's tasks: see `group.rs`. Who belongs to one is asked only when it ends.

use super::Dispatcher;
use crate::group::Group;
use crate::ids::{GroupId, TaskId, Time};
use crate::task::Outcome;

impl Dispatcher {
    /// A group without tasks. Its tasks have nothing to do with each other before [`Dispatcher::unite_group`].
    pub fn open_group(&mut self) -> GroupId {
        self.groups.insert(Group::default())
    }

    /// Nobody holds the group any more: its tasks go on, each for itself.
    pub fn close_group(&mut self, now: Time, id: GroupId) {
        self.groups.remove(id);
        self.keep_promise(now, id);
    }

    /// More tasks of this group will come, also when no others are taken any more: until then not everything is done.
    pub fn promise(&mut self, id: GroupId) {
        if !self.closing && self.groups.get(id).is_some_and(|group| !group.is_over()) {
            self.promises.insert(id);
        }
    }

    /// No more will come.
    pub fn keep_promise(&mut self, now: Time, id: GroupId) {
        if self.promises.remove(&id) {
            self.settle(now);
        }
    }

    /// From now on the first failure cancels the rest; at once, if there was one.
    pub fn unite_group(&mut self, now: Time, id: GroupId) {
        if self.groups.get_mut(id).is_some_and(Group::unite) {
            self.failing.push(id);
        }
        self.settle(now);
    }

    /// The first task of the group that did not succeed.
    pub fn first_failure(&self, id: GroupId) -> Option<TaskId> {
        self.groups.get(id).and_then(Group::first_failure)
    }

    /// Cancels what is not done, and takes no more. How the others ended counts as asked for.
    pub fn cancel_group(&mut self, now: Time, id: GroupId) {
        for task in self.end_group(now, id) {
            self.see(task);
        }
        self.settle(now);
    }

    /// Whether it takes no more tasks.
    pub fn is_over(&self, id: Option<GroupId>) -> bool {
        id.and_then(|id| self.groups.get(id)).is_some_and(Group::is_over)
    }

    /// This task did not succeed.
    pub(super) fn fail_group(&mut self, id: GroupId, task: TaskId) {
        if self.groups.get_mut(id).is_some_and(|group| group.fail(task)) {
            self.failing.push(id);
        }
    }

    /// A failure takes the others along.
    pub(super) fn end_failed_groups(&mut self, now: Time) {
        while let Some(id) = self.failing.pop() {
            self.end_group(now, id);
        }
    }

    /// Youngest first, so that no worker takes one up meanwhile. All that is left of its tasks.
    fn end_group(&mut self, now: Time, id: GroupId) -> Vec<TaskId> {
        let Some(group) = self.groups.get_mut(id) else { return Vec::new() };
        group.end();
        self.promises.remove(&id);
        let tasks = self.tasks.iter().filter(|(_, task)| task.group == Some(id));
        let mut tasks: Vec<_> = tasks.map(|(task, note)| (note.number, task)).collect();
        tasks.sort_unstable_by(|one, other| other.cmp(one));
        let tasks: Vec<_> = tasks.into_iter().map(|(_, task)| task).collect();
        for task in &tasks {
            self.stop_task(now, *task, Outcome::Cancel);
        }
        tasks
    }
}
