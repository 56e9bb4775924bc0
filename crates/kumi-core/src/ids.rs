//! Names of things: dense ids with generations, the arena that hands them out, leases and time.
//!
//! An id is an index and a generation: looking it up costs one array access, and an id whose thing is gone never
//! finds its successor. Nothing here panics on a foreign id: a lookup answers `None`.

use std::marker::PhantomData;
use std::time::Duration;

/// An instant of the owner's monotonic clock, in nanoseconds since an arbitrary start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub u64);

impl Time {
    /// This instant, `span` later; the far future rather than an overflow.
    pub fn after(self, span: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// The span from `earlier` to here; zero if `earlier` is later.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// One handing-over of one task to one worker; never used twice. A result counts only under the lease it was dealt with,
/// so a late or duplicated one finds nothing. Leases grow, so a worker recognises a repeated message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Lease(pub u64);

/// An id that an [`Arena`] can hand out.
pub trait Id: Copy {
    /// From its two halves.
    fn new(index: u32, generation: u32) -> Self;
    /// Place in the arena.
    fn index(self) -> u32;
    /// Which of the successive inhabitants of that place is meant.
    fn generation(self) -> u32;
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl Id for $name {
            fn new(index: u32, generation: u32) -> Self {
                Self(u64::from(generation) << 32 | u64::from(index))
            }
            fn index(self) -> u32 {
                self.0 as u32
            }
            fn generation(self) -> u32 {
                (self.0 >> 32) as u32
            }
        }

        impl $name {
            /// As one number, for the wire and for Python.
            pub fn number(self) -> u64 {
                self.0
            }
            /// From what `number` gave; any number is allowed, a wrong one finds nothing.
            pub fn from_number(number: u64) -> Self {
                Self(number)
            }
        }
    )*};
}

ids! {
    /// One call of a function.
    TaskId,
    /// One connected worker.
    WorkerId,
    /// One wish for a worker, from the request to the end of the process.
    LaunchId,
    /// One pickled function, or one shared value.
    FunctionId,
    /// Tasks that may end together.
    GroupId,
    /// One piece of shared memory, named by the process that made it.
    SegmentId,
    /// One segment of a worker's that the host uses.
    LoanId,
    /// What lets workers from other machines in.
    TicketId,
}

/// Things by id, with reuse of places.
#[derive(Debug)]
pub struct Arena<I, T> {
    places: Vec<Slot<T>>,
    free: Vec<u32>,
    kind: PhantomData<I>,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    thing: Option<T>,
}

impl<I, T> Default for Arena<I, T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new(), kind: PhantomData }
    }
}

impl<I: Id, T> Arena<I, T> {
    /// Takes a thing in and names it.
    pub fn insert(&mut self, thing: T) -> I {
        let free = self.free.pop().and_then(|index| Some((index, self.places.get_mut(index as usize)?)));
        if let Some((index, slot)) = free {
            slot.thing = Some(thing);
            return I::new(index, slot.generation);
        }
        let index = self.places.len() as u32;
        self.places.push(Slot { generation: 0, thing: Some(thing) });
        I::new(index, 0)
    }

    /// The thing of that name, if it is still here.
    pub fn get(&self, id: I) -> Option<&T> {
        let slot = self.places.get(id.index() as usize)?;
        if slot.generation == id.generation() { slot.thing.as_ref() } else { None }
    }

    /// The thing of that name, to change it.
    pub fn get_mut(&mut self, id: I) -> Option<&mut T> {
        let slot = self.places.get_mut(id.index() as usize)?;
        if slot.generation == id.generation() { slot.thing.as_mut() } else { None }
    }

    /// Takes the thing out; its name will never find anything again.
    pub fn remove(&mut self, id: I) -> Option<T> {
        let slot = self.places.get_mut(id.index() as usize)?;
        if slot.generation != id.generation() {
            return None;
        }
        let thing = slot.thing.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.index());
        Some(thing)
    }

    /// Everything here, in the order of places.
    pub fn iter(&self) -> impl Iterator<Item = (I, &T)> {
        self.places
            .iter()
            .enumerate()
            .filter_map(|(index, slot)| slot.thing.as_ref().map(|thing| (I::new(index as u32, slot.generation), thing)))
    }

    /// How many things are here.
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Whether nothing is here.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_id_finds_nothing() {
        let mut arena: Arena<TaskId, &str> = Arena::default();
        let first = arena.insert("first");
        assert_eq!(arena.remove(first), Some("first"));
        let second = arena.insert("second");
        assert_eq!(second.index(), first.index());
        assert_eq!(arena.get(first), None);
        assert_eq!(arena.remove(first), None);
        assert_eq!(arena.get(second), Some(&"second"));
        assert_eq!(arena.get(TaskId::from_number(u64::MAX)), None);
    }
}
