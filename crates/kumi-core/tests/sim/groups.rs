//! Groups of tasks: the first that fails may end the others.

use kumi_core::{GroupId, Outcome, TaskId, TaskView};

use super::ledger::{Check, Ledger, rule};
use super::world::World;

/// What the world knows of a group.
#[derive(Clone, Copy, Debug, Default)]
pub struct Group {
    /// The first of its tasks that did not succeed.
    pub failed: Option<usize>,
    pub united: bool,
    /// Its tasks are to be cancelled, and it takes no more.
    pub over: bool,
}

impl World {
    /// The user opens a group, to which the next tasks may belong, unites it, cancels it, promises more, or lets it go.
    pub(super) fn tend_group(&mut self) -> Check {
        let latest = self.ledger.groups.iter().next_back().map(|(id, group)| (*id, *group));
        match (latest, self.rng.below(5)) {
            (Some((id, _)), 0) => {
                self.ledger.saw("a group united");
                self.ledger.unite_group(id);
                self.brain.unite_group(self.now, id);
            }
            (Some((id, _)), 1) => {
                self.ledger.saw("a group cancelled");
                self.ledger.end_group(id);
                self.brain.cancel_group(self.now, id);
            }
            (Some((id, group)), 2) if !group.over && !self.ledger.closing => {
                self.ledger.saw("a promise");
                self.ledger.promises.insert(id);
                self.brain.promise(id);
            }
            (Some((id, _)), 3) => {
                self.ledger.groups.remove(&id);
                self.ledger.promises.remove(&id);
                self.brain.close_group(self.now, id);
            }
            _ => {
                let id = self.brain.open_group();
                self.ledger.groups.insert(id, Group::default());
            }
        }
        self.say(|| format!("tend a group: {latest:?}"));
        self.absorb()?;
        self.carry_out()
    }
}

impl World {
    /// After the end of submits: what was promised comes, and then the promises are kept.
    pub(super) fn keep_promises(&mut self) -> Check {
        while let Some(id) = self.ledger.promises.last().copied() {
            let function = self.rng.pick(&self.functions);
            self.ledger.saw("a promised task");
            self.submit_to(function, Some(id))?;
            self.ledger.promises.remove(&id);
            self.brain.keep_promise(self.now, id);
            self.absorb()?;
        }
        Ok(())
    }
}

impl Ledger {
    pub fn unite_group(&mut self, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.united = true;
        group.over |= group.failed.is_some();
        if group.over {
            self.promises.remove(&id);
        }
    }

    pub fn end_group(&mut self, id: GroupId) {
        let done = |number: &usize| self.tasks[*number].group == Some(id) && !self.open.contains(number);
        self.asked += (0..self.tasks.len()).filter(done).count() as u64;
        if let Some(group) = self.groups.get_mut(&id) {
            group.over = true;
            self.promises.remove(&id);
        }
    }

    /// A task of a group is done: whether it had to end, because the group had. If it failed, it may end the group.
    pub fn ended_with_group(&mut self, number: usize, id: GroupId, view: &TaskView) -> bool {
        let Some(group) = self.groups.get_mut(&id) else { return false };
        let before = group.over;
        if !matches!(view.outcome, Outcome::Success(_)) {
            group.failed.get_or_insert(number);
            group.over |= group.united;
            if group.over {
                self.promises.remove(&id);
            }
        }
        if group.over && !before {
            self.saw("a group ended by a failure");
        }
        before
    }

    /// After each step: of a group that is over nothing goes on, and the brain knows which failed first.
    pub fn groups_are_over(&self, first_failure: impl Fn(GroupId) -> Option<TaskId>) -> Check {
        for (id, group) in &self.groups {
            let failed = group.failed.map(|number| self.tasks[number].id);
            rule!(first_failure(*id) == failed, "{id:?}: {:?} failed first, really {failed:?}", first_failure(*id));
            if group.over {
                let open = self.open.iter().find(|number| self.tasks[**number].group == Some(*id));
                rule!(open.is_none(), "task {open:?} goes on, and its group {id:?} is over");
            }
        }
        Ok(())
    }
}
