//! What the tasks of a worker have submitted: the worker's half of nesting. Pure, as the rest of it.
//!
//! A child is known by a number of the worker's own. Its result is sent when there is one, unasked; the entry stays until
//! nobody holds the child's handle.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::group::Group;
use crate::ids::Lease;
use crate::message::{Ending, FromWorker, Payload, Terms, Word};

/// See the head of this file.
#[derive(Debug, Default)]
pub struct Children {
    newest: u64,
    functions: u64,
    all: BTreeMap<u64, Child>,
    /// Those of each task that are open.
    open: BTreeMap<Lease, BTreeSet<u64>>,
    /// How many children each task waits for outside the main thread.
    waits: BTreeMap<Lease, u64>,
    last_group: u64,
    groups: BTreeMap<u64, Group<u64>>,
    news: Vec<u64>,
}

#[derive(Debug)]
struct Child {
    parent: Lease,
    group: Option<u64>,
    state: State,
    /// How many wait for it outside the main thread, and to whom its end is to be delivered.
    waits: u64,
    tokens: Vec<u64>,
}

/// How far a child has come.
#[derive(Clone, Debug)]
pub enum State {
    /// It waits or runs.
    Open,
    /// It is done: how, and its payload.
    Done(Arc<(Ending, Payload)>),
    /// The task that submitted it has ended before: nobody is told any more.
    Lost,
}

impl Children {
    /// A function that tasks will name: its number.
    pub fn new_function(&mut self) -> u64 {
        self.functions += 1;
        self.functions
    }

    /// A task submits a task, to this group: its number, and what to tell the host. `None`: the group takes no more.
    pub fn submit(
        &mut self,
        parent: Lease,
        function: u64,
        terms: Terms,
        payload: Payload,
        group: Option<u64>,
    ) -> Option<(u64, FromWorker)> {
        if group.and_then(|group| self.groups.get(&group)).is_some_and(Group::is_over) {
            return None;
        }
        self.newest += 1;
        let child = self.newest;
        self.all.insert(child, Child { parent, group, state: State::Open, waits: 0, tokens: Vec::new() });
        self.open.entry(parent).or_default().insert(child);
        Some((child, FromWorker::Submit { child, parent, function, terms, payload }))
    }

    /// How far this child has come.
    pub fn state(&self, child: u64) -> State {
        self.all.get(&child).map_or(State::Lost, |child| child.state.clone())
    }

    /// Whether it waits or runs.
    pub fn is_open(&self, child: u64) -> bool {
        matches!(self.state(child), State::Open)
    }

    /// Nobody holds its handle any more: what to tell the host, if that still has it.
    pub fn release(&mut self, child: u64) -> Option<FromWorker> {
        let Child { parent, state, .. } = self.all.remove(&child)?;
        match state {
            State::Open => {
                self.closed(parent, child);
                Some(FromWorker::Release { child })
            }
            State::Done(_) | State::Lost => None,
        }
    }

    /// The host says how it ended. What to tell the host: a task may wait no longer, and others may end with this one.
    pub(crate) fn resolved(&mut self, child: u64, ending: Ending, payload: Payload) -> Vec<FromWorker> {
        let found = self.all.get_mut(&child).filter(|child| matches!(child.state, State::Open));
        let Some(found) = found else { return Vec::new() };
        let group = found.group.filter(|_| ending.word != Word::Success);
        found.state = State::Done(Arc::new((ending, payload)));
        self.news.append(&mut found.tokens);
        let (parent, waits) = (found.parent, std::mem::take(&mut found.waits));
        self.closed(parent, child);
        let mut answers: Vec<_> = self.unwait(parent, waits).into_iter().collect();
        if let Some(group) = group.filter(|id| self.groups.get_mut(id).is_some_and(|group| group.fail(child))) {
            answers.extend(self.end_group(group));
        }
        answers
    }

    /// A group without tasks: its number.
    pub fn open_group(&mut self) -> u64 {
        self.last_group += 1;
        self.groups.insert(self.last_group, Group::default());
        self.last_group
    }

    /// Nobody holds the group any more.
    pub fn close_group(&mut self, group: u64) {
        self.groups.remove(&group);
    }

    /// From now on the first failure cancels the rest. What to tell the host: there was one.
    pub fn unite_group(&mut self, group: u64) -> Vec<FromWorker> {
        let ends = self.groups.get_mut(&group).is_some_and(Group::unite);
        if ends { self.end_group(group) } else { Vec::new() }
    }

    /// The first of its tasks that did not succeed.
    pub fn first_failure(&self, group: u64) -> Option<u64> {
        self.groups.get(&group).and_then(Group::first_failure)
    }

    /// It takes no more tasks. What to tell the host: those that are open are cancelled, youngest first.
    pub fn end_group(&mut self, group: u64) -> Vec<FromWorker> {
        self.groups.entry(group).and_modify(Group::end);
        let open = |child: &&Child| child.group == Some(group) && matches!(child.state, State::Open);
        let open = self.all.iter().rev().filter(|(_, child)| open(child));
        open.map(|(child, _)| FromWorker::Cancel { child: *child }).collect()
    }

    fn closed(&mut self, parent: Lease, child: u64) {
        if let Some(open) = self.open.get_mut(&parent) {
            open.remove(&child);
        }
    }

    /// A task is answered: what it has submitted and not heard of is not its any more.
    pub(crate) fn parent_ended(&mut self, lease: Lease) {
        self.waits.remove(&lease);
        for child in self.open.remove(&lease).into_iter().flatten() {
            let Some(child) = self.all.get_mut(&child) else { continue };
            child.state = State::Lost;
            child.waits = 0;
            self.news.append(&mut child.tokens);
        }
    }

    /// Somebody waits for this child outside the main thread, until its end or [`Children::end_wait`]. What to tell the host.
    pub fn begin_wait(&mut self, child: u64, token: Option<u64>) -> Option<FromWorker> {
        let found = self.all.get_mut(&child).filter(|child| matches!(child.state, State::Open))?;
        found.waits += 1;
        found.tokens.extend(token);
        let lease = found.parent;
        let count = self.waits.entry(lease).or_default();
        *count += 1;
        (*count == 1).then_some(FromWorker::Wait { lease, child: None })
    }

    /// One waits no longer for this child. What to tell the host.
    pub fn end_wait(&mut self, child: u64) -> Option<FromWorker> {
        let found = self.all.get_mut(&child).filter(|child| child.waits > 0)?;
        found.waits -= 1;
        let parent = found.parent;
        self.unwait(parent, 1)
    }

    fn unwait(&mut self, lease: Lease, waits: u64) -> Option<FromWorker> {
        let count = self.waits.get_mut(&lease)?;
        *count = count.saturating_sub(waits);
        if *count > 0 {
            return None;
        }
        self.waits.remove(&lease);
        Some(FromWorker::Resume { lease, elsewhere: true })
    }

    /// Whether anybody waits outside the main thread.
    pub fn waits_elsewhere(&self) -> bool {
        !self.waits.is_empty()
    }

    /// The tokens of what is done since the last call.
    pub fn take_news(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.news)
    }
}
