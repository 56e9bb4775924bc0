//! Functions that tasks name: each is sent to a worker once, and dropped when nobody can name it any more.

use std::sync::Arc;

use super::{Action, Dispatcher};
use crate::ids::FunctionId;
use crate::message::{Payload, ToWorker};

/// A function that tasks name.
#[derive(Debug)]
pub(super) struct Function {
    pub payload: Payload,
    pub label: Arc<str>,
    /// Tasks that name it.
    pub users: u64,
    /// Somebody may still submit tasks that name it.
    pub open: bool,
    /// How long it takes: a running estimate that jumps up and creeps down, so that one slow call stops prefetching.
    pub nanos: Option<u64>,
}

impl Dispatcher {
    /// Takes in a pickled function; `label` is its name in records.
    pub fn define(&mut self, payload: Payload, label: Arc<str>) -> FunctionId {
        self.functions.insert(Function { payload, label, users: 0, open: true, nanos: None })
    }

    /// Nobody will submit tasks of this function any more.
    pub fn close_function(&mut self, id: FunctionId) {
        if let Some(function) = self.functions.get_mut(id) {
            function.open = false;
            self.drop_unused_function(id);
        }
    }

    pub(super) fn drop_unused_function(&mut self, id: FunctionId) {
        if self.functions.get(id).is_some_and(|function| function.users == 0 && !function.open) {
            self.functions.remove(id);
            let having: Vec<_> = self.workers.iter().filter(|(_, worker)| worker.defined.contains(&id)).collect();
            let having: Vec<_> = having.into_iter().map(|(worker, _)| worker).collect();
            for worker in having {
                if let Some(note) = self.workers.get_mut(worker) {
                    note.defined.remove(&id);
                }
                self.actions.push_back(Action::Send { worker, message: ToWorker::Forget { function: id } });
            }
        }
    }
}
