//! Carrying tasks to another pool, their backup, and back what became of them.
//!
//! The brains decide which task goes and what its end means. No thread ever holds the locks of two pools: a task is packed
//! under the lock of the one, unpacked under that of the other; and whatever else they have to say to each other goes through
//! a pool's mailbox, which has a lock of its own, held for no other. Its I/O thread opens the letters.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::mem;
use std::slice;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use kumi_core::{Event, FunctionId, Large, NewTask, Outcome, Payload, SegmentId, TaskId, TaskView};

use crate::parcel::{self, Split};
use crate::pool::{Pool, Shared, State};
use crate::segments::{Loaned, Memory};

/// What one pool tells another.
#[derive(Debug)]
pub(crate) enum Letter {
    /// Nobody wants this guest any more.
    CallBack(TaskId),
    /// A task that is away has reported.
    Reported(TaskId, Payload),
    /// A task that is away has ended; a part of its result may lie elsewhere.
    Ended(TaskId, Box<TaskView>, Option<Loaned>),
}

/// Letters that nobody has opened. There are few: of each task that is away its end, and twenty reports a second at most.
#[derive(Debug, Default)]
pub(crate) struct Mailbox(Mutex<VecDeque<Letter>>);

/// Where a task is that is away.
#[derive(Clone, Debug)]
pub(crate) struct Stay {
    pool: Pool,
    guest: TaskId,
}

/// Where a guest comes from.
#[derive(Debug)]
pub(crate) struct Guest {
    home: Weak<Shared>,
    task: TaskId,
    /// This pool, which the part of a result in shared memory belongs to.
    here: Pool,
}

/// A task, function or shared value on its way: whole, and the shared values that it names.
struct Packed {
    payload: Vec<u8>,
    uses: Vec<FunctionId>,
    label: Arc<str>,
}

/// A task on its way, and all that it names: shared values come after those that they name themselves.
struct Luggage {
    shares: Vec<(FunctionId, Packed)>,
    function: Packed,
    arguments: Packed,
    task: NewTask,
    attempts: u32,
}

impl Pool {
    /// Hands over a task that is to leave, if it still is. Whatever comes in between, it ends.
    pub fn hand_over(&self, task: TaskId, to: &Pool) {
        // Under the lock, large as it may be: as soon as the task ends, its memory may be written to again.
        let luggage = match self.with(|state, _| state.pack(task)) {
            Ok(Some(luggage)) => luggage,
            Ok(None) => return,
            Err(error) => return self.strand(task, &format!("its arguments cannot be read any more: {error}")),
        };
        let Some(guest) = to.take_over(luggage, Arc::downgrade(&self.shared), task) else {
            return self.strand(task, &format!("controller '{}' takes no more tasks", to.name()));
        };
        let stay = Stay { pool: to.clone(), guest };
        let wanted = self.with(|state, _| {
            let wanted = state.brain.is_away(task);
            if wanted {
                state.away.insert(task, stay);
            }
            wanted
        });
        if !wanted {
            to.shared.post(Letter::CallBack(guest));
        }
    }

    /// A task that is to leave cannot.
    pub fn strand(&self, task: TaskId, text: &str) {
        let text = Arc::from(text);
        self.with(|state, now| state.brain.handle(now, Event::Stranded { task, text }));
    }

    /// Whether a worker is believed to work on this task, here or with the backup.
    pub fn is_running(&self, task: TaskId) -> bool {
        let found = self.with(|state, _| match state.away.get(&task) {
            Some(stay) => Err(stay.clone()),
            None => Ok(state.brain.is_running(task)),
        });
        found.unwrap_or_else(|Stay { pool, guest }| pool.is_running(guest))
    }

