//! What a launcher that lives in Python is to do: launch workers, end what has become of launches, look after them.

use std::mem;
use std::sync::Arc;

use kumi_core::{Event, LaunchId, Staff, TicketId};

use crate::pool::{Pool, Shared, State};
use crate::wait::Wants;

/// See the head of this file.
#[derive(Debug, Default)]
pub struct Orders {
    /// Launch one worker for each of these.
    pub launch: Vec<LaunchId>,
    /// End whatever still exists of these, and then say that they have failed.
    pub end: Vec<LaunchId>,
    /// A worker is not heard of any more: only the launcher can know what has become of it.
    pub look: bool,
}

impl Orders {
    fn is_empty(&self) -> bool {
        self.launch.is_empty() && self.end.is_empty() && !self.look
    }
}

impl Pool {
    /// This ticket lets nobody in any more.
    pub fn revoke(&self, ticket: TicketId) {
        self.with(|state, _| {
            state.brain.revoke(ticket);
            state.remote.forget_secret(ticket);
        });
    }
}

impl State {
    /// What the launcher is to do, if there is anything.
    pub fn take_orders(&mut self) -> Option<Orders> {
        (!self.orders.is_empty()).then(|| mem::take(&mut self.orders))
    }
}

impl Shared {
    pub fn order(&self, state: &mut State, launches: Vec<LaunchId>) {
        if state.command.is_some() {
            state.to_spawn.extend(launches);
            return self.wake();
        }
        state.orders.launch.extend(launches);
        self.poke(state, Wants::Orders);
    }

    pub fn abandon(&self, state: &mut State, launch: LaunchId) {
        if let Some(link) = state.links.values().find(|link| link.launch == launch) {
            return link.child.kill();
        }
        let begun = !state.orders.launch.contains(&launch);
        if begun && state.spawning.contains(&launch) {
            return;
        }
        if begun && self.staff == Staff::Launched {
            return self.end_launch(state, launch);
        }
        state.to_spawn.retain(|other| *other != launch);
        state.orders.launch.retain(|other| *other != launch);
        let text = Arc::from("it was not needed any more");
        state.brain.handle(self.now(), Event::LaunchFailed { launch, text });
    }

    /// Whatever still exists of it is to end.
    pub fn end_launch(&self, state: &mut State, launch: LaunchId) {
        if self.staff == Staff::Launched {
            state.orders.end.push(launch);
            self.poke(state, Wants::Orders);
        }
    }

    /// Somebody is not heard of any more.
    pub fn look_after(&self, state: &mut State) {
        if self.staff == Staff::Launched {
            state.orders.look = true;
            self.poke(state, Wants::Orders);
        }
    }
}
