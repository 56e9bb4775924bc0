//! Functions that tasks name, and the values they share: each is sent to a worker once, and dropped when nobody can name it any more.

use std::sync::Arc;

use super::{Action, Dispatcher};
use crate::ids::{FunctionId, WorkerId};
use crate::message::{Payload, ToWorker};
use crate::task::Large;

/// A function that tasks name.
#[derive(Debug)]
pub(super) struct Function {
    pub payload: Payload,
    /// What belongs to it elsewhere.
    pub large: Option<Box<Large>>,
    pub label: Arc<str>,
    /// Tasks that name it.
    pub users: u64,
    /// How many may still submit tasks that name it: a handle of the host, workers that have declared it.
    pub holders: u64,
    /// How long it takes: a running estimate that jumps up and creeps down, so that one slow call stops prefetching.
    pub nanos: Option<u64>,
}

impl Dispatcher {
    /// Takes in a pickled function; `label` is its name in records.
    pub fn define(&mut self, payload: Payload, label: Arc<str>) -> FunctionId {
        self.functions.insert(Function { payload, large: None, label, users: 0, holders: 1, nanos: None })
    }

    /// Takes in a pickled function or shared value, with what belongs to it elsewhere. `None`: it names a shared value
    /// that is not known here.
    pub fn define_large(&mut self, payload: Payload, large: Option<Box<Large>>, label: Arc<str>) -> Option<FunctionId> {
        if large.as_ref().is_some_and(|large| !self.use_shared(&large.uses)) {
            return None;
        }
        Some(self.functions.insert(Function { payload, large, label, users: 0, holders: 1, nanos: None }))
    }

    /// Has this worker know the function, and before it the shared values that it names.
    pub(super) fn define_at(&mut self, worker: WorkerId, id: FunctionId) {
        let Some(function) = self.functions.get(id) else { return };
        let Some(note) = self.workers.get_mut(worker) else { return };
        if !note.defined.insert(id) {
            return;
        }
        let (payload, large) = (Arc::clone(&function.payload), function.large.clone());
        for shared in large.iter().flat_map(|large| &large.uses) {
            self.define_at(worker, *shared);
        }
        self.lend(worker, large.as_deref());
        self.actions.push_back(Action::Send { worker, message: ToWorker::Define { function: id, payload } });
    }

    /// A worker's tasks will submit tasks of this function. The same one comes from many workers: it is kept once.
    pub(super) fn declare(&mut self, worker: WorkerId, number: u64, label: &str, payload: Payload) {
        if self.workers.get(worker).is_none_or(|worker| worker.declared.contains_key(&number)) {
            return;
        }
        let known = self.declared.get(&payload).copied().filter(|id| self.functions.get(*id).is_some());
        let id = match known {
            Some(id) => {
                if let Some(function) = self.functions.get_mut(id) {
                    function.holders += 1;
                }
                id
            }
            None => {
                let id = self.define(Arc::clone(&payload), Arc::from(label));
                self.declared.insert(payload, id);
                id
            }
        };
        if let Some(worker) = self.workers.get_mut(worker) {
            worker.declared.insert(number, id);
        }
    }

    pub(super) fn withdraw(&mut self, worker: WorkerId, number: u64) {
        let id = self.workers.get_mut(worker).and_then(|worker| worker.declared.remove(&number));
        if let Some(id) = id {
            self.close_function(id);
        }
    }

    /// One fewer will submit tasks of this function.
    pub fn close_function(&mut self, id: FunctionId) {
        if let Some(function) = self.functions.get_mut(id) {
            function.holders = function.holders.saturating_sub(1);
            self.drop_unused_function(id);
        }
    }

    pub(super) fn drop_unused_function(&mut self, id: FunctionId) {
        if self.functions.get(id).is_some_and(|function| function.users == 0 && function.holders == 0) {
            let function = self.functions.remove(id);
            if let Some(function) = function.as_ref().filter(|gone| self.declared.get(&gone.payload) == Some(&id)) {
                self.declared.remove(&function.payload);
            }
            let large = function.and_then(|function| function.large);
            let having: Vec<_> = self.workers.iter().filter(|(_, worker)| worker.defined.contains(&id)).collect();
            let having: Vec<_> = having.into_iter().map(|(worker, _)| worker).collect();
            for worker in having {
                if let Some(note) = self.workers.get_mut(worker) {
                    note.defined.remove(&id);
                }
                self.actions.push_back(Action::Send { worker, message: ToWorker::Forget { function: id } });
            }
            self.let_go_of_large(large);
        }
    }
}