    fn take_over(&self, luggage: Luggage, home: Weak<Shared>, task: TaskId) -> Option<TaskId> {
        let Luggage { shares, function, arguments, task: new, attempts } = luggage;
        let mut known = BTreeMap::new();
        for (id, packed) in shares {
            let made = self.define(packed, &known)?;
            known.insert(id, made);
        }
        let function = self.define(function, &known);
        let entered = function.and_then(|function| {
            let (payload, large) = self.unpack(arguments, &known);
            let segment = large.as_ref().and_then(|large| large.segment);
            let new = NewTask { function, payload, large, ..new };
            self.with(|state, now| match state.brain.receive(now, new, attempts) {
                Ok(guest) => {
                    state.guests.insert(guest, Guest { home, task, here: self.clone() });
                    Some(guest)
                }
                Err(_) => {
                    segment.iter().for_each(|(segment, _)| state.brain.let_go_of_segment(*segment, false));
                    None
                }
            })
        });
        // From now on the task alone keeps them.
        self.with(|state, _| known.into_values().chain(function).for_each(|id| state.brain.close_function(id)));
        entered
    }

    fn define(&self, packed: Packed, known: &BTreeMap<FunctionId, FunctionId>) -> Option<FunctionId> {
        let label = Arc::clone(&packed.label);
        let (payload, large) = self.unpack(packed, known);
        self.with(|state, _| state.brain.define_large(payload, large, label))
    }

    /// As a payload of this pool's: what is large lies in a segment of it again, if there is one.
    fn unpack(&self, packed: Packed, known: &BTreeMap<FunctionId, FunctionId>) -> (Payload, Option<Box<Large>>) {
        let Packed { payload, uses, .. } = packed;
        let (mut payload, segment) = self.split(payload);
        let uses: Vec<_> = uses.iter().filter_map(|id| known.get(id).copied()).collect();
        parcel::seal_shares(&mut payload, &uses.iter().map(|id| id.number()).collect::<Vec<_>>());
        let large = (segment.is_some() || !uses.is_empty()).then(|| Box::new(Large { segment, uses }));
        (Arc::from(payload), large)
    }

    fn split(&self, whole: Vec<u8>) -> (Vec<u8>, Option<(SegmentId, u64)>) {
        let found = parcel::split(&whole).and_then(|split| Some((self.reserve(split.bytes)?, split)));
        let Some(((segment, memory), Split { payload, pieces, bytes })) = found else { return (whole, None) };
        // SAFETY: the pieces lie in `whole`, and the segment is ours alone until it is handed over.
        unsafe { memory.write(&pieces) };
        (payload, Some((segment, bytes)))
    }
}

impl State {
    /// Tasks that are to be handed over.
    pub fn take_leaving(&mut self) -> Option<Vec<TaskId>> {
        (!self.leaving.is_empty()).then(|| self.leaving.drain(..).collect())
    }

    fn pack(&self, task: TaskId) -> io::Result<Option<Luggage>> {
        let Some((task, attempts)) = self.brain.leaving(task) else { return Ok(None) };
        let mut shares = Vec::new();
        let function = self.pack_definition(task.function, &mut shares)?;
        let arguments = self.pack_payload(&task.payload, task.large.as_deref(), Arc::from(""), &mut shares)?;
        Ok(Some(Luggage { shares, function, arguments, task, attempts }))
    }

    fn pack_definition(&self, id: FunctionId, shares: &mut Vec<(FunctionId, Packed)>) -> io::Result<Packed> {
        let found = self.brain.definition(id);
        let (payload, large, label) = found.ok_or_else(|| io::Error::other("its function is gone"))?;
        self.pack_payload(&payload, large.as_deref(), label, shares)
    }

    fn pack_payload(
        &self,
        payload: &Payload,
        large: Option<&Large>,
        label: Arc<str>,
        shares: &mut Vec<(FunctionId, Packed)>,
    ) -> io::Result<Packed> {
        let uses = large.map(|large| large.uses.clone()).unwrap_or_default();
        for id in &uses {
            if !shares.iter().any(|(known, _)| known == id) {
                let packed = self.pack_definition(*id, shares)?;
                shares.push((*id, packed));
            }
        }
        let mut whole = match large.and_then(|large| large.segment) {
            Some((segment, bytes)) => {
                let memory = self.segments.get(&segment).ok_or_else(|| io::Error::other("its memory is gone"))?;
                made_whole(payload, &memory.map(bytes)?)?
            }
            None => payload.to_vec(),
        };
        if !uses.is_empty() {
            parcel::strip_shares(&mut whole);
        }
        Ok(Packed { payload: whole, uses, label })
    }
}

/// A payload with everything in itself, from the memory that a part of it lies in.
fn made_whole(payload: &[u8], memory: &dyn Memory) -> io::Result<Vec<u8>> {
    let (start, length) = memory.memory();
    // SAFETY: whoever calls keeps the memory mapped, and nobody writes to it as long as its task or loan is there.
    let memory = unsafe { slice::from_raw_parts(start, length) };
    parcel::whole(payload, memory).ok_or_else(|| io::Error::other("its parts are not where they were"))
}

impl Shared {
    /// To be said to this pool, by whoever holds whatever lock.
    fn post(&self, letter: Letter) {
        // A pool that has ended opens no letters.
        let Some(wires) = self.wires() else { return };
        self.mail.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(letter);
        wires.wake.ring();
    }

    /// I/O thread, without the lock: does what letters say.
    pub fn open_mail(&self) {
        let letters = mem::take(&mut *self.mail.0.lock().unwrap_or_else(PoisonError::into_inner));
        for letter in letters {
            match letter {
                Letter::CallBack(guest) => self.send_off(guest),
                Letter::Reported(task, payload) => {
                    self.work(&mut self.lock(), |state, _| state.brain.reported_away(task, payload));
                }
                Letter::Ended(task, view, loaned) => {
                    let view = Box::new(with_all_in_itself(*view, loaned));
                    self.work(&mut self.lock(), |state, now| {
                        state.away.remove(&task);
                        state.brain.handle(now, Event::CameBack { task, view });
                    });
                }
            }
        }
    }

    fn send_off(&self, guest: TaskId) {
        self.work(&mut self.lock(), |state, now| {
            if state.guests.remove(&guest).is_some() {
                state.brain.cancel(now, guest);
                state.brain.release(guest);
            }
        });
    }

    /// This task is not to be handed over, or is a guest elsewhere that nobody wants.
    pub fn call_back(&self, state: &mut State, task: TaskId) {
        state.leaving.retain(|other| *other != task);
        if let Some(Stay { pool, guest }) = state.away.remove(&task) {
            pool.shared.post(Letter::CallBack(guest));
        }
    }

    /// If this task is a guest, its report goes on to where it came from.
    pub fn pass_report_on(&self, state: &State, task: TaskId) {
        let Some(guest) = state.guests.get(&task) else { return };
        if let (Some(home), Some(report)) = (guest.home.upgrade(), state.brain.report(task)) {
            home.post(Letter::Reported(guest.task, Arc::clone(&report.payload)));
        }
    }

    /// If this task is a guest, it has ended: the outcome goes on to where it came from.
    pub fn pass_end_on(&self, state: &mut State, task: TaskId) {
        let Some(guest) = state.guests.remove(&task) else { return };
        if let (Some(home), Some(mut view)) = (guest.home.upgrade(), state.brain.view(task)) {
            view.controller.get_or_insert_with(|| Arc::from(self.name.as_str()));
            let loaned = guest.here.result_memory(state, task);
            home.post(Letter::Ended(guest.task, Box::new(view), loaned));
        }
        state.brain.release(task);
    }
}

/// The result need not be kept by the pool that it comes from.
fn with_all_in_itself(view: TaskView, loaned: Option<Loaned>) -> TaskView {
    let (Some(loaned), Outcome::Success(payload)) = (loaned, &view.outcome) else { return view };
    let outcome = match made_whole(payload, &loaned) {
        Ok(whole) => Outcome::Success(Arc::from(whole)),
        Err(error) => Outcome::Unlaunchable(Arc::from(format!("its result cannot be read: {error}"))),
    };
    TaskView { outcome, ..view }
}
